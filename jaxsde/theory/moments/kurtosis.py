"""Fourth moments of SGD: the learning rate at which they explode, below that of the second.

Around the minimum the part of a step that grows with the position is e' = T e, T random and fresh at each step. Fourth moments
X = E e⊗e⊗e⊗e obey X' = E T⊗T⊗T⊗T X on symmetric tensors, and are finite iff the spectral radius of that map is below 1 (it sends
the cone of moments to itself: its radius is an eigenvalue). With M_k = E T₁^⊗k of one example, a batch's mean is a polynomial
in them:

    B⁴ E T^⊗4 = B M₄ + 4 B(B−1) M₃M₁ + 3 B(B−1) M₂M₂ + 6 B(B−1)(B−2) M₂M₁M₁ + B(B−1)(B−2)(B−3) M₁M₁M₁M₁

with replacement (products symmetrised), and one without replacement or of SVAG is another polynomial. Where fourth moments are
infinite, an average of squares over chains converges slower than 1/√N, and its error bar means nothing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse.linalg

from ..linear import find_root, operator
from .edge import Setting, edge_of, setting_of

# A polynomial in M₁, M₂, …: how much there is of each product, named by its sorted indices.
Polynomial = dict[tuple[int, ...], float]

# Up to this many symmetric tensors the map is a matrix; numbers that one use of it may touch.
_DENSE = 150
_WORK = 1e9


def kurtosis_edge(
    problem: Any,
    batch_size: int = 1,
    sampling: str = "with_replacement",
    momentum: float = 0.0,
    *,
    nesterov: bool = False,
    l: int = 1,
) -> float:
    """The learning rate below which the stationary law of SGD has finite fourth moments, so that a sampled covariance has an error.

    Arguments as those of `stability_edge`, which it never exceeds; equal to it where the noise does not depend on the position.
    Exact for least squares and quadratic potentials; otherwise of the loss linearised at its minimum, with a `UserWarning`.

    Raises `ValueError` as `stability_edge`, and for samplings other than with_replacement, without_replacement, full_batch and
    gaussian where the noise depends on the position, and for problems too large (examples × dimensions⁵).
    """
    setting = setting_of(problem, batch_size, sampling, momentum, nesterov, l)
    if setting.reason:
        warnings.warn(f"kurtosis_edge: {setting.reason}", UserWarning, stacklevel=2)
    if _constant(setting):
        return setting.amplified * setting.mean_edge()
    growth = fourth_growth(setting)
    high = edge_of(setting)
    if growth(high * (1 - 1e-9)) < 1:  # what explodes first is not noisy: all moments do so together
        return high
    low = high / 2
    while growth(low) >= 1:
        low /= 2
        if low < high * 1e-12:
            raise ValueError("no learning rate has finite fourth moments: the noise grows with the position faster than the drift")
    return find_root(lambda rate: growth(rate) - 1, low, high, 1e-12 * high)


def fourth_growth(setting: Setting) -> Callable[[float], float]:
    """The spectral radius of the map of fourth moments, as a function of the learning rate."""
    size = len(setting.hessian) * (2 if setting.momentum else 1)
    hessian, factor = np.diag(setting.hessian), setting.amplified * setting.factor
    if not is_covered(setting):
        raise ValueError(
            f"the fourth moments under {setting.sampling} in {size} dimensions are not covered: covered are few dimensions "
            "(examples × dimensions⁵ up to 1e9, momenta counted) with_replacement, without_replacement, full_batch or gaussian"
        )
    if setting.sampling == "gaussian":
        spread = _as_matrix(setting)

        def gaussian(rate: float) -> float:
            update = setting.update(rate / setting.amplified)
            push = np.kron(update.push, update.push)
            grown = np.zeros((size**2, size**2))
            d = len(hessian)
            inner = np.ix_(range(size**2), [i * size + j for i in range(d) for j in range(d)])
            grown[inner] = factor * push @ spread
            apply = lambda k, x: _folded(update.drift(hessian) if k == 1 else grown, k, x)
            # (A e + w)^⊗4 for a Gaussian w of covariance Q(e): the mean is Ae Ae Ae Ae + 6 Ae Ae Q + 3 Q Q
            return _radius(SymmetricTensors(size), {(1, 1, 1, 1): 1.0, (2, 1, 1): 6.0, (2, 2): 3.0}, apply)

        return gaussian
    examples = setting.examples()
    b, n = setting.gradient.batch_size, examples.count
    terms = _batch(4, b, None if setting.sampling == "with_replacement" else n)
    if setting.amplified > 1:
        terms = _svag(setting.amplified, b)
    tensors = SymmetricTensors(size)

    def sampled(rate: float) -> float:
        update = setting.update(rate / setting.amplified)
        maps = np.broadcast_to(update.carry, (n, size, size)).copy()
        maps[:, :, : len(hessian)] += update.push @ examples.hessians
        return _radius(tensors, terms, lambda k, x: _averaged(maps, k, x))

    return sampled


def _constant(setting: Setting) -> bool:
    """Whether the noise does not depend on the position."""
    return setting.feedback is None or not setting.factor


def is_covered(setting: Setting) -> bool:
    """Whether the fourth moments close, and in how many dimensions they are few enough."""
    size = len(setting.hessian) * (2 if setting.momentum else 1)
    if setting.sampling == "gaussian":
        return size**6 <= _WORK
    sampled = setting.sampling in ("with_replacement", "without_replacement")
    return sampled and setting.gradient.problem.examples * size**5 <= _WORK


@dataclass(frozen=True)
class SymmetricTensors:
    """Symmetric tensors of order four in `size` dimensions, as vectors of their distinct entries (a basis that keeps the norm)."""

    size: int

    @cached_property
    def _where(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct entry that each entry of a tensor is, and the root of how often each comes."""
        entries = np.sort(np.stack(np.meshgrid(*[np.arange(self.size)] * 4, indexing="ij"), axis=-1).reshape(-1, 4), axis=1)
        codes = entries @ self.size ** np.arange(3, -1, -1)
        _, place, often = np.unique(codes, return_inverse=True, return_counts=True)
        return place.ravel(), np.sqrt(often)

    @property
    def count(self) -> int:
        return len(self._where[1])

    def unpack(self, v: np.ndarray) -> np.ndarray:
        place, root = self._where
        return (v / root)[place].reshape((self.size,) * 4)

    def pack(self, x: np.ndarray) -> np.ndarray:
        """That of the tensor made symmetric."""
        place, root = self._where
        return np.bincount(place, x.ravel(), len(root)) / root


