"""The command on its own, once for every kind of bad input.

JAX is replaced by a package that cannot be imported, so a check that needed it would end in another code. Each row names the
exit code and what the one line on standard error says; `--json` adds one object; and nothing may be left behind.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from forked import Forked

from jaxsde import cli

ROOT = Path(__file__).parents[1]
WITHOUT_JAX = "raise ImportError('JAX was imported', name='jax')"


@pytest.fixture(scope="session")
def poison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poison")
    (folder / "jax.py").write_text(WITHOUT_JAX)
    (folder / "jaxlib.py").write_text(WITHOUT_JAX)
    return folder


def plain(poison):
    """No home, no JAX to import, the plainest locale."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(poison), str(ROOT)]), "LANG": "C"}


@pytest.fixture(scope="module")
def forked(poison, tmp_path_factory):
    started = Forked(plain(poison), tmp_path_factory.mktemp("streams"))
    yield started
    started.close()


@pytest.fixture
def command(tmp_path, poison, forked):
    """Runs `python -m jaxsde …` in an empty folder: in a fork, or from the beginning if it is to find another environment."""

    def start(*arguments, **environment):
        if not environment:
            return forked.run(arguments, tmp_path)
        return subprocess.run(
            [sys.executable, "-m", "jaxsde", *arguments],
            cwd=tmp_path,
            env=plain(poison) | environment,
            capture_output=True,
            timeout=120,
        )

    return start


