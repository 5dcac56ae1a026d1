"""The Fokker–Planck equation on grids against laws that are known: Gaussians that rotate, Gibbs laws under a D(x) with varying
cross terms, quadrature on the line, tori, intervals. Errors fall at second order, and what is extrapolated is within its error bar.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

import jaxsde as js
from jaxsde.theory import Refined, fokker_planck
from jaxsde.theory.diffusion.lattice import Grid, jumps
from jaxsde.theory.diffusion.markov import stationary

H = np.array([[1.0, 0.3], [0.3, 2.0]])
C = np.array([[2.0, -0.5], [-0.5, 0.6]])
H3 = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, 0.2], [0.0, 0.2, 1.5]])
C3 = np.array([[1.0, -0.3, 0.2], [-0.3, 0.6, 0.1], [0.2, 0.1, 0.8]])
TURN = np.array([[0.0, 1.0], [-1.0, 0.0]])


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def quadratic(h, c, eta):
    return js.sgd_sde(js.potential(lambda x: 0.5 * x @ h @ x, np.zeros(len(h)), noise_covariance=c), learning_rate=eta)


def well(x):
    return 0.25 * (x[0] ** 2 - 1) ** 2 + 0.5 * (x[1] - 0.3 * x[0]) ** 2


def metric(x):
    """A mobility whose cross term changes its sign."""
    cross = 0.4 * jnp.sin(x[0] + x[1])
    return jnp.array([[1 + 0.5 * jnp.sin(x[1]) ** 2, cross], [cross, 0.7 + 0.3 * jnp.cos(x[0]) ** 2]])


def multiplicative(eta=0.3):
    problem = js.potential(
        lambda x: 0.25 * (x[0] ** 2 - 1) ** 2, np.ones(1), noise_covariance=lambda x: (0.2 + x**2)[:, None]
    )
    return js.sgd_sde(problem, learning_rate=eta)


def gaussian_kl(s, h, t):
    """KL(N(0, s)‖exp(−½ x·h x/t)) in nats, and the other way."""
    ratio = s @ h / t
    log_det = np.linalg.slogdet(ratio)[1]
    return (np.trace(ratio) - len(s) - log_det) / 2, (np.trace(np.linalg.inv(ratio)) - len(s) + log_det) / 2


def within(found, exact, noise=1e-12):
    """The error is not above its bar."""
    assert isinstance(found, Refined)
    off = np.abs(np.asarray(found.value) - exact)
    assert (off <= np.asarray(found.error) + noise).all(), (off, found.error)


# name: (sde, log of an unnormalised density on points, box, cells)
def laws():
    rotating = lambda t, x: (-np.eye(2) + 1.5 * TURN) @ x
    c = np.array([[1.0, 0.4], [0.4, 0.6]])
    s = js.theory.lyapunov(-np.eye(2) + 1.5 * TURN, c)
    plain = js.potential(well, np.ones(2))
    return {
        "rotating": (
            js.sde(rotating, c, dim=2),
            lambda x: -0.5 * np.einsum("ni,ij,nj->n", x, np.linalg.inv(s), x),
            (-5.0, 5.0),
            (48, 96),
        ),
        "cross terms that vary": (
            js.langevin(plain, temperature=0.2, preconditioner=metric),
            lambda x: -well(x.T) / 0.2,
            ([-2.6, -3.0], [2.6, 3.0]),
            (48, 96),
        ),
        "multiplicative": (multiplicative(), line_log_density, (-3.5, 3.5), (128, 256)),
        "in space": (
            quadratic(H3, C3, 0.1),
            lambda x: -0.5 * np.einsum("ni,ij,nj->n", x, np.linalg.inv(js.theory.lyapunov(-H3, 0.1 * C3)), x),
            -6 * np.sqrt(np.diag(js.theory.lyapunov(-H3, 0.1 * C3))) * np.array([[1], [-1]]),
            (16, 24),
        ),
    }


def line_log_density(x):
    """log p = ∫ 2f/(ησ²) − log σ² by hand: f = x − x³, σ² = 1/5 + x², so ∫ 2f/σ² = −x² + 6/5 log(1/5 + x²)."""
    x = np.asarray(x).ravel()
    return (-(x**2) + 1.2 * np.log(0.2 + x**2)) / 0.3 - np.log(0.2 + x**2)


def total_variation(law, log_density):
    exact = np.exp(log_density(law.points) - log_density(law.points).max())
    return np.abs(law.density.ravel() * law.grid.volume - exact / exact.sum()).sum() / 2


@pytest.mark.parametrize("name", ["rotating", "cross terms that vary", "multiplicative", "in space"])
def test_densities_are_positive_keep_mass_and_converge_at_second_order(name):
    sde, log_density, box, counts = laws()[name]
    errors = []
    for n in counts:
        law = fokker_planck(sde, box, cells=n)
        assert (law.density > 0).all()
        assert_allclose(law.density.sum() * law.grid.volume, 1, rtol=1e-13)
        errors.append(total_variation(law, log_density))
        assert errors[-1] < 1.5 * law.density_error < 4 * errors[-1]
    assert_allclose(np.log(errors[0] / errors[1]) / np.log(counts[1] / counts[0]), 2, atol=0.1)
    # Extrapolated, log p is better by far, between the centres, too. (In space splines through so few cells are no better.)
    x = law.points[law.density.ravel() > 1e-3 * law.density.max()][::7] + 0.3 * law.grid.size
    gap = law.log_density(x) - log_density(x)
    raw = law._levels[0].log_p(x) - log_density(x)
    assert np.ptp(gap) < (0.2 if law.dim < 3 else 0.6) * np.ptp(raw)


@pytest.mark.parametrize("wrong", ["half the noise", "cross term turned", "noise ×1.05"])
def test_a_wrong_noise_is_far_outside_the_error_bar(wrong):
    c = {"half the noise": C / 2, "cross term turned": C * (1 - 2 * np.abs(TURN)), "noise ×1.05": 1.05 * C}[wrong]
    law = fokker_planck(quadratic(H, c, 0.1), cells=64)
    off = np.abs(law.covariance - js.theory.lyapunov(-H, 0.1 * C))
    assert (off > 20 * law.covariance_error).any()
    assert (np.abs(law.covariance - js.theory.lyapunov(-H, 0.1 * c)) <= law.covariance_error).all()


@pytest.fixture(scope="module")
def law():
    return fokker_planck(quadratic(H, C, 0.1), cells=128)


def test_everything_of_a_gaussian(law):
    s = js.theory.lyapunov(-H, 0.1 * C)
    d, q, t = 0.05 * C, H @ s - 0.05 * C, np.trace(H @ s) / 2
    assert law.outside < 1e-10 and t == pytest.approx(0.065)
    within(Refined(law.mean, law.mean_error), 0)
    within(Refined(law.covariance, law.covariance_error), s)
    within(law.expectation(lambda x: x[:, 0] ** 2 * x[:, 1] ** 2), s[0, 0] * s[1, 1] + 2 * s[0, 1] ** 2)
    forward, _ = gaussian_kl(s, H, t)
    assert forward == pytest.approx(0.28763678, abs=1e-8)
    within(law.best_temperature(), t)
    within(law.kl_to_gibbs(), forward)
    back = 2 / np.trace(np.linalg.inv(s @ H))
    within(law.best_temperature(direction="reverse"), back, 1e-9)
    within(law.kl_to_gibbs(direction="reverse"), gaussian_kl(s, H, back)[1])
    for direction, exact in zip(("forward", "reverse"), gaussian_kl(s, H, 0.05), strict=True):
        within(law.kl_to_gibbs(temperature=0.05, direction=direction), exact)
    entropy = np.trace(np.linalg.inv(d) @ q @ np.linalg.inv(s) @ q.T)
    assert entropy == pytest.approx(0.0022456140, abs=1e-10)
    within(law.entropy_production(), entropy)
    within(law.area_rates(), q)
    assert q[0, 1] == pytest.approx(1 / 750)
    # J = Q S⁻¹ x p, up to the error of one grid
    x = law.points
    exact = -(x @ np.linalg.inv(s) @ q.T) * np.exp(law.log_density(x))[:, None]
    assert_allclose(law.current.reshape(-1, 2), exact, atol=0.02 * np.abs(exact).max())
    axis, line = law.marginal(1)
    assert_allclose(line, np.exp(-(axis**2) / 2 / s[1, 1]) / np.sqrt(2 * np.pi * s[1, 1]), atol=0.01 * line.max())


@pytest.mark.slow
def test_gibbs_laws_that_leave_the_box():
    """What of Gibbs lies outside of the box is in the error bar of the reverse KL, and much of it is refused; a larger box has it."""
    s = 0.05 * np.diag([1.6, 0.4])
    law = fokker_planck(quadratic(np.eye(2), np.diag([1.6, 0.4]), 0.1), cells=64)
    found = law.kl_to_gibbs(temperature=0.05, direction="reverse")
    within(found, gaussian_kl(s, np.eye(2), 0.05)[1])
    assert found.error > 1e-5
    law = fokker_planck(quadratic(np.eye(2), np.diag([1.9, 0.1]), 0.1), cells=64)
    within(law.kl_to_gibbs(), gaussian_kl(0.05 * np.diag([1.9, 0.1]), np.eye(2), 0.05)[0], 1e-10)
    with pytest.raises(ValueError, match="lies outside the box"):
        law.kl_to_gibbs(temperature=0.05, direction="reverse")
    law = fokker_planck(quadratic(np.eye(2), np.diag([1.6, 0.4]), 0.1), (-1.8, 1.8), cells=96)
    within(law.kl_to_gibbs(temperature=0.05, direction="reverse"), gaussian_kl(s, np.eye(2), 0.05)[1], 1e-9)


def test_entropy_of_the_second_known_law():
    law = fokker_planck(quadratic(np.array([[2, 0.6], [0.6, 0.5]]), np.array([[1, -0.4], [-0.4, 0.3]]), 0.02), cells=160)
    within(law.kl_to_gibbs(), 0.16054458)
    within(law.entropy_production(), 2.97257143)


def test_the_rates_of_a_gaussian(law):
    """Sums of the eigenvalues of the drift; complex ones of a drift that turns."""
    slow, fast = np.linalg.eigvalsh(H)
    within(law.spectral_gap(), slow)
    within(law.relaxation_rates(4), [slow, 2 * slow, fast, 3 * slow], 1e-9)
    turning = fokker_planck(js.sde(lambda t, x: (-np.eye(2) + 3 * TURN) @ x, np.eye(2), dim=2), cells=96)
    within(turning.relaxation_rates(5), [1 - 3j, 1 + 3j, 2, 2 - 6j, 2 + 6j], 1e-9)
    assert np.abs(law.relaxation_rates(1).value - 1.05 * slow) > 20 * law.relaxation_rates(1).error


def test_evolution_of_a_gaussian(law):
    """m(t) = e^(−Ht) x₀, S(t) = S − e^(−Ht) S e^(−Ht) from a point and from a Gaussian; mass to rounding, nothing negative."""
    s, start = js.theory.lyapunov(-H, 0.1 * C), np.array([0.31, -0.12])
    times = [0.0, 0.2, 1.0, 30.0]
    narrow = np.diag([0.01, 0.004])
    cloud = lambda x: 7 * np.exp(-((x - start) ** 2 / np.diag(narrow)).sum(axis=1) / 2)
    for first, variance in ((start, np.zeros((2, 2))), (cloud, narrow)):
        found = law.evolve(first, times)
        assert (found.density >= 0).all()
        assert_allclose(found.mass, 1, rtol=1e-12)
        for k, t in enumerate(times):
            flow = scipy.linalg.expm(-H * t)
            within(Refined(found.mean[k], found.mean_error[k]), flow @ start, 1e-6 * abs(start).max())
            within(Refined(found.covariance[k], found.covariance_error[k]), s + flow @ (variance - s) @ flow.T, 1e-6 * s.max())
    assert np.abs(found.density[-1] - law.density).max() < 1e-6 * law.density.max()


def test_gibbs_law_under_a_mobility_that_varies():
    """Langevin with P(x): KL 0, no current, and the same law as without P; E x₀² by quadrature."""
    law = js.theory.stationary_density(laws()["cross terms that vary"][0])
    assert isinstance(law, js.theory.FokkerPlanck)
    within(law.kl_to_gibbs(), 0)
    within(law.kl_to_gibbs(direction="reverse"), 0)
    within(law.best_temperature(), 0.2)
    within(law.area_rates(), 0)
    assert law.entropy_production().value < 1e-8
    x = np.linspace(-4, 4, 4001)
    weight = np.exp(-0.25 * (x**2 - 1) ** 2 / 0.2)
    within(law.expectation(lambda y: y[:, 0] ** 2), (weight @ x**2) / weight.sum())


def test_multiplicative_noise_on_the_line():
    sde = multiplicative()
    law, exact = fokker_planck(sde), js.theory.stationary_density(sde)
    assert exact.expectation(lambda x: x**2) == pytest.approx(0.79258271, abs=5e-9)
    within(law.expectation(lambda x: x[:, 0] ** 2), exact.expectation(lambda x: x**2), 1e-10)
    kl, t = js.theory.density_kl_to_gibbs(exact, sde.problem)
    assert (kl, t) == (pytest.approx(0.04532763, abs=5e-9), pytest.approx(0.18812506, abs=5e-9))
    within(law.best_temperature(), t, 1e-10)
    within(law.kl_to_gibbs(), kl, 1e-10)
    assert law.entropy_production().value < 1e-20
    x = np.linspace(-2, 2, 101)
    assert_allclose(law.log_density(x), exact.log_density(x), atol=1e-7)
    # quadrature to ten digits, against a sum of the formula by hand (the trapezoidal rule on the whole line)
    y = np.linspace(-5, 5, 20001)
    p = np.exp(line_log_density(y))
    assert exact.expectation(lambda x: x**2) == pytest.approx((p @ y**2) / p.sum(), rel=1e-10)


@pytest.mark.slow
def test_minibatch_noise_of_data():
    """SGD's SDE on least squares, Σ(Φ) from the examples: the exact equation for second moments does without a grid."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 2)) @ np.array([[1, 0.4], [0, 0.8]])
    y = x @ [1.0, -0.5] + 0.7 * rng.normal(size=60)
    problem = js.finite_sum(lambda phi, e: 0.5 * (e[0] @ phi - e[1]) ** 2, (x, y), np.zeros(2))
    sde = js.sgd_sde(problem, learning_rate=0.05, batch_size=2)
    law = fokker_planck(sde, cells=128)
    within(Refined(law.mean, law.mean_error), js.theory.stationary_mean(sde), 1e-9)
    within(Refined(law.covariance, law.covariance_error), js.theory.stationary_covariance(sde), 1e-9)
    within(law.area_rates(), js.theory.area_rates(sde), 1e-9)