def _radius(tensors: SymmetricTensors, terms: Polynomial, apply: Callable[[int, np.ndarray], np.ndarray]) -> float:
    """Spectral radius of a polynomial in M₁ … M₄, where apply(k, X) is M_k on the first k axes of X."""

    def moved(v: np.ndarray) -> np.ndarray:
        x, total = tensors.unpack(v), 0.0
        for parts, weight in terms.items():
            y = x
            for k in parts:
                y = np.moveaxis(apply(k, y), range(k), range(4 - k, 4))
            total = total + weight * y
        return tensors.pack(np.asarray(total))

    if tensors.count <= _DENSE:
        return float(np.abs(np.linalg.eigvals(np.stack([moved(e) for e in np.eye(tensors.count)], axis=1))).max())
    eye = np.eye(tensors.size)
    whole = operator(tensors.count, moved)
    start = tensors.pack(np.einsum("ab,cd->abcd", eye, eye))
    options: Any = {"k": 1, "which": "LM", "v0": start, "tol": 1e-12, "return_eigenvectors": False}
    return float(np.abs(scipy.sparse.linalg.eigs(whole, **options)).max())


def _averaged(maps: np.ndarray, k: int, x: np.ndarray) -> np.ndarray:
    """The mean over maps T ["n D D"] of T^⊗k on the first k axes of X ["D D D D"]."""
    n, size = maps.shape[:2]
    if k == 1:
        return np.tensordot(maps.mean(axis=0), x, axes=1)
    total, block = np.zeros(x.size), max(1, (1 << 22) // x.size)
    for lo in range(0, n, block):
        part = maps[lo : lo + block]
        y = np.broadcast_to(x.reshape(1, 1, size, -1), (len(part), 1, size, size**3))
        for axis in range(k):
            y = (part[:, None] @ y.reshape(len(part), size**axis, size, -1)).reshape(len(part), -1)
        total += y.sum(axis=0)
    return total.reshape(x.shape) / n


def _folded(matrix: np.ndarray, k: int, x: np.ndarray) -> np.ndarray:
    """A matrix on the first k axes of X, taken as one."""
    return (matrix @ x.reshape(len(matrix), -1)).reshape(x.shape)


def _as_matrix(setting: Setting) -> np.ndarray:
    """F as a matrix on all d² entries of a symmetric S."""
    d = len(setting.hessian)
    assert setting.feedback is not None
    columns = []
    for e in np.eye(d * d):
        s = e.reshape(d, d)
        columns.append(setting.feedback((s + s.T) / 2).ravel())
    return np.stack(columns, axis=1)


def _batch(order: int, b: int, n: int | None) -> Polynomial:
    """E T^⊗order of the mean of a batch of B, drawn independently (n None) or distinct among n."""
    found: Polynomial = {}
    for blocks, often in _partitions(order).items():
        if len(blocks) > b:
            continue
        weight = often * math.perm(b, len(blocks)) / float(b) ** order
        for parts, share in _distinct(blocks, n).items():
            found[parts] = found.get(parts, 0.0) + weight * share
    return found


def _partitions(order: int) -> dict[tuple[int, ...], int]:
    """How many partitions of a set of so many have blocks of those sizes."""
    return {
        1: {(1,): 1},
        2: {(2,): 1, (1, 1): 1},
        3: {(3,): 1, (2, 1): 3, (1, 1, 1): 1},
        4: {(4,): 1, (3, 1): 4, (2, 2): 3, (2, 1, 1): 6, (1, 1, 1, 1): 1},
    }[order]


def _distinct(blocks: tuple[int, ...], n: int | None) -> Polynomial:
    """The mean of T_i^⊗a T_j^⊗b … over examples i, j, … that are independent, or all different."""
    if n is None:
        return {blocks: 1.0}
    return {k: v * n ** len(k) / math.perm(n, len(blocks)) for k, v in _distinct_sums(blocks).items()}


def _distinct_sums(blocks: tuple[int, ...]) -> Polynomial:
    """Σ over different i, j, … of T_i^⊗a T_j^⊗b …, by sums over all: the last is free, less where it is one of the others."""
    if len(blocks) == 1:
        return {blocks: 1.0}
    found = {tuple(sorted((*k, blocks[-1]), reverse=True)): v for k, v in _distinct_sums(blocks[:-1]).items()}
    for i in range(len(blocks) - 1):
        merged = (*blocks[:i], blocks[i] + blocks[-1], *blocks[i + 1 : -1])
        for k, v in _distinct_sums(merged).items():
            found[k] = found.get(k, 0.0) - v
    return found


def _svag(l: int, b: int) -> Polynomial:
    """E T^⊗4 for T = ½(1 + r) T₁ + ½(1 − r) T₂, r = √(2l − 1), of two independent batches."""
    first, second = (1 + math.sqrt(2 * l - 1)) / 2, (1 - math.sqrt(2 * l - 1)) / 2
    one: Polynomial = {(): 1.0}
    found: Polynomial = {}
    for k in range(5):
        weight = math.comb(4, k) * first**k * second ** (4 - k)
        for p, u in (_batch(k, b, None) if k else one).items():
            for q, v in (_batch(4 - k, b, None) if k < 4 else one).items():
                parts = tuple(sorted((*p, *q), reverse=True))
                found[parts] = found.get(parts, 0.0) + weight * u * v
    return found
