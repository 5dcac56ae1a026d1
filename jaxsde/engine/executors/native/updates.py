"""Which numbers of the statistics are updated together, in registers, and which alike, so that a loop can do it.

The updates of the entries of a covariance differ in the entries that they read, and in nothing else. A *member* is a set of
numbers that read each other; members of one *kind* read other numbers and coordinates by the same operations, and none of
another's. Members that others read come after those, so that each can be stored at once.
"""

from __future__ import annotations

import graphlib
import itertools
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from ..scalar.graph import CONSTANT, Node, ordered

_REPEATED = 2  # times the operations of all numbers together that those of the groups may come to
_NEAREST = 256  # numbers among which the next of a group is looked for
_PLACES = ("number", "x")  # inputs that differ from member to member


class Traced(NamedTuple):
    """The numbers of the accumulators before and after a sample, and the box of each statistic that counts."""

    graph: Any
    before: list[Node]
    after: list[Node]
    boxes: list[Node]


class Kind(NamedTuple):
    """Members that are updated alike: the numbers of each, in one order, and the inputs that it reads, in one order.

    `varying` says which inputs are not the same for all members; `outside` is what the nodes of the first member's update that
    depend on those need of the others.
    """

    members: list[tuple[int, ...]]
    inputs: list[list[Node]]
    varying: list[int]
    outside: list[Node]


def grouped(traced: Traced, room: int) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
    """The numbers that say when something rare happens, and the others in groups: (those of the group, those that it has to
    carry from sample to sample), as many as there is room for, and such that need the same positions."""
    changing = _changing(traced)

    def behind(roots: list[Node]) -> tuple[set[int], int]:
        """The changing numbers that these nodes depend on, at whatever time, and all operations on the way, a bit each."""
        numbers, bits, ahead = set(), 0, roots
        while ahead:
            nodes = ordered(ahead)
            found = {n.args[0] for n in nodes if n.op == "number"} & changing - numbers
            bits |= sum(1 << n.number for n in nodes if n.op not in ("number", "literal") and n.rate != CONSTANT)
            numbers |= found
            ahead = [traced.after[r] for r in found]
        return numbers, bits

    watched = sorted(behind(traced.graph.flags)[0])
    waiting = sorted(changing - set(watched))
    each = {r: behind([traced.after[r]]) for r in waiting}
    needs = {r: (numbers | {r}, bits) for r, (numbers, bits) in each.items()}
    everything = set().union(*(numbers for numbers, _ in needs.values()))
    groups, spent, together = [], 0, 0
    left = dict(needs)
    while left:
        kept, carried, bits = [], set(), 0
        while left:
            nearest = itertools.islice(left, _NEAREST)
            r = min(nearest, key=lambda r: ((left[r][1] & ~bits).bit_count(), r))
            if kept and len(carried | left[r][0]) > room:
                break
            kept.append(r)
            carried |= left[r][0]
            bits |= left.pop(r)[1]
        groups.append((sorted(kept), sorted(carried)))
        spent, together = spent + bits.bit_count(), together | bits
    if spent > _REPEATED * together.bit_count():
        groups = [(waiting, sorted(everything))]
    return watched, groups


def _changing(traced: Traced) -> set[int]:
    return {r for r, (old, new) in enumerate(zip(traced.before, traced.after, strict=True)) if old is not new}


def kinds(traced: Traced) -> list[Kind]:
    """The numbers that change, taken apart into kinds of members, in an order in which they can be stored."""
    after, changing = traced.after, _changing(traced)
    reads = {r: _numbers(after[r]) & changing for r in sorted(changing)}
    found: dict[tuple, Kind] = {}
    for level, member in _levels(reads):
        roots = [after[r] for r in member]
        signature, inputs = _signature(roots)
        key = (level, signature)
        if key not in found:
            found[key] = Kind([], [], [], [])
        found[key].members.append(member)
        found[key].inputs.append(inputs)
    return [_made(kind, after) for _, kind in sorted(found.items(), key=lambda item: item[0][0])]


def _numbers(root: Node) -> set[int]:
    return {node.args[0] for node in ordered([root]) if node.op == "number"}


def _levels(reads: dict[int, set[int]]) -> list[tuple[int, tuple[int, ...]]]:
    """Members, each with how many have to be stored before it, one after the other. What one member alone reads belongs to it."""
    numbers = sorted(reads)
    place = {r: i for i, r in enumerate(numbers)}
    edges = np.array([(place[r], place[other]) for r in numbers for other in reads[r]], int).reshape(-1, 2)
    graph = scipy.sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(len(numbers),) * 2)
    count, around = scipy.sparse.csgraph.connected_components(graph, connection="strong")  # numbers that read each other
    readers: dict[int, set[int]] = {m: set() for m in range(count)}
    for reader, read in around[edges].tolist():
        if reader != read:
            readers[read].add(reader)
    level, member = {}, {}
    for m in graphlib.TopologicalSorter(readers).static_order():  # readers first
        above = {member[reader] for reader in readers[m]}
        alone = len(above) == 1
        member[m] = above.pop() if alone else m
        if not alone:
            level[m] = 1 + max((level[reader] for reader in above), default=-1)
    joined: dict[int, list[int]] = {}
    for r, m in zip(numbers, around.tolist(), strict=True):
        joined.setdefault(member[m], []).append(r)
    return [(level[m], tuple(found)) for m, found in joined.items()]


def _signature(roots: list[Node]) -> tuple[tuple, list[Node]]:
    """What is done, whatever number or coordinate it is done to; and these, in the order in which they come."""
    place: dict[int, int] = {}
    lines, inputs = [], []
    for node in ordered(roots):
        place[node.number] = len(place)
        if node.op in _PLACES:
            lines.append((node.op, node.dtype))
            inputs.append(node)
        elif any(isinstance(a, Node) for a in node.args):
            lines.append((node.op, node.dtype, *((place[a.number],) if isinstance(a, Node) else a for a in node.args)))
        else:
            lines.append(node.number)  # the same node for all
    return (*lines, *(place[root.number] for root in roots)), inputs


def _made(kind: Kind, after: list[Node]) -> Kind:
    first = kind.inputs[0]
    varying = [i for i in range(len(first)) if any(reads[i] is not first[i] for reads in kind.inputs)]
    within = {first[i].number for i in varying}
    outside: dict[int, Node] = {}
    roots = [after[r] for r in kind.members[0]]
    for node in ordered(roots):
        needs = [a for a in node.args if isinstance(a, Node)]
        if any(a.number in within for a in needs):
            within.add(node.number)
            outside |= {a.number: a for a in needs if a.number not in within}
    outside |= {root.number: root for root in roots if root.number not in within}
    return kind._replace(varying=varying, outside=list(outside.values()))
