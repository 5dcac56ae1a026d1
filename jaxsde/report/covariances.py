"""Panels of covariances: ellipses in the plane, the differences of their entries, and variances for one component."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .shapes import named_rows
from .style import (
    COLOURS,
    GIBBS_FILLS,
    INK,
    MUTED,
    PROCESSES,
    RULE,
    Arrays,
    Result,
    coordinate,
    finite,
    plain_text,
    side_labels,
)

THEORIES = {"theory_sgd_cov": "sgd", "theory_sde_cov": "sde", "theory_frozen_cov": "frozen"}


def ellipse(matrix: np.ndarray, points: int) -> np.ndarray | None:
    """Points [2, points] of the ellipse xᵀ S⁻¹ x = 1, evenly spaced in angle of the circle it comes from."""
    values, vectors = np.linalg.eigh(matrix[:2, :2])
    if not np.all(np.isfinite(values)) or values[0] < 0:
        return None
    angle = np.linspace(0, 2 * np.pi, points)
    return vectors @ (np.sqrt(values)[:, None] * np.stack([np.cos(angle), np.sin(angle)]))


def ellipses(axes: Axes, arrays: Arrays, names: np.ndarray, *, small: bool = False) -> None:
    """Gibbs filled, measured covariances as lines, theory as dots on them, at 1 and 2 sd about the centre.

    `small` shows SGD and Gibbs alone. The SDE with frozen Σ is left to `differences`: here it would cover the SDE.
    """
    reach = 0.0
    labels: list[tuple[str, str]] = []
    if "gibbs_cov" in arrays and (shape := ellipse(finite(arrays["gibbs_cov"]), 181)) is not None:
        for times, fill in ((2, GIBBS_FILLS[1]), (1, GIBBS_FILLS[2])):
            axes.fill(*(times * shape), color=fill, lw=0, zorder=0)
        reach = float(np.abs(2 * shape).max())
        labels.append(("Gibbs", MUTED))
    for p in ("sgd",) if small else ("langevin", "sgd", "sde"):
        style = PROCESSES[p]
        if f"{p}_cov" in arrays and (shape := ellipse(finite(arrays[f"{p}_cov"]), 181)) is not None:
            for times in (1, 2):
                axes.plot(*(times * shape), color=style.colour, lw=style.width, ls=style.dashes, zorder=3)
            reach = max(reach, float(np.abs(2 * shape).max()))
            labels.append((style.label, style.colour))
        theory = f"theory_{p}_cov"
        if theory in arrays and (shape := ellipse(finite(arrays[theory]), 33 if p == "sgd" else 25)) is not None:
            dots = np.concatenate([shape[:, :-1], 2 * shape[:, :-1]], axis=1)
            face, edge = (INK, INK) if p == "sgd" else (COLOURS["paper"][0], style.colour)
            axes.plot(*dots, ls="none", marker="o", ms=2.4, mew=0.6, mfc=face, mec=edge, zorder=4)
            reach = max(reach, float(np.abs(dots).max()))
            labels.append((f"{style.label}, theory", INK if p == "sgd" else style.colour))
    reach = reach * 1.06 or 1.0
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal", adjustable="box")
    axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    axes.set_xlabel(f"{coordinate(names, 0)} − mean", labelpad=2)
    axes.set_ylabel(f"{coordinate(names, 1)} − mean", labelpad=2)
    words = {"SGD, theory": "● SGD, theory", "SDE, theory": "○ SDE, theory"}
    side = [(reach * (0.92 - 0.13 * row), words.get(w, w), colour) for row, (w, colour) in enumerate(reversed(labels))]
    side_labels(axes, side, size=7)


def differences(axes: Axes, arrays: Arrays, result: Result, names: np.ndarray) -> bool:
    """Entries of each covariance less the exact theory's, as a share of sd·sd. Whether there was anything to draw."""
    reference = next((name for name in THEORIES if name in arrays), None)
    if reference is None:
        return False
    exact = finite(arrays[reference])[:2, :2]
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    entries = [(0, 0), (0, 1), (1, 1)]
    rows, labels = [p for p in ("sgd", "sde", "frozen") if f"{p}_cov" in arrays], []
    for k, name in enumerate(rows):
        matrix, style, errors = finite(arrays[f"{name}_cov"])[:2, :2], PROCESSES[name], half_widths(result, name)
        theory = arrays.get(f"theory_{name}_cov")
        for row, (i, j) in enumerate(entries):
            at = row + (k - (len(rows) - 1) / 2) * 0.22
            off = 100 * (matrix[i, j] - exact[i, j]) / scale[i, j]
            half = 0.0 if errors is None else 100 * errors[i, j] / scale[i, j]
            axes.errorbar([off], [at], xerr=[half], fmt="o", ms=3.4, mew=0, color=style.colour, lw=1.1)
            if theory is not None and name != "sgd":
                expected = 100 * (theory[i, j] - exact[i, j]) / scale[i, j]
                axes.plot([expected], [at], marker="|", ms=8, mew=0.9, color=style.colour)
            if row == 0:
                labels.append((at, style.label, style.colour))
    axes.axvline(0, color=RULE, lw=0.7, zorder=0)
    first, second = plain_text(names[0], 12), plain_text(names[1], 12)
    words = [f"Var {first}", f"Cov {first}, {second}", f"Var {second}"]
    if max(len(word) for word in words) > 14:  # the keys of the panel to the left end where longer ones would begin
        words = [f"Var\n{first}", f"Cov {first},\n{second}", f"Var\n{second}"]
    axes.set_yticks(range(3), words)
    axes.set_ylim(2.6, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.08)
    side_labels(axes, labels, size=7)
    axes.set_xlabel(
        f"difference from {PROCESSES[THEORIES[reference]].label}'s theory\n(% of the product of both sd)", labelpad=2
    )
    return True


def half_widths(result: Result, name: str) -> np.ndarray | None:
    """Half of the 95 % interval of each entry of a measured covariance, where result.json has one."""
    found = (result.get("covariance") or {}).get(name)
    if not isinstance(found, Mapping) or found.get("low") is None or found.get("high") is None:
        return None
    low, high = np.asarray(found["low"], dtype=float), np.asarray(found["high"], dtype=float)
    return (high - low) / 2 if low.ndim == 2 and low.shape == high.shape else None


def variances(axes: Axes, arrays: Arrays, result: Result) -> None:
    """For one component: measured variances as dots with intervals, theory as ticks, one row for each law."""
    rows = [p for p in PROCESSES if f"{p}_cov" in arrays] + (["gibbs"] if "gibbs_cov" in arrays else [])
    for row, name in enumerate(rows):
        style = PROCESSES.get(name)
        colour, value = style.colour if style else MUTED, float(np.ravel(finite(arrays[f"{name}_cov"]))[0])
        errors = half_widths(result, name)
        if errors is not None:
            axes.plot([value - errors[0, 0], value + errors[0, 0]], [row, row], color=colour, lw=1.2)
        axes.plot([value], [row], marker="o" if style else "s", ms=4, mew=0, color=colour)
        if (theory := f"theory_{name}_cov") in arrays:
            axes.plot([float(np.ravel(arrays[theory])[0])], [row], marker="|", ms=10, mew=1.0, color=INK)
    named_rows(axes, [PROCESSES[name].label if name in PROCESSES else "Gibbs" for name in rows])
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(4))
