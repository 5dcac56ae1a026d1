"""Data sets by name, and files that nobody should trust: what is read, what is refused, and where the fault is said to be."""

import io
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets as originals

from jaxsde.errors import BAD_INPUT, NO_INPUT, ExperimentError
from jaxsde.problems import data
from jaxsde.problems.data import DATASETS, load
from jaxsde.problems.tables import read_table

rng = np.random.default_rng(20260111)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, content):
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return name


def fault(code=BAD_INPUT, **arguments):
    with pytest.raises(ExperimentError) as caught:
        load(**arguments)
    assert caught.value.code == code and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", [n for n, entry in DATASETS.items() if entry.rows])
def test_sets_are_what_the_catalogue_says(name):
    entry = DATASETS[name]
    table = entry.function()
    bunch = getattr(originals, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    assert (table.x == bunch.data).all() and (table.y == bunch.target).all()
    assert table.x.shape[0] == entry.rows and set(entry.features) <= set(table.features)
    labels = np.unique(table.y)
    kind = "real" if labels.size > 20 else "binary" if labels.size == 2 else "classes"
    assert kind == entry.target
    prepared = load(name, loss_target=entry.target, features="all")
    assert prepared.classes == (0 if kind == "real" else labels.size)
    np.testing.assert_allclose(prepared.x.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(prepared.x.std(axis=0), 1, rtol=1e-12)


def test_the_main_job_s_data():
    prepared = load("diabetes")
    assert prepared.features == ("s3", "s4") and prepared.x.shape == (442, 2)
    np.testing.assert_allclose(np.linalg.eigvalsh(prepared.x.T @ prepared.x / 442), [0.2615073, 1.7384927], rtol=1e-6)
    np.testing.assert_allclose([prepared.y.mean(), prepared.y.std()], [0, 1], atol=1e-12)
    assert prepared.checksum == load("diabetes").checksum != load("diabetes", features=["s4", "s3"]).checksum


def test_synthetic_regression_has_the_moments_it_names():
    n = 200_000
    prepared = load("gaussian_regression", rows=n, dim=3, noise=0.5, spectrum=(1.0, 4.0, 0.25), seed=7)
    # 5 standard errors: the variance of a sampled variance is 2 v²/n.
    for got, want in zip(prepared.x.var(axis=0), (1.0, 4.0, 0.25), strict=True):
        assert abs(got - want) < 5 * want * np.sqrt(2 / n)
    residual = prepared.y - prepared.x @ np.full(3, 3**-0.5)
    assert abs(residual.var() - 0.25) < 5 * 0.25 * np.sqrt(2 / n)
    assert abs(residual.var() - 0.25 * 1.05**2) > 5 * 0.25 * np.sqrt(2 / n), "noise × 1.05 must be seen"
    assert (load("gaussian_regression", seed=7).x != load("gaussian_regression", seed=8).x).all()
    assert "3 variances" in fault(name="gaussian_regression", dim=3, spectrum=(1.0,))


@pytest.mark.parametrize(
    "name, content, names, target",
    [
        ("a.csv", "a,b,y\n1,2,3\n4,5,7\n", ("a", "b"), "y"),
        ("bom.csv", b"\xef\xbb\xbfa;b;y\r\n1;2;3\r\n4;5;7\r\n", ("a", "b"), "y"),
        ("tabs.tsv", "a\tb\ty\n\n1\t2\t3\n4\t5\t7", ("a", "b"), "y"),
        ("tabs.txt", "1\t2\t3\n4\t5\t7\n", ("column_0", "column_1"), "column_2"),
        ("quoted.csv", '"a, or b","é",y\n1,2,3\n 4 ,"5",7e0\n', ("a, or b", "é"), "y"),
        ("index.csv", ",b,y\n1,2,3\n4,5,7\n", ("column_0", "b"), "y"),
    ],
)
def test_texts_are_read(name, content, names, target):
    table = read_table(write(name, content))
    assert (table.features, table.target) == (names, target)
    assert table.x.tolist() == [[1, 2], [4, 5]] and table.y.tolist() == [3, 7]


def test_columns_are_picked():
    write("t.csv", "price,size,age\n1,2,3\n4,5,6\n9,7,8\n")
    for target in ("price", 0, -3):
        assert load(file="t.csv", target=target).features == ("size", "age")
    assert load(file="t.csv", target="age", features=["size"]).features == ("size",)
    assert load(file="t.csv", features=[1]).features == ("size",)
    assert load(file="t.csv", intercept=True).features == ("price", "size", "intercept")
    assert load(file="t.csv", standardize=False).y.tolist() == [3, 6, 8]
    assert "did you mean 'price'" in fault(file="t.csv", target="pirce")
    assert "did you mean 'size'" in fault(file="t.csv", features=["sise"])
    assert "target" in fault(file="t.csv", features=["age"])
    assert "twice" in fault(file="t.csv", features=["size", "size"])
    for target in (3, -4):
        assert "3 columns" in fault(file="t.csv", target=target)
    assert "2 features" in fault(file="t.csv", features=[2])


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("empty.csv", "", "empty"),
        ("blank.csv", "\n \n", "empty"),
        ("header.csv", "a,b\n", "no rows"),
        ("one.csv", "a,b\n1,3\n", "one row"),
        ("narrow.csv", "a\n1\n2\n", "one column"),
        ("ragged.csv", "a,b\n1,2\n1\n", r":3: row = 2: .*1 cells.*2"),
        ("wide.csv", "a,b\n1,2,3\n", r":2: row = 1: .*3 cells.*2"),
        ("nan.csv", "a,b\n1,2\n\nnan,3\n", r":4: column 'a' = nan: row 2 is not finite"),
        ("inf.csv", "a,b\n1,2\n1,-inf\n", r":3: column 'b' = -inf: row 2 is not finite"),
        ("overflow.csv", "a,b\n1,2\n1,1e999\n", r":3: column 'b' = 1e999: row 2 is not finite"),
        ("large.csv", "a,b\n1,2\n2,1e200\n", r":3: column 'b' = 1e\+200: row 2"),
        ("missing.csv", "a,b\n1,2\n,3\n", r":3: column 'a' = '': row 2 is missing"),
        ("text.csv", "a,b\n1,2\nx,3\n", r":3: column 'a' = x: row 2 is no number"),
        ("escape.csv", "a,b\n1,2\n\x1b[31m,3\n", r"column 'a' = \\x1b\[31m"),
        ("underscore.csv", "a,b\n1,2\n1_0,3\n", "no number"),
        ("comma.csv", "a;b\n1,5;2\n1;3\n", "column 'a' = 1,5"),
        ("twins.csv", "a,a,y\n1,2,3\n", r":1: column = 'a'"),
        ("flat.csv", "a,b\n1,3\n2,3\n", "target is constant"),
        ("latin.csv", "a,b\n1,2\né,3".encode("latin1"), r":3: is not UTF-8 \(byte 0xe9\)"),
        ("nul.csv", b"a,b\n1,2\n\0,3\n", ":3:"),
        ("quote.csv", 'a,b\n1,"2\n1,3\n', "not CSV"),
        ("table.xlsx", "PK", "must be one of"),
        ("nothing", "1", "must be one of"),
    ],
)
def test_bad_texts_are_refused(name, content, says):
    message = fault(file=write(name, content))
    assert re.search(says, message), message
    assert message.startswith(name)


