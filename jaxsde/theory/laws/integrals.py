"""Integrals of exp(−u) over all of space in one to three dimensions, on boxes that are grown and grids that are refined.

Each minimum gets a box whose faces move out until the density on them is negligible; boxes that meet become one. So wells that
a high barrier separates are integrated apart, each on a grid of its own, and wells that communicate together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Energy = Callable[[np.ndarray], np.ndarray]
_FIRST = {1: 256, 2: 64, 3: 32}
_FACE = {1: 1, 2: 193, 3: 49}


@dataclass(frozen=True, eq=False)
class Box:
    """Coordinates y with Φ = centre + axes y, lo ≤ y ≤ hi; `heavy`: nodes uniform in t, y = sinh t."""

    centre: np.ndarray
    axes: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    heavy: bool

    def grow(self, energy: Energy, moments: int, deep: float) -> Box:
        """The box whose faces all have exp(−u)·|y|^moments below e^(−deep)."""
        box = self
        for _ in range(400):
            grown = box._move_faces(energy, moments, deep)
            if grown is None:
                return box
            box = grown
            if np.abs(np.r_[box.lo, box.hi]).max() > 1e120:
                break
        raise ValueError(
            "no Gibbs law was found: the loss rises too slowly for exp(−L/T) to be integrated; lower the temperature"
        )

    def _move_faces(self, energy: Energy, moments: int, deep: float) -> Box | None:
        """Each face that still carries density moved out, or None when there is no such face."""
        d = len(self.lo)
        lo, hi = self.lo.copy(), self.hi.copy()
        lines = [self.nodes(i, _FACE[d])[0] for i in range(d)]
        moved = False
        for axis in range(d):
            for side in (0, 1):
                edge = np.array([(self.lo, self.hi)[side][axis]])
                y = _points([edge if i == axis else lines[i] for i in range(d)])
                u = energy(self.place(y)) - moments * np.log1p(np.abs(y).max(axis=1))
                if self.heavy:  # density in t: of the size of the tail that is left
                    u = u - np.log(np.hypot(1, y)).sum(axis=1)
                if u.min() < deep:
                    moved = True
                    step = 2 * abs(edge[0]) if self.heavy else 0.3 * (self.hi - self.lo)[axis]
                    if side:
                        hi[axis] += step
                    else:
                        lo[axis] -= step
        return replace(self, lo=lo, hi=hi) if moved else None

    def place(self, y: np.ndarray) -> np.ndarray:
        """Φ at coordinates y ["k d"]."""
        return self.centre + np.einsum("ki,ji->kj", y, self.axes)

    def nodes(self, axis: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Nodes of one axis and the logarithms of their weights."""
        return _nodes(self.lo[axis], self.hi[axis], count, self.heavy)

    def holds(self, y: np.ndarray) -> bool:
        return bool((y >= self.lo).all() and (y <= self.hi).all())

    def meets(self, other: Box) -> bool:
        return bool((self.lo <= other.hi).all() and (other.lo <= self.hi).all())


