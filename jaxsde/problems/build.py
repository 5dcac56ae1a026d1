"""From an experiment's names to a problem: the catalogue's functions, or those of a plugin file, with their parameters.

A plugin is a Python file that the user names on the command line, `--plugin FILE`. It defines either

    example_loss(params, example)      with example = (x, y); perhaps `params`, the initial pytree (zeros ["p"] otherwise)
    loss(params)                       and `params`; perhaps `noise_covariance`, a number, list, matrix or function of params
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
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
        raise e.error("loss.start" if "initial point" in str(error) else "loss.name", str(error)) from error


def _from_plugin(e: Any) -> FiniteSum | Potential:
    names = _run(e)
    example_loss, loss, params = (names.get(n) for n in ("example_loss", "loss", "params"))
    if callable(example_loss) and not callable(loss):
        table = e.table()
        if table is None:
            raise e.error("data.name", "example_loss needs examples; give [data] name or file, or --data")
        first = np.zeros(table.x.shape[1]) if params is None else params
        return finite_sum(example_loss, _examples(table, "real"), _moved(e, first))
    if not callable(loss) or callable(example_loss):
        raise e.error("plugin", "must define one of example_loss(params, example) and loss(params)")
    if params is None and e.loss.start is None:
        raise e.error("plugin", "defines loss(params) and no params; add the initial point, params = …")
    first = np.asarray(e.loss.start, np.float64) if params is None else _moved(e, params)
    return potential(loss, first, noise_covariance=names.get("noise_covariance", 1.0))


def _run(e: Any) -> dict[str, Any]:
    """The names that the plugin file defines, by running it."""
    spec = importlib.util.spec_from_file_location("jaxsde_plugin", e.plugin)
    if spec is None or spec.loader is None:
        raise e.error("plugin", "is no Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise e.error("plugin", f"stopped with {type(error).__name__}: {error}; correct it") from error
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
