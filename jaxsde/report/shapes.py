"""What the figures are made of: one function draws one kind of panel into axes that it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from .style import (
    COLOURS,
    GIBBS,
    GIBBS_FILLS,
    INK,
    MASSES,
    MUTED,
    PROCESSES,
    RULE,
    Arrays,
    coordinate,
    finite,
    number,
    plain_text,
    side_labels,
    triple,
)

_BELOW = 1e-30  # where a logarithmic axis puts what it cannot show: far below its foot
Limits = tuple[tuple[float, float], tuple[float, float]]


def scalar(arrays: Arrays, name: str) -> float | None:
    """A number among the arrays; None where it is missing or not finite."""
    if name not in arrays or np.size(arrays[name]) != 1:
        return None
    value = float(np.ravel(finite(arrays[name]))[0])
    return value if math.isfinite(value) else None


def answer(value: Any) -> str:
    """A check's answer as a word: yes, no or undecided."""
    if isinstance(value, Mapping):
        value = value.get("answer", value.get("holds"))
    return {True: "yes", False: "no", None: "undecided"}.get(value, str(value)) if _plain(value) else "undecided"


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | str)


# One component


def marginal(axes: Axes, arrays: Arrays, i: int, only: Sequence[str] = tuple(PROCESSES)) -> None:
    """Densities of component i: the Gibbs law filled, the histograms as lines."""
    edges = finite(arrays[f"edges_{i}"])
    middles, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    low, high = span(arrays, i)
    if f"gibbs_density_{i}" in arrays and f"gibbs_grid_{i}" in arrays:
        grid, height = finite(arrays[f"gibbs_grid_{i}"]), finite(arrays[f"gibbs_density_{i}"])
        axes.fill_between(grid, height, color=COLOURS["gibbs2"][0], lw=0, zorder=1)
        axes.plot(grid, height, color=GIBBS, lw=0.8, zorder=2)
    for p in only:
        if f"{p}_hist_{i}" in arrays:
            style = PROCESSES[p]
            height = finite(arrays[f"{p}_hist_{i}"]) / widths
            height = np.where(height > 2e-3 * np.nanmax(height), height, np.nan)  # no line along the axis
            axes.plot(middles, height, color=style.colour, lw=style.width, ls=style.dashes, zorder=3)
    axes.set_xlim(low, high)
    axes.set_ylim(0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if "phi_star" in arrays and i < len(arrays["phi_star"]):
        axes.plot([float(arrays["phi_star"][i])], [0], marker="|", ms=7, mew=0.9, color=INK, clip_on=False, zorder=4)


def span(arrays: Arrays, i: int, tail: float = 3e-4) -> tuple[float, float]:
    """Where component i of all laws lies, but for `tail` of the mass at each end, with a margin."""
    edges = finite(arrays[f"edges_{i}"])
    ends: list[float] = []
    for p in PROCESSES:
        if f"{p}_hist_{i}" in arrays:
            ends += _quantiles(edges, finite(arrays[f"{p}_hist_{i}"]), tail)
    if f"gibbs_density_{i}" in arrays and f"gibbs_grid_{i}" in arrays:
        grid, height = finite(arrays[f"gibbs_grid_{i}"]), finite(arrays[f"gibbs_density_{i}"])
        between = np.diff(grid) * (height[1:] + height[:-1]) / 2
        ends += _quantiles(grid, between, tail)
    if not ends:
        return float(edges[0]), float(edges[-1])
    margin = 0.04 * (max(ends) - min(ends))
    return min(ends) - margin, max(ends) + margin


def _quantiles(edges: np.ndarray, masses: np.ndarray, tail: float) -> list[float]:
    total = np.cumsum(np.nan_to_num(masses))
    if not total[-1] > 0:
        return []
    steps = np.concatenate([[0.0], total / total[-1]])
    return [float(np.interp(at, steps, edges)) for at in (tail, 1 - tail)]


# The plane of the first two components


def levels(heights: np.ndarray, masses: np.ndarray) -> list[float]:
    """The heights whose contours hold `MASSES` of the law, lowest first: the smallest regions that hold them."""
    order = np.argsort(heights, axis=None)[::-1]
    inside = np.cumsum(masses.ravel()[order])
    found = []
    for share in MASSES:
        at = int(np.searchsorted(inside, share))
        if at < len(inside):
            found.append(float(heights.ravel()[order[at]]))
    return sorted(set(found) - {0.0})


def gibbs_plane(axes: Axes, arrays: Arrays) -> None:
    """The Gibbs law as three greys."""
    if not all(f"gibbs2_{part}" in arrays for part in ("x", "y", "density")):
        return
    x, y, height = (finite(arrays[f"gibbs2_{part}"]) for part in ("x", "y", "density"))
    cells = np.outer(np.gradient(x), np.gradient(y))
    at = levels(height, height * cells)
    if at:
        axes.contourf(
            x, y, height.T, levels=[*at, float(height.max()) * 1.001], colors=GIBBS_FILLS[-len(at) :], zorder=0
        )


def process_plane(axes: Axes, arrays: Arrays, p: str) -> None:
    """The contours of a process, from its two-dimensional histogram smoothed by about one bin."""
    edges = [finite(arrays[f"edges2_{i}"]) for i in (0, 1)]
    masses = smooth(finite(arrays[f"{p}_hist2"]))
    heights = masses / np.outer(np.diff(edges[0]), np.diff(edges[1]))
    at = levels(heights, masses)
    if at:
        x, y = ((e[1:] + e[:-1]) / 2 for e in edges)
        axes.contour(x, y, heights.T, levels=at, colors=[PROCESSES[p].colour], linewidths=[0.8, 1.0, 1.3][-len(at) :])
    if "phi_star" in arrays and len(arrays["phi_star"]) > 1:
        axes.plot(*finite(arrays["phi_star"])[:2, None], marker="+", ms=5, mew=0.8, color=INK, zorder=4)


def smooth(masses: np.ndarray) -> np.ndarray:
    """Each axis averaged with weights 1 4 6 4 1 (a Gaussian of one bin); what would leave the box stays at its rim."""
    for axis in (0, 1):
        moved = np.moveaxis(masses, axis, 0)
        padded = np.pad(moved, ((2, 2), (0, 0)), mode="symmetric")
        length = moved.shape[0]
        moved = sum(w * padded[k : k + length] for k, w in enumerate((1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)))
        masses = np.moveaxis(np.asarray(moved), 0, axis)
    return masses


def plane_limits(arrays: Arrays) -> Limits:
    """The part of the plane where the laws are."""
    if "edges_0" in arrays and "edges_1" in arrays:
        return span(arrays, 0), span(arrays, 1)
    first, second = ((float(arrays[f"edges2_{i}"][0]), float(arrays[f"edges2_{i}"][-1])) for i in (0, 1))
    return first, second


def frame_plane(axes: Axes, limits: Limits, names: np.ndarray, *, first: bool) -> None:
    """The same limits for every panel; ticks and the name of the second component on the first one only."""
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(coordinate(names, 0), labelpad=2)
    if first:
        axes.set_ylabel(coordinate(names, 1), labelpad=2)
    else:
        axes.tick_params(labelleft=False)


# Time, noise, divergences


def lines_over_time(
    axes: Axes, arrays: Arrays, shown: list[str], suffix: str, *, offset: float = 0.0, positive: bool
) -> tuple[list[tuple[float, str, str]], float, float] | None:
    """One line with its band for each process: (labels for the ends, lowest value, highest), None if all are unknown.

    `positive` is for a logarithmic axis, where a value that is not positive leaves the panel at its foot."""
    ends, low, high = [], math.inf, -math.inf
    log = logarithmic(finite(arrays["time"]))
    for p in shown:
        time = finite(arrays.get(f"{p}_time", arrays["time"]))
        style, values = PROCESSES[p], finite(arrays[f"{p}_{suffix}"]) - offset
        if len(values) != len(time):
            continue
        keep = np.isfinite(values) & np.isfinite(time)
        if log:
            keep &= time > 0
        chosen = thinned(np.flatnonzero(keep), time, log)
        if not len(chosen):
            continue
        t, v = time[chosen], values[chosen]
        if positive:
            v = np.maximum(v, _BELOW)
        axes.plot(t, v, color=style.colour, lw=style.width, ls=style.dashes, zorder=3)
        error = arrays.get(f"{p}_{suffix}_stderr")
        if error is not None:
            half = 1.96 * np.nan_to_num(finite(error)[chosen])
            lower = np.maximum(v - half, _BELOW) if positive else v - half
            axes.fill_between(t, lower, v + half, color=style.colour, alpha=0.18, lw=0, zorder=2)
        inside = v[v > _BELOW] if positive else v
        low, high = min(low, float(inside.min(initial=math.inf))), max(high, float(inside.max(initial=-math.inf)))
        ends.append((float(np.median(v[-5:])), style.label, style.colour))
    return (ends, low, high) if math.isfinite(low) else None


def thinned(indices: np.ndarray, time: np.ndarray, log: bool, most: int = 70) -> np.ndarray:
    """At most `most` of the indices, evenly spaced along the axis that `time_axis` chooses; none is averaged."""
    if len(indices) <= most:
        return indices
    t = time[indices]
    space = np.geomspace if log else np.linspace
    return np.unique(indices[np.searchsorted(t, space(t[0], t[-1], most)).clip(0, len(t) - 1)])


def logarithmic(time: np.ndarray) -> bool:
    """Whether the time axis is logarithmic: where it spans much, because relaxation is over early."""
    positive = time[np.isfinite(time) & (time > 0)]
    return len(positive) > 1 and bool(positive.max() / positive.min() >= 30)


def time_axis(axes: Axes, time: np.ndarray) -> None:
    """The clock t = Σ η."""
    positive = time[np.isfinite(time) & (time > 0)]
    if logarithmic(time):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(float(positive.min()), float(positive.max()))
    elif len(positive):
        axes.set_xlim(float(np.nanmin(time)), float(positive.max()))
    axes.set_xlabel("time t = Σ η", labelpad=2)


def noise_growth(axes: Axes, arrays: Arrays, counts: np.ndarray, measured: np.ndarray, names: np.ndarray) -> None:
    """Measured standard deviations of sums of N noises as dots with intervals, √N times one noise's as lines."""
    labels, marks = [], ("o", "s", "^", "D")
    line = np.array([counts.min(), counts.max()])
    for i in range(min(measured.shape[1], len(marks))):
        if "noise_sd1" in arrays:
            expected = float(np.ravel(finite(arrays["noise_sd1"]))[i]) * np.sqrt(line)
            axes.plot(line, expected, color=RULE if i else MUTED, lw=0.8, zorder=1)
        if "noise_std_low" in arrays and "noise_std_high" in arrays:
            low, high = (finite(arrays[f"noise_std_{end}"]).reshape(len(counts), -1)[:, i] for end in ("low", "high"))
            axes.vlines(counts, low, high, color=COLOURS["sgd"][0], lw=0.9, zorder=2)
        filled = COLOURS["sgd"][0] if i == 0 else COLOURS["paper"][0]
        axes.plot(
            counts,
            measured[:, i],
            ls="none",
            marker=marks[i],
            ms=3.6,
            mew=0.9,
            mfc=filled,
            mec=COLOURS["sgd"][0],
            zorder=3,
        )
        labels.append((float(measured[-1, i]), coordinate(names, i), INK))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(counts, [f"{int(n)}" for n in counts])
    axes.minorticks_off()
    axes.set_xlabel("N, number of summed noises", labelpad=2)
    axes.set_ylabel("standard deviation of the sum", labelpad=2)
    side_labels(axes, labels, size=7, gap=7)


def quantiles(axes: Axes, arrays: Arrays, names: np.ndarray, colours: Sequence[str]) -> None:
    """Quantiles of the standardised sums against a Gaussian's; on the diagonal they are the same."""
    normal, drawn = finite(arrays["noise_qq_normal"]), finite(arrays["noise_qq"])
    counts = np.ravel(arrays["noise_qq_n"])
    rows = np.unique(np.linspace(0, len(counts) - 1, min(len(counts), len(colours))).round().astype(int))
    reach = float(np.abs(normal).max())
    axes.plot([-reach, reach], [-reach, reach], color=MUTED, lw=0.7, zorder=1)
    labels = []
    for colour, row in zip(colours[-len(rows) :], rows, strict=True):
        axes.plot(normal, drawn[row], color=colour, lw=1.4, zorder=2)
        labels.append((f"N = {int(counts[row])}", colour))
    axes.set_xlim(-reach, reach)
    axes.margins(y=0.03)
    axes.set_xlabel("Gaussian quantile", labelpad=2)
    axes.set_ylabel(f"quantile of the sum along {coordinate(names, 0)}", labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for row, (words, colour) in enumerate([*labels, ("Gaussian", MUTED)]):
        axes.annotate(
            words, (0.04, 0.99), (0, -9.5 * row), "axes fraction", "offset points", color=colour, fontsize=7, va="top"
        )


def divergences(axes: Axes, rows: list[tuple[str, Any]], floor: float | None) -> None:
    """One bar with its interval for each process, the number beside it, or why there is none."""
    values = [triple(estimate) for _, estimate in rows]
    most = max([x for triple_ in values for x in triple_ if x is not None], default=0.0) or 1.0
    for row, ((p, estimate), (value, low, high)) in enumerate(zip(rows, values, strict=True)):
        style = PROCESSES[p]
        if value is None:
            reason = estimate.get("reason") if isinstance(estimate, Mapping) else None
            words = f"unknown: {plain_text(reason, 34)}" if reason else "unknown"
            axes.annotate(words, (0, row), (3, 0), textcoords="offset points", color=MUTED, fontsize=6.5, va="center")
            continue
        axes.barh([row], [value], height=0.5, color=style.colour, lw=0)
        end = value
        if low is not None and high is not None:
            axes.plot([low, high], [row, row], color=INK, lw=1.1, solid_capstyle="butt")
            end = max(value, high)
        near_zero = low is not None and high is not None and low <= 0
        words = f"< {number(high, 1)}" if near_zero else number(value)
        axes.annotate(words, (end, row), (4, 0), textcoords="offset points", fontsize=7.5, va="center")
    if floor is not None and 0.02 * most < floor < most:
        axes.axvline(floor, color=MUTED, lw=0.6, ls=(0, (2, 2)), zorder=0)
        at = (floor, len(rows) - 0.45)
        axes.annotate("floor", at, (2, 0), textcoords="offset points", color=MUTED, fontsize=6.5)
    axes.set_xlim(0, most * 1.02)
    named_rows(axes, [PROCESSES[p].label for p, _ in rows])
    axes.xaxis.set_major_locator(MaxNLocator(4))


def named_rows(axes: Axes, words: list[str]) -> None:
    """One row for each word, from the top, a process in its colour; no vertical axis."""
    axes.set_yticks(range(len(words)), words)
    axes.set_ylim(len(words) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)
    names = {style.label: style.colour for style in PROCESSES.values()}
    for text in axes.get_yticklabels():
        text.set_color(names.get(text.get_text(), INK))
