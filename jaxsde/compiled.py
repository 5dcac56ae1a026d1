"""Compiled functions of objects that come and go.

JAX keeps what it has compiled for as long as the function lives that was compiled, with the static parts of its arguments: a
user's loss among them. A process that works on many losses would keep every program it ever had; on Linux the abort comes at
some 65000 mappings of memory (`vm.max_map_count`), of which a program takes from three to two hundred. So each structure has a
function of its own here, and the one not used for longest goes, with its programs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

_KEPT = 256


def jitted(function: Callable[..., Any], tree: Any, *, each: bool = False) -> Callable[..., Any]:
    """`jax.jit(function)`, to be called with what is like `tree` first; with `each`, over the first axis of the second."""
    return _own(function, jax.tree.structure(tree), each)


@functools.lru_cache(maxsize=_KEPT)
def _own(function: Callable[..., Any], structure: Any, each: bool) -> Callable[..., Any]:
    return jax.jit(jax.vmap(function, in_axes=(None, 0)) if each else functools.partial(function))
