"""The table as a figure: |z| of every row, that of its planted twin, and the critical value; and both on one page."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..report.style import COLOURS, INK, MUTED, RULE, WIDTH, styled

if TYPE_CHECKING:
    from .table import Row, Table

_BEYOND = 100.0  # what is off by more is drawn here


def draw(table: Table, file: str | Path) -> Path:
    """The figure as .png or .svg, or a page with the figure and the table as .html. `ValueError` where no row was measured."""
    file = Path(file)
    if all(row.z is None for row in table.rows):
        raise ValueError("there is nothing to draw: no row was measured")
    if file.suffix == ".html":
        file.write_text(_page(table), encoding="utf-8")
    else:
        file.write_bytes(_picture(table, file.suffix.removeprefix(".")))
    return file


def _picture(table: Table, kind: str) -> bytes:
    from matplotlib.figure import Figure

    rows = [r for r in table.rows if r.z is not None]
    blocks = _blocks(rows)
    places, labels, y = [], [], 0.0
    heads: list[tuple[float, str]] = []
    for law, block in blocks:
        heads.append((y, law))
        y += 1
        for row in block:
            places.append(y)
            labels.append(row.sampler)
            y += 1
        y += 0.4
    with styled():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.155 * y), layout="constrained")
        axes = figure.subplots()
        at, critical = np.array(places), max((r.critical or 0.0 for r in rows), default=0.0)
        z, planted = (np.array([min(v if v is not None else np.nan, _BEYOND) for v in vs]) for vs in (
            [r.z for r in rows], [r.planted_z for r in rows]))  # fmt: skip
        axes.hlines(at, z, planted, color=RULE, lw=0.8, zorder=1)
        axes.plot(planted, at, "x", color=COLOURS["sgd"][0], ms=4.5, mew=1.2, label="noise 1.05 times too strong")
        wrong = np.array([r.verdict == "WRONG" for r in rows], bool)
        axes.plot(z[~wrong], at[~wrong], "o", color=COLOURS["sde"][0], ms=4, label="as it is")
        if wrong.any():
            axes.plot(z[wrong], at[wrong], "s", color=INK, ms=5, label="wrong")
        axes.axvline(critical, color=INK, lw=0.8, ls=(0, (3, 2)), zorder=0)
        axes.text(critical * 1.04, -0.9, f"critical {critical:.2f}", fontsize=7, va="center", color=INK)
        for row, place in zip(rows, places, strict=True):
            axes.text(
                1.01, place, _aside(row), transform=axes.get_yaxis_transform(), fontsize=6.5, va="center", color=MUTED
            )  # fmt: skip
        axes.set_yticks([*at, *(h for h, _ in heads)], [*labels, *(law.replace("_", " ") for _, law in heads)])
        for tick, place in zip(axes.get_yticklabels(), [*at, *(h for h, _ in heads)], strict=True):
            if any(place == h for h, _ in heads):
                tick.set_fontweight("bold")
        axes.tick_params(axis="y", length=0)
        axes.set(xscale="log", xlim=(0.09, _BEYOND * 1.1), ylim=(y, -1.6))
        axes.set_xlabel("largest |mean − exact| over its standard error")
        axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.spines["left"].set_visible(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=7, frameon=False, borderaxespad=0)
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None}
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


def _blocks(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.law, []).append(row)
    return list(found.items())


def _aside(row: Row) -> str:
    if row.verdict == "WRONG":
        return "wrong"
    if row.bias is None:
        return f"target, to {100 * (row.resolution or 0):.1g} %"
    return "exact" if row.verdict == "exact" else f"scheme {100 * row.bias:.2g} % off"


def _page(table: Table) -> str:
    picture = _picture(table, "svg").decode("utf-8")
    picture = picture[picture.index("<svg") :]
    style = "body{font-family:sans-serif;max-width:62rem;margin:2rem auto}pre{overflow-x:auto;font-size:.8rem}"
    style += "svg{width:100%;height:auto}"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>jaxsde conform</title><style>{style}</style>'
    return f"{head}<h1>Who samples which law</h1>{picture}<pre>{html.escape(str(table))}</pre></html>\n"
