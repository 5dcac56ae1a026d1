"""The course of a mean in time: block means over equal windows, as many as memory was given, however long the run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..struct import static, struct
from .sums import Count, Sum, add, cleared, count_up, fold, integers, no_count, no_sum, value, whole, words


class Blocks(NamedTuple):
    """`counted` ["c"] positions of the chain; `sums` ["c windows d"] over each window; `seen` and `length` ["1"], shared by
    all chains: the samples so far and the samples of a window."""

    counted: Count
    sums: Sum
    seen: Any
    length: Any


@struct
class Course:
    """The mean over chains in each of up to `windows` equal stretches of the run, in order: ["w d"], windows/2 ≤ w ≤ windows.

    When every window is full, neighbours are joined and a window becomes twice as long, so memory does not depend on the
    number of steps. The last window counts once it is full. A drift from the first half to the second says that the law is
    not stationary yet. Raises ValueError unless `windows` is even and at least 4.
    """

    windows: int = static()

    def __init__(self, windows: int = 8):
        if isinstance(windows, bool) or int(windows) != windows or windows < 4 or windows % 2:
            raise ValueError(f"Course: windows must be an even integer of at least 4, got {windows!r}")
        object.__setattr__(self, "windows", int(windows))

    def init(self, x: Float[Array, "c d"]) -> Blocks:
        c, d = x.shape
        none = jnp.zeros((1,), jnp.uint32)
        return Blocks(no_count((c,)), no_sum((c, self.windows, d), x.dtype), none, none + 1)

    def update(self, acc: Blocks, t: Any, x: Float[Array, "c d"], alive: Bool[Array, " c"]) -> Blocks:
        full = acc.seen[0] == acc.length[0] * jnp.uint32(self.windows)

        def halved(a: Array) -> Array:
            joined = a[:, ::2] + a[:, 1::2]
            return jnp.where(full, jnp.concatenate([joined, jnp.zeros_like(joined)], axis=1), a)

        # joining plain parts loses no more than a rounding, once per doubling
        sums = Sum(halved(acc.sums.hi), halved(acc.sums.lo))
        length = jnp.where(full, acc.length * 2, acc.length)
        slot = acc.seen[0] // length[0]
        here = (jnp.arange(self.windows, dtype=jnp.uint32) == slot)[None, :, None]
        sums = add(sums, jnp.where(here, x[:, None, :], jnp.zeros((), x.dtype)))
        kept = cleared((count_up(acc.counted, 1), sums), alive)
        return Blocks(kept[0], kept[1], acc.seen + 1, length)

    def merge(self, acc: Blocks) -> Blocks:
        def combine(a: tuple, b: tuple) -> tuple:
            return a[0] + b[0], a[1] + b[1]

        counted, sums = fold((integers(acc.counted), value(acc.sums)), combine)
        return Blocks(words(counted), whole(sums), np.asarray(acc.seen).max(keepdims=True), np.asarray(acc.length)[:1])

    def result(self, acc: Blocks) -> Float[np.ndarray, "w d"]:
        """NaN where no window is full or no chain lives."""
        seen, length = int(np.asarray(acc.seen)[0]), int(np.asarray(acc.length)[0])
        chains = integers(acc.counted)[0] / max(seen, 1)
        if not seen or not chains:
            return np.full((1, value(acc.sums).shape[-1]), np.nan)
        return value(acc.sums)[0, : seen // length] / (length * chains)


COURSE = {"course": Course}
