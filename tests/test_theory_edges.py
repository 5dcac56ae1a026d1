"""Edges of the second and the fourth moment, and tail indices: Kronecker powers of every batch and order, known numbers."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.datasets import load_diabetes
from written_out import EPOCHS, courses, regression, squared_error, step_maps

import jaxsde as js
from jaxsde.theory.moments import kurtosis

INDEPENDENT = ("with_replacement", "without_replacement", "svag", "gaussian")
MOMENTUM = [{}, dict(mu=0.6), dict(mu=0.6, nesterov=True)]


def edge(of, problem, b, sampling, momentum):
    sampling, l = ("with_replacement", 3) if sampling == "svag" else (sampling, 1)
    return of(problem, b, sampling, momentum.get("mu", 0.0), nesterov=momentum.get("nesterov", False), l=l)


def multipliers(hessians, b, sampling, momentum, eta):
    """The linear part of a step, or of an epoch, for every draw, with its odds."""
    n, d, _ = hessians.shape

    def step(batch, rate=eta):
        return step_maps(hessians, np.zeros((n, d)), rate, batch, **momentum)[:-1, :-1]

    if sampling in EPOCHS:
        whole = lambda s: step_maps(hessians, np.zeros((n, d)), eta, s, **momentum)
        maps = courses(n, b, sampling, whole)[:, -1, :-1, :-1]
    elif sampling == "gaussian":  # by quadrature over the weight of each example, exact for fourth moments
        nodes, odds = np.polynomial.hermite_e.hermegauss(3)
        mean, found, weights = hessians.mean(axis=0), [], []
        for pick in itertools.product(range(3), repeat=n):
            noisy = mean + np.einsum("i,iab->ab", nodes[list(pick)], hessians - mean) / np.sqrt(n * b)
            found.append(step_maps(noisy[None], np.zeros((1, d)), eta, [0], **momentum)[:-1, :-1])
            weights.append(np.prod(odds[list(pick)] / odds.sum()))
        return np.array(found), np.array(weights)
    else:
        distinct = sampling == "without_replacement"
        batches = list(itertools.combinations(range(n), b) if distinct else itertools.product(range(n), repeat=b))
        if sampling == "svag":
            first, second = (1 + np.sqrt(5)) / 2, (1 - np.sqrt(5)) / 2
            maps = np.array([first * step(u, eta / 3) + second * step(v, eta / 3) for u in batches for v in batches])
        else:
            maps = np.array([step(s) for s in batches])
    return maps, np.full(len(maps), 1 / len(maps))


def radius(maps, odds, power):
    size = maps.shape[1] ** power
    whole = np.zeros((size, size))
    for t, w in zip(maps, odds, strict=True):
        k = t
        for _ in range(power - 1):
            k = np.kron(k, t)
        whole += w * k
    return np.abs(np.linalg.eigvals(whole)).max()


@pytest.mark.parametrize("momentum", MOMENTUM, ids=["plain", "heavy ball", "nesterov"])
@pytest.mark.parametrize("b", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_second_moments_at_the_edge(b, momentum):
    """The radius is 1 at the edge and below it before, for every sampling."""
    problem, hessians, *_ = regression(4, 2)
    for sampling in (*EPOCHS, *INDEPENDENT):
        eta = edge(js.theory.stability_edge, problem, b, sampling, momentum)
        for part in (0.3, 0.7, 0.99, 1):
            maps, odds = multipliers(hessians, b, sampling, momentum, part * eta)
            settled = sampling in ("shuffle_once", "cyclic")
            found = np.abs(np.linalg.eigvals(maps)).max() if settled else radius(maps, odds, 2)
            assert abs(found - 1) < 1e-9 if part == 1 else found < 1


@pytest.mark.parametrize("momentum", MOMENTUM, ids=["plain", "heavy ball", "nesterov"])
@pytest.mark.parametrize("sampling", INDEPENDENT)
def test_fourth_moments_at_the_edge(sampling, momentum):
    problem, hessians, *_ = regression(4, 2)
    for b in (1, 2, 3) if sampling != "svag" else (2,):
        eta = edge(js.theory.kurtosis_edge, problem, b, sampling, momentum)
        assert abs(radius(*multipliers(hessians, b, sampling, momentum, eta), 4) - 1) < 1e-9
        assert eta <= edge(js.theory.stability_edge, problem, b, sampling, momentum) * (1 + 1e-9)


def test_edges_of_fourth_moments_by_krylov_and_on_the_line(monkeypatch):
    """Diabetes: bmi, bp and s5, by the whole matrix and by a Krylov method; in one dimension E(1 − ηĥ)⁴ = 1."""
    data: Any = load_diabetes()
    z = lambda a: (a - a.mean(axis=0)) / a.std(axis=0)
    with jax.enable_x64(True):
        problem = js.finite_sum(squared_error, (z(data.data[:, [2, 3, 8]])[:, None], z(data.target)[:, None]), np.zeros(3))
    x = np.array([0.5, 1.0, -1.5, 2.0])
    with jax.enable_x64(True):
        line = js.finite_sum(lambda q, e: 0.5 * (e * q[0] - 1) ** 2, x, np.zeros(1))
    eta = js.theory.kurtosis_edge(line)
    assert_allclose(np.mean((1 - eta * x**2) ** 4), 1, rtol=1e-10)
    dense = js.theory.kurtosis_edge(problem, 4)
    monkeypatch.setattr(kurtosis, "_DENSE", 0)
    assert_allclose(js.theory.kurtosis_edge(problem, 4), dense, rtol=1e-9)


def test_edges_without_noise_in_the_curvature():
    """Constant noise: the edge of the mean, 2(1 + μ)/λ and 2(1 + μ)/((1 + 2μ)λ), for every order of many data and both moments."""
    y = np.random.default_rng(0).normal(size=(50, 2))
    with jax.enable_x64(True):
        problem = js.finite_sum(lambda q, e: 0.5 * jnp.sum(jnp.array([1.0, 2.0]) * (q - e) ** 2), y, np.zeros(2))
    for sampling in (*EPOCHS, "with_replacement", "gaussian", "full_batch"):
        for of in (js.theory.stability_edge, js.theory.kurtosis_edge):
            if of is js.theory.kurtosis_edge and sampling in EPOCHS:
                continue
            assert_allclose(of(problem, 1, sampling), 1, rtol=1e-9)
            assert_allclose(of(problem, 1, sampling, 0.5), 1.5, rtol=1e-9)
            assert_allclose(of(problem, 1, sampling, 0.5, nesterov=True), 0.75, rtol=1e-9)
    assert_allclose(js.theory.stability_edge(problem, l=4), 4, rtol=1e-9)  # steps of η/4


def test_what_edges_refuse():
    problem, *_ = regression(30, 2)
    bad: Any = (
        (js.theory.stability_edge, (problem, 1, "shuffle_once"), {}, "worst of their orders"),
        (js.theory.stability_edge, (problem, 1, "random_reshuffling"), {}, "not covered"),
        (js.theory.stability_edge, (problem, 31, "without_replacement"), {}, "exceeds the 30 examples"),
        (js.theory.stability_edge, (problem, 1, "alpha_stable"), {}, "no finite covariance"),
        (js.theory.stability_edge, (problem, 1), {"nesterov": True}, "momentum above 0"),
        (js.theory.stability_edge, (problem, 1, "without_replacement"), {"l": 2}, "SVAG needs"),
        (js.theory.kurtosis_edge, (problem, 1, "random_reshuffling"), {}, "not covered"),
        (js.theory.kurtosis_edge, (problem, 1, "two_point"), {}, "not covered"),
    )
    for of, arguments, more, said in bad:
        with pytest.raises(ValueError, match=said):
            of(*arguments, **more)


def test_kesten():
    """Batches written out; the edges are where the index is 2 and 4; Student's t; Euler–Maruyama."""
    x = np.random.default_rng(1).normal(size=5)
    with jax.enable_x64(True):
        problem = js.finite_sum(lambda q, e: 0.5 * (e[0] * q[0] - e[1]) ** 2, (x, x**2 + 1), np.zeros(1))
        for b, sampling in ((1, "with_replacement"), (2, "with_replacement"), (2, "without_replacement"), (2, "svag"), (2, "gaussian")):
            second, fourth = (edge(of, problem, b, sampling, {}) for of in (js.theory.stability_edge, js.theory.kurtosis_edge))
            for eta, index in ((second, 2), (fourth, 4), ((second + fourth) / 2, None)):
                if sampling == "svag":
                    found = js.theory.tail_index(js.svag(problem, learning_rate=eta, l=3, batch_size=b))
                else:
                    found = js.theory.tail_index(js.sgd(problem, learning_rate=eta, batch_size=b, sampling=sampling))
                if index is not None:
                    assert_allclose(found, index, rtol=1e-8)
                elif sampling != "gaussian":  # quadrature is exact for even moments alone
                    maps, odds = multipliers((x**2).reshape(5, 1, 1), b, sampling, {}, eta)
                    assert_allclose(odds @ np.abs(maps[:, 0, 0]) ** found, 1, rtol=1e-10)
        student = js.potential(lambda q: 0.5 * q @ q, np.zeros(1), noise_covariance=lambda q: (1 + 0.6 * q[0] ** 2).reshape(1, 1))
        sde = js.sgd_sde(student, learning_rate=0.5)
        assert_allclose(js.theory.tail_index(sde), 1 + 2 / 0.3, rtol=1e-12)
        assert_allclose(js.theory.tail_index(js.integrate(sde, dt=1e-5)), 1 + 2 / 0.3, rtol=1e-4)
        z = np.random.default_rng(0).normal(size=400_000)  # E|1 − dt + √(.3 dt) z|^κ = 1 under Euler–Maruyama
        terms = np.abs(0.5 + np.sqrt(0.15) * z) ** js.theory.tail_index(js.integrate(sde, dt=0.5))
        assert abs(terms.mean() - 1) < 5 * terms.std() / np.sqrt(len(z))
        assert js.theory.tail_index(js.sgd(problem, learning_rate=0.01)) == np.inf  # every |T| ≤ 1
        with pytest.raises(ValueError, match="no stationary law"):
            js.theory.tail_index(js.sgd(problem, learning_rate=50.0))
        signs = js.finite_sum(squared_error, (np.array([0.0, 3**0.5]).reshape(2, 1, 1), np.ones((2, 1))), np.zeros(1))
        with pytest.raises(ValueError, match="no stationary law"):
            js.theory.tail_index(js.sgd(signs, learning_rate=2 / 3))  # |T| = 1 but for rounding: a walk


