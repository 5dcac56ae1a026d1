"""The benchmark harness: its rows, and that no wrong program is ever timed. Nothing here looks at how fast anything is."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from benchmarks import harness, ornstein_uhlenbeck, throughput, yardstick

CHAINS = 32768


def euler(decay=ornstein_uhlenbeck.DECAY, size=ornstein_uhlenbeck.SIZE, keep=1.0):
    """An implementation in NumPy, right unless told otherwise."""

    def prepare(chains, steps):
        def run(seed):
            rng, x = np.random.default_rng(seed), np.zeros(chains)
            for _ in range(steps):
                x = decay * x + size * rng.standard_normal(chains)
            return x * keep

        return harness.Ready(run, executor="numpy")

    return prepare


def workload(*ways):
    return ornstein_uhlenbeck.workload(CHAINS)._replace(implementations=ways)


def test_rows():
    ways = [
        harness.Implementation(name, kind, 100, euler())
        for name, kind in (("a", "peer"), ("b", "yardstick"), ("c", "jaxsde"))
    ]
    rows = harness.measure(workload(*ways), rounds=2)
    assert sorted(row["implementation"] for row in rows) == ["a", "b", "c"]
    for row in rows:
        assert tuple(row) == harness.ROW
        assert row["workload"] == "OU 1-d" and row["chains"] == CHAINS and row["steps"] == 100
        assert row["chain_steps_per_second"] > 0 and row["per_cpu_second"] > 0
        assert row["versions"]["jax"] == jax.__version__ and row["device"]
        if row["implementation"] == "a":
            assert row["of_best_peer"] == 1
        if row["implementation"] == "b":
            assert row["of_yardstick"] == 1
    assert json.loads(json.dumps(rows)) == rows
    assert throughput.table(rows).count("\n") == 3


def test_rows_without_peer_or_yardstick():
    [row] = harness.measure(workload(harness.Implementation("c", "jaxsde", 100, euler())), rounds=1)
    assert row["of_best_peer"] is None and row["of_yardstick"] is None
    assert " - " in throughput.table([row])


WRONG = {
    "noise × 1.05": euler(size=1.05 * ornstein_uhlenbeck.SIZE),
    "half the noise variance": euler(size=ornstein_uhlenbeck.SIZE / np.sqrt(2)),
    "half the drift": euler(decay=1 - ornstein_uhlenbeck.DT / 2),
    "the SDE's variance, not the scheme's": euler(keep=np.sqrt(1 - ornstein_uhlenbeck.DT / 2) * 0.98),
    "NaN": euler(keep=np.nan),
    "too few chains": lambda chains, steps: euler()(chains - 1, steps),
    "one chain repeated": lambda chains, steps: harness.Ready(lambda seed: np.full(chains, 0.3), executor=""),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_program_is_refused_before_it_is_timed(fault):
    with pytest.raises(harness.WrongAnswer, match="fast"):
        harness.measure(workload(harness.Implementation("fast", "peer", 100, WRONG[fault])), rounds=10**9)


def test_every_implementation_gives_the_right_answer():
    """With few steps each, which the closed form of the law allows; the yardstick only where it can be compiled."""
    ours = ornstein_uhlenbeck.workload(8192, scale=0.05)
    names = [way.name for way in ours.implementations]
    assert len(names) == (6 if yardstick.missing() else 7)
    for way in ours.implementations:
        ready = way.prepare(ours.chains, way.steps)
        first, second = ready.run(5), ready.run(6)
        assert ours.check(first, way.steps) is None, way.name
        assert ours.check(second, way.steps) is None, way.name
        assert (first != second).mean() > 0.99 and ready.executor, way.name
        assert ours.check(1.1 * first, way.steps), way.name


def test_programs_compiled_ahead_of_time():
    ready = harness.ahead_of_time(lambda key: jax.random.normal(key, (4,)), jax.random.key)
    np.testing.assert_array_equal(ready.run(3), jax.random.normal(jax.random.key(3), (4,)))
    assert ready.trace_s is not None and ready.compile_s is not None
    late = harness.cold_start(lambda seed: np.asarray(jax.jit(lambda x: x + seed)(np.ones(3))), "xla")
    assert late.compile_s is not None and late.run(2).tolist() == [3, 3, 3]
