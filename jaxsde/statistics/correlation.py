"""Correlations in time along each chain, at chosen lags."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..struct import static, struct
from .moments import share, shifted
from .sums import Count, Sum, add, cleared, count_up, fold, integers, no_count, no_sum, value, whole, words


class Lagged(NamedTuple):
    """What one chain ["c"] remembers: its last samples, and sums over all pairs (x(t), x(t + lag)), per lag ["c L"].

    `recent` ["c longest+1 d"] is a ring, written at `slot` ["1"]. With y = x − shift: `early` Σ y(t), `late` Σ y(t+lag),
    `products` Σ y(t+lag) y(t)ᵀ, `pairs` their number, `total` Σ y over all samples.
    """

    counted: Count
    shift: Any
    total: Sum
    slot: Any
    recent: Any
    pairs: Count
    early: Sum
    late: Sum
    products: Sum


@struct
class Autocovariance:
    """E[(x(t + lag) − m)(x(t) − m)ᵀ] at chosen lags, counted in samples (not in steps). Result ["L d d"].

    m is the mean over all samples and chains; pairs never join two chains. `lags`: integers ≥ 0, in any order.
    Memory is (longest lag + 1) positions and L d² sums per chain. Raises ValueError for a lag below 0 or none at all.
    """

    lags: tuple[int, ...] = static()

    def __init__(self, lags: Any):
        lags = tuple(lags) if np.ndim(lags) else (lags,)
        if not lags or any(isinstance(k, bool) or int(k) != k or k < 0 for k in lags):
            raise ValueError(f"Autocovariance: lags must be integers ≥ 0, at least one, got {lags}")
        object.__setattr__(self, "lags", tuple(int(k) for k in lags))

    def init(self, x: Float[Array, "c d"]) -> Lagged:
        (c, d), n = x.shape, len(self.lags)

        def sums(*shape: int) -> Sum:
            return no_sum((c, *shape), x.dtype)

        return Lagged(
            counted=no_count((c,)),
            shift=jnp.zeros_like(x),
            total=sums(d),
            slot=jnp.zeros((1,), jnp.int32),
            recent=jnp.zeros((c, max(self.lags) + 1, d), x.dtype),
            pairs=no_count((c, n)),
            early=sums(n, d),
            late=sums(n, d),
            products=sums(n, d, d),
        )

    def update(self, acc: Lagged, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Lagged:
        lags = jnp.asarray(self.lags, jnp.int32)
        size = acc.recent.shape[1]
        shift, y = shifted(acc.counted, acc.shift, x, alive)
        recent = acc.recent.at[:, acc.slot[0]].set(y)
        earlier = jnp.take(recent, (acc.slot[0] - lags) % size, axis=1)  # ["c L d"]
        # a chain has a partner `lag` samples ago once it has counted `lag` samples before this one
        paired = (acc.counted.hi[:, None] > 0) | (acc.counted.lo[:, None] >= lags.astype(jnp.uint32))
        earlier = jnp.where(paired[..., None], earlier, 0)
        later = jnp.where(paired[..., None], y[:, None, :], 0)
        sums = cleared(
            (
                count_up(acc.counted, 1),
                shift,
                add(acc.total, y),
                count_up(acc.pairs, paired.astype(jnp.uint32)),
                add(acc.early, earlier),
                add(acc.late, later),
                add(acc.products, later[..., :, None] * earlier[..., None, :]),
            ),
            alive,
        )
        return Lagged(*sums[:3], (acc.slot + 1) % size, recent, *sums[3:])

    def merge(self, acc: Lagged) -> Lagged:
        def combine(a: tuple, b: tuple) -> tuple:
            out = []
            for (na, ea, la, pa), (nb, eb, lb, pb) in zip(a, b, strict=True):
                n = na + nb
                weight = share(nb, n)
                both, only_b = (na > 0) & (nb > 0), na == 0
                gap_e, gap_l = np.where(both, eb - ea, 0.0), np.where(both, lb - la, 0.0)
                early = np.where(only_b, eb, ea + weight * gap_e)
                late = np.where(only_b, lb, la + weight * gap_l)
                out.append((n, early, late, pa + pb + (na * weight)[..., None] * _cross(gap_l, gap_e)))
            return tuple(out)

        shift = np.asarray(acc.shift, np.float64)
        count = integers(acc.counted).astype(np.float64)[:, None]
        mean = shift + share(value(acc.total), count)
        pairs = integers(acc.pairs).astype(np.float64)[..., None]
        early, late = share(value(acc.early), pairs), share(value(acc.late), pairs)
        products = value(acc.products) - pairs[..., None] * _cross(late, early)
        # All samples travel with the pairs as one more row of the same kind, whose products are not used.
        unused = np.zeros((*mean.shape, mean.shape[-1]))
        rows = (
            (count, mean, mean, unused),
            (pairs, shift[:, None] + early, shift[:, None] + late, products),
        )
        (_, mean, _, _), (_, early, late, products) = fold(rows, combine)
        nothing = np.zeros_like(mean)
        return Lagged(
            counted=words(integers(acc.counted).sum(keepdims=True)),
            shift=mean,
            total=whole(nothing),
            slot=np.zeros(1, np.int32),
            recent=np.zeros((1, 0, mean.shape[1])),
            pairs=words(integers(acc.pairs).sum(axis=0, keepdims=True)),
            # about the mean of all samples, which is now the shift
            early=whole(_times(acc.pairs, early - mean[:, None])),
            late=whole(_times(acc.pairs, late - mean[:, None])),
            products=whole(
                products + _times(acc.pairs, 1.0)[..., None] * _cross(late - mean[:, None], early - mean[:, None])
            ),
        )

    def result(self, acc: Lagged) -> Float[np.ndarray, "L d d"]:
        acc = self.merge(acc)
        pairs = integers(acc.pairs)[0].astype(np.float64)[:, None, None]
        return np.where(pairs > 0, share(value(acc.products)[0], pairs), np.nan)


def _times(pairs: Count, x: Any) -> np.ndarray:
    return integers(pairs).sum(axis=0, keepdims=True).astype(np.float64)[..., None] * x


def _cross(late: np.ndarray, early: np.ndarray) -> np.ndarray:
    return late[..., :, None] * early[..., None, :]


CORRELATION = {"autocovariance": Autocovariance}
