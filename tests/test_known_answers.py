"""The known answers that fix every convention, one test a line of the table, against the public functions.

Each number stands beside a closed form, a recursion or a sum that NumPy and SciPy work out here from the formula, which is what
decides: at 1e-8 or better, where printed digits are the ones known. Only objects of float64 are built. Answers about single steps
and paths are elsewhere: golden steps and geometric Brownian motion in `test_integrators`, weak orders of the models of SGD in
`test_couplings`, the autocorrelation of reshuffled noise in `test_samplings`, SVAG of one as SGD bit for bit and the simulated
variance of SignSGD in `test_equations`, ensembles in `test_truths`.
"""

import functools
import itertools
from math import comb, perm

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize
import scipy.stats
from numpy.testing import assert_allclose
from scipy.special import digamma, erf
from sklearn.datasets import load_diabetes

import jaxsde as js

theory = js.theory


@pytest.fixture(autouse=True)
def double():
    """Objects in float64: a learning rate of 0.1 is else a float32, 0.100000001."""
    with jax.enable_x64(True):
        yield


def quadratic(h, covariance=1.0):
    h = jnp.asarray(np.atleast_2d(h), float)
    return js.potential(lambda p: 0.5 * p @ h @ p, np.zeros(len(h)), noise_covariance=covariance)


def squared_error(p, example):
    x, y = example
    return 0.5 * (x @ p - y) ** 2


def standardised(a):
    return (a - a.mean(axis=0)) / a.std(axis=0)


@functools.cache
def diabetes():
    """x and y of the diabetes data: bmi, bp and s5, with mean 0 and variance 1."""
    table = load_diabetes()
    return standardised(table.data[:, [2, 3, 8]]), standardised(table.target)


def on_diabetes():
    return js.finite_sum(squared_error, diabetes(), np.zeros(3))


def gaussian_design(a, s):
    """One-dimensional data whose moments up to the fourth are those of x ~ N(0, a) and labels with errors ±s."""
    x = np.repeat([np.sqrt(3 * a), -np.sqrt(3 * a), 0, 0, 0, 0], 2)
    return js.finite_sum(squared_error, (x[:, None], 0.7 * x + np.tile([s, -s], 6)), np.zeros(1))


def lyapunov(h, q):
    """S of HS + SH = Q."""
    return scipy.linalg.solve_continuous_lyapunov(h, q)


def kl_to_gibbs(h, s, temperature):
    """KL of N(0, S) to N(0, T H⁻¹)."""
    ratio = h @ s / temperature
    return (np.trace(ratio) - len(h) - np.log(np.linalg.det(ratio))) / 2


def well(noise=1.0):
    return js.potential(lambda p: (p[0] ** 2 - 1) ** 2 / 4, np.ones(1), noise_covariance=noise)


def multiplicative(p):
    return 0.2 + p**2


# --- diffusion and constant noise -----------------------------------------------------------------------------------------------


def test_brownian_motion_spreads_as_eta_t():
    chain = js.integrate(js.brownian(2, learning_rate=0.1), dt=0.01)
    assert_allclose(theory.transient(chain, [3.0, -1.0], 500).covariance, 0.5 * np.eye(2), rtol=1e-9, atol=1e-14)


def test_two_point_noise():
    problem, eta = quadratic(1.0), 0.1
    chain = js.sgd(problem, learning_rate=eta, sampling="two_point")
    assert_allclose(theory.stationary_covariance(chain), [[eta / (2 - eta)]], rtol=1e-10)
    assert_allclose(eta / (2 - eta), 0.0526316, atol=5e-8)
    assert_allclose(theory.stationary_covariance(js.sgd_sde(problem, learning_rate=eta)), [[0.05]], rtol=1e-10)
    lags = [1, 2, 7]  # the mean forgets its start as the autocorrelation falls
    assert_allclose(theory.transient(chain, [1.0], lags).mean[:, 0], (1 - eta) ** np.array(lags), rtol=1e-10)


def test_two_point_noise_at_one_half_and_above():
    at = lambda eta: theory.transfer_operator(js.sgd(quadratic(1.0), learning_rate=eta, sampling="two_point"), cells=512)
    half, above = at(0.5), at(0.6)
    assert_allclose(half.mass, 1 / 512, rtol=1e-9)
    kl = half.kl_to_gibbs()
    exact = np.log(2 * np.pi * np.e / 3) / 2 - np.log(2)  # of a uniform law on (−1, 1) to the normal law of its variance
    assert_allclose(exact, 0.17648521, atol=5e-9)
    assert abs(kl.value - exact) <= kl.error + 1e-9 and kl.error < 1e-5
    assert np.isinf(above.kl_to_gibbs().value) and "no density" in above.kl_to_gibbs().reason


