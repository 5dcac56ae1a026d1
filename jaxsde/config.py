"""How a TOML file and flags become an `Experiment`, and every check of it, before JAX is started.

A fault is an `ExperimentError`: `FILE:LINE: key = value: reason, and the cure`. What a config may name is in the catalogues:
it cannot name code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from . import plugin as plugins
from . import toml
from .catalogue import arithmetic, catalogue, check, did_you_mean, is_integer, is_number, keys, matrix_fault
from .errors import TOO_LARGE, ExperimentError
from .experiment import PLUGIN, Data, Experiment, Loss, Noise, Sde, Sgd, error_at

_SMALLEST, _LARGEST = 2.0**-126, 2.0**127  # normal numbers of float32
# Samplings of examples, and surrogates for them; "alpha_stable" has no diffusion to stand beside.
SAMPLINGS = (*(n for n, s in catalogue("samplings").items() if "scheme" in s.settings), "full_batch")
SURROGATES = tuple(n for n, s in catalogue("samplings").items() if "law" in s.settings)


def load(
    config: str | os.PathLike[str] | None = None,
    flags: Mapping[str, tuple[str, str]] | None = None,
    *,
    plugin: str | None = None,
) -> Experiment:
    """The experiment of a TOML file (None: the main job) and of flags, which win.

    `flags` maps a dotted key to (flag, text), e.g. {"sgd.learning_rate": ("--learning-rate", "0.1")}; `plugin` is a Python
    file with a loss of the user's own. Raises `ExperimentError`.
    """
    tree, places = toml.read(config) if config is not None else ({}, {})
    for section, key in {"loss": "name", "data": "name", "noise": "covariance"}.items():
        if section in tree and not isinstance(tree[section], dict):
            places |= {f"{section}.{key}": places.get(section, toml.Place(str(config)))}
            tree[section] = {key: tree[section]}
    for dotted, (flag, text) in (flags or {}).items():
        section, _, key = dotted.rpartition(".")
        table = tree.setdefault(section, {}) if section else tree
        places[dotted] = toml.Place("command line", None, text, flag)
        if isinstance(table, dict):
            table[key] = _from_text(dotted, text, places)
            if dotted in ("data.name", "data.file"):
                table.pop("file" if key == "name" else "name", None)
    _check_names(tree, places)
    if "plugin" in tree:
        reason = "user code is not named in a config; give --plugin FILE on the command line"
        raise error_at("plugin", tree["plugin"], reason, places)
    own = None if plugin is None else plugins.read(plugin)
    _check_loss(tree, places, own)
    for section in ("data", "loss"):
        if section in tree:
            fields = (Data if section == "data" else Loss).__struct_fields__
            extra = {k: tree[section].pop(k) for k in list(tree[section]) if k not in fields}
            tree[section]["parameters"] = extra
    _fill(tree, places, own, config)
    try:
        experiment = msgspec.convert(tree | {"places": {}}, Experiment)
    except msgspec.ValidationError as error:
        raise _type_error(str(error), tree, places) from None
    if plugin is not None:
        places["plugin"] = toml.Place("command line", None, repr(plugin), "--plugin")
    experiment = msgspec.structs.replace(experiment, places=places, plugin=own)
    return _checked(experiment)


# What the keys may be: whole numbers between bounds, and words of a list.
_BOUNDS = {
    "seed": (0, 2**64 - 1, "a whole number from 0 to 2^64 - 1"),
    "chains": (1, 2**63 - 1, "a whole number from 1 to 2^63 - 1"),
    "steps": (0, 2**63 - 1, "a whole number from 0 to 2^63 - 1"),
    "burn_in": (0, 2**63 - 1, "a whole number from 0 to 2^63 - 1"),
    "every": (1, 2**31 - 1, "a whole number from 1 to 2^31 - 1"),
    "groups": (2, 2**16, "a whole number from 2 to 65536"),
    "sgd.batch_size": (1, 2**31 - 1, "a whole number from 1 to 2^31 - 1"),
    "sde.substeps": (1, 2**16, "a whole number from 1 to 65536"),
}
_WORDS = {
    "device": ("auto", "cpu", "gpu"),
    "dtype": ("float32", "float64"),
    "stream": keys("random/streams.py", "STREAMS"),
    "sgd.sampling": (*SAMPLINGS, *SURROGATES),
    "sde.integrator": tuple(catalogue("integrators")),
}
_SECTIONS = {"data": Data, "loss": Loss, "sgd": Sgd, "sde": Sde, "noise": Noise}


# The data of a loss that is given none, by the kind of its target.
_DEFAULT_DATA = {"real": "diabetes", "binary": "breast_cancer", "classes": "iris"}


def _check_names(tree: dict[str, Any], places: dict[str, toml.Place]) -> None:
    """Sections are tables, and every key is one there is; the keys of [data] and [loss] wait for their catalogue."""
    for key, value in tree.items():
        known = [f for f in Experiment.__struct_fields__ if f not in ("notes", "places")]
        if key not in known:
            nested = [f"{s}.{f}" for s, struct in _SECTIONS.items() for f in struct.__struct_fields__ if f == key]
            hint = f"it belongs in [{nested[0].split('.')[0]}]" if nested else did_you_mean(key, known)
            raise error_at(key, value, f"no such key; {hint}", places)
        if key not in _SECTIONS:
            continue
        if not isinstance(value, dict):
            raise error_at(key, value, f"must be a table; write [{key}] and its keys below it", places)
        if key not in ("data", "loss"):
            _known(key, value, _SECTIONS[key].__struct_fields__, places)


def _known(section: str, table: dict[str, Any], known: Any, places: dict[str, toml.Place]) -> None:
    for name, value in table.items():
        if name not in known:
            raise error_at(f"{section}.{name}", value, f"no such key; {did_you_mean(name, known)}", places)


def _check_loss(tree: dict[str, Any], places: dict[str, toml.Place], own: plugins.Plugin | None) -> None:
    """The names of the loss and of the data are in their catalogues, and their own parameters are right."""
    for section, catalogues in (("loss", ("losses", "potentials")), ("data", ("data",))):
        table = tree.get(section)
        if table is None:
            continue
        entries = {name: entry for which in catalogues for name, entry in catalogue(which).items()}
        name = table.get("name", "squared_error" if section == "loss" else None)
        user = (section == "loss" and own is not None) or (section == "data" and "file" in table)
        if user and "name" in table and name != PLUGIN:
            other = "--plugin brings the loss" if section == "loss" else "data.file brings the data"
            raise error_at(f"{section}.name", name, f"{other}; leave the name out", places)
        if not user and name == PLUGIN and section == "loss":
            raise error_at("loss.name", name, "was brought by --plugin FILE; give that flag again", places)
        if name is not None and not user and (not isinstance(name, str) or name not in entries):
            what = "loss" if section == "loss" else "data set"
            reason = (
                f"no such {what} in the catalogue; {did_you_mean(str(name), entries)} (see jaxsde list {catalogues[0]})"
            )
            raise error_at(f"{section}.name", name, reason, places)
        parameters = {} if user or name is None else entries[name].parameters
        fields = [f for f in _SECTIONS[section].__struct_fields__ if f != "parameters"]
        _known(section, table, [*fields, *parameters], places)
        for key in table.keys() & parameters.keys():
            fault = check(parameters[key], table[key])
            if fault:
                raise error_at(f"{section}.{key}", table[key], fault, places)


def _fill(tree: dict[str, Any], places: dict[str, toml.Place], own: plugins.Plugin | None, config: Any) -> None:
    """Defaults that depend on other keys, written into the tree."""
    loss = tree.setdefault("loss", {"parameters": {}})
    name = PLUGIN if own else loss.setdefault("name", "squared_error")
    loss["name"] = name
    sgd = tree.setdefault("sgd", {})
    if name in catalogue("potentials"):
        settings = catalogue("potentials")[name].settings
        sgd.setdefault("learning_rate", settings["learning_rate"])
        tree.setdefault("noise", {}).setdefault("covariance", settings["variance"])
    if name in catalogue("potentials") or (own and own.function == "loss"):
        sgd.setdefault("sampling", "gaussian")
    else:
        kind = own.target if own else catalogue("losses")[name].settings["target"]
        table = tree.setdefault("data", {"parameters": {}})
        if "file" not in table:
            has = catalogue("data")[table.setdefault("name", _DEFAULT_DATA[kind])].settings["target"]
            if kind != "real" and has not in ("binary", kind):
                fits = [n for n, d in catalogue("data").items() if d.settings["target"] in ("binary", kind)]
                reason = f"the loss {name} needs class labels, which it has not; choose one of {', '.join(fits)}"
                raise error_at("data.name", table["name"], reason, places)
    data = tree.get("data", {})
    if data and "features" not in data:
        named = catalogue("data").get(data.get("name", ""))
        data["features"] = list(named.settings.get("features", ())) or "all" if named else "all"
    file = data.get("file")
    if isinstance(file, str) and config is not None and toml.nearest(places, "data.file").flag is None:
        tree["data"]["file"] = os.path.join(os.path.dirname(config), file)  # beside the config that names it
    steps = tree.get("steps", Experiment().steps)
    if "burn_in" not in tree and is_integer(steps):
        tree["burn_in"] = max(0, steps // 4)


def _from_text(dotted: str, text: str, places: dict[str, toml.Place]) -> Any:
    """A flag's text as the type of its key; text that is no number stays text, and the check of types refuses it."""
    section, _, key = dotted.rpartition(".")
    kind = (_SECTIONS[section] if section else Experiment).__annotations__[key]
    for wanted, convert in (("int", int), ("float", float)):
        if re.search(rf"\b{wanted}\b", kind) and "_" not in text:
            try:
                return convert(text)
            except ValueError:
                continue
    return text


