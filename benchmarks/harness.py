"""Measuring chain-steps per second honestly.

Tracing, compiling and running are timed apart. An implementation's answer is checked against a plain loop in float64 before
any of its runs is timed. Rounds go over all implementations in turn, forwards and backwards, and medians are taken, so that a slow
spell of the machine falls on all of them alike.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import jaxsde as js

Kind = Literal["jaxsde", "peer", "yardstick"]
Run = Callable[[int], np.ndarray]  # from a seed to the final positions, on the host


class Ready(NamedTuple):
    """A program ready to run. What took place before: seconds of tracing (lowering included) and of compiling."""

    run: Run
    trace_s: float | None = None
    compile_s: float | None = None
    executor: str = ""


class Implementation(NamedTuple):
    """One way to simulate a workload. `prepare(chains, steps)` gives what is then timed."""

    name: str
    kind: Kind
    steps: int
    prepare: Callable[[int, int], Ready]


class Workload(NamedTuple):
    """A named simulation. `reference(chains, steps)` gives positions ["chains d"] of the same law, in float64."""

    name: str
    chains: int
    reference: Callable[[int, int], np.ndarray]
    implementations: Sequence[Implementation]


class WrongAnswer(Exception):
    """An implementation whose answer disagrees with the reference: its speed means nothing."""


class Elsewhere(Exception):
    """An executor that does not run this chain."""


CHECKED_CHAINS, CHECKED_STEPS = 32_768, 24

ROW = (
    "workload", "implementation", "executor", "chains", "steps", "chain_steps_per_second", "per_cpu_second", "of_best_peer",
    "of_yardstick", "trace_s", "compile_s", "device", "versions",
)  # fmt: skip


def ours(prepare: Callable[..., Ready], executors: Sequence[str], steps: dict[str, int]) -> list[Implementation]:
    """jaxsde by each executor; `prepare(executor, chains, steps)`."""
    return [
        Implementation(f"jaxsde, {e}", "jaxsde", steps["vmap" if e in ("lanes", "pallas") else e.replace("auto", "native")],
                       functools.partial(prepare, e))
        for e in executors
    ]


def simulated(executor: str, *given: Any, **more: Any) -> Any:
    """`simulate` by this executor and no other: Elsewhere, with the reason, where it would go on with another."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "executor .* cannot run this chain", UserWarning)
        try:
            return js.simulate(*given, executor=executor, **more)
        except UserWarning as reason:
            raise Elsewhere(str(reason)) from None


def ahead_of_time(f: Callable[..., Any], *arguments: Callable[[int], Any]) -> Ready:
    """Traces, lowers and compiles `f`; each of its arguments is made from the seed by one of `arguments`."""
    example = [make(0) for make in arguments]
    start = time.perf_counter()
    lowered = jax.jit(f).trace(*example).lower()
    traced = time.perf_counter()
    program = lowered.compile()
    compiled = time.perf_counter()
    return Ready(
        lambda seed: np.asarray(program(*(make(seed) for make in arguments))), traced - start, compiled - traced, "xla"
    )


def cold_start(run: Run, executor: Callable[[], str]) -> Ready:
    """For what compiles by itself at its first call: JAX's own account of the seconds it spent there."""
    spent = {"trace": 0.0, "compile": 0.0}
    watching = [True]

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if watching[0] and event.startswith("/jax/core/compile/"):
            spent["compile" if "backend_compile" in event else "trace"] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.perf_counter()
    run(0)
    first = time.perf_counter() - start
    watching[0] = False  # JAX has no public way to take a listener out again
    start = time.perf_counter()
    run(0)
    other = max(0.0, first - (time.perf_counter() - start) - spent["trace"])
    return Ready(run, spent["trace"], other, executor())