@pytest.mark.parametrize("d", [1, 3])
def test_constant_noise_of_discrete_sgd(d):
    """SH + HS − ηHSH = ηC, for any H and C."""
    rng = np.random.default_rng(d)
    h, c = (a @ a.T + 0.3 * np.eye(d) for a in rng.normal(size=(2, d, d)))
    eta = 0.7 / np.linalg.eigvalsh(h)[-1]
    s = theory.stationary_covariance(js.sgd(quadratic(h, c), learning_rate=eta))
    assert_allclose(s @ h + h @ s - eta * h @ s @ h, eta * c, rtol=1e-9, atol=1e-12)


Q1 = (np.array([[1.0, 0.3], [0.3, 2.0]]), np.array([[2.0, -0.5], [-0.5, 0.6]]))
Q2 = (np.array([[2.0, 0.6], [0.6, 0.5]]), np.array([[1.0, -0.4], [-0.4, 0.3]]))


@pytest.mark.parametrize(
    ("h", "c", "eta", "kl", "production"),
    [(*Q1, 0.1, 0.28763678, 0.0022456140), (*Q2, 0.02, 0.16054458, 2.97257143)],
    ids=["Q1", "Q2"],
)
def test_the_sde_of_constant_noise(h, c, eta, kl, production):
    problem = quadratic(h, c)
    for rate in (eta, eta / 7):  # neither the KL nor the entropy production knows η
        sde = js.sgd_sde(problem, learning_rate=rate)
        s, exact = theory.stationary_covariance(sde), lyapunov(h, rate * c)
        assert_allclose(s, exact, rtol=1e-9)
        best = rate * np.trace(c) / 4
        assert_allclose(theory.best_temperature(problem, s), best, rtol=1e-9)
        assert_allclose(theory.best_temperature(problem, s, "reverse"), 2 / np.trace(np.linalg.inv(h @ exact)), rtol=1e-9)
        assert_allclose(theory.gaussian_kl_to_gibbs(problem, s), kl_to_gibbs(h, exact, best), rtol=1e-8)
        assert_allclose(theory.gaussian_kl_to_gibbs(problem, s), kl, atol=6e-9)
        q, d = h @ exact - rate * c / 2, rate * c / 2
        assert_allclose(theory.area_rates(sde), q, rtol=1e-8, atol=1e-12 * rate)
        assert_allclose(theory.entropy_production(sde), np.trace(np.linalg.solve(d, q) @ np.linalg.solve(exact, q.T)), rtol=1e-8)
        assert_allclose(theory.entropy_production(sde), production, atol=6e-11 if h is Q1[0] else 6e-9)
    if h is Q1[0]:
        assert_allclose(theory.best_temperature(problem, theory.stationary_covariance(js.sgd_sde(problem, learning_rate=0.1))), 0.065)
        assert_allclose(theory.area_rates(js.sgd_sde(problem, learning_rate=0.1))[0, 1], 0.00133333333, rtol=1e-8)


def test_isotropic_noise_is_gibbs_for_the_sde_alone():
    (h, _), eta = Q2, 0.02
    problem = quadratic(h)
    sde, sgd = js.sgd_sde(problem, learning_rate=eta), js.sgd(problem, learning_rate=eta)
    s = theory.stationary_covariance(sde)
    assert_allclose(theory.best_temperature(problem, s), eta / 2, rtol=1e-10)
    assert abs(theory.gaussian_kl_to_gibbs(problem, s)) < 1e-12 and abs(theory.entropy_production(sde)) < 1e-12
    discrete = eta * np.linalg.inv(2 * h - eta * h @ h)
    assert_allclose(theory.stationary_covariance(sgd), discrete, rtol=1e-9)
    best = np.trace(h @ discrete) / 2
    assert_allclose(theory.gaussian_kl_to_gibbs(problem, discrete), kl_to_gibbs(h, discrete, best), rtol=1e-8)
    assert kl_to_gibbs(h, discrete, best) > 1e-5


def test_the_learning_rate_of_mandt_hoffman_and_blei():
    """The KL to the posterior exp(−N L) is least at ε* = 2(S/N) d/tr C, and what is left there is that of the shapes."""
    (h, c), n = Q1, 1000
    problem, best = quadratic(h, c), 2 / n * 2 / np.trace(c)
    assert_allclose(best, 0.00153846, atol=5e-9)

    def kl(eta):
        s = theory.stationary_covariance(js.sgd_sde(problem, learning_rate=eta))
        return theory.gaussian_kl_to_gibbs(problem, s, 1 / n)

    assert_allclose(kl(best), kl_to_gibbs(h, lyapunov(h, best * c), 1 / n), rtol=1e-8)
    assert_allclose(kl(best), 0.28763678, atol=6e-9)
    assert kl(0.99 * best) > kl(best) + 1e-5 < kl(1.01 * best)


