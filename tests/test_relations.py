"""Relations at stationarity: exact under exact stationary moments, in float64 and without a random number; then as runs see them.

False alarms: a report of `check` fails a row by chance with the odds 1e-3, and seeds are fixed. Every run has twins on the same
draws that must fail: 2η for η, a noise 1.05 times what the relation is told, a temperature 1.05² times too high.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import multivariate_normal

import jaxsde as js
from jaxsde import relations
from jaxsde.dynamics.noise import scaled
from jaxsde.relations.balance import averaged, balance_of
from jaxsde.relations.fluctuation import PathEntropy, path_entropy
from jaxsde.relations.moments import Drifting
from jaxsde.struct import replace
from jaxsde.theory import float64
from jaxsde.theory.moments.stationary import system

H = np.array([[1.0, 0.3], [0.3, 2.0]])
C = np.array([[2.0, -0.5], [-0.5, 0.6]])


def squared_error(p, e):
    return 0.5 * (e[0] @ p - e[1]) ** 2


def well(x):
    return jnp.sum((x**2 - 1) ** 2) / 4


def bowl(x):
    return 0.5 * x @ jnp.asarray(H, x.dtype) @ x


def least_squares(n, d, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.linspace(0.6, 1.4, d)
    return js.finite_sum(squared_error, (x, x @ np.linspace(-1, 1, d) + rng.normal(size=n)), jnp.zeros(d))


QUADRATIC = js.potential(bowl, jnp.ones(2), noise_covariance=C)


def sgd(n, d, eta, batch, sampling, optimizer=None):
    return js.whole(js.sgd(least_squares(n, d), learning_rate=eta, batch_size=batch, sampling=sampling, optimizer=optimizer))


CHAINS = {
    "one example, 1-d": sgd(16, 1, 0.3, 1, "with_replacement"),
    "two, with replacement": sgd(24, 2, 0.1, 2, "with_replacement"),
    "five, without": sgd(24, 2, 0.3, 5, "without_replacement"),
    "two-point noise": sgd(24, 2, 0.2, 1, "two_point"),
    "gaussian noise": sgd(24, 2, 0.1, 3, "gaussian"),
    "plain, by optax": sgd(24, 2, 0.1, 2, "with_replacement", optax.sgd),
    "heavy ball": sgd(24, 2, 0.03, 2, "with_replacement", js.momentum(0.8)),
    "average": sgd(24, 2, 0.2, 4, "without_replacement", js.momentum(0.9, convention="average")),
    "optax momentum": sgd(24, 2, 0.05, 1, "with_replacement", lambda eta: optax.sgd(eta, momentum=0.5)),
    "nesterov": sgd(24, 2, 0.05, 2, "with_replacement", js.momentum(0.7, nesterov=True)),
    "svag": js.svag(least_squares(24, 2), learning_rate=0.2, l=4),
    "constant noise": js.sgd(QUADRATIC, learning_rate=0.4),
    "euler": js.integrate(js.sgd_sde(least_squares(24, 2), learning_rate=0.2), dt=0.3),
    "euler of momenta": js.integrate(js.underdamped(QUADRATIC, temperature=0.3, friction=2.0).flatten(), dt=0.1),
    "exact": js.integrate(js.sgd_sde(QUADRATIC, learning_rate=0.3), js.ExactLinear(), dt=0.7),
    "langevin": js.integrate(js.langevin(QUADRATIC, temperature=0.4), js.ExactLinear(), dt=0.5),
    "leimkuhler": js.integrate(js.langevin(QUADRATIC, temperature=0.4), js.LeimkuhlerMatthews(), dt=0.5),
    "baoab": js.integrate(js.underdamped(QUADRATIC, temperature=0.4, friction=1.0), js.BAOAB(), dt=0.5),
}
# Relations that must be among a chain's; those of plain SGD and of the heavy ball are one set each.
PLAIN = {"stationary_gradient", "yaida", "yaida_matrix", "yaida_hessian", "second_moments"}
BALL = {"stationary_gradient", "yaida_momentum", "yaida_momentum_matrix", "yaida_momentum_hessian", "velocity_balance", "second_moments"}
GIBBS = {"virial", "stein_position", "stein_gradient", "equipartition", "stein_bounded"}
OF_SDE = {"fluctuation_dissipation", "loss_dissipation"}
EXPECTED = {
    **dict.fromkeys(CHAINS, PLAIN),
    **dict.fromkeys(("heavy ball", "average", "optax momentum"), BALL),
    "nesterov": {"stationary_gradient", "second_moments"},
    "euler of momenta": {"stationary_gradient", "yaida", "yaida_matrix", "second_moments"},
    "exact": OF_SDE,
    "langevin": OF_SDE | GIBBS,
    "leimkuhler": GIBBS,
    "baoab": GIBBS,
}


def balances(chain):
    """Every relation that is a theorem for the chain, but for those of paths."""
    found = [balance_of(s) for s in relations.statistics(chain).values()]
    return {b.name: b for b in found if b is not None}


def _sides(found, y):
    return [jnp.concatenate(b.sides(b.arrays, y)) for b in found]


def _flat(found, y):
    return jnp.concatenate(_sides(found, y))


def expectations(found, mean, covariance):
    """E of both sides of each, and of the size of the left, for functions of degree two: the 2e sigma points of a law with these
    moments are exact for those."""
    values, vectors = np.linalg.eigh(covariance)
    e = len(covariance)
    mean = np.r_[mean, np.zeros(e - len(mean))]
    spread = vectors * np.sqrt(np.maximum(values, 0) * e)
    points = np.concatenate([mean + spread.T, mean - spread.T])
    both = float64.evaluate_many(_flat, float64.widen(found), points)
    ends = np.cumsum([2 * len(b.labels) for b in found])
    assert both.shape[1] == ends[-1]
    out = []
    for b, part in zip(found, np.split(both, ends[:-1], axis=1), strict=True):
        left, right = np.split(part.mean(axis=0), 2)
        out.append((b.name, np.abs(left - right).max(), np.abs(part[:, : len(left)]).mean(axis=0).max()))
    return out


# One chain of each kind; the others take half a minute together.
KINDS = ("two, with replacement", "constant noise", "svag", "heavy ball", "langevin", "euler of momenta")


@pytest.mark.parametrize("name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.slow) for n in CHAINS])
def test_exact_moments_obey_exactly(name):
    chain = CHAINS[name]
    found = balances(chain)
    assert set(found) == EXPECTED[name]
    law = system(getattr(chain, "chain", chain))
    covariance = law.covariance()[: chain.dim, : chain.dim]
    found = [b for n, b in found.items() if n != "stein_bounded"]  # no polynomial: see below
    for relation, gap, size in expectations(found, law.centre[: chain.dim], covariance):
        assert gap <= 2e-6 * size, relation  # a learning rate in float32
    for relation, gap, size in expectations(found, law.centre[: chain.dim], covariance * 1.05**2):  # a noise 1.05 times as strong
        # a velocity scales with the noise, as does the position: what relates these two alone cannot see it
        assert relation == "stationary_gradient" or "yaida_momentum" in relation or gap > 0.004 * size, relation


@pytest.mark.parametrize("name", ["two, with replacement", "heavy ball", "euler", "euler of momenta"])
def test_a_wrong_rate_is_seen_exactly(name):
    chain = CHAINS[name]
    law, wrong = system(getattr(chain, "chain", chain)), []
    for relation, balance in balances(chain).items():
        arrays = balance.arrays
        if relation == "second_moments":
            moved, push, rest = arrays.more
            arrays = replace(arrays, more=(moved, 2 * push, rest))
        elif "momentum" in relation or relation == "velocity_balance":
            arrays = replace(arrays, more=(2 * arrays.more[0], *arrays.more[1:]))
        else:
            arrays = replace(arrays, rate=2 * arrays.rate)
        if relation != "stationary_gradient":
            wrong.append(replace(balance, arrays=arrays))
    for relation, gap, size in expectations(wrong, law.centre, law.covariance()):
        assert gap > 0.01 * size, relation


def test_the_sides_are_the_formulas():
    """One state of the heavy ball on data, in NumPy."""
    problem = least_squares(24, 2)
    x, y = (np.asarray(a, np.float64) for a in problem.data)
    eta, mu, batch = 0.03, 0.8, 2
    rng = np.random.default_rng(1)
    phi, trace = rng.normal(size=(2, 2))
    each = (x @ phi - y)[:, None] * x
    g, h = each.mean(axis=0), x.T @ x / len(x)
    c = np.cov(each.T, ddof=0) / batch
    centre, v = np.linalg.lstsq(x, y, rcond=None)[0], -eta * trace
    second = np.outer(g, g) + c
    i = np.triu_indices(2)
    e = phi - centre
    want = {
        "yaida_momentum": ([e @ g], [(1 + mu) / (2 * eta) * v @ v]),
        "yaida_momentum_matrix": ((np.outer(e, g) + np.outer(g, e))[i], (1 + mu) / eta * np.outer(v, v)[i]),
        "yaida_momentum_hessian": ([g @ g], [(1 + mu) / (2 * eta) * v @ h @ v]),
        "velocity_balance": (
            ((1 - mu**2) * np.outer(v, v) + mu * eta * (np.outer(v, g) + np.outer(g, v)))[i], eta**2 * second[i],
        ),
    }  # fmt: skip
    ball = balances(CHAINS["heavy ball"])
    plain = balances(CHAINS["two, with replacement"])
    want_plain = {
        "yaida": ([e @ g], [0.05 * np.trace(second)]),
        "yaida_matrix": ((np.outer(e, g) + np.outer(g, e))[i], 0.1 * second[i]),
        "yaida_hessian": ([g @ g], [0.05 * np.trace(h @ second)]),
    }
    for made, wanted, state in ((ball, want, np.r_[phi, trace]), (plain, want_plain, phi)):
        got = float64.evaluate(_sides, float64.widen([made[name] for name in wanted]), state)
        for found, sides in zip(got, wanted.values(), strict=True):
            np.testing.assert_allclose(found, np.concatenate(sides), rtol=2e-6)


def test_stein_by_quadrature():
    """⟨u ∂L⟩ = T⟨u′⟩ under the Gibbs law itself, on a grid; at T 1.05² times as high it is not so."""
    problem = js.potential(well, jnp.ones(1))
    chain = js.integrate(js.langevin(problem, temperature=0.3), dt=0.01)
    x = np.linspace(-4, 4, 4001)
    weight = np.exp(-((x**2 - 1) ** 2) / 4 / 0.3)
    weight /= weight.sum()
    for temperature, holds in ((0.3, True), (0.3 * 1.05**2, False)):
        found = [relations.relation(name, chain, temperature=temperature) for name in sorted(GIBBS)]
        both = weight @ float64.evaluate_many(_flat, float64.widen(found), x[:, None])
        ends = np.cumsum([2 * len(b.labels) for b in found])
        for name, part in zip(sorted(GIBBS), np.split(both, ends[:-1]), strict=True):
            left, right = np.split(part, 2)
            assert (np.abs(left - right).max() < 1e-6) == holds, name


def louder(balance):
    """The same relation, told a noise 1.05 times weaker than the chain's."""
    arrays = balance.arrays
    pull = arrays.pull
    if isinstance(pull, Drifting):
        pull = replace(pull, sde=replace(pull.sde, scale=pull.sde.scale / 1.05))
    else:
        pull = replace(pull, noise=scaled(pull.noise, 1.05**-2))
    return replace(balance, name="louder " + balance.name, arrays=replace(arrays, pull=pull))


