"""Runs of the whole command, small: what it writes, and how it ends when chains diverge, laws do not exist or it is stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
COMPILED = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}  # by other tests of this session
SMALL = ["--chains", "64", "--steps", "60", "--burn-in", "20"]


@pytest.fixture
def start(tmp_path):
    """Starts `python -m jaxsde …` with no home, no display and the plainest locale."""

    def begin(*arguments, **environment):
        return subprocess.Popen(
            [sys.executable, "-m", "jaxsde", *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C", **COMPILED, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return begin


def finish(process, code=0):
    out, error = process.communicate(timeout=300)
    assert process.returncode == code, error.decode()
    assert b"Traceback" not in error and b"Warning" not in error
    return out.decode(), error.decode()


def told(text):
    """The one object of standard output; NaN and infinity are no JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} in the JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.slow
def test_an_empty_config_is_the_main_job(start, tmp_path):
    (tmp_path / "empty.toml").write_text("")
    out, error = finish(start("run", "empty.toml", *SMALL, "--seed", "4294967301", "--out", "ü b/one", "--json"))
    result = told(out)
    assert result["ok"] and result["experiment"] == "diabetes-squared_error" and result["seed"] == 4294967301
    keys = "device executor chains steps learning_rate batch_size temperature kl covariance verdict diverged files"
    assert set(keys.split()) <= set(result) and result["chains"] == 64
    folder = tmp_path / "ü b/one"
    assert sorted(result["files"]) == sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert {"result.json", "config.toml", "arrays.npz", "report.html"} <= set(result["files"])
    written = told((folder / "result.json").read_text())
    assert {k: v for k, v in result.items() if k != "asserts_failed"} == written
    assert error.startswith("jaxsde: ") or "Gibbs" in error

    (folder / "report.html").unlink()
    finish(start("report", "ü b/one"))
    assert (folder / "report.html").stat().st_size > 1000


def test_every_chain_diverges(start, tmp_path):
    out, error = finish(start("run", *SMALL, "--learning-rate", "5", "--out", "o", "--json"), 76)
    result = told(out)
    assert result["ok"] is False and result["code"] == 76 and result["diverged"]["sgd"]["fraction"] == 1.0
    assert re.fullmatch(r"jaxsde: error: command line: --learning-rate = 5: 64 chains of sgd .*step \d+; .*\n", error)
    assert result["kl"]["sgd"]["value"] is None and "diverged" in result["kl"]["sgd"]["reason"]
    assert told((tmp_path / "o/result.json").read_text())["ok"] is False


@pytest.mark.slow
def test_a_few_chains_diverge(start, tmp_path):
    """η = 1 is far beyond the mean-square edge: a few of 256 chains leave, the rest are told of as survivors."""
    few = ("--chains", "256", "--steps", "220", "--burn-in", "80", "--learning-rate", "1.0", "--json")
    gone = told(finish(start("run", *few, "--out", "a"))[0])["diverged"]["sgd"]
    assert 0 < gone["fraction"] < 0.1 and gone["first_step"] > 0
    assert "survived" in gone["note"]
    out, error = finish(start("run", *few, "--max-diverged", "0", "--out", "b"), 76)
    assert told(out)["code"] == 76 and "max_diverged" in error


PLUGINS = {
    "slope": "def loss(p): return p[0] + 0.5 * p[1] ** 2\nparams = jnp.zeros(2)",
    "nan": "def loss(p): return jnp.sqrt(p[0]) + p[1] ** 2\nparams = jnp.zeros(2)",
    "vector": "def loss(p): return p ** 2\nparams = jnp.zeros(2)",
    "integer": "def loss(p): return jnp.sum(p > 0)\nparams = jnp.zeros(2)",
    "float": "def loss(p): return float(p[0]) ** 2\nparams = jnp.zeros(2)",
    "missing": "def loss(p): return p[0]\nparams = jnp.zeros(2)\nmissing()",
    "words": "def loss(p): return p\nparams = 'here'",
}


