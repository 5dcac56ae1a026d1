"""KL to the Gibbs law over learning rates, batch sizes and samplings, beside Langevin as the control.

Learning rates and temperatures, and the batch sizes of surrogate noise, are arguments of a compiled program; the statistics look
equally often in all settings. So one program is compiled for every sampling and, where examples are drawn, every batch size,
and one for Langevin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .dynamics.equations import langevin
from .dynamics.gradients import Surrogate, noise_factor
from .dynamics.noise import Scaled
from .engine.simulate import simulate
from .estimate import Estimate
from .metrics import fit_temperature
from .problems.problem import FiniteSum, Potential
from .report.reasons import noise_rate
from .report.verdict import divergence
from .statistics import Covariance, MeanLoss
from .stepping.chains import integrate, sgd
from .stepping.integrators import LeimkuhlerMatthews
from .struct import replace
from .theory.minimum import minimum

_LOOKS = 400  # samples of a chain with the most steps; a chain with the fewest has an eighth of them or one a step
_MOST = 100_000  # settings: a day or so of the shortest runs


@dataclass(frozen=True)
class Row:
    """One setting: `process` is "sgd" or "langevin" (then there is no batch); T* and KL(p‖Gibbs at T*), diverged chains."""

    process: str
    learning_rate: float
    batch_size: int | None
    sampling: str | None
    temperature: Estimate
    kl: Estimate
    diverged: int


@dataclass(frozen=True)
class Sweep:
    """The rows of a sweep, as a table (`str`), as JSON and as a figure of KL over η."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        lines = [f"{'process':<10}{'η':>10}{'B':>6}  {'sampling':<20}{'T*':>24}{'KL to Gibbs (nats)':>34}  diverged"]
        for r in self.rows:
            t = f"{r.temperature.value:.5g} ± {r.temperature.stderr:.1g}" if r.temperature.known else "unknown"
            kl = f"{r.kl.value:.4f} [{r.kl.low:.4f}, {r.kl.high:.4f}]" if r.kl.known else "unknown"
            head = f"{r.process:<10}{r.learning_rate:>10.4g}{r.batch_size or '':>6}  {r.sampling or '':<20}"
            lines.append(f"{head}{t:>24}{kl:>34}  {r.diverged or ''}")
        reasons = dict.fromkeys(e.reason for r in self.rows for e in (r.kl, r.temperature) if e.reason)
        return "\n".join([*lines, *(f"unknown: {reason}" for reason in reasons)])

    def to_json(self) -> list[dict[str, Any]]:
        return [{**vars(r), "temperature": r.temperature.to_json(), "kl": r.kl.to_json()} for r in self.rows]

    def figure(self, file: str | Path) -> Path:
        """KL over η, a line for each batch size and sampling, Langevin beside them, and what chance alone would give."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        lines: dict[str, list[Row]] = {}
        for row in self.rows:
            name = "Langevin (control)" if row.process == "langevin" else f"SGD, B = {row.batch_size}, {row.sampling}"
            lines.setdefault(name, []).append(row)
        for i, (name, rows) in enumerate(lines.items()):
            rows = sorted((r for r in rows if r.kl.known), key=lambda r: r.learning_rate)
            eta, kl, low, high = (np.array([f(r) for r in rows]) for f in (
                lambda r: r.learning_rate, lambda r: r.kl.value, lambda r: r.kl.low, lambda r: r.kl.high))  # fmt: skip
            control = name.startswith("Langevin")
            mark, color = ("x", "0.4") if control else ("osD^v"[i % 5] + "-", None)
            reach = np.maximum([kl - low, high - kl], 0)
            axes.errorbar(eta, kl, reach, fmt=mark, color=color, capsize=3, ms=8 - i % 3, mfc="none", label=name)
        floors: dict[float, float] = {}
        for r in self.rows:
            floors[r.learning_rate] = max(floors.get(r.learning_rate, 0.0), r.kl.floor or 0.0)
        rates = sorted(floors)
        axes.fill_between(rates, [floors[e] for e in rates], 0, color="0.9", label="noise floor (95 %)")
        axes.set(xscale="log", xlabel="learning rate η", ylabel="KL to the closest Gibbs law (nats)")
        axes.set_xticks(rates, [f"{e:g}" for e in rates])
        axes.minorticks_off()
        axes.set_yscale("symlog", linthresh=max(max(floors.values()), 1e-5))
        axes.set_ylim(0, 2 * max([r.kl.high for r in self.rows if r.kl.known], default=1.0))
        axes.legend(fontsize=8, frameon=False)
        figure.savefig(file, dpi=150)
        return Path(file)


def sweep(
    problem: FiniteSum | Potential,
    *,
    learning_rates: Sequence[float],
    time: float,
    burn_in: float,
    key: Any,
    batch_sizes: Sequence[int] = (1,),
    samplings: Sequence[str | None] = (None,),
    temperatures: Sequence[float] = (),
    chains: int = 4096,
    start: Any = None,
    statistics: Mapping[str, Any] | None = None,
    control: bool = True,
    stream: str | None = None,
) -> Sweep:
    """SGD at every learning rate, batch size and sampling: the temperature T* of the closest Gibbs law and the KL to it.

    `time` and `burn_in` are on the clock t = Σ η, the same for every η. `statistics` joins the covariance of the run: a
    `Histogram` for a loss that is not quadratic. With `control` Langevin runs at the temperature η tr Σ_B(Φ*)/2d that every
    setting of the first sampling predicts, and at each of `temperatures`, with dt = η, by the scheme whose law is closest to the
    SDE's: its KL should be nothing. All draw from `stream`, as in `simulate`.

    Raises `ValueError` for an empty axis, more settings than can be run, a time that is not positive, and as `sgd` does, before
    anything runs.
    """
    axes = {"learning_rates": learning_rates, "batch_sizes": batch_sizes, "samplings": samplings}
    for name, axis in axes.items():
        if isinstance(axis, str) or not len(axis):
            raise ValueError(f"{name} must be a list of at least one value, got {axis!r}")
    if not (math.isfinite(time) and time > 0 and math.isfinite(burn_in) and burn_in >= 0):
        raise ValueError(f"time must be positive and burn_in not negative, in units of t = Σ η; got {time!r} and {burn_in!r}")
    check_size(learning_rates, batch_sizes, samplings, temperatures)
    settings = [(eta, b, s) for s in samplings for b in batch_sizes for eta in learning_rates]
    made = [_one_structure(sgd(problem, learning_rate=eta, batch_size=b, sampling=s)) for eta, b, s in settings]
    x0 = problem.start if start is None else start
    most, least = (max(1, math.ceil(time / eta)) for eta in (min(learning_rates), max(learning_rates)))
    every = max(1, min(most // _LOOKS, least // (_LOOKS // 8)))
    watched = {"covariance": Covariance(), "loss": MeanLoss(problem), **(statistics or {})}

    def row(process: str, chain: Any, eta: float, b: int | None, s: str | None, number: int) -> Row:
        steps = max(1, math.ceil(time / eta))
        run = simulate(
            chain, x0, key=jax.random.fold_in(key, number), chains=chains, steps=steps, burn_in=math.ceil(burn_in / eta),
            every=every, statistics=watched, stream=stream,
        )  # fmt: skip
        gone = int(run.diverged.sum())
        if gone == chains:
            nothing = Estimate.unknown(f"all chains diverged at η = {eta:g}")
            return Row(process, eta, b, s, nothing, nothing, gone)
        if process == "sgd" and _is_silent(chain.gradient):
            nothing = Estimate.unknown(f"{s} of {b} has no noise: where it comes to rest its law is a point")
            return Row(process, eta, b, s, nothing, nothing, gone)
        return Row(process, eta, b, s, fit_temperature(run, problem), divergence(run, problem), gone)

    rows = [row("sgd", c, eta, b, c.gradient.sampling, i) for i, (c, (eta, b, _)) in enumerate(zip(made, settings, strict=True))]
    first = [(eta, c) for c, (eta, _, s) in zip(made, settings, strict=True) if s == samplings[0]]
    predicted = _temperatures(problem, first) if control else []
    wanted = [*predicted, *((eta, t) for t in temperatures for eta in learning_rates)]
    for i, (eta, kt) in enumerate(dict.fromkeys(wanted)):
        chain = integrate(langevin(problem, temperature=kt), LeimkuhlerMatthews(), dt=eta)
        rows.append(row("langevin", chain, eta, None, f"kT = {kt:.4g}", len(settings) + i))
    return Sweep(tuple(rows))


def _is_silent(gradient: Any) -> bool:
    return gradient.sampling != "alpha_stable" and noise_factor(gradient) == 0


def _one_structure(chain: Any) -> Any:
    """A chain of surrogate noise with the factor 1/B as a leaf at B = 1 too, so that one program does for all B."""
    ghat = chain.gradient
    if not isinstance(ghat, Surrogate) or isinstance(ghat.noise, Scaled) or ghat.noise.kind == "none":
        return chain
    noise = Scaled(ghat.noise, jnp.asarray(1.0 / ghat.batch_size), ghat.noise.dim, ghat.noise.kind)
    return replace(chain, gradient=replace(ghat, noise=noise))


def check_size(learning_rates: Sized, batch_sizes: Sized, samplings: Sized, temperatures: Sized) -> None:
    """`ValueError` with the number of settings where there are too many to run."""
    count = len(learning_rates) * (len(batch_sizes) * len(samplings) + len(temperatures))
    if count > _MOST:
        raise ValueError(
            f"a sweep of {count} settings ({len(learning_rates)} learning rates × {len(batch_sizes)} batch sizes × "
            f"{len(samplings)} samplings, and {len(temperatures)} temperatures at each learning rate): at most {_MOST}; give fewer"
        )


def _temperatures(problem: Any, chains: list[tuple[float, Any]]) -> list[tuple[float, float]]:
    """(η, η tr Σ_B(Φ*)/2d) of every chain; none where there is no minimum or no noise."""
    try:
        centre = jnp.asarray(minimum(problem), problem.start.dtype)
    except ValueError:
        return []
    rate = jax.jit(noise_rate)
    found = [(eta, float(np.trace(np.asarray(rate(c, centre), np.float64))) / (2 * problem.dim)) for eta, c in chains]
    return [(eta, kt) for eta, kt in found if kt > 0]