def test_three_dimensions():
    law = fokker_planck(quadratic(H3, C3, 0.1), cells=32)
    s = js.theory.lyapunov(-H3, 0.1 * C3)
    d, q, t = 0.05 * C3, H3 @ s - 0.05 * C3, np.trace(H3 @ s) / 3
    within(Refined(law.covariance, law.covariance_error), s)
    within(law.kl_to_gibbs(), gaussian_kl(s, H3, t)[0])
    within(law.entropy_production(), np.trace(np.linalg.inv(d) @ q @ np.linalg.inv(s) @ q.T))
    within(law.area_rates(), q)


def test_a_torus_with_a_constant_current():
    """Constant f and D: p = 1, J = f, entropy f·D⁻¹f, rates k·Dk ± i k·f for k in 2πZ²."""
    f = np.array([0.7, -0.4])
    law = fokker_planck(js.sde(lambda t, x: f + 0 * x, np.array([[1.0, 0.3], [0.3, 0.5]]), dim=2), (0, 1), "periodic", 48)
    d = np.array([[1.0, 0.3], [0.3, 0.5]]) / 2
    assert_allclose(law.density, 1, rtol=1e-10)
    assert_allclose(law.current, np.broadcast_to(f, law.current.shape), rtol=1e-9)
    within(law.mean_velocity(), f)
    within(law.entropy_production(), f @ np.linalg.solve(d, f))
    k = 2 * np.pi * np.array([[0, 1], [0, -1], [-1, 1], [1, -1]])
    exact = np.einsum("ki,ij,kj->k", k, d, k) + 1j * k @ f
    within(law.relaxation_rates(4), exact, 1e-9)


