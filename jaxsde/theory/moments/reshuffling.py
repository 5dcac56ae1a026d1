"""Moments of SGD under random reshuffling: R(X) = E T X Tᵀ over the orders of an epoch, X = E ỹ ỹᵀ with ỹ = (y − y*, 1).

| way      | exact | where                                                                                             |
|----------|-------|---------------------------------------------------------------------------------------------------|
| equal    | yes   | all examples have one Hessian: batch noises of covariance κC, and −C/(n − 1) between two batches   |
| subsets  | yes   | sums over the sets of examples used so far (equal examples counted, not told apart): n up to 12–16 |
| orders   | no    | a sample of orders, each with its whole map T; the error bar is from groups of them                |
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.linalg
import scipy.special

from ..linear import Equation, affine_fixed_point, packed_matrix, repeated
from .epochs import FEWEST, GROUPS, Epoch, last, relative_error, sampled_orders

# Numbers that one pass over all subsets may touch, for one X and for a whole basis of them.
_ONE, _BASIS = 6e7, 2e8


class Moments(Protocol):
    """The moments of an epoch. `layers` gives E ỹ_k ỹ_kᵀ for k = 0 … M from that at the start, X ["r D+1 D+1"], and
    `after` the last of them."""

    @property
    def epoch(self) -> Epoch: ...
    @property
    def method(self) -> str: ...
    def layers(self, x: np.ndarray) -> Iterator[np.ndarray]: ...
    def after(self, x: np.ndarray) -> np.ndarray: ...
    def radius(self) -> float: ...
    def stationary(self, wanted: list[int]) -> tuple[np.ndarray, np.ndarray, float | None]: ...


def moments_of_epochs(epoch: Epoch) -> Moments:
    """The first way of the table that is open."""
    if epoch.examples.equal:
        return Equal(epoch)
    found = Subsets.of(epoch)
    if found is not None:
        return found
    count = epoch.affordable()
    if count < FEWEST:
        raise ValueError(
            f"the law under random_reshuffling is not covered for {epoch.examples.count} examples with different Hessians in "
            f"{epoch.dim} dimensions: its orders are too many to sum over and too long to sample"
        )
    return Orders(epoch, sampled_orders(epoch.examples.count, count))


def pooled(layers: Iterator[np.ndarray], wanted: list[int], d: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the position at a wanted place of the epoch drawn at random."""
    x = np.mean([x[0] for k, x in zip(range(max(wanted) + 1), layers, strict=False) if k in wanted], axis=0)
    mean = x[:d, -1]
    return mean, x[:d, :d] - np.outer(mean, mean)


