"""Lines of LLVM IR: fresh names, labels, declarations, and vectors made of one value."""

from __future__ import annotations


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

    def splat(self, scalar: str, value: str) -> str:
        """All lanes the same."""
        kind = self.vector(scalar)
        first = self.let(f"insertelement {kind} poison, {scalar} {value}, i64 0")
        return self.let(f"shufflevector {kind} {first}, {kind} poison, <{self.lanes} x i32> zeroinitializer")

    def intrinsic(self, name: str, kind: str, *arguments: str, extra: str = "") -> str:
        """A call of an LLVM intrinsic, all of whose arguments have the type of the result."""
        suffix = f"v{self.lanes}{short(kind)}" if kind.startswith("<") else short(kind)
        full = f"@llvm.{name}.{suffix}"
        types = ", ".join([kind] * len(arguments)) + (", i1" if extra else "")
        self.declarations[full] = f"declare {kind} {full}({types})"
        given = ", ".join(f"{kind} {a}" for a in arguments) + (f", i1 {extra}" if extra else "")
        return self.let(f"call {kind} {full}({given})")

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
