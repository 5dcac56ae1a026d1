"""Papers' statements: each passes, an error planted in its noise is found, and the exact laws beside them are right.

Every quantity of a statement has a false alarm of 1e-5 (`FALSE_ALARM`), 23 of them at two sizes: below 1e-3 in all.
"""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import jaxsde as js
from jaxsde import cli
from jaxsde.estimate import Estimate
from jaxsde.report import style
from jaxsde.reproduce import (
    FALSE_ALARM,
    PAPERS,
    azizian,
    kunin,
    paquette,
    passage,
    reproduce,
    simsekli,
    statement,
    xie,
    zhu,
)

_QUICK: dict = {}


def quick(name):
    if name not in _QUICK:
        _QUICK[name] = reproduce(name, **PAPERS[name].quick)
    return _QUICK[name]


LONG = ("simsekli", "xie", "kunin", "azizian")
EACH = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in PAPERS]


@pytest.mark.parametrize("name", EACH)
def test_a_statement_passes_and_its_figure_is_drawn(name):
    told = quick(name)
    assert told.passed, str(told)
    assert len(style.files(told.draw())["png"]) > 10_000
    json.dumps(told.to_json(), allow_nan=False)
    assert str(told).count("pass") == len(told.quantities) and "FAIL" not in str(told)


@pytest.mark.parametrize("name", EACH)
def test_a_formula_that_is_wrong_by_a_factor_of_two_fails(name):
    told = quick(name)
    wrong = replace(told, expected=2 * told.expected)
    assert not wrong.agrees[told.expected != 0].any()
    assert not replace(told, expected=2 * told.expected, exact=2 * told.exact).passed  # neither if what is called exact goes along


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in (*LONG, "paquette") else n for n in PAPERS])
def test_noise_that_is_a_third_too_strong_is_found_with_few_chains(name):
    assert not reproduce(name, **PAPERS[name].quick, noise=4 / 3).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_at_full_size_a_twentieth_is_found(name):
    assert reproduce(name, key=js.key(1)).passed
    assert not reproduce(name, key=js.key(1), noise=1.05).passed


def made(**changes):
    one = Estimate(np.array([1.0, 2.0]), np.array([0.1, 0.1]), np.array([0.8, 1.8]), np.array([1.2, 2.2]), 32)
    given = {"measured": one, "expected": np.array([1.0, 2.1]), "exact": np.array([1.05, 2.0]), "near": 0.1, **changes}
    return statement.Statement("claim", "formula", ("a", "b"), draw=lambda: None, **given)


def test_what_passes():
    """Measured within t·stderr of the exact value, and that near the formula: each on its own can fail."""
    t = scipy.stats.t.isf(FALSE_ALARM / 2, 31)
    assert made().passed and np.allclose(made().reach, 0.1 * t)
    assert made(near=0.04).agrees.tolist() == [False, False]
    assert made(near=0.04, scale=np.array([2.0, 2.0])).agrees.tolist() == [True, False]
    assert made(exact=np.array([1.0, 2.0 + 0.101 * t]), near=9.0).agrees.tolist() == [True, False]
    nothing = made(measured=Estimate.unknown("every chain diverged"))
    assert not nothing.passed and "unknown (every chain diverged)" in str(nothing)
    assert [r["passed"] for r in nothing.to_json()["quantities"]] == [False, False]


