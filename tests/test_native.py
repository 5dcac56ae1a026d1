"""The executor that takes steps apart: the same chains as `vmap`, whatever the width of its vectors, and honest where it cannot."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_default import some
from processors import PROCESSORS

import jaxsde as js
from jaxsde.engine import launch
from jaxsde.engine.executors import native
from jaxsde.engine.executors.native import build, kernel
from jaxsde.engine.executors.scalar import Graph, evaluate
from jaxsde.engine.executors.scalar.graph import CHAIN, CONSTANT, ordered
from jaxsde.random import key_words, permutation_at

KEY = js.key(7)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)), RNG.normal(size=40)
LABELS = RNG.integers(0, 3, size=40)


def both(chain, start, steps=64, chains=48, **more):
    """The same chains by both executors, and the largest distance in units of the precision."""
    runs = [js.simulate(chain, start, key=KEY, chains=chains, steps=steps, executor=e, **more) for e in ("vmap", "native")]
    assert [r.executor for r in runs] == ["vmap", "native"]
    a, b = (r.positions.astype(np.float64) for r in runs)
    eps = np.finfo(runs[0].dtype).eps
    return runs, np.abs(a - b).max() / (eps * max(1.0, np.abs(a).max()))


def squared(w, e):
    return 0.5 * (e[0] @ w - e[1]) ** 2


def softmax(w, e):
    return optax.softmax_cross_entropy_with_integer_labels(e[0] @ w, e[1])


def one_hot(w, e):
    return -jnp.sum(jax.nn.log_softmax(e[0] @ w) * jax.nn.one_hot(e[1], 3))


def network(p, e):
    return (jax.nn.gelu(jax.nn.softplus(e[0] @ p["a"]) @ p["b"]) - e[1]) ** 2


def looped(w, e):
    """A recurrence over the features, with a branch that the chain itself decides."""
    h = jax.lax.scan(lambda h, x: (jnp.tanh(h + x), h), w[0], e[0] * w)[0]
    return jax.lax.cond(h > 0, lambda h: (h - e[1]) ** 2, lambda h: jnp.abs(h - e[1]), h)


def indexed(w, e):
    """An index that the chain computes: into its own weights, and one more example of the data."""
    i = jnp.clip((e[1] * 2).astype(jnp.int32), 0, 2)
    return 0.5 * (w[i] * e[0][i] - e[1]) ** 2 + 0.1 * jnp.sum(w**2)


LOSSES = {
    "squared": (squared, Y, np.zeros(3)),
    "huber": (lambda w, e: optax.huber_loss(e[0] @ w, e[1]), Y, np.zeros(3)),
    "cauchy": (lambda w, e: jnp.log1p((e[0] @ w - e[1]) ** 2), Y, np.zeros(3)),
    "logistic": (lambda w, e: jnp.logaddexp(0.0, -e[1] * (e[0] @ w)), np.sign(Y), np.zeros(3)),
    "softmax": (softmax, LABELS, 0.1 * RNG.normal(size=(3, 3))),
    "one hot": (one_hot, LABELS, 0.1 * RNG.normal(size=(3, 3))),
    "network": (network, Y, {"a": 0.3 * RNG.normal(size=(3, 4)), "b": 0.3 * RNG.normal(size=4)}),
    "loop": (looped, Y, np.full(3, 0.2)),
    "indexed": (indexed, Y, np.full(3, 0.2)),
}
# 64 steps that contract, each with a few roundings of its own: far below a thousand units in the last place
ROUNDINGS = 1000


IN_ORDER = ("random_reshuffling", "shuffle_once", "cyclic")
PAIRS = [(name, s) for s in ("with_replacement", "without_replacement", "full_batch", "gaussian", "two_point", "three_point") for name in LOSSES]
PAIRS += [(name, s) for s in IN_ORDER for name in ("squared", "softmax")]


# every loss and every sampling by default, and all pairs of them where there is time
SOME = [p for p in PAIRS if p[0] == "squared" or p[1] == "with_replacement"]


@pytest.mark.parametrize("name, sampling", some(PAIRS, SOME))
def test_losses_and_samplings(name, sampling):
    loss, target, start = LOSSES[name]
    if sampling in ("full_batch", "gaussian", "two_point", "three_point"):  # a step works through all examples
        problem = js.finite_sum(loss, (X[:6], target[:6]), start)
    else:
        problem = js.finite_sum(loss, (X, target), start)
    chain = js.sgd(problem, learning_rate=0.05, batch_size=2, sampling=sampling)
    _, distance = both(chain, start)
    assert distance < ROUNDINGS
    other = js.sgd(problem, learning_rate=0.0501, batch_size=2, sampling=sampling)
    assert np.abs(both(other, start)[0][1].positions - both(chain, start)[0][0].positions).max() > 1e-5


POTENTIALS = {
    "well": (lambda x: (x[0] ** 2 - 1) ** 2 / 4 + x[1] ** 2 / 2 + 0.3 * x[0] * x[1], None),
    "waves": (lambda x: jnp.sum(x**2 / 2 - jnp.cos(3 * x)), [[1.0, 0.3], [0.3, 0.5]]),
    "tail": (lambda x: jnp.sum(jnp.sqrt(1 + x**2)) + jax.nn.logsumexp(x), lambda x: jnp.diag(1 + 0.1 * x**2)),
}
INTEGRATORS = {"euler": js.EulerMaruyama, "heun": js.Heun}


@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_equations(name, integrator):
    loss, covariance = POTENTIALS[name]
    problem = js.potential(loss, np.full(2, 0.5), noise_covariance=1.0 if covariance is None else covariance)
    chain = js.integrate(js.sgd_sde(problem, learning_rate=0.05), INTEGRATORS[integrator](), dt=0.05)
    assert both(chain, np.full(2, 0.5))[1] < ROUNDINGS


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam, optax.rmsprop, optax.adamw, lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True),
        lambda lr: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(optax.linear_schedule(0.1, 0.01, 50))),
    ],
    ids=["adam", "rmsprop", "adamw", "nesterov", "clipped"],
)  # fmt: skip
def test_optimizers(optimizer):
    chain = js.sgd(js.finite_sum(squared, (X, Y), np.zeros(3)), learning_rate=0.02, batch_size=3, optimizer=optimizer)
    assert both(chain, np.zeros(3))[1] < ROUNDINGS


def proportions(w, e):
    """Of a Dirichlet's logarithms, so that gradients have the slope of digamma."""
    a = jnp.exp(w)
    means = jax.scipy.special.digamma(a) - jax.scipy.special.digamma(a.sum())
    return jax.scipy.special.gammaln(a.sum()) - jax.scipy.special.gammaln(a).sum() + jnp.sum((a - 1 + 0.1 * e[0] ** 2) * means)


