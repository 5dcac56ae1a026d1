"""SGD on a few examples with every order of the data written out, in NumPy float64: what theory is held against."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsde as js

EPOCHS = ("random_reshuffling", "shuffle_once", "cyclic")


def squared_error(phi, example):
    x, y = example
    return 0.5 * jnp.sum((x @ phi - y) ** 2)


def regression(n, d, outputs=1, seed=0):
    """A problem in float64, its Hessians, its gradients at the minimum, and the minimum: NumPy alone but for the first."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, outputs, d)), rng.normal(size=(n, outputs))
    with jax.enable_x64(True):
        problem = js.finite_sum(squared_error, (x, y), np.zeros(d))
    best = np.linalg.lstsq(x.reshape(-1, d), y.ravel(), rcond=None)[0]
    return problem, np.einsum("nki,nkj->nij", x, x), np.einsum("nki,nk->ni", x, x @ best - y), best


def step_maps(hessians, gradients, eta, batch, mu=0.0, nesterov=False, convention="heavy_ball", decay=0.0, best: Any = 0.0):
    """The step on one batch as a matrix on (Φ − Φ*, trace, 1): NumPy alone. optax keeps the trace t' = μt + ĝ."""
    d = gradients.shape[1]
    h, g = hessians[list(batch)].mean(axis=0) + decay * np.eye(d), gradients[list(batch)].mean(axis=0)
    if decay:
        g = g + decay * best
    eta = eta * (1 - mu) if convention == "average" else eta
    eye, zero = np.eye(d), np.zeros((1, d))
    first = eta * (1 + mu) if nesterov else eta
    second = eta * mu * mu if nesterov else eta * mu
    return np.block([
        [eye - first * h, -second * eye, -first * g[:, None]],
        [h, mu * eye, g[:, None]],
        [zero, zero, np.ones((1, 1))],
    ])  # fmt: skip


def courses(n, b, sampling, step):
    """The products of the first 0, 1, …, M steps along every order ["orders M+1 D D"]."""
    m = n // b if sampling == "random_reshuffling" else n // np.gcd(n, b)
    orders = [tuple(range(n))] if sampling == "cyclic" else itertools.permutations(range(n))
    once, found = functools.cache(step), []
    for order in orders:
        course = [np.eye(len(step([0])))]
        for k in range(m):
            course.append(once(tuple(order[(k * b + q) % n] for q in range(b))) @ course[-1])
        found.append(course)
    return np.array(found)


def enumerated(course, sampling, d):
    """Second moments of (Φ − Φ*, …, 1) at the positions 0, …, M − 1 of the epoch."""
    ends, size = course[:, -1], course.shape[-1]
    if sampling == "random_reshuffling":
        squared = np.einsum("sij,skl->ikjl", ends, ends).reshape(size**2, size**2) / len(ends)
        whole = np.eye(size**2) - squared
        whole[-1] = 0
        whole[-1, -1] = 1  # the corner is 1
        x = np.linalg.solve(whole, np.eye(size**2)[-1]).reshape(size, size)
        return [np.mean(t @ x @ t.swapaxes(1, 2), axis=0) for t in course.swapaxes(0, 1)[:-1]]
    orbit = np.linalg.solve(np.eye(size - 1) - ends[:, :-1, :-1], ends[:, :-1, -1:])[..., 0]
    orbit = np.concatenate([orbit, np.ones((len(orbit), 1))], axis=1)
    seen = np.einsum("skij,sj->ski", course[:, :-1], orbit)
    return list(np.einsum("ski,skj->kij", seen, seen) / len(seen))


def moments(x, d):
    return x[:d, -1], x[:d, :d] - np.outer(x[:d, -1], x[:d, -1])


MOMENTA = [{}, dict(mu=0.6), dict(mu=0.6, nesterov=True), dict(mu=0.5, convention="average"), dict(mu=0.5, nesterov=True, convention="average")]