def test_groups_are_left_out_of_all_samples_together():
    """Of one mean the jackknife is the standard error of group means; of a ratio of two it is the delta method's."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(32), 8)
    a, b = rng.normal(3, 1, 256), rng.normal(2, 1, 256)
    one = statement.together(lambda m: m, [(a, group)])
    means = a.reshape(32, 8).mean(axis=1)
    assert np.isclose(one.value, a.mean()) and np.isclose(one.stderr, means.std(ddof=1) / np.sqrt(32))
    both = statement.together(lambda m, n: m / n, [(a, group), (b, group)])
    parts = (a / a.mean() - b / b.mean()).reshape(32, 8).mean(axis=1) * a.mean() / b.mean()
    assert np.isclose(both.stderr, parts.std(ddof=1) / np.sqrt(32), rtol=0.02)
    part = statement.components(statement.together(lambda m: m, [(np.stack([a, b], axis=1), group)]), [1])
    assert np.isclose(part.value[0], b.mean()) and part.groups == 32


def sde_time(valley: str, eta: float, end: float) -> float:
    """Mean passage time 0 → end of the SDE, ∫ s′(z) ∫_{−∞}^z m(y) dy dz, s′ = exp ∫ L′/D, m = 1/(D s′), D = ηΣ/2 (B = 1)."""
    edges = np.union1d(np.linspace(-12 * np.sqrt(eta), end, 40_000), [0.0, xie._shape(valley)[3]])
    x, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    d = eta * xie._sharpness(valley, x) / 2
    climb = np.diff(xie._loss(valley, edges)) / d
    u = np.r_[0.0, np.cumsum(climb)]
    middle = (u[1:] + u[:-1]) / 2
    m = np.exp(-middle) / d * width
    below = np.cumsum(m) - m / 2
    return float((np.exp(middle) * width * below)[x > 0].sum())


def test_passage_times_by_density_are_those_of_a_chain():
    """A Gaussian step out of (−1, 1) from 0: against 10⁵ NumPy chains, and the Euler chain of a valley against its SDE's quadrature."""
    density = lambda x, y: scipy.stats.norm.pdf(y, 0.9 * x, 0.5)
    mean = passage.mean_exit_steps(density, 0.0, np.linspace(-1, 1, 61))
    rng, x, steps = np.random.default_rng(1), np.zeros(100_000), np.zeros(100_000)
    while (inside := np.abs(x) < 1).any():
        x = np.where(inside, 0.9 * x + 0.5 * rng.normal(size=x.size), x)
        steps += inside
    assert abs(steps.mean() - mean) < 5 * steps.std() / np.sqrt(steps.size) < 0.02 * mean
    end = xie._end("flat", 9.0)
    sde = sde_time("flat", 1 / 9, end)
    assert abs(xie._chain_time("flat", 1 / 9, end) / sde - 1) < 0.003  # first order in dt = .05, without a jump of Σ

    def inner(z):
        return scipy.integrate.quad(lambda y: np.exp(9 * (2 * (float(xie._loss("flat", z)) - float(xie._loss("flat", y))))) * 18, -4, z)[0]

    assert np.isclose(scipy.integrate.quad(inner, 0, end)[0], sde, rtol=1e-5)


def test_the_escape_formula_is_the_limit_up_to_its_prefactor():
    """Quadrature over exponent: as B/η → ∞ the slope is the formula's; the prefactor is 2π/H_a, Itô's, and not 2π/|H_b|."""
    for valley, (a, _) in xie._VALLEYS.items():
        ratio = 150.0
        time = sde_time(valley, 1 / ratio, xie._end(valley, ratio / 4))
        assert np.isclose(time * a / (2 * np.pi) * np.exp(-ratio * xie._exponent(valley)), 1, atol=0.01)


def test_passages_counted_to_the_horizon_have_no_bias():
    """Steps over exits of chains that leave at once with odds ½ is 2 (±5 standard errors), however near the horizon is."""
    problem = js.potential(lambda p: 0.0 * p[0], np.zeros(1), noise_covariance=1.0)
    chain = js.sgd(problem, learning_rate=1.0)
    low = high = float(scipy.stats.norm.isf(0.25))
    for horizon in (12, 60):
        counts, group = passage.exit_steps(chain, 0.0, -low, high, key=js.key(2), chains=4096, horizon=horizon)
        free = statement.together(lambda m: m[0] / m[1], [(counts, group)])
        exact = passage.mean_exit_steps(lambda x, y: scipy.stats.norm.pdf(y, x, 1.0), 0.0, np.linspace(-low, high, 41))
        assert abs(free.z(exact)) < 5 and free.stderr < 0.02 * exact
    with pytest.raises(ValueError, match="below 2"):
        passage.exit_steps(chain, 0.0, -1.0, 1.0, key=js.key(2), chains=4, horizon=1 << 24)


