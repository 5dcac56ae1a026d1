"""Stochastic differential equations under Euler–Maruyama, in every way that people simulate them.

Each peer gets its fastest honest configuration: float32, everything under one jit, a scan or loop of its own, no output but
the final positions.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxsde as js

from . import yardstick
from .harness import Implementation, Ready, Workload, ahead_of_time, cold_start, ours, simulated


class Equation(NamedTuple):
    """phi <- phi − dt ∇L(phi) + S z. `slope` is ∇L in NumPy or torch, over positions ["c d"]; S is a number or a matrix."""

    name: str
    start: np.ndarray
    dt: float
    loss: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    size: Any
    chain: Callable[[], Any]
    kernel: str
    given: np.ndarray  # what the yardstick's kernel takes
    steps: dict[str, int]  # timed steps of each implementation

    @property
    def dim(self) -> int:
        return len(self.start)

    def spread(self, z: Any) -> Any:
        """S z, over the last axis."""
        return self.size * z if np.ndim(self.size) == 0 else z @ self.size.T


def library(x: Any) -> Any:
    """NumPy or torch, whichever `x` is an array of."""
    return np if isinstance(x, np.ndarray) else sys.modules["torch"]


def reference(equation: Equation, chains: int, steps: int, seed: int = 99, dtype: Any = np.float64) -> np.ndarray:
    """A Python loop over the steps, all chains at once."""
    rng, x = np.random.default_rng(seed), np.tile(equation.start, (chains, 1)).astype(dtype)
    size = equation._replace(size=np.asarray(equation.size, dtype)[()])
    z = np.empty(x.shape, dtype)
    for _ in range(steps):
        rng.standard_normal(out=z, dtype=dtype)
        x = x - dtype(equation.dt) * equation.slope(x) + size.spread(z)
    return x


def numpy(equation: Equation, chains: int, steps: int) -> Ready:
    return Ready(lambda seed: reference(equation, chains, steps, seed, np.float32), executor="numpy")


def jaxsde(equation: Equation, executor: str, chains: int, steps: int) -> Ready:
    """The public face."""
    chain, ran = equation.chain(), []

    def run(seed: int) -> np.ndarray:
        done = simulated(executor, chain, equation.start, key=js.key(seed), chains=chains, steps=steps)
        ran[:] = [done.executor]
        return done.positions

    return cold_start(run, lambda: ran[0])


def naive(equation: Equation, chains: int, steps: int) -> Ready:
    """`vmap` of `lax.scan` of `jax.random.normal`, a key split per chain and step: the program most people write."""

    def one(key: Any) -> Any:
        def step(x: Any, k: Any) -> tuple[Any, None]:
            return x - equation.dt * jax.grad(equation.loss)(x) + equation.spread(jax.random.normal(k, x.shape)), None

        return lax.scan(step, jnp.asarray(equation.start, jnp.float32), jax.random.split(key, steps))[0]

    return ahead_of_time(lambda key: jax.vmap(one)(jax.random.split(key, chains)), jax.random.key)


def one_key_per_step(equation: Equation, chains: int, steps: int) -> Ready:
    """The naive program with all chains drawn from one key per step."""

    def f(key: Any) -> Any:
        def step(x: Any, i: Any) -> tuple[Any, None]:
            z = jax.random.normal(jax.random.fold_in(key, i), x.shape)
            return x - equation.dt * jax.vmap(jax.grad(equation.loss))(x) + equation.spread(z), None

        start = jnp.tile(jnp.asarray(equation.start, jnp.float32), (chains, 1))
        return lax.scan(step, start, jnp.arange(steps))[0]

    return ahead_of_time(f, jax.random.key)


def diffrax(equation: Equation, tree: bool, chains: int, steps: int) -> Ready:
    """Euler with DirectAdjoint and UnsafeBrownianPath (no tree of increments), or with VirtualBrownianTree."""
    import diffrax as dfx
    import lineax as lx

    dt, dim = equation.dt, equation.dim
    scale = jnp.asarray(equation.size / math.sqrt(dt), jnp.float32)
    field: Any = lx.DiagonalLinearOperator(jnp.full(dim, scale)) if scale.ndim == 0 else lx.MatrixLinearOperator(scale)

    def one(key: Any) -> Any:
        shape = jax.ShapeDtypeStruct((dim,), jnp.float32)
        path: Any = dfx.VirtualBrownianTree(0.0, steps * dt, dt / 2, shape, key) if tree else dfx.UnsafeBrownianPath(shape, key)
        drift = dfx.ODETerm(lambda t, x, args: -jax.grad(equation.loss)(x))
        noise = dfx.ControlTerm(lambda t, x, args: field, path)
        solution = dfx.diffeqsolve(
            dfx.MultiTerm(drift, noise), dfx.Euler(), 0.0, steps * dt, dt, jnp.asarray(equation.start, jnp.float32),
            adjoint=dfx.DirectAdjoint(), max_steps=None,
        )  # fmt: skip
        assert solution.ys is not None
        return solution.ys[0]

    return ahead_of_time(lambda key: jax.vmap(one)(jax.random.split(key, chains)), jax.random.key)


def blackjax(equation: Equation, chains: int, steps: int) -> Ready:
    """vmapped SGLD with a full gradient: the same chain, its step being x + dt g + √(2 T dt) z."""
    import blackjax as bjx

    temperature = equation.size**2 / (2 * equation.dt)
    sgld: Any = bjx.sgld(lambda x, minibatch: -jax.grad(equation.loss)(x))

    def one(key: Any) -> Any:
        def step(x: Any, k: Any) -> tuple[Any, None]:
            return sgld.step(k, x, jnp.float32(0), equation.dt, temperature), None

        return lax.scan(step, sgld.init(jnp.asarray(equation.start, jnp.float32)), jax.random.split(key, steps))[0]

    return ahead_of_time(lambda key: jax.vmap(one)(jax.random.split(key, chains)), jax.random.key)


def torchsde(equation: Equation, chains: int, steps: int) -> Ready:
    """`sdeint` with method="euler", without gradients: drift and the product with the noise written out, increments made once."""
    import torch  # pyright: ignore[reportMissingImports]  # both are measured where they happen to be installed
    import torchsde as tsde  # pyright: ignore[reportMissingImports]

    dt, span = equation.dt, equation.dt * steps
    times = torch.tensor([0.0, span], dtype=torch.float64)
    size = torch.as_tensor(np.transpose(equation.size) / math.sqrt(dt), dtype=torch.float32)

    class Sde:
        noise_type, sde_type = "diagonal" if size.ndim == 0 else "general", "ito"

        def f_and_g_prod(self, t: Any, x: Any, v: Any) -> tuple[Any, Any]:
            return -equation.slope(x), size * v if size.ndim == 0 else v @ size

        def f(self, t: Any, x: Any) -> Any:
            return -equation.slope(x)

        def g(self, t: Any, x: Any) -> Any:
            return size.expand(*x.shape, *size.shape[1:])

    def run(seed: int) -> np.ndarray:
        start = torch.as_tensor(equation.start, dtype=torch.float32).repeat(chains, 1)
        path = tsde.BrownianInterval(0.0, span, size=tuple(start.shape), dtype=start.dtype, entropy=seed, dt=dt)
        with torch.no_grad():
            return tsde.sdeint(Sde(), start, times, bm=path, method="euler", dt=dt)[-1].numpy()

    return Ready(run, executor="torch")


def workload(equation: Equation, chains: int, executors: tuple[str, ...], scale: float = 1.0) -> Workload:
    """Every implementation that can run here. Steps differ, so that slow ones take no longer than fast ones."""
    n = {name: max(16, int(scale * count)) for name, count in equation.steps.items()}
    bound = functools.partial
    ways = ours(bound(jaxsde, equation), executors, n)
    ways += [
        Implementation("diffrax Euler, UnsafeBrownianPath", "peer", n["diffrax"], bound(diffrax, equation, False)),
        Implementation("diffrax Euler, VirtualBrownianTree", "peer", n["tree"], bound(diffrax, equation, True)),
        Implementation("NumPy", "peer", n["numpy"], bound(numpy, equation)),
        Implementation("vmap + scan + normal, a key per chain", "peer", n["naive"], bound(naive, equation)),
        Implementation("scan + normal, a key per step", "peer", n["one key"], bound(one_key_per_step, equation)),
    ]
    if np.ndim(equation.size) == 0:  # SGLD knows isotropic noise only
        ways.append(Implementation("BlackJAX SGLD", "peer", n["blackjax"], bound(blackjax, equation)))
    if importlib.util.find_spec("torchsde"):
        ways.append(Implementation("torchsde Euler", "peer", n["torchsde"], bound(torchsde, equation)))
    ways += yardstick.implementations(equation.kernel, equation.dim, equation.given, n["limit"])
    return Workload(equation.name, chains, functools.partial(reference, equation), ways)


def ornstein_uhlenbeck() -> Equation:
    """dX = −X dt + √2 dW at dt = 0.05."""
    dt = 0.05

    def chain() -> Any:
        problem = js.potential(lambda x: 0.5 * jnp.sum(x**2), jnp.zeros(1))
        return js.integrate(js.langevin(problem, temperature=1.0), js.EulerMaruyama(), dt=dt)

    size = math.sqrt(2 * dt)
    steps = {"native": 120_000, "vmap": 20_000, "diffrax": 400, "tree": 40, "numpy": 4_000, "naive": 1_000, "one key": 4_000,
             "blackjax": 1_000, "torchsde": 400, "limit": 200_000}  # fmt: skip
    return Equation(
        "OU 1-d", np.zeros(1), dt, lambda x: 0.5 * jnp.sum(x**2), lambda x: x, size, chain, "ornstein_uhlenbeck",
        np.array([1 - dt, size]), steps,
    )  # fmt: skip


def double_well() -> Equation:
    """V = (x² − 1)²/4 + y²/2 + 0.3 x y at temperature 0.5, its gradient by autodiff, dt = 0.01."""
    dt, temperature, c = 0.01, 0.5, 0.3

    def loss(x: Any) -> Any:
        return (x[0] ** 2 - 1) ** 2 / 4 + x[1] ** 2 / 2 + c * x[0] * x[1]

    def slope(x: Any) -> Any:
        return library(x).stack([x[:, 0] * (x[:, 0] ** 2 - 1) + c * x[:, 1], x[:, 1] + c * x[:, 0]], 1)

    def chain() -> Any:
        problem = js.potential(loss, jnp.ones(2))
        return js.integrate(js.langevin(problem, temperature=temperature), dt=dt)

    size = math.sqrt(2 * temperature * dt)
    steps = {"native": 60_000, "vmap": 10_000, "diffrax": 200, "tree": 20, "numpy": 1_500, "naive": 500, "one key": 2_000,
             "blackjax": 500, "torchsde": 200, "limit": 100_000}  # fmt: skip
    return Equation(
        "double well 2-d", np.ones(2), dt, loss, slope, size, chain, "double_well", np.array([dt, size, c]), steps
    )


def quadratic() -> Equation:
    """SGD's equation on a 10-d quadratic loss with a full covariance, η = dt = 0.02."""
    eta, dim = 0.02, 10
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, dim, dim))
    hessian = np.eye(dim) + a @ a.T / dim
    covariance = b @ b.T / dim + 0.1 * np.eye(dim)
    factor = np.linalg.cholesky(covariance)
    held = jnp.asarray(hessian, jnp.float32)

    def loss(x: Any) -> Any:
        return 0.5 * x @ held @ x

    def chain() -> Any:
        problem = js.potential(loss, jnp.zeros(dim), noise_covariance=covariance)
        return js.integrate(js.sgd_sde(problem, learning_rate=eta), dt=eta)

    def slope(x: Any) -> Any:
        return x @ library(x).asarray(hessian, dtype=x.dtype)

    given = np.concatenate([(np.eye(dim) - eta * hessian).ravel(), (eta * factor).ravel()])
    steps = {"native": 12_000, "vmap": 2_000, "diffrax": 60, "tree": 8, "numpy": 300, "naive": 150, "one key": 400,
             "blackjax": 150, "torchsde": 60, "limit": 15_000}  # fmt: skip
    return Equation(
        "quadratic 10-d", np.zeros(dim), eta, loss, slope, eta * factor, chain, "quadratic", given, steps
    )
