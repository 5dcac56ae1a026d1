"""Rows of a table, one for each chain, turned into vectors of chains."""

from __future__ import annotations

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
    parts = [turned(out, scalar, rows[k : k + size], width) for k in range(0, lanes, size)]
    return [out.joined(scalar, [part[c] for part in parts], size) for c in range(width)]


def turned(out: Writer, scalar: str, rows: list[str], width: int) -> list[str]:
    """The columns of `len(rows)` rows of `width` numbers.

    Each stage pairs vectors whose row numbers differ in one bit and trades it for one bit of the column, by shuffles that
    are one instruction: interleaving inside 128 bits, then whole blocks of 128 bits.
    """
    size, narrow = len(rows), scalar in ("float", "i32")
    if not narrow or size not in (4, 8, 16):
        return _turned_plainly(out, scalar, rows, width)
    # which rows lie side by side in vector r: what remains of the row number when the stages are over
    spread = [[8 * (r // 4) + r % 4, 8 * (r // 4) + r % 4 + 4] for r in range(8)]
    sides = {4: [list(range(r, size, 4)) for r in range(4)], 8: spread if size == 16 else [[r] for r in range(8)]}
    together = sides.get(width, [[r] for r in range(16)])
    vectors = [out.joined(scalar, [rows[i] for i in members], width) for members in together]
    blocks = range(0, size, 4)
    stages = [
        (1, [[q + i + n * size for q in blocks for i in h for n in (0, 1)] for h in ((0, 1), (2, 3))]),
        (2, [[q + i + n * size for q in blocks for n in (0, 1) for i in h] for h in ((0, 1), (2, 3))]),
    ]
    for bit in (4, 8):
        if bit < width:
            stages.append((bit, [[q + i + n * size for n in (0, 1) for q in blocks[h::2] for i in range(4)] for h in (0, 1)]))
    for bit, (low, high) in stages:
        moved = list(vectors)
        for i in range(width):
            if not i & bit:
                moved[i] = out.shuffle(scalar, size, vectors[i], vectors[i + bit], low)
                moved[i + bit] = out.shuffle(scalar, size, vectors[i], vectors[i + bit], high)
        vectors = moved
    # interleaving brings the two lowest bits of the column out in the other order
    return [vectors[c & ~3 | (c & 1) << 1 | (c & 2) >> 1] for c in range(width)]


def _turned_plainly(out: Writer, scalar: str, rows: list[str], width: int) -> list[str]:
    size = len(rows)
    vectors = [out.joined(scalar, rows[k::width], width) for k in range(width)]
    stride = 1
    while stride < width:
        low = [i if not i & stride else size + i - stride for i in range(size)]
        high = [i + stride if not i & stride else size + i for i in range(size)]
        moved = list(vectors)
        for i in range(width):
            if not i & stride:
                moved[i] = out.shuffle(scalar, size, vectors[i], vectors[i + stride], low)
                moved[i + stride] = out.shuffle(scalar, size, vectors[i], vectors[i + stride], high)
        vectors, stride = moved, stride * 2
    return vectors