@pytest.mark.parametrize("setting", [(0.3, 1.7, 0.9, 1.3), (0.1, 0.6, 0.5, 2.0)])
def test_heavy_ball(setting):
    """Var Φ and Var v of v' = μv − ηĝ, Φ' = Φ + v', by the recursion of (Φ, v)."""
    eta, h, mu, c = setting
    a, push = np.array([[1 - eta * h, mu], [-eta * h, mu]]), np.array([-eta, -eta])
    s = scipy.linalg.solve_discrete_lyapunov(a, c * np.outer(push, push))
    chain = js.sgd(quadratic(h, c), learning_rate=eta, optimizer=functools.partial(optax.sgd, momentum=mu))
    assert_allclose(theory.stationary_covariance(chain), s[:1, :1], rtol=1e-6)  # optax keeps μ in float32
    assert_allclose(theory.stationary_covariance(js.sgd(quadratic(h, c), learning_rate=eta, optimizer=js.momentum(mu))), s[:1, :1], rtol=1e-8)
    if mu == 0.9:
        assert_allclose(np.diag(s), [1.3248704, 0.7112462], atol=6e-8)


# --- least squares ----------------------------------------------------------------------------------------------------------------

DIAB3 = np.array([[0.01508217, -0.00279780, -0.00107325], [-0.00279780, 0.01480969, -0.00164754], [-0.00107325, -0.00164754, 0.01353124]])


def second_moments(x, y, eta, b=1):
    """S of minibatches with replacement: all per-example Hessians written out. And H, C."""
    h, eye = x.T @ x / len(x), np.eye(x.shape[1])
    g = x * (x @ np.linalg.lstsq(x, y, rcond=None)[0] - y)[:, None]
    c, one = g.T @ g / len(x), eye - eta * h
    spread = np.einsum("ni,nj,nk,nl->ikjl", x, x, x, x).reshape(len(h) ** 2, -1) / len(x) - np.kron(h, h)
    operator = np.eye(len(h) ** 2) - np.kron(one, one) - eta**2 / b * spread
    return np.linalg.solve(operator, eta**2 / b * c.ravel()).reshape(h.shape), h, c


def test_sgd_on_the_diabetes_data():
    x, y = diabetes()
    problem = on_diabetes()
    for eta, ratio in ((0.05, 1.125), (0.01, 1.0225)):
        s, h, c = second_moments(x, y, eta)
        law = theory.stationary_law(js.sgd(problem, learning_rate=eta))
        assert law.exact
        assert_allclose(law.covariance, s, rtol=1e-8)
        assert_allclose(np.trace(law.covariance) / np.trace(lyapunov(h, eta * c)), ratio, atol=5e-4)
        if eta == 0.05:
            assert_allclose(law.covariance, DIAB3, atol=6e-9)
    s, *_ = second_moments(x, y, 0.3, 4)
    assert_allclose(theory.stationary_covariance(js.sgd(problem, learning_rate=0.3, batch_size=4)), s, rtol=1e-8)


def batch_moment(factors, b, power):
    """E (mean of b of the factors)^⊗power, drawn with replacement: over the partitions of the places into equal draws."""
    n, d, _ = factors.shape
    letters = "abcdefgh"
    total = np.zeros((d,) * (2 * power))
    for labels in itertools.product(range(power), repeat=power):
        if any(label > max(labels[:k], default=-1) + 1 for k, label in enumerate(labels)):
            continue
        blocks = [[k for k in range(power) if labels[k] == block] for block in range(max(labels) + 1)]
        averages, names = [], []
        for block in blocks:
            pairs = [letters[k] + letters[power + k] for k in block]
            averages.append(np.einsum(",".join("n" + p for p in pairs) + "->" + "".join(pairs), *[factors] * len(block), optimize=True) / n)
            names.append("".join(pairs))
        total += perm(b, len(blocks)) / b**power * np.einsum(",".join(names) + "->" + letters[:power] + letters[power : 2 * power], *averages)
    return total.reshape(d**power, d**power)


@pytest.mark.parametrize(("b", "edge", "kurtosis"), [(1, 0.385356, 0.2956), (4, 0.785379, 0.6185), (16, 1.005888, 0.8913)])
def test_edges_of_the_diabetes_data(b, edge, kurtosis):
    """Where the second and the fourth moment of a step stop shrinking: a spectral radius of 1."""
    x, _ = diabetes()
    for of, value, power, digits in ((theory.stability_edge, edge, 2, 6e-7), (theory.kurtosis_edge, kurtosis, 4, 1e-4)):
        found = of(on_diabetes(), b)
        moment = batch_moment(np.eye(3) - found * np.einsum("ni,nj->nij", x, x), b, power)
        assert_allclose(np.abs(np.linalg.eigvals(moment)).max(), 1, atol=1e-8)
        assert_allclose(found, value, atol=digits)
    assert theory.stability_edge(on_diabetes(), b) < 2 / np.linalg.eigvalsh(x.T @ x / len(x))[-1]


