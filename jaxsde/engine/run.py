"""What a simulation holds: the chains, their statistics, and how far they have come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..estimate import Estimate, jackknife
from ..types import Chain, Statistic
from . import layout as layouts


@dataclass(frozen=True)
class Run:
    """The chains and their statistics after some steps. Immutable; going on gives a new one.

    Arrays are NumPy, stacked over rows of chains (see `layout`): `state` leaves [rows, width, ...], `alive` and `survived`
    [rows, width], `accumulators` one pytree per statistic with leaves [rows, ...].
    """

    chain: Chain
    statistics: Mapping[str, Statistic]
    key_words: np.ndarray
    layout: layouts.Layout
    every: int
    dtype: np.dtype
    executor: str
    step: int  # steps done
    origin: int  # the step at which the statistics began
    samples: int  # times at which the statistics looked
    state: PyTree
    accumulators: dict[str, PyTree]
    alive: np.ndarray
    survived: np.ndarray  # steps that each chain completed
    stream: str = "xoshiro128+"  # which of `random.STREAMS` it draws from
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        names = ", ".join(self.statistics) or "none"
        gone = f", {self.diverged.sum()} diverged" if self.diverged.any() else ""
        return (
            f"Run({self.chains} chains, step {self.step}, time {self.time:.6g}{gone}, {len(self.group_sizes)} groups, "
            f"{self.samples} samples of: {names}; {self.dtype}, executor {self.executor})"
        )

    @property
    def chains(self) -> int:
        return self.layout.chains

    @property
    def group_sizes(self) -> tuple[int, ...]:
        return self.layout.group_sizes

    @property
    def time(self) -> float:
        """The clock: steps done times the time of a step."""
        return self.step * float(self.chain.dt)

    @property
    def positions(self) -> np.ndarray:
        """Where the chains are, [chains, d]. A diverged chain holds its last finite position."""
        state = jax.tree.map(lambda a: a[self.layout.lanes()], self._rows(self.state))
        return np.asarray(jax.vmap(self.chain.position)(state))

    @property
    def diverged(self) -> np.ndarray:
        """bool[chains]: chains that left the range of the numbers, frozen since then."""
        return ~self._rows(self.alive)[self.layout.lanes()]

    @property
    def diverged_at(self) -> np.ndarray:
        """int64[chains]: the first step that was not finite, −1 for a chain that is well."""
        survived = self._rows(self.survived)[self.layout.lanes()].astype(np.int64)
        return np.where(self.diverged, survived, -1)

    @property
    def group(self) -> np.ndarray:
        """int[chains]: the group that each chain belongs to."""
        return np.repeat(np.arange(len(self.group_sizes)), self.group_sizes)

    def statistic(self, name: str) -> Statistic:
        """The statistic object of that name; `KeyError` with the names there are."""
        if name not in self.statistics:
            raise KeyError(f"this run has no statistic {name!r}; it has {', '.join(self.statistics) or 'none'}")
        return self.statistics[name]

    def partials(self, name: str) -> PyTree:
        """The accumulator of each group: leaves [groups, ...] on the host, merged over its chains in a fixed order."""
        statistic = self.statistic(name)
        if name not in self._cache:
            rows = self._rows(self.accumulators[name])
            group = np.asarray(self.layout.row_group)
            merged = [
                statistic.merge(jax.tree.map(lambda a, g=g: np.concatenate(list(a[group == g])), rows))
                for g in range(len(self.group_sizes))
            ]
            self._cache[name] = jax.tree.map(lambda *a: np.concatenate(a), *merged)
        return self._cache[name]

    def estimate(self, name: str, f: Callable[[Any], Any] | None = None) -> Estimate:
        """f(result) of a statistic, with a jackknife error over the groups."""
        return jackknife(self.statistic(name), self.partials(name), f)

    def __getitem__(self, name: str) -> Estimate:
        return self.estimate(name)

    def _rows(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a[: self.layout.rows], tree)
