"""The slope of softplus, as JAX writes it."""

from __future__ import annotations

import numpy as np

from ..scalar.graph import Graph, Node


def slope_of_softplus(g: Graph, x: Node) -> Node | None:
    """v where x is v − log(1 + e^v), as JAX writes the derivative of `logaddexp(v, 0)`: e^x is then the logistic function, at a
    third of the price and without the difference of large numbers. (JAX puts 0 for +∞ on either side: 1, too.)"""
    if x.op != "sub":
        return None
    v, w = (_finite_part(g, a) for a in x.args)
    if w.op == "select" and w.args[0].op == "ne" and w.args[0].args[0] is w.args[0].args[1]:  # where v is NaN
        if not _same_size(w.args[0].args[0], v):
            return None
        w = w.args[2]
    if w.op != "add":
        return None
    zero = g.literal(0, x.dtype)
    for large, log in (w.args, w.args[::-1]):
        if large.op == "max" and zero in large.args and v in large.args and (e := g.argument("log1p", log)) is not None:
            size = g.argument("exp", e)
            if size is not None and size.op == "neg" and size.args[0].op == "abs" and _same_size(size.args[0].args[0], v):
                return v
    return None


def _finite_part(g: Graph, x: Node) -> Node:
    """v where x is v, or 0 where v is infinite."""
    infinite = x.op == "select" and x.args[0].op == "eq" and x.args[0].args == (x.args[2], g.literal(np.inf, x.dtype))
    return x.args[2] if infinite and x.args[1] is g.literal(0, x.dtype) else x


def _same_size(x: Node, y: Node) -> bool:
    """Whether x is known to be y or −y."""
    if x is y or (x.op == "neg" and x.args[0] is y):
        return True
    if x.op == "sub" and x.args[1] is y:
        return x.args[0].op == "literal" and x.args[0].value == 0
    if not x.op == y.op == "mul" or x.args[1] is not y.args[1]:
        return False
    return _same_size(x.args[0], y.args[0]) or _same_size(y.args[0], x.args[0])
