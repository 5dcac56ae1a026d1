"""The two kinds of problem: a sum over examples, and a potential with a noise covariance of its own.

    L(Φ) = (1/n) Σᵢ ℓ(Φ, exampleᵢ)        Σ(Φ) = (1/n) Σᵢ (gᵢ − g)(gᵢ − g)ᵀ,   gᵢ = ∇ℓ(Φ, exampleᵢ),  g = ∇L

Σ is the covariance of one uniformly drawn example's gradient (batch size 1). Everything derives from the user's loss by
autodiff. Sums over examples run in blocks, so that memory stays bounded when n·d is large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ..compiled import jitted
from ..struct import check_gradient, static, struct

# Examples whose gradients are held at once: block · d stays below this many numbers per evaluation point.
_BLOCK_NUMBERS = 1 << 16
_SMALL = 8


@struct
class FiniteSum:
    """L(Φ) = (1/n) Σ ℓ(Φ, exampleᵢ). Made by `finite_sum`."""

    data: PyTree  # every leaf ["n ..."]
    start: Float[Array, " d"]
    example_loss: Callable[[Any, Any], Any] = static()
    unravel: Callable[[Any], PyTree] = static()
    examples: int = static()
    dim: int = static()

    def loss_of(self, phi: Float[Array, " d"], example: PyTree) -> Float[Array, ""]:
        """One example's loss at the flat position."""
        return self.example_loss(self.unravel(phi), example)

    def loss(self, phi: Float[Array, " d"]) -> Float[Array, ""]:
        """L(Φ), the mean loss."""
        weights = jnp.full((self.examples,), 1.0 / self.examples, phi.dtype)
        return self._weighted(lambda ex: self.loss_of(phi, ex), weights)

    def grad(self, phi: Float[Array, " d"]) -> Float[Array, " d"]:
        """g = ∇L(Φ)."""
        return self.weighted_grad(phi, jnp.full((self.examples,), 1.0 / self.examples, phi.dtype))

    def weighted_grad(self, phi: Float[Array, " d"], w: Float[Array, " n"]) -> Float[Array, " d"]:
        """∇ Σᵢ wᵢ ℓᵢ(Φ), one reverse pass per block of examples."""
        return self._weighted(
            lambda ex: None, w, block=lambda exs, wb: jax.grad(lambda p: jnp.vdot(wb, self._losses(p, exs)))(phi)
        )

    def minibatch_grad(self, phi: Float[Array, " d"], indices: Int[Array, " b"]) -> Float[Array, " d"]:
        """ĝ = (1/B) Σ over the examples named by `indices`, 0 … n − 1, of ∇ℓᵢ(Φ). ValueError for others, unless they are traced and
        so not known."""
        if not isinstance(indices, Tracer):
            given = np.asarray(indices)  # NumPy's: a trace of something else may be going on
            if ((given < 0) | (given >= self.examples)).any():
                raise ValueError(f"indices = {given}: there are examples 0 to {self.examples - 1}")
        rows = lambda a: a.at[indices].get(mode="promise_in_bounds", wrap_negative_indices=False)
        batch = jax.tree.map(rows, self.data)
        if indices.shape[0] == 1:
            return jax.grad(self.loss_of)(phi, jax.tree.map(lambda a: a[0], batch))
        return jax.grad(lambda p: jnp.mean(self._losses(p, batch)))(phi)

    def example_gradients(self, phi: Float[Array, " d"]) -> Float[Array, "n d"]:
        """Every example's gradient."""
        return jax.vmap(jax.grad(self.loss_of), (None, 0))(phi, self.data)

    def example_hessians(self, phi: Float[Array, " d"]) -> Float[Array, "n d d"]:
        """Every example's Hessian, a block of examples at a time."""
        return jax.lax.map(lambda ex: jax.hessian(self.loss_of)(phi, ex), self.data, batch_size=self._block(self.dim))

    def hessian(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        """∇²L(Φ)."""
        weights = jnp.full((self.examples,), 1.0 / self.examples, phi.dtype)
        return self._weighted(lambda ex: jax.hessian(self.loss_of)(phi, ex), weights, cost=self.dim)

    def noise_covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        """Σ(Φ), the covariance of one example's gradient."""
        g = self.grad(phi)

        def block(examples: PyTree, w: Array) -> Array:
            deviations = jax.vmap(jax.grad(self.loss_of), (None, 0))(phi, examples) - g
            if (
                self.dim <= _SMALL
            ):  # one product with the weights for each entry: a batch of tiny matrices is far slower
                column = deviations.T
                entries = {(i, j): w @ (column[i] * column[j]) for i in range(self.dim) for j in range(i + 1)}
                return jnp.stack(
                    [jnp.stack([entries[max(i, j), min(i, j)] for j in range(self.dim)]) for i in range(self.dim)]
                )
            return (deviations * w[:, None]).T @ deviations

        return self._weighted(lambda ex: None, jnp.full((self.examples,), 1.0 / self.examples, phi.dtype), block=block)

    def _losses(self, phi: Array, examples: PyTree) -> Array:
        return jax.vmap(self.loss_of, (None, 0))(phi, examples)

    def _block(self, cost: int) -> int:
        return max(1, min(self.examples, _BLOCK_NUMBERS // max(1, self.dim * cost)))

    def _weighted(self, one: Callable[[Any], Any], w: Array, *, block: Any = None, cost: int = 1) -> Array:
        """Σᵢ wᵢ one(exampleᵢ), or Σ over blocks of block(examples, weights): the one place where a sum is cut."""

        def each(examples: PyTree, weights: Array) -> Array:
            return jnp.tensordot(weights, jax.vmap(one)(examples), axes=1)

        block = each if block is None else block

        size = self._block(cost)
        whole = self.examples // size
        if whole == 1 and size == self.examples:
            return block(self.data, w)

        def body(total: Array, i: Array) -> tuple[Array, None]:
            # sliced where they lie: cutting all of the data beforehand would copy it
            some = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, i * size, size), (self.data, w))
            return total + block(*some), None

        rest = block(jax.tree.map(lambda a: a[whole * size :], self.data), w[whole * size :])
        # A reverse pass through the scan recomputes each block instead of keeping all of them.
        total, _ = jax.lax.scan(jax.checkpoint(body), rest, jnp.arange(whole))
        return total


@struct
class Potential:
    """A loss with a noise covariance of its own. Made by `potential`."""

    start: Float[Array, " d"]
    covariance: Any  # a variance [], variances ["d"] or a matrix ["d d"]; None when it is a function
    loss_function: Callable[[Any], Any] = static()
    covariance_function: Callable[[Any], Any] | None = static()
    unravel: Callable[[Any], PyTree] = static()
    dim: int = static()
    examples: int = static(default=0)

    def loss(self, phi: Float[Array, " d"]) -> Float[Array, ""]:
        """L(Φ)."""
        return self.loss_function(self.unravel(phi))

    def grad(self, phi: Float[Array, " d"]) -> Float[Array, " d"]:
        """∇L(Φ)."""
        return jax.grad(self.loss)(phi)

    def hessian(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        """∇²L(Φ)."""
        return jax.hessian(self.loss)(phi)

    def noise_covariance(self, phi: Float[Array, " d"]) -> Float[Array, "d d"]:
        """Σ(Φ), as the user gave it, as a matrix."""
        given = self.covariance if self.covariance_function is None else self.covariance_function(self.unravel(phi))
        given = jnp.asarray(given, phi.dtype)
        eye = jnp.eye(self.dim, dtype=phi.dtype)
        return given if given.ndim == 2 else eye * given


def finite_sum(example_loss: Callable[[Any, Any], Any], data: PyTree, params: PyTree) -> FiniteSum:
    """The problem L(Φ) = (1/n) Σ example_loss(Φ, exampleᵢ).

    `example_loss(params, example)` returns a scalar; `data` is any pytree of arrays with a common leading axis n, and an
    example is the same tree without that axis; `params` is any pytree of floating-point arrays, the initial point Φ₀.
    The loss function is part of the compiled program's identity: pass the same function object, not a fresh lambda.

    Raises `TypeError` for a loss that is not a differentiable scalar and `ValueError` for data that has no examples,
    unequal lengths, or a loss or gradient that is not finite at `params`.
    """
    if not callable(example_loss):
        raise TypeError(
            f"example_loss must be a function (params, example) -> scalar, got {type(example_loss).__name__}"
        )
    start, unravel = _flatten(params)
    leaves = jax.tree.leaves(data)
    if not leaves:
        raise ValueError("data has no arrays: give a pytree of arrays with a common leading axis, e.g. (X, y)")
    lengths = {np.shape(a)[0] if np.ndim(a) else None for a in leaves}
    if len(lengths) != 1 or None in lengths:
        shapes = ", ".join(str(np.shape(a)) for a in leaves)
        raise ValueError(f"data leaves need one common leading axis (the examples), got shapes {shapes}")
    (n,) = lengths
    if not n:
        raise ValueError("data has no examples (leading axis of length 0): give at least one")
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if np.issubdtype(np.asarray(leaf).dtype, np.floating) and not np.isfinite(np.asarray(leaf)).all():
            where = np.argwhere(~np.isfinite(np.asarray(leaf)))[0]
            raise ValueError(
                f"data{jax.tree_util.keystr(path)} is not finite at {tuple(map(int, where))}: clean it first"
            )
        if np.issubdtype(np.asarray(leaf).dtype, np.integer) and np.size(leaf):
            kept = jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype)
            if int(np.max(leaf)) > np.iinfo(kept).max or int(np.min(leaf)) < np.iinfo(kept).min:
                where = jax.tree_util.keystr(path)
                raise ValueError(f"data{where} has integers beyond {kept}: turn on jax_enable_x64 or give floating-point numbers")
    data = jax.tree.map(
        lambda a: jnp.asarray(a, start.dtype if np.issubdtype(np.asarray(a).dtype, np.floating) else None), data
    )
    first = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[0]), data)  # a slice by NumPy needs no program
    _check_scalar(lambda p: example_loss(unravel(p), first), start, "example_loss(params, example)")
    problem = FiniteSum(data, start, example_loss, unravel, int(n), start.size)
    _check_finite(problem)
    return problem


