"""What the page says in words and tables: each function reads one part of a result and returns plain text for the template.

A result may come from a file that somebody edited, so a part that is missing or of another kind gives nothing, not a fault.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .plots import component_names
from .shapes import answer
from .style import PROCESSES, interval, number, triple

_SHOWN = 6  # a covariance of more components than this is in the arrays, not in the page
TITLES = {
    "density": "The laws",
    "covariance": "Covariances",
    "kl_over_time": "Distance from Gibbs over time",
    "noise": "The gradient noise",
    "mean_loss": "Mean loss",
}
_SETTING = {
    "learning_rate": "learning rate η",
    "batch_size": "batch size B",
    "sampling": "sampling",
    "dimension": "parameters",
    "chains": "chains",
    "burn_in": "steps before measuring",
    "steps": "steps measured",
    "seed": "seed",
    "dtype": "precision",
    "stream": "stream of the draws",
    "executor": "executor",
    "device": "device",
    "chain_steps_per_second": "SGD chain-steps per second",
}


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def checks(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """The verdict's three questions with answer and sentence."""
    asked = {"stationary": "Stationary?", "gibbs": "Gibbs?", "equilibrium": "In equilibrium?"}
    verdict = mapping(result.get("verdict"))
    details = mapping(verdict.get("checks"))
    return [
        {
            "asked": words,
            "answer": answer(verdict[name]),
            "sentence": str(mapping(details.get(name)).get("sentence", "")),
        }
        for name, words in asked.items()
        if name in verdict
    ]


