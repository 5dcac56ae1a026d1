"""Many steps of many chains. The host owns the outer loop: chunks, progress and stopping are plain Python.

    run = simulate(chain, x0, key=key, chains=8192, steps=20_000, burn_in=2_000, every=10, statistics={...})
    for run in iterate(chain, x0, key=key, chains=8192, steps=20_000, chunk=500): ...        # a Run after every chunk

What a chain does depends on the key, its number, and the step alone: not on the chunk, on the other chains, or on stopping
and going on.
"""

from __future__ import annotations

import operator
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..random import STREAMS, steps_per_epoch
from ..types import Chain, Statistic
from .begin import begin, resume
from .executors import EXECUTORS
from .launch import Launcher
from .pace import Pace
from .progress import progress_bar
from .run import Run

_FIRST_CHUNK, _GROWTH = 64, 32  # steps, where nothing is known yet, and what a next chunk may be of the last one
_LARGEST_CHUNK = 1 << 28


def simulate(
    chain: Chain,
    start: PyTree | Run,
    *,
    steps: int,
    key: Any = None,
    chains: int | None = None,
    burn_in: int = 0,
    every: int | str | None = None,
    phase: int = 0,
    statistics: Mapping[str, Statistic] | None = None,
    groups: int = 32,
    dtype: Any = None,
    executor: str = "auto",
    stream: str | None = None,
    chunk: int | None = None,
    progress: Any = False,
) -> Run:
    """Runs `chains` independent copies of a chain: `burn_in` steps unseen, then `steps` steps, looked at every `every`.

    `start` is the initial point: params as given to the problem (every chain starts there), the same with a leading axis of
    length `chains`, a flat array [d] or [chains, d], or a `Run` to go on from (its key, chains, groups, `every` and statistics
    are kept; other `statistics`, or another `every`, begin afresh). `key` is any `jax.random` key. `statistics` maps names
    to `Statistic`s; `run[name]` is then an `Estimate` with its error over `groups` groups of chains. `every` is 1 unless
    given. `every="epoch"` looks once in every epoch of a sampling that has epochs, `phase` steps after the end of one (0 is the end
    itself); the statistics begin at the first such step from `burn_in` on. `chunk` fixes how many steps pass between two looks
    of the host (default: about half a second's worth); it never changes a result. `progress=True` shows a bar.
    `stream="philox4x32-10"` draws every word from the cipher: other numbers, and short steps take up to half as long again.

    A chain whose position is NaN or too large to be squared is frozen where it last was, counted in `run.diverged`, and
    left out of the statistics. With steps = 0 the statistics see the initial law once.

    Raises `ValueError` or `TypeError` before anything runs for arguments that make no sense (float64 without
    `jax_enable_x64` among them), and `MemoryError` for more chains than fit, with the number that does.
    """
    runs = iterate(
        chain, start, steps=steps, key=key, chains=chains, burn_in=burn_in, every=every, phase=phase, statistics=statistics,
        groups=groups, dtype=dtype, executor=executor, stream=stream, chunk=chunk, progress=progress,
    )  # fmt: skip
    return deque(runs, maxlen=1).pop()


def iterate(
    chain: Chain,
    start: PyTree | Run,
    *,
    steps: int,
    key: Any = None,
    chains: int | None = None,
    burn_in: int = 0,
    every: int | str | None = None,
    phase: int = 0,
    statistics: Mapping[str, Statistic] | None = None,
    groups: int = 32,
    dtype: Any = None,
    executor: str = "auto",
    stream: str | None = None,
    chunk: int | None = None,
    progress: Any = False,
) -> Iterator[Run]:
    """`simulate` as a generator: a `Run` after every chunk, the last one being `simulate`'s. Arguments as there."""
    steps, burn_in = _whole(steps, "steps", 0), _whole(burn_in, "burn_in", 0)
    epoch = every == "epoch"
    if epoch:
        every = steps_per_epoch(chain.draws)
    phase = _whole(phase, "phase", 0)
    if phase and not (epoch and phase < steps_per_epoch(chain.draws)):
        last = steps_per_epoch(chain.draws) - 1
        raise ValueError(
            f'phase={phase} counts the steps after the end of an epoch: it needs every="epoch" and is at most {last} for this chain'
        )
    every = (start.every if isinstance(start, Run) else 1) if every is None else _whole(every, "every", 1)
    if every > _LARGEST_CHUNK:
        raise ValueError(f"every must be at most {_LARGEST_CHUNK}, got {every}: look more often")
    chunk = None if chunk is None else _whole(chunk, "chunk", 1)
    if executor != "auto" and executor not in EXECUTORS:
        raise ValueError(f"executor must be auto or one of {', '.join(EXECUTORS)}; got {executor!r}")
    if isinstance(start, Run):
        given = {"key": key, "chains": chains, "dtype": dtype, "stream": stream}
        if extra := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"a Run goes on with its own {', '.join(extra)}: leave {', '.join(extra)} out")
        run, launcher = resume(chain, start, statistics, every)
        if burn_in and run.samples:
            raise ValueError(
                f"burn_in={burn_in} would leave a gap in statistics that have begun: give statistics={{...}} to begin afresh, "
                "or leave burn_in out"
            )
    else:
        if key is None or chains is None:
            raise ValueError("give key=jax.random.key(seed) and chains=a number, or a Run to go on from")
        run, launcher = begin(
            chain,
            start,
            key,
            _whole(chains, "chains", 1),
            dict(statistics or {}),
            every,
            _whole(groups, "groups", 1),
            dtype,
            executor,
            next(iter(STREAMS)) if stream is None else stream,
        )
    if epoch and run.samples and (run.origin - phase) % every:
        raise ValueError("the run has looked at another phase of its epochs: give statistics={...} to begin afresh")
    if epoch and not run.samples and (burn_in or (run.origin - phase) % every):  # from the first such step on
        later = min((phase - run.step - burn_in) % every, steps)
        burn_in, steps = burn_in + later, steps - later
    total = burn_in + steps
    if (run.step + total) * run.chains >= 1 << 63:
        raise ValueError(f"{run.step + total} steps of {run.chains} chains exceed 2^63 chain-steps: ask for fewer")
    return _chunks(run, launcher, burn_in, steps, chunk, progress)


def _chunks(run: Run, launcher: Launcher, burn_in: int, steps: int, chunk: int | None, progress: Any) -> Iterator[Run]:
    if burn_in + steps == 0:
        yield run if run.samples or run.step else _look(run)
        return
    with progress_bar(progress, burn_in + steps, run) as bar:
        done, pace = 0, Pace()
        while done < burn_in + steps:
            collecting = done >= burn_in
            left = (burn_in + steps if collecting else burn_in) - done
            size = min(left, _LARGEST_CHUNK, chunk) if chunk else _next(run, launcher, pace, left)
            began = time.perf_counter()
            run = launcher.advance(run, size, collecting)
            pace.took(size, time.perf_counter() - began)
            done += size
            if done == burn_in:
                run = replace(run, origin=run.step)
            bar(size, run)
            yield run


def _next(run: Run, launcher: Launcher, pace: Pace, left: int) -> int:
    """Steps for the next automatic chunk, from what those before took: at most so many times as many as the last one had.
    For the first, from another run of the same program, if there was one. What would be left over goes with the last one."""
    known = pace.steps()
    wanted = launcher.known_steps(run) or _FIRST_CHUNK if known is None else min(known, _GROWTH * pace.last)
    wanted = max(1, min(wanted, _LARGEST_CHUNK) // run.every) * run.every
    return left if left <= min(wanted + wanted // 4, _LARGEST_CHUNK) else wanted


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
