"""The power law in the tail of a stationary law: P(|Φ − Φ*| > r) falls as r^−κ, and moments of order κ and above are infinite.

Far out a step of SGD is e' = T e, T random and fresh at each step. On the line Kesten's index is the κ > 0 with

    E |T|^κ = 1,    T = 1 − ηĥ                    ĥ the curvature of a batch

and there is none (κ = ∞, a law of bounded or thin tails) where |T| ≤ 1 always. A multiplier μ + σz with a normal z, of a surrogate
or of Euler–Maruyama, has a closed E|T|^κ; dX = −aX dt + √(c + fX²) dW is Student's t in its tail, κ = 1 + 2a/f. In more
dimensions κ is exact where the Hessians of the examples commute, the smallest of its values along the common axes; and where it
is 2 or 4, which is at the edges of stability and of kurtosis.

Sources: Kesten (1973), Acta Math. 131, 207; Goldie (1991), Ann. Appl. Probab. 1, 126; Gurbuzbalaban, Simsekli and Zhu (2021), "The
heavy-tail phenomenon in SGD".
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import scipy.special

from ...dynamics.equations import Diffusion
from ...dynamics.gradients import FullBatch, Minibatch, Surrogate, Svag, noise_factor
from ...stepping.chains import DiffusionChain, OptimizerChain
from ...stepping.integrators import EulerMaruyama
from .. import float64
from ..examples import Examples, examples_at
from ..linear import Equation, find_root
from ..linearise import Local, is_affine, of_problem, of_sde
from ..minimum import minimum
from .edge import edge_of, setting_of
from .epochs import is_by_epochs
from .kurtosis import fourth_growth, is_covered

# Batches that are enumerated, and the relative size of what counts as no noise.
_BATCHES = 500_000
_NONE = 1e-12
_STILL = 1e-13  # of E log|T|, where |T| is 1 but for rounding
# How near an edge is at it: learning rates may be in float32.
_AT = 1e-6


def tail_index(x: Any) -> float:
    """Kesten's tail index κ of the stationary law of SGD or of an SDE on the line; infinite where there is no power law.

    Exact for quadratic losses: on the line for minibatches (with or without replacement, SVAG), the Gaussian surrogate, SDEs and
    Euler–Maruyama; in more dimensions for minibatches whose examples' Hessians commute, and at the edges, where κ is 2 or 4. It is
    that of the data as they are: the largest example decides, so a sample of a law has another index than the law.

    Raises `ValueError` where there is no stationary law (E log|T| ≥ 0) and, with the reason, where the index is not covered: a
    loss that is not quadratic, momentum, data in epochs, too many different batches, Hessians that do not commute (then with the
    even numbers between which κ lies).
    """
    if isinstance(x, Diffusion):
        return _of_sde(x)
    if isinstance(x, DiffusionChain):
        local = _quadratic(of_sde(x.sde))
        if not isinstance(x.integrator, EulerMaruyama) or x.dim != 1:
            raise ValueError("the tail index of an integrated SDE is covered for Euler–Maruyama on the line")
        dt = float(np.asarray(x.dt))
        return _normal_index(1 + dt * float(local.drift[0, 0]), math.sqrt(dt * _growth(local)), bool(local.covariance.any()))
    if not isinstance(x, OptimizerChain):
        raise TypeError(f"a Diffusion, DiffusionChain or OptimizerChain is needed, got {type(x).__name__}")
    if x.optimizer is not None:
        raise ValueError("the tail index with an optimiser is not covered: covered is plain SGD")
    if is_by_epochs(x):
        raise ValueError(f"the tail index under {x.gradient.sampling} is not covered: the batches of an epoch depend on each other")
    gradient, rate = x.gradient, float(np.asarray(x.learning_rate))
    inner = gradient.gradient if isinstance(gradient, Svag) else gradient
    if isinstance(inner, Surrogate):
        local = _quadratic(of_problem(x.problem))
        if not _growth_exists(local):
            return math.inf if inner.sampling != "gaussian" else _normal_index(1 + rate * float(local.drift.min()), 0.0, True)
        if inner.sampling != "gaussian" or x.dim != 1:
            raise ValueError(f"the tail index under {inner.sampling} in {x.dim} dimensions is not covered: gaussian on the line is")
        spread = rate * math.sqrt(noise_factor(gradient) * _growth(local))
        return _normal_index(1 + rate * float(local.drift[0, 0]), spread, bool(local.covariance.any()))
    if not isinstance(inner, Minibatch | FullBatch):
        raise ValueError('the tail index under "alpha_stable" noise is not covered')
    return _of_minibatches(x, inner, rate)


def _of_minibatches(chain: OptimizerChain, inner: Any, rate: float) -> float:
    problem, centre = chain.problem, minimum(chain.problem)
    wide = float64.widen(problem)
    what = float64.grad if isinstance(inner, FullBatch) else float64.example_gradients
    if not is_affine(lambda phi: float64.evaluate(what, wide, phi), centre):
        raise ValueError("the loss is not quadratic: what a step multiplies far from the minimum is not known")
    factor = noise_factor(chain.gradient)
    if not factor:
        if np.abs(1 - rate * np.linalg.eigvalsh(float64.evaluate(float64.hessian, wide, centre))).max() >= 1:
            raise _no_law()
        return math.inf
    examples = examples_at(wide, centre)
    axes = _common_axes(examples)
    if axes is None:
        return _even(chain)
    curvatures = np.einsum("ia,nij,ja->na", axes, examples.hessians, axes)
    noisy = (examples.centred @ axes).std(axis=0) > _NONE * (1 + np.abs(examples.gradients).max())
    return min(kesten(*_multipliers(chain, inner, c, rate), noisy=bool(n)) for c, n in zip(curvatures.T, noisy, strict=True))


def kesten(multipliers: np.ndarray, odds: np.ndarray, noisy: bool = True) -> float:
    """κ > 0 with E|T|^κ = 1 for T on the given values ["k"] with the given odds; infinite without additive noise, which a position
    at rest needs to leave it, or where |T| ≤ 1."""
    size = np.abs(multipliers)
    with np.errstate(divide="ignore"):
        logs = np.log(size)
    if odds @ logs > -_STILL:
        raise _no_law()
    if not noisy or size.max() <= 1:
        return math.inf
    top = float(logs.max())
    return _root(lambda k: k * top + math.log(odds @ np.exp(k * (logs - top))))


def _multipliers(chain: OptimizerChain, inner: Any, curvatures: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """The values of 1 − ηĥ and their odds, over all batches."""
    values, counts = np.unique(_rounded(curvatures), return_counts=True)
    b = inner.batch_size
    if math.comb(len(values) + b - 1, b) > _BATCHES:
        raise ValueError(
            f"the tail index is not covered for batches of {b} out of {len(values)} different curvatures, which are too many"
        )
    h, odds = np.zeros(1), np.ones(1)
    if inner.sampling == "with_replacement":
        for _ in range(b):
            h, odds = _merged((h[:, None] + values).ravel(), (odds[:, None] * (counts / counts.sum())).ravel())
    else:
        h, odds = _distinct(values, counts, b)
    t = 1 - rate * h / b
    if isinstance(chain.gradient, Svag):
        root = math.sqrt(2 * chain.gradient.l - 1)
        if len(t) ** 2 > _BATCHES:
            raise ValueError("the tail index of SVAG is not covered for this many pairs of batches")
        t = ((1 + root) / 2 * t[:, None] + (1 - root) / 2 * t).ravel()
        odds = (odds[:, None] * odds).ravel()
    return t, odds


def _distinct(values: np.ndarray, counts: np.ndarray, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums over b distinct examples: each value drawn so many times, at most as often as there are such examples."""
    sums, ways, total = [], [], math.comb(int(counts.sum()), b)
    for drawn in itertools.combinations_with_replacement(range(len(values)), b):
        often = Counter(drawn)
        number = math.prod(math.comb(int(counts[i]), k) for i, k in often.items())
        if number:
            sums.append(values[list(drawn)].sum())
            ways.append(number / total)
    return np.array(sums), np.array(ways)


