"""Losses that are a mean over examples: L(Φ) = (1/n) Σ example_loss(Φ, (x, y)), x ["p"] the features, y a number.

Every loss may carry a ridge ½·l2·|Φ|², which gives a Gibbs law to data that alone would not confine the parameters
(classes that a plane separates, collinear features). `LOSSES` says what y is, and how the initial parameters follow
from the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..catalogue import Count, NonNegative, Positive

Weights = Float[Array, " p"]
Example = tuple[Float[Array, " p"], Any]
Scalar = Float[Array, ""]


class Entry(NamedTuple):
    """An example loss, how it starts, and its target.

    `start(features, classes, **parameters)` makes the initial parameters (a pytree of float64 arrays) from the number
    of features and of classes. `target` is "real" (y any number), "binary" (0 or 1) or "classes" (0, 1, …, classes −
    1).
    """

    function: Callable[..., Any]
    start: Callable[..., PyTree]
    target: str = "real"
    size: str = "features"


def squared_error(params: Weights, example: Example, *, l2: NonNegative = 0.0) -> Scalar:
    """½ (x·Φ − y)², linear regression."""
    x, y = example
    return 0.5 * (x @ params - y) ** 2 + _ridge(params, l2)


def cauchy(params: Weights, example: Example, *, scale: Positive = 1.0, l2: NonNegative = 0.0) -> Scalar:
    """½ s² log(1 + (x·Φ − y)²/s²), robust regression whose gradient redescends to 0 for outliers (s = scale)."""
    x, y = example
    residual = (x @ params - y) / scale
    return 0.5 * scale**2 * jnp.log1p(residual**2) + _ridge(params, l2)


def huber(params: Weights, example: Example, *, delta: Positive = 1.0, l2: NonNegative = 0.0) -> Scalar:
    """½ r² for |r| ≤ delta, else delta·(|r| − delta/2), with r = x·Φ − y: robust regression with a bounded gradient."""
    x, y = example
    residual = x @ params - y
    clipped = jnp.clip(residual, -delta, delta)
    return clipped * (residual - 0.5 * clipped) + _ridge(params, l2)


def logistic(params: Weights, example: Example, *, l2: NonNegative = 0.0) -> Scalar:
    """log(1 + exp(−(2y − 1) x·Φ)), logistic regression with y in {0, 1}. Classes that a plane separates need l2 > 0."""
    x, y = example
    return jax.nn.softplus((1.0 - 2.0 * y) * (x @ params)) + _ridge(params, l2)


def softmax(params: Float[Array, "k p"], example: Example, *, l2: NonNegative = 0.0) -> Scalar:
    """−log softmax(z)_y, z = (Φx, 0), multinomial regression with y in {0, …, K − 1}.

    The last class is the reference, its score fixed at 0, so that Φ [K − 1, p] has no flat direction. Classes that
    planes separate need l2 > 0.
    """
    x, y = example
    scores = params @ x
    scores = jnp.concatenate([scores, jnp.zeros((1,), scores.dtype)])
    picked = jnp.sum(jnp.where(jnp.arange(scores.shape[0]) == y, scores, 0.0))
    return jax.nn.logsumexp(scores) - picked + _ridge(params, l2)


def mlp(params: dict[str, Array], example: Example, *, l2: NonNegative = 0.0) -> Scalar:
    """½ (f(x) − y)², f(x) = a·tanh(Wx + b) + c, regression by a network of one hidden layer."""
    x, y = example
    hidden = jnp.tanh(params["W"] @ x + params["b"])
    return 0.5 * (params["a"] @ hidden + params["c"] - y) ** 2 + _ridge(params, l2)


def deep_linear(params: dict[str, Array], example: Example, *, l2: NonNegative = 0.0) -> Scalar:
    """½ (a·Wx − y)², linear regression through two layers.

    The minima form a manifold (W and a may trade their scale), so the law is Gibbs nowhere without l2 > 0.
    """
    x, y = example
    return 0.5 * (params["a"] @ (params["W"] @ x) - y) ** 2 + _ridge(params, l2)


def zeros(features: int, classes: int) -> Float[np.ndarray, " p"]:
    """The origin, for one weight per feature."""
    return np.zeros(features)


def class_zeros(features: int, classes: int) -> Float[np.ndarray, "k p"]:
    """The origin, for one row of weights per class but the last."""
    return np.zeros((classes - 1, features))


def mlp_start(features: int, classes: int, *, hidden: Count = 8) -> dict[str, np.ndarray]:
    """Weights of variance 1/fan-in, all different, and biases of 0."""
    return {
        "W": _spread(hidden, features),
        "b": np.zeros(hidden),
        "a": _spread(1, hidden, first=hidden * features)[0],
        "c": np.zeros(()),
    }


def deep_linear_start(features: int, classes: int, *, hidden: Count = 2) -> dict[str, np.ndarray]:
    """Two layers of weights of variance 1/fan-in, all different."""
    return {"W": _spread(hidden, features), "a": _spread(1, hidden, first=hidden * features)[0]}


def _spread(rows: int, columns: int, first: int = 0) -> Float[np.ndarray, "rows columns"]:
    """√(2/columns)·cos(2πγ(k+1)²) over k = first, first+1, …, γ the golden ratio: zero mean, variance 1/columns.

    A formula rather than a generator: the same numbers on every machine and in every version.
    """
    k = np.arange(first + 1, first + 1 + rows * columns, dtype=np.float64)
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    return (math.sqrt(2.0 / columns) * np.cos(2.0 * np.pi * (golden * k * k % 1.0))).reshape(rows, columns)


def _ridge(params: PyTree, l2: float) -> Any:
    if isinstance(l2, int | float) and l2 == 0.0:
        return 0.0
    return 0.5 * l2 * sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(params))


LOSSES = {
    "squared_error": Entry(squared_error, start=zeros, target="real", size="features"),
    "logistic": Entry(logistic, start=zeros, target="binary", size="features"),
    "cauchy": Entry(cauchy, start=zeros, target="real", size="features"),
    "huber": Entry(huber, start=zeros, target="real", size="features"),
    "softmax": Entry(softmax, start=class_zeros, target="classes", size="(classes - 1) * features"),
    "mlp": Entry(mlp, start=mlp_start, target="real", size="hidden * (features + 2) + 1"),
    "deep_linear": Entry(deep_linear, start=deep_linear_start, target="real", size="hidden * (features + 1)"),
}
