"""`python -m benchmarks.scaling --json FILE`: how the speed changes with chains, dimension and steps, and what statistics cost.

Each series is a few points that differ in one thing. Its points take turns in every round, medians are taken, and a point's
answer is checked against its closed form first: the stationary variance of Euler–Maruyama on dX = −X dt + √2 dW is
1 / (1 − dt/2).
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics as medians
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxsde as js

from .harness import WrongAnswer, device, versions

DT = 0.05


class Point(NamedTuple):
    """One simulation of a series, at `x` on its axis; `check(run)` says what is wrong with its answer, or nothing."""

    series: str
    x: float
    label: str
    run: Callable[[int], Any]
    chains: int
    steps: int
    check: Callable[[Any], str | None]


@functools.cache
def bowl(d: int) -> Any:
    return js.integrate(js.langevin(js.potential(lambda x: x @ x / 2, jnp.zeros(d)), temperature=1.0), dt=DT)


@functools.cache
def regression() -> Any:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 10))
    y = x @ np.ones(10) + rng.normal(size=1000)
    return js.sgd(js.finite_sum(lambda w, e: (e[0] @ w - e[1]) ** 2 / 2, (x, y), np.zeros(10)), learning_rate=0.01)


def stationary(run: Any) -> str | None:
    """The variance of all components against the closed form, at 6 standard errors (a false alarm in 10^8)."""
    x = run.positions.astype(np.float64).ravel()
    # by now the start at 0 is forgotten: (1 − dt)^(2 · steps) of the variance is missing
    missing = (1 - DT) ** (2 * run.step)
    expected = (1 - missing) / (1 - DT / 2)
    z = (np.mean(x**2) - expected) / (expected * np.sqrt(2 / len(x)))
    return None if abs(z) < 6 else f"the variance is {z:+.1f} standard errors off"


def settled(run: Any) -> str | None:
    """SGD's chains gather around the minimum (1, …, 1) up to the noise of the labels."""
    distance = np.abs(run.positions.mean(0) - 1).max()
    return None if distance < 0.15 else f"the mean is {distance:.2g} from the minimum"


def point(series: str, x: float, label: str, chain: Any, chains: int, steps: int, check: Any, executor: str, **more: Any) -> Point:
    def run(seed: int) -> Any:
        start = np.zeros(chain.dim)
        return js.simulate(chain, start, key=js.key(seed), chains=chains, steps=steps, executor=executor, **more)

    return Point(series, x, label, run, chains, steps, check)


def series(executor: str, largest: int, scale: float) -> dict[str, list[Point]]:
    """All points, by series. `scale` multiplies the work of each."""
    work = int(scale * 3e8)
    every = {"every": 16}
    some = {
        "none": None,
        "moments": {"moments": js.Moments()},
        "covariance": {"covariance": js.Covariance()},
        "histogram": {"histogram": js.Histogram(np.linspace(-4, 4, 65), components=0)},
    }
    some["all three"] = {name: s for group in some.values() for name, s in (group or {}).items()}
    powers = [10**k for k in range(2, 8) if 10**k <= largest]
    steps = [int(scale * n) // 16 * 16 for n in (3_200, 32_000, 320_000)]

    def costs(title: str, chain: Any, chains: int, count: int, check: Any) -> list[Point]:
        return [point(title, i, name, chain, chains, count // 16 * 16, check, executor, statistics=s, **every)
                for i, (name, s) in enumerate(some.items())]  # fmt: skip

    return {
        "chains": [point("chains", n, f"{n}", bowl(1), n, max(64, work // n), stationary, executor) for n in powers],
        "dimension": [point("dimension", d, f"{d}", bowl(d), max(64, 8192 // d), max(64, work // (8192 * 4)), stationary, executor)
                      for d in (1, 2, 3, 5, 10, 30, 100, 300, 1000)],
        "steps": [point("steps", n, f"{n}", bowl(1), 8192, max(160, n), stationary, executor, statistics=some["all three"], **every)
                  for n in steps],
        "statistics, OU": costs("statistics, OU", bowl(1), 65536, max(320, work // 30_000), stationary),
        "statistics, SGD 10-d": costs("statistics, SGD 10-d", regression(), 8192, max(3_200, work // 10_000), settled),
    }  # fmt: skip


def peak_megabytes() -> float | None:
    """The most memory that this process held since the last `forget_peak`, where the system tells it."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return None


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then the peak is that of all points so far


def measure(points: list[Point], rounds: int) -> list[dict[str, Any]]:
    """The rows of one series. WrongAnswer before anything of it is timed."""
    first: list[tuple[float, str]] = []
    for p in points:
        began = time.perf_counter()
        run = p.run(1)
        first.append((time.perf_counter() - began, run.executor))
        if wrong := p.check(run):
            raise WrongAnswer(f"{p.series}, {p.label}: {wrong}")
    wall: list[list[float]] = [[] for _ in points]
    cpu: list[list[float]] = [[] for _ in points]
    peak: list[float | None] = [None for _ in points]
    for r in range(rounds):
        for i in range(len(points))[:: 1 if r % 2 == 0 else -1]:
            forget_peak()
            busy, began = time.process_time(), time.perf_counter()
            points[i].run(2 + r)
            wall[i].append(time.perf_counter() - began)
            cpu[i].append(time.process_time() - busy)
            peak[i] = peak_megabytes()
    return [
        {
            "series": p.series, "x": p.x, "label": p.label, "executor": executor, "chains": p.chains, "steps": p.steps,
            "chain_steps_per_second": p.chains * p.steps / medians.median(w),
            "per_cpu_second": p.chains * p.steps / max(medians.median(c), 1e-9),
            "first_s": seconds, "peak_mb": held, "device": device(), "versions": versions(),
        }
        for p, (seconds, executor), w, c, held in zip(points, first, wall, cpu, peak, strict=True)
    ]  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """A few columns for people."""
    lines = [
        f"{rows[0]['series']:22}{'executor':>9}{'chains':>10}{'steps':>9}{'chain-steps/s':>15}{'time':>10}{'first':>9}{'peak':>10}"
    ]
    for row in rows:
        relative = rows[0]["chain_steps_per_second"] / row["chain_steps_per_second"]
        peak = "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f} MB"
        lines.append(
            f"{row['label']:22}{row['executor']:>9}{row['chains']:>10}{row['steps']:>9}{row['chain_steps_per_second']:15.3g}"
            f"{relative:10.2f}{row['first_s']:7.2f} s{peak:>10}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--largest", type=int, default=10**7, help="the most chains")
    parser.add_argument("--executor", default="auto")
    parser.add_argument("--only", help="one series")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the steps that are timed")
    given = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for name, points in series(given.executor, given.largest, given.scale).items():
        if given.only in (None, name):
            print(f"{name} …", file=sys.stderr)
            new = measure(points, given.rounds)
            print(f"\n{table(new)}", flush=True)
            rows += new
    print(f"\n{device()}; time: per chain-step, relative to the first row; first: seconds to the first result")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
