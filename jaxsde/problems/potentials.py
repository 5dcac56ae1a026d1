"""Losses of their own: functions Φ -> L(Φ) from the literature, whose gradient noise is chosen beside them.

Each takes the flat position phi ["d"] and returns a scalar. Where the equation speaks of the first one or two
components, any further ones add ½ Σ φᵢ², so that a landscape keeps its shape in more dimensions. `POTENTIALS` gives
each a start, and a noise variance σ² (Σ = σ²I) and learning rate η that suit its scale: kT = ησ²/2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..catalogue import Matrix, NonNegative, Positive, Real

Phi = Float[Array, " d"]
Scalar = Float[Array, ""]


class Entry(NamedTuple):
    """A potential and what suits it.

    `start` is its initial point, or a function of its parameters that returns one; `dim` the least number of
    components; `variance` the variance σ² of the gradient noise; `learning_rate` a step η well inside stability.
    """

    function: Callable[..., Any]
    start: tuple[float, ...] | Callable[..., tuple[float, ...]]
    dim: int = 1
    variance: float = 1.0
    learning_rate: float = 0.05


def quadratic(phi: Phi, *, hessian: Matrix = ((1.0, 0.3), (0.3, 2.0))) -> Scalar:
    """½ φᵀHφ, a linear restoring force.

    The minimum is at 0; with noise of covariance C the SDE's stationary covariance S solves HS + SH = ηC.
    """
    return 0.5 * phi @ jnp.asarray(hessian, phi.dtype) @ phi


def _ones(*, hessian: Matrix = ((1.0, 0.3), (0.3, 2.0))) -> tuple[float, ...]:
    return (1.0,) * len(hessian)


def double_well(phi: Phi) -> Scalar:
    """(x² − 1)²/4, two equal wells.

    Minima at x = ±1 with curvature 2 and L = 0; the barrier at x = 0 has height 1/4 and curvature −1.
    """
    return 0.25 * (phi[0] ** 2 - 1.0) ** 2 + _harmonic(phi[1:])


def tilted_double_well(phi: Phi, *, tilt: Real = 0.1) -> Scalar:
    """(x² − 1)²/4 + tilt·x, two unequal wells.

    For tilt > 0 the left well is the deeper, by about 2·tilt; above |tilt| = 2/√27 = .3849 one of the wells is gone.
    """
    return 0.25 * (phi[0] ** 2 - 1.0) ** 2 + tilt * phi[0] + _harmonic(phi[1:])


def ring(phi: Phi, *, radius: Positive = 1.0, stiffness: Positive = 1.0) -> Scalar:
    """stiffness·(x² + y² − radius²)²/4, a circle of minima.

    The minimum is degenerate: the Hessian is 2·stiffness·radius² across the circle and 0 along it.
    """
    return 0.25 * stiffness * (phi[0] ** 2 + phi[1] ** 2 - radius**2) ** 2 + _harmonic(phi[2:])


def mueller_brown(phi: Phi, *, scale: Positive = 1.0) -> Scalar:
    """Müller and Brown's surface of three minima, Σₖ Aₖ exp(aₖ(x−xₖ)² + bₖ(x−xₖ)(y−yₖ) + cₖ(y−yₖ)²).

    Minima at (−.558224, 1.441726), (.623499, .028038), (−.050011, .466694) with L = −146.6995, −108.1667, −80.7678,
    all times `scale`. K. Müller and L. D. Brown, Theor. Chim. Acta 53, 75 (1979).
    """
    x, y = phi[0], phi[1]
    total = jnp.zeros((), phi.dtype)
    for height, a, b, c, x0, y0 in _MUELLER_BROWN:
        dx, dy = x - x0, y - y0
        total = total + height * jnp.exp(a * dx * dx + b * dx * dy + c * dy * dy)
    return scale * total + _harmonic(phi[2:])


_MUELLER_BROWN = (
    (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
    (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
    (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
    (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
)


def himmelblau(phi: Phi, *, scale: Positive = 1.0) -> Scalar:
    """scale·((x² + y − 11)² + (x + y² − 7)²), four equal minima of unequal width.

    Minima at (3, 2), (−2.805118, 3.131313), (−3.779310, −3.283186), (3.584428, −1.848127), all with L = 0; a maximum at
    (−.270845, −.923039) with L = 181.617. D. M. Himmelblau, Applied Nonlinear Programming (1972).
    """
    x, y = phi[0], phi[1]
    return scale * ((x * x + y - 11.0) ** 2 + (x + y * y - 7.0) ** 2) + _harmonic(phi[2:])


def rosenbrock(phi: Phi, *, a: Real = 1.0, b: NonNegative = 5.0) -> Scalar:
    """(a − x)² + b(y − x²)², a curved valley.

    The minimum is at (a, a²). Times a temperature its Gibbs law is a banana whose moments are known: x ~ N(a, kT/2),
    and y given x is N(x², kT/2b). H. H. Rosenbrock, Comput. J. 3, 175 (1960), with b = 100.
    """
    return (a - phi[0]) ** 2 + b * (phi[1] - phi[0] ** 2) ** 2 + _harmonic(phi[2:])


def _harmonic(rest: Phi) -> Any:
    return 0.5 * jnp.vdot(rest, rest) if rest.shape[0] else 0.0


POTENTIALS = {
    "quadratic": Entry(quadratic, start=_ones, dim=1, variance=1.0, learning_rate=0.1),
    "double_well": Entry(double_well, start=(1.0,), dim=1, variance=1.0, learning_rate=0.2),
    "tilted_double_well": Entry(tilted_double_well, start=(-1.0,), dim=1, variance=1.0, learning_rate=0.2),
    "ring": Entry(ring, start=(1.0, 0.0), dim=2, variance=1.0, learning_rate=0.1),
    "mueller_brown": Entry(mueller_brown, start=(-0.55, 1.44), dim=2, variance=4e5, learning_rate=5e-5),
    "himmelblau": Entry(himmelblau, start=(3.0, 2.0), dim=2, variance=2e4, learning_rate=1e-3),
    "rosenbrock": Entry(rosenbrock, start=(1.0, 1.0), dim=2, variance=20.0, learning_rate=0.005),
}
