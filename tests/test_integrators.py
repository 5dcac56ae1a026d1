"""Integrators: golden steps, exact moments of linear SDEs, the Itô correction, what is refused, and diffrax on the same paths.

Their orders are in `test_integrator_orders.py` and `test_strong_orders.py`. Moments are computed without sampling, by Gauss–Hermite
quadrature in the noise.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest
from test_integrator_orders import STEP

import jaxsde as js
from jaxsde.stepping.integrators import INTEGRATORS, ito_correction
from jaxsde.types import Drawn

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def stepped(integrator: Any, sde: Any, h: float) -> Callable[[Any, Any], np.ndarray]:
    """x' of a one-dimensional SDE, over arrays of x and z, at t = 0, through the chain that the engine would run."""
    chain = js.integrate(sde, integrator, dt=h)

    def one(x: Any, z: Any) -> Any:
        return chain.step(jnp.reshape(x, (1,)), Drawn(normals=jnp.reshape(z, (1,))), jnp.asarray(0.0))[0]

    compiled = jax.jit(jnp.vectorize(one))
    return lambda x, z: np.asarray(compiled(jnp.asarray(x, float), jnp.asarray(z, float)))


def scalar(f: Any, b: Any) -> Any:
    return js.sde(lambda t, x: f(x), (lambda x: b(x)) if callable(b) else b**2, dim=1)


@pytest.mark.parametrize(
    "integrator,want",
    [
        (js.EulerMaruyama(), 0.8829),
        (js.Milstein(), 0.8798856),
        (js.Heun(), 0.87268935),
        (
            js.Heun(calculus="stratonovich"),
            0.7 + (0.357 + 0.8829 - 0.8829**3) * 0.05 + (0.64 + 0.5 + 0.2 * 0.8829) * 0.115,
        ),
    ],
)
def test_one_golden_step(integrator, want):
    step = stepped(integrator, scalar(lambda x: x - x**3, lambda x: 0.5 + 0.2 * x), 0.1)
    assert abs(step(0.7, 0.23 / np.sqrt(0.1)) - want) < 5e-9
    wrong = stepped(integrator, scalar(lambda x: x - x**3, lambda x: 0.5 + 0.21 * x), 0.1)
    assert abs(wrong(0.7, 0.23 / np.sqrt(0.1)) - want) > 1e-3


def heun(f, b, d, x, h, w):
    drift = lambda y: f(y) - b(y) * d(y) / 2
    guess = x + drift(x) * h + b(x) * w
    return x + (drift(x) + drift(guess)) * h / 2 + (b(x) + b(guess)) * w / 2


def platen(f, b, d, x, h, w):
    up, down, guess = x + f(x) * h + b(x) * np.sqrt(h), x + f(x) * h - b(x) * np.sqrt(h), x + f(x) * h + b(x) * w
    return (x + (f(x) + f(guess)) * h / 2 + (b(up) + b(down) + 2 * b(x)) * w / 4
            + (b(up) - b(down)) * (w * w - h) / 4 / np.sqrt(h))  # fmt: skip


# one step in one dimension in NumPy: drift f, noise b with derivative d, ΔW = w (and J = ∫∫ dW ds/h)
FORMULAS = {
    "euler_maruyama": lambda f, b, d, x, h, w: x + f(x) * h + b(x) * w,
    "tamed_euler": lambda f, b, d, x, h, w: x + f(x) * h / (1 + h * abs(f(x))) + b(x) * w,
    "milstein": lambda f, b, d, x, h, w: x + f(x) * h + b(x) * w + b(x) * d(x) * (w * w - h) / 2,
    "heun": heun,
    "platen": platen,
    "sra1": lambda f, b, d, x, h, w, j: x + h * (f(x) + 2 * f(x + 0.75 * h * f(x) + 1.5 * b(x) * j)) / 3 + b(x) * w,
    "leimkuhler_matthews": lambda f, b, d, x, h, w, before: x + f(x) * h + b(x) * (w + before) / 2,
}
CASES = {
    "cubic": (lambda x: x - x**3, lambda x: 0.5 + 0.2 * x, lambda x: 0.2 + 0 * x),
    "additive": (lambda x: x - x**3 + 0.3, lambda x: 0.6 + 0 * x, lambda x: 0 * x),
    "geometric": (lambda x: 0.5 * x, lambda x: 0.6 * x, lambda x: 0.6 + 0 * x),
}


def test_every_scheme_has_its_formula():
    assert set(FORMULAS) == {n for n, e in INTEGRATORS.items() if e.drift == "any"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FORMULAS)
