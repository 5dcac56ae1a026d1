"""What there is: `jaxsde list`, the catalogues, and `jaxsde doctor`, this machine."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, config
from .catalogue import CATALOGUES, Listed, catalogue, did_you_mean
from .commands import quiet
from .errors import UNAVAILABLE, ExperimentError, one_line

if TYPE_CHECKING:
    from . import cli


def list_(options: cli.List) -> int:
    """`jaxsde list`: the catalogues, from their sources."""
    if options.what is not None and options.what not in CATALOGUES:
        reason = f"no such catalogue; {did_you_mean(options.what, CATALOGUES)}"
        raise ExperimentError(reason, file="command line", key="list", value=options.what)
    which = [options.what] if options.what else list(CATALOGUES)
    if options.json:
        listed = {
            name: {
                entry.name: {
                    "summary": entry.summary,
                    "parameters": {p.name: p.default for p in entry.parameters.values()},
                    **({"settings": entry.settings} if name in ("integrators", "samplings", "samplers", "papers") else {}),
                }
                for entry in catalogue(name).values()
            }
            for name in which
        }
        print(json.dumps({"ok": True, **listed}, ensure_ascii=False), flush=True)
        return 0
    lines = []
    for name in which:
        lines.append(f"{name}: {CATALOGUES[name][2]}")
        width = max(20, *map(len, catalogue(name)))
        for entry in catalogue(name).values():
            told = ", ".join(f"{p.name} = {p.default}" for p in entry.parameters.values())
            lines.append(f"  {entry.name:<{width}} {entry.summary}" + (f"  [{told}]" if told else ""))
            lines += [f"  {'':<{width}} {entry.settings['says']}"] if "says" in entry.settings else []
            lines += [f"  {'':<{width}} {line}" for line in _declared(entry.settings)]
        if name == "integrators":
            lines += ["", "  Strong/weak orders by kind of noise:", *_table(catalogue(name).values())]
        lines.append("")
    print("\n".join(lines).rstrip(), flush=True)
    return 0


def _table(entries: Iterable[Listed]) -> list[str]:
    """The declarations of integrators, a row for each: strong/weak orders by kind of noise."""
    kinds = ("additive", "diagonal", "commutative", "general")
    rows = [["", "calculus", "noise", "drift", *kinds, "draws"]]
    for entry in entries:
        s = entry.settings
        exact = {"additive": "exact"} if not s["weak"] else {}
        orders = [f"{s['strong'][k]:g}/{s['weak'][k]:g}" if k in s["weak"] else exact.get(k, "-") for k in kinds]
        for kind, settings in s.get("needs", {}).items():  # noises that commute are there as well
            orders[kinds.index(kind)] += "".join(f" ({name}={value})" for name, value in settings.items())
        drift, laws = s.get("drift", "any"), ", ".join(s.get("laws", ("gaussian",)))
        rows.append([entry.name, s["calculus"], s["noise"], drift, *orders, laws])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _declared(settings: dict[str, Any]) -> list[str]:
    """Where a paper is; what a sampler is asked for, with its step; nothing for other things."""
    if "authors" in settings:
        return ["{authors} ({year}), {title}, {where}".format(**settings)]
    if "steps" in settings:
        return ["asked for " + ", ".join(f"{law} (step {step:g})" for law, step in settings["steps"].items())]
    return []


def doctor(options: cli.Doctor) -> int:
    """`jaxsde doctor`: what this machine has, and what is missing."""
    quiet()
    packages: dict[str, str | None] = {}
    for name in (
        "jax",
        "jaxlib",
        "jaxtyping",
        "numpy",
        "scipy",
        "optax",
        "matplotlib",
        "msgspec",
        "scikit-learn",
        "tyro",
    ):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    try:
        jax = importlib.import_module("jax")
        devices, reason, kind = [str(d) for d in jax.devices()], None, jax.devices()[0].platform
        threads = importlib.import_module(".engine.layout", __package__).workers(kind)
    except (ImportError, RuntimeError) as fault:
        devices, threads, kind, reason = [], 0, "", one_line(str(fault).split("\n", 1)[0])
    native = _native() if devices else "unknown without a device"
    memory = config.available_bytes()
    writable = {str(p): os.access(p, os.W_OK) for p in (Path.cwd(), Path(tempfile.gettempdir()))}
    ok = bool(devices) and all(packages.values())
    found = {
        "ok": ok,
        "jaxsde": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_available": memory,
        "devices": devices,
        "devices_reason": reason,
        "host_devices": len(devices) if kind == "cpu" else None,
        "tiles_at_once": threads,
        "native": native,
        "packages": packages,
        "writable": writable,
    }
    if options.json:
        print(json.dumps(found, allow_nan=False), flush=True)
        return 0 if ok else UNAVAILABLE
    missing = [name for name, version in packages.items() if version is None]
    print(f"jaxsde {__version__}, Python {found['python']}, {found['machine']}, {found['cores']} cores")
    print(f"memory available: {'unknown' if memory is None else f'{memory / 1e9:.1f} GB'}")
    print(f"devices: {', '.join(devices) or f'none ({reason})'}")
    each = ", a core each, by every executor" if threads > 1 else ""
    print(f"tiles of chains at once: {threads}{each}")
    if devices:
        print(_how_many(kind, len(devices)))
    print(f"executor native: {native}")
    print("packages: " + ", ".join(f"{name} {version}" for name, version in packages.items() if version))
    if missing:
        print(f"missing: {', '.join(missing)}; pip install 'jaxsde[app]'")
    for folder, good in writable.items():
        print(f"{folder}: {'writable' if good else 'not writable'}")
    return 0 if ok else UNAVAILABLE


def _how_many(kind: str, count: int) -> str:
    """How many devices there are, and whether more would be of use."""
    if kind != "cpu":
        return f"devices of kind {kind}: {count}; a run uses one, the first unless jax_default_device names another"
    return f"host devices: {count}; JAX_NUM_CPU_DEVICES=N makes N, for neither speed nor other bits: every core is in use already"


def _native() -> str:
    """What the executor that compiles steps for the CPU finds here, in words."""
    from .engine.executors.native import build

    if why := build.missing():
        return f"no ({why})"
    machine, place = build.machine(), build.folder()
    return f"{machine.name}, vectors of {machine.bits} bits, compiled code kept in {place or 'memory only'}"
