"""What a metric reads of a run: the statistic it needs, found by its type or by name, and its groups with data."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from ..estimate import FEWEST_GROUPS, Unknown
from ..statistics import Covariance, Histogram, Of
from ..statistics.sums import integers


@runtime_checkable
class Measured(Protocol):
    """The part of a Run that metrics use."""

    @property
    def statistics(self) -> Any: ...
    def statistic(self, name: str) -> Any: ...
    def partials(self, name: str) -> Any: ...


class Source(NamedTuple):
    """A statistic of a run with its accumulators per group: groups without data are left out. `counts` ["G"]."""

    name: str
    statistic: Any
    partials: Any
    counts: np.ndarray

    @property
    def groups(self) -> int:
        return len(self.counts)

    def each(self) -> list[Any]:
        """The result of every group on its own."""
        return [
            self.statistic.result(jax.tree.map(lambda a, g=g: a[g : g + 1], self.partials)) for g in range(self.groups)
        ]

    def result(self) -> Any:
        """The result of all groups together."""
        return self.statistic.result(self.statistic.merge(self.partials))


def find(run: Measured, kind: type, name: str | None) -> str | None:
    """The name of the first statistic of this kind (or `name` itself); None where there is none.

    Raises TypeError where `name` is a statistic of another kind.
    """
    if name is not None:
        if not isinstance(run.statistic(name), kind):
            raise TypeError(f"statistic {name!r} is a {type(run.statistic(name)).__name__}, {kind.__name__} is needed")
        return name
    return next((n for n in run.statistics if isinstance(run.statistic(n), kind)), None)


def find_mean_loss(run: Measured) -> str | None:
    """The name of the first MeanLoss."""
    found = (n for n in run.statistics if isinstance(run.statistic(n), Of) and run.statistic(n).of_loss)
    return next(found, None)


def read(run: Measured, name: str) -> Source:
    """The named statistic. Raises Unknown where no interval could be given."""
    partials = run.partials(name)
    counts = integers(partials.counted).reshape(len(partials.counted.lo), -1).sum(axis=1)
    live = np.flatnonzero(counts > 0)
    if len(live) == 0:
        raise Unknown("no samples: every chain diverged, or none was taken")
    if len(live) < FEWEST_GROUPS:
        raise Unknown(
            f"{len(live)} group{'s' * (len(live) > 1)} with data, an interval needs at least {FEWEST_GROUPS}: "
            "use more chains or groups"
        )
    return Source(name, run.statistic(name), jax.tree.map(lambda a: np.asarray(a)[live], partials), counts[live])


def read_histogram(run: Measured, name: str | None) -> Source:
    """The run's histogram. Raises Unknown where there is none."""
    found = find(run, Histogram, name)
    if found is None:
        raise Unknown("the run has no Histogram: add one to its statistics")
    return read(run, found)


def read_covariance(run: Measured, name: str | None) -> Source:
    """The run's covariance. Raises Unknown where there is none."""
    found = find(run, Covariance, name)
    if found is None:
        raise Unknown("the run has no Covariance: add one to its statistics")
    return read(run, found)


def with_outside(masses: np.ndarray) -> np.ndarray:
    """The masses of the boxes in C order, then what is left: the mass outside."""
    flat = np.ravel(masses)
    return np.append(flat, max(0.0, 1.0 - flat.sum()))


def moments(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """(mean, covariance) of a Covariance over all groups."""
    statistic = MeanAndCovariance()
    return statistic.result(statistic.merge(source.partials))


def each_moments(source: Source) -> list[tuple[np.ndarray, np.ndarray]]:
    """(mean, covariance) of each group."""
    return source._replace(statistic=MeanAndCovariance()).each()


class MeanAndCovariance:
    """Reads (mean, covariance) out of the accumulator of a Covariance: a statistic for the jackknife."""

    def merge(self, acc: Any) -> Any:
        return Covariance().merge(acc)

    def result(self, acc: Any) -> tuple[np.ndarray, np.ndarray]:
        return Covariance().mean(acc), Covariance().result(acc)


def null_spread(features: list[tuple[float, np.ndarray]], counts: np.ndarray) -> float:
    """The standard deviation of Σ weight ½|f|² (its mean taken off) when every true f is zero: what noise alone can fake.

    `features`: pairs (weight, ["G k"]) with each group's own value of an f that is linear in the masses or moments. With A
    the covariance of the overall f and M the weights, Var = ½ tr (MA)²; it comes from the groups' Gram matrix, less the
    part (tr MA)²/(G−1) that sampling A by G groups adds.
    """
    w = counts / counts.sum()
    groups = len(w)
    gram = np.zeros((groups, groups))
    for weight, values in features:
        z = (values - w @ values) * (w * np.sqrt(groups / (groups - 1)))[:, None]
        gram += weight * (z @ z.T)
    trace, rank = float(np.trace(gram)), max(v.shape[1] for _, v in features)
    square = float((gram**2).sum()) - trace**2 / (groups - 1)
    # tr A² is never below (tr A)²/k; the estimate may be
    return float(np.sqrt(0.5 * max(square, trace**2 / max(rank, 1))))
