"""The executor that gives XLA a step already taken apart: each scalar of the chain is one array over the chains, so that whole
steps, with their draws, fuse into one loop over the chains.

A launch goes from look to look of the statistics in units of a few steps, under masks: a step that is not of the span, or
that a chain does not survive, is not taken. A unit gives the state alone, with a NaN where a chain has just left the range
of the numbers; only then is it taken again for the rest. One program serves every chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ... import random
from ...types import Draws
from .scalar import Unsupported, block
from .scalar.arrays import OPERATIONS, evaluated, tables
from .scalar.graph import TooLarge, ordered
from .scalar.plans import Plans
from .tile import Span, Tile, divergence_limit, number, observe
from .xla import Program

# XLA takes minutes over one fusion of more operations than about 3400, and the machine code is slow.
LARGEST = 2500
_FUSED = 1200  # operations of one loop on a CPU, where a few blocks of short steps go together
_KERNEL = 4  # steps that become one kernel on a GPU
_STEPS = 32  # between two looks at whether every chain is well


class Plan(NamedTuple):
    """A block of steps under masks, and the number of its operations."""

    steps: block.Steps
    size: int


def refuses(chain: Any, state: Any, dtype: Any, platform: str, *, wanted: bool) -> str | None:
    """Why this executor cannot run a chain, or is slower than `vmap`; None if neither. `state` is like one chain's."""
    try:
        plan = plans(chain, state, dtype, block.length_of(chain.draws))
    except Unsupported as error:
        return str(error)
    floats = sum(n.dtype.kind == "f" for n in plan.steps.after)
    if not floats:
        return "a state without a float cannot say that it diverged"
    if platform == "cpu" and floats * plan.size > 4 * LARGEST:
        return f"XLA would compile {floats * plan.size} operations: the whole step anew for each number of the state"
    if platform == "cpu" and floats > 2 and not wanted:
        return f"XLA would make the draws anew for each of the {floats} numbers of the state"
    return None


def program(arguments: tuple, *, every: int, rows: int, platform: str) -> Program:
    """The compiled program for tiles like this one."""
    return Program(advance, arguments, platform, every=every, rows=rows, target=platform)


