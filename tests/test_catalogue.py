"""Catalogues read from their source say what importing them would say."""

import dataclasses
import inspect
import subprocess
import sys

import numpy as np
import pytest

import jaxsde as js
from jaxsde.catalogue import CATALOGUES, Parameter, arithmetic, catalogue, check, did_you_mean, keys, read
from jaxsde.conformance.laws import LAWS
from jaxsde.conformance.table import SAMPLERS
from jaxsde.dynamics.gradients import SAMPLINGS
from jaxsde.experiment import Experiment
from jaxsde.problems import DATASETS, LOSSES, POTENTIALS
from jaxsde.random import STREAMS
from jaxsde.reproduce import PAPERS
from jaxsde.stepping.integrators import INTEGRATORS
from jaxsde.types import Draws

IMPORTED = {
    "losses": LOSSES, "potentials": POTENTIALS, "data": DATASETS, "samplings": SAMPLINGS, "integrators": INTEGRATORS,
    "laws": LAWS, "samplers": SAMPLERS, "papers": PAPERS,
}  # fmt: skip


def functions(entry):
    return [part for part in entry if callable(part)]


@pytest.mark.parametrize("which", CATALOGUES)
def test_the_source_says_what_the_import_says(which):
    listed, imported = catalogue(which), IMPORTED[which]
    assert list(listed) == list(imported)
    for name, entry in imported.items():
        assert listed[name].summary == inspect.getdoc(entry.function).split("\n")[0]
        assert listed[name].summary.endswith(".") and len(listed[name].summary) < 130
        keywords = {
            p.name: p.default
            for function in functions(entry)
            for p in inspect.signature(function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        assert {p.name: p.default for p in listed[name].parameters.values()} == keywords
        assert all(check(p, p.default) is None for p in listed[name].parameters.values()), "a default that is refused"
        for key, value in listed[name].settings.items():
            assert getattr(entry, key) == value


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("features, classes", [(1, 2), (3, 2), (5, 4)])
def test_the_declared_size_is_the_number_of_parameters(name, features, classes):
    start = LOSSES[name].start(features, classes)
    leaves = start.values() if isinstance(start, dict) else [start]
    names = {p.name: p.default for p in catalogue("losses")[name].parameters.values()}
    declared = arithmetic(LOSSES[name].size, {"features": features, "classes": classes, **names})
    assert declared == sum(np.size(leaf) for leaf in leaves)


def test_the_streams_are_those_of_the_engine():
    assert keys("random/streams.py", "STREAMS") == tuple(STREAMS)
    of_a_run = {field.name: field.default for field in dataclasses.fields(js.Run)}["stream"]
    defaults = Experiment().stream, Draws().stream, of_a_run, inspect.signature(js.advance).parameters["stream"].default
    assert set(defaults) == {next(iter(STREAMS))}
    with pytest.raises(ValueError, match="LAYOUT must be a literal dict"):
        keys("random/__init__.py", "LAYOUT")


def test_reading_starts_no_jax():
    code = "import sys; from jaxsde.catalogue import *; [catalogue(c) for c in CATALOGUES]; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        ("Real", [0, -1.5, 1e300], [float("nan"), float("inf"), True, "1", None, 10**400, [1]]),
        ("Positive", [1, 1e-300], [0, 0.0, -1, float("inf"), True, "1"]),
        ("NonNegative", [0, 0.0, 2], [-1e-9, float("nan"), False]),
        ("Count", [1, 10**30], [0, -1, 1.0, True, "1"]),
        ("Seed", [0, 2**64 - 1], [-1, 2**64, 0.0, True]),
        ("Vector", [[], [1, 2.5], (0.0,)], [1, [True], [[1]], ["1"], [float("nan")]]),
        ("Matrix", [[[1]], [[1, 2], [2, 1]]], [[], [1], [[1, 2]], [[1, 2], [3, 1]], [[1, "a"], [2, 1]], 3]),
        ("bool", [True], [1, "true"]),
        ("str", ["a"], [1]),
    ],
)
def test_values_are_checked_by_kind(kind, good, bad):
    parameter = Parameter("p", kind, 1.0, False)
    for value in good:
        assert check(parameter, value) is None, value
    for value in bad:
        assert check(parameter, value), value


def test_a_file_of_another_form_is_refused(tmp_path):
    source = tmp_path / "things.py"
    for text in [
        "THINGS = dict(a=1)",
        "x = 1",
        "THINGS = {'a': print}",
        "THINGS = {'a': 3}",
        "THINGS = {1: f}\ndef f(): ...",
    ]:
        source.write_text(text)
        with pytest.raises(ValueError):
            read(source, "THINGS")
    source.write_text(
        "def f(x, *, k: Real = 2.0):\n    '''Says.\n\n    More.'''\nTHINGS: dict = {'a': f, 'b': E(f, n=(1,))}"
    )
    listed = read(source, "THINGS")
    assert listed["a"].summary == "Says." and listed["a"].parameters["k"] == ("k", "Real", 2.0, False)
    assert listed["b"].settings == {"n": (1,)}


def test_the_nearest_name_is_suggested():
    assert did_you_mean("lerning_rate", ["learning_rate", "batch_size"]) == "did you mean 'learning_rate'?"
    assert did_you_mean("HUBER", LOSSES) == "did you mean 'huber'?"
    assert did_you_mean("os.system", ["huber"]) == "there are: huber"
    with pytest.raises(KeyError, match="potentials"):
        catalogue("potentails")
    with pytest.raises(ValueError):
        arithmetic("__import__('os')", {})
