"""From a run to the run some steps later: compile once, launch every tile, put the parts together again."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
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
from .pace import Pace
from .wrapped import once, streamed


def advance(run: Any, steps: int, collecting: bool) -> Any:
    """The run `steps` steps later: every tile through the compiled program, as many at once as there are workers."""
    plan, where = run.layout, device()
    shared = jax.device_put((prepared(run.chain, run.stream, run.dtype), dict(run.statistics)), where)
    span = _span(run, steps, collecting)
    compiled = _compiled(shared, span, run, where)
    advance_tile = compiled.program.bind(shared, run.key_words, span)
    # Every worker puts its tiles where they belong.
    empty = lambda x: np.empty(x.shape, x.dtype)  # noqa: E731
    survived = np.empty(run.survived.shape, np.uint32)
    joined = Tile(jax.tree.map(empty, run.state), jax.tree.map(empty, run.accumulators), empty(run.alive), survived)
    wide_types = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]

    def launch(tile: tuple[int, int]) -> None:
        with jax.enable_x64(wide_types):  # a setting of the calling thread, which a worker does not inherit
            after = jax.device_get(advance_tile(plan.ids(*tile), _tile(run, tile)))
        rows = slice(tile[0], tile[0] + plan.rows_per_tile)
        # An executor gives the entries in their order; copied once, whatever lies between them.
        jax.tree.map(lambda whole, part: np.copyto(whole[rows].reshape(part.shape), part, casting="no"), joined, after)

    began = time.perf_counter()
    with ThreadPoolExecutor(compiled.workers(where)) as pool:
        deque(pool.map(launch, plan.tiles), maxlen=0)
    rounds, everyone = compiled.rounds(plan, where), int(joined.alive.sum()) == run.chains
    compiled.took(steps, time.perf_counter() - began, rounds, everyone)
    before, after = ((step - run.origin) // run.every for step in (run.step, run.step + steps))
    return replace(
        run,
        step=run.step + steps,
        samples=run.samples + (after - before) * collecting,
        state=joined.state,
        accumulators=joined.accumulators,
        alive=joined.alive,
        survived=run.survived + joined.survived,
        _cache={},
    )


def program_bytes(run: Any) -> int:
    """What the compiled program of this run takes for all tiles that are in flight at once, by the compiler's own count."""
    plan, where = run.layout, device()
    shared = (prepared(run.chain, run.stream, run.dtype), dict(run.statistics))
    compiled = _compiled(shared, _span(run, 1, False), run, where)
    return compiled.program.bytes * min(compiled.workers(where), len(plan.tiles))


def alone(run: Any) -> bool:
    """Whether the program of this run takes one tile at a time, which should be small."""
    where = device()
    shared = (prepared(run.chain, run.stream, run.dtype), dict(run.statistics))
    return _compiled(shared, _span(run, 1, False), run, where).program.alone


def known_steps(run: Any) -> int | None:
    """How many steps a launch of this run should take, if its program has run before."""
    where = device()
    shared = (prepared(run.chain, run.stream, run.dtype), dict(run.statistics))
    compiled = _compiled(shared, _span(run, 1, False), run, where)
    return compiled.pace.steps(compiled.rounds(run.layout, where))


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


class _Compiled:
    """A program, and what launches of it took for a tile, as far as that tells how long the next ones will take."""

    def __init__(self, program: Any):
        self.program, self.pace = program, Pace()

    def workers(self, where: Any) -> int:
        """Threads that launch tiles."""
        return 1 if self.program.alone else layouts.workers(where.platform)

    def rounds(self, plan: Any, where: Any) -> int:
        """Tiles that a worker runs one after the other."""
        return math.ceil(len(plan.tiles) / self.workers(where))

    def took(self, steps: int, seconds: float, rounds: int, everyone: bool) -> None:
        if seconds > _TELLING_SECONDS and everyone:  # steps of chains that have diverged may take no time at all
            self.pace.took(steps, seconds / rounds)


_TELLING_SECONDS = 0.05  # a shorter launch says little of a longer one
_programs: OrderedDict[Any, _Compiled] = OrderedDict()
_KEPT_PROGRAMS = 64


def _compiled(shared: tuple, span: Span, run: Any, where: Any) -> _Compiled:
    """The compiled program for these shapes and this structure. A new learning rate, seed, data value, number of steps or
    chunk finds the old one."""
    plan, every, rows = run.layout, run.every, run.layout.rows_per_tile
    arguments = (*shared, run.key_words, plan.ids(*plan.tiles[0]), span, _tile(run, plan.tiles[0]))
    key = (signature(arguments), every, rows, run.executor, where)
    if key not in _programs:
        program = EXECUTORS[run.executor].program(arguments, every=every, rows=rows, platform=where.platform)
        _programs[key] = _Compiled(program)
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
