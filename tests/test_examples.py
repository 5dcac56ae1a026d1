"""Every file of docs/examples runs: scripts as they stand, configs read, and (slow) run with fewer chains and steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxsde import config

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
CONFIGS = sorted(p.name for p in EXAMPLES.glob("*.toml"))
PLUGINS = {"plugin.py"}
# What a script must say: the words of a result, not that it merely ended.
SAYS = {
    "own_loss.py": "The stationary law is not Gibbs",
    "double_well.py": "The stationary law is not Gibbs",
    "sweep.py": "stable below eta = 0.96",
    "adam.py": "adam",
    "observable.py": "ratio",
    "escape.py": "they never agree",
}


def start(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_every_script_has_its_words():
    assert {p.name for p in EXAMPLES.glob("*.py")} == {*SAYS, *PLUGINS}
    for path in EXAMPLES.iterdir():
        assert path.suffix not in (".py", ".toml") or len(path.read_text().splitlines()) < 30, path


@pytest.mark.parametrize("name", SAYS)
def test_scripts(name, tmp_path):
    done = start([str(EXAMPLES / name)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
    assert "nan" not in done.stdout and not list(tmp_path.iterdir()), "an example prints, and writes nothing"


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_taken(name):
    experiment = config.load(EXAMPLES / name)
    assert not experiment.notes and (experiment.data is None or experiment.table() is not None)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_configs_run(name, tmp_path):
    few = ["--chains", "128", "--steps", "320", "--burn-in", "160", "--json", "--out", "result"]
    done = start(["-m", "jaxsde", "run", str(EXAMPLES / name), *few], tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] and result["chains"] == 128 and (tmp_path / "result" / "report.html").is_file()


@pytest.mark.slow
def test_plugin(tmp_path):
    plugin = str(EXAMPLES / "plugin.py")
    few = ["--chains", "64", "--steps", "160", "--batch-size", "4", "--learning-rate", "0.1", "--json", "--out", "result"]
    data = ["--data", str(EXAMPLES / "rubber.csv"), "--target", "extension_mm"]
    done = start(["-m", "jaxsde", "run", *data, "--plugin", plugin, *few], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dimension"] == 3

# A plugin that fails where its loss is first called: the user's fault and not one of jaxsde.
FAILING = {
    "def loss(p):\n    return p.sum()\nparams = [1.0, 2.0]\n": "loss stopped with AttributeError: 'list' object has no attribute 'sum'",
    "def example_loss(p, e):\n    return p @ missing\n": "example_loss stopped with NameError",
    "def example_loss(p, e):\n    x, y, z = e\n    return y\n": "not enough values to unpack",
}


@pytest.mark.parametrize("source", FAILING)
def test_a_plugin_that_fails_is_named(source, tmp_path):
    (tmp_path / "own.py").write_text(source)
    done = start(["-m", "jaxsde", "run", "--plugin", "own.py", "--data", "wine"][: 7 if "example" in source else 5], tmp_path)
    assert done.returncode == 65 and "--plugin = 'own.py'" in done.stderr, done.stderr
    assert FAILING[source] in done.stderr and "Traceback" not in done.stderr