def test_one_step_is_the_formulas(name, case):
    """At several positions, steps and draws, to rounding; with b 5 % larger it is another number."""
    f, b, d = CASES[case]
    if INTEGRATORS[name].noise == "additive" and case != "additive":
        return
    make = lambda by: js.sde(lambda t, x: f(x), (0.6 * by) ** 2 if case == "additive" else lambda x: by * b(x), dim=1)
    for x, h, w, second in [(0.7, 0.1, 0.23, 0.1), (-1.3, 0.04, -0.4, 0.05), (0.2, 0.3, 0.9, -0.6)]:
        got = []
        for by in (1.0, 1.05):
            chain, z = js.integrate(make(by), name, dt=h), w / np.sqrt(h)
            state, drawn = jnp.array([x]), [z]
            if name == "sra1":
                drawn = [z, (2 * second / np.sqrt(h) - z) * np.sqrt(3)]
            if name == "leimkuhler_matthews":
                state = (state, jnp.array([second / np.sqrt(h)]))
            got.append(float(chain.position(chain.step(state, Drawn(normals=jnp.array(drawn)), 0.0))[0]))
        more = (second,) if name in ("sra1", "leimkuhler_matthews") else ()
        want = FORMULAS[name](f, b, d, x, h, w, *more)
        assert abs(got[0] - want) < 1e-12 < 1e-4 < abs(got[1] - want)


# OU of rate λ: the mean's factor a of a step of length h, and the variance it adds over σ²
LINEAR = {
    "euler_maruyama": lambda r, h: (1 - r * h, h),
    "milstein": lambda r, h: (1 - r * h, h),
    "heun": lambda r, h: (1 - r * h + (r * h) ** 2 / 2, h * (1 - r * h / 2) ** 2),
    "platen": lambda r, h: (1 - r * h + (r * h) ** 2 / 2, h * (1 - r * h / 2) ** 2),
    "sra1": lambda r, h: (1 - r * h + (r * h) ** 2 / 2, h * ((1 - r * h / 2) ** 2 + (r * h) ** 2 / 12)),
    "exact_linear": lambda r, h: (np.exp(-r * h), (1 - np.exp(-2 * r * h)) / (2 * r)),
}
GOLDEN = {  # λ = 1.5, σ = .8, x₀ = 2, T = 1, h = ¼: mean, variance, stationary variance
    "euler_maruyama": (0.30517578, 0.25645081, 0.2625641),
    "heun": (0.46746612, 0.19331414, 0.20448541),
    "sra1": (0.46746612, 0.19674575, 0.20811533),
}


@pytest.mark.parametrize("rate,sigma,h", [(1.5, 0.8, 0.25), (0.4, 1.7, 0.6)])
@pytest.mark.parametrize("name", LINEAR)
def test_ornstein_uhlenbeck_exactly(name, rate, sigma, h):
    """Mean and variance at T = 4h from x₀ = 2, and the stationary variance, of x' = a x + b·z; a tamed step is not linear in x."""
    assert {n for n, e in INTEGRATORS.items() if e.drift != "kinetic"} - set(LINEAR) == {"tamed_euler", "leimkuhler_matthews"}
    chain = js.integrate(js.sde(lambda t, x: -rate * x, sigma**2, dim=1), name, dt=h)
    one = lambda x, z: float(chain.step(jnp.array([x]), Drawn(normals=jnp.asarray(z)), 0.0)[0])
    basis = np.eye(chain.draws.normals)
    a, added = one(1.0, 0 * basis[0]), sum(one(0.0, e) ** 2 for e in basis)
    want, over = LINEAR[name](rate, h)
    np.testing.assert_allclose((a, added), (want, sigma**2 * over), rtol=1e-12)
    stationary = added / (1 - a**2)
    np.testing.assert_allclose(js.theory.stationary_covariance(chain), [[stationary]], rtol=1e-9)
    if h == 0.25 and name in GOLDEN:
        np.testing.assert_allclose((2 * a**4, stationary * (1 - a**8), stationary), GOLDEN[name], atol=6e-9)
        assert abs(1.05 * stationary - GOLDEN[name][2]) > 1e-3  # the twin


