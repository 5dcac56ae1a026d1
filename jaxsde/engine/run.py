"""Many steps of many chains. The host owns the outer loop: chunks, progress and stopping are plain Python.

    run = simulate(chain, x0, key=key, chains=8192, steps=20_000, burn_in=2_000, every=10, statistics={...})
    for run in iterate(chain, x0, key=key, chains=8192, steps=20_000, chunk=500): ...        # a Run after every chunk

What a chain does depends on the key, its number, and the step alone: not on the chunk, on the other chains, or on stopping
and going on.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import random
from ..estimate import Estimate, jackknife
from ..types import Chain, Statistic
from . import launch as launching
from . import layout as layouts
from .executors import vmap
from .progress import progress_bar

EXECUTORS = {"vmap": vmap}

_CHUNK_SECONDS = 0.5  # what an automatic chunk lasts: progress is shown, and an interrupt obeyed, that often
_LARGEST_CHUNK = 1 << 28


@dataclass(frozen=True)
class Run:
    """The chains and their statistics after some steps. Immutable; going on gives a new one.

    Arrays are NumPy, stacked over rows of chains (see `layout`): `state` leaves [rows, width, ...], `alive` and `survived`
    [rows, width], `accumulators` one pytree per statistic with leaves [rows, ...].
    """

    chain: Chain
    statistics: Mapping[str, Statistic]
    key_words: np.ndarray
    layout: layouts.Layout
    every: int
    dtype: np.dtype
    executor: str
    step: int  # steps done
    origin: int  # the step at which the statistics began
    samples: int  # times at which the statistics looked
    state: PyTree
    accumulators: dict[str, PyTree]
    alive: np.ndarray
    survived: np.ndarray  # steps that each chain completed
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        names = ", ".join(self.statistics) or "none"
        gone = f", {self.diverged.sum()} diverged" if self.diverged.any() else ""
        return (
            f"Run({self.chains} chains, step {self.step}, time {self.time:.6g}{gone}, {len(self.group_sizes)} groups, "
            f"{self.samples} samples of: {names}; {self.dtype}, executor {self.executor})"
        )

    @property
    def chains(self) -> int:
        return self.layout.chains

    @property
    def group_sizes(self) -> tuple[int, ...]:
        return self.layout.group_sizes

    @property
    def time(self) -> float:
        """The clock: steps done times the time of a step."""
        return self.step * float(self.chain.dt)

    @property
    def positions(self) -> np.ndarray:
        """Where the chains are, [chains, d]. A diverged chain holds its last finite position."""
        state = jax.tree.map(lambda a: a[self.layout.lanes()], self._rows(self.state))
        return np.asarray(jax.vmap(self.chain.position)(state))

    @property
    def diverged(self) -> np.ndarray:
        """bool[chains]: chains that left the range of the numbers, frozen since then."""
        return ~self._rows(self.alive)[self.layout.lanes()]

    @property
    def diverged_at(self) -> np.ndarray:
        """int64[chains]: the first step that was not finite, −1 for a chain that is well."""
        survived = self._rows(self.survived)[self.layout.lanes()].astype(np.int64)
        return np.where(self.diverged, survived, -1)

    @property
    def group(self) -> np.ndarray:
        """int[chains]: the group that each chain belongs to."""
        return np.repeat(np.arange(len(self.group_sizes)), self.group_sizes)

    def statistic(self, name: str) -> Statistic:
        """The statistic object of that name; `KeyError` with the names there are."""
        if name not in self.statistics:
            raise KeyError(f"this run has no statistic {name!r}; it has {', '.join(self.statistics) or 'none'}")
        return self.statistics[name]

    def partials(self, name: str) -> PyTree:
        """The accumulator of each group: leaves [groups, ...] on the host, merged over its chains in a fixed order."""
        statistic = self.statistic(name)
        if name not in self._cache:
            rows = self._rows(self.accumulators[name])
            group = np.asarray(self.layout.row_group)
            merged = [
                statistic.merge(jax.tree.map(lambda a, g=g: np.concatenate(list(a[group == g])), rows))
                for g in range(len(self.group_sizes))
            ]
            self._cache[name] = jax.tree.map(lambda *a: np.concatenate(a), *merged)
        return self._cache[name]

    def estimate(self, name: str, f: Callable[[Any], Any] | None = None) -> Estimate:
        """f(result) of a statistic, with a jackknife error over the groups."""
        return jackknife(self.statistic(name), self.partials(name), f)

    def __getitem__(self, name: str) -> Estimate:
        return self.estimate(name)

    def _rows(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a[: self.layout.rows], tree)


def simulate(
    chain: Chain,
    start: PyTree | Run,
    *,
    steps: int,
    key: Any = None,
    chains: int | None = None,
    burn_in: int = 0,
    every: int | None = None,
    statistics: Mapping[str, Statistic] | None = None,
    groups: int = 32,
    dtype: Any = None,
    executor: str = "auto",
    chunk: int | None = None,
    progress: Any = False,
) -> Run:
    """Runs `chains` independent copies of a chain: `burn_in` steps unseen, then `steps` steps, looked at every `every`.

    `start` is the initial point: params as given to the problem (every chain starts there), the same with a leading axis of
    length `chains`, a flat array [d] or [chains, d], or a `Run` to go on from (its key, chains, groups, `every` and statistics
    are kept; other `statistics`, or another `every`, begin afresh). `key` is any `jax.random` key. `statistics` maps names
    to `Statistic`s; `run[name]` is then an `Estimate` with its error over `groups` groups of chains. `every` is 1 unless
    given. `chunk` fixes how many steps pass between two looks of the host (default: about half a second's worth); it never
    changes a result. `progress=True` shows a bar.

    A chain whose position is NaN or too large to be squared is frozen where it last was, counted in `run.diverged`, and
    left out of the statistics. With steps = 0 the statistics see the initial law once.

    Raises `ValueError` or `TypeError` before anything runs for arguments that make no sense (float64 without
    `jax_enable_x64` among them), and `MemoryError` for more chains than fit, with the number that does.
    """
    run = None
    for run in iterate(  # noqa: B007
        chain, start, steps=steps, key=key, chains=chains, burn_in=burn_in, every=every, statistics=statistics,
        groups=groups, dtype=dtype, executor=executor, chunk=chunk, progress=progress,
    ):  # fmt: skip
        pass
    assert run is not None
    return run


def iterate(
    chain: Chain,
    start: PyTree | Run,
    *,
    steps: int,
    key: Any = None,
    chains: int | None = None,
    burn_in: int = 0,
    every: int | None = None,
    statistics: Mapping[str, Statistic] | None = None,
    groups: int = 32,
    dtype: Any = None,
    executor: str = "auto",
    chunk: int | None = None,
    progress: Any = False,
) -> Iterator[Run]:
    """`simulate` as a generator: a `Run` after every chunk, the last one being `simulate`'s. Arguments as there."""
    steps, burn_in = _whole(steps, "steps", 0), _whole(burn_in, "burn_in", 0)
    every = (start.every if isinstance(start, Run) else 1) if every is None else _whole(every, "every", 1)
    if every > _LARGEST_CHUNK:
        raise ValueError(f"every must be at most {_LARGEST_CHUNK}, got {every}: look more often")
    chunk = None if chunk is None else _whole(chunk, "chunk", 1)
    if executor != "auto" and executor not in EXECUTORS:
        raise ValueError(f"executor must be auto or one of {', '.join(EXECUTORS)}; got {executor!r}")
    if isinstance(start, Run):
        given = {"key": key, "chains": chains, "dtype": dtype}
        if extra := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"a Run goes on with its own {', '.join(extra)}: leave {', '.join(extra)} out")
        run = _continue(chain, start, statistics, every)
        if burn_in and run.samples:
            raise ValueError(
                f"burn_in={burn_in} would leave a gap in statistics that have begun: give statistics={{...}} to begin afresh, "
                "or leave burn_in out"
            )
    else:
        if key is None or chains is None:
            raise ValueError("give key=jax.random.key(seed) and chains=a number, or a Run to go on from")
        run = _begin(
            chain,
            start,
            key,
            _whole(chains, "chains", 1),
            dict(statistics or {}),
            every,
            _whole(groups, "groups", 1),
            dtype,
        )
    total = burn_in + steps
    if (run.step + total) * run.chains >= 1 << 63:
        raise ValueError(f"{run.step + total} steps of {run.chains} chains exceed 2^63 chain-steps: ask for fewer")
    return _chunks(run, burn_in, steps, chunk, progress)


