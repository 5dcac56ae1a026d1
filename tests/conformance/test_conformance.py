"""The conformance suite: its references against others, and its rows with their planted errors.

False alarms: a table calls any of its rows wrong by chance with the odds 1e-3; seeds are fixed. A planted error is missed with
odds below 1e-3 a row (`table.py` has the derivation).
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import jaxsde as js
from jaxsde import cli
from jaxsde.conformance import LAWS, SAMPLERS, conform, exact, ours, peers, table
from jaxsde.theory import stationary_covariance

H, B = np.array([[1.0, 0.3], [0.3, 2.0]]), np.array([[0.5, 0.0], [-0.2, 0.4]])
# A row of each package and each kind of reference; the others are in the slow test.
CHOSEN = [("student", "euler_maruyama"), ("least_squares", "optax.sgd"), ("current", "exact_linear"), ("current", "diffrax.Euler"),
          ("gaussian", "blackjax.mala")]  # fmt: skip
# Rows whose scheme is linear in the position; those on the line are tested by quadrature, and Platen knows its target alone.
LINEAR = [(law, name) for name, s in SAMPLERS.items() if s.package == "jaxsde" for law in s.steps
          if law not in ("double_well", "bent_valley") and name not in ("milstein", "platen")]  # fmt: skip


def law(name):
    return LAWS[name].function()


def iterated(step, noise, feedback=lambda s: 0.0, count=4000):
    """Second moments by iteration from nothing."""
    s = np.zeros_like(noise)
    for _ in range(count):
        s = step @ s @ step.T + noise + feedback(s)
    return s


def test_second_moments_by_iteration():
    h, eye = 0.3, np.eye(2)
    a, root = -H, np.sqrt(h)
    shark_noise = np.hstack([(eye + h / 2 * a) @ B * root, (h * a + h * h / 2 * a @ a) @ B * root / np.sqrt(12)])
    np.testing.assert_allclose(exact.euler(a, B, h), iterated(eye + h * a, h * B @ B.T), rtol=1e-10)
    quadratic = eye + h * a + h * h / 2 * a @ a
    noise = (eye + h / 2 * a) @ B * root
    np.testing.assert_allclose(exact.heun(a, B, h), iterated(quadratic, noise @ noise.T), rtol=1e-10)
    np.testing.assert_allclose(exact.shark(a, B, h), iterated(quadratic, shark_noise @ shark_noise.T), rtol=1e-10)
    # every scheme tends to the equation's own law
    for scheme in (exact.euler, exact.heun, exact.sra1, exact.shark, exact.leimkuhler_matthews):
        np.testing.assert_allclose(scheme(a, B, 1e-5), exact.expm_law(a, B), rtol=1e-4)


def test_least_squares_by_enumeration():
    """The covariance of ĝ and the second moment of the step over every batch there is, and the moments by iteration."""
    data = law("least_squares").data
    x, y, eta, e = data.x, data.y, 0.1, np.array([0.4, -0.7])
    each = np.stack([np.outer(r, r) for r in x])
    target = law("least_squares").target[2:]
    mean = np.zeros((2, 2))
    s = np.zeros((2, 2))
    gradients = (x @ data.minimum - y)[:, None] * x
    for _ in range(2000):
        s = np.mean([(np.eye(2) - eta * h) @ s @ (np.eye(2) - eta * h) + eta**2 * np.outer(g, g) for h, g in zip(each, gradients, strict=True)], axis=0)
    np.testing.assert_allclose(s[np.triu_indices(2)], target, rtol=1e-10)
    # two distinct examples: Σ_B at an offset e from the minimum
    mean = data.hessian @ e
    pairs = [(i, j) for i in range(24) for j in range(24) if i != j]
    at = gradients + each @ e
    covariance = np.mean([np.outer(g := (at[i] + at[j]) / 2 - mean, g) for i, j in pairs], axis=0)
    want = data.factor(2, False) * (data.noise + data.feedback(np.outer(e, e)) + _cross(each, gradients, data.hessian, e))
    np.testing.assert_allclose(covariance, want, atol=1e-12)


def _cross(each, gradients, hessian, e):
    """What is linear in e in Σ(Φ* + e): it vanishes on average."""
    product = np.mean([np.outer(h @ e - hessian @ e, g) for h, g in zip(each, gradients, strict=True)], axis=0)
    return product + product.T


@pytest.mark.parametrize("name, sampler", LINEAR)
def test_references_are_those_of_the_theory(name, sampler):
    """Two derivations that share nothing: NumPy here, autodiff of the chain itself there."""
    wanted = law(name)
    chain, reference = SAMPLERS[sampler].function(wanted, SAMPLERS[sampler].steps[name])
    found = stationary_covariance(chain)
    np.testing.assert_allclose(reference[wanted.dim :], found[np.triu_indices(wanted.dim)], rtol=2e-6, atol=1e-7)


def test_laws_on_the_line():
    """Targets by adaptive quadrature, and a scheme's law by its kernel on a fine grid, powered."""
    well = law("double_well")
    z = integrate.quad(lambda x: np.exp(-((x * x - 1) ** 2) / 2), -6, 6)[0]
    second = integrate.quad(lambda x: x * x * np.exp(-((x * x - 1) ** 2) / 2), -6, 6)[0] / z
    assert abs(well.target[1] - second) < 1e-10
    h, x = 0.1, np.linspace(-4, 4, 801)
    kernel = np.exp(-0.5 * ((x[:, None] - x - h * (x - x**3)) ** 2 / h))
    p = np.exp(-((x**2 - 1) ** 2) / 2)
    for _ in range(600):
        p = kernel @ p
        p /= p.sum()
    np.testing.assert_allclose(ours.euler_reference(well, h)[1:], [p @ x**2, p @ (x**2 - 1) ** 2 / 4], rtol=1e-12)
    # Milstein on Student's t: x' = (1 − h)x + b√h z + ½bb′h(z² − 1) squared by Gauss and Hermite, iterated
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    v = 0.1
    for _ in range(1000):
        r = np.sqrt(v) * np.array([-1.0, 1.0])[:, None]  # the step's second moment is affine in x²
        moved = (1 - h) * r + np.sqrt((0.3 + 0.15 * r**2) * h) * nodes + 0.5 * 0.15 * r * h * (nodes**2 - 1)
        v = float(np.mean(moved**2 @ weights) / weights.sum())
    assert abs(ours.student_variance(h, True) - v) < 1e-10
    student = js.theory.stationary_density(js.sde(lambda t, x: -x, lambda x: jnp.sqrt(0.3 + 0.15 * x**2), dim=1))
    assert abs(float(student.covariance[0, 0]) - law("student").target[1]) < 1e-7