@pytest.mark.parametrize(
    "integrator,golden",
    [
        (js.EulerMaruyama(), (1.60180664, 3.37721164, 0.29577936)),
        (js.Milstein(), (1.60180664, 3.41775124, 0.17813659)),
        (js.Platen(), (1.6467669, 3.85501275, 0.05201416)),
    ],
)
def test_geometric_brownian_motion_exactly(integrator, golden):
    """a = .5, b = .6, x0 = 1, T = 1, h = ¼: E x, E x², and the rms distance to the exact solution on the same path."""
    a, b, h = 0.5, 0.6, 0.25
    step = stepped(integrator, scalar(lambda x: a * x, lambda x: b * x), h)
    m = step(1.0, NODES)
    exact = np.exp((a - b**2 / 2) * h + b * np.sqrt(h) * NODES)
    powers = [(WEIGHTS @ p) ** 4 for p in (m, m**2, exact**2, exact * m)]
    rms = np.sqrt(powers[2] - 2 * powers[3] + powers[1])
    np.testing.assert_allclose((powers[0], powers[1], rms), golden, atol=6e-9)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_ito_correction_is_its_closed_form(scale):
    def factor(x):
        return (
            jnp.array([[1.0, 0.0], [0.0, 0.0]]) * x[0] ** 2
            + jnp.array([[0.0, 1.0], [0, 0]]) * x[1]
            + jnp.array([[0.0, 0.0], [0.0, 1.0]]) * jnp.sin(x[0])
        )

    sde = js.sde(lambda t, x: -x, factor, dim=2, scale=scale)
    for x in np.random.default_rng(2).normal(size=(5, 2)):
        want = scale**2 / 2 * np.array([2 * x[0] ** 3 + np.sin(x[0]), x[1] * np.cos(x[0])])
        np.testing.assert_allclose(ito_correction(sde, jnp.asarray(x)), want, atol=1e-12)
        diagonal = js.sde(lambda t, x: -x, lambda x: jnp.exp(0.5 * x), dim=2, scale=scale)
        np.testing.assert_allclose(ito_correction(diagonal, jnp.asarray(x)), scale**2 / 4 * np.exp(x), rtol=1e-12)
        for constant in (2.0, [1.0, 2.0], [[2.0, 1.0], [1.0, 1.0]]):
            assert not np.any(ito_correction(js.sde(lambda t, x: -x, constant, dim=2), jnp.asarray(x)))


