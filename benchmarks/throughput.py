"""`python -m benchmarks.throughput --json FILE`: chain-steps per second of jaxsde, its peers and the machine's limit."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from . import ornstein_uhlenbeck, yardstick
from .harness import measure

WORKLOADS = {"ou": ornstein_uhlenbeck.workload}


def table(rows: list[dict[str, Any]]) -> str:
    """A few columns for people."""
    lines = [f"{'':38}{'executor':>9}{'chain-steps/s':>15}{'per CPU s':>11}{'of peer':>9}{'of limit':>9}{'compile':>9}"]
    for row in rows:
        peer, limit, seconds = row["of_best_peer"], row["of_yardstick"], row["compile_s"]
        lines.append(
            f"{row['implementation']:38}{row['executor']:>9}{row['chain_steps_per_second']:15.3g}{row['per_cpu_second']:11.3g}"
            + f"{'-' if peer is None else f'{peer:.3g}':>9}"
            + f"{'-' if limit is None else f'{limit:.3g}':>9}"
            + f"{'-' if seconds is None else f'{seconds:.2f} s':>9}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, of which the median is taken")
    parser.add_argument("--chains", type=int, default=8192)
    parser.add_argument("--only", choices=sorted(WORKLOADS), help="one workload")
    given = parser.parse_args(arguments)
    if why := yardstick.missing():
        print(f"no yardstick: {why}", file=sys.stderr)
    rows = []
    for name, workload in WORKLOADS.items():
        if given.only in (None, name):
            new = measure(workload(given.chains), given.rounds, lambda line: print(line, file=sys.stderr))
            print(f"\n{new[0]['workload']}, {new[0]['chains']} chains, {new[0]['device']}\n{table(new)}")
            rows += new
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
