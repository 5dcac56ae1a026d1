"""What a run leaves behind for the figures: the ensemble over time, histograms, densities and sums of gradient noise."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from . import random
from .dynamics.gradients import Minibatch, noise_of
from .engine.run import Run
from .estimate import Unknown
from .metrics.temperature import Local
from .statistics import Histogram
from .struct import component_names
from .theory import Gibbs, gaussian_kl
from .types import Draws

_BINS = {1: 128, 2: 64, 3: 24}  # of the joint histogram, by dimension
_KEPT = 20_000  # positions kept for scatter and contours
_SUMS = (1, 4, 16, 64, 256)  # gradient noises that are summed
_NOISE_COST = 1 << 22  # example gradients that the noise figure may cost


class Film:
    """The ensemble at a sequence of times: mean loss, and the KL of its Gaussian moments to Gibbs, with errors over groups."""

    def __init__(self, problem: Any, phi_star: np.ndarray | None, temperature: float | None):
        self.problem = problem
        self.frames: dict[str, list[tuple[float, ...]]] = {}
        self._loss = jax.jit(lambda p, x: jax.lax.map(p.loss, x, batch_size=256))
        self.law = None
        if phi_star is not None and temperature is not None:
            hessian = np.asarray(problem.hessian(jnp.asarray(phi_star, problem.start.dtype)), np.float64)
            covariance = temperature * np.linalg.inv(hessian)
            try:  # the Gaussian moments tell the KL only where the loss is quadratic at the law's scale
                Local(problem, phi_star, covariance)
                self.law = (phi_star, covariance)
            except Unknown:
                pass

    def look(self, name: str, run: Run, groups: int) -> None:
        """Adds a frame of the run as it stands."""
        alive = ~run.diverged
        x, group = run.positions[alive].astype(np.float64), run.group[alive]
        if len(x) < 2 * run.chain.dim:
            return
        loss = np.asarray(self._loss(self.problem, jnp.asarray(x, run.dtype)), np.float64)
        kl, kl_error = self._kl(x, group)
        means = np.array([loss[group == g].mean() for g in np.unique(group)])
        error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
        self.frames.setdefault(name, []).append((run.time, loss.mean(), error, kl, kl_error))

    def arrays(self) -> dict[str, np.ndarray]:
        """`time` and, for every process, what it did at these times."""
        out: dict[str, np.ndarray] = {}
        for name, frames in self.frames.items():
            t, loss, loss_error, kl, kl_error = np.asarray(frames).T
            out |= {f"{name}_time": t, f"{name}_loss_time": loss, f"{name}_loss_time_stderr": loss_error}
            if self.law is not None:
                out |= {f"{name}_kl_time": kl, f"{name}_kl_time_stderr": kl_error}
        if "sgd" in self.frames:
            out["time"] = out["sgd_time"]
        return out

    def _kl(self, x: np.ndarray, group: np.ndarray) -> tuple[float, float]:
        law = self.law
        if law is None:
            return np.nan, np.nan
        d, labels = x.shape[1], np.unique(group)
        n = np.array([(group == g).sum() for g in labels], float)
        s1 = np.array([x[group == g].sum(0) for g in labels])
        s2 = np.array([x[group == g].T @ x[group == g] for g in labels])

        def kl(count: float, first: np.ndarray, second: np.ndarray) -> float:
            mean = first / count
            covariance = second / count - np.outer(mean, mean)
            if np.linalg.eigvalsh(covariance)[0] <= 0:
                return np.nan
            return gaussian_kl(mean, covariance, *law)

        value = kl(n.sum(), s1.sum(0), s2.sum(0)) - d * (d + 3) / (4 * n.sum())  # less the plug-in's bias
        if len(labels) < 4:
            return value, np.nan
        left = np.array([kl(n.sum() - n[g], s1.sum(0) - s1[g], s2.sum(0) - s2[g]) for g in range(len(labels))])
        return value, float(np.sqrt((len(left) - 1) * left.var()))


def edges(runs: dict[str, Run], d: int) -> list[np.ndarray]:
    """Box edges for each of the d components, wide enough for all processes as they stand after burn-in."""
    alive = [run.positions[~run.diverged] for run in runs.values()]
    settled = [x for x in alive if len(x)]
    count = _BINS.get(d, 64)
    if not settled:
        return [np.linspace(-1.0, 1.0, count + 1) for _ in range(d)]
    x = np.concatenate(settled).astype(np.float64)
    low, high = x.min(0), x.max(0)
    width = np.where(high > low, high - low, np.maximum(1.0, np.abs(high)))
    # beyond the extremes of some thousand chains: a long run goes further, and what lies outside is counted
    return [np.linspace(a, b, count + 1) for a, b in zip(low - 0.15 * width, high + 0.15 * width, strict=True)]


def histograms(boxes: list[np.ndarray], dim: int) -> dict[str, Histogram]:
    """The joint histogram up to three dimensions; beyond, the first two components and the first four alone."""
    if dim <= 3:
        return {"histogram": Histogram(tuple(boxes))}
    alone = {f"histogram_{i}": Histogram((boxes[i],), components=(i,)) for i in range(min(dim, 4))}
    return alone | {"histogram_01": Histogram((boxes[0], boxes[1]), components=(0, 1))}


def arrays(
    runs: dict[str, Run],
    setting: Any,
    theory: dict[str, Any],
    film: Film,
    boxes: list[np.ndarray],
    features: tuple[str, ...],
    chain: Any,
    key: Any,
) -> dict[str, np.ndarray]:
    """Everything that the figures draw, by name. `features` name the components where there is one for each."""
    d, unravel = setting.problem.dim, setting.problem.unravel
    names = list(features) if len(features) == d else component_names(unravel, d)
    out: dict[str, np.ndarray] = {"processes": np.array(list(runs)), "names": np.array(names)}
    if setting.phi_star is not None:
        out["phi_star"] = np.asarray(setting.phi_star)
        out["min_loss"] = np.asarray(setting.problem.loss(jnp.asarray(setting.phi_star, setting.problem.start.dtype)))
    for i in range(min(d, 4)):
        out[f"edges_{i}"] = boxes[i]
    if d > 1:
        out |= {"edges2_0": boxes[0], "edges2_1": boxes[1]}
    for name, run in runs.items():
        out |= _of_run(name, run, d)
    out |= film.arrays()
    out |= {f"{name}_cov": x for name, x in theory.items() if isinstance(x, np.ndarray)}
    law = theory.get("gibbs")
    if isinstance(law, Gibbs):
        out |= _of_gibbs(law, boxes)
        out |= {"gibbs_cov": law.covariance, "gibbs_mean_loss": np.asarray(law.mean_loss)}
    # what the Gaussian estimator at one time would show for the Gibbs law itself: its number of moments over 2N
    out["kl_floor"] = np.asarray(d * (d + 3) / (4 * runs["sgd"].chains))
    frozen = theory.get("theory_frozen")
    if film.law is not None and isinstance(frozen, np.ndarray):
        out["kl_theory_frozen"] = np.asarray(gaussian_kl(film.law[0], frozen, *film.law))
    if setting.phi_star is not None:
        out |= _noise(chain, setting.phi_star, key)
    return out


def _of_run(name: str, run: Run, d: int) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {f"{name}_positions": run.positions[~run.diverged][:_KEPT]}
    for kind in ("covariance", "mean"):
        value = run[kind].value
        if value is not None:
            out[f"{name}_{'cov' if kind == 'covariance' else 'mean'}"] = np.asarray(value)
    result = lambda key: run.statistic(key).result(run.statistic(key).merge(run.partials(key)))
    if d <= 3:
        joint = np.asarray(result("histogram"))
        for i in range(d):
            out[f"{name}_hist_{i}"] = joint.sum(axis=tuple(j for j in range(d) if j != i))
        if d > 1:
            out[f"{name}_hist2"] = joint.sum(axis=tuple(range(2, d)))
        return out
    for i in range(min(d, 4)):
        out[f"{name}_hist_{i}"] = np.asarray(result(f"histogram_{i}"))
    return out | {f"{name}_hist2": np.asarray(result("histogram_01"))}


def _of_gibbs(law: Gibbs, boxes: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Marginal densities of the Gibbs law on grids over the boxes."""
    d, out = law.dim, {}
    if d == 3:  # one grid of the joint density serves every marginal: integrating each point anew costs minutes
        grids = [np.linspace(b[0], b[-1], 41) for b in boxes]
        joint = np.exp(law.log_density(np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1)))
        over = lambda axes: joint.sum(axis=axes) * np.prod([grids[j][1] - grids[j][0] for j in axes])
        for i in range(3):
            out |= {f"gibbs_grid_{i}": grids[i], f"gibbs_density_{i}": over(tuple(j for j in range(3) if j != i))}
        return out | {"gibbs2_x": grids[0], "gibbs2_y": grids[1], "gibbs2_density": over((2,))}
    for i in range(min(d, 4)):
        grid = np.linspace(boxes[i][0], boxes[i][-1], 201)
        out |= {f"gibbs_grid_{i}": grid, f"gibbs_density_{i}": law.marginal(i, grid)}
    if d > 1:
        x, y = (np.linspace(boxes[i][0], boxes[i][-1], 61) for i in (0, 1))
        points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
        out |= {"gibbs2_x": x, "gibbs2_y": y, "gibbs2_density": law.marginal_density((0, 1), points).reshape(61, 61)}
    return out