@pytest.mark.parametrize(
    "name, says",
    {
        "nan": r"gradient at the initial point is inf in component params\[0\]",
        "vector": "one scalar",
        "integer": "floating-point scalar",
        "float": "jax.numpy",
        "missing": "NameError",
        "words": "float",
    }.items(),
)
def test_losses_that_cannot_be_run(start, tmp_path, name, says):
    (tmp_path / f"{name}.py").write_text("import jax.numpy as jnp\n" + PLUGINS[name])
    out, error = finish(start("run", "--plugin", f"{name}.py", "--json"), 65)
    assert re.fullmatch(rf"jaxsde: error: .*{says}.*\n", error), error
    assert told(out)["code"] == 65
    assert [p.name for p in tmp_path.iterdir()] == [f"{name}.py"]


@pytest.mark.slow
def test_a_loss_that_does_not_confine_has_no_gibbs_law(start, tmp_path):
    (tmp_path / "slope.py").write_text("import jax.numpy as jnp\n" + PLUGINS["slope"])
    result = told(finish(start("run", "--plugin", "slope.py", *SMALL, "--json"))[0])
    assert result["kl"]["sgd"]["value"] is None and result["kl"]["sgd"]["reason"]
    assert result["covariance"]["gibbs"]["value"] is None and result["covariance"]["gibbs"]["reason"]


@pytest.mark.slow
def test_the_resolved_config_repeats_the_run(start, tmp_path):
    finish(start("run", *SMALL, "--loss", "double_well", "--seed", "4294967301", "--out", "one"))
    finish(start("run", "one/config.toml", "--out", "two"))
    finish(start("run", "one/config.toml", "--seed", "5", "--out", "three"))
    one, two, three = (np.load(tmp_path / name / "arrays.npz") for name in ("one", "two", "three"))
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert (one["sgd_positions"] != three["sgd_positions"]).mean() > 0.9


@pytest.mark.slow
def test_runs_that_know_little_say_so(start):
    for arguments in (["--chains", "2"], ["--steps", "0", "--burn-in", "0"], ["--every", "60"]):
        result = told(finish(start("run", *SMALL, *arguments, "--json"))[0])
        for estimate in result["kl"].values():
            assert estimate["value"] is not None or estimate["reason"]
        if "--every" not in arguments:
            assert result["kl"]["sgd"]["value"] is None


@pytest.mark.slow
def test_a_run_in_double_precision(start, tmp_path):
    (tmp_path / "q.toml").write_text("loss = 'quadratic'\ndtype = 'float64'\nnoise = [[1, 1], [1, 1]]\n")
    out, error = finish(start("run", "q.toml", *SMALL, "--assert", "gibbs=yes", "--json"), 1)
    result = told(out)
    assert result["dtype"] == "float64" and result["asserts_failed"] == ["gibbs"]
    assert "rank 1 of 2" in result["notes"][0] and "note: noise.covariance has rank 1 of 2" in error
    with np.load(tmp_path / result["out"] / "arrays.npz") as arrays:
        assert arrays["sgd_positions"].dtype == np.float64


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_leaves_nothing(start, tmp_path, number, code):
    process = start("run", "--steps", "100000000", "--out", "o", "--json")
    deadline = time.time() + 120
    while not (tmp_path / "o/.jaxsde-staging").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    second = start("run", "--out", "o")
    assert f"process {process.pid} on " in finish(second, 73)[1]
    time.sleep(3)
    process.send_signal(number)
    out, error = finish(process, code)
    assert told(out)["code"] == code and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_and_the_device(start):
    found = told(finish(start("doctor", "--json", JAX_PLATFORMS="cpu"))[0])
    assert len(found["devices"]) == found["host_devices"] == 1
    said = finish(start("doctor", JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="2"))[0]
    assert re.search(r"^host devices: 2; JAX_NUM_CPU_DEVICES=N makes N, .* neither speed nor other bits", said, re.M)
    out, error = finish(start("run", "--device", "gpu", JAX_PLATFORMS="cpu"), 69)
    assert out == "" and error.count("\n") == 1 and "--device = gpu" in error