def test_a_ring_with_a_tilted_potential():
    """dx = (F − cos x) dt + √2 dW on 2π: Risken's J = (1 − e^(−2πF))/∬ …, and entropy F · ∫J."""
    force, n = 1.3, 400
    law = fokker_planck(js.sde(lambda t, x: force - jnp.cos(x), 2.0, dim=1), (0, 2 * np.pi), "periodic")
    x = 2 * np.pi * np.arange(n) / n
    v = lambda y: np.sin(y) - force * y
    # ∫₀^2π dy e^(V(x + y) − V(x)) by a rule that knows the ends, Gauss–Legendre
    nodes, weights = np.polynomial.legendre.leggauss(60)
    y, w = np.pi * (nodes + 1), np.pi * weights
    double = np.exp(v(x[:, None] + y) - v(x[:, None])) @ w
    current = (1 - np.exp(-2 * np.pi * force)) / (double.mean() * 2 * np.pi)
    within(law.mean_velocity(), 2 * np.pi * current, 1e-10)
    within(law.entropy_production(), 2 * np.pi * force * current, 1e-10)


def test_absorbed_brownian_motion():
    """The interval: τ = x(1 − x), rates (kπ)²/2, survival by its series, and the sine that is left."""
    law = fokker_planck(js.brownian(1, scale=1.0), (0, 1), "absorbing", cells=128)
    within(law.mean_exit_time([0.3]), 0.21)
    k = np.arange(1, 200)
    within(law.spectral_gap(), np.pi**2 / 2)
    within(law.relaxation_rates(3), (k[:3] * np.pi) ** 2 / 2)
    sine = np.sin(np.pi * law.points[:, 0]) * np.pi / 2
    assert_allclose(law.density, sine, atol=2e-3)
    times = np.array([0.01, 0.05, 0.2])
    found = law.evolve([0.3], times)
    odd = 2 * (1 - (-1.0) ** k) / (k * np.pi) * np.sin(0.3 * k * np.pi)
    within(Refined(found.mass, found.mass_error), np.exp(-np.outer(times, (k * np.pi) ** 2 / 2)) @ odd)


