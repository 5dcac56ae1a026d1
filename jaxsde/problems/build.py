"""From an experiment's names to a problem: the catalogue's functions, or those of a plugin, with their parameters."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..errors import ExperimentError
from . import finite_sums, potentials
from .problem import FiniteSum, Potential, finite_sum, potential


def build_problem(experiment: Any) -> FiniteSum | Potential:
    """The problem that an `Experiment` names. `ExperimentError` where start, loss and data do not fit together."""
    e, given = experiment, experiment.loss.parameters
    try:
        if e.plugin:
            return _from_plugin(e)
        if e.family == "potentials":
            entry = potentials.POTENTIALS[e.loss.name]
            first = entry.start if isinstance(entry.start, tuple) else entry.start(**_taken(entry.start, given))
            start = np.asarray(e.loss.start or first, np.float64)
            function = _with(entry.function, given)
            return potential(function, start, noise_covariance=np.asarray(e.noise.covariance, np.float64))
        entry, table = finite_sums.LOSSES[e.loss.name], e.table()
        params = entry.start(table.x.shape[1], table.classes, **_taken(entry.start, given))
        return finite_sum(_with(entry.function, given), _examples(table, entry.target), _moved(e, params))
    except ExperimentError:
        raise
    except (ValueError, TypeError) as error:
        key = "loss.start" if "initial point" in str(error) else "plugin" if e.plugin else "loss.name"
        raise e.error("noise.covariance" if "noise_covariance" in str(error) else key, str(error)) from error
    except Exception as error:
        if not e.plugin:
            raise
        words = str(error).split("\n", 1)[0]  # the user's own code, first called here
        raise e.error("plugin", f"{e.plugin.function} stopped with {type(error).__name__}: {words}; correct it") from error


def _from_plugin(e: Any) -> FiniteSum | Potential:
    names = _run(e)
    params = names.get("params")
    if not callable(names.get(e.plugin.function)):
        raise e.error("plugin", f"{e.plugin.function} must be a function")
    if e.plugin.function == "example_loss":
        table = e.table()
        first = np.zeros(table.x.shape[1]) if params is None else params
        return finite_sum(names["example_loss"], _examples(table, e.plugin.target), _moved(e, first))
    noise = names.get("noise_covariance", 1.0) if e.noise is None else np.asarray(e.noise.covariance, np.float64)
    return potential(names["loss"], _moved(e, params), noise_covariance=noise)


def _run(e: Any) -> dict[str, Any]:
    """The names that the plugin file defines, by running it."""
    module = types.ModuleType("jaxsde_plugin")
    module.__file__ = e.plugin.file
    try:
        exec(compile(Path(e.plugin.file).read_bytes(), e.plugin.file, "exec"), vars(module))
    except (Exception, SystemExit) as fault:
        words = str(fault).split("\n", 1)[0]
        raise e.error("plugin", f"stopped with {type(fault).__name__}: {words}; correct it") from fault
    return vars(module)


def _examples(table: Any, target: str) -> tuple[np.ndarray, np.ndarray]:
    return table.x, table.y.astype(np.int32) if target == "classes" else table.y


def _moved(e: Any, params: Any) -> Any:
    """`params`, or a pytree of the same shapes with the numbers of `loss.start`."""
    if e.loss.start is None:
        return params
    leaves, tree = jax.tree.flatten(params)
    sizes = [int(np.size(leaf)) for leaf in leaves]
    if sum(sizes) != len(e.loss.start):
        raise e.error("loss.start", f"must have {sum(sizes)} numbers, one for each parameter")
    parts = np.split(np.asarray(e.loss.start, np.float64), np.cumsum(sizes)[:-1])
    return jax.tree.unflatten(tree, [p.reshape(np.shape(leaf)) for p, leaf in zip(parts, leaves, strict=True)])


def _taken(function: Callable[..., Any], parameters: dict[str, Any]) -> dict[str, Any]:
    names = inspect.signature(function).parameters
    return {k: _tuples(v) for k, v in parameters.items() if k in names}


def _with(function: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    taken = _taken(function, parameters)
    return functools.partial(function, **taken) if taken else function


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
