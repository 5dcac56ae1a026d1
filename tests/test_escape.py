"""Times of first passage on the line: known answers, closed forms, quadrature in NumPy, and what a watch on a grid sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose
from scipy.integrate import cumulative_simpson
from scipy.special import erf

import jaxsde as js
import jaxsde.theory as theory
from jaxsde.dynamics.equations import brownian, sde, sgd_sde
from jaxsde.problems.problem import potential


@pytest.fixture(autouse=True)
def double():
    """Objects in float64: by default a learning rate of 0.2 is a float32, and a barrier of many kT feels it."""
    with jax.enable_x64(True):
        yield


def well(noise=1.0):
    return potential(lambda phi: jnp.sum((phi**2 - 1) ** 2) / 4, jnp.ones(1), noise_covariance=noise)


def by_simpson(f, d, start, end, far, count=60_001):
    """Mean and variance from `start` up to `end`: nested integrals on a uniform grid from `far`, in NumPy."""
    x = np.linspace(far, end, count)
    f, d = f(x), d(x)
    psi = cumulative_simpson(f / d, x=x, initial=0)
    psi -= psi.max()
    m, s = np.exp(psi) / d, np.exp(-psi)

    def solve(source):
        """u with L u = −source, u(end) = 0 and no current from far away."""
        slope = s * cumulative_simpson(source * m, x=x, initial=0)
        total = cumulative_simpson(slope, x=x, initial=0)
        return total[-1] - total

    time = solve(np.ones(count))
    second = solve(2 * time)
    at = np.interp(start, x, np.arange(count))
    mean, square = (np.interp(at, np.arange(count), v) for v in (time, second))
    return mean, square - mean**2


def test_the_double_well():
    process = sgd_sde(well(), learning_rate=0.2)
    first, second = (theory.mean_first_passage(process, -1.0, end) for end in (0.0, 1.0))
    assert_allclose([first.mean, second.mean], [30.82130247, 66.26862636], rtol=2e-10)
    # past the top it may fall back: more than the two halves, each of which is left at once
    law = theory.eyring_kramers(well(), 0.1, -1.0, 1.0)
    assert_allclose(law.time, np.sqrt(2) * np.pi * np.exp(2.5), rtol=1e-12)
    assert_allclose([law.minimum, law.saddle], [[-1], [0]], atol=1e-9)
    assert_allclose(second.mean / law.time, 1.2244, rtol=5e-5)
    assert_allclose(theory.kramers(well(), 0.1, -1.0, saddle=0.1), law.time, rtol=1e-12)
    assert first.error < 1e-9 * first.mean
    # the mirror image
    assert_allclose(theory.mean_first_passage(process, 1.0, -1.0).mean, second.mean, rtol=1e-12)


def test_noise_that_grows_with_the_distance():
    # to the top of the barrier; to the other minimum it is twice as long and a little more
    process = sgd_sde(well(lambda phi: 0.2 + phi**2), learning_rate=0.2)
    assert_allclose(theory.mean_first_passage(process, -1.0, 0.0).mean, 358.46664, rtol=1e-8)
    for end in (0.0, 1.0):
        found = theory.mean_first_passage(process, -1.0, end)
        mean, variance = by_simpson(lambda x: x - x**3, lambda x: 0.1 * (0.2 + x**2), -1.0, end, -5.0)
        assert_allclose([found.mean, found.variance], [mean, variance], rtol=1e-8)
        twin = by_simpson(lambda x: x - x**3 - 0.1 * x, lambda x: 0.1 * (0.2 + x**2), -1.0, end, -5.0)
        assert abs(twin[0] / found.mean - 1) > 0.05  # the Stratonovich reading is another process


def test_a_tilted_well_with_a_learning_rate_and_a_batch_size():
    problem = potential(lambda x: x[0] ** 4 / 4 - 0.3 * x[0] ** 3 - x[0] ** 2 + 0.2 * x[0], jnp.ones(1), noise_covariance=lambda x: 1 + jnp.sin(x) ** 2)
    process = sgd_sde(problem, learning_rate=0.9, batch_size=2)
    found = theory.mean_first_passage(process, -0.9, 1.1)
    mean, variance = by_simpson(lambda x: -(x**3 - 0.9 * x**2 - 2 * x + 0.2), lambda x: 0.225 * (1 + np.sin(x) ** 2), -0.9, 1.1, -4.0)
    assert_allclose([found.mean, found.variance], [mean, variance], rtol=1e-8)


def test_brownian_motion_and_drift():
    found = theory.mean_first_passage(brownian(1, scale=1.3), 0.2, (1.0, -0.5))
    assert_allclose([found.mean, found.upper], [0.7 * 0.8 / 1.69, 0.7 / 1.5], rtol=1e-12)
    # E τ² of Brownian motion between two ends: u″ σ²/2 = −2T
    a, b = 0.7, 0.8
    assert_allclose(found.variance, a * b * (a**2 + b**2) / 3 / 1.69**2, rtol=1e-12)
    n, t = np.arange(1, 60), np.array([0.01, 0.1, 0.5, 2.0])
    terms = 2 * (1 - (-1.0) ** n) / (n * np.pi) * np.sin(n * np.pi * a / 1.5)
    exact = np.exp(-np.multiply.outer(t, 1.69 * (n * np.pi / 1.5) ** 2 / 2)) @ terms
    assert_allclose(found.survival(t), exact, atol=2e-8)
    # with drift μ up to a level: inverse Gaussian
    drifting = sde(lambda t, x: jnp.full(1, 0.8), 0.5, dim=1)
    found = theory.mean_first_passage(drifting, 0.0, 2.0)
    assert_allclose([found.mean, found.variance], [2.5, 2 * 0.5 / 0.8**3], rtol=1e-12)
    law, t = scipy.stats.invgauss(mu=2.5 / 8, scale=8.0), np.array([0.3, 1.0, 3.0, 10.0])
    assert_allclose(found.survival(t), law.sf(t), atol=2e-9)
    assert_allclose(found.density(t), law.pdf(t), atol=1e-8)


def test_the_law_of_an_ornstein_uhlenbeck_passage():
    # to its centre, by reflection: S(t) = erf(m/√(2v)), m and v the mean and variance of the free process
    k, d = 1.3, 0.07
    process = sgd_sde(potential(lambda x: k * x @ x / 2, jnp.ones(1), noise_covariance=0.7), learning_rate=0.2)
    found, t = theory.mean_first_passage(process, 1.0, 0.0), np.array([0.0, 0.1, 0.5, 1.0, 2.0, 4.0])
    exact = np.r_[1.0, erf(np.exp(-k * t[1:]) / np.sqrt(2 * d / k * (1 - np.exp(-2 * k * t[1:]))))]
    assert_allclose(found.survival(t), exact, atol=1e-9)
    line = np.linspace(0, 25, 20_001)
    assert_allclose(cumulative_simpson(found.survival(line), x=line)[-1], found.mean, rtol=1e-7)
    assert found.survival([[1.0], [2.0]]).shape == (2, 1)
    other = sgd_sde(potential(lambda x: k * x @ x / 2, jnp.ones(1), noise_covariance=0.735), learning_rate=0.2)
    assert np.abs(theory.mean_first_passage(other, 1.0, 0.0).survival(t) - exact).max() > 1e-3  # noise × 1.05


def test_high_barriers_lose_no_digit():
    # exact/Kramers − 1 is linear in T: its slope at 125 kT and at 250 kT, where the time is e^250
    slope = []
    for temperature in (0.002, 0.001):
        process = sgd_sde(well(), learning_rate=2 * temperature)
        slope.append((theory.mean_first_passage(process, -1.0, 1.0).mean / theory.kramers(well(), temperature, -1.0, 1.0) - 1) / temperature)
    assert_allclose(slope[0], slope[1], rtol=0.03)
    # the correction of a double well: (3/8) [L⁗/L″² at both] + (5/24)[L‴²/L″³ …], here 12/8 · T
    assert_allclose(2 * slope[1] - slope[0], 1.5, rtol=2e-3)


def test_the_saddle_of_a_sheared_valley():
    c, a, kt = 1.7, 0.6, 0.02

    def loss(p):
        return (p[0] ** 2 - 1) ** 2 / 4 + c / 2 * (p[1] - a * p[0]) ** 2

    law = theory.eyring_kramers(potential(loss, jnp.ones(2)), kt, [-1.0, -0.5], [1.0, 0.7])
    top = np.array([[-1 + c * a**2, -c * a], [-c * a, c]])
    expected = 2 * np.pi / -np.linalg.eigvalsh(top)[0] * np.sqrt(c / (2 * c)) * np.exp(0.25 / kt)
    assert_allclose(law.time, expected, rtol=1e-9)
    assert_allclose(law.minimum, [-1, -a], atol=1e-8)
    assert_allclose([law.saddle, [law.barrier, 0]], [[0, 0], [0.25, 0]], atol=1e-8)


def seen_by_a_watch(step, start, end, k, variance):
    """Mean time until an Ornstein–Uhlenbeck process, seen every `step`, is seen above `end`: Nyström, in NumPy."""
    shrink, sd = np.exp(-k * step), np.sqrt(variance * (1 - np.exp(-2 * k * step)))
    nodes, weights = np.polynomial.legendre.leggauss(400)
    lo = -8 * np.sqrt(variance)
    y = lo + (end - lo) * (nodes + 1) / 2
    kernel = lambda x: scipy.stats.norm.pdf((y - shrink * np.asarray(x)[:, None]) / sd) / sd * weights * (end - lo) / 2
    tau = np.linalg.solve(np.eye(len(y)) - kernel(y), np.ones(len(y)))
    return step * float(1 + (kernel([start]) @ tau)[0])


def test_what_a_watch_on_a_grid_misses():
    k, eta, s2, end = 1.0, 0.4, 0.8, 0.9
    process = sgd_sde(potential(lambda x: k * x @ x / 2, jnp.ones(1), noise_covariance=s2), learning_rate=eta)
    plain, steps = theory.mean_first_passage(process, -0.2, end).mean, np.array([0.04, 0.02, 0.01])
    exact = np.array([seen_by_a_watch(h, -0.2, end, k, eta * s2 / (2 * k)) for h in steps])
    corrected = np.array([theory.mean_first_passage(process, -0.2, end, watched=h).mean for h in steps])
    shift = 0.5825971579390107 * np.sqrt(eta * s2 * steps)
    assert_allclose(corrected, [theory.mean_first_passage(process, -0.2, end + d).mean for d in shift], rtol=1e-10)
    raw, left = exact - plain, np.abs(exact - corrected)
    assert (raw > 0).all() and 1.3 < raw[0] / raw[1] < 1.55  # O(√h)
    assert (left < steps / 4).all() and (raw > 8 * np.sqrt(steps)).all()  # O(h): what is left is a thousandth
    half = theory.mean_first_passage(process, -0.2, end, watched=steps[2] / 1.05**2).mean
    assert abs(half - exact[2]) > 20 * left[2]  # the shift over 1.05 is seen


@pytest.mark.parametrize(
    "ask, says",
    [
        (lambda p: theory.mean_first_passage(p, 0.5, 0.5), "passage time is 0"),
        (lambda p: theory.mean_first_passage(p, 2.0, (0.0, 1.0)), "does not lie between"),
        (lambda p: theory.mean_first_passage(p, 0.0, np.inf), "target must be"),
        (lambda p: theory.mean_first_passage(p, [0.0, 1.0], 1.0), "start"),
        (lambda p: theory.mean_first_passage(p, 0.0, "far"), "target must be"),
        (lambda p: theory.mean_first_passage(p, 0.0, 1.0, box=(-1, 1)), "integrated to infinity"),
        (lambda p: theory.mean_first_passage(p, 0.0, 1.0, watched=-1.0), "watched"),
        (lambda p: theory.mean_first_passage(p, 0.0, 1.0).survival(-1.0), "at least 0"),
        (lambda p: theory.mean_first_passage(p, 0.0, 1.0).density(0.0), "positive"),
        (lambda p: theory.mean_first_passage(brownian(1, scale=1.0), 0.0, 1.0), "infinite"),
        (lambda p: theory.mean_first_passage(sgd_sde(potential(lambda x: jnp.sin(x[0]), jnp.ones(1), noise_covariance=1.0), learning_rate=0.1), 0.5, 1.0), "infinite"),
        (lambda p: theory.mean_first_passage(brownian(2, scale=1.0), [0.0, 0.0], 1.0), "function of the position"),
        (lambda p: theory.mean_first_passage(brownian(4, scale=1.0), np.zeros(4), lambda x: x[0] - 1), "simulate"),
        (lambda p: theory.eyring_kramers(p.problem, 0.1, -1.0), "saddle=…"),
        (lambda p: theory.eyring_kramers(p.problem, 0.1, -1.0, -0.9), "one minimum"),
        (lambda p: theory.eyring_kramers(p.problem, 0.1, -1.0, saddle=1.0), "no saddle"),
        (lambda p: theory.eyring_kramers(p.problem, 0.0, -1.0, 1.0), "temperature"),
    ],
)
def test_what_has_no_answer_is_said(ask, says):
    with pytest.raises(ValueError, match=says):
        ask(sgd_sde(well(), learning_rate=0.2))


def test_a_process_that_is_no_process():
    with pytest.raises(TypeError):
        js.theory.mean_first_passage(well(), 0.0, 1.0)
