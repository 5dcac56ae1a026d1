"""Laws of a Markov jump process given by its generator L on a grid: stationary, relaxing, on its way, absorbed.

    π L = 0        ∂ₜ p = p L        L v = −λ v        L τ = −1

Up to two dimensions by sparse LU. Once a cell of high probability is taken
out, the equations of an M-matrix are solved without a subtraction, so a density is positive and right to many digits even where it
is 1e-80. In three dimensions large grids go by BiCGStab with an incomplete LU, for the ratio of the density to that of a coarser
grid, which is near one everywhere.

Sources: Stewart (1994), Introduction to the Numerical Solution of Markov Chains; Jensen (1953), Skand. Aktuarietidskr. 36, 87
(uniformisation); George (1973), SIAM J. Numer. Anal. 10, 345 (nested dissection).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
from scipy.special import gammaln, xlogy

Solve = Callable[[np.ndarray], np.ndarray]
# Cells up to which a grid in three dimensions is factorised.
_DIRECT = 14_000
# Cells of less than this share of the largest density are left out of eliminations.
_REMOTE = 1e-110
_NOTHING = 1e-60  # … and out of spectra
# Products of L with a vector, times its entries, that a time evolution may take: about a minute.
_WORK = 4e10


def stationary(generator: Any, shape: tuple[int, ...], guess: np.ndarray | None = None) -> np.ndarray:
    """π ["N"] > 0 with π L = 0 and sum 1.

    `guess` ["N"] is positive and near π up to a factor that varies slowly. Where it is below 1e-110 of its largest it is kept as it
    is: to eliminate cells that far out is arithmetic on denormal numbers, a hundred times as slow.
    """
    order = _order(generator, shape)
    if guess is None:
        adjoint = -generator.T.tocsr()[order][:, order]
        near = _leaking(adjoint, shape)
    else:
        order = _together(generator, order[guess[order] > _REMOTE * guess.max()], int(guess.argmax()))
        adjoint, near = _among(generator, order), guess[order]
    p = None
    if len(shape) > 2 and len(order) > _DIRECT:
        p = _by_ratio(adjoint, near)
    if p is None:
        p = _anchored(adjoint, shape, int(near.argmax()))
        if p[near.argmax()] < 1e-3 * p.max():
            p = _anchored(adjoint, shape, int(p.argmax()))
    result = np.zeros(len(generator.indptr) - 1)
    if guess is not None:
        result = guess * (p[near.argmax()] / near.max())
    result[order] = p
    return result / result.sum()


def check_mixing(generator: Any, shape: tuple[int, ...], p: np.ndarray) -> None:
    """`ValueError` where rounding decides how the mass is shared: wells whose exchange is lost in the rates within them."""
    order = _order(generator, shape)
    # From everywhere, for 1e11 jumps: mass that finds its way in that time finds it in float64, too.
    other = _leaking(_among(generator, order), shape, 1e-11)
    if np.abs(other - p[order]).sum() > 0.05:
        raise ValueError(_RARELY)


_RARELY = (
    "the density lies in wells that exchange so rarely that float64 cannot tell how the mass is shared between them; give a box "
    "around one of them, or more noise"
)


def roughly(generator: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Where the mass goes from everywhere ["N"], whether or not it is shared between wells as in the stationary law."""
    order = _order(generator, shape)
    p = np.empty(len(order))
    p[order] = _leaking(_among(generator, order), shape)
    return p


