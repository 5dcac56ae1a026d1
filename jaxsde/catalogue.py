"""Catalogues, read without importing them: what is there by name, what it says of itself, what it may be told.

A catalogue is a literal dict at the foot of the file that defines its things, `POTENTIALS = {"double_well":
Entry(double_well, start=(1.0,)), ...}`. This module reads it from the source with `ast`: names, the first line of
each docstring, keyword-only parameters with their defaults, literal settings of the entry. So `jaxsde list` and the
checks of a config start no JAX, and adding a loss touches one file.
"""

from __future__ import annotations

import ast
import difflib
import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# What a keyword-only parameter may be, by the name of its annotation. To Python they are plain types.
Real = float  # finite
Positive = float  # finite, > 0
NonNegative = float  # finite, >= 0
Count = int  # >= 1
Seed = int  # 0 <= seed < 2^64
Vector = tuple[float, ...]  # finite numbers
Matrix = tuple[tuple[float, ...], ...]  # square, symmetric, finite

# Where the catalogues are: files of the package, names of the dicts, and what their things are.
CATALOGUES: dict[str, tuple[str, str, str]] = {
    "losses": ("problems/finite_sums.py", "LOSSES", "means over the examples of [data], for [loss] name"),
    "potentials": (
        "problems/potentials.py",
        "POTENTIALS",
        "losses without data, with the noise of [noise], for [loss] name",
    ),
    "data": ("problems/data.py", "DATASETS", "data sets, for [data] name"),
    "samplings": ("dynamics/gradients.py", "SAMPLINGS", "stochastic gradients, for jaxsde.sgd and [sgd] sampling"),
    "integrators": (
        "stepping/integrators/ito.py stepping/integrators/strong.py stepping/integrators/weak.py stepping/integrators/kinetic.py",
        "ITO STRONG WEAK KINETIC",
        "steps of an SDE, for jaxsde.integrate and [sde] integrator",
    ),
    "laws": ("conformance/laws.py", "LAWS", "stationary laws known exactly, for jaxsde conform --laws"),
    "samplers": (
        "conformance/ours.py conformance/peers.py",
        "OURS PEERS",
        "what jaxsde conform asks for them, with the laws and the steps",
    ),
    "papers": (
        "reproduce/mandt.py reproduce/chaudhari.py reproduce/zhu.py reproduce/xie.py reproduce/simsekli.py reproduce/kunin.py "
        "reproduce/paquette.py reproduce/azizian.py",
        "MANDT CHAUDHARI ZHU XIE SIMSEKLI KUNIN PAQUETTE AZIZIAN",
        "papers whose one computable statement jaxsde reproduce measures",
    ),
}


class Parameter(NamedTuple):
    """One keyword-only parameter. `kind` is its annotation as written; `required` means that it has no default."""

    name: str
    kind: str
    default: Any
    required: bool


class Listed(NamedTuple):
    """One entry of a catalogue as its source tells it.

    `summary` is the first line of the docstring; `parameters` are the keyword-only parameters of every function that
    the entry names; `settings` are the entry's own literal keywords.
    """

    name: str
    summary: str
    doc: str
    parameters: dict[str, Parameter]
    settings: dict[str, Any]


@functools.cache
def catalogue(which: str) -> Mapping[str, Listed]:
    """The catalogue called `which` (a key of `CATALOGUES`), read from its source. KeyError names those there are."""
    if which not in CATALOGUES:
        raise KeyError(f"no catalogue {which!r}: {did_you_mean(which, CATALOGUES)}")
    files, variables, _ = CATALOGUES[which]
    entries: dict[str, Listed] = {}
    for file, variable in zip(files.split(), variables.split(), strict=True):
        entries |= read(Path(__file__).parent / file, variable)
    return entries


def read(file: str | Path, variable: str) -> dict[str, Listed]:
    """The entries of the literal dict `variable` of the Python source `file`, in order.

    A value is the name of a function of that file, or a call whose first argument is one; further functions named by
    the call's keywords add their parameters. ValueError where the dict is missing or is not of that form.
    """
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    table = _assigned(tree, variable)
    if not isinstance(table, ast.Dict):
        raise ValueError(f"{file}: {variable} must be a literal dict")
    entries = {}
    for key, value in zip(table.keys, table.values, strict=True):
        name = ast.literal_eval(key) if key is not None else None
        head = value.args[0] if isinstance(value, ast.Call) and value.args else value
        if not isinstance(name, str) or not isinstance(head, ast.Name) or head.id not in functions:
            raise ValueError(f"{file}:{value.lineno}: {variable}[{name!r}] must name a function of that file")
        settings, parameters = {}, _parameters(functions[head.id])
        for keyword in value.keywords if isinstance(value, ast.Call) else ():
            if isinstance(keyword.value, ast.Name) and keyword.value.id in functions:
                parameters |= _parameters(functions[keyword.value.id])
            else:
                settings[str(keyword.arg)] = ast.literal_eval(keyword.value)
        doc = ast.get_docstring(functions[head.id]) or ""
        entries[name] = Listed(name, doc.split("\n", 1)[0], doc, parameters, settings)
    return entries


