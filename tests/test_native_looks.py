"""Statistics as machine code: what XLA counts, to the bit whatever the chunk, and XLA where they cannot be taken apart."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js
from jaxsde import random
from jaxsde.engine import launch
from jaxsde.engine.executors import native
from jaxsde.engine.executors.native import samples, updates
from jaxsde.engine.executors.native.looks import Looking, Looks, _graph, looks
from jaxsde.engine.executors.scalar.graph import Graph
from jaxsde.engine.executors.tile import Span
from jaxsde.statistics.sums import CARRY, rarely
from jaxsde.struct import static, struct

KEY = js.key(3)
PROBLEM = js.potential(lambda x: jnp.sum(x**2 / 2 - 0.3 * jnp.cos(x)), np.full(2, 0.5), noise_covariance=[[1.0, 0.3], [0.3, 0.5]])
CHAIN = js.integrate(js.sgd_sde(PROBLEM, learning_rate=0.05), dt=0.05)
STATISTICS = {
    "spread": js.Covariance(),
    "course": js.Autocovariance((1, 2)),
    "boxes": js.Histogram((np.linspace(-1, 1, 13), np.linspace(-1, 1, 9))),
    "uneven": js.Histogram(np.array([-2.0, -0.3, 0.0, 0.1, 3.0]), components=1),
    "mean": js.Mean(),
    "moments": js.Moments(3),
}


def run(executor="native", chain=CHAIN, statistics=STATISTICS, **more):
    given = {"chains": 333, "steps": 300, **more}
    return js.simulate(chain, np.full(chain.dim, 0.3), key=KEY, statistics=statistics, executor=executor, **given)


def leaves(run, names):
    return [np.asarray(a) for name in names for a in jax.tree.leaves(run.partials(name))]


@pytest.mark.parametrize("more", [dict(every=1), dict(every=3, burn_in=7), dict(every=2, chains=4000, groups=7)], ids=str)
def test_the_numbers_of_xla(more):
    ours, reference = run(**more), run("vmap", **more)
    for name in STATISTICS:
        for a, b in zip(leaves(ours, [name]), leaves(reference, [name]), strict=True):
            if a.dtype.kind in "iu":  # a rounding may carry a position over an edge
                assert np.abs(a.astype(np.int64) - b.astype(np.int64)).sum() <= 4
            else:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max(initial=1.0))
    shifted = run(**more | dict(burn_in=more.get("burn_in", 0) + 1))
    assert not np.allclose(shifted["spread"].value, reference["spread"].value, rtol=1e-5)


@pytest.mark.parametrize("steps", [CARRY - 1, CARRY, 5 * CARRY + 3])
def test_no_bit_depends_on_the_chunk_or_on_the_tile(steps):
    names = ["spread", "boxes", "mean", "moments"]
    statistics = {name: STATISTICS[name] for name in names}
    whole = run(steps=steps, statistics=statistics)
    for chunk in (7, CARRY, 100):
        for a, b in zip(leaves(whole, names), leaves(run(steps=steps, statistics=statistics, chunk=chunk), names), strict=True):
            np.testing.assert_array_equal(a, b)
    half = run(steps=steps // 2, statistics=statistics)
    for a, b in zip(leaves(whole, names), leaves(js.simulate(CHAIN, half, steps=steps - steps // 2), names), strict=True):
        np.testing.assert_array_equal(a, b)


def test_chains_that_leave_the_numbers_are_left_out():
    wild = js.sgd(js.potential(lambda x: jnp.sum(x**2) / 2 - jnp.sum(x**4) / 4, np.zeros(2), noise_covariance=0.5), learning_rate=0.3)
    statistics = {"spread": js.Covariance(), "mean": js.Mean(), "boxes": js.Histogram(np.linspace(-2, 2, 9), components=0)}
    ours, reference = (run(e, wild, statistics, steps=40, chains=300) for e in ("native", "vmap"))
    assert 0 < ours.diverged.sum() < 300
    for name in ("mean", "spread"):
        counted = [np.asarray(r.partials(name).counted.lo) for r in (ours, reference)]
        np.testing.assert_array_equal(*counted)
        assert counted[0].sum() == 40 * (~ours.diverged).sum()
    assert np.isfinite(ours["mean"].value).all()
    np.testing.assert_allclose(ours.partials("mean").shift, reference.partials("mean").shift, rtol=1e-3, atol=1e-3)
    inside = [np.asarray(r.partials("boxes").counts.lo)[:, :-1].sum() for r in (ours, reference)]
    assert inside[0] == inside[1] > 0


@pytest.mark.parametrize("dim", [1, 7])
def test_many_numbers_and_functions_of_the_position(dim):
    """More numbers than registers, taken in in groups, and functions that are too long to be worked out for each group."""

    def long(x):
        for _ in range(12):
            x = jnp.sin(x + 0.5 * jnp.roll(x, 1))
        return jnp.stack([jnp.sum(x), jnp.sum(x**2), x[0], x[-1] ** 2, jnp.sum(x) ** 2])

    problem = js.potential(lambda x: jnp.sum(x**2 / 2 - jnp.cos(x)), np.zeros(dim), noise_covariance=2.0)
    statistics = {
        "spread": js.Covariance(), "range": js.Extremes(), "long": js.of(long, js.Moments(4)), "loss": js.MeanLoss(problem),
        "first": js.FirstPassage(lambda x: x[0] > 0.8),
    }  # fmt: skip
    x, dtype = jax.ShapeDtypeStruct((dim,), np.float32), np.dtype(np.float32)
    assert looks(statistics, x, dtype).own == sorted(statistics)
    chain = js.sgd(problem, learning_rate=0.1)
    ours, reference = (run(e, chain, statistics, every=2, steps=400, burn_in=3) for e in ("native", "vmap"))
    for name in statistics:
        for a, b in zip(leaves(ours, [name]), leaves(reference, [name]), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5 * np.abs(b).max(initial=1.0))


def test_what_goes_where():
    x, dtype = jax.ShapeDtypeStruct((2,), np.float32), np.dtype(np.float32)
    code = looks(STATISTICS, x, dtype)
    assert code.own == ["mean", "moments", "spread"] and "boxes" in code.counting
    assert "course" not in code.own + code.counting  # its ring is shared by chains
    both = {"spread": js.Covariance(), "mean": js.Mean()}
    wide = looks(both, jax.ShapeDtypeStruct((40,), np.float32), dtype)
    assert wide.own == ["mean", "spread"]
    wider = looks(both, jax.ShapeDtypeStruct((400,), np.float32), dtype)
    assert wider.own == ["mean"]  # more numbers than are printed in good time
    problem = js.potential(lambda x: jnp.sum(x**2) / 2, np.zeros(40))
    chain = js.integrate(js.langevin(problem, temperature=0.5), dt=0.1)
    spread = run(chain=chain, statistics={"spread": js.Covariance()}, steps=10, burn_in=100, chains=4096)["spread"]
    # Euler's stationary variance kT / (1 − dt/2); 1600 entries, a false alarm in 1e5
    expected = 0.5 / (1 - 0.05) * np.eye(40)
    assert (np.abs(spread.value - expected) < 6.5 * np.maximum(spread.stderr, 1e-3)).all()
    assert not (np.abs(spread.value - 1.2 * expected) < 6.5 * np.maximum(spread.stderr, 1e-3)).all()


def test_as_many_statistics_as_there_is_code_for(monkeypatch):
    x, dtype = jax.ShapeDtypeStruct((2,), np.float32), np.dtype(np.float32)
    spreads = {f"spread {i}": js.Covariance() for i in range(4)}
    whole = Looks(spreads, x, dtype).own
    assert whole == sorted(spreads)
    nodes = len(_graph(Graph, spreads, whole[:2], [], 2, dtype).graph.nodes)  # what the code of two takes
    monkeypatch.setitem(Looks.__init__.__globals__, "_OPERATIONS", nodes + 1)
    some = Looks({**spreads, "boxes": js.Histogram(np.linspace(-1, 1, 5), components=0)}, x, dtype)
    assert some.own == whole[:2] and some.counting == ["boxes"] and some.call is not None


@struct
class Turning:
    """Numbers that read each other: added to, and now and then passed on, around (`turned`) or to the next one, the last lost."""

    turned: bool = static()

    def init(self, x):
        return jnp.zeros((len(x), 20), x.dtype), jnp.zeros(len(x), jnp.int32)

    def update(self, acc, t, x, alive):
        held, count = acc
        rare = rarely(count % 5 == 3)[:, None]
        moved = jnp.roll(held, 1, axis=1) if self.turned else jnp.concatenate([x[:, :1], held[:, :-1]], axis=1)
        added = held + jnp.sin(x[:, :1]) * jnp.arange(1, 21, dtype=x.dtype)
        return jnp.where(alive[:, None], jnp.where(rare, moved, added), held), count + alive

    def merge(self, acc):
        return jax.tree.map(lambda a: a.sum(axis=0, keepdims=True), acc)

    def result(self, acc):
        return acc[0].sum(axis=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_updated_alike_is_updated_in_a_loop(dtype, monkeypatch):
    """To the bit what it is without loops, whatever reads what."""
    problem = js.potential(lambda x: jnp.sum(x**2 / 2 - jnp.cos(x)), np.zeros(7), noise_covariance=2.0)
    statistics = {
        "spread": js.Covariance(), "moments": js.Moments(4), "range": js.Extremes(), "loss": js.MeanLoss(problem),
        "around": Turning(True), "along": Turning(False),
    }  # fmt: skip
    with jax.enable_x64(dtype == np.float64):
        chain = js.sgd(problem, learning_rate=0.1)
        given = dict(chain=chain, statistics=statistics, every=2, steps=400, burn_in=3, dtype=dtype)
        ours, reference = (run(e, **given) for e in ("native", "vmap"))
        monkeypatch.setattr(samples, "_FEWEST", 1 << 30)
        looks.found.clear()
        launch._programs.clear()
        plain = run(**given)
        looks.found.clear()
        launch._programs.clear()
        for a, b, c in zip(*(jax.tree.leaves(r.accumulators) for r in (ours, plain, reference)), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(a, c, rtol=2e-4, atol=1e-4 * np.abs(c).max(initial=1.0))
        traced = _graph(Graph, statistics, sorted(statistics), [], 7, np.dtype(dtype))
    found = updates.kinds(traced)
    assert max(len(kind.members) for kind in found) == 21  # the products of a covariance of seven, without the squares
    stored = [r for kind in found for member in kind.members for r in member]
    assert sorted(stored) == sorted(updates._changing(traced))
    # what a member reads of another is stored after it
    place = {r: i for i, kind in enumerate(found) for member in kind.members for r in member}
    for kind in found:
        for member, inputs in zip(kind.members, kind.inputs, strict=True):
            others = {n.args[0] for n in inputs if n.op == "number"} & set(place) - set(member)
            assert all(place[r] > place[member[0]] for r in others)


def test_counts_are_exact_where_a_launch_passes_the_words(monkeypatch):
    """The machine code counts in 32 bits; the host empties it in time."""
    emptied = []
    settle = Looking._settle
    monkeypatch.setattr(Looking, "_settle", lambda self: emptied.append(self.pending) or settle(self))
    histogram = {"boxes": js.Histogram(np.linspace(-1, 1, 5), components=0)}
    counts = leaves(run(statistics=histogram), ["boxes"])
    at_once = len(emptied)
    room = 30_000  # less than two calls of the code see
    monkeypatch.setitem(Looking.advance.__globals__, "_COUNTED", room)
    monkeypatch.setattr(native, "_CALLS", 1)  # planned at a time
    for a, b in zip(counts, leaves(run(statistics=histogram), ["boxes"]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(emptied) > at_once + 4 and 0 < max(emptied[at_once:]) < room


@pytest.mark.parametrize("every", [1, 7])
def test_calls_are_planned_some_at_a_time(every):
    """Every step in one call, every look where it is due, none beyond a step whose upper word turns."""
    plan, steps, first = SimpleNamespace(every=every, samples=64, dtype=np.dtype(np.float32)), 5 * every, 150_000 * every
    clock = 2**32 - 1000 - (2**32 - 1000) % every
    span = Span(random.clock(clock, CHAIN.draws), np.int32(3), np.int32(3 + first + steps), np.bool_(True), np.int32(0))
    begun = native._Launch.of(SimpleNamespace(dt=0.5), span, plan.dtype)
    pieces = list(native.Program._schedule(plan, begun, True, native._CALLS))  # pyright: ignore
    assert len(pieces) > 2 and max(len(calls) for calls, _, _ in pieces) <= native._CALLS
    assert [clock + first_look for _, first_look, _ in pieces] == [calls[0, 0] + calls[0, 2] for calls, _, _ in pieces]
    calls, times = (np.concatenate([p[i] for p in pieces]) for i in (0, 2))
    assert calls[0, 0] == clock + 3 and calls[-1, 1] == clock + 3 + first + steps and (calls[1:, 0] == calls[:-1, 1]).all()
    assert 2**32 in calls[:, 0] and calls[:, 3].max() <= 64
    due = [begin + until + every * k for begin, _, until, n in calls.tolist() for k in range(n)]
    assert due == list(range(clock + (3 // every + 1) * every, clock + 3 + first + steps + 1, every))
    np.testing.assert_allclose(times, 0.5 * np.array(due, float), rtol=1e-6)


def test_new_edges_compile_nothing():
    def counts(edge):
        return run(statistics={"boxes": js.Histogram(np.linspace(-edge, edge, 9), components=0)}, steps=9)["boxes"].value

    before, programs = counts(1.0), len(launch._programs)
    plans = len(looks.found)
    assert not np.array_equal(counts(0.5), before)
    assert (len(launch._programs), len(looks.found)) == (programs, plans)
