"""The main job: SGD, its SDE, the SDE with Σ frozen at Φ*, and Langevin as the control, side by side on the clock t = Σ η.

`run_experiment` takes an `Experiment` and gives the result (what `result.json` holds) with the arrays that the figures draw.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import __version__, random, record
from .compiled import jitted
from .dynamics.equations import langevin, sgd_sde
from .engine.run import Run
from .engine.simulate import iterate
from .estimate import Estimate
from .experiment import Experiment
from .metrics import fit_temperature, kl_between
from .random.clocks import steps_per_epoch
from .report.reasons import noise_rate
from .report.verdict import Verdict, divergence, is_gibbs, verdict_statistics
from .stepping.chains import integrate, sgd
from .stepping.integrators import INTEGRATORS, Heun
from .theory import gibbs, minimum, stationary_law
from .theory.moments.epochs import is_by_epochs

_FRAMES = (12, 24)  # looks at the ensemble during burn-in and after it
_FAR = 2.0  # a variance this many times off its linear theory is not about one minimum alone


class Setting(NamedTuple):
    """What theory knows before anything runs. `phi_star`, `rate` (ηΣ_B there) and `temperature` are None where unknown."""

    problem: Any
    phi_star: np.ndarray | None
    rate: np.ndarray | None
    temperature: float | None
    notes: list[str]


def run_experiment(experiment: Experiment, *, progress: bool = False) -> dict[str, Any]:
    """Runs every process of the experiment and returns the result, with `arrays` and the text `summary` beside it."""
    e = experiment
    setting = _setting(e)
    chains = _processes(e, setting)
    key = random.key(e.seed)
    keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(("sgd", "sde", "frozen", "langevin"))}
    bar = _bar(progress, len(chains) * (e.burn_in or 0) + len(chains) * e.steps)
    film = record.Film(setting.problem, setting.phi_star, setting.temperature)

    runs: dict[str, Run] = {}
    # The boxes are not known before the burn-in is over; they are data, so the compiled programs are the same.
    d = setting.problem.dim
    statistics = verdict_statistics(setting.problem) | record.histograms(record.edges({}, d), d)
    for name, (chain, per_step) in chains.items():
        runs[name] = _burn_in(e, name, chain, per_step, keys[name], setting, statistics, film, bar)
    edges = record.edges(runs, d)
    statistics |= record.histograms(edges, d)
    speed = None
    for name, (chain, per_step) in chains.items():
        runs[name], rate = _measure(e, name, chain, per_step, runs[name], statistics, film, bar)
        speed = rate if name == "sgd" else speed
    bar(0, done=True)

    verdict = is_gibbs(runs["sgd"], setting.problem)
    kls = _divergences(runs, setting.problem, verdict)
    theory = _theory(chains, setting, e)
    draws = f"{runs['sgd'].stream}/{random.LAYOUT}"
    result = {
        "executor": runs["sgd"].executor,
        "chains": e.chains,
        "steps": e.steps,
        "burn_in": e.burn_in,
        "learning_rate": e.sgd.learning_rate,
        "batch_size": e.sgd.batch_size,
        "sampling": e.sgd.sampling,
        "dimension": setting.problem.dim,
        "dtype": e.dtype,
        "stream": runs["sgd"].stream,
        "temperature": {
            "fit": verdict.temperature.to_json(),
            "predicted": _or_reason(setting.temperature, setting.notes),
        },
        "kl": {name: estimate.to_json() for name, estimate in kls.items()},
        "covariance": _covariances(runs, theory),
        "verdict": verdict.to_json(),
        "diverged": {name: _diverged(run) for name, run in runs.items()},
        "chain_steps_per_second": speed,
        "notes": setting.notes,
        "versions": {"jaxsde": __version__, "jax": jax.__version__, "numpy": np.__version__, "draws": draws},
    }
    table = e.table()
    arrays = record.arrays(
        runs,
        setting,
        theory,
        film,
        edges,
        () if table is None else table.features,
        chains["sgd"][0],
        jax.random.fold_in(key, 99),
    )
    return result | {"arrays": arrays, "summary": _summary(result, setting.problem, runs, kls, verdict)}


def _setting(e: Experiment) -> Setting:
    problem = e.problem()
    notes: list[str] = []
    try:
        phi_star = minimum(problem)
    except ValueError as error:
        return Setting(problem, None, None, None, [f"no frozen-Σ SDE, Langevin control or theory: {error}"])
    chain = sgd(problem, learning_rate=e.sgd.learning_rate, batch_size=e.sgd.batch_size, sampling=e.sgd.sampling)
    phi = jnp.asarray(phi_star, problem.start.dtype)
    rate = np.asarray(jitted(noise_rate, chain)(chain, phi), np.float64)
    temperature = float(np.trace(rate)) / (2 * problem.dim)
    if temperature <= 0:
        notes.append("the gradient has no noise at the minimum, so there is no temperature and no Langevin control")
    return Setting(problem, phi_star, rate, temperature if temperature > 0 else None, notes)


def _processes(e: Experiment, setting: Setting) -> dict[str, tuple[Any, int]]:
    """name -> (chain, its steps per step of SGD). The controls have additive noise, where Heun's stationary law is right to
    second order in the step; SGD's SDE does not, and takes smaller steps."""
    problem, eta, B = setting.problem, e.sgd.learning_rate, e.sgd.batch_size
    first = sgd(problem, learning_rate=eta, batch_size=B, sampling=e.sgd.sampling)
    equation = sgd_sde(problem, learning_rate=eta, batch_size=B, sampling=e.sgd.sampling)
    n = e.sde.substeps
    chains = {"sgd": (first, 1), "sde": (integrate(equation, INTEGRATORS[e.sde.integrator](), dt=eta / n), n)}
    if setting.phi_star is not None:
        held = sgd_sde(
            problem, learning_rate=eta, batch_size=B, sampling=e.sgd.sampling, frozen_at=jnp.asarray(setting.phi_star)
        )
        chains["frozen"] = (integrate(held, Heun(), dt=eta), 1)
    if setting.temperature is not None:
        chains["langevin"] = (integrate(langevin(problem, temperature=setting.temperature), Heun(), dt=eta), 1)
    return chains