def moments_at(law: Moments, start: np.ndarray, steps: list[int]) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Means ["k d"] and covariances ["k d d"] of the position (about the rest) after each of `steps`, which grow, from a state
    about the rest; and the relative standard error of the last covariance where orders are sampled."""
    means, covariances = _course(law, start, steps)
    if not isinstance(law, Orders):
        return means, covariances, None
    parts = [_course(Orders(law.epoch, part), start, steps[-1:])[1][0] for part in np.split(law.orders, GROUPS)]
    return means, covariances, relative_error(np.stack(parts), covariances[-1])


def _course(law: Moments, start: np.ndarray, steps: list[int]) -> tuple[np.ndarray, np.ndarray]:
    d, m, epochs, found = law.epoch.dim, law.epoch.steps, 0, []
    x = np.outer(np.append(start, 1.0), np.append(start, 1.0))
    for k in steps:
        x = repeated(law.after, x, k // m - epochs)
        epochs = k // m
        found.append(next(itertools.islice(law.layers(x[None]), k % m, None))[0])
    layers = np.stack(found)
    means = layers[:, :d, -1]
    return means, layers[:, :d, :d] - means[:, :, None] * means[:, None, :]


@dataclass(frozen=True)
class Equal:
    """All Hessians equal: A is one matrix, and the noises ξ_j of the batches have E ξ_i ξ_jᵀ = −C/(n − 1) + δ_ij n C/(B(n − 1))."""

    epoch: Epoch
    method: str = "for equal Hessians"

    def layers(self, x: np.ndarray) -> Iterator[np.ndarray]:
        a, n = self.epoch.drift, self.epoch.examples.count
        c, g, b = self.epoch.examples.covariance, self.epoch.update.push, self.epoch.batch_size
        whole = scipy.linalg.block_diag(a, 1.0)
        added = g @ c @ g.T
        squares, total = np.zeros_like(added), np.zeros_like(g)
        for k in range(self.epoch.steps + 1):
            noise = np.zeros_like(x)
            noise[:, :-1, :-1] = n / (b * (n - 1)) * squares - total @ c @ total.T / (n - 1)
            yield x + noise * x[:, -1:, -1:]
            if k < self.epoch.steps:
                x = whole @ x @ whole.T
                squares, total = a @ squares @ a.T + added, a @ total + g

    def after(self, x: np.ndarray) -> np.ndarray:
        return last(self.layers(x))

    def radius(self) -> float:
        return float(np.abs(np.linalg.eigvals(self.epoch.drift)).max() ** (2 * self.epoch.steps))

    def stationary(self, wanted: list[int]) -> tuple[np.ndarray, np.ndarray, float | None]:
        size = self.epoch.size
        empty = np.zeros((1, size + 1, size + 1))
        empty[0, -1, -1] = 1
        end = self.after(empty)
        power = np.linalg.matrix_power(self.epoch.drift, self.epoch.steps)
        empty[0, :-1, :-1] = Equation(power, True).solve(end[0, :-1, :-1])
        return *pooled(self.layers(empty), wanted, self.epoch.dim), None


@dataclass(frozen=True)
class Subsets:
    """The sum over the sets of examples used so far, each with its share of E ỹ ỹᵀ; equal examples are counted, not told apart."""

    epoch: Epoch
    kinds: np.ndarray  # an example of each kind
    multiplicity: np.ndarray
    transitions: float
    method: str = "by sets of used examples"

    @classmethod
    def of(cls, epoch: Epoch) -> Subsets | None:
        """None where there are too many sets."""
        e, b, m = epoch.examples, epoch.batch_size, epoch.steps
        if e.count * epoch.dim**2 > 1 << 22:
            return None
        flat = np.concatenate([e.hessians.reshape(e.count, -1), e.gradients], axis=1)
        _, kinds, multiplicity = np.unique(flat, axis=0, return_index=True, return_counts=True)
        if len(kinds) > 60:
            return None
        count = _transitions(multiplicity, b, m)
        if count * (epoch.size + 1) ** 2 > _ONE:
            return None
        return cls(epoch, kinds, multiplicity, count)

    @cached_property
    def _steps(self) -> tuple[list[np.ndarray], list[int], list[list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]]]:
        """Ã of each batch; the number of sets after each step; and for each step, by batch: sets before, sets after, odds."""
        b, m, mult = self.epoch.batch_size, self.epoch.steps, self.multiplicity
        n = int(mult.sum())
        batches = _vectors(mult, b)
        radix = np.concatenate([[1], np.cumprod(mult[:-1] + 1)]).astype(np.int64)
        before = np.zeros((1, len(mult)), np.int64)
        sizes, table = [1], []
        for k in range(m):
            after = _vectors(mult, (k + 1) * b)
            codes = after @ radix
            sort = np.argsort(codes)
            left = mult - before
            row = []
            for i, batch in enumerate(batches):
                fits = np.flatnonzero((batch <= left).all(axis=1))
                if fits.size:
                    odds = np.prod(scipy.special.comb(left[fits], batch), axis=1) / scipy.special.comb(n - k * b, b)
                    to = sort[np.searchsorted(codes, (before[fits] + batch) @ radix, sorter=sort)]
                    row.append((i, fits, to, odds))
            table.append(row)
            sizes.append(len(after))
            before = after
        orders = [np.repeat(self.kinds, batch)[None] for batch in batches]
        last = np.zeros((1, self.epoch.size + 1))
        last[0, -1] = 1
        maps = [np.concatenate([self.epoch.stepped(self.epoch.start(1), o)[0], last]) for o in orders]
        return maps, sizes, table

    def layers(self, x: np.ndarray) -> Iterator[np.ndarray]:
        maps, sizes, table = self._steps
        held = x[None]
        yield x
        for size, row in zip(sizes[1:], table, strict=True):
            moved = np.zeros((size, *x.shape))
            for i, source, to, odds in row:
                moved[to] += odds[:, None, None, None] * _congruent(maps[i], held[source])
            held = moved
            yield held.sum(axis=0)

    def after(self, x: np.ndarray) -> np.ndarray:
        return last(self.layers(x))

    def _matrix(self) -> np.ndarray | None:
        """R on packed symmetric matrices, or None where that is too much."""
        size = self.epoch.size + 1
        if self.transitions * size**2 * (size * (size + 1) // 2) > _BASIS:
            return None
        return packed_matrix(self.after, size)

    def radius(self) -> float:
        matrix = self._matrix()
        if matrix is None:
            raise ValueError("the edge under random_reshuffling is not covered for this many sets of examples")
        return float(np.abs(np.linalg.eigvals(matrix[:-1, :-1])).max())

    def stationary(self, wanted: list[int]) -> tuple[np.ndarray, np.ndarray, float | None]:
        x = _fixed_point(lambda x: self.after(x[None])[0], self.epoch.size + 1, self._matrix())
        return *pooled(self.layers(x[None]), wanted, self.epoch.dim), None


@dataclass(frozen=True)
class Orders:
    """A sample of orders."""

    epoch: Epoch
    orders: np.ndarray

    @property
    def method(self) -> str:
        return f"by {len(self.orders)} sampled orders"

    def layers(self, x: np.ndarray) -> Iterator[np.ndarray]:
        for maps in self.epoch.maps(self.orders, self.epoch.steps):
            yield _average(_whole(maps), x)

    def after(self, x: np.ndarray) -> np.ndarray:
        return _average(self._ends, x)

    @cached_property
    def _ends(self) -> np.ndarray:
        return _whole(self.epoch.whole(self.orders))

    def radius(self) -> float:
        raise ValueError(
            "the edge under random_reshuffling is not covered for this many examples with different Hessians; "
            'sampling="without_replacement" is the nearest law that is'
        )

    def stationary(self, wanted: list[int]) -> tuple[np.ndarray, np.ndarray, float | None]:
        ends, d = self._ends, self.epoch.dim
        x = _of_maps(ends)
        parts = np.stack([_of_maps(part)[:d, :d] for part in np.split(ends, GROUPS)])
        mean, covariance = pooled(self.layers(x[None]), wanted, d)
        return mean, covariance, relative_error(parts, x[:d, :d])


def _of_maps(maps: np.ndarray) -> np.ndarray:
    size = maps.shape[-1]
    matrix = packed_matrix(lambda x: _average(maps, x), size) if size <= 24 else None
    return _fixed_point(lambda x: _average(maps, x[None])[0], size, matrix)


def _average(maps: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The mean over maps T of T X Tᵀ, for each of the X ["r D D"]."""
    return np.stack([np.tensordot(maps @ one, maps, axes=([0, 2], [0, 2])) for one in x]) / len(maps)


