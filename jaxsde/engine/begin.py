"""A run before its first step: the start checked, the chains laid out so that everything fits; or a run to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import random
from ..compiled import jitted
from ..struct import check_gradient
from ..types import Chain, Statistic
from . import launch as launching
from . import layout as layouts
from .executors import EXECUTORS, choose
from .executors.tile import divergence_limit
from .run import Run


def begin(
    chain: Chain,
    start: PyTree,
    key: Any,
    chains: int,
    statistics: dict,
    every: int,
    groups: int,
    dtype: Any,
    executor: str,
    stream: str,
) -> tuple[Run, launching.Launcher]:
    """The run at step 0, laid out so that a tile stays in cache and everything fits in memory, and what takes it on."""
    words = np.asarray(random.key_words(key))
    if chains >= 1 << 48:
        raise MemoryError(f"{chains} chains do not fit in any memory: ask for fewer")
    x0 = _initial(chain, start, chains)
    dtype = _dtype(x0, dtype)
    device, cast = launching.device(), launching.prepared(chain, stream, dtype)
    numbers, lane_bytes, state = _lane(chain, cast, dtype)
    layouts.check_lanes(chains, lane_bytes, device)
    executor = choose(executor, cast, state, dtype, device.platform)
    widest = max(layouts.widest(numbers, device.platform), getattr(EXECUTORS[executor], "WIDEST", 0))
    while True:
        plan = layouts.plan(chains, groups, widest, layouts.workers(device.platform))
        held = jax.tree.leaves(_empty(statistics, plan.width, chain.dim, dtype))
        row_bytes = plan.width * lane_bytes + sum(a.nbytes for a in held)
        if not layouts.fits(plan, row_bytes, 0, device):
            raise layouts.too_many(plan, row_bytes, 0, device)
        run = _at_start(chain, cast, x0, words, plan, statistics, every, dtype, executor, stream)
        launcher = launching.Launcher(run, cast)
        if launcher.alone and widest > layouts.FEW:
            widest = layouts.FEW
            continue
        program_bytes = launcher.program_bytes(run)
        if layouts.fits(plan, row_bytes, program_bytes, device):
            return run, launcher
        if plan.width * plan.rows_per_tile <= 16:
            raise layouts.too_many(plan, row_bytes, program_bytes, device)
        widest = plan.width * plan.rows_per_tile // 2


def _at_start(
    chain: Chain,
    cast: Chain,
    x0: np.ndarray,
    words: np.ndarray,
    plan: Any,
    statistics: dict,
    every: int,
    dtype: np.dtype,
    executor: str,
    stream: str,
) -> Run:
    rows = len(plan.tiles) * plan.rows_per_tile
    lanes = np.zeros((rows, plan.width), bool)
    lanes[: plan.rows] = plan.lanes()
    if x0.ndim == 1:
        alive = lanes & bool((np.abs(x0) < divergence_limit(dtype)).all())
        one = jax.device_get(cast.init(jnp.asarray(x0, dtype)))
        full = jax.tree.map(lambda a: np.broadcast_to(a, (rows, plan.width, *np.shape(a))).copy(), one)
    else:
        padded = np.zeros((rows, plan.width, chain.dim), dtype)
        padded[lanes] = x0
        alive = lanes & (np.abs(padded) < divergence_limit(dtype)).all(-1)
        full = jax.device_get(jax.vmap(jax.vmap(cast.init))(jnp.asarray(padded)))
    fresh = _fresh(statistics, plan, rows, chain.dim, dtype)
    survived = np.zeros((rows, plan.width), np.uint64)
    return Run(chain, statistics, words, plan, every, dtype, executor, 0, 0, 0, full, fresh, alive, survived, stream)


def _fresh(statistics: Mapping[str, Statistic], plan: Any, rows: int, dim: int, dtype: Any) -> dict[str, PyTree]:
    """Empty accumulators for every row."""
    empty = _empty(statistics, plan.width, dim, dtype)
    return jax.tree.map(lambda a: np.broadcast_to(a, (rows, *a.shape)), empty)


# What is known of a structure (a tree and the shapes of its leaves) without tracing the user's functions once more.
_lanes: dict[Any, tuple[int, int, PyTree]] = {}
_empties: dict[Any, dict[str, PyTree]] = {}
_KEPT = 256


def _lane(chain: Chain, cast: Chain, dtype: Any) -> tuple[int, int, PyTree]:
    """The most numbers that a step of one chain holds at once, the bytes of its state with its flags, and the state's shapes."""
    key = (launching.signature(cast), str(dtype))
    if key not in _lanes:
        state = launching.one_state(cast, dtype)
        drawn = jax.eval_shape(lambda: _one_draw(chain, dtype))
        numbers = layouts.lane_numbers(cast.step, state, drawn, jax.ShapeDtypeStruct((), dtype))
        numbers = max(numbers, 16 * sum(int(np.prod(z.shape)) for z in jax.tree.leaves(drawn)))
        if len(_lanes) >= _KEPT:
            _lanes.clear()
        _lanes[key] = numbers, 9 + sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state)), state
    return _lanes[key]


