"""What every figure shares: colours, type, panels measured in inches, labels beside the lines, and files that never differ.

A process has one colour everywhere, and also its own dashes, so that no reading hangs on colour alone; the hues are Okabe
and Ito's, a little darker. Figures are `matplotlib.figure.Figure` objects, drawn without pyplot, so no global state is left
behind. The same arrays give the same bytes: no dates, ids from a fixed salt, the font that ships with Matplotlib.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_log = logging.getLogger("matplotlib")
_level = _log.level
_log.setLevel(logging.ERROR)  # where no cache can be written, or none is there yet, the import would say so on stderr
try:
    from matplotlib import style as mpl_style
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
finally:
    _log.setLevel(_level)

WIDTH = 7.2  # inches, two columns of a journal
MASSES = (0.3935, 0.8647, 0.9889)  # what lies within 1, 2 and 3 standard deviations of a Gaussian in the plane

# name -> (on paper, on a dark page)
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14171c"),
    "ink": ("#22272e", "#e3e8ee"),
    "muted": ("#656d76", "#9aa4af"),
    "rule": ("#c3cad2", "#434b55"),
    "gibbs": ("#8b949e", "#7d8792"),
    "gibbs3": ("#eff1f4", "#1f242b"),
    "gibbs2": ("#dfe3e8", "#2b323b"),
    "gibbs1": ("#cbd2d9", "#3b444f"),
    "sgd": ("#d1570a", "#f08a45"),
    "sde": ("#0b6cb0", "#58aeea"),
    "frozen": ("#a8488f", "#dd8ac6"),
    "langevin": ("#0a8a66", "#3fc79d"),
    "few": ("#e9b48c", "#7a5a44"),
    "some": ("#df8f50", "#b0764a"),
    "many": ("#8f3b05", "#ffc79e"),
}
PAPER, INK, MUTED, RULE, GIBBS = (COLOURS[name][0] for name in ("paper", "ink", "muted", "rule", "gibbs"))
GIBBS_FILLS = [COLOURS[name][0] for name in ("gibbs3", "gibbs2", "gibbs1")]
SEQUENCE = [COLOURS[name][0] for name in ("few", "some", "sgd", "many")]


class Process(NamedTuple):
    """How one process is named and drawn."""

    label: str
    colour: str
    dashes: Any
    width: float


PROCESSES: dict[str, Process] = {
    "sgd": Process("SGD", COLOURS["sgd"][0], "-", 1.7),
    "sde": Process("SDE", COLOURS["sde"][0], (0, (4.5, 1.6)), 1.2),
    "frozen": Process("SDE, frozen Σ", COLOURS["frozen"][0], (0, (1.2, 1.3)), 1.2),
    "langevin": Process("Langevin", COLOURS["langevin"][0], "-", 1.0),
}

RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.solid_capstyle": "butt",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",  # letters as outlines: the same picture on a machine without the font
    "svg.hashsalt": "jaxsde",
    "path.simplify": True,
}

Arrays = Mapping[str, np.ndarray]
Result = Mapping[str, Any]
Draw = Callable[[Arrays, Result], Figure | None]


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's defaults and `RC` inside, whatever the user's matplotlibrc says; the user's settings after."""
    with mpl_style.context(["default", RC]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name may be in any script
        yield


def figure(draw: Draw) -> Draw:
    """Runs a figure function in this style."""

    @functools.wraps(draw)
    def inside(arrays: Arrays, result: Result) -> Figure | None:
        with styled():
            return draw(arrays, result)

    return inside


def canvas(body: float, title: str, subtitle: str = "", width: float = WIDTH) -> Figure:
    """An empty figure: its finding at the top left, a quiet line beneath, and `body` inches of room for panels below."""
    lines = textwrap.wrap(title, round(width * 11.6))
    quiet = textwrap.wrap(subtitle, round(width * 15.4))
    height = body + 0.1 + 0.175 * len(lines) + 0.145 * len(quiet) + 0.12
    made = Figure(figsize=(width, height))
    left, top = 0.12 / width, 1 - 0.1 / height
    made.text(left, top, "\n".join(lines), fontsize=9.5, fontweight="bold", va="top", linespacing=1.25)
    if quiet:
        below = top - (0.03 + 0.175 * len(lines)) / height
        made.text(left, below, "\n".join(quiet), fontsize=7.5, color=MUTED, va="top", linespacing=1.3)
    made.set_label(f"{title}. {subtitle}".strip().replace(r"\$", "$"))
    return made


def panel(on: Figure, left: float, bottom: float, width: float, height: float, title: str = "") -> Axes:
    """Axes at a place given in inches from the lower left corner."""
    total_width, total_height = on.get_size_inches()
    axes = on.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))
    if title:
        axes.set_title(title, color=INK)
    return axes


