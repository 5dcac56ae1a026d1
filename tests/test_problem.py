"""Problems: L, g, H, Σ and per-example gradients against formulas in NumPy float64; what is refused. Exact, no false alarms."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_default import some

import jaxsde as js
from jaxsde.problems import problem as problems

RNG = np.random.default_rng(5)


def tree_loss(params, example):
    """½ (a·x + b Σ x s − y)² with s the example's own weights, on dicts within tuples."""
    x, rest = example["x"], example["rest"]
    residual = params["a"] @ x + params["b"][0] * jnp.sum(x * rest[0]) - rest[1]
    return 0.5 * residual**2


def tree(n, d, rng=RNG):
    x, s, y = rng.normal(size=(n, d)), rng.normal(size=(n, d)), rng.normal(size=n)
    params = {"a": rng.normal(size=d), "b": (np.array(rng.normal()),)}
    features = np.concatenate([x, (x * s).sum(1)[:, None]], axis=1)  # flat order: a, then b
    phi = np.concatenate([params["a"], [params["b"][0]]])
    return {"x": x, "rest": (s, y)}, params, features, y, phi


def reference(features, y, phi):
    """(L, g, H, Σ, per-example gradients) of least squares, float64."""
    residual = features @ phi - y
    each = features * residual[:, None]
    g = each.mean(0)
    centred = each - g
    return 0.5 * np.mean(residual**2), g, features.T @ features / len(y), centred.T @ centred / len(y), each


def close(got, want, rtol=3e-5):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=rtol * max(np.abs(want).max(), 1e-12), rtol=0)


@pytest.mark.parametrize("n,d", [(1, 1), (7, 2), (40, 6), (40, 7), (33, 12)])
def test_a_finite_sum_is_its_formulas(n, d):
    data, params, features, y, phi = tree(n, d)
    p = js.finite_sum(tree_loss, data, params)
    loss, g, h, sigma, each = reference(features, y, phi)
    assert (p.dim, p.examples) == (d + 1, n)
    close(p.start, phi)
    point = p.start
    close(p.loss(point), loss)
    close(p.grad(point), g)
    close(p.hessian(point), h)
    close(p.noise_covariance(point), sigma)
    close(p.example_gradients(point), each)
    close(p.example_hessians(point), features[:, :, None] * features[:, None, :])
    w = RNG.normal(size=n)
    close(p.weighted_grad(point, jnp.asarray(w, "float32")), w @ each)
    pick = RNG.integers(0, n, size=5)
    close(p.minibatch_grad(point, jnp.asarray(pick)), each[pick].mean(0))
    close(p.minibatch_grad(point, jnp.asarray(pick[:1])), each[pick[0]])
    for wrong in (-1, n):
        with pytest.raises(ValueError, match=f"there are examples 0 to {n - 1}"):
            p.minibatch_grad(point, jnp.asarray([0, wrong]))
    back = p.unravel(p.start)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    close(back["a"], params["a"])
    with pytest.raises(AssertionError):  # the uncentred second moment is not Σ, and the checks see it
        close(p.noise_covariance(point), each.T @ each / n)


BLOCKS = [(numbers, n) for numbers in (1, 64, 300, 333) for n in (37, 40)]


@pytest.mark.parametrize("numbers, n", some(BLOCKS, [(1, 37), (64, 40), (300, 37), (333, 40)]))
def test_cutting_into_blocks_changes_nothing(monkeypatch, numbers, n):
    data, params, features, y, phi = tree(n, 9)
    loss, g, h, sigma, each = reference(features, y, phi)
    monkeypatch.setattr(problems, "_BLOCK_NUMBERS", numbers)
    p = js.finite_sum(tree_loss, data, params)
    assert p._block(1) < n
    w = RNG.normal(size=n)
    for got, want in [
        (p.loss(p.start), loss),
        (p.grad(p.start), g),
        (p.hessian(p.start), h),
        (p.noise_covariance(p.start), sigma),
        (p.example_hessians(p.start), features[:, :, None] * features[:, None, :]),
        (p.weighted_grad(p.start, jnp.asarray(w, "float32")), w @ each),
        (jax.grad(p.loss)(p.start), g),
        (jax.hessian(p.loss)(p.start), h),
    ]:
        close(got, want)


def linear(phi, example):
    return 0.5 * (example[0] @ phi - example[1]) ** 2


@pytest.mark.parametrize("name", ["grad", "noise_covariance", "hessian", "loss"])
def test_memory_is_bounded_when_the_data_is_large(name):
    """n d = 4e6 numbers (16 MB): no temporary comes near the n × d gradients, for one evaluation or under grad of L."""
    n, d = 200_000, 20
    data = (np.ones((n, d), "f4"), np.ones(n, "f4"))
    p = js.finite_sum(linear, data, np.zeros(d))

    def temporary(f):
        return jax.jit(f).lower(p, p.start).compile().memory_analysis().temp_size_in_bytes

    assert temporary(lambda p, x: getattr(p, name)(x)) < 6e6
    assert temporary(lambda p, x: p.example_gradients(x).T @ p.example_gradients(x)) > 15e6  # the count does count


