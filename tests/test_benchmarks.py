"""The benchmark harness: its rows, and that no wrong program is ever timed. Nothing here looks at how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import equations, harness, plot, throughput, yardstick

OU = equations.ornstein_uhlenbeck()


def euler(noise=1.0, drift=1.0, keep=1.0):
    """An implementation in NumPy, right unless told otherwise."""

    def prepare(chains, steps):
        def run(seed):
            equation = OU._replace(size=noise * OU.size, slope=lambda x: drift * x)
            return keep * equations.reference(equation, chains, steps, seed)

        return harness.Ready(run, executor="numpy")

    return prepare


def workload(*ways):
    return harness.Workload("OU 1-d", 512, lambda chains, steps: equations.reference(OU, chains, steps), ways)


def test_rows():
    ways = [
        harness.Implementation(name, kind, 100, euler())
        for name, kind in (("a", "peer"), ("b", "yardstick"), ("c", "jaxsde"))
    ]
    rows = harness.measure(workload(*ways), rounds=2)
    assert sorted(row["implementation"] for row in rows) == ["a", "b", "c"]
    for row in rows:
        assert tuple(row) == harness.ROW
        assert row["workload"] == "OU 1-d" and row["chains"] == 512 and row["steps"] == 100
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
    "noise × 1.05": euler(noise=1.05),
    "half the noise variance": euler(noise=np.sqrt(0.5)),
    "half the drift": euler(drift=0.5),
    "the whole law 5 % narrower": euler(keep=0.95),
    "NaN": euler(keep=np.nan),
    "too few chains": lambda chains, steps: euler()(chains - 1, steps),
    "one chain repeated": lambda chains, steps: harness.Ready(lambda seed: np.full((chains, 1), 0.3), executor=""),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_program_is_refused_before_it_is_timed(fault):
    with pytest.raises(harness.WrongAnswer, match="fast"):
        harness.measure(workload(harness.Implementation("fast", "peer", 100, WRONG[fault])), rounds=1)


@pytest.mark.parametrize("name", throughput.WORKLOADS)
def test_every_implementation_gives_the_right_answer(name):
    """With few steps each, against a plain loop in float64; the yardstick only where it can be compiled."""
    chains, steps = 4096, 12
    work = throughput.workload(name, chains, ("vmap", "native"))
    kinds = [way.kind for way in work.implementations]
    assert kinds.count("jaxsde") == 2 and kinds.count("peer") >= 3
    assert kinds.count("yardstick") == (0 if yardstick.missing() else 1)
    truth = work.reference(chains, steps)
    for way in work.implementations:
        ready = way.prepare(chains, steps)
        first, second = ready.run(5), ready.run(6)
        assert harness.disagreement(first, truth) is None, way.name
        assert harness.disagreement(second, truth) is None, way.name
        assert (first != second).mean() > 0.9 and ready.executor, way.name
        assert harness.disagreement(1.3 * first + 0.1, truth), way.name


def test_programs_compiled_ahead_of_time():
    ready = harness.ahead_of_time(lambda key: jax.random.normal(key, (4,)), jax.random.key)
    np.testing.assert_array_equal(ready.run(3), jax.random.normal(jax.random.key(3), (4,)))
    assert ready.trace_s is not None and ready.compile_s is not None
    late = harness.cold_start(lambda seed: np.asarray(jax.jit(lambda x: x + seed)(np.ones(3))), lambda: "xla")
    assert late.compile_s is not None and late.run(2).tolist() == [3, 3, 3]


def test_the_readme_shows_what_was_measured(tmp_path):
    root = Path(__file__).parents[1]
    rows = json.loads((root / "benchmarks/results/cpu.json").read_text())
    assert plot.table(rows) in (root / "README.md").read_text(encoding="utf-8")
    assert {row["workload"] for row in rows} == set(plot.chosen(rows)) and len(plot.chosen(rows)) == len(throughput.WORKLOADS)
    plot.main([str(root / "benchmarks/results/cpu.json"), str(tmp_path / "bars.png")])
    assert (tmp_path / "bars.png").stat().st_size > 10_000
    [axes] = plot.figure(rows).axes
    widths = sorted(bar.get_width() for bar in axes.patches)
    assert widths == sorted(s[k]["of_yardstick"] for s in plot.chosen(rows).values() for k in plot.SERIES)