def _noise(chain: Any, phi_star: np.ndarray, key: Any) -> dict[str, np.ndarray]:
    """The sum of N gradient noises at Φ*: its standard deviation against √N, and its quantiles against the normal's."""
    gradient = chain.gradient
    draws: Draws = gradient.draws
    if draws == Draws():
        return {}
    if isinstance(gradient, Minibatch) and draws.scheme == "epoch":
        # over an epoch the noises sum to zero: the slide is about independent ones
        gradient = Minibatch(
            gradient.problem, gradient.batch_size, "without_replacement", draws._replace(scheme="distinct")
        )
    cost = gradient.batch_size if isinstance(gradient, Minibatch) else max(1, gradient.problem.examples)
    copies = int(np.clip(_NOISE_COST // (_SUMS[-1] * cost), 256, 8192))
    counts = [n for n in _SUMS if n * copies * cost <= 4 * _NOISE_COST]
    phi = jnp.asarray(phi_star, gradient.problem.start.dtype)
    sums = np.asarray(_sums(gradient, phi, random.key_words(key), tuple(counts), copies), np.float64)
    sd1 = np.sqrt(np.maximum(np.diag(np.asarray(noise_of(gradient).covariance(phi), np.float64)), 0))
    std = sums.std(axis=1, ddof=1)
    # the spread of a sample variance: (kurtosis − 1)/n, which for N = 1 is far from the Gaussian's 2/n
    scaled = (sums - sums.mean(1, keepdims=True)) / np.maximum(std, 1e-300)[:, None, :]
    error = std * 0.98 * np.sqrt(np.maximum((scaled**4).mean(1) - 1, 0) / copies)
    levels = (np.arange(199) + 0.5) / 199
    shown = sorted({0, len(counts) // 2, len(counts) - 1})
    return {
        "noise_n": np.array(counts),
        "noise_std": std,
        "noise_std_low": std - error,
        "noise_std_high": std + error,
        "noise_sd1": sd1,
        "noise_qq_n": np.array([counts[i] for i in shown]),
        "noise_qq": np.stack([np.quantile(scaled[i, :, 0], levels) for i in shown]),
        "noise_qq_normal": stats.norm.ppf(levels),
    }


@functools.partial(jax.jit, static_argnames=("counts", "copies"))
def _sums(gradient: Any, phi: Any, words: Any, counts: tuple[int, ...], copies: int) -> Any:
    mean = gradient.problem.grad(phi)
    ids = (jnp.arange(copies, dtype=jnp.uint32), jnp.zeros(copies, jnp.uint32))
    start = random.clock(0, gradient.draws)

    def body(k: Any, total: Any) -> Any:
        drawn = random.block(words, gradient.draws, ids, random.advance(start, k, gradient.draws), 1, phi.dtype)
        one = jax.tree.map(lambda a: a[0].T, drawn)
        return total + jax.vmap(lambda z: gradient(phi, z, jnp.zeros((), phi.dtype)) - mean)(one)

    total, out, done = jnp.zeros((copies, phi.size), phi.dtype), [], 0
    for n in counts:
        total, done = jax.lax.fori_loop(done, n, body, total), n
        out.append(total)
    return jnp.stack(out)
