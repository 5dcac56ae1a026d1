"""A user's file as a table of numbers: CSV, TSV or npz, read without trusting it.

Nothing in a file is executed (no pickles), nothing is allocated on a header's word, and what is wrong is an
`ExperimentError` that names the file, the line or entry, and the cure.
"""

from __future__ import annotations

import array
import csv
import io
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..catalogue import did_you_mean
from ..errors import NO_INPUT, ExperimentError

SUFFIXES = (".csv", ".tsv", ".txt", ".npz")
# No file larger than this is read, and no array larger than this is made: 2^27 numbers.
LARGEST = 1 << 30
# Deflate cannot shrink by more than this, so a member that claims more lies about its size.
_DEFLATE_LIMIT = 1032


class Table(NamedTuple):
    """The columns of a data set: `x` ["n p"] with the names `features`, and `y` ["n"] with the name `target`.

    `where(row, column)` is the place of a number in its source, as keywords for `ExperimentError`; column −1 is y.
    """

    x: Float[np.ndarray, "n p"]
    y: Float[np.ndarray, " n"]
    features: tuple[str, ...]
    target: str
    source: str
    where: Callable[[int, int], dict[str, Any]]


def read_table(
    path: str | os.PathLike[str],
    *,
    target: str | int | None = None,
    header: bool | None = None,
    delimiter: str | None = None,
) -> Table:
    """The table in a .csv, .tsv, .txt or .npz file.

    `target` names the column y, or counts it from 0 (negative from the end); the last column by default, `y` in an npz.
    `header` says whether the first line of a text names the columns, and `delimiter` what parts them; both are seen
    from the first line if None. An npz holds `X` ["n p"] and `y` ["n"] (and perhaps `feature_names`), or one array
    ["n"] per column. Every number must be finite. Raises `ExperimentError`.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ExperimentError(f"must be one of {', '.join(SUFFIXES)}; convert it to CSV", file=path)
    content = _open(path)
    with content:
        if path.suffix.lower() == ".npz":
            return _read_npz(path, content, target)
        return _read_text(path, content, target, header, delimiter)


def pick(names: tuple[str, ...], wanted: str | int, file: Any, *, what: str = "column") -> int:
    """The index of the target that `wanted` names or counts; `ExperimentError` with the nearest name if there is none."""
    if isinstance(wanted, int):
        if -len(names) <= wanted < len(names):
            return wanted % len(names)
        reason = f"{file} has {len(names)} columns, counted from 0; choose one of them"
        raise ExperimentError(reason, key="data.target", value=wanted)
    if wanted in names:
        return names.index(wanted)
    raise ExperimentError(f"no such {what} in {file}; {did_you_mean(wanted, names)}", key="data.target", value=wanted)


def _open(path: Path) -> io.BufferedReader:
    try:
        content = path.open("rb")
        status = os.fstat(content.fileno())
    except FileNotFoundError:
        raise ExperimentError("no such file; check the path", code=NO_INPUT, file=path) from None
    except IsADirectoryError:
        raise ExperimentError("is a directory; give a file", code=NO_INPUT, file=path) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ExperimentError(f"cannot be read ({reason}); check the path", code=NO_INPUT, file=path) from None
    if not stat.S_ISREG(status.st_mode):
        content.close()
        raise ExperimentError("is not a regular file; give one", code=NO_INPUT, file=path)
    if status.st_size == 0 or status.st_size > LARGEST:
        content.close()
        size = (
            "is empty; give rows of numbers" if status.st_size == 0 else f"is larger than {LARGEST >> 20} MiB; thin it"
        )
        raise ExperimentError(size, file=path)
    return content


def _read_text(
    path: Path, content: io.BufferedReader, target: str | int | None, header: bool | None, delimiter: str | None
) -> Table:
    rows = _rows(path, content, delimiter, path.suffix.lower() == ".tsv")
    try:
        line, first = next(rows)
    except StopIteration:
        raise ExperimentError("is empty; give rows of numbers", file=path) from None
    named = header if header is not None else any(_number(cell) is None and cell for cell in first)
    names = _names(path, line, first) if named else tuple(f"column_{i}" for i in range(len(first)))
    column = pick(names, -1 if target is None else target, path)
    numbers, lines = array.array("d"), array.array("q")
    if not named:
        _append(path, line, first, names, numbers, lines)
    for line, row in rows:
        _append(path, line, row, names, numbers, lines)
    if not lines:
        raise ExperimentError("has a header and no rows; give rows of numbers", file=path, line=line)
    table = np.frombuffer(numbers, np.float64).reshape(len(lines), len(names))
    kept = [i for i in range(len(names)) if i != column]
    shown = tuple(names[i] for i in kept)

    def where(row: int, index: int) -> dict[str, Any]:
        return {"file": path, "line": lines[row], "key": f"column '{names[column] if index < 0 else shown[index]}'"}

    return Table(table[:, kept], table[:, column].copy(), shown, names[column], str(path), where)


def _rows(path: Path, content: io.BufferedReader, delimiter: str | None, tabs: bool) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each line that is not blank."""
    text = io.TextIOWrapper(content, encoding="utf-8-sig", newline="")
    reader = None
    try:
        first = text.readline()
        while first and not first.strip():
            first = text.readline()
        counts = {d: first.count(d) for d in (",", ";", "\t")}
        found = "\t" if tabs else max(counts, key=counts.__getitem__)
        text.seek(0)
        reader = csv.reader(text, delimiter=delimiter or found, strict=True)
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8"
        raise ExperimentError(reason, file=path, line=_undecodable_line(path)) from None
    except csv.Error as error:
        line = reader.line_num if reader is not None else None
        raise ExperimentError(f"is not CSV ({error}); check quotes and delimiter", file=path, line=line) from None
    finally:
        text.close()