def left(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def check(command, folder, arguments, code, says, *, as_json=True):
    """The common rules of every fault."""
    before = left(folder)
    done = command(*arguments, *["--json"] * as_json)
    error = done.stderr.decode()
    assert done.returncode == code, error
    assert re.fullmatch(r"jaxsde: error: [^\n]*\n", error), error
    assert re.search(says, error), error
    assert "Traceback" not in error and "JAX was imported" not in error
    if as_json:
        told = json.loads(done.stdout)
        assert told == {"ok": False, "error": error.removeprefix("jaxsde: error: ").rstrip("\n"), "code": code}
    else:
        assert done.stdout == b""
    assert left(folder) == before, "something was left behind"


# text of the config -> exit code, what is said
CONFIGS = {
    # C3
    "x = ": (65, r"c.toml:1:5: .*TOML"),
    "seed = 1\n\nchains = [1,": (65, r"c.toml:3:13: "),
    "seed = 1\nseed = 2": (65, r"c.toml:2:\d+: .*overwrite"),
    "[sgd]\nlearning_rate = 1\n[sgd]\n": (65, r"c.toml:3:\d+: "),
    b"seed = 1\nname = '\xff'": (65, r"c.toml:2:9: .*UTF-8"),
    b"\0": (65, r"c.toml:1:1: "),
    "a = " + "[" * 20000: (65, r"c.toml:1:1: .*deep"),
    "seed = 1\nchains = " + "9" * 5000: (65, r"c.toml:2:\d+: .*digits"),
    "#" * (1 << 21): (65, r"c.toml: .*larger"),
    # C6
    "[sgd]\nlerning_rate = 0.1": (65, r"c.toml:2: sgd.lerning_rate = 0.1: .*did you mean 'learning_rate'\?"),
    "sgd.lerning_rate = 0.1": (65, r"c.toml:1: sgd.lerning_rate = 0.1: .*did you mean 'learning_rate'\?"),
    "sgd = { lerning_rate = 0.1 }": (65, r"c.toml:1: sgd.lerning_rate = 0.1: .*did you mean 'learning_rate'\?"),
    "learning_rate = 0.1": (65, r"c.toml:1: learning_rate = 0.1: .*\[sgd\]"),
    "chain = 3": (65, r"did you mean 'chains'\?"),
    "[sdg]\nx = 1": (65, r"c.toml:1: sdg = .*did you mean"),
    "[loss]\nname = 'huber'\ndetla = 1.0": (65, r"c.toml:3: loss.detla = 1.0: .*did you mean 'delta'\?"),
    "[loss]\ndelta = 1.0": (65, r"loss.delta = 1.0: no such key"),
    "[data]\nfeature = ['s3']": (65, r"did you mean 'features'\?"),
    "[loss.parameters]\na = 1": (65, "no such key"),
    "places = {}": (65, "no such key"),
    # C7 and every other key of another type
    'chains = "many"': (65, r'c.toml:1: chains = "many": must be a whole number, for example'),
    "chains = true": (65, "chains = true: must be a whole number"),
    "chains = 1e3": (65, "chains = 1e3: must be a whole number"),
    "chains = [1]": (65, "chains = .*: must be a whole number"),
    "chains = 2026-01-01": (65, "must be a whole number"),
    "dtype = 32": (65, "dtype = 32: must be a text"),
    "device = 'cuda'": (65, "auto, cpu, gpu"),
    "dtype = 'float16'": (65, "float32, float64"),
    "stream = 'philox'": (65, r"c.toml:1: stream = 'philox': must be one of xoshiro128\+, philox4x32-10"),
    "stream = 7": (65, "stream = 7: must be a text"),
    "every = 0": (65, "every = 0"),
    "every = 1_000_000": (65, "every = 1_000_000"),
    "groups = 1": (65, "groups = 1"),
    "burn_in = -1": (65, "burn_in = -1"),
    "max_diverged = 1.5": (65, "max_diverged = 1.5"),
    "max_diverged = nan": (65, "max_diverged = nan"),
    "[sde]\nsubsteps = 0": (65, "sde.substeps = 0"),
    "[sde]\nintegrator = 'euler'": (65, "euler_maruyama"),
    "sgd = 3": (65, r"must be a table; write \[sgd\]"),
    "[[sgd]]\nlearning_rate = 0.1": (65, "must be a table"),
    "[sgd]\nsampling = 'bootstrap'": (65, "with_replacement"),
    "[data]\nfeatures = 's3'": (65, "data.features"),
    "[data]\nfeatures = []": (65, "data.features"),
    "[data]\nfeatures = [true]": (65, "data.features"),
    "[data]\nstandardize = 1": (65, "true or false"),
    "[data]\ndelimiter = '::'": (65, "data.delimiter"),
    # C8
    **{
        f"[sgd]\nlearning_rate = {value}": (65, rf"c.toml:2: sgd.learning_rate = {re.escape(value)}: .*example 0.05")
        for value in ("0", "0.0", "-0.0", "-0.1", "nan", "inf", "-inf", "1e400", "1e-400", "true", "'fast'")
    },
    "[sgd]\nlearning_rate = 1e39": (65, "float32"),
    "[sgd]\nlearning_rate = 1e-46": (65, "float32"),
    "[sgd]\nlearning_rate = " + "9" * 400: (65, "finite"),
    # C9
    "chains = 0": (65, "c.toml:1: chains = 0: .*from 1"),
    "chains = -1": (65, "chains = -1"),
    "chains = 9223372036854775808": (65, "chains = 9223372036854775808"),
    "chains = 4611686018427387904": (65, "2\\^63"),
    "chains = 1099511627776\nsteps = 1": (65, "every"),
    "chains = 1099511627776\nevery = 1\nsteps = 1": (75, "chains = 1099511627776: .*GB.*at most about [0-9]+ fit"),
    "loss = 'double_well'\nchains = 1099511627776\nevery = 1\nsteps = 1": (75, "at most about [0-9]+ fit"),
    # C10
    "steps = -1": (65, "steps = -1"),
    "steps = 1.5": (65, "steps = 1.5"),
    "steps = 9223372036854775807": (65, r"steps × chains.*2\^63"),
    "steps = 9223372036854775808": (65, r"2\^63 - 1"),
    # C12
    "[sgd]\nbatch_size = 0": (65, "c.toml:2: sgd.batch_size = 0"),
    "[sgd]\nbatch_size = -3": (65, "sgd.batch_size = -3"),
    "[sgd]\nbatch_size = 2.0": (65, "sgd.batch_size = 2.0"),
    "[sgd]\nbatch_size = 443\nsampling = 'without_replacement'": (65, "sgd.batch_size = 443: .*442"),
    "[sgd]\nbatch_size = 443\nsampling = 'random_reshuffling'": (65, "sgd.batch_size = 443: .*442"),
    "loss = 'ring'\n[sgd]\nsampling = 'with_replacement'": (65, "gaussian"),
    # C13
    **{
        f"loss = 'quadratic'\n[noise]\ncovariance = {value}": (65, rf"c.toml:3: noise.covariance = .*: .*{says}")
        for value, says in {
            "[[1, 2]]": "1 entries",
            "[[1, 2], [3]]": "not square",
            "[[1, 0.5], [0.4, 1]]": "not symmetric",
            "[[1, 2], [2, 1]]": "lowest eigenvalue is -1",
            "[[1, nan], [nan, 1]]": r"\[0\]\[1\] = nan",
            "[[1, 0], [0, inf]]": r"\[1\]\[1\] = inf",
            "[1, -1]": "lowest eigenvalue is -1",
            "[1, 2, 3]": "3 entries",
            "[]": "0 entries",
            "-1": "lowest eigenvalue",
            "nan": "finite",
            "true": "number or a list",
            "'isotropic'": "number or a list",
            "[['a', 'b'], ['c', 'd']]": "not a finite number",
            "[[[1]]]": "entries",
        }.items()
    },
    "noise = 2.0": (65, r"noise.covariance = 2.0: .*data"),
    "[loss]\nname = 'quadratic'\nhessian = [[1, 2], [3, 4]]": (65, "c.toml:3: loss.hessian = .*not symmetric"),
    "[loss]\nname = 'quadratic'\nhessian = [[1, 2]]": (65, "not square"),
    "[loss]\nname = 'quadratic'\nstart = [1]": (65, "loss.start = .*2 numbers"),
    "[loss]\nname = 'ring'\nstart = [1]": (65, "2 numbers or more"),
    "[loss]\nstart = [1]": (65, "2 numbers"),
    "[loss]\nstart = [1, inf]": (65, "finite"),
    "[loss]\nname = 'mlp'\nhidden = 0": (65, "loss.hidden = 0"),
    "[loss]\nl2 = -1": (65, "loss.l2 = -1"),
    # C15
    "loss = 'python:os.system'": (65, "loss.name = 'python:os.system': no such loss in the catalogue"),
    "loss = \"__import__('os').system('touch sprung')\"": (65, "no such loss"),
    "loss = '../../x.py'": (65, "no such loss"),
    "[loss]\nname = 'plugin'": (65, "--plugin"),
    "loss = 3": (65, "no such loss"),
    "plugin = 'x.py'": (65, "c.toml:1: plugin = 'x.py': .*command line"),
    "data = '../../x.py'": (65, "no such data set"),
    "data = 'irsi'": (65, "did you mean 'iris'"),
    "loss = 'hubber'": (65, "did you mean 'huber'"),
    "loss = 'ring'\ndata = 'iris'": (65, "no examples"),
    "loss = 'logistic'\ndata = 'diabetes'": (65, "breast_cancer"),
    "loss = 'logistic'\ndata = 'iris'": (65, "breast_cancer"),
    # C16
    "out = '../../x'": (65, r"c.toml:1: out = '../../x': "),
    "out = 'a/../../b'": (65, r"'\.\.'"),
    "out = '/tmp/../x'": (65, r"'\.\.'"),
    "out = '-rf'": (65, "'-rf'"),
    "out = 'a/-rf'": (65, "'-rf'"),
    'out = "a\\u0000b"': (65, "out"),
    'out = "a\\nb"': (65, "out"),
    "out = ''": (65, "out"),
    f"out = '{'x' * 300}'": (65, "200 bytes"),
    "out = 'link'": (65, "link"),
    "out = 'link/x'": (65, "link"),
    "name = 'a/../../b'": (65, "name"),
    "name = '..'": (65, "name"),
    "name = '-rf'": (65, "name"),
    'name = "a\\u0000"': (65, "name"),
    f"name = '{'x' * 300}'": (65, "at most 100"),
    # C18
    "seed = -1": (65, "c.toml:1: seed = -1: .*2\\^64 - 1"),
    "seed = 18446744073709551616": (65, "seed = 18446744073709551616"),
    "seed = 1.5": (65, "seed = 1.5"),
    "seed = '7'": (65, "seed = '7'"),
    # D: the file of [data], found beside the config
    "data.file = 'absent.csv'": (66, "absent.csv: no such file"),
    "data.file = 'folder.csv'": (66, "folder.csv: is a directory"),
    "data = { file = 'good.csv', name = 'iris' }": (65, "data.name"),
    "data = { target = 'y' }": (65, "data.target = 'y'"),
    "data = { file = 'good.csv', target = 'prise' }": (65, "c.toml:1: data.target = 'prise': .*did you mean 'price'"),
    "[data]\nfile = 'good.csv'\ntarget = 9": (65, "c.toml:3: data.target = 9: .*3 columns"),
    "[data]\nfile = 'good.csv'\nfeatures = ['x9']": (65, "c.toml:3: data.features = .*no such feature"),
    "loss = 'logistic'\ndata = { file = 'good.csv' }": (65, "good.csv:2: column 'price' = 2.5: row 1: .*0 and 1"),
    "[data]\nfile = 'good.csv'\n[sgd]\nbatch_size = 5\nsampling = 'without_replacement'": (65, "4 examples"),
    **{
        f"data.file = '{name}'": (65, rf"{re.escape(name)}{says}")
        for name, says in {
            "pickled.npz": ": X: holds Python objects",
            "cut.npz": ": is not a whole npz",
            "flipped.npz": ": is not a whole npz",
            "empty.npz": ": is empty",
            "text.npz": ": is not a whole npz",
            "huge.npz": ": X: the header claims .*1099511627776",
            "ragged.csv": ":3: row = 2",
            "nan.csv": ":3: column 'x' = nan: row 2",
            "nan_target.csv": ":2: column 'y' = inf: row 1",
            "one.csv": ": rows = 1",
        }.items()
    },
}


class Trap:
    def __reduce__(self):
        return (open, ("sprung", "w"))


@pytest.fixture
def files(tmp_path):
    """The files that the rows speak of."""
    texts = {
        "good.csv": "x,z,price\n1,2,2.5\n2,1,0\n3,3,1\n4,0,2\n",
        "ragged.csv": "x,y\n1,2\n3\n",
        "nan.csv": "x,y\n1,2\nnan,3\n",
        "nan_target.csv": "x,y\n1,inf\n2,3\n",
        "one.csv": "x,y\n1,2\n",
        "text.npz": "no zip",
        "empty.npz": "",
        "plugin.py": "raise SystemExit('must not be run')\n",
        "own.py": "def loss(params): return params\nparams = 1.0\nraise SystemExit('must not be run')\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link").symlink_to("/tmp")
    np.savez(tmp_path / "pickled.npz", X=np.array([Trap()] * 3, dtype=object), y=np.arange(3.0))
    np.savez(tmp_path / "whole.npz", X=np.arange(200.0).reshape(100, 2) ** 2, y=np.arange(100.0))
    whole = bytearray((tmp_path / "whole.npz").read_bytes())
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    whole[700] ^= 4
    (tmp_path / "flipped.npz").write_bytes(whole)
    head = np.lib.format.header_data_from_array_1_0(np.zeros((2, 2))) | {"shape": (2**40, 2)}
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        for name in ("X", "y"):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(member, head)
                member.write(b"\0" * 64)
    return tmp_path


@pytest.mark.parametrize("text", CONFIGS, ids=lambda text: repr(text)[:60])
def test_bad_configs(command, files, text):
    (files / "c.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    # Both forms of the answer come from one function: every fifth row starts the command in the form for people.
    as_json = list(CONFIGS).index(text) % 5 > 0
    check(command, files, ["run", "c.toml"], *CONFIGS[text], as_json=as_json)


FLAGS = {
    ("run", "--learning-rate", "-0.1"): (65, "command line: --learning-rate = -0.1: "),
    ("run", "--learning-rate=0"): (65, "--learning-rate = 0: "),
    ("run", "--learning-rate", "fast"): (65, "--learning-rate = fast: must be a number"),
    ("run", "--learning-rate", "nan"): (65, "--learning-rate = nan"),
    ("run", "--chains", "many"): (65, "--chains = many: must be a whole number"),
    ("run", "--chains", "1e3"): (65, "--chains = 1e3: must be a whole number"),
    ("run", "--chains", "-1"): (65, "--chains = -1"),
    ("run", "--steps", ""): (65, "--steps"),
    ("run", "--batch-size", "0"): (65, "--batch-size = 0"),
    ("run", "--seed", "-1"): (65, "--seed = -1"),
    ("run", "--seed", "18446744073709551616"): (65, "--seed = 18446744073709551616"),
    ("run", "--seed", "1.5"): (65, "--seed = 1.5"),
    ("run", "--out", "-rf"): (65, "--out = -rf"),
    ("run", "--out", "../../x"): (65, "--out = ../../x"),
    ("run", "--out", "link"): (65, "--out = link"),
    ("run", "--out", "good.csv"): (73, "is a file"),
    ("run", "--out", "good.csv/x"): (73, "good.csv/x cannot be written"),
    ("run", "--out", "/proc/jaxsde"): (73, "cannot be written"),
    ("run", "--out", "folder.csv/full"): (73, "is not empty"),
    ("run", "--device", "gpu"): (69, "--device = gpu: "),
    ("run", "--device", "tpu"): (65, "auto, cpu, gpu"),
    ("run", "--dtype", "float16"): (65, "float32, float64"),
    ("run", "--stream", "philox"): (65, "--stream = philox: must be one of xoshiro128\\+, philox4x32-10"),
    ("sweep", "--stream", "philox"): (65, "--stream = philox: must be one of xoshiro128\\+, philox4x32-10"),
    ("run", "--loss", "python:os.system"): (65, "no such loss"),
    ("run", "--loss", "logistic", "--data", "good.csv"): (65, "good.csv:2"),
    ("run", "--data", "absent.csv"): (66, "absent.csv: no such file"),
    ("run", "--data", "good.csv", "--target", "prise"): (65, "--target = prise: .*did you mean 'price'"),
    ("run", "--plugin", "absent.py"): (66, "--plugin = 'absent.py': cannot be read"),
    ("run", "--plugin", "plugin.py"): (65, "--plugin = 'plugin.py': must define one of .*neither"),
    ("run", "--plugin", "text.npz"): (65, "text.npz:1:.*not Python"),
    ("run", "--plugin", "own.py", "--loss", "huber"): (65, "leave the name out"),
    ("run", "--plugin", "own.py", "--data", "iris"): (65, "no examples"),
    ("run", "--max-diverged", "2"): (65, "--max-diverged = 2"),
    ("run", "--assert", "gibs=no"): (65, "did you mean 'gibbs'"),
    ("run", "--assert", "gibbs=maybe"): (65, "yes, no"),
    # C1
    ("run", "absent.toml"): (66, "absent.toml: no such config"),
    ("run", "folder.csv"): (66, "folder.csv: is a directory"),
    ("run", "good.csv/c.toml"): (66, "cannot be read"),
    ("run", "/dev/zero"): (65, "larger"),
    # usage
    (): (2, "give a command"),
    ("rnu",): (2, "did you mean 'run'"),
    ("run", "--lerning-rate", "1"): (2, "did you mean '--learning-rate'"),
    ("run", "--chains"): (2, "--chains"),
    ("run", "--force=yes"): (2, "--force takes no value"),
    ("run", "a.toml", "b.toml"): (2, "b.toml"),
    ("list", "lossses"): (65, "did you mean 'losses'"),
    ("report",): (66, "report"),
    ("report", "absent"): (66, "holds no result.json"),
    ("report", "good.csv"): (66, "holds no result.json"),
}


@pytest.mark.parametrize("arguments", FLAGS, ids=" ".join)
def test_bad_flags(command, files, arguments):
    (files / "folder.csv/full").mkdir()
    (files / "folder.csv/full/result.json").write_text("{}")
    check(command, files, arguments, *FLAGS[arguments], as_json=list(FLAGS).index(arguments) % 5 > 0)


def test_a_flag_wins_over_the_config(command, files):
    (files / "c.toml").write_text("chains = 10\n[sgd]\nlearning_rate = 0.1\n")
    check(command, files, ["run", "c.toml", "--learning-rate", "-3"], 65, "command line: --learning-rate = -3")
    check(command, files, ["run", "c.toml", "--seed", "-3"], 65, "command line: --seed = -3")


def test_debug_shows_the_traceback(command):
    done = command("run", "--seed", "-1", "--debug")
    assert done.returncode == 65 and b"Traceback" in done.stderr and done.stdout == b""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["reproduce", "--help"], ["--version"], ["list"], ["list", "losses"]])
