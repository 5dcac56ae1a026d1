"""KL, temperatures and distances against closed forms, each with a twin that must fail, and refusals with reasons.

A Monte-Carlo value passes within 5 sd1/√N with sd1 = sd of log(p/q) under p from the closed form: false alarms 6e-7 each.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from fake_runs import FakeRun, run_of, run_of_samples
from numpy.testing import assert_allclose

from jaxsde.metrics import fit_temperature, kl_between, kl_to_gibbs, moment_distance, total_variation
from jaxsde.problems.problem import finite_sum, potential
from jaxsde.statistics import Covariance, Histogram, Mean, MeanLoss
from jaxsde.theory.laws.gibbs import gibbs

GROUPS = 32
BOWL = potential(lambda x: jnp.sum(x**2) / 2, jnp.zeros(1))
SHIFTED = potential(lambda x: jnp.sum((x - 1) ** 2) / 2, jnp.zeros(1))
BOWL2 = potential(lambda x: jnp.sum(x**2) / 2, jnp.zeros(2))
# H = [[1, 1], [1, 2]]⁻¹, so that at T = 1 the Gibbs law is N(0, [[1, 1], [1, 2]])
TILTED = potential(lambda x: x[0] ** 2 - x[0] * x[1] + x[1] ** 2 / 2, jnp.zeros(2))
WELL = potential(lambda x: jnp.sum((x**2 - 1) ** 2) / 4, jnp.ones(1))
LINE = Histogram(np.linspace(-6, 6, 97))
PLANE = Histogram([np.linspace(-6, 6, 65)] * 2)


def normal(seed, n, d=1, cov=None, mean=0.0):
    x = np.random.default_rng(seed).normal(size=(GROUPS, n // GROUPS, d))
    return mean + (x if cov is None else x @ np.linalg.cholesky(cov).T)


def kl_of_gaussians(s, t, shift=0.0):
    """KL(N(m, s) ‖ N(m', t)), written anew."""
    ratio = np.linalg.solve(t, s)
    shift = np.broadcast_to(shift, len(s))
    return (np.trace(ratio) + shift @ np.linalg.solve(t, shift) - len(s) - np.log(np.linalg.det(ratio))) / 2


@pytest.mark.parametrize("method", ["histogram", "gaussian"])
@pytest.mark.parametrize("n", [10_000, 100_000])
@pytest.mark.parametrize(
    "problem, histogram, temperature, truth, sd1",
    [
        # log p/q = −x²/2 + (x − 1)²/8 + …: variance .375²·2 + .25²
        (SHIFTED, LINE, 4.0, 0.4431472, np.sqrt(0.375**2 * 2 + 0.0625)),
        # log p/q = ½ xᵀ(H − I)x: variance ½ tr (H − I)²
        (TILTED, PLANE, 1.0, 0.5, np.sqrt((1 + 1 + 1 + 0) / 2)),
    ],
)
def test_kl_of_known_laws(method, n, problem, histogram, temperature, truth, sd1):
    run = run_of_samples(normal(n, n, problem.dim), histogram)
    found = kl_to_gibbs(run, problem, temperature, method=method)
    bias = 2e-3 if method == "histogram" and problem.dim == 2 else 5e-4
    assert abs(found.value - truth) < 5 * sd1 / np.sqrt(n) + bias
    assert_allclose(found.stderr, sd1 / np.sqrt(n), rtol=0.75)
    assert found.floor < 0.01 * truth
    assert method in found.estimator.lower() and found.groups == GROUPS
    json.dumps(found.to_json(), allow_nan=False)
    # the twin: noise × 1.05 is another law
    other = kl_to_gibbs(
        run_of_samples(1.05 * normal(n, n, problem.dim), histogram), problem, temperature, method=method
    )
    if n == 100_000:
        assert abs(other.value - truth) > 5 * sd1 / np.sqrt(n) + bias


@pytest.mark.parametrize("method", ["histogram", "gaussian"])
def test_the_two_directions_are_told_apart(method):
    run = run_of_samples(normal(1, 200_000, 1, [[1.5]]), LINE)
    forward = kl_to_gibbs(run, BOWL, 1.0, method=method)
    reverse = kl_to_gibbs(run, BOWL, 1.0, method=method, direction="reverse")
    p, q = np.array([[1.5]]), np.eye(1)
    assert abs(forward.z(kl_of_gaussians(p, q))) < 5 and abs(reverse.z(kl_of_gaussians(q, p))) < 5
    assert abs(forward.z(kl_of_gaussians(q, p))) > 5
    assert "forward" in forward.estimator and "reverse" in reverse.estimator


@pytest.mark.parametrize("method", ["histogram", "gaussian"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_best_temperature_is_found(method, direction):
    # Q1 of the lecture: H = [[1, .3], [.3, 2]], S solves HS + SH = ηC; forward T* = .065 and KL = .28763678 at any η
    h, c, eta = np.array([[1, 0.3], [0.3, 2]]), np.array([[2, -0.5], [-0.5, 0.6]]), 0.1
    eye = np.eye(2)
    s = np.linalg.solve(np.kron(h, eye) + np.kron(eye, h), eta * c.ravel()).reshape(2, 2)
    problem = potential(lambda x: (x[0] ** 2 + 0.6 * x[0] * x[1] + 2 * x[1] ** 2) / 2, jnp.zeros(2))
    sd = np.sqrt(np.diag(s).max())
    run = run_of_samples(normal(2, 200_000, 2, s), Histogram([np.linspace(-5, 5, 65) * sd] * 2))
    found = kl_to_gibbs(run, problem, method=method, direction=direction)
    truth = 0.28763678
    best = 0.065
    if direction == "reverse":
        best = 2 / np.trace(np.linalg.inv(h) @ np.linalg.inv(s))
        truth = kl_of_gaussians(best * np.linalg.inv(h), s)
    assert abs(found.value - truth) < 5 * found.stderr + 2e-3 and found.stderr < 0.01 * (
        1 + 9 * (direction == "reverse")
    )
    assert_allclose(float(found.note.split("T = ")[1].split(";")[0]), best, rtol=0.03)
    fitted = fit_temperature(run, problem, direction=direction)
    assert abs(fitted.z(best)) < 5 and fitted.stderr < 0.01 * best
    assert abs(fitted.z(eta / 2)) > 5  # kT = η/2 needs C = I
    if direction == "forward":  # Σ transposed between the components is another law
        swapped = run_of_samples(normal(2, 200_000, 2, s)[..., ::-1], run.statistics["hist"])
        assert abs(kl_to_gibbs(swapped, problem, method=method).value - truth) > 0.05


@pytest.mark.parametrize("n", [10_000, 200_000])
@pytest.mark.parametrize("problem, histogram", [(BOWL, LINE), (BOWL2, PLANE)])
def test_a_gibbs_law_is_at_the_floor(n, problem, histogram):
    run = run_of_samples(np.sqrt(1.3) * normal(3, n, problem.dim), histogram)
    for method in ("histogram", "gaussian"):
        found = kl_to_gibbs(run, problem, method=method)
        assert found.low <= found.floor <= found.high
        assert 0 <= found.value < 12 * found.floor and found.floor < 12 / n * histogram.shape[0]
        # the twin: at η for η/2 nothing is near the floor
        assert kl_to_gibbs(run, problem, 2.6, method=method).low > 10 * found.floor


def test_the_floor_falls_as_samples_grow():
    floors = [kl_to_gibbs(run_of_samples(normal(4, n), LINE), BOWL).floor for n in (10_000, 100_000, 1_000_000)]
    assert_allclose(np.divide(floors[:-1], floors[1:]), 10, rtol=0.6)


def test_correlated_chains_have_wider_intervals_and_no_more_bias():
    rng, rho = np.random.default_rng(5), 0.95
    x = rng.normal(size=(GROUPS, 20, 1))
    rows = []
    for _ in range(400):
        x = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=x.shape)
        rows.append(x)
    run = run_of_samples(np.concatenate(rows, axis=1), LINE)
    found = kl_to_gibbs(run, SHIFTED, 4.0)
    independent = np.sqrt(0.375**2 * 2 + 0.0625) / np.sqrt(GROUPS * 20 * 400)
    assert abs(found.z(0.4431472)) < 5
    assert found.stderr > 3 * independent  # the naive error bar
    null = kl_to_gibbs(run, BOWL)
    assert null.low <= null.floor <= null.high


def _exact_well(temperature, seed, n=100_000):
    grid = np.linspace(-3, 3, 200_001)
    density = np.exp(-((grid**2 - 1) ** 2) / 4 / temperature)
    uniform = np.random.default_rng(seed).random((GROUPS, n // GROUPS, 1))
    return np.interp(uniform, np.cumsum(density) / density.sum(), grid), density / density.sum()


def test_a_double_well():
    histogram = Histogram(np.linspace(-2.5, 2.5, 81))
    x, p = _exact_well(0.2, 6)
    q = _exact_well(0.1, 6)[1]
    run = run_of_samples(x, histogram)
    truth = float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
    found = kl_to_gibbs(run, WELL, 0.1)
    assert abs(found.z(truth)) < 5 and found.stderr < 0.03 * truth
    best = kl_to_gibbs(run, WELL)
    assert best.low <= best.floor <= best.high
    assert_allclose(float(best.note.split("T = ")[1]), 0.2, rtol=0.02)
    refused = kl_to_gibbs(run, WELL, method="gaussian")
    assert refused.value is None and "not quadratic" in refused.reason


def test_a_law_that_is_uniform():
    # two-point SGD at η = ½: KL to the best Gibbs law is .17648521
    x = np.random.default_rng(7).uniform(-1, 1, size=(GROUPS, 3125, 1))
    run = run_of_samples(x, LINE)
    found = kl_to_gibbs(run, BOWL)
    assert abs(found.z(0.17648521)) < 5
    # its moments alone cannot tell it from a Gibbs law: the Gaussian plug-in is a lower bound, and says what it is
    assert kl_to_gibbs(run, BOWL, method="gaussian").value < 0.001


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_marginal_is_a_lower_bound_and_says_so(direction):
    run = run_of_samples(normal(8, 100_000, 2), Histogram(np.linspace(-6, 6, 97), 1))
    found = kl_to_gibbs(run, TILTED, 1.0, direction=direction)
    p, q = np.eye(1), np.array([[2.0]])
    assert abs(found.z(kl_of_gaussians(p, q) if direction == "forward" else kl_of_gaussians(q, p))) < 5
    assert "lower bound" in found.estimator


@pytest.mark.slow
def test_three_components():
    scales = np.array([1.0, 1.2, 0.8])
    run = run_of_samples(normal(9, 100_000, 3) * scales, Histogram([np.linspace(-5, 5, 31)] * 3))
    found = kl_to_gibbs(run, potential(lambda x: jnp.sum(x**2) / 2, jnp.zeros(3)))
    ratio = scales**2 / (scales**2).mean()
    assert abs(found.value + 0.5 * np.log(ratio).sum()) < 5 * found.stderr
    assert found.contains(-0.5 * np.log(ratio).sum())


def test_kl_between_runs():
    s = np.array([[1.8, 0.5], [0.5, 1.0]])
    truth = kl_of_gaussians(np.eye(2), s, 0.2)
    a, b = (run_of_samples(x, PLANE) for x in (normal(10, 100_000, 2), normal(11, 100_000, 2, s, 0.2)))
    for method in ("histogram", "gaussian"):
        found = kl_between(a, b, method=method)
        assert abs(found.z(truth)) < 5 and found.stderr < 0.03 * truth
        assert abs(kl_between(b, a, method=method).z(truth)) > 5
        null = kl_between(a, run_of_samples(normal(12, 100_000, 2), PLANE), method=method)
        assert null.low <= null.floor <= null.high and null.value < 0.01 * truth


def test_kl_between_runs_with_other_numbers_of_groups():
    a = run_of_samples(normal(13, 96_000), LINE)
    b = run_of_samples(1.2 * normal(14, 96_000).reshape(24, -1, 1), LINE)
    truth = kl_of_gaussians(np.eye(1), 1.44 * np.eye(1))
    for method in ("histogram", "gaussian"):
        found = kl_between(a, b, method=method)
        assert abs(found.z(truth)) < 5 and found.groups == 24


def test_moment_distances():
    x = normal(15, 100_000, 2)
    run = run_of_samples(x, PLANE)
    far = moment_distance(run, (np.array([0.1, 0.0]), np.diag([1.0, 1.2])))
    assert abs(far.mean.z(0.1)) < 5
    assert abs(far.covariance.z(0.2 / np.sqrt(1 + 1.44))) < 5
    assert abs(far.wasserstein.z(np.sqrt(0.01 + (np.sqrt(1.2) - 1) ** 2))) < 5
    for other in (gibbs(BOWL2, 1.0), run_of_samples(normal(16, 100_000, 2)), (np.zeros(2), np.eye(2))):
        for found in moment_distance(run, other):
            assert found.low == 0 and found.value < 8 * found.floor and found.floor < 0.01
    # rotation: W² of N(0, diag(a, b)) from its own rotation by 90° is 2 (√a − √b)²
    wide = run_of_samples(normal(17, 100_000, 2) * [2.0, 1.0])
    turned = moment_distance(wide, (np.zeros(2), np.diag([1.0, 4.0])))
    assert abs(turned.wasserstein.z(np.sqrt(2))) < 5


def test_total_variation():
    run = run_of_samples(normal(18, 400_000), LINE)
    # ½ ∫ |N(0,1) − N(0,4)|: the densities cross at x² = (8/3) log 2
    from scipy.stats import norm

    cross = np.sqrt(8 * np.log(2) / 3)
    truth = 2 * (norm.cdf(cross) - norm.cdf(cross / 2))
    for other in (gibbs(BOWL, 4.0), run_of_samples(2 * normal(19, 400_000), Histogram(LINE.edges[0] * 1.0))):
        found = total_variation(run, other)
        assert abs(found.value - truth) < 5 * found.stderr + found.floor + 2e-3 and found.contains(truth)
    null = total_variation(run, gibbs(BOWL, 1.0))
    assert null.low == 0 and null.value < 1.5 * null.floor and null.floor < 0.01
    assert total_variation(run, gibbs(BOWL, 1.5)).low > null.floor


def test_temperature_from_the_mean_loss():
    x, _ = _exact_well(0.2, 20, 20_480)
    x = np.moveaxis(x, 0, 1)[:, :].astype(np.float32)  # [t, groups, 1]
    run = run_of({"loss": MeanLoss(WELL)}, x, GROUPS)
    found = fit_temperature(run, WELL)
    assert abs(found.z(0.2)) < 5 and found.stderr < 0.01 and "mean loss" in found.estimator
    assert fit_temperature(run, WELL, direction="reverse").value is None
    data = finite_sum(lambda w, e: (w[0] * e[0] - e[1]) ** 2 / 2, jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.zeros(1))
    h = 2.5
    y = (0.8 + np.sqrt(0.05 / h) * np.random.default_rng(21).normal(size=(300, GROUPS, 1))).astype(np.float32)
    both = run_of({"loss": MeanLoss(data), "cov": Covariance()}, y, GROUPS)
    for name in ("loss", "cov"):
        assert abs(fit_temperature(both, data, statistic=name).z(0.05)) < 5


GOOD = run_of_samples(normal(22, 20_000), LINE)


@pytest.mark.parametrize(
    "run, problem, options, says",
    [
        (FakeRun({}, {}), BOWL, {}, "no Histogram"),
        (FakeRun({}, {}), BOWL, {"method": "gaussian"}, "no Covariance"),
        (run_of_samples(normal(1, 640)[:2], LINE), BOWL, {}, "at least 4"),
        (run_of_samples(np.zeros((8, 50, 1)), LINE), BOWL, {}, "identical"),
        (run_of_samples(np.zeros((8, 50, 1))), BOWL, {"method": "gaussian"}, "identical"),
        (run_of_samples(np.repeat(normal(1, 3200), 2, axis=2)), BOWL2, {"method": "gaussian"}, "singular"),
        (
            GOOD,
            potential(lambda x: -jnp.sum(x**2), jnp.ones(1)),
            {"method": "histogram", "temperature": 1.0},
            "no Gibbs",
        ),
        (GOOD, potential(lambda x: jnp.sum(jnp.cos(x)), jnp.ones(1)), {"method": "histogram"}, "no Gibbs"),
        (GOOD, potential(lambda x: -jnp.sum(x**2), jnp.ones(1)), {"method": "gaussian"}, "no Gibbs"),
        (GOOD, BOWL, {"temperature": 30.0, "method": "histogram"}, "outside"),
        (run_of_samples(5 * normal(2, 3200), LINE), BOWL, {"method": "histogram"}, "outside"),
        (run_of_samples(normal(2, 3200), Histogram(np.linspace(-6, 6, 5))), BOWL, {"method": "histogram"}, "narrower"),
        (GOOD, BOWL, {"temperature": 1e-3, "method": "histogram"}, "narrower"),
        (
            run_of_samples(normal(3, 3200, 1, mean=3.0), LINE),
            BOWL,
            {"direction": "reverse", "temperature": 0.3, "method": "histogram"},
            "hardly",
        ),
        (run_of_samples(normal(3, 64, 2), PLANE), BOWL2, {"method": "histogram"}, "visited often enough"),
    ],
)
def test_kl_that_cannot_be_known_is_null_with_a_reason(run, problem, options, says):
    found = kl_to_gibbs(run, problem, **options)
    assert found.value is None and found.low is None and found.high is None
    assert says in found.reason
    plain = found.to_json()
    assert plain["value"] is None and plain["reason"]


def test_disjoint_supports_are_refused():
    a, b = (run_of_samples(0.4 * normal(23, 20_000, mean=m), LINE) for m in (-6.0, 6.0))
    for one, two in ((a, b), (b, a)):
        found = kl_between(one, two, method="histogram")
        assert found.value is None and "overlap" in found.reason


def test_wrong_use_is_refused_at_once():
    with pytest.raises(ValueError, match="forward"):
        kl_to_gibbs(GOOD, BOWL, direction="backward")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="auto"):
        kl_to_gibbs(GOOD, BOWL, method="knn")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="positive"):
        kl_to_gibbs(GOOD, BOWL, -1.0)
    with pytest.raises(TypeError, match="Histogram is needed"):
        kl_to_gibbs(FakeRun({"m": Mean()}, {}), BOWL, method="histogram", statistic="m")
    with pytest.raises(ValueError, match="different components or edges"):
        kl_between(GOOD, run_of_samples(normal(1, 3200), Histogram(np.linspace(-5, 5, 97))), method="histogram")
    with pytest.raises(ValueError, match="components"):
        kl_to_gibbs(GOOD, BOWL2, method="gaussian")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["histogram", "gaussian"])
@pytest.mark.parametrize("problem, temperature, truth", [(SHIFTED, 4.0, 0.4431472), (BOWL, None, 0.0)])
def test_intervals_cover_the_truth(method, problem, temperature, truth):
    # 80 repeats: a binomial of .95 falls below .828 once in 2e5; at a truth of 0, where KL ends, intervals cover more
    inside = sum(
        kl_to_gibbs(run_of_samples(normal(1000 + i, 20_000), LINE), problem, temperature, method=method).contains(truth)
        for i in range(80)
    )
    assert inside / 80 > 0.828
    wrong = sum(
        kl_to_gibbs(run_of_samples(1.1 * normal(1000 + i, 20_000), LINE), problem, 4.0, method=method).contains(truth)
        for i in range(10)
    )
    assert wrong <= 2
