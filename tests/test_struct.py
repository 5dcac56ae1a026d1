"""Objects are data: pytrees whose numbers are leaves; jit, vmap and grad go through steps and runs. Exact, no false alarms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsde as js
from jaxsde.dynamics import noise
from jaxsde.dynamics.gradients import SAMPLINGS
from jaxsde.stepping.integrators import INTEGRATORS
from jaxsde.struct import replace, static, struct
from jaxsde.types import SDE, Chain, Drawn, Gradient, Integrator, Noise, Problem, Statistic

RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(10, 2)), RNG.normal(size=10)
KEY = js.key(6)


def linear(phi, example):
    return 0.5 * (example[0] @ phi - example[1]) ** 2


def bowl(phi):
    return 0.5 * phi @ jnp.array([[1.0, 0.3], [0.3, 2.0]]) @ phi


def spread(phi):
    return jnp.sqrt(0.2 + phi**2)


DATA = js.finite_sum(linear, (X, Y), np.zeros(2))
BOWL = js.potential(bowl, np.zeros(2), noise_covariance=[[2, -0.5], [-0.5, 0.6]])
POTENTIALS = [BOWL, *(js.potential(bowl, np.zeros(2), noise_covariance=c) for c in (1.0, [1.0, 2.0]))]
SDES = {
    "sgd": js.sgd_sde(DATA, learning_rate=0.1),
    "frozen": js.sgd_sde(DATA, learning_rate=0.1, batch_size=2, frozen_at=np.zeros(2)),
    "matrix": js.sgd_sde(BOWL, learning_rate=0.1),
    "langevin": js.langevin(BOWL, temperature=0.3),
    "brownian": js.brownian(2, learning_rate=0.1),
    "flow": js.gradient_flow(BOWL),
    "diagonal": js.sde(lambda t, x: -x, spread, dim=2),
    "general": js.sde(lambda t, x: -x, lambda x: jnp.outer(x, x), dim=2),
    "modified": js.sgd_sde(DATA, learning_rate=0.1, order=2),
    "homogenized": js.homogenized_sgd(DATA, learning_rate=0.1),
    "preconditioned": js.langevin(BOWL, temperature=0.3, preconditioner=[[2.0, 0.1], [0.1, 1.0]]),
    "locally": js.langevin(BOWL, temperature=0.3, preconditioner=spread),
    "underdamped": js.underdamped(BOWL, temperature=0.3, friction=1.0),
    "momentum_sde": js.momentum_sde(DATA, learning_rate=0.1, momentum=0.9),
    "sign": js.sign_sgd_sde(DATA, learning_rate=0.1),
    "rmsprop": js.rmsprop_sde(DATA, learning_rate=0.1),
    "adam_sde": js.adam_sde(DATA, learning_rate=0.1),
}
CHAINS = {
    **{name: js.integrate(s, dt=0.05) for name, s in SDES.items()},
    **{
        s: js.sgd(DATA, learning_rate=0.1, batch_size=2, sampling=s, alpha=1.5 if s == "alpha_stable" else None)
        for s in SAMPLINGS
    },
    "svag": js.svag(DATA, learning_rate=0.1, l=4),
    "adam": js.sgd(DATA, learning_rate=0.1, optimizer=optax.adam),
    "momentum": js.sgd(BOWL, learning_rate=0.1, optimizer=functools.partial(optax.sgd, momentum=0.9)),
}  # fmt: skip
STATISTICS = [
    js.Mean(), js.Moments(), js.Covariance(), js.Histogram(np.linspace(-1, 1, 5), components=0), js.Autocovariance((1, 2)),
    js.Extremes(), js.Course(4), js.Samples(8), js.MeanLoss(DATA), js.of(bowl, js.Mean()),
]  # fmt: skip
OBJECTS = [*POTENTIALS, DATA, *SDES.values(), *CHAINS.values(), *STATISTICS, *(i() for i in INTEGRATORS.values())]


def some_draw(chain):
    d = chain.draws
    normals = jnp.asarray(np.random.default_rng(8).normal(size=d.normals), "float32")
    return Drawn(normals, jnp.ones(d.signs), jnp.ones(d.three_point), jnp.arange(d.indices, dtype=jnp.int32))


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda o: type(o).__name__)
def test_everything_public_is_a_pytree(thing):
    leaves, tree = jax.tree.flatten(thing)
    assert all(isinstance(leaf, jax.Array | np.ndarray | float) for leaf in leaves)  # no functions, strings or objects
    again = jax.tree.unflatten(tree, leaves)
    assert type(again) is type(thing)
    assert jax.tree.structure(again) == tree and hash(tree) == hash(jax.tree.structure(again))
    jax.tree.unflatten(tree, [object() for _ in leaves])  # no validation: JAX puts anything there
    jax.jit(lambda t: t)(thing)
    assert repr(thing)
    with pytest.raises(AttributeError):
        thing.anything = 1


def test_objects_have_the_shape_of_their_protocols():
    for kind, things in [
        (Problem, [*POTENTIALS, DATA]),
        (SDE, SDES.values()),
        (Noise, [s.noise for s in SDES.values()]),
        (Chain, CHAINS.values()),
        (Gradient, [c.gradient for c in CHAINS.values() if hasattr(c, "gradient")]),
        (Integrator, [i() for i in INTEGRATORS.values()]),
        (Statistic, STATISTICS),
    ]:
        for thing in things:
            assert isinstance(thing, kind), (thing, kind)
            methods = [m for m in vars(type(thing)) if callable(getattr(thing, m)) and not m.startswith("_")]
            most = 6 if hasattr(thing, "boxes") else 5  # the box of each position, for counts that chains share
            assert kind is Problem or len(methods) <= most, methods


@pytest.mark.parametrize("name", CHAINS)
def test_jit_vmap_and_grad_go_through_a_step(name):
    chain, drawn = CHAINS[name], some_draw(CHAINS[name])
    x = jnp.asarray(RNG.normal(size=2), "float32")
    field = "learning_rate" if hasattr(chain, "learning_rate") else "dt"

    def stepped(c, x):
        return c.position(c.step(c.init(x), drawn, 0.0))

    alone = jax.jit(lambda v: stepped(replace(chain, **{field: v}), x))
    np.testing.assert_allclose(jax.jit(stepped)(chain, x), stepped(chain, x), rtol=2e-6, atol=1e-6)
    values = np.float32([0.01, 0.05, 0.1])
    swept = jax.jit(jax.vmap(alone))(values)
    for v, row in zip(values, swept, strict=True):
        np.testing.assert_allclose(row, alone(v), rtol=2e-6, atol=1e-6)
    slope = jax.jit(jax.jacfwd(alone))(np.float32(0.05))
    eps = 1e-2
    change = [np.asarray(alone(np.float32(0.05 + s))) for s in (eps, -eps)]
    np.testing.assert_allclose(slope, (change[0] - change[1]) / (2 * eps), rtol=2e-2, atol=2e-3)
    back = jax.jit(jax.grad(lambda c: jnp.sum(stepped(c, x)), allow_int=True))(chain)  # with respect to every leaf at once
    assert jax.tree.structure(back) == jax.tree.structure(chain)


@pytest.mark.slow
def test_sweeps_of_whole_runs():
    """vmap over η, temperature and initial points and grad through `advance`, against one at a time."""
    x0 = np.asarray(RNG.normal(size=(4, 2)), "f4")

    def by_eta(eta):
        return js.advance(js.sgd(DATA, learning_rate=eta, batch_size=2), x0, key=KEY, steps=20)

    def by_temperature(kt):
        return js.advance(js.integrate(js.langevin(BOWL, temperature=kt), js.Heun(), dt=0.05), x0, key=KEY, steps=20)

    values = np.array([0.02, 0.1, 0.2], "f4")
    for f in (by_eta, by_temperature):
        swept = jax.jit(jax.vmap(f))(values)
        for v, one in zip(values, swept, strict=True):
            np.testing.assert_allclose(one, f(float(v)), rtol=1e-5, atol=1e-5)
        slope, eps = jax.grad(lambda v, f=f: f(v).mean())(jnp.float32(0.1)), 5e-3
        numeric = (f(0.1 + eps).mean() - f(0.1 - eps).mean()) / (2 * eps)
        np.testing.assert_allclose(slope, numeric, rtol=5e-2, atol=2e-3)
    starts = np.stack([x0, x0 + 1])
    both = jax.vmap(lambda x: js.advance(CHAINS["matrix"], x, key=KEY, steps=20))(starts)
    np.testing.assert_allclose(
        both[1], js.advance(CHAINS["matrix"], starts[1], key=KEY, steps=20), rtol=1e-5, atol=1e-6
    )


def test_the_slope_of_a_run_is_exact():
    """x_n = (1 − η)^n x_0 without noise, so dx/dη is known."""
    still = js.potential(lambda phi: 0.5 * jnp.sum(phi**2), np.ones(2), noise_covariance=0.0)
    end = lambda eta: js.advance(js.sgd(still, learning_rate=eta), np.ones(2, "f4"), key=KEY, steps=33)[0]
    np.testing.assert_allclose(jax.grad(end)(0.1), -33 * 0.9**32, rtol=1e-5)
    np.testing.assert_allclose(jax.jacfwd(end)(0.1), -33 * 0.9**32, rtol=1e-5)


@pytest.mark.parametrize("kind", ["data", "potential"])
def test_a_new_number_is_no_new_program(kind):
    """Traces are counted by a side effect of the user's loss."""
    traces = []

    def counted_example(phi, example):
        traces.append(1)
        return linear(phi, example)

    def counted(phi):
        traces.append(1)
        return bowl(phi)

    def made(seed):
        rng = np.random.default_rng(seed)
        if kind == "data":
            return js.finite_sum(counted_example, (rng.normal(size=(10, 2)), rng.normal(size=10)), rng.normal(size=2))
        c = rng.normal(size=(2, 2))
        return js.potential(counted, rng.normal(size=2), noise_covariance=c @ c.T + np.eye(2))

    first, second = made(0), made(1)
    builders = [
        lambda p, v: js.sgd(p, learning_rate=v),
        lambda p, v: js.integrate(js.sgd_sde(p, learning_rate=v), dt=v / 2),
    ]
    if kind == "data":
        builders.append(lambda p, v: js.sgd(p, learning_rate=v, optimizer=optax.adam))
    for build in builders:
        advanced = jax.jit(lambda c, x: js.advance(c, x, key=KEY, steps=20))

        def both(chain, seed, steps, chunk, start, advanced=advanced):
            js.simulate(chain, start, key=js.key(seed), chains=6, steps=steps, chunk=chunk, statistics={"m": js.Mean()})
            advanced(chain, jnp.zeros((3, 2)))

        both(build(first, 0.1), 0, 50, None, np.zeros(2))
        chain = build(second, 0.03)
        traces.clear()
        both(chain, 2**40, 17, 4, np.ones(2))
        assert not traces
        advanced(chain, jnp.zeros((5, 2)))
        assert traces, "the count does count"


