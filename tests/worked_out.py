"""Graphs of scalars, worked out node by node in NumPy."""

from __future__ import annotations

import numpy as np

from jaxsde.engine.executors.scalar.graph import ordered


def _fma(a, b, c):
    """float64, the product exact: as a sum of two (Dekker)."""
    a, b, c = np.broadcast_arrays(*(np.float64(v) for v in (a, b, c)))
    parts = [(high, v - high) for v in (a, b) for high in [v * 134217729.0 - (v * 134217729.0 - v)]]
    (ah, al), (bh, bl) = parts
    product = a * b
    lost = ((ah * bh - product) + ah * bl + al * bh) + al * bl
    exact = (product.astype(np.longdouble) + c + lost).astype(np.float64)
    plain = (a.astype(np.longdouble) * b + c).astype(np.float64)
    split = np.isfinite(lost) & np.isfinite(exact) & (np.abs(product) < 1e290) & (np.abs(product) > 1e-280)
    return np.where(split, exact, plain)


def worked_out(root, known):
    """The value of a node; `known` are those of the inputs, by number."""
    two = {"add": np.add, "sub": np.subtract, "rem": np.fmod, "mul": np.multiply, "div": np.divide, "and": np.bitwise_and, "xor": np.bitwise_xor,
           "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal, "copysign": np.copysign,
           "shl": np.left_shift, "shr": np.right_shift, "min": np.minimum, "max": np.maximum, "sar": np.right_shift, "or": np.bitwise_or}  # fmt: skip
    one = {"sqrt": np.sqrt, "log": np.log, "exp": np.exp, "neg": np.negative, "abs": np.abs, "rint": np.rint, "floor": np.floor, "not": np.logical_not}
    for node in ordered([root]):
        if node.number in known:
            continue
        a = [node.value] if node.op == "literal" else [known[n.number] for n in node.args]
        with np.errstate(all="ignore"):
            if node.op == "literal":
                value = a[0]
            elif node.op == "fma":  # rounded once: float32 products are exact in float64
                value = _fma(*a) if node.dtype == np.float64 else (np.float64(a[0]) * np.float64(a[1]) + np.float64(a[2])).astype(np.float32)
            elif node.op in ("convert", "nearby"):
                value = np.nan_to_num(a[0], posinf=0, neginf=0) if node.dtype.kind == "i" else a[0]
                value = np.clip(value, -(2.0**31), 2.0**31 - 129).astype(node.dtype) if node.dtype.kind == "i" else value.astype(node.dtype)
            elif node.op == "bitcast":
                value = np.asarray(a[0]).view(node.dtype)
            elif node.op == "ldexp":  # rounded once
                value = (a[0].astype(np.float64) * np.exp2(a[1].astype(np.float64))).astype(np.float32)
            elif node.op == "select":
                value = np.where(a[0], a[1], a[2])
            else:
                value = two[node.op](*a) if node.op in two else one[node.op](*a)
        known[node.number] = np.asarray(value, node.dtype)
    return known[root.number]
