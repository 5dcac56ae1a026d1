"""Arithmetic on nodes in the usual notation, and the parts of functions that are the same in every precision."""

from __future__ import annotations

from typing import Any

import numpy as np

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


def clamped(x: Number, low: float, high: float) -> Number:
    """x where it is inside; NaN stays."""
    return where(x.test("lt", low), low, where(x.test("gt", high), high, x))


def small_expm1(r: Number, series: tuple[float, ...]) -> Number:
    """e^r − 1 for |r| ≤ ln 2 / 2, of which `series` are the terms from r²/2 on."""
    return (r.polynomial(series) * r).fma(r, r)


def reduced_exp(x: Number, ln2: tuple[float, ...], series: tuple[float, ...]) -> tuple[Number, Number]:
    """(n, e^r − 1) with x = n ln 2 + r, |r| ≤ ln 2 / 2; ln 2 in parts."""
    n, r = (x * 1.4426950408889634).do("rint"), x
    for part in ln2:
        r = n.fma(-part, r)
    return n, small_expm1(r, series)


def log_ends(f: Number, result: Number) -> Number:
    """log at 0, infinity, NaN and below 0."""
    result = where(f.test("eq", 0.0), -np.inf, result)
    result = where(f.test("eq", np.inf), np.inf, result)
    return where(f.g.op("not", bool, f.test("ge", 0.0)), np.nan, result)
