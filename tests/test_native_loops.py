"""Steps too large for scalars, run by loops over memory: the same chains as `vmap`, whatever stands beside them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from processors import PROCESSORS

import jaxsde as js
from jaxsde.engine import launch, layout
from jaxsde.engine.executors import native
from jaxsde.engine.executors.native import build, called, loops
from jaxsde.engine.executors.native.loops import rules
from jaxsde.engine.executors.native.writer import Writer
from jaxsde.engine.executors.scalar import Unsupported, block
from jaxsde.engine.executors.scalar.plans import Plans

KEY = js.key(11)
RNG = np.random.default_rng(5)
D = 6
X, LABELS = RNG.normal(size=(20, D)), RNG.integers(0, D, size=20)
# 20 steps that contract, each with a few roundings of its own: far below a thousand units in the last place
ROUNDINGS = 1000


@pytest.fixture
def only_loops(monkeypatch):
    """No step is taken apart into scalars."""

    def refuse(*given):
        raise Unsupported("scalars")

    monkeypatch.setattr(native, "_Graphs", refuse)


def apart(chain, start, steps=20, chains=48, **more):
    """The run by `native`, and its distance from that by `vmap` in units of the precision."""
    runs = [js.simulate(chain, start, key=KEY, chains=chains, steps=steps, executor=e, **more) for e in ("vmap", "native")]
    assert [r.executor for r in runs] == ["vmap", "native"] and not runs[0].diverged.any()
    a, b = (r.positions.astype(np.float64) for r in runs)
    begin = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(start)])
    assert np.abs(a - begin).max() > 1e-3  # the chains went somewhere
    return runs[1], np.abs(a - b).max() / (np.finfo(runs[0].dtype).eps * max(1.0, np.abs(a).max()))


def looped(w, e):
    """A loop that carries a number and gives an array back, with a branch that the chain decides."""
    last, all_of_them = jax.lax.scan(lambda h, x: (jnp.tanh(h + x), h * x), w[0], e[0] * w, reverse=True)
    return jax.lax.cond(last > 0, lambda h: h**2, jnp.abs, last) + jnp.sum(all_of_them**2)


def joined(w, e):
    """Slices, joints, reversals and paddings."""
    both = jnp.concatenate([w[4:], e[0][:3] * w[1:4], jnp.pad(w[::2], (1, 2))])
    return jnp.sum(both[::-1] ** 2) + jnp.sum(jnp.stack([w, e[0]], 1).reshape(-1)[3:9] ** 2)


LOSSES = {
    "squared": lambda w, e: 0.5 * (e[0] @ w - 1) ** 2,
    "softmax": lambda w, e: -jax.nn.log_softmax(w * e[0])[e[1]],
    "products": lambda w, e: 0.02 * jnp.sum((jnp.outer(w, e[0]) @ (w[:, None] * jnp.ones((D, 3)))) ** 2),
    "written": lambda w, e: jnp.sum(w.at[e[1]].set(2 * w[0]).at[jnp.array([0, 3])].add(w[:2] * e[0][:2]) ** 2),
    "read": lambda w, e: jnp.sum(jax.lax.dynamic_slice(w * e[0], (e[1] - 1,), (3,)) ** 2) + w[jnp.argmax(e[0] * w)] ** 2,
    "cumulative": lambda w, e: 0.1 * jnp.sum(jnp.cumsum(w * e[0]) ** 2) + jnp.max(w) + jnp.max(w * e[0]),
    "looped": looped,
    "joined": joined,
}
SAMPLINGS = ["with_replacement", "without_replacement", "full_batch", "gaussian"]


def small(name, sampling="with_replacement", **more):
    problem = js.finite_sum(LOSSES[name], (X, LABELS), np.ones(D))
    return js.sgd(problem, learning_rate=0.02, batch_size=3, sampling=sampling, **more)


@pytest.mark.parametrize("name,sampling", [(n, SAMPLINGS[i % 4]) for i, n in enumerate(LOSSES)] + [("squared", s) for s in SAMPLINGS[1:]])
def test_losses_and_samplings(name, sampling, only_loops):
    assert apart(small(name, sampling), np.linspace(-1, 1, D))[1] < ROUNDINGS


@pytest.mark.parametrize("sampling", ["random_reshuffling", "shuffle_once", "cyclic"])
@pytest.mark.parametrize("n, batch", [(17, 1), (18, 4), (13, 8), (4, 4), (3, 1)])
def test_examples_come_in_the_order_that_scalars_take(sampling, n, batch, monkeypatch):
    """Example i moves a chain by 2^i, exactly: its place tells which it took. From a step whose number has two words, by launches
    that begin anywhere in an epoch."""
    problem = js.finite_sum(lambda w, e: -w[0] * e, 2.0 ** np.arange(n), np.zeros(1))
    chain = js.sgd(problem, learning_rate=float(batch), batch_size=batch, sampling=sampling)
    start, given = jnp.zeros((35, 1)), dict(key=KEY, executor="native")
    places = lambda: [np.asarray(js.advance(chain, start, steps=t, first_step=2**33 - 3 + f, **given)) for f in (0, 2) for t in (1, 4, n + 5)]
    wanted = places()
    assert all((place > 0).all() for place in wanted)
    plans = Plans(native._Plan)
    monkeypatch.setattr(native, "_Graphs", lambda *given: (_ for _ in ()).throw(Unsupported("scalars")))
    for module in (native, called):
        monkeypatch.setattr(module, "plan_of", plans)
    for a, b in zip(places(), wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert plans.found and all(plan.graphs is None and plan.codes for plan in plans.found.values())


@pytest.mark.parametrize("optimizer", [optax.adam, lambda lr: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(lr, 0.9))],
                         ids=["adam", "clipped"])  # fmt: skip
def test_optimizers(optimizer, only_loops):
    assert apart(small("squared", optimizer=optimizer), np.linspace(-1, 1, D))[1] < ROUNDINGS


WELLS = js.potential(lambda x: jnp.sum((x**2 - 1) ** 2) / 4 + x[0] * x[1] / 2, np.full(5, 0.5))
EQUATIONS = {
    "heun": lambda: js.integrate(js.langevin(WELLS, temperature=0.3), js.Heun(), dt=0.05),
    "kinetic": lambda: js.integrate(js.momentum_sde(WELLS, learning_rate=0.05, momentum=0.9), js.BAOAB(), dt=0.05),
    "a pair": lambda: js.coupled(*(js.sgd(WELLS, learning_rate=eta, optimizer=js.momentum(0.9)) for eta in (0.05, 0.02))),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_equations(name, only_loops):
    chain = EQUATIONS[name]()
    run, distance = apart(chain, np.full(chain.dim, 0.5), every=2, statistics={"mean": js.Mean()})
    assert distance < ROUNDINGS
    vmap = js.simulate(chain, np.full(chain.dim, 0.5), key=KEY, chains=48, steps=20, executor="vmap", every=2, statistics={"mean": js.Mean()})
    np.testing.assert_allclose(run["mean"].value, vmap["mean"].value, rtol=1e-5, atol=1e-6)


def test_double_precision(only_loops):
    with jax.enable_x64(True):
        assert apart(small("softmax"), np.linspace(-1, 1, D), dtype=np.float64)[1] < ROUNDINGS


def looked_up(w, e):
    """Rows of a table, a flag, and a row written, at places of each chain's own; entries of data that all share, too."""
    table, best = w.reshape(3, 2), jnp.argmax(w * e[0])
    words = table[e[1] % 3].sum(0) @ table[best % 3] + jnp.where((w > 0.2)[best], w[best] ** 2, jnp.sin(w[0]))
    return words + jnp.sum(table.at[e[1][0] % 3].multiply(jnp.asarray(X[:, 0])[best + e[1][0]]) ** 2) + w @ w


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_places_of_each_chains_own(dtype, only_loops, monkeypatch):
    """The same bits whether they are read and written at once or one after the other."""
    found, tokens = [], RNG.integers(0, D, size=(20, 5))
    with jax.enable_x64(dtype is np.float64):
        for at_once in (True, False):
            monkeypatch.setattr(Writer, "gathers", at_once)
            native.plan_of.found.clear()
            launch._programs.clear()
            problem = js.finite_sum(looked_up, (X, tokens), np.ones(D))
            chain = js.sgd(problem, learning_rate=0.02, batch_size=3)
            plan = native.plan_of(chain, jax.ShapeDtypeStruct((D,), dtype), np.dtype(dtype))
            text = plan.printed[native.LANES].text
            assert all((f"masked.{word}" in text) == at_once for word in ("gather", "scatter"))
            found.append(apart(chain, np.linspace(-1, 1, D), dtype=dtype))
    assert max(distance for _, distance in found) < ROUNDINGS
    np.testing.assert_array_equal(*(run.positions for run, _ in found))