@pytest.mark.parametrize(("eta", "a", "b", "s", "variance"), [(0.2, 1, 1, 1, 1 / 7), (0.5, 1, 4, 1, 0.1), (0.3, 2, 3, 0.5, None)])
def test_gaussian_regression(eta, a, b, s, variance):
    problem, exact = gaussian_design(a, s), eta * s**2 / (2 * b - eta * a * (b + 2))
    assert_allclose(theory.stationary_covariance(js.sgd(problem, learning_rate=eta, batch_size=b)), [[exact]], rtol=1e-9)
    assert_allclose(theory.stability_edge(problem, b), 2 * b / (a * (b + 2)), rtol=1e-9)
    assert variance is None or abs(exact - variance) < 1e-12


def test_reshuffling_of_equal_hessians():
    n, eta, y = 4, 0.1, np.array([1.0, -1.0, 1.0, -1.0])
    problem = js.finite_sum(lambda p, e: 0.5 * (p[0] - e) ** 2, y, np.zeros(1))
    w = (1 - eta) ** np.arange(n)
    exact = eta**2 * y.var() * n / (n - 1) * ((w**2).sum() - w.sum() ** 2 / n) / (1 - (1 - eta) ** (2 * n))
    assert_allclose(exact, 9.5659e-4, atol=5e-9)
    chain = js.sgd(problem, learning_rate=eta, sampling="random_reshuffling")
    assert_allclose(theory.stationary_covariance(chain), [[exact]], rtol=1e-9)
    # two gradients of an epoch of M batches, j apart, have −1/(M − 1), and (M − j)/M of the pairs are of one epoch
    orders = np.array(list(itertools.permutations(y)))
    for j in range(1, n):
        within = (orders[:, :-j] * orders[:, j:]).sum(axis=1).mean() / n
        assert_allclose(within, -(n - j) / (n * (n - 1)), rtol=1e-12)


def test_svag_tends_to_the_sde():
    problem, eta = gaussian_design(1.0, 1.0), 0.3
    limit = theory.stationary_covariance(js.sgd_sde(problem, learning_rate=eta))
    assert_allclose(limit, [[eta / (2 - 2 * eta)]], rtol=1e-9)
    for l, ratio in ((1, 1.2727), (2, 1.12), (4, 1.0566), (8, 1.0275), (16, 1.0136)):
        exact = (2 - 2 * eta) / (2 - 2 * eta - eta / l)  # S = (1 − η/l)² S + (η²/l)(2S + 1)
        found = theory.stationary_covariance(js.svag(problem, learning_rate=eta, l=l)) / limit
        assert_allclose(found, [[exact]], rtol=1e-9)
        assert_allclose(exact, ratio, atol=6e-5)


@pytest.mark.parametrize(("eta", "index"), [(0.3, 5.306), (0.5, 2.904), (2 / 3, 2.0), (0.8, 1.546)])
def test_kesten_of_gaussian_regression(eta, index):
    """E|1 − ηx²|^κ = 1 for the index κ: of x ~ N(0, 1) the number, and of 400 quantiles of it the same as theory says."""
    gain = lambda k, x, odds: odds @ np.abs(1 - eta * x * x) ** k - 1
    x = np.linspace(-14, 14, 280_001)
    odds = scipy.stats.norm.pdf(x) * (x[1] - x[0])
    assert_allclose(scipy.optimize.brentq(gain, 0.5, 8, args=(x, odds)), index, atol=6e-4)
    x = scipy.stats.norm.ppf((np.arange(400) + 0.5) / 400)
    problem = js.finite_sum(squared_error, (x[:, None], np.tile([1.0, -1.0], 200)), np.zeros(1))
    exact = scipy.optimize.brentq(gain, 0.5, 12, args=(x, np.full(400, 1 / 400)), xtol=1e-13)
    assert_allclose(theory.tail_index(js.sgd(problem, learning_rate=eta)), exact, rtol=1e-8)


def test_yaidas_relation():
    """⟨Φ·∇L⟩ = (η/2)⟨|ĝ|²⟩ about the minimum, from the stationary covariance, at any η; not with η for η/2."""
    x, y = diabetes()
    residual = x @ np.linalg.lstsq(x, y, rcond=None)[0] - y
    for eta in (0.01, 0.05, 0.3):
        s = theory.stationary_covariance(js.sgd(on_diabetes(), learning_rate=eta))
        squares = ((x**2).sum(axis=1) * (residual**2 + np.einsum("ni,ij,nj->n", x, s, x))).mean()
        assert_allclose(np.trace(x.T @ x @ s) / len(x) / (eta / 2 * squares), 1, rtol=1e-9)


