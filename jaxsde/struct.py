"""`@struct`: a frozen dataclass that is a pytree. Fields are leaves unless declared `static()`.

Objects are data: a learning rate, a data set or a noise matrix is a leaf that `jit` takes as an argument, so a new value
never recompiles and a sweep is a `vmap`. Functions and sizes are static and part of the compiled program's identity.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np
from jax.core import Tracer

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """Declares a field as static: hashable, compared by value, not traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def struct(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass and registers it as a pytree.

    Unflattening never runs `__init__` or `__post_init__` (JAX unflattens with tracers and sentinels, which no validation
    should see), so a constructor may check its arguments freely.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    leaves = tuple(f.name for f in fields if not f.metadata.get("static"))
    statics = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten(obj: Any):
        return [getattr(obj, n) for n in leaves], tuple(getattr(obj, n) for n in statics)

    def flatten_with_keys(obj: Any):
        return [(jax.tree_util.GetAttrKey(n), getattr(obj, n)) for n in leaves], tuple(getattr(obj, n) for n in statics)

    def unflatten(aux: Any, children: Any):
        obj = object.__new__(cls)
        for n, v in zip(leaves, children, strict=True):
            object.__setattr__(obj, n, v)
        for n, v in zip(statics, aux, strict=True):
            object.__setattr__(obj, n, v)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    if "__repr__" not in cls.__dict__:
        cls.__repr__ = _repr  # type: ignore[assignment]
    return cls


def replace(obj: T, **changes: Any) -> T:
    """A copy of a struct with some fields changed, without running its constructor's checks."""
    new = object.__new__(type(obj))
    for f in dataclasses.fields(obj):  # pyright: ignore[reportArgumentType]
        object.__setattr__(new, f.name, changes.pop(f.name, getattr(obj, f.name)))
    if changes:
        raise TypeError(f"{type(obj).__name__} has no field {', '.join(changes)}")
    return new


def _repr(self: Any) -> str:
    def show(v: Any) -> str:
        if hasattr(v, "shape") and hasattr(v, "dtype"):
            return f"{v}" if v.shape == () and not isinstance(v, Tracer) else f"{v.dtype}{list(v.shape)}"
        if callable(v) and not dataclasses.is_dataclass(v):
            return getattr(v, "__qualname__", type(v).__name__)
        if isinstance(v, dict | list | tuple) and not hasattr(v, "_fields"):
            return jax.tree.map(show, v).__repr__() if len(jax.tree.leaves(v)) < 9 else type(v).__name__ + "(…)"
        return repr(v)

    return f"{type(self).__name__}({', '.join(f'{f.name}={show(getattr(self, f.name))}' for f in dataclasses.fields(self))})"


def component_names(unravel: Any, dim: int) -> list[str]:
    """A name for each component of a flat vector, from the user's own pytree: `['w'][2]`."""
    names: list[str] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(unravel(np.zeros(dim))):
        prefix = jax.tree_util.keystr(path) or "params"
        names += [prefix + "".join(f"[{j}]" for j in index) for index in np.ndindex(*np.shape(leaf))]
    return names


def check_gradient(gradient: np.ndarray, unravel: Any) -> None:
    """`ValueError` with the name of the first component of a gradient ["d"] that is not finite."""
    if not np.isfinite(gradient).all():
        i = int(np.flatnonzero(~np.isfinite(gradient))[0])
        raise ValueError(
            f"the gradient at the initial point is {gradient[i]} in component {component_names(unravel, len(gradient))[i]}: "
            "start where it is finite"
        )