@pytest.mark.parametrize("environment", [{}, {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}])
def test_what_needs_no_jax(command, tmp_path, arguments, environment):
    done = command(*arguments, **environment)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout
    assert left(tmp_path) == []


def test_list_as_json(command):
    told = json.loads(command("list", "--json").stdout)
    assert told["ok"] and told["losses"]["huber"]["parameters"]["delta"] == 1.0
    assert set(told) == {"ok", "losses", "potentials", "data", "samplings", "integrators", "laws", "samplers", "papers"}


def test_a_reader_that_goes_away(poison, tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(poison), str(ROOT)])}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "jaxsde", "list"], cwd=tmp_path, env=environment, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("missing", ["tyro", "msgspec"])
def test_a_missing_extra_is_named(command, tmp_path, missing, poison):
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / f"{missing}.py").write_text(f"raise ModuleNotFoundError('No module', name='{missing}')")
    path = os.pathsep.join([str(folder), str(poison), str(ROOT)])
    for arguments in (["run"], ["list"], ["run", "--json"]):
        done = command(*arguments, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")
        error = done.stderr.decode()
        assert done.returncode == 69 and "pip install 'jaxsde[app]'" in error and error.count("\n") == 1
        assert bool(done.stdout) == ("--json" in arguments)


def test_the_core_alone_answers(tmp_path):
    """With none of the app's packages: a loss in, chains, theory and a verdict out."""
    for name in ("tyro", "msgspec", "tqdm", "jinja2", "arviz_stats", "orbax", "sklearn"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module', name='{name}')")
    code = """
import numpy as np
import jaxsde as js
problem = js.potential(lambda p: (p**2).sum(), np.zeros(2), noise_covariance=2.0)
chain = js.sgd(problem, learning_rate=0.02)
run = js.simulate(chain, problem.start, key=js.key(0), chains=256, steps=400, burn_in=200, every=5,
                  statistics=js.verdict_statistics(problem))
try:
    js.simulate(chain, run, steps=1, progress=True)
except ImportError as error:
    assert "pip install 'jaxsde[app]'" in str(error)
assert js.theory.stationary_covariance(chain).shape == (2, 2)
print(js.is_gibbs(run, problem).sentence)
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
    assert done.returncode == 0 and "Gibbs" in done.stdout, done.stderr


def test_importing_the_package_does_nothing(tmp_path):
    """S5: no setting of JAX is changed, no device started, nothing written; the first name used imports the rest."""
    code = """
import sys
import time
import jaxsde as js
assert not {"jax", "numpy", "scipy", "matplotlib"} & set(sys.modules), "the import is not lazy"
dir(js)
import jax
before = dict(jax.config.values)
js.sgd, js.theory.minimum, js.simulate, js.is_gibbs if hasattr(js, "is_gibbs") else None
assert dict(jax.config.values) == before
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
try:
    js.sdg
except AttributeError as error:
    assert "did you mean" in str(error)
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert left(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_destructor_is_not_lost(number):
    class Dying:
        def __del__(self):
            os.kill(os.getpid(), number)
            time.sleep(0.1)  # the handler runs, and raises, in here

    deadline, fired = time.monotonic() + 20, False
    try:
        with cli._signals():
            Dying()
            while time.monotonic() < deadline:
                time.sleep(0.01)
    except (KeyboardInterrupt, cli.Terminated) as fault:
        fired = isinstance(fault, cli.Terminated) == (number == signal.SIGTERM)
    assert fired
