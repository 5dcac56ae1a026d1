"""The map in jaxsde/README.md is true: what it names exists, and a module imports only from its own line there and those above."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxsde"
MAP = (PACKAGE / "README.md").read_text(encoding="utf-8")
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))
# These hold names that are looked up late: the lazy package and the command's entry.
LATE = {"__init__", "__main__"}


def rows() -> list[list[str]]:
    """The places of the first table, line by line."""
    table = MAP.split("| place |")[1].split("\n\n")[0].splitlines()[2:]
    return [re.findall(r"`([\w/.]+)`", line.split("|")[1]) for line in table]


# module or folder -> the number of its line
ORDER = {place.removesuffix(".py").rstrip("/"): i for i, row in enumerate(rows()) for place in row}


def unit(module: str) -> str:
    """`theory.linear` -> `theory`: what the map has a place for."""
    return module.split(".")[0]


def imports(path: Path) -> set[str]:
    """Every module of the package that a file imports, wherever in the file it does."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    package = list(here[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            found |= {".".join(base)} if base else {alias.name for alias in node.names}
        assert not isinstance(node, ast.ImportFrom) or node.level or not (node.module or "").startswith("jaxsde")
    return {unit(name) for name in found if name and not name.startswith("__")}


def test_every_file_has_a_place():
    assert {unit(".".join(p.relative_to(PACKAGE).with_suffix("").parts)) for p in MODULES} == set(ORDER)
    assert len(ORDER) == sum(map(len, rows()))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_above(path):
    own = unit(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    if path.parent == PACKAGE and own in LATE:
        return
    below = {name for name in imports(path) if ORDER[name] > ORDER[own]}
    assert not below, f"{own} imports {below}, which the map has below it"


def test_the_report_runs_nothing_and_the_engine_knows_protocols_only():
    for folder, never in {"report": {"engine"}, "engine": {"problems", "dynamics", "stepping", "theory", "metrics"}}.items():
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not imports(path) & never, path


def test_what_the_map_names_exists():
    for name in set(re.findall(r"`([\w/]+\.(?:py|md|npz|toml))`", MAP)) - {"arrays.npz"}:
        assert any((base / name).exists() for base in (PACKAGE, ROOT, PACKAGE / "problems", PACKAGE / "dynamics")) or list(
            PACKAGE.rglob(name)
        ), name
    source = {p: p.read_text(encoding="utf-8") for p in [*MODULES, *(ROOT / "tests").glob("*.py")]}
    for catalogue in set(re.findall(r"`(_?[A-Z][A-Z_]{3,})`", MAP)):
        assert any(re.search(rf"^{catalogue}\b", text, re.M) for text in source.values()), catalogue
