"""A chain in which an array occurs once, however many of its parts hold it: the data of an SDE's drift and of its noise."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..struct import static, struct
from ..types import Chain, Drawn, Draws


@struct
class Once:
    """`structure` with the leaves arrays[i] for i in `where`."""

    arrays: list
    where: tuple[int, ...] = static()
    structure: Any = static()

    @property
    def chain(self) -> Any:
        return self.structure.unflatten([self.arrays[i] for i in self.where])

    @property
    def dt(self) -> Any:
        return self.chain.dt

    @property
    def dim(self) -> int:
        return self.chain.dim

    @property
    def draws(self) -> Draws:
        return self.chain.draws

    def init(self, x0: Float[Array, " d"]) -> PyTree:
        return self.chain.init(x0)

    def step(self, state: PyTree, drawn: Drawn, k: Any) -> PyTree:
        return self.chain.step(state, drawn, k)

    def position(self, state: PyTree) -> Float[Array, " d"]:
        return self.chain.position(state)


def once(chain: Chain) -> Chain:
    """The chain, with one leaf for all that are the same array. (Single numbers stay: that two of them are the same object says
    little, and another structure would be compiled anew.) A compiler sees then that what is made of them is the same, too."""
    leaves, structure = jax.tree.flatten(chain)
    first: dict[int, int] = {}
    arrays, where = [], []
    for leaf in leaves:
        key = id(leaf)
        if not np.ndim(leaf) or key not in first:
            first[key] = len(arrays)
            arrays.append(leaf)
        where.append(first[key])
    return chain if len(arrays) == len(leaves) else Once(arrays, tuple(where), structure)
