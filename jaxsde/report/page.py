"""The folder's figures and its page, from the folder alone: `result.json`, `arrays.npz` and `config.toml`.

`write(folder)` draws every figure as PNG and SVG into `figures/` and makes one self-contained `report.html`. Every file is
written under another name first, so that none is ever half there.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np

from .plots import FIGURES, NEEDS

TITLES = {"sgd": "SGD", "sde": "its SDE", "frozen": "SDE, Σ frozen at Φ*", "langevin": "Langevin (control)"}
CAPTIONS = {
    "summary": "The law of each process against Gibbs, covariance ellipses, and the divergence with its interval.",
    "density": "Stationary density of each process (colour) and the Gibbs law (grey): one component at a time, then the first two.",
    "covariance": "Covariance ellipses of one and two standard deviations: measured, exact theory, and Gibbs.",
    "kl_over_time": "Divergence of the ensemble from Gibbs on the clock t = Σ η, in nats; the band is 95 %.",
    "noise": "The sum of N gradient noises grows like √N and tends to a Gaussian: the step from SGD to its SDE.",
    "mean_loss": "Mean loss over time, with the minimum and the level of the Gibbs law.",
}


def write(folder: Path) -> list[Path]:
    """Draws the figures and the page of a run's folder; returns the files. Raises `OSError` or `ValueError` for a folder that
    is not what a run writes."""
    folder = Path(folder)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored}
    config = folder / "config.toml"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    (folder / "figures").mkdir(exist_ok=True)
    written, pictures = [], {}
    for name, draw in FIGURES.items():
        drawn = draw(arrays, result)
        if drawn is None:
            continue
        svg = _save(drawn, "svg")
        pictures[name] = base64.b64encode(svg).decode()
        for suffix, data in (("svg", svg), ("png", _save(drawn, "png"))):
            written.append(_replace(folder / "figures" / f"{name}.{suffix}", data))
    written.append(_replace(folder / "report.html", render(result, pictures, text).encode("utf-8")))
    return written


def render(result: dict[str, Any], pictures: dict[str, str], config: str) -> str:
    """The page as HTML; `pictures` are SVGs in base64 by figure name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    verdict = result.get("verdict") or {}
    reasons = verdict.get("reasons") or []
    return environment.get_template("page.html").render(
        result=result,
        verdict=verdict,
        reasons=reasons,
        checks=verdict.get("checks") or {},
        rows=_rows(result),
        covariances=_covariances(result),
        figures=[(n, pictures[n], CAPTIONS[n]) for n in FIGURES if n in pictures],
        missing=[(n, NEEDS[n]) for n in FIGURES if n not in pictures],
        config=config,
    )


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One line of the table for each process."""
    rows = []
    for name, kl in (result.get("kl") or {}).items():
        gone = (result.get("diverged") or {}).get(name) or {}
        title = "SGD to its SDE" if name == "sgd_vs_sde" else TITLES.get(name, name)
        rows.append({"title": title, "kl": kl or {}, "diverged": gone})
    return rows


def _covariances(result: dict[str, Any]) -> list[tuple[str, Any, str | None]]:
    """(name, matrix or None, reason) for small matrices."""
    out = []
    for name, told in (result.get("covariance") or {}).items():
        matrix = told.get("value") if isinstance(told, dict) else told
        if matrix is not None and len(matrix) > 6:
            matrix, told = None, {"reason": f"{len(matrix)} × {len(matrix)}: in result.json"}
        out.append((name.replace("_", " "), matrix, told.get("reason") if isinstance(told, dict) else None))
    return out


def _number(value: Any) -> str:
    """Four significant digits; a dash where there is no number."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _save(drawn: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    # no date and fixed identifiers: the same run gives the same bytes
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "jaxsde"}):
        drawn.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


def _replace(path: Path, data: bytes) -> Path:
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(data)
    os.replace(partial, path)
    return path
