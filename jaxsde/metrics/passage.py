"""Times of first passage of a run: their mean with an interval, and the survival curve with a band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ..estimate import CONFIDENCE, Estimate
from ..statistics.passage import FirstPassage, Passages
from ..statistics.sums import integers


@dataclass(frozen=True)
class PassageTimes:
    """`mean` as an `Estimate`; `times` ["k"] and `survival`, the share of chains that had not arrived by then, with its band
    `low` … `high`; how many of the chains arrived, how many were censored (outside to the end), and how many diverged (those that
    had arrived before count as arrived, the others nowhere)."""

    mean: Estimate
    times: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray
    arrived: int
    censored: int
    diverged: int

    def __str__(self) -> str:
        gone = f", {self.diverged} diverged" if self.diverged else ""
        return f"mean first passage time {self.mean} ({self.arrived} arrived, {self.censored} censored{gone})"


def passage_times(run: Any, name: str = "first_passage") -> PassageTimes:
    """What the `FirstPassage` of that name says of a run.

    mean: T/r, T the time that the chains spent outside and r the arrivals, with the interval 2T/χ²(2r + 2) … 2T/χ²(2r) of an
    exponential law: exact for one where the run ends with an arrival, and never too short where it ends at a fixed time. It is
    exponential where chains forget their start long before they leave; the jackknife of `run[name]` assumes no law, and its
    standard error is the one given. Without arrivals there is a lower bound alone, in the reason.

    survival: the Kaplan–Meier estimate, which is the plain share since chains are censored only by the end of the run. The band
    holds for all times together with probability .95 at least, whatever the law: Dvoretzky, Kiefer and Wolfowitz with Massart's
    constant, ε = √(log(2/.05)/2n).

    Sources: Epstein and Sobel (1953), J. Am. Stat. Assoc. 48, 486; Kaplan and Meier (1958); Massart (1990), Ann. Probab. 18, 1269.
    Raises `TypeError` for a statistic of another kind and `KeyError` for a name that the run does not have.
    """
    if not hasattr(run, "statistic"):
        raise TypeError(f"passage_times reads the run that simulate returns, got {type(run).__name__}")
    statistic = run.statistic(name)
    if not isinstance(statistic, FirstPassage):
        raise TypeError(f"passage_times reads a FirstPassage, and {name!r} is a {type(statistic).__name__}")
    partials = run.partials(name)
    total: Passages = statistic.merge(partials)
    time = float(integers(total.waited)[0]) * float(total.interval[0])
    arrived, chains, looks = int(total.passed[0]), int(total.chains[0]), int(total.looks[0])
    diverged = int(np.sum(getattr(run, "diverged", 0)))
    # a stretch ends with its last whole look
    ends = np.arange(statistic.bins + 1) * looks // statistic.bins
    survival = 1 - np.r_[0, np.cumsum(total.curve[0])] / max(chains, 1)
    reach = np.sqrt(np.log(2 / (1 - CONFIDENCE)) / (2 * max(chains, 1)))
    low, high = np.clip(survival - reach, 0, 1), np.clip(survival + reach, 0, 1)
    mean = _mean(time, arrived, chains, len(np.atleast_1d(total.chains)), run, name)
    return PassageTimes(mean, ends * total.interval[0], survival, low, high, arrived, chains - arrived, diverged)


def _mean(time: float, arrived: int, chains: int, groups: int, run: Any, name: str) -> Estimate:
    estimator = "right-censored maximum likelihood, chi-squared interval"
    if not chains:
        return Estimate.unknown("no chain was watched: every chain diverged, or none was taken", estimator=estimator)
    tail = (1 - CONFIDENCE) / 2
    if not arrived:
        least = time / -np.log(1 - CONFIDENCE)
        return Estimate.unknown(
            f"no chain arrived: the mean is above {least:.4g} with confidence .95", estimator=estimator
        )
    low, high = 2 * time / stats.chi2.isf(tail, 2 * arrived + 2), 2 * time / stats.chi2.ppf(tail, 2 * arrived)
    spread = run.estimate(name)
    stderr = spread.stderr if spread.known else time / arrived**1.5
    note = "fewer than 30 arrivals" if arrived < 30 else None
    return Estimate(time / arrived, stderr, float(low), float(high), spread.groups or groups, estimator, note=note)