def potential(loss: Callable[[Any], Any], params: PyTree, *, noise_covariance: Any = 1.0) -> Potential:
    """The problem L(Φ) = loss(params) whose gradient noise has the covariance Σ that is given.

    `noise_covariance` is a number σ² (Σ = σ²I), a vector of d variances, a d×d symmetric positive semidefinite matrix of any
    rank, or a function of the params that returns one of these.

    Raises `TypeError` for a loss that is not a differentiable scalar and `ValueError` for a covariance that is no covariance
    or a gradient that is not finite at `params`.
    """
    if not callable(loss):
        raise TypeError(f"loss must be a function params -> scalar, got {type(loss).__name__}")
    start, unravel = _flatten(params)
    _check_scalar(lambda p: loss(unravel(p)), start, "loss(params)")
    function = noise_covariance if callable(noise_covariance) else None
    at_start = noise_covariance(unravel(start)) if callable(noise_covariance) else noise_covariance
    matrix = check_covariance(at_start, start.size)
    covariance = None if function is not None else jnp.asarray(matrix, start.dtype)
    problem = Potential(start, covariance, loss, function, unravel, start.size)
    _check_finite(problem)
    return problem


def check_covariance(given: Any, dim: int, name: str = "noise_covariance") -> np.ndarray:
    """A number, `dim` variances or a symmetric positive semidefinite matrix, as float64; `ValueError` for anything else."""
    array = np.asarray(given, np.float64)
    if array.shape not in ((), (dim,), (dim, dim)):
        raise ValueError(f"{name} has shape {array.shape}: give a number, a vector [{dim}] or a matrix [{dim}, {dim}]")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has an entry that is not finite: {array.tolist()}")
    if array.ndim < 2:
        if (array < 0).any():
            raise ValueError(f"{name} has a negative variance: {array.tolist()}")
        return array
    size = max(np.abs(array).max(), 1e-300)
    if np.abs(array - array.T).max() > 1e-5 * size:
        raise ValueError(f"{name} is not symmetric: {array.tolist()}; pass (C + C.T)/2 if that is what you mean")
    lowest = float(np.linalg.eigvalsh((array + array.T) / 2)[0])
    if lowest < -1e-5 * size:
        raise ValueError(f"{name} is indefinite (lowest eigenvalue {lowest:.4g}): a covariance has none below 0")
    return array


