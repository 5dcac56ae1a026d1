"""The READMEs are true: their Python runs as it stands, their commands and configs are taken, their tables are the code's."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from jaxsde import cli, config, errors
from jaxsde.config import SAMPLINGS, SURROGATES
from jaxsde.experiment import Data, Experiment, Loss, Noise, Sde, Sgd

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAP = (ROOT / "jaxsde" / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


PYTHON = {f"{name}-{i}": code for name, text in (("readme", README), ("map", MAP)) for i, code in enumerate(blocks(text, "python"))}
COMMANDS = [line.split("#")[0].strip() for block in blocks(README, "sh") for line in block.splitlines() if "/run" in line]


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    """The files that the README's commands speak of."""
    rows = "\n".join(f"{60 + i % 37},{i % 11},{200 + 3 * (i % 37) - (i * i) % 13}" for i in range(60))
    (tmp_path / "my.csv").write_text(f"area,age,price\n{rows}\n")
    (tmp_path / "my.toml").write_text(blocks(README, "toml")[0])
    (tmp_path / "my_loss.py").write_text("def example_loss(params, example):\n    return (example[0] @ params - example[1]) ** 2\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", PYTHON)
def test_python_runs_as_it_stands(name, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PYTHON[name]], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if name == "readme-0":
        assert len([line for line in PYTHON[name].splitlines() if line.strip()]) <= 20
        assert "The stationary law is not Gibbs" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_taken(command, own_files):
    script, *arguments = shlex.split(command)
    assert script == "./scripts/run" and (ROOT / script).is_file()
    options = cli._parse(cli._joined(["run", *arguments]))
    from jaxsde import commands

    config.load(options.config, commands._given(options), plugin=options.plugin)


def test_the_config_says_what_the_readme_says(own_files):
    experiment = config.load("my.toml")
    assert (experiment.loss.name, experiment.loss.parameters, experiment.sgd.batch_size) == ("huber", {"delta": 0.5}, 4)
    assert experiment.table().features == ("area", "age")


def table(heading: str) -> list[list[str]]:
    lines = README.split(heading)[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]


def test_every_key_and_flag_has_its_row():
    rows = table("## Config and flags")
    sections = {"data": Data, "loss": Loss, "sgd": Sgd, "sde": Sde, "noise": Noise}
    inner = {f"{s}.{f}" for s, kind in sections.items() for f in kind.__struct_fields__ if f != "parameters"}
    outer = set(Experiment.__struct_fields__) - {*sections, "plugin", "notes", "places"}
    assert {key for row in rows for key in re.findall(r"`([\w.]+)`", row[0])} == inner | outer
    assert {flag for row in rows for flag in re.findall(r"`(--[\w-]+)`", row[1])} == set(cli._flags("run")) - {"--help", "-h"}
    defaults = msgspec.to_builtins(Experiment())
    for key, _, default, _ in rows:
        names = re.findall(r"`([\w.]+)`", key)
        section, _, name = names[0].rpartition(".") if len(names) == 1 else ("", "", "")
        actual = (defaults[section] if section else defaults).get(name) if not section or defaults.get(section) else None
        if isinstance(actual, int | float) and not isinstance(actual, bool):
            assert re.match(r"[\d.]+", default)[0] == str(actual), key
    assert all(f"`{word}`" in str(rows) for word in (*SAMPLINGS, *SURROGATES, *config._WORDS["stream"]))


def test_exit_codes():
    said = {int(n) for n in re.findall(r"\b(\d+)\b", README.split("Exit codes:")[1].split("\n\n")[0])}
    codes = {v for k, v in vars(errors).items() if k.isupper() and isinstance(v, int)}
    assert said == codes | {0}


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for path in re.findall(r"`(docs/[\w/.-]+|jaxsde/[\w/.-]+)`", README):
        assert (ROOT / path).exists(), path
    assert (ROOT / "docs" / "main-job.png").stat().st_size < 300_000
