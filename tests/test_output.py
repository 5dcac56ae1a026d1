"""The folder of a run: one holder, nothing partial under its final name, nothing left of what failed."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxsde import output
from jaxsde.errors import CANNOT_CREATE, IO_ERROR, ExperimentError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def take(out, **arguments):
    return output.take(out, "title", error=ExperimentError, **arguments)


def refused(out, code, says, **arguments):
    with pytest.raises(ExperimentError, match=says) as caught:
        take(out, **arguments)
    assert caught.value.code == code


def contents():
    return sorted(str(p) for p in Path().rglob("*"))


def test_files_appear_whole_and_the_result_last():
    with take("a/b ü") as folder:
        for name in ("result.json", "z.npz", "figures/x.svg"):
            (folder.staging / name).parent.mkdir(exist_ok=True)
            (folder.staging / name).write_text("x")
        assert not (folder.path / "result.json").exists()
        assert folder.publish() == ["figures/x.svg", "z.npz", "result.json"]
    assert contents() == ["a", "a/b ü", "a/b ü/figures", "a/b ü/figures/x.svg", "a/b ü/result.json", "a/b ü/z.npz"]
    refused("a/b ü", CANNOT_CREATE, "not empty")
    with take("a/b ü", force=True) as folder:
        (folder.staging / "z.npz").write_text("new")
        folder.publish()
    assert Path("a/b ü/z.npz").read_text() == "new"


def test_what_an_older_run_wrote_does_not_stay_beside_a_new_result():
    Path("mine.txt").write_text("not the run's")
    Path("a").mkdir()
    Path("a/notes.txt").write_text("not the run's either")
    for files in (["figures/old.svg", "result.json"], ["figures/new.svg", "result.json"]):
        with take("a", force=True) as folder:
            (folder.staging / "figures").mkdir()
            (folder.staging / files[0]).write_text("x")
            listed = [*files, "../mine.txt", "", "figures", 3]
            output.write_json(folder.staging / "result.json", {"files": listed if files[0].endswith("new.svg") else listed[:5]})
            folder.publish()
    assert contents() == ["a", "a/figures", "a/figures/new.svg", "a/notes.txt", "a/result.json", "mine.txt"]


def test_what_fails_leaves_nothing():
    Path("there").mkdir()
    with pytest.raises(ZeroDivisionError), take("there/new/x") as folder:
        (folder.staging / "half").write_text("x")
        raise ZeroDivisionError
    assert contents() == ["there"]
    with pytest.raises(KeyboardInterrupt), take("there"):
        raise KeyboardInterrupt
    assert contents() == ["there"]


def test_default_folders_are_numbered():
    for name in ("title", "title-2", "title-3"):
        with take(None) as folder:
            assert folder.path == Path("runs") / name
            (folder.staging / "x").write_text("x")
            folder.publish()


def test_the_second_run_names_the_first():
    with take("a"):
        refused("a", CANNOT_CREATE, f"process {os.getpid()} on ")
        refused("a", CANNOT_CREATE, "being written", force=True)
        with take(None) as first, take(None) as second:
            assert (first.path.name, second.path.name) == ("title", "title-2")


def test_a_dead_holder_is_taken_over():
    code = """
import sys, time
from jaxsde import output
folder = output.take("a", "", error=ValueError)
(folder.staging / "half").write_text("x")
print("held", flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    refused("a", CANNOT_CREATE, f"process {holder.pid} on ")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert contents() == ["a", "a/.jaxsde-lock", "a/.jaxsde-staging", "a/.jaxsde-staging/half"]
    with take("a") as folder:
        assert list(folder.staging.iterdir()) == []
        assert (folder.path / ".jaxsde-lock").read_text().startswith(f"process {os.getpid()} ")


def test_many_runs_into_one_folder_at_once():
    """Of eight that start together exactly one writes."""
    code = """
import sys, time
from jaxsde import output
from jaxsde.errors import ExperimentError
while time.time() < float(sys.argv[1]):
    pass
try:
    with output.take("a", "", error=ExperimentError) as folder:
        (folder.staging / "result.json").write_text(sys.argv[2])
        time.sleep(.2)
        folder.publish()
        print("wrote")
except ExperimentError as error:
    assert error.code == 73
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    start = str(time.time() + 2)
    runs = [
        subprocess.Popen([sys.executable, "-c", code, start, str(i)], stdout=subprocess.PIPE, env=environment)
        for i in range(8)
    ]
    said = [run.communicate()[0] for run in runs]
    assert sum(b"wrote" in one for one in said) == 1 and all(run.returncode == 0 for run in runs)
    assert contents() == ["a", "a/result.json"]


def test_places_that_cannot_be_written():
    Path("file").write_text("x")
    refused("file", CANNOT_CREATE, "is a file")
    refused("file/x", CANNOT_CREATE, "cannot be written")
    Path("outside").symlink_to("/tmp")
    refused("outside", 65, "link")
    Path("runs").symlink_to("file")
    refused(None, CANNOT_CREATE, "cannot be written")


def test_a_full_disk_is_an_io_error():
    assert output.io_code(OSError(28, "No space left on device")) == IO_ERROR
    assert output.io_code(OSError(5, "Input/output error")) == IO_ERROR
    assert output.io_code(PermissionError(13, "Permission denied")) == CANNOT_CREATE


def test_json_holds_no_nan(tmp_path):
    value = {"a": np.array([1.0, math.nan]), "b": np.float32(math.inf), "c": (1, None, True, "η"), 3: np.int64(2)}
    output.write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [1.0, None], "b": None, "c": [1, None, True, "η"], "3": 2} and "NaN" not in text
