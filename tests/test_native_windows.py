"""Convolutions and pooling in machine code: the same chains as `vmap`, by gradients with respect to kernel and image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_default import some
from jax import lax

import jaxsde as js

KEY = js.key(3)
RNG = np.random.default_rng(8)
IMAGES, LABELS = RNG.normal(size=(12, 6, 7, 2)), RNG.normal(size=12)
ROUNDINGS = 1000  # steps that contract, each with a few roundings of its own


def conv(x, k, strides=(1, 1), padding="SAME", numbers=("NHWC", "HWIO", "NHWC"), **more):
    return lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=numbers, **more)


def window(x, init, operation, size, strides, padding="VALID", **more):
    return lax.reduce_window(x, init, operation, (1, *size, 1), (1, *strides, 1), padding, **more)


def network(layer, kernel, image=(6, 7, 2)):
    """An image times a scale (so that its gradient counts, too), a layer, tanh, the same layer's shape summed with weights."""
    shapes = {"k": kernel, "scale": image}
    out = jax.eval_shape(layer, *(jax.ShapeDtypeStruct(s, np.float32) for s in ((1, *image), kernel))).shape
    shapes["w"] = out
    return shapes, lambda p, x: jnp.sum(jnp.tanh(layer((x * p["scale"])[None], p["k"])) * p["w"])


LAYERS = {
    "same": network(conv, (3, 3, 2, 3)),
    "valid, strides": network(lambda x, k: conv(x, k, (2, 3), "VALID"), (3, 2, 2, 3)),
    "dilated": network(lambda x, k: conv(x, k, (1, 2), rhs_dilation=(2, 1)), (3, 3, 2, 2)),
    "transposed": network(lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME"), (3, 3, 2, 2)),
    "padded unevenly, and cropped": network(lambda x, k: conv(x, k, padding=((2, 0), (-1, 1))), (2, 3, 2, 2)),
    "groups": network(lambda x, k: conv(x, k, feature_group_count=2), (3, 3, 1, 4)),
    "a window of one": network(lambda x, k: conv(x, k), (1, 1, 2, 5)),
    "a large window": network(lambda x, k: conv(x, k), (5, 7, 2, 2)),
    "channels first": network(lambda x, k: conv(jnp.moveaxis(x, 3, 1), k, numbers=("NCHW", "OIHW", "NCHW")), (3, 2, 3, 3)),
    "a line": network(lambda x, k: lax.conv_general_dilated(x[:, :, 0], k, (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")), (3, 2, 4)),
    "convolve": network(lambda x, k: jnp.convolve(x[0, :, 0, 0], k, mode="same"), (3,)),
    "two layers": network(lambda x, k: conv(jnp.tanh(conv(x, k)), k, (2, 2)), (3, 3, 2, 2)),
    "averages": network(lambda x, k: window(conv(x, k), 0.0, lax.add, (2, 2), (2, 2)), (3, 3, 2, 3)),
    "overlapping sums": network(lambda x, k: window(conv(x, k), 0.0, lax.add, (3, 2), (2, 1), "SAME"), (3, 3, 2, 3)),
    "maxima": network(lambda x, k: window(conv(x, k), -jnp.inf, lax.max, (2, 2), (2, 2)), (3, 3, 2, 3)),
    "overlapping maxima": network(lambda x, k: window(conv(x, k), -jnp.inf, lax.max, (3, 3), (2, 2), "SAME"), (3, 3, 2, 2)),
    "minima": network(lambda x, k: window(conv(x, k), jnp.inf, lax.min, (2, 3), (2, 2)), (3, 3, 2, 2)),
}


def problem(name):
    shapes, output = LAYERS[name]
    rng = np.random.default_rng(len(name))
    start = {n: rng.normal(size=s) / np.sqrt(np.prod(s) if n == "k" else 4) for n, s in shapes.items()}
    return js.finite_sum(lambda p, e: 0.5 * (output(p, e[0]) - e[1]) ** 2 + 0.01 * jnp.sum(p["k"] ** 2), (IMAGES, LABELS), start)


def apart(chain, start, chains=35, steps=6, **more):
    """How far `native` is from `vmap`, in units of the precision."""
    runs = [js.simulate(chain, start, key=KEY, chains=chains, steps=steps, executor=e, **more) for e in ("vmap", "native")]
    assert [r.executor for r in runs] == ["vmap", "native"] and not runs[0].diverged.any()
    a, b = (r.positions.astype(np.float64) for r in runs)
    begin = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(start)])
    assert np.abs(a - begin).max() > 1e-3
    return np.abs(a - b).max() / (np.finfo(runs[0].dtype).eps * max(1.0, np.abs(a).max()))


SOME = ("valid, strides", "transposed", "padded unevenly, and cropped", "groups", "convolve", "overlapping maxima")


@pytest.mark.parametrize("name", some(LAYERS, SOME))
def test_layers(name):
    given = problem(name)
    assert apart(js.sgd(given, learning_rate=0.02, batch_size=2), given.start) < ROUNDINGS


@pytest.mark.parametrize("name", some(["dilated", "groups", "maxima"], ["groups"]))
def test_noise_of_each_example(name):
    """Gradients of examples apart: kernels with an axis more, so groups of features or of the batch."""
    given = problem(name)
    chain = js.integrate(js.sgd_sde(given, learning_rate=0.05, batch_size=2), dt=0.05)
    assert apart(chain, given.start, chains=17, steps=3) < ROUNDINGS


def test_examples_that_all_chains_share():
    given = problem("same")
    assert apart(js.sgd(given, learning_rate=0.02, sampling="full_batch"), given.start) < ROUNDINGS


def test_double_precision():
    with jax.enable_x64(True):
        given = problem("overlapping maxima")
        assert apart(js.sgd(given, learning_rate=0.02, batch_size=2), given.start, dtype=np.float64) < ROUNDINGS


def test_a_tie_goes_to_the_first():
    """Where two entries of a window are equal, XLA's gradient goes to the first."""
    potential = js.potential(lambda p: jnp.sum(lax.reduce_window(jnp.tile(p, 2)[None, :, None], -jnp.inf, lax.max, (1, 4, 1), (1, 2, 1), "SAME")
                                               * jnp.arange(1.0, 4.0)[None, :, None]) / 6, np.ones(3))  # fmt: skip
    chain = js.sgd(potential, learning_rate=0.25, sampling="full_batch")
    a, b = (js.simulate(chain, potential.start, key=KEY, chains=4, steps=1, executor=e).positions for e in ("vmap", "native"))
    assert len(set(a[0])) > 1
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_tiles_stacks_and_products_of_two_types():
    """In scalars and, beside a step that is large, in loops."""
    half = np.float32(RNG.normal(size=(3, 3)))
    with jax.enable_x64(True):
        for size in (3, 120):
            def loss(p, size=size):
                many = jnp.tile(p[:3], (2, size // 3))
                return jnp.sum(many**2) / size + sum(x**2 for x in jnp.unstack(p[:3])) + 0.1 * p[:3] @ (half @ p[:3]) + p @ p

            chain = js.integrate(js.langevin(js.potential(loss, np.ones(size)), temperature=0.3), dt=0.01)
            assert apart(chain, np.ones(size), dtype=np.float64) < ROUNDINGS
            wide = js.potential(lambda p: p @ (jnp.ones((size, size), jnp.float32) @ p) / size + p @ p, np.ones(size))  # noqa: B023
            assert apart(js.integrate(js.langevin(wide, temperature=0.3), dt=0.01), np.ones(size), dtype=np.float64) < ROUNDINGS
