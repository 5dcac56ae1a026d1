"""What is special to an integrator, which of them fit an SDE, and that a new one touches one file."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_integrator_orders import NOISES, X0, A, B, general

import jaxsde as js
from jaxsde.catalogue import catalogue
from jaxsde.stepping.integrators import INTEGRATORS, that_fit
from jaxsde.types import Drawn

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_the_declarations_are_one():
    """What `jaxsde list` reads from the source is what the program has, and no field promises more than the worst kind."""
    listed = catalogue("integrators")
    assert list(listed) == list(INTEGRATORS)
    for name, entry in INTEGRATORS.items():
        told = entry._asdict() | {}
        assert all(told[key] == value for key, value in listed[name].settings.items())
        assert {k: v for k, v in told.items() if k not in (*listed[name].settings, "function")}.items() <= entry._field_defaults.items()
        thing = entry()
        if entry.weak:
            assert thing.weak_order == min(v for k, v in entry.weak.items() if k != "none")
            assert thing.strong_order == min(v for k, v in entry.strong.items() if k != "none")
        for law in ("gaussian", "three_point", "two_point"):
            if hasattr(thing, "noise") and law in entry.laws:
                assert entry(noise=law).noise == law
            elif hasattr(thing, "noise"):
                with pytest.raises(ValueError, match=f"draws its noise from gaussian or three_point, got noise='{law}', which goes with EulerMaruyama"):
                    entry(noise=law)


def well(**given):
    return js.potential(lambda x: jnp.sum(x**2) / 2 + jnp.sum(x**4) / 4, np.ones(2), **given)


SDES = {
    "none": lambda: js.gradient_flow(well()),
    "additive": lambda: js.langevin(well(), temperature=0.3),
    "linear": lambda: js.sde(lambda t, x: jnp.asarray(A) @ x, [[0.5, 0.1], [0.1, 0.3]], dim=2),
    "in time": lambda: js.sde(lambda t, x: jnp.asarray(A) @ x + t, 1.0, dim=2),
    "diagonal": lambda: js.sde(lambda t, x: -x, lambda x: 1 + x**2, dim=2),
    "crossed": lambda: js.sde(lambda t, x: -x, lambda x: 1 + x[::-1] ** 2, dim=2),
    "commuting": lambda: js.sde(lambda t, x: -x, lambda x: jnp.stack([0.5 * x, jnp.stack([-x[1], x[0]])], axis=1), dim=2),
    "general": lambda: js.sde(lambda t, x: -x, general, dim=2),
    "many": lambda: js.sde(lambda t, x: -x, lambda x: jnp.outer(x + 1, jnp.arange(40.0)) + jnp.eye(2, 40) * x[0], dim=2),
    "kinetic": lambda: js.underdamped(well(), temperature=0.3, friction=1.0),
    "heavy ball": lambda: js.momentum_sde(well(noise_covariance=lambda x: jnp.diag(1 + x**2)), learning_rate=0.1, momentum=0.9),
}
PLAIN = {"EulerMaruyama()", "Heun()", "TamedEuler()", "Platen()"}
STILL = PLAIN | {"LeimkuhlerMatthews()", "Milstein()", "SRA1()"}
FITS = {
    "none": STILL, "additive": STILL, "linear": STILL | {"ExactLinear()"}, "in time": STILL, "diagonal": PLAIN | {"Milstein()"},
    "crossed": {"EulerMaruyama()", "TamedEuler()"}, "commuting": PLAIN | {"Milstein()"}, "general": PLAIN | {"Milstein(terms=10)"},
    "many": PLAIN | {"Milstein(terms=10)"}, "kinetic": STILL | {"BAOAB()", "OBABO()"},
    "heavy ball": PLAIN | {"Milstein()", "BAOAB()", "OBABO()"},
}  # fmt: skip


@pytest.mark.parametrize("kind", SDES)
def test_every_pair_fits_or_names_those_that_do(kind):
    """The list in an error is that of the declarations, and each of its members is taken."""
    sde = SDES[kind]()
    fits = that_fit(sde)
    assert set(fits) == FITS[kind]
    for text in fits:
        chain = js.integrate(sde, eval(text, {name: getattr(js, name) for name in js.__dir__() if name[0].isupper()}), dt=0.01)
        assert chain.dim == 2
    for name, entry in INTEGRATORS.items():
        if f"{entry.function.__name__}()" in fits:
            js.integrate(sde, name, dt=0.01)
        else:
            with pytest.raises(ValueError) as error:
                js.integrate(sde, name, dt=0.01)
            assert str(error.value).endswith(f"use {', '.join(fits)}") and str(error.value).startswith(entry.function.__name__)


def test_what_is_found_under_a_transformation():
    """A traced learning rate hides no noise that does not commute; matrices cannot be worked out there."""
    problem = js.finite_sum(lambda p, e: 0.5 * (e @ p) ** 2 + e[0] * p[1], np.random.default_rng(0).normal(size=(9, 2)), np.zeros(2))
    step = lambda e, i: js.integrate(js.sgd_sde(problem, learning_rate=e), i, dt=e).step(jnp.ones(2), Drawn(normals=jnp.ones(2)), 0.0)
    assert jax.jit(jax.vmap(lambda e: step(e, js.Heun())))(jnp.array([0.1, 0.2])).shape == (2, 2)
    with pytest.raises(ValueError, match=r"Milstein needs noises that commute.*Milstein\(terms=10\)"):
        jax.vmap(lambda e: step(e, js.Milstein()))(jnp.array([0.1, 0.2]))


def test_an_integrator_by_its_name():
    sde = SDES["additive"]()
    one, other = (js.integrate(sde, i, dt=0.1) for i in ("heun", js.Heun()))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    with pytest.raises(ValueError, match="no integrator 'huen': did you mean 'heun'"):
        js.integrate(sde, "huen", dt=0.1)
    with pytest.raises(ValueError, match="terms must be"):
        js.Milstein(terms=-1)


def test_a_config_names_any_that_fits():
    from jaxsde import config
    from jaxsde.errors import ExperimentError

    def load(**given):
        return config.load(None, {k.replace("__", "."): (f"--{k}", v) for k, v in given.items()})

    assert load(sde__integrator="platen").sde.integrator == "platen"
    assert load(sde__integrator="sra1", loss__name="double_well").sde.integrator == "sra1"
    assert load(sde__integrator="sra1", sgd__sampling="full_batch").sde.integrator == "sra1"
    for name, words in (("sra1", "noise is general; choose one of euler_maruyama, heun, tamed_euler, platen"), ("baoab", "choose one of"),
                        ("milstein", "choose one of"), ("huen", "must be one of euler_maruyama, heun")):  # fmt: skip
        with pytest.raises(ExperimentError, match=words):
            load(sde__integrator=name)
    for sampling in ("shuffle_once", "cyclic"):
        assert load(sgd__sampling=sampling).sgd.sampling == sampling
    with pytest.raises(ExperimentError, match=r"must be one of with_replacement, .*three_point$"):
        load(sgd__sampling="alpha_stable")


SCRATCH = """

