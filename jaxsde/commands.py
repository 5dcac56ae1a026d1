"""What each command does: run | sweep | conform | reproduce | report | bench; list and doctor are in inventory.py."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import config, output
from .catalogue import catalogue, did_you_mean
from .errors import DIVERGED, FAILED_CHECK, NO_INPUT, UNAVAILABLE, USAGE, ExperimentError, one_line
from .experiment import Experiment

if TYPE_CHECKING:
    from . import cli

# Flag of `run` -> key of the config.
_KEYS = {
    "learning_rate": "sgd.learning_rate",
    "batch_size": "sgd.batch_size",
    "sampling": "sgd.sampling",
    "loss": "loss.name",
    "target": "data.target",
}
_ANSWERS = {
    "gibbs": ("yes", "no", "undecided"),
    "stationary": ("yes", "no", "undecided"),
    "equilibrium": ("yes", "no", "undecided"),
}


def run(options: cli.Run) -> int:
    """`jaxsde run`: checks everything, runs the job, writes the folder, says the verdict."""
    experiment = config.load(options.config, _given(options), plugin=options.plugin)
    wanted = _wanted(options.asserts)
    _check_device(experiment)

    def misplaced(reason: str, **fields: Any) -> ExperimentError:
        if "out" in experiment.places:
            return experiment.error("out", reason, **fields)
        return ExperimentError(reason, key="out", **fields)

    out = output.take(experiment.out, experiment.title, force=options.force, error=misplaced)
    with out:
        for note in experiment.notes:
            say(f"note: {note}")
        quiet()
        device = _start_jax(experiment)
        job = importlib.import_module(".job", __package__)
        result = job.run_experiment(experiment, progress=sys.stderr.isatty() and not options.json)
        arrays, summary = result.pop("arrays", {}), result.pop("summary", None)
        fault = _diverged(result, experiment)
        head = {"ok": fault is None, "experiment": experiment.title, "seed": experiment.seed, "device": device}
        result = {**head, **result, "notes": [*experiment.notes, *result.get("notes", ())], "out": str(out.path)}
        np.savez_compressed(out.staging / "arrays.npz", allow_pickle=False, **arrays)
        (out.staging / "config.toml").write_text(experiment.resolved(), encoding="utf-8")
        output.write_json(out.staging / output.RESULT, result)
        importlib.import_module(".report.page", __package__).write(out.staging)
        files = sorted(str(p.relative_to(out.staging)) for p in out.staging.rglob("*") if p.is_file())
        result = output.plain({**result, "files": files})
        output.write_json(out.staging / output.RESULT, result)
        out.publish()
    if fault is not None:
        from .cli import fail

        told = {k: v for k, v in result.items() if k != "ok"}
        return fail(f"{fault} (what there is to see is in {out.path})", fault.code, options.json, **told)
    if summary:
        print(summary, file=sys.stderr, flush=True)
    say(f"{len(files)} files in {out.path}; the report is {out.path / 'report.html'}")
    failed = [check for check, answer in wanted.items() if _answer(result, check) != answer]
    for check in failed:
        say(f"assert failed: {check} is {_answer(result, check)}, not {wanted[check]}")
    if options.json:
        print(json.dumps({**result, "asserts_failed": failed}, ensure_ascii=False, allow_nan=False), flush=True)
    return FAILED_CHECK if failed else 0


def sweep(options: cli.Sweep) -> int:
    """`jaxsde sweep`: one row for every setting, a table, result.json and sweep.png."""
    experiment = config.load(options.config, _given(options))
    eta = experiment.sgd.learning_rate
    rates = _several(options.learning_rates, "--learning-rates", float, [eta / 4, eta / 2, eta])
    sizes = _several(options.batch_sizes, "--batch-sizes", int, [experiment.sgd.batch_size])
    samplings = _several(options.samplings, "--samplings", str, [experiment.sgd.sampling])
    temperatures = _several(options.temperatures, "--temperatures", float, [])
    quiet()
    _start_jax(experiment)
    sweeps, random = (importlib.import_module(f".{name}", __package__) for name in ("sweeps", "random"))
    try:
        sweeps.check_size(rates, sizes, samplings, temperatures)
    except ValueError as fault:
        raise ExperimentError(one_line(str(fault)), file="command line") from fault
    out = output.take(
        experiment.out, f"{experiment.title}-sweep", force=options.force,
        error=lambda reason, **fields: ExperimentError(reason, key="out", **fields),
    )  # fmt: skip
    with out:
        try:
            found = sweeps.sweep(
                experiment.problem(), learning_rates=rates, batch_sizes=sizes, samplings=samplings, temperatures=temperatures,
                chains=experiment.chains, time=experiment.steps * eta, burn_in=(experiment.burn_in or 0) * eta,
                key=random.key(experiment.seed), stream=experiment.stream,
            )  # fmt: skip
        except ValueError as fault:
            raise ExperimentError(one_line(str(fault)), file="command line", code=USAGE) from fault
        head = {"ok": True, "experiment": experiment.title, "stream": experiment.stream}
        result = output.plain({**head, "rows": found.to_json(), "out": str(out.path)})
        (out.staging / "config.toml").write_text(experiment.resolved(), encoding="utf-8")
        found.figure(out.staging / "sweep.png")
        output.write_json(out.staging / output.RESULT, result)
        out.publish()
    print(json.dumps(result, ensure_ascii=False, allow_nan=False) if options.json else str(found), flush=True)
    say(f"the figure is {out.path / 'sweep.png'}")
    return 0


def conform(options: cli.Conform) -> int:
    """`jaxsde conform`: the table, perhaps a figure, and 1 where a row of jaxsde is wrong or a planted error is missed."""
    for kind, flag, text in (("laws", "--laws", options.laws), ("samplers", "--samplers", options.samplers)):
        known = [*catalogue(kind), *({e.settings["package"] for e in catalogue(kind).values()} if kind == "samplers" else ())]
        for name in _several(text, flag, str, []):
            if name not in known:
                raise ExperimentError(f"no such name; {did_you_mean(name, known)}", file="command line", key=flag, value=name)
    seed = _seed(options.seed, bits=32)
    file = Path(options.out) if options.out else None
    if file is not None and (file.suffix not in (".png", ".svg", ".html") or not file.absolute().parent.is_dir()):
        raise ExperimentError(f"--out {options.out!r}: give a .png, .svg or .html file in a folder that exists", code=USAGE)
    quiet()
    _start_jax(Experiment())
    module = importlib.import_module(".conformance", __package__)
    laws, samplers = (_several(text, "", str, []) or None for text in (options.laws, options.samplers))
    try:
        count = len(module.pairs(laws, samplers, quick=options.quick))
    except ValueError as fault:
        raise ExperimentError(one_line(str(fault)), file="command line") from None
    done = iter(range(1, count + 1))
    found = module.conform(
        laws, samplers, quick=options.quick, seed=seed,
        tell=lambda row: say(f"{next(done)} of {count}: {row.sampler} on {row.law}: {row.sentence}"),
    )  # fmt: skip
    failed = [row for row in found.wrong if row.package == "jaxsde"] or list(found.missed)
    told = {"ok": not failed, **found.to_json()}
    print(json.dumps(told, ensure_ascii=False, allow_nan=False) if options.json else found, flush=True)
    if file is not None:
        say(str(found.figure(file)) if any(row.z is not None for row in found.rows) else "no figure: no row was measured")
    return FAILED_CHECK if failed else 0


def reproduce(options: cli.Reproduce) -> int:
    """`jaxsde reproduce`: the statement of one paper or of all, a figure for each, and 1 where one fails."""
    papers = catalogue("papers")
    if options.paper is None or options.paper not in (*papers, "all"):
        reason = f"{'no such paper' if options.paper else 'names no paper'}; {did_you_mean(options.paper or '', [*papers, 'all'])}"
        raise ExperimentError(reason, file="command line", key="reproduce", value=options.paper or "")
    seed = _seed(options.seed, bits=64)
    names = list(papers) if options.paper == "all" else [options.paper]
    out = output.take(
        options.out, f"reproduce-{options.paper}", force=options.force,
        error=lambda reason, **fields: ExperimentError(reason, key="out", **fields),
    )  # fmt: skip
    with out:
        quiet()
        _start_jax(Experiment())
        module, random, style = (importlib.import_module(f".{n}", __package__) for n in ("reproduce", "random", "report.style"))
        statements = {}
        for name in names:
            say(f"{name}: {module.PAPERS[name].reference}")
            found = module.reproduce(name, key=random.key(seed))
            (out.staging / f"{name}.png").write_bytes(style.files(found.draw())["png"])
            statements[name] = {"reference": module.PAPERS[name].reference, **found.to_json()}
            if not options.json:
                print(found, flush=True)
        failed = [name for name, told in statements.items() if not told["passed"]]
        files = [*(f"{name}.png" for name in names), output.RESULT]
        result = output.plain({"ok": not failed, "seed": seed, "papers": statements, "out": str(out.path), "files": files})
        output.write_json(out.staging / output.RESULT, result)
        out.publish()
    if options.json:
        print(json.dumps(result, ensure_ascii=False, allow_nan=False), flush=True)
    told = f"{len(failed)} of {len(names)} failed: {', '.join(failed)}" if failed else f"{len(names)} of {len(names)} passed"
    say(f"{told}; the figures are in {out.path}")
    return FAILED_CHECK if failed else 0


def _seed(text: str | None, *, bits: int) -> int:
    """`--seed`, 0 if it is not given."""
    text = text or "0"
    if not (text.isascii() and text.isdecimal() and int(text) < 2**bits):
        raise ExperimentError(f"must be a whole number from 0 to 2^{bits} - 1", file="command line", key="--seed", value=text)
    return int(text)


def _several(text: str | None, name: str, kind: Any, default: list[Any]) -> list[Any]:
    """`0.01,0.02` -> [0.01, 0.02]."""
    if text is None:
        return default
    try:
        values = [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values:
        what = {float: "numbers, such as 0.01,0.02", int: "whole numbers, such as 1,4", str: "names"}[kind]
        raise ExperimentError(f"must be {what}", file="command line", key=name, value=text)
    return values


def report(options: cli.Report) -> int:
    """`jaxsde report DIR`: the figures and the page again, from what the folder holds."""
    folder = Path(options.folder or "")
    if options.folder is None or not (folder / output.RESULT).is_file():
        reason = f"holds no {output.RESULT}; give the folder of a finished run"
        raise ExperimentError(reason, code=NO_INPUT, file="command line", key="report", value=options.folder or "")
    quiet()
    try:
        written = json.loads((folder / output.RESULT).read_text(encoding="utf-8"))
        if not isinstance(written, dict):
            raise ValueError("not an object")
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            names = list(arrays)
    except FileNotFoundError as fault:
        reason = "is missing; run the experiment again"
        raise ExperimentError(reason, code=NO_INPUT, file=fault.filename) from None
    except (ValueError, OSError, EOFError) as fault:
        reason = f"is not what a run writes ({one_line(str(fault))}); run the experiment again"
        raise ExperimentError(reason, file=folder) from None
    try:
        importlib.import_module(".report.page", __package__).write(folder)
    except ExperimentError:
        raise
    except (ValueError, KeyError, TypeError) as fault:
        reason = f"is not what a run writes ({type(fault).__name__}: {one_line(str(fault))}); run the experiment again"
        raise ExperimentError(reason, file=folder) from fault
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    if options.json:
        print(json.dumps({"ok": True, "out": str(folder), "files": files, "arrays": len(names)}), flush=True)
    say(f"{len(files)} files in {folder}; the report is {folder / 'report.html'}")
    return 0


def bench(options: cli.Bench) -> int:
    """`jaxsde bench`: the speed of this machine, and of the limit how much."""
    figure = Path(options.figure) if options.figure else None
    if figure is not None and (figure.suffix not in (".png", ".svg") or not figure.absolute().parent.is_dir()):
        raise ExperimentError(f"--figure {options.figure!r}: give a .png or .svg file in a folder that exists", code=USAGE)
    quiet()
    from . import bench as benchmark

    try:
        rows = benchmark.measure(tell=lambda line: None)
    except ModuleNotFoundError as fault:
        cure = "install the wheel or run it in a checkout"
        raise ExperimentError(f"jaxsde bench: {one_line(str(fault))}; {cure}", code=UNAVAILABLE) from None
    drawn = figure is not None and benchmark.figure(rows, figure)
    if options.json:
        print(json.dumps({"verdict": benchmark.verdict(rows), "rows": rows}, allow_nan=False), flush=True)
        return 0
    print(f"{benchmark.table(rows)}\n\n{benchmark.verdict(rows)}", flush=True)
    if figure is not None:
        say(str(figure) if drawn else f"no figure: there is {benchmark.unmeasured()}")
    return 0


def say(text: str) -> None:
    """One line for people, on standard error."""
    print(f"jaxsde: {one_line(text)}", file=sys.stderr, flush=True)


def _given(options: cli.Run | cli.Sweep) -> dict[str, tuple[str, str]]:
    """The flags that were given: dotted key -> (flag, text)."""
    given = {}
    for name in ("out", "seed", "chains", "steps", "burn_in", "every", "device", "dtype", "stream", "max_diverged", *_KEYS):
        text = getattr(options, name, None)
        if text is not None:
            given[_KEYS.get(name, name)] = ("--" + name.replace("_", "-"), text)
    if options.data is not None:
        is_file = options.data not in catalogue("data") and ("." in options.data or os.sep in options.data)
        given["data.file" if is_file else "data.name"] = ("--data", options.data)
    return given


def _wanted(asserts: tuple[str, ...]) -> dict[str, str]:
    """`gibbs=no` -> {"gibbs": "no"}; 65 for a check or an answer there is not."""
    wanted = {}
    for one in (part.strip() for text in asserts for part in text.split(",")):
        check, _, answer = one.partition("=")
        if check not in _ANSWERS or answer not in _ANSWERS[check]:
            told = did_you_mean(check, _ANSWERS) if check not in _ANSWERS else f"answers: {', '.join(_ANSWERS[check])}"
            raise ExperimentError(f"no such check; {told}", file="command line", key="--assert", value=one)
        wanted[check] = answer
    return wanted


def _answer(result: dict[str, Any], check: str) -> str:
    """The verdict's answer as yes, no or undecided, whether it says so in words or as true, false, null."""
    answer = (result.get("verdict") or {}).get(check)
    answer = answer.get("answer") if isinstance(answer, dict) else answer
    return {True: "yes", False: "no", None: "undecided"}.get(answer, str(answer))


