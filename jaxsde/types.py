"""The few types that everything speaks, read first. Structural: nothing inherits from these.

Letters in shapes: d parameters, m noise dimensions, n examples, b batch size, c chains of a group, G groups.
A position `phi` is always the flat vector ["d"]; `problem.unravel(phi)` gives the user's own pytree.

    Problem ─► Gradient ─► OptimizerChain ─┐                              ┌─► Statistic ─► metrics ─► Estimate ─┐
       └─► Noise ─► SDE ─► DiffusionChain ─┴─► Chain ─► engine ─► Run ────┘                                     ├─► Verdict
              └────────────────────────────► theory(sde | chain) ─► density / covariance / rate ────────────────┘
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, PyTree

Calculus = Literal["ito", "stratonovich"]
# What an integrator may assume of the noise: none at all; a matrix that does not depend on the position; a diagonal
# whose i-th entry depends on the i-th component alone; anything.
NoiseKind = Literal["none", "additive", "diagonal", "general"]


class Draws(NamedTuple):
    """The random variables that one step of one chain consumes. Static, hashable: part of the compiled program.

    Exactly what `step` receives is a ``Drawn`` with the same names: `normals` ["normals"] standard normals,
    `signs` ["signs"] ±1 with equal odds, `three_point` ["three_point"] values ±√3 (odds 1/6 each) or 0 (2/3),
    `indices` ["indices"] examples out of `population`.
    """

    normals: int = 0
    signs: int = 0
    three_point: int = 0
    indices: int = 0
    population: int = 0
    # independent: with replacement. distinct: no repeats within a step. epoch: a permutation per epoch of
    # population // indices steps, each step taking the next `indices` of it. once: one permutation, read round and round.
    # cyclic: 0, 1, 2, … read round and round.
    scheme: Literal["independent", "distinct", "epoch", "once", "cyclic"] = "independent"
    stream: str = "xoshiro128+"  # that all this is drawn from; a run sets it


class Drawn(NamedTuple):
    """What a step receives: the arrays that its chain's `Draws` declares (empty where it declares none)."""

    normals: Any = ()
    signs: Any = ()
    three_point: Any = ()
    indices: Any = ()


@runtime_checkable
class Problem(Protocol):
    """What is minimised: L(Φ), its gradient, and the covariance Σ(Φ) of one example's gradient.

    `dim` is d; `examples` n (0 for a potential); `start` ["d"] the user's initial point, flat; `unravel` the way back.
    """

    @property
    def dim(self) -> int: ...
    @property
    def examples(self) -> int: ...
    @property
    def start(self) -> Float[Array, " d"]: ...
    @property
    def unravel(self) -> Callable[[Any], PyTree]: ...

    def loss(self, phi: Float[Array, " d"]) -> Float[Array, ""]: ...
    def grad(self, phi: Float[Array, " d"]) -> Float[Array, " d"]: ...
    def hessian(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]: ...
    def noise_covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]: ...


@runtime_checkable
class Gradient(Protocol):
    """A stochastic gradient ĝ. `draws` is what one evaluation consumes."""

    @property
    def draws(self) -> Draws: ...

    def __call__(self, phi: Float[Array, " d"], drawn: Drawn, k: Any) -> Float[Array, " d"]: ...


@runtime_checkable
class Noise(Protocol):
    """A square root of a covariance, as an operator. `product(phi, z)` has covariance `covariance(phi)` for z ~ N(0, I_m)."""

    @property
    def dim(self) -> int: ...
    @property
    def kind(self) -> NoiseKind: ...

    def product(self, phi: Float[Array, " d"], z: Float[Array, " m"]) -> Float[Array, " d"]: ...
    def covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]: ...


@runtime_checkable
class SDE(Protocol):
    """dX = drift(t, X) dt + scale · Σ(X)^½ dW, read as Itô. `scale` is a leaf: √η for SGD, √(2kT) for Langevin."""

    @property
    def dim(self) -> int: ...
    @property
    def drift(self) -> Callable[[Any, Float[Array, " d"]], Float[Array, " d"]]: ...
    @property
    def noise(self) -> Noise: ...
    @property
    def scale(self) -> Any: ...


@runtime_checkable
class Integrator(Protocol):
    """One step of an SDE from standardised draws `z` (mean 0, variance 1), with its declared orders of convergence."""

    @property
    def strong_order(self) -> float: ...
    @property
    def weak_order(self) -> float: ...
    @property
    def calculus(self) -> Calculus: ...

    def draws(self, sde: SDE) -> Draws: ...
    def step(self, sde: SDE, t: Any, x: Float[Array, " d"], dt: Any, z: Any) -> Float[Array, " d"]: ...


@runtime_checkable
class Chain(Protocol):
    """A Markov chain in any state S: the waist of the package. Everything after sees only this.

    `dt` is the time one step lasts (for SGD the learning rate); `draws` what a step consumes. `step` draws nothing.
    """

    @property
    def dt(self) -> Any: ...
    @property
    def draws(self) -> Draws: ...
    @property
    def dim(self) -> int: ...

    def init(self, x0: Float[Array, " d"]) -> PyTree: ...
    def step(self, state: PyTree, drawn: Drawn, k: Any) -> PyTree: ...
    def position(self, state: PyTree) -> Float[Array, " d"]: ...


@runtime_checkable
class Statistic(Protocol):
    """A streaming summary of the positions of the chains of one tile: a commutative monoid.

    Accumulators are pytrees of arrays whose first axis is either the chain or, where chains share one accumulator, of
    length 1. `merge` folds that first axis (chains of a tile, tiles of a group, groups of a run), in a fixed order, so a
    merged accumulator has length 1 there and any number of them can be concatenated and merged again.

    A statistic that only counts may also offer `boxes(x, alive)`, the number of the count that each position goes to, and
    accumulators with `added(counts)`: an executor may then count by itself.
    """

    def init(self, x: Float[Array, "c d"]) -> PyTree: ...
    def update(self, acc: PyTree, t: Any, x: Float[Array, "c d"], alive: Any) -> PyTree: ...
    def merge(self, acc: PyTree) -> PyTree: ...
    def result(self, acc: PyTree) -> Any: ...