def side_labels(axes: Axes, labels: Sequence[tuple[float, str, str]], size: float = 7.5, gap: float = 4.0) -> None:
    """Names to the right of `axes`, each at the height of its line's end, moved apart where they would touch.

    `labels` are (y in data units, words, colour). Call it once the limits are set.
    """
    if not labels:
        return
    scale = 72 / axes.figure.dpi
    low, high = (float(axes.transAxes.transform((0, f))[1]) * scale for f in (0, 1))
    heights = [float(axes.transData.transform((1, y))[1]) * scale if math.isfinite(y) else low for y, _, _ in labels]
    order = np.argsort(heights, kind="stable")[::-1]
    step = size * 1.28
    places = [min(max(heights[i], low), high) for i in order]
    for _ in range(60):  # each pair that is too close gives way by half
        for k in range(len(places) - 1):
            short = step - (places[k] - places[k + 1])
            if short > 0:
                places[k] += short / 2
                places[k + 1] -= short / 2
    for place, i in zip(places, order, strict=True):
        _, words, colour = labels[i]
        axes.annotate(
            words,
            xy=(1, (place - low) / (high - low)),
            xycoords="axes fraction",
            xytext=(gap, 0),
            textcoords="offset points",
            color=colour,
            fontsize=size,
            va="center_baseline",
            annotation_clip=False,
        )


def key(on: Figure, entries: Sequence[tuple[str, str]], left: float, bottom: float, size: float = 7.5) -> None:
    """Coloured words in one line from a place in inches: a key without boxes or samples."""
    width, height = on.get_size_inches()
    for words, colour in entries:
        on.text(left / width, bottom / height, words, color=colour, fontsize=size)
        left += (0.62 * len(words) + 1.8) * size / 72  # letters are 0.62 of their size wide, on average


def finite(array: Any) -> np.ndarray:
    """`array` as float64."""
    return np.asarray(array, dtype=float)


def plain_text(name: Any, limit: int = 22) -> str:
    """A user's word, safe to draw: no mathematics, no control characters, not too long."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(name))
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return text.replace("$", r"\$")


def coordinate(names: np.ndarray, i: int) -> str:
    """The axis name of component i, Φ[name]."""
    return f"Φ[{plain_text(names[i])}]"


def number(x: float | None, digits: int = 3) -> str:
    """`x` for people: significant digits, a true minus sign, powers of ten only where they help."""
    if x is None or not math.isfinite(x):
        return "unknown"
    if x == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{x:.{digits - 1}e}"))))
    if -5 <= exponent <= 5:
        return f"{x:.{max(0, digits - 1 - exponent)}f}".replace("-", "−")
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{x / 10.0**exponent:.{digits - 1}f}·10{raised}".replace("-", "−")


def interval(estimate: Any, digits: int = 3) -> str:
    """`value [low, high]` of a scalar estimate as in result.json, with the digits its interval allows, or "unknown"."""
    value, low, high = triple(estimate)
    if value is None:
        return "unknown"
    if low is None or high is None or not high > low:
        return number(value, digits)
    places = -math.floor(math.log10(high - low) - math.log10(3))  # the interval is 3 to 30 units of the last digit wide
    if not -3 <= places <= 6:
        return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"
    value, low, high = (f"{x:.{max(places, 0)}f}".replace("-", "−") for x in (value, low, high))
    return f"{value} [{low}, {high}]"


def triple(estimate: Any) -> tuple[float | None, float | None, float | None]:
    """(value, low, high) of a scalar estimate as in result.json; None where there is no number."""
    if isinstance(estimate, int | float) and not isinstance(estimate, bool):
        return (float(estimate), None, None) if math.isfinite(estimate) else (None, None, None)
    if not isinstance(estimate, Mapping):
        return None, None, None
    found = [estimate.get(name) for name in ("value", "low", "high")]
    value, low, high = (
        float(x) if isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) else None for x in found
    )
    return value, low, high


def files(drawn: Figure) -> dict[str, bytes]:
    """The figure as {"svg": …, "png": …}: the same bytes for the same figure."""
    made = {}
    with styled():
        for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            drawn.savefig(buffer, format=kind, dpi=200, metadata=metadata)
            made[kind] = buffer.getvalue()
    return made
