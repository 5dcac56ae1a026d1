"""Streaming summaries of many chains: each a commutative monoid whose memory does not depend on the number of steps.

`init` and `update` are traced, in the dtype of the positions; `merge` and `result` are NumPy on the host, in float64.
Every accumulator has a `counted` (a `sums.Count` of positions taken in), by which groups are weighted.

| file | statistics |
|---|---|
| moments.py | Mean, Moments, Covariance |
| histogram.py | Histogram |
| correlation.py | Autocovariance |
| course.py | Course |
| samples.py | Extremes, Samples |
| observables.py | of(f, statistic), MeanLoss |
| passage.py | FirstPassage |
| sums.py | compensated sums, exact counts, the fixed-order merge |
"""

from .correlation import CORRELATION, Autocovariance
from .course import COURSE, Course
from .histogram import HISTOGRAM, Histogram
from .moments import MOMENTS, Covariance, Mean, Moments
from .observables import OBSERVABLES, MeanLoss, Of, of
from .passage import PASSAGE, FirstPassage
from .samples import SAMPLES, Extremes, Samples, Thinned

STATISTICS = MOMENTS | HISTOGRAM | CORRELATION | COURSE | SAMPLES | OBSERVABLES | PASSAGE

__all__ = [
    "STATISTICS",
    "Autocovariance",
    "Course",
    "Covariance",
    "Extremes",
    "FirstPassage",
    "Histogram",
    "Mean",
    "MeanLoss",
    "Moments",
    "Of",
    "Samples",
    "Thinned",
    "of",
]
