"""The first row: dX = -X dt + √2 dW by Euler-Maruyama at dt = 0.05, in every way that people simulate it.

After n steps from 0 the law is exactly N(0, s²(1 - a^2n)/(1 - a²)) with a = 1 - dt and s² = 2 dt. Each peer gets its fastest
honest configuration: float32, everything under one jit, a scan or loop of its own, no output but the final positions.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxsde as js

from . import yardstick
from .harness import Implementation, Ready, Workload, ahead_of_time, cold_start, gaussian_answer

DT = 0.05
DECAY, SIZE = 1 - DT, math.sqrt(2 * DT)


def check(chains: int, x: np.ndarray, steps: int) -> str | None:
    return gaussian_answer(x, chains, SIZE**2 * (1 - DECAY ** (2 * steps)) / (1 - DECAY**2))


def jaxsde(chains: int, steps: int) -> Ready:
    """The public face, from a loss."""
    problem = js.potential(lambda x: 0.5 * jnp.sum(x**2), jnp.zeros(1))
    chain = js.integrate(js.langevin(problem, temperature=1.0), js.EulerMaruyama(), dt=DT)
    ran: list[str] = []

    def run(seed: int) -> np.ndarray:
        done = js.simulate(chain, jnp.zeros(1), key=js.key(seed), chains=chains, steps=steps)
        ran[:] = [done.executor]
        return np.asarray(done.positions)[:, 0]

    ready = cold_start(run, "")
    return ready._replace(executor=ran[0])


def naive(chains: int, steps: int) -> Ready:
    """`vmap` of `lax.scan` of `jax.random.normal`, a key split per chain and step: the program most people write."""

    def one(key: Any) -> Any:
        def step(x: Any, k: Any) -> tuple[Any, None]:
            return DECAY * x + SIZE * jax.random.normal(k), None

        return lax.scan(step, jnp.float32(0), jax.random.split(key, steps))[0]

    return ahead_of_time(lambda key: jax.vmap(one)(jax.random.split(key, chains)), jax.random.key)


def one_key_per_step(chains: int, steps: int) -> Ready:
    """The naive program with all chains drawn from one key per step."""

    def f(key: Any) -> Any:
        def step(x: Any, i: Any) -> tuple[Any, None]:
            return DECAY * x + SIZE * jax.random.normal(jax.random.fold_in(key, i), (chains,)), None

        return lax.scan(step, jnp.zeros(chains), jnp.arange(steps))[0]

    return ahead_of_time(f, jax.random.key)


def diffrax(chains: int, steps: int) -> Ready:
    """Euler with UnsafeBrownianPath and DirectAdjoint: no tree of Brownian increments, no checkpoints."""
    import diffrax as dfx

    def one(key: Any) -> Any:
        path = dfx.UnsafeBrownianPath((), key)
        drift = dfx.ODETerm(lambda t, x, args: -x)
        noise = dfx.ControlTerm(lambda t, x, args: jnp.float32(math.sqrt(2)), path)
        solution = dfx.diffeqsolve(
            dfx.MultiTerm(drift, noise), dfx.Euler(), 0.0, steps * DT, DT, jnp.float32(0),
            adjoint=dfx.DirectAdjoint(), max_steps=None,
        )  # fmt: skip
        assert solution.ys is not None
        return solution.ys[0]

    return ahead_of_time(lambda key: jax.vmap(one)(jax.random.split(key, chains)), jax.random.key)


def blackjax(chains: int, steps: int) -> Ready:
    """vmapped SGLD with a full gradient: the same chain, as its step is x + dt g + √(2 dt) z."""
    import blackjax as bjx

    sgld: Any = bjx.sgld(lambda x, minibatch: -x)

    def one(key: Any) -> Any:
        def step(x: Any, k: Any) -> tuple[Any, None]:
            return sgld.step(k, x, jnp.float32(0), DT), None

        return lax.scan(step, sgld.init(jnp.float32(0)), jax.random.split(key, steps))[0]

    return ahead_of_time(lambda key: jax.vmap(one)(jax.random.split(key, chains)), jax.random.key)


def numpy(chains: int, steps: int) -> Ready:
    """A Python loop over the steps, all chains at once, in place."""

    def run(seed: int) -> np.ndarray:
        rng, x, z = np.random.default_rng(seed), np.zeros(chains, np.float32), np.empty(chains, np.float32)
        for _ in range(steps):
            rng.standard_normal(out=z, dtype=np.float32)
            z *= np.float32(SIZE)
            x *= np.float32(DECAY)
            x += z
        return x

    return Ready(run, executor="numpy")


def limit(chains: int, steps: int) -> Ready:
    """The kernel written by hand."""
    return yardstick.prepare(chains, steps, DECAY, SIZE)


def workload(chains: int = 8192, scale: float = 1.0) -> Workload:
    """Every implementation that can run here. Steps differ, so that slow ones take no longer than fast ones."""
    ways = [
        Implementation("jaxsde", "jaxsde", int(20_000 * scale), jaxsde),
        Implementation("diffrax Euler, UnsafeBrownianPath", "peer", int(400 * scale), diffrax),
        Implementation("BlackJAX SGLD", "peer", int(1_000 * scale), blackjax),
        Implementation("NumPy", "peer", int(4_000 * scale), numpy),
        Implementation("vmap + scan + normal, a key per chain", "peer", int(1_000 * scale), naive),
        Implementation("scan + normal, a key per step", "peer", int(4_000 * scale), one_key_per_step),
    ]
    if not yardstick.missing():
        ways.append(Implementation("C++ AVX2 by hand", "yardstick", int(100_000 * scale), limit))
    return Workload("OU 1-d", chains, functools.partial(check, chains), ways)