def _flatten(params: PyTree) -> tuple[Array, Callable[[Any], PyTree]]:
    leaves = jax.tree.leaves(params)
    if not leaves or not sum(np.size(a) for a in leaves):
        raise ValueError("params has no numbers: give a pytree of floating-point arrays")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = np.asarray(leaf).dtype
        if not (np.issubdtype(dtype, np.floating) or np.issubdtype(dtype, np.integer)):
            raise TypeError(f"params{jax.tree_util.keystr(path)} has dtype {dtype}: give real floating-point numbers")
        if not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise ValueError(f"params{jax.tree_util.keystr(path)} is not finite: give a finite initial point")
    # in the default precision, which is float64 where jax_enable_x64 is on: Python numbers and integers too
    params = jax.tree.map(lambda a: jnp.asarray(a, float), params)
    template = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    return ravel_pytree(params)[0], Unravel.of(template)


class Unravel:
    """Flat vector -> the user's pytree, in the vector's own dtype. Equal for equal trees, so that it may be static."""

    def __init__(self, tree: Any, shapes: tuple[tuple[int, ...], ...]):
        self.tree, self.shapes = tree, shapes

    @classmethod
    def of(cls, template: PyTree) -> Unravel:
        leaves, tree = jax.tree.flatten(template)
        return cls(tree, tuple(tuple(a.shape) for a in leaves))

    def __call__(self, phi: Any) -> PyTree:
        if len(self.shapes) == 1:
            return jax.tree.unflatten(self.tree, [phi.reshape(self.shapes[0])])
        ends = np.cumsum([0, *(int(np.prod(s)) for s in self.shapes)])
        parts = [phi[a:b].reshape(s) for a, b, s in zip(ends, ends[1:], self.shapes, strict=False)]
        return jax.tree.unflatten(self.tree, parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unravel) and (self.tree, self.shapes) == (other.tree, other.shapes)

    def __hash__(self) -> int:
        return hash((self.tree, self.shapes))

    def __repr__(self) -> str:
        return f"Unravel({jax.tree.unflatten(self.tree, self.shapes)})"


