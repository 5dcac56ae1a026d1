"""The figures of a run, drawn from the arrays of its folder alone: `FIGURES[name](arrays, result) -> Figure | None`.

None means that the arrays which the figure needs are not there (`NEEDS` says in words what they are). What the arrays are,
`record.py` says, which makes them; `result` is the object of result.json. Titles state what was found, in numbers of this run.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import covariances, shapes
from .style import (
    COLOURS,
    GIBBS,
    INK,
    MUTED,
    PROCESSES,
    SEQUENCE,
    Arrays,
    Draw,
    Result,
    canvas,
    coordinate,
    figure,
    finite,
    interval,
    key,
    number,
    panel,
    plain_text,
    side_labels,
    triple,
)


def present(arrays: Arrays, suffix: str) -> list[str]:
    """The processes that have an array of this name."""
    return [p for p in PROCESSES if f"{p}_{suffix}" in arrays]


def component_names(arrays: Arrays, dim: int) -> np.ndarray:
    """One name for each of `dim` components."""
    names = arrays.get("names")
    return np.array([str(i) for i in range(dim)]) if names is None or len(names) < dim else np.asarray(names)


def kl(result: Result, name: str) -> Any:
    """One of the estimates under `kl` in result.json, or None."""
    found = result.get("kl")
    return found.get(name) if isinstance(found, dict) else None


@figure
def density(arrays: Arrays, result: Result) -> Figure | None:
    """Marginal densities of each process on the Gibbs law's, and for d ≥ 2 the contours of each on those of Gibbs."""
    shown = [i for i in range(4) if present(arrays, f"hist_{i}") and f"edges_{i}" in arrays]
    if not shown:
        return None
    plane = present(arrays, "hist2") if "edges2_0" in arrays and "edges2_1" in arrays else []
    names = component_names(arrays, max(shown) + 1)
    side = 1.62
    lower = side + 0.72 if plane else 0.0
    subtitle = "Top: marginal densities." if plane else "Density of the parameter."
    if plane:
        subtitle += " Below: curves around 39, 86 and 99 % of each law (1, 2 and 3 sd of a Gaussian); in grey, the same of Gibbs."
    made = canvas(lower + 2.1, _density_title(result), subtitle)
    count = len(shown)
    room = 7.2 - 0.45 - 0.25
    each = (room - 0.35 * (count - 1)) / count
    for place, i in enumerate(shown):
        axes = panel(made, 0.45 + place * (each + 0.35), lower + 0.42, each, 1.45)
        shapes.marginal(axes, arrays, i)
        axes.set_xlabel(coordinate(names, i), labelpad=2)
        if place == 0:
            axes.set_ylabel("density")
    words = [(PROCESSES[p].label, PROCESSES[p].colour) for p in present(arrays, f"hist_{shown[0]}")]
    gibbs = [("Gibbs", MUTED)] if f"gibbs_density_{shown[0]}" in arrays else []
    key(made, [*words, *gibbs], 0.45, lower + 1.95)
    if plane:
        each = (7.2 - 0.6 - 0.2 - 0.14 * (len(plane) - 1)) / len(plane)
        each = min(each, 1.9)
        limits = shapes.plane_limits(arrays)
        for place, p in enumerate(plane):
            axes = panel(made, 0.6 + place * (each + 0.14), 0.42, each, side)
            axes.set_title(PROCESSES[p].label, color=PROCESSES[p].colour)
            shapes.gibbs_plane(axes, arrays)
            shapes.process_plane(axes, arrays, p)
            shapes.frame_plane(axes, limits, names, first=place == 0)
    return made


def _density_title(result: Result) -> str:
    sgd = kl(result, "sgd")
    if triple(sgd)[0] is None:
        return "The law of each process against Gibbs"
    ends = f"KL(SGD‖Gibbs) = {interval(sgd)} nats"
    verdict = shapes.answer((result.get("verdict") or {}).get("gibbs"))
    lead = {"no": "SGD does not settle into a Gibbs law", "yes": "SGD settles into a Gibbs law"}.get(
        verdict, "SGD against the nearest Gibbs law"
    )
    return f"{lead}: {ends}"


