"""Where SGD stops being stable in mean square: the learning rate at which the second moment of the parameters explodes.

Around the minimum, e' = e − η ĝ gives S' = S − η(HS + SH) + η²(HSH + κF(S)) + η²κC with F of `linearise` and κ = 1/B with
replacement, (n−B)/(n−1)/B without. At the edge η* a covariance is left unchanged by the homogeneous part, so

    1/η* = spectral radius of  S ↦ L⁻¹(HSH + κF(S)),        L(S) = HS + SH

(a map of covariances to covariances: its radius is an eigenvalue). Without noise that is η* = 2/λmax; with it, earlier. SVAG has
η/l for η and l κ for κ. With momentum, and under orders of the data, η* is where the radius of a step's or an epoch's map is 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...dynamics.equations import fraction
from ...dynamics.gradients import gradient, noise_factor, svag_gradient
from ...dynamics.noise import EPOCHS
from ...random.clocks import steps_per_epoch
from .. import checks, float64
from ..examples import Examples, examples_at
from ..linear import Equation, Feedback, find_root
from ..linearise import is_affine, problem_noise
from ..minimum import FLAT, minimum
from ..updates import Update
from .epochs import Epoch
from .orbits import orders_of, radii
from .reshuffling import moments_of_epochs

# Learning rates that are looked at on the way up differ by so much.
_STEP = 1.02


@dataclass(frozen=True)
class Setting:
    """What an edge is asked for: the Hessian ["d"] and the noise in the directions in which the loss is not flat, how they are
    sampled, and the momentum. `reason` is "" when all of it is exact."""

    hessian: np.ndarray
    feedback: Feedback | None
    basis: np.ndarray
    centre: np.ndarray
    gradient: Any
    momentum: float
    nesterov: bool
    reason: str

    @property
    def amplified(self) -> int:
        """l of SVAG: steps of η/l with l times the noise."""
        return getattr(self.gradient, "l", 1)

    @property
    def factor(self) -> float:
        """κ, without that of SVAG."""
        return noise_factor(self.gradient) / self.amplified

    @property
    def sampling(self) -> str:
        return self.gradient.sampling

    def examples(self) -> Examples:
        """Those of a finite sum, in the directions that are not flat."""
        return examples_at(float64.widen(self.gradient.problem), self.centre).in_basis(self.basis)

    def update(self, rate: float) -> Update:
        """Carry and push of (e, v), or of e alone without momentum: v' = μv − ηĝ; Φ' = Φ + v', for Nesterov Φ + μv' − ηĝ."""
        eye = np.eye(len(self.hessian))
        if not self.momentum:
            return Update(eye, -rate * eye, np.zeros(len(eye)))
        mu = self.momentum
        first, second = (mu * mu, -rate * (1 + mu)) if self.nesterov else (mu, -rate)
        carry = np.block([[eye, first * eye], [0 * eye, mu * eye]])
        return Update(carry, np.concatenate([second * eye, -rate * eye]), np.zeros(2 * len(eye)))

    def mean_edge(self) -> float:
        """The edge of the averaged step."""
        mu, largest = self.momentum, float(self.hessian.max())
        return 2 * (1 + mu) / largest / (1 + 2 * mu if self.nesterov else 1)


def stability_edge(
    problem: Any,
    batch_size: int = 1,
    sampling: str = "with_replacement",
    momentum: float = 0.0,
    *,
    nesterov: bool = False,
    l: int = 1,
) -> float:
    """The learning rate η* below which the variance of SGD's parameters stays bounded, and above which it explodes.

    Exact for least squares and for quadratic potentials (the surrogates "gaussian", "two_point", "three_point" have the same second
    moments as sampling with replacement, and stand for it where a potential has no examples). For another loss it is the edge of
    the loss linearised at its minimum, and a `UserWarning` says so. Directions in which the loss is flat (a design of deficient
    rank) are left out: SGD does not move there. `momentum` μ is the heavy ball's, v' = μv − ηĝ, Φ' = Φ + v', or with `nesterov`
    Φ' = Φ + μv' − ηĝ (in the convention of averages η is 1/(1 − μ) times that); `l` is that of `svag`, with η its learning rate.

    Under "random_reshuffling" it is the edge of the second moment over epochs, under "cyclic" that of the one orbit, and under
    "shuffle_once" that of the first order to lose its orbit; exact for equal Hessians, and where orders or sets of examples can be
    enumerated. An epoch may contract again beyond the edge, and momentum can resonate with the order in a narrow band below it:
    learning rates are looked at in steps of 2 %, so a narrower band is not seen.

    Raises `ValueError` for orders that are too many, a batch larger than the data where it is drawn without repeats, a momentum
    outside [0, 1), a sampling without a variance, or a problem without a minimum.
    """
    setting = setting_of(problem, batch_size, sampling, momentum, nesterov, l)
    if setting.reason:
        warnings.warn(f"stability_edge: {setting.reason}", UserWarning, stacklevel=2)
    return edge_of(setting)


def setting_of(problem: Any, batch_size: int, sampling: str, momentum: float, nesterov: bool, l: int) -> Setting:
    """The arguments of an edge, checked, in the directions in which the loss is not flat."""
    checks.problem(problem)
    if not problem.examples and sampling == "with_replacement":
        sampling = "gaussian"
    ghat = svag_gradient(gradient(problem, batch_size, sampling, 2.0 if sampling == "alpha_stable" else None), l)
    noise_factor(ghat)
    fraction(momentum, "momentum")
    if nesterov and not momentum:
        raise ValueError("nesterov looks ahead along the momentum: give a momentum above 0")
    centre = minimum(problem, isolated=False)
    wide = float64.widen(problem)
    noise = problem_noise(wide, centre)
    inner, reason = noise.feedback, noise.reason
    if not reason and not is_affine(lambda phi: float64.evaluate(float64.grad, wide, phi), centre):
        reason = "the loss is not quadratic: linearised at its minimum"
    values, vectors = np.linalg.eigh(float64.evaluate(float64.hessian, wide, centre))
    solid = values > FLAT * max(values[-1], 1e-300)
    if not solid.any():
        raise ValueError("the Hessian vanishes at the minimum: the linearised loss gives no stability edge")
    basis = vectors[:, solid]
    feedback = None if inner is None else lambda s: basis.T @ inner(basis @ s @ basis.T) @ basis
    return Setting(values[solid], feedback, basis, centre, ghat, float(momentum), bool(nesterov), reason)


def edge_of(setting: Setting) -> float:
    """η*."""
    if setting.sampling in EPOCHS and setting.gradient.batch_size < setting.gradient.problem.examples:
        return _edge_by_epochs(setting)
    noisy = setting.feedback if setting.factor else None
    if setting.momentum:
        return _edge_with_momentum(setting, noisy)
    h, factor = np.diag(setting.hessian), setting.amplified * setting.factor

    def growth(s: np.ndarray) -> np.ndarray:
        return h @ s @ h + (factor * noisy(s) if noisy is not None else 0.0)

    return setting.amplified / Equation(-h, discrete=False, feedback=growth).gain()


def _edge_with_momentum(setting: Setting, noisy: Feedback | None) -> float:
    """No linear pencil in η, so by bisection on stability. The second moment cannot pass the edge of the mean."""
    d, l = len(setting.hessian), setting.amplified

    def stable(rate: float) -> bool:
        update = setting.update(rate / l)

        def growth(s: np.ndarray) -> np.ndarray:
            assert noisy is not None
            return update.push @ (l * setting.factor * noisy(s[:d, :d])) @ update.push.T

        a = update.drift(np.diag(setting.hessian))
        return Equation(a, discrete=True, feedback=growth if noisy is not None else None).is_stable()

    high = l * setting.mean_edge()
    low = _stable_below(stable, high)
    if low == high:
        return high
    high = 2 * low
    while high - low > 1e-10 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return (low + high) / 2


def _edge_by_epochs(setting: Setting) -> float:
    examples = setting.examples()
    if examples.equal:
        return setting.mean_edge()
    steps = steps_per_epoch(setting.gradient.draws)

    def radius(rate: float) -> float:
        epoch = Epoch(setting.update(rate), examples, setting.gradient.batch_size, steps)
        if setting.sampling == "random_reshuffling":
            return moments_of_epochs(epoch).radius()
        orders, sampled = orders_of(epoch, setting.sampling)
        if sampled:
            raise ValueError(
                f"the edge under {setting.sampling} is not covered for {examples.count} examples with different Hessians: "
                "it is that of the worst of their orders, which are too many to enumerate"
            )
        return float(radii(epoch, orders).max())

    start = 0.1 * setting.mean_edge()
    if examples.roots is not None and not setting.momentum:  # below this every step contracts, or leaves what it does not see
        start = max(start, 1.999 / float(np.sum(examples.roots**2, axis=1).max()))
    low = _stable_below(lambda rate: radius(rate) < 1, start)
    while radius(high := low * _STEP) < 1:
        low = high
    return find_root(lambda rate: radius(rate) - 1, low, high, 1e-11 * low)


def _stable_below(stable: Callable[[float], bool], rate: float) -> float:
    """The first of rate, rate/2, rate/4, … that is stable."""
    low = rate
    while not stable(low):
        low /= 2
        if low < rate * 1e-12:
            raise ValueError("no learning rate is stable: the noise grows with the position faster than the drift contracts")
    return low
