"""The public names of `import jaxsde as js`. Importing this module starts the parts that need JAX."""

from __future__ import annotations

from . import conformance, metrics, problems, relations, theory
from .dynamics.adaptive import adam_sde, rmsprop_sde, sign_sgd_sde
from .dynamics.equations import brownian, gradient_flow, homogenized_sgd, langevin, sde, sgd_sde
from .dynamics.kinetic import momentum_sde, underdamped
from .engine.run import Run
from .engine.simulate import iterate, simulate
from .engine.traced import advance
from .estimate import Estimate, jackknife, richardson_romberg
from .problems.problem import FiniteSum, Potential, finite_sum, potential
from .random import key
from .report.verdict import Verdict, is_gibbs, verdict_statistics
from .statistics import (
    Autocovariance,
    Course,
    Covariance,
    Extremes,
    FirstPassage,
    Histogram,
    Mean,
    MeanLoss,
    Moments,
    Samples,
    of,
)
from .stepping.chains import integrate, sgd, svag
from .stepping.couplings import coupled, difference, extrapolated, two_levels
from .stepping.integrators import (
    BAOAB,
    OBABO,
    SRA1,
    EulerMaruyama,
    ExactLinear,
    Heun,
    LeimkuhlerMatthews,
    Milstein,
    Platen,
    TamedEuler,
)
from .stepping.optimizers import momentum
from .stepping.whole import whole
from .sweeps import sweep
from .weak_order import weak_error

__all__ = [
    "BAOAB",
    "OBABO",
    "SRA1",
    "Autocovariance",
    "Course",
    "Covariance",
    "Estimate",
    "EulerMaruyama",
    "ExactLinear",
    "Extremes",
    "FiniteSum",
    "FirstPassage",
    "Heun",
    "Histogram",
    "LeimkuhlerMatthews",
    "Mean",
    "MeanLoss",
    "Milstein",
    "Moments",
    "Platen",
    "Potential",
    "Run",
    "Samples",
    "TamedEuler",
    "Verdict",
    "adam_sde",
    "advance",
    "brownian",
    "conformance",
    "coupled",
    "difference",
    "extrapolated",
    "finite_sum",
    "gradient_flow",
    "homogenized_sgd",
    "integrate",
    "is_gibbs",
    "iterate",
    "jackknife",
    "key",
    "langevin",
    "metrics",
    "momentum",
    "momentum_sde",
    "of",
    "potential",
    "problems",
    "relations",
    "richardson_romberg",
    "rmsprop_sde",
    "sde",
    "sgd",
    "sgd_sde",
    "sign_sgd_sde",
    "simulate",
    "svag",
    "sweep",
    "theory",
    "two_levels",
    "underdamped",
    "verdict_statistics",
    "weak_error",
    "whole",
]
