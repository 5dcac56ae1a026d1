"""The command `jaxsde`: run | sweep | conform | reproduce | list | doctor | report | bench.

Standard output carries data (`--json`: exactly one object, also of an error); people read standard error. A fault is one
line, `jaxsde: error: …`, and an exit code of `errors`; `--debug` adds the traceback. No JAX before every flag and file has
been checked.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from . import __version__
from .catalogue import CATALOGUES, did_you_mean
from .errors import (
    FAULT,
    INTERRUPTED,
    TERMINATED,
    TOO_LARGE,
    UNAVAILABLE,
    USAGE,
    ExperimentError,
    one_line,
)

if TYPE_CHECKING:
    from tyro.conf import Positional, UseAppendAction, arg
else:
    try:
        from tyro.conf import Positional, UseAppendAction, arg
    except ImportError:  # without the extra `app` the classes below still stand, and `main` says what to install

        def arg(**_: Any) -> None:
            return None

        Positional = UseAppendAction = None

flag = functools.partial(arg, help_behavior_hint="")  # defaults are the config's, and its words say them

NEEDS_APP = "the command line needs more packages than the library has; pip install 'jaxsde[app]'"

Text = str | None  # a value is text here; it is checked together with the config
Json = Annotated[bool, flag(help="one JSON object on standard output")]
Debug = Annotated[bool, flag(help="show tracebacks")]


@dataclass(frozen=True)
class Run:
    """Run SGD, its SDE and Langevin side by side, and say whether SGD's law is Gibbs.

    Without a config this is the main job: linear regression on two features of the diabetes data. A flag wins over the
    config. Each option is also a key of the config (README).
    """

    config: Annotated[Text, Positional, flag(metavar="CONFIG", help="a TOML file")] = None
    out: Annotated[Text, flag(metavar="DIR", help="folder for the result (runs/NAME if not given)")] = None
    seed: Annotated[Text, flag(metavar="N", help="0 to 2^64 - 1")] = None
    chains: Annotated[Text, flag(metavar="N", help="independent copies of the process")] = None
    steps: Annotated[Text, flag(metavar="N", help="steps of SGD after burn-in")] = None
    burn_in: Annotated[Text, flag(metavar="N", help="steps before the statistics begin")] = None
    every: Annotated[Text, flag(metavar="N", help="steps between two looks of the statistics")] = None
    learning_rate: Annotated[Text, flag(metavar="X", help="η")] = None
    batch_size: Annotated[Text, flag(metavar="N", help="B")] = None
    sampling: Annotated[Text, flag(metavar="NAME", help="with_replacement, without_replacement, …")] = None
    loss: Annotated[Text, flag(metavar="NAME", help="a loss or potential of jaxsde list")] = None
    data: Annotated[Text, flag(metavar="NAME|FILE", help="a data set, or a .csv, .tsv or .npz file")] = None
    target: Annotated[Text, flag(metavar="NAME|N", help="the column of that file to predict (the last)")] = None
    device: Annotated[Text, flag(metavar="NAME", help="auto, cpu or gpu")] = None
    dtype: Annotated[Text, flag(metavar="NAME", help="float32 or float64")] = None
    stream: Annotated[Text, flag(metavar="NAME", help="stream of the draws: xoshiro128+ or philox4x32-10")] = None
    max_diverged: Annotated[Text, flag(metavar="X", help="fraction of chains that may diverge (0.1)")] = None
    plugin: Annotated[Text, flag(metavar="FILE", help="a Python file with your own loss; it is run")] = None
    asserts: Annotated[
        tuple[str, ...],
        UseAppendAction,
        flag(name="assert", metavar="CHECK=ANSWER", help="exit 1 unless, e.g. gibbs=no"),
    ] = ()
    force: Annotated[bool, flag(help="write into a folder that is not empty")] = False
    json: Json = False
    debug: Debug = False


@dataclass(frozen=True)
class List:
    """List the losses, potentials, data sets, integrators and papers there are, with their parameters."""

    what: Annotated[Text, Positional, flag(metavar="WHAT", help=", ".join(CATALOGUES))] = None
    json: Json = False
    debug: Debug = False


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has: Python, packages, devices, memory, folders."""

    json: Json = False
    debug: Debug = False


@dataclass(frozen=True)
class Report:
    """Make the figures and report.html of a finished run again, from its folder alone."""

    folder: Annotated[Text, Positional, flag(metavar="DIR", help="the folder of a run")] = None
    json: Json = False
    debug: Debug = False


@dataclass(frozen=True)
class Bench:
    """Measure six workloads here, a minute in all: chain-steps per second, and how near the limit of this machine."""

    figure: Annotated[Text, flag(metavar="FILE", help="draw the bars into a .png or .svg file")] = None
    json: Json = False
    debug: Debug = False


