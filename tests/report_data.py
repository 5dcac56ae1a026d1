"""A small NumPy imitation of the main job, so that the report is tested on what it is for without the engine.

Least squares on two features of the diabetes data, η = 0.05, B = 1: SGD, its SDE, the SDE with frozen Σ, and Langevin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes

ETA = 0.05


def data(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The named features and the target, each with mean 0 and standard deviation 1."""
    table: Any = load_diabetes(scaled=False)
    x = np.asarray(table.data)[:, [table.feature_names.index(name) for name in names]]
    x, y = (x - x.mean(0)) / x.std(0), (table.target - table.target.mean()) / table.target.std()
    return x, y


def gaussian_kl(mean: np.ndarray, cov: np.ndarray, minimum: np.ndarray, gibbs: np.ndarray) -> float:
    off = mean - minimum
    inverse = np.linalg.inv(gibbs)
    ratio = np.linalg.slogdet(gibbs)[1] - np.linalg.slogdet(cov)[1]
    return float(0.5 * (np.trace(inverse @ cov) - len(mean) + off @ inverse @ off + ratio))


def imitation(
    chains: int = 512, steps: int = 400, every: int = 10, seed: int = 0, features: tuple[str, ...] = ("s3", "s4")
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, result) as a run leaves them; `steps` are counted after a burn-in of a third as many."""
    random = np.random.default_rng(seed)
    x, y = data(list(features))
    n, d = x.shape
    hessian = x.T @ x / n
    minimum = np.linalg.solve(hessian, x.T @ y / n)
    rest = y - x @ minimum
    noise = (x * rest[:, None] ** 2).T @ x / n  # Σ at the minimum, where the mean gradient is 0
    fourth = np.einsum("na,nb,nc,nd->abcd", x, x, x, x) / n
    third = np.einsum("na,nb,nc,n->abc", x, x, x, rest) / n
    eye = np.eye(d)
    sylvester = np.kron(hessian, eye) + np.kron(eye, hessian)
    multiplied = fourth.transpose(0, 1, 2, 3).reshape(d * d, d * d)
    theory_frozen = np.linalg.solve(sylvester, ETA * noise.ravel()).reshape(d, d)
    sde_matrix = sylvester - ETA * (multiplied - np.kron(hessian, hessian))
    theory_sde = np.linalg.solve(sde_matrix, ETA * noise.ravel()).reshape(d, d)
    theory_sgd = np.linalg.solve(sylvester - ETA * multiplied, ETA * noise.ravel()).reshape(d, d)
    predicted = ETA * np.trace(noise) / (2 * d)
    gibbs = predicted * np.linalg.inv(hessian)
    floor = d * (d + 3) / (4 * chains)

    def loss_at(phi: np.ndarray) -> np.ndarray:
        off = phi - minimum
        return 0.5 * np.mean(rest**2) + 0.5 * np.einsum("ca,ab,cb->c", off, hessian, off)

    def step(p: str, phi: np.ndarray) -> np.ndarray:
        off = phi - minimum
        if p == "sgd":
            chosen = random.integers(n, size=chains)
            picked = x[chosen]
            return phi - ETA * picked * ((picked * phi).sum(1) - y[chosen])[:, None]
        drift, z = -ETA * off @ hessian, random.standard_normal((chains, d))
        if p == "langevin":
            return phi + drift + np.sqrt(2 * predicted * ETA) * z
        cov = np.broadcast_to(noise, (chains, d, d))
        if p == "sde":
            mean = off @ hessian
            cov = noise + np.einsum("abcd,ec,ed->eab", fourth, off, off) - 2 * np.einsum("abc,ec->eab", third, off)
            cov = cov - mean[:, :, None] * mean[:, None, :]
        return phi + drift + ETA * np.einsum("cab,cb->ca", np.linalg.cholesky(cov + 1e-9 * eye), z)

    names = np.array(features)
    looks = range(every, steps + steps // 3 + 1, every)
    arrays: dict[str, Any] = {
        "names": names, "phi_star": minimum, "time": ETA * np.array(looks, dtype=float),
        "processes": np.array(["sgd", "sde", "frozen", "langevin"]),
        "theory_sgd_cov": theory_sgd, "theory_sde_cov": theory_sde, "theory_frozen_cov": theory_frozen,
        "gibbs_cov": gibbs, "kl_floor": floor, "kl_theory_frozen": gaussian_kl(minimum, theory_frozen, minimum, gibbs),
        "min_loss": 0.5 * np.mean(rest**2), "gibbs_mean_loss": 0.5 * np.mean(rest**2) + predicted * d / 2,
    }  # fmt: skip
    reach = 5 * np.sqrt(np.maximum(np.diag(gibbs), np.diag(theory_sgd)))
    edges = [np.linspace(minimum[i] - reach[i], minimum[i] + reach[i], 65) for i in range(d)]
    for i in range(min(d, 4)):
        grid = np.linspace(edges[i][0], edges[i][-1], 201)
        arrays |= {f"edges_{i}": edges[i], f"gibbs_grid_{i}": grid}
        arrays[f"gibbs_density_{i}"] = np.exp(-((grid - minimum[i]) ** 2) / (2 * gibbs[i, i])) / np.sqrt(
            2 * np.pi * gibbs[i, i]
        )
    if d > 1:
        gx, gy = (np.linspace(e[0], e[-1], 101) for e in edges[:2])
        inverse = np.linalg.inv(gibbs[:2, :2])
        a, b = gx[:, None] - minimum[0], gy[None, :] - minimum[1]
        power = inverse[0, 0] * a * a + 2 * inverse[0, 1] * a * b + inverse[1, 1] * b * b
        arrays |= {"edges2_0": edges[0], "edges2_1": edges[1], "gibbs2_x": gx, "gibbs2_y": gy}
        arrays["gibbs2_density"] = np.exp(-power / 2) * np.sqrt(np.linalg.det(inverse)) / (2 * np.pi)

    estimates: dict[str, Any] = {}
    covariances: dict[str, Any] = {}
    for p in ("sgd", "sde", "frozen", "langevin"):
        phi = np.zeros((chains, d))
        kept, kls, losses, errors = [], [], [], []
        for k in range(1, steps + steps // 3 + 1):
            phi = step(p, phi)
            if k % every == 0:
                mean, cov = phi.mean(0), np.atleast_2d(np.cov(phi.T))
                kls.append(gaussian_kl(mean, cov, minimum, gibbs))
                losses.append(loss_at(phi).mean())
                errors.append(loss_at(phi).std() / np.sqrt(chains))
                if k > steps // 3:
                    kept.append(phi)
        pool = np.concatenate(kept)
        parts = np.array_split(np.arange(chains), 16)
        each = np.array([np.atleast_2d(np.cov(np.concatenate([s[part] for s in kept]).T)) for part in parts])
        cov, half = each.mean(0), 2.13 * each.std(0, ddof=1) / 4
        value = gaussian_kl(pool.mean(0), cov, minimum, gibbs)
        spread = 2.13 * np.std([gaussian_kl(pool.mean(0), c, minimum, gibbs) for c in each], ddof=1) / 4
        estimates[p] = {
            "value": value, "low": max(0.0, value - spread), "high": value + spread, "estimator": "gaussian",
            "floor": floor / len(kept),
        }  # fmt: skip
        covariances[p] = {"value": cov.tolist(), "low": (cov - half).tolist(), "high": (cov + half).tolist()}
        kl_time = np.array(kls)
        arrays |= {
            f"{p}_cov": cov, f"{p}_mean": pool.mean(0), f"{p}_positions": phi, f"{p}_kl_time": kl_time,
            f"{p}_kl_time_stderr": np.sqrt(2 * kl_time / chains + 0.5 * (d / chains) ** 2),
            f"{p}_loss_time": np.array(losses), f"{p}_loss_time_stderr": np.array(errors),
        }  # fmt: skip
        for i in range(min(d, 4)):
            arrays[f"{p}_hist_{i}"] = np.histogram(pool[:, i], edges[i])[0] / len(pool)
        if d > 1:
            arrays[f"{p}_hist2"] = np.histogram2d(pool[:, 0], pool[:, 1], edges[:2])[0] / len(pool)

    counts, sums = np.array([1, 4, 16, 64, 256]), []
    shares = (np.arange(61) + 0.5) / 61
    gradients = x * rest[:, None]
    arrays["noise_qq"] = np.empty((4, 61))
    for row, count in enumerate(counts):
        total = sum(gradients[random.integers(n, size=4000)] for _ in range(count))
        sums.append(np.std(np.asarray(total), axis=0))
        if row < 4:
            first = np.asarray(total)[:, 0]
            arrays["noise_qq"][row] = np.quantile((first - first.mean()) / first.std(), shares)
    normal = np.sort(np.random.default_rng(9).standard_normal(400_000))
    arrays |= {
        "noise_n": counts, "noise_std": np.array(sums), "noise_sd1": np.sqrt(np.diag(noise)),
        "noise_std_low": np.array(sums) * 0.97, "noise_std_high": np.array(sums) * 1.03,
        "noise_qq_n": counts[:4], "noise_qq_normal": np.quantile(normal, shares),
    }  # fmt: skip
    estimates["sde"]["note"] = "narrower boxes would do better"
    fit = float(np.trace(hessian @ arrays["sgd_cov"]) / d)
    result: dict[str, Any] = {
        "ok": True, "experiment": "diabetes-squared_error", "seed": seed, "device": "cpu", "executor": "vmap", "stream": "xoshiro128+",
        "chains": chains, "steps": steps, "learning_rate": ETA, "batch_size": 1,
        "temperature": {"fit": {"value": fit, "low": fit * 0.99, "high": fit * 1.01}, "predicted": predicted},
        "kl": estimates | {"sgd_vs_sde": {"value": 0.0004, "low": 0.0, "high": 0.0011, "estimator": "histogram"}},
        "covariance": covariances
        | {"theory_sgd": theory_sgd.tolist(), "theory_sde": theory_sde.tolist(), "gibbs": gibbs.tolist()},
        "verdict": {
            "stationary": "yes", "gibbs": "no", "equilibrium": "no",
            "sentence": "SGD settles into a law that is not Gibbs, and it circulates: it is not in equilibrium.",
            "reasons": [
                {"name": "anisotropic noise", "holds": True, "figure": "covariance",
                 "sentence": "Σ is not a multiple of the identity: its eigenvalues differ 4.9 times."},
                {"name": "noise depends on the state", "holds": True, "figure": "density",
                 "sentence": "Σ(Φ) grows away from the minimum."},
                {"name": "finite learning rate", "holds": True, "figure": "covariance",
                 "sentence": "Discrete steps widen SGD's law by 2.1 % against its SDE."},
                {"name": "steps are not Gaussian", "holds": True, "figure": "noise",
                 "sentence": "One step's noise has excess kurtosis 3.1; sums of 64 are Gaussian to the eye."},
            ],
        },
        "diverged": {"sgd": 0, "sde": 0, "frozen": 0, "langevin": 0}, "chain_steps_per_second": 1.9e8,
        "files": ["config.toml", "arrays.npz", "result.json"],
        "versions": {"jaxsde": "0.1.0", "jax": "0.10.2", "numpy": np.__version__, "draws": "xoshiro128+/2"},
    }  # fmt: skip
    return {name: np.asarray(value) for name, value in arrays.items()}, result