def _chunks(run: Run, burn_in: int, steps: int, chunk: int | None, progress: Any) -> Iterator[Run]:
    if burn_in + steps == 0:
        yield run if run.samples or run.step else _look(run)
        return
    with progress_bar(progress, burn_in + steps, run) as bar:
        done, pace = 0, None
        while done < burn_in + steps:
            collecting = done >= burn_in
            size = min(chunk, _LARGEST_CHUNK) if chunk else _pace(pace, run.every)
            size = min(size, (burn_in + steps if collecting else burn_in) - done)
            began = time.perf_counter()
            run = launching.advance(run, size, collecting)
            pace = (size, time.perf_counter() - began)
            done += size
            if done == burn_in:
                run = replace(run, origin=run.step)
            bar(size, run)
            yield run


def _pace(last: Any, every: int) -> int:
    """Steps for the next automatic chunk, from how many the last one had and how long it took: at most eightfold."""
    size, seconds = last or (64, _CHUNK_SECONDS)
    wanted = min(8 * size, int(size * _CHUNK_SECONDS / max(seconds, 1e-6)) + 1, _LARGEST_CHUNK)
    return max(1, wanted // every) * every


def _begin(
    chain: Chain, start: PyTree, key: Any, chains: int, statistics: dict, every: int, groups: int, dtype: Any
) -> Run:
    """The run at step 0, laid out so that a tile stays in cache and everything fits in memory."""
    words = np.asarray(random.key_words(key))
    if chains >= 1 << 48:
        raise MemoryError(f"{chains} chains do not fit in any memory: ask for fewer")
    x0 = _initial(chain, start, chains)
    dtype = _dtype(x0, dtype)
    device, cast = launching.device(), launching.cast(chain, dtype)
    numbers, lane_bytes = _lane(chain, cast, dtype)
    layouts.check_lanes(chains, lane_bytes, device)
    widest = layouts.widest(numbers, device.platform)
    while True:
        plan = layouts.plan(chains, groups, widest, layouts.workers(device.platform))
        held = jax.tree.leaves(_empty(statistics, plan.width, chain.dim, dtype))
        row_bytes = plan.width * lane_bytes + sum(a.nbytes for a in held)
        if not layouts.fits(plan, row_bytes, 0, device):
            raise layouts.too_many(plan, row_bytes, 0, device)
        run = _at_start(chain, cast, x0, words, plan, statistics, every, dtype)
        program_bytes = launching.program_bytes(run)
        if layouts.fits(plan, row_bytes, program_bytes, device):
            return run
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
) -> Run:
    rows = len(plan.tiles) * plan.rows_per_tile
    lanes = np.zeros((rows, plan.width), bool)
    lanes[: plan.rows] = plan.lanes()
    if x0.ndim == 1:
        alive = lanes & bool((np.abs(x0) < vmap.divergence_limit(dtype)).all())
        one = jax.device_get(cast.init(jnp.asarray(x0, dtype)))
        full = jax.tree.map(lambda a: np.broadcast_to(a, (rows, plan.width, *np.shape(a))).copy(), one)
    else:
        padded = np.zeros((rows, plan.width, chain.dim), dtype)
        padded[lanes] = x0
        alive = lanes & (np.abs(padded) < vmap.divergence_limit(dtype)).all(-1)
        full = jax.device_get(jax.vmap(jax.vmap(cast.init))(jnp.asarray(padded)))
    fresh = _fresh(statistics, plan, rows, chain.dim, dtype)
    survived = np.zeros((rows, plan.width), np.uint64)
    return Run(chain, statistics, words, plan, every, dtype, "vmap", 0, 0, 0, full, fresh, alive, survived)