# --- noise that depends on the position -------------------------------------------------------------------------------------------


def test_the_double_well_with_multiplicative_noise():
    eta, problem = 0.3, well(multiplicative)
    density = theory.stationary_density(js.sgd_sde(problem, learning_rate=eta))
    x = np.linspace(-6, 6, 480_001)
    psi = scipy.integrate.cumulative_simpson(2 * (x - x**3) / (eta * (0.2 + x**2)), x=x, initial=0)

    def average(f, power=1.0):
        """Under exp(psi)/σ²ᵖ: Itô's reading for p = 1, Stratonovich's for p = ½."""
        p = np.exp(psi - psi.max()) / (0.2 + x**2) ** power
        return scipy.integrate.simpson(f * p, x=x) / scipy.integrate.simpson(p, x=x)

    assert abs(average(x**2) - 0.79258271) < 6e-9 and abs(average(x**2, 0.5) - 0.95003) < 6e-6
    assert_allclose(density.expectation(np.square), average(x**2), rtol=1e-8)
    loss = (x**2 - 1) ** 2 / 4
    mean = lambda t: (loss @ np.exp(-loss / t)) / np.exp(-loss / t).sum()
    best = scipy.optimize.brentq(lambda t: mean(t) - average(loss), 0.05, 1.0, xtol=1e-14)
    log_p = psi - np.log(0.2 + x**2)
    log_p -= np.log(scipy.integrate.simpson(np.exp(log_p), x=x))
    kl = average(log_p + loss / best) + np.log(scipy.integrate.simpson(np.exp(-loss / best), x=x))
    assert_allclose([best, kl], [0.18812506, 0.04532763], atol=6e-9)
    found = theory.density_kl_to_gibbs(density, problem)
    assert_allclose([found[1], found[0]], [best, kl], rtol=1e-7)
    assert_allclose(theory.temperature_of_loss(problem, average(loss)), best, rtol=1e-8)
    mode, step = np.sqrt(1 - eta), 1e-3  # symmetric about the mode to third order
    above, at, below = density.log_density(np.array([mode + step, mode, mode - step]))
    assert abs(above - below) / (2 * step) < 1e-3 * (at - above) / step**2 and at > max(above, below)
    assert_allclose(density.log_density(-x[::40_000]), density.log_density(x[::40_000]), atol=1e-9)


def test_linear_drift_with_quadratic_noise_is_students_t():
    k, eta, s0, s2 = 1.0, 0.5, 1.0, 0.6
    problem = quadratic(k, lambda p: (s0 + s2 * p**2).reshape(1, 1))
    sde = js.sgd_sde(problem, learning_rate=eta)
    nu = 1 + 2 * k / (eta * s2)
    student = scipy.stats.t(nu, scale=np.sqrt(s0 / s2 / nu))
    density = theory.stationary_density(sde)
    assert_allclose(nu, 7.6667, atol=5e-5)
    assert abs(student.var() - 0.294118) < 6e-7 and abs(student.ppf(0.999) - 2.138) < 6e-4
    assert_allclose(theory.stationary_covariance(sde), [[student.var()]], rtol=1e-9)
    assert_allclose(density.covariance, [[student.var()]], rtol=1e-8)
    assert_allclose(density.quantile(0.999), student.ppf(0.999), rtol=1e-8)
    assert_allclose(theory.tail_index(sde), nu, rtol=1e-9)


def test_the_mean_is_biased_by_the_third_derivative():
    """f' = eˣ − 1, unit noise: −η f‴c/4f″² to leading order; exactly E Φ = ψ(2/η) + log(η/2), as e^Φ is a Gamma variable."""
    problem = js.potential(lambda p: jnp.exp(p[0]) - p[0], np.zeros(1), noise_covariance=1.0)
    for eta, leading in ((0.1, -0.025), (0.05, -0.0125)):
        found = theory.stationary_mean(js.sgd_sde(problem, learning_rate=eta))
        assert_allclose(found, [digamma(2 / eta) + np.log(eta / 2)], rtol=1e-8)
        assert_allclose(found, [leading], atol=eta**2 / 40)


# --- escape -----------------------------------------------------------------------------------------------------------------------


def passage(drift, diffusion, start, end):
    """The mean time from `start` up to `end` of dx = drift dt + √(2·diffusion) dW: the double integral, by Simpson's rule."""
    x = np.concatenate([np.linspace(-4.0, start, 120_001), np.linspace(start, end, 120_001)[1:]])
    psi = scipy.integrate.cumulative_simpson(drift(x) / diffusion(x), x=x, initial=0)
    psi -= psi.max()
    inner = scipy.integrate.cumulative_simpson(np.exp(psi) / diffusion(x), x=x, initial=0)
    return scipy.integrate.simpson((inner * np.exp(-psi))[120_000:], x=x[120_000:])


