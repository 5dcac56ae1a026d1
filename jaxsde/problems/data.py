"""Data sets as numbers: the classics, a synthetic one, a user's own file; the features chosen, standardised, checked.

    x ← (x − mean)/std,   y ← (y − mean)/std for a regression,   std with ddof = 0

so that the Hessian of ½(x·Φ − y)² is the correlation matrix of the features. No JAX here, and scikit-learn is imported
only when one of its sets is read.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..catalogue import Count, NonNegative, Seed, Vector, did_you_mean
from ..errors import UNAVAILABLE, ExperimentError
from .tables import Table, read_table

# Largest magnitude that a feature may have: its square, and a sum of many, still fits in float32.
_LARGEST_NUMBER = 1e15


class Entry(NamedTuple):
    """A data set by name.

    `rows`, and `target` ("real", "binary" or "classes"), are said here so that a config is checked before anything is
    read; `features` are those taken when none are named (all, if empty); `standardize` whether that is the default.
    """

    function: Callable[..., Table]
    rows: int
    target: str
    features: tuple[str, ...] = ()
    standardize: bool = True


class Prepared(NamedTuple):
    """A data set ready for a loss: x ["n p"], y ["n"], their names, the number of classes (0 for a regression).

    `checksum` is the SHA-256 of x and y; `notes` say what was done that the user should know.
    """

    x: Float[np.ndarray, "n p"]
    y: Float[np.ndarray, " n"]
    features: tuple[str, ...]
    target: str
    classes: int
    source: str
    checksum: str
    notes: tuple[str, ...]


def diabetes() -> Table:
    """442 patients, ten baseline measurements, disease progression a year later (Efron et al. 2004)."""
    return _from_sklearn("load_diabetes", "progression", scaled=False)


def breast_cancer() -> Table:
    """569 tumours, thirty measurements of cell nuclei, 1 benign or 0 malignant (Wisconsin 1995)."""
    return _from_sklearn("load_breast_cancer", "benign")


def digits() -> Table:
    """1797 handwritten digits, 8×8 pixels, ten classes (Alpaydin and Kaynak 1998)."""
    return _from_sklearn("load_digits", "digit")


def iris() -> Table:
    """150 irises, four lengths of petals and sepals, three species (Fisher 1936)."""
    return _from_sklearn("load_iris", "species")


def wine() -> Table:
    """178 wines, thirteen chemical measurements, three cultivars (Forina 1991)."""
    return _from_sklearn("load_wine", "cultivar")


def gaussian_regression(
    *,
    rows: Count = 1000,
    dim: Count = 2,
    noise: NonNegative = 1.0,
    spectrum: Vector = (),
    seed: Seed = 0,
) -> Table:
    """Synthetic regression y = x·w + noise·ε, x ~ N(0, diag(spectrum)), w = (1, …, 1)/√dim, ε ~ N(0, 1).

    `spectrum` are the variances of the features, all 1 if empty, else `dim` numbers >= 0.
    """
    if spectrum and (len(spectrum) != dim or min(spectrum) < 0):
        raise ExperimentError(f"must be {dim} variances >= 0 (dim = {dim})", key="data.spectrum", value=list(spectrum))
    generator = np.random.Generator(np.random.Philox(seed))
    x = generator.standard_normal((rows, dim)) * np.sqrt(np.asarray(spectrum or (1.0,) * dim))
    y = x @ np.full(dim, dim**-0.5) + noise * generator.standard_normal(rows)
    return _named(x, y, tuple(f"x{i}" for i in range(dim)), "y", "gaussian_regression")


def load(
    name: str | None = None,
    *,
    file: Any = None,
    loss_target: str = "real",
    features: Sequence[str | int] | None = None,
    target: str | int | None = None,
    standardize: bool | None = None,
    intercept: bool = False,
    header: bool | None = None,
    delimiter: str | None = None,
    **parameters: Any,
) -> Prepared:
    """The data set `name` of `DATASETS` or the table in `file`, prepared for a loss of the target kind `loss_target`.

    `features` picks columns by name or number, or "all" (those of `DATASETS` if None); `standardize` scales them, and
    y when `loss_target` is "real"; `intercept` adds a column of ones. Raises `ExperimentError` with the row and
    column of what is wrong.
    """
    if (name is None) == (file is None):
        raise ExperimentError("give either the name of a data set or a file", key="data")
    if file is not None:
        table, chosen = read_table(file, target=target, header=header, delimiter=delimiter), features
        standardize = standardize is not False
    else:
        if name not in DATASETS:
            raise ExperimentError(f"no such data set; {did_you_mean(str(name), DATASETS)}", key="data.name", value=name)
        entry = DATASETS[str(name)]
        table, chosen = entry.function(**parameters), entry.features if features is None else features
        standardize = entry.standardize if standardize is None else standardize
    return prepare(
        table, None if chosen == "all" else chosen or None, loss_target, standardize=standardize, intercept=intercept
    )


def prepare(
    table: Table,
    features: Sequence[str | int] | None,
    loss_target: str,
    *,
    standardize: bool = True,
    intercept: bool = False,
) -> Prepared:
    """Chooses features, checks the numbers, standardises; see `load`."""
    table = _select(table, features)
    rows = table.x.shape[0]
    if rows < 2:
        raise ExperimentError(
            "one row has no gradient noise; give at least two", file=table.source, key="rows", value=rows
        )
    x, y, names, notes = table.x, table.y, table.features, []
    _check_size(table)
    classes = _check_labels(table, loss_target)
    if standardize:
        x, constant = _standardize(x)
        if constant.any():
            dropped = ", ".join(f"'{n}'" for n, c in zip(names, constant, strict=True) if c)
            notes.append(f"{table.source}: constant column {dropped}: says nothing about y and is left out")
            x, names = x[:, ~constant], tuple(n for n, c in zip(names, constant, strict=True) if not c)
        if loss_target == "real":
            scaled, flat = _standardize(y[:, None])
            if flat.any():
                reason = "the target is constant, so there is nothing to learn; choose another column"
                raise ExperimentError(reason, file=table.source, key="target", value=table.target)
            y = scaled[:, 0]
    elif not intercept and (np.ptp(x, axis=0) == 0).sum() > 1:
        notes.append(f"{table.source}: more than one constant column: they do the work of one")
    if intercept:
        x, names = np.column_stack([x, np.ones(rows)]), (*names, "intercept")
    if not names:
        raise ExperimentError("no feature is left; give a column that varies", file=table.source)
    checksum = hashlib.sha256(np.ascontiguousarray(x).tobytes() + np.ascontiguousarray(y).tobytes()).hexdigest()
    return Prepared(x, y, names, table.target, classes, table.source, checksum, tuple(notes))


def _select(table: Table, features: Sequence[str | int] | None) -> Table:
    if features is None:
        if not table.features:
            raise ExperimentError("has one column only; give features beside the target", file=table.source)
        return table
    chosen: list[int] = []
    for wanted in features:
        index = _feature(table, wanted)
        if index in chosen:
            raise ExperimentError("is listed twice; name it once", key="data.features", value=wanted)
        chosen.append(index)
    return table._replace(
        x=table.x[:, chosen],
        features=tuple(table.features[i] for i in chosen),
        where=lambda row, column: table.where(row, column if column < 0 else chosen[column]),
    )


def _feature(table: Table, wanted: str | int) -> int:
    if isinstance(wanted, int):
        if 0 <= wanted < len(table.features):
            return wanted
        reason = f"there are {len(table.features)} features, counted from 0 without the target"
        raise ExperimentError(reason, key="data.features", value=wanted)
    if wanted in table.features:
        return table.features.index(wanted)
    if wanted == table.target:
        raise ExperimentError("is the target; leave it out of the features", key="data.features", value=wanted)
    reason = f"no such feature in {table.source}; {did_you_mean(wanted, table.features)}"
    raise ExperimentError(reason, key="data.features", value=wanted)


def _check_size(table: Table) -> None:
    for column, values in ((-1, table.y), *enumerate(table.x.T)):
        bad = np.flatnonzero(~(np.abs(values) <= _LARGEST_NUMBER))
        if bad.size:
            row = int(bad[0])
            reason = f"row {row + 1} is not a number up to {_LARGEST_NUMBER:g}; correct or rescale it"
            raise ExperimentError(reason, **table.where(row, column), text=repr(float(values[row])))


def _check_labels(table: Table, loss_target: str) -> int:
    """The number of classes that y holds for a loss of that target kind; 0 for a regression."""
    if loss_target == "real":
        return 0
    whole = (table.y >= 0) & (table.y == np.floor(table.y))
    allowed = whole & (table.y <= (1 if loss_target == "binary" else 4095))
    cure = "this loss needs the labels 0 and 1" if loss_target == "binary" else "this loss needs the labels 0, 1, 2, …"
    if not allowed.all():
        row = int(np.flatnonzero(~allowed)[0])
        value = f"{table.y[row]:g}"
        raise ExperimentError(f"row {row + 1}: {cure}; recode the column", **table.where(row, -1), text=value)
    present = np.unique(table.y).astype(int)
    if len(present) < 2:
        reason = f"every row has the label {present[0]}; {cure}"
        raise ExperimentError(reason, file=table.source, key="target", value=table.target)
    if present[-1] >= len(present):
        missing = next(k for k in range(len(present)) if k not in present)
        reason = f"no row has the label {missing}, and the largest is {present[-1]}; number the classes without a gap"
        raise ExperimentError(reason, file=table.source, key="target", value=table.target)
    return len(present)


def _standardize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x − mean)/std, ddof 0, and which columns are constant to rounding: those are centred and not divided."""
    centred = x - x.mean(axis=0)
    centred -= centred.mean(axis=0)
    spread = np.sqrt(np.mean(centred**2, axis=0))
    constant = (np.ptp(x, axis=0) == 0) | (spread <= 1e-14 * np.abs(x).max(axis=0))
    return centred / np.where(constant, 1.0, spread), constant


