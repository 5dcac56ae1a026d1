"""scripts/run and scripts/test set themselves up: whole or not at all, once, from anywhere, and say why if they cannot.

The real scripts run in a checkout of their own whose lock names one tiny package, so no test needs a network. Its
Python is a wrapper that behaves like Debian's without python3-venv (quick: no pip is unpacked) and notes each call.
"""

import base64
import functools
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("pip")

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ["cat", "dirname", "env", "grep", "ls", "mkdir", "mv", "readlink", "rm", "sh", "sha256sum", "touch", "uname"]
PROGRAM = """
import json, os, sys
import pebble
told = {"arguments": sys.argv[1:], "folder": os.getcwd(), "process": os.getpid()}
print(json.dumps({**told, "prefix": sys.prefix, "pebble": pebble.__file__}))
sys.exit(int(os.environ.get("STATUS", 0)))
"""


def write_wheel(folder: Path) -> str:
    """A package of one module, `pebble`; returns the line that locks it."""
    folder.mkdir()
    wheel = folder / "pebble-1.0-py3-none-any.whl"
    files = {
        "pebble.py": "",
        "pebble-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: pebble\nVersion: 1.0\n",
        "pebble-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(text)}")
    files["pebble-1.0.dist-info/RECORD"] = "\n".join([*rows, "pebble-1.0.dist-info/RECORD,,", ""])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return f"pebble==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


class Checkout:
    """A checkout in a folder with spaces, and the environment variables that its scripts see: no HOME among them."""

    def __init__(self, home: Path):
        self.home, self.root, self.bin = home, home / "check out", home / "bin"
        self.calls, self.venv = home / "python calls", self.root / ".venv"
        self.env = {
            "PATH": str(self.bin),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": (home / "wheels").as_uri(),  # pip splits this at spaces,
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def make(self) -> "Checkout":
        shutil.copytree(ROOT / "scripts", self.root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        (self.root / "jaxsde").mkdir()
        (self.root / "jaxsde" / "__init__.py").touch()
        (self.root / "jaxsde" / "__main__.py").write_text(PROGRAM)
        (self.root / "requirements.lock").write_text(write_wheel(self.home / "wheels"))
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.fail(f"this machine has no {tool}"))
        self.python("case $* in *'-m venv --without-pip'*) ;; *'-m venv'*) echo no ensurepip; exit 1 ;; esac")
        return self

    def python(self, before: str) -> None:
        """The only Python on PATH does `before`, then what the real one does."""
        lines = ["#!/bin/sh", f'echo "$*" >>{shlex.quote(str(self.calls))}', before]
        (self.bin / "python3").write_text("\n".join([*lines, f'exec {shlex.quote(sys.executable)} "$@"\n']))
        (self.bin / "python3").chmod(0o755)

    def command(self, *arguments, script="run", env=None, **options):
        return dict(
            args=[self.root / "scripts" / script, *arguments], env={**self.env, **(env or {})}, text=True, **options
        )

    def start(self, *arguments, **options) -> subprocess.CompletedProcess:
        return subprocess.run(**self.command(*arguments, **options), capture_output=True, timeout=60)

    def background(self, **options) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
        # a shell that starts the tests in the background has them ignore interrupts, and so all that they start
        heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(**self.command(**options, **pipes), preexec_fn=heard)

    def installs(self, process: subprocess.CompletedProcess) -> None:
        assert process.returncode == 0, process.stderr
        assert process.stderr.count("\n") == 1 and "jaxsde: setting up " in process.stderr
        told = json.loads(process.stdout)
        assert told["prefix"] == str(self.venv) and told["pebble"].startswith(str(self.venv))

    def refuses(self, process: subprocess.CompletedProcess, status: int, pattern: str) -> None:
        assert process.returncode == status, process.stderr
        said = [line for line in process.stderr.splitlines() if "setting up" not in line]
        assert len(said) == 1 and re.match(f"jaxsde: error: .*{pattern}", said[0]), process.stderr
        assert process.stdout == ""


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "some where").make()


@pytest.fixture(scope="module")
def ready_once(tmp_path_factory):
    checkout = Checkout(tmp_path_factory.mktemp("made") / "some where").make()
    checkout.installs(checkout.start())
    return checkout


@pytest.fixture
def ready(ready_once):
    """Set up already; for tests that leave it as it is."""
    ready_once.calls.unlink(missing_ok=True)
    return ready_once


