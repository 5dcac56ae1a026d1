"""Common draws: what they share, what their difference has for a variance, extrapolation, and the weak errors of SGD's models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js

X = np.random.default_rng(0).normal(size=(16, 2))
Y = np.random.default_rng(1).normal(size=16)


def data():
    return js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (X, Y), np.zeros(2))


def well(c=1.0):
    return js.potential(lambda x: 0.5 * jnp.sum(x**2), np.zeros(1), noise_covariance=c)


def ends(chain, start, steps=40, chains=2000, seed=0):
    return js.simulate(chain, start, key=js.key(seed), chains=chains, steps=steps).positions.astype(float)


def test_a_chain_coupled_with_itself_is_itself_and_alone():
    for sampling, b in (("with_replacement", 2), ("random_reshuffling", 2), ("three_point", 1)):
        chain = js.sgd(data(), learning_rate=0.1, batch_size=b, sampling=sampling)
        both = ends(js.coupled(chain, chain), np.zeros(4), chains=64)
        np.testing.assert_array_equal(both[:, :2], both[:, 2:])
        np.testing.assert_allclose(both[:, :2], ends(chain, np.zeros(2), chains=64), rtol=1e-5, atol=1e-6)


def test_sgd_and_its_sde_on_one_noise():
    """With surrogate noise and dt = η Euler–Maruyama is SGD; with dt the same and another scheme they stay close."""
    p = data()
    chain = js.sgd(p, learning_rate=0.05, sampling="gaussian")
    sde = js.sgd_sde(p, learning_rate=0.05)
    both = ends(js.coupled(chain, js.integrate(sde, dt=0.05)), np.zeros(4), chains=64)
    np.testing.assert_allclose(both[:, :2], both[:, 2:], rtol=1e-4, atol=1e-5)
    apart = ends(js.coupled(chain, js.integrate(sde, dt=0.05), antithetic=True), np.zeros(4), chains=2000)
    correlation = np.corrcoef(apart[:, 0], apart[:, 2])[0, 1]
    assert correlation < -0.8


def test_the_error_of_a_difference():
    """E f(η = .1) − E f(η = .11), f = x²: the coupled error is several times below that of two runs, and both know the truth."""
    p = well()
    a, b = (js.sgd(p, learning_rate=e) for e in (0.1, 0.11))
    both = js.coupled(a, b)
    f = lambda x: jnp.sum(x**2)
    run = js.simulate(both, np.zeros(2), key=js.key(2), chains=4096, steps=400, burn_in=200, every=10,
                      statistics={"d": js.of(js.difference(f, both), js.Mean()), "f": js.of(f, js.Mean())})  # fmt: skip
    truth = 0.1 / 1.9 - 0.11 / 1.89
    got = run["d"]
    assert abs(float(got.value) - truth) < 5 * float(got.stderr)
    alone = js.simulate(a, np.zeros(1), key=js.key(2), chains=4096, steps=400, burn_in=200, every=10, statistics={"f": js.of(f, js.Mean())})
    assert float(got.stderr) < float(alone["f"].stderr) / 3


def test_two_levels_follow_one_path_and_extrapolate():
    """OU at h = .4, k = 1: variance 1/(2 − h) for Euler–Maruyama; extrapolated (2/(2 − h/2) − 1/(2 − h)) — from one run."""
    sde = js.sde(lambda t, x: -x, 1.0, dim=1)
    chain = js.two_levels(sde, dt=0.4)
    f = lambda x: jnp.sum(x**2)
    run = js.simulate(chain, np.zeros(2), key=js.key(3), chains=8192, steps=200, burn_in=40, every=4, statistics={
        "rr": js.of(js.extrapolated(f, chain), js.Mean()), "coarse": js.of(lambda x: f(x[:1]), js.Mean())})  # fmt: skip
    want = 2 / (2 - 0.2) - 1 / (2 - 0.4)
    assert abs(float(run["rr"].value) - want) < 5 * float(run["rr"].stderr) < abs(1.05 * want - float(run["rr"].value)) + 1e-9
    assert abs(float(run["coarse"].value) - 1 / 1.6) < 5 * float(run["coarse"].stderr)
    x = run.positions
    assert np.corrcoef(x[:, 0], x[:, 1])[0, 1] > 0.95
    for integrator in (js.SRA1(), js.EulerMaruyama(noise="two_point"), js.ExactLinear(), js.LeimkuhlerMatthews()):
        with pytest.raises(ValueError, match=r"increments of a Brownian path.*: use EulerMaruyama\(\), Heun\(\), TamedEuler\(\), Milstein\(\), Platen\(\)$"):
            js.two_levels(sde, integrator, dt=0.1)


def test_richardson_romberg_of_two_runs():
    a = js.Estimate(1.2, 0.01, 1.18, 1.22, 32)
    b = js.Estimate(1.1, 0.02, 1.06, 1.14, 16)
    got = js.richardson_romberg(a, b)
    np.testing.assert_allclose((got.value, got.stderr, got.groups), (1.0, np.hypot(0.04, 0.01), 16))
    np.testing.assert_allclose(js.richardson_romberg(a, b, order=2).value, (4 * 1.1 - 1.2) / 3)
    with pytest.raises(ValueError, match="fine is unknown"):
        js.richardson_romberg(a, js.Estimate.unknown("few groups"))
    with pytest.raises(ValueError, match="order must be positive"):
        js.richardson_romberg(a, b, order=0)


def test_what_cannot_be_coupled():
    p = data()
    sgd = js.sgd(p, learning_rate=0.1)
    for second, words, given in [
        (js.integrate(js.sgd_sde(p, learning_rate=0.1), dt=0.1), "share no draws: one takes 1 indices", {}),
        (js.sgd(p, learning_rate=0.1, sampling="random_reshuffling"), "draw their examples differently", {}),
        (sgd, "no mirror image", {"antithetic": True}),
    ]:
        with pytest.raises(ValueError, match=words):
            js.coupled(sgd, second, **given)


def test_weak_errors_of_the_models_of_sgd():
    """f = x²/2 of 1-d least squares with multiplicative noise, at t = 2, against the exact second moments of every model."""
    with jax.enable_x64(True):
        x = np.array([0.5, 1.0, 1.5, 2.0])
        y = np.array([1.0, -1.0, 0.5, -0.5])
        p = js.finite_sum(lambda q, e: 0.5 * (e[0] * q[0] - e[1]) ** 2, (x, y), np.array([2.0]))
        got = js.weak_error(p, [0.2, 0.1], {"half square": lambda q: q[0] ** 2 / 2}, 2.0, key=js.key(0), chains=1 << 16)
        h, c1 = np.mean(x**2), np.mean(x * y)
        m4, m3, m2 = np.var(x**2), np.mean((x**2 - h) * (x * y - c1)), np.var(x * y)  # Σ(q) = m4 q² − 2 m3 q + m2

        def discrete(eta, l):
            s, e = eta / l, np.array([1.0, 2.0, 4.0])
            for _ in range(round(2 / s)):
                _, a, b = e
                e = np.array([1, a - s * (h * a - c1), b - 2 * s * (h * b - c1 * a) + s**2 * (
                    h**2 * b - 2 * h * c1 * a + c1**2 + l * (m4 * b - 2 * m3 * a + m2))])  # fmt: skip
            return e[2] / 2

        def continuous(eta, order, frozen=False):
            from scipy.linalg import expm

            k = 1 + eta * h / 2 if order == 2 else 1.0
            star = c1 / h
            noise = (0.0, 0.0, m4 * star**2 - 2 * m3 * star + m2) if frozen else (m4, -2 * m3, m2)
            g = np.array([[0, 0, 0], [k * c1, -k * h, 0], [eta * noise[2], 2 * k * c1 + eta * noise[1], -2 * k * h + eta * noise[0]]])
            return (expm(2 * g) @ np.array([1.0, 2.0, 4.0]))[2] / 2

        for i, eta in enumerate(got.learning_rates):
            truth = discrete(eta, 1)
            want = {"order 1": continuous(eta, 1), "order 2": continuous(eta, 2), "frozen": continuous(eta, 1, True), "svag": discrete(eta, 4)}
            for method, value in want.items():
                e = got.errors[method]["half square"][i]
                assert abs(e.value - abs(truth - value)) < 5 * e.stderr + 2e-3 * eta, (eta, method, e, abs(truth - value))
        assert got.errors["order 1"]["half square"][0].value > 5 * got.errors["order 1"]["half square"][0].stderr


def test_a_model_with_many_noises_is_extrapolated():
    """Twelve noises: two steps of Euler–Maruyama along a path. Order 2 of ten parameters against the exact second moments, whose
    equations NumPy solves, and not those of order 1."""
    from scipy.integrate import solve_ivp

    from jaxsde.stepping.couplings import TwoLevels
    from jaxsde.weak_order import _integrated

    rng, n, d, eta = np.random.default_rng(0), 12, 10, 0.25
    x, y = rng.normal(size=(n, d)) * 0.45, rng.normal(size=n)
    problem = js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (x, y), np.ones(d))
    sde = js.sgd_sde(problem, learning_rate=eta, order=2)
    chain = _integrated(sde, eta)
    assert isinstance(chain, TwoLevels) and sde.noise.dim == n
    run = js.simulate(chain, np.ones(2 * d), key=js.key(0), chains=1 << 16, steps=4)
    h, c = x.T @ x / n, x.T @ y / n

    def truth(k):
        """E |x|² of the SDE of drift −k ∇L."""

        def rhs(t, v):
            m, s = v[:d], v[d:].reshape(d, d)
            square = np.einsum("ni,ij,nj->n", x, s, x) - 2 * y * (x @ m) + y * y
            noise = np.einsum("ni,nj,n->ij", x, x, square) / n - (h @ s @ h - h @ np.outer(m, c) - np.outer(c, m) @ h + np.outer(c, c))
            drift = -k @ (h @ s - np.outer(c, m))
            return np.concatenate([-k @ (h @ m - c), (drift + drift.T + eta * noise).ravel()])

        v = solve_ivp(rhs, (0, 1), np.concatenate([np.ones(d), np.ones(d * d)]), rtol=1e-10).y[:, -1]
        return np.trace(v[d:].reshape(d, d))

    values = np.asarray(jax.vmap(js.extrapolated(lambda q: jnp.sum(q**2), chain))(jnp.asarray(run.positions)), float)
    reach = 5 * values.std() / np.sqrt(len(values))
    assert abs(values.mean() - truth(np.eye(d) + eta / 2 * h)) < reach < abs(values.mean() - truth(np.eye(d)))


def test_weak_errors_are_drawn_and_checked(tmp_path):
    p = well()
    got = js.weak_error(p, [0.5, 0.25], {"square": lambda q: q[0] ** 2, "x": lambda q: q[0]}, 1.0, key=js.key(0), chains=4096, methods=("order 1", "svag"))
    assert got.figure(tmp_path / "weak.png").stat().st_size > 10_000
    assert "order 1" in str(got) and "η = 0.25" in str(got)
    for bad, words in [({"learning_rates": [0.3]}, "does not divide time 1 into whole steps: the nearest is 0.333333"),
                       ({"methods": ("order 3",)}, "methods are order 1"), ({"observables": {}}, "at least one")]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            js.weak_error(p, **{"learning_rates": [0.5], "observables": {"x": lambda q: q[0]}, "time": 1.0, "key": js.key(0), **bad})
