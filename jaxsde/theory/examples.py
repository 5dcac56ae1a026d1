"""The examples of a finite sum around a point: gradients gᵢ and Hessians Hᵢ there, and the sums over them that moments need.

The covariance of one example's gradient at Φ* + e is a quadratic in e, for a least-squares loss exactly:

    Σ(Φ* + e) = C + K(e) + F(e eᵀ),    K(m) = (1/n) Σᵢ (Hᵢ − H) m (gᵢ − g)ᵀ + its transpose
                                       F(S) = (1/n) Σᵢ (Hᵢ − H) S (Hᵢ − H)

A squared error of one output has Hᵢ = xᵢxᵢᵀ: then only the n × d matrix of the xᵢ is kept. Otherwise the Hessians are folded into
one d² × d² matrix (d ≤ 64), kept whole, or made anew at each use where they do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from ..struct import replace
from . import float64

# Numbers of example Hessians held at once, and kept for good.
_BLOCK_NUMBERS = 1 << 22
_KEPT_NUMBERS = 1 << 26
# Up to this dimension Hessians of any rank are folded.
_FOLDED_DIM = 64


@dataclass(frozen=True)
class Examples:
    """`gradients` gᵢ ["n d"] and Hessians Hᵢ of all examples at one point, these as `roots` xᵢ ["n d"] where Hᵢ = xᵢxᵢᵀ, else in
    `blocks` ["b d d"] that are read anew at each call. Made by `examples_at`, or by `of_arrays` from the matrices themselves."""

    gradients: np.ndarray
    roots: np.ndarray | None
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def count(self) -> int:
        return len(self.gradients)

    @property
    def dim(self) -> int:
        return self.gradients.shape[1]

    @cached_property
    def hessian(self) -> np.ndarray:
        """H, the mean of the Hᵢ."""
        if self.roots is not None:
            return self.roots.T @ self.roots / self.count
        return self._sum(lambda b, g: b.sum(axis=0)) / self.count

    @cached_property
    def hessians(self) -> np.ndarray:
        """All Hᵢ ["n d d"]; for few examples or few dimensions."""
        if self.roots is not None:
            return self.roots[:, :, None] * self.roots[:, None, :]
        return np.concatenate(list(self.blocks()))

    @cached_property
    def centred(self) -> np.ndarray:
        """gᵢ − g."""
        return self.gradients - self.gradients.mean(axis=0)

    @cached_property
    def covariance(self) -> np.ndarray:
        """C, the covariance of one example's gradient."""
        return self.centred.T @ self.centred / self.count

    @cached_property
    def equal(self) -> bool:
        """Whether all Hᵢ are one matrix, so that the noise does not depend on the position."""
        if self.roots is not None and self.count > 1:
            signed = self.roots * np.sign(self.roots @ self.roots[np.linalg.norm(self.roots, axis=1).argmax()])[:, None]
            return bool(np.abs(signed - signed[0]).max() <= 1e-12 * np.abs(signed).max())
        first, size = None, np.abs(self.hessian).max()
        for block in self.blocks():
            first = block[0] if first is None else first
            if np.abs(block - first).max() > 1e-12 * size:
                return False
        return True

    def feedback(self, s: np.ndarray) -> np.ndarray:
        """F(S)."""
        h, n = self.hessian, self.count
        if self.roots is not None:
            x = self.roots
            return (x * np.einsum("ni,ni->n", x @ s, x)[:, None]).T @ x / n - h @ s @ h
        if self.dim <= _FOLDED_DIM:
            return (self._folded @ s.reshape(-1)).reshape(s.shape) - h @ s @ h
        return self._sum(lambda b, g: np.tensordot(b @ s, b, axes=([0, 2], [0, 1]))) / n - h @ s @ h

    def cross(self, m: np.ndarray) -> np.ndarray:
        """K(m), the part of the noise that is linear in the position; m ["d"]."""
        if self.roots is not None:
            half = (self.roots * (self.roots @ m)[:, None]).T @ self.centred / self.count
        elif self.dim <= _FOLDED_DIM:
            half = np.einsum("abc,c->ab", self._crossed, m)
        else:
            half = self._sum(lambda b, g: (b @ m).T @ g) / self.count
        return half + half.T

    def in_basis(self, basis: np.ndarray) -> Examples:
        """The same in the coordinates of orthonormal columns `basis` ["d k"]."""
        roots = None if self.roots is None else self.roots @ basis
        return Examples(self.gradients @ basis, roots, lambda: (basis.T @ b @ basis for b in self.blocks()))

    @cached_property
    def _folded(self) -> np.ndarray:
        """⟨H_ac H_be⟩ as a matrix of (a b) and (c e), contracted with S_ce."""
        d = self.dim
        flat = self._sum(lambda b, g: b.reshape(-1, d * d).T @ b.reshape(-1, d * d)) / self.count
        return flat.reshape(d, d, d, d).transpose(0, 2, 1, 3).reshape(d * d, d * d)

    @cached_property
    def _crossed(self) -> np.ndarray:
        """⟨H_ac (g − ⟨g⟩)_b⟩."""
        return self._sum(lambda b, g: np.einsum("nac,nb->abc", b, g, optimize=True)) / self.count

    def _sum(self, of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Any:
        total, at = 0.0, 0
        for block in self.blocks():
            total = total + of(block, self.centred[at : at + len(block)])
            at += len(block)
        return total


def examples_at(wide: Any, centre: np.ndarray) -> Examples:
    """The examples of a widened finite sum at `centre`."""
    n, d = wide.examples, len(centre)
    size = max(1, min(n, _BLOCK_NUMBERS // (d * d)))

    def blocks() -> Iterator[np.ndarray]:
        for lo in range(0, n, size):
            part = float64.widen(jax.tree.map(lambda a, lo=lo: np.asarray(a)[lo : lo + size], wide.data))
            some = replace(wide, data=part, examples=min(size, n - lo))
            yield float64.evaluate(float64.example_hessians, some, centre)

    gradients = float64.evaluate(float64.example_gradients, wide, centre)
    roots: list[np.ndarray] = []
    for block in blocks():
        root = _rank_one(block)
        if root is None:
            break
        roots.append(root)
    else:
        return Examples(gradients, np.concatenate(roots), blocks)
    return _keeping(gradients, blocks, n * d * d)


def of_arrays(hessians: np.ndarray, gradients: np.ndarray) -> Examples:
    """Examples from their matrices ["n d d"] and gradients ["n d"]."""
    return Examples(gradients, _rank_one(hessians), lambda: iter([hessians]))


def _keeping(gradients: np.ndarray, blocks: Callable[[], Iterator[np.ndarray]], numbers: int) -> Examples:
    if numbers > _KEPT_NUMBERS:
        return Examples(gradients, None, blocks)
    kept = list(blocks())
    return Examples(gradients, None, lambda: iter(kept))


def _rank_one(hessians: np.ndarray) -> np.ndarray | None:
    """xᵢ with Hᵢ = xᵢxᵢᵀ for a whole block, or None."""
    diagonal = np.einsum("nii->ni", hessians)
    if (diagonal < 0).any():
        return None
    pivot = diagonal.argmax(axis=1)
    each = np.arange(len(hessians))
    root = np.sqrt(diagonal[each, pivot])
    x = hessians[each, :, pivot] / np.where(root > 0, root, 1)[:, None]
    error = np.abs(hessians - x[:, :, None] * x[:, None, :]).max()
    return x if error <= 1e-12 * max(np.abs(hessians).max(), 1e-300) else None
