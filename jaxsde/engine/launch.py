"""From a run to the run some steps later: compile once, launch every tile, put the parts together again."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import random
from . import layout as layouts
from .executors import EXECUTORS
from .executors.tile import Span, Tile
from .wrapped import once, streamed


def advance(run: Any, steps: int, collecting: bool) -> Any:
    """The run `steps` steps later: every tile through the compiled program, as many at once as there are workers."""
    plan, where = run.layout, device()
    shared = jax.device_put((prepared(run.chain, run.stream, run.dtype), dict(run.statistics)), where)
    span = _span(run, steps, collecting)
    arguments = (*shared, run.key_words, plan.ids(*plan.tiles[0]), span, _tile(run, plan.tiles[0]))
    advance_tile = _program(arguments, run, where).bind(shared, run.key_words, span)
    wide_types = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]

    def launch(tile: tuple[int, int]) -> Tile:
        with jax.enable_x64(wide_types):  # a setting of the calling thread, which a worker does not inherit
            return jax.device_get(advance_tile(plan.ids(*tile), _tile(run, tile)))

    with ThreadPoolExecutor(layouts.workers(where.platform)) as pool:
        results = list(pool.map(launch, plan.tiles))
    join = lambda *parts: np.concatenate(parts)  # noqa: E731
    wide = lambda x: x.reshape(-1, plan.width, *x.shape[1:])  # noqa: E731
    state, accumulators, alive, survived = (
        jax.tree.map(join, *(getattr(r, name) for r in results)) for name in Tile._fields
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
    shared = (prepared(run.chain, run.stream, run.dtype), dict(run.statistics))
    arguments = (*shared, run.key_words, plan.ids(*plan.tiles[0]), _span(run, 1, False), _tile(run, plan.tiles[0]))
    return _program(arguments, run, where).bytes * min(layouts.workers(where.platform), len(plan.tiles))


def _span(run: Any, steps: int, collecting: bool) -> Span:
    """The next `steps` steps, counted from the start of the sampling interval that the run is in."""
    begin = (run.step - run.origin) % run.every
    return Span(
        random.clock(run.step - begin, run.chain.draws),
        np.int32(begin),
        np.int32(begin + steps),
        np.bool_(collecting),
        np.int32(-(-(begin + steps) // run.every)),
    )


def _tile(run: Any, tile: tuple[int, int]) -> Tile:
    """The rows of one tile as the executors take them."""
    plan = run.layout
    rows = slice(tile[0], tile[0] + plan.rows_per_tile)
    flat = lambda x: x[rows].reshape(-1, *x.shape[2:])  # noqa: E731
    return Tile(
        jax.tree.map(flat, run.state),
        jax.tree.map(lambda x: x[rows], run.accumulators),
        flat(run.alive),
        np.zeros(plan.rows_per_tile * plan.width, np.uint32),
    )


_programs: OrderedDict[Any, Any] = OrderedDict()
_KEPT_PROGRAMS = 64


def _program(arguments: tuple, run: Any, where: Any) -> Any:
    """The compiled program for these shapes and this structure. A new learning rate, seed, data value, number of steps or
    chunk finds the old one."""
    every, rows = run.every, run.layout.rows_per_tile
    key = (signature(arguments), every, rows, run.executor, where)
    if key not in _programs:
        _programs[key] = EXECUTORS[run.executor].program(arguments, every=every, rows=rows, platform=where.platform)
        while len(_programs) > _KEPT_PROGRAMS:
            _programs.popitem(last=False)
    _programs.move_to_end(key)
    return _programs[key]


def signature(tree: Any) -> Any:
    """What a compiled program depends on: the structure with its static fields, and the leaves' shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    wide_types = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    shapes = tuple((np.shape(a), jnp.result_type(a), getattr(a, "weak_type", False)) for a in leaves)
    return structure, shapes, wide_types


def prepared(chain: Any, stream: str, dtype: Any) -> Any:
    """The chain as the executors take it: drawing from that stream, each array once, in that precision."""
    return cast(once(streamed(chain, stream)), dtype)


def cast(tree: Any, dtype: Any) -> Any:
    """Every floating leaf in the run's precision."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, dtype) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else jnp.asarray(a), tree
    )


def one_state(chain: Any, dtype: Any) -> Any:
    """The shapes of one chain's state."""
    return jax.eval_shape(chain.init, jax.ShapeDtypeStruct((chain.dim,), dtype))


def device() -> Any:
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if default is None:
        return jax.local_devices()[0]
    return jax.local_devices(backend=default)[0] if isinstance(default, str) else default