@struct
class Scratch:
    \"\"\"Scratch, Euler–Maruyama once more.\"\"\"

    strong_order: float = static(default=0.5)
    weak_order: float = static(default=1.0)
    calculus: Calculus = static(default="ito")

    def draws(self, sde: SDE) -> Draws:
        return Draws(normals=sde.noise.dim)

    def step(self, sde: SDE, t: Any, x: Any, dt: Any, z: Any) -> Any:
        return x + sde.drift(t, x) * dt + increment(sde, x, z, dt)

"""
ENTRY = """ITO = {
    "scratch": Entry(
        Scratch, calculus="ito", noise="any",
        strong={"none": 1.0, "additive": 1.0, "diagonal": 0.5, "commutative": 0.5, "general": 0.5},
        weak={"none": 1.0, "additive": 1.0, "diagonal": WEAK, "commutative": 1.0, "general": 1.0},
    ),
"""
ASKS = """
import jax
jax.config.update("jax_enable_x64", True)
import test_integrator_orders as orders, test_strong_orders as strong
import jaxsde as js
from jaxsde import cli, config
cli.main(["list", "integrators"])
orders.test_declared_weak_order("scratch", "additive")
strong.test_noises_that_do_not_commute("scratch")
print(config.load(None, {"sde.integrator": ("--integrator", "scratch")}).sde.integrator, "in a config")
sde = js.sde(lambda t, x: -x, lambda x: 1 + x**2, dim=2)
js.integrate(sde, "scratch", dt=0.1)
try:
    js.integrate(sde, "sra1", dt=0.1)
except ValueError as error:
    print(error)
try:
    orders.test_declared_weak_order("scratch", "diagonal")
except AssertionError:
    print("a wrong order is found")
"""


def test_a_new_integrator_touches_one_file(tmp_path):
    """A struct and an entry in one dict: it is listed, taken by name and in a config, named in errors, and its orders are measured."""
    import shutil

    shutil.copytree(ROOT / "jaxsde", tmp_path / "jaxsde", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "jaxsde" / "stepping" / "integrators" / "ito.py"
    text = file.read_text(encoding="utf-8")
    entry = ENTRY.replace("WEAK", "2.0")
    file.write_text(text.replace("ITO = {\n", SCRATCH + "\n" + entry), encoding="utf-8")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ASKS], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scratch              Scratch, Euler–Maruyama once more." in done.stdout
    assert "scratch in a config" in done.stdout and "use Scratch(), EulerMaruyama()" in done.stdout
    assert "a wrong order is found" in done.stdout


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