def halved(balance):
    """η for η/2."""
    return replace(balance, name="halved " + balance.name, arrays=replace(balance.arrays, rate=2 * balance.arrays.rate))


RUNS = {
    # a double well has no closed form, and Yaida's relations hold all the same
    "double well": (js.sgd(js.potential(well, jnp.ones(1), noise_covariance=2.0), learning_rate=0.25), 200, 300, 2048),
    "data": (js.sgd(least_squares(8, 2), learning_rate=0.2, batch_size=3, sampling="without_replacement"), 200, 160, 1024),  # slowest rate ηλ = .047
    "euler": (js.integrate(js.sde(lambda t, x: -x * x * x, 1.0, dim=1), dt=0.2), 100, 300, 1024),
}


@pytest.mark.parametrize("name", ["double well", *(pytest.param(name, marks=pytest.mark.slow) for name in ("euler", "data"))])
def test_runs_obey_and_their_twins_do_not(name):
    chain, burn_in, steps, chains = RUNS[name]
    names = [n for n in ("stationary_gradient", "yaida", "yaida_matrix") if n in balances(chain)]
    watched = relations.statistics(chain, names)
    yaida = relations.relation("yaida", chain)
    for twin in (louder(yaida), halved(yaida)):
        watched[twin.name] = averaged(twin)
    start = np.zeros(chain.dim) if name == "euler" else chain.problem.start
    run = js.simulate(chain, start, key=js.key(0), chains=chains, burn_in=burn_in, steps=steps, every=4, statistics=watched)
    report = relations.check(run)
    assert report.stationary.reading == "yes"
    assert {row.relation for row in report.rows if row.reading == "holds"} == set(names), str(report)
    assert {row.relation for row in report.rows if row.reading == "fails"} == {"louder yaida", "halved yaida"}


