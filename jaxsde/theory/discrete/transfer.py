"""The law of a chain without simulating it: its transfer operator P on a grid, in one and two dimensions.

Where a step has finitely many outcomes, each cell's mass is spread evenly over the cell's image under each of them, and shared out
to the cells it covers (Ulam's method): mass is kept, and nothing is negative. A step adds at most a quarter of a cell's square to
the variance, so results are of second order in the size of a cell; a coarser grid gives the extrapolated values and their errors.

Where a step's noise is wide against a cell, masses are those of points, densities at the centres times the volume. A Gaussian step
is then summed at the centres, a rule that converges faster than any power; many outcomes are interpolated between the centres by
cubics, which keep the first three moments of a step exactly (of least squares, the covariance on any grid) and are of fourth order.

The law of SGD need not have a density: with two-point noise and η > ½ it lives on a Cantor set. What is here is then the masses of
cells; their relative entropy to any density grows by a constant at each halving, which is seen, and answered with infinity.

Sources: Ulam (1960), A Collection of Mathematical Problems; Dellnitz and Junge (1999), SIAM J. Numer. Anal. 36, 491; Peres, Schlag
and Solomyak (2000), "Sixty years of Bernoulli convolutions".
"""

from __future__ import annotations

import itertools

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import scipy.special

from ..diffusion.lattice import Grid
from .step_law import StepLaw, typical_step

CELLS = {1: 2048, 2: 128}
MANY = 16  # outcomes a step from which their images are taken to fill the cells between them
MOST_ENTRIES = 1 << 26  # weights worked out for one operator
WIDE = 1.2  # a Gaussian step of at least so many cells is summed at the centres: the rule's error is e^(−2π²·1.2²)
REACH = {1: 8.5, 2: 6.5}  # standard deviations of a step
_CHEAP = 1 << 24  # entries of a Gaussian operator, up to which no step is cut short
# Starts that are to become alike in so many steps, and what that is: then the law is found by steps, else by elimination.
_STARTS, _QUICK, _ALIKE, _SMALL, _SPARSE = 16, 256, 1e-7, 512, 64
_DIRECT = {1: 1 << 14, 2: 1 << 11}  # cells up to which a stationary law is solved for directly


