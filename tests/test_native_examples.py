"""Sums over examples, worked out on rows as they lie: the same chains, for rows of any length and place, and only where it pays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_default import some
from processors import PROCESSORS
from test_native import ROUNDINGS, both

import jaxsde as js
from jaxsde.engine import launch
from jaxsde.engine.executors import native
from jaxsde.engine.executors.native import build, kernel
from jaxsde.struct import static, struct

RNG = np.random.default_rng(5)


def logistic(w, e):
    return jnp.logaddexp(0.0, -e[1] * (e[0] @ w))


def summed(w, e):
    """No product of matrices in sight, and the target comes first in the row."""
    return 0.5 * (jnp.sum(w * e[1]) - e[0]) ** 2


def affine(p, e):
    return huber(e[0] @ p["w"] + p["b"] - e[1])


def huber(r):
    return jnp.where(jnp.abs(r) < 1, 0.5 * r**2, jnp.abs(r) - 0.5)


def image(w, e):
    return 0.5 * (jnp.tanh(jnp.tensordot(e[0], w, 2)) - e[1]) ** 2


def ridge(w, e):
    return 0.5 * (e[0] @ w - e[1]) ** 2 + 0.05 * jnp.sum(w**2)


def two_fold(w, e):
    """Two products with each example, by weights that are functions of the position."""
    return (jnp.tanh(e[0] @ w) - e[0] @ (w * w) * e[1]) ** 2


def case(name, d, n=60):
    x = RNG.normal(size=(n, d)) / np.sqrt(d)
    y = np.sign(RNG.normal(size=n))
    if name == "image":
        return js.finite_sum(image, (x.reshape(n, 4, -1), y), np.zeros((4, d // 4)))
    if name == "affine":
        return js.finite_sum(affine, (x, y), {"b": np.zeros(()), "w": np.zeros(d)})
    if name == "summed":
        return js.finite_sum(summed, (y, x), np.zeros(d))
    return js.finite_sum({"logistic": logistic, "ridge": ridge, "two": two_fold}[name], (x, y), np.full(d, 0.1))


CASES = [("logistic", 30, 8), ("summed", 33, 6), ("affine", 48, 4), ("image", 64, 5), ("ridge", 100, 4), ("two", 31, 8),
         ("logistic", 16, 9), ("ridge", 32, 4)]  # fmt: skip


def plan(chain, dtype=np.float32):
    state = jax.eval_shape(chain.init, jax.ShapeDtypeStruct((chain.dim,), dtype))
    return native._Plan(chain, state, np.dtype(dtype))


@pytest.mark.parametrize("name, d, batch", some(CASES, [CASES[i] for i in (0, 1, 2, 5)]))
def test_the_chains_of_vmap(name, d, batch):
    problem = case(name, d)
    chain = js.sgd(problem, learning_rate=0.05, batch_size=batch)
    made = plan(chain)
    assert made.graphs.by_rows and {n.op for n in made.graphs.near[0].graph.nodes.values()} >= {"dot", "mix"}
    assert both(chain, problem.start)[1] < ROUNDINGS
    other = js.sgd(problem, learning_rate=0.0501, batch_size=batch)
    assert np.abs(both(other, problem.start)[0][1].positions - both(chain, problem.start)[0][0].positions).max() > 1e-6


@pytest.mark.parametrize("sampling", ["random_reshuffling", "without_replacement"])
def test_other_samplings(sampling):
    problem = case("logistic", 30)
    chain = js.sgd(problem, learning_rate=0.05, batch_size=6, sampling=sampling)
    assert plan(chain).graphs.by_rows
    assert both(chain, problem.start)[1] < ROUNDINGS


def test_momentum_and_double_precision():
    import optax

    with jax.enable_x64(True):
        problem = case("ridge", 30)
        chain = js.sgd(problem, learning_rate=0.02, optimizer=lambda eta: optax.sgd(eta, momentum=0.9), batch_size=8)
        assert plan(chain, np.float64).graphs.by_rows
        assert both(chain, problem.start)[1] < ROUNDINGS


@pytest.mark.parametrize("d, batch", [(10, 1), (10, 8), (30, 1), (30, 2)])
def test_short_rows_and_small_batches_go_column_by_column(d, batch):
    assert not plan(js.sgd(case("logistic", d), learning_rate=0.05, batch_size=batch)).graphs.by_rows


def test_many_long_rows_are_no_reason_for_loops_and_too_many_are():
    assert plan(js.sgd(case("logistic", 200), learning_rate=0.05, batch_size=8)).graphs.by_rows
    assert plan(js.sgd(case("logistic", 200, n=120), learning_rate=0.05, batch_size=100)).graphs is None


@pytest.mark.parametrize("precise", [False, True])
def test_the_width_of_vectors_changes_no_bit(precise, monkeypatch):
    here, positions = build.machine(), []
    with jax.enable_x64(precise):
        chains = [js.sgd(case("logistic", 37), learning_rate=0.05, batch_size=6), js.sgd(case("summed", 50), learning_rate=0.05, batch_size=4)]
        for bits in (512, 256, 128):
            if bits > here.bits:
                continue
            native.plan_of.found.clear()
            launch._programs.clear()
            monkeypatch.setattr(build, "machine", lambda bits=bits: here._replace(bits=bits))
            positions.append(
                [js.simulate(c, np.zeros(c.dim), key=js.key(1), chains=96, steps=30, executor="native").positions for c in chains]
            )
        native.plan_of.found.clear()
        launch._programs.clear()
    for other in positions[1:]:
        for a, b in zip(positions[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(positions) >= 1 and np.abs(positions[0][0]).max() > 0


def test_no_bit_depends_on_chunks_or_on_chains_that_leave():
    problem = case("ridge", 30)
    calm = js.sgd(problem, learning_rate=0.05, batch_size=5)
    run = lambda chain, **more: js.simulate(chain, problem.start, key=js.key(3), steps=40, executor="native", **more)
    whole = run(calm, chains=64)
    np.testing.assert_array_equal(whole.positions, run(calm, chains=64, chunk=7).positions)
    np.testing.assert_array_equal(whole.positions[:5], run(calm, chains=5).positions)
    wild = js.sgd(problem, learning_rate=60.0, batch_size=5)
    runs, _ = both(wild, problem.start, steps=40, chains=64)
    assert runs[1].diverged.sum() > 0 and np.array_equal(runs[0].diverged, runs[1].diverged)


@struct
class Chosen:
    """The second example that a step reads is the one that the first one's product says."""

    table: jax.Array
    start: jax.Array
    dt: float
    dim: int = static()

    @property
    def draws(self):
        from jaxsde.types import Draws

        return Draws(indices=4, population=20)

    def init(self, x0):
        return x0

    def position(self, state):
        return state

    def step(self, state, drawn, k):
        first = self.table[drawn.indices]
        products = first @ state
        second = self.table[jnp.clip((8 * products + 10).astype(jnp.int32), 0, 19)]
        return state - self.dt * ((products - 1) @ first + 0.1 * (second @ state) @ second)


def test_an_example_that_another_one_chooses():
    d = 40
    chain = Chosen(jnp.asarray(RNG.normal(size=(20, d)) / np.sqrt(d), jnp.float32), jnp.zeros(d), 0.05, d)
    made = plan(chain)
    assert made.graphs is not None and made.graphs.by_rows
    assert both(chain, np.full(d, 0.1), steps=5)[1] < ROUNDINGS


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_code_compiles_for_other_processors(name):
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine, word = PROCESSORS[name]
    graphs = plan(js.sgd(case("logistic", 30), learning_rate=0.05, batch_size=4)).graphs
    module = llvm.parse_assembly(kernel.source(*graphs.near, graphs.begin(True), 16, machine))
    module.verify()
    maker = llvm.Target.from_triple(machine.triple).create_target_machine(machine.name, opt=3, reloc="pic", codemodel="small")
    assert word in maker.emit_assembly(module)