@pytest.mark.slow
def test_momentum_and_what_is_not_gibbs():
    """The heavy ball obeys its own relations and not the identities of Gibbs, at the temperature of its own virial."""
    chain = sgd(8, 2, 0.03, 2, "with_replacement", js.momentum(0.8))
    inner = system(chain.chain).covariance()[:2, :2]
    h = float64.evaluate(float64.hessian, float64.widen(chain.chain.problem), np.zeros(2))
    temperature = np.trace(h @ inner) / 2
    assert set(relations.statistics(chain, temperature=temperature)) == BALL | GIBBS | {"course"}
    seen = ("yaida_momentum_matrix", "yaida_momentum_hessian", "velocity_balance")  # the others are their traces, or follow
    watched = relations.statistics(chain, (*seen, "virial", "equipartition"), temperature=temperature)
    start = chain.begin(chain.chain.problem.start)
    run = js.simulate(chain, start, key=js.key(1), chains=1024, burn_in=200, steps=400, every=8, statistics=watched)
    report = relations.check(run)
    assert all(report[name].reading == "holds" for name in (*seen, "virial")), str(report)
    assert report["equipartition"].reading == "fails"
    assert not report.holds and '"reading": "fails"' in json.dumps(report.to_json())


def test_a_run_that_is_not_stationary_is_told():
    chain = js.sgd(QUADRATIC, learning_rate=0.01)
    watched = relations.statistics(chain, ["yaida"])
    run = js.simulate(chain, np.array([4.0, 4.0]), key=js.key(0), chains=512, steps=64, statistics=watched)
    row = relations.check(run)["yaida"]
    assert row.reading == "not stationary" and "not stationary yet" in row.sentence