@pytest.mark.parametrize("name", ["absent.csv", "folder.csv", "pipe.csv"])
def test_what_is_no_file(tmp_path, name):
    if name == "folder.csv":
        (tmp_path / name).mkdir()
    if name == "pipe.csv":
        (tmp_path / name).symlink_to("/dev/zero")
    fault(NO_INPUT, file=name)


def test_constant_columns_are_left_out_and_said():
    write("c.csv", "a,c,b,y\n1,0.1,5,3\n2,0.1,5,4\n3,0.1,5,9\n")
    prepared = load(file="c.csv")
    assert prepared.features == ("a",) and "'c', 'b'" in prepared.notes[0]
    assert load(file="c.csv", standardize=False).features == ("a", "c", "b")
    assert "no feature is left" in fault(file=write("d.csv", "c,y\n1,2\n1,3\n"))


@pytest.mark.parametrize(
    "labels, kind, says",
    [
        ([0, 1, 2], "binary", ":4: column 'y' = 2: row 3"),
        ([1, -1, 1], "binary", ":3: column 'y' = -1: row 2"),
        ([0, 0.5, 1], "binary", ":3: .*row 2"),
        ([0, 0.5, 1], "classes", ":3: .*row 2"),
        ([0, 0, 0], "binary", "label 0"),
        ([0, 2, 2], "classes", "no row has the label 1"),
        ([0, 1, 1e9], "classes", "row 3"),
    ],
)
def test_labels_are_checked(labels, kind, says):
    write("l.csv", "x,y\n" + "".join(f"{i},{y}\n" for i, y in enumerate(labels)))
    assert re.search(says, fault(file="l.csv", loss_target=kind))


def header(shape, dtype="<f8"):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def archive(name, **members):
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as out:
        for key, content in members.items():
            out.writestr(f"{key}.npy", content)
    return name