def directions(w, e):
    """Angles around a mean, von Mises; that of a small concentration, so that I₁ is odd in sight."""
    k = w[0] * w[1]
    return jnp.log(jax.scipy.special.i0e(k)) + jnp.abs(k) - k * jnp.cos(e[1] - w[2]) + 0.1 * w @ w


SPECIAL = {
    "proportions": proportions,
    "directions": directions,
    "quantiles": lambda w, e: (jax.scipy.special.erfinv(0.9 * jnp.tanh(e[0] @ w)) - e[1]) ** 2 + 0.1 * w @ w,
    "knots": lambda w, e: 0.5 * (jnp.interp(e[0][0] + 0.1 * w[2], jnp.linspace(-2, 2, 3), w) - e[1]) ** 2 + 0.1 * w @ w,
    "powers of a matrix": lambda w, e: (jax.scipy.linalg.expm(jnp.outer(0.3 * jnp.tanh(w[:2]), e[0][:2])) @ w[:2])[0] * w[2] + w @ w - w[0],
}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("dtype", some([np.float32, np.float64], [np.float32]))
def test_special_functions(name, dtype):
    with jax.enable_x64(dtype is np.float64):
        chain = js.sgd(js.finite_sum(SPECIAL[name], (X, Y), np.full(3, 0.3)), learning_rate=0.05, batch_size=2)
        assert both(chain, np.full(3, 0.3), dtype=dtype)[1] < ROUNDINGS


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 9, 16, 17, 33])
def test_rows_of_any_width(width):
    x = RNG.normal(size=(50, width)) / np.sqrt(width)
    problem = js.finite_sum(lambda w, e: 0.5 * (jnp.vdot(e[0], w) - e[1]) ** 2 + e[2] * w[0, 0] * 0.01,
                            (x[:, None], x[:, 0], np.arange(50)), np.zeros((1, width)))  # fmt: skip
    assert both(js.sgd(problem, learning_rate=0.1, batch_size=2), np.zeros((1, width)))[1] < ROUNDINGS


