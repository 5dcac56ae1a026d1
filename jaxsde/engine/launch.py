"""From a run to the run some steps later: compile once, launch every tile, put the parts together again."""

from __future__ import annotations

import functools
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import random
from . import layout as layouts
from .executors import EXECUTORS, vmap


def advance(run: Any, steps: int, collecting: bool) -> Any:
    """The run `steps` steps later: every tile through the compiled program, as many at once as there are workers."""
    plan, where = run.layout, device()
    shared = jax.device_put((cast(run.chain, run.dtype), dict(run.statistics)), where)
    span = _span(run, steps, collecting)
    program = _program(_inputs(run, plan.tiles[0], shared, span), run, where)

    wide_types = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]

    def launch(tile: tuple[int, int]) -> vmap.Tile:
        with jax.enable_x64(wide_types):  # a setting of the calling thread, which a worker does not inherit
            return jax.device_get(program(*_inputs(run, tile, shared, span)))

    with ThreadPoolExecutor(layouts.workers(where.platform)) as pool:
        results = list(pool.map(launch, plan.tiles))
    join = lambda *parts: np.concatenate(parts)  # noqa: E731
    wide = lambda x: x.reshape(-1, plan.width, *x.shape[1:])  # noqa: E731
    state, accumulators, alive, survived = (
        jax.tree.map(join, *(getattr(r, name) for r in results)) for name in vmap.Tile._fields
    )
    before, after = ((step - run.origin) // run.every for step in (run.step, run.step + steps))
    return replace(
        run,
        step=run.step + steps,
        samples=run.samples + (after - before) * collecting,
        state=jax.tree.map(wide, state),
        accumulators=accumulators,
        alive=wide(alive),
        survived=run.survived + wide(survived),
        _cache={},
    )


def program_bytes(run: Any) -> int:
    """What the compiled program of this run takes for all tiles that are in flight at once, by the compiler's own count."""
    plan, where = run.layout, device()
    shared = (cast(run.chain, run.dtype), dict(run.statistics))
    program = _program(_inputs(run, plan.tiles[0], shared, _span(run, 1, False)), run, where)
    memory = program.memory_analysis()
    if memory is None:
        return 0
    each = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return each * min(layouts.workers(where.platform), len(plan.tiles))


def _span(run: Any, steps: int, collecting: bool) -> vmap.Span:
    """The next `steps` steps, counted from the start of the sampling interval that the run is in."""
    begin = (run.step - run.origin) % run.every
    return vmap.Span(
        random.clock(run.step - begin, run.chain.draws),
        np.int32(begin),
        np.int32(begin + steps),
        np.bool_(collecting),
        np.int32(-(-(begin + steps) // run.every)),
    )


def _inputs(run: Any, tile: tuple[int, int], shared: tuple, span: vmap.Span) -> tuple:
    """The arguments of the compiled program for one tile."""
    (a, b), plan = tile, run.layout
    rows = slice(a, a + plan.rows_per_tile)
    flat = lambda x: x[rows].reshape(-1, *x.shape[2:])  # noqa: E731
    part = vmap.Tile(
        jax.tree.map(flat, run.state),
        jax.tree.map(lambda x: x[rows], run.accumulators),
        flat(run.alive),
        np.zeros(plan.rows_per_tile * plan.width, np.uint32),
    )
    return *shared, run.key_words, plan.ids(a, b), span, part


_programs: OrderedDict[Any, Any] = OrderedDict()
_KEPT_PROGRAMS = 128


def _program(arguments: tuple, run: Any, device: Any) -> Any:
    """The compiled program for these shapes and this structure. A new learning rate, seed, data value, number of steps or
    chunk finds the old one."""
    every, rows = run.every, run.layout.rows_per_tile
    key = (signature(arguments), every, rows, run.executor, device)
    if key not in _programs:
        jitted = jax.jit(EXECUTORS[run.executor].advance, static_argnames=("every", "rows"))
        _programs[key] = _compiled(jitted.lower(*arguments, every=every, rows=rows), device.platform)
        while len(_programs) > _KEPT_PROGRAMS:
            _programs.popitem(last=False)
    _programs.move_to_end(key)
    return _programs[key]


# A matrix product on the CPU by the compiler's own loops, on one thread: the libraries behind the defaults add in an order
# that depends on the shape of the whole product, so on the number of chains, and on the number of cores.
_SAME_BITS = {"xla_cpu_multi_thread_eigen": False, "xla_cpu_experimental_ynn_fusion_type": ""}


def _compiled(lowered: Any, platform: str) -> Any:
    """The program, compiled so that a chain's bits do not depend on the chains beside it."""
    options = _SAME_BITS if platform == "cpu" else {}
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
    known = {name: value for name, value in options.items() if _knows(name, value)}
    return lowered.compile(compiler_options=known)


@functools.cache
def _knows(name: str, value: Any) -> bool:
    """Whether this version of the compiler has the option: they come and go."""
    try:
        jax.jit(jnp.negative).lower(0.0).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def signature(tree: Any) -> Any:
    """What a compiled program depends on: the structure with its static fields, and the leaves' shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    wide_types = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    shapes = tuple((np.shape(a), jnp.result_type(a), getattr(a, "weak_type", False)) for a in leaves)
    return structure, shapes, wide_types


def cast(tree: Any, dtype: Any) -> Any:
    """Every floating leaf in the run's precision."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, dtype) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else jnp.asarray(a), tree
    )


def device() -> Any:
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if default is None:
        return jax.local_devices()[0]
    return jax.local_devices(backend=default)[0] if isinstance(default, str) else default