def _check_scalar(f: Callable[[Any], Any], phi: Array, name: str) -> None:
    try:
        out = jax.eval_shape(f, phi)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        reason = str(error).split("\n", 1)[0]
        raise TypeError(
            f"{name} cannot be traced by JAX ({reason}): write it with jax.numpy, without float() or if"
        ) from error
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1 or not hasattr(out, "shape") or out.shape != ():
        got = getattr(out, "shape", type(out).__name__)
        raise TypeError(f"{name} must return one scalar, got {got}: reduce it, e.g. with jnp.sum or jnp.mean")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"{name} must return a real floating-point scalar to be differentiated, got {out.dtype}")
    try:
        jax.eval_shape(jax.grad(f), phi)
    except Exception as error:
        reason = str(error).split("\n", 1)[0]
        raise TypeError(f"{name} is not differentiable ({reason}): use operations that jax.grad covers") from error


def _at_start(problem: FiniteSum | Potential) -> tuple[Array, Array]:
    return problem.loss(problem.start), problem.grad(problem.start)


def _check_finite(problem: FiniteSum | Potential) -> None:
    loss, gradient = jax.device_get(jitted(_at_start, problem)(problem))
    if not np.isfinite(loss):
        raise ValueError(f"the loss at the initial point is {loss}: start where the loss is finite")
    check_gradient(gradient, problem.unravel)