def test_big_data_is_right():
    n, d = 30_011, 11
    x = RNG.normal(size=(n, d)) + 1
    y = RNG.normal(size=n)
    p = js.finite_sum(linear, (x, y), np.full(d, 0.3))
    loss, g, h, sigma, _ = reference(x, y, np.full(d, 0.3))
    for got, want in [
        (p.loss(p.start), loss),
        (p.grad(p.start), g),
        (p.hessian(p.start), h),
        (p.noise_covariance(p.start), sigma),
    ]:
        close(got, want, 1e-4)


@pytest.mark.parametrize("given", ["number", "vector", "matrix", "function", "function of variances"])
def test_a_potential_has_the_covariance_it_was_given(given):
    def loss(params):
        return jnp.sum(params["u"] ** 4) / 4 + params["v"] * params["u"][0]

    params = {"u": np.array([1.0, 2.0]), "v": np.array(3.0)}
    c = np.array([[2.0, 0.5, 0], [0.5, 1, 0], [0, 0, 0]])
    sigma, want = {
        "number": (0.7, 0.7 * np.eye(3)),
        "vector": ([1.0, 2.0, 0.0], np.diag([1.0, 2, 0])),
        "matrix": (c, c),
        "function": (lambda p: jnp.eye(3) * (1 + p["v"] ** 2), 10 * np.eye(3)),
        "function of variances": (lambda p: jnp.array([1.0, 2.0, 3.0]) * p["v"], np.diag([3.0, 6, 9])),
    }[given]
    p = js.potential(loss, params, noise_covariance=sigma)
    assert (p.dim, p.examples) == (3, 0)
    close(p.start, [1, 2, 3])
    close(p.loss(p.start), 17 / 4 + 3)
    close(p.grad(p.start), [1 + 3, 8, 1])
    close(p.hessian(p.start), [[3, 0, 1], [0, 12, 0], [1, 0, 0]])
    close(p.noise_covariance(p.start), want)


def test_data_of_any_number_type_and_int_params():
    x = RNG.integers(-3, 4, size=(20, 3))
    y = RNG.integers(-3, 4, size=20)
    want = reference(x.astype(float), y.astype(float), np.ones(3))
    for kind in (np.int8, np.int64, np.float16, np.float32, np.float64):
        p = js.finite_sum(linear, (x.astype(kind), y.astype(kind)), np.ones(3, int))
        assert p.start.dtype == jnp.float32
        close(p.grad(p.start), want[1])
        close(p.noise_covariance(p.start), want[3])
    lists = js.finite_sum(lambda w, ex: 0.5 * (w[0] * ex[0] + w[1] - ex[1]) ** 2, (x[:, 0], y), [1.0, 2])
    close(lists.start, [1, 2])
    with pytest.raises(ValueError, match="integers beyond int32"):
        js.finite_sum(linear, (x.astype(np.int64) + 2**40, y), np.ones(3))


def test_the_tree_is_part_of_a_problems_identity():
    data, params, *_ = tree(5, 2)
    a, b = js.finite_sum(tree_loss, data, params), js.finite_sum(tree_loss, data, jax.tree.map(lambda v: v + 1, params))
    assert jax.tree.structure(a) == jax.tree.structure(b)  # no second compilation for other values


