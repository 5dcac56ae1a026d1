"""A loss of the user's own, in a Python file named on the command line: `--plugin FILE`. It defines either

    example_loss(params, example)    with example = (x, y); perhaps `params`, the initial pytree (zeros ["p"] otherwise), and
                                     `target`, "real" (y is standardised), "binary" (y in {0, 1}) or "classes" (0, 1, …)
    loss(params)                     and `params`; perhaps `noise_covariance`, a number, list, matrix or function of params

Its source is read first, without running it, so that what does not fit is refused before JAX starts.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import msgspec

from .errors import NO_INPUT, ExperimentError

TARGETS = ("real", "binary", "classes")


class Plugin(msgspec.Struct, frozen=True):
    """The file, the function that it defines ("example_loss" or "loss"), and what y is."""

    file: str
    function: str
    target: str = "real"


def read(file: str) -> Plugin:
    """What the file defines, from its source. Raises `ExperimentError`."""
    told: dict[str, Any] = {"file": "command line", "key": "--plugin", "value": file}
    try:
        source = Path(file).read_bytes()
    except (OSError, ValueError) as fault:
        words = getattr(fault, "strerror", None) or str(fault)
        reason = f"cannot be read ({words}); give a Python file that defines example_loss or loss"
        raise ExperimentError(reason, code=NO_INPUT, **told) from None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        line, column = getattr(fault, "lineno", None), getattr(fault, "offset", None)
        reason = f"is not Python: {getattr(fault, 'msg', fault)}; correct it"
        raise ExperimentError(reason, file=file, line=line, column=column) from None
    names = _names(tree)
    found = [name for name in ("example_loss", "loss") if name in names]
    if len(found) != 1:
        reason = "must define one of example_loss(params, example) and loss(params)"
        raise ExperimentError(f"{reason}; it defines {' and '.join(found) or 'neither'}", **told)
    if found == ["loss"] and "params" not in names:
        raise ExperimentError("defines loss(params) and no params; add the initial point, params = …", **told)
    given = names.get("target")
    target = "real" if given is None else given.value if isinstance(given, ast.Constant) else None
    if target not in TARGETS:
        raise ExperimentError(f"target must be one of {', '.join(TARGETS)}, in quotes", file=file, key="target")
    return Plugin(file, found[0], target)


def _names(tree: ast.Module) -> dict[str, ast.expr | None]:
    """What the top level defines or imports, with the value where that is an assignment."""
    names: dict[str, ast.expr | None] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = None
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= dict.fromkeys(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names |= {part.id: node.value for part in ast.walk(target) if isinstance(part, ast.Name)}
    return names