CURRENT = js.sgd(QUADRATIC, learning_rate=0.4)


def test_path_entropy_is_the_log_ratio_of_densities():
    """Two windows of a path in NumPy: densities by SciPy, the stationary law by iterating the second-moment equation."""
    statistic = path_entropy(CURRENT, window=3, edges=(0.0, 0.1, 1.0))
    a, q = np.eye(2) - 0.4 * H, 0.16 * C
    s = np.zeros((2, 2))
    for _ in range(4000):
        s = a @ s @ a.T + q
    rng = np.random.default_rng(3)
    path = rng.normal(size=(5, 7, 2)) * 0.7  # chains, looks
    entropies = []
    for chain in path:
        for begin in (0, 3):
            total = multivariate_normal.logpdf(chain[begin], cov=s) - multivariate_normal.logpdf(chain[begin + 3], cov=s)
            for x, y in zip(chain[begin : begin + 3], chain[begin + 1 : begin + 4], strict=True):
                total += multivariate_normal.logpdf(y, a @ x, q) - multivariate_normal.logpdf(x, a @ y, q)
            entropies.append(total)
    e = np.array(entropies)
    seen = [((-e > lo) & (-e <= hi)).mean() for lo, hi in ((0, 0.1), (0.1, 1))]
    foretold = [(np.exp(-e) * ((e > lo) & (e <= hi))).mean() for lo, hi in ((0, 0.1), (0.1, 1))]
    want = [np.exp(-e).mean(), e.mean(), np.tanh(e / 2).mean(), (np.tanh(e / 2) ** 2).mean(), *seen, *foretold]
    acc = statistic.init(jnp.asarray(path[:, 0], jnp.float32))
    for t in range(7):
        acc = statistic.update(acc, t, jnp.asarray(path[:, t], jnp.float32), jnp.ones(5, bool))
    np.testing.assert_allclose(statistic.result(acc), want, rtol=2e-4, atol=1e-6)
    parts = [statistic.merge(jax.tree.map(lambda v, i=i: np.asarray(v)[i], acc)) for i in (slice(0, 2), slice(2, 5))]
    joined = jax.tree.map(lambda *v: np.concatenate(v), *parts)
    np.testing.assert_allclose(statistic.result(joined), want, rtol=2e-4, atol=1e-6)


