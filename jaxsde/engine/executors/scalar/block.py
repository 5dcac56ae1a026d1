"""A few consecutive steps of one chain, with the draws they need, as one graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .... import random
from ....types import Chain, Drawn, Draws
from . import orders
from .evaluate import evaluate
from .graph import CHAIN, CONSTANT, OWN, STEP, Graph, Node, Table, Unsupported
from .indexing import entries


class Steps(NamedTuple):
    """`length` steps from a multiple of `length` on.

    `state` and `after` are the scalars of the state before and after, in the order of its leaves; `positions` those of the
    position after every step, ["length d"]. `alive` promises that every step stayed inside the limit (it may be false
    where one only came close). In a masked graph a step that is not `going`, or that leaves the limit, is not taken;
    `alives` and `survived` then tell exactly, after every step, whether the chain lives and how many steps it completed.
    """

    graph: Graph
    length: int
    state: list[Node]
    after: list[Node]
    positions: list[list[Node]]
    alive: Node
    alives: list[Node]
    survived: Node | None
    order: orders.Order | None
    near: bool
    generator: list[Node]  # the state of a generator that is carried along, and the one after these steps
    generator_after: list[Node]

    @property
    def roots(self) -> list[Node]:
        """What a step is there for."""
        survived = [] if self.survived is None else [self.survived]
        seen = [node for position in self.positions for node in position]
        return [*self.after, *self.generator_after, *seen, *self.alives, self.alive, *survived]


class Traced(NamedTuple):
    """What a step does, as jaxprs of one chain: the draws of `length` steps (without examples that come in an order), one step,
    and the position of a state. Where they are fewer than share a call of the generator and its state is `carried` along, the
    draws are made of that, too, and `begin` is its state where a call begins."""

    length: int
    draws: Any
    carried: Any
    begin: Any
    order: orders.Order | None
    step: Any
    position: Any
    state: list[jax.ShapeDtypeStruct]
    shared: list[jax.ShapeDtypeStruct]


def length_of(draws: Draws, most: int | None = None) -> int:
    """Steps that share a call of the generator, as far as so many can be taken at once: as many as it gives words, if nothing
    is said."""
    most = random.STREAMS[draws.stream].words if most is None else most
    if draws.scheme in ("epoch", "once", "cyclic"):
        return 1  # a step is of one epoch
    return min(most, random.steps_per_call(draws))


def trace(chain: Chain, state: Any, dtype: Any, length: int, carry: bool = False) -> Traced:
    """The jaxprs of a chain whose state is like `state` (one chain's, arrays or shapes), `length` steps at a time, a power of
    two. `carry`: whether who takes them can carry the state of a generator along."""
    order = orders.trace(chain.draws)
    drawing = chain.draws if order is None else chain.draws._replace(indices=0, population=0, scheme="independent")
    leaves, structure = jax.tree.flatten(chain)
    inner, inner_structure = jax.tree.flatten(state)
    like = lambda a: jax.ShapeDtypeStruct(np.shape(a), jnp.result_type(a))
    shared, states = [like(a) for a in leaves], [like(a) for a in inner]
    word = jax.ShapeDtypeStruct((), np.uint32)

    carried = random.carried(drawing) if carry else None
    carried = carried if carried is not None and length < carried.steps and length * carried.words % 2 == 0 else None

    def draw(key0: Any, key1: Any, chain0: Any, chain1: Any, step0: Any, step1: Any, *held: Any) -> Any:
        clock = random.Clock((step0, step1), (step0, step1), jnp.uint32(0))
        ids, generator = (chain0[None], chain1[None]), tuple(word[None] for word in held) or None
        block = random.block((key0, key1), drawing, ids, clock, length, dtype, aligned=length, state=generator)  # pyright: ignore
        block = jax.tree.map(lambda a: a[..., 0], block)
        return block if carried is None else (block, [word[0] for word in carried.after(generator, length)])  # pyright: ignore

    def begin(key0: Any, key1: Any, chain0: Any, chain1: Any, step0: Any, step1: Any) -> Any:
        steps = random.Steps((key0, key1), (chain0[None], chain1[None]), (step0, step1), 1, 1, random.STREAMS[drawing.stream])  # pyright: ignore
        return [word[0] for word in carried.begin(steps)]  # pyright: ignore

    def step(given: list, held: list, drawn: Drawn, k: Any) -> list:
        moved = structure.unflatten(given).step(inner_structure.unflatten(held), drawn, k)
        return jax.tree.leaves(moved)

    def position(given: list, held: list) -> Any:
        return structure.unflatten(given).position(inner_structure.unflatten(held))

    given = [word] * (6 if carried is None else 10)
    draws, drawn = jax.make_jaxpr(draw)(*given), jax.eval_shape(draw, *given)
    drawn = drawn if carried is None else drawn[0]
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), drawn)
    if order is not None:
        one = one._replace(indices=jax.ShapeDtypeStruct((chain.draws.indices,), np.int32))
    k = jax.ShapeDtypeStruct((), dtype)
    closed = jax.make_jaxpr(step)(shared, states, one, k)
    for out, held in zip(closed.out_avals, states, strict=True):
        if (out.shape, out.dtype) != (held.shape, held.dtype):
            raise Unsupported(f"a state whose type changes from {held.dtype} to {out.dtype}")
    first = None if carried is None else jax.make_jaxpr(begin)(*[word] * 6)
    return Traced(
        length, draws, carried, first, order, closed, jax.make_jaxpr(position)(shared, states), states, shared
    )


def steps(
    traced: Traced,
    limit: float,
    masked: bool,
    functions: Mapping[str, Any] | None = None,
    operations: int = 16_000,
    near: bool = False,
) -> Steps:
    """The graph of `traced.length` steps, of at most so many `operations`; a chain whose position passes `limit`, or is NaN,
    has diverged. `near` chains have numbers with one upper word. (That of the clock is the same for a launch: so little of
    a cipher's first two rounds changes with the step.)"""
    g = Graph(functions, operations)
    places = arrange([(a.shape, np.dtype(a.dtype)) for a in traced.shared])
    tables = [p.view(a.shape, np.dtype(a.dtype)) for p, a in zip(places, traced.shared, strict=True)]
    shared: list[Any] = [t if t.size > 1 else entries(g, t) for t in tables]
    state, before, row = [], [], 0
    for leaf in traced.state:
        array = np.empty(leaf.shape, object)
        for i in np.ndindex(leaf.shape):
            array[i] = g.input("state", leaf.dtype, CHAIN, row)
            row += 1
        state.append(array)
        before.extend(array.ravel())
    generator = [] if traced.carried is None else [g.input("generator", np.uint32, CHAIN, i) for i in range(4)]
    drawn = evaluate(g, traced.draws, *(_scalar(w) for w in (*_words(g, near), *generator)))
    generator_after = [] if traced.carried is None else [word.item() for word in drawn[-4:]]
    drawn = drawn[: len(drawn) - len(generator)]
    if traced.order is not None:
        drawn.append(traced.order.indices(g)[None])
    dtype = traced.position.out_avals[0].dtype
    bound = g.literal(limit, dtype)
    alive = g.input("alive", bool, CHAIN) if masked else g.literal(True, bool)
    survived = g.input("survived", np.uint32, CHAIN) if masked else None
    positions, alives, squares = [], [], []
    for j in range(traced.length):
        k = _scalar(g.input("number", dtype, STEP, j))
        new = evaluate(
            g,
            traced.step,
            *shared,
            *state,
            *(d[j] if d[j].__class__ is np.ndarray else _scalar(d[j]) for d in drawn),
            k,
        )
        place = evaluate(g, traced.position, *shared, *new)[0].ravel()
        if survived is not None:
            inside = g.literal(True, bool)
            for x in place:
                inside = g.op("and", bool, inside, g.op("lt", bool, g.op("abs", dtype, x), bound))  # false for NaN
            going = g.input("going", bool, STEP, j)
            alive = g.op("and", bool, alive, g.op("or", bool, inside, g.op("not", bool, going)))
            move = g.op("and", bool, alive, going)
            state = [_chosen(g, move, n, o) for n, o in zip(new, state, strict=True)]
            place = evaluate(g, traced.position, *shared, *state)[0].ravel()
            one = g.op("select", np.uint32, move, g.literal(1, np.uint32), g.literal(0, np.uint32))
            survived = g.op("add", np.uint32, survived, one)
        else:
            state = new
            squares += [(x, x) for x in place]
        positions.append(list(place))
        alives.append(alive)
    if not masked:  # one operation for each component: a sum of squares is inside only where each of them is
        alive = g.op("lt", bool, g.total(squares, dtype), g.literal(0.5 * limit**2, dtype))
    after = [node for leaf in state for node in leaf.ravel()]
    return Steps(
        g, traced.length, before, after, positions, alive, alives, survived, traced.order, near, generator, generator_after
    )


def begin(traced: Traced, near: bool = False) -> tuple[Graph, list[Node]]:
    """The state of the generator where a call begins."""
    g = Graph()
    return g, [word.item() for word in evaluate(g, traced.begin, *(_scalar(w) for w in _words(g, near)))]


def _words(g: Graph, near: bool) -> list[Node]:
    """What draws are a function of: the words of the key, of the chain's number and of the step's."""
    words = [g.input("key", np.uint32, CONSTANT, i) for i in (0, 1)]
    words += [g.input("chain", np.uint32, rate, i) for i, rate in enumerate((OWN, CONSTANT if near else OWN))]
    return words + [g.input("clock", np.uint32, rate, i) for i, rate in enumerate((STEP, CONSTANT))]


def _scalar(node: Node) -> np.ndarray:
    array = np.empty((), object)
    array[()] = node
    return array


def _chosen(g: Graph, move: Node, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    out = np.empty(new.shape, object)
    for i in np.ndindex(new.shape):
        out[i] = g.op("select", new[i].dtype, move, new[i], old[i])
    return out


class Place(NamedTuple):
    """Where an array that chains share is kept: which table, the first column, and the entries from one row to the next."""

    table: int
    offset: int
    stride: int

    def view(self, shape: tuple[int, ...], dtype: np.dtype) -> Table:
        inner = [int(np.prod(shape[d + 1 :])) for d in range(1, len(shape))]
        return Table(self.table, self.offset, (self.stride, *inner) if shape else (), shape, dtype)


def arrange(arrays: list[tuple[tuple[int, ...], np.dtype]]) -> list[Place]:
    """Arrays with as many rows and one type lie side by side in one table: an example is then one row, with all that belongs
    to it. Rows start where vectors do."""
    tables: dict[Any, int] = {}
    columns: dict[int, int] = {}
    first = []
    for i, (shape, dtype) in enumerate(arrays):
        table = tables.setdefault((shape[0], dtype) if shape else i, len(tables))
        first.append((table, columns.get(table, 0)))
        columns[table] = columns.get(table, 0) + int(np.prod(shape[1:]))
    return [Place(table, offset, _row_stride(columns[table])) for table, offset in first]


def _row_stride(columns: int) -> int:
    return -(-columns // 16) * 16 if columns > 8 else 1 << max(columns - 1, 0).bit_length()