def _fresh(statistics: Mapping[str, Statistic], plan: Any, rows: int, dim: int, dtype: Any) -> dict[str, PyTree]:
    """Empty accumulators for every row."""
    empty = _empty(statistics, plan.width, dim, dtype)
    return jax.tree.map(lambda a: np.broadcast_to(a, (rows, *a.shape)).copy(), empty)


# What is known of a structure (a tree and the shapes of its leaves) without tracing the user's functions once more.
_lanes: dict[Any, tuple[int, int]] = {}
_empties: dict[Any, dict[str, PyTree]] = {}
_KEPT = 256


def _lane(chain: Chain, cast: Chain, dtype: Any) -> tuple[int, int]:
    """The most numbers that a step of one chain holds at once, and the bytes of its state with its flags."""
    key = (launching.signature(cast), str(dtype))
    if key not in _lanes:
        state = jax.eval_shape(cast.init, jax.ShapeDtypeStruct((chain.dim,), dtype))
        drawn = jax.eval_shape(lambda: _one_draw(chain, dtype))
        numbers = layouts.lane_numbers(cast.step, state, drawn, jax.ShapeDtypeStruct((), dtype))
        numbers = max(numbers, 16 * sum(int(np.prod(z.shape)) for z in jax.tree.leaves(drawn)))
        if len(_lanes) >= _KEPT:
            _lanes.clear()
        _lanes[key] = numbers, 9 + sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state))
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


