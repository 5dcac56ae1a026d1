"""Where the positions lie that the statistics see: [chains / LANES, room, d, LANES], those of a sample side by side."""

from __future__ import annotations

from .writer import Writer

LANES = 16  # chains side by side; a tile is a multiple of this, and so is a vector of a kernel


class Seen:
    """The memory of a kernel's samples, for the vector of chains at %i. The kernel has %begin, %out, %out_alive and %room."""

    def __init__(self, b: Writer, dim: int, scalar: str):
        self.b, self.dim, self.scalar = b, dim, scalar
        before = b.let("sub i64 %i, %begin")
        self.first = b.let(f"mul i64 {b.let(f'udiv i64 {before}, {LANES}')}, %room")

    def sample(self, slot: str) -> list[str]:
        """The numbers of a sample, one for each block of lanes."""
        b = self.b
        found = [b.let(f"add i64 {self.first}, {slot}")]
        while len(found) * LANES < b.lanes:
            found.append(b.let(f"add i64 {found[-1]}, %room"))
        return found

    def component(self, sample: list[str], d: str, value: str) -> None:
        """Stores component d of the positions."""
        for s, part in zip(sample, self._parts(self.scalar, value), strict=True):
            row = self.b.let(f"add i64 {self.b.let(f'mul i64 {s}, {self.dim}')}, {d}")
            self._store(self.scalar, part, "%out", row)

    def living(self, sample: list[str], flags: str) -> None:
        """Stores whether the chains live."""
        bytes_of = self.b.let(f"zext {self.b.vector('i1')} {flags} to {self.b.vector('i8')}")
        for s, part in zip(sample, self._parts("i8", bytes_of), strict=True):
            self._store("i8", part, "%out_alive", s)

    def _parts(self, scalar: str, value: str) -> list[str]:
        """A vector cut into blocks of lanes."""
        if self.b.lanes == LANES:
            return [value]
        kind = self.b.vector(scalar)
        masks = (", ".join(f"i32 {first + j}" for j in range(LANES)) for first in range(0, self.b.lanes, LANES))
        return [self.b.let(f"shufflevector {kind} {value}, {kind} poison, <{LANES} x i32> <{mask}>") for mask in masks]

    def _store(self, scalar: str, part: str, array: str, row: str) -> None:
        kind = f"<{LANES} x {scalar}>"
        place = self.b.let(f"getelementptr {scalar}, ptr {array}, i64 {self.b.let(f'mul i64 {row}, {LANES}')}")
        self.b.line(f"store {kind} {part}, ptr {place}, align {1 if scalar == 'i8' else 4}")
