"""Every equation's stationary covariance against Lyapunov equations in NumPy, and the weak orders of the modified equations exactly.

Three dimensions, 30 examples of unequal Hessians; noise that depends on the position closes the Lyapunov equation by a fixed point.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import block_diag, expm, solve_continuous_lyapunov
from test_integrator_orders import POINTS, fitted, moment_matrix, second_moments

import jaxsde as js
from jaxsde.dynamics.adaptive import ADAPTIVE_EQUATIONS
from jaxsde.dynamics.equations import EQUATIONS
from jaxsde.dynamics.kinetic import KINETIC_EQUATIONS
from jaxsde.types import Drawn

N, D, ETA, MU, KT = 30, 3, 0.05, 0.8, 0.3
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, D)) @ np.array([[1, 0.3, 0], [0, 0.8, 0.2], [0, 0, 0.6]])
Y = X @ np.array([1.0, -0.5, 0.3]) + RNG.normal(size=N)
H = X.T @ X / N
STAR = np.linalg.lstsq(X, Y, rcond=None)[0]
RESIDUAL = X @ STAR - Y
C = (X * RESIDUAL[:, None]).T @ (X * RESIDUAL[:, None]) / N
SIGMA = np.sqrt(np.diag(C))
P = np.array([[2, 0.4, 0], [0.4, 1, 0.1], [0, 0.1, 0.5]])
pytestmark = pytest.mark.filterwarnings("ignore:not exact")  # equations that are not linear are linearised, and say so


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def least_squares():
    with jax.enable_x64(True):
        return js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (X, Y), np.zeros(D))


def lyapunov(a, noise):
    """A S + S Aᵀ + noise(S) = 0, by iteration where the noise depends on S."""
    s = np.zeros_like(a)
    for _ in range(400):
        s = solve_continuous_lyapunov(a, -(noise(s) if callable(noise) else noise))
    return s


def spread(s):
    """The covariance of an example's gradient about Φ*, averaged over a law of covariance s: C + E (Hᵢ − H) s (Hᵢ − H)."""
    s = s[:D, :D]
    return C + np.einsum("ni,nj,n->ij", X, X, np.einsum("ni,ij,nj->n", X, s, X)) / N - H @ s @ H


def on_momentum(by):
    return lambda s: block_diag(np.zeros((D, D)), ETA * by * spread(s))


HEAVY = np.block([[np.zeros((D, D)), np.eye(D) / ETA], [-H, -(1 - MU) / ETA * np.eye(D)]])
BATH = np.block([[np.zeros((D, D)), np.eye(D) / 0.7], [-H, -2 * np.eye(D)]])
ARCSINE = 2 / np.pi * np.arcsin(np.clip(C / np.outer(SIGMA, SIGMA), -1, 1))
R1 = (1 - 0.8) / ETA
MEMORY = np.block([[-0.2 * H / SIGMA[:, None], -0.8 * np.diag(1 / SIGMA)], [R1 * H, -R1 * np.eye(D)]])
FEW = (N - 4) / (N - 1) / 4  # Σ_B/Σ of four without replacement

