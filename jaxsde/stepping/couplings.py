"""Two chains on common draws: their difference has a far smaller variance than that of two runs.

The position of such a chain is that of the first followed by that of the second; `difference(f, chain)` is the statistic of
f(first) − f(second).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..dynamics.equations import positive
from ..dynamics.gradients import StableSurrogate, Surrogate, Svag
from ..struct import static, struct
from ..types import SDE, Drawn, Draws, Integrator
from .chains import DiffusionChain, OptimizerChain, integrate
from .integrators import that_fit


@struct
class Coupled:
    """Two chains, step by step on the same draws; `mirrored`: the second on −z. Made by `coupled`."""

    first: Any
    second: Any
    mirrored: bool = static()
    draws: Draws = static()
    dim: int = static()

    @property
    def dt(self) -> Any:
        return self.first.dt

    def init(self, x0: Float[Array, " e"]) -> PyTree:
        return _states(self, x0)

    def step(self, state: PyTree, drawn: Drawn, k: Any) -> PyTree:
        first = self.first.step(state[0], _part(drawn, self.first.draws, 1), k)
        return first, self.second.step(state[1], _part(drawn, self.second.draws, -1 if self.mirrored else 1), k)

    def position(self, state: PyTree) -> Float[Array, " e"]:
        return _positions(self, state)


@struct
class TwoLevels:
    """An SDE with step dt (`first`) and, along the same Brownian path, with two steps dt/2 (`second`). Made by `two_levels`."""

    first: DiffusionChain
    second: DiffusionChain
    draws: Draws = static()
    dim: int = static()

    @property
    def dt(self) -> Any:
        return self.first.dt

    def init(self, x0: Float[Array, " e"]) -> PyTree:
        return _states(self, x0)

    def step(self, state: PyTree, drawn: Drawn, k: Any) -> PyTree:
        one, two = jnp.split(drawn.normals, 2)
        half = self.second.step(self.second.step(state[1], Drawn(normals=one), 2 * k), Drawn(normals=two), 2 * k + 1)
        return self.first.step(state[0], Drawn(normals=(one + two) * (0.5**0.5)), k), half

    def position(self, state: PyTree) -> Float[Array, " e"]:
        return _positions(self, state)


def _states(pair: Any, x0: Float[Array, " e"]) -> PyTree:
    d = pair.first.dim
    return pair.first.init(x0[:d]), pair.second.init(x0[d:])


def _positions(pair: Any, state: PyTree) -> Float[Array, " e"]:
    return jnp.concatenate([pair.first.position(state[0]), pair.second.position(state[1])])


def coupled(first: Any, second: Any, *, antithetic: bool = False) -> Coupled:
    """Two chains on common draws: two learning rates, two batch sizes, SGD and its SDE; its starts are two positions in a row.

    A chain that needs fewer draws of a kind takes the leading ones. SGD with a surrogate noise moves along −z and an SDE along
    +z: that is seen to. `antithetic` mirrors the draws of the second. Examples that are drawn cannot be mirrored, and they are no
    normals: SGD on data and an SDE share nothing, and `sampling="gaussian"` is the SGD that shares its noise with the SDE.

    Raises `ValueError` for two chains that share no draws or draw their examples differently.
    """
    a, b = first.draws, second.draws
    shared = [name for name in ("normals", "signs", "three_point", "indices") if getattr(a, name) and getattr(b, name)]
    if not shared:
        raise ValueError(
            f"these chains share no draws: one takes {_words(a)}, the other {_words(b)}; SGD shares its noise with an SDE under "
            'sampling="gaussian"'
        )
    if "indices" in shared and (a.population, a.scheme) != (b.population, b.scheme):
        raise ValueError(
            f"these chains draw their examples differently ({a.scheme} of {a.population}, {b.scheme} of {b.population}): give both "
            "one sampling of one data set"
        )
    if "indices" in shared and a.scheme != "independent" and a.indices != b.indices:
        raise ValueError("batches without repeats are shared only where both have one size: give both one batch_size")
    if antithetic and "indices" in shared:
        raise ValueError("examples have no mirror image: antithetic chains need a surrogate noise or an SDE")
    examples = a if a.indices else b
    draws = examples._replace(**{n: max(getattr(a, n), getattr(b, n)) for n in ("normals", "signs", "three_point", "indices")})
    mirrored = (_downhill(first) != _downhill(second)) != bool(antithetic)
    return Coupled(first, second, mirrored, draws, first.dim + second.dim)


def two_levels(sde: SDE, integrator: Integrator | str | None = None, *, dt: Any) -> TwoLevels:
    """An SDE at dt and at dt/2 along one Brownian path (coarse, then fine): strong errors, and extrapolation with little variance.

    `ValueError` for an integrator that draws more than the increments of the path.
    """
    positive(dt, "dt")
    coarse, fine = integrate(sde, integrator, dt=dt), integrate(sde, integrator, dt=jnp.asarray(dt, float) / 2)

    def follows(one: Any) -> bool:
        return one.draws(sde) == Draws(normals=sde.noise.dim) and not hasattr(one, "prepared") and not hasattr(one, "remembers")

    if not follows(coarse.integrator):
        raise ValueError(
            f"{type(coarse.integrator).__name__} draws more, or other, than the increments of a Brownian path, which two steps do "
            f"not add up to: use {', '.join(that_fit(sde, follows))}"
        )
    return TwoLevels(coarse, fine, Draws(normals=2 * sde.noise.dim), 2 * coarse.dim)


def difference(f: Callable[[Any], Any], chain: Coupled | TwoLevels) -> Callable[[Any], Any]:
    """x ↦ f(first) − f(second) of a coupled chain: `js.of(js.difference(f, chain), js.Mean())` is the mean with its error."""
    d = chain.first.dim
    return lambda x: f(x[:d]) - f(x[d:])


def extrapolated(f: Callable[[Any], Any], chain: TwoLevels, *, order: float = 1.0) -> Callable[[Any], Any]:
    """x ↦ (2ᵖ f(fine) − f(coarse))/(2ᵖ − 1), which is free of the weak error of order p (Richardson and Romberg).

    Source: Talay and Tubaro (1990), Stoch. Anal. Appl. 8, 483.
    """
    if not order > 0:
        raise ValueError(f"order must be positive, got {order!r}")
    d, by = chain.first.dim, 2.0**order
    return lambda x: (by * f(x[d:]) - f(x[:d])) / (by - 1)


def _downhill(chain: Any) -> bool:
    """Whether the chain moves along −z: a gradient with noise, subtracted."""
    gradient = getattr(chain, "gradient", None)
    gradient = gradient.gradient if isinstance(gradient, Svag) else gradient
    return isinstance(chain, OptimizerChain) and isinstance(gradient, Surrogate | StableSurrogate)


def _part(drawn: Drawn, draws: Draws, sign: int) -> Drawn:
    """The leading draws that a chain takes, mirrored if sign is −1."""
    normals, signs, three = (
        values[:count] * sign if count else ()
        for values, count in ((drawn.normals, draws.normals), (drawn.signs, draws.signs), (drawn.three_point, draws.three_point))
    )
    return Drawn(normals, signs, three, drawn.indices[: draws.indices] if draws.indices else ())


def _words(draws: Draws) -> str:
    given = [f"{getattr(draws, n)} {n}" for n in ("normals", "signs", "three_point", "indices") if getattr(draws, n)]
    return ", ".join(given) or "none"
