"""optax's optimisers as data: which one is static, its hyper-parameters are leaves, so a sweep over them is one program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from ..dynamics.equations import fraction
from ..struct import static, struct


@struct
class Optimizer:
    """`factory(learning_rate, **settings, **fixed)`, an optax transformation; or `factory` itself where it is one already.

    `settings` are the hyper-parameters that are floats (leaves: under `vmap` and `grad`, new values compile nothing), `fixed` all
    others. Made by `jaxsde.sgd` from what it is given.
    """

    settings: dict[str, Any]
    factory: Any = static()
    fixed: tuple[tuple[str, Any], ...] = static(default=())

    def __call__(self, learning_rate: Any, dtype: Any) -> optax.GradientTransformationExtraArgs:
        if isinstance(self.factory, optax.GradientTransformation):
            return optax.with_extra_args_support(self.factory)
        settings = {name: jnp.asarray(value, dtype) for name, value in self.settings.items()}
        made = self.factory(jnp.asarray(learning_rate, dtype), **settings, **dict(self.fixed))
        return optax.with_extra_args_support(made)


def optimizer_of(given: Any, learning_rate: Any, start: Any) -> Optimizer | None:
    """What `sgd(optimizer=…)` was given, as an `Optimizer`. `TypeError` for what is none."""
    if given is None or isinstance(given, Optimizer):
        return given
    if isinstance(given, optax.GradientTransformation):
        return Optimizer({}, given)
    if not callable(given):
        raise TypeError(
            f"optimizer must be an optax.GradientTransformation or a function of the learning rate, got {type(given).__name__}"
        )
    factory, keywords = given, {}
    if isinstance(given, functools.partial) and not given.args:
        factory, keywords = given.func, given.keywords
    floats = {n: v for n, v in keywords.items() if _is_leaf(v)}
    fixed = {n: v for n, v in keywords.items() if n not in floats}
    made = Optimizer(floats, factory, tuple(sorted(fixed.items())))
    try:
        hash(made.fixed)
    except TypeError as error:
        raise TypeError(
            f"an optimizer's settings are floats, or hashable ({error}): give {', '.join(fixed)} in a function of the learning "
            "rate of your own, defined once"
        ) from None
    try:
        jax.eval_shape(lambda o, eta, x: o(eta, x.dtype).init(x), made, learning_rate, start)
        return made
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        # it looks at a value to decide what it is: then its values are part of what it is
        return Optimizer({}, factory, tuple(sorted(keywords.items())))


def _is_leaf(value: Any) -> bool:
    """A float, of Python or NumPy, or an array of them; whole numbers and bools say what an optimiser is."""
    if isinstance(value, Tracer | jax.Array | np.ndarray | np.generic):
        return jnp.issubdtype(value.dtype, jnp.floating)
    return isinstance(value, float)


def momentum(mu: Any, *, nesterov: bool = False, convention: str = "heavy_ball") -> Callable[[Any], optax.GradientTransformation]:
    """SGD with momentum μ, for `sgd(optimizer=…)`, in either of the two common conventions:

        heavy_ball:  v' = μ v − η ĝ,         Φ' = Φ + v'           (Polyak; optax.sgd, torch.optim.SGD)
        average:     m' = μ m + (1 − μ) ĝ,   Φ' = Φ − η m'         (the first moment of Adam, without its correction)

    The same path where η_heavy = (1 − μ) η_average. `nesterov` looks ahead: Φ' = Φ + μ v' − η ĝ, or Φ − η (μ m' + (1 − μ) ĝ).
    """
    if convention not in ("heavy_ball", "average"):
        raise ValueError(f'convention is "heavy_ball" or "average", got {convention!r}')
    fraction(mu, "momentum")
    value = mu if isinstance(mu, Tracer | jax.Array) else float(np.asarray(mu))
    return functools.partial(_with_momentum, mu=value, nesterov=bool(nesterov), convention=convention)


def _with_momentum(learning_rate: Any, mu: Any, nesterov: bool, convention: str) -> optax.GradientTransformation:
    by = learning_rate if convention == "heavy_ball" else learning_rate * (1 - mu)
    return optax.chain(optax.trace(decay=mu, nesterov=nesterov), optax.scale(-by))