def test_npz_is_read():
    x, y = rng.normal(size=(5, 2)), rng.normal(size=5)
    np.savez("a.npz", X=x, y=y)
    np.savez_compressed("b.npz", x=x.astype(np.float32), y=y[:, None], feature_names=np.array(["u", "v"]))
    np.savez("c.npz", u=x[:, 0], y=y, v=np.asfortranarray(x)[:, 1])
    for name in ("a.npz", "b.npz", "c.npz"):
        table = read_table(name)
        np.testing.assert_allclose(table.x, x, rtol=1e-6)
        np.testing.assert_allclose(table.y, y)
        assert table.features == (("x0", "x1") if name == "a.npz" else ("u", "v"))
    assert read_table("c.npz", target="u").features == ("y", "v")
    assert "did you mean 'y'" in fault(file="a.npz", target="Y")


class Trap:
    def __reduce__(self):
        return (open, ("sprung", "w"))


@pytest.mark.parametrize("where", ["X", "y", "extra"])
def test_pickles_are_not_opened(tmp_path, where):
    arrays = {"X": np.ones((3, 1)), "y": np.arange(3.0), where: np.array([Trap()] * 3, dtype=object)}
    np.savez("p.npz", **arrays)
    assert "Python objects" in fault(file="p.npz")
    write("raw.npz", pickle.dumps(Trap()))
    fault(file="raw.npz")
    archive("member.npz", X=pickle.dumps(Trap()), y=pickle.dumps(Trap()))
    fault(file="member.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "members, says",
    [
        ({"X": np.array([[1.0, 2], [3, np.nan], [1, 1]]), "y": np.arange(3)}, "column 'x1' = nan: row 2"),
        ({"X": np.ones((3, 1)), "y": np.array([1, np.inf, 2])}, "column 'y' = inf: row 2"),
        ({"X": np.ones((3, 2)), "y": np.arange(4)}, "X 3, y 4"),
        ({"X": np.ones((0, 2)), "y": np.ones(0)}, "at least one"),
        ({"X": np.ones((3, 2)), "y": np.ones((3, 2))}, r"\[n\]"),
        ({"X": np.ones((3, 2))}, "no such array"),
        ({"X": np.ones((3, 2, 2)), "y": np.arange(3)}, "needs X"),
        ({"X": np.ones((3, 2)) * 1j, "y": np.arange(3)}, "complex128"),
        ({"X": np.array([["a"], ["b"]]), "y": np.arange(2)}, "needs X"),
        ({"X": rng.normal(size=(3, 2)), "y": np.arange(3), "feature_names": np.array(["a", "a"])}, "different names"),
        ({}, "needs X"),
    ],
)
def test_bad_arrays_are_refused(members, says):
    np.savez("b.npz", **members)
    assert re.search(says, fault(file="b.npz")), fault(file="b.npz")


def test_headers_that_lie_are_refused_before_anything_is_made():
    """In a process that may not have more than 500 MB of address space above its imports."""
    zeros = b"\0" * 160
    shapes = [(2**40, 2), (2**62,), (2**70, 2**70), (-1, 2), (10,), (19,)]
    for i, shape in enumerate(shapes):
        archive(f"h{i}.npz", X=header(shape) + zeros, y=header((20,)) + zeros)
    archive("dtype.npz", X=header((1,), "<V1000000000") + zeros, y=header((20,)) + zeros)
    long = b"\x93NUMPY\x02\x00" + (2**31 - 1).to_bytes(4, "little") + b"{" * 100
    archive("long.npz", X=long, y=long)
    # A directory that claims what the header claims: 2^40 rows in a member of 100 bytes.
    content = Path(archive("dir.npz", X=header((2**27,)) + zeros, y=header((2**27,)) + zeros)).read_bytes()
    real = (len(header((2**27,))) + 160).to_bytes(4, "little")
    write("dir.npz", content.replace(real, (len(header((2**27,))) + 8 * 2**27).to_bytes(4, "little")))
    code = """
import glob, resource
from jaxsde.problems.data import load
from jaxsde.errors import ExperimentError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000,) * 2)
for file in sorted(glob.glob("*.npz")):
    try:
        load(file=file)
        print("read", file)
    except ExperimentError as e:
        assert e.code == 65, e
# not ru_maxrss, which a child takes over from the process that started it
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024 < 500_000_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_damaged_archives_are_refused_or_harmless():
    """Every truncation is refused; a flipped bit is refused or changes no number."""
    x, y = rng.normal(size=(4, 2)), rng.normal(size=4)
    np.savez("good.npz", X=x, y=y)
    whole = Path("good.npz").read_bytes()
    for length in range(0, len(whole), 3):
        fault(file=write("cut.npz", whole[:length]))
    refused = 0
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        write("flip.npz", bytes(flipped))
        try:
            table = read_table("flip.npz")
        except ExperimentError as error:
            assert error.code == BAD_INPUT
            refused += 1
        else:
            assert (table.x == x).all() and (table.y == y).all()
    assert refused > len(whole) / 2


def test_sklearn_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ExperimentError, match=r"jaxsde\[app\]") as caught:
        data.load("iris")
    assert caught.value.code == 69
