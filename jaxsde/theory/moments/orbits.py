"""Orbits: where SGD settles under one order of the data, and their law over the orders that "shuffle_once" may draw.

Along an order σ an epoch is the affine map y' = A_σ y + u_σ, and the chain settles on the orbit through y_σ = (I − A_σ)⁻¹ u_σ. All
orders are enumerated where they are few; for equal Hessians y_σ is linear in the gradients, and its covariance known; else
orders are sampled. The law of the positions over orders is the same at each position in the epoch: an order turned is an order.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from .epochs import FEWEST, GROUPS, Epoch, last, relative_error, sampled_orders

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


def along_orders(
    epoch: Epoch, sampling: str, start: np.ndarray, steps: list[int]
) -> tuple[np.ndarray, np.ndarray, float | None, str]:
    """Means ["k d"] and covariances ["k d d"] of the position (about the rest) over orders after each of `steps`, which grow, from
    a state about the rest; the relative standard error of the last where orders are sampled; and how they were found."""
    d = epoch.dim
    if sampling == "shuffle_once" and epoch.examples.equal:
        means = np.stack([(np.linalg.matrix_power(epoch.drift, k) @ start)[:d] for k in steps])
        spread = np.stack([_spread(epoch, _truncated(epoch, k))[:d, :d] for k in steps])
        return means, spread, None, "all orders, for equal Hessians"
    orders, sampled = orders_of(epoch, sampling)
    corner = np.tile(np.eye(epoch.size + 1)[-1:], (len(orders), 1, 1))
    turns, found = np.concatenate([epoch.whole(orders), corner], axis=1), []
    for k in steps:
        y = np.linalg.matrix_power(turns, k // epoch.steps) @ np.append(start, 1.0)
        rest = last(epoch.maps(orders, k % epoch.steps))
        found.append(np.einsum("kij,kj->ki", rest, y)[:, :d])
    e = np.stack(found)
    means = e.mean(axis=1)
    e = e - means[:, None]
    covariances = np.einsum("tki,tkj->tij", e, e) / len(orders)
    if not sampled:
        method = "the order of the data" if sampling == "cyclic" else f"all orders of {epoch.examples.count} examples"
        return means, covariances, None, method
    parts = np.stack([_second(part[None]) for part in np.split(e[-1], GROUPS)])
    return means, covariances, relative_error(parts, covariances[-1]), f"{len(orders)} sampled orders"


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
    gradients. The same at every position: turning an order is an order."""
    whole = np.linalg.matrix_power(epoch.drift, epoch.steps)
    if np.abs(np.linalg.eigvals(whole)).max() >= 1:
        raise ValueError("no stationary law: the mean is unstable; a smaller learning rate lowers the spectral radius of an epoch")
    return _spread(epoch, np.linalg.inv(np.eye(epoch.size) - whole) @ _weights(epoch, epoch.steps))


def _truncated(epoch: Epoch, steps: int) -> np.ndarray:
    """W_p after so many steps: of whole rounds first, then of the last one, which is not finished."""
    rounds, more = divmod(steps, epoch.steps)
    size, power = epoch.size, np.linalg.matrix_power
    turn = np.block([[power(epoch.drift, epoch.steps), np.eye(size)], [np.zeros((size, size)), np.eye(size)]])
    summed = power(turn, rounds)[:size, size:]  # the sum of (A^M)ⁱ over i < rounds
    return power(epoch.drift, more) @ summed @ _weights(epoch, epoch.steps) + _weights(epoch, more)


def _weights(epoch: Epoch, steps: int) -> np.ndarray:
    """W_p of y' = Σ_p W_p g_σ(p) after the first so many steps of a round, of each position p, or where batches do not straddle
    the end of an order of each batch, which share one ["P D d"]."""
    n, b, size = epoch.examples.count, epoch.batch_size, epoch.size
    visits = epoch.steps * b // n  # of each example in a round
    if visits > 1 and n * size * epoch.dim > 1 << 27:
        raise ValueError(f"the law under shuffle_once is not covered where batches of {b} do not divide {n} examples this many")
    weights = np.zeros((n if visits > 1 else epoch.steps, size, epoch.dim))
    power = epoch.update.push / b
    for k in reversed(range(steps)):
        if visits > 1:
            weights[np.arange(k * b, (k + 1) * b) % n] += power
        else:
            weights[k] = power
        power = epoch.drift @ power
    return weights


def _spread(epoch: Epoch, weights: np.ndarray) -> np.ndarray:
    """Covariance of Σ_p W_p g_σ(p): Cov(g_σ(p), g_σ(q)) is C where p = q and −C/(n − 1) elsewhere."""
    n, c = epoch.examples.count, epoch.examples.covariance
    each = n // len(weights)  # positions that share a weight
    total = each * weights.sum(axis=0)
    squares = each * np.einsum("pij,jk,plk->il", weights, c, weights, optimize=True)
    return n / (n - 1) * squares - total @ c @ total.T / (n - 1)
