"""Optimisers in chains against optax run alone, on the same gradients; hyper-parameters as leaves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js
from jaxsde.types import Drawn

X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.random.default_rng(1).normal(size=20)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def problem():
    return js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (X, Y), np.ones(3))


SCHEDULE = optax.cosine_decay_schedule(0.05, 30)
OPTIMIZERS = {
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "nesterov": functools.partial(optax.sgd, momentum=0.9, nesterov=True),
    "weight decay": lambda eta: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(eta)),
    "schedule": optax.sgd(SCHEDULE, momentum=0.5),
    "rmsprop": functools.partial(optax.rmsprop, decay=0.95, eps=1e-6),
    "adam": functools.partial(optax.adam, b1=0.8, b2=0.95),
    "adamw": functools.partial(optax.adamw, weight_decay=0.01),
    "adagrad": optax.adagrad,
    "lion": optax.lion,
    "sign": lambda eta: optax.chain(optax.scale_by_sign(), optax.scale(-eta)),
    "clip": lambda eta: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(eta)),
    "noisy": functools.partial(optax.sign_sgd),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_chain_is_optax_run_alone(name):
    given, p, eta = OPTIMIZERS[name], problem(), 0.05
    chain = js.sgd(p, learning_rate=eta, batch_size=4, optimizer=given)
    alone = given if isinstance(given, optax.GradientTransformation) else given(eta)
    state, phi = chain.init(p.start), p.start
    inner = alone.init(phi)
    rng = np.random.default_rng(2)
    for k in range(25):
        batch = jnp.asarray(rng.integers(0, 20, size=4), jnp.int32)
        state = chain.step(state, Drawn(indices=batch), float(k))
        updates, inner = alone.update(p.minibatch_grad(phi, batch), inner, phi)
        phi = optax.apply_updates(phi, updates)
    np.testing.assert_allclose(chain.position(state), phi, rtol=1e-12)
    assert np.abs(np.asarray(phi) - 1).max() > 0.05


def test_sam_climbs_on_the_examples_of_its_step():
    """Φ' = Φ − η ĝ(Φ + ρ ĝ/|ĝ|), the same batch in both."""
    p, eta, rho = problem(), 0.05, 0.2
    sam = lambda e: optax.contrib.sam(optax.sgd(e), optax.chain(optax.contrib.normalize(), optax.sgd(rho)), opaque_mode=True)
    chain = js.sgd(p, learning_rate=eta, batch_size=4, optimizer=sam)
    state, phi, rng = chain.init(p.start), np.asarray(p.start), np.random.default_rng(3)
    for k in range(10):
        batch = jnp.asarray(rng.integers(0, 20, size=4), jnp.int32)
        state = chain.step(state, Drawn(indices=batch), float(k))
        g = np.asarray(p.minibatch_grad(jnp.asarray(phi), batch))
        phi = phi - eta * np.asarray(p.minibatch_grad(jnp.asarray(phi + rho * g / np.linalg.norm(g)), batch))
    np.testing.assert_allclose(chain.position(state), phi, rtol=1e-10)


@pytest.mark.parametrize("nesterov", [False, True])
def test_both_conventions_of_momentum(nesterov):
    """heavy_ball: v' = μv − ηĝ, Φ' = Φ + v'. average: m' = μm + (1 − μ)ĝ, Φ' = Φ − ηm'. By hand, on the same gradients."""
    p, eta, mu = problem(), 0.04, 0.8
    for convention in ("heavy_ball", "average"):
        chain = js.sgd(p, learning_rate=eta, optimizer=js.momentum(mu, nesterov=nesterov, convention=convention))
        state, phi, v, rng = chain.init(p.start), np.asarray(p.start), np.zeros(3), np.random.default_rng(4)
        for k in range(12):
            batch = jnp.asarray(rng.integers(0, 20, size=1), jnp.int32)
            state = chain.step(state, Drawn(indices=batch), float(k))
            g = np.asarray(p.minibatch_grad(jnp.asarray(phi), batch))
            step = eta if convention == "heavy_ball" else eta * (1 - mu)
            v = mu * v - step * g
            phi = phi + (mu * v - step * g if nesterov else v)
        np.testing.assert_allclose(chain.position(state), phi, rtol=1e-12)
    for bad in (1.0, -0.1, True):
        with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\)"):
            js.momentum(bad)
    with pytest.raises(ValueError, match="convention is"):
        js.momentum(0.9, convention="torch")


def test_hyper_parameters_are_leaves():
    """A sweep over η, β and ε is one program, and a new value compiles nothing."""
    p = problem()
    traces = []

    def counted(eta, b1, b2, eps):
        traces.append(1)
        return optax.adam(eta, b1=b1, b2=b2, eps=eps)

    def chain_of(eta, b1, eps):
        return js.sgd(p, learning_rate=eta, optimizer=functools.partial(counted, b1=b1, b2=0.99, eps=eps))

    end = lambda eta, b1, eps: js.advance(chain_of(eta, b1, eps), np.ones((4, 3)), key=js.key(0), steps=20)
    grid = (jnp.array([0.01, 0.05]), jnp.array([0.8, 0.9]), jnp.array([1e-8, 1e-3]))
    swept = jax.vmap(end)(*grid)
    for i in range(2):
        want = end(*(float(g[i]) for g in grid))
        np.testing.assert_allclose(swept[i], want, rtol=1e-9)
    run = lambda eta, b1, eps: js.simulate(chain_of(eta, b1, eps), np.ones(3), key=js.key(0), chains=8, steps=5).positions
    counts, ends = [], []
    for values in ((0.02, 0.85, 1e-6), (0.03, 0.7, 1e-5), (0.01, 0.9, 1e-4)):
        traces.clear()
        ends.append(run(*values))
        counts.append(len(traces))
    assert counts[0] > counts[1] == counts[2]  # building a chain looks at it; no step is traced again
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, jnp.asarray])
def test_a_float_of_any_kind_is_a_leaf(kind):
    p = problem()
    made = [js.sgd(p, learning_rate=0.1, optimizer=functools.partial(optax.adamw, b1=kind(v), weight_decay=kind(v))) for v in (0.5, 0.75)]
    assert jax.tree.structure(made[0]) == jax.tree.structure(made[1]) and set(made[0].optimizer.settings) == {"b1", "weight_decay"}
    values = [js.sgd(p, learning_rate=0.1, optimizer=js.momentum(kind(v))).optimizer.settings["mu"] for v in (0.5, 0.75)]
    np.testing.assert_allclose(values, [0.5, 0.75])
    with pytest.raises(TypeError, match="give mask in a function of the learning rate of your own"):
        js.sgd(p, learning_rate=0.1, optimizer=functools.partial(optax.adamw, mask={"w": True}))


def test_a_factory_that_looks_at_its_values_still_runs():
    def factory(eta, level):
        return optax.sgd(eta * 2) if level > 0.5 else optax.sgd(eta)

    a, b = (js.sgd(problem(), learning_rate=0.05, optimizer=functools.partial(factory, level=v)) for v in (0.9, 0.1))
    x = [js.simulate(c, np.ones(3), key=js.key(0), chains=2, steps=1).positions - 1 for c in (a, b)]
    np.testing.assert_allclose(x[0], 2 * x[1], rtol=1e-6)
