"""Relations of an SDE: the mean of the generator of any function vanishes, ⟨f·∇u + ½ scale² tr(Σ ∇²u)⟩ = 0.

u = ΦᵢΦⱼ gives the fluctuation–dissipation relation, u = L that of the loss. They are the limits η → 0 of those of SGD, without
their |∇L|², and hold for the SDE's own law, whatever the loss and the noise. A chain has that law where its step is exact
(`ExactLinear`); elsewhere the scheme's bias is in the difference, and the relation is refused unless `approximate`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..stepping.chains import DiffusionChain
from ..stepping.integrators import ExactLinear
from ..struct import static, struct
from ..theory import float64
from ..theory.linearise import autonomous, rest_point
from .balance import Balance, either, pairs, upper


@struct
class Flow:
    """An SDE and a point near which it lives."""

    sde: Any
    centre: Any
    dim: int = static()

    def at(self, x: Array) -> tuple[Array, Array, Array]:
        """(x − centre, drift, scale² Σ)."""
        squared = jnp.asarray(self.sde.scale, x.dtype) ** 2
        return x - self.centre.astype(x.dtype), self.sde.drift(jnp.zeros((), x.dtype), x), squared * self.sde.noise.covariance(x)


def fluctuation_dissipation(chain: Any, *, approximate: bool = False) -> Balance:
    """−⟨fᵢxⱼ + xᵢfⱼ⟩ = scale²⟨Σᵢⱼ⟩: what the drift takes and the noise gives; for an SDE (a kinetic one as `sde.flatten()`)."""
    flow, caveat = _flow(chain, "fluctuation_dissipation", approximate)
    formula = "−⟨fᵢxⱼ + xᵢfⱼ⟩ = scale²⟨Σᵢⱼ⟩"
    return Balance(flow, _second, "fluctuation_dissipation", formula, pairs(flow.dim), _examples(flow), caveat)


def loss_dissipation(chain: Any, *, approximate: bool = False) -> Balance:
    """⟨|∇L|²⟩ = ½ scale²⟨tr(Σ∇²L)⟩: the mean loss stands still; for descent on any loss."""
    flow, caveat = _flow(chain, "loss_dissipation", approximate)
    if flow.sde.problem is None:
        raise ValueError("loss_dissipation is a relation of descent on a loss, and this drift is not −∇L")
    return Balance(flow, _loss, "loss_dissipation", "⟨|∇L|²⟩ = ½ scale²⟨tr(Σ∇²L)⟩", ("loss",), _examples(flow), caveat)


def bias_of(chain: Any, name: str, approximate: bool, exact: bool) -> str:
    """The caveat of a relation of the SDE for a chain of it: "" where the chain's law is the SDE's; `ValueError` where it is not
    and nobody said that approximately would do."""
    if exact:
        return ""
    integrator = type(chain.integrator).__name__
    if not approximate:
        raise ValueError(
            f"{name} is a relation of the SDE, and {integrator} at dt = {float(np.asarray(chain.dt)):g} has a law of its own: ask "
            "for approximate=True, and its bias is in the difference"
        )
    return f"a relation of the SDE: the bias of {integrator} is in the difference"


def _flow(chain: Any, name: str, approximate: bool) -> tuple[Flow, str]:
    if not isinstance(chain, DiffusionChain):
        raise ValueError(f"{name} is a relation of an SDE, and this chain is a {type(chain).__name__}: yaida is that of SGD")
    sde = chain.sde
    if sde.dim > chain.dim:
        raise ValueError(f"{name} needs the momenta, which the position hides: integrate(sde.flatten(), …)")
    caveat = bias_of(chain, name, approximate, isinstance(chain.integrator, ExactLinear))
    autonomous(float64.widen(sde))
    try:
        centre = rest_point(sde)
    except ValueError:
        centre = np.zeros(sde.dim)
    return Flow(sde, jnp.asarray(centre, float), sde.dim), caveat


def _examples(flow: Flow) -> int:
    return getattr(flow.sde.problem, "examples", 0)


def _second(flow: Flow, x: Array) -> tuple[Array, Array]:
    y, f, c = flow.at(x)
    return -upper(either(f, y)), upper(c)


def _loss(flow: Flow, x: Array) -> tuple[Array, Array]:
    _, f, c = flow.at(x)
    # tr(Σ∇²L), a Hessian-vector product for each component
    curved = jax.vmap(lambda row: jax.jvp(flow.sde.problem.grad, (x,), (row,))[1])(c)
    return (f @ f)[None], (jnp.trace(curved) / 2)[None]


GENERATOR = {"fluctuation_dissipation": fluctuation_dissipation, "loss_dissipation": loss_dissipation}