def setting(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, as (word, value)."""
    rows = []
    for name, word in _SETTING.items():
        value = result.get(name)
        if isinstance(value, dict):
            value = value.get("platform") or value.get("kind") or ", ".join(f"{k} {v}" for k, v in value.items())
        if value is not None:
            rows.append((word, _quantity(name, value)))
    return rows


def _quantity(name: str, value: Any) -> str:
    if name == "learning_rate" and isinstance(value, float):
        return repr(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int) and not isinstance(value, bool) and name != "seed":
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return str(value)


def processes(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each KL: who, the number with its interval or why there is none, the estimator's floor."""
    kls, gone, rows = mapping(result.get("kl")), mapping(result.get("diverged")), []
    for name in (*PROCESSES, "sgd_vs_sde"):
        if name not in kls:
            continue
        estimate = mapping(kls[name])
        label = PROCESSES[name].label if name in PROCESSES else "SGD to its SDE"
        told = gone.get(name)
        count = told.get("count") if isinstance(told, dict) else told
        rows.append(
            {
                "name": name,
                "label": label + (" (the control)" if name == "langevin" else ""),
                "kl": interval(kls[name], 4) if triple(kls[name])[0] is not None else None,
                "reason": estimate.get("reason") or "no reason was given",
                "floor": number(triple(estimate.get("floor"))[0], 2) if estimate.get("floor") is not None else "",
                "note": str(estimate.get("note") or ""),
                "variance": _trace(result, name),
                "diverged": "" if count is None else str(count),
            }
        )
    return rows


def estimators(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(estimator, the processes that it measured), in the order of the table."""
    used: dict[str, list[str]] = {}
    for name, estimate in mapping(result.get("kl")).items():
        words = mapping(estimate).get("estimator")
        if words:
            used.setdefault(str(words), []).append(PROCESSES[name].label if name in PROCESSES else "SGD to its SDE")
    return [(words, "; ".join(names)) for words, names in used.items()]


def _trace(result: Mapping[str, Any], name: str) -> str:
    entries = matrix(mapping(result.get("covariance")).get(name))
    return "" if entries is None else number(float(np.trace(entries)), 4)


def matrix(value: Any) -> np.ndarray | None:
    """A covariance from result.json, bare or an estimate's value; None where it is unknown."""
    value = value.get("value") if isinstance(value, dict) else value
    if not isinstance(value, list) or not value:
        return None
    try:
        entries = np.atleast_2d(np.asarray(value, dtype=float))
    except (TypeError, ValueError):
        return None
    square = entries.ndim == 2 and entries.shape[0] == entries.shape[1]
    return entries if square and np.all(np.isfinite(entries)) else None


def temperature(result: Mapping[str, Any]) -> dict[str, str | None]:
    """T* as fitted and as predicted, or why it is unknown; None where the result says nothing."""
    told = mapping(result.get("temperature"))

    def shown(value: Any) -> str:
        if triple(value)[0] is not None:
            return interval(value, 4)
        return f"unknown ({mapping(value).get('reason') or 'no reason was given'})"

    return {name: shown(told[name]) if name in told else None for name in ("fit", "predicted")}


def sections(result: Mapping[str, Any], pictures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each figure with the reasons that it shows beside it; reasons without a figure come last."""
    groups: dict[str, list[dict[str, str]]] = {name: [] for name in TITLES if name in pictures}
    other: list[dict[str, str]] = []
    reasons = mapping(result.get("verdict")).get("reasons")
    for reason in reasons if isinstance(reasons, list) else ():
        reason = mapping(reason)
        holds = {"yes": "holds", "no": "does not hold"}.get(answer(reason.get("holds")), "not known")
        row = {"name": str(reason.get("name", "")), "holds": holds, "sentence": str(reason.get("sentence") or "")}
        groups.get(Path(str(reason.get("figure") or "")).stem, other).append(row)
    made = [{"name": n, "title": TITLES[n], "svg": pictures[n], "reasons": told} for n, told in groups.items()]
    return [*made, {"name": "other", "title": "Other reasons", "svg": None, "reasons": other}] if other else made


def covariance(result: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The entries of every covariance: {heads, rows [(law, cells)], unknown [(law, reason)]}."""
    words = {name: process.label for name, process in PROCESSES.items()}
    words |= {f"theory_{name}": f"{words[name]}, theory" for name in ("sgd", "sde", "frozen")} | {"gibbs": "Gibbs"}
    order = ("sgd", "theory_sgd", "sde", "theory_sde", "frozen", "theory_frozen", "langevin", "gibbs")
    told = mapping(result.get("covariance"))
    known = {name: entries for name in order if (entries := matrix(told.get(name))) is not None}
    unknown = [(words[n], str(mapping(told.get(n)).get("reason"))) for n in order if mapping(told.get(n)).get("reason")]
    if not known:
        return {"heads": [], "rows": [], "unknown": unknown}
    dim = len(next(iter(known.values())))
    if dim > _SHOWN:
        unknown.append(("The entries", f"arrays.npz holds them; there are {dim} components"))
        return {"heads": [], "rows": [], "unknown": unknown}
    names = [str(name) for name in component_names(arrays, dim)]
    pairs = [(i, j) for i in range(dim) for j in range(i, dim)]
    heads = [f"Var {names[i]}" if i == j else f"Cov {names[i]}, {names[j]}" for i, j in pairs]
    rows = []
    for name, entries in known.items():
        low, high = (matrix(mapping(told[name]).get(end)) for end in ("low", "high"))
        bounded = low is not None and high is not None and low.shape == high.shape == entries.shape
        cells = []
        for i, j in pairs if len(entries) == dim else ():
            bounds = {"low": float(low[i, j]), "high": float(high[i, j])} if bounded else {}  # pyright: ignore[reportOptionalSubscript]
            cells.append(interval({"value": float(entries[i, j]), **bounds}, 4))
        rows.append((words[name], cells))
    return {"heads": heads, "rows": rows, "unknown": unknown}


def noise(arrays: Mapping[str, np.ndarray]) -> list[tuple[str, str, str]]:
    """(N, measured, √N × one) of the first component, for those who cannot see the figure."""
    if not all(f"noise_{part}" in arrays for part in ("n", "std", "sd1")):
        return []
    counts = np.ravel(arrays["noise_n"])
    measured = np.asarray(arrays["noise_std"]).reshape(len(counts), -1)[:, 0]
    one = float(np.ravel(arrays["noise_sd1"])[0])
    return [
        (str(int(n)), number(float(x), 4), number(one * float(n) ** 0.5, 4))
        for n, x in zip(counts, measured, strict=True)
    ]


def diverged(result: Mapping[str, Any]) -> list[str]:
    """A sentence for each process of which chains diverged."""
    out = []
    for name, one in mapping(result.get("diverged")).items():
        details = mapping(one)
        count = details.get("count") if isinstance(one, dict) else one
        if not count:
            continue
        label = PROCESSES[name].label if name in PROCESSES else str(name)
        fraction, first, note = (details.get(part) for part in ("fraction", "first_step", "note"))
        share = "" if fraction is None else f" ({number(100 * fraction, 2)} % of them)"
        when = "" if first is None else f", the first at step {first}"
        out.append(f"{label}: {count} chains diverged{share}{when}{f'; {note}' if note else ''}.")
    return out


def notes(result: Mapping[str, Any]) -> list[str]:
    """What the run wants its reader to know."""
    told = result.get("notes")
    return [str(note) for note in told] if isinstance(told, list) else []


def command(result: Mapping[str, Any]) -> str:
    """The command that repeats the run."""
    name = str(result.get("experiment") or "run")
    return f"jaxsde run config.toml --out {shlex.quote(f'runs/{name}-again')}"