@figure
def covariance(arrays: Arrays, result: Result) -> Figure | None:
    """Ellipses at 1 and 2 sd of the measured and predicted covariances, and how far each entry is from SGD's exact theory."""
    if not present(arrays, "cov"):
        return None
    dim = finite(arrays[f"{present(arrays, 'cov')[0]}_cov"]).shape[0]
    names = component_names(arrays, dim)
    more = f" The first two of {dim} components." if dim > 2 else ""
    if dim == 1:
        made = canvas(2.0, _covariance_title(arrays), "Dots with 95 % intervals were measured, ticks are theory.")
        axes = panel(made, 1.3, 0.45, 5.3, 1.4)
        covariances.variances(axes, arrays, result)
        axes.set_xlabel(f"variance of {coordinate(names, 0)}")
        return made
    made = canvas(
        3.3,
        _covariance_title(arrays),
        f"Left: ellipses at 1 and 2 sd.{more} Lines were measured, dots are theory; the grey is Gibbs. Right: each entry less"
        " SGD's theory, dots with 95 % intervals; ticks are the theory of the SDE.",
    )
    covariances.ellipses(panel(made, 0.6, 0.45, 2.7, 2.7), arrays, names)
    right = panel(made, 4.85, 0.6, 1.5, 2.45)
    if not covariances.differences(right, arrays, result, names):
        right.remove()
    return made


def _covariance_title(arrays: Arrays) -> str:
    exact, measured, gibbs = (arrays.get(f"{name}_cov") for name in ("theory_sgd", "sgd", "gibbs"))
    if exact is None or measured is None:
        return "The covariance of each process"
    lead = f"SGD's covariance is {_apart(measured, exact)} from its theory"
    return lead if gibbs is None else f"{lead} and {_apart(measured, gibbs)} from that of Gibbs"


def _apart(matrix: np.ndarray, other: np.ndarray) -> str:
    """|matrix − other| / |other| (Frobenius) in per cent."""
    return f"{number(100 * float(np.linalg.norm(matrix - other) / np.linalg.norm(other)), 2)} %"


@figure
def kl_over_time(arrays: Arrays, result: Result) -> Figure | None:
    """KL of the ensemble to Gibbs against time, on a logarithmic axis, with the estimator's floor and theory's value."""
    shown = present(arrays, "kl_time")
    if not shown or "time" not in arrays:
        return None
    made = canvas(
        2.8,
        _kl_title(arrays, result),
        "KL(law at time t ‖ Gibbs) from the ensemble's mean and covariance; bands are 95 %, estimates ≤ 0 lie below.",
    )
    axes = panel(made, 0.6, 0.45, 5.1, 2.2)
    drawn = shapes.lines_over_time(axes, arrays, shown, "kl_time", positive=True)
    if drawn is None:
        return None
    floor, theory = shapes.scalar(arrays, "kl_floor"), shapes.scalar(arrays, "kl_theory_frozen")
    ends, low, high = drawn
    axes.set_yscale("log")
    marks = [x for x in (floor, theory) if x is not None and x > 0]
    axes.set_ylim(max(min([low, *marks]) / 2, min([high, *marks]) / 8), max([high, *marks]) * 1.6)
    if floor is not None and floor > 0:
        axes.axhspan(axes.get_ylim()[0], floor, color=COLOURS["gibbs3"][0], lw=0, zorder=0)
        ends.append((math.sqrt(floor * axes.get_ylim()[0]), "the estimator's floor", MUTED))
    if theory is not None and theory > 0:
        axes.axhline(theory, color=INK, lw=0.6, ls=(0, (6, 3)), zorder=1)
        ends.append((theory, f"theory, frozen Σ: {number(theory)}", INK))
    shapes.time_axis(axes, finite(arrays["time"]))
    axes.set_ylabel("KL to Gibbs (nats)")
    side_labels(axes, ends)
    return made