def _continue(chain: Chain, run: Run, statistics: Mapping[str, Statistic] | None, every: int) -> Run:
    if chain.dim != run.chain.dim:
        raise ValueError(f"the run has dimension {run.chain.dim}, the chain {chain.dim}: go on with the same problem")
    held = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[2:], a.dtype), run.state)
    state = jax.eval_shape(launching.cast(chain, run.dtype).init, jax.ShapeDtypeStruct((chain.dim,), run.dtype))
    if jax.tree.structure(held) != jax.tree.structure(state) or jax.tree.leaves(held) != jax.tree.leaves(state):
        raise ValueError("the chain keeps another state than the run's (another optimizer?): go on with the same kind of chain")
    if statistics is None and every == run.every:
        return replace(run, chain=chain, _cache={})
    statistics = dict(run.statistics if statistics is None else statistics)
    fresh = _fresh(statistics, run.layout, run.alive.shape[0], chain.dim, run.dtype)
    return replace(
        run, chain=chain, statistics=statistics, every=every, accumulators=fresh, samples=0, origin=run.step, _cache={}
    )


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
    _check_gradient(chain, x0 if x0.ndim == 1 else x0[0])
    return x0


def _check_gradient(chain: Chain, x0: np.ndarray) -> None:
    """`ValueError` naming the component whose gradient is not finite at the initial point."""
    problem = getattr(chain, "problem", None)
    if problem is None or np.array_equal(x0, np.asarray(problem.start)):
        return  # the problem checked its own start
    gradient = np.asarray(jax.jit(type(problem).grad)(problem, jnp.asarray(x0, problem.start.dtype)))
    if not np.isfinite(gradient).all():
        i = int(np.flatnonzero(~np.isfinite(gradient))[0])
        for path, numbers in jax.tree_util.tree_leaves_with_path(problem.unravel(np.arange(gradient.size))):
            if np.any(numbers == i):  # the component by the name that the user gave it
                at = "".join(f"[{j}]" for j in np.argwhere(numbers == i)[0])
                name = (jax.tree_util.keystr(path) or "params") + at
                raise ValueError(
                    f"the gradient at the initial point is {gradient[i]} in component {name}: start where it is finite"
                )


def _dtype(x0: np.ndarray, dtype: Any) -> np.dtype:
    wanted = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype must be float32 or float64, got {wanted}")
    if wanted == np.float64 and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError('dtype float64 needs jax.config.update("jax_enable_x64", True) before any array is made')
    return wanted


def _look(run: Run) -> Run:
    """The statistics see the present positions once (a run of no steps)."""
    width, plan = run.layout.width, run.layout
    rows = plan.rows_per_tile * len(plan.tiles)
    x = jax.vmap(jax.vmap(run.chain.position))(run.state)
    fresh = {
        name: jax.device_get(jax.vmap(lambda a, xr, lr, s=s: s.update(a, jnp.asarray(run.time, run.dtype), xr, lr))(
            run.accumulators[name], x, run.alive.reshape(rows, width)
        ))
        for name, s in run.statistics.items()
    }  # fmt: skip
    return replace(run, accumulators=fresh, samples=run.samples + 1, _cache={})


def _one_draw(chain: Chain, dtype: Any) -> Any:
    zero = jnp.zeros((1,), jnp.uint32)
    block = random.block(jnp.zeros(2, jnp.uint32), chain.draws, (zero, zero), random.clock(0, chain.draws), 1, dtype)
    return jax.tree.map(lambda a: a[0, ..., 0], block)


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, got {value!r}") from error
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
