"""A sweep's numbers against closed forms, its control, its figure, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsde as js

H, C = np.array([[1.0, 0.3], [0.3, 2.0]]), np.array([[2.0, -0.5], [-0.5, 0.6]])


def data():
    x = np.random.default_rng(0).normal(size=(30, 2))
    return js.finite_sum(lambda p, e: 0.5 * (e[0] @ p - e[1]) ** 2, (x, x @ np.ones(2) + np.cos(np.arange(30))), np.zeros(2))


def quadratic():
    return js.potential(lambda x: 0.5 * x @ jnp.asarray(H, x.dtype) @ x, np.zeros(2), noise_covariance=C)


def test_a_sweep_of_a_quadratic_is_its_closed_form(tmp_path):
    """T* = tr(HS)/d and KL = −½ log det(HS/T*) with SH + HS − ηHSH = ηC, at three η; Langevin is Gibbs. 5 standard errors each."""
    got = js.sweep(quadratic(), learning_rates=[0.02, 0.05, 0.2], time=20.0, burn_in=8.0, key=js.key(0), chains=4096)
    assert [r.process for r in got.rows] == ["sgd"] * 3 + ["langevin"] * 3
    for row in got.rows[:3]:
        s = js.theory.stationary_covariance(js.sgd(quadratic(), learning_rate=row.learning_rate))
        t = np.trace(H @ s) / 2
        kl = -0.5 * np.log(np.linalg.det(H @ s / t))
        assert abs(row.temperature.value - t) < 5 * row.temperature.stderr
        assert abs(1.05 * row.temperature.value - t) > 5 * row.temperature.stderr  # the twin
        assert abs(row.kl.value - kl) < 5 * row.kl.stderr < kl / 3
    for row in got.rows[3:]:
        assert row.kl.value < max(0.002, 2 * (row.kl.floor or 0))
        assert abs(row.temperature.value - row.learning_rate * np.trace(C) / 4) < 5 * row.temperature.stderr
    assert got.figure(tmp_path / "sweep.png").stat().st_size > 10_000
    assert str(got).count("langevin") == 3 and len(got.to_json()) == 6


def test_a_program_for_each_structure():
    """Learning rates, temperatures and, of surrogates, batch sizes are numbers; an example more is another program."""
    from jaxsde.engine import launch

    def programs(problem, **axes):
        launch._programs.clear()
        js.sweep(problem, time=2.0, burn_in=0.5, key=js.key(0), chains=64, **axes)
        return len(launch._programs)

    rates = [0.02, 0.05, 0.2]
    assert programs(quadratic(), learning_rates=rates, batch_sizes=[1, 2, 5], temperatures=[0.1, 0.2]) == 2  # SGD and Langevin
    assert programs(quadratic(), learning_rates=rates, samplings=["gaussian", "two_point"], control=False) == 2
    assert programs(data(), learning_rates=rates, batch_sizes=[1, 3], control=False) == 2
    assert programs(data(), learning_rates=rates, batch_sizes=[1, 3], samplings=["full_batch"], control=False) == 1


def test_samplings_and_batches_have_rows_of_their_own():
    got = js.sweep(data(), learning_rates=[0.05], batch_sizes=[1, 3], samplings=["with_replacement", "without_replacement"],
                   temperatures=[0.01], time=5.0, burn_in=5.0, key=js.key(1), chains=256)  # fmt: skip
    assert [(r.process, r.batch_size) for r in got.rows] == [("sgd", 1), ("sgd", 3)] * 2 + [("langevin", None)] * 3
    cooler = got.rows[0].temperature.value / got.rows[1].temperature.value
    assert 2.5 < cooler < 4.5


@pytest.mark.parametrize("bad,words", [({"learning_rates": []}, "learning_rates must be a list"), ({"samplings": "cyclic"}, "samplings must be a list"),
                                       ({"time": 0.0}, "time must be positive"), ({"batch_sizes": [0]}, "batch_size must be")])  # fmt: skip
def test_what_a_sweep_refuses(bad, words):
    with pytest.raises(ValueError, match=words):
        js.sweep(quadratic(), **{"learning_rates": [0.1], "time": 1.0, "burn_in": 0.0, "key": js.key(0), **bad})


def test_a_diverged_setting_is_said():
    got = js.sweep(quadratic(), learning_rates=[2.5], time=2500.0, burn_in=0.0, key=js.key(0), chains=64, control=False)
    assert got.rows[0].diverged == 64 and not got.rows[0].kl.known
    assert "all chains diverged at η = 2.5" in str(got)


def test_too_many_settings_are_counted_before_anything_runs(tmp_path, monkeypatch, capsys):
    """10⁹: exit 65 with the number, no folder, no chain; from Python the same sentence."""
    from jaxsde import cli, sweeps

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps, "sgd", lambda *_, **__: pytest.fail("a chain was made"))
    rates, sizes = ",".join(f"{0.01 + 1e-6 * i:.6f}" for i in range(10_000)), ",".join(str(i + 1) for i in range(10_000))
    given = ["--learning-rates", rates, "--batch-sizes", sizes, "--samplings", ",".join(["cyclic"] * 10), "--out", "there"]
    assert cli.main(["sweep", *given]) == 65
    assert "a sweep of 1000000000 settings" in capsys.readouterr().err and not (tmp_path / "there").exists()
    with pytest.raises(ValueError, match="a sweep of 1000000000 settings"):
        js.sweep(quadratic(), learning_rates=np.linspace(0.01, 0.1, 10**6), batch_sizes=range(1, 1001), time=1.0, burn_in=0.0, key=js.key(0))


def test_a_sweep_draws_from_the_stream_that_it_is_given():
    given = dict(learning_rates=[0.1], time=5.0, burn_in=5.0, key=js.key(0), chains=64, control=False)
    ten, named, seven = (js.sweep(quadratic(), **given, **more).rows[0].temperature.value
                         for more in ({}, {"stream": "xoshiro128+"}, {"stream": "philox4x32-10"}))  # fmt: skip
    assert ten == named != seven
    with pytest.raises(ValueError, match="stream must be one of xoshiro128\\+, philox4x32-10; got 'philox'"):
        js.sweep(quadratic(), **given, stream="philox")


def test_a_setting_without_noise_is_said():
    got = js.sweep(data(), learning_rates=[0.1], samplings=["full_batch", "without_replacement"], batch_sizes=[30], time=5.0, burn_in=5.0,
                   key=js.key(0), chains=64)  # fmt: skip
    assert [(r.process, r.kl.known, r.temperature.known) for r in got.rows] == [("sgd", False, False)] * 2
    assert "full_batch of 30 has no noise" in str(got) and "without_replacement of 30 has no noise" in str(got)


def test_the_command(tmp_path, monkeypatch, capsys):
    """A table on standard output, a folder with the figure; a list that is none is refused before anything runs."""
    import json

    from jaxsde import cli

    monkeypatch.chdir(tmp_path)
    given = ["--chains", "256", "--steps", "200", "--burn-in", "100", "--out", "there"]
    axes = ["--learning-rates", "0.01,0.02", "--batch-sizes", "1,4", "--temperatures", "0.01"]
    assert cli.main(["sweep", *axes, *given, "--stream", "philox4x32-10", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stream"] == "philox4x32-10" and 'stream = "philox4x32-10"' in (tmp_path / "there" / "config.toml").read_text()
    assert [r["sampling"] for r in told["rows"][-2:]] == ["kT = 0.01"] * 2 and len(told["rows"]) == 10
    assert [(r["process"], r["learning_rate"], r["batch_size"]) for r in told["rows"][:4]] == [
        ("sgd", e, b) for b in (1, 4) for e in (0.01, 0.02)
    ]
    assert {p.name for p in (tmp_path / "there").iterdir()} == {"config.toml", "result.json", "sweep.png"}
    assert cli.main(["sweep", *given]) != 0  # the folder is taken
    for flag, value in (("--learning-rates", "fast"), ("--batch-sizes", "1.5"), ("--samplings", ","), ("--samplings", "cycle")):
        assert cli.main(["sweep", flag, value, "--out", "else"]) in (2, 65)
        assert not (tmp_path / "else").exists()
    assert "sampling must be one of" in capsys.readouterr().err
