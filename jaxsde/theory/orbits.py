"""Orbits: where SGD settles under one order of the data, and their law over the orders that "shuffle_once" may draw.

Along an order σ an epoch is the affine map y' = A_σ y + u_σ, and the chain settles on the orbit through y_σ = (I − A_σ)⁻¹ u_σ. All
orders are enumerated where they are few; for equal Hessians y_σ is linear in the gradients, and its covariance known; else
orders are sampled. The law of the positions over orders is the same at each position in the epoch: an order turned is an order.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from .epochs import FEWEST, GROUPS, Epoch, relative_error, sampled_orders

# Orders that are enumerated.
ENUMERATED = 50_000


def orbits(
    epoch: Epoch, sampling: str, wanted: list[int]
) -> tuple[np.ndarray, np.ndarray, float | None, str]:
    """Mean and covariance of the position (about the rest) over orders and the wanted positions, the relative standard error where
    orders are sampled, and how it was found."""
    n, d = epoch.examples.count, epoch.dim
    if sampling == "shuffle_once" and epoch.examples.equal:
        return np.zeros(d), _equal(epoch)[:d, :d], None, "orbits of all orders, for equal Hessians"
    orders, sampled = orders_of(epoch, sampling)
    x = _orbits(epoch, orders, wanted)
    mean = x.mean(axis=(0, 1))
    covariance = _second(x - mean)
    if sampling == "cyclic":
        return mean, covariance, None, "orbit of the order of the data"
    if not sampled:
        return mean, covariance, None, f"orbits of all orders of {n} examples"
    parts = np.stack([_second(part) for part in np.split(x - mean, GROUPS, axis=1)])
    return mean, covariance, relative_error(parts, covariance), f"orbits of {len(orders)} orders"


def orders_of(epoch: Epoch, sampling: str) -> tuple[np.ndarray, bool]:
    """The orders of the data ["K n"] that a law is averaged over, all of them where they are few, and whether they are a sample."""
    n = epoch.examples.count
    if sampling == "cyclic":
        return np.arange(n)[None], False
    if n <= 12 and math.factorial(n) <= ENUMERATED:
        return np.array(list(itertools.permutations(range(n)))), False
    count = epoch.affordable()
    if count < FEWEST:
        raise ValueError(
            f"the law under {sampling} is not covered for {n} examples with different Hessians in {epoch.dim} dimensions: its "
            "orders are too many to enumerate and too long to sample"
        )
    return sampled_orders(n, count), True


def radii(epoch: Epoch, orders: np.ndarray) -> np.ndarray:
    """The spectral radius of an epoch along each order: the chain settles where it is below 1."""
    whole = epoch.whole(orders)
    return np.abs(np.linalg.eigvals(whole[..., :-1])).max(axis=-1)


def _orbits(epoch: Epoch, orders: np.ndarray, wanted: list[int]) -> np.ndarray:
    """Where the orbits are at the wanted positions ["P K d"]."""
    whole = epoch.whole(orders)
    a, u = whole[..., :-1], whole[..., -1:]
    radius = np.abs(np.linalg.eigvals(a)).max(axis=-1)
    if (radius >= 1).any():
        share = 100 * float(np.mean(radius >= 1))
        which = "the order of the data" if len(orders) == 1 else f"{share:.3g} % of the orders of the data"
        raise ValueError(
            f"no stationary law: along {which} an epoch does not contract (spectral radius {radius.max():.6g}, must be below 1); "
            "a smaller learning rate or a larger batch lowers it"
        )
    y = np.linalg.solve(np.eye(epoch.size) - a, u)
    course = enumerate(epoch.maps(orders, max(wanted)))
    return np.stack([(m[..., :-1] @ y + m[..., -1:])[:, : epoch.dim, 0] for k, m in course if k in wanted])


def _second(e: np.ndarray) -> np.ndarray:
    return np.einsum("pki,pkj->ij", e, e) / (e.shape[0] * e.shape[1])


def _equal(epoch: Epoch) -> np.ndarray:
    """Covariance of the orbits over all orders where every example has the same Hessian: y_σ = Σ_p W_p g_σ(p) is linear in the
    gradients, and Cov(g_σ(p), g_σ(q)) = C (p = q) or −C/(n − 1). The same at every position: turning an order is an order."""
    e, n, b, size = epoch.examples, epoch.examples.count, epoch.batch_size, epoch.size
    a, g, c = epoch.drift, epoch.update.push, e.covariance
    whole = np.linalg.matrix_power(a, epoch.steps)
    if np.abs(np.linalg.eigvals(whole)).max() >= 1:
        raise ValueError("no stationary law: the mean is unstable; a smaller learning rate lowers the spectral radius of an epoch")
    visits = epoch.steps * b // n  # of each example in a round
    if visits > 1 and n * size * epoch.dim > 1 << 27:
        raise ValueError(f"the law under shuffle_once is not covered where batches of {b} do not divide {n} examples this many")
    back = np.linalg.inv(np.eye(size) - whole)
    weights = np.zeros((n if visits > 1 else epoch.steps, size, epoch.dim))
    power = g / b
    for k in reversed(range(epoch.steps)):
        if visits > 1:
            weights[np.arange(k * b, (k + 1) * b) % n] += power
        else:
            weights[k] = power
        power = a @ power
    weights = back @ weights
    each = 1 if visits > 1 else b  # positions that share a weight
    total = each * weights.sum(axis=0)
    squares = each * np.einsum("pij,jk,plk->il", weights, c, weights, optimize=True)
    return n / (n - 1) * squares - total @ c @ total.T / (n - 1)