def test_kesten_in_more_dimensions():
    """Hessians along the axes: the smaller index of the two; others: 2 and 4 at the edges and bounds between them."""
    x = np.abs(np.random.default_rng(2).normal(size=(6, 2))) + 0.1
    x[:3, 0] = x[3:, 1] = 0  # each example sees one coordinate
    with jax.enable_x64(True):
        problem = js.finite_sum(lambda q, e: 0.5 * (e @ q - 1) ** 2, x, np.zeros(2))
        eta = 0.9 * js.theory.stability_edge(problem)
        lines = [js.finite_sum(lambda q, e: 0.5 * (e * q[0] - 1) ** 2, x[:, j], np.zeros(1)) for j in range(2)]
        found = [js.theory.tail_index(js.sgd(p, learning_rate=eta)) for p in (problem, *lines)]
        assert_allclose(found[0], min(found[1:]), rtol=1e-10)
        turned, *_ = regression(5, 2)
        second, fourth = js.theory.stability_edge(turned), js.theory.kurtosis_edge(turned)
        assert js.theory.tail_index(js.sgd(turned, learning_rate=second)) == 2
        assert js.theory.tail_index(js.sgd(turned, learning_rate=fourth)) == 4
        for eta, said in ((1.1 * second, "at most 2"), ((second + fourth) / 2, "between 2 and 4"), (fourth / 2, "above 4")):
            with pytest.raises(ValueError, match=said):
                js.theory.tail_index(js.sgd(turned, learning_rate=eta))


