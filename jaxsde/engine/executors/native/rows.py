"""Rows of a table, one for each chain, turned into vectors of chains."""

from __future__ import annotations

from collections.abc import Iterable

from .writer import Writer


def columns_of(out: Writer, scalar: str, pointers: list[str], start: int, width: int) -> list[str]:
    """Columns start … start + width − 1 of the rows that the lanes point to, each a vector of lanes."""
    lanes, kind = out.lanes, out.vector(scalar)
    if width == 1:
        stored = "i8" if scalar == "i1" else scalar
        column = "poison"
        for i, p in enumerate(pointers):
            place = out.let(f"getelementptr {stored}, ptr {p}, i64 {start}")
            value = out.let(f"load {stored}, ptr {place}, !invariant.load !0")
            value = out.let(f"trunc i8 {value} to i1") if scalar == "i1" else value
            column = out.let(f"insertelement {kind} {column}, {scalar} {value}, i64 {i}")
        return [column]
    rows, align = [], 4 if scalar in ("float", "i32") else 8
    for p in pointers:
        place = out.let(f"getelementptr {scalar}, ptr {p}, i64 {start}")
        rows.append(out.let(f"load <{width} x {scalar}>, ptr {place}, align {align}, !invariant.load !0"))
    # one register's worth of chains at a time
    size = min(lanes, out.register // (8 * align))
    parts = [_transposed(out, scalar, rows[k : k + size], width) for k in range(0, lanes, size)]
    return [_joined(out, scalar, [part[c] for part in parts], size) for c in range(width)]


def _joined(out: Writer, scalar: str, parts: list[str], size: int) -> str:
    """Vectors side by side; their number is a power of two."""
    while len(parts) > 1:
        both = range(2 * size)
        parts = [_shuffle(out, scalar, size, a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        size *= 2
    return parts[0]


def _shuffle(out: Writer, scalar: str, size: int, a: str, b: str, chosen: Iterable[int]) -> str:
    """Entries of a (0 … size − 1) and b (size …)."""
    words = [f"i32 {i}" for i in chosen]
    kind = f"<{size} x {scalar}>"
    return out.let(f"shufflevector {kind} {a}, {kind} {b}, <{len(words)} x i32> <{', '.join(words)}>")


def _transposed(out: Writer, scalar: str, rows: list[str], width: int) -> list[str]:
    """The columns of `len(rows)` rows of `width` numbers.

    Each stage pairs vectors whose row numbers differ in one bit and trades it for one bit of the column, by shuffles that
    are one instruction: interleaving inside 128 bits, then whole blocks of 128 bits.
    """
    size, narrow = len(rows), scalar in ("float", "i32")
    if not narrow or size not in (4, 8, 16):
        return _transposed_plainly(out, scalar, rows, width)
    # which rows lie side by side in vector r: what remains of the row number when the stages are over
    spread = [[8 * (r // 4) + r % 4, 8 * (r // 4) + r % 4 + 4] for r in range(8)]
    sides = {4: [list(range(r, size, 4)) for r in range(4)], 8: spread if size == 16 else [[r] for r in range(8)]}
    together = sides.get(width, [[r] for r in range(16)])
    vectors = [_joined(out, scalar, [rows[i] for i in members], width) for members in together]
    blocks = range(0, size, 4)
    stages = [
        (1, [[q + i + n * size for q in blocks for i in h for n in (0, 1)] for h in ((0, 1), (2, 3))]),
        (2, [[q + i + n * size for q in blocks for n in (0, 1) for i in h] for h in ((0, 1), (2, 3))]),
    ]
    for bit in (4, 8):
        if bit < width:
            stages.append((bit, [[q + i + n * size for n in (0, 1) for q in blocks[h::2] for i in range(4)] for h in (0, 1)]))
    for bit, (low, high) in stages:
        turned = list(vectors)
        for i in range(width):
            if not i & bit:
                turned[i] = _shuffle(out, scalar, size, vectors[i], vectors[i + bit], low)
                turned[i + bit] = _shuffle(out, scalar, size, vectors[i], vectors[i + bit], high)
        vectors = turned
    # interleaving brings the two lowest bits of the column out in the other order
    return [vectors[c & ~3 | (c & 1) << 1 | (c & 2) >> 1] for c in range(width)]


def _transposed_plainly(out: Writer, scalar: str, rows: list[str], width: int) -> list[str]:
    size = len(rows)
    vectors = [_joined(out, scalar, rows[k::width], width) for k in range(width)]
    stride = 1
    while stride < width:
        low = [i if not i & stride else size + i - stride for i in range(size)]
        high = [i + stride if not i & stride else size + i for i in range(size)]
        turned = list(vectors)
        for i in range(width):
            if not i & stride:
                turned[i] = _shuffle(out, scalar, size, vectors[i], vectors[i + stride], low)
                turned[i + stride] = _shuffle(out, scalar, size, vectors[i], vectors[i + stride], high)
        vectors, stride = turned, stride * 2
    return vectors