def _kl_title(arrays: Arrays, result: Result) -> str:
    end, control = triple(kl(result, "sgd"))[0], triple(kl(result, "langevin"))[0]
    verdict = shapes.answer((result.get("verdict") or {}).get("gibbs"))
    if end is None or verdict != "no":
        return "How far each law is from Gibbs, as time passes"
    tail = ", while Langevin falls to the noise" if control is not None and control < end / 5 else ""
    return f"SGD's distance from Gibbs stays at {number(end)} nats{tail}"


@figure
def noise(arrays: Arrays, result: Result) -> Figure | None:
    """The standard deviation of a sum of N gradient noises against √N, and its quantiles against a Gaussian's."""
    if "noise_n" not in arrays or "noise_std" not in arrays:
        return None
    counts, measured = finite(arrays["noise_n"]), finite(arrays["noise_std"])
    measured = measured.reshape(len(counts), -1)
    names = component_names(arrays, measured.shape[1])
    qq = all(f"noise_{part}" in arrays for part in ("qq", "qq_n", "qq_normal"))
    slope = _slope(counts, measured)
    title = "Summed gradient noise"
    if slope is not None:
        title = f"The noise of N steps grows like N to the power {number(slope)}" + (
            ", and tends to a Gaussian" if qq else ""
        )
    quiet = (
        "Sums of N independent gradient noises ĝ − g at the minimum. Left: measured, on the line √N × the noise of one."
    )
    made = canvas(2.85, title, quiet)
    axes = panel(made, 0.6, 0.47, 2.3 if qq else 5.3, 2.25)
    shapes.noise_growth(axes, arrays, counts, measured, names)
    if qq:
        right = panel(made, 4.25, 0.47, 2.25, 2.25)
        shapes.quantiles(right, arrays, names, SEQUENCE)
    return made


def _slope(counts: np.ndarray, measured: np.ndarray) -> float | None:
    """The least-squares slope of log std against log N, over all components."""
    good = (counts > 0) & np.all(np.isfinite(measured) & (measured > 0), axis=1)
    if good.sum() < 2 or np.ptp(counts[good]) == 0:
        return None
    x, y = np.log(counts[good]), np.log(measured[good])
    x = x - x.mean()
    return float(np.mean(x @ (y - y.mean(0)) / (x @ x)))


@figure
def mean_loss(arrays: Arrays, result: Result) -> Figure | None:
    """The mean loss of each process against time, with the minimum and the Gibbs law's mean loss."""
    shown = present(arrays, "loss_time")
    if not shown or "time" not in arrays:
        return None
    least, gibbs = shapes.scalar(arrays, "min_loss"), shapes.scalar(arrays, "gibbs_mean_loss")
    offset = least if least is not None and _spans_decades(arrays, shown, least) else None
    made = canvas(2.75, _loss_title(arrays, shown, least, gibbs), "Mean of L(Φ) over the chains; bands are 95 %.")
    axes = panel(made, 0.7, 0.45, 5.05, 2.15)
    drawn = shapes.lines_over_time(axes, arrays, shown, "loss_time", offset=offset or 0.0, positive=offset is not None)
    if drawn is None:
        return None
    ends, low, high = drawn
    levels = [] if least is None or offset is not None else [(least, f"minimum {number(least, 4)}", INK)]
    if gibbs is not None:
        levels.append((gibbs - (offset or 0.0), f"Gibbs {number(gibbs, 4)}", MUTED))
    values = [low, high, *(y for y, _, _ in levels)]
    if offset is not None:
        axes.set_yscale("log")
        axes.set_ylim(max(min(values) / 1.6, max(values) * 1e-6), max(values) * 1.6)
    else:
        margin = 0.08 * (max(values) - min(values) or 1.0)
        axes.set_ylim(min(values) - margin, max(values) + margin)
    for y, _, colour in levels:
        axes.axhline(y, color=GIBBS if colour == MUTED else INK, lw=0.7, ls=(0, (6, 3)), zorder=1)
    shapes.time_axis(axes, finite(arrays["time"]))
    axes.set_ylabel("mean loss L" if offset is None else "mean loss above the minimum")
    side_labels(axes, ends + levels)
    return made