def _whole(maps: np.ndarray) -> np.ndarray:
    """Affine maps ["K D D+1"] with their last row."""
    last = np.zeros((len(maps), 1, maps.shape[-1]))
    last[..., -1] = 1
    return np.concatenate([maps, last], axis=1)


def _fixed_point(after: Callable[[np.ndarray], np.ndarray], size: int, matrix: np.ndarray | None) -> np.ndarray:
    """The stationary X = R(X); `ValueError` where R does not contract."""
    if matrix is not None:
        radius = float(np.abs(np.linalg.eigvals(matrix[:-1, :-1])).max())
        if radius >= 1:
            raise _explosion(f" (mean-square gain of an epoch {radius:.6g}, must be below 1)")
    x = affine_fixed_point(after, size, matrix)
    values = np.linalg.eigvalsh(x)
    if values[0] < -1e-9 * values[-1]:
        raise _explosion("")
    return x


def _explosion(said: str) -> ValueError:
    return ValueError(
        f"no stationary covariance: the noise that grows with the position wins over the drift{said}; a smaller learning rate or a "
        "larger batch lowers it"
    )


def _congruent(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A X Aᵀ for symmetric X ["… D D"], as two plain products."""
    shape = x.shape
    once = (x.reshape(-1, shape[-1]) @ a.T).reshape(shape).swapaxes(-1, -2)
    return (np.ascontiguousarray(once).reshape(-1, shape[-1]) @ a.T).reshape(shape)


def _transitions(multiplicity: np.ndarray, b: int, steps: int) -> float:
    """How many pairs (set of k B examples, next batch) there are over all k, by a generating function."""
    top = int(multiplicity.sum())
    ways = np.zeros((top + 1, b + 1))
    ways[0, 0] = 1
    for m in multiplicity:
        new = np.zeros_like(ways)
        for used in range(m + 1):
            for more in range(min(m - used, b) + 1):
                new[used:, more:] += ways[: top + 1 - used, : b + 1 - more]
        ways = new
        if ways[:, b].sum() > 1e12:
            return np.inf
    return float(sum(ways[k * b, b] for k in range(steps)))


def _vectors(limits: np.ndarray, total: int) -> np.ndarray:
    """All vectors of whole numbers between 0 and `limits` with that sum ["N J"]."""
    room = np.concatenate([np.cumsum(limits[::-1])[::-1][1:], [0]])
    found, left = np.zeros((1, 0), np.int64), np.array([total])
    for limit, rest in zip(limits, room, strict=True):
        low, high = np.maximum(left - rest, 0), np.minimum(left, limit)
        count = high - low + 1
        source = np.repeat(np.arange(len(left)), count)
        value = np.arange(len(source)) - np.repeat(np.cumsum(count) - count, count) + low[source]
        found, left = np.concatenate([found[source], value[:, None]], axis=1), left[source] - value
    return found

