"""How chains are laid out: groups -> rows -> tiles, and what that costs in memory. Host arithmetic on Python ints.

A *group* is the statistical unit: chains of near-equal number whose merged accumulator is one jackknife sample. A *row* is
what fits beside it in cache: a group, or a part of a large one. A *tile* is a stack of rows that one launch of the compiled
program advances. Lanes of a row beyond its number of chains are dead from the start. A chain's identity is its number alone
(0 … chains − 1), so the layout cannot change what a chain does.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np

# Numbers that one step of one tile may hold at once on a CPU: about half of a core's second-level cache in float32.
_CACHE_NUMBERS = 1 << 17
FEW = 64  # chains of a tile whose operations XLA should not hand to several threads
_LANES = 16  # a tile is a multiple of this many chains, so that no vector loop has a remainder


class Layout(NamedTuple):
    """chains = Σ counts; `counts` and `first` are per row; `rows_per_tile` rows are advanced together."""

    chains: int
    group_sizes: tuple[int, ...]
    row_group: tuple[int, ...]
    first: tuple[int, ...]
    counts: tuple[int, ...]
    width: int
    rows_per_tile: int

    @property
    def rows(self) -> int:
        return len(self.counts)

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """Half-open ranges of rows."""
        return [(a, min(a + self.rows_per_tile, self.rows)) for a in range(0, self.rows, self.rows_per_tile)]

    def ids(self, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        """The 64-bit chain numbers of rows a … b − 1, padded to a whole tile, as (low, high) uint32 words [lanes]."""
        first = np.zeros(self.rows_per_tile, np.uint64)
        first[: b - a] = self.first[a:b]
        ids = (first[:, None] + np.arange(self.width, dtype=np.uint64)).ravel()
        return (ids & np.uint64(0xFFFFFFFF)).astype(np.uint32), (ids >> np.uint64(32)).astype(np.uint32)

    def lanes(self) -> np.ndarray:
        """Which lanes hold a chain: bool[rows, width]."""
        return np.arange(self.width)[None, :] < np.asarray(self.counts)[:, None]


def widest(lane_numbers: int, platform: str) -> int:
    """The most chains that a tile should hold when one chain's step holds `lane_numbers` numbers."""
    if platform != "cpu":
        return 1 << 20
    return max(_LANES, min(8192, _CACHE_NUMBERS // max(1, lane_numbers)) // _LANES * _LANES)


def padded(chains: int) -> int:
    """So many chains, and lanes without one up to whole vectors."""
    return math.ceil(chains / _LANES) * _LANES


def plan(chains: int, groups: int, widest: int, workers: int) -> Layout:
    """The layout of `chains` chains in `groups` groups with at most `widest` chains in a tile."""
    groups = min(groups, chains)
    sizes = tuple(chains // groups + (g < chains % groups) for g in range(groups))
    parts = math.ceil(sizes[0] / widest)
    width = math.ceil(sizes[0] / parts)
    # Small groups share a vector.
    width = padded(width) if width > _LANES // 2 else 1 << (width - 1).bit_length()
    row_group, first, counts, start = [], [], [], 0
    for g, size in enumerate(sizes):
        for p in range(parts):
            a, b = p * size // parts, (p + 1) * size // parts
            row_group.append(g)
            first.append(start + a)
            counts.append(b - a)
        start += size
    # Enough tiles that every worker has one, however few the chains.
    per_tile = max(1, min(widest // width, math.ceil(len(counts) / workers)))
    per_tile = math.ceil(per_tile * width / _LANES) * _LANES // width
    return Layout(chains, sizes, tuple(row_group), tuple(first), tuple(counts), width, per_tile)


def lane_numbers(step: Any, *avals: Any) -> int:
    """The most numbers that one step of one chain holds in a single intermediate array, from its jaxpr."""
    largest = 1

    def walk(jaxpr: Any) -> None:
        nonlocal largest
        for equation in jaxpr.eqns:
            inner = [p for v in equation.params.values() for p in (v if isinstance(v, tuple | list) else (v,))]
            nested = [p for p in inner if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
            for p in nested:
                walk(p.jaxpr if hasattr(p, "jaxpr") else p)
            # The data itself is an argument that all chains share: only what depends on the chain counts.
            for out in equation.outvars:
                largest = max(largest, math.prod(getattr(out.aval, "shape", ())))

    walk(jax.make_jaxpr(step)(*avals).jaxpr)
    return largest


def available_bytes(device: Any) -> int | None:
    """Memory that a run may still take: the device's own count, or what the kernel says is available. None if unknown."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats:
            return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    try:
        with open("/proc/meminfo") as f:
            kilobytes = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
        return kilobytes * 1024
    except (OSError, StopIteration, ValueError):
        return None


def check_lanes(chains: int, lane_bytes: int, device: Any) -> None:
    """`MemoryError` for more chains than their states alone leave room for, before any of them is laid out."""
    free = available_bytes(device)
    if free is not None and 2 * chains * lane_bytes > 0.8 * free:
        raise MemoryError(
            f"{chains} chains need {2 * chains * lane_bytes / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: "
            f"at most about {max(1, int(0.4 * free / lane_bytes))} chains fit"
        )


def fits(layout: Layout, row_bytes: int, program_bytes: int, device: Any) -> bool:
    """Whether a run (before and after a chunk) and its program stay within four fifths of the memory that is free."""
    free = available_bytes(device)
    return free is None or row_bytes * layout.rows * 2 + program_bytes <= 0.8 * free


def too_many(layout: Layout, row_bytes: int, program_bytes: int, device: Any) -> MemoryError:
    """The error with the largest number of chains that fits."""
    free, need = available_bytes(device) or 0, row_bytes * layout.rows * 2 + program_bytes
    most = max(1, int(layout.chains * max(0.8 * free - program_bytes, 0) / max(need - program_bytes, 1)))
    return MemoryError(
        f"{layout.chains} chains with these statistics need {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: "
        f"at most about {most} chains fit"
    )


def workers(platform: str) -> int:
    """Host threads that launch tiles: one for each core on a CPU, one on a device that runs its own queue."""
    if platform != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
