"""What an executor makes of a structure of chain, made once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from .graph import Unsupported

T = TypeVar("T")


class Plans(Generic[T]):
    """`make(chain, state, dtype, *static)`, remembered by structure, shapes and types. What could not be taken apart once is
    not tried again."""

    def __init__(self, make: Callable[..., T], kept: int = 64):
        self.make, self.kept = make, kept
        self.found: OrderedDict[Any, T | Unsupported] = OrderedDict()

    def __call__(self, chain: Any, state: Any, dtype: Any, *static: Any) -> T:
        leaves, structure = jax.tree.flatten((chain, state))
        wide_types = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
        shapes = tuple((np.shape(a), np.dtype(a.dtype)) for a in leaves)
        key = (structure, shapes, np.dtype(dtype), wide_types, *static)
        if key not in self.found:
            try:
                self.found[key] = self.make(chain, state, np.dtype(dtype), *static)
            except Unsupported as error:
                self.found[key] = error
            while len(self.found) > self.kept:
                self.found.popitem(last=False)
        self.found.move_to_end(key)
        plan = self.found[key]
        if isinstance(plan, Unsupported):
            raise plan
        return plan