CASES = {
    "sgd_sde": (lambda p: js.sgd_sde(p, learning_rate=ETA), lambda: lyapunov(-H, lambda s: ETA * spread(s))),
    "sgd_sde of four": (
        lambda p: js.sgd_sde(p, learning_rate=ETA, batch_size=4, sampling="without_replacement"),
        lambda: lyapunov(-H, lambda s: ETA * FEW * spread(s)),
    ),
    "sgd_sde of order 2": (
        lambda p: js.sgd_sde(p, learning_rate=ETA, order=2),
        lambda: lyapunov(-(H + ETA / 2 * H @ H), lambda s: ETA * spread(s)),
    ),
    "sgd_sde frozen": (lambda p: js.sgd_sde(p, learning_rate=ETA, frozen_at=STAR), lambda: lyapunov(-H, ETA * C)),
    "homogenized_sgd": (
        lambda p: js.homogenized_sgd(p, learning_rate=ETA, batch_size=2),
        lambda: lyapunov(-H, lambda s: ETA / 2 * (np.mean(RESIDUAL**2) + np.trace(H @ s)) * H),
    ),
    "langevin": (lambda p: js.langevin(p, temperature=KT), lambda: KT * np.linalg.inv(H)),
    "langevin with P": (lambda p: js.langevin(p, temperature=KT, preconditioner=P), lambda: lyapunov(-P @ H, 2 * KT * P)),
    "gradient_flow": (js.gradient_flow, lambda: np.zeros((D, D))),
    "underdamped": (
        lambda p: js.underdamped(p, temperature=KT, friction=2.0, mass=0.7),
        lambda: lyapunov(BATH, block_diag(np.zeros((D, D)), 2 * 2.0 * 0.7 * KT * np.eye(D))),
    ),
    "momentum_sde": (lambda p: js.momentum_sde(p, learning_rate=ETA, momentum=MU), lambda: lyapunov(HEAVY, on_momentum(1))),
    "momentum_sde of four": (
        lambda p: js.momentum_sde(p, learning_rate=ETA, momentum=MU, batch_size=4, sampling="without_replacement"),
        lambda: lyapunov(HEAVY, on_momentum(FEW)),
    ),
    "sign_sgd_sde": (
        lambda p: js.sign_sgd_sde(p, learning_rate=ETA), lambda: lyapunov(-np.sqrt(2 / np.pi) * H / SIGMA[:, None], ETA * ARCSINE),
    ),
    "rmsprop_sde": (
        lambda p: js.rmsprop_sde(p, learning_rate=ETA, decay=0.95, eps=1e-12),
        lambda: lyapunov(-H / SIGMA[:, None], ETA * C / np.outer(SIGMA, SIGMA)),
    ),
    "adam_sde": (
        lambda p: js.adam_sde(p, learning_rate=ETA, b1=0.8, b2=0.95, eps=1e-12),
        lambda: lyapunov(MEMORY, lambda s: R1**2 * on_momentum(1)(s)),
    ),
}  # fmt: skip


def test_every_equation_is_here():
    named = {name.split()[0] for name in CASES} | {"brownian"}  # which has no stationary law
    assert named == {*EQUATIONS, *KINETIC_EQUATIONS, *ADAPTIVE_EQUATIONS}
    with pytest.raises(ValueError, match=r"rest point|stationary"):
        js.theory.stationary_covariance(js.brownian(2, learning_rate=0.1))


@pytest.mark.parametrize("name", CASES)
def test_stationary_covariance(name):
    made, truth = CASES[name]
    want = truth()
    sde = made(least_squares())
    got = js.theory.stationary_covariance(sde)
    np.testing.assert_allclose(got, want[:D, :D], rtol=1e-8, atol=1e-12)
    if name in ("underdamped", "momentum_sde"):  # the momenta too
        np.testing.assert_allclose(js.theory.stationary_covariance(sde.flatten()), want, rtol=1e-8, atol=1e-10)
    if want.any():
        assert np.abs(1.05 * got - want[:D, :D]).max() > 0.01 * np.abs(want).max()  # the twin


def test_adams_correction_of_its_start_is_forgotten():
    """The chain of a late step has the law of the equation whose correction is over, and theory says so of Euler's chain, too."""
    sde = js.adam_sde(least_squares(), learning_rate=ETA, b1=0.8, b2=0.95)
    x = jnp.asarray(np.concatenate([STAR + 0.1, [0.1, -0.2, 0.1], SIGMA**2]))
    late, settled = sde.drift(1e4, x), sde.drift.settled()(0.0, x)
    np.testing.assert_allclose(late, settled, rtol=1e-12)
    assert np.abs(np.asarray(sde.drift(0.0, x) - late)).max() > 0.01
    for small, off in ((1e-3, 3e-3), (1e-4, 3e-4)):
        chain = js.theory.stationary_covariance(js.integrate(sde, dt=small * ETA))
        np.testing.assert_allclose(chain, js.theory.stationary_covariance(sde), rtol=off)


# --- weak orders of the modified equations, noise that depends on the position --------------------------------------------------

