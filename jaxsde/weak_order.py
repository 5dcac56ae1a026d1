"""How far apart are the averages of SGD and of its models, and how does that fall with the learning rate?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from .dynamics.equations import flat, sgd_sde
from .engine.simulate import simulate
from .estimate import CONFIDENCE, Estimate
from .stepping.chains import integrate, sgd, svag
from .stepping.couplings import TwoLevels, extrapolated, two_levels
from .stepping.integrators import EulerMaruyama, Heun, Platen
from .theory.minimum import minimum

METHODS = ("order 1", "order 2", "frozen", "svag")


@dataclass(frozen=True)
class WeakErrors:
    """`errors[method][observable]` has an `Estimate` of |E f(SGD) − E f(model)| for every learning rate; `slopes` that of its
    logarithm on log η, where the errors stand out of their noise. `time` is t = Σ η at which they are taken."""

    learning_rates: tuple[float, ...]
    time: float
    errors: dict[str, dict[str, list[Estimate]]]
    slopes: dict[str, dict[str, Estimate]]

    def __str__(self) -> str:
        rates = "".join(f"{'η = ' + format(e, '.3g'):>24}" for e in self.learning_rates)
        head = f"{'model':<10}{'observable':<14}{rates}   slope"
        lines = [f"|E f(SGD) − E f(model)| at t = {self.time:g}", head]
        for method, of in self.errors.items():
            for name, row in of.items():
                cells = "".join(f"{f'{e.value:.3g} ± {e.stderr:.1g}':>24}" for e in row)
                slope = self.slopes[method][name]
                fitted = f"{slope.value:.2f} ± {slope.stderr:.2f}" if slope.known else "-"
                lines.append(f"{method:<10}{name:<14}{cells}   {fitted}")
        return "\n".join(lines)

    def figure(self, file: str | Path) -> Path:
        """Draws the errors over the learning rate, a panel for each observable, with lines of slope 1 and 2."""
        from matplotlib.figure import Figure

        names = list(next(iter(self.errors.values())))
        figure = Figure(figsize=(4.8 * len(names), 4.6), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        eta = np.asarray(self.learning_rates)
        for axes, name in zip(panels, names, strict=True):
            for i, (method, of) in enumerate(self.errors.items()):
                value, error = (np.array([getattr(e, w) for e in of[name]]) for w in ("value", "stderr"))
                slope = self.slopes[method][name]
                label = method + (f"  (slope {slope.value:.2f} ± {slope.stderr:.2f})" if slope.known else "  (within its noise)")
                reach = stats.norm.isf((1 - CONFIDENCE) / 2) * error
                axes.errorbar(eta, value, reach, fmt="osD^"[i % 4], ms=5, capsize=3, label=label)
            top = max(e.value for of in self.errors.values() for e in of[name])
            for power in (1, 2):
                line = top * (eta / eta.max()) ** power
                axes.plot(eta, line, color="0.7", lw=1, ls=("-", "--")[power - 1], zorder=0, label=f"slope {power}")
            axes.set(xscale="log", yscale="log", xlabel="learning rate η", title=f"f = {name}")
            axes.set_xticks(eta, [f"{e:g}" for e in eta])
            axes.minorticks_off()
            known = [max(e.value, e.stderr) for of in self.errors.values() for e in of[name]]
            axes.set_ylim(min(known) / 2 or None, 2 * max(known) or None)  # bars that reach 0 end below
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8, frameon=False)
        panels[0].set_ylabel(f"|E f(SGD) − E f(model)| at t = {self.time:g}")
        figure.savefig(file, dpi=150)
        return Path(file)


def weak_error(
    problem: Any,
    learning_rates: Sequence[float],
    observables: Mapping[str, Callable[[Any], Any]],
    time: float,
    *,
    key: Any,
    chains: int = 1 << 16,
    start: Any = None,
    batch_size: int = 1,
    sampling: str | None = None,
    methods: Sequence[str] = METHODS,
    frozen_at: Any = None,
    l: int = 4,
    substeps: int = 8,
) -> WeakErrors:
    """|E f(SGD) − E f(model)| at a fixed time t = Σ η, with intervals, for the models named in `methods`:

    "order 1" and "order 2" (`sgd_sde`), "frozen" (order 1 with Σ held at its value at `frozen_at`, by default the minimum Φ*), and
    "svag" with its `l`. The SDEs are integrated with step η/`substeps`, by Heun's rule for constant noise, Platen's scheme for
    diagonal noise, and Euler–Maruyama at two steps along one path, extrapolated, for any other: all of weak order 2. An error
    below twice its standard error says no more than that; the slope over η is left out where one is.

    Source: Li, Tai and E (2019), J. Mach. Learn. Res. 20, 40; Li, Malladi and Arora (2021).
    Raises `ValueError` for a learning rate that does not divide `time`, fewer than one, or a method that is none.
    """
    rates = tuple(float(e) for e in learning_rates)
    if not rates or not observables:
        raise ValueError("give at least one learning rate and one observable, a dict of functions of the position")
    if unknown := [m for m in methods if m not in METHODS]:
        raise ValueError(f"methods are {', '.join(METHODS)}; got {unknown[0]!r}")
    for eta in rates:
        if not eta > 0 or abs(time / eta - round(time / eta)) > 1e-6 * time / eta or round(time / eta) < 1:
            near = time / max(round(time / eta), 1) if eta > 0 else time
            raise ValueError(f"learning rate {eta:g} does not divide time {time:g} into whole steps: the nearest is {near:.6g}")
    x0 = problem.start if start is None else flat(problem, start)
    held = _centre(problem, x0) if frozen_at is None and "frozen" in methods else frozen_at
    sampling = sampling or ("with_replacement" if problem.examples else "gaussian")
    errors: dict[str, dict[str, list[Estimate]]] = {m: {f: [] for f in observables} for m in methods}
    for i, eta in enumerate(rates):
        steps = round(time / eta)
        plain = sgd(problem, learning_rate=eta, batch_size=batch_size, sampling=sampling)
        models: dict[str, tuple[Any, int]] = {"sgd": (plain, steps)}
        for method in methods:
            if method == "svag":
                models[method] = svag(problem, learning_rate=eta, l=l, batch_size=batch_size, sampling=sampling), steps * l
                continue
            model = sgd_sde(
                problem, learning_rate=eta, batch_size=batch_size, sampling=sampling,
                order=2 if method == "order 2" else 1, frozen_at=held if method == "frozen" else None,
            )  # fmt: skip
            models[method] = _integrated(model, eta / substeps), steps * substeps
        means = {}
        for j, (name, (chain, count)) in enumerate(models.items()):
            two = isinstance(chain, TwoLevels)
            begin = jnp.tile(x0, 2) if two else x0
            run = simulate(chain, begin, key=jax.random.fold_in(key, 16 * i + j), chains=chains, steps=count)
            if run.diverged.any():
                gone = f"{run.diverged.sum()} of {chains} chains of {name}"
                raise ValueError(f"{gone} diverged at η = {eta:g}: give smaller learning rates")
            x = jnp.asarray(run.positions)
            values = {
                f: np.asarray(jax.vmap(extrapolated(g, chain) if two else g)(x), np.float64) for f, g in observables.items()
            }
            means[name] = {f: (v.mean(), v.var(ddof=1) / chains) for f, v in values.items()}
        for method in methods:
            for f in observables:
                (a, va), (b, vb) = means["sgd"][f], means[method][f]
                errors[method][f].append(_distance(a - b, np.sqrt(va + vb), chains))
    slopes = {m: {f: _slope(rates, row) for f, row in of.items()} for m, of in errors.items()}
    return WeakErrors(rates, float(time), errors, slopes)


def _centre(problem: Any, x0: Any) -> Any:
    try:
        return jnp.asarray(minimum(problem), x0.dtype)
    except ValueError as error:
        raise ValueError(f"Σ cannot be held at a minimum ({error}): give frozen_at, or leave out the method frozen") from None


def _integrated(model: Any, dt: float) -> Any:
    if model.noise.kind in ("none", "additive"):
        return integrate(model, Heun(), dt=dt)
    if model.noise.kind == "diagonal":
        return integrate(model, Platen(noise="three_point"), dt=dt)
    return two_levels(model, EulerMaruyama(), dt=dt)  # three evaluations of Σ a step, where Platen's scheme has nine and more


def _distance(gap: float, error: float, chains: int) -> Estimate:
    reach = stats.norm.isf((1 - CONFIDENCE) / 2) * error
    low = 0.0 if abs(gap) < reach else abs(gap) - reach
    note = None if abs(gap) > 2 * error else "within two standard errors of zero"
    return Estimate(abs(gap), error, low, abs(gap) + reach, chains, "difference of independent means", note=note)


def _slope(rates: tuple[float, ...], row: list[Estimate]) -> Estimate:
    if len(rates) < 2 or any(e.note for e in row):
        return Estimate.unknown("an error is within its noise, or there is one learning rate: use more chains")
    x, y = np.log(rates), np.log([e.value for e in row])
    w = np.array([(e.value / e.stderr) ** 2 for e in row])  # of log|gap|
    centre = (w * x).sum() / w.sum()
    spread = (w * (x - centre) ** 2).sum()
    value, error = float((w * (x - centre) * y).sum() / spread), float(spread**-0.5)
    reach = float(stats.norm.isf((1 - CONFIDENCE) / 2)) * error
    return Estimate(value, error, value - reach, value + reach, row[0].groups, "weighted least squares of log error on log η")
