"""Lines of LLVM IR: fresh names, labels, declarations, and vectors made of one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable

TYPES = {
    "float32": "float", "float64": "double", "bool": "i1", "int8": "i8", "uint8": "i8", "int16": "i16", "uint16": "i16",
    "int32": "i32", "uint32": "i32", "int64": "i64", "uint64": "i64",
}  # fmt: skip


class Writer:
    """Lines of one function, for vectors of `lanes` chains and registers of `register` bits. Values are named by their node;
    `halves`: whether products of words are made 64 bits apart (`products.py`)."""

    def __init__(self, lanes: int, register: int, halves: bool = False):
        self.lanes, self.register, self.halves = lanes, register, halves
        self.lines: list[str] = []
        self.declarations: dict[str, str] = {}
        self.helpers: dict[str, str] = {}
        self.fresh = 0

    def name(self) -> str:
        self.fresh += 1
        return f"%v{self.fresh}"

    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def let(self, text: str) -> str:
        name = self.name()
        self.lines.append(f"  {name} = {text}")
        return name

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def vector(self, scalar: str) -> str:
        return f"<{self.lanes} x {scalar}>"

    def splat(self, scalar: str, value: str, lanes: int | None = None) -> str:
        """All lanes the same."""
        lanes = self.lanes if lanes is None else lanes
        kind = f"<{lanes} x {scalar}>"
        first = self.let(f"insertelement {kind} poison, {scalar} {value}, i64 0")
        return self.let(f"shufflevector {kind} {first}, {kind} poison, <{lanes} x i32> zeroinitializer")

    def repeat(self, count: int, body: Callable[[str], None]) -> None:
        """`body(i)` for i = 0 … count − 1."""
        name = self.name()
        self.line(f"br label {name}.before")
        self.label(f"{name[1:]}.before")
        self.line(f"br label {name}.loop")
        self.label(f"{name[1:]}.loop")
        self.line(f"{name} = phi i64 [ 0, {name}.before ], [ {name}.next, {name}.last ]")
        body(name)
        self.line(f"br label {name}.last")
        self.label(f"{name[1:]}.last")
        self.line(f"{name}.next = add i64 {name}, 1")
        self.line(f"br i1 {self.let(f'icmp ult i64 {name}.next, {count}')}, label {name}.loop, label {name}.after")
        self.label(f"{name[1:]}.after")

    def at(self, scalar: str, place: str, entries: int | str) -> str:
        """An address so many entries on."""
        return place if entries == 0 else self.let(f"getelementptr {stored(scalar)}, ptr {place}, i64 {entries}")

    def intrinsic(self, name: str, kind: str, *arguments: str, extra: str = "") -> str:
        """A call of an LLVM intrinsic, all of whose arguments have the type of the result."""
        suffix = f"v{kind[1:].split()[0]}{short(kind)}" if kind.startswith("<") else short(kind)
        full = f"@llvm.{name}.{suffix}"
        types = ", ".join([kind] * len(arguments)) + (", i1" if extra else "")
        self.declarations[full] = f"declare {kind} {full}({types})"
        given = ", ".join(f"{kind} {a}" for a in arguments) + (f", i1 {extra}" if extra else "")
        return self.let(f"call {kind} {full}({given})")

    @property
    def spreads(self) -> bool:
        """Whether arithmetic takes one number for all lanes from memory. Elsewhere spreading is an instruction."""
        return self.register == 512

    @property
    def gathers(self) -> bool:
        """Whether reading and writing at as many places as there are lanes is an instruction, and a quick one."""
        return self.register == 512

    @property
    def scales(self) -> bool:
        """Whether there is an instruction for y · 2^n."""
        return self.halves and self.register == 512 and self.lanes % 16 == 0

    def scaled(self, y: str, n: str) -> str:
        """y · 2^n, vectors of float32."""
        name, kind, parts = "@llvm.x86.avx512.mask.scalef.ps.512", "<16 x float>", []
        self.declarations[name] = f"declare {kind} {name}({kind}, {kind}, {kind}, i16, i32)"
        for first in range(0, self.lanes, 16):
            few = [self.lanes_of("float", v, first, 16) for v in (y, n)]
            parts.append(self.let(f"call {kind} {name}({', '.join(f'{kind} {v}' for v in (*few, 'poison'))}, i16 -1, i32 4)"))
        return self.joined("float", parts, 16)

    def lanes_of(self, scalar: str, vector: str, first: int, count: int) -> str:
        """Some of a vector's lanes."""
        if count == self.lanes or vector == "zeroinitializer":
            return vector
        words = ", ".join(f"i32 {i}" for i in range(first, first + count))
        kind = self.vector(scalar)
        return self.let(f"shufflevector {kind} {vector}, {kind} poison, <{count} x i32> <{words}>")

    def joined(self, scalar: str, parts: list[str], size: int) -> str:
        """Vectors of `size` side by side; their number is a power of two."""
        while len(parts) > 1:
            both = range(2 * size)
            parts = [self.shuffle(scalar, size, a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            size *= 2
        return parts[0]

    def shuffle(self, scalar: str, size: int, a: str, b: str, chosen: Iterable[int]) -> str:
        """Entries of a (0 … size − 1) and b (size …)."""
        words = [f"i32 {i}" for i in chosen]
        kind = f"<{size} x {scalar}>"
        return self.let(f"shufflevector {kind} {a}, {kind} {b}, <{len(words)} x i32> <{', '.join(words)}>")

    def load(self, scalar: str, place: str) -> str:
        """A vector from memory; flags are kept as bytes."""
        if scalar == "i1":
            kind = self.vector("i8")
            return self.let(f"icmp ne {kind} {self.let(f'load {kind}, ptr {place}, align 1')}, zeroinitializer")
        return self.let(f"load {self.vector(scalar)}, ptr {place}, align 4")

    def store(self, scalar: str, value: str, place: str) -> None:
        if scalar == "i1":
            value = self.let(f"zext {self.vector('i1')} {value} to {self.vector('i8')}")
        kept = stored(scalar)
        self.line(f"store {self.vector(kept)} {value}, ptr {place}, align {1 if kept == 'i8' else 4}")

    def gather(self, scalar: str, start: str, places: str) -> str:
        """A vector of the numbers that lie so far from the start, an i32 for each lane."""
        kept, flags = stored(scalar), self.vector("i1")
        kind, pointers, name = self._pointers("gather", kept, start, places)
        self.declarations[name] = f"declare {kind} {name}({self.vector('ptr')}, i32, {flags}, {kind})"
        found = self.let(f"call {kind} {name}({pointers}, i32 1, {flags} splat (i1 true), {kind} poison)")
        return self.let(f"icmp ne {kind} {found}, zeroinitializer") if scalar == "i1" else found

    def scatter(self, scalar: str, value: str, start: str, places: str) -> None:
        """Writes a vector there."""
        if scalar == "i1":
            value = self.let(f"zext {self.vector('i1')} {value} to {self.vector('i8')}")
        flags = self.vector("i1")
        kind, pointers, name = self._pointers("scatter", stored(scalar), start, places)
        self.declarations[name] = f"declare void {name}({kind}, {self.vector('ptr')}, i32, {flags})"
        self.line(f"call void {name}({kind} {value}, {pointers}, i32 1, {flags} splat (i1 true))")

    def _pointers(self, what: str, kept: str, start: str, places: str) -> tuple[str, str, str]:
        found = self.let(f"getelementptr {kept}, ptr {start}, {self.vector('i32')} {places}")
        name = f"@llvm.masked.{what}.v{self.lanes}{short(kept)}.v{self.lanes}p0"
        return self.vector(kept), f"{self.vector('ptr')} {found}", name

    def all(self, flags: str) -> str:
        """Whether every lane's flag is set."""
        return self.let(f"icmp eq i{self.lanes} {self._bits(flags)}, -1")

    def any(self, flags: str) -> str:
        return self.let(f"icmp ne i{self.lanes} {self._bits(flags)}, 0")

    def _bits(self, flags: str) -> str:
        return self.let(f"bitcast {self.vector('i1')} {flags} to i{self.lanes}")


def stored(scalar: str) -> str:
    """How one number is kept in memory: flags as bytes."""
    return "i8" if scalar == "i1" else scalar


def short(kind: str) -> str:
    scalar = kind.split(" x ")[-1].rstrip(">")
    return {"float": "f32", "double": "f64"}.get(scalar, scalar)
