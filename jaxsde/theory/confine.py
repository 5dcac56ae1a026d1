"""Whether exp(−L/T) can be normalised: where the minima of a loss lie, and how fast it grows far away.

The least loss on a sphere of radius r, over T, grows like p · log r, with p measured between two far shells; the integral of
r^(d−1) e^(−u) exists when p > d. Flat directions, periodic losses, losses that fall for ever, valleys that lead to infinity and
logarithmic tails at too high a temperature all show as p ≤ d. (A valley that does not rise is taken not to confine, though one
that narrows fast enough would.)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from . import float64
from .minimum import descend

# A well whose density is below e^(−DEEP) of the highest is left out.
DEEP = 42.0


def wells(wide: Any) -> tuple[np.ndarray, np.ndarray]:
    """Minima found from the problem's start and from random points around it and the origin ["k d"], and their losses ["k"].

    Lowest first. `ValueError` when a descent runs away: the loss falls for ever.
    """
    start = np.asarray(wide.start)
    first = descend(wide, start)
    rng = np.random.default_rng(2)
    size = 1 + max(np.abs(start).max(), np.abs(first).max() if np.isfinite(first).all() else 0.0)
    points = [start, np.zeros_like(start)]
    for scale in (0.5, 2.0, 5.0):
        points += list(first + scale * size * rng.normal(size=(8 * len(start), len(start))))
    ends, values = [], []
    for x in [start, *points]:
        if not np.isfinite(float64.evaluate(float64.loss, wide, x)):
            continue
        end = descend(wide, x)
        value = float(float64.evaluate(float64.loss, wide, end))
        if np.isnan(value) or value == -np.inf or np.abs(end).max() > 1e8 * size:
            raise ValueError(
                f"no Gibbs law: the loss falls without bound (it is {value:.4g} at |Φ| = {np.linalg.norm(end):.3g})"
            )
        ends.append(end)
        values.append(value)
    order = np.argsort(values)
    return np.asarray(ends)[order], np.asarray(values)[order]


def tail_power(wide: Any, temperature: float, centre: np.ndarray, size: float, directions: np.ndarray) -> float:
    """p: the least slope of (L − L(centre))/T against log r over the rays, between shells 1e3 and 1e6 sizes away.

    `ValueError` when p ≤ d, naming the ray: there is no Gibbs law at this temperature.
    """
    d = len(centre)
    rng = np.random.default_rng(3)
    rays = np.concatenate([directions, np.eye(d), rng.normal(size=(64 * d if d > 1 else 1, d))])
    rays = np.concatenate([rays, -rays]) / np.linalg.norm(rays, axis=1)[np.r_[: len(rays), : len(rays)], None]
    if d > 1:
        rays = np.concatenate([rays, _low_rays(wide, centre, size, rays)])
    # From the centre, and from the origin, where the valleys of products of weights run along the axes. Several radii a shell,
    # at irregular spacings: the least of a periodic loss is seen on each.
    spread = np.sort(rng.uniform(size=48))
    shells = []
    for inner in (1e2, 1e5):
        radii = size * inner * 10**spread
        points = np.stack([o + radii[None, :, None] * rays[:, None, :] for o in (centre, np.zeros(d))], axis=1)
        u = float64.evaluate_many(float64.loss, wide, points.reshape(-1, d), cost=_cost(wide)).reshape(len(rays), -1)
        shells.append(np.where(np.isnan(u), np.inf, u).min(axis=1) / temperature)
    near, far = shells
    with np.errstate(invalid="ignore"):
        power = np.where(np.isinf(far) & (far > 0), np.inf, (far - near) / np.log(1e3))
    worst = int(power.argmin())
    if not power[worst] > 1.02 * d:
        ray = np.array2string(rays[worst], precision=3, threshold=6)
        how = "falls" if power[worst] < -0.5 else "does not rise" if power[worst] < 0.5 else "rises too slowly"
        raise ValueError(
            f"no Gibbs law: exp(−L/T) has no finite integral at T = {temperature:.4g}, the loss {how} along {ray}; "
            "add a regulariser" + (" or lower the temperature" if how == "rises too slowly" else "")
        )
    return float(power[worst])


def _low_rays(wide: Any, centre: np.ndarray, size: float, rays: np.ndarray) -> np.ndarray:
    """Rays towards the lowest points of far spheres, found by descent along the sphere: where curved valleys lead."""
    found = []
    for radius in (1e3 * size, 1e6 * size):
        values = float64.evaluate_many(float64.loss, wide, centre + radius * rays, cost=_cost(wide))
        for i in np.argsort(np.where(np.isnan(values), np.inf, values))[:4]:
            sphere = float64.widen((wide, centre, np.float64(radius)))
            result = scipy.optimize.minimize(
                _on_sphere, rays[i], (sphere,), "L-BFGS-B", jac=True, options={"maxiter": 100}
            )
            if np.isfinite(result.x).all() and np.linalg.norm(result.x) > 0:
                found.append(result.x / np.linalg.norm(result.x))
    return np.asarray(found).reshape(-1, len(centre))


def _on_sphere(x: np.ndarray, sphere: Any) -> tuple[float, np.ndarray]:
    # The logarithm has the same minima and a sane scale, whatever the power of the loss.
    value, slope = float64.evaluate(_log_loss_at, sphere, x)
    return (float(value), slope) if np.isfinite(value) and np.isfinite(slope).all() else (1e300, np.zeros_like(x))


def _log_loss_at(sphere: Any, x: Any) -> Any:
    problem, centre, radius = sphere
    low = problem.loss(centre)

    def height(y: Any) -> Any:
        u = problem.loss(centre + radius * y / jnp.linalg.norm(y)) - low
        return jnp.sign(u) * jnp.log1p(jnp.abs(u))

    return jax.value_and_grad(height)(x)


def _cost(wide: Any) -> int:
    return wide.dim * max(1, min(wide.examples, 4096))