def test_double_precision():
    with jax.enable_x64(True):
        for name in ("logistic", "softmax", "network"):
            loss, target, start = LOSSES[name]
            chain = js.sgd(js.finite_sum(loss, (X, target), start), learning_rate=0.05, batch_size=2)
            assert both(chain, start, dtype=np.float64)[1] < ROUNDINGS
        for sampling in IN_ORDER:
            chain = js.sgd(js.finite_sum(squared, (X, Y), np.zeros(3)), learning_rate=0.05, batch_size=3, sampling=sampling)
            assert both(chain, np.zeros(3), dtype=np.float64)[1] < ROUNDINGS
        problem = js.potential(POTENTIALS["waves"][0], np.full(2, 0.5))
        assert both(js.integrate(js.langevin(problem, temperature=0.3), dt=0.05), np.full(2, 0.5), dtype=np.float64)[1] < ROUNDINGS


REFUSED = {
    "fourier": (lambda w, e: jnp.sum(jnp.abs(jnp.fft.rfft(w * e[0])) ** 2), "the primitive fft"),
    "eigenvalues": (lambda w, e: jnp.linalg.eigvalsh(jnp.outer(w, w) + jnp.eye(3))[0] + squared(w, e), "the primitive eigh"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_apart_is_named_and_run_by_vmap(name, caplog):
    loss, word = REFUSED[name]
    problem = js.potential(lambda w: loss(w, (X[0], Y[0])), np.full(3, 0.2))
    chain = js.integrate(js.langevin(problem, temperature=0.1), dt=0.05)
    with caplog.at_level(logging.INFO, "jaxsde"):
        run = js.simulate(chain, np.full(3, 0.2), key=KEY, chains=16, steps=4)
    assert run.executor == "vmap" and word in caplog.text
    with pytest.warns(UserWarning, match=word):
        assert js.simulate(chain, np.full(3, 0.2), key=KEY, chains=16, steps=4, executor="native").executor == "vmap"


@pytest.mark.parametrize("sampling", IN_ORDER)
@pytest.mark.parametrize("n, batch", [(20, 1), (18, 4), (4, 4), (3, 1)])
def test_examples_come_in_their_order(sampling, n, batch):
    """Example i moves a chain by 2^i, so that its place tells which examples it took: those that the permutation says."""
    problem = js.finite_sum(lambda w, e: -w[0] * e, 2.0 ** np.arange(n), np.zeros(1))
    chain = js.sgd(problem, learning_rate=float(batch), batch_size=batch, sampling=sampling)  # ĝ is a mean, this makes it a sum
    first, steps, ids = 2**33 - 3, n + 5, np.arange(35)
    chains, start = (ids.astype(np.uint32), np.zeros(35, np.uint32)), jnp.zeros((35, 1))
    after = [np.zeros(35)]
    for t in range(1, steps + 1):  # each from the beginning, so that every length of a launch is seen
        after.append(np.asarray(js.advance(chain, start, key=KEY, steps=t, first_step=first, executor="native"))[:, 0])
    now = first + np.arange(steps)
    epoch, position = np.divmod(now, n // batch) if sampling == "random_reshuffling" else (0 * now, now)
    taken = ((position[:, None] * batch + np.arange(batch)) % n)[..., None] + 0 * ids  # [steps, batch, chains]
    if sampling != "cyclic":
        words = tuple((epoch >> shift & 0xFFFFFFFF).astype(np.uint32)[:, None, None] for shift in (0, 32))
        taken = np.asarray(permutation_at(key_words(KEY), chains, words, taken, n))
    np.testing.assert_array_equal(np.diff(after, axis=0), np.sum(2.0**taken, axis=1))
    part = js.advance(chain, start[5:], key=KEY, steps=steps, first_step=first, first_chain=5, executor="native")
    np.testing.assert_array_equal(part[:, 0], after[steps][5:])


def test_the_stream_of_the_cipher():
    """One chain of other numbers, whichever executor, and a run goes on with it."""
    chain = js.integrate(js.langevin(js.potential(POTENTIALS["waves"][0], np.ones(2)), temperature=0.5), dt=0.05)
    more = dict(key=KEY, chains=40, stream="philox4x32-10")
    runs = [js.simulate(chain, np.ones(2), steps=50, executor=e, **more) for e in ("native", "vmap", "lanes")]
    assert [r.executor for r in runs] == ["native", "vmap", "lanes"] and {r.stream for r in runs} == {"philox4x32-10"}
    for other in runs[1:]:
        np.testing.assert_allclose(other.positions, runs[0].positions, atol=ROUNDINGS * 1.2e-7)
    default = js.simulate(chain, np.ones(2), key=KEY, chains=40, steps=50, executor="native")
    assert default.stream == "xoshiro128+" and (np.abs(default.positions - runs[0].positions) > 1e-5).all()
    half = js.simulate(chain, np.ones(2), steps=21, executor="native", **more)
    np.testing.assert_array_equal(js.simulate(chain, half, steps=29).positions, runs[0].positions)
    alone = js.advance(chain, jnp.ones(2), key=KEY, steps=50, first_chain=7, executor="native", stream="philox4x32-10")
    np.testing.assert_array_equal(alone, runs[0].positions[7])
    for call in (lambda: js.simulate(chain, np.ones(2), key=KEY, chains=4, steps=1, stream="philox"),
                 lambda: js.advance(chain, jnp.ones(2), key=KEY, steps=1, stream="philox")):  # fmt: skip
        with pytest.raises(ValueError, match=r"stream must be one of xoshiro128\+, philox4x32-10; got 'philox'"):
            call()
    with pytest.raises(ValueError, match="leave stream out"):
        js.simulate(chain, half, steps=1, stream="philox4x32-10")


@pytest.mark.parametrize("dim, batch", [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (3, 1), (3, 2), (3, 3)])
def test_a_generator_is_carried_from_step_to_step(dim, batch):
    """Wherever a run stops in the middle of a call, it goes on with the same words, which are those that `vmap` makes anew."""
    if batch:
        chain = js.sgd(js.finite_sum(squared, (X, Y), np.zeros(dim)), learning_rate=0.05, batch_size=batch)
    else:
        chain = js.integrate(js.langevin(js.potential(lambda x: x @ x / 2, np.ones(dim)), temperature=0.5), dt=0.05)
    more = dict(key=KEY, chains=20, executor="native")
    whole = js.simulate(chain, np.ones(dim), steps=37, **more)
    apart = js.simulate(chain, np.ones(dim), steps=1, **more)
    for steps in (2, 3, 16, 15):
        apart = js.simulate(chain, apart, steps=steps, executor="native")
    np.testing.assert_array_equal(apart.positions, whole.positions)
    anew = js.simulate(chain, np.ones(dim), steps=37, **(more | {"executor": "vmap"}))
    np.testing.assert_allclose(whole.positions, anew.positions, atol=ROUNDINGS * 1.2e-7)
    twin = js.simulate(chain, np.ones(dim), steps=37, **(more | {"key": js.key(8)}))
    assert (np.abs(whole.positions - twin.positions) > 1e-3).mean() > 0.9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_over_the_same_are_one(dtype):
    """H φ + Hᵀ φ, as `jax.grad` has it, for an H that is not symmetric: d² products a step, not 2 d²."""
    with jax.enable_x64(dtype == np.float64):
        matrix = np.diag([1.0, 2.0, 3.0, 2.0, 1.0]) + 0.3 * RNG.normal(size=(5, 5))
        held = jnp.asarray(matrix, dtype)
        chain = js.integrate(js.langevin(js.potential(lambda x: 0.5 * x @ held @ x, jnp.ones(5, dtype)), temperature=0.1), dt=0.1)
        more = dict(key=KEY, chains=16, steps=20, dtype=np.dtype(dtype).name)
        run, other = (js.simulate(chain, np.ones(5), executor=e, **more) for e in ("native", "vmap"))
        assert run.executor == "native"
        np.testing.assert_allclose(run.positions, other.positions, atol=ROUNDINGS * np.finfo(dtype).eps)
        cast = launch.cast(chain, np.dtype(dtype))
        graph = native._Plan(cast, launch.one_state(cast, np.dtype(dtype)), np.dtype(dtype)).graphs.near[0].graph
        assert len(graph.coefficients) == 25


def test_a_product_has_one_constant():
    """(a·x)(b·y) is (ab·x)·y, also where a constant hides in −x or x + x; and w − a·(x·y) is (−a·x)·y + w, for any y with one product
    less. Products of integers stay as they are."""
    g, real = Graph(), np.dtype(np.float32)
    a, b = (g.input("entry", real, CONSTANT, 0, i) for i in (0, 1))
    x, y, z, w = (g.input("state", real, CHAIN, i) for i in range(4))
    op = lambda name, *args: g.op(name, real, *args)
    mul = lambda *args: op("mul", *args)
    assert mul(mul(a, x), mul(y, b)) is mul(mul(mul(a, b), x), y)
    assert mul(a, op("add", x, x)) is mul(mul(a, g.literal(2, real)), x)
    assert mul(op("neg", x), a) is mul(mul(g.literal(-1, real), a), x)
    assert mul(mul(a, x), y).args == (mul(a, x), y)  # one constant, and where it was
    steps = [op("sub", w, mul(a, mul(x, other))) for other in (y, z)]
    assert steps == [op("fma", mul(op("neg", a), x), other, w) for other in (y, z)]
    assert len({n.number for n in ordered(steps) if n.op in ("mul", "fma") and n.wide}) == 3
    large = g.literal(1e30, real)
    assert mul(large, mul(large, x)).args == (large, mul(large, x))  # 1e60 is no float32, and 1e60 · 1e-40 may be one
    word = np.dtype(np.uint32)
    k, n = g.input("key", word, CONSTANT, 0), g.input("state", word, CHAIN, 0)
    assert g.op("mul", word, k, g.op("mul", word, k, n)).args[1].op == "mul"


def test_without_the_compiler(monkeypatch):
    monkeypatch.setattr(build, "missing", lambda: "the package llvmlite is missing")
    chain = js.sgd(js.finite_sum(squared, (X, Y), np.zeros(3)), learning_rate=0.05)
    assert js.simulate(chain, np.zeros(3), key=KEY, chains=16, steps=4).executor == "vmap"
    with pytest.warns(UserWarning, match="llvmlite"):
        assert js.simulate(chain, np.zeros(3), key=KEY, chains=16, steps=4, executor="native").executor == "vmap"


WILD = js.potential(lambda x: jnp.sum(x**2) / 2 - jnp.sum(x**4) / 4, np.zeros(2), noise_covariance=0.5)


@pytest.mark.parametrize("sampling", ["with_replacement", *IN_ORDER, "two_point", "three_point"])
def test_a_chain_is_its_own_whatever_is_beside_it(sampling):
    """Numbers of chains, chunks, looks and groups: the same bytes. (Signs: a block has more steps than some of the chunks.)"""
    problem = js.finite_sum(squared, (X, Y), np.zeros(3))
    if sampling in ("two_point", "three_point"):
        problem = js.potential(POTENTIALS["waves"][0], np.zeros(3))
    chain = js.sgd(problem, learning_rate=0.05, batch_size=3, sampling=sampling)
    whole = js.simulate(chain, np.zeros(3), key=KEY, chains=500, steps=61, executor="native")
    for more in (dict(chains=37), dict(chains=500, chunk=7), dict(chains=129, every=3, groups=5, statistics={"m": js.Mean()})):
        run = js.simulate(chain, np.zeros(3), key=KEY, steps=61, executor="native", **more)
        np.testing.assert_array_equal(run.positions, whole.positions[: len(run.positions)])
    half = js.simulate(chain, np.zeros(3), key=KEY, chains=500, steps=29, executor="native")
    np.testing.assert_array_equal(js.simulate(chain, half, steps=32).positions, whole.positions)
    assert not np.array_equal(js.simulate(chain, half, steps=31).positions, whole.positions)


def test_neighbours_that_diverge_change_no_bit():
    wild = js.sgd(WILD, learning_rate=0.3)
    runs, _ = both(wild, np.zeros(2), steps=40, chains=300)
    gone = runs[1].diverged
    assert 0 < gone.sum() < 300 and np.array_equal(gone, runs[0].diverged)
    np.testing.assert_array_equal(runs[1].diverged_at, runs[0].diverged_at)
    near = np.abs(runs[0].positions).max(axis=1) < 10  # on the way out a step cubes a position, and trebles its error
    assert near.sum() > 200 and not gone[near].any()
    np.testing.assert_allclose(runs[1].positions[near], runs[0].positions[near], rtol=1e-4, atol=1e-4)
    assert np.isfinite(runs[1].positions).all()
    calm = np.flatnonzero(~gone)[:1]
    alone = js.simulate(wild, np.zeros(2), key=KEY, chains=int(calm[0]) + 1, steps=40, executor="native")
    np.testing.assert_array_equal(alone.positions[-1], runs[1].positions[calm[0]])


def test_statistics_see_the_same_samples():
    chain = js.integrate(js.langevin(js.potential(POTENTIALS["waves"][0], np.zeros(2)), temperature=0.5), dt=0.05)
    statistics = {"cov": js.Covariance(), "hist": js.Histogram(np.linspace(-3, 3, 13), components=0), "lag": js.Autocovariance((1, 2))}
    for every in (1, 2, 3, 5, 16):
        runs, _ = both(chain, np.zeros(2), steps=40, chains=96, every=every, burn_in=3, statistics=statistics)
        assert runs[0].samples == runs[1].samples
        np.testing.assert_array_equal(runs[0]["hist"].value, runs[1]["hist"].value)
        np.testing.assert_allclose(runs[0]["cov"].value, runs[1]["cov"].value, rtol=1e-5, atol=1e-6)


def _narrower(bits, monkeypatch):
    """Registers of fewer bits, for everything that is compiled from here on."""
    here = build.machine()
    native.plan_of.found.clear()
    launch._programs.clear()
    monkeypatch.setattr(build, "machine", lambda: here._replace(bits=min(bits, here.bits)))


@pytest.mark.parametrize("precise", [False, True])
def test_statistics_of_long_steps_in_narrow_registers(precise, monkeypatch):
    """A register then holds fewer chains than lie side by side in the memory of the samples."""
    _narrower(128, monkeypatch)
    softmax, target, start = LOSSES["softmax"]
    with jax.enable_x64(precise):
        chain = js.sgd(js.finite_sum(softmax, (X, target), start), learning_rate=0.05, batch_size=4)
        made = native._Plan(chain, jax.ShapeDtypeStruct((9,), chain.dt.dtype), np.dtype(chain.dt.dtype))
        assert made.vectors * build.machine().lanes(chain.dt.dtype.itemsize) < native.LANES
        statistics = {"cov": js.Covariance(), "hist": js.Histogram(np.linspace(-3, 3, 13), components=0)}
        runs, distance = both(chain, start, steps=40, chains=96, every=4, statistics=statistics)
        assert distance < ROUNDINGS
        np.testing.assert_array_equal(runs[0]["hist"].value, runs[1]["hist"].value)
        np.testing.assert_allclose(runs[0]["cov"].value, runs[1]["cov"].value, rtol=1e-5, atol=1e-6)
    native.plan_of.found.clear()
    launch._programs.clear()


@pytest.mark.parametrize("bits", [128, 256])
def test_the_width_of_vectors_changes_no_bit(bits, monkeypatch):
    logistic, target, start = LOSSES["logistic"]
    chains = [
        js.sgd(js.finite_sum(logistic, (X, target), start), learning_rate=0.05, batch_size=3),
        js.sgd(js.finite_sum(logistic, (X, target), start), learning_rate=0.05, batch_size=3, sampling="random_reshuffling"),
        js.integrate(js.langevin(js.potential(POTENTIALS["waves"][0], np.ones(3)), temperature=0.5), dt=0.05),
    ]
    before = [js.simulate(c, np.ones(3), key=KEY, chains=96, steps=50, executor="native").positions for c in chains]
    _narrower(bits, monkeypatch)
    after = [js.simulate(c, np.ones(3), key=KEY, chains=96, steps=50, executor="native").positions for c in chains]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    native.plan_of.found.clear()
    launch._programs.clear()


def test_new_numbers_compile_nothing(monkeypatch):
    made = []
    monkeypatch.setattr(build, "build", lambda source, real=build.build: made.append(source) or real(source))

    def run(seed, eta):
        rng = np.random.default_rng(seed)
        problem = js.finite_sum(counted, (rng.normal(size=(20, 2)), rng.normal(size=20)), rng.normal(size=2))
        js.simulate(js.sgd(problem, learning_rate=eta), problem.start, key=js.key(seed), chains=32, steps=9 + seed, executor="native")

    def counted(w, e):
        return (e[0] @ w - e[1]) ** 2

    run(0, 0.1)
    assert len(made) == 1
    run(1, 0.2)
    assert len(made) == 1


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("loss, sampling", [("logistic", "random_reshuffling"), ("softmax", "cyclic"), ("squared", "with_replacement"),
                                            pytest.param("network", "with_replacement", marks=pytest.mark.slow)])
def test_the_code_compiles_for_other_processors(name, loss, sampling):
    """Compiled, not run: gathers, functions, divisions and masks all have a form there."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine, word = PROCESSORS[name]
    function, target, start = LOSSES[loss]
    chain = js.sgd(js.finite_sum(function, (X, target), start), learning_rate=0.05, batch_size=2, sampling=sampling)
    state = jax.eval_shape(chain.init, jax.ShapeDtypeStruct((chain.dim,), np.float32))
    plan = native._Plan(chain, state, np.dtype(np.float32))
    module = llvm.parse_assembly(kernel.source(*plan.graphs.near, plan.graphs.begin(True), 16, machine))
    module.verify()
    maker = llvm.Target.from_triple(machine.triple).create_target_machine(machine.name, opt=3, reloc="pic", codemodel="small")
    assert word in maker.emit_assembly(module)
    assert len(maker.emit_object(module)) > 1000


# the compiler's cache ---------------------------------------------------------------------------------------------------

SOURCE = "define void @advance() {\n  ret void\n}\n"


def test_the_cache(tmp_path, monkeypatch):
    place = tmp_path / "kept"
    monkeypatch.setenv("JAXSDE_CACHE_DIR", str(place))
    assert not build.build(SOURCE).cached and build.build(SOURCE).cached
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    [kept] = place.iterdir()
    content = kept.read_bytes()
    for damaged in (content[:-1], b"", content[:40] + b"x" + content[41:]):
        kept.write_bytes(damaged)
        assert not build.build(SOURCE).cached
        assert build.build(SOURCE).cached
    kept.chmod(0o666)
    assert not build.build(SOURCE).cached
    place.chmod(0o777)
    build.build(SOURCE)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: place.stat().st_uid + 1)
    assert build.folder() is None and not build.build(SOURCE).cached


def test_no_cache_where_it_would_not_be_safe(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for value in ("", str(tmp_path / "link"), str(tmp_path / "file")):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("JAXSDE_CACHE_DIR", value)
        assert build.folder() is None
        assert not build.build(SOURCE).cached and not build.build(SOURCE).cached
    assert not list((tmp_path / "real").iterdir())


def test_two_processes_at_once(tmp_path):
    code = (
        "import jax.numpy as jnp, jaxsde as js\n"
        "p = js.potential(lambda x: jnp.sum(x**2) / 2, jnp.zeros(1))\n"
        "c = js.integrate(js.langevin(p, temperature=1.0), dt=0.1)\n"
        "r = js.simulate(c, [0.0], key=js.key(1), chains=64, steps=10)\n"
        "print(r.executor, r.positions.sum())\n"
    )
    environment = os.environ | {"JAXSDE_CACHE_DIR": str(tmp_path / "kept")}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=120)[0] for process in running}
    assert len(said) == 1 and said.pop().startswith("native ")
    assert all(not path.name.startswith("tmp") for path in (tmp_path / "kept").iterdir())


def test_the_law():
    """x' = x − η x + √(2 η) z: variance 2 / (2 − η). 4096 chains far apart in time, five standard errors; 1.05 times the noise
    is 20 of them off."""
    eta, n = 0.1, 65_536
    problem = js.potential(lambda x: jnp.sum(x**2) / 2, np.zeros(1))
    for factor, right in ((1.0, True), (1.05**2, False)):
        chain = js.integrate(js.langevin(problem, temperature=factor), dt=eta)
        x = js.simulate(chain, [0.0], key=KEY, chains=n, steps=200, executor="native").positions[:, 0].astype(np.float64)
        z = (np.mean(x**2) / (2 / (2 - eta)) - 1) / np.sqrt(2 / n)
        assert (abs(z) < 5) == right
        assert abs(x.mean()) < 5 * x.std() / np.sqrt(n)


def test_a_jaxpr_is_evaluated_scalar_by_scalar():
    g = Graph()
    closed = jax.make_jaxpr(lambda x: jnp.cumsum(x)[::-1] * 2)(np.zeros(3, np.float32))
    given = np.array([g.literal(v, np.float32) for v in (1.0, 2.0, 4.0)], object)
    [out] = evaluate(g, closed, given)
    assert [node.value for node in out] == [14.0, 6.0, 2.0]
