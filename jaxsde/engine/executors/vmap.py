"""The executor that runs any step: `vmap` over the chains of a tile, XLA does the rest.

The draws of K steps are made as one block, then a scan over the block steps the chains; after every `every` steps the
statistics see the positions. Where a chunk begins or ends inside a block, the steps outside it are masked, so one compiled
program serves every number of steps, and a chain's arithmetic is the same whatever the chunk.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ... import random
from ...types import Chain, Drawn, Draws, Statistic
from .tile import Span, Tile, divergence_limit, number, observe
from .xla import Program

_BLOCK = 16  # steps whose draws are made together, fewer when one step needs many
_BLOCK_DRAWS = 4096


def refuses(chain: Chain, state: Any, dtype: Any, platform: str, *, wanted: bool) -> str | None:
    """Why this executor cannot run a chain: there is no reason."""
    return None


def program(arguments: tuple, *, every: int, rows: int, platform: str) -> Program:
    """The compiled program for tiles like this one."""
    return Program(advance, arguments, platform, every=every, rows=rows)


def schedule(every: int, draws: Draws) -> tuple[int, int, int]:
    """(intervals, blocks, steps): a superblock is `intervals` sampling intervals, each of `blocks` blocks of `steps` steps."""
    block = max(1, min(_BLOCK, _BLOCK_DRAWS // max(1, draws.normals + draws.three_point + draws.signs + draws.indices)))
    if every >= block:
        blocks = math.ceil(every / (2 * block))
        return 1, blocks, math.ceil(every / blocks)
    return block // every, 1, every


def advance(
    chain: Chain,
    statistics: dict[str, Statistic],
    words: Any,
    ids: tuple[Any, Any],
    span: Span,
    tile: Tile,
    *,
    every: int,
    rows: int,
) -> Tile:
    """The tile after the span's steps. Traced; `every` and `rows` are static."""
    dtype = jax.tree.leaves(jax.eval_shape(jax.vmap(chain.position), tile.state))[0].dtype
    limit = divergence_limit(dtype)
    # Gathers of examples like the chain first, arithmetic on positions likes it last.
    axis = 0 if chain.draws.indices else -1
    many, blocks, size = schedule(every, chain.draws)
    dt = jnp.asarray(chain.dt, dtype)
    step_number = number(span.clock, dtype)

    vstep = jax.vmap(chain.step, in_axes=(axis, axis, None), out_axes=axis)
    vposition = jax.vmap(chain.position, in_axes=axis, out_axes=0)

    def draw(offset: Any, steps: int) -> Drawn:
        block = random.block(words, chain.draws, ids, random.advance(span.clock, offset, chain.draws), steps, dtype)
        return jax.tree.map(lambda a: jnp.moveaxis(a, -1, 1) if axis == 0 else a, block)

    def one_step(offset: Any, last: Any, carry: tuple, drawn: Drawn) -> tuple:
        state, alive, survived = carry
        new = vstep(state, drawn, step_number + offset.astype(dtype))
        inside = jnp.all(jnp.abs(vposition(new)) < limit, axis=-1)  # false for NaN
        going = (offset >= span.begin) & (offset < last)
        alive_now = alive & (inside | ~going)
        move = alive_now & going
        keep = lambda n, o: jnp.where(_along(move, n, axis), n, o)
        return jax.tree.map(keep, new, state), alive_now, survived + move.astype(jnp.uint32)

    def steps(carry: tuple, start: Any, last: Any, drawn: Drawn, count: int) -> tuple:
        def body(c: tuple, xs: tuple) -> tuple[tuple, None]:
            i, z = xs
            return one_step(start + i, last, c, z), None

        return lax.scan(body, carry, (jnp.arange(count, dtype=jnp.int32), drawn))[0]

    def sample(carry: tuple, accumulators: dict, finished: Any) -> dict:
        state, alive, _ = carry
        due = span.collect & (finished <= span.end) & (finished > span.begin)
        time = (step_number + finished.astype(dtype)) * dt

        def update(acc: dict) -> dict:
            return observe(statistics, acc, time, vposition(state), alive, rows)

        return lax.cond(due, update, lambda acc: acc, accumulators) if statistics else accumulators

    def superblock(j: Any, everything: tuple) -> tuple:
        carry, accumulators = everything
        start = j * (many * every)
        if blocks == 1:
            drawn = draw(start, many * every)
            drawn = jax.tree.map(lambda a: a.reshape(many, every, *a.shape[1:]), drawn)

            def interval(both: tuple, xs: tuple) -> tuple[tuple, None]:
                i, z = xs
                begin = start + i * every
                moved = steps(both[0], begin, span.end, z, every)
                return (moved, sample(moved, both[1], begin + every)), None

            return lax.scan(interval, (carry, accumulators), (jnp.arange(many, dtype=jnp.int32), drawn))[0]

        def block(b: Any, c: tuple) -> tuple:
            begin = start + b * size
            return steps(c, begin, jnp.minimum(span.end, start + every), draw(begin, size), size)

        # Only the blocks that hold a step of the span: a chunk may be far shorter than a sampling interval.
        low = jnp.clip((span.begin - start) // size, 0, blocks)
        high = jnp.clip((span.end - start + size - 1) // size, 0, blocks)
        carry = lax.fori_loop(low, high, block, carry)
        return carry, sample(carry, accumulators, start + every)

    to_axis = lambda a: jnp.moveaxis(a, 0, axis)
    carry = (jax.tree.map(to_axis, tile.state), tile.alive, tile.survived)
    superblocks = (span.intervals + (many - 1)) // many
    carry, accumulators = lax.fori_loop(0, superblocks, superblock, (carry, tile.accumulators))
    state = jax.tree.map(lambda a: jnp.moveaxis(a, axis, 0), carry[0])
    return Tile(state, accumulators, carry[1], carry[2])


def _along(mask: Any, leaf: Any, axis: int) -> Any:
    return mask if axis == -1 else mask.reshape(mask.shape + (1,) * (leaf.ndim - 1))