def _undecodable_line(path: Path) -> int | None:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None


def _append(path: Path, line: int, row: list[str], names: tuple[str, ...], numbers: Any, lines: Any) -> None:
    if len(row) != len(names):
        reason = f"this row has {len(row)} cells and the first line {len(names)}; give every row as many"
        raise ExperimentError(reason, file=path, line=line, key="row", value=len(lines) + 1)
    for name, cell in zip(names, row, strict=True):
        value = _number(cell)
        if value is None or not math.isfinite(value):
            fault = "is no number" if cell and value is None else "is missing" if not cell else "is not finite"
            reason = f"row {len(lines) + 1} {fault}; correct it or leave the row out"
            raise ExperimentError(reason, file=path, line=line, key=f"column '{name}'", text=cell or "''")
        numbers.append(value)
    lines.append(line)


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _names(path: Path, line: int, cells: list[str]) -> tuple[str, ...]:
    names = tuple(cell or f"column_{i}" for i, cell in enumerate(cells))
    for i, name in enumerate(names):
        if name in names[:i]:
            reason = f"columns {names.index(name)} and {i} have one name; rename one"
            raise ExperimentError(reason, file=path, line=line, key="column", value=name)
    return names


def _read_npz(path: Path, content: io.BufferedReader, target: str | int | None) -> Table:
    try:
        with zipfile.ZipFile(content) as archive:
            arrays = _members(path, archive)
    except ExperimentError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = f"is not a whole npz file ({str(error) or type(error).__name__}); write it again with numpy.savez"
        raise ExperimentError(reason, file=path) from None
    except (TypeError, SyntaxError, RecursionError, MemoryError, OverflowError, KeyError) as error:
        raise ExperimentError(f"has a broken header ({type(error).__name__}); write it again", file=path) from None
    names, x, y, name = _columns(path, arrays, target)
    for label, values, rows in ((name, y[:, None], y), *((n, x[:, [i]], y) for i, n in enumerate(names))):
        bad = np.flatnonzero(~np.isfinite(values[:, 0]))
        if bad.size and rows.size:
            reason = f"row {bad[0] + 1} is not finite; correct it or leave the row out"
            raise ExperimentError(reason, file=path, key=f"column '{label}'", text=str(values[bad[0], 0]))

    def where(row: int, index: int) -> dict[str, Any]:
        return {"file": path, "key": f"column '{name if index < 0 else names[index]}'"}

    return Table(x, y, names, name, str(path), where)


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Every array of the archive, after the headers of all have been judged."""
    members = [m for m in archive.infolist() if not m.is_dir()]
    if len({m.filename for m in members}) != len(members):
        raise ExperimentError("holds two arrays of one name; write it again with numpy.savez", file=path)
    total = 0
    for member in members:
        key = member.filename.removesuffix(".npy")
        with archive.open(member) as stream:
            shape, dtype = _header(stream)
            start = stream.tell()
        if dtype.hasobject or dtype.kind not in "fiubU":
            reason = f"holds {'Python objects' if dtype.hasobject else dtype}, which are not loaded; save numbers"
            raise ExperimentError(reason, file=path, key=key)
        claimed = math.prod(shape) * dtype.itemsize
        total += claimed
        held = min(member.file_size, _DEFLATE_LIMIT * (member.compress_size + 64))
        if any(n < 0 for n in shape) or claimed != held - start or total > LARGEST:
            reason = (
                f"the header claims shape {shape}, {claimed} bytes, and the file holds {max(0, held - start)}; "
                f"write it again with numpy.savez (at most {LARGEST >> 20} MiB)"
            )
            raise ExperimentError(reason, file=path, key=key)
    arrays = {}
    for member in members:
        with archive.open(member) as stream:
            arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
            stream.read(1)  # to the end, so that the checksum is compared
    return arrays


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(stream)
    return shape, dtype


def _columns(
    path: Path, arrays: dict[str, np.ndarray], target: str | int | None
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, str]:
    """(feature names, x, y, target name) of the arrays: X and y, or one array per column."""
    texts = {k: v for k, v in arrays.items() if v.dtype.kind == "U"}
    numeric = {k: v.astype(np.float64) for k, v in arrays.items() if v.dtype.kind != "U"}
    matrices = [k for k, v in numeric.items() if v.ndim == 2 and k.lower() in ("x", "data", "features")]
    if not matrices:
        columns = {k: v for k, v in numeric.items() if v.ndim == 1}
        if len(columns) < 2:
            held = ", ".join(f"{k} {list(v.shape)}" for k, v in arrays.items()) or "nothing"
            raise ExperimentError(f"needs X [n, p] and y [n], or one array [n] per column; it holds {held}", file=path)
        names = tuple(columns)
        column = pick(names, target if target is not None else _first(names, ("y", "target")) or -1, path)
        x, y, name = list(columns.values()), columns[names[column]], names[column]
        names = names[:column] + names[column + 1 :]
        x = x[:column] + x[column + 1 :]
        _same_lengths(path, columns)
        return names, np.stack(x, axis=1), y, name
    x = numeric.pop(matrices[0])
    if isinstance(target, int):
        raise ExperimentError("an npz names its arrays; give the target's name", key="data.target", value=target)
    found = target if target is not None else _first(tuple(numeric), ("y", "target", "targets", "labels"))
    pick(tuple(numeric), found if found is not None else "y", path, what="array")
    y = numeric[str(found)]
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1:
        raise ExperimentError(
            f"must have the shape [n], not {list(y.shape)}; give one number a row", file=path, key=found
        )
    _same_lengths(path, {matrices[0]: x, str(found): y})
    given = texts.get("feature_names")
    listed = [str(n) for n in given.ravel()] if given is not None else [f"x{i}" for i in range(x.shape[1])]
    if len(listed) != x.shape[1] or len(set(listed)) != len(listed):
        reason = f"must be {x.shape[1]} different names, one for each column of {matrices[0]}"
        raise ExperimentError(reason, file=path, key="feature_names")
    return tuple(listed), x, y, str(found)


def _first(names: tuple[str, ...], wanted: tuple[str, ...]) -> str | None:
    return next((n for w in wanted for n in names if n.lower() == w), None)


def _same_lengths(path: Path, columns: dict[str, np.ndarray]) -> None:
    lengths = {k: v.shape[0] for k, v in columns.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        shown = ", ".join(f"{k} {n}" for k, n in lengths.items())
        raise ExperimentError(f"arrays need one number of rows, at least one: {shown}", file=path)