def _from_sklearn(loader: str, target: str, **arguments: Any) -> Table:
    try:
        module = importlib.import_module("sklearn.datasets")
    except ImportError:
        reason = "the data sets need scikit-learn; pip install 'jaxsde[app]'"
        raise ExperimentError(reason, code=UNAVAILABLE, key="data.name", value=loader.removeprefix("load_")) from None
    bunch = getattr(module, loader)(**arguments)
    names = tuple(str(n) for n in bunch.feature_names)
    return _named(bunch.data.astype(np.float64), bunch.target.astype(np.float64), names, target, loader[5:])


def _named(x: np.ndarray, y: np.ndarray, features: tuple[str, ...], target: str, source: str) -> Table:
    def where(row: int, column: int) -> dict[str, Any]:
        return {"file": source, "key": f"column '{target if column < 0 else features[column]}'"}

    return Table(x, y, features, target, source, where)


DATASETS = {
    "diabetes": Entry(diabetes, rows=442, target="real", features=("s3", "s4")),
    "breast_cancer": Entry(breast_cancer, rows=569, target="binary", features=("mean radius", "mean texture")),
    "digits": Entry(digits, rows=1797, target="classes"),
    "iris": Entry(iris, rows=150, target="classes", features=("sepal length (cm)", "sepal width (cm)")),
    "wine": Entry(wine, rows=178, target="classes"),
    "gaussian_regression": Entry(gaussian_regression, rows=0, target="real", standardize=False),
}