def matrices(d):
    rng = np.random.default_rng(d)
    a, c = (rng.normal(size=(d, d)) / np.sqrt(d) for _ in range(2))
    h = (a @ a.T + np.eye(d)).astype(np.float32)
    problem = js.potential(lambda x: 0.5 * x @ (h @ x), np.ones(d), noise_covariance=c @ c.T + 0.5 * np.eye(d))
    return js.integrate(js.sgd_sde(problem, learning_rate=0.05), dt=0.05), np.ones(d)


def squares(d, batch):
    rng = np.random.default_rng(d)
    x = rng.normal(size=(50, d)) / np.sqrt(d)
    return js.sgd(js.finite_sum(LOSSES["squared"], (x, LABELS[np.arange(50) % 20]), np.zeros(d)), learning_rate=0.1, batch_size=batch), np.zeros(d)


def network(batch, **more):
    rng = np.random.default_rng(batch)
    sizes = ((19, 33), (33,), (33, 7), (7,))
    start = [rng.normal(size=s) / 5 for s in sizes]

    def loss(p, e):
        a, b, c, d = p
        return optax.softmax_cross_entropy_with_integer_labels(jnp.tanh(e[0] @ a + b) @ c + d, e[1])

    data = rng.normal(size=(60, 19)), rng.integers(0, 7, size=60)
    return js.sgd(js.finite_sum(loss, data, start), learning_rate=0.1, batch_size=batch, **more), start