def test_a_struct_checks_in_its_constructor_alone():
    @struct
    class Checked:
        value: float
        name: str = static(default="a")

        def __post_init__(self):
            if not isinstance(self.value, float) or self.value < 0:
                raise ValueError("negative")

    one = Checked(1.0)
    with pytest.raises(ValueError, match="negative"):
        Checked(-1.0)
    doubled = jax.tree.map(lambda v: -2 * v, one)
    assert doubled.value == -2.0 and doubled.name == "a"
    assert replace(one, name="b").name == "b" and one.name == "a"
    assert jax.tree.structure(replace(one, name="b")) != jax.tree.structure(one)
    with pytest.raises(TypeError, match="no field colour"):
        replace(one, colour=1)
    (path, _), *_ = jax.tree_util.tree_leaves_with_path(one)
    assert jax.tree_util.keystr(path) == ".value"


def test_data_is_an_argument_of_the_program_and_not_a_constant_in_it():
    big = js.finite_sum(linear, (np.ones((50_000, 2)), np.ones(50_000)), np.zeros(2))
    chain = js.sgd(big, learning_rate=0.1)
    text = jax.jit(lambda c, x, z: c.step(x, z, 0.0)).lower(chain, big.start, some_draw(chain)).as_text()
    assert len(text) < 20_000


def test_noise_that_was_scaled_says_so():
    made = noise.scaled(noise.of_problem(DATA), 0.25)
    np.testing.assert_allclose(made.covariance(DATA.start), 0.25 * DATA.noise_covariance(DATA.start), rtol=1e-6)
    assert noise.scaled(made, 0.0).kind == "none" and noise.scaled(made, 1.0) is made
    assert (made.kind, made.dim) == ("general", 2)
