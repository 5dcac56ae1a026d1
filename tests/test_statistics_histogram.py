"""The histogram counts as numpy.histogramdd does, and refuses edges that mean nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_runs import accumulate
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxsde.statistics import Histogram

# evenly spaced but inexact in float32, far from zero, and uneven: with 64 boxes and more than 256; as far from zero as an even
# grid may be; and widths that differ by 1e-4, with edges in the middle a twentieth of a box from their places
GRIDS = [
    np.linspace(-0.7, 0.3, 11),
    np.linspace(1000, 1001, 65),
    np.linspace(-1, 1, 65) ** 3,
    np.sort(np.random.default_rng(0).normal(size=400)),
    np.array([-1.0, 2.0]),
    np.linspace(3000.1, 3899.7, 901),
    np.cumsum(1 + 5e-5 * np.sign(np.arange(1001) - 500)) / 10 - 50,
]


@pytest.mark.parametrize("grid", range(len(GRIDS)))
def test_values_on_and_next_to_every_edge(grid):
    edges = GRIDS[grid].astype(np.float32)
    around = [edges, np.nextafter(edges, np.float32(-np.inf)), np.nextafter(edges, np.float32(np.inf))]
    x = np.concatenate([*around, (edges[1:] + edges[:-1]) / 2, [np.inf, -np.inf, np.nan]]).astype(np.float32)
    x = x[~((x != 0) & (abs(x) < np.finfo(np.float32).tiny))]  # XLA takes subnormal numbers for 0
    statistic = Histogram(GRIDS[grid])
    counts = statistic.counts(statistic.merge(accumulate(statistic, x[None, :, None])))
    finite = x[np.isfinite(x)]
    expected = np.histogram(finite, edges)[0]
    assert_array_equal(counts[:-1], expected)
    assert counts[-1] == len(finite) - expected.sum() + 2  # the infinities are outside, the NaN is nowhere


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_joint_counts_are_numpys(seed, k):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, 50, 3)).astype(np.float32)
    components = tuple(int(i) for i in rng.permutation(3)[:k])
    edges = [GRIDS[2] * 2 if rng.integers(2) else np.linspace(-1, 2, int(rng.integers(2, 9))) for _ in range(k)]
    statistic = Histogram(edges, components)
    merged = statistic.merge(accumulate(statistic, x))
    expected = np.histogramdd(x.reshape(-1, 3)[:, components], [e.astype(np.float32) for e in edges])[0]
    assert_array_equal(statistic.counts(merged)[:-1].reshape(statistic.shape), expected)
    assert_allclose(statistic.result(merged), expected / 200)


def test_other_edges_do_not_recompile():
    traces = []

    @jax.jit
    def update(statistic, acc, x):
        traces.append(1)
        return statistic.update(acc, 0.0, x, jnp.ones(2, bool))

    x = jnp.array([[0.1], [2.5]])
    for width, expected in ((1.0, [1, 0, 1]), (2.0, [1, 1, 0])):
        statistic = Histogram(np.array([0.0, 1.0, 2.0]) * width)
        merged = statistic.merge(jax.device_get(update(statistic, statistic.init(x), x)))
        assert_array_equal(statistic.counts(merged), expected)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "edges, components, says",
    [
        ([1.0], None, "at least 2"),
        (np.zeros((2, 2)), None, "1-d"),
        ([0.0, 1.0, 1.0], None, "increase"),
        ([1.0, 0.0], None, "increase"),
        ([0.0, np.nan], None, "finite"),
        ([0.0, np.inf], None, "finite"),
        ([1.0, 1.0 + 1e-9], None, "float32"),
        ([], None, "1, 2 or 3"),
        ([[0.0, 1.0]] * 4, None, "1, 2 or 3"),
        ([[0.0, 1.0]] * 2, (0,), "as many"),
        ([[0.0, 1.0]] * 2, (0, 0), "different"),
        ([0.0, 1.0], (-1,), "components"),
    ],
)
def test_edges_that_mean_nothing_are_refused(edges, components, says):
    with pytest.raises(ValueError, match=says):
        Histogram(edges, components)


def test_edges_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match="numbers"):
        Histogram((["a", "b"],))


def test_a_component_that_the_position_lacks_is_refused():
    with pytest.raises(ValueError, match="component 2"):
        Histogram([0.0, 1.0], 2).init(jnp.zeros((4, 2)))
