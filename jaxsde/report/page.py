"""The report of a run: `figures/NAME.svg`, `figures/NAME.png` and one self-contained `report.html`, from its folder alone.

The page needs no network, no script and no other file: the figures are in it as SVG whose colours follow the reader's light
or dark setting. Whatever a user or a file has named is escaped.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from ..errors import BAD_INPUT, NO_INPUT, ExperimentError, one_line
from . import tables
from .plots import FIGURES, NEEDS
from .style import COLOURS, files

Figures = dict[str, dict[str, Any]]
_CONFIG, _RESULT, _ARRAYS, _PAGE = "config.toml", "result.json", "arrays.npz", "report.html"


def write(folder: Path) -> list[Path]:
    """Draws the figures of the run in `folder` and writes the page; returns what was written, figures first.

    Reads `result.json`, `arrays.npz` and, if there is one, `config.toml`. Each file is whole before it has its name.
    Raises ExperimentError where the folder is not that of a run.
    """
    folder = Path(folder)
    result, arrays, config = read(folder)
    figures, written = draw(arrays, result), []
    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        for kind, content in figure.get("files", {}).items():
            written.append(_replace(folder / "figures" / f"{name}.{kind}", content))
    html = render(result, arrays, config, figures)
    return [*written, _replace(folder / _PAGE, html.encode("utf-8", "replace"))]


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    """(result, arrays, the text of the config) of a run's folder. Raises ExperimentError, naming the file at fault."""
    path = folder / _RESULT
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(result, dict):
            raise ValueError("it holds no object")
        path = folder / _ARRAYS
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array, not an archive of them")
        with stored:
            arrays = {name: np.asarray(stored[name]) for name in stored}
        path = folder / _CONFIG
        config = path.read_text(encoding="utf-8") if path.is_file() else ""
    except FileNotFoundError:
        raise ExperimentError("is missing; give the folder of a finished run", code=NO_INPUT, file=path) from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as fault:
        reason = f"is not what a run writes ({one_line(str(fault))}); run the experiment again"
        raise ExperimentError(reason, code=BAD_INPUT, file=path) from None
    return result, arrays, config


def draw(arrays: Mapping[str, np.ndarray], result: Mapping[str, Any]) -> Figures:
    """name -> {files {svg, png}, svg to put into a page, alt}, or {missing: a sentence} for a figure that is left out."""
    out: Figures = {}
    for name, function in FIGURES.items():
        try:
            figure = function(arrays, result)
            made = None if figure is None else files(figure)
        except (ValueError, TypeError, LookupError, ArithmeticError) as fault:  # no picture is worth the run it shows
            words = one_line(f"{type(fault).__name__}: {fault}")
            out[name] = {"missing": f"The figure “{name}” could not be drawn from this run's arrays ({words})."}
            continue
        if figure is None or made is None:
            out[name] = {"missing": f"The figure “{name}” is left out: it needs {NEEDS[name]}, which this run has not."}
        else:
            alt = str(figure.get_label())
            out[name] = {"files": made, "alt": alt, "svg": inline(made["svg"].decode("utf-8"), name, alt)}
    return out


def inline(svg: str, name: str, alt: str) -> Markup:
    """Matplotlib's SVG as a part of a page: its own ids, the page's colours, as wide as its place, and read out as `alt`."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{colour})")
    box = re.search(r'viewBox="([^"]*)"', svg)
    head = Markup('<svg role="img" aria-label="{}" viewBox="{}" xmlns:xlink="http://www.w3.org/1999/xlink">')
    body = re.sub(r"\s*\n\s*", "\n", svg[svg.index(">") + 1 :])
    return head.format(alt, box.group(1) if box else "0 0 518 300") + Markup(body)


def render(result: dict[str, Any], arrays: dict[str, np.ndarray], config: str, figures: Figures) -> str:
    """The page, as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    pictures = {name: figure["svg"] for name, figure in figures.items() if "svg" in figure}
    return environment.get_template("page.html.jinja").render(
        title=str(result.get("experiment") or "jaxsde"),
        sentence=tables.mapping(result.get("verdict")).get("sentence") or "This run has no verdict.",
        fault=None
        if result.get("ok", True)
        else result.get("error") or "This run did not end well: see the notes below.",
        checks=tables.checks(result),
        setting=tables.setting(result),
        processes=tables.processes(result),
        estimators=tables.estimators(result),
        temperature=tables.temperature(result),
        summary=pictures.get("summary"),
        sections=tables.sections(result, pictures),
        covariance=tables.covariance(result, arrays),
        noise=tables.noise(arrays),
        remarks=[
            *tables.diverged(result),
            *tables.notes(result),
            *(f["missing"] for f in figures.values() if "missing" in f),
        ],
        config=config,
        command=tables.command(result),
        versions=tables.mapping(result.get("versions")),
        colours=COLOURS,
    )


def _replace(path: Path, content: bytes) -> Path:
    """Writes the file under another name in its folder, and then renames it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
