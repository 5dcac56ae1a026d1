"""Arithmetic on nodes in the usual notation."""

from __future__ import annotations

from typing import Any

from ..scalar.graph import Graph, Node


class Number:
    """A node of a floating type. What it meets is of that type, or a number known now."""

    __slots__ = ("g", "node")

    def __init__(self, g: Graph, node: Node):
        self.g, self.node = g, node

    def of(self, y: Any) -> Node:
        return y.node if isinstance(y, Number) else self.g.literal(y, self.node.dtype)

    def known(self, y: float) -> Number:
        return Number(self.g, self.of(y))

    def do(self, name: str, *others: Any) -> Number:
        return Number(self.g, self.g.op(name, self.node.dtype, self.node, *(self.of(y) for y in others)))

    def __add__(self, y: Any) -> Number:
        return self.do("add", y)

    def __sub__(self, y: Any) -> Number:
        return self.do("sub", y)

    def __rsub__(self, y: Any) -> Number:
        return self.known(y) - self

    def __mul__(self, y: Any) -> Number:
        return self.do("mul", y)

    def __truediv__(self, y: Any) -> Number:
        return self.do("div", y)

    def __rtruediv__(self, y: Any) -> Number:
        return self.known(y) / self

    def __neg__(self) -> Number:
        return self.do("neg")

    def fma(self, a: Any, b: Any) -> Number:
        """self · a + b"""
        return self.do("fma", a, b)

    def test(self, name: str, y: Any) -> Node:
        return self.g.op(name, bool, self.node, self.of(y))

    def convert(self, dtype: Any) -> Number:
        return Number(self.g, self.g.op("convert", dtype, self.node))

    def bits(self) -> Node:
        return self.g.op("bitcast", f"int{8 * self.node.dtype.itemsize}", self.node)

    def polynomial(self, coefficients: tuple[float, ...]) -> Number:
        """Horner's rule, the highest power first."""
        p = self.known(coefficients[0])
        for c in coefficients[1:]:
            p = p.fma(self, c)
        return p


def where(test: Node, yes: Any, no: Number) -> Number:
    return Number(no.g, no.g.op("select", no.node.dtype, test, no.of(yes), no.node))