_KINDS = {"int": "a whole number", "float": "a number", "str": "a text in quotes", "bool": "true or false"}


def _type_error(message: str, tree: dict[str, Any], places: dict[str, toml.Place]) -> ExperimentError:
    """What msgspec says of a wrong type, in the words of a config."""
    expected = re.search(r"Expected `([^`]*)`", message)
    path = re.search(r"at `\$\.([^`]*)`", message)
    key = re.sub(r"\[.*", "", path[1]) if path else ""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    kinds = [k for k in (expected[1] if expected else "").split(" | ") if k not in ("", "null")]
    words = " or ".join(_KINDS.get(k, "a list") for k in kinds) or "a finite number"
    section, _, name = key.rpartition(".")
    default = getattr(_SECTIONS[section]() if section in _SECTIONS else Experiment(), name, None)
    example = f", for example {toml.literal(default)}" if default is not None and not isinstance(default, dict) else ""
    return error_at(key, value, f"must be {words}{example}", places)


def _checked(experiment: Experiment) -> Experiment:
    """The experiment with its notes, or the first thing that is wrong with it."""
    e = experiment
    for key, (low, high, words) in _BOUNDS.items():
        value = _at(e, key)
        if value is not None and not low <= value <= high:
            raise e.error(key, f"must be {words}")
    for key, words in _WORDS.items():
        if _at(e, key) not in words:
            raise e.error(key, f"must be one of {', '.join(words)}")
    eta = e.sgd.learning_rate
    if not is_number(eta) or eta <= 0:
        raise e.error("sgd.learning_rate", "must be a finite number > 0, for example 0.05")
    if e.dtype == "float32" and not _SMALLEST <= eta <= _LARGEST:
        raise e.error("sgd.learning_rate", 'is 0 or infinite in float32; choose another, or dtype = "float64"')
    if not 0.0 <= e.max_diverged <= 1.0:
        raise e.error("max_diverged", "must be a fraction from 0 to 1, for example 0.1")
    if e.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._=+-]{0,99}", e.name):
        raise e.error("name", "must be one folder's name: letters, digits, . _ = + - and spaces, at most 100")
    if ((e.burn_in or 0) + e.steps) * e.chains * e.sde.substeps > 2**63:
        raise e.error("steps", "steps × chains × substeps exceeds 2^63; choose fewer")
    if e.steps and e.every > e.steps:
        key = "every" if "every" in e.places else "steps"
        raise e.error(key, f"every must not exceed steps ({e.every} > {e.steps}); look at least once")
    if e.loss.start is not None and not all(is_number(v) for v in e.loss.start):
        raise e.error("loss.start", "must be a list of finite numbers")
    notes = _check_potential(e) if e.family == "potentials" else _check_data(e)
    return msgspec.structs.replace(e, notes=tuple(notes))