BAD = {
    "vector loss": (lambda w, e: w * e, TypeError, "must return one scalar.*reduce it"),
    "integer loss": (lambda w, e: jnp.argmax(w), TypeError, "real floating-point scalar.*int"),
    "bool loss": (lambda w, e: w[0] > 0, TypeError, "real floating-point scalar.*bool"),
    "complex loss": (lambda w, e: w[0] * 1j, TypeError, "real floating-point scalar.*complex"),
    "two scalars": (lambda w, e: (w[0], w[1]), TypeError, "one scalar, got tuple"),
    "no value": (lambda w, e: None, TypeError, "one scalar, got NoneType"),
    "float()": (lambda w, e: float(w[0]), TypeError, "jax.numpy, without float"),
    "if": (lambda w, e: w[0] if w[0] > 0 else w[1], TypeError, "without float\\(\\) or if"),
    "numpy": (lambda w, e: np.sum(np.asarray(w)), TypeError, "jax.numpy"),
    "not differentiable": (
        lambda w, e: jax.lax.while_loop(lambda c: c < 3, lambda c: c + 1, w[0]), TypeError, "not differentiable"),
    "gradient is NaN": (lambda w, e: jnp.sqrt(w[1] - 2.0) + w[0], ValueError, r"component params\[1\].*start where"),
    "loss is NaN": (lambda w, e: jnp.log(-w[0]), ValueError, "loss at the initial point is nan.*start where"),
    "loss is infinite": (lambda w, e: 1 / (w[0] - 1), ValueError, "loss at the initial point is inf"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_losses_that_cannot_be_are_named_with_the_cure(name):
    loss, error, words = BAD[name]
    start = np.array([1.0, 2.0])
    with pytest.raises(error, match=words):
        js.finite_sum(loss, np.ones((3, 2)), start)
    with pytest.raises(error, match=words):
        js.potential(lambda w: loss(w, jnp.ones(2)), start)


@pytest.mark.parametrize(
    "data,params,error,words",
    [
        ((), np.ones(2), ValueError, "no arrays"),
        ((np.ones((3, 2)), np.ones(4)), np.ones(2), ValueError, r"common leading axis.*\(3, 2\), \(4,\)"),
        ((np.ones((3, 2)), 1.0), np.ones(2), ValueError, "common leading axis"),
        ((np.ones((0, 2)), np.ones(0)), np.ones(2), ValueError, "no examples"),
        ((np.array([[1, np.nan], [1, 1]]), np.ones(2)), np.ones(2), ValueError, r"data\[0\].*\(0, 1\)"),
        ((np.ones((3, 2)), np.ones(3)), [], ValueError, "no numbers"),
        ((np.ones((3, 2)), np.ones(3)), np.array([1, np.inf]), ValueError, "not finite"),
        ((np.ones((3, 2)), np.ones(3)), np.ones(2) * 1j, TypeError, "complex"),
        ((np.ones((3, 2)), np.ones(3)), np.array(["a", "b"]), TypeError, "dtype"),
        ((np.ones((3, 2)), np.ones(3)), np.array([True, False]), TypeError, "bool"),
    ],
)
def test_data_and_params_that_cannot_be_are_named(data, params, error, words):
    with pytest.raises(error, match=words):
        js.finite_sum(linear, data, params)


@pytest.mark.parametrize(
    "given,words",
    [
        (-1.0, "negative variance"),
        ([1.0, -2.0], "negative variance"),
        (np.nan, "not finite"),
        ([[1.0, np.inf], [np.inf, 1]], "not finite"),
        (np.ones(3), r"shape \(3,\): give a number, a vector \[2\] or a matrix \[2, 2\]"),
        (np.ones((2, 3)), "shape"),
        (np.ones((1, 2, 2)), "shape"),
        ([[1.0, 0.5], [0.4, 1.0]], r"not symmetric.*\(C \+ C.T\)/2"),
        ([[1.0, 2.0], [2.0, 1.0]], "indefinite.*-1"),
        (lambda p: -jnp.eye(2), "indefinite"),
        (lambda p: jnp.ones(5), "shape"),
    ],
)
def test_what_is_no_covariance_is_named(given, words):
    with pytest.raises(ValueError, match=words):
        js.potential(jnp.sum, np.zeros(2), noise_covariance=given)


def test_a_covariance_of_low_rank_is_kept():
    from jaxsde.dynamics import noise

    a = RNG.normal(size=(5, 2))
    c = a @ a.T
    made = noise.constant(c, 5)
    assert (made.dim, made.kind) == (2, "additive")
    close(made.covariance(jnp.zeros(5)), c)
    close(noise.constant(np.zeros((3, 3)), 3).covariance(jnp.zeros(3)), np.zeros((3, 3)))
    z = np.eye(5, dtype="f4")
    root = np.stack([noise.cholesky_product(jnp.asarray(c, "float32"), jnp.asarray(e)) for e in z], axis=1)
    close(root @ root.T, c)


def test_precision_is_float64_where_it_was_turned_on():
    data, params, features, y, phi = tree(25, 4)
    want = reference(features, y, phi)
    with jax.enable_x64(True):
        for given in (params, jax.tree.map(np.float32, params)):
            p = js.finite_sum(tree_loss, data, given)
            assert p.start.dtype == jnp.float64 and p.data["x"].dtype == jnp.float64
        p = js.finite_sum(tree_loss, data, params)
        for got, value in zip((p.loss, p.grad, p.hessian, p.noise_covariance, p.example_gradients), want, strict=True):
            close(got(p.start), value, 1e-13)
        assert js.potential(lambda a: a[0] ** 2, [1.0]).start.dtype == jnp.float64


def test_float64_from_end_to_end_in_a_process_of_its_own():
    """x64 on: a run is float64 by default, and follows the float64 recursion to 1e-12."""
    code = """
import jax; jax.config.update("jax_enable_x64", True)
import numpy as np, jax.numpy as jnp, jaxsde as js
p = js.potential(lambda x: .5 * jnp.sum(x**2) + x[0] * x[1] / 3, np.ones(2), noise_covariance=0.)
run = js.simulate(js.sgd(p, learning_rate=.1), np.ones(2), key=js.key(0), chains=3, steps=50)
H = np.array([[1, 1/3], [1/3, 1]]); x = np.ones(2)
for _ in range(50): x = x - .1 * (H @ x)
assert run.dtype == np.float64 and run.positions.dtype == np.float64
print(np.abs(run.positions - x).max())
low = js.simulate(js.sgd(p, learning_rate=.1), np.ones(2), key=js.key(0), chains=3, steps=50, dtype="float32")
assert low.positions.dtype == np.float32
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[\d.e-]+\n", done.stdout) and float(done.stdout) < 1e-12