def keys(file: str, variable: str) -> tuple[str, ...]:
    """The keys of the literal dict `variable` of a file of the package, in order."""
    path = Path(__file__).parent / file
    table = _assigned(ast.parse(path.read_text(encoding="utf-8")), variable)
    if not isinstance(table, ast.Dict):
        raise ValueError(f"{file}: {variable} must be a literal dict")
    return tuple(ast.literal_eval(key) for key in table.keys if key is not None)


def check(parameter: Parameter, value: Any) -> str | None:
    """What is wrong with `value` for `parameter`, with the cure; None if nothing is."""
    example = "" if parameter.required else f", for example {_toml(parameter.default)}"
    match parameter.kind:
        case "Real" | "Positive" | "NonNegative":
            words = {
                "Real": "a finite number",
                "Positive": "a finite number > 0",
                "NonNegative": "a finite number >= 0",
            }
            low = {"Real": -math.inf, "Positive": math.ulp(0.0), "NonNegative": 0.0}[parameter.kind]
            return None if is_number(value) and value >= low else f"must be {words[parameter.kind]}{example}"
        case "Count":
            return None if is_integer(value) and value >= 1 else f"must be a whole number >= 1{example}"
        case "Seed":
            good = is_integer(value) and 0 <= value < 2**64
            return None if good else f"must be a whole number from 0 to 2^64 - 1{example}"
        case "Vector":
            good = isinstance(value, list | tuple) and all(is_number(v) for v in value)
            return None if good else f"must be a list of finite numbers{example}"
        case "Matrix":
            wrong = matrix_fault(value)
            return None if wrong is None else f"{wrong}{example}"
        case "bool":
            return None if isinstance(value, bool) else f"must be true or false{example}"
        case _:
            return None if isinstance(value, str) else f"must be a text{example}"


def matrix_fault(value: Any) -> str | None:
    """Why `value` is not a square, symmetric matrix of finite numbers (rows as lists), with the cure; None if it is."""
    if not isinstance(value, list | tuple) or not value or not all(isinstance(row, list | tuple) for row in value):
        return "must be a matrix, a list of rows"
    for i, row in enumerate(value):
        if len(row) != len(value):
            return f"is not square: row {i} has {len(row)} entries of {len(value)}; give as many columns as rows"
        for j, entry in enumerate(row):
            if not is_number(entry):
                return f"entry [{i}][{j}] = {entry} is not a finite number; give one"
    for i, row in enumerate(value):
        for j in range(i):
            if abs(row[j] - value[j][i]) > 1e-9 * max(abs(row[j]), abs(value[j][i])):
                return f"is not symmetric: entry [{i}][{j}] = {row[j]} and [{j}][{i}] = {value[j][i]}; make them equal"
    return None


def arithmetic(expression: str, names: Mapping[str, int]) -> int:
    """The value of a sum of products of whole numbers and `names`, such as an entry's `size = "hidden * features + 1"`."""

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.Name(id=name):
                return int(names[name])
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() as operator, right=right):
                a, b = value(left), value(right)
                return a * b if isinstance(operator, ast.Mult) else a + b if isinstance(operator, ast.Add) else a - b
            case _:
                raise ValueError(f"{expression!r} is more than sums and products")

    return value(ast.parse(expression, mode="eval").body)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite real number: an int or float (no bool) that a float64 holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def is_integer(value: Any) -> bool:
    """Whether `value` is a whole number given as one: an int that is no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest of `names`, and the list of them where it is short or nothing is near."""
    names = list(names)
    folded = {n.lower(): n for n in names}
    near = difflib.get_close_matches(str(name).lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{folded[near[0]]}'?"
    shown = ", ".join(names[:24]) + (", …" if len(names) > 24 else "")
    return f"there are: {shown}" if names else "there are none"


def _assigned(tree: ast.Module, variable: str) -> ast.expr | None:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
                return node.value
    return None


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> dict[str, Parameter]:
    if isinstance(node, ast.ClassDef):
        return {}
    found = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        kind = ast.unparse(argument.annotation).strip("'\"") if argument.annotation else ""
        value = None if default is None else ast.literal_eval(default)
        found[argument.arg] = Parameter(argument.arg, kind, value, default is None)
    return found


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