def test_escape_from_a_well():
    """From 1 down to 0 in L = (x² − 1)²/4: the double integral of Pontryagin gives 30.8213."""
    problem = js.potential(lambda x: 0.25 * (x[0] ** 2 - 1) ** 2, np.ones(1), noise_covariance=1.0)
    law = fokker_planck(js.sgd_sde(problem, learning_rate=0.2), (0, 4), "absorbing", cells=512)
    within(law.mean_exit_time([1.0]), 30.82130247, 1e-8)
    assert 1 / float(law.spectral_gap()) == pytest.approx(30.8213, rel=0.1)  # not the time from 1, but from the law that is left


def test_the_box_finds_the_wells_and_the_tails():
    """Two wells in the plane from one start, and Student's law, whose tail is a power."""
    two = fokker_planck(js.langevin(js.potential(well, np.ones(2)), temperature=0.1), cells=96)
    assert two.grid.lo[0] < -1.7 and two.grid.hi[0] > 1.7
    within(Refined(two.mean, two.mean_error), 0, 1e-8)
    student = fokker_planck(js.sde(lambda t, x: -x, lambda x: jnp.sqrt(0.5 * (1 + 0.6 * x**2))[:, None], dim=1))
    within(Refined(student.covariance, student.covariance_error), 0.5 / 1.7, 1e-6)
    fast = js.sde(lambda t, x: (-np.eye(2) + 5 * TURN) @ x - 0.1 * x**3, np.eye(2), dim=2)
    assert fokker_planck(fast, cells=64).grid.hi.max() < 12  # smeared on coarse cells, so the cells get smaller


