"""Counts of positions in boxes, shared by all chains of a tile, exact to 2^63 samples."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..struct import static, struct
from .sums import Count, no_count, rarely, words

# Low words are emptied into the high words before they can pass this, so a scatter-add never wraps.
LOW = 31
_UNEVEN = 1e-4  # of a box's width: how far from its place an edge may be in a grid that is taken as evenly spaced


class Boxes(NamedTuple):
    """counts ["1 boxes+1"], the last one for positions outside; pending ["1"]: samples since the low words were emptied.

    A count is hi · 2^31 + lo: the 32nd bit of the low word is the room in which it grows between two emptyings.
    """

    counts: Count
    pending: Any

    @property
    def counted(self) -> Count:
        """Positions in the boxes and outside together, per row."""
        return words(_totals(self).sum(axis=1))

    def added(self, counts: np.ndarray) -> Boxes:
        """These boxes with `counts` (as many, int64) added, on the host."""
        total = _totals(self)
        total = total + counts.reshape(total.shape)
        low = (total & (2**LOW - 1)).astype(np.uint32)
        return Boxes(Count(low, (total >> LOW).astype(np.uint32)), np.zeros_like(self.pending))


@struct
class Histogram:
    """The masses of a grid of boxes in 1 to 3 of the components. Result ["n_1 … n_k"]; 1 − sum is the mass outside.

    `edges`: one increasing array per component (a single array for one component); box i is [e_i, e_{i+1}), the last
    box is closed on the right, as in `numpy.histogramdd`. Edges are leaves: another grid of the same size does not
    recompile. Positions outside are counted as such; a NaN and a chain that has diverged count nowhere, but the boxes
    are shared by all chains, so what a chain did before it diverged stays in.

    Raises ValueError for edges that are not finite, not increasing (in float32 too, unless x64 is on), fewer than two,
    or not one array per component.
    """

    edges: tuple[Any, ...]
    components: tuple[int, ...] = static()
    uniform: tuple[bool, ...] = static()

    def __init__(self, edges: Any, components: tuple[int, ...] | int | None = None):
        if not isinstance(edges, tuple | list) or (len(edges) and np.ndim(edges[0]) == 0):
            edges = (edges,)
        if isinstance(components, int | np.integer):
            components = (int(components),)
        components = tuple(range(len(edges))) if components is None else tuple(int(i) for i in components)
        if not 1 <= len(edges) <= 3:
            raise ValueError(f"Histogram: 1, 2 or 3 arrays of edges are possible, got {len(edges)}")
        if len(components) != len(edges) or len(set(components)) != len(components) or min(components) < 0:
            raise ValueError(
                f"Histogram: {len(edges)} arrays of edges need as many different components, got {components}"
            )
        checked = [_check(e, i) for i, e in enumerate(edges)]
        object.__setattr__(self, "edges", tuple(e for e, _ in checked))
        object.__setattr__(self, "components", components)
        object.__setattr__(self, "uniform", tuple(u for _, u in checked))

    @property
    def shape(self) -> tuple[int, ...]:
        """Boxes along each component."""
        return tuple(e.shape[0] - 1 for e in self.edges)

    def init(self, x: Float[Array, "c d"]) -> Boxes:
        if max(self.components) >= x.shape[1]:
            raise ValueError(f"Histogram: component {max(self.components)} of a position with {x.shape[1]} components")
        size = (1, int(np.prod(self.shape)) + 1)
        return Boxes(no_count(size), jnp.zeros((1,), jnp.uint32))

    def boxes(self, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Int[Array, " c"]:
        """The number of the box that each position is in; the number of boxes for one outside, one more for what is nowhere."""
        flat = jnp.zeros(x.shape[:1], jnp.int32)
        inside, known = alive, alive
        for edges, component, uniform, n in zip(self.edges, self.components, self.uniform, self.shape, strict=True):
            column = x[:, component]
            edges = jnp.asarray(edges, x.dtype)
            known = known & ~jnp.isnan(column)
            inside = inside & (column >= edges[0]) & (column <= edges[-1])
            flat = flat * n + _box(edges, column, uniform)
        size = int(np.prod(self.shape))
        return jnp.where(known, jnp.where(inside, flat, size), size + 1)

    def update(self, acc: Boxes, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Boxes:
        acc = _make_room(acc, x.shape[0])
        lo = acc.counts.lo.at[0, self.boxes(x, alive)].add(jnp.uint32(1), mode="drop")
        return Boxes(Count(lo, acc.counts.hi), acc.pending + jnp.uint32(x.shape[0]))

    def merge(self, acc: Boxes) -> Boxes:
        n = self.counts(acc)[None]
        counts = Count((n & (2**LOW - 1)).astype(np.uint32), (n >> LOW).astype(np.uint32))
        return Boxes(counts, np.zeros(1, np.uint32))

    def result(self, acc: Boxes) -> Float[np.ndarray, "..."]:
        counts = self.counts(acc)
        total = counts.sum()
        if not total:
            return np.full(self.shape, np.nan)
        return counts[:-1].reshape(self.shape) / total

    def counts(self, acc: Boxes) -> np.ndarray:
        """Exact counts, int64: every box in C order, then the outside."""
        return _totals(acc).sum(axis=0)


def _check(edges: Any, i: int) -> tuple[Any, bool]:
    """The edges as float64 and whether they are evenly spaced; tracers pass unchecked."""
    if isinstance(edges, jax.core.Tracer):
        return edges, False
    try:
        e = np.asarray(edges, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"Histogram: edges of component {i} must be numbers, got {type(edges).__name__}") from None
    if e.ndim != 1 or e.shape[0] < 2:
        raise ValueError(f"Histogram: edges of component {i} must be a 1-d array of at least 2, got shape {e.shape}")
    if not np.isfinite(e).all():
        raise ValueError(f"Histogram: edges of component {i} must be finite")
    if not (np.diff(e) > 0).all():
        raise ValueError(f"Histogram: edges of component {i} must increase")
    if not jax.config.jax_enable_x64 and not (np.diff(e.astype(np.float32)) > 0).all():  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(f"Histogram: edges of component {i} coincide in float32: use wider boxes or float64 (x64)")
    width = (e[-1] - e[0]) / (e.shape[0] - 1)
    uneven = np.abs(e - np.linspace(e[0], e[-1], len(e))).max()
    return e, bool(uneven < _UNEVEN * width and np.abs(e).max() < 4e3 * width)


def _box(edges: Array, x: Array, uniform: bool) -> Array:
    """The index of the box that holds x; anything for an x outside."""
    n = edges.shape[0] - 1
    if not uniform:
        i = jnp.searchsorted(edges, x, side="right", method="compare_all" if n < 256 else "scan") - 1
        return jnp.clip(i, 0, n - 1).astype(jnp.int32)
    scale = n / (edges[-1] - edges[0])
    guess = jnp.clip((x - edges[0]) * scale, 0, n - 1)
    i = guess.astype(jnp.int32)
    # The guess is right but near an edge: there, compare with the edges themselves. Two edges are out of their places, and the
    # roundings of edges, differences, scale and product come, in widths, to no more than 7 units in the last place of the
    # largest edge in widths (to which half of n is at most equal).
    largest = jnp.maximum(jnp.abs(edges[0]), jnp.abs(edges[-1])) * scale
    reach = 2 * _UNEVEN + 8 * jnp.finfo(x.dtype).eps * largest
    beyond = guess - i.astype(x.dtype)
    near = rarely((beyond < reach) | (beyond > 1 - reach))
    moved = i - (x < edges[i]).astype(jnp.int32) + (x >= edges[i + 1]).astype(jnp.int32)
    return jnp.where(near, jnp.clip(moved, 0, n - 1), i)


def _make_room(acc: Boxes, samples: int) -> Boxes:
    """Empties the low words before `samples` more could fill them: a loop that almost always runs zero times.

    (A `cond` would copy the boxes at every sample, and comparing for a carry would read them all.)
    """

    def full(acc: Boxes) -> Array:
        return acc.pending[0] > jnp.uint32(2**LOW - samples)

    def empty(acc: Boxes) -> Boxes:
        lo, hi = acc.counts
        return Boxes(Count(lo & jnp.uint32(2**LOW - 1), hi + (lo >> LOW)), jnp.zeros_like(acc.pending))

    return jax.lax.while_loop(full, empty, acc)


def _totals(acc: Boxes) -> np.ndarray:
    """int64 ["rows boxes+1"]."""
    return (np.asarray(acc.counts.hi, np.int64) << LOW) + np.asarray(acc.counts.lo, np.int64)


HISTOGRAM = {"histogram": Histogram}