@dataclass(frozen=True)
class Sweep:
    """KL to the Gibbs law over learning rates, batch sizes and samplings, with Langevin as the control: a table and a figure.

    The config and its flags are those of run; its steps and burn-in at its own learning rate fix the time that every setting gets.
    """

    config: Annotated[Text, Positional, flag(metavar="CONFIG", help="a TOML file")] = None
    learning_rates: Annotated[Text, flag(metavar="X,X,…", help="η (a quarter, a half and all of the config's)")] = None
    batch_sizes: Annotated[Text, flag(metavar="N,N,…", help="B (the config's)")] = None
    samplings: Annotated[Text, flag(metavar="NAME,…", help="with_replacement, … (the config's)")] = None
    temperatures: Annotated[Text, flag(metavar="X,X,…", help="kT of further Langevin runs (those that SGD predicts)")] = None
    out: Annotated[Text, flag(metavar="DIR", help="folder for the result (runs/NAME-sweep if not given)")] = None
    seed: Annotated[Text, flag(metavar="N", help="0 to 2^64 - 1")] = None
    chains: Annotated[Text, flag(metavar="N", help="independent copies of the process")] = None
    steps: Annotated[Text, flag(metavar="N", help="steps after burn-in, at the config's learning rate")] = None
    burn_in: Annotated[Text, flag(metavar="N", help="steps before, at the config's learning rate")] = None
    learning_rate: Annotated[Text, flag(metavar="X", help="the config's η")] = None
    loss: Annotated[Text, flag(metavar="NAME", help="a loss or potential of jaxsde list")] = None
    data: Annotated[Text, flag(metavar="NAME|FILE", help="a data set, or a .csv, .tsv or .npz file")] = None
    target: Annotated[Text, flag(metavar="NAME|N", help="the column of that file to predict (the last)")] = None
    stream: Annotated[Text, flag(metavar="NAME", help="stream of the draws: xoshiro128+ or philox4x32-10")] = None
    force: Annotated[bool, flag(help="write into a folder that is not empty")] = False
    json: Json = False
    debug: Debug = False


@dataclass(frozen=True)
class Conform:
    """Ask jaxsde, BlackJAX, diffrax and optax for laws that are known exactly: z-scores, and a planted error in each row.

    Exit code 1 where a row of jaxsde is wrong or a planted error is not found. `jaxsde list laws` and `jaxsde list samplers`
    name what there is; a package's name stands for all its samplers. A minute or two; with --quick a third of a minute.
    """

    laws: Annotated[Text, flag(metavar="NAME,…", help="laws of jaxsde list laws (all)")] = None
    samplers: Annotated[Text, flag(metavar="NAME,…", help="samplers of jaxsde list samplers, or packages (all)")] = None
    quick: Annotated[bool, flag(help="the short table")] = False
    seed: Annotated[Text, flag(metavar="N", help="0 to 2^32 - 1 (0)")] = None
    out: Annotated[Text, flag(metavar="FILE", help="draw it into a .png, .svg or .html file")] = None
    json: Json = False
    debug: Debug = False


@dataclass(frozen=True)
class Reproduce:
    """Measure the one computable statement of a paper, beside its formula: a table, result.json and a figure.

    Exit code 1 where a statement fails. `jaxsde list papers` names them; each takes seconds, all of them a minute or two.
    """

    paper: Annotated[Text, Positional, flag(metavar="NAME", help="a paper of jaxsde list papers, or all")] = None
    out: Annotated[Text, flag(metavar="DIR", help="folder for the result (runs/reproduce-NAME if not given)")] = None
    seed: Annotated[Text, flag(metavar="N", help="0 to 2^64 - 1 (0)")] = None
    force: Annotated[bool, flag(help="write into a folder that is not empty")] = False
    json: Json = False
    debug: Debug = False


COMMANDS: dict[str, type[Any]] = {
    "run": Run, "sweep": Sweep, "conform": Conform, "reproduce": Reproduce, "list": List, "doctor": Doctor, "report": Report,
    "bench": Bench,
}  # fmt: skip


