"""Whether exp(−L/T) can be normalised: where the minima of a loss lie, and how fast it grows far away.

The least loss on a sphere of radius r, over T, grows like p · log r, with p measured between two far shells; the integral of
r^(d−1) e^(−u) exists when p > d. Flat directions, periodic losses, losses that fall for ever, valleys that lead to infinity and
logarithmic tails at too high a temperature all show as p ≤ d. (A valley that does not rise is taken not to confine, though one
that narrows fast enough would.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from .. import float64

# A well whose density is below e^(−DEEP) of the highest is left out.
DEEP = 42.0


def wells(wide: Any) -> tuple[np.ndarray, np.ndarray]:
    """Minima found from the problem's start and from random points around it and the origin ["k d"], and their losses ["k"].

    Lowest first. `ValueError` when a descent runs away: the loss falls for ever.
    """
    start = np.asarray(wide.start)
    d = len(start)
    first = _descend(wide, np.stack([start, np.zeros(d)]))[:1]
    size = 1 + max(np.abs(start).max(), np.abs(first).max())
    rng = np.random.default_rng(2)
    spread = [first + scale * size * rng.normal(size=(8 * d, d)) for scale in (0.5, 2.0, 5.0)]
    ends = _descend(wide, np.concatenate([first, start[None], np.zeros((1, d)), *spread]))
    values = float64.evaluate_many(float64.loss, wide, ends, cost=_cost(wide))
    fallen = (values == -np.inf) | ((np.abs(ends).max(axis=1) > 1e8 * size) & (values <= np.nanmin(values)))
    if fallen.any():
        k = int(np.flatnonzero(fallen)[0])
        far = np.abs(ends[k]).max()
        raise ValueError(f"no Gibbs law: the loss falls without bound (it is {values[k]:.4g} at |Φ| = {far:.3g})")
    order = np.argsort(values)
    order = order[np.isfinite(values[order])]
    return ends[order], values[order]


def _descend(wide: Any, x: np.ndarray) -> np.ndarray:
    """Newton descents from all of x ["k d"] at once, damped until each step goes down: H → |H| + μ. A point whose loss is not
    finite stays; one that runs away stops at a distance of 1e12."""
    x = x.copy()
    with np.errstate(all="ignore"):
        value, g, h = _at(wide, x)
        damping = np.full(len(x), 1e-3)
        active = np.isfinite(value) & np.isfinite(g).all(axis=1) & np.isfinite(h).all(axis=(1, 2))
        for _ in range(200):
            if not active.any():
                break
            curvature, vectors = np.linalg.eigh(np.where(active[:, None, None], h, np.eye(x.shape[1])))
            scale = np.maximum(
                np.abs(curvature).max(axis=1), np.linalg.norm(g, axis=1) / (1e-3 + np.abs(x).max(axis=1))
            )
            along = np.einsum("kji,kj->ki", vectors, g) / (np.abs(curvature) + (damping * scale)[:, None] + 1e-300)
            step = -np.einsum("kij,kj->ki", vectors, along)
            new = np.where(active[:, None], x + step, x)
            new_value, new_g, new_h = _at(wide, new)
            better = active & (new_value < value)
            small = np.abs(step).max(axis=1) <= 1e-10 * (1 + np.abs(x).max(axis=1))
            x[better], value[better], g[better], h[better] = (
                new[better],
                new_value[better],
                new_g[better],
                new_h[better],
            )
            damping = np.where(better, damping / 8, damping * 8)
            active &= ~small & (damping < 1e12) & (np.abs(x).max(axis=1) < 1e12)
            active &= np.isfinite(value) & np.isfinite(g).all(axis=1) & np.isfinite(h).all(axis=(1, 2))
    return x


def _at(wide: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cost = _cost(wide)
    d = x.shape[1]
    flat = float64.evaluate_many(_derivatives, wide, x, cost=cost * d)
    return flat[:, 0].copy(), flat[:, 1 : d + 1].copy(), flat[:, d + 1 :].reshape(-1, d, d).copy()


def _derivatives(problem: Any, phi: Any) -> Any:
    return jnp.concatenate([problem.loss(phi)[None], problem.grad(phi), problem.hessian(phi).ravel()])


class Tails(NamedTuple):
    """Unit vectors `rays` ["k d"], and the least loss along each in a shell around 1e3 and in one around 1e6 sizes away ["k"]."""

    rays: np.ndarray
    near: np.ndarray
    far: np.ndarray


def tails(wide: Any, centre: np.ndarray, size: float, directions: np.ndarray) -> Tails:
    """How the loss rises far away; the same for every temperature."""
    d = len(centre)
    rng = np.random.default_rng(3)
    # In many dimensions the flattest directions (they come first), the axes up to a few, and a sample.
    rays = np.concatenate([directions[:8], np.eye(d)[:8], rng.normal(size=(64 * min(d, 3) if d > 1 else 1, d))])
    rays = np.concatenate([rays, -rays]) / np.linalg.norm(rays, axis=1)[np.r_[: len(rays), : len(rays)], None]
    if d > 1:
        rays = np.concatenate([rays, _low_rays(wide, centre, size, rays)])
    # From the centre, and from the origin, where the valleys of products of weights run along the axes. Several radii a shell,
    # at irregular spacings: the least of a periodic loss is seen on each.
    spread = np.sort(rng.uniform(size=48 if d <= 3 else 12))
    shells = []
    for inner in (1e2, 1e5):
        radii = size * inner * 10**spread
        points = np.stack([o + radii[None, :, None] * rays[:, None, :] for o in (centre, np.zeros(d))], axis=1)
        u = float64.evaluate_many(float64.loss, wide, points.reshape(-1, d), cost=_cost(wide)).reshape(len(rays), -1)
        shells.append(np.where(np.isnan(u), np.inf, u).min(axis=1))
    return Tails(rays, *shells)


def tail_power(found: Tails, temperature: float) -> float:
    """p: the least slope of L/T against log r over the rays, between the two shells.

    `ValueError` when p ≤ d, naming the ray: there is no Gibbs law at this temperature.
    """
    rays, near, far = found
    d = rays.shape[1]
    with np.errstate(invalid="ignore"):
        power = np.where(np.isinf(far) & (far > 0), np.inf, (far - near) / (temperature * np.log(1e3)))
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