def test_energies():
    """e^{−pf′} cosh(ps) = 1 everywhere, 2f′/s² where f′ ≪ s; the law of a grid is that of 8000 NumPy chains."""
    for x in (-1.2, -0.4, 0.3, 0.9, 1.1):
        p, f, s = azizian._momentum(x), float(azizian._slope(x)), float(azizian._spread(x))
        assert abs(np.exp(-p * f) * np.cosh(p * s) - 1) < 1e-11 and abs(p) > 0
    near = azizian._RIGHT + 1e-4
    assert np.isclose(azizian._momentum(near), azizian._gaussian(near), rtol=1e-4)
    odds, relax = azizian._law(0.25)
    rng, x = np.random.default_rng(3), np.where(np.arange(8_000) % 2 == 0, azizian._LEFT, azizian._RIGHT)
    for _ in range(round(9 * relax)):
        x = x - 0.25 * (azizian._slope(x) + azizian._spread(x) * rng.choice([-1, 1], size=x.size))
    share = odds / (1 + odds)
    assert abs((x > azizian._SADDLE).mean() - share) < 5 * np.sqrt(share * (1 - share) / x.size)
    assert abs(0.9 * share - (x > azizian._SADDLE).mean()) > 5 * np.sqrt(share * (1 - share) / x.size)


def test_the_table_of_the_stable_law():
    x, p = simsekli._table()
    for i in (0, 700, 2000, 3200):
        assert np.isclose(p[i], scipy.stats.levy_stable.pdf(x[i], simsekli._ALPHA, 0), rtol=1e-5)
    tail = x[-1] ** (1 + simsekli._ALPHA) * p[-1]  # → C_α, of which `_rate` is made
    c = simsekli._rate(1.0, 1.0) * simsekli._ETA * simsekli._ALPHA / 2 * (np.sqrt(2) / simsekli._ETA) ** simsekli._ALPHA
    assert np.isclose(tail, c, rtol=1e-3)


def test_the_recursions_are_averages_over_every_order_of_the_data(monkeypatch):
    """E L after three steps, from all sequences of three examples in NumPy."""
    rng = np.random.default_rng(4)
    x, y, start = rng.normal(size=(3, 2)), rng.normal(size=3), rng.normal(size=2)

    def enumerated(rows, labels, begin, eta, steps):
        losses = []
        for order in itertools.product(range(len(rows)), repeat=steps):
            phi = begin
            for i in order:
                phi = phi - eta * rows[i] * (rows[i] @ phi - labels[i])
            losses.append(0.5 * ((rows @ phi - labels) ** 2).mean())
        return np.mean(losses)

    monkeypatch.setattr(paquette, "_ROWS", 3)
    monkeypatch.setattr(paquette, "_EPOCHS", 1)
    monkeypatch.setattr(paquette, "_ETA", 0.2)
    for k, value in enumerate(paquette._recursion(x, y, start, 1)):
        assert np.isclose(value, enumerated(x, y, start, 0.2, k), rtol=1e-12)
    monkeypatch.setattr(zhu, "_STEPS", 3)
    monkeypatch.setattr(zhu, "_ETA", 0.2)
    both, labels = np.concatenate([x, x]), np.r_[np.ones(3), -np.ones(3)]
    for k, value in enumerate(zhu._recursion(x.T @ x / 3, x, 1)):
        assert np.isclose(value, enumerated(both, labels, np.zeros(2), 0.2, k) - 0.5, rtol=1e-9, atol=1e-14)


