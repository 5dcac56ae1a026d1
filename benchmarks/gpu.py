"""`python -m benchmarks.gpu --json FILE`: chain-steps per second on a GPU, by number of chains, for each executor.

Beside them the plain JAX program, one bulk draw a step, and for geometric Brownian motion the published time of DiffEqGPU.jl:
three states, 256 steps of Euler–Maruyama, the final value (github.com/utkarsh530/GPUODEBenchmarks, commit f58c512,
paper_artifacts/data/Julia/SDE, on the GPU of its authors).
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxsde as js
from jaxsde.engine.executors import EXECUTORS

from .harness import Implementation, Ready, Workload, ahead_of_time, cold_start, device, measure, simulated, versions
from .throughput import table

JULIA_MS = {8192: 2.416906, 32768: 4.512974, 131072: 14.118681, 524288: 48.056674, 2097152: 181.737472, 8388608: 715.859498}
GBM_STEPS = 256


class Case(NamedTuple):
    """A chain, and one step of it twice more: in NumPy float64 `(rng, x["c d"]) -> x`, and in JAX `(key, x["c d"]) -> x`."""

    chain: Callable[[], Any]
    start: np.ndarray
    in_numpy: Callable[[Any, np.ndarray], np.ndarray]
    in_jax: Callable[[Any, Any], Any]


def ornstein_uhlenbeck() -> Case:
    """Four independent components, dX = −X dt + √2 dW, dt = .01."""
    dt, size = 0.01, np.sqrt(0.02)

    def chain() -> Any:
        return js.integrate(js.langevin(js.potential(lambda x: x @ x / 2, jnp.zeros(4)), temperature=1.0), dt=dt)

    return Case(
        chain,
        np.zeros(4),
        lambda rng, x: (1 - dt) * x + size * rng.standard_normal(x.shape),
        lambda key, x: (1 - dt) * x + size * jax.random.normal(key, x.shape),
    )


def gradient() -> Case:
    """Three coupled double wells through `jax.grad` of their potential, temperature .2, dt = .02."""
    dt, temperature = 0.02, 0.2
    size = np.sqrt(2 * temperature * dt)

    def loss(x: Any) -> Any:
        return jnp.sum((x**2 - 1) ** 2) / 4 + 0.2 * (x[0] * x[1] + x[1] * x[2])

    def slope(x: np.ndarray) -> np.ndarray:
        return x**3 - x + 0.2 * np.stack([x[:, 1], x[:, 0] + x[:, 2], x[:, 1]], 1)

    def chain() -> Any:
        return js.integrate(js.langevin(js.potential(loss, jnp.ones(3)), temperature=temperature), dt=dt)

    return Case(
        chain,
        np.full(3, 0.5),
        lambda rng, x: x - dt * slope(x) + size * rng.standard_normal(x.shape),
        lambda key, x: x - dt * jax.vmap(jax.grad(loss))(x) + size * jax.random.normal(key, x.shape),
    )


def descent() -> Case:
    """SGD on linear regression, n = 1000, d = 4, B = 4, η = .05."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(1000, 4))
    b = a @ np.array([1.0, -1.0, 0.5, 0.0]) + rng.normal(size=1000)
    held = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)

    def chain() -> Any:
        problem = js.finite_sum(lambda w, e: (e[0] @ w - e[1]) ** 2 / 2, (a, b), np.zeros(4))
        return js.sgd(problem, learning_rate=0.05, batch_size=4)

    def in_numpy(rng: Any, x: np.ndarray) -> np.ndarray:
        i = rng.integers(1000, size=(len(x), 4))
        residual = np.einsum("cbd,cd->cb", a[i], x) - b[i]
        return x - 0.05 * np.einsum("cbd,cb->cd", a[i], residual) / 4

    def in_jax(key: Any, x: Any) -> Any:
        i = jax.random.randint(key, (x.shape[0], 4), 0, 1000)
        residual = jnp.einsum("cbd,cd->cb", held[0][i], x) - held[1][i]
        return x - 0.05 * jnp.einsum("cbd,cb->cd", held[0][i], residual) / 4

    return Case(chain, np.zeros(4), in_numpy, in_jax)