LARGE = {
    "matrices": lambda: matrices(131),
    "squares, batch of 1": lambda: squares(8501, 1),
    "squares, batch of 3": lambda: squares(1003, 3),
    "network, batch of 10": lambda: network(10),
    "network, reshuffled": lambda: network(13, sampling="random_reshuffling"),
    "network, cyclic, Adam": lambda: network(7, sampling="cyclic", optimizer=optax.adam),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_steps_take_loops_of_their_own_accord(name):
    chain, start = LARGE[name]()
    run, distance = apart(chain, start, steps=6)
    assert distance < ROUNDINGS
    state = launch.one_state(launch.cast(chain, run.dtype), run.dtype)
    assert native.plan_of(launch.cast(chain, run.dtype), state, run.dtype).graphs is None


@pytest.mark.parametrize("sampling", ["with_replacement", "shuffle_once"])
def test_a_chain_is_its_own_whatever_is_beside_it(sampling, monkeypatch):
    """Numbers of chains, chunks, looks, groups, widths of vectors: the same bytes."""
    chain, start = network(10, sampling=sampling)
    given = dict(key=KEY, steps=13, executor="native")
    whole = js.simulate(chain, start, chains=150, **given)
    for more in (dict(chains=37), dict(chains=150, chunk=5), dict(chains=129, every=3, groups=5, statistics={"m": js.Mean()})):
        run = js.simulate(chain, start, **given, **more)
        np.testing.assert_array_equal(run.positions, whole.positions[: len(run.positions)])
    here = build.machine()
    state = launch.one_state(launch.cast(chain, whole.dtype), whole.dtype)
    plan = native.plan_of(launch.cast(chain, whole.dtype), state, whole.dtype)
    for vectors, bits in ((1, 512), (2, 256), (4, 128)):
        monkeypatch.setattr(plan, "vectors", vectors)
        monkeypatch.setattr(build, "machine", lambda bits=bits: here._replace(bits=min(bits, here.bits)))
        plan.codes.clear()
        launch._programs.clear()
        np.testing.assert_array_equal(js.simulate(chain, start, chains=64, **given).positions, whole.positions[:64])
    plan.codes.clear()
    launch._programs.clear()


def test_chains_that_diverge(only_loops):
    wild = js.sgd(js.potential(lambda x: jnp.sum(x**2) / 2 - jnp.sum(x**4) / 4, np.zeros(3), noise_covariance=0.5), learning_rate=0.3)
    given = dict(key=KEY, chains=300, steps=40, every=4, statistics={"m": js.Moments(), "cov": js.Covariance()})
    reference, run = (js.simulate(wild, np.zeros(3), executor=e, **given) for e in ("vmap", "native"))
    gone = run.diverged
    assert 0 < gone.sum() < 300
    np.testing.assert_array_equal(gone, reference.diverged)
    np.testing.assert_array_equal(run.diverged_at, reference.diverged_at)
    # one that is on its way out multiplies every rounding, and may overflow what is averaged
    near = ~gone & (np.abs(reference.positions) < 1).all(axis=1)
    assert near.sum() > 100
    np.testing.assert_allclose(run.positions[near], reference.positions[near], atol=1e-3)
    np.testing.assert_allclose(run["cov"].value, reference["cov"].value, rtol=1e-2)
    assert [run[name].reason for name in given["statistics"]] == [reference[name].reason for name in given["statistics"]]


def test_what_no_loop_does_is_named():
    loss = lambda w: jnp.linalg.eigvalsh(jnp.outer(w, w) + jnp.eye(3))[0]
    chain = js.integrate(js.langevin(js.potential(loss, np.ones(3)), temperature=0.1), dt=0.05)
    with pytest.warns(UserWarning, match="the primitive eigh"):
        assert js.simulate(chain, np.ones(3), key=KEY, chains=16, steps=2, executor="native").executor == "vmap"


@pytest.mark.parametrize("more", [{}, {"optimizer": optax.adam}, {"sampling": "cyclic"}], ids=["plain", "Adam", "cyclic"])
def test_the_gradient_of_a_matrix_goes_straight_into_what_reads_it(more, monkeypatch):
    """Its product then has no loops and no memory of its own, and the chains are the same to the bit."""
    chain, start = network(2, **more)
    runs, passes = [], []
    for written in (rules._written, lambda *given: None):
        monkeypatch.setattr(rules, "_written", written)
        monkeypatch.setattr(native, "plan_of", Plans(native._Plan))
        launch._programs.clear()
        runs.append(js.simulate(chain, start, key=KEY, chains=33, steps=9, executor="native"))
        cast = launch.cast(chain, runs[-1].dtype)
        plan = native.plan_of(cast, launch.one_state(cast, runs[-1].dtype), runs[-1].dtype)
        assert plan.graphs is None
        passes.append(loops.source(plan.traced, plan.limit, 16, build.machine()).text.count(".latch:"))
    launch._programs.clear()
    np.testing.assert_array_equal(runs[0].positions, runs[1].positions)
    assert np.abs(runs[0].positions - np.concatenate([np.ravel(a) for a in start])).max() > 1e-3
    assert passes[0] <= passes[1] - 2  # there are two matrices


def test_a_state_that_is_written_entry_by_entry(only_loops):
    """Of so few that its parts are no loops; a matrix is among them, whose gradient is a product all the same."""

    def loss(p, e):
        return (jnp.sum(jnp.tanh(e @ p["in"])) * p["out"] + p["shift"] - p["more"]) ** 2

    start = {"in": np.array([[0.3, -0.5], [0.2, 0.7]]), "more": 0.1, "out": 0.4, "shift": -0.2}
    chain = js.sgd(js.finite_sum(loss, X[:, :2], start), learning_rate=0.05, batch_size=2)
    run, distance = apart(chain, start)
    assert run.executor == "native" and distance < ROUNDINGS


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_code_compiles_for_other_processors(processor):
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine, word = PROCESSORS[processor]
    chain = launch.cast(network(3)[0], np.dtype(np.float32))
    traced = block.trace(chain, launch.one_state(chain, np.dtype(np.float32)), np.dtype(np.float32), 1)
    source, scratch, _ = loops.source(traced, 1e15, 16, machine)
    module = llvm.parse_assembly(source)
    module.verify()
    maker = llvm.Target.from_triple(machine.triple).create_target_machine(machine.name, opt=3, reloc="pic", codemodel="small")
    assert word in maker.emit_assembly(module)
    assert scratch >= 2 * 4 * 16 * chain.dim  # the old state and the new one


@pytest.mark.parametrize("chains", [1, 3, 17, 64, 100, 500, 5000])
def test_small_groups_share_a_vector(chains):
    for widest in (16, 64, 8192):
        plan = layout.plan(chains, 32, widest, 2)
        assert sum(plan.counts) == chains and plan.width * plan.rows_per_tile % 16 == 0
        lanes = sum(plan.rows_per_tile for _ in plan.tiles) * plan.width
        assert lanes <= 2 * (chains + 16 * len(plan.tiles))
