"""How fast this machine runs, beside a kernel written by hand for each workload: the short form of `benchmarks/`.

A wheel carries that folder as `jaxsde._benchmarks`; in a checkout it lies beside the package.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NAME = f"{__package__}._benchmarks"
_PEER = "scan + "  # the plain JAX programs: what needs no other package
_TARGET = 0.5


def _part(name: str) -> Any:
    """A module of the benchmarks. ModuleNotFoundError where they are nowhere."""
    if _NAME not in sys.modules and importlib.util.find_spec(_NAME) is None:
        folder = Path(__file__).parents[1] / "benchmarks"
        spec = importlib.util.spec_from_file_location(
            _NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None or not (folder / "throughput.py").exists():
            raise ModuleNotFoundError(f"the benchmarks are neither in the package nor in {folder}")
        sys.modules[_NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[_NAME])
    return importlib.import_module(f"{_NAME}.{name}")


def measure(rounds: int = 5, scale: float = 0.3, tell: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """The rows of the six workloads, for jaxsde, the plain JAX program and the yardstick where it compiles."""
    harness, throughput = _part("harness"), _part("throughput")
    os.environ["JAXSDE_CACHE_DIR"] = ""  # so that what is compiled is compiled here and now
    rows: list[dict[str, Any]] = []
    for name in throughput.WORKLOADS:
        work = throughput.workload(name, 8192, ("auto",), scale)
        few = [w for w in work.implementations if w.kind != "peer" or w.name.startswith(_PEER)]
        rows += harness.measure(work._replace(implementations=few), rounds, tell)
    return rows


def unmeasured() -> str | None:
    """Why there is no yardstick here; None if there is."""
    return _part("yardstick").missing()


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each workload."""
    lines = [f"{'':26}{'executor':>9}{'chain-steps/s':>15}{'of the limit':>14}{'x plain JAX':>13}{'compile':>9}"]
    for row in _ours(rows):
        limit = "-" if row["of_yardstick"] is None else f"{row['of_yardstick']:.2f}"
        lines.append(
            f"{row['workload']:26}{row['executor']:>9}{row['chain_steps_per_second']:15.3g}{limit:>14}"
            f"{row['of_best_peer']:13.3g}{row['compile_s']:7.2f} s"
        )
    return "\n".join(lines)


def verdict(rows: list[dict[str, Any]]) -> str:
    """One sentence: what fraction of the limit jaxsde reaches here, and what would raise it."""
    ours = _ours(rows)
    times = sorted(row["of_best_peer"] for row in ours)
    faster = f"{times[0]:.0f} to {times[-1]:.0f} times the plain JAX program"
    slow = [row["workload"] for row in ours if row["executor"] not in ("native", "pallas")]
    cure = f" ({', '.join(slow)} ran under another executor than native: see jaxsde doctor)" if slow else ""
    fractions = sorted(row["of_yardstick"] for row in ours if row["of_yardstick"] is not None)
    if not fractions:
        return f"On {rows[0]['device']}: {faster}; the limit is not known here, because there is {unmeasured()}{cure}."
    good = "near the limit of this machine" if fractions[0] >= _TARGET else "not everywhere near the limit of this machine"
    return (
        f"On {rows[0]['device']}: {fractions[0]:.2f} to {fractions[-1]:.2f} of a kernel written by hand, {good}, "
        f"and {faster}{cure}."
    )


def figure(rows: list[dict[str, Any]], path: Path) -> bool:
    """Bars against the yardstick; false where there is none to draw against."""
    if any(row["of_yardstick"] is None for row in _ours(rows)):
        return False
    _part("plot").figure(rows).savefig(path, dpi=160)
    return True


def _ours(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["implementation"].startswith("jaxsde")]