def geometric_brownian() -> Case:
    """dX = 1.5 X dt + .01 X dW in three components from .1, dt = 1/256: the SDE row of GPUODEBenchmarks."""
    dt, r, v = 1 / GBM_STEPS, 1.5, 0.01

    def chain() -> Any:
        return js.integrate(js.sde(lambda t, x: r * x, lambda x: v * x, dim=3), js.EulerMaruyama(), dt=dt)

    size = v * np.sqrt(dt)
    return Case(
        chain,
        np.full(3, 0.1),
        lambda rng, x: x * (1 + r * dt + size * rng.standard_normal(x.shape)),
        lambda key, x: x * (1 + r * dt + size * jax.random.normal(key, x.shape)),
    )


CASES = {
    "OU 4-d": (ornstein_uhlenbeck, 4096),
    "gradient 3-d": (gradient, 2048),
    "SGD 4-d, B=4": (descent, 1024),
    "geometric Brownian 3-d": (geometric_brownian, GBM_STEPS),
}


def workload(name: str, chains: int, executors: tuple[str, ...], scale: float = 1.0) -> Workload:
    """One case with so many chains. The steps are those of CASES at 2^20 chains, more for fewer chains."""
    make, steps = CASES[name]
    case = make()
    if make is not geometric_brownian:
        steps = max(16, int(scale * steps * min(8.0, max(1 / 8, (1 << 20) / chains))))

    def reference(count: int, steps: int) -> np.ndarray:
        rng, x = np.random.default_rng(99), np.tile(case.start, (count, 1))
        for _ in range(steps):
            x = case.in_numpy(rng, x)
        return x

    ways = [Implementation(f"jaxsde, {e}", "jaxsde", steps, functools.partial(_ours, case, e)) for e in executors]
    ways.append(Implementation("scan + bulk draws, a key per step", "peer", max(16, steps // 16), functools.partial(_plain, case)))
    return Workload(name, chains, reference, ways)


def _ours(case: Case, executor: str, chains: int, steps: int) -> Ready:
    chain, ran = case.chain(), []

    def run(seed: int) -> np.ndarray:
        done = simulated(executor, chain, case.start, key=js.key(seed), chains=chains, steps=steps, chunk=steps)
        ran[:] = [done.executor]
        return done.positions

    return cold_start(run, lambda: ran[0])


def _plain(case: Case, chains: int, steps: int) -> Ready:
    def run(key: Any) -> Any:
        x = jnp.tile(jnp.asarray(case.start, jnp.float32), (chains, 1))
        return lax.scan(lambda x, k: (case.in_jax(k, x), None), x, jax.random.split(key, steps))[0]

    return ahead_of_time(run, jax.random.key)


def published(chains: int) -> list[dict[str, Any]]:
    """The row of DiffEqGPU.jl, where there is one for so many chains."""
    if chains not in JULIA_MS:
        return []
    rate = chains * GBM_STEPS / (JULIA_MS[chains] * 1e-3)
    row = {"workload": "geometric Brownian 3-d", "implementation": "DiffEqGPU.jl GPUEM, as published", "executor": "julia",
           "chains": chains, "steps": GBM_STEPS, "chain_steps_per_second": rate, "per_cpu_second": None, "of_best_peer": None,
           "of_yardstick": None, "trace_s": None, "compile_s": None, "device": "the authors' GPU", "versions": {}}  # fmt: skip
    return [row]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--chains", type=int, nargs="+", default=[1 << k for k in (13, 15, 17, 19, 20, 21, 23)])
    parser.add_argument("--only", choices=list(CASES), help="one workload")
    parser.add_argument("--executors", nargs="+", default=["pallas", "lanes", "vmap"], choices=["auto", *EXECUTORS])
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the steps that are timed")
    given = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for name in CASES if given.only is None else [given.only]:
        for chains in given.chains:
            work = workload(name, chains, tuple(given.executors), given.scale)
            new = measure(work, given.rounds, lambda line: print(line, file=sys.stderr))
            shown = new + (published(chains) if name == "geometric Brownian 3-d" else [])
            print(f"\n{name}, {chains} chains, {device()}, jax {versions()['jax']}\n{table(shown)}", flush=True)
            rows += shown
            if given.json:  # after each, so that what was measured is kept
                given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
