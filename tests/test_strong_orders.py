"""Every integrator against the strong orders that it declares: rms errors over coupled Brownian paths, with drifts that are not linear.

A slope is accepted within 4 standard errors (over 20 groups of paths) + .12 for what is beyond leading order: some 30 slopes on
fixed seeds, false alarms 2e-3 for the file. References are NumPy's own, on the finest grid; they share no code with the package.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_integrator_orders import FRICTION, KICK, MASS, PERIODIC, STEP, declared, kinetic_sde

import jaxsde as js
from jaxsde.stepping.integrators import INTEGRATORS
from jaxsde.stepping.integrators.strong import _levy_areas

PATHS, GROUPS, FINE = 2000, 20, 1024
STEPS = np.array([8, 16, 32, 64])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def increments(noises, fine=FINE):
    return np.random.default_rng(0).normal(size=(fine, PATHS, noises)) / np.sqrt(fine)


def whole(parts, h):
    """The increments of a step over √h, from its fine increments ["fine paths m"]."""
    return parts.sum(0) / np.sqrt(h)


def with_area(parts, h):
    """That and ∫∫ dW ds = ½h(ΔW + √h ζ/√3): the ζ of the path."""
    middle = np.cumsum(parts, axis=0) - parts / 2
    z = whole(parts, h)
    return np.concatenate([z, (2 * middle.mean(0) / np.sqrt(h) - z) * np.sqrt(3)], axis=-1)


def halves(parts, h):
    return np.concatenate([whole(part, h / 2) for part in np.split(parts, 2)], axis=-1)


def other(parts):
    """A generator of its own for every step, for what the path does not fix."""
    return np.random.default_rng(np.frombuffer(parts[0, 0].tobytes(), np.uint32))


def with_areas(terms):
    """The normals of Milstein(terms): those of the path's Fourier series, and fresh ones for its tail."""

    def draws(parts, h):
        count, paths, m = parts.shape
        w = np.cumsum(parts, axis=0) - parts / 2
        s = (np.arange(count) + 0.5) / count
        bridge = w - s[:, None, None] * parts.sum(0)
        r = np.arange(1, terms + 1)
        waves = np.stack([f(2 * np.pi * np.outer(r, s)) for f in (np.cos, np.sin)])
        series = 2 / count * np.einsum("grk,kpj->pgrj", waves, bridge) * (-np.pi * r * np.sqrt(2 / h))[:, None]
        rest = other(parts).normal(size=(paths, m + m * (m - 1) // 2))
        return np.concatenate([whole(parts, h), rest, series.reshape(paths, -1)], axis=-1)

    return draws


def strong_slope(sde, integrator, target, start, steps=STEPS, z_of=whole):
    """Slope of the rms error at t = 1, and its standard error over groups. `integrator` may be a function of the number of steps."""
    dw, errors = increments(sde.noise.dim), []
    for n in steps:
        one = integrator(n) if callable(integrator) and not hasattr(integrator, "step") else integrator
        chain = js.integrate(sde, one, dt=1 / n)
        draws = z_of(n) if z_of is with_areas else z_of
        state = jax.vmap(chain.init)(jnp.tile(jnp.asarray(start, float), (PATHS, 1)))
        for parts in dw.reshape(n, FINE // n, PATHS, -1):
            state = STEP(chain, state, jnp.asarray(draws(parts, 1 / n)))
        x = np.asarray(jax.vmap(chain.position)(state))
        errors.append(((x - target) ** 2).sum(-1).reshape(GROUPS, -1).mean(1))
    slopes = np.polyfit(-np.log(np.asarray(steps)), np.log(np.sqrt(np.array(errors))), 1)[0]
    return slopes.mean(), slopes.std(ddof=1) / np.sqrt(GROUPS)


def agrees(name, kind, slope, se):
    order = INTEGRATORS[name].strong[kind]
    if name == "sra1":  # the terms of order 2 of a smooth drift are as large at these steps
        return order - 4 * se - 0.12 < slope < 2.1
    return abs(slope - order) < 4 * se + 0.12


@functools.cache
def wave():
    """dx = (sin x + .3 cos 2x) dt + .5 dW by the trapezoidal rule."""
    f = lambda x: np.sin(x) + 0.3 * np.cos(2 * x)
    x, h = np.full(PATHS, 0.7), 1 / FINE
    for w in increments(1)[..., 0]:
        x = x + (f(x) + f(x + f(x) * h + 0.5 * w)) * h / 2 + 0.5 * w
    return x[:, None]


SPECIAL = {"sra1": with_area, "obabo": halves}


@pytest.mark.parametrize("name", declared("additive", of="strong"))
def test_additive_noise(name):
    sde = js.sde(lambda t, x: PERIODIC[0](x), 0.25, dim=1)
    slope, se = strong_slope(sde, INTEGRATORS[name](), wave(), [0.7], [4, 8, 16, 32], SPECIAL.get(name, whole))
    assert agrees(name, "additive", slope, se), (slope, se)


def test_sra1_with_an_area_of_its_own_is_of_order_one():
    """The twin: ∫∫ dW ds that is not the path's."""
    sde = js.sde(lambda t, x: PERIODIC[0](x), 0.25, dim=1)
    mirrored = lambda parts, h: with_area(parts, h) * np.array([1, -1])
    slope, se = strong_slope(sde, js.SRA1(), wave(), [0.7], [4, 8, 16, 32], mirrored)
    assert slope + 4 * se < 1.4


@functools.cache
def by_milstein():
    """dx = (sin x + .3 cos 2x) dt + (.8 + .5 sin x) dW by Milstein's scheme."""
    x, h = np.full(PATHS, 0.7), 1 / FINE
    for w in increments(1)[..., 0]:
        b = 0.8 + 0.5 * np.sin(x)
        x = x + (np.sin(x) + 0.3 * np.cos(2 * x)) * h + b * w + 0.5 * b * 0.5 * np.cos(x) * (w * w - h)
    return x[:, None]


@pytest.mark.parametrize("name", declared("diagonal", of="strong"))
def test_diagonal_noise(name):
    f, b, _ = PERIODIC
    slope, se = strong_slope(js.sde(lambda t, x: f(x), lambda x: b(x), dim=1), INTEGRATORS[name](), by_milstein(), [0.7])
    assert agrees(name, "diagonal", slope, se), (slope, se)
    assert abs(slope - (1.5 - INTEGRATORS[name].strong["diagonal"])) > 4 * se + 0.12  # the twin: the other order is told apart


def commuting(x):
    """b₁ = (x₀, x₁)/2, b₂ = .3 (−x₁, x₀): a scaling and a turn."""
    return jnp.stack([0.5 * x, 0.3 * jnp.stack([-x[1], x[0]])], axis=1)


@functools.cache
def spiral():
    """dz = (sin Re z + i sin Im z) dt + z (.5 dW₁ + .3 i dW₂) for z = x₀ + i x₁, by Milstein's scheme in the complex plane."""
    z, h, root = np.full(PATHS, 0.7 + 0.7j), 1 / FINE, np.array([0.5, 0.3j])
    for w in increments(2):
        turned = w @ root
        z = z + (np.sin(z.real) + 1j * np.sin(z.imag)) * h + z * (turned + (turned**2 - (root**2).sum() * h) / 2)
    return np.stack([z.real, z.imag], axis=-1)


@pytest.mark.parametrize("name", declared("commutative", of="strong"))
def test_commuting_noises(name):
    sde = js.sde(lambda t, x: jnp.sin(x), commuting, dim=2)
    z_of = with_coins if name == "platen" else whole
    slope, se = strong_slope(sde, INTEGRATORS[name](), spiral(), [0.7, 0.7], z_of=z_of)
    assert agrees(name, "commutative", slope, se), (slope, se)


def with_coins(parts, h):
    """The normals of the path, and Platen's fair coins."""
    m = parts.shape[-1]
    coins = other(parts).choice([-1.0, 1.0], size=(parts.shape[1], m * (m - 1) // 2))
    return np.concatenate([whole(parts, h), coins], axis=-1)


def shear(x):
    """Noises that do not commute: dX = … + dW₁, dY = … + sin X dW₂ (after Clark and Cameron, 1980)."""
    return jnp.stack([jnp.stack([1.0 + 0 * x[0], 0 * x[0]]), jnp.stack([0 * x[0], jnp.sin(x[0])])])


@functools.cache
def sheared():
    """dX = sin X dt + dW₁, dY = −sin Y dt + sin X dW₂: X by the trapezoidal rule, ∫ sin X dW₂ by the mean of its ends."""
    x, y, h = np.full(PATHS, 0.7), np.full(PATHS, 0.7), 1 / FINE
    for w in increments(2):
        after = x + (np.sin(x) + np.sin(x + np.sin(x) * h + w[:, 0])) * h / 2 + w[:, 0]
        y, x = y - np.sin(y) * h + (np.sin(x) + np.sin(after)) / 2 * w[:, 1], after
    return np.stack([x, y], axis=-1)


def sheared_sde():
    return js.sde(lambda t, x: jnp.stack([jnp.sin(x[0]), -jnp.sin(x[1])]), shear, dim=2)


@pytest.mark.parametrize("name", declared("general", of="strong"))
def test_noises_that_do_not_commute(name):
    """From increments alone nothing is better than ½; with the areas of the path, Milstein is of order 1."""
    if INTEGRATORS[name].needs:
        slope, se = strong_slope(sheared_sde(), lambda n: js.Milstein(terms=int(n)), sheared(), [0.7, 0.7], [2, 4, 8, 16], with_areas)
    else:
        z_of = with_coins if name == "platen" else whole
        slope, se = strong_slope(sheared_sde(), INTEGRATORS[name](), sheared(), [0.7, 0.7], z_of=z_of)
    assert agrees(name, "general", slope, se), (slope, se)


def test_milstein_with_areas_that_are_not_the_paths_is_of_order_one_half():
    """The twin: the right increments, and areas of another path."""

    def fresh(parts, h):
        return np.concatenate([whole(parts, h), other(parts).normal(size=(PATHS, 3 + 4 * int(1 / h)))], axis=-1)

    slope, se = strong_slope(sheared_sde(), lambda n: js.Milstein(terms=int(n)), sheared(), [0.7, 0.7], [2, 4, 8, 16], fresh)
    assert slope + 4 * se < 0.8


def test_levy_areas_are_those_of_the_path():
    """∫W₁dW₂ − ½W₁W₂ of fine paths against the series of their own coefficients: what is left is the tail's variance."""
    parts, terms = increments(2)[:256] * 2, 8  # over a unit of time
    z = with_areas(terms)(parts, 1.0)
    areas = np.asarray(jax.vmap(lambda q: _levy_areas(q, 2, terms))(jnp.asarray(z)))[:, 0, 1]
    w = np.cumsum(parts, axis=0)
    true = ((w - parts / 2)[..., 0] * parts[..., 1]).sum(0) - w[-1, :, 0] * w[-1, :, 1] / 2
    # of the variance (1 + W₁² + W₂²)/12, ¼ on average, terms beyond the last have this part: in the path, and as they are made up
    tail = 2 * (1 - 6 / np.pi**2 * (1 / np.arange(1, terms + 1) ** 2).sum()) / 4
    spread = 5 * np.sqrt(5 / PATHS)  # the kurtosis of an area is 5
    assert abs(np.var(areas - true) / tail - 1) < spread
    assert abs(np.var(areas + true) / tail - 1) > spread  # the twin: areas that turn the other way


@functools.cache
def pendulum(kind):
    """dq = v/m dt, dv = −sin q dt − γ v dt + b(q) dW on the finest grid, v first."""
    q, v, h = np.full(PATHS, 0.7), np.full(PATHS, 0.3), 1 / FINE
    for w in increments(1)[..., 0]:
        v = v - (np.sin(q) + FRICTION * v) * h + KICK[kind](q) * w
        q = q + v / MASS * h
    return np.stack([q, v], axis=-1)


@pytest.mark.parametrize("name,kind", [(n, k) for k in KICK for n in declared(k, "kinetic", "strong")])
def test_splittings(name, kind):
    slope, se = strong_slope(kinetic_sde(kind), INTEGRATORS[name](), pendulum(kind), [0.7, 0.3], [4, 8, 16, 32], SPECIAL.get(name, whole))
    assert agrees(name, kind, slope, se), (slope, se)
