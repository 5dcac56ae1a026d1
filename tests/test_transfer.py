"""The transfer operator of a chain: its law against exact moments, a loop in NumPy, closed forms and densities by quadrature."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from numpy.testing import assert_allclose

import jaxsde as js
import jaxsde.theory as theory
from jaxsde.theory.discrete import box, transfer
from jaxsde.theory.discrete.step_law import step_law


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def quadratic(dim=1, noise=1.0):
    return js.potential(lambda x: x @ x / 2, jnp.ones(dim), noise_covariance=noise)


def squared_error(p, example):
    return (example[0] @ p - example[1]) ** 2 / 2


def least_squares(dim, n=12):
    rng = np.random.default_rng(dim)
    x = rng.normal(size=(n, dim))
    return js.finite_sum(squared_error, (x, x @ np.arange(1.0, dim + 1) + rng.normal(size=n)), np.zeros(dim))


@pytest.mark.parametrize(
    "dim, batch_size, sampling",
    [
        pytest.param(1, 2, "with_replacement", marks=pytest.mark.slow),
        (2, 1, "with_replacement"),
        pytest.param(2, 2, "without_replacement", marks=pytest.mark.slow),
    ],
)
def test_least_squares_has_its_exact_moments(dim, batch_size, sampling):
    chain = js.sgd(least_squares(dim), learning_rate=0.1, batch_size=batch_size, sampling=sampling)
    found = theory.transfer_operator(chain)
    exact = theory.stationary_covariance(chain)
    assert np.abs(found.covariance - exact).max() <= (found.error + 1e-12) * np.trace(exact)
    assert found.error < (1e-4 if dim == 1 else 1e-2)
    mean, sd = theory.stationary_mean(chain), np.sqrt(np.trace(exact))
    assert np.abs(found.mean - mean).max() <= (1e-6 if dim == 1 or batch_size > 1 else 1e-3) * sd
    # the constant-noise recursion, which forgets that each example has its own Hessian, is far outside
    problem = least_squares(dim)
    factor = (1 if sampling == "with_replacement" else (12 - batch_size) / 11) / batch_size
    h = np.asarray(jax.hessian(problem.loss)(jnp.zeros(dim)))
    c = factor * np.asarray(problem.noise_covariance(jnp.asarray(theory.stationary_mean(chain))))
    frozen = theory.discrete_lyapunov(np.eye(dim) - 0.1 * h, 0.01 * c)
    assert np.abs(found.covariance - frozen).max() > 3 * found.error * np.trace(exact)


@pytest.mark.parametrize(("seed", "part"), [(6, 0.3), (3, 0.1)])
def test_a_rough_law_knows_its_error(seed, part):
    # on few examples the law is a fractal: moments of several grids scatter, and a box that ends where the law does is not found
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 8))
    x = rng.normal(size=(n, 1))
    problem = js.finite_sum(squared_error, (x, x[:, 0] + rng.normal(size=n)), np.zeros(1))
    chain = js.sgd(problem, learning_rate=part * theory.stability_edge(problem))
    found = theory.transfer_operator(chain)
    exact = theory.stationary_covariance(chain)
    off = np.abs(found.covariance - exact).max() / exact[0, 0]
    assert off <= found.error < 1e-4
    assert off > 1e-9, "else nothing is told here"
    wrong = theory.stationary_covariance(js.sgd(problem, learning_rate=1.001 * part * theory.stability_edge(problem)))
    assert np.abs(found.covariance - wrong).max() > 3 * found.error * exact[0, 0]


@pytest.mark.parametrize(("part", "widest"), [(0.3, 1e-4), (0.6, 2e-2)])
def test_heavy_tails_of_gaussian_steps_know_what_the_box_leaves_out(part, widest):
    # noise that grows with the distance: tails of the powers 5.9 and 3.4, and a step far out that is many times one in the middle
    x, y = np.random.default_rng(0).normal(size=(2, 20, 1))
    problem = js.finite_sum(squared_error, (x, y[:, 0]), np.zeros(1))
    chain = js.sgd(problem, learning_rate=part * theory.stability_edge(problem), sampling="gaussian")
    found, exact = theory.transfer_operator(chain), theory.stationary_covariance(chain)[0, 0]
    off = abs(found.covariance[0, 0] - exact)
    assert off <= found.covariance_error[0, 0] < widest * exact
    assert 3 * off > found.covariance_error[0, 0] and found.error == pytest.approx(found.covariance_error[0, 0] / exact, rel=widest)
    assert abs(found.mean[0] - theory.stationary_mean(chain)[0]) <= found.mean_error[0] < widest * np.sqrt(exact)


@pytest.mark.parametrize("eta", [0.002, 0.3, 1.5])
def test_the_hull_of_two_values_is_found_however_weak_the_pull(eta):
    law = step_law(js.sgd(quadratic(), learning_rate=eta, sampling="two_point"))
    end = max(1.0, eta / (2 - eta))  # beyond η = 1 each step overshoots: (η − 1) x + η = x
    assert_allclose(box._hull(law, box.anchors(law)), [[-end], [end]], rtol=1e-10)


def test_steps_and_elimination_find_one_law(monkeypatch):
    rng = np.random.default_rng(0)
    halves = rng.uniform(size=(2, 400, 400))
    halves /= halves.sum(axis=2, keepdims=True)
    link, mixed = 1e-6, scipy.sparse.block_diag(halves).toarray()
    for here, there, rate in ((slice(0, 800, 2), slice(1, 800, 2), link), (slice(1, 800, 2), slice(0, 800, 2), 2 * link)):
        mixed[here, here], mixed[here, there] = (1 - rate) * halves[here.start], rate / 400
    # two parts, cell by cell side by side, that hardly meet: 2 : 1, which no few steps can tell
    assert_allclose(transfer.stationary(scipy.sparse.csr_matrix(mixed))[::2].sum(), 2 / 3, rtol=1e-9)
    chain = js.sgd(quadratic(), learning_rate=0.3, sampling="two_point")
    quick = theory.transfer_operator(chain, cells=1024)
    monkeypatch.setattr(transfer, "_QUICK", 0)
    assert_allclose(quick.mass, theory.transfer_operator(chain, cells=1024).mass, atol=1e-14)


def test_a_loop_in_numpy_puts_its_mass_in_the_same_cells():
    # a well on three examples, step after step, with each minibatch of two drawn with replacement, in NumPy
    shifts = np.array([-1.1, 0.2, 0.9])

    def example_loss(x, a):
        return (x[0] ** 2 - 1) ** 2 / 4 + a * x[0]

    chain = js.sgd(js.finite_sum(example_loss, shifts, np.ones(1)), learning_rate=0.5, batch_size=2)
    found = theory.transfer_operator(chain)
    rng, count, thin = np.random.default_rng(1), 20_000, 40
    x = np.where(np.arange(count) % 2, 1.0, -1.0)
    sums, looks = np.zeros(4), 12
    f = [lambda x: x, lambda x: x**2, lambda x: (x > 0.3) * 1.0, lambda x: np.cos(3 * x)]
    per_chain = np.zeros((4, count))
    for step in range(400 + thin * looks):
        x = x - 0.5 * (x**3 - x + shifts[rng.integers(3, size=(count, 2))].mean(axis=1))
        if step >= 400 and step % thin == thin - 1:
            per_chain += [g(x) for g in f]
    per_chain /= looks
    sums = per_chain.mean(axis=1)
    for value, spread, g in zip(sums, per_chain.std(axis=1), f, strict=True):
        exact = found.expectation(lambda y, g=g: g(y[:, 0]))
        assert abs(value - exact.value) <= 5 * spread / np.sqrt(count) + exact.error
    # the surrogate of the same covariance is told apart
    other = theory.transfer_operator(js.sgd(js.finite_sum(example_loss, shifts, np.ones(1)), learning_rate=0.5, batch_size=2, sampling="gaussian"), box=(-2.2, 2.2))
    assert abs(other.expectation(lambda y: np.cos(3 * y[:, 0])).value - sums[3]) > 5 * per_chain[3].std() / np.sqrt(count)


def test_two_values_of_noise():
    narrow, half, wide = (theory.transfer_operator(js.sgd(quadratic(), learning_rate=eta, sampling="two_point"), cells=1024) for eta in (0.1, 0.5, 0.6))
    assert_allclose(narrow.covariance, [[0.1 / 1.9]], rtol=1e-8)
    assert_allclose([half.mass.min(), half.mass.max()], 1 / half.mass.size, rtol=1e-9)  # η = ½ is uniform on (−1, 1)
    kl = half.kl_to_gibbs()
    assert abs(kl.value - 0.17648521) <= kl.error + 5e-9 and kl.error < 1e-6
    assert_allclose(kl.temperature, 1 / 3, rtol=1e-7)
    best = np.log(np.sqrt(2 * np.pi * np.e / 3) / 2)  # of a uniform law against a Gaussian of its variance
    assert_allclose(kl.value, best, atol=1e-7)
    above = wide.kl_to_gibbs()
    assert np.isinf(above.value) and "no density" in above.reason
    assert abs(wide.covariance[0, 0] / (0.6 / 1.4) - 1) <= wide.error < 1e-3
    lower = [v for _, v in above.by_cell_size]
    assert lower == sorted(lower, reverse=True)  # finer cells see more
    # Gibbs has mass outside (−1, 1)
    assert np.isinf(half.kl_to_gibbs(direction="reverse").value)


def test_gaussian_steps():
    eta = 0.3
    found = theory.transfer_operator(js.sgd(quadratic(), learning_rate=eta, sampling="gaussian"))
    assert_allclose(found.covariance, [[eta / (2 - eta)]], rtol=1e-9)
    law = scipy.stats.norm(scale=np.sqrt(eta / (2 - eta)))
    assert_allclose(found.density, law.pdf(found.points[:, 0]), atol=1e-9)
    assert_allclose(np.sort(np.abs(found.spectrum(5)))[::-1], (1 - eta) ** np.arange(5), atol=1e-7)
    # against the SDE of the same η, whose variance is η/2: two Gaussians
    ratio = 2 / (2 - eta)
    kl = found.kl_to(theory.stationary_density(js.sgd_sde(quadratic(), learning_rate=eta)))
    assert_allclose(kl.value, (ratio - 1 - np.log(ratio)) / 2, rtol=1e-8)
    back = found.kl_to(theory.stationary_density(js.sgd_sde(quadratic(), learning_rate=eta)), "reverse")
    assert_allclose(back.value, (1 / ratio - 1 + np.log(ratio)) / 2, rtol=1e-6)
    assert abs(found.kl_to_gibbs().value) < 1e-9  # it is Gibbs, at η/(2 − η)
    # and on the way there: mean and variance after k steps from a cell
    at = found.evolve([0.5], 7).ravel()
    start = found.points[np.abs(found.points[:, 0] - 0.5).argmin(), 0]
    mean = at @ found.points[:, 0]
    assert_allclose(mean, start * (1 - eta) ** 7, rtol=1e-7)
    assert_allclose(at @ (found.points[:, 0] - mean) ** 2, eta / (2 - eta) * (1 - (1 - eta) ** 14), rtol=1e-6)


@pytest.mark.slow
def test_euler_of_a_correlated_process_in_the_plane():
    h, c, eta = np.array([[1.0, 0.3], [0.3, 2.0]]), np.array([[1.0, -0.5], [-0.5, 0.6]]), 0.2
    problem = js.potential(lambda x: x @ jnp.asarray(h) @ x / 2, jnp.ones(2), noise_covariance=c)
    chain = js.integrate(js.sgd_sde(problem, learning_rate=eta), dt=0.3)
    found = theory.transfer_operator(chain)
    exact = theory.stationary_covariance(chain)
    assert np.abs(found.covariance - exact).max() <= (found.error + 1e-12) * np.trace(exact)
    assert found.error < 1e-4
    flipped = theory.discrete_lyapunov(np.eye(2) - 0.3 * h, 0.3 * eta * c * [[1, -1], [-1, 1]])
    assert np.abs(found.covariance - flipped).max() > 0.1 * np.trace(exact)


def step_matrix(shifts, batch_size):
    """All minibatch means of `shifts` with their odds, by enumerating every ordered draw."""
    means = np.array([np.mean(c) for c in itertools.product(shifts, repeat=batch_size)])
    return means, np.full(len(means), 1 / len(means))


def test_one_step_is_the_sum_over_minibatches():
    shifts = np.array([-1.1, 0.2, 0.9, 0.4])
    chain = js.sgd(js.finite_sum(lambda x, a: x[0] ** 2 / 2 + a * x[0], shifts, np.ones(1)), learning_rate=0.5, batch_size=3)
    found = theory.transfer_operator(chain, box=(-2.0, 2.0), cells=400)
    means, odds = step_matrix(shifts, 3)
    start = found.points[290, 0]
    after = found.evolve([start], 1)
    image = 0.5 * start - 0.5 * means
    expected_mean, expected_square = odds @ image, odds @ image**2
    x = found.points[:, 0]
    assert_allclose(after @ x, expected_mean, atol=1e-12)
    # spread over the image of a cell and shared between cells: at most half a cell's square more
    gain = after @ x**2 - expected_square
    assert 0 <= gain <= 0.5 * found.grid.size[0] ** 2
    assert_allclose(np.asarray(found.matrix.sum(axis=1)).ravel(), 1, atol=1e-12)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: js.sgd(quadratic(3), learning_rate=0.1, sampling="two_point"), "one or two dimensions"),
        (lambda: js.sgd(least_squares(1), learning_rate=0.1, batch_size=8), "outcomes|use a smaller batch"),
        (lambda: js.sgd(least_squares(1), learning_rate=0.1, sampling="random_reshuffling"), "depend on each other"),
        (lambda: js.integrate(js.momentum_sde(quadratic(), learning_rate=0.1, momentum=0.9), dt=0.1), "momenta|state is its position"),
        (lambda: js.sgd(quadratic(), learning_rate=2.5, sampling="gaussian"), "no stationary law|runs away"),
        # waves, and a hill: nothing keeps the chain, and on any box a law would be found
        (lambda: js.sgd(js.potential(lambda x: jnp.sin(x[0]), jnp.ones(1), noise_covariance=1.0), learning_rate=0.1), "does not rise"),
        (lambda: js.sgd(js.potential(lambda x: -x @ x / 2, jnp.ones(1), noise_covariance=1.0), learning_rate=0.1), "does not rise"),
    ],
)
def test_what_has_no_operator_is_said(make, says):
    with pytest.raises(ValueError, match=says):
        theory.transfer_operator(make())


def test_wrong_use_is_refused():
    with pytest.raises(TypeError, match="chain"):
        theory.transfer_operator(quadratic())
    chain = js.sgd(quadratic(), learning_rate=0.1, sampling="two_point")
    for options, says in (({"cells": 33}, "even number"), ({"box": (1.0, 0.0)}, "empty"), ({"box": 3.0}, "box must be")):
        with pytest.raises(ValueError, match=says):
            theory.transfer_operator(chain, **options)
    found = theory.transfer_operator(chain, cells=64)
    for ask, says in (
        (lambda: found.evolve([9.0], 1), "outside the box"),
        (lambda: found.evolve([0.0], -1), "steps"),
        (lambda: found.kl_to_gibbs(direction="sideways"), "direction"),
    ):
        with pytest.raises(ValueError, match=says):
            ask()
    with pytest.raises(TypeError, match="log_density"):
        found.kl_to(3.0)


# --- times of first passage of chains -------------------------------------------------------------------------------------------


def test_a_walk_of_two_steps_is_ruined_as_gamblers_are():
    # a walk of ±η from 0 until it has gained or lost ten: 100 steps, variance 2/3 (10⁴ − 10²)
    chain = js.sgd(js.potential(lambda x: 0 * x[0], jnp.zeros(1), noise_covariance=1.0), learning_rate=0.1, sampling="two_point")
    found = theory.mean_first_passage(chain, 0.0, (-0.95, 0.95))
    assert abs(found.mean - 10.0) <= found.error and found.error < 1e-6
    assert_allclose(found.variance, 66.0, rtol=1e-6)
    assert_allclose(found.survival([0.0, 0.9, 0.9999, 1.0001]), [1, 1, 1, 1 - 2**-9], atol=1e-7)


def test_gaussian_steps_against_a_linear_system():
    eta, lo, hi = 0.2, -3.0, 0.0
    nodes, weights = np.polynomial.legendre.leggauss(300)
    y, w = lo + (hi - lo) * (nodes + 1) / 2, weights * (hi - lo) / 2
    kernel = lambda x: scipy.stats.norm.pdf(y, (x - eta * (x**3 - x))[:, None], eta) * w
    q = kernel(y)
    tau = np.linalg.solve(np.eye(300) - q, np.ones(300))
    second = np.linalg.solve(np.eye(300) - q, 1 + 2 * q @ tau)
    first = kernel(np.array([-1.0]))[0]
    mean, square = 1 + first @ tau, 1 + 2 * first @ tau + first @ second
    problem = js.potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, -jnp.ones(1), noise_covariance=1.0)
    found = theory.mean_first_passage(js.sgd(problem, learning_rate=eta, sampling="gaussian"), -1.0, 0.0)
    assert_allclose(found.mean, eta * mean, rtol=1e-6)
    assert_allclose(found.variance, eta**2 * (square - mean**2), rtol=2e-6)
    survivors = [1.0]
    row = first
    for _ in range(200):
        survivors.append(row.sum())
        row = row @ q
    assert_allclose(found.survival(eta * np.arange(201)), survivors, atol=2e-6)
    # Euler–Maruyama with dt = η is the same chain; a watch on the SDE of the same step is not, by the first order in it
    euler = theory.mean_first_passage(js.integrate(js.sgd_sde(problem, learning_rate=eta), dt=eta), -1.0, 0.0)
    assert_allclose(euler.mean, found.mean, rtol=1e-9)
    with pytest.raises(ValueError, match="no density"):
        found.density(1.0)
    for options in ({"watched": 0.1}, {"walls": "absorbing"}):
        with pytest.raises(ValueError, match="belong to an SDE"):
            theory.mean_first_passage(js.sgd(problem, learning_rate=eta, sampling="gaussian"), -1.0, 0.0, **options)


def test_gaussian_steps_that_grow_against_a_linear_system():
    # a step far below is ten times one at the start: cut short, it would come back too late
    eta, lo, hi, noise = 0.2, -5.0, 0.3, lambda x: 0.1 + 3 * (x + 1) ** 2
    nodes, weights = np.polynomial.legendre.leggauss(500)
    y, w = lo + (hi - lo) * (nodes + 1) / 2, weights * (hi - lo) / 2
    kernel = lambda x: scipy.stats.norm.pdf(y, (x - eta * (x**3 - x))[:, None], eta * np.sqrt(noise(x))[:, None]) * w
    tau = np.linalg.solve(np.eye(500) - kernel(y), np.ones(500))
    mean = eta * (1 + kernel(np.array([-1.0]))[0] @ tau)
    problem = js.potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, -jnp.ones(1), noise_covariance=lambda x: noise(x[0]).reshape(1, 1))
    found = theory.mean_first_passage(js.sgd(problem, learning_rate=eta, sampling="gaussian"), -1.0, hi)
    assert abs(found.mean - mean) <= found.error < 1e-4 * mean


@pytest.mark.slow
def test_the_plane_and_the_line_agree():
    problem = js.potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4 + x[1] ** 2 / 2, -jnp.ones(2), noise_covariance=1.0)
    line = js.potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, -jnp.ones(1), noise_covariance=1.0)
    flat, plane = (
        theory.mean_first_passage(js.sgd(p, learning_rate=0.2, sampling="gaussian"), start, target, **options)
        for p, start, target, options in ((line, -1.0, 0.0, {}), (problem, [-1.0, 0.0], lambda x: x[0], {"cells": 80}))
    )
    assert abs(plane.mean - flat.mean) <= plane.error + flat.error and plane.error < 0.05 * plane.mean
    assert abs(plane.variance - flat.variance) <= plane.variance_error + flat.variance_error