def quasi_stationary(generator: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The law ["N"] that what has not been absorbed tends to, p L = −λ p with the least λ, with sum 1."""
    solve = solver(-generator.T, shape)
    p = np.full(generator.shape[0], 1.0 / generator.shape[0])
    for _ in range(2000):
        old, p = p, np.maximum(solve(p), 0.0)
        p /= p.sum()
        if np.abs(p - old).sum() < 1e-13:
            break
    return p


def relaxation(generator: Any, shape: tuple[int, ...], p: np.ndarray, count: int, scale: float, turn: float) -> np.ndarray:
    """The `count` eigenvalues λ of −L with the least real parts, complex, without the 0 of a stationary law.

    `scale` is a typical rate. They are found among those nearest 0 and, if `turn` > 0, nearest ±i·turn.
    """
    kept = _order(generator, shape)
    kept = kept[p[kept] > _NOTHING * p.max()]
    root = np.sqrt(p[kept])
    # In this scale the generator of a process in balance is symmetric, and any other is as near to it as it can be.
    scaled = (scipy.sparse.diags(root) @ generator[kept][:, kept] @ scipy.sparse.diags(1 / root)).tocsc()
    wanted = min(2 * count + 8, len(kept) - 2)
    kind: Any = complex if turn else float
    scaled = scaled.astype(kind)
    balanced = not turn and abs(scaled - scaled.T).max() <= 1e-9 * abs(scaled).max()
    find = scipy.sparse.linalg.eigsh if balanced else scipy.sparse.linalg.eigs
    start = np.random.default_rng(0).normal(size=len(kept)).astype(kind)
    values = np.zeros(0, complex)
    for shift in [1e-6 * scale, *([1e-6 * scale + 1j * turn] if turn else [])]:
        factors = _factor(scaled - shift * scipy.sparse.eye(len(kept), dtype=kind, format="csc"), shape)
        options = {"sigma": shift, "OPinv": _operator(len(kept), factors.solve, kind), "v0": start, "tol": 1e-10}
        options |= {"return_eigenvectors": False, "ncv": min(max(2 * wanted + 1, 40), len(kept))}
        new = -np.asarray(find(scaled, wanted, **options), complex)
        if len(values):  # near the second shift are conjugates of what is near the third, and some that the first has found
            new = np.concatenate([new, new.conj()])
            new = new[np.abs(new[:, None] - values).min(axis=1) > 1e-7 * (np.abs(new) + 1e-3 * scale)]
        values = np.concatenate([values, new])
    values = values[np.lexsort((np.imag(values), np.round(np.real(values) / (1e-8 * scale))))]
    if not _loses(generator):
        values = np.delete(values, int(np.abs(values).argmin()))
    return values[:count]


def evolve(generator: Any, start: np.ndarray, times: np.ndarray) -> np.ndarray:
    """p(t) ["T N"] from p(0) = `start` at increasing `times`, by uniformisation: exact to rounding, positive, mass kept.

        p(t) = Σₙ e^(−Λt) (Λt)ⁿ/n! · p(0) (I + L/Λ)ⁿ        Λ = the fastest rate at which a cell is left
    """
    adjoint = generator.T.tocsr()
    fastest = float(-generator.diagonal().min())
    if fastest * float(times[-1]) * adjoint.nnz > _WORK:
        raise ValueError(
            f"t = {times[-1]:.4g} is {fastest * times[-1]:.2g} times as long as the shortest stay in a cell: take fewer cells or "
            "a shorter time"
        )
    step = adjoint / fastest + scipy.sparse.eye(generator.shape[0], format="csr")
    results, p, now, resting = [], start.astype(np.float64), 0.0, False
    for time in times:
        if not resting and time > now:
            p, resting = _poisson(step, p, fastest * (time - now))
        now = time
        results.append(p)
    return np.array(results)


def _poisson(step: Any, p: np.ndarray, mean: float) -> tuple[np.ndarray, bool]:
    """Σₙ Poisson(n; mean) · stepⁿ p, and whether p has come to rest."""
    last = int(np.ceil(mean + 9 * np.sqrt(mean) + 40))
    n = np.arange(last + 1)
    weights = np.exp(xlogy(n, mean) - mean - gammaln(n + 1))
    weights /= weights.sum()
    total = weights[0] * p
    for k in range(1, last + 1):
        new = step @ p
        if k % 64 == 0 and np.abs(new - p).sum() <= 1e-17 * new.sum():
            return total + weights[k:].sum() * new, True
        p = new
        if k % 16 == 0:
            p[p < 1e-280] = 0.0  # before they become denormal, and slow
        if weights[k] > 0:
            total += weights[k] * p
    return total, False


def mean_time(generator: Any, shape: tuple[int, ...]) -> np.ndarray:
    """τ ["N"], the mean time until absorbed, L τ = −1."""
    return solver(-generator, shape)(np.ones(generator.shape[0]))


def solver(matrix: Any, shape: tuple[int, ...]) -> Solve:
    """b ↦ matrix⁻¹ b for a nonsingular M-matrix on a grid."""
    order = _order(matrix, shape)
    ordered = matrix.tocsr()[order][:, order].tocsc()
    back = np.argsort(order, kind="stable")
    if len(shape) > 2 and len(order) > 3 * _DIRECT:
        ilu = _incomplete(ordered)

        def iterate(b: np.ndarray) -> np.ndarray:
            found, failed = scipy.sparse.linalg.gmres(ordered, b[order], M=ilu, rtol=1e-12, restart=60, maxiter=20)
            if failed:
                raise RuntimeError("the linear equations of the grid were not solved: take fewer cells")
            return found[back]

        return iterate
    factors = _factor(ordered, shape)
    return lambda b: factors.solve(b[order])[back]


def _order(generator: Any, shape: tuple[int, ...]) -> np.ndarray:
    """All cells, in three dimensions in the order of nested dissection: halves first, the layer that separates them after.

    In fewer dimensions SuperLU's minimum degree finds as good an order.
    """
    if len(shape) < 3:
        return np.arange(int(np.prod(shape)))
    entries = generator.tocoo()
    apart = [np.abs(i - j) for i, j in zip(*(np.unravel_index(e, shape) for e in (entries.row, entries.col)), strict=True)]
    # A layer as thick as the longest jump, or the halves would still be neighbours.
    thick = max(int(np.minimum(a, n - a).max()) for a, n in zip(apart, shape, strict=True))
    found: list[np.ndarray] = []

    def cut(cells: np.ndarray) -> None:
        axis = int(np.argmax(cells.shape))
        if cells.size <= 32 or cells.shape[axis] < 2 * thick + 1:
            found.append(cells.ravel())
            return
        low = (cells.shape[axis] - thick) // 2
        first, layer, second = np.split(cells, [low, low + thick], axis)
        cut(first)
        cut(second)
        found.append(layer.ravel())

    cut(np.arange(int(np.prod(shape))).reshape(shape))
    return np.concatenate(found)


def _among(generator: Any, cells: np.ndarray) -> Any:
    """−Lᵀ of the process that does not leave these cells, in their order."""
    adjoint = -generator.T.tocsr()[cells][:, cells]
    return adjoint - scipy.sparse.diags(np.asarray(adjoint.sum(axis=0)).ravel())


def _together(generator: Any, cells: np.ndarray, one: int) -> np.ndarray:
    """Those of the cells that jumps among them join to one of them, in their order."""
    _, part = scipy.sparse.csgraph.connected_components(generator[cells][:, cells], directed=False)
    return cells[part == part[np.flatnonzero(cells == one)[0]]]


def _loses(generator: Any) -> bool:
    """Whether something is absorbed."""
    return bool(np.abs(np.asarray(generator.sum(axis=1))).max() > 1e-9 * abs(generator).max())


def _factor(matrix: Any, shape: tuple[int, ...]) -> Any:
    # The diagonal is the pivot: so the signs of an M-matrix stay, too.
    order = "NATURAL" if len(shape) > 2 else "MMD_AT_PLUS_A"
    try:
        return scipy.sparse.linalg.splu(
            matrix.tocsc(), permc_spec=order, diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
    except RuntimeError as error:  # exactly singular: a part of the grid that no other part is reached from
        raise ValueError(_RARELY) from error


def _incomplete(matrix: Any) -> Any:
    ilu = scipy.sparse.linalg.spilu(
        matrix.tocsc(), drop_tol=0.03, fill_factor=4, permc_spec="NATURAL", diag_pivot_thresh=0.0
    )
    return _operator(matrix.shape[0], ilu.solve, float)


def _operator(size: int, apply: Solve, dtype: Any) -> Any:
    return scipy.sparse.linalg.LinearOperator((size, size), matvec=apply, dtype=dtype)  # pyright: ignore


def _anchored(adjoint: Any, shape: tuple[int, ...], start: int) -> np.ndarray:
    """The density with p[start] = 1, of cells in the order of elimination."""
    rest = np.delete(np.arange(adjoint.shape[0]), start)
    inner = adjoint[rest]
    p = np.ones(adjoint.shape[0])
    p[rest] = np.maximum(_factor(inner[:, rest], shape).solve(-inner[:, [start]].toarray()[:, 0]), 0.0)
    return p


def _leaking(adjoint: Any, shape: tuple[int, ...], leak: float = 1e-8) -> np.ndarray:
    """A density near the stationary one, of mass that leaks and is put back: right where it is large."""
    cells = adjoint.shape[0]
    leak *= float(np.median(adjoint.diagonal()))
    factors = _factor(adjoint + leak * scipy.sparse.eye(cells), shape)
    p = np.full(cells, 1.0 / cells)
    for _ in range(3):
        p = np.abs(factors.solve(p))
        p /= p.sum()
    return p


def _by_ratio(adjoint: Any, guess: np.ndarray) -> np.ndarray | None:
    """The density, equal to the guess where that is largest, solved for p/guess; None where the iteration does not converge."""
    start = int(guess.argmax())
    rest = np.delete(np.arange(len(guess)), start)
    inner = adjoint[rest]
    rows = scipy.sparse.diags(1 / (guess * adjoint.diagonal())[rest])
    system = (rows @ inner[:, rest] @ scipy.sparse.diags(guess[rest])).tocsc()
    right = -(rows @ inner[:, [start]]).toarray()[:, 0] * guess[start]
    ilu, ratio, residual = _incomplete(system), np.ones(len(rest)), np.inf
    for _ in range(3):
        ratio, _ = scipy.sparse.linalg.bicgstab(system, right, x0=ratio, M=ilu, rtol=1e-12, atol=0.0, maxiter=300)
        residual = np.abs(system @ ratio - right).max() / np.abs(ratio).max()
        if residual < 1e-11:
            break
    if not ((ratio > 0).all() and residual < 1e-9):
        return None
    p = guess.copy()
    p[rest] *= ratio
    return p
