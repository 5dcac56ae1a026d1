"""Chains as the executors take them: drawing from the stream of the run, and with an array once, however many of their parts
hold it (the data of an SDE's drift and of its noise)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import random
from ..struct import static, struct
from ..types import Chain, Drawn, Draws


class Wrapped:
    """What `chain` does."""

    chain: Any

    @property
    def dt(self) -> Any:
        return self.chain.dt

    @property
    def dim(self) -> int:
        return self.chain.dim

    def init(self, x0: Float[Array, " d"]) -> PyTree:
        return self.chain.init(x0)

    def step(self, state: PyTree, drawn: Drawn, k: Any) -> PyTree:
        return self.chain.step(state, drawn, k)

    def position(self, state: PyTree) -> Float[Array, " d"]:
        return self.chain.position(state)


@struct
class Drawing(Wrapped):
    """A chain with other `draws`."""

    chain: Any
    draws: Draws = static()


@struct
class Once(Wrapped):
    """The chain of this `structure` with the leaves arrays[i] for i in `where`."""

    arrays: list
    where: tuple[int, ...] = static()
    structure: Any = static()

    @property
    def chain(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.structure.unflatten([self.arrays[i] for i in self.where])

    @property
    def draws(self) -> Draws:
        return self.chain.draws


def streamed(chain: Chain, stream: str) -> Chain:
    """The chain, drawing from the stream of that name. `ValueError` for another name than those of `random.STREAMS`."""
    if stream not in random.STREAMS:
        raise ValueError(f"stream must be one of {', '.join(random.STREAMS)}; got {stream!r}")
    return chain if stream == chain.draws.stream else Drawing(chain, chain.draws._replace(stream=stream))


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
