"""SGD that goes through its data in epochs: the law at each position of the epoch, exactly where that can be had.

The batches of an epoch depend on each other, so the second moment of one step does not close; that of a whole epoch does. With
ỹ = (y − y*, 1) a step on batch b is ỹ' = Ã_b ỹ, and the moments X = E ỹ ỹᵀ of successive epochs obey X' = R(X):

| sampling           | law                                                                                             |
|--------------------|-------------------------------------------------------------------------------------------------|
| random_reshuffling | R(X) = E T X Tᵀ over orders, T = Ã_b_M … Ã_b_1, in `reshuffling`                                 |
| shuffle_once       | each order σ has its own orbit y_σ = (I − A_σ)⁻¹ u_σ; the law over chains is that of y_σ over σ   |
| cyclic             | one orbit, (I − A)⁻¹ u; nothing is random                                                        |
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse

from ...dynamics.gradients import Minibatch
from ...dynamics.noise import EPOCHS
from ...random.clocks import steps_per_epoch
from ...stepping.chains import OptimizerChain
from .. import float64
from ..examples import Examples, examples_at
from ..linearise import is_affine
from ..minimum import minimum
from ..updates import Update, update_of

# Numbers that a pass over sampled orders may touch, and how many orders are sampled at least and at most.
WORK = 4e9
FEWEST, MOST = 256, 16_384
# Sampled orders come in groups, whose spread is the error bar.
GROUPS = 16


@dataclass(frozen=True)
class Epoch:
    """What an epoch is made of: the update of the whole state, the examples at its rest, and the batch size."""

    update: Update
    examples: Examples
    batch_size: int
    steps: int

    @property
    def dim(self) -> int:
        return self.examples.dim

    @property
    def size(self) -> int:
        """Of the whole state."""
        return len(self.update.carry)

    @cached_property
    def drift(self) -> np.ndarray:
        """A of the averaged step."""
        return self.update.drift(self.examples.hessian)

    @cached_property
    def _carry(self) -> Any:
        return _sparse(self.update.carry)

    @cached_property
    def _push(self) -> Any:
        return _sparse(self.update.push)

    @cached_property
    def _own(self) -> bool:
        """Whether the state is carried over as it is, as that of plain SGD."""
        return bool(np.array_equal(self.update.carry, np.eye(self.size)))

    def stepped(self, y: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Ã_b Y without its last row, which is (0, …, 0, 1): Y ["… D D+1"], `batch` of indices ["… B"]."""
        e, d = self.examples, self.dim
        if e.roots is not None:
            x = e.roots[batch]
            force = np.swapaxes(x, -1, -2) @ (x @ y[..., :d, :])
        else:
            force = e.hessians[batch].sum(axis=-3) @ y[..., :d, :]
        force[..., -1] += e.centred[batch].sum(axis=-2)
        force = _product(self._push, force / self.batch_size)
        return (y if self._own else _product(self._carry, y)) + force

    def start(self, orders: int) -> np.ndarray:
        """The identity map, once for each order ["K D D+1"]."""
        return np.tile(np.eye(self.size, self.size + 1), (orders, 1, 1))

    def batch(self, orders: np.ndarray, k: int) -> np.ndarray:
        """The indices of batch k of each order ["K n"], read round and round."""
        b = self.batch_size
        return orders[:, (np.arange(k * b, (k + 1) * b)) % orders.shape[1]]

    def maps(self, orders: np.ndarray, steps: int) -> Iterator[np.ndarray]:
        """The affine maps ["K D D+1"] of the first 0, 1, …, `steps` steps along each order."""
        y = self.start(len(orders))
        yield y
        for k in range(steps):
            y = self.stepped(y, self.batch(orders, k))
            yield y

    def whole(self, orders: np.ndarray) -> np.ndarray:
        """The affine map of a whole epoch along each order ["K D D+1"]."""
        return last(self.maps(orders, self.steps))

    def affordable(self) -> int:
        """How many orders a pass over the epoch may take."""
        e, d, D = self.examples, self.dim, self.size
        if e.roots is None and e.count * d * d > 1 << 25:
            return 0
        one = self.steps * (2.0 * self.batch_size * d * (D + 1) + (0 if self._own else D * D * (D + 1)) + D * d * (D + 1))
        return int(min(MOST, WORK / one, 1e8 / (D * (D + 1))))


