"""Times of first passage in the plane and in space: discs, squares, balls, and processes that a change of variables takes to the line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import j0, j1, jn_zeros

import jaxsde.theory as theory
from jaxsde.dynamics.equations import brownian, sde, sgd_sde
from jaxsde.problems.problem import potential

# −1 → 0 in L = (x² − 1)²/4 at D = .1: tests/test_escape.py
LINE = 30.821302472665746, 889.0078663053713


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def within(found, mean, variance=None, share=1.0):
    """The answer is as near as it says, and says something: at most `share` per cent."""
    assert abs(found.mean - mean) <= found.error + 1e-12 and found.error < share / 100 * mean
    if variance is not None:
        assert abs(found.variance - variance) <= found.variance_error + 1e-12
        assert found.variance_error < 2 * share / 100 * variance


def test_brownian_motion_in_a_disc():
    walk, box = brownian(2, scale=1.0), (-1.2, 1.1)
    found = theory.mean_first_passage(walk, [0.3, 0.2], lambda x: x @ x - 1, box=box, cells=64)
    # E τ = (1 − r²)/2; E τ² = (1 − r²)(3 − r²)/8
    r2 = 0.13
    within(found, (1 - r2) / 2, (1 - r2) * (3 - r2) / 8 - ((1 - r2) / 2) ** 2)
    assert_allclose(found.mean, (1 - r2) / 2, rtol=1e-12)  # a quadratic, which the cut edges have exactly
    zeros, t = jn_zeros(0, 60), np.array([0.1, 0.2, 0.39])
    exact = np.exp(-np.multiply.outer(t, zeros**2 / 2)) @ (2 * j0(zeros * np.sqrt(r2)) / (zeros * j1(zeros)))
    assert_allclose(found.survival(t), exact, atol=1e-4)
    density = np.exp(-np.multiply.outer(t, zeros**2 / 2)) @ (zeros * j0(zeros * np.sqrt(r2)) / j1(zeros))
    assert_allclose(found.density(t), density, atol=2e-3)
    # a target that says yes or no is as good
    assert_allclose(theory.mean_first_passage(walk, [0.3, 0.2], lambda x: x @ x > 1, box=box, cells=64).mean, found.mean, rtol=1e-9)
    # noise × 1.05 is seen
    with pytest.raises(AssertionError):
        within(theory.mean_first_passage(brownian(2, scale=1.05), [0.3, 0.2], lambda x: x @ x - 1, box=box, cells=64), (1 - r2) / 2)


def test_an_ellipse_with_correlated_noise():
    c, a = np.array([[1.0, 0.6], [0.6, 0.7]]), np.array([[1.2, -0.3], [-0.3, 0.8]])
    x0 = np.array([0.2, -0.1])
    walk = sde(lambda t, x: jnp.zeros(2), c, dim=2)
    # 1 − xᵀAx loses tr(CA) a unit time
    found = theory.mean_first_passage(walk, x0, lambda x: x @ jnp.asarray(a) @ x - 1, box=(-1.4, 1.4), cells=64)
    assert_allclose(found.mean, (1 - x0 @ a @ x0) / np.trace(c @ a), rtol=1e-11)
    assert abs((1 - x0 @ a @ x0) / np.trace(c * [[1, -1], [-1, 1]] @ a) / found.mean - 1) > 0.1  # the other sign of the cross term


def test_a_square_is_left_by_walls_and_by_a_target():
    k = np.arange(1, 100, 2)
    exact = 1 - np.sum(32 / (np.pi * k) ** 3 * (-1.0) ** (k // 2) / np.cosh(k * np.pi / 2))
    walk = brownian(2, scale=1.0)
    walls = theory.mean_first_passage(walk, [0.0, 0.0], lambda x: False, box=(-1, 1), walls="absorbing", cells=64)
    inside = theory.mean_first_passage(walk, [0.0, 0.0], lambda x: jnp.abs(x).max() - 1, box=(-1.07, 1.1), cells=64)
    for found in (walls, inside):
        within(found, exact)
        assert_allclose(found.mean, exact, rtol=2e-5)
    # reflected at two sides and let out at two: the line's (1 − x²)
    strip = theory.mean_first_passage(walk, [0.25, 0.1], lambda x: jnp.abs(x[0]) - 1, box=([-1.1, -0.5], [1.1, 0.5]), cells=64)
    around = theory.mean_first_passage(
        walk, [0.25, 0.1], lambda x: jnp.abs(x[0]) - 1, box=([-1.1, -0.5], [1.1, 0.5]), walls="periodic", cells=64
    )
    assert_allclose([strip.mean, around.mean], 1 - 0.25**2, rtol=1e-10)


@pytest.mark.slow
def test_a_well_whose_escape_is_that_of_the_line():
    turn = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
    back = jnp.asarray(turn.T)
    problem = potential(
        lambda p: ((back @ p)[0] ** 2 - 1) ** 2 / 4 + (back @ p)[1] ** 2 / 2,
        jnp.ones(2), noise_covariance=turn @ np.diag([1.0, 3.0]) @ turn.T,
    )  # fmt: skip
    process = sgd_sde(problem, learning_rate=0.2)
    start, target = turn @ [-1.0, 0.0], lambda x: (back @ x)[0]
    within(theory.mean_first_passage(process, start, target, cells=96), *LINE)
    # seen on a grid of times: the rim is as wide as on the line, whichever way it lies
    watched = theory.mean_first_passage(process, start, target, cells=96, watched=0.05)
    line = potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, jnp.ones(1), noise_covariance=1.0)
    within(watched, theory.mean_first_passage(sgd_sde(line, learning_rate=0.2), -1.0, 0.0, watched=0.05).mean)


A = 0.7


def bent(a=A):
    """(y₁, y₂ + a y₁²) of the well along y₁ and an Ornstein–Uhlenbeck y₂: noise with cross terms that vary (Itô)."""

    def drift(t, x):
        y1, y2 = x[0], x[1] - A * x[0] ** 2
        f = y1 - y1**3
        return jnp.stack([f, -y2 + 2 * A * y1 * f + A * 0.2])

    def root(x):
        return jnp.array([[1.0, 0.0], [2 * a * x[0], 1.0]]) @ jnp.diag(jnp.sqrt(jnp.array([0.2, 0.3])))

    return sde(drift, root, dim=2)


@pytest.mark.slow
def test_cross_terms_that_vary():
    found = [theory.mean_first_passage(bent(), [-1.0, A], lambda x: x[0], cells=n) for n in (64, 128)]
    for each in found:
        within(each, *LINE, share=3.0)
    assert found[0].error > 3.5 * found[1].error  # second order
    # cross terms of the other sign are another process, with a y₂ that is pushed about: by a target that looks at it, too
    leave = lambda x: jnp.maximum(x[0], 1.2 - (x[1] - A * x[0] ** 2 + 1.5) ** 2)
    right, wrong = (theory.mean_first_passage(bent(a), [-1.0, A], leave, cells=96) for a in (A, -A))
    assert abs(right.mean - wrong.mean) > 5 * (right.error + wrong.error)


def test_a_target_is_looked_for_and_what_is_too_rare_is_said():
    # a well that the first box does not leave: the box grows until it holds a part of the target
    ball = sgd_sde(potential(lambda x: x @ x / 2, jnp.ones(2), noise_covariance=1.0), learning_rate=0.2)
    line = sgd_sde(potential(lambda x: x @ x / 2, jnp.ones(1), noise_covariance=1.0), learning_rate=0.2)
    for level in (1.4, 1.5):
        found = theory.mean_first_passage(ball, [0.0, 0.0], lambda x, level=level: x[0] - level, cells=96)
        within(found, theory.mean_first_passage(line, 0.0, level).mean, share=5)
    for options in ({}, {"box": (-3.5, 3.5)}):
        with pytest.raises(ValueError, match="too rarely"):
            theory.mean_first_passage(ball, [0.0, 0.0], lambda x: x[0] - 3, **options)


@pytest.mark.slow
def test_the_saddle_is_passed_as_eyring_and_kramers_say():
    def loss(p):
        return (p[0] ** 2 - 1) ** 2 / 4 + 0.85 * (p[1] - 0.6 * p[0]) ** 2

    problem, ratio = potential(loss, jnp.ones(2), noise_covariance=1.0), []
    for kt in (0.06, 0.04):
        near_end = lambda x: 0.09 - (x[0] - 1) ** 2 - (x[1] - 0.6) ** 2
        found = theory.mean_first_passage(sgd_sde(problem, learning_rate=2 * kt), [-1.0, -0.6], near_end, cells=96)
        assert found.error < 0.02 * found.mean
        ratio.append(found.mean / theory.kramers(problem, kt, [-1.0, -0.6], [1.0, 0.6]) - 1)
    # the ratio tends to 1 linearly in the temperature
    assert 0 < ratio[1] < ratio[0] < 0.2
    assert abs(3 * ratio[1] - 2 * ratio[0]) < 0.03


@pytest.mark.slow
def test_a_ball():
    walk = brownian(3, scale=1.0)
    found = theory.mean_first_passage(walk, [0.3, 0.2, 0.0], lambda x: x @ x - 1, box=(-1.2, 1.1), cells=32)
    assert_allclose(found.mean, (1 - 0.13) / 3, rtol=1e-11)
    n, r = np.arange(1, 4000), np.sqrt(0.13)
    second = np.sum(2 * (-1.0) ** (n + 1) * np.sin(n * np.pi * r) / (n * np.pi * r) * 8 / (n * np.pi) ** 4)
    within(found, (1 - 0.13) / 3, second - ((1 - 0.13) / 3) ** 2, share=6)


@pytest.mark.parametrize(
    "target, options, error, says",
    [
        (lambda x: 1 - x @ x, {}, ValueError, "lies in the target"),
        (lambda x: x, {}, TypeError, "one bool, or one number"),
        (lambda x: x[0] > 1, {"watched": 0.1, "box": (-2, 2)}, ValueError, "faces"),
        (lambda x: x[0] - 1, {"walls": "absorbing"}, ValueError, "need a box"),
        (lambda x: x[0] - 1, {"walls": "sticky"}, ValueError, "reflecting"),
        (lambda x: x[0] - 1, {"box": (1, 2)}, ValueError, "does not hold the start"),
        (lambda x: x[0] - 1, {"cells": 8}, ValueError, "at least 32"),
        (lambda x: x[0] - 5, {"box": (-1, 1)}, ValueError, "no cell of the box"),
        (lambda x: x[0] > jnp.inf, {}, ValueError, "no box around it"),
    ],
)
def test_what_has_no_answer_is_said(target, options, error, says):
    with pytest.raises(error, match=says):
        theory.mean_first_passage(brownian(2, scale=1.0), [0.0, 0.0], target, **options)