class Silence:
    """A package index on this machine that takes calls and never answers."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(30)
        port = self.server.getsockname()[1]
        self.env = {"PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple"}
        self.env |= {"PIP_RETRIES": "1", "NO_PROXY": "*"}

    def wait_for_call(self):
        self.call, _ = self.server.accept()

    def hang_up(self):
        self.call.close()
        self.server.close()


def end(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


# once it is set up


def test_arguments_folder_and_exit_status_pass_through(ready, tmp_path):
    arguments = ["--out", "a folder", "", "*", "--", "$HOME", "naïve\n"]
    process = ready.start(*arguments, cwd=tmp_path, env={"STATUS": "76"})
    assert process.returncode == 76 and process.stderr == ""
    told = json.loads(process.stdout)
    assert told["arguments"] == ["run", *arguments] and told["folder"] == str(tmp_path)


def test_the_program_takes_the_place_of_the_script_so_signals_reach_it(ready):
    process = ready.background()
    output, _ = process.communicate(timeout=60)
    assert json.loads(output)["process"] == process.pid


def test_a_later_start_needs_no_python_no_network_and_no_time(ready, tmp_path):
    (ready.bin / "python3").rename(tmp_path / "python3")
    try:
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            process = ready.start(env={"PIP_FIND_LINKS": "/nowhere"})
            seconds.append(time.perf_counter() - began)
            assert process.returncode == 0 and process.stderr == ""
    finally:
        (tmp_path / "python3").rename(ready.bin / "python3")
    assert not ready.calls.exists()
    assert min(seconds) < 1


def test_an_empty_environment_is_enough(ready):
    process = subprocess.run([ready.root / "scripts" / "run"], env={}, capture_output=True, text=True, cwd="/")
    assert process.returncode == 0 and process.stderr == ""


def test_modules_of_the_caller_are_not_picked_up(ready, tmp_path):
    for name in ("json.py", "pebble.py", "jaxsde.py"):
        (tmp_path / name).write_text("raise SystemExit('a module of the caller')")
    assert ready.start(cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}).returncode == 0


def test_started_through_a_link_and_from_a_relative_path(ready, tmp_path):
    (tmp_path / "link").symlink_to(ready.root / "scripts" / "run")
    for command in ([tmp_path / "link"], ["sh", "run"], ["./run"]):
        process = subprocess.run(
            command, cwd=ready.root / "scripts", env=ready.env, capture_output=True, text=True, timeout=60
        )
        assert process.returncode == 0 and process.stderr == ""


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], ["-m", "not slow"]),
        (["-k", "a b"], ["-m", "not slow", "-k", "a b"]),
        (["--all"], []),
        (["--all", "-x"], ["-x"]),
    ],
)
def test_the_slow_tests_run_when_asked_for(ready, given, passed):
    pytest_module = ready.root / "pytest.py"
    pytest_module.write_text("import json, os, sys\nprint(json.dumps([sys.argv[1:], os.getcwd()]))\nsys.exit(5)")
    process = ready.start(*given, script="test")
    assert process.returncode == 5
    arguments, where = json.loads(process.stdout)
    assert where == str(ready.root)
    assert arguments[0] == "-n" and 1 <= int(arguments[1]) <= 4 and arguments[2:4] == ["--dist", "loadfile"]
    assert arguments[4:] == passed


# the first start


def test_pip_comes_from_the_environment_where_python_can_make_one(checkout):
    checkout.python("")
    checkout.installs(checkout.start())
    alone = importlib.util.find_spec("ensurepip") is None  # Debian without python3-venv, for real
    assert ("without-pip" in checkout.calls.read_text()) == alone


def test_debian_without_python3_venv_uses_the_pip_beside_it(checkout):
    checkout.installs(checkout.start())
    assert "-m venv --without-pip" in checkout.calls.read_text()


def test_debian_without_any_pip_is_told_the_package(checkout):
    checkout.python("case $* in *'-m pip'*|*'-m venv '*) exit 1 ;; esac")
    checkout.refuses(checkout.start(), 69, r"Debian: apt-get install python3-venv")


def test_two_starts_at_once_install_once(checkout):
    both = [checkout.background() for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "".join(errors for _, errors in told).count("jaxsde: setting up") == 1
    assert checkout.calls.read_text().count("install ") == 1


def test_killed_in_mid_install(checkout):
    index = Silence()
    process = checkout.background(env=index.env)
    index.wait_for_call()
    end(process)
    index.hang_up()
    assert (checkout.venv / "bin" / "python").exists(), "it was not killed half-way"
    (checkout.venv / "left over").touch()
    checkout.installs(checkout.start())
    assert not (checkout.venv / "left over").exists()
    assert not list(checkout.root.glob(".venv.old*"))


def test_killed_while_its_pip_lives_on(checkout):
    """The orphan still writes into the folder: the next start waits for it."""
    index = Silence()
    first = checkout.background(env=index.env)
    index.wait_for_call()
    os.kill(first.pid, signal.SIGKILL)
    second = checkout.background()
    assert second.stderr and "waiting for another start" in second.stderr.readline()
    assert second.poll() is None
    index.hang_up()
    output, errors = second.communicate(timeout=60)
    checkout.installs(subprocess.CompletedProcess([], second.returncode, output, errors))
    first.communicate(timeout=60)


def test_interrupted_in_mid_install(checkout):
    index = Silence()
    process = checkout.background(env=index.env)
    index.wait_for_call()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    index.hang_up()
    assert process.returncode == 130 and "Traceback" not in errors and "error" not in errors
    checkout.installs(checkout.start())


@pytest.mark.parametrize("change", ["lock", "moved", "python gone", "another python", "half made"])
def test_what_no_longer_fits_is_made_anew(ready, tmp_path, change):
    if change == "moved":
        checkout = Checkout(tmp_path / "else where")
        shutil.copytree(ready.home, checkout.home, symlinks=True)
    else:
        checkout = ready
    (checkout.venv / "left over").touch()
    if change == "lock":
        with (checkout.root / "requirements.lock").open("a") as lock:
            lock.write("# changed\n")
    elif change == "python gone":
        (checkout.venv / "bin" / "python").unlink()
        (checkout.venv / "bin" / "python").symlink_to("/nowhere/python3")
    elif change == "another python":  # a symlink to the system's python3 that has moved on to the next release
        (checkout.venv / "bin" / "python").unlink()
        (checkout.venv / "bin" / "python").write_text("#!/bin/sh\necho Python 3.15.0")
        (checkout.venv / "bin" / "python").chmod(0o755)
    elif change == "half made":
        (checkout.venv / "jaxsde-stamp").write_text("")
    checkout.installs(checkout.start())
    assert not (checkout.venv / "left over").exists()
    again = checkout.start()
    assert again.returncode == 0 and again.stderr == ""


def test_the_environment_may_lie_elsewhere_and_the_checkout_stays_untouched(checkout, tmp_path):
    before = sorted(checkout.root.rglob("*"))
    checkout.venv = tmp_path / "an other" / "venv"
    checkout.env["JAXSDE_VENV"] = "an other/venv"
    checkout.installs(checkout.start(cwd=tmp_path))
    assert sorted(checkout.root.rglob("*")) == before


# what cannot be


@pytest.mark.parametrize("python", ["missing", "too old", "named but missing"])
def test_no_fitting_python(checkout, python):
    if python == "too old":
        checkout.python("exit 1")
    elif python == "named but missing":
        checkout.env["JAXSDE_PYTHON"] = "/no where/python3"
    else:
        (checkout.bin / "python3").unlink()
    checkout.refuses(checkout.start(), 69, r"no Python 3\.11 to 3\.14 .*apt-get install python3 python3-venv")
    assert not checkout.venv.exists()


def test_no_network_the_first_time_then_some(checkout):
    index = Silence()
    index.server.close()  # refused
    checkout.refuses(checkout.start(env=index.env), 69, "no network")
    checkout.installs(checkout.start())


@pytest.mark.parametrize(
    ("hash_in_lock", "reason"), [(" --hash=sha256:" + 64 * "0", "not the file that was locked"), ("", "install.log")]
)
def test_a_package_that_is_not_the_locked_one(checkout, hash_in_lock, reason):
    (checkout.root / "requirements.lock").write_text("pebble==1.0" + hash_in_lock)
    checkout.refuses(checkout.start(), 69, reason)


def test_a_folder_of_the_users_is_never_removed(checkout):
    mine = checkout.home / "mine"
    mine.mkdir()
    (mine / "thesis").touch()
    checkout.refuses(checkout.start(env={"JAXSDE_VENV": str(mine)}), 73, "was not made by this script")
    assert (mine / "thesis").exists()


def test_a_place_that_cannot_be_written(checkout):
    checkout.refuses(checkout.start(env={"JAXSDE_VENV": "/dev/null/venv"}), 73, "cannot write .*JAXSDE_VENV")


# the locks themselves


def locked(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    assert "://" not in text and "-index" not in text, "a lock names packages, never a place"
    lines = re.findall(r"^([a-z0-9-]+)==(\S+)((?:.*\\\n)+ +--hash=sha256:[0-9a-f]{64}\n)", text, re.M)
    assert len(lines) == len(re.findall(r"^[^#\s]", text, re.M)), "a package without a hash"
    return {package: version for package, version, _ in lines}


def test_the_locks_hold_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    metadata, groups = project["project"], project["dependency-groups"]
    asked = {
        "requirements.lock": [*metadata["dependencies"], *metadata["optional-dependencies"]["app"], *groups["test"]],
        "requirements-lint.lock": groups["lint"],
    }
    for lock, requirements in asked.items():
        versions = locked(lock)
        for requirement in requirements:
            name, at_least = re.fullmatch(r"([a-z0-9-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()
            assert [int(n) for n in versions[name].split(".")] >= [int(n) for n in at_least.split(".")], requirement
    assert locked("requirements.lock")["jax"] == "0.10.2"