def _diverged(result: dict[str, Any], experiment: Experiment) -> ExperimentError | None:
    """The fault of a run in which more chains diverged than may: `diverged` maps a process to its count and first step."""
    for process, told in (result.get("diverged") or {}).items():
        if isinstance(told, dict) and told["fraction"] > experiment.max_diverged:
            reason = (
                f"{told['count']} chains of {process} diverged (fraction {told['fraction']:.3g} > max_diverged = "
                f"{experiment.max_diverged:g}), the first at step {told['first_step']}; lower the learning rate"
            )
            return experiment.error("sgd.learning_rate", reason, code=DIVERGED)
    return None


def _check_device(experiment: Experiment) -> None:
    """A GPU that is asked for needs at least a plugin for one; whether there is one JAX must say."""
    plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin", "jax_rocm60_plugin")
    if experiment.device == "gpu" and not any(map(importlib.util.find_spec, plugins)):
        cure = "pip install 'jaxsde[cuda13]' on a machine that has one, or choose cpu or auto"
        raise experiment.error("device", f"no GPU support is installed; {cure}", code=UNAVAILABLE)


def quiet() -> None:
    """Keeps libraries from talking where nobody asked: no display, no home and no GPU are all well."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["MPLBACKEND"] = "Agg"
    warnings.simplefilter("ignore", RuntimeWarning)  # overflow in a chain that diverges is counted and reported
    for name in ("jax._src.xla_bridge", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _start_jax(experiment: Experiment) -> str:
    """Starts JAX on the device and with the dtype that are asked for, and returns the device's kind."""
    jax = importlib.import_module("jax")
    if experiment.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if experiment.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        device = jax.devices("gpu" if experiment.device == "gpu" else None)[0]
    except RuntimeError as fault:
        words = one_line(str(fault).split("\n", 1)[0])
        if experiment.device == "auto" and not os.environ.get("JAX_PLATFORMS"):
            jax.config.update("jax_platforms", "cpu")
            say(f"note: running on the CPU ({words})")
            return str(jax.devices()[0].device_kind)
        raise experiment.error("device", f"{words}; choose cpu or auto", code=UNAVAILABLE) from None
    jax.config.update("jax_default_device", device)
    return str(device.device_kind)
