"""Stein's identities of the Gibbs law at temperature T: ⟨u ∂ⱼL⟩ = T⟨∂ⱼu⟩ for any function u that does not grow too fast.

    u = Φᵢ: ⟨Φᵢ∂ⱼL⟩ = T δᵢⱼ, whose diagonal is equipartition and whose trace the virial;  u = ∂ⱼL: ⟨|∇L|²⟩ = T⟨ΔL⟩

They hold for one law alone. Without a `temperature` the chain must be one of Langevin's, whose law it is: exactly so for
`ExactLinear`, for `LeimkuhlerMatthews` and `BAOAB` on a quadratic loss; elsewhere the scheme's bias is in the difference, and the
relation is refused unless `approximate`. With a `temperature` they are the question whether a chain's law is Gibbs there, and any
chain may be asked.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..dynamics.equations import ConstantPreconditioner, LocalPreconditioner
from ..dynamics.kinetic import Kinetic
from ..dynamics.noise import Isotropic
from ..stepping.chains import DiffusionChain
from ..stepping.integrators import BAOAB, ExactLinear, LeimkuhlerMatthews
from ..stepping.whole import Whole
from ..struct import static, struct
from ..theory import checks, float64
from ..theory.laws.density import isotropic_temperature
from ..theory.linearise import is_affine
from .balance import Balance
from .generator import bias_of
from .moments import located


@struct
class Law:
    """A loss, a temperature, a point near which the law lives, and further matrices."""

    problem: Any
    temperature: Any
    centre: Any
    more: Any
    dim: int = static()

    def at(self, y: Array) -> tuple[Array, Array, Array]:
        """(Φ − centre, ∇L, T) at a state whose first `dim` entries are Φ."""
        x = y[: self.dim]
        return x - self.centre.astype(y.dtype), self.problem.grad(x), jnp.asarray(self.temperature, y.dtype)


def virial(chain: Any, *, temperature: Any = None, approximate: bool = False) -> Balance:
    """⟨Φ·∇L⟩ = d T, the virial theorem of the Gibbs law."""
    law, caveat = _law(chain, "virial", temperature, approximate)
    return _balance(law, _virial, "virial", "⟨Φ·∇L⟩ = d T", ("trace",), caveat)


def stein_position(chain: Any, *, temperature: Any = None, approximate: bool = False) -> Balance:
    """⟨Φᵢ∂ⱼL⟩ = T δᵢⱼ: Stein's identity of the position, all d² of them."""
    law, caveat = _law(chain, "stein_position", temperature, approximate)
    labels = tuple(f"{i},{j}" for i in range(law.dim) for j in range(law.dim))
    return _balance(law, _position, "stein_position", "⟨Φᵢ∂ⱼL⟩ = T δᵢⱼ", labels, caveat)


def stein_gradient(chain: Any, *, temperature: Any = None, approximate: bool = False) -> Balance:
    """⟨|∇L|²⟩ = T⟨ΔL⟩: Stein's identity of the gradient."""
    law, caveat = _law(chain, "stein_gradient", temperature, approximate)
    return _balance(law, _gradient, "stein_gradient", "⟨|∇L|²⟩ = T⟨ΔL⟩", ("trace",), caveat)


def stein_bounded(chain: Any, *, temperature: Any = None, approximate: bool = False) -> Balance:
    """⟨sin(wΦᵢ)∂ᵢL⟩ = T⟨w cos(wΦᵢ)⟩ and ⟨cos(wΦᵢ)∂ᵢL⟩ = −T⟨w sin(wΦᵢ)⟩, w = √(Hᵢᵢ/T) at the minimum: bounded test functions."""
    law, caveat = _law(chain, "stein_bounded", temperature, approximate)
    curvature = np.abs(np.diag(_hessian(law)))
    width = np.sqrt(np.maximum(curvature, curvature.max() * 1e-3) / float(np.asarray(law.temperature)))
    law = _with(law, jnp.asarray(width, float))
    labels = tuple(f"{f} {i}" for f in ("sin", "cos") for i in range(law.dim))
    return _balance(law, _bounded, "stein_bounded", "⟨u ∂ᵢL⟩ = T⟨∂ᵢu⟩, u = sin wΦᵢ and cos wΦᵢ", labels, caveat)


def equipartition(chain: Any, *, temperature: Any = None, approximate: bool = False) -> Balance:
    """⟨(e·Φ)(e·∇L)⟩ = T for every eigenvector e of the Hessian at the minimum: each direction has its share."""
    law, caveat = _law(chain, "equipartition", temperature, approximate)
    _, vectors = np.linalg.eigh(_hessian(law))
    law = _with(law, jnp.asarray(vectors, float))
    labels = tuple(f"e{i}" for i in range(law.dim))
    return _balance(law, _shares, "equipartition", "⟨(e·Φ)(e·∇L)⟩ = T", labels, caveat)


def kinetic_equipartition(chain: Any, *, approximate: bool = False) -> Balance:
    """⟨pᵢpⱼ⟩/m = T δᵢⱼ and ⟨pᵢ∂ⱼL⟩ = 0 of underdamped Langevin, with the momenta in sight (`jaxsde.whole`, or `sde.flatten()`)."""
    inner = chain.chain if isinstance(chain, Whole) else chain
    if not isinstance(inner, DiffusionChain) or not isinstance(inner.sde.drift, Kinetic):
        raise ValueError("kinetic_equipartition is for underdamped Langevin, and this chain has no momenta of its kind")
    law, caveat = _law(chain, "kinetic_equipartition", None, approximate, momenta=True)
    if chain.dim < 2 * law.dim:
        raise ValueError("kinetic_equipartition needs the momenta, which the position hides: give jaxsde.whole(chain)")
    law = _with(law, inner.sde.drift.mass)
    d = law.dim
    labels = [f"p {i},{j}" for i in range(d) for j in range(i, d)] + [f"p{i} ∂{j}" for i in range(d) for j in range(d)]
    formula = "⟨pᵢpⱼ⟩/m = T δᵢⱼ, ⟨pᵢ∂ⱼL⟩ = 0"
    return _balance(law, _momenta, "kinetic_equipartition", formula, tuple(labels), caveat)