X2, Y2 = X[:8, :2], Y[:8]
ETAS = 1 / np.array([5, 10, 20, 40, 80])
TIME, BEGIN = 2.0, np.array([1.0, -0.5])


@functools.cache
def small():
    with jax.enable_x64(True):
        return js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (X2, Y2), np.zeros(2))


def after(model, eta, **given):
    """E (1, x₀, x₁, x₀², x₀x₁, x₁²) at t = 2: of SGD by all its examples, of an SDE by its generator on quadratics. Exact."""
    problem = small()
    if model == "sgd":
        chain = js.sgd(problem, learning_rate=eta)
        step = jax.vmap(jax.vmap(lambda x, i: chain.step(x, Drawn(indices=i), 0.0), in_axes=(None, 0)), in_axes=(0, None))
        ends = np.asarray(step(jnp.asarray(POINTS), jnp.arange(len(X2))[:, None]))
        return np.linalg.matrix_power(moment_matrix(second_moments(ends).mean(1)), round(TIME / eta)) @ second_moments(BEGIN)
    sde = js.sgd_sde(problem, learning_rate=eta, **given)

    def rates(x):
        f, d = np.asarray(sde.drift(0.0, jnp.asarray(x))), 2 * np.asarray(sde.diffusion(jnp.asarray(x)))
        return np.array([0, *f, 2 * x[0] * f[0] + d[0, 0], x[0] * f[1] + x[1] * f[0] + d[0, 1], 2 * x[1] * f[1] + d[1, 1]])

    return expm(TIME * moment_matrix([rates(p) for p in POINTS])) @ second_moments(BEGIN)


def test_weak_orders_of_the_modified_equations():
    """Means and second moments: order 1 has slope 1 and order 2 slope 2, with Σ(x) in the diffusion of both. Freezing Σ leaves the
    means of order 1 as they are and spoils the second moments, which then fall no faster than η, whatever the drift."""
    truth = np.array([after("sgd", eta) for eta in ETAS])
    errors = {
        name: np.abs(np.array([after("sde", eta, **given) for eta in ETAS]) - truth)
        for name, given in {"1": {}, "2": {"order": 2}, "frozen": {"frozen_at": BEGIN}, "2 frozen": {"order": 2, "frozen_at": BEGIN}}.items()
    }
    for name, order in (("1", 1), ("2", 2)):
        for columns in ((1, 2), (3, 4, 5)):
            slope, se = fitted(1 / ETAS, errors[name][:, columns].max(1))
            assert abs(slope - order) < 4 * se + 0.12, (name, columns, slope, se)
    np.testing.assert_allclose(errors["frozen"][:, 1:3], errors["1"][:, 1:3], rtol=1e-9)
    worst = {name: e[-2:, 3:].max(1) for name, e in errors.items()}
    assert worst["2 frozen"][0] / worst["2 frozen"][1] < 2.5 < 3.5 < worst["2"][0] / worst["2"][1]  # the twin
    assert errors["frozen"][-1, 5] > 2 * errors["1"][-1, 5]


def test_mean_loss_of_homogenised_sgd():
    """E L(t) by the package's drift and diffusion against an ODE of the first and second moments in NumPy."""
    problem, eta = small(), 0.2
    sde = js.homogenized_sgd(problem, learning_rate=eta)
    h, c, y2 = X2.T @ X2 / 8, X2.T @ Y2 / 8, np.mean(Y2**2)

    def rhs(t, v):
        m, s = v[:2], v[2:].reshape(2, 2)
        two_loss = np.trace(h @ s) - 2 * c @ m + y2
        ds = -(h @ s - np.outer(c, m))
        return np.concatenate([c - h @ m, (ds + ds.T + eta * two_loss * h).ravel()])

    v = solve_ivp(rhs, (0, TIME), np.concatenate([BEGIN, np.outer(BEGIN, BEGIN).ravel()]), rtol=1e-11, atol=1e-12).y[:, -1]

    def rates(x):
        f, d = np.asarray(sde.drift(0.0, jnp.asarray(x))), 2 * np.asarray(sde.diffusion(jnp.asarray(x)))
        return np.array([0, *f, 2 * x[0] * f[0] + d[0, 0], x[0] * f[1] + x[1] * f[0] + d[0, 1], 2 * x[1] * f[1] + d[1, 1]])

    got = expm(TIME * moment_matrix([rates(p) for p in POINTS])) @ second_moments(BEGIN)
    np.testing.assert_allclose(got[[1, 2, 3, 4, 5]], [*v[:2], v[2], v[3], v[5]], rtol=1e-7)