def _check_potential(e: Experiment) -> list[str]:
    if e.data is not None:
        key = "data.file" if e.data.file else "data.name"
        raise e.error(key, f"the potential {e.loss.name} has no examples; leave [data] out or choose another loss")
    if e.sgd.sampling not in (*SURROGATES, "full_batch"):
        raise e.error("sgd.sampling", f"a potential has no examples to draw; choose one of {', '.join(SURROGATES)}")
    if e.plugin is not None:
        _check_memory(e, 1)
        _check_integrator(e, "general")
        return []
    _check_integrator(e, "additive")
    entry = catalogue("potentials")[e.loss.name]
    matrices = [e.loss.parameters.get(k, p.default) for k, p in entry.parameters.items() if p.kind == "Matrix"]
    least = len(matrices[0]) if matrices else entry.settings["dim"]
    dim = least if e.loss.start is None else len(e.loss.start)
    if dim < least or (matrices and dim > least):
        raise e.error("loss.start", f"must have {least} numbers{'' if matrices else ' or more'}, not {dim}")
    assert e.noise is not None
    notes = _check_covariance(e, e.noise.covariance, dim)
    _check_memory(e, dim)
    return notes


def _check_covariance(e: Experiment, covariance: Any, dim: int) -> list[str]:
    """Notes on Σ: its rank where it is not full. A number, variances or a symmetric positive semidefinite matrix."""
    key, rows = "noise.covariance", covariance if isinstance(covariance, list) else [covariance]
    if len(rows) not in ((dim,) if isinstance(covariance, list) else (1,)):
        raise e.error(key, f"has {len(rows)} entries and the loss {dim} components; give as many, or one number")
    if any(isinstance(row, list) for row in rows):
        fault = matrix_fault(covariance)
        if fault:
            raise e.error(key, fault)
        eigenvalues = np.linalg.eigvalsh(np.asarray(covariance, np.float64))
    elif all(is_number(v) for v in rows):
        eigenvalues = np.asarray(rows, np.float64)
    else:
        raise e.error(key, "must be a finite number, a list of them, or a matrix; for example 1.0")
    largest = float(np.abs(eigenvalues).max())
    if eigenvalues.min() < -1e-7 * largest or (largest > 0 and not isinstance(covariance, list) and rows[0] < 0):
        reason = f"is no covariance: its lowest eigenvalue is {eigenvalues.min():.4g}; it must have none below 0"
        raise e.error(key, reason)
    rank = int((eigenvalues > 1e-7 * largest).sum()) if largest > 0 else 0
    full = dim if isinstance(covariance, list) else 1
    return [] if rank == full else [f"noise.covariance has rank {rank} of {full}: no noise in the other directions"]