@dataclass(frozen=True)
class Integral:
    """log ∫ exp(−u), its `error` (the change over the last refinement), the law's mean, covariance and mean u, and the boxes
    with the extent in Φ of what matters in each (`bounds` ["2 d"]) and the nodes an axis that it took."""

    log_z: float
    error: float
    mean: np.ndarray
    covariance: np.ndarray
    mean_energy: float
    boxes: list[tuple[Box, np.ndarray, int]]

    def slice_nodes(self, components: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Nodes of a subspace of Φ's own components ["k c"] and log weights, over what matters of the law."""
        nodes, weights = [], []
        # Intervals that meet are joined: a slice must not count its overlap twice.
        for low, high, box, count in _join([(b[0][components], b[1][components], box, n) for box, b, n in self.boxes]):
            scales = np.linalg.norm(box.axes, axis=1)[components] if box.heavy else np.ones(len(components))
            centre = box.centre[components]
            sides = zip((low - centre) / scales, (high - centre) / scales, strict=True)
            lines = [_nodes(lo, hi, max(count, 128), box.heavy) for lo, hi in sides]
            nodes.append(centre + scales * _points([y for y, _ in lines]))
            weights.append(_points([w for _, w in lines]).sum(axis=1) + np.log(scales).sum())
        return np.concatenate(nodes), np.concatenate(weights)


def integrate(
    energy: Energy, minima: np.ndarray, axes: np.ndarray, moments: int, *, heavy: bool, deep: float, budget: int
) -> Integral:
    """∫ exp(−u) dΦ and the moments of the law, with its minima given ["k d"], lowest first. `moments` is how many exist (0–2)."""
    centre = minima[0]
    ys = np.linalg.solve(axes, (minima - centre).T).T
    boxes: list[Box] = []
    for y in ys:
        if any(b.holds(y) for b in boxes):
            continue
        box = Box(centre, axes, y - 1, y + 1, heavy).grow(energy, moments, deep)
        while True:
            met = [b for b in boxes if b.meets(box)]
            if not met:
                break
            boxes = [b for b in boxes if b not in met]
            lo, hi = np.min([b.lo for b in [box, *met]], axis=0), np.max([b.hi for b in [box, *met]], axis=0)
            box = replace(box, lo=lo, hi=hi).grow(energy, moments, deep)
        boxes.append(box)
    parts = [_refine(box, energy, moments, budget) for box in boxes]
    log_zs = np.array([p.log_z for p in parts])
    log_z = float(np.logaddexp.reduce(log_zs))
    share = np.exp(log_zs - log_z)
    mean = share @ np.array([p.mean for p in parts])
    shifts = np.array([p.mean for p in parts]) - mean
    covariance = np.einsum("k,kij->ij", share, [p.covariance for p in parts]) + (shifts.T * share) @ shifts
    mean_energy = float(share @ [p.mean_energy for p in parts])
    error = float(share @ [p.error for p in parts])
    if error > 1e-3:
        raise ValueError(
            f"the Gibbs law could not be integrated: log Z is uncertain by {error:.2g} with {budget} nodes; the density has "
            "valleys much narrower than its extent (a higher temperature widens them)"
        )
    return Integral(
        log_z, error, mean, covariance, mean_energy, [b for p in parts for b in p.boxes if p.log_z > log_z - 40]
    )


def _refine(box: Box, energy: Energy, moments: int, budget: int) -> Integral:
    """Doubles the nodes of every axis until log Z and the moments that exist settle."""
    d = len(box.lo)
    count = _FIRST[d]
    old = _sum(box, energy, count)
    while (2 * count) ** d <= max(budget, (2 * _FIRST[d]) ** d):
        count *= 2
        new = _sum(box, energy, count)
        scale = float(np.sqrt(np.trace(new.covariance)))
        settled = abs(new.log_z - old.log_z) < 1e-11
        settled &= moments < 1 or bool(np.abs(new.mean - old.mean).max() < 1e-10 * scale)
        settled &= moments < 2 or bool(np.abs(new.covariance - old.covariance).max() < 1e-10 * scale**2)
        old = replace(new, error=abs(new.log_z - old.log_z))
        if settled:
            break
    return old


def _sum(box: Box, energy: Energy, count: int) -> Integral:
    """The integral with `count` nodes an axis, one slab of the first axis at a time so that memory stays that of a slab."""
    d = len(box.lo)
    axes = [box.nodes(i, count) for i in range(d)]
    rest = _points([y for y, _ in axes[1:]]) if d > 1 else np.zeros((1, 0))
    rest_log = _points([w for _, w in axes[1:]]).sum(axis=1) if d > 1 else np.zeros(1)
    slab = max(1, (1 << 19) // len(rest))
    total, first, second, energies = 0.0, np.zeros(d), np.zeros((d, d)), 0.0
    low, high = np.full(d, np.inf), np.full(d, -np.inf)
    for k in range(0, count, slab):
        y0, w0 = axes[0][0][k : k + slab], axes[0][1][k : k + slab]
        y = np.concatenate([np.repeat(y0, len(rest))[:, None], np.tile(rest, (len(y0), 1))], axis=1)
        phi = box.place(y)
        u = energy(phi)
        weight = np.exp((w0[:, None] + rest_log).ravel() - u)
        total += weight.sum()
        first += np.einsum("k,ki->i", weight, y)
        second += np.einsum("k,ki,kj->ij", weight, y, y)
        energies += float((weight * np.where(weight > 0, u, 0.0)).sum())
        matters = phi[u < 45]
        if len(matters):
            low, high = np.minimum(low, matters.min(axis=0)), np.maximum(high, matters.max(axis=0))
    if not total > 0:
        return Integral(-np.inf, np.inf, box.centre, np.zeros((d, d)), 0.0, [])
    mean = first / total
    covariance = box.axes @ (second / total - np.outer(mean, mean)) @ box.axes.T
    margin = (high - low) / count
    bounds = np.stack([low - margin, high + margin])
    log_z = float(np.log(total)) + float(np.log(abs(np.linalg.det(box.axes))))
    covariance = (covariance + covariance.T) / 2
    return Integral(log_z, np.inf, box.place(mean[None])[0], covariance, energies / total, [(box, bounds, count)])


def _nodes(lo: float, hi: float, count: int, heavy: bool) -> tuple[np.ndarray, np.ndarray]:
    if not heavy:
        step = (hi - lo) / count
        return lo + step * (np.arange(count) + 0.5), np.full(count, np.log(step))
    low, high = np.arcsinh([lo, hi])
    step = (high - low) / count
    t = low + step * (np.arange(count) + 0.5)
    return np.sinh(t), np.log(step) + np.log(np.cosh(t))


def _points(lines: list[np.ndarray]) -> np.ndarray:
    """The points of a tensor grid ["k d"], last axis fastest."""
    return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, len(lines))


def _join(parts: list[tuple[np.ndarray, np.ndarray, Box, int]]) -> list[tuple[np.ndarray, np.ndarray, Box, int]]:
    """Boxes (lo, hi, …) with those that meet replaced by their hull, and nodes in proportion."""
    done: list[tuple[np.ndarray, np.ndarray, Box, int]] = []
    for part in parts:
        low, high, box, count = part
        while True:
            touch = [bool((p[0] <= high).all() and (low <= p[1]).all()) for p in done]
            if not any(touch):
                break
            met = [p for p, t in zip(done, touch, strict=True) if t]
            done = [p for p, t in zip(done, touch, strict=True) if not t]
            sizes = [(high - low) / count, *[(p[1] - p[0]) / p[3] for p in met]]
            low, high = np.min([low, *[p[0] for p in met]], axis=0), np.max([high, *[p[1] for p in met]], axis=0)
            count = int(np.ceil(((high - low) / np.min(sizes, axis=0)).max()))
        done.append((low, high, box, min(count, 4096)))
    return done