def test_a_far_step_of_a_chain_grows_as_edges_and_indices_say():
    """From so far away that the noise of the labels is nothing a step multiplies by T: E T² = 1 at the edge of the second moment,
    E T⁴ = 1 at that of the fourth and E|T|^κ = 1 for the tail index, at 5 standard errors; not for T 1.05 times as large."""
    x = np.random.default_rng(1).normal(size=7)
    problem = js.finite_sum(lambda q, e: 0.5 * (e[0] * q[0] - e[1]) ** 2, (x, x**2 + 1), np.zeros(1))
    second, fourth = js.theory.stability_edge(problem), js.theory.kurtosis_edge(problem)
    between = (second + fourth) / 2
    index = js.theory.tail_index(js.sgd(problem, learning_rate=between))
    assert 2 < index < 4
    n, far = 65_536, 1e5
    for eta, power in ((second, 2), (fourth, 4), (between, index)):
        run = js.simulate(js.sgd(problem, learning_rate=eta), np.full(1, far), key=js.key(9), chains=n, steps=1)
        grown = np.abs(run.positions[:, 0].astype(float) / far) ** power
        exact = np.abs(1 - eta * x**2)
        sd = np.sqrt(np.mean(exact ** (2 * power)) - np.mean(exact**power) ** 2)
        reach = 5 * sd / np.sqrt(n) + 1e-3 * power  # of the labels and of float32: 1e-4
        assert abs(grown.mean() - 1) < reach < abs(1.05**power * grown.mean() - 1)


def test_moments_on_either_side_of_an_edge():
    """The covariance at late epochs of reshuffling grows beyond the edge, and settles below it."""
    problem, _, _, best = regression(4, 2)
    eta = js.theory.stability_edge(problem, sampling="random_reshuffling")
    for part in (0.95, 1.05):
        chain = js.sgd(problem, learning_rate=part * eta, sampling="random_reshuffling")
        late = np.trace(js.theory.transient(chain, best, [400, 800, 1200]).covariance, axis1=1, axis2=2)
        assert (late[2] - late[1] > late[1] - late[0]) == (part > 1)