def _merged(values: np.ndarray, odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept, where = np.unique(_rounded(values), return_inverse=True)
    return kept, np.bincount(where.ravel(), odds)


def _rounded(values: np.ndarray) -> np.ndarray:
    """To 14 digits of the largest, so that what differs by rounding is one value."""
    scale = float(np.abs(values).max()) or 1.0
    return np.round(values / scale, 14) * scale


def _normal_index(mean: float, spread: float, noisy: bool) -> float:
    """κ with E|μ + σz|^κ = 1: the moments of a normal's size are Γ((κ+1)/2)/√π (2σ²)^{κ/2} ₁F₁(−κ/2; ½; −μ²/2σ²)."""
    if not spread:
        return kesten(np.array([mean]), np.ones(1), noisy)

    def moment(k: float) -> float:
        ratio = mean**2 / (2 * spread**2)
        kummer = float(scipy.special.hyp1f1(-k / 2, 0.5, -ratio))
        return k / 2 * math.log(2 * spread**2) + math.lgamma((k + 1) / 2) - math.lgamma(0.5) + math.log(kummer)

    if moment(1e-6) >= 0:
        raise _no_law()
    return _root(moment) if noisy else math.inf


def _root(log_moment: Any) -> float:
    """The zero above 0 of a convex function that starts from 0 downwards."""
    high = 1.0
    while log_moment(high) <= 0:
        high *= 2
        if high > 1e6:
            return math.inf
    low = high / 2
    while log_moment(low) >= 0:
        low /= 2
        if low < 1e-9:
            raise _no_law()
    return find_root(log_moment, low, high, 1e-13 * high)


def _of_sde(sde: Diffusion) -> float:
    local = _quadratic(of_sde(sde))
    if sde.dim != 1:
        if local.feedback is None:
            Equation(local.drift, False).solve(local.covariance)
            return math.inf
        raise ValueError("the tail index of an SDE whose noise depends on the position is covered on the line alone")
    a, f = -float(local.drift[0, 0]), _growth(local)
    if 1 + 2 * a / f <= 0 if f else a <= 0:
        raise _no_law()
    return 1 + 2 * a / f if f and local.covariance.any() else math.inf


def _growth(local: Local) -> float:
    """f of the noise c + f e² on the line."""
    return 0.0 if local.feedback is None else float(local.feedback(np.ones((1, 1)))[0, 0])


def _growth_exists(local: Local) -> bool:
    return local.feedback is not None


def _quadratic(local: Local) -> Local:
    if local.reason:
        raise ValueError(f"the tail index is not covered: {local.reason}")
    return local


def _common_axes(examples: Examples) -> np.ndarray | None:
    """Orthonormal columns in which every example's Hessian is diagonal, or None."""
    if examples.dim == 1:
        return np.eye(1)
    h = examples.hessians
    _, axes = np.linalg.eigh(np.tensordot(np.random.default_rng(8).normal(size=len(h)), h, axes=1))
    turned = np.einsum("ia,nij,jb->nab", axes, h, axes, optimize=True)
    off = turned * (1 - np.eye(examples.dim))
    return axes if np.abs(off).max() <= 1e-10 * np.abs(h).max() else None


def _even(chain: OptimizerChain) -> float:
    """2 or 4 at the edges; elsewhere `ValueError` with the even numbers between which κ lies."""
    gradient, l = chain.gradient, getattr(chain.gradient, "l", 1)
    rate = float(np.asarray(chain.learning_rate)) * l
    setting = setting_of(chain.problem, gradient.batch_size, gradient.sampling, 0.0, False, l)
    beyond = rate / edge_of(setting) - 1
    if abs(beyond) <= _AT:
        return 2.0
    lies = "it is at most 2" if beyond > 0 else "it is above 2"
    if beyond < 0 and is_covered(setting):
        fourth = fourth_growth(setting)(rate) - 1
        if abs(fourth) <= _AT:
            return 4.0
        lies = "it is above 4" if fourth < 0 else "it lies between 2 and 4"
    raise ValueError(
        f"the tail index is exact on the line and for Hessians that commute, and these examples' Hessians do not: {lies}"
    )


def _no_law() -> ValueError:
    return ValueError("no stationary law: a step stretches more than it shrinks (E log|T| >= 0); a smaller learning rate cures it")