# --- bias at finite learning rates ------------------------------------------------------------------------------------------------


@functools.cache
def exact_mean(eta):
    """E x of x' = x − η(eˣ − 1 + z), z normal, by its transition matrix on a grid."""
    x = np.arange(-3.0, 2.0, eta / 6)
    to = x - eta * (np.exp(x) - 1)
    k = np.exp(-0.5 * ((x[:, None] - to) / eta) ** 2)
    k /= k.sum(0)
    p = np.ones(len(x)) / len(x)
    for _ in range(12):
        k = k @ k
    return float(x @ (k @ p))


def test_mean_bias_of_sgd_and_its_extrapolation_in_the_learning_rate():
    """f′ = eˣ − 1, unit noise: the bias is −η f‴c/4f″² = −η/4 to leading order, −.025 at η = .1; Richardson and Romberg remove it."""
    assert abs(exact_mean(0.1) / -0.025 - 1) < 0.1 > 2 * abs(exact_mean(0.05) / -0.0125 - 1) - 0.02
    problem = js.potential(lambda x: jnp.exp(x[0]) - x[0], np.zeros(1))
    found = []
    for i, eta in enumerate((0.1, 0.05)):
        run = js.simulate(js.sgd(problem, learning_rate=eta), np.zeros(1), key=js.key(i), chains=4096, steps=round(80 / eta),
                          burn_in=round(10 / eta), every=4, statistics={"m": js.Mean()})  # fmt: skip
        found.append(run.estimate("m", lambda m: m[0]))
        assert abs(found[-1].value - exact_mean(eta)) < 5 * found[-1].stderr < abs(found[-1].value) / 2  # and it is not 0
    free = js.richardson_romberg(*found)
    want = 2 * exact_mean(0.05) - exact_mean(0.1)
    assert abs(free.value - want) < 5 * free.stderr
    assert abs(want) < 0.1 * abs(exact_mean(0.1))
    assert abs(free.value - found[1].value) > 5 * free.stderr  # the twin: one run alone is biased


def test_the_momentum_of_the_heavy_ball():
    """(η, h, μ, c) = (.3, 1.7, .9, 1.3): Var x = 1.3248704 and Var v = .7112462, v = −η times optax's trace. 5·√2 Var/√N."""
    problem = js.potential(lambda x: 0.85 * jnp.sum(x**2), np.zeros(1), noise_covariance=1.3)
    chain = js.sgd(problem, learning_rate=0.3, optimizer=js.momentum(0.9))
    a = np.array([[1 - 0.3 * 1.7, 0.9], [-0.3 * 1.7, 0.9]])  # of (x, v): v' = .9 v − .3 (1.7 x + z), x' = x + v'
    q = 0.3**2 * 1.3 * np.ones((2, 2))
    want = np.linalg.solve(np.eye(4) - np.kron(a, a), q.ravel()).reshape(2, 2)
    np.testing.assert_allclose(np.diag(want), [1.3248704, 0.7112462], atol=5e-8)
    run = js.simulate(chain, np.zeros(1), key=js.key(0), chains=16_384, steps=400)
    x = run.positions[:, 0]
    momenta = [np.asarray(a) for a in jax.tree.leaves(run.state[1])]
    v = -0.3 * next(m for m in momenta if m.ndim == 3)[:, :, 0][: run.layout.rows][run.layout.lanes()]
    for got, var in ((x, want[0, 0]), (v, want[1, 1])):
        assert abs(got.var() - var) < 5 * np.sqrt(2 / len(x)) * var < abs(1.1 * got.var() - var)
