"""Factorisations as scalars: as near to float64 as XLA's own are, exchanges of rows the same, NaN where XLA has it."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_default import some
from jax import lax
from worked_out import worked_out

import jaxsde as js
from jaxsde.engine.executors.scalar import Graph, evaluate
from jaxsde.engine.executors.scalar.graph import CHAIN

SIZE, MANY = 4, 200
RNG = np.random.default_rng(2)
GENERAL = RNG.normal(size=(MANY, SIZE, SIZE)).astype(np.float32)
DEFINITE = (GENERAL @ GENERAL.transpose(0, 2, 1) + np.eye(SIZE)).astype(np.float32)
VECTORS = RNG.normal(size=(MANY, SIZE)).astype(np.float32)


def evidence(a, b):
    root = jnp.linalg.cholesky(a)
    x = jax.scipy.linalg.solve_triangular(root, b, lower=True)
    return x @ x / 2 + jnp.sum(jnp.log(jnp.diag(root)))


def triangular(left, **given):
    right = lambda b: jnp.outer(b, b[:2]) if left else jnp.outer(b[:2], b)
    return lambda a, b: lax.linalg.triangular_solve(a, right(b), left_side=left, **given)


FUNCTIONS = {
    "cholesky": (lambda a, b: jnp.tril(jnp.linalg.cholesky(a)), DEFINITE),
    "evidence": (jax.grad(evidence), DEFINITE),
    "solve": (jnp.linalg.solve, GENERAL),
    "slope of a solution": (jax.grad(lambda a, b: jnp.linalg.solve(a, b) @ b), GENERAL),
    "logarithm of a determinant": (lambda a, b: jnp.stack(jnp.linalg.slogdet(a)), GENERAL),
    "slope of it": (jax.grad(lambda a, b: jnp.linalg.slogdet(a)[1]), GENERAL),
    "inverse": (lambda a, b: jnp.linalg.inv(a), GENERAL),
    "determinant": (lambda a, b: jnp.linalg.det(a)[None], GENERAL),
    "exchanges": (lambda a, b: jnp.concatenate(lax.linalg.lu(a)[1:]), GENERAL),
} | {
    f"triangular {left, lower, turned, unit}": (triangular(left, lower=lower, transpose_a=turned, unit_diagonal=unit), DEFINITE)
    for left, lower, turned, unit in itertools.product((True, False), repeat=4)
}  # fmt: skip


SOME = [name for name in FUNCTIONS if not name.startswith("triangular") or name.count("True") in (1, 4)]


@pytest.mark.parametrize("name", some(FUNCTIONS, SOME))
def test_factorisations(name):
    function, a = FUNCTIONS[name]
    if name == "cholesky":  # some of them are not positive definite
        a = a - np.where(np.arange(MANY)[:, None, None] < 20, 3 * np.eye(SIZE, dtype=np.float32), 0)
    g = Graph()
    matrix = np.array([g.input("a", np.float32, CHAIN, j) for j in range(SIZE**2)], object).reshape(SIZE, SIZE)
    vector = np.array([g.input("b", np.float32, CHAIN, j) for j in range(SIZE)], object)
    out = evaluate(g, jax.make_jaxpr(function)(a[0], VECTORS[0]), matrix, vector)[0]
    known = {node.number: a.reshape(MANY, -1)[:, j] for j, node in enumerate(matrix.ravel())}
    known |= {node.number: VECTORS[:, j] for j, node in enumerate(vector)}
    got = np.stack([np.broadcast_to(worked_out(node, known), MANY) for node in out.ravel()], axis=1)
    theirs = np.asarray(jax.vmap(function)(a, VECTORS)).reshape(MANY, -1)
    with jax.enable_x64(True):
        truth = np.asarray(jax.vmap(function)(a.astype(np.float64), VECTORS.astype(np.float64))).reshape(MANY, -1)
    unknown = np.isnan(theirs).any(axis=1)
    np.testing.assert_array_equal(np.isnan(got).any(axis=1), unknown)
    assert unknown.any() == (name == "cholesky")
    size = np.abs(truth[~unknown]).max(axis=1, keepdims=True)
    ours, xlas = (np.abs(x[~unknown] - truth[~unknown]) / size for x in (got, theirs))
    if name == "exchanges":
        assert not ours.any()
    assert ours.max() <= 8 * xlas.max() + 4 * np.finfo(np.float32).eps


@pytest.mark.parametrize("loss", [
    lambda p: evidence(jnp.exp(p[0]) * jnp.exp(-((jnp.arange(5.0)[:, None] - jnp.arange(5.0)) ** 2) * jnp.exp(p[1])) + jnp.eye(5), jnp.sin(jnp.arange(5.0))) + p @ p,
    lambda p: p @ jnp.linalg.solve(2 * jnp.eye(3) + jnp.outer(p, p) + jnp.tri(3), p) + p @ p,
    lambda p: p @ p - jnp.linalg.slogdet(jnp.eye(3) + jnp.outer(p, p))[1],
], ids=["evidence", "solution", "determinant"])  # fmt: skip
def test_losses(loss):
    chain = js.integrate(js.langevin(js.potential(loss, np.full(3, 0.4)), temperature=0.3), dt=0.02)
    runs = [js.simulate(chain, np.full(3, 0.4), key=js.key(1), chains=40, steps=20, executor=e) for e in ("vmap", "native")]
    assert runs[1].executor == "native" and np.ptp(runs[0].positions, axis=0).min() > 0.1
    np.testing.assert_allclose(runs[1].positions, runs[0].positions, atol=3e-5)