def _burn_in(
    e: Experiment,
    name: str,
    chain: Any,
    per_step: int,
    key: Any,
    setting: Setting,
    statistics: dict,
    film: record.Film,
    bar: Callable,
) -> Run:
    burn_in = e.burn_in or 0
    common: dict[str, Any] = dict(
        key=key, chains=e.chains, groups=e.groups, dtype=e.dtype, stream=e.stream, every=e.every * per_step, statistics=statistics
    )
    run = None
    chunk = max(1, burn_in // _FRAMES[0])
    for run in iterate(
        chain, setting.problem.start, steps=0, burn_in=burn_in * per_step, chunk=chunk * per_step, **common
    ):
        film.look(name, run, e.groups)
        bar(chunk if burn_in else 0)
    assert run is not None
    return run


def _measure(
    e: Experiment, name: str, chain: Any, per_step: int, run: Run, statistics: dict, film: record.Film, bar: Callable
) -> tuple[Run, float | None]:
    """The run with its statistics, and its chain-steps per second once compiled."""
    chunk = max(e.every, e.steps // _FRAMES[1] // e.every * e.every)
    busy, first = 0.0, run.step
    began = time.perf_counter()
    chunks = iterate(
        chain, run, steps=e.steps * per_step, chunk=chunk * per_step, every=e.every * per_step, statistics=statistics
    )
    for i, run in enumerate(chunks):
        if i == 0:
            first = run.step  # this chunk was compiled
        else:
            busy += time.perf_counter() - began
        film.look(name, run, e.groups)
        bar(chunk)
        began = time.perf_counter()
    return run, (run.step - first) * run.chains / busy if busy > 0 else None


def _divergences(runs: dict[str, Run], problem: Any, verdict: Verdict) -> dict[str, Estimate]:
    if verdict.stationary.reading != "yes":
        why = Estimate.unknown(verdict.kl.reason or "not known to be stationary: " + verdict.stationary.sentence)
        return dict.fromkeys([*runs, "sgd_vs_sde"], why)
    kls = {name: verdict.kl if name == "sgd" else divergence(run, problem) for name, run in runs.items()}
    method = "auto" if problem.dim <= 2 else "gaussian"
    return kls | {"sgd_vs_sde": kl_between(runs["sgd"], runs["sde"], method=method)}


def _theory(chains: dict[str, tuple[Any, int]], setting: Setting, e: Experiment) -> dict[str, Any]:
    """Stationary covariances, each an array or the reason why there is none."""
    try:
        if setting.temperature is None:
            raise ValueError("no Gibbs law: there is no temperature")
        law = gibbs(setting.problem, setting.temperature)
    except ValueError as error:
        law = str(error)
    spread = _spread(setting, law)

    def covariance(x: Any, position: Any = 0) -> Any:
        try:
            found = stationary_law(x, position)
        except (ValueError, TypeError) as error:
            return str(error)
        if not found.exact and spread is not None and not 1 / _FAR < spread < _FAR:
            return (
                f"the theory is linear about one minimum, and the Gibbs law of this loss is {spread:.3g} times as wide "
                "as such a theory makes it: it has mass elsewhere"
            )
        return found.covariance

    first = chains["sgd"][0]
    epoch = steps_per_epoch(first.draws)  # the positions in it at which the run looks
    looks = sorted({((e.burn_in or 0) + k * e.every) % epoch for k in range(epoch)}) if is_by_epochs(first) else 0
    found = {"theory_sgd": covariance(first, looks), "theory_sde": covariance(chains["sde"][0].sde)}
    if "frozen" in chains:
        found["theory_frozen"] = covariance(chains["frozen"][0].sde)
    return found | {"gibbs": law}


def _spread(setting: Setting, law: Any) -> float | None:
    """The variance of the Gibbs law over that of its linear theory T H⁻¹, where they differ most; None where not known."""
    if isinstance(law, str) or law.method != "quadrature" or not np.isfinite(law.covariance).all():
        return None
    phi = jnp.asarray(setting.phi_star, setting.problem.start.dtype)
    hessian = np.asarray(jitted(type(setting.problem).hessian, setting.problem)(setting.problem, phi), np.float64)
    ratios = np.maximum(np.linalg.eigvals(hessian @ law.covariance).real / law.temperature, 1e-30)
    return float(ratios[np.argmax(np.abs(np.log(ratios)))])


def _covariances(runs: dict[str, Run], theory: dict[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {name: run["covariance"].to_json() for name, run in runs.items()}
    for name, x in theory.items():
        matrix = getattr(x, "covariance", x)
        table[name] = {"value": None, "reason": matrix} if isinstance(matrix, str) else {"value": matrix}
    return table


def _diverged(run: Run) -> dict[str, Any]:
    gone = run.diverged
    first = int(run.diverged_at[gone].min()) if gone.any() else None
    told = {"count": int(gone.sum()), "fraction": float(gone.mean()), "first_step": first}
    if gone.any() and not gone.all():
        told["note"] = "left out of the statistics, which describe the chains that survived"
    return told


def _or_reason(value: Any, notes: list[str]) -> Any:
    return value if value is not None else {"value": None, "reason": "; ".join(notes)}


def _summary(
    result: dict[str, Any], problem: Any, runs: dict[str, Run], kls: dict[str, Estimate], verdict: Verdict
) -> str:
    """The table and the verdict that a person reads."""
    titles = {"sgd": "SGD", "sde": "its SDE", "frozen": "SDE, Σ frozen at Φ*", "langevin": "Langevin (control)"}
    lines = [f"{'':<22}{'KL to Gibbs (nats)':<32}{'T*':<26}diverged"]
    for name, run in runs.items():
        kl = kls[name]
        cell = f"{kl.value:.4f} [{kl.low:.4f}, {kl.high:.4f}]" if kl.known else "unknown"
        t = fit_temperature(run, problem) if kl.known else kl
        degree = f"{t.value:.5g} ± {t.stderr:.1g}" if t.known else "unknown"
        lines.append(f"{titles[name]:<22}{cell:<32}{degree:<26}{int(run.diverged.sum())} of {run.chains}")
    between = kls["sgd_vs_sde"]
    if between.known:
        lines.append(f"{'SGD to its SDE':<22}{between.value:.4f} [{between.low:.4f}, {between.high:.4f}]")
    rate = result["chain_steps_per_second"]
    if rate:
        lines.append(f"{rate:.3g} SGD chain-steps per second")
    return "\n".join([*lines, "", verdict.sentence])


def _bar(progress: bool, total: int) -> Callable[..., None]:
    if not progress:
        return lambda steps, done=False: None
    from tqdm import tqdm

    bar = tqdm(total=total, unit="step", unit_scale=True, leave=False)

    def move(steps: int, done: bool = False) -> None:
        bar.close() if done else bar.update(steps)

    return move
