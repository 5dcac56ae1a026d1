"""`python -m benchmarks.throughput --json FILE`: chain-steps per second of jaxsde, its peers and the machine's limit."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from jaxsde.engine.executors import EXECUTORS

from . import descents, equations, yardstick
from .harness import Workload, measure

EQUATIONS = {
    "ou": equations.ornstein_uhlenbeck,
    "double-well": equations.double_well,
    "quadratic": equations.quadratic,
}
DESCENTS = {"linear": descents.linear, "logistic": descents.logistic, "network": descents.network}
WORKLOADS = (*EQUATIONS, *DESCENTS)


def workload(name: str, chains: int, executors: tuple[str, ...], scale: float = 1.0) -> Workload:
    """A workload by name, with every implementation that can run here."""
    if name in EQUATIONS:
        return equations.workload(EQUATIONS[name](), chains, executors, scale)
    return descents.workload(DESCENTS[name](), chains, executors, scale)


def table(rows: list[dict[str, Any]]) -> str:
    """A few columns for people."""
    lines = [f"{'':38}{'executor':>9}{'chain-steps/s':>15}{'per CPU s':>11}{'of peer':>9}{'of limit':>9}{'compile':>9}"]
    for row in rows:
        peer, limit, seconds = row["of_best_peer"], row["of_yardstick"], row["compile_s"]
        cpu = row["per_cpu_second"]
        lines.append(
            f"{row['implementation']:38}{row['executor']:>9}{row['chain_steps_per_second']:15.3g}"
            + f"{'-' if cpu is None else f'{cpu:.3g}':>11}"
            + f"{'-' if peer is None else f'{peer:.3g}':>9}"
            + f"{'-' if limit is None else f'{limit:.3g}':>9}"
            + f"{'-' if seconds is None else f'{seconds:.2f} s':>9}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds, of which the median is taken")
    parser.add_argument("--chains", type=int, default=8192)
    parser.add_argument("--only", choices=WORKLOADS, help="one workload")
    parser.add_argument("--executors", nargs="+", default=[e for e in EXECUTORS if e != "pallas"], choices=["auto", *EXECUTORS])
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the steps that are timed")
    given = parser.parse_args(arguments)
    os.environ["JAXSDE_CACHE_DIR"] = ""  # so that what is compiled is compiled here and now
    if why := yardstick.missing():
        print(f"no yardstick: {why}", file=sys.stderr)
    rows = []
    for name in WORKLOADS:
        if given.only in (None, name):
            work = workload(name, given.chains, tuple(given.executors), given.scale)
            new = measure(work, given.rounds, lambda line: print(line, file=sys.stderr))
            print(f"\n{new[0]['workload']}, {new[0]['chains']} chains, {new[0]['device']}\n{table(new)}")
            rows += new
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
