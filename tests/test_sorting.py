"""Sorting by a network: the order that XLA gives, ties, NaN, zeros of both signs and what goes along included."""

from __future__ import annotations

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

SORTS = {
    "sort": jnp.sort,
    "argsort": jnp.argsort,
    "descending": lambda v: jnp.argsort(v, descending=True),
    "two keys": lambda v: lax.sort((v, np.arange(len(v)) * 7 % 5, jnp.arange(len(v))), num_keys=2)[2],
    "top_k": lambda v: lax.top_k(jnp.where(jnp.isnan(v), 1.0, v + 0.0), (len(v) + 1) // 2)[1],  # of it, XLA puts 0 before -0
    "integers": lambda v: jnp.sort(jnp.where(jnp.isnan(v), 9, jnp.clip(v, -5, 5)).astype(jnp.int32)),
}


@pytest.mark.parametrize("size", some([1, 2, 3, 5, 8, 13, 16, 23], [1, 3, 8, 13]))
@pytest.mark.parametrize("name", SORTS)
def test_sorts(name, size):
    rng = np.random.default_rng(size)
    x = rng.integers(-3, 4, size=(400, size)).astype(np.float32)
    for special, share in ((np.nan, 0.05), (-0.0, 0.05), (np.inf, 0.03), (-np.inf, 0.03)):
        x[rng.random(x.shape) < share] = special
    g = Graph()
    given = np.array([g.input("x", np.float32, CHAIN, j) for j in range(size)], object)
    out = evaluate(g, jax.make_jaxpr(SORTS[name])(x[0]), given)[0]
    known = {node.number: x[:, j] for j, node in enumerate(given)}
    got = np.stack([np.broadcast_to(worked_out(node, known), len(x)) for node in out.ravel()], axis=1)
    np.testing.assert_array_equal(got, np.asarray(jax.vmap(SORTS[name])(x)))


@pytest.mark.parametrize("loss", [lambda w, e: jnp.sum(jnp.sort(jnp.abs(e[0] * w - e[1]))[:3]), lambda w, e: jnp.abs(jnp.median(e[0] * w - e[1])),
                                  lambda w, e: jnp.sum(lax.top_k((e[0] * w) ** 2, 2)[0])], ids=["trimmed", "median", "top_k"])  # fmt: skip
def test_losses(loss):
    rng = np.random.default_rng(0)
    problem = js.finite_sum(lambda w, e: loss(w, e) + w @ w / 9, (rng.normal(size=(20, 5)), rng.normal(size=20)), np.ones(5))
    chain = js.sgd(problem, learning_rate=0.05, batch_size=3)
    runs = [js.simulate(chain, np.ones(5), key=js.key(1), chains=40, steps=20, executor=e) for e in ("vmap", "native")]
    assert runs[1].executor == "native" and np.ptp(runs[0].positions, axis=0).min() > 0.05
    np.testing.assert_allclose(runs[1].positions, runs[0].positions, atol=2e-5)
