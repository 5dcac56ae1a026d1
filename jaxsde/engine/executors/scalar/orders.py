"""Examples taken in order, epoch after epoch: what the chains share of it, and what each works out once an epoch.

The step number tells epoch and position, the same for all chains. Where each epoch has an order of its own, a chain makes the
keys of its permutation once an epoch and looks places up a few steps at a time, so this is no part of the graph of a step:
there the indices come from outside.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .... import random
from ....types import Draws
from .evaluate import evaluate
from .graph import CHAIN, CONSTANT, OWN, STEP, Graph, Node


class Order(NamedTuple):
    """The order of one chain as jaxprs.

    `place` (position, j) is where example j of a step stands in the order; ROUNDS rounds `swap` (place, pivot, slope, offset) then
    bring it to the example, whose `keys` (key, chain, epoch, lane) come four at a time, with two words for each of the first
    three. Without a permutation the place is the example.
    """

    draws: Draws
    steps: int  # of an epoch
    place: Any
    keys: Any
    swap: Any

    @property
    def permuted(self) -> bool:
        return self.draws.scheme != "cyclic"

    def indices(self, g: Graph) -> np.ndarray:
        """The examples of a step, as nodes ["b"]."""
        out = np.empty(self.draws.indices, object)
        for j in range(len(out)):
            out[j] = g.input("index", np.int32, CHAIN, j) if self.permuted else self.next(g, g.literal(j, np.uint32))
        return out

    def next(self, g: Graph, j: Node) -> Node:
        """Example j of a step where there is no permutation."""
        at = _evaluated(g, self.place, g.input("position", np.uint32, STEP), j)
        return g.op("convert", np.int32, *at)

    def graph_of_keys(self) -> tuple[Graph, list[Node]]:
        """From inputs "key", "chain", "epoch" (two words each) and "lane" to four keys."""
        g = Graph()
        rates = {"key": CONSTANT, "chain": OWN, "epoch": STEP}
        words = [g.input(name, np.uint32, rate, i) for name, rate in rates.items() for i in (0, 1)]
        return g, _evaluated(g, self.keys, *words, g.input("lane", np.uint32, STEP))

    def graph_of_places(self, count: int) -> tuple[Graph, list[Node]]:
        """From inputs "begin" (a position) and "first" to the places of so many examples, the first of which is `first`."""
        g = Graph()
        begin, first = (g.input(name, np.uint32, STEP) for name in ("begin", "first"))
        each = (g.op("add", np.uint32, first, g.literal(j, np.uint32)) for j in range(count))
        return g, [node for j in each for node in _evaluated(g, self.place, begin, j)]

    def graph_of_round(self, count: int) -> tuple[Graph, list[Node]]:
        """From inputs "place" (so many), "pivot", "slope" and "offset" to where the round brings them."""
        g = Graph()
        keys = [g.input(name, np.uint32, CHAIN) for name in ("pivot", "slope", "offset")]
        places = [g.input("place", np.uint32, CHAIN, j) for j in range(count)]
        return g, [node for x in places for node in _evaluated(g, self.swap, x, *keys)]


def trace(draws: Draws) -> Order | None:
    """The order that a chain's examples come in; None where each step draws its own."""
    if draws.scheme in ("independent", "distinct"):
        return None
    word, n = jax.ShapeDtypeStruct((), np.uint32), draws.population

    def keys(key0: Any, key1: Any, chain0: Any, chain1: Any, epoch0: Any, epoch1: Any, lane: Any) -> Any:
        epoch = (epoch0, epoch1) if draws.scheme == "epoch" else (jnp.uint32(0), jnp.uint32(0))
        drawn = random.four_words((key0, key1), (chain0, chain1), epoch, lane)  # pyright: ignore[reportArgumentType]
        return jnp.where(lane < random.ROUNDS // 4, random.pivot_of(drawn, n), drawn)

    return Order(
        draws,
        random.steps_per_epoch(draws),
        jax.make_jaxpr(lambda position, j: random.place(draws, position, j))(word, word),
        jax.make_jaxpr(keys)(*[word] * 7),
        jax.make_jaxpr(lambda x, pivot, slope, offset: random.one_round(x, pivot, slope, offset, n))(*[word] * 4),
    )


def _evaluated(g: Graph, closed: Any, *nodes: Node) -> list[Node]:
    """The outputs of a jaxpr of scalars, one after another."""
    given = []
    for node in nodes:
        array = np.empty((), object)
        array[()] = node
        given.append(array)
    return [node for out in evaluate(g, closed, *given) for node in out.ravel()]