def _plan(chain: Any, state: Any, dtype: np.dtype, length: int) -> Plan:
    """The graph of so many steps, which share a call of the generator, or of fewer if it is too large."""
    try:
        traced = block.trace(chain, state, dtype, length)
        steps = block.steps(traced, divergence_limit(dtype), True, operations=LARGEST)
    except TooLarge:
        if length == 1:
            raise
        return _plan(chain, state, dtype, length // 2)
    return Plan(steps, len(ordered([*steps.after, steps.alive])))


plans = Plans(_plan)


class Held(NamedTuple):
    """The tile as a launch holds it: one array over the lanes for each scalar of the state."""

    state: list[Any]
    alive: Any
    survived: Any


class Unit(NamedTuple):
    """`blocks` blocks of steps, taken at once. `take` gives the state after them, whole, for chains some of which live."""

    plan: Plan
    blocks: int
    draws: Draws
    read: Any  # of the tables that chains share
    words: Any
    ids: Any
    dtype: Any
    zero: Any  # int32, unknown to a compiler
    operations: Any = OPERATIONS

    @property
    def length(self) -> int:
        return self.blocks * self.plan.steps.length

    def take(self, held: Held, at: random.Clock, first: Any, last: Any, examples: Any = None) -> Held:
        """The steps from `at` on, as far as they are numbered [first, last) counted from there; `examples` ["steps b c"] where
        each chain takes them in an order of its own."""
        steps, size = self.plan.steps, self.plan.steps.length
        for b in range(self.blocks):
            now = random.advance(at, b * size, self.draws)
            base = number(now, self.dtype)
            known = {
                "state": held.state, "key": [self.words[0], self.words[1]], "chain": list(self.ids), "clock": list(now.step),
                "position": [now.position], "index": [] if examples is None else examples[b],
                "number": [base + jnp.asarray(i, self.dtype) for i in range(size)],
                "alive": [held.alive], "survived": [held.survived],
                "going": [(i >= first) & (i < last) for i in range(b * size, (b + 1) * size)],
            }  # fmt: skip
            roots = [*steps.after, steps.alive, steps.survived]
            *after, alive, survived = evaluated(roots, known, self.read, held.alive.shape, self.zero, self.operations)
            held = Held(after, alive, survived)
        return held


def unit_of(chain: Any, tile: Tile, free: int, target: str) -> tuple[Plan, int, Any]:
    """The plan for looks `free` steps apart, how many of its blocks are a unit, and the type of the positions."""
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), tile.state)
    dtype = jax.eval_shape(lambda c, s: c.position(s), chain, one).dtype
    fits = lambda n: free % n == 0 or free >= 4 * n  # masked steps of a unit cost as much as others
    length = block.length_of(chain.draws)
    while not fits(length):
        length //= 2
    plan = plans(chain, one, dtype, length)
    length, state = plan.steps.length, plan.steps.after
    single = len(state) == 1 or _pair(state)
    most = _KERNEL // length if target != "cpu" else _FUSED // plan.size if single else 1
    return plan, max((k for k in range(1, most + 1) if fits(k * length)), default=1), dtype


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
    plan, blocks, dtype = unit_of(chain, tile, every if statistics else _STEPS, target)
    draws, order = chain.draws, plan.steps.order
    unit = Unit(plan, blocks, draws, reader(tables(jax.tree.leaves(chain))), words, ids, dtype, span.intervals >> 31)
    base, ahead = before(span.clock, plan.steps.length)
    many = max(1, _STEPS // unit.length)
    # On a GPU a number that all chains share would be a kernel of its own: there each chain works it out.
    spread = (lambda s: s) if target == "cpu" else (lambda s: jnp.broadcast_to(s, tile.alive.shape))
    wide, unit = jax.tree.map(spread, base), unit._replace(zero=spread(unit.zero))

    def one(held: Held, j: Any, first: Any, last: Any, examples: Any) -> Held:
        mine = None
        if examples is not None:
            mine = lax.dynamic_slice_in_dim(examples, j % many * unit.length, unit.length)
        j, first, last = (spread(n) for n in (j, first, last))
        start = j * unit.length
        at = random.advance(wide, start, draws)
        return unit.take(held, at, first + ahead - start, last + ahead - start, mine)

    def several(j: Any, everything: tuple) -> tuple:
        """Units [j · many, (j + 1) · many), as far as they hold steps of [first, last)."""
        held, first, last = everything
        low = jnp.maximum(j * many, (first + ahead) // unit.length)
        high = jnp.minimum((j + 1) * many, (last + ahead + unit.length - 1) // unit.length)
        examples = None
        if order is not None and order.permuted:
            start = random.advance(base, j * many * unit.length, draws)
            ordered = Draws(indices=draws.indices, population=draws.population, scheme=draws.scheme)
            examples = random.block(words, ordered, ids, start, many * unit.length).indices

        def quickly(i: Any, state: Any) -> Any:
            after = one(held._replace(state=_unpacked(state)), i, first, last, examples)
            return _packed(_marked(after.state, held.alive & ~after.alive))

        def again() -> Held:
            return lax.fori_loop(low, high, lambda i, h: one(h, i, first, last, examples), held)

        state = _unpacked(lax.fori_loop(low, high, quickly, _packed(held.state)))
        taken = jnp.minimum(high * unit.length - ahead, last) - jnp.maximum(low * unit.length - ahead, first)
        survived = held.survived + jnp.where(held.alive, taken.astype(jnp.uint32), jnp.uint32(0))
        well = jnp.all(jnp.isfinite(state[_float(state)]))
        return lax.cond(well, lambda: Held(state, held.alive, survived), again), first, last

    def through(held: Held, first: Any, last: Any) -> Held:
        size = many * unit.length
        low, high = (first + ahead) // size, (last + ahead + size - 1) // size
        return lax.fori_loop(low, high, several, (held, first, last))[0]

    return looking(chain, statistics, span, tile, through, every=every, rows=rows, dtype=dtype)


def looking(
    chain: Any, statistics: dict, span: Span, tile: Tile, through: Any, *, every: int, rows: int, dtype: Any
) -> Tile:
    """A launch: `through(held, first, last)` takes the steps numbered [first, last), the statistics look in between."""
    dt, begin = jnp.asarray(chain.dt, dtype), number(span.clock, dtype)

    def interval(i: Any, everything: tuple) -> tuple:
        held, accumulators = everything
        finished = (i + 1) * every
        held = through(held, jnp.maximum(span.begin, i * every), jnp.minimum(span.end, finished))
        time = (begin + finished.astype(dtype)) * dt
        due = span.collect & (finished <= span.end) & (finished > span.begin)

        def look(acc: dict) -> dict:
            x = jax.vmap(chain.position)(_tree(held.state, tile.state))
            return observe(statistics, acc, time, x, held.alive, rows)

        return held, lax.cond(due, look, lambda acc: acc, accumulators)

    state = [r for leaf in jax.tree.leaves(tile.state) for r in jnp.reshape(leaf, (leaf.shape[0], -1)).T]
    held, accumulators = Held(state, tile.alive, tile.survived), tile.accumulators
    if statistics:
        held, accumulators = lax.fori_loop(0, span.intervals, interval, (held, accumulators))
    else:
        held = through(held, span.begin, span.end)
    return Tile(_tree(held.state, tile.state), accumulators, held.alive, held.survived)


def reader(shared: list) -> Any:
    """Reads entries of tables that are arrays."""
    return lambda table, index: shared[table].at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _marked(state: list, gone: Any) -> list:
    """The state with a NaN, in its first float, where a chain is gone."""
    i = _float(state)
    marked = lax.select(gone, lax.full_like(state[i], np.nan), state[i])
    return [*state[:i], marked, *state[i + 1 :]]


def _packed(state: list) -> Any:
    """Two floats as one complex number. XLA:CPU has no loop with two results: what they share, so all the draws, it would
    work out twice."""
    return lax.complex(*state) if _pair(state) else state


def _unpacked(state: Any) -> list:
    return state if isinstance(state, list) else [state.real, state.imag]


def _pair(state: list) -> bool:
    return len(state) == 2 and all(jnp.issubdtype(r.dtype, jnp.floating) for r in state)


def _float(state: list) -> int:
    return next(i for i, r in enumerate(state) if jnp.issubdtype(r.dtype, jnp.floating))


def before(clock: random.Clock, length: int) -> tuple[random.Clock, Any]:
    """The last step that is a multiple of `length` and not beyond the clock, and how far that is. (Where there are epochs, a
    length of 1.)"""
    low, high = clock.step
    ahead = low & np.uint32(length - 1)
    return clock._replace(step=(low - ahead, high)), ahead.astype(jnp.int32)


def _tree(state: list, like: Any) -> Any:
    """The scalars as leaves [lanes, ...] again."""
    leaves, structure = jax.tree.flatten(like)
    out, at = [], 0
    for leaf in leaves:
        size = int(np.prod(leaf.shape[1:]))
        out.append(jnp.stack(state[at : at + size], axis=1).reshape(leaf.shape) if size != 1 else state[at].reshape(leaf.shape))
        at += size
    return structure.unflatten(out)