def _empty(statistics: Mapping[str, Statistic], width: int, dim: int, dtype: Any) -> dict[str, PyTree]:
    """Empty accumulators of one row."""
    key = (launching.signature(dict(statistics)), width, dim, str(dtype))
    if key not in _empties:
        x = jnp.zeros((width, dim), dtype)
        if len(_empties) >= _KEPT:
            _empties.clear()
        _empties[key] = {name: jax.tree.map(np.asarray, jax.device_get(s.init(x))) for name, s in statistics.items()}
    return _empties[key]


def resume(
    chain: Chain, run: Run, statistics: Mapping[str, Statistic] | None, every: int
) -> tuple[Run, launching.Launcher]:
    if chain.dim != run.chain.dim:
        raise ValueError(f"the run has dimension {run.chain.dim}, the chain {chain.dim}: go on with the same problem")
    held = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], a.dtype), run.state)
    cast = launching.prepared(chain, run.stream, run.dtype)
    state = launching.one_state(cast, run.dtype)
    if jax.tree.structure(held) != jax.tree.structure(state) or jax.tree.leaves(held) != jax.tree.leaves(state):
        raise ValueError("the chain keeps another state than the run's (another optimizer?): go on with the same kind of chain")
    executor = choose(run.executor, cast, state, run.dtype, launching.device().platform)
    run = replace(run, chain=chain, executor=executor, _cache={})
    if statistics is not None or every != run.every:
        statistics = dict(run.statistics if statistics is None else statistics)
        fresh = _fresh(statistics, run.layout, run.alive.shape[0], chain.dim, run.dtype)
        run = replace(run, statistics=statistics, every=every, accumulators=fresh, samples=0, origin=run.step)
    return run, launching.Launcher(run, cast)


def _initial(chain: Chain, start: PyTree, chains: int) -> np.ndarray:
    """The initial point(s), flat: float64 [d] or [chains, d]."""
    leaves = [np.asarray(a) for a in jax.tree.leaves(start)]
    if not leaves or not all(np.issubdtype(a.dtype, np.number) and not np.iscomplexobj(a) for a in leaves):
        raise TypeError("the initial point must be a pytree of real numbers")
    total = sum(a.size for a in leaves)
    if total == chain.dim:
        x0 = np.concatenate([a.ravel() for a in leaves])
    elif all(a.ndim and a.shape[0] == chains for a in leaves) and total == chains * chain.dim:
        x0 = np.concatenate([a.reshape(chains, -1) for a in leaves], axis=1)
    else:
        shapes = ", ".join(str(a.shape) for a in leaves)
        raise ValueError(
            f"the initial point has shape {shapes}: give {chain.dim} numbers for all chains, or a leading axis of {chains}"
        )
    if not np.isfinite(x0).all():
        where = ", ".join(map(str, np.argwhere(~np.isfinite(x0))[0]))
        raise ValueError(f"the initial point is not finite at index {where}: start from finite numbers")
    problem, phi = getattr(chain, "problem", None), x0 if x0.ndim == 1 else x0[0]
    if problem is not None and not np.array_equal(phi, np.asarray(problem.start)):  # it has checked its own start
        gradient = jitted(type(problem).grad, problem)(problem, jnp.asarray(phi, problem.start.dtype))
        check_gradient(np.asarray(gradient), problem.unravel)
    return x0


def _dtype(x0: np.ndarray, dtype: Any) -> np.dtype:
    wanted = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype must be float32 or float64, got {wanted}")
    if wanted == np.float64 and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError('dtype float64 needs jax.config.update("jax_enable_x64", True) before any array is made')
    return wanted


def _one_draw(chain: Chain, dtype: Any) -> Any:
    zero = jnp.zeros((1,), jnp.uint32)
    block = random.block(jnp.zeros(2, jnp.uint32), chain.draws, (zero, zero), random.clock(0, chain.draws), 1, dtype)
    return jax.tree.map(lambda a: a[0, ..., 0], block)