def test_cells_that_remote_ones_cut_off_stay_as_they_were_guessed():
    """Cells of next to no density are not eliminated; one that lies behind them must not make the equations singular."""
    grid = Grid(np.zeros(2), np.ones(2), (12, 12))
    generator = jumps(np.zeros((144, 2)), np.tile(np.eye(2), (144, 1, 1)), grid, ("reflecting",) * 2).generator(144)
    guess = np.ones((12, 12))
    guess[0, 1] = guess[1, 0] = 1e-200
    p = stationary(generator, grid.shape, guess.ravel()).reshape(12, 12)
    assert (p > 0).all()
    assert_allclose(p[guess == 1] * 142, 1, rtol=1e-12)


@pytest.mark.slow
def test_simulated_chains_have_this_law():
    """65536 Euler–Maruyama chains from one point at t = 0.5 and t = 5, at |z| ≤ 5: 8 numbers, a false alarm in 200 000 runs.

    The bias of a step of .005 is a tenth of a bar. The twin has 1.05 times the noise.
    """
    problem = js.potential(
        lambda x: 0.25 * (x[0] ** 2 - 1) ** 2 + 0.5 * x[1] ** 2,
        np.array([1.0, 0.3]),
        noise_covariance=lambda x: jnp.array([[1.0, 0.4], [0.4, 0.5 + 0.2 * x[0] ** 2]]),
    )
    law = fokker_planck(js.sgd_sde(problem, learning_rate=0.3), cells=128)
    times, count = [0.5, 5.0], 65536
    course = law.evolve(np.array([1.0, 0.3]), times)
    x = law.points

    def second(x):
        return jnp.stack([x[0], x[0] ** 2, x[0] * x[1], x[1] ** 2])

    observed = js.of(second, js.Mean())

    def worst(eta):
        chain = js.integrate(js.sgd_sde(problem, learning_rate=eta), js.EulerMaruyama(), dt=0.005)
        largest = []
        for density, time in zip(course.density, times, strict=True):
            steps = round(time / 0.005)
            run = js.simulate(
                chain, problem.start, key=js.key(1), chains=count, burn_in=steps - 1, steps=1, statistics={"second": observed}
            )
            p = density.ravel() * law.grid.volume
            values = np.asarray(jax.vmap(second)(x))
            mean = p @ values
            spread = np.sqrt(p @ (values - mean) ** 2)
            largest.append(np.abs(run["second"].value - mean) / spread * np.sqrt(count))
        return np.max(largest)

    assert worst(0.3) < 5
    assert worst(0.315) > 6


