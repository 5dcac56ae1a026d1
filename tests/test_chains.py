"""SGD as a chain: the optax optimiser run alone on the same minibatches gives the same path; full batch; the clock. Exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js
from jaxsde import random
from jaxsde.types import Drawn

RNG = np.random.default_rng(8)
N, D, STEPS = 12, 3, 40
X, Y = RNG.normal(size=(N, D)), RNG.normal(size=N)
KEY = js.key(4)
ETA = 0.05


def linear(params, example):
    x, y = example
    return 0.5 * (x @ params["w"] + params["b"] - y) ** 2


START = {"w": np.ones(D), "b": np.array(0.5)}
PROBLEM = js.finite_sum(linear, (X, Y), START)
PHI = np.concatenate([[0.5], np.ones(D)])  # flat order: b, then w

OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "nesterov": functools.partial(optax.sgd, momentum=0.8, nesterov=True),
    "adam": optax.adam,
    "rmsprop": optax.rmsprop,
    "weight decay": functools.partial(optax.adamw, weight_decay=0.1),
    "clipped": lambda eta: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(eta)),
}


def batches(chain, chains=3, steps=STEPS):
    """The indices ["steps b chains"] that the engine supplies, as any other program could make them."""
    ids = (jnp.arange(chains, dtype=jnp.uint32), jnp.zeros(chains, jnp.uint32))
    return np.asarray(
        random.block(random.key_words(KEY), chain.draws, ids, random.clock(0, chain.draws), steps).indices
    )


def alone(transformation, indices):
    """The user's own loop: optax on the mean gradient of the minibatch, on the user's own tree."""

    def mean_loss(params, i):
        return jnp.mean(jax.vmap(linear, (None, 0))(params, (jnp.asarray(X, "f4")[i], jnp.asarray(Y, "f4")[i])))

    @jax.jit
    def step(params, state, i):
        updates, state = transformation.update(jax.grad(mean_loss)(params, i), state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(lambda a: jnp.asarray(a, "f4"), START)
    state = transformation.init(params)
    for i in indices:
        params, state = step(params, state, i)
    return np.concatenate([np.ravel(params["b"]), params["w"]])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("sampling", ["with_replacement", "random_reshuffling"])
def test_equal_to_optax_run_alone_on_the_same_minibatches(name, sampling):
    chain = js.sgd(PROBLEM, learning_rate=ETA, batch_size=4, sampling=sampling, optimizer=OPTIMIZERS[name])
    run = js.simulate(chain, START, key=KEY, chains=3, steps=STEPS)
    drawn = batches(chain)
    for c in range(3):
        np.testing.assert_allclose(run.positions[c], alone(OPTIMIZERS[name](ETA), drawn[:, :, c]), rtol=2e-5, atol=2e-6)
    wrong = alone(OPTIMIZERS[name](ETA * 1.05), drawn[:, :, 0])  # the twin
    assert np.abs(run.positions[0] - wrong).max() > 1e-4


def test_plain_sgd_is_optax_sgd():
    plain = js.sgd(PROBLEM, learning_rate=ETA, batch_size=4)
    wrapped = js.sgd(PROBLEM, learning_rate=ETA, batch_size=4, optimizer=optax.sgd)
    ready = js.sgd(PROBLEM, learning_rate=ETA, batch_size=4, optimizer=optax.sgd(ETA))
    runs = [js.simulate(c, START, key=KEY, chains=5, steps=STEPS).positions for c in (plain, wrapped, ready)]
    for other in runs[1:]:
        np.testing.assert_allclose(runs[0], other, rtol=1e-6, atol=1e-6)
    assert not isinstance(plain.init(plain.problem.start), tuple)


def test_a_ready_optimiser_keeps_its_own_rate_and_the_learning_rate_is_the_clock():
    chain = js.sgd(PROBLEM, learning_rate=0.5, optimizer=optax.sgd(ETA))
    run = js.simulate(chain, START, key=KEY, chains=2, steps=10)
    np.testing.assert_allclose(
        run.positions,
        js.simulate(js.sgd(PROBLEM, learning_rate=ETA), START, key=KEY, chains=2, steps=10).positions,
        rtol=1e-6,
        atol=1e-6,
    )
    assert run.time == 5.0


def test_full_batch_is_gradient_descent():
    chain = js.sgd(PROBLEM, learning_rate=ETA, sampling="full_batch")
    run = js.simulate(chain, START, key=KEY, chains=2, steps=STEPS)
    features, phi = np.concatenate([np.ones((N, 1)), X], axis=1), PHI
    for _ in range(STEPS):
        phi = phi - ETA * features.T @ (features @ phi - Y) / N
    np.testing.assert_allclose(run.positions, [phi, phi], rtol=2e-5, atol=2e-6)
    flow = js.integrate(js.gradient_flow(PROBLEM), dt=ETA)
    np.testing.assert_allclose(
        js.simulate(flow, START, key=KEY, chains=1, steps=STEPS).positions[0], phi, rtol=2e-5, atol=2e-6
    )


def test_a_step_is_the_algebra():
    """Φ' = Φ − η ĝ with the indices given by hand, float64 against NumPy."""
    with jax.enable_x64(True):
        p = js.finite_sum(linear, (X, Y), START)
        chain = js.sgd(p, learning_rate=ETA, batch_size=3)
        pick = np.array([2, 2, 7])
        features = np.concatenate([np.ones((N, 1)), X], axis=1)[pick]
        want = PHI - ETA * features.T @ (features @ PHI - Y[pick]) / 3
        got = chain.step(jnp.asarray(PHI), Drawn(indices=jnp.asarray(pick)), 0.0)
        np.testing.assert_allclose(got, want, rtol=1e-14)
        sde = js.sgd_sde(p, learning_rate=ETA, batch_size=3)
        one = js.integrate(sde, dt=0.02)
        z = RNG.normal(size=one.draws.normals)
        noise = np.asarray(one.step(jnp.asarray(PHI), Drawn(normals=jnp.asarray(z)), 0.0)) - (
            PHI - 0.02 * np.asarray(p.grad(jnp.asarray(PHI)))
        )
        np.testing.assert_allclose(
            noise, np.sqrt(ETA * 0.02) * np.asarray(sde.noise.product(jnp.asarray(PHI), jnp.asarray(z))), rtol=1e-10
        )


