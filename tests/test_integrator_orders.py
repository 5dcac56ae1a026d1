"""Every integrator against the orders that it declares: weak ones without sampling, strong ones on coupled Brownian paths.

Weak errors of linear SDEs come from exact moment maps: one step is averaged over its own draws by quadrature, on polynomials of
the position. Strong slopes are accepted within 4 standard errors + .12 for what is beyond leading order (14 tests, fixed seeds:
false alarms 1e-3 for the file); their twins must be told apart.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import jaxsde as js
from jaxsde.catalogue import catalogue
from jaxsde.stepping.chains import as_drawn
from jaxsde.stepping.integrators import INTEGRATORS
from jaxsde.types import Drawn

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
THREE = (np.array([-np.sqrt(3), 0, np.sqrt(3)]), np.array([1, 4, 1]) / 6)
TWO = (np.array([-1.0, 1.0]), np.array([0.5, 0.5]))
STEPS = np.array([8, 16, 32, 64])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


A = np.array([[-1.0, 0.4], [-0.2, -0.7]])
# columns bⱼ(x) = Bⱼ x + cⱼ: B₀ and B₁ do not commute
B = np.array([[[0.3, 0.5], [0.0, 0.2]], [[0.1, 0.0], [0.6, -0.2]]])
C = np.array([[0.2, -0.1], [0.1, 0.3]])
X0 = np.array([0.7, -0.4])


def general(x):
    return jnp.stack([jnp.asarray(B[j]) @ x + jnp.asarray(C[j]) for j in (0, 1)], axis=1)


def diagonal(x):
    return 0.3 + 0.4 * x


NOISES = {"additive": [[0.5, 0.1], [0.1, 0.3]], "diagonal": diagonal, "general": general}
MATRICES = {
    "additive": lambda x: np.linalg.cholesky(np.array([[0.5, 0.1], [0.1, 0.3]])) + 0 * x[0],
    "diagonal": lambda x: np.diag([0.3 + 0.4 * x[0], 0.3 + 0.4 * x[1]]),
    "general": lambda x: np.stack([B[j] @ x + C[j] for j in (0, 1)], axis=1),
}


def second_moments(x):
    """(1, x₀, x₁, x₀², x₀x₁, x₁²): closed under a linear SDE, and under a scheme whose step is linear in x."""
    one = np.ones(x.shape[:-1])
    return np.stack([one, x[..., 0], x[..., 1], x[..., 0] ** 2, x[..., 0] * x[..., 1], x[..., 1] ** 2], axis=-1)


def moment_matrix(mean_of_moments):
    """The matrix M of E m(x') = M m(x), from six points."""
    points = np.array([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1], [1, 1]], float)
    return np.linalg.solve(second_moments(points), np.array([mean_of_moments(p) for p in points])).T


def exact_generator(kind):
    def rates(x):
        f, b = A @ x + np.array([0.1, 0.2]), MATRICES[kind](x)
        d = b @ b.T
        return np.array([0, *f, 2 * x[0] * f[0] + d[0, 0], x[0] * f[1] + x[1] * f[0] + d[0, 1], 2 * x[1] * f[1] + d[1, 1]])

    return moment_matrix(rates)


def linear_sde(kind):
    shift = jnp.array([0.1, 0.2])
    return js.sde(lambda t, x: jnp.asarray(A) @ x + shift, NOISES[kind], dim=2)


def nodes_of(draws):
    """All values of a step's draws (normals by quadrature), with their weights."""
    sizes = (draws.normals, draws.three_point, draws.signs)
    laws = [law for law, n in zip(((NODES, WEIGHTS), THREE, TWO), sizes, strict=True) for _ in range(n)]
    z = np.array(list(itertools.product(*(v for v, _ in laws))))
    return z, np.array([np.prod(w) for w in itertools.product(*(w for _, w in laws))])