def test_ito_correction_of_a_problems_own_noise():
    """Σ(Φ) of examples by either route: ½ Σ_k (∂b_k) b_k differs between square roots, so each is held to its own."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    problem = js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (x, y), np.ones(3))
    from jaxsde.dynamics import noise
    from jaxsde.struct import replace

    phi = jnp.asarray(rng.normal(size=3))
    for route in ("weights", "factor"):
        sde = replace(js.sgd_sde(problem, learning_rate=0.2), noise=noise.of_problem(problem, route))
        root = lambda p, made=sde.noise: np.asarray(
            jax.vmap(lambda z: made.product(p, z))(jnp.eye(made.dim))
        )  # ["m d"]
        b, eps = root(phi), 1e-5
        want = sum((root(phi + eps * bk) - root(phi - eps * bk))[k] / (2 * eps) for k, bk in enumerate(b)) * 0.2 / 2
        np.testing.assert_allclose(ito_correction(sde, phi), want, atol=1e-8)


def cross(x):
    return jnp.stack([1 + 0.1 * x[1] ** 2, 1 + 0 * x[0]])


@pytest.mark.parametrize(
    "noise,words",
    [
        (lambda x: jnp.stack([x, jnp.stack([0.3 * x[0] ** 2, jnp.sin(x[0])])]), "depends on the position"),
        (cross, "entry 0 depends on component 1"),
    ],
)
def test_milstein_refuses_what_it_does_not_cover(noise, words):
    sde = js.sde(lambda t, x: -x, noise, dim=2)
    with pytest.raises(ValueError, match=words):
        js.integrate(sde, js.Milstein(), dt=0.1)
    js.integrate(sde, js.EulerMaruyama(), dt=0.1)


def test_heun_refuses_a_diagonal_whose_correction_would_be_wrong():
    sde = js.sde(lambda t, x: -x, cross, dim=2)
    with pytest.raises(ValueError, match=r"entry 0 depends on component 1.*jnp\.diag"):
        js.integrate(sde, js.Heun(), dt=0.1)
    js.integrate(sde, js.Heun(calculus="stratonovich"), dt=0.1)
    js.integrate(js.sde(lambda t, x: -x, lambda x: jnp.diag(cross(x)), dim=2), js.Heun(), dt=0.1)


def test_milstein_covers_any_noise_in_one_dimension():
    well = js.potential(lambda x: (x[0] ** 2 - 1) ** 2 / 4, np.ones(1), noise_covariance=lambda x: 0.2 + x**2)
    step = stepped(js.Milstein(), js.sgd_sde(well, learning_rate=0.3), 0.1)
    x, z = 0.7, 1.3
    b, bb = np.sqrt(0.3 * (0.2 + x**2)), 0.3 * x  # b and b b′
    want = x - x * (x**2 - 1) * 0.1 + b * np.sqrt(0.1) * z + bb / 2 * 0.1 * (z**2 - 1)
    assert abs(step(x, z) - want) < 1e-12
    matrix = js.sde(lambda t, x: -x, lambda x: jnp.reshape(jnp.exp(x), (1, 1)), dim=1)
    assert abs(stepped(js.Milstein(), matrix, 0.1)(x, z) - (
        x * 0.9 + np.exp(x) * np.sqrt(0.1) * z + np.exp(2 * x) / 2 * 0.1 * (z**2 - 1))) < 1e-12  # fmt: skip


@pytest.mark.parametrize("noise", [0.5, [1.0, 2.0, 3.0], np.diag([1.0, 2, 0]) + 0.3 * np.ones((3, 3))])
def test_milstein_is_euler_maruyama_for_additive_noise(noise):
    sde = js.sde(lambda t, x: jnp.sin(x) + t, noise, dim=3, scale=0.4)
    chains = [js.integrate(sde, i, dt=0.1) for i in (js.EulerMaruyama(), js.Milstein())]
    z = Drawn(normals=jnp.asarray(np.random.default_rng(0).normal(size=chains[0].draws.normals)))
    a, b = (np.asarray(c.step(jnp.ones(3), z, 4.0)) for c in chains)
    np.testing.assert_array_equal(a, b)


def test_no_noise_and_time():
    """Gradient flow draws nothing; a drift sees the time k dt, and Heun the end of the step too."""
    flow = js.gradient_flow(js.potential(lambda x: jnp.sum(x**2) / 2, np.ones(2)))
    for integrator, factor in [(js.EulerMaruyama(), 0.9), (js.Milstein(), 0.9), (js.Heun(), 0.905)]:
        chain = js.integrate(flow, integrator, dt=0.1)
        assert chain.draws.normals == 0
        np.testing.assert_allclose(chain.step(jnp.ones(2), Drawn(), 0.0), [factor] * 2, rtol=1e-12)
    clock = js.sde(lambda t, x: t + 0 * x, 1.0, dim=1)
    for integrator, want in [(js.EulerMaruyama(), 0.1 * 0.3), (js.Heun(), 0.1 * 0.35)]:
        got = js.integrate(clock, integrator, dt=0.1).step(jnp.zeros(1), Drawn(normals=jnp.zeros(1)), 3.0)
        np.testing.assert_allclose(got, [want], rtol=1e-12)


def test_equal_to_diffrax_on_the_same_increments():
    h, x = 0.1, jnp.array([0.7, -0.4])
    f = lambda t, x: x - x**3 + jnp.cos(t) * x[::-1]
    b = lambda x: 0.5 + 0.2 * jnp.sin(x)
    path = diffrax.VirtualBrownianTree(0.0, 1.0, tol=1e-3, shape=(2,), key=jax.random.key(3))
    dw = path.evaluate(0.2, 0.2 + h)
    terms = diffrax.MultiTerm(
        diffrax.ODETerm(lambda t, y, args: f(t, y)),
        diffrax.ControlTerm(lambda t, y, args: lineax.DiagonalLinearOperator(b(y)), path),
    )
    sde = js.sde(f, b, dim=2)
    for ours, theirs in [
        (js.EulerMaruyama(), diffrax.Euler()),
        (js.Heun(calculus="stratonovich"), diffrax.Heun()),
        (js.Milstein(), diffrax.ItoMilstein()),
    ]:
        state = theirs.init(terms, 0.2, 0.2 + h, x, None)
        want = theirs.step(terms, 0.2, 0.2 + h, x, None, state, made_jump=False)[0]
        got = js.integrate(sde, ours, dt=h).step(x, Drawn(normals=dw / np.sqrt(h)), 2.0)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    corrected = diffrax.MultiTerm(
        diffrax.ODETerm(lambda t, y, args: f(t, y) - 0.5 * b(y) * 0.2 * jnp.cos(y)), terms.terms[1]
    )
    want = diffrax.Heun().step(
        corrected, 0.2, 0.2 + h, x, None, diffrax.Heun().init(corrected, 0.2, 0.3, x, None), False
    )[0]
    got = js.integrate(sde, js.Heun(), dt=h).step(x, Drawn(normals=dw / np.sqrt(h)), 2.0)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_sra1_is_diffrax_on_the_same_path():
    """Increment and space–time Lévy area H of a path: J = ∫∫ dW ds/h = H + ½ ΔW; three steps of a drift that depends on time."""
    h, x = 0.1, jnp.array([0.7, -0.4])
    f = lambda t, x: x - x**3 + jnp.cos(t) * x[::-1]
    root = jnp.array([[0.5, 0.0], [0.2, 0.3]])
    path = diffrax.VirtualBrownianTree(0.0, 1.0, tol=1e-3, shape=(2,), key=jax.random.key(3), levy_area=diffrax.SpaceTimeLevyArea)
    noise = diffrax.ControlTerm(lambda t, y, args: lineax.MatrixLinearOperator(root), path)
    terms = diffrax.MultiTerm(diffrax.ODETerm(lambda t, y, args: f(t, y)), noise)
    additive, theirs = js.sde(f, root @ root.T, dim=2), diffrax.SRA1()
    chain = js.integrate(additive, js.SRA1(), dt=h)
    np.testing.assert_allclose(additive.noise.product(x, jnp.array([0.0, 1.0])), root[:, 1], atol=1e-12)
    ours = x
    state = theirs.init(terms, 0.2, 0.2 + h, x, None)
    for k in range(3):
        t = 0.2 + k * h
        x, _, _, state, _ = theirs.step(terms, t, t + h, x, None, state, made_jump=False)
        drawn = path.evaluate(t, t + h, use_levy=True)
        z = jnp.concatenate([drawn.W, np.sqrt(3) * 2 * drawn.H]) / np.sqrt(h)
        ours = chain.step(ours, Drawn(normals=z), 2.0 + k)
        np.testing.assert_allclose(ours, x, rtol=1e-11)


@pytest.mark.slow
def test_splittings_follow_diffrax_along_a_path():
    """The pendulum in a bath, γ = .8, kT = .3: the rms distance to diffrax's ShOULD over 32 paths falls in proportion to the step."""

    fine, start = 256, jnp.array([0.7, 0.3])
    drift = diffrax.UnderdampedLangevinDriftTerm(0.8, 0.3, lambda q, args: jnp.sin(q) / 0.3)

    def theirs(key):
        path = diffrax.VirtualBrownianTree(0.0, 1.0, tol=2**-11, shape=(1,), key=key, levy_area=diffrax.SpaceTimeTimeLevyArea)
        terms = diffrax.MultiTerm(drift, diffrax.UnderdampedLangevinDiffusionTerm(0.8, 0.3, path))
        q, p = diffrax.diffeqsolve(terms, diffrax.ShOULD(), 0.0, 1.0, 1 / fine, (start[:1], start[1:])).ys
        times = jnp.arange(fine) / fine
        return jnp.concatenate([q[-1], p[-1]]), jax.vmap(lambda t: path.evaluate(t, t + 1 / fine))(times)[:, 0]

    truth, dw = jax.jit(jax.vmap(theirs))(jax.random.split(jax.random.key(5), 32))
    well = js.potential(lambda q: -jnp.sum(jnp.cos(q)), np.zeros(1))
    sde = js.underdamped(well, temperature=0.3, friction=0.8).flatten()
    for integrator, parts in ((js.BAOAB(), 1), (js.OBABO(), 2)):
        gaps = []
        for n in (8, 32):
            chain = js.integrate(sde, integrator, dt=1 / n)
            x = jnp.tile(start, (32, 1))
            for z in np.moveaxis(np.asarray(dw).reshape(32, n, parts, -1).sum(-1), 1, 0) * np.sqrt(n * parts):
                x = STEP(chain, x, jnp.asarray(z))
            gaps.append(np.sqrt(np.mean(np.sum((np.asarray(x) - truth) ** 2, axis=1))))
        slope = np.log(gaps[0] / gaps[1]) / np.log(4)
        # the logarithm of a ratio of two rms over 32 paths: its standard deviation is below √(2·2/64) before coupling
        assert abs(slope - 1) < 5 * 0.25 / np.log(4) / 2, slope


def test_what_is_no_integrator_or_step_is_named():
    sde = js.brownian(2, learning_rate=0.1)
    with pytest.raises(TypeError, match=r"write Heun\(\)"):
        js.integrate(sde, js.Heun, dt=0.1)
    for dt in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="dt must be positive"):
            js.integrate(sde, dt=dt)