def test_sgd_with_gaussian_noise_is_euler_maruyama_of_its_sde():
    """With dt = η and the same normals the two are one recursion: Φ − ηg + η Σ^½ z."""
    for b in (1, 4):
        sgd = js.sgd(PROBLEM, learning_rate=ETA, batch_size=b, sampling="gaussian")
        em = js.integrate(js.sgd_sde(PROBLEM, learning_rate=ETA, batch_size=b), dt=ETA)
        z = jnp.asarray(RNG.normal(size=sgd.draws.normals), "float32")
        drawn = Drawn(normals=z)
        minus = Drawn(normals=-z)  # the gradient's noise enters with the other sign
        np.testing.assert_allclose(
            sgd.step(PROBLEM.start, drawn, 0.0), em.step(PROBLEM.start, minus, 0.0), rtol=1e-5, atol=1e-6
        )


def test_the_clock():
    for chain, dt in [
        (js.sgd(PROBLEM, learning_rate=0.25), 0.25),
        (js.integrate(js.langevin(PROBLEM, temperature=1.0), dt=0.125), 0.125),
    ]:
        run = js.simulate(chain, START, key=KEY, chains=1, steps=8)
        assert run.time == 8 * dt and float(chain.dt) == dt
        assert isinstance(chain.draws.normals, int)


@pytest.mark.parametrize(
    "given,error,words",
    [
        (dict(problem=np.ones(3)), TypeError, "must come from finite_sum or potential, got ndarray"),
        (dict(optimizer="adam"), TypeError, "optax.GradientTransformation or a function"),
        (dict(learning_rate=-1), ValueError, "learning_rate must be positive"),
    ],
)
def test_what_is_no_chain_is_named(given, error, words):
    with pytest.raises(error, match=words):
        js.sgd(**(dict(problem=PROBLEM, learning_rate=0.1) | given))
