"""Laws of the engine: what a chain does depends on the key, its number and the step alone. Exact, byte for byte."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde import random
from jaxsde.engine import layout

KEY = js.key(7)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)), RNG.normal(size=40)
TRACES = []


def squared(phi, example):
    TRACES.append(1)
    x, y = example
    return 0.5 * (x @ phi - y) ** 2


def data_problem(x=X, y=Y):
    return js.finite_sum(squared, (x, y), np.zeros(3))


def bowl(phi):
    return 0.5 * phi @ jnp.array([[1.0, 0.3], [0.3, 2.0]]) @ phi


def cubic(phi):
    return jnp.sum(phi**2 / 2 - phi**3 / 3)  # falls for ever beyond 1


CHAINS = {
    "sgd": lambda: js.sgd(data_problem(), learning_rate=0.05, batch_size=2),
    "distinct": lambda: js.sgd(data_problem(), learning_rate=0.05, batch_size=3, sampling="without_replacement"),
    "reshuffled": lambda: js.sgd(data_problem(), learning_rate=0.05, batch_size=3, sampling="random_reshuffling"),
    "sde": lambda: js.integrate(js.sgd_sde(data_problem(), learning_rate=0.05), dt=0.05),
    "matrix": lambda: js.integrate(
        js.sgd_sde(js.potential(bowl, jnp.zeros(2), noise_covariance=[[2, -0.5], [-0.5, 0.6]]), learning_rate=0.1), dt=0.1
    ),
    "two_point": lambda: js.sgd(js.potential(bowl, jnp.zeros(2)), learning_rate=0.1, sampling="two_point"),
}


def statistics():
    return {"cov": js.Covariance(), "hist": js.Histogram(np.linspace(-2, 2, 9), components=0), "lag": js.Autocovariance((1, 2))}


def run(chain, **given):
    options = dict(key=KEY, chains=50, steps=60, burn_in=7, every=3, statistics=statistics(), groups=5)
    return js.simulate(chain, np.zeros(chain.dim), **(options | given))


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)


@pytest.mark.parametrize("name", CHAINS)
def test_chunks_change_nothing(name):
    chain = CHAINS[name]()
    whole = run(chain)
    for chunk in (1, 7, 1000):
        other = run(chain, chunk=chunk)
        assert same(whole.positions, other.positions)
        assert other.samples == whole.samples == 20
        for statistic in whole.statistics:
            assert same(whole.partials(statistic), other.partials(statistic)), (statistic, chunk)


@pytest.mark.parametrize("name", CHAINS)
def test_other_chains_change_nothing(name):
    chain = CHAINS[name]()
    many = run(chain, chains=1000, statistics=None).positions
    for chains in (1, 5, 64):
        assert same(run(chain, chains=chains, statistics=None).positions, many[:chains])
    assert not same(many[:5], many[5:10])


@pytest.mark.parametrize("name", CHAINS)
def test_stopping_and_going_on_changes_nothing(name):
    chain = CHAINS[name]()
    whole = run(chain)
    first = run(chain, steps=29)
    second = js.simulate(chain, first, steps=31, every=3)
    assert same(whole.positions, second.positions)
    assert same(whole.partials("cov"), second.partials("cov"))
    assert second.step == 67
    twin = js.simulate(chain, first, steps=30, every=3)
    assert not same(whole.positions, twin.positions)


def test_groups_and_width_of_tiles_change_no_chain(monkeypatch):
    chain = CHAINS["sgd"]()
    a = run(chain, groups=3)
    assert same(a.positions, run(chain, groups=50).positions)
    assert a.group_sizes == (17, 17, 16)
    monkeypatch.setattr(layout, "_CACHE_NUMBERS", 64)
    assert same(a.positions, run(chain, groups=3).positions)


@pytest.mark.parametrize("every", [1, 3, 10, 16, 33, 100])
def test_samples_are_taken_when_they_should(every):
    chain = CHAINS["two_point"]()
    times = []
    kept = run(chain, steps=230, burn_in=11, every=every, statistics={"s": js.Samples(256)})
    thinned = kept.statistic("s").result(kept.partials("s"))
    assert kept.samples == 230 // every
    for i in range(min(kept.samples, 5)):
        here = run(chain, steps=0, burn_in=11 + every * (i + 1), statistics=None).positions
        np.testing.assert_array_equal(thinned.positions[:, i], here)
        times.append(i)
    assert times


def test_against_a_plain_loop_in_float64():
    """The same draws through NumPy: nothing of the chain or of the engine is shared."""
    chain, steps, eta = CHAINS["sgd"](), 40, 0.05
    ids = (jnp.arange(50, dtype=jnp.uint32), jnp.zeros(50, jnp.uint32))
    drawn = random.block(random.key_words(KEY), chain.draws, ids, random.clock(0, chain.draws), steps)
    phi = np.zeros((50, 3))
    for k in range(steps):
        rows = np.asarray(drawn.indices[k]).T  # [chains, batch]
        x, y = X[rows], Y[rows]
        residual = np.einsum("cbd,cd->cb", x, phi) - y
        phi = phi - eta * np.einsum("cb,cbd->cd", residual, x) / 2
    measured = run(chain, steps=steps, burn_in=0, statistics=None).positions
    np.testing.assert_allclose(measured, phi, atol=2e-6)
    twin = run(chain, steps=steps, burn_in=0, statistics=None, key=js.key(8)).positions
    assert np.abs(twin - phi).max() > 1e-2


@pytest.mark.parametrize("name", CHAINS)
def test_advance_is_the_same_chain(name):
    chain = CHAINS[name]()
    x = js.advance(chain, jnp.zeros((50, chain.dim)), key=KEY, steps=67)
    np.testing.assert_allclose(run(chain).positions, x, atol=3e-6)


def test_float64_follows_float32():
    chain = CHAINS["matrix"]()
    single = run(chain, statistics=None).positions
    with jax.enable_x64(True):
        double = js.simulate(CHAINS["matrix"](), np.zeros(2), key=KEY, chains=50, steps=60, burn_in=7, dtype="float64")
    assert double.positions.dtype == np.float64
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double.positions, atol=1e-5)


def test_nothing_is_traced_twice():
    """A new learning rate, seed, start, data, number of steps or chunk finds the compiled program."""
    run(js.sgd(data_problem(), learning_rate=0.05))
    problem = data_problem(X + 1, Y - 1)
    chains = [js.sgd(problem, learning_rate=eta) for eta in (0.01, 0.2)]
    TRACES.clear()
    for chain in chains:
        run(chain, key=js.key(99), steps=31, burn_in=0, chunk=9)
    assert not TRACES
    run(js.sgd(problem, learning_rate=0.05, batch_size=7))
    assert TRACES, "another batch size is another program: the count does count"


def test_transformations_go_through():
    problem = js.potential(bowl, jnp.zeros(2))
    x0 = jnp.ones((4, 2))

    def mean(eta):
        return js.advance(js.sgd(problem, learning_rate=eta), x0, key=KEY, steps=20).mean()

    etas = jnp.array([0.05, 0.1, 0.2])
    np.testing.assert_allclose(jax.vmap(mean)(etas), [mean(e) for e in etas], rtol=1e-5)
    slope = (mean(0.101) - mean(0.099)) / 0.002
    np.testing.assert_allclose(jax.grad(mean)(0.1), slope, rtol=2e-2)

    def spread(temperature):
        return js.advance(js.integrate(js.langevin(problem, temperature=temperature), dt=0.1), x0 * 0, key=KEY, steps=20).var()

    # x ∝ √T from 0: the variance is linear in T
    np.testing.assert_allclose(jax.grad(spread)(2.0), spread(1.0), rtol=1e-4)
    jitted = jax.jit(lambda chain, x: js.advance(chain, x, key=KEY, steps=5))
    chain = js.sgd(problem, learning_rate=0.1)
    np.testing.assert_allclose(jitted(chain, x0), js.advance(chain, x0, key=KEY, steps=5), rtol=1e-6)


def test_some_chains_diverge_and_are_left_out():
    chain = js.sgd(js.potential(cubic, jnp.zeros(1), noise_covariance=0.0), learning_rate=0.5, sampling="full_batch")
    start = np.zeros((40, 1))
    start[[3, 17, 39]] = 2.0
    wild = js.simulate(chain, start, key=KEY, chains=40, steps=50, groups=8, statistics={"cov": js.Covariance(), "m": js.Mean()})
    assert list(np.flatnonzero(wild.diverged)) == [3, 17, 39]
    assert np.isfinite(wild.positions).all()
    # by hand in float32: the first step that is beyond the limit
    x, k = np.float32(2.0), 0
    limit = float(np.finfo(np.float32).max) ** 0.4
    while True:
        x = x - np.float32(0.5) * (x - x * x)
        if not abs(x) < limit:
            break
        k += 1
    assert set(wild.diverged_at[wild.diverged]) == {k}
    assert (wild.diverged_at[~wild.diverged] == -1).all()
    np.testing.assert_array_equal(wild["m"].value, [0.0])
    np.testing.assert_array_equal(wild["cov"].value, [[0.0]])
    assert "3 diverged" in repr(wild)


def test_all_chains_diverge():
    chain = js.sgd(js.potential(bowl, jnp.ones(2)), learning_rate=5.0)
    wild = js.simulate(chain, jnp.ones(2), key=KEY, chains=32, steps=400, statistics={"cov": js.Covariance()})
    assert wild.diverged.all()
    assert wild["cov"].value is None
    assert "diverged" in wild["cov"].reason


def test_counts_are_exact():
    seen = run(CHAINS["two_point"](), chains=77, steps=95, every=4, groups=6)
    counted = seen.partials("cov").counted
    total = (np.asarray(counted.hi, np.int64) << 32) + np.asarray(counted.lo, np.int64)
    assert total.sum() == 77 * (95 // 4)
    assert sum(seen.group_sizes) == 77


def test_keys():
    chain = CHAINS["two_point"]()
    one = run(chain, statistics=None).positions
    assert same(one, run(chain, statistics=None, key=jax.random.key_data(KEY)).positions)
    five, beyond = (run(chain, statistics=None, key=js.key(s)).positions for s in (5, 2**32 + 5))
    assert not same(five, beyond)
    for wrong in (5, 1.5, None, "key"):
        with pytest.raises((TypeError, ValueError)):
            run(chain, key=wrong)


@pytest.mark.parametrize(
    "given, error, words",
    [
        (dict(chains=0), ValueError, "chains must be at least 1"),
        (dict(chains=True), TypeError, "chains must be an integer"),
        (dict(steps=1.5), TypeError, "steps must be an integer"),
        (dict(steps=-1), ValueError, "steps must be at least 0"),
        (dict(every=0), ValueError, "every"),
        (dict(chunk=0), ValueError, "chunk"),
        (dict(groups=0), ValueError, "groups"),
        (dict(executor="fast"), ValueError, "executor"),
        (dict(dtype="float64"), ValueError, "jax_enable_x64"),
        (dict(dtype="float16"), ValueError, "float32 or float64"),
        (dict(steps=2**62), ValueError, "2^63"),
        (dict(chains=2**40), MemoryError, "at most about"),
        (dict(chains=2**60), MemoryError, "fewer"),
        (dict(key=None), ValueError, "key"),
    ],
)
def test_wrong_arguments_are_named(given, error, words):
    with pytest.raises(error, match=words.replace("^", r"\^")):
        run(CHAINS["two_point"](), **given)


def test_wrong_starts_are_named():
    chain = CHAINS["two_point"]()
    for start, words in ((np.zeros(3), "shape"), (np.array([0.0, np.nan]), "index 1"), ("ab", "real numbers")):
        with pytest.raises((ValueError, TypeError), match=words):
            js.simulate(chain, start, key=KEY, chains=4, steps=1)
    root = js.potential(lambda p: jnp.sum(jnp.sqrt(p)), jnp.ones(2))
    with pytest.raises(ValueError, match=r"component params\[1\]"):
        js.simulate(js.sgd(root, learning_rate=0.1), np.array([1.0, 0.0]), key=KEY, chains=4, steps=1)


def test_no_steps_is_the_initial_law():
    start = RNG.normal(size=(50, 2))
    law = js.simulate(
        CHAINS["two_point"](), start, key=KEY, chains=50, steps=0, statistics={"cov": js.Covariance()}, groups=10
    )
    assert law.samples == 1
    np.testing.assert_array_equal(law.positions, start.astype(np.float32))
    np.testing.assert_allclose(law["cov"].value, np.cov(start.T, ddof=0), rtol=1e-5)


def test_progress_is_told():
    told = []
    run(CHAINS["two_point"](), chunk=10, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (67, 67)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_optimiser_states_are_carried():
    import optax

    chain = js.sgd(data_problem(), learning_rate=0.05, batch_size=2, optimizer=optax.adam)
    whole = run(chain, statistics=None)
    part = js.simulate(chain, run(chain, steps=20, statistics=None), steps=40, every=3)
    assert same(whole.positions, part.positions)
