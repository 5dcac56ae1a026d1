"""A chain whose position is its whole state, so that statistics see what it otherwise hides: velocities, momenta, averages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..struct import static, struct
from ..types import Chain, Drawn, Draws


@struct
class Whole:
    """The same chain, with its state as one flat vector: the position first, then the rest. Made by `whole`."""

    chain: Any
    draws: Draws = static()
    dim: int = static()

    @property
    def dt(self) -> Any:
        return self.chain.dt

    def init(self, x0: Float[Array, " e"]) -> PyTree:
        shape = jax.eval_shape(self.chain.init, jax.ShapeDtypeStruct((self.chain.dim,), x0.dtype))
        leaves, tree = jax.tree.flatten(shape)
        ends = np.cumsum([0, *(int(np.prod(a.shape)) for a in leaves)])
        parts = zip(ends, ends[1:], leaves, strict=False)
        return jax.tree.unflatten(tree, [x0[a:b].reshape(leaf.shape) for a, b, leaf in parts])

    def step(self, state: PyTree, drawn: Drawn, k: Any) -> PyTree:
        return self.chain.step(state, drawn, k)

    def position(self, state: PyTree) -> Float[Array, " e"]:
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(state)])

    def begin(self, x0: Any) -> Array:
        """The whole state of a fresh chain at the position x0 ["d"], for `simulate` to start from."""
        return ravel_pytree(self.chain.init(jnp.asarray(x0, float)))[0]


def whole(chain: Chain) -> Any:
    """The chain with its whole state as the position: [Φ, v] for momentum, [q, p] for a kinetic SDE; itself where that is all.

    It starts from a whole state: `w.begin(problem.start)` is the fresh one there. `ValueError` for a state that holds integers
    (Adam counts its steps) or does not begin with the position.
    """
    if not isinstance(chain, Chain):
        raise TypeError(f"whole is for a chain (from sgd, integrate, …), got {type(chain).__name__}")
    shape = jax.eval_shape(chain.init, jax.ShapeDtypeStruct((chain.dim,), jnp.result_type(float)))
    leaves = jax.tree.leaves(shape)
    if any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ValueError("the state of this chain holds integers (a count of steps), which are no part of a position in floats")
    size = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    if size == chain.dim:
        return chain
    made = Whole(chain, chain.draws, size)
    start = jnp.arange(1.0, chain.dim + 1)
    if not np.array_equal(np.asarray(made.begin(start))[: chain.dim], np.asarray(start)):
        raise ValueError("the state of this chain does not begin with its position")
    return made