def measure(
    workload: Workload, rounds: int = 5, tell: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """The rows of one workload (keys `ROW`), best first. WrongAnswer before anything of it is timed."""
    ready: dict[str, Ready] = {}
    first: dict[str, Ready] = {}  # who compiles once for any number of chains compiles here
    truth = workload.reference(CHECKED_CHAINS, CHECKED_STEPS)
    ways = []
    for way in workload.implementations:
        tell(f"{workload.name}: {way.name}: compiling and checking the answer")
        try:
            first[way.name] = way.prepare(CHECKED_CHAINS, CHECKED_STEPS)
        except Elsewhere as reason:
            tell(f"{workload.name}: {way.name}: {reason}")
            continue
        ways.append(way)
        answer = first[way.name].run(1)
        if wrong := disagreement(np.asarray(answer), truth):
            raise WrongAnswer(f"{workload.name}: {way.name}: {wrong}")
        ready[way.name] = way.prepare(workload.chains, way.steps)
    wall: dict[str, list[float]] = {name: [] for name in ready}
    cpu: dict[str, list[float]] = {name: [] for name in ready}
    for r in range(rounds):
        tell(f"{workload.name}: round {r + 1} of {rounds}")
        for name in list(ready)[:: 1 if r % 2 == 0 else -1]:
            busy, start = time.process_time(), time.perf_counter()
            ready[name].run(2 + r)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - busy)
    work = {way.name: workload.chains * way.steps for way in ways}
    rate = {name: work[name] / statistics.median(wall[name]) for name in ready}
    per_cpu = {name: work[name] / max(statistics.median(cpu[name]), 1e-9) for name in ready}
    peer = max((rate[w.name] for w in ways if w.kind == "peer"), default=None)
    limit = max((per_cpu[w.name] for w in ways if w.kind == "yardstick"), default=None)
    about = {"device": device(), "versions": versions()}
    rows = [
        {
            "workload": workload.name,
            "implementation": way.name,
            "executor": ready[way.name].executor,
            "chains": workload.chains,
            "steps": way.steps,
            "chain_steps_per_second": rate[way.name],
            "per_cpu_second": per_cpu[way.name],
            "of_best_peer": rate[way.name] / peer if peer else None,
            "of_yardstick": per_cpu[way.name] / limit if limit else None,
            "trace_s": first[way.name].trace_s,
            "compile_s": first[way.name].compile_s,
            **about,
        }
        for way in ways
    ]
    return sorted(rows, key=lambda row: -row["chain_steps_per_second"])


def disagreement(x: np.ndarray, truth: np.ndarray) -> str | None:
    """What tells two samples ["chains d"] apart, at 5.5 standard errors: the mean or the spread of a component, or the
    covariance of two that stand side by side. None if nothing does (a false alarm in 10^7 for each of them)."""
    if x.shape != truth.shape:
        return f"positions of shape {x.shape}, not {truth.shape}"
    if not np.isfinite(x).all():
        return f"{np.count_nonzero(~np.isfinite(x))} positions are not finite"
    x, truth = x.astype(np.float64), truth.astype(np.float64)
    center = truth.mean(0)
    views = {"mean": lambda a: a, "spread": lambda a: (a - center) ** 2}
    if x.shape[1] > 1:
        views["covariance"] = lambda a: (a[:, 1:] - center[1:]) * (a[:, :-1] - center[:-1])
    for name, view in views.items():
        a, b = view(x), view(truth)
        error = np.sqrt((a.var(0) + b.var(0)) / len(a)) + 1e-6 * (1e-30 + np.abs(b).max(0))
        z = (a.mean(0) - b.mean(0)) / error
        worst = int(np.argmax(np.abs(z)))
        if not abs(z[worst]) < 5.5:
            return f"the {name} of component {worst} is {z[worst]:+.1f} standard errors off"
    return None


def device() -> str:
    kind = jax.devices()[0].device_kind
    return f"{kind}: {processor()}, {len(os.sched_getaffinity(0))} cores" if kind == "cpu" else kind


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python, the packages that matter, and the commit of this checkout (with + where it was changed since)."""
    found = {"python": platform.python_version()}
    for name in ("jaxsde", "jax", "jaxlib", "numpy", "diffrax", "blackjax", "torchsde"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    root = Path(__file__).parent.parent
    commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    if commit.returncode == 0:
        changed = subprocess.run(["git", "-C", root, "diff", "--quiet", "HEAD", "--", "jaxsde", "benchmarks"])
        found["commit"] = commit.stdout.strip() + ("+" if changed.returncode else "")
    return found
