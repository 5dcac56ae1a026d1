"""The formulas that the native executor has for functions: right to a few units in the last place, and at the ends what XLA says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from worked_out import worked_out

from jaxsde.engine.executors.native import vectors
from jaxsde.engine.executors.native.functions import FUNCTIONS
from jaxsde.engine.executors.native.writer import Writer
from jaxsde.engine.executors.scalar import Graph, evaluate
from jaxsde.engine.executors.scalar.graph import CHAIN, ordered


def _everywhere(dtype):
    """Numbers of every magnitude and sign, and the special ones."""
    bits = 8 * np.dtype(dtype).itemsize
    every = (np.arange(200_000, dtype=np.uint64) * np.uint64((2**bits - 1) // 200_000)).astype(f"uint{bits}").view(dtype)
    near = np.concatenate([np.linspace(-20, 20, 60_001), np.linspace(-1100, 1100, 20_001)]).astype(dtype)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 88.72, -103.9, 709.7, 710.4, -745, 1e-45, 5e-324, 0.625], dtype)
    return np.concatenate([every, near, near / 1000, special])


def _values(name, *x):
    """A formula of `native`, worked out node by node in NumPy."""
    g = Graph(FUNCTIONS)
    given = [g.input(f"x{j}", v.dtype, CHAIN) for j, v in enumerate(x)]
    root = g.op(name, x[0].dtype, *given)
    assert all(node.op != name for node in ordered([root]))  # there is a formula
    return worked_out(root, {node.number: v for node, v in zip(given, x, strict=True)})


# what the float64 and extended precisions of NumPy and SciPy say; of these SciPy has float64 alone
TRUTHS = {"logistic": lambda v: 1 / (1 + np.exp(-v)), "erf": special.erf, "erfc": special.erfc, "digamma": special.digamma, "lgamma": special.gammaln}
GAMMA = ("digamma", "lgamma")
IN_DOUBLES = {"trigamma": lambda v: special.polygamma(1, v), "erf_inv": special.erfinv, "bessel_i0e": special.i0e, "bessel_i1e": special.i1e}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("pow", *GAMMA, *IN_DOUBLES)])
def test_functions(name, dtype):
    """Within three units in the last place of the true value, everywhere, and right at the ends."""
    if dtype == np.float64 and FUNCTIONS[name](Graph(FUNCTIONS), Graph().input("x", dtype, CHAIN)) is None:
        assert name in ("erf", "erfc", "cbrt")  # the C library's
        return
    x = _everywhere(dtype)
    exact = TRUTHS.get(name) or getattr(np, name)
    if name in ("sin", "cos", "tan"):
        x = x[~(np.abs(x) > (1e6 if dtype == np.float32 else 1e12))]  # beyond, the angle itself is known to no better than a turn's part
    with np.errstate(all="ignore"):
        truth = exact(x.astype(np.float64 if dtype == np.float32 else np.longdouble))
    got = _values(name, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(truth))
    fine = ~np.isnan(truth)
    with np.errstate(over="ignore"):
        rounded = truth[fine].astype(dtype)
    infinite = np.isinf(rounded)
    np.testing.assert_array_equal(got[fine][infinite], rounded[infinite])
    unit = np.spacing(np.maximum(np.abs(rounded[~infinite]), np.finfo(dtype).tiny)).astype(np.longdouble)
    error = np.abs(got[fine][~infinite].astype(np.longdouble) - truth[fine][~infinite]) / unit
    assert error.max() < 3, (name, x[fine][~infinite][error.argmax()], error.max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GAMMA)
def test_functions_of_gamma(name, dtype):
    """Where they are small, as right as their parts are; infinite or nothing where XLA says so."""
    large = 1e37 if dtype == np.float32 else 1e300
    x = np.concatenate([np.linspace(-9.99, 30, 4001), np.geomspace(1 / large, large, 2001)]).astype(dtype)
    got, truth = _values(name, x), TRUTHS[name](x.astype(np.float64))
    with np.errstate(over="ignore"):
        fine = np.isfinite(truth.astype(dtype)) & (np.abs(x - np.rint(x)) > 1e-4)  # SciPy loses digits beside the poles
    error = np.abs(got - truth) / np.maximum(1, np.abs(truth)) / np.finfo(dtype).eps
    assert error[fine].max() < (1 if dtype == np.float32 else 50)
    ends = np.array([0.0, -0.0, -1.0, -2.0, np.inf, -np.inf, np.nan, -large], dtype)
    theirs = {"digamma": [np.nan] * 4 + [np.inf] + [np.nan] * 3, "lgamma": [np.inf] * 6 + [np.nan, np.inf]}[name]
    np.testing.assert_array_equal(_values(name, ends), np.array(theirs, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", IN_DOUBLES)
def test_functions_worked_out_in_float64(name, dtype):
    """Of float32 to the last place; of float64 to 16 units, of which SciPy itself has a few."""
    eps = np.finfo(dtype).eps
    x = np.concatenate([np.linspace(-60, 60, 20_001), np.geomspace(1e-18, 1e18, 5001), -np.geomspace(1e-18, 1, 501)])
    if name == "erf_inv":
        x = np.concatenate([np.linspace(-1, 1, 20_001), 1 - np.geomspace(eps / 2, 1, 3001), np.geomspace(1e-30, 1, 501)])
    if name == "trigamma":
        x = x[(x > 0) | ((np.abs(x - np.rint(x)) > 1e-3) & (x > -10))]  # SciPy loses digits beside the poles
    x = x.astype(dtype)
    got, truth = _values(name, x), IN_DOUBLES[name](x.astype(np.float64))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(truth))
    got, truth = got[np.isfinite(truth)], truth[np.isfinite(truth)]
    error = np.abs(got - truth) / np.abs(truth).clip(1e-300) / eps
    assert error.max() < (0.51 if dtype == np.float32 else 16)
    ends = np.array([0.0, -0.0, 1.0, -1.0, 1.5, np.inf, -np.inf, np.nan], dtype)
    np.testing.assert_array_equal(np.float32(_values(name, ends)), np.float32(IN_DOUBLES[name](ends.astype(np.float64))))
    np.testing.assert_array_equal(np.signbit(_values(name, ends[:2])), [False, name in ("erf_inv", "bessel_i1e")])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_order_in_which_nan_has_a_place(dtype):
    table = np.array([-np.inf, -2, -1, 0.0, 1, 1, np.inf, np.nan], dtype)
    x = np.array([-np.inf, -3, -2, -1.5, -0.0, 0.0, 1e-30, 1, 2, np.inf, np.nan, -np.nan], dtype)
    for side in ("left", "right"):
        with jax.enable_x64(dtype is np.float64):
            closed = jax.make_jaxpr(lambda t, v, side=side: jnp.searchsorted(t, v, side=side))(table, x[0])
            theirs = jnp.searchsorted(table, x, side=side)
        g = Graph(FUNCTIONS)
        given = np.array([g.input("t", dtype, CHAIN, i) for i in range(len(table))])
        one = np.array(g.input("x", dtype, CHAIN))
        (root,) = (out.item() for out in evaluate(g, closed, given, one))
        known = {node.number: np.full(len(x), v) for node, v in zip(given, table, strict=True)} | {one.item().number: x}
        np.testing.assert_array_equal(worked_out(root, known), theirs)
        assert "lt_to" in str(closed) or "le_to" in str(closed)


@np.errstate(all="ignore")
def test_powers_of_float32():
    x, y = (a.ravel().astype(np.float32) for a in np.meshgrid(np.r_[np.geomspace(1e-30, 1e30, 301), -np.arange(1, 9)], np.linspace(-9, 9, 37)))
    got, truth = _values("pow", x, y), np.power(x.astype(np.float64), y)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(truth))
    fine = np.isfinite(truth.astype(np.float32))
    np.testing.assert_allclose(got[fine], truth[fine], rtol=1e-7, atol=1e-45)
    ends = np.float32([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, np.inf, -np.inf, np.nan])
    x, y = (a.ravel() for a in np.meshgrid(ends, np.r_[ends, np.float32([3, -3, 1 / 3])]))
    np.testing.assert_array_equal(_values("pow", x, y), np.power(x, y))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_function_of_one_number_is_printed(dtype):
    """In either precision, by a formula or the C library: no name is known to the tables alone."""
    import llvmlite.binding as llvm

    for name in [*FUNCTIONS, *vectors.LIBRARY]:
        g = Graph(FUNCTIONS)
        given = [g.input(f"x{j}", dtype, CHAIN) for j in range(2 if name in ("pow", "atan2") else 1)]
        body, preamble = Writer(16, 512), Writer(16, 512)
        kind = body.vector({4: "float", 8: "double"}[np.dtype(dtype).itemsize])
        names = {node: f"%x{j}" for j, node in enumerate(given)}
        (result,) = vectors.Printer(g, body, preamble, names, None, None).need([g.op(name, dtype, *given)])
        lines = [*body.helpers.values(), f"define {kind} @f({', '.join(f'{kind} {n}' for n in names.values())}) {{", *preamble.lines,
                 *body.lines, f"  ret {kind} {result}", "}", *body.declarations.values(), "attributes #0 = { nounwind }"]  # fmt: skip
        llvm.parse_assembly("\n".join(lines)).verify()


@pytest.mark.parametrize("function", [jax.nn.softplus, jax.nn.log_sigmoid, lambda v: jnp.logaddexp(0.0, -v), lambda v: jnp.logaddexp(3 * v, 0.0)],
                         ids=["softplus", "log_sigmoid", "logaddexp", "a product"])  # fmt: skip
def test_the_slope_of_softplus_is_the_logistic_function(function):
    """As JAX writes it, it is a logarithm between two exponentials, and no more right than their difference; at the ends it is XLA's."""
    for dtype, most in ((np.float64, 75), (np.float32, 45)):
        g = Graph(FUNCTIONS)
        given = g.input("x", dtype, CHAIN)
        scalar = np.empty((), object)
        scalar[()] = given
        with jax.enable_x64(dtype == np.float64):
            root = evaluate(g, jax.make_jaxpr(jax.grad(function))(dtype(0.5)), scalar)[0].item()
        assert len({n.number for n in ordered([root])}) < most  # an exponential and a division
    x = np.concatenate([np.linspace(-30, 30, 10_001), [-1e4, -110, 110, 1e4, np.inf, -np.inf, np.nan, 0.0, -0.0]]).astype(np.float32)
    got, theirs = worked_out(root, {given.number: x}), np.asarray(jax.vmap(jax.grad(function))(x))
    ends = slice(-9, None)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(theirs))
    np.testing.assert_array_equal(got[ends][np.isinf(x[ends])], theirs[ends][np.isinf(x[ends])])
    with jax.enable_x64(True):
        truth = np.asarray(jax.vmap(jax.grad(function))(x.astype(np.float64)))
    fine = np.isfinite(x)
    unit = np.finfo(np.float32).eps * (8 + 4 * np.abs(x[fine])) * np.abs(truth[fine])  # what a rounding of 3 v comes to
    assert (np.abs(got[fine] - truth[fine]) <= unit + np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize("function", [
    lambda v: jnp.exp(v - jnp.logaddexp(v, 1.0)),
    lambda v: jnp.exp(jnp.where(v == 2.0, 0.0, v) - jnp.logaddexp(v, 0.0)),
    lambda v: jnp.exp(v - (jnp.maximum(v, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(1.0 - v))))),
    lambda v: jnp.exp(v - jnp.where(v != 1.0, jnp.maximum(v, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(v))), 3.0)),
], ids=["another zero", "another hole", "another size", "another exception"])  # fmt: skip
def test_what_only_looks_like_the_slope_of_softplus_is_left_alone(function):
    g = Graph(FUNCTIONS)
    given = g.input("x", np.float32, CHAIN)
    scalar = np.empty((), object)
    scalar[()] = given
    root = evaluate(g, jax.make_jaxpr(function)(jnp.float32(0.5)), scalar)[0].item()
    x = np.concatenate([np.linspace(-20, 20, 1001), [1, 2]]).astype(np.float32)
    np.testing.assert_allclose(worked_out(root, {given.number: x}), jax.vmap(function)(x), rtol=1e-5, atol=1e-30)