def transport(
    law: StepLaw, grid: Grid, *, closed: tuple[bool, bool] = (True, True), smooth: bool = True
) -> tuple[scipy.sparse.csr_matrix, bool]:
    """P ["N N"] on the cells of a grid, and whether masses are those of points (`smooth`).

    What would leave the grid at its lower or upper ends goes to the last cells where it is `closed`, else it is lost and rows sum
    to less than one."""
    if law.gaussian:
        made = _gaussian(law, grid, closed)
        if made is not None:
            return made, True
    if law.gaussian and len(law.odds) == 1:
        raise ValueError(
            "a Gaussian step is narrower than a cell here, or the noise is degenerate, and has too many normals for a quadrature: "
            "use more cells"
        )
    if (
        smooth
        and len(law.odds) >= MANY
        and (typical_step(law, grid.points[:: max(1, len(grid.points) // 64)], np.min) > WIDE * grid.size).all()
    ):
        return _interpolated(law, grid, closed), True
    return _spread(law, grid, closed), False


def _interpolated(law: StepLaw, grid: Grid, closed: tuple[bool, bool]) -> scipy.sparse.csr_matrix:
    """The mass of each centre on the four centres around its image, along each axis, with the weights of cubic interpolation."""
    n, d, m = int(np.prod(grid.shape)), len(grid.shape), len(law.odds)
    _check_size(n, m * 4**d, m)
    block, total = max(1, (1 << 22) // (n * 4**d)), scipy.sparse.csr_matrix((n, n))
    shape, cells = np.asarray(grid.shape), np.arange(n)
    for lo in range(0, m, block):
        some = slice(lo, lo + block)
        at = (law.images(grid.points, some) - grid.lo) / grid.size - 0.5
        if not np.isfinite(at).all():
            raise ValueError("a step leaves the range of the numbers: choose a smaller box or learning rate")
        inside = ((at >= -0.5) | closed[0]).all(axis=-1) & ((at < shape - 0.5) | closed[1]).all(axis=-1)
        at = np.clip(at, 0, shape - 1.0)
        low = np.clip(np.floor(at).astype(np.int64) - 1, 0, shape - 4)
        weights = _cubic(at - low)  # ["N m d 4"]
        parts = []
        for offset in itertools.product(range(4), repeat=d):
            share = np.prod([weights[..., a, o] for a, o in enumerate(offset)], axis=0) * law.odds[some] * inside
            number = np.ravel_multi_index(tuple(np.moveaxis(low + np.array(offset), -1, 0)), grid.shape)
            parts.append((share.ravel(), np.broadcast_to(cells[:, None], share.shape).ravel(), number.ravel()))
        values, rows, columns = (np.concatenate(p) for p in zip(*parts, strict=True))
        total = total + scipy.sparse.csr_matrix((values, (rows, columns)), shape=(n, n))
    return scipy.sparse.csr_matrix(total)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Weights of the values at 0, 1, 2, 3 in cubic interpolation to x."""
    a, b, c = x - 1, x - 2, x - 3
    return np.stack([-a * b * c / 6, x * b * c / 2, -x * a * c / 2, x * a * b / 6], axis=-1)


def _check_size(cells: int, each: int, outcomes: int) -> None:
    if cells * each > MOST_ENTRIES:
        raise ValueError(
            f"{outcomes} outcomes a step on {cells} cells are too many to sum: use fewer cells, a smaller batch or fewer examples"
        )


def _spread(law: StepLaw, grid: Grid, closed: tuple[bool, bool]) -> scipy.sparse.csr_matrix:
    n, d, m = int(np.prod(grid.shape)), len(grid.shape), len(law.odds)
    _check_size(n, m * 2**d, m)
    block = max(1, (1 << 22) // (n * 2**d))
    total = scipy.sparse.csr_matrix((n, n))
    shape, cells = np.asarray(grid.shape), np.arange(n)
    for lo in range(0, m, block):
        some = slice(lo, lo + block)
        low, high = _faces(law, grid, some)
        odds = np.broadcast_to(law.odds[some], low.shape[:2])
        width = np.maximum(high - low, 1e-9)
        first = np.floor(low).astype(np.int64)
        last = np.floor(high - 1e-12).astype(np.int64)
        reach = np.max(last - first, axis=(0, 1), initial=0)
        parts = []
        for offset in itertools.product(*(range(r + 1) for r in np.maximum(reach, 0))):
            to = np.add(first, np.array(offset))
            share = np.clip(np.minimum(high, to + 1) - np.maximum(low, to), 0.0, None) / width
            share = np.where(high - low < 1e-9, np.array(offset) == 0, share).prod(axis=-1) * odds
            kept = (share > 0) & ((to >= 0) | closed[0]).all(axis=-1) & ((to < shape) | closed[1]).all(axis=-1)
            number = np.asarray(np.ravel_multi_index(tuple(np.moveaxis(np.clip(to, 0, shape - 1), -1, 0)), grid.shape))
            source = np.broadcast_to(cells[:, None], share.shape)
            parts.append((share[kept], source[kept], number[kept]))
        values, rows, columns = (np.concatenate(p) for p in zip(*parts, strict=True))
        total = total + scipy.sparse.csr_matrix((values, (rows, columns)), shape=(n, n))
    return scipy.sparse.csr_matrix(total)


def _faces(law: StepLaw, grid: Grid, some: slice) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper sides of the image of each cell under each outcome, in cells ["N m d"]."""
    h, d = grid.size, len(grid.shape)
    if d == 1:
        edges = np.linspace(grid.lo[0], grid.hi[0], grid.shape[0] + 1)[:, None]
        at = (law.images(edges, some) - grid.lo) / h
        if not np.isfinite(at).all():
            raise ValueError("a step leaves the range of the numbers: choose a smaller box or learning rate")
        near = np.round(at)  # the ends of a support that a step keeps are edges, but for rounding
        at = np.clip(np.where(np.abs(at - near) < 1e-9, near, at), -1e9, 1e9)
        return np.minimum(at[:-1], at[1:]), np.maximum(at[:-1], at[1:])
    centre = (law.images(grid.points, some) - grid.lo) / h
    half = np.empty_like(centre)
    for axis in range(d):
        shift = np.zeros(d)
        shift[axis] = h[axis] / 2
        ends = [law.images(grid.points + s * shift, some)[..., axis] for s in (-1, 1)]
        half[..., axis] = np.abs(ends[1] - ends[0]) / (2 * h[axis])
    if not (np.isfinite(centre).all() and np.isfinite(half).all()):
        raise ValueError("a step leaves the range of the numbers: choose a smaller box or learning rate")
    centre, half = np.clip(centre, -1e9, 1e9), np.minimum(half, 64.0)
    return centre - half, centre + half


def _gaussian(law: StepLaw, grid: Grid, closed: tuple[bool, bool]) -> scipy.sparse.csr_matrix | None:
    """Densities of the step at the centres, times the volume; None where a step is too narrow for that."""
    mean, covariance = law.moments(grid.points)
    h, n, d = grid.size, int(np.prod(grid.shape)), len(grid.shape)
    scaled = covariance / (h[:, None] * h)
    if not (np.isfinite(mean).all() and np.isfinite(scaled).all()):
        raise ValueError("a step leaves the range of the numbers: choose a smaller box or learning rate")
    if np.linalg.eigvalsh(scaled)[:, 0].min() < WIDE**2:
        return None
    inverse = np.linalg.inv(scaled)
    norm = np.sqrt(np.linalg.det(2 * np.pi * scaled))
    at = (mean - grid.lo) / h - 0.5
    wide = np.sqrt(np.einsum("nii->ni", scaled))
    shape, full = np.asarray(grid.shape), REACH[d] * wide + 1
    # far out, where Σ is large and the law is not, a step of a plane is cut short at a few times what it is somewhere, if need be
    own = full
    for cut in (4.0, 2.0) if d > 1 else ():
        if np.minimum(2 * own + 1, shape).prod(axis=1).sum() > _CHEAP:
            own = np.minimum(full, cut * full.min(axis=0))
    reach = np.ceil(own.max(axis=0)).astype(int)
    kept_odds = 1 - 2 * scipy.special.ndtr(-own / wide).sum(axis=1)  # what is cut has not left
    norm = norm * np.maximum(kept_odds, 0.1)
    if np.minimum(2 * own + 1, shape).prod(axis=1).sum() > MOST_ENTRIES:
        raise ValueError(f"a Gaussian step reaches {2 * reach + 1} cells here, too many for {n} cells: use fewer")
    home = np.asarray(np.ravel_multi_index(tuple(np.clip(np.round(at).astype(np.int64), 0, shape - 1).T), grid.shape))
    if d == 1 and reach[0] + 1 >= shape[0]:  # all cells from all
        away = np.arange(shape[0]) - at
        dense = np.exp(-0.5 * away**2 * inverse[:, :, 0]) / norm[:, None]
        return _normalised(scipy.sparse.csr_matrix(dense), closed, home)
    values, rows, columns = [], [], []
    near = np.round(at).astype(np.int64)
    for offset in itertools.product(*(range(-r, r + 1) for r in reach)):
        to = near + np.array(offset)
        inside = np.flatnonzero(((to >= 0) & (to < shape) & (np.abs(offset) <= own)).all(axis=1))
        away = to[inside] - at[inside]
        weight = np.exp(-0.5 * np.einsum("ni,nij,nj->n", away, inverse[inside], away)) / norm[inside]
        kept = weight > 1e-18
        rows.append(inside[kept])
        columns.append(np.ravel_multi_index(tuple(to[inside][kept].T), grid.shape))
        values.append(weight[kept])
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return _normalised(scipy.sparse.csr_matrix(entries, shape=(n, n)), closed, home)


def _normalised(
    matrix: scipy.sparse.csr_matrix, closed: tuple[bool, bool], home: np.ndarray
) -> scipy.sparse.csr_matrix:
    """Rows that sum to one; from where a step leaves the grid it goes to `home`, the cell nearest to its mean."""
    if closed != (True, True):  # what is lost at an end must stay lost
        return matrix
    rows = np.asarray(matrix.sum(axis=1)).ravel()
    lost = rows < 1e-3
    matrix.data *= np.repeat(np.where(lost, 0.0, 1 / np.where(lost, 1.0, rows)), np.diff(matrix.indptr))
    far = np.flatnonzero(lost)
    moved = scipy.sparse.coo_matrix((np.ones(len(far)), (far, home[far])), shape=matrix.shape)
    return scipy.sparse.csr_matrix(matrix + moved)


def stationary(matrix: scipy.sparse.csr_matrix, dim: int = 1) -> np.ndarray:
    """π with π P = π, Σ π = 1. Nothing is negative that P does not make so, up to rounding."""
    transposed = scipy.sparse.csr_matrix(matrix.T)
    n = len(matrix.indptr) - 1
    mass = np.full(n, 1.0 / n)
    direct = n <= _DIRECT[dim]
    for _ in range(64 if direct else 8):
        mass = transposed @ mass
    cheap = direct and n > _SMALL and transposed.nnz <= _SPARSE * n
    quick = _by_steps(transposed, mass) if cheap else None
    if quick is not None:
        mass = quick
    elif direct:
        # one cell's mass is fixed; the rest is a system with a matrix of the kind that elimination solves to every digit
        pivot = int(mass.argmax())
        rest = np.delete(np.arange(n), pivot)
        system = scipy.sparse.identity(n - 1, format="csc") - transposed[rest][:, rest].tocsc()
        source = transposed[rest][:, [pivot]].toarray().ravel()
        try:
            solved = scipy.sparse.linalg.splu(system, permc_spec="COLAMD").solve(source)
        except RuntimeError as error:
            raise ValueError(
                "the chain has more than one stationary law on this box: it does not get from one part to another, or it runs away "
                "to both sides (a learning rate beyond the stability edge)"
            ) from error
        mass = np.empty(n)
        mass[pivot], mass[rest] = 1.0, solved
    else:
        found = scipy.sparse.linalg.eigs(transposed, k=1, v0=mass, which="LR", ncv=60, tol=1e-13, maxiter=5000)[1][:, 0]  # pyright: ignore
        mass = (found / found[np.abs(found).argmax()]).real
    total = mass.sum()
    if not np.isfinite(total) or not abs(total) > 0.5 * np.abs(mass).sum():
        raise ValueError("no stationary law was found on this box: give another, or more cells")
    return mass / total


def _by_steps(transposed: scipy.sparse.csr_matrix, mass: np.ndarray) -> np.ndarray | None:
    """The law after so many steps that more change nothing; None where a chain forgets its start more slowly than `_QUICK` steps.

    Parts that hardly meet would pass for one law to a single start: so there are many, each with its own cells of one interval.
    """
    n = len(mass)
    starts = np.zeros((n, _STARTS))
    starts[np.arange(n), np.arange(n) * _STARTS // n] = np.random.default_rng(0).uniform(size=n)
    starts /= starts.sum(axis=0)
    for step in range(1, _QUICK + 1):
        starts = transposed @ starts
        if step % 16 == 0 and np.abs(starts - starts[:, :1]).sum(axis=0).max() < _ALIKE:
            break
    else:
        return None
    for _ in range(8):
        before = mass
        for _ in range(step):
            mass = transposed @ mass
        mass = mass / mass.sum()
        if np.abs(mass - before).sum() < _ALIKE**2:
            return mass
    return None
