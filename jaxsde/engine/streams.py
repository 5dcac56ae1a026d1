"""Which cipher a run draws from: a chain that is the same but for that."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float, PyTree

from .. import random
from ..struct import static, struct
from ..types import Chain, Drawn, Draws


@struct
class Drawing:
    """A chain with other `draws`."""

    chain: Any
    draws: Draws = static()

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


def streamed(chain: Chain, stream: str) -> Chain:
    """The chain, drawing from the stream of that name. `ValueError` for another name than those of `random.STREAMS`."""
    if stream not in random.STREAMS:
        raise ValueError(f"stream must be one of {', '.join(random.STREAMS)}; got {stream!r}")
    rounds = random.STREAMS[stream]
    return chain if rounds == chain.draws.rounds else Drawing(chain, chain.draws._replace(rounds=rounds))