def weak_slope(integrator, kind):
    truth = expm(exact_generator(kind)) @ second_moments(X0)
    errors = []
    for n in STEPS:
        chain = js.integrate(linear_sde(kind), integrator, dt=1 / n)
        z, w = nodes_of(chain.draws)
        step = jax.jit(jax.vmap(lambda x, q, chain=chain: chain.step(x, as_drawn(q, chain.draws), 0.0), in_axes=(None, 0)))
        m = moment_matrix(lambda x, step=step, z=z, w=w: w @ second_moments(np.asarray(step(jnp.asarray(x), jnp.asarray(z)))))
        errors.append(np.abs(np.linalg.matrix_power(m, n) @ second_moments(X0) - truth).max())
    (slope, _), covariance = np.polyfit(np.log(1 / STEPS), np.log(errors), 1, cov=True)
    return slope, np.sqrt(covariance[0, 0])


WEAK = [
    (name, kind)
    for name, entry in INTEGRATORS.items() for kind in NOISES
    if kind in entry.weak and name not in ("leimkuhler_matthews", "tamed_euler", "baoab", "obabo") and (name, kind) != ("milstein", "general")
]  # fmt: skip


@pytest.mark.parametrize("name,kind", WEAK)
def test_declared_weak_order(name, kind):
    slope, se = weak_slope(INTEGRATORS[name](), kind)
    assert abs(slope - INTEGRATORS[name].weak[kind]) < 4 * se + 0.12, (slope, se)


def test_platen_with_less_than_its_draws_is_no_longer_of_order_two():
    """The twin: no coins, and noise 2 % too large."""
    class Wrong:
        def __getattr__(self, name):
            return getattr(js.Platen(), name)

        def step(self, sde, t, x, dt, z):
            m = sde.noise.dim
            return js.Platen().step(sde, t, x, dt, z.at[m:].set(0.0) * jnp.where(jnp.arange(z.size) < m, 1.02, 1.0))

    assert weak_slope(Wrong(), "general")[0] < 1.5


@pytest.mark.parametrize("integrator,kind,order", [
    (js.EulerMaruyama(noise="two_point"), "general", 1), (js.EulerMaruyama(noise="three_point"), "general", 1),
    (js.Heun(noise="three_point"), "additive", 2), (js.Platen(noise="three_point"), "general", 2),
    (js.Platen(noise="three_point"), "diagonal", 2),
])  # fmt: skip
def test_simplified_noise_keeps_the_weak_order(integrator, kind, order):
    slope, se = weak_slope(integrator, kind)
    assert abs(slope - order) < 4 * se + 0.12, (slope, se)


@pytest.mark.parametrize("make,name", [(js.Platen, "two_point"), (js.Heun, "two_point"), (js.EulerMaruyama, "normal")])
def test_a_law_with_too_few_moments_is_refused(make, name):
    with pytest.raises(ValueError, match=f"three_point.*got noise='{name}'"):
        make(noise=name)


