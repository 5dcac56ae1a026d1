"""Which numbers of the statistics are updated together, in registers, and which alike, so that a loop can do it.

The updates of the entries of a covariance differ in the entries that they read, and in nothing else. A *member* is a set of
numbers that read each other; members of one *kind* read other numbers and coordinates by the same operations, and none of
another's. Members that others read come after those, so that each can be stored at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

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


def _levels(reads: dict[int, set[int]]) -> Iterable[tuple[int, tuple[int, ...]]]:
    """Members, each with how many have to be stored before it, one after the other. What one member alone reads belongs to it."""
    members = _cycles(reads)
    member_of = {r: m for m, member in enumerate(members) for r in member}
    readers: list[set[int]] = [set() for _ in members]
    for r, others in reads.items():
        for other in others:
            readers[member_of[other]].add(member_of[r])
    level, into = [0] * len(members), list(range(len(members)))
    for m in range(len(members) - 1, -1, -1):  # readers first: `_cycles` gives them last
        above = readers[m] - {m}
        if len(above) == 1:
            into[m] = into[above.pop()]
    for m in range(len(members) - 1, -1, -1):
        for reader in readers[m]:
            if into[reader] != into[m]:
                level[into[m]] = max(level[into[m]], level[into[reader]] + 1)
    joined: dict[int, list[int]] = {}
    for m, member in enumerate(members):
        joined.setdefault(into[m], []).extend(member)
    return [(level[m], tuple(sorted(member))) for m, member in joined.items()]


def _cycles(reads: dict[int, set[int]]) -> list[list[int]]:
    """Numbers that read each other, however far around (strongly connected): what is read comes before what reads it."""
    # R. Tarjan (1972), without recursion.
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    waiting: list[int] = []
    inside: set[int] = set()
    found: list[list[int]] = []
    for start in reads:
        if start in index:
            continue
        path = [(start, iter(sorted(reads[start])))]
        index[start] = low[start] = len(index)
        waiting.append(start)
        inside.add(start)
        while path:
            node, ahead = path[-1]
            for following in ahead:
                if following not in index:
                    index[following] = low[following] = len(index)
                    waiting.append(following)
                    inside.add(following)
                    path.append((following, iter(sorted(reads[following]))))
                    break
                if following in inside:
                    low[node] = min(low[node], index[following])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == index[node]:
                    first = waiting.index(node)
                    found.append(waiting[first:])
                    inside -= set(found[-1])
                    del waiting[first:]
    return found


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
