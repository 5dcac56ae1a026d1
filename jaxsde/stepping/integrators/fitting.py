"""The catalogue of integrators, and which of them fit an SDE by what they declare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ...catalogue import did_you_mean
from ...types import SDE, Integrator
from .ito import ITO
from .kinetic import KINETIC
from .strong import STRONG
from .terms import Entry, commutes, cross_dependence, linear_drift
from .weak import WEAK

INTEGRATORS: dict[str, Entry] = ITO | STRONG | WEAK | KINETIC


def named(name: str) -> Integrator:
    """The integrator of that name with its defaults; `ValueError` with the nearest of `INTEGRATORS`."""
    if name not in INTEGRATORS:
        raise ValueError(f"no integrator {name!r}: {did_you_mean(name, INTEGRATORS)}")
    return INTEGRATORS[name]()


def check(integrator: Any, sde: SDE) -> None:
    """`ValueError` that names the integrators that fit, where this one does not. One that is not in the catalogue passes.

    Leaves under a transformation are taken as some numbers: what is checked is how the noise depends on the position.
    """
    entry = next((e for e in INTEGRATORS.values() if type(integrator) is e.function), None)
    if entry is None:
        return
    sde = _concrete(sde)
    if reason := _misfit(entry, integrator, sde):
        raise ValueError(f"{entry.function.__name__} {reason}: use {', '.join(that_fit(sde))}")


def that_fit(sde: SDE, also: Callable[[Any], bool] = lambda integrator: True) -> list[str]:
    """The integrators that take this SDE, and of which `also` is true, as one writes them: `["EulerMaruyama()", …]`."""
    found = []
    for entry in INTEGRATORS.values():
        for settings in ({}, entry.needs.get(sde.noise.kind)):
            if settings is not None and not _misfit(entry, one := entry(**settings), sde):
                written = f"{entry.function.__name__}({', '.join(f'{k}={v}' for k, v in settings.items())})"
                found += [written] if also(one) else []
                break
    return found


def _misfit(entry: Entry, integrator: Any, sde: Any) -> str | None:
    """Why this integrator does not take this SDE; None if it does."""
    kind = sde.noise.kind
    if entry.drift == "kinetic" and not hasattr(sde.drift, "force"):
        return "splits a position from its momentum, and this SDE (none of underdamped and momentum_sde) has none"
    if not entry.covers(kind):
        return "covers noise that does not depend on the position, and this SDE's does"
    try:
        if kind == "diagonal" and entry.derivatives and integrator.calculus == "ito" and (pair := cross_dependence(sde)):
            return (
                f"needs diagonal noise whose entry i depends on component i alone, and here entry {pair[0]} depends on component "
                f"{pair[1]} (as a matrix, jnp.diag(σ(x)), that noise would do)"
            )
        needs = entry.needs.get(kind, {})
        if any(not getattr(integrator, name) for name in needs) and (pair := commutes(sde)):
            return (
                f"needs noises that commute, and noise {pair[0]} does not commute with noise {pair[1]} where this SDE's noise "
                "depends on the position"
            )
        if entry.drift == "linear" and linear_drift(sde) is None:
            return "covers drifts that are linear in the position and do not depend on time, and this one is not"
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        return None  # a function of the user's holds a traced value: nothing can be looked at
    return None


def _concrete(sde: Any) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.uniform(0.5, 1.5, a.shape).astype(a.dtype) if isinstance(a, Tracer) else a, sde)