def test_first_passage_of_the_double_well():
    force, eta = (lambda x: x - x**3), 0.2
    plain, other = js.sgd_sde(well(), learning_rate=eta), js.sgd_sde(well(multiplicative), learning_rate=eta)
    for sde, sigma2, end, value in (
        (plain, lambda x: 1 + 0 * x, 0.0, 30.82130247),
        (plain, lambda x: 1 + 0 * x, 1.0, 66.26862636),
        (other, lambda x: 0.2 + x**2, 0.0, 358.46664),
    ):
        exact = passage(force, lambda x, s=sigma2: eta / 2 * s(x), -1.0, end)
        found = theory.mean_first_passage(sde, -1.0, end)
        assert_allclose(found.mean, exact, rtol=1e-8)
        assert abs(exact - value) < 10.0 ** -(5 if value > 100 else 8)
        assert found.error < 1e-8 * found.mean
    kramers = theory.kramers(well(), eta / 2, -1.0, 1.0)
    assert_allclose(kramers, np.sqrt(2) * np.pi * np.exp(0.25 / (eta / 2)), rtol=1e-10)
    assert_allclose(theory.mean_first_passage(plain, -1.0, 1.0).mean / kramers, 1.2244, atol=5e-5)


def test_a_watch_on_a_grid_moves_the_barrier():
    """By .5826 √(η h σ²), −ζ(½)/√(2π): the bias is O(√h)."""
    eta, h, sigma2 = 0.2, 0.01, 1.0
    zeta = -1.4603545088095868  # ζ(½)
    shift = -zeta / np.sqrt(2 * np.pi) * np.sqrt(eta * h * sigma2)
    assert_allclose(-zeta / np.sqrt(2 * np.pi), 0.5826, atol=5e-5)
    sde = js.sgd_sde(well(), learning_rate=eta)
    seen = theory.mean_first_passage(sde, -1.0, 0.0, watched=h).mean
    assert_allclose(seen, passage(lambda x: x - x**3, lambda x: eta / 2 + 0 * x, -1.0, shift), rtol=1e-7)


def test_occupancy_of_himmelblaus_minima():
    """Isotropic, small noise: odds like det H^−½ at the four minima, all of loss 0."""
    def gradient(p):
        a, b = p[0] ** 2 + p[1] - 11, p[0] + p[1] ** 2 - 7
        return [4 * a * p[0] + 2 * b, 2 * a + 4 * b * p[1]]

    def himmelblau(p):
        return (p[0] ** 2 + p[1] - 11) ** 2 + (p[0] + p[1] ** 2 - 7) ** 2

    minima = [scipy.optimize.root(gradient, g, tol=1e-13).x for g in ((3, 2), (-2.8, 3.1), (-3.8, -3.3), (3.6, -1.8))]
    hessians = [[[12 * u * u + 4 * v - 42, 4 * (u + v)], [4 * (u + v), 12 * v * v + 4 * u - 26]] for u, v in minima]
    odds = np.linalg.det(hessians) ** -0.5
    odds /= odds.sum()
    assert_allclose(odds, [0.3395, 0.2161, 0.1605, 0.2839], atol=5e-5)
    problem = js.potential(himmelblau, np.array([3.0, 2.0]))

    edges = np.linspace(-6, 6, 41)
    quadrants = [theory.gibbs(problem, t).masses((edges, edges)).reshape(2, 20, 2, 20).sum(axis=(1, 3)) for t in (0.4, 0.2)]
    found = np.array([[q[int(u > 0), int(v > 0)] for u, v in minima] for q in quadrants])  # each minimum has its own
    assert_allclose(2 * found[1] - found[0], odds, atol=2e-5)  # what a temperature changes is of first order in it
    assert_allclose(found[1], odds, atol=5e-4)


# --- schemes ----------------------------------------------------------------------------------------------------------------------


def test_euler_maruyama_has_a_variance_of_its_own():
    k, s2, dt = 1.3, 0.7, 0.2
    chain = js.integrate(js.sde(lambda t, x: -k * x, s2, dim=1), dt=dt)
    assert_allclose(theory.stationary_covariance(chain), [[s2 * dt / (1 - (1 - k * dt) ** 2)]], rtol=1e-9)
    assert_allclose(s2 * dt / (1 - (1 - k * dt) ** 2), 0.309461, atol=5e-7)
    assert_allclose(theory.stationary_covariance(js.sde(lambda t, x: -k * x, s2, dim=1)), [[0.269231]], atol=5e-7)


