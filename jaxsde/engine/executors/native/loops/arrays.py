"""Arrays of one chain as formulas: what an entry is, for an index that may depend on the loops around it.

Nothing is stored until something asks for it (`Nests.stored`). An entry is a node of the graph of scalars of the loop's body,
so equal entries are the same node and are worked out once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...scalar.graph import CONSTANT, STEP, Graph, Node


class Var(NamedTuple):
    """The counter of a loop, an i64 of this name with low ≤ value < high."""

    name: str
    low: int
    high: int


class At(NamedTuple):
    """An index: const + Σ factor · counter."""

    const: int = 0
    terms: tuple[tuple[Var, int], ...] = ()

    @classmethod
    def of(cls, var: Var) -> At:
        return cls(0, ((var, 1),))

    def plus(self, other: At | int, factor: int = 1) -> At:
        """self + factor · other"""
        if isinstance(other, int):
            return At(self.const + factor * other, self.terms)
        sums = dict(self.terms)
        for var, n in other.terms:
            sums[var] = sums.get(var, 0) + factor * n
        return At(self.const + factor * other.const, tuple((v, n) for v, n in sums.items() if n))

    def times(self, factor: int) -> At:
        return At().plus(self, factor)

    @property
    def low(self) -> int:
        return self.const + sum(n * (v.low if n > 0 else v.high - 1) for v, n in self.terms)

    @property
    def high(self) -> int:
        """The largest value."""
        return self.const + sum(n * (v.high - 1 if n > 0 else v.low) for v, n in self.terms)


Index = tuple[At, ...]
Rule = Callable[..., Node]  # from the graph and the parents' entries to the entry
Parts = tuple[Sequence[tuple["Array", Index]], Rule]


class Array:
    """`parts(index)` names the entries of other arrays that an entry is made of, and how.

    `uniform`: all chains have the same. `cuts`: along each axis, where the formula changes: no loop goes across. `view` is set
    where the entries lie in memory; `work` is the operations that an entry costs, beyond reading memory.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: Any,
        parts: Callable[[Index], Parts],
        *,
        uniform: bool,
        cuts: Sequence[frozenset[int]] | None = None,
        view: View | None = None,
        work: int = 1,
    ):
        self.shape, self.dtype = tuple(int(n) for n in shape), np.dtype(dtype)
        self.parts, self.uniform, self.view, self.work = parts, uniform, view, work
        self.cuts = tuple(cuts) if cuts is not None else (frozenset(),) * len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def whole(self) -> bool:
        """Whether one formula holds for all entries."""
        return not any(self.cuts)

    def entry(self, g: Graph, known: dict, index: Index) -> Node:
        """The node of one entry. `known` remembers those of this graph."""
        stack: list[tuple[Array, Index, Parts | None]] = [(self, index, None)]
        while stack:
            array, at, found = stack.pop()
            if (array, at) in known:
                continue
            parts, rule = found or array.parts(at)
            missing = [p for p in parts if p not in known]
            if missing:
                stack.append((array, at, (parts, rule)))
                stack.extend((a, i, None) for a, i in missing)
            else:
                known[array, at] = rule(g, *(known[p] for p in parts))
        return known[self, index]


class View(NamedTuple):
    """Entries in memory: of a buffer of vectors, or of an array that chains share (`leaf`). Offsets and strides in entries."""

    source: Any
    offset: At
    strides: tuple[int, ...]
    dtype: np.dtype

    def place(self, index: Index) -> At:
        at = self.offset
        for i, stride in zip(index, self.strides, strict=True):
            at = at.plus(i, stride)
        return at

    def array(self, shape: Sequence[int]) -> Array:
        shared = isinstance(self.source, int | str)

        def read(g: Graph, at: At) -> Node:
            if isinstance(self.source, int) and not at.terms:
                return g.input("entry", self.dtype, CONSTANT, self.source, at.const)
            if shared:
                return g.input("datum", self.dtype, STEP, self.source, at)
            return g.input("cell", self.dtype, 2, self.source, at)

        return Array(
            shape, self.dtype, lambda i: ((), lambda g: read(g, self.place(i))), uniform=shared, view=self, work=False
        )


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= int(n)
    return tuple(reversed(strides))


def scalar(node: Callable[[Graph], Node], dtype: Any, uniform: bool) -> Array:
    """One number that is there already."""
    return Array((), dtype, lambda i: ((), node), uniform=uniform, work=0)


def literal(value: Any, shape: Sequence[int], dtype: Any) -> Array:
    """The same number everywhere."""
    return Array(shape, dtype, lambda i: ((), lambda g: g.literal(value, dtype)), uniform=True, work=0)


def same(g: Graph, x: Node) -> Node:
    return x


def moved(
    x: Array, shape: Sequence[int], where: Callable[[Index], Index], cuts: Sequence[frozenset[int]] | None = None,
    view: View | None = None,
) -> Array:  # fmt: skip
    """The entries of x at other indices."""
    if view is not None:
        return view.array(shape)
    return Array(shape, x.dtype, lambda i: (((x, where(i)),), same), uniform=x.uniform, cuts=cuts, work=x.work)
