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
from .pace import SECONDS, Pace
from .wrapped import once, streamed


class Launcher:
    """Takes a run on, and the runs that come of it: what all tiles share is made ready once, and the program is found once.
    `chain`, where it is at hand, is the run's as `prepared`."""

    def __init__(self, run: Any, chain: Any = None):
        chain = prepared(run.chain, run.stream, run.dtype) if chain is None else chain
        self.where = device()
        self.shared = jax.device_put((chain, dict(run.statistics)), self.where)
        self.compiled = _compiled(self.shared, _span(run, 1, False), run, self.where)

    def workers(self, run: Any) -> int:
        """Threads that launch tiles."""
        return 1 if self.alone else min(layouts.workers(self.where.platform), len(run.layout.tiles))

    def rounds(self, run: Any) -> int:
        """Tiles that a worker runs one after the other."""
        return math.ceil(len(run.layout.tiles) / self.workers(run))

    def program_bytes(self, run: Any) -> int:
        """What the compiled program takes for all tiles that are in flight at once, by the compiler's own count."""
        return self.compiled.program.bytes * self.workers(run)

    @property
    def alone(self) -> bool:
        """Whether the program takes one tile at a time, which should be small."""
        return self.compiled.program.alone

    def known_steps(self, run: Any) -> int | None:
        """How many steps a launch should take, if the program has run before."""
        return self.compiled.known_steps(self.rounds(run))

    def advance(self, run: Any, steps: int, collecting: bool) -> Any:
        """The run `steps` steps later: every tile through the compiled program, as many at once as there are workers."""
        plan, span = run.layout, _span(run, steps, collecting)
        advance_tile = self.compiled.program.bind(self.shared, run.key_words, span)
        # Every worker puts its tiles where they belong.
        empty = lambda x: np.empty(x.shape, x.dtype)
        survived = np.empty(run.survived.shape, np.uint32)
        joined = Tile(jax.tree.map(empty, run.state), jax.tree.map(empty, run.accumulators), empty(run.alive), survived)
        wide_types = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]

        def launch(tile: tuple[int, int]) -> None:
            with jax.enable_x64(wide_types):  # a setting of the calling thread, which a worker does not inherit
                after = jax.device_get(advance_tile(plan.ids(*tile), _tile(run, tile)))
            rows = slice(tile[0], tile[0] + plan.rows_per_tile)
            # An executor gives the entries in their order; copied once, whatever lies between them.
            jax.tree.map(lambda whole, part: np.copyto(whole[rows].reshape(part.shape), part, casting="no"), joined, after)

        began, workers = time.perf_counter(), self.workers(run)
        if workers == 1:
            deque(map(launch, plan.tiles), maxlen=0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                deque(pool.map(launch, plan.tiles), maxlen=0)
        if int(joined.alive.sum()) == run.chains:  # steps of chains that have diverged may take no time at all
            self.compiled.took(steps, (time.perf_counter() - began) / self.rounds(run))
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
    flat = lambda x: x[rows].reshape(-1, *x.shape[2:])
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
        self.short = (0, 1.0)  # the most steps of a launch that was too short to tell more, and its seconds for a tile

    def took(self, steps: int, seconds: float) -> None:
        """So many seconds for each tile that a worker ran."""
        if seconds > _TELLING_SECONDS:
            self.pace.took(steps, seconds)
        elif steps > self.short[0]:
            self.short = (steps, seconds)

    def known_steps(self, rounds: int) -> int | None:
        """Steps of a launch in which a worker runs so many tiles, None before the first. After short ones: a few times as many
        at the most."""
        steps, seconds = self.short
        few = min(_FEW, SECONDS / _FEW / (seconds * rounds))
        return self.pace.steps(rounds) or (max(1, int(steps * few)) if steps else None)


_TELLING_SECONDS = 0.05  # a shorter launch says little of a longer one
_FEW = 8
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