REFUSED = {
    "in one to three dimensions": lambda: fokker_planck(js.brownian(4, scale=1.0)),
    "no stationary covariance": lambda: fokker_planck(js.brownian(1, scale=1.0)),
    "no stationary law was found": lambda: fokker_planck(js.sde(lambda t, x: x**3, 1.0, dim=1)),
    "exchange so rarely": lambda: fokker_planck(js.langevin(js.potential(well, np.ones(2)), temperature=0.0025)),
    "depends on time": lambda: fokker_planck(js.sde(lambda t, x: -x * (1 + t), 1.0, dim=1)),
    "degenerate": lambda: fokker_planck(
        js.underdamped(js.potential(lambda x: x[0] ** 2, np.ones(1)), temperature=1.0, friction=1.0)
    ),
    "need a box": lambda: fokker_planck(js.brownian(1, scale=1.0), walls="periodic"),
    "walls must be": lambda: fokker_planck(js.brownian(2, scale=1.0), (0, 1), "sticky"),
    "lo < hi": lambda: fokker_planck(js.brownian(2, scale=1.0), (1, 0)),
    "an integer from 16": lambda: fokker_planck(js.brownian(2, scale=1.0), (0, 1), cells=8),
    "no stationary law, and so no entropy": lambda: fokker_planck(
        js.brownian(1, scale=1.0), (0, 1), "absorbing", 16
    ).entropy_production(),
    "nothing is absorbed": lambda: fokker_planck(js.brownian(1, scale=1.0), (0, 1), cells=16).mean_exit_time([0.5]),
    "no problem": lambda: fokker_planck(js.brownian(1, scale=1.0), (0, 1), cells=16).kl_to_gibbs(),
    "times must increase": lambda: fokker_planck(js.brownian(1, scale=1.0), (0, 1), cells=16).evolve([0.5], [1.0, 0.5]),
    "outside the box": lambda: fokker_planck(js.brownian(1, scale=1.0), (0, 1), cells=16).evolve([1.5], [1.0]),
    "count must be": lambda: fokker_planck(js.brownian(1, scale=1.0), (0, 1), cells=16).relaxation_rates(0),
    "walls must be reflecting": lambda: fokker_planck(js.brownian(2, scale=1.0), (0, 1), 3),
    "10000000000 cells": lambda: fokker_planck(js.brownian(2, scale=1.0), (0, 1), cells=100_000),
    "nor at other places": lambda: fokker_planck(js.sde(lambda t, x: x * jnp.nan, 1.0, dim=1)),
    "there is no Gibbs law": lambda: fokker_planck(
        js.langevin(js.potential(lambda x: jnp.tanh(x[0]) + 0.5 * x[1] ** 2, np.zeros(2)), temperature=0.05)
    ),
    "is not finite": lambda: fokker_planck(js.sde(lambda t, x: -1 / x, 1.0, dim=1), (-1, 1), cells=20),
}


@pytest.mark.parametrize("said", list(REFUSED))
def test_what_has_no_answer_is_refused(said):
    with pytest.raises(ValueError, match=said):
        REFUSED[said]()
