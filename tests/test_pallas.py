"""The GPU executor, interpreted: the chains of `lanes` bit for bit. Whether it compiles for a GPU, `scripts/check_gpu_compile` tells."""

from __future__ import annotations

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_default import some

import jaxsde as js
from jaxsde import random
from jaxsde.engine import launch
from jaxsde.engine.executors import lanes, pallas
from jaxsde.engine.executors.scalar.arrays import OPERATIONS
from jaxsde.engine.executors.scalar.graph import ordered
from jaxsde.engine.executors.tile import Span, Tile

KEY = js.key(5)
RNG = np.random.default_rng(8)
X, Y = RNG.normal(size=(40, 3)), RNG.normal(size=40)


def sgd(**more):
    loss = lambda w, e: jnp.log1p((e[0] @ w - e[1]) ** 2)
    return js.sgd(js.finite_sum(loss, (X, Y), np.zeros(3)), **{"learning_rate": 0.05, **more})


def langevin(d):
    problem = js.potential(lambda x: jnp.sum((x**2 - 1) ** 2) / 4 + 0.2 * jnp.sin(x[0] * x[-1]), np.full(d, 0.5))
    return js.integrate(js.langevin(problem, temperature=0.2), dt=0.05)


CHAINS = {
    "one dimension": lambda: langevin(1),
    "four dimensions": lambda: langevin(4),
    "one example": lambda: sgd(),
    "a batch": lambda: sgd(batch_size=3, sampling="without_replacement"),
    "in the order of the data": lambda: sgd(batch_size=3, sampling="cyclic"),
    "integers in the state": lambda: sgd(optimizer=optax.adam),
    "momentum": lambda: sgd(optimizer=lambda lr: optax.sgd(lr, momentum=0.9)),
}


def run(executor, chain, chains=150, steps=45, **more):
    run = js.simulate(chain, np.full(chain.dim, 0.3), key=KEY, chains=chains, steps=steps, executor=executor, **more)
    assert run.executor == executor
    return run


# a short step and a long one, examples and integers; all of them where there is time
SOME = ("four dimensions", "one example", "a batch")


@pytest.mark.parametrize("name", some(CHAINS, SOME))
def test_the_chains_of_lanes_bit_for_bit(name):
    chain = CHAINS[name]()
    whole = run("pallas", chain)
    np.testing.assert_array_equal(whole.positions, run("lanes", chain).positions)
    np.testing.assert_array_equal(whole.positions, run("pallas", chain, chunk=7).positions)
    assert not np.allclose(whole.positions, run("lanes", chain, steps=44).positions, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_statistics_and_chains_that_leave():
    statistics = {"cov": js.Covariance(), "hist": js.Histogram(np.linspace(-2, 2, 9), components=0)}
    calm = langevin(2)
    ours, reference = (run(e, calm, every=3, burn_in=4, statistics=statistics) for e in ("pallas", "lanes"))
    assert ours.samples == reference.samples
    np.testing.assert_array_equal(ours["hist"].value, reference["hist"].value)
    wild = js.sgd(js.potential(lambda x: jnp.sum(x**2) / 2 - jnp.sum(x**4) / 4, np.zeros(2), noise_covariance=0.5), learning_rate=0.3)
    ours, reference = (run(e, wild) for e in ("pallas", "lanes"))
    assert 0 < ours.diverged.sum() < 150
    np.testing.assert_array_equal(ours.diverged_at, reference.diverged_at)
    np.testing.assert_array_equal(ours.positions, reference.positions)


def test_it_is_for_gpus(monkeypatch, caplog):
    arguments = (langevin(2), None, np.float32)
    assert "for NVIDIA GPUs" in pallas.refuses(*arguments, "cpu", wanted=False)
    assert "permutations" in pallas.refuses(sgd(sampling="random_reshuffling"), np.zeros(3, np.float32), np.float32, "gpu", wanted=True)
    assert "the device is tpu" in pallas.refuses(*arguments, "tpu", wanted=True)
    monkeypatch.setattr(pallas, "_missing", lambda: "this version of JAX has no Pallas for Triton")
    assert "no Pallas" in pallas.refuses(*arguments, "gpu", wanted=False)
    with pytest.warns(UserWarning, match="no Pallas"), caplog.at_level(logging.INFO, "jaxsde"):
        chain = langevin(2)
        assert js.simulate(chain, np.ones(2), key=KEY, chains=16, steps=2, executor="pallas").executor != "pallas"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_meet_their_sums_in_one_instruction_of_a_gpu(dtype):
    """As many as the graph has; what is kept apart from sums by other means are functions that may end in a product, none here."""
    with jax.enable_x64(dtype == np.float64):
        chain = launch.cast(langevin(2), np.dtype(dtype))
        one, size = launch.one_state(chain, np.dtype(dtype)), 128
        tile = Tile(jax.tree.map(lambda a: jnp.zeros((size, *a.shape), a.dtype), one), {}, jnp.ones(size, bool), jnp.zeros(size, np.uint32))
        span = Span(random.clock(0, chain.draws), *(np.int32(0),) * 2, np.bool_(True), np.int32(1))
        ids = (jnp.arange(size, dtype=np.uint32), jnp.zeros(size, np.uint32))
        take = lambda target: jax.make_jaxpr(functools.partial(pallas.advance, every=1, rows=1, target=target))
        there, here = (str(take(target)(chain, {}, np.zeros(2, np.uint32), ids, span, tile)) for target in ("cuda", "cpu"))
        plan, blocks, _ = lanes.unit_of(chain, tile, pallas._FREE, "gpu")
    steps = plan.steps
    fused = [n for n in ordered([*steps.after, steps.alive, steps.survived]) if n.op == "fma" and n.wide]
    assert there.count(f"fma.rn.f{8 * np.dtype(dtype).itemsize} ") == len(fused) * blocks > 0
    assert "fma.rn" not in here


def test_operations_that_triton_lacks_are_named():
    """And no other operation is without a rule there."""
    from jax._src.pallas.triton.lowering import triton_lowering_rules  # the only list that there is

    state = np.zeros(3, np.float32)
    for loss, word in ((jax.scipy.special.erf, "erf"), (jax.scipy.special.gammaln, "digamma and no lgamma"), (jnp.round, "rint")):
        problem = js.finite_sum(lambda w, e, loss=loss: loss((e[0] @ w) ** 2 + 2) * (e[0] @ w), (X, Y), state)
        chain = js.sgd(problem, learning_rate=0.05)
        assert pallas.refuses(chain, state, np.float32, "gpu", wanted=True) == f"Triton has no {word}"
        assert pallas.refuses(chain, state, np.float32, "cpu", wanted=True) is None  # where XLA interprets
    names = {"shl": "shift_left", "shr": "shift_right_logical", "sar": "shift_right_arithmetic", "rint": "round", "select": "select_n"}
    known = {primitive.name for primitive in triton_lowering_rules}
    lacking = {op for op in OPERATIONS if names.get(op, op) not in known}
    assert lacking - {"copysign", "mulhi"} == pallas._LACKING  # these two are written in others


@pytest.mark.parametrize("bits", [32, 64])
def test_the_high_word_of_a_product_of_scalars(bits):
    import jax

    kind = np.dtype(f"uint{bits}")
    with jax.enable_x64(bits == 64):
        numbers = RNG.integers(0, 2**bits, size=40, dtype=kind)
        for a, b in zip(numbers[::2], numbers[1::2], strict=True):
            assert int(pallas._mulhi(jnp.asarray(a), jnp.asarray(b))) == (int(a) * int(b)) >> bits