def test_the_linear_system_solves_the_volterra_equation():
    """ψ(t) = F(t) + ∫ K(t − s) ψ(s) ds by the trapezoidal rule, extrapolated."""
    x, y, start = paquette._data()
    values = paquette._modes(x, y, start)[0]

    def direct(count):
        t = np.linspace(0, 200.0, count + 1)
        flow, kernel, h = paquette._flow(x, y, start, t), paquette._ETA * np.exp(-2 * np.outer(t, values)) @ values**2, t[1]
        psi = [flow[0]]
        for i in range(1, count + 1):
            past = kernel[1 : i + 1][::-1]
            total = h * (past @ np.array(psi) - 0.5 * past[0] * psi[0])
            psi.append((flow[i] + total) / (1 - 0.5 * h * kernel[0]))
        return psi[-1]

    extrapolated = (4 * direct(800) - direct(400)) / 3
    assert np.isclose(paquette._volterra(x, y, start, np.linspace(0, 200.0, 5))[-1], extrapolated, rtol=1e-6)


def test_the_oscillator_is_the_small_step_limit(monkeypatch):
    """E|Δ|² of the heavy ball with constant noise, 1-d, in closed form at lag 1: 2η²c/((1 − β)(2(1 + β) − ηh)), and η → 0."""
    for eta in (0.05, 0.005):
        monkeypatch.setattr(kunin, "_ETA", eta)
        beta, c, h = kunin._BETA, kunin._SIGMA**2 / kunin._BATCH, 1.0
        a = np.array([[1 - eta * h, beta], [-eta * h, beta]])
        s = js.theory.discrete_lyapunov(a, eta**2 * c * np.ones((2, 2)))
        assert np.isclose(s[1, 1], 2 * eta**2 * c / ((1 - beta) * (2 * (1 + beta) - eta * h)))
        assert np.isclose(eta**2 * c * h / (1 - beta**2), s[1, 1], rtol=eta / 3)
        steps = np.round(np.array([0.3, 0.6, 0.9]) / np.sqrt(eta) * 10).astype(int)
        exact = [2 * (s - np.linalg.matrix_power(a, k) @ s)[0, 0] for k in steps]
        assert np.allclose(kunin._displacement(np.array([[h]]), steps), exact, rtol=eta, atol=eta * exact[-1])


def test_a_stable_draw_at_the_end_of_its_range_is_a_number():
    """Two normals (0, −1) have the angle −π/2, whose cosine is no power's base where it rounds to zero or below."""
    problem = js.potential(lambda p: 0.5 * p @ p, np.zeros(1), noise_covariance=1.0)
    gradient = js.sgd(problem, learning_rate=0.1, sampling="alpha_stable", alpha=1.5).gradient
    for a in (0.0, -0.0, 1e-30):
        found = np.asarray(gradient(problem.start, js.types.Drawn(normals=np.array([a, -1.0], np.float32)), 0))
        assert np.isfinite(found).all() and np.abs(found) > 1e3


def test_the_command(tmp_path, monkeypatch, capsys):
    """A table and a figure; exit code 1 where a statement fails; what is no paper or no seed is refused before anything runs."""
    monkeypatch.chdir(tmp_path)
    right = quick("kunin")
    wrong = replace(right, expected=2 * right.expected)
    monkeypatch.setitem(PAPERS, "kunin", PAPERS["kunin"]._replace(function=lambda key: right))
    assert cli.main(["reproduce", "kunin", "--out", "there", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["papers"]["kunin"]["passed"] and "Neural Comput" in told["papers"]["kunin"]["reference"]
    assert {p.name for p in (tmp_path / "there").iterdir()} == {"kunin.png", "result.json"}
    monkeypatch.setitem(PAPERS, "kunin", PAPERS["kunin"]._replace(function=lambda key: wrong))
    assert cli.main(["reproduce", "kunin"]) == 1
    said = capsys.readouterr()
    assert said.out.count("FAIL") == 3 and "1 of 1 failed: kunin" in said.err
    for words, code in ((["kunni"], 65), ([], 65), (["kunin", "--seed", "x"], 65), (["kunin", "--out", "there"], 73)):
        assert cli.main(["reproduce", *words]) == code
    assert "did you mean 'kunin'?" in capsys.readouterr().err
    assert cli.main(["list", "papers"]) == 0
    assert capsys.readouterr().out.count("[chains = ") == len(PAPERS)
    with pytest.raises(ValueError, match="did you mean 'xie'"):
        reproduce("xei")