def test_fluctuation_theorems_of_a_current():
    """All three hold for the discrete chain at a large step; told a noise 1.05 times weaker, the entropy and the integral fail."""
    watched = relations.statistics(CURRENT, ["integral_fluctuation", "detailed_fluctuation", "entropy_production"])
    right = watched["path_entropy"]
    assert isinstance(right, PathEntropy)
    weaker = replace(right, kernel=replace(right.kernel, inverse=right.kernel.inverse * 1.05**2))
    one, two = (
        js.simulate(CURRENT, np.zeros(2), key=js.key(2), chains=8192, burn_in=60, steps=600, every=1, statistics=s)
        for s in (watched, {**watched, "path_entropy": weaker})
    )
    report, twin = relations.check(one), relations.check(two)
    assert report.holds and len(report.rows) == 3, str(report)
    assert twin["entropy_production"].reading == "fails" and twin["integral_fluctuation"].reading == "fails", str(twin)
    seldom = js.simulate(CURRENT, np.zeros(2), key=js.key(2), chains=64, steps=8, every=2, statistics=watched)
    assert "every=1" in relations.check(seldom)["integral_fluctuation"].sentence


def test_refusals_are_sentences():
    with pytest.raises(TypeError, match="the run that simulate returns"):
        js.relations.check("run")
    shuffled = js.sgd(least_squares(24, 2), learning_rate=0.1, batch_size=3, sampling="random_reshuffling")
    reversible = js.integrate(js.langevin(QUADRATIC, temperature=0.2), dt=0.1)
    cases = [
        ("yaida", shuffled, "an epoch"),
        ("yaida_hessian", RUNS["double well"][0], "quadratic"),
        ("yaida", CHAINS["heavy ball"], "yaida_momentum"),
        ("yaida_momentum", CHAINS["heavy ball"].chain, "whole"),
        ("yaida_momentum", CHAINS["nesterov"], "heavy ball"),
        ("second_moments", js.sgd(least_squares(24, 2), learning_rate=0.1, optimizer=optax.adam), "linear"),
        ("yaida", js.integrate(js.langevin(QUADRATIC, temperature=0.2), js.Heun(), dt=0.1), "Heun"),
        ("fluctuation_dissipation", reversible, "approximate"),
        ("virial", CHAINS["constant noise"], "temperature=T"),
        ("virial", reversible, "approximate"),
        ("kinetic_equipartition", reversible, "momenta"),
        ("yaida_matrices", reversible, "yaida_matrix"),
    ]
    for name, chain, word in cases:
        with pytest.raises(ValueError, match=word):
            relations.relation(name, chain)
    for chain, word in [(reversible, "reversible"), (CHAINS["one example, 1-d"], "Gaussian")]:
        with pytest.raises(ValueError, match=word):
            path_entropy(chain)
    with pytest.raises(ValueError, match="singular"):
        path_entropy(js.integrate(js.underdamped(QUADRATIC, temperature=0.2, friction=1.0).flatten(), dt=0.1))
    with pytest.raises(ValueError, match="no relation is a theorem"):
        relations.statistics(shuffled)
    with pytest.raises(ValueError, match="integers"):
        js.whole(js.sgd(least_squares(24, 2), learning_rate=0.1, optimizer=optax.adam))
    with pytest.raises(ValueError, match="no relations"):
        relations.check(js.simulate(CURRENT, np.zeros(2), key=js.key(0), chains=64, steps=4, statistics={"mean": js.Mean()}))
