"""A run as data: what a config may say, and its defaults. `config.load` makes one from a TOML file and flags.

The defaults are the main job: minibatch SGD (B = 1) of linear regression on two features of the diabetes data. Nothing
here starts JAX until `Experiment.problem` is called.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import msgspec

from . import toml
from .catalogue import catalogue
from .errors import BAD_INPUT, ExperimentError
from .plugin import Plugin
from .problems import data as datasets

PLUGIN = "plugin"  # the name of the loss that --plugin FILE brings


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[data]: a data set by `name` with its own `parameters`, or a `file`; see `problems.data.load`."""

    name: str | None = None
    file: str | None = None
    features: list[str | int] | str | None = None  # "all", or those of the catalogue
    target: str | int | None = None
    standardize: bool | None = None
    intercept: bool = False
    header: bool | None = None
    delimiter: str | None = None
    parameters: dict[str, Any] = {}


class Loss(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[loss]: a loss or potential by `name` with its own `parameters`, and perhaps another `start` (flat)."""

    name: str = "squared_error"
    start: list[float] | None = None
    parameters: dict[str, Any] = {}


class Sgd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[sgd]: Φ' = Φ − η ĝ, with ĝ the mean over `batch_size` examples drawn as `sampling` says."""

    learning_rate: float = 0.05
    batch_size: int = 1
    sampling: str = "with_replacement"


class Sde(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[sde]: how the SDEs are integrated: `substeps` steps of `integrator` for each step of SGD, dt = η/substeps."""

    integrator: str = "euler_maruyama"
    substeps: int = 4


class Noise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[noise]: Σ of a potential: a number σ² (Σ = σ²I), a list of variances, or a matrix."""

    covariance: float | list[Any] = 1.0


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run as data. Made by `config.load`, which checks it; every default that depends on the rest is filled in."""

    name: str | None = None
    out: str | None = None
    seed: int = 0
    chains: int = 4096
    steps: int = 2000
    burn_in: int | None = None  # steps // 4
    every: int = 16
    groups: int = 32
    device: str = "auto"
    dtype: str = "float32"
    stream: str = "xoshiro128+"
    max_diverged: float = 0.1
    data: Data | None = None
    loss: Loss = Loss()
    sgd: Sgd = Sgd()
    sde: Sde = Sde()
    noise: Noise | None = None
    plugin: Plugin | None = None
    notes: tuple[str, ...] = ()
    places: dict[str, toml.Place] = {}

    @property
    def family(self) -> str:
        """Which kind the loss is of: "losses" (a mean over examples) or "potentials"."""
        if self.plugin is not None:
            return "losses" if self.plugin.function == "example_loss" else "potentials"
        return "losses" if self.loss.name in catalogue("losses") else "potentials"

    @property
    def title(self) -> str:
        """A name for folders and headings: `name`, or the data and the loss."""
        if self.name:
            return self.name
        loss = Path(self.plugin.file).stem if self.plugin else self.loss.name
        source = None if self.data is None else self.data.name or Path(str(self.data.file)).stem
        return f"{source}-{loss}" if source else loss

    def table(self) -> datasets.Prepared | None:
        """The data, read, checked and standardised once; None for a potential."""
        if self.data is None:
            return None
        target = self.plugin.target if self.plugin else catalogue("losses")[self.loss.name].settings["target"]
        try:
            return _table(msgspec.json.encode(self.data), target)
        except ExperimentError as error:
            if error.file is not None or not str(error.key).startswith("data"):
                raise
            raise self.error(str(error.key), error.reason, code=error.code) from None

    def problem(self) -> Any:
        """The `FiniteSum` or `Potential` that this experiment is about. Imports JAX, and runs the plugin if there is one."""
        from .problems.build import build_problem

        return build_problem(self)

    def error(self, key: str, reason: str, *, code: int = BAD_INPUT) -> ExperimentError:
        """The error that says what is wrong with a key, at the place where it was given."""
        section, _, name = key.rpartition(".")
        holder = getattr(self, section, None) if section else self
        value = getattr(holder, name, getattr(holder, "parameters", {}).get(name))
        return error_at(key, value, reason, self.places, code)

    def resolved(self) -> str:
        """The TOML of this experiment with every default written out; running it again repeats the run."""
        tree = msgspec.to_builtins(self)
        for key in ("notes", "places", "out", "plugin"):
            tree.pop(key)
        for section in ("data", "loss"):
            if tree[section]:
                tree[section] |= tree[section].pop("parameters")
        if self.data is not None and self.data.file is not None:
            tree["data"]["file"] = str(Path(self.data.file).absolute())
        head = f"# with --plugin {self.plugin.file}\n" if self.plugin else ""
        return head + toml.write(tree)


def error_at(
    key: str, value: Any, reason: str, places: dict[str, toml.Place], code: int = BAD_INPUT
) -> ExperimentError:
    """`ExperimentError` for a dotted key, with the file, line, flag and wording that gave its value."""
    place = toml.nearest(places, key)
    exact = places.get(key) is place
    text = place.text if exact else None
    return ExperimentError(
        reason, code=code, file=place.file, line=place.line, key=place.flag or key, value=value, text=text
    )


@functools.lru_cache(maxsize=2)
def _table(encoded: bytes, loss_target: str) -> datasets.Prepared:
    fields = msgspec.json.decode(encoded)
    parameters = fields.pop("parameters")
    return datasets.load(**fields, **parameters, loss_target=loss_target)