SCHEMES = {  # OU of rate λ: what a step of length h multiplies the mean by, and the variance that it adds over σ²
    "euler_maruyama": (lambda z: 1 - z, lambda z: 1.0, (0.30517578, 0.25645081, 0.2625641)),
    "heun": (lambda z: 1 - z + z**2 / 2, lambda z: (1 - z / 2) ** 2, (0.46746612, 0.19331414, 0.20448541)),
    "sra1": (lambda z: 1 - z + z**2 / 2, lambda z: (1 - z / 2) ** 2 + z**2 / 12, (0.46746612, 0.19674575, 0.20811533)),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_on_an_ornstein_uhlenbeck_process(name):
    """λ = 1.5, σ = .8, x₀ = 2, T = 1, h = ¼: mean, variance, stationary variance."""
    rate, sigma2, h = 1.5, 0.64, 0.25
    factor, added, printed = SCHEMES[name]
    a, q = factor(rate * h), sigma2 * h * added(rate * h)
    chain = js.integrate(js.sde(lambda t, x: -rate * x, sigma2, dim=1), name, dt=h)
    law = theory.transient(chain, [2.0], 4)
    exact = 2 * a**4, q * (1 - a**8) / (1 - a**2), q / (1 - a**2)
    assert_allclose((law.mean[0], law.covariance[0, 0], theory.stationary_covariance(chain)[0, 0]), exact, rtol=1e-8)
    assert_allclose(exact, printed, atol=6e-9)


GEOMETRIC = {"euler_maruyama": (1.60180664, 3.37721164), "milstein": (1.60180664, 3.41775124), "platen": (1.6467669, 3.85501275)}


@pytest.mark.parametrize("name", GEOMETRIC)
def test_schemes_on_a_geometric_brownian_motion(name):
    """a = .5, b = .6, h = ¼, T = 1: E x and E x² from moments of a step's factor (rms distances are in `test_integrators`)."""
    a, b, h = 0.5, 0.6, 0.25
    nodes, odds = np.polynomial.hermite_e.hermegauss(20)
    w, odds = nodes * np.sqrt(h), odds / odds.sum()
    factor = 1 + a * h + b * w
    if name == "milstein":
        factor = factor + b * b * (w * w - h) / 2
    if name == "platen":
        root = np.sqrt(h)
        up, down = 1 + a * h + b * root, 1 + a * h - b * root
        factor = 1 + (a + a * factor) * h / 2 + (b * up + b * down + 2 * b) * w / 4 + (b * up - b * down) * (w * w - h) / 4 / root
    exact = (odds @ factor) ** 4, (odds @ factor**2) ** 4
    assert_allclose(exact, GEOMETRIC[name], atol=6e-9)
    law = theory.transient(js.integrate(js.sde(lambda t, x: a * x, lambda x: b * x, dim=1), name, dt=h), [1.0], 4)
    assert_allclose((law.mean[0], law.covariance[0, 0] + law.mean[0] ** 2), exact, rtol=1e-8)


@pytest.mark.parametrize("h", [0.1, 0.4, 0.8])
def test_baoab_has_the_positions_of_a_harmonic_well_exactly(h):
    k, temperature = 4.0, 0.7
    sde = js.underdamped(quadratic(k), temperature=temperature, friction=1.3)
    chain = js.integrate(sde, js.BAOAB(), dt=h)
    assert_allclose(theory.stationary_covariance(chain), [[temperature / k]], rtol=1e-8)
    assert_allclose(temperature / k, 0.175)


def test_orders_of_the_modified_equations():
    """f = x²/2 at T = 2 on a quadratic, η = .2 … .0125: the SDEs of order 1 and 2 are off by η and η²."""
    problem, start, rates = quadratic(1.3, 0.7), 3.0, 0.1 / 2.0 ** np.arange(4)

    def half_square(chain, steps):
        law = theory.transient(chain, [start], steps)
        return (law.covariance[0, 0] + law.mean[0] ** 2) / 2

    for order in (1, 2):
        off = []
        for eta in rates:
            model = js.integrate(js.sgd_sde(problem, learning_rate=eta, order=order), js.ExactLinear(), dt=0.5)
            off.append(abs(half_square(js.sgd(problem, learning_rate=eta), round(2 / eta)) - half_square(model, 4)))
        slopes = np.log2(off[:-1]) - np.log2(off[1:])
        gap = np.abs(slopes - order)
        assert gap[-1] < 0.05 and (np.diff(gap) < 0).all()


def test_a_frozen_covariance_breaks_the_variance_and_not_the_mean():
    """Of least squares at T = 2, as η falls: its relative error goes to zero in the mean, and to a number in the variance."""
    problem, start = gaussian_design(1.0, 1.0), [3.0]
    means, variances = [], []
    for eta in (0.05, 0.025, 0.0125):
        sgd = theory.transient(js.sgd(problem, learning_rate=eta), start, round(2 / eta))
        frozen = js.integrate(js.sgd_sde(problem, learning_rate=eta, frozen_at=[0.7]), js.ExactLinear(), dt=0.5)
        law = theory.transient(frozen, start, 4)
        means.append(law.mean[0] / sgd.mean[0] - 1)
        variances.append(law.covariance[0, 0] / sgd.covariance[0, 0] - 1)
    assert_allclose(np.divide(means[:-1], means[1:]), 2, atol=0.1)
    # with m = .7 + 2.3 e^−t: Var' = −2 Var + η(1 + 2(2.3)² e^−2t) for SGD as η → 0, without the last term when it is frozen
    limit = (1 - np.exp(-4)) / 2 / ((1 - np.exp(-4)) / 2 + 2 * 2 * 2.3**2 * np.exp(-4)) - 1
    assert_allclose(2 * variances[2] - variances[1], limit, rtol=0.01)


def test_sign_sgd():
    """g = hx + s z: the chain jumps by ±η, up with odds Φ(−hx/s), on a lattice; its variance is (η/2)√(π/2) s/h to leading order."""
    h, s, eta = 1.0, 1.0, 0.02
    x = eta * np.arange(-60, 61)
    up = scipy.stats.norm.sf(h * x / s)
    birth = np.concatenate([[0], np.cumsum(np.log(up[:-1]) - np.log(1 - up[1:]))])  # detailed balance of neighbours
    p = np.exp(birth - birth.max())
    p /= p.sum()
    leading = eta / 2 * np.sqrt(np.pi / 2) * s / h
    assert_allclose(leading, 0.012533, atol=5e-7)
    assert_allclose(p @ x**2, leading, rtol=0.02)
    # the SDE: drift −erf(x/√2), variance η(1 − erf²)
    sde = js.sign_sgd_sde(quadratic(h, s**2), learning_rate=eta)
    x = np.linspace(-1.5, 1.5, 30_001)
    drift, variance = -erf(x / np.sqrt(2)), eta * (1 - erf(x / np.sqrt(2)) ** 2)
    p = np.exp(scipy.integrate.cumulative_simpson(2 * drift / variance, x=x, initial=0) + 100) / variance
    exact = scipy.integrate.simpson(p * x**2, x=x) / scipy.integrate.simpson(p, x=x)
    assert_allclose(theory.stationary_covariance(sde), [[exact]], rtol=1e-8)
    assert_allclose(exact, leading, rtol=0.02)


# --- sums of noises, and distances -------------------------------------------------------------------------------------------------


def kolmogorov(n):
    """Of the sum of n signs over √n to the normal law: the largest gap at a jump."""
    mass = np.array([comb(n, k) for k in range(n + 1)]) / 2.0**n
    normal = scipy.stats.norm.cdf((2 * np.arange(n + 1) - n) / np.sqrt(n))
    return max(np.abs(np.cumsum(mass) - normal).max(), np.abs(np.cumsum(mass) - mass - normal).max())


@pytest.mark.parametrize(("n", "distance"), [(1, 0.34134475), (4, 0.1875), (16, 0.09819031), (64, 0.04967338)])
def test_sums_of_gradient_noises_tend_to_a_gaussian(n, distance):
    """N steps of SGD with noise ±1 on a flat loss: standard deviation √N, and the Kolmogorov distance to the normal law."""
    assert_allclose(kolmogorov(n), distance, atol=5e-9)
    flat = js.potential(lambda p: 0 * p[0], np.zeros(1), noise_covariance=1.0)
    chain = js.sgd(flat, learning_rate=1.0, sampling="two_point")
    assert_allclose(theory.transient(chain, [0.0], n).covariance, [[n]], rtol=1e-10)
    chains = 1 << 16
    sums = np.round(js.simulate(chain, np.zeros(1), key=js.key(3), chains=chains, steps=n).positions[:, 0])
    assert abs((sums**2).mean() - n) <= 5 * np.sqrt(2 * n * (n - 1) / chains)  # E S⁴ = 3n² − 2n
    values, counts = np.unique(sums, return_counts=True)
    at, normal = np.cumsum(counts) / chains, scipy.stats.norm.cdf(values / np.sqrt(n))
    measured = max(np.abs(at - normal).max(), np.abs(at - counts / chains - normal).max())
    reach = np.sqrt(np.log(2 / 5.7e-7) / (2 * chains))  # Dvoretzky, Kiefer, Wolfowitz: as rare as five standard errors
    assert abs(measured - distance) <= reach
    assert n > 4 or abs(measured - kolmogorov(4 * n)) > reach


def test_gaussian_divergences():
    assert_allclose(theory.gaussian_kl([0], [[1]], [1], [[4]]), np.log(2) - 0.25, rtol=1e-12)
    assert_allclose(np.log(2) - 0.25, 0.4431472, atol=5e-8)
    assert_allclose(theory.gaussian_kl([0, 0], np.eye(2), [0, 0], [[1, 1], [1, 2]]), 0.5, rtol=1e-12)
