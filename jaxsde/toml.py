"""TOML configs: read with the line of every key, so that an error can point at it, and written back.

`tomllib` parses; a small scan of the text finds where keys are. The scan only serves messages: where it cannot tell (a key
inside an inline table) it names the nearest line that it knows.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .errors import NO_INPUT, ExperimentError

LARGEST = 1 << 20  # bytes of a config

_KEY = r"(?:[A-Za-z0-9_-]+|\"(?:[^\"\\]|\\.)*\"|'[^']*')"
_DOTTED = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*")
_SCALAR = re.compile(r"\s*(\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s#\[{\"',]+)\s*(?:#.*)?$")
_TOKEN = re.compile(r"\"\"\"|'''|\"(?:[^\"\\]|\\.)*\"|'[^']*'|#.*|[\[{]|[\]}]")


class Place(NamedTuple):
    """Where a value was given: the file or "command line", the line, and the value as it was written."""

    file: str
    line: int | None = None
    text: str | None = None
    flag: str | None = None


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Place]]:
    """The tables of a TOML file, and the place of each dotted key. Raises `ExperimentError` with line and column."""
    content = _bytes(Path(path)).removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = content.count(b"\n", 0, error.start) + 1, error.start - content.rfind(b"\n", 0, error.start)
        reason = f"is not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        raise ExperimentError(reason, file=path, line=line, column=column) from None
    text = text.replace("\r\n", "\n")
    try:
        return tomllib.loads(text), places(text, str(path))
    except (ValueError, RecursionError) as error:
        line, column, message = _syntax(text, error)
        raise ExperimentError(f"is not TOML: {message}; correct it", file=path, line=line, column=column) from None


def places(text: str, file: str) -> dict[str, Place]:
    """Dotted key -> where it is, for every table header and every `key =` at the start of a line."""
    found: dict[str, Place] = {}
    table, depth, quote = "", 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        rest = line
        if not depth and not quote:
            header = re.match(rf"\s*\[\[?{_DOTTED.pattern}\]", line)
            key = _DOTTED.match(line)
            if header:
                table = _plain(header[1])
                found.setdefault(table, Place(file, number))
                continue
            if key and line[key.end() : key.end() + 1] == "=":
                rest = line[key.end() + 1 :]
                dotted = f"{table}.{_plain(key[1])}" if table else _plain(key[1])
                value = _SCALAR.match(rest)
                found[dotted] = Place(file, number, value[1] if value else None)
        depth, quote = _open_brackets(rest, depth, quote)
    return found


def nearest(known: Mapping[str, Place], dotted: str) -> Place:
    """The place of `dotted` or of the table around it."""
    while dotted and dotted not in known:
        dotted = dotted.rpartition(".")[0]
    return known.get(dotted, Place("defaults"))


def write(tables: Mapping[str, Any]) -> str:
    """TOML text of nested tables: plain values first, then a [table] for each mapping; None is left out."""
    lines = [
        f"{key} = {literal(value)}"
        for key, value in tables.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    for name, table in tables.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {literal(value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if stat.S_ISDIR(os.fstat(file.fileno()).st_mode):
                raise IsADirectoryError
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        reason = "no such config; give the path of a TOML file, or none for the main job"
        raise ExperimentError(reason, code=NO_INPUT, file=path) from None
    except IsADirectoryError:
        raise ExperimentError("is a directory; give the path of a TOML file", code=NO_INPUT, file=path) from None
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({getattr(error, 'strerror', None) or error}); check the path and its permissions"
        raise ExperimentError(reason, code=NO_INPUT, file=path) from None
    if len(content) > LARGEST:
        raise ExperimentError(f"is larger than {LARGEST >> 20} MiB; a config is short, data goes in a CSV", file=path)
    return content


def _syntax(text: str, error: Exception) -> tuple[int, int, str]:
    """(line, column, message) of what tomllib says."""
    if isinstance(error, RecursionError):
        return 1, 1, "nested too deeply"
    message = str(error)
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    if found:
        return int(found[1]), int(found[2]), message[: found.start()].strip()
    lines = text.rstrip("\n").split("\n")
    message = message.replace("(at end of document)", "at the end of the file").strip()
    if "digit" in message:
        # A number of thousands of digits: tomllib lets int()'s own words through, without a place.
        number = next((i for i, line in enumerate(lines, 1) if re.search(r"\d{4000}", line)), 1)
        return number, lines[number - 1].find("=") + 2, "a whole number with too many digits"
    return len(lines), len(lines[-1]) + 1, message


def _plain(dotted: str) -> str:
    return ".".join(part.strip("\"'") for part in re.findall(_KEY, dotted))


def _open_brackets(text: str, depth: int, quote: str) -> tuple[int, str]:
    """How many brackets, and which multi-line quotes, are open after `text`."""
    position = 0
    while position < len(text):
        if quote:
            end = text.find(quote, position)
            if end < 0:
                return depth, quote
            position, quote = end + 3, ""
            continue
        token = _TOKEN.search(text, position)
        if token is None:
            break
        position = token.end()
        if token[0] in ('"""', "'''"):
            quote = token[0]
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth = max(0, depth - 1)
    return depth, quote


def literal(value: Any) -> str:
    """A TOML literal: text quoted, lists in brackets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(v) for v in value) + "]"
    escaped = "".join(
        {'"': '\\"', "\\": "\\\\"}.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in str(value)
    )
    return f'"{escaped}"'