def test_the_valley_by_iterated_quadrature():
    """y given x is Gaussian about x²/2 with variance T/2, and x is N(0, T)."""
    t = 0.5
    np.testing.assert_allclose(law("bent_valley").target, [0, t / 2, t, 0, t / 2 + 3 * t**2 / 4], atol=1e-10)


@pytest.mark.parametrize("name, sampler", CHOSEN)
def test_rows_are_right_and_their_planted_errors_found(name, sampler):
    found = conform([name], [sampler])
    (row,) = found.rows
    assert row.verdict != "WRONG" and row.caught and row.power > 0.999, str(found)


def test_a_wrong_sampler_is_called_wrong(monkeypatch, capsys):
    """A step whose noise is 1.05 times too strong, as any other sampler."""
    plain = ours.euler_maruyama

    def strong(given, step):
        chain, reference = plain(given, step)
        return ours.with_noise(chain, 1.05), reference

    monkeypatch.setitem(table.SAMPLERS, "euler_maruyama", SAMPLERS["euler_maruyama"]._replace(function=strong))
    assert cli.main(["conform", "--laws", "student", "--samplers", "euler_maruyama", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"] and told["wrong"] == 1 and told["rows"][0]["verdict"] == "WRONG"


def test_what_is_missing_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(table.SAMPLERS, "optax.sgd", SAMPLERS["optax.sgd"]._replace(package="no_such_package"))
    found = conform(["least_squares"], ["optax.sgd"])
    assert found.rows[0].verdict == "not installed" and "pip install no_such_package" in str(found) and not found.missed
    with pytest.raises(ValueError, match="nothing to draw"):
        found.figure(tmp_path / "t.html")
    faults = [
        (["--laws", "gausian"], "gaussian"),
        (["--samplers", "blackjx"], "blackjax"),
        (["--laws", "student", "--samplers", "optax"], "no row"),
        (["--seed", "-1"], "whole number"),
        (["--out", "t.pdf"], ".png"),
    ]
    for given, word in faults:
        assert cli.main(["conform", *given]) in (2, 65)
        assert word in capsys.readouterr().err
    with pytest.raises(ValueError, match="no sampler"):
        conform(samplers=["blackjx"])


@pytest.mark.slow
def test_the_whole_table(tmp_path):
    found = conform()
    assert len(found.rows) == sum(len(s.steps) for s in SAMPLERS.values())
    assert not found.wrong and not found.missed, str(found)
    assert min(row.power for row in found.rows) > 0.999, str(found)
    for kind in ("png", "svg", "html"):
        assert found.figure(tmp_path / f"table.{kind}").stat().st_size > 10_000
    # z-scores are those of chance: the sum of squares of the first component of each row is χ², to odds of 1e-4 on either side
    first = sum(((r.mean[0] - r.reference[0]) / r.stderr[0]) ** 2 for r in found.rows)
    assert stats.chi2.ppf(1e-4, len(found.rows)) < first < stats.chi2.isf(1e-4, len(found.rows))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["blackjax.sghmc+temperature", "diffrax.QUICSORT"])
def test_other_seeds(sampler):
    """Five seeds together see a bias that is √5 times smaller: the sum of each component's z over √5 is a standard normal, and the
    largest is beyond what all components exceed with odds of 1e-4."""
    (name,) = SAMPLERS[sampler].steps
    wanted, step = law(name), SAMPLERS[sampler].steps[name]
    made = SAMPLERS[sampler].function(wanted, step)
    reference = wanted.target if made[1] is None else made[1]
    seen = [peers.observed(made, wanted, step, 50 + i, 1.0) for i in range(5)]
    z = sum((one.mean - reference) / one.stderr for one in seen) / np.sqrt(5)
    assert np.abs(z).max() < stats.norm.isf(1e-4 / 2 / z.size)
