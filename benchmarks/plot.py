"""`python -m benchmarks.plot ROWS.json FIGURE.png`: each implementation as a fraction of the yardstick, and the table; or, for
the rows of benchmarks.scaling, the speed over chains, dimension and steps, and what statistics cost."""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jaxsde.report.style import INK, MUTED, RULE, WIDTH

# our executors, and whatever peer is the best of a workload
SERIES = {
    "native": ("jaxsde, native", "#0b6cb0"),
    "lanes": ("jaxsde, lanes", "#4f9bd0"),
    "vmap": ("jaxsde, vmap", "#8fbfe0"),
    "peer": ("best peer", "#d1570a"),
}


def chosen(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """workload -> series -> the row that stands for it."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        if row["implementation"].startswith("jaxsde, "):
            found[row["workload"]][row["executor"]] = row
        elif row["of_yardstick"] == 1:
            found[row["workload"]]["yardstick"] = row
        elif row["chain_steps_per_second"] > found[row["workload"]].get("peer", {}).get("chain_steps_per_second", 0):
            found[row["workload"]]["peer"] = row
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The table of the README, in Markdown."""
    lines = [
        "| workload | jaxsde, chain-steps/s | of the yardstick | × the best peer | which is | first result compiled in |",
        "|---|---|---|---|---|---|",
    ]
    for workload, series in chosen(rows).items():
        ours, peer = series["native"], series["peer"]
        lines.append(
            f"| {workload} | {ours['chain_steps_per_second']:.2g} | {ours['of_yardstick']:.2f} | {ours['of_best_peer']:.0f} | "
            f"{peer['implementation']} | {ours['compile_s']:.1f} s |"
        )
    return "\n".join(lines)


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Bars on a logarithmic axis: 1 is the kernel written by hand."""
    found = chosen(rows)
    drawn = Figure(figsize=(WIDTH, 0.72 * len(found) + 0.9), layout="constrained")
    axes = drawn.subplots()
    shown = [key for key in SERIES if any(key in series for series in found.values())]
    step = 0.78 / len(shown)
    for j, key in enumerate(shown):
        label, colour = SERIES[key]
        for i, series in enumerate(found.values()):
            if key not in series:
                continue
            value, place = series[key]["of_yardstick"], i + step * (j - (len(shown) - 1) / 2)
            axes.barh(place, value, 0.92 * step, color=colour, label=label)
            label = None
            name = f" {value:.2g}" + (f"  ({series[key]['implementation']})" if key == "peer" else "")
            axes.text(value, place, name, va="center", fontsize=7, color=MUTED,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.01, 3)
    axes.set_xlabel("fraction of a kernel written by hand in C++ (per CPU-second)", fontsize=8)
    axes.tick_params(labelsize=8, color=RULE)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    return drawn


def scaling(rows: list[dict[str, Any]]) -> Figure:
    """Lines over chains, dimension and steps, and bars for the statistics."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["series"]].append(row)
    lines = {
        "chains": ("chains", "chain-steps/s", lambda r: r["chain_steps_per_second"]),
        "dimension": ("dimension d", "d × chain-steps/s", lambda r: r["x"] * r["chain_steps_per_second"]),
        "steps": ("steps", "peak memory, MB", lambda r: r["peak_mb"] or 0),
    }
    costs = [name for name in found if name.startswith("statistics")]
    drawn = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    panels = drawn.subplots(2, 2).ravel()
    for axes, (name, (along, up, height)) in zip(panels[:-1], lines.items(), strict=True):
        points = found[name]
        axes.plot([r["x"] for r in points], [height(r) for r in points], "o-", color="#0b6cb0", markersize=3, linewidth=1)
        for a, b in itertools.pairwise(points):
            if a["executor"] != b["executor"]:
                axes.axvline((a["x"] * b["x"]) ** 0.5, color=RULE, linewidth=1)
                axes.text(b["x"], height(a), f" {b['executor']}", fontsize=7, color=MUTED, ha="center")
        axes.set_xscale("log")
        if name == "steps":
            axes.set_ylim(0, 1.15 * max(map(height, points)) or 1)
        else:
            axes.set_yscale("log")
        axes.set_xlabel(along, fontsize=8)
        axes.set_ylabel(up, fontsize=8)
    axes = panels[-1]
    step = 0.8 / max(1, len(costs))
    for j, name in enumerate(costs):
        base = found[name][0]["chain_steps_per_second"]
        for i, row in enumerate(found[name][1:]):
            more = 100 * (base / row["chain_steps_per_second"] - 1)
            place = i + step * (j - (len(costs) - 1) / 2)
            axes.barh(place, more, 0.9 * step, color=("#0b6cb0", "#8fbfe0")[j % 2], label=None if i else name.split(", ")[1])
            axes.text(more, place, f" {more:.0f}", va="center", fontsize=7, color=MUTED)
    if costs:
        axes.set_yticks(range(len(found[costs[0]]) - 1), [row["label"] for row in found[costs[0]][1:]])
        axes.invert_yaxis()
        axes.legend(frameon=False, fontsize=7)
    axes.set_xlabel("% more time, looking every 16 steps", fontsize=8)
    for axes in panels:
        axes.tick_params(which="both", labelsize=7, color=RULE)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return drawn


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("rows", type=Path, help="what benchmarks.throughput or benchmarks.scaling wrote")
    parser.add_argument("figure", type=Path, nargs="?", help="a .png or .svg file")
    given = parser.parse_args(arguments)
    rows = json.loads(given.rows.read_text())
    lines = "series" in rows[0]
    if not lines:
        print(table(rows))
    if given.figure:
        (scaling if lines else figure)(rows).savefig(given.figure, dpi=160)


if __name__ == "__main__":
    main()