class Terminated(BaseException):
    """SIGTERM arrived."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    as_json, debug = "--json" in arguments, "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _signals():
            return _main(arguments)
    except BrokenPipeError:
        # The reader of our output has gone; what is left in the buffer must not fail again at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as fault:
        if isinstance(fault, SystemExit):
            raise
        code, message = _judged(fault)
        if debug:
            traceback.print_exc()
        return fail(message, code, as_json)


def fail(message: str, code: int, as_json: bool, **fields: Any) -> int:
    """Says what went wrong: one line for people, one object for programs. Returns the code."""
    with contextlib.suppress(OSError):
        print(f"jaxsde: error: {one_line(message)}", file=sys.stderr, flush=True)
    if as_json:
        with contextlib.suppress(OSError):
            print(json.dumps({"ok": False, "error": message, "code": code, **fields}, allow_nan=False), flush=True)
    return code


def _main(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        print(f"jaxsde {__version__}")
        return 0
    options = _parse(_joined(arguments))
    try:
        from . import commands, inventory
    except ImportError as fault:
        raise ExperimentError(f"{NEEDS_APP} ({fault.name} is missing)", code=UNAVAILABLE) from fault
    return {
        Run: commands.run, Sweep: commands.sweep, List: inventory.list_, Doctor: inventory.doctor, Report: commands.report,
        Bench: commands.bench, Conform: commands.conform, Reproduce: commands.reproduce,
    }[type(options)](options)  # fmt: skip


def _judged(fault: BaseException) -> tuple[int, str]:
    """The exit code and the words for anything that may be raised."""
    if isinstance(fault, ExperimentError):
        return fault.code, str(fault)
    if isinstance(fault, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; nothing was written"
    if isinstance(fault, Terminated):
        return TERMINATED, "terminated; nothing was written"
    words = str(fault).split("\n", 1)[0]
    if isinstance(fault, MemoryError) or "RESOURCE_EXHAUSTED" in words:
        return TOO_LARGE, f"out of memory ({words or 'no more could be had'}); choose fewer chains"
    if isinstance(fault, OSError):
        from .output import io_code

        place = f"{fault.filename}: " if fault.filename else ""
        return io_code(fault), f"{place}{fault.strerror or words}; free space or give another folder"
    if isinstance(fault, ImportError):
        package = (fault.name or "").partition(".")[0]
        if package and package != "jaxsde":
            return UNAVAILABLE, f"the package {package} is missing; pip install 'jaxsde[app]'"
    return FAULT, f"a fault of jaxsde itself, {type(fault).__name__}: {words}; please report it with what --debug shows"


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGINT raises `KeyboardInterrupt`, a second one ends at once; SIGTERM raises `Terminated`.

    Python drops an exception that leaves a destructor or a collection of garbage; the signal is then sent again.
    """

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        raise KeyboardInterrupt

    def terminate(number: int, frame: Any) -> None:
        raise Terminated

    def dropped(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt | Terminated):
            number = signal.SIGTERM if isinstance(unraisable.exc_value, Terminated) else signal.SIGINT
            signal.signal(signal.SIGINT, interrupt)
            again = threading.Timer(0.01, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        else:
            hook(unraisable)

    try:
        before = signal.signal(signal.SIGINT, interrupt), signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread: signals are someone else's
        yield
        return
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _flags(command: str) -> dict[str, bool]:
    """Flag -> whether it takes a value."""
    flags = {"--help": False, "-h": False}
    for name, annotation in COMMANDS[command].__annotations__.items():
        if "Positional" not in annotation:
            flags["--assert" if name == "asserts" else "--" + name.replace("_", "-")] = (
                annotation not in ("Json", "Debug") and "bool" not in annotation
            )
    return flags


def _joined(arguments: list[str]) -> list[str]:
    """`--flag value` as `--flag=value`, so that a value may begin with a dash; unknown flags and commands refused."""
    if not arguments or arguments[0] in ("-h", "--help"):
        return arguments
    if arguments[0].startswith("-"):
        raise _usage(f"give a command first: {', '.join(COMMANDS)}")
    if arguments[0] not in COMMANDS:
        raise _usage(f"no command {arguments[0]!r}; {did_you_mean(arguments[0], COMMANDS)}")
    flags, joined, rest = _flags(arguments[0]), arguments[:1], list(arguments[1:])
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        name = name.replace("_", "-")
        if word.startswith("-") and word != "-" and name not in flags:
            raise _usage(f"{arguments[0]} has no flag {name}; {did_you_mean(name, flags)}")
        if name in flags and not flags[name] and equals:
            raise _usage(f"{name} takes no value; write it alone")
        if flags.get(name) and not equals:
            if not rest or rest[0] in flags:
                raise _usage(f"{name} needs a value; write {name}=VALUE")
            word = f"{name}={rest.pop(0)}"
        joined.append(word)
    return joined


def _parse(arguments: list[str]) -> Any:
    try:
        import tyro
    except ImportError as fault:
        raise ExperimentError(f"{NEEDS_APP} (tyro is missing)", code=UNAVAILABLE) from fault
    if not arguments:
        raise _usage(f"give a command first: {', '.join(COMMANDS)}")
    union: Any = None
    for name, kind in COMMANDS.items():
        one = Annotated[kind, tyro.conf.subcommand(name)]
        union = one if union is None else union | one
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                union,
                prog="jaxsde",
                description="A loss in; the law of minibatch SGD, its SDE and Gibbs out, and how far apart they are.",
                config=(tyro.conf.FlagCreatePairsOff,),
                args=arguments,
            )
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.flush()
            raise
        words = re.sub(r"[\s│─╭╮╰╯]+", " ", said.getvalue()).strip()
        raise _usage(re.sub(r"For full helptext.*", "", words).strip(" .")) from None


def _usage(reason: str) -> ExperimentError:
    return ExperimentError(f"{reason} (see jaxsde --help)", code=USAGE)
