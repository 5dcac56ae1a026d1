"""Out of equilibrium or not: the current that a linear dynamics carries round its stationary law.

With A S + S Aᵀ + 2D = 0 the stationary probability current is (Q S⁻¹ e) p up to sign, Q = −A S − D antisymmetric (HS − D for
descent, D = ηC/2): zero iff detailed balance holds.

- mean signed area swept in the plane (i, j) a unit time, E ½(eᵢ deⱼ − eⱼ deᵢ)/dt = Qᵢⱼ, positive when i turns towards j;
- entropy produced a unit time, tr(D⁻¹ Q S⁻¹ Qᵀ), which does not depend on η for SGD's SDE.

Source: Godrèche and Luck (2019), Characterising the nonequilibrium stationary states of Ornstein–Uhlenbeck processes.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from ...dynamics.equations import Diffusion
from .. import checks
from ..linear import lyapunov
from ..linearise import of_sde
from ..moments.stationary import system
from .fokker_planck import FokkerPlanck, fokker_planck


def area_rates(x: Any) -> np.ndarray:
    """Q ["d d"], antisymmetric: the mean signed area a unit time in each plane, of an SDE or of a chain (on its clock).

    For SGD's SDE Q = HS − ηC/2. Exact for a linear drift with any noise that has a second-moment equation, state-dependent noise
    included; another SDE in two or three dimensions is solved on grids (`fokker_planck`, whose own `area_rates` has an error bar).
    Otherwise linearised at the rest point with a `UserWarning`. `ValueError` as `stationary_law`.
    """
    found = system(x)
    if found.reason and (law := _on_a_grid(x)) is not None:
        return law.area_rates().value
    _warn(found.reason)
    d = len(found.centre)
    s, a = found.covariance(), found.equation.a
    # E e (de)ᵀ/dt, or E e e'ᵀ/dt of a chain: they differ by a symmetric part.
    lagged = (s @ a.T)[:d, :d] / (1.0 if found.dt is None else found.dt)
    return (lagged - lagged.T) / 2


def entropy_production(sde: Any) -> float:
    """Entropy production a unit time (nats) of an SDE in its stationary state; of a linear one tr(D⁻¹ Q S⁻¹ Qᵀ).

    0 iff the law is in equilibrium. Where D is singular the inverse is that of its range, and the result is infinite if the
    current leaves it (every variable counts as even under time reversal). With a nonlinear drift or state-dependent noise it is
    ∫ Jᵀ D⁻¹ J/p: 0 on the line, on grids in two and three dimensions (`fokker_planck`, whose own has an error bar). Beyond that the
    noise is held at its value at the rest point and the drift is linearised there, with a `UserWarning`.

    Raises `ValueError` when there is no stationary law or no noise.
    """
    checks.sde(sde)
    local = of_sde(sde)
    reason = local.reason
    if not reason and local.feedback is not None:
        reason = "the noise depends on the position: held at its value at the rest point"
    if not local.covariance.any():
        raise ValueError("the SDE has no noise: entropy production is not defined")
    if reason and (law := _on_a_grid(sde)) is not None:
        return float(law.entropy_production())
    _warn(reason)
    return linear_entropy_production(local.drift, local.covariance / 2)


def linear_entropy_production(a: Any, d: Any) -> float:
    """tr(D⁻¹ Q S⁻¹ Qᵀ) of de = A e dt + √(2D) dW, in nats a unit time; see `entropy_production`."""
    a = checks.square(a, None, "a")
    d = checks.covariance(d, len(a), "d")
    s = lyapunov(a, 2 * d)
    # The law may fill a subspace only: everything happens in the range of S, which A and D respect.
    values, vectors = np.linalg.eigh(s)
    basis = vectors[:, values > 1e-12 * values[-1]]
    s, d, a = (basis.T @ m @ basis for m in (s, d, a))
    q = -a @ s - d
    q = (q - q.T) / 2
    strengths, directions = np.linalg.eigh(d)
    solid = strengths > 1e-12 * strengths[-1]
    along = directions.T @ q
    if np.abs(along[~solid]).max(initial=0.0) > 1e-9 * np.abs(a @ s).max():
        return math.inf
    inner = along[solid] / np.sqrt(strengths[solid])[:, None]
    return float(np.sum((inner @ np.linalg.inv(s)) * inner))


def _on_a_grid(x: Any) -> FokkerPlanck | None:
    """The law of a small SDE on a grid; None where there is no such thing."""
    if not isinstance(x, Diffusion) or not 2 <= x.dim <= 3:
        return None
    try:
        return fokker_planck(x)
    except ValueError:
        return None


def _warn(reason: str) -> None:
    if reason:
        warnings.warn(f"not exact: {reason}", UserWarning, stacklevel=3)
