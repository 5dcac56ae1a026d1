"""The executor for NVIDIA GPUs: the steps from one look to the next as one kernel, the state and the draws in registers.

The kernel is Pallas, compiled by Triton. What it does to a block of chains is what `lanes` does to a tile: the same graph of
the step, under the same masks. On a GPU a product and the sum that it meets are one instruction, as in the machine code of a
CPU, where XLA is kept from fusing them (`scalar/arrays.py`): a third of all instructions. On a CPU the kernel can be asked for
by name and is then interpreted: slow, for tests, with the bits of `lanes`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ... import random
from ...types import Draws
from . import lanes
from .lanes import Held, Plan, Unit
from .scalar import block
from .scalar.arrays import OPERATIONS, tables
from .scalar.graph import ordered
from .tile import Span, Tile
from .xla import Program

_BLOCK = 128  # chains that one program of the grid advances, one a thread
_WARPS = 4
_FREE = 64  # steps that nobody interrupts: the unit may then be any
_PLATFORMS = ("gpu", "cuda")
# Operations that Pallas cannot hand to Triton.
_LACKING = {"rint", "erf", "erfc", "lgamma", "digamma", "trigamma", "bessel_i0e", "bessel_i1e"}


def refuses(chain: Any, state: Any, dtype: Any, platform: str, *, wanted: bool) -> str | None:
    """Why this executor cannot run a chain, None if it can. `state` is like one chain's."""
    if platform not in _PLATFORMS and not (platform == "cpu" and wanted):
        return f"it is for NVIDIA GPUs, and the device is {platform}"
    if why := _missing():
        return why
    if why := lanes.refuses(chain, state, dtype, platform, wanted=True):
        return why
    steps = lanes.plans(chain, state, dtype, block.length_of(chain.draws)).steps
    if steps.order is not None and steps.order.permuted:
        return "random reshuffling and its kin: the permutations do not fit into the kernel"
    lacking = sorted({node.op for node in ordered(steps.roots)} & _LACKING)
    return f"Triton has no {' and no '.join(lacking)}" if lacking and platform != "cpu" else None


@functools.cache
def _missing() -> str | None:
    """Why there is no Pallas here: it comes and goes with versions of JAX."""
    try:
        from jax.experimental import pallas
        from jax.experimental.pallas import triton
    except ImportError as error:
        return f"this version of JAX has no Pallas for Triton ({error})"
    known = hasattr(pallas, "pallas_call") and hasattr(triton, "CompilerParams") and hasattr(triton, "elementwise_inline_asm")
    return None if known else "this version of JAX has another Pallas than the one that is known here"


def program(arguments: tuple, *, every: int, rows: int, platform: str) -> Program:
    """The compiled program for tiles like this one."""
    return Program(advance, arguments, platform, every=every, rows=rows, target=platform)


def advance(
    chain: Any,
    statistics: dict,
    words: Any,
    ids: tuple[Any, Any],
    span: Span,
    tile: Tile,
    *,
    every: int,
    rows: int,
    target: str,
) -> Tile:
    """The tile after the span's steps. Traced; `every`, `rows` and `target` (the platform) are static."""
    plan, blocks, dtype = lanes.unit_of(chain, tile, every if statistics else _FREE, "gpu")
    shared = tables(jax.tree.leaves(chain))

    def through(held: Held, first: Any, last: Any) -> Held:
        numbers = [*words, *span.clock.step, first, last, span.intervals >> 31, span.clock.position]
        numbers = jnp.stack([jnp.asarray(n).astype(jnp.uint32) for n in numbers])
        return _steps(plan, blocks, chain.draws, dtype, target == "cpu", numbers, shared, ids, held)

    return lanes.looking(chain, statistics, span, tile, through, every=every, rows=rows, dtype=dtype)