def last(course: Iterator[np.ndarray]) -> np.ndarray:
    """The last of an iterator, without keeping the others."""
    return collections.deque(course, maxlen=1)[0]


def is_by_epochs(x: Any) -> bool:
    """Whether it is SGD whose batches of an epoch depend on each other."""
    gradient = getattr(x, "gradient", None)
    return (
        isinstance(x, OptimizerChain)
        and isinstance(gradient, Minibatch)
        and gradient.sampling in EPOCHS
        and gradient.batch_size < gradient.problem.examples
    )


def positions_of(position: int | str | Iterable[int], steps: int) -> list[int]:
    """The positions in an epoch of so many steps that were asked for."""
    if isinstance(position, str):
        if position != "average":
            raise ValueError(f'position is a number of steps in the epoch, several, or "average", got {position!r}')
        return list(range(steps))
    given: list[Any] = list(position) if isinstance(position, Iterable) else [position]
    for p in given:
        if isinstance(p, bool) or not isinstance(p, int | np.integer) or not 0 <= p < steps:
            what = f"below the {steps} steps of an epoch" if steps > 1 else "0: each step of it is its own epoch"
            raise ValueError(f"position must be a whole number {what}, got {p!r}")
    if not given:
        raise ValueError("position is empty: give at least one position in the epoch")
    return [int(p) for p in given]


def epoch_of(chain: OptimizerChain, *, isolated: bool = True) -> tuple[Epoch, str]:
    """The epoch of a chain, and why its moments are not exact ("" when they are)."""
    problem, gradient = chain.problem, chain.gradient
    update = update_of(chain, minimum(problem, isolated=isolated))
    centre, wide = update.rest[: chain.dim], float64.widen(problem)
    affine = is_affine(lambda phi: float64.evaluate(float64.example_gradients, wide, phi), centre)
    reason = "" if affine else "the examples' losses are not quadratic: linearised at the rest point"
    return Epoch(update, examples_at(wide, centre), gradient.batch_size, steps_per_epoch(chain.draws)), reason


def sampled_orders(n: int, count: int) -> np.ndarray:
    """Random orders of n examples, always the same ones."""
    rng = np.random.default_rng(20)
    return rng.permuted(np.tile(np.arange(n), (count // GROUPS * GROUPS, 1)), axis=1)


def relative_error(parts: np.ndarray, whole: np.ndarray) -> float:
    """The standard error of a matrix from the spread of independent estimates of it, relative to its size."""
    spread = np.sqrt(np.sum((parts - parts.mean(axis=0)) ** 2) / (len(parts) * (len(parts) - 1)))
    return float(spread / max(np.linalg.norm(whole), 1e-300))


def _sparse(a: np.ndarray) -> Any:
    """The matrix as a sparse one where that pays: an optimiser acts on each coordinate by itself."""
    return scipy.sparse.csr_array(a) if len(a) > 30 and np.count_nonzero(a) < 0.1 * a.size else a


def _product(a: Any, y: np.ndarray) -> np.ndarray:
    """a Y for a stack of matrices Y ["… D E"]."""
    if isinstance(a, np.ndarray):
        return a @ y
    if len(y) == 1:
        return (a @ y[0])[None]
    flat = a @ np.moveaxis(y, -2, 0).reshape(y.shape[-2], -1)
    return np.moveaxis(flat.reshape(len(flat), *y.shape[:-2], y.shape[-1]), 0, -2)
