"""First passages on the line: when a chain first leaves an interval, simulated, and on average from its transition density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..engine.simulate import iterate
from ..struct import static, struct
from ..types import Drawn, Draws

_COUNTED = 1 << 24


@struct
class Renewed:
    """A chain on the line that starts again wherever it leaves (low, high), and rests at its first exit after `horizon` steps.

    Its position is (x, steps, exits). Each chain is then a whole number of passages that does not depend on how long one of them
    is after the last that it counts, so that by Wald's identity E steps = E exits · E (steps of a passage), without a bias.
    """

    chain: Any
    start: Any
    low: Any
    high: Any
    horizon: Any
    draws: Draws = static()
    dim: int = static(default=3)

    @property
    def dt(self) -> Any:
        return self.chain.dt

    def init(self, x0: Any) -> Any:
        return x0

    def step(self, state: Any, drawn: Drawn, k: Any) -> Any:
        start, low, high, horizon = (jnp.asarray(a, state.dtype) for a in (self.start, self.low, self.high, self.horizon))
        x = self.chain.step(state[:1], drawn, k)[0]
        out, rest = (x <= low) | (x >= high), (state[0] <= low) | (state[0] >= high)
        here = jnp.where(out, jnp.where(state[1] + 1 < horizon, start, high), x)
        moved = jnp.stack([here, state[1] + 1, state[2] + jnp.where(out, 1, 0).astype(state.dtype)])
        return jnp.where(rest, state, moved)

    def position(self, state: Any) -> Any:
        return state


def exit_steps(
    chain: Any, start: float, low: float, high: float, *, key: Any, chains: int, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """([steps, exits] of each chain ["c 2"], its group ["c"]): the ratio of their means is the mean number of steps until a chain
    that starts at `start` is outside (low, high).

    A chain counts passages until the first that ends after `horizon` steps, so `horizon` many times a passage makes good use of
    it. `ValueError` where one does not end by 20 horizons, or 2^24 steps: a mean over the others would be too small.
    """
    if not 1 <= horizon < _COUNTED:
        raise ValueError(f"horizon must be at least 1 and below 2^24, which is as far as a float32 counts; got {horizon}")
    begin, below, above, last = (jnp.asarray(a, float) for a in (start, low, high, horizon))
    renewed = Renewed(chain, begin, below, above, last, chain.draws)
    limit = min(20 * horizon, _COUNTED)
    resting = np.zeros(chains, bool)
    origin, chunk = np.array([start, 0.0, 0.0], np.float32), max(horizon // 3, 1)
    for run in iterate(renewed, origin, key=key, chains=chains, steps=limit, chunk=chunk):
        x, steps, exits = run.positions.T
        resting = x >= np.float32(high)
        if resting.all():
            return np.stack([steps, exits], axis=1).astype(np.float64), run.group
    raise ValueError(f"{(~resting).sum()} of {chains} chains still have a passage under way after {limit} steps")


def mean_exit_steps(density: Callable[[np.ndarray, np.ndarray], np.ndarray], start: float, cells: np.ndarray) -> float:
    """The mean number of steps τ until a chain leaves, exactly: τ(x) = 1 + ∫ p(x → y) τ(y) dy over the interval inside.

    `density(x, y)` is p; `cells` are the edges of the cells on which τ is taken as constant (midpoint rule): second order in their
    width, so two widths are extrapolated.
    """
    halved = np.sort(np.r_[cells, (cells[1:] + cells[:-1]) / 2])
    coarse, fine = (_mean_exit_steps(density, start, edges) for edges in (cells, halved))
    return (4 * fine - coarse) / 3


def _mean_exit_steps(density: Callable[[np.ndarray, np.ndarray], np.ndarray], start: float, edges: np.ndarray) -> float:
    y, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    inner = density(y[:, None], y[None, :]) * width
    tau = np.linalg.solve(np.eye(len(y)) - inner, np.ones(len(y)))
    return float(1 + (density(np.array([[start]]), y[None, :]) * width)[0] @ tau)