def _steps(
    plan: Plan, blocks: int, draws: Draws, dtype: Any, interpret: bool, numbers: Any, shared: list, ids: tuple, held: Held
) -> Held:
    """The steps numbered [first, last) of every chain, in one launch. `numbers`: key, step, first, last, a zero, and the place of
    the step in its epoch."""
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    size, state = held.alive.shape[0], held.state
    padded = -(-size // _BLOCK) * _BLOCK
    flags = [i for i, r in enumerate(state) if r.dtype == bool]  # kept as bytes: Triton stores no bits
    widen = lambda a: jnp.pad(a.astype(jnp.uint8) if a.dtype == bool else a, (0, padded - size))
    rows = [widen(a) for a in (*state, held.alive, held.survived, *ids)]
    operations = OPERATIONS if interpret else OPERATIONS | {"mulhi": _mulhi, "fma": _fma}

    def kernel(*refs: Any) -> None:
        inputs, out = refs[: -len(state) - 2], refs[-len(state) - 2 :]
        scalars, tables, given = inputs[0], inputs[1 : 1 + len(shared)], inputs[1 + len(shared) :]
        n = [scalars[i] for i in range(8)]
        first, last, zero = (w.astype(jnp.int32) for w in n[4:7])
        values = [ref[...] for ref in given]
        *rows, alive, survived, low, high = (v.astype(bool) if i in (*flags, len(state)) else v for i, v in enumerate(values))
        read = lambda table, index: tables[table][index]
        unit = Unit(plan, blocks, draws, read, (n[0], n[1]), (low, high), dtype, zero, operations)
        step = (n[2], n[3])
        base, ahead = lanes.before(random.Clock(step, step, n[7]), plan.steps.length)  # of the epoch only the place counts

        def one(j: Any, carry: tuple) -> tuple:
            start = j * unit.length
            at = random.advance(base, start, draws)
            return tuple(unit.take(Held(*carry), at, first + ahead - start, last + ahead - start))

        low_unit, high_unit = (first + ahead) // unit.length, (last + ahead + unit.length - 1) // unit.length
        after, alive, survived = lax.fori_loop(low_unit, high_unit, one, (rows, alive, survived))
        for ref, value in zip(out, (*after, alive, survived), strict=True):
            ref[...] = value.astype(ref.dtype)

    across = pallas.BlockSpec((_BLOCK,), lambda i: (i,))
    whole = [pallas.BlockSpec(a.shape, lambda i: (0,)) for a in (numbers, *shared)]
    call = pallas.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct((padded,), r.dtype) for r in rows[:-2]],
        grid=(padded // _BLOCK,),
        in_specs=[*whole, *[across] * len(rows)],
        out_specs=[across] * len(rows[:-2]),
        interpret=interpret,
        compiler_params=None if interpret else triton.CompilerParams(num_warps=_WARPS, num_stages=1),
    )
    *after, alive, survived = (a[:size] for a in call(numbers, *shared, *rows))
    after = [a.astype(bool) if i in flags else a for i, a in enumerate(after)]
    return Held(after, alive.astype(bool), survived)


def _fma(x: Any, y: Any, z: Any) -> Any:
    """x·y + z of the chains, rounded once."""
    from jax.experimental.pallas import triton

    bits, kind = 8 * x.dtype.itemsize, "f" if x.dtype.itemsize == 4 else "d"
    return triton.elementwise_inline_asm(
        f"fma.rn.f{bits} $0, $1, $2, $3;", args=[x, y, z], constraints=f"={kind},{kind},{kind},{kind}", pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
    )[0]  # fmt: skip


def _mulhi(x: Any, y: Any) -> Any:
    """The high word of a product: one instruction for the chains, which Triton's lowering does not know by name."""
    from jax.experimental.pallas import triton

    if x.ndim and x.dtype == jnp.uint32:
        high = triton.elementwise_inline_asm(
            "mul.hi.u32 $0, $1, $2;", args=[x, y], constraints="=r,r,r", pack=1,
            result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, jnp.int32)],  # Triton's integers have no sign
        )[0]  # fmt: skip
        return lax.bitcast_convert_type(high, x.dtype)
    half = jnp.asarray(8 * x.dtype.itemsize // 2, x.dtype)
    mask = (jnp.asarray(1, x.dtype) << half) - jnp.asarray(1, x.dtype)
    (a, b), (c, d) = ((v >> half, v & mask) for v in (x, y))
    middle = a * d + ((b * d) >> half)
    return a * c + (middle >> half) + (((middle & mask) + b * c) >> half)

