"""The benchmark harness: its rows, and that no wrong program is ever timed. Nothing here looks at how fast anything is."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from by_default import some

from benchmarks import equations, gpu, harness, plot, scaling, throughput, yardstick
from jaxsde import bench, cli

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


@pytest.mark.parametrize("name", some(throughput.WORKLOADS, ["ou", "network"]))
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
    assert widths == sorted(s[k]["of_yardstick"] for s in plot.chosen(rows).values() for k in plot.SERIES if k in s)


@pytest.mark.slow
def test_bench_in_short(monkeypatch, tmp_path, capsys):
    """`jaxsde bench` with almost no steps: its rows, its sentence, its figure, and what it says without a yardstick."""
    monkeypatch.setenv("JAXSDE_CACHE_DIR", str(tmp_path))
    whole = bench.measure
    monkeypatch.setattr(bench, "measure", functools.partial(whole, rounds=1, scale=0.002))
    figure = tmp_path / "bars.png"
    assert cli.main(["bench", "--figure", str(figure)]) == 0
    said = capsys.readouterr().out
    rows = bench._ours(bench.measure())
    assert [row["workload"] for row in rows] and all(row["workload"] in said for row in rows) and len(rows) == 6
    assert "times the plain JAX program" in said and (figure.exists() or "no figure" in said)
    without = [row | {"of_yardstick": None} for row in rows]
    assert "the limit is not known here" in bench.verdict(without) and " - " in bench.table(without)
    assert not bench.figure(without, tmp_path / "none.png")
    assert "ran under another executor" in bench.verdict([rows[0] | {"executor": "vmap"}, *rows[1:]])
    assert cli.main(["bench", "--figure", str(tmp_path / "bars.pdf"), "--json"]) == 2
    assert "give a .png or .svg file" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("name", some(gpu.CASES, ["OU 4-d"]))
def test_the_gpu_workloads_on_whatever_is_here(name):
    """Every executor and the peer agree with the loop in float64, or the harness would refuse them."""
    work = gpu.workload(name, 256, ("auto", "lanes"), scale=0.001)
    rows = harness.measure(work, rounds=1)
    assert {row["implementation"] for row in rows} == {"jaxsde, auto", "jaxsde, lanes", "scan + bulk draws, a key per step"}
    [row] = gpu.published(8388608)
    assert row["chain_steps_per_second"] == pytest.approx(8388608 * 256 / 0.715859498)
    assert gpu.published(7) == [] and "as published" in throughput.table([*rows, row])


def test_scaling():
    found = scaling.series("auto", largest=1000, scale=0.002)
    assert {"chains", "dimension", "steps", "statistics, OU"} <= set(found)
    rows = scaling.measure(found["chains"], rounds=1)
    assert [row["chains"] for row in rows] == [100, 1000] and scaling.table(rows).count("\n") == 2
    wrong = [p._replace(check=lambda run: "wrong") for p in found["chains"]]
    with pytest.raises(harness.WrongAnswer, match="chains, 100: wrong"):
        scaling.measure(wrong, rounds=1)


def test_the_figure_of_scaling_draws_every_point(tmp_path):
    rows = json.loads((Path(__file__).parents[1] / "benchmarks/results/scaling-cpu.json").read_text())
    drawn = plot.scaling(rows)
    for axes, name in zip(drawn.axes, ("chains", "dimension", "steps"), strict=False):
        assert len(axes.lines[0].get_xdata()) == sum(row["series"] == name for row in rows) > 2
    bars = [bar.get_width() for bar in drawn.axes[3].patches]
    assert len(bars) == sum(row["series"].startswith("statistics") and row["x"] > 0 for row in rows) > 0
    path = tmp_path / "scaling.png"
    plot.main([str(Path(__file__).parents[1] / "benchmarks/results/scaling-cpu.json"), str(path)])
    assert path.stat().st_size > 10_000


def test_the_check_of_scaling_sees_five_per_cent():
    run = scaling.point("chains", 1, "", scaling.bowl(1), 65536, 200, scaling.stationary, "auto").run(3)
    assert scaling.stationary(run) is None

    class Louder:
        positions, step = run.positions * 1.05, run.step

    assert "standard errors off" in scaling.stationary(Louder)