def _check_data(e: Experiment) -> list[str]:
    if e.noise is not None:
        raise e.error("noise.covariance", "the noise of a mean over examples is that of its data; leave [noise] out")
    data = e.data
    if data is None:
        return []
    if (data.name is None) == (data.file is None):
        raise e.error("data", "give either name or file")
    for key in ("target", "header", "delimiter"):
        if data.file is None and getattr(data, key) is not None:
            raise e.error(f"data.{key}", "belongs to a file; leave it out, or give data.file")
    if data.delimiter is not None and (len(data.delimiter) != 1 or data.delimiter in '\r\n"'):
        raise e.error("data.delimiter", 'must be one character, for example ","')
    if not data.features or (isinstance(data.features, str) and data.features != "all"):
        raise e.error("data.features", 'must be a list of at least one name, or "all"')
    table = e.table()
    assert table is not None
    rows, features = table.x.shape
    distinct = e.sgd.sampling in SAMPLINGS and e.sgd.sampling not in ("with_replacement", "full_batch")
    if distinct and e.sgd.batch_size > rows:
        reason = f'exceeds the {rows} examples, drawn without repeats; at most {rows}, or sampling = "with_replacement"'
        raise e.error("sgd.batch_size", reason)
    dim = features
    if e.plugin is None:
        size = catalogue("losses")[e.loss.name].settings["size"]
        parameters = {k: p.default for k, p in catalogue("losses")[e.loss.name].parameters.items()} | e.loss.parameters
        dim = arithmetic(size, {"features": features, "classes": table.classes, **parameters})
        if e.loss.start is not None and len(e.loss.start) != dim:
            raise e.error("loss.start", f"must have {dim} numbers, one for each parameter")
    _check_memory(e, dim)
    _check_integrator(e, "none" if e.sgd.sampling == "full_batch" else "diagonal" if dim == 1 else "general")
    return list(table.notes)


def _check_integrator(e: Experiment, kind: str) -> None:
    """The integrator of SGD's SDE declares that it takes noise of this kind, and any drift, as it stands."""
    fits = [
        name
        for name, entry in catalogue("integrators").items()
        if entry.settings.get("drift", "any") == "any"
        and (kind in ("none", "additive") or entry.settings["noise"] == "any")
        and kind not in entry.settings.get("needs", {})
    ]
    if e.sde.integrator not in fits:
        reason = f"does not take the SDE of this loss, whose noise is {kind}; choose one of {', '.join(fits)}"
        raise e.error("sde.integrator", reason)


def _check_memory(e: Experiment, dim: int) -> None:
    """Refuses chains whose bare positions exceed the memory, with the number that fits. The engine plans the rest."""
    free = available_bytes()
    each = dim * (8 if e.dtype == "float64" else 4) * 4 + 16
    if free is not None and each * e.chains > 0.8 * free:
        fits = int(0.8 * free / each)
        need = f"{each * e.chains / 1e9:.3g} GB and {free / 1e9:.3g} GB are free"
        raise e.error("chains", f"needs {need}; at most about {fits} fit", code=TOO_LARGE)


def available_bytes() -> int | None:
    """Memory that may still be taken: the least of what the kernel and the control group say. None if unknown."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def _at(experiment: Experiment, key: str) -> Any:
    value: Any = experiment
    for part in key.split("."):
        value = getattr(value, part)
    return value