def _law(chain: Any, name: str, temperature: Any, approximate: bool, *, momenta: bool = False) -> tuple[Law, str]:
    inner = chain.chain if isinstance(chain, Whole) else chain
    problem = _problem(inner)
    if problem is None:
        raise ValueError(f"{name} is an identity of the Gibbs law of a loss, and this chain has no loss")
    caveat = ""
    if temperature is None:
        temperature, quadratic = _temperature(inner, name), _quadratic(problem)
        exact = isinstance(inner.integrator, ExactLinear)
        if not momenta:  # the position's variance is right at any step in a harmonic well
            exact |= quadratic and isinstance(inner.integrator, LeimkuhlerMatthews | BAOAB)
        caveat = bias_of(inner, name, approximate, exact)
    else:
        checks.positive(temperature, "temperature")
    centre = jnp.asarray(located(problem), float)
    return Law(problem, jnp.asarray(temperature, float), centre, (), problem.dim), caveat


def _problem(chain: Any) -> Any:
    gradient, drift = getattr(chain, "gradient", None), getattr(getattr(chain, "sde", None), "drift", None)
    return getattr(gradient if gradient is not None else drift, "problem", None)


def _temperature(chain: Any, name: str) -> float:
    """kT of a Langevin chain; `ValueError` for any other."""
    sde: Any = getattr(chain, "sde", None)
    drift = getattr(sde, "drift", None)
    found = None
    if isinstance(drift, Kinetic):
        if isinstance(sde.noise.noise, Isotropic):
            scale2 = float(np.asarray(sde.scale)) ** 2 * float(np.asarray(sde.noise.noise.variance))
            found = scale2 / (2 * float(np.asarray(drift.friction)) * float(np.asarray(drift.mass)))
    elif isinstance(drift, LocalPreconditioner):
        found = float(np.asarray(drift.temperature))
    elif isinstance(drift, ConstantPreconditioner):
        found = float(np.asarray(sde.scale)) ** 2 / 2
    elif sde is not None:
        found = isotropic_temperature(sde)
    if found is None:
        raise ValueError(
            f"{name} is an identity of the Gibbs law, which is the law of Langevin and not of this chain: give temperature=T "
            "to ask whether the chain obeys it"
        )
    return found


def _quadratic(problem: Any) -> bool:
    wide = float64.widen(problem)
    return is_affine(lambda x: float64.evaluate(float64.grad, wide, x), located(problem))


def _hessian(law: Law) -> np.ndarray:
    return float64.evaluate(float64.hessian, float64.widen(law.problem), np.asarray(law.centre, np.float64))


def _with(law: Law, more: Any) -> Law:
    return Law(law.problem, law.temperature, law.centre, more, law.dim)


def _balance(law: Law, sides: Any, name: str, formula: str, labels: tuple[str, ...], caveat: str) -> Balance:
    return Balance(law, sides, name, formula, labels, law.problem.examples, caveat)


def _virial(law: Law, y: Array) -> tuple[Array, Array]:
    x, g, t = law.at(y)
    return (x @ g)[None], (law.dim * t)[None]


def _position(law: Law, y: Array) -> tuple[Array, Array]:
    x, g, t = law.at(y)
    return (x[:, None] * g).reshape(-1), (t * jnp.eye(law.dim, dtype=y.dtype)).reshape(-1)


def _gradient(law: Law, y: Array) -> tuple[Array, Array]:
    _, g, t = law.at(y)
    return (g @ g)[None], (t * jnp.trace(law.problem.hessian(y[: law.dim])))[None]


def _bounded(law: Law, y: Array) -> tuple[Array, Array]:
    x, g, t = law.at(y)
    w = law.more.astype(y.dtype)
    s, c = jnp.sin(w * x), jnp.cos(w * x)
    return jnp.concatenate([s * g, c * g]), t * jnp.concatenate([w * c, -w * s])


def _shares(law: Law, y: Array) -> tuple[Array, Array]:
    x, g, t = law.at(y)
    e = law.more.astype(y.dtype)
    return (x @ e) * (g @ e), jnp.full(law.dim, t)


def _momenta(law: Law, y: Array) -> tuple[Array, Array]:
    _, g, t = law.at(y)
    d = law.dim
    p, i = y[d:], np.triu_indices(d)
    own = (p[:, None] * p)[i] / jnp.asarray(law.more, y.dtype)
    zero = jnp.zeros(d * d, y.dtype)
    crossed = (p[:, None] * g).reshape(-1)
    return jnp.concatenate([own, crossed]), jnp.concatenate([t * jnp.eye(d, dtype=y.dtype)[i], zero])


GIBBS_IDENTITIES = {
    "virial": virial,
    "stein_position": stein_position,
    "stein_gradient": stein_gradient,
    "stein_bounded": stein_bounded,
    "equipartition": equipartition,
    "kinetic_equipartition": kinetic_equipartition,
}