def strong_slope(sde, integrator, exact, brownian, steps, dim, extra=0, paths=4000, groups=20, fine=1024, seed=0):
    """Slope of the rms error, its standard error over groups. `extra`: further normals a step that increments do not fix."""
    rng = np.random.default_rng(seed)
    dw = rng.normal(size=(fine, paths, brownian)) / np.sqrt(fine)
    target, errors = exact(dw), []
    for n in steps:
        chain = js.integrate(sde, integrator, dt=1 / n)
        many = dw.reshape(n, fine // n, paths, brownian)
        z = many.sum(1) * np.sqrt(n)
        if extra:  # ∫∫ dW ds of the step, standardised and freed of ΔW: Z = ½h(ΔW + √h ζ/√3)
            path = np.cumsum(many, axis=1) - many / 2
            area = path.mean(1) * np.sqrt(n)
            z = np.concatenate([z, (2 * area - z) * np.sqrt(3)], axis=-1)

        def body(x, zk, chain=chain):
            return jax.vmap(lambda s, q: chain.step(s, Drawn(normals=q), 0.0))(x, zk), None

        x = jax.jit(lambda s, zs, body=body: jax.lax.scan(body, s, zs)[0])(jnp.full((paths, dim), 0.7), jnp.asarray(z))
        errors.append(((np.asarray(x) - target) ** 2).sum(-1).reshape(groups, -1).mean(1))
    slopes = np.polyfit(np.log(1 / np.asarray(steps)), np.log(np.sqrt(np.array(errors))), 1)[0]
    return slopes.mean(), slopes.std(ddof=1) / np.sqrt(groups)


def wave(dw):
    """dx = sin x dt + .5 dW by NumPy on the finest grid, with the trapezoidal rule."""
    x, h = np.full(dw.shape[1], 0.7), 1 / len(dw)
    for w in dw[..., 0]:
        guess = x + np.sin(x) * h + 0.5 * w
        x = x + (np.sin(x) + np.sin(guess)) * h / 2 + 0.5 * w
    return x[:, None]


@pytest.mark.parametrize("name", ["euler_maruyama", "heun", "milstein", "tamed_euler", "platen", "sra1"])
def test_declared_strong_order_with_additive_noise(name):
    sde, entry = js.sde(lambda t, x: jnp.sin(x), 0.25, dim=1), INTEGRATORS[name]
    slope, se = strong_slope(sde, entry(), wave, 1, [4, 8, 16, 32], 1, extra=name == "sra1")
    if name == "sra1":  # the terms of order 2 of a smooth drift are as large at these steps
        assert 1.5 - 4 * se - 0.12 < slope < 2.1
    else:
        assert abs(slope - entry.strong["additive"]) < 4 * se + 0.12, (slope, se)


def test_sra1_with_an_area_of_its_own_is_of_order_one():
    """The twin: ∫∫ dW ds that is not the path's."""

    class Wrong:
        def __getattr__(self, name):
            return getattr(js.SRA1(), name)

        def step(self, sde, t, x, dt, z):
            return js.SRA1().step(sde, t, x, dt, z.at[1].set(z[1] * -1))

    sde = js.sde(lambda t, x: jnp.sin(x), 0.25, dim=1)
    slope, se = strong_slope(sde, Wrong(), wave, 1, [4, 8, 16, 32], 1, extra=1)
    assert slope + 4 * se < 1.4


def commuting(x):
    """b₁ = (x₀, x₁), b₂ = (−x₁, x₀)/2: a scaling and a turn."""
    return jnp.stack([0.5 * x, 0.3 * jnp.stack([-x[1], x[0]])], axis=1)


def spiral(dw):
    """Exact: z' = z · exp((−½(.25 − .09)) h + .5 w₁ + .3 i w₂) for z = x₀ + i x₁."""
    w = dw.sum(0)
    z = (0.7 + 0.7j) * np.exp(-0.5 * (0.25 - 0.09) + 0.5 * w[:, 0] + 0.3j * w[:, 1])
    return np.stack([z.real, z.imag], axis=-1)


@pytest.mark.parametrize("name,order", [("milstein", 1.0), ("euler_maruyama", 0.5), ("heun", 1.0)])
def test_strong_order_with_commuting_noise(name, order):
    sde = js.sde(lambda t, x: 0 * x, commuting, dim=2)
    entry = INTEGRATORS[name]
    assert entry.strong["commutative"] == order
    slope, se = strong_slope(sde, entry(), spiral, 2, [8, 16, 32, 64], 2)
    assert abs(slope - order) < 4 * se + 0.12, (slope, se)


def test_milstein_asks_for_terms_where_noises_do_not_commute():
    sde = js.sde(lambda t, x: -x, general, dim=2)
    with pytest.raises(ValueError, match=r"noise 0 does not commute with noise 1.*terms=10.*EulerMaruyama.*Platen"):
        js.integrate(sde, js.Milstein(), dt=0.1)
    assert js.integrate(sde, js.Milstein(terms=4), dt=0.1).draws.normals == 2 * (2 + 8) + 1
    with pytest.raises(ValueError, match="terms must be"):
        js.Milstein(terms=-1)


def test_levy_areas_have_their_moments():
    """Given W: mean 0 and variance (1 + W₁² + W₂²)/12 of ∫W₁dW₂ − ½W₁W₂; antisymmetric. 2e5 areas, 5 sd: false alarms 2e-6."""
    from jaxsde.stepping.integrators.strong import _levy_areas

    for terms in (1, 5):
        z = np.random.default_rng(3).normal(size=(200_000, 2 * (2 + 2 * terms) + 1))
        z[:, :2] = (0.8, -1.1)
        areas = np.asarray(jax.vmap(lambda q, terms=terms: _levy_areas(q, 2, terms))(jnp.asarray(z)))
        np.testing.assert_allclose(areas, -areas.swapaxes(1, 2), atol=1e-14)
        a = areas[:, 0, 1]
        want = (1 + 0.64 + 1.21) / 12
        assert abs(a.mean()) < 5 * np.sqrt(want / a.size)
        assert abs(a.var() / want - 1) < 5 * np.sqrt(5 / a.size)
        assert abs(1.05 * a.var() / want - 1) > 5 * np.sqrt(5 / a.size)  # the twin


def test_exact_linear_has_the_law_of_the_sde():
    a, covariance, h = jnp.array([[-1.0, 0.8], [-0.5, -0.6]]), np.array([[0.5, 0.2], [0.2, 0.1]]), 0.9
    sde = js.sde(lambda t, x: a @ x + jnp.array([0.3, -0.2]), covariance, dim=2)
    chain = js.integrate(sde, js.ExactLinear(), dt=h)
    np.testing.assert_allclose(js.theory.stationary_covariance(chain), js.theory.stationary_covariance(sde), atol=1e-12)
    half = js.integrate(sde, js.ExactLinear(), dt=h / 2)  # two half steps are a step: in the mean and the covariance
    x, still = jnp.array([0.4, 2.0]), Drawn(normals=jnp.zeros(2))
    np.testing.assert_allclose(half.step(half.step(x, still, 0), still, 0), chain.step(x, still, 0), atol=1e-13)
    p, r = half.integrator.propagator, half.integrator.factor
    q = r @ r.T
    np.testing.assert_allclose(p @ q @ p.T + q, chain.integrator.factor @ chain.integrator.factor.T, atol=1e-13)
    for bad in (lambda t, x: -(x**3), lambda t, x: -x + t):
        with pytest.raises(ValueError, match="linear in the position and do not depend on time"):
            js.integrate(js.sde(bad, 1.0, dim=2), js.ExactLinear(), dt=h)
    with pytest.raises(ValueError, match="built"):
        jax.vmap(lambda t: js.integrate(sde, js.ExactLinear(), dt=t).step(x, still, 0))(jnp.array([0.1, 0.2]))


@pytest.mark.parametrize("make", [js.SRA1, js.ExactLinear, js.LeimkuhlerMatthews])
def test_additive_schemes_name_those_that_fit(make):
    with pytest.raises(ValueError, match=r"use EulerMaruyama\(\), Heun\(\) or Platen\(\)"):
        js.integrate(js.sde(lambda t, x: -x, diagonal, dim=2), make(), dt=0.1)


@pytest.mark.parametrize("make", [js.BAOAB, js.OBABO])
def test_splittings_want_a_momentum(make):
    with pytest.raises(ValueError, match="underdamped"):
        js.integrate(js.sde(lambda t, x: -x, 1.0, dim=2), make(), dt=0.1)


def test_leimkuhler_matthews_is_exact_on_a_harmonic_well():
    """k = 1.3, s² = .7, h = .2: variance .7/2.6 exactly, where Euler–Maruyama has .309461."""
    sde = js.sde(lambda t, x: -1.3 * x, 0.7, dim=1)
    for integrator, want in [(js.LeimkuhlerMatthews(), 0.7 / 2.6), (js.EulerMaruyama(), 0.309461)]:
        chain = js.integrate(sde, integrator, dt=0.2)
        np.testing.assert_allclose(js.theory.stationary_covariance(chain), want, atol=5e-7)


@pytest.mark.parametrize("h", [0.1, 0.5, 0.9])
def test_splittings_on_a_harmonic_well(h):
    """k = 4, kT = .7, m = 1: BAOAB ⟨q²⟩ = .175 at any step, ⟨p²⟩ = kT(1 − h²k/4); OBABO has ⟨p²⟩ = kT, ⟨q²⟩ = .175/(1 − h²k/4)."""
    well = js.potential(lambda q: 2 * jnp.sum(q**2), np.ones(1))
    sde = js.underdamped(well, temperature=0.7, friction=1.4)
    less = 1 - h**2
    for integrator, q, p in [(js.BAOAB(), 0.175, 0.7 * less), (js.OBABO(), 0.175 / less, 0.7)]:
        covariance = js.theory.stationary_covariance(js.integrate(sde.flatten(), integrator, dt=h))
        np.testing.assert_allclose(covariance, np.diag([q, p]), atol=1e-12)
        only = js.theory.stationary_covariance(js.integrate(sde, integrator, dt=h))
        np.testing.assert_allclose(only, [[q]], atol=1e-12)
    euler = js.theory.stationary_covariance(js.integrate(sde.flatten(), js.EulerMaruyama(), dt=0.1))
    assert abs(euler[0, 0] - 0.175) > 0.005


def test_taming_holds_where_euler_explodes():
    sde = js.sde(lambda t, x: -(x**3), 1.0, dim=1)
    start = np.full((64, 1), 40.0)
    ends = [js.simulate(js.integrate(sde, i, dt=0.1), start, key=js.key(1), chains=64, steps=200).diverged.sum()
            for i in (js.TamedEuler(), js.EulerMaruyama())]  # fmt: skip
    assert ends == [0, 64]


def test_the_declarations_are_one():
    """What `jaxsde list` reads from the source is what the program has, and no field promises more than the worst kind."""
    listed = catalogue("integrators")
    assert list(listed) == list(INTEGRATORS)
    for name, entry in INTEGRATORS.items():
        assert listed[name].settings == {"calculus": entry.calculus, "noise": entry.noise, "strong": entry.strong, "weak": entry.weak}
        thing = entry()
        if entry.weak:
            assert thing.weak_order == min(v for k, v in entry.weak.items() if k != "none")
            assert thing.strong_order == min(v for k, v in entry.strong.items() if k != "none")


def test_milstein_with_areas_of_its_own_has_the_mean_square_of_the_taylor_step():
    """One step's E(x' − x'_Milstein)², worked out for the twin without areas: they add h²/4·|[b₀, b₁]|², and not without terms."""
    sde, h = js.sde(lambda t, x: 0 * x, general, dim=2), 0.1
    x = jnp.asarray(X0)
    z = jnp.asarray(np.random.default_rng(4).normal(size=(200_000, 2 * (2 + 6) + 1)))
    step = jax.vmap(lambda q: js.Milstein(terms=3).step(sde, 0.0, x, h, q))
    whole, bare = step(z), jax.vmap(lambda q: js.Milstein().step(sde, 0.0, x, h, q))(z[:, :2])
    b = np.asarray(general(x)).T
    bracket = B[1] @ b[0] - B[0] @ b[1]
    got = np.asarray(whole - bare) @ bracket / (bracket @ bracket) / h  # the area over h: variance 1/4, kurtosis 5
    assert abs(got.var() / 0.25 - 1) < 5 * np.sqrt(4 / len(z))
    assert abs(1.05 * got.var() / 0.25 - 1) > 5 * np.sqrt(4 / len(z))


@pytest.mark.parametrize("name", [n for n in INTEGRATORS if n not in ("baoab", "obabo")])
def test_chains_do_not_depend_on_the_executor(name):
    sde = js.sde(lambda t, x: jnp.asarray(A) @ x, NOISES["additive"], dim=2)
    chain = js.integrate(sde, INTEGRATORS[name](), dt=0.1)
    runs = [js.simulate(chain, np.ones(2), key=js.key(3), chains=96, steps=37, executor=e) for e in ("native", "vmap")]
    assert [r.executor for r in runs] == ["native", "vmap"]
    np.testing.assert_allclose(runs[0].positions, runs[1].positions, rtol=1e-9, atol=1e-12)
