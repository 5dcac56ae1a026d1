"""Minibatch SGD on three losses, in every way that people run it: many chains, constant learning rate, with replacement."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import jaxsde as js

from . import yardstick
from .harness import Implementation, Ready, Workload, ahead_of_time, cold_start, ours, simulated


class Descent(NamedTuple):
    """w <- w − η ∇ mean ℓ over B examples. `slope` is that gradient in NumPy: (w ["c d"], x ["c B f"], y ["c B"])."""

    name: str
    loss: Callable[[Any, tuple], Any]
    start: Any
    features: np.ndarray
    target: np.ndarray
    learning_rate: float
    batch_size: int
    slope: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    kernel: str
    given: np.ndarray
    steps: dict[str, int]

    @property
    def flat(self) -> np.ndarray:
        return np.concatenate([np.ravel(a) for a in jax.tree.leaves(self.start)])


def reference(descent: Descent, chains: int, steps: int, seed: int = 99, dtype: Any = np.float64) -> np.ndarray:
    """A Python loop over the steps, all chains at once."""
    rng, w = np.random.default_rng(seed), np.tile(descent.flat, (chains, 1)).astype(dtype)
    x, y, eta = descent.features.astype(dtype), descent.target.astype(dtype), dtype(descent.learning_rate)
    for _ in range(steps):
        at = rng.integers(len(y), size=(chains, descent.batch_size))
        w = w - eta * descent.slope(w, x[at], y[at])
    return w


def numpy(descent: Descent, chains: int, steps: int) -> Ready:
    return Ready(lambda seed: reference(descent, chains, steps, seed, np.float32), executor="numpy")


def jaxsde(descent: Descent, executor: str, chains: int, steps: int) -> Ready:
    """The public face, from the loss of one example."""
    problem = js.finite_sum(descent.loss, (descent.features, descent.target), descent.start)
    chain = js.sgd(problem, learning_rate=descent.learning_rate, batch_size=descent.batch_size)
    ran: list[str] = []

    def run(seed: int) -> np.ndarray:
        done = simulated(executor, chain, descent.start, key=js.key(seed), chains=chains, steps=steps)
        ran[:] = [done.executor]
        return done.positions

    return cold_start(run, lambda: ran[0])


def _batch_gradient(descent: Descent) -> Callable[[Any, Any, tuple], Any]:
    def mean(w: Any, batch: tuple) -> Any:
        return jnp.mean(jax.vmap(descent.loss, (None, 0))(w, batch))

    return lambda w, at, data: jax.grad(mean)(w, jax.tree.map(lambda a: a[at], data))


def _flat(tree: Any, chains: int) -> Any:
    return jnp.concatenate([a.reshape(chains, -1) for a in jax.tree.leaves(tree)], axis=1)


def optax_scan(descent: Descent, chains: int, steps: int) -> Ready:
    """optax.sgd in a scan, vmapped: a key for every chain, from which each step takes its own."""
    optimizer, gradient, n = optax.sgd(descent.learning_rate), _batch_gradient(descent), len(descent.target)

    def one(key: Any, data: tuple) -> Any:
        def step(held: tuple, k: Any) -> tuple[tuple, None]:
            w, state = held
            at = jax.random.randint(k, (descent.batch_size,), 0, n)
            updates, state = optimizer.update(gradient(w, at, data), state, w)
            return (optax.apply_updates(w, updates), state), None

        start = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), descent.start)
        return lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, steps))[0][0]

    def f(key: Any, data: tuple) -> Any:
        return _flat(jax.vmap(one, (0, None))(jax.random.split(key, chains), data), chains)

    return ahead_of_time(f, jax.random.key, lambda seed: _data(descent))


def one_key_per_step(descent: Descent, chains: int, steps: int) -> Ready:
    """A scan over steps of a vmapped gradient, all chains drawn from one key per step."""
    gradient, n = _batch_gradient(descent), len(descent.target)

    def f(key: Any, data: tuple) -> Any:
        def step(w: Any, i: Any) -> tuple[Any, None]:
            at = jax.random.randint(jax.random.fold_in(key, i), (chains, descent.batch_size), 0, n)
            g = jax.vmap(gradient, (0, 0, None))(w, at, data)
            return jax.tree.map(lambda a, b: a - descent.learning_rate * b, w, g), None

        start = jax.tree.map(lambda a: jnp.tile(jnp.asarray(a, jnp.float32), (chains, *[1] * np.ndim(a))), descent.start)
        return _flat(lax.scan(step, start, jnp.arange(steps))[0], chains)

    return ahead_of_time(f, jax.random.key, lambda seed: _data(descent))


def _data(descent: Descent) -> tuple:
    return jnp.asarray(descent.features, jnp.float32), jnp.asarray(descent.target, jnp.float32)


def workload(descent: Descent, chains: int, executors: tuple[str, ...], scale: float = 1.0) -> Workload:
    """Every implementation that can run here. Steps differ, so that slow ones take no longer than fast ones."""
    n = {name: max(16, int(scale * count)) for name, count in descent.steps.items()}
    bound = functools.partial
    ways = ours(bound(jaxsde, descent), executors, n)
    ways += [
        Implementation("optax in a vmapped scan", "peer", n["optax"], bound(optax_scan, descent)),
        Implementation("scan + vmap(grad), a key per step", "peer", n["one key"], bound(one_key_per_step, descent)),
        Implementation("NumPy", "peer", n["numpy"], bound(numpy, descent)),
    ]
    ways += yardstick.implementations(
        descent.kernel, len(descent.flat), descent.given, n["limit"], len(descent.target)
    )
    return Workload(descent.name, chains, functools.partial(reference, descent), ways)


def _rows(features: np.ndarray, target: np.ndarray, *before: Any) -> np.ndarray:
    return np.concatenate([*(np.ravel(b) for b in before), np.column_stack([features, target]).ravel()])


def linear() -> Descent:
    """Linear regression, n = 1000, d = 10, B = 1."""
    rng, eta = np.random.default_rng(1), 0.01
    x = rng.normal(size=(1000, 10))
    y = x @ rng.normal(size=10) + 0.5 * rng.normal(size=1000)

    def loss(w: Any, example: tuple) -> Any:
        return 0.5 * (example[0] @ w - example[1]) ** 2

    def slope(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (np.einsum("cbf,cf->cb", x, w) - y)[:, 0, None] * x[:, 0]

    steps = {"native": 30_000, "vmap": 3_000, "optax": 400, "one key": 800, "numpy": 400, "limit": 60_000}
    return Descent("SGD linear 1000x10, B=1", loss, np.zeros(10), x, y, eta, 1, slope, "linear", _rows(x, y, eta), steps)


def logistic() -> Descent:
    """Logistic regression on the breast cancer data, n = 569, d = 30, B = 8, labels ±1."""
    from sklearn.datasets import load_breast_cancer

    x, benign = load_breast_cancer(return_X_y=True)
    x, y, eta = (x - x.mean(0)) / x.std(0), 2.0 * benign - 1, 0.05

    def loss(w: Any, example: tuple) -> Any:
        return jnp.logaddexp(0.0, -example[1] * (example[0] @ w))

    def slope(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        weight = -y / (1 + np.exp(y * np.einsum("cbf,cf->cb", x, w)))
        return np.einsum("cb,cbf->cf", weight, x) / y.shape[1]

    steps = {"native": 1_500, "vmap": 300, "optax": 60, "one key": 100, "numpy": 30, "limit": 4_000}
    return Descent("SGD logistic 569x30, B=8", loss, np.zeros(30), x, y, eta, 8, slope, "logistic", _rows(x, y, eta), steps)


def network() -> Descent:
    """A network 10-16-1 with tanh on half the squared error, n = 1000, B = 4."""
    rng, eta = np.random.default_rng(2), 0.05
    x = rng.normal(size=(1000, 10))
    y = np.sin(x @ rng.normal(size=10))
    start = {"W1": 0.3 * rng.normal(size=(10, 16)), "b1": np.zeros(16), "b2": np.zeros(()), "w2": 0.25 * rng.normal(size=16)}

    def loss(p: Any, example: tuple) -> Any:
        return 0.5 * (jnp.tanh(example[0] @ p["W1"] + p["b1"]) @ p["w2"] + p["b2"] - example[1]) ** 2

    def slope(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        first, b1, b2, w2 = w[:, :160].reshape(-1, 10, 16), w[:, 160:176], w[:, 176], w[:, 177:]
        h = np.tanh(x @ first + b1[:, None])
        e = (np.einsum("cbh,ch->cb", h, w2) + b2[:, None] - y) / y.shape[1]
        delta = e[..., None] * w2[:, None] * (1 - h**2)
        grad = np.einsum("cbf,cbh->cfh", x, delta).reshape(len(w), -1)
        return np.concatenate([grad, delta.sum(1), e.sum(1)[:, None], np.einsum("cb,cbh->ch", e, h)], axis=1)

    given = _rows(x, y, eta, start["W1"], start["b1"], start["w2"], start["b2"])
    steps = {"native": 700, "vmap": 80, "optax": 16, "one key": 32, "numpy": 16, "limit": 1_500}
    return Descent("SGD network 10-16-1, B=4", loss, start, x, y, eta, 4, slope, "network", given, steps)
