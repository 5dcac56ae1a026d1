"""The public names of `import jaxsde as js`. Importing this module starts the parts that need JAX."""

from __future__ import annotations

from . import metrics, problems, theory
from .dynamics.equations import brownian, gradient_flow, langevin, sde, sgd_sde
from .engine.run import Run
from .engine.simulate import iterate, simulate
from .engine.traced import advance
from .estimate import Estimate, jackknife
from .problems.problem import FiniteSum, Potential, finite_sum, potential
from .random import key
from .report.verdict import Verdict, is_gibbs, verdict_statistics
from .statistics import Autocovariance, Course, Covariance, Extremes, Histogram, Mean, MeanLoss, Moments, Samples, of
from .stepping.chains import integrate, sgd
from .stepping.integrators import EulerMaruyama, Heun, Milstein

__all__ = [
    "Autocovariance",
    "Course",
    "Covariance",
    "Estimate",
    "EulerMaruyama",
    "Extremes",
    "FiniteSum",
    "Heun",
    "Histogram",
    "Mean",
    "MeanLoss",
    "Milstein",
    "Moments",
    "Potential",
    "Run",
    "Samples",
    "Verdict",
    "advance",
    "brownian",
    "finite_sum",
    "gradient_flow",
    "integrate",
    "is_gibbs",
    "iterate",
    "jackknife",
    "key",
    "langevin",
    "metrics",
    "of",
    "potential",
    "problems",
    "sde",
    "sgd",
    "sgd_sde",
    "simulate",
    "theory",
    "verdict_statistics",
]