def _spans_decades(arrays: Arrays, shown: list[str], least: float) -> bool:
    """Whether the excess over the minimum falls so far that only a logarithmic axis shows where it ends."""
    excess = finite(arrays[f"{shown[0]}_loss_time"]) - least
    excess = excess[np.isfinite(excess) & (excess > 0)]
    return len(excess) > 1 and float(excess.max() / excess[-1]) > 12


def _loss_title(arrays: Arrays, shown: list[str], least: float | None, gibbs: float | None) -> str:
    sgd = finite(arrays[f"{shown[0]}_loss_time"])
    sgd = sgd[np.isfinite(sgd)]
    if shown[0] != "sgd" or least is None or not len(sgd):
        return "The mean loss of each process"
    late = float(np.mean(sgd[-max(1, len(sgd) // 4) :]))
    tail = ""
    if gibbs is not None and gibbs > least:
        tail = f", {number((late - least) / (gibbs - least))} times as far as Gibbs"
    return f"Noise keeps SGD {number(late - least)} above the minimum{tail}"


@figure
def summary(arrays: Arrays, result: Result) -> Figure | None:
    """One wide figure: the law of SGD on Gibbs, the covariances, and each process's KL to Gibbs with its interval."""
    known = [p for p in PROCESSES if kl(result, p) is not None]
    if not known or not present(arrays, "cov"):
        return None
    dim = finite(arrays[f"{present(arrays, 'cov')[0]}_cov"]).shape[0]
    names = component_names(arrays, dim)
    made = canvas(2.7, _summary_title(result), _setting(result), width=9.6)
    left = panel(made, 0.6, 0.42, 2.1, 2.0)
    if dim > 1 and "sgd_hist2" in arrays and "edges2_0" in arrays:
        shapes.gibbs_plane(left, arrays)
        shapes.process_plane(left, arrays, "sgd")
        shapes.frame_plane(left, shapes.plane_limits(arrays), names, first=True)
    elif "sgd_hist_0" in arrays and "edges_0" in arrays:
        shapes.marginal(left, arrays, 0, only=("sgd",))
        left.set_xlabel(coordinate(names, 0), labelpad=2)
    else:
        left.remove()
    left.set_title("The law of SGD, Gibbs in grey")
    if dim > 1:
        middle = panel(made, 3.5, 0.42, 2.0, 2.0, "Covariance, at 1 and 2 sd")
        covariances.ellipses(middle, arrays, names, small=True)
    else:
        middle = panel(made, 4.0, 0.42, 1.8, 2.0, f"Variance of {coordinate(names, 0)}")
        covariances.variances(middle, arrays, result)
    right = panel(made, 7.2, 0.42, 1.8, 2.0, "KL to Gibbs, nats")
    shapes.divergences(right, [(p, kl(result, p)) for p in known], shapes.scalar(arrays, "kl_floor"))
    return made


def _summary_title(result: Result) -> str:
    value, low, high = triple(kl(result, "langevin"))
    if value is None or low is None or high is None:
        return _density_title(result)
    return f"{_density_title(result)}; Langevin's {f'is below {number(high, 1)}' if low <= 0 else f'is {number(value, 2)}'}"


def _setting(result: Result) -> str:
    parts = []
    for name, words in (
        ("experiment", "{}"),
        ("learning_rate", "η = {}"),
        ("batch_size", "B = {}"),
        ("chains", "{} chains"),
    ):
        value = result.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            parts.append(words.format(repr(value) if isinstance(value, float) else f"{value:,}".replace(",", "\u202f")))
        elif isinstance(value, str):
            parts.append(plain_text(value, 60))
    return ", ".join(parts)


NEEDS: dict[str, str] = {
    "summary": "the measured covariances and the KL of each process",
    "density": "histograms of the processes",
    "covariance": "the measured covariances",
    "kl_over_time": "the KL to Gibbs at each time",
    "noise": "samples of the gradient noise, which only a mean over examples has",
    "mean_loss": "the mean loss at each time",
}

FIGURES: dict[str, Draw] = {
    "summary": summary,
    "density": density,
    "covariance": covariance,
    "kl_over_time": kl_over_time,
    "noise": noise,
    "mean_loss": mean_loss,
}
