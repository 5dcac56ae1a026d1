"""Stand-ins for a Run: accumulators of given positions, by the package's own update or straight from NumPy sums."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsde.statistics import Covariance, Histogram
from jaxsde.statistics.histogram import LOW, Boxes
from jaxsde.statistics.moments import Products
from jaxsde.statistics.sums import Count, whole, words


class FakeRun:
    """The part of a Run that estimates and metrics read."""

    def __init__(self, statistics, partials):
        self.statistics, self._partials = statistics, partials

    def statistic(self, name):
        return self.statistics[name]

    def partials(self, name):
        return self._partials[name]


def accumulate(statistic, x, alive=None, acc=None):
    """The accumulator after every time of x ["t c d"], on the host."""
    x = jnp.asarray(x)
    alive = jnp.ones(x.shape[:2], bool) if alive is None else jnp.asarray(alive)
    acc = statistic.init(x[0]) if acc is None else acc

    @jax.jit
    def scan(acc, xs):
        return jax.lax.scan(lambda a, now: (statistic.update(a, 0.0, *now), None), acc, xs)[0]

    return jax.device_get(scan(acc, (x, alive)))


def concatenated(parts):
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def run_of(statistics, x, groups):
    """A run whose chains x ["t c d"] fall into equal groups."""
    parts = np.array_split(np.arange(x.shape[1]), groups)
    partials = {
        name: concatenated([s.merge(accumulate(s, x[:, part])) for part in parts]) for name, s in statistics.items()
    }
    return FakeRun(statistics, partials)


def run_of_samples(x, histogram=None):
    """A run with a Covariance (and a Histogram) of independent samples x ["G n d"], in float64 and without JAX."""
    mean = x.mean(axis=1)
    centred = x - mean[:, None]
    counted = words(np.full(len(x), x.shape[1]))
    second = np.einsum("gni,gnj->gij", centred, centred)
    statistics = {"cov": Covariance()}
    partials = {"cov": Products(counted, mean, whole(np.zeros_like(mean)), whole(second))}
    if histogram is not None:
        assert isinstance(histogram, Histogram)
        edges = [np.asarray(e) for e in histogram.edges]
        rows = []
        for group in x:
            inside = np.histogramdd(group[:, list(histogram.components)], edges)[0].ravel().astype(np.int64)
            rows.append(np.append(inside, len(group) - inside.sum()))
        n = np.stack(rows)
        counts = Count((n & (2**LOW - 1)).astype(np.uint32), (n >> LOW).astype(np.uint32))
        statistics["hist"] = histogram
        partials["hist"] = Boxes(counts, np.zeros(len(x), np.uint32))
    return FakeRun(statistics, partials)
