"""Every loss and potential of the catalogue against formulas written again in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde import config
from jaxsde.problems import LOSSES, POTENTIALS

rng = np.random.default_rng(20260110)


def brown(p):
    height, a, b, c = (-200, -100, -170, 15), (-1, -1, -6.5, 0.7), (0, 0, 11, 0.6), (-10, -10, -6.5, 0.7)
    x0, y0 = (1, 0, -0.5, -1), (0, 0.5, 1.5, 1)
    return sum(
        height[k]
        * np.exp(a[k] * (p[0] - x0[k]) ** 2 + b[k] * (p[0] - x0[k]) * (p[1] - y0[k]) + c[k] * (p[1] - y0[k]) ** 2)
        for k in range(4)
    )


H = np.array([[1.0, 0.3], [0.3, 2.0]])
# name -> (formula, a point of enough components, keywords, formula with them)
POTENTIAL_FORMULAS = {
    "quadratic": (lambda p: p @ H @ p / 2, [0.3, -1.2]),
    "double_well": (lambda p: (p[0] ** 2 - 1) ** 2 / 4 + (p[1:] ** 2).sum() / 2, [0.4, -0.7, 1.1]),
    "tilted_double_well": (lambda p: (p[0] ** 2 - 1) ** 2 / 4 + p[0] / 10 + (p[1:] ** 2).sum() / 2, [-0.8, 0.2]),
    "ring": (lambda p: (p[0] ** 2 + p[1] ** 2 - 1) ** 2 / 4 + (p[2:] ** 2).sum() / 2, [0.6, -0.3, 0.5]),
    "mueller_brown": (lambda p: brown(p), [-0.3, 0.9]),
    "himmelblau": (lambda p: (p[0] ** 2 + p[1] - 11) ** 2 + (p[0] + p[1] ** 2 - 7) ** 2, [2.2, -1.1]),
    "rosenbrock": (lambda p: (1 - p[0]) ** 2 + 5 * (p[1] - p[0] ** 2) ** 2, [0.4, 0.9]),
}


def net(w, x):
    return w[-2 - 1 : -1] @ np.tanh(w[:6].reshape(2, 3) @ x + w[6:8]) + w[-1]


# name -> (formula of flat parameters, x, y; number of parameters for 3 features and 4 classes; keywords)
LOSS_FORMULAS = {
    "squared_error": lambda w, x, y: (x @ w - y) ** 2 / 2,
    "cauchy": lambda w, x, y: 0.5 * np.log(1 + (x @ w - y) ** 2),
    "huber": lambda w, x, y: (r := abs(x @ w - y)) and (r**2 / 2 if r <= 1 else r - 0.5),
    "logistic": lambda w, x, y: np.log(1 + np.exp(x @ w)) - y * (x @ w),
    "softmax": lambda w, x, y: np.log(np.exp(z := np.append(w.reshape(-1, x.size) @ x, 0.0)).sum()) - z[int(y)],
    "deep_linear": lambda w, x, y: (w[-2:] @ (w[:-2].reshape(2, -1) @ x) - y) ** 2 / 2,
    "mlp": None,  # below: the order of its leaves matters
}


def gradient(f, p, h=1e-6):
    eye = np.eye(p.size) * h
    return np.array([(f(p + e) - f(p - e)) / (2 * h) for e in eye])


def hessian(f, p, h=1e-4):
    return np.array([gradient(lambda q, i=i: gradient(f, q, h)[i], p, h) for i in range(p.size)])


def agree(got, want, tolerance=2e-5):
    scale = max(np.abs(want).max(), 1.0)
    np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("name", POTENTIALS)
def test_potential_gradient_and_hessian(name):
    formula, point = POTENTIAL_FORMULAS[name]
    f, p = POTENTIALS[name].function, np.array(point)
    phi = jnp.asarray(p, jnp.float32)
    agree(f(phi), formula(p))
    agree(jax.grad(f)(phi), gradient(formula, p))
    agree(jax.hessian(f)(phi), hessian(formula, p), 1e-4)


MINIMA = {
    "quadratic": [((0, 0), 0)],
    "double_well": [((1,), 0), ((-1,), 0), ((1, 0, 0), 0)],
    "tilted_double_well": [((-1.0466805, 0.0), -0.1023847)],
    "ring": [((1, 0), 0), ((0.6, -0.8), 0)],
    "mueller_brown": [
        ((-0.5582236, 1.4417258), -146.69952),
        ((0.6234994, 0.0280378), -108.16672),
        ((-0.0500108, 0.4666941), -80.767818),
    ],
    "himmelblau": [
        ((3, 2), 0),
        ((-2.8051181, 3.1313125), 0),
        ((-3.7793103, -3.283186), 0),
        ((3.5844283, -1.8481265), 0),
    ],
    "rosenbrock": [((1, 1), 0)],
}


@pytest.mark.parametrize("name, point, value", [(n, p, v) for n, found in MINIMA.items() for p, v in found])
def test_known_minima(name, point, value):
    f, phi = POTENTIALS[name].function, jnp.asarray(point, jnp.float32)
    curvature = np.asarray(jax.hessian(f)(phi))
    assert abs(float(f(phi)) - value) < 1e-5 * max(1, abs(value))
    assert np.abs(jax.grad(f)(phi)).max() < 2e-6 * np.abs(curvature).max()
    assert np.linalg.eigvalsh(curvature)[0] > -1e-6


def test_potential_parameters():
    phi = jnp.array([0.5, 0.25], jnp.float32)
    f = {name: entry.function for name, entry in POTENTIALS.items()}
    assert f["quadratic"](phi, hessian=((2.0, 0.0), (0.0, 4.0))) == 0.25 + 0.125
    assert f["ring"](phi, radius=2.0, stiffness=4.0) == (0.3125 - 4.0) ** 2
    agree(f["tilted_double_well"](phi, tilt=-0.5) - f["double_well"](phi), -0.25)
    agree(f["mueller_brown"](phi, scale=0.5), 0.5 * brown(np.array([0.5, 0.25])))
    assert f["rosenbrock"](phi, a=0.5, b=16.0) == 0.0


def mlp(w, x, y):
    # ravel_pytree sorts by key: W [2, 3], a [2], b [2], c
    return (w[6:8] @ np.tanh(w[:6].reshape(2, 3) @ x + w[8:10]) + w[10] - y) ** 2 / 2


def build(name, x, y, **parameters):
    entry = LOSSES[name]
    starts = {k: v for k, v in parameters.items() if k == "hidden"}
    params = entry.start(x.shape[1], int(y.max()) + 1 if entry.target == "classes" else 2, **starts)
    keywords = {k: v for k, v in parameters.items() if k != "hidden"}

    def loss(p, example):
        return entry.function(p, example, **keywords)

    return js.finite_sum(loss, (x, y.astype(np.int32) if entry.target == "classes" else y), params)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_loss_gradient_and_hessian(name, ridge):
    one = {**LOSS_FORMULAS, "mlp": mlp}[name]
    if name == "deep_linear":  # sorted by key too: W [2, 3], a [2]
        assert list(LOSSES[name].start(3, 2)) == ["W", "a"]
    n = 7
    x = rng.normal(size=(n, 3))
    y = {"real": 2 * rng.normal(size=n), "binary": np.arange(n) % 2.0, "classes": np.arange(n) % 4.0}[
        LOSSES[name].target
    ]
    problem = build(name, x, y, l2=ridge, **({"hidden": 2} if "hidden" in LOSSES[name].size else {}))
    w = rng.normal(size=problem.dim)

    def mean(p):
        return np.mean([one(p, x[i], y[i]) for i in range(n)]) + ridge * p @ p / 2

    phi = jnp.asarray(w, jnp.float32)
    agree(problem.loss(phi), mean(w))
    agree(problem.grad(phi), gradient(mean, w))
    if name != "huber":  # its second derivative jumps
        agree(problem.hessian(phi), hessian(mean, w), 1e-4)
    gradients = np.array([gradient(lambda p, i=i: one(p, x[i], y[i]) + ridge * p @ p / 2, w) for i in range(n)])
    agree(problem.noise_covariance(phi), np.cov(gradients.T, bias=True), 1e-4)


@pytest.mark.parametrize("score", [1e2, 1e4, -1e4])
def test_losses_stay_finite_far_out(score):
    x, w = jnp.ones(1), jnp.full(1, score, jnp.float32)
    for label in (0.0, 1.0):
        loss, slope = jax.value_and_grad(LOSSES["logistic"].function)(w, (x, label))
        right = (score > 0) == (label == 1)
        assert loss == (0.0 if right else abs(score)) and jnp.isfinite(slope).all()
    for label in (0, 1):
        loss, slope = jax.value_and_grad(LOSSES["softmax"].function)(w[None], (x, label))
        assert loss == (0.0 if (score > 0) == (label == 0) else abs(score)) and jnp.isfinite(slope).all()
    for name in ("cauchy", "huber"):
        loss, slope = jax.value_and_grad(LOSSES[name].function)(w, (x, 0.0))
        assert jnp.isfinite(loss) and jnp.isfinite(slope).all()


def test_huber_at_its_corner():
    slope = jax.grad(LOSSES["huber"].function)
    for residual in (1.0, -1.0, np.nextafter(np.float32(1), np.float32(2)), 0.0):
        got = slope(jnp.full(1, residual, jnp.float32), (jnp.ones(1), 0.0))
        np.testing.assert_allclose(got, np.clip(residual, -1, 1), rtol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "deep_linear"])
def test_networks_start_without_symmetry(name):
    weights = LOSSES[name].start(200, 2, hidden=50)["W"]
    assert abs(weights.mean()) * np.sqrt(200 * 1e4) < 5 and abs(weights.var() * 200 - 1) < 0.05
    correlation = np.corrcoef(weights) - np.eye(50)
    assert np.abs(correlation).max() < 0.5
    again = LOSSES[name].start(200, 2, hidden=50)["W"]
    assert (weights == again).all()


@pytest.mark.parametrize("name", [*LOSSES, *POTENTIALS])
def test_every_entry_builds_from_its_name(name):
    problem = config.load(flags={"loss.name": ("--loss", name)}).problem()
    assert problem.dim == problem.start.size and bool(jnp.isfinite(problem.grad(problem.start)).all())
    assert (problem.examples > 0) == (name in LOSSES)
    if name in POTENTIALS:
        variance = POTENTIALS[name].variance
        np.testing.assert_allclose(problem.noise_covariance(problem.start), variance * np.eye(problem.dim))
