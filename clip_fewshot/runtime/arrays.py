"""What comes through a public door becomes an array here: lists, frames, generators, tensors of any device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_fewshot.errors import UsageError
from clip_fewshot.types import FloatArray


def without_torch(values: Any) -> Any:
    """``values``; a tensor, or a list of some, as numpy can read it: on the CPU, without gradient, not in bfloat16.

    Frames and arrays stay what they are, as scikit-learn reads the names of their columns.
    """
    if isinstance(values, list | tuple):
        return [without_torch(value) if hasattr(value, "detach") else value for value in values]
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()
    return values.float() if str(values.dtype) == "torch.bfloat16" else values


def as_array(values: Any, where: str) -> NDArray[Any]:
    """An array of numbers, of yes and no, or of texts.

    Raises:
        UsageError: something else, rows of different lengths, or numbers and texts together: numpy makes texts of both.
    """
    fix = "pass an array, a list, a frame or a tensor of one kind of values"
    values = without_torch([*values] if isinstance(values, Iterator) else values)
    try:
        array = np.asarray(values)
        if array.dtype == object:
            array = np.asarray(array.tolist())
        mixed = array.dtype.kind == "U" and array is not values
        alike = not mixed or all(isinstance(one, str) for one in np.asarray(values, object).ravel())
    except (ValueError, TypeError, RuntimeError) as error:
        got = f"{type(values).__name__}: {str(error).splitlines()[0]}"
        raise UsageError(expected="numbers or texts", got=got, fix=fix, where=where) from error
    if array.dtype.kind not in "biufU" or not alike:
        got = f"{type(values).__name__} of others, or of both"
        raise UsageError(expected="numbers or texts", got=got, fix=fix, where=where)
    return array


def as_rows(
    X: Any, where: str, width: int | None = None, fix: str = "pass one row of numbers per picture"
) -> FloatArray:
    """(n, d) finite numbers, n >= 0, in single or double precision as they came; half precision becomes single.

    Raises:
        UsageError: another shape, another d than ``width``, or what is no finite number.
    """
    rows = as_array(X, where)
    if rows.ndim != 2 or (len(rows) and rows.shape[1] != (width or max(rows.shape[1], 1))) or rows.dtype.kind == "U":
        expected, got = f"features (n, {width or 'd'})", f"{'texts ' if rows.dtype.kind == 'U' else ''}{rows.shape}"
        raise UsageError(expected=expected, got=got, fix=fix, where=where)
    single = rows.dtype.kind == "f" and rows.dtype.itemsize <= 4
    rows = rows.astype(np.float32 if single else np.float64, copy=False)
    check_finite(rows, where)
    return rows


def check_finite(rows: FloatArray, where: str) -> None:
    """Refuse NaN, infinity, and numbers so large that the length of their row is infinite.

    Raises:
        UsageError: names the first row.
    """
    finite = (np.abs(rows) < np.sqrt(np.finfo(rows.dtype).max) / 100).all(axis=1)
    if not finite.all():
        got = f"NaN or infinity in row {int(finite.argmin())}, and in {int((~finite).sum()) - 1:,} others"
        if np.isfinite(rows).all():
            got = f"a number too large to square in row {int(finite.argmin())}"
        raise UsageError(expected="finite features", got=got, fix="drop those pictures", where=where)


def as_scores(values: Any, where: str) -> FloatArray:
    """(n,) finite float64, n >= 0.

    Raises:
        UsageError: another shape, or what is no finite number.
    """
    scores = as_array(values, where)
    if scores.ndim != 1 or scores.dtype.kind == "U":
        fix = "pass one number per picture"
        raise UsageError(expected="(n,) numbers", got=f"{scores.dtype} {scores.shape}", fix=fix, where=where)
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        raise UsageError(expected="finite scores", got=f"{wrong} that are not", fix="check the features", where=where)
    return scores.astype(np.float64)


def as_labels(values: Any, where: str) -> NDArray[Any]:
    """(n,) texts, integers, or yes and no; numbers like 2.0 become integers.

    Raises:
        UsageError: another shape, NaN, or a number that is not whole: what is no name of a class is equal to none.
    """
    labels = as_array(values, where)
    if labels.ndim != 1:
        fix = "pass one label per picture"
        raise UsageError(expected="(n,) labels", got=f"{labels.shape}", fix=fix, where=where)
    if labels.dtype.kind != "f":
        return labels
    wrong = labels[~np.isfinite(labels) | (labels != np.round(labels))]
    if len(wrong):
        fix = "pass the classes, not scores, and drop what has none"
        raise UsageError(expected="whole numbers or texts", got=f"{wrong[0]}", fix=fix, where=where)
    return labels.astype(np.int64)


def as_texts(values: Any, where: str) -> list[str]:
    """Several texts; one text alone would be a list of its letters.

    Raises:
        UsageError: one text, or other values.
    """
    texts: list[Any] = [*values] if isinstance(values, Iterable) and not isinstance(values, str) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(expected="a list of texts", got=f"{values!r}"[:100], fix="write [text]", where=where)
    return texts


def as_yes_or_no(values: Any, where: str) -> NDArray[np.bool_]:
    """Bool of any shape; exactly 0 and 1 are no and yes.

    Raises:
        UsageError: another value, such as NaN, which numpy takes for a yes.
    """
    array = as_array(values, where)
    if array.dtype.kind == "U" or not np.isin(array, (0, 1)).all():
        fix = "compare first: predictions == labels"
        raise UsageError(expected="true or false, or 0 and 1", got="other values", fix=fix, where=where)
    return array.astype(bool)


def check_table(labels: Any, table: Any) -> tuple[NDArray[Any], FloatArray]:
    """(n,) labels in 0..c-1 and a finite (n, c) table.

    Raises:
        UsageError: other shapes, n or c of 0, a label that has no column, NaN or infinity.
    """
    truth, rows = as_labels(labels, "labels"), as_rows(table, "table").astype(np.float64)
    if truth.shape != rows.shape[:1] or not rows.size:
        fix = "pass a row of numbers and a label per picture"
        raise UsageError(expected="(n, c) and (n,), n >= 1", got=f"{rows.shape} and {truth.shape}", fix=fix)
    return check_indices(truth, rows.shape[1]), rows


def check_indices(labels: NDArray[Any], n_classes: int) -> NDArray[np.int64]:
    """(n,) int64, if ``labels`` are in 0..n_classes-1."""
    texts = labels.dtype.kind == "U"
    if texts or ((labels < 0) | (labels >= n_classes)).any():
        got, fix = "texts" if texts else f"{labels.min()}..{labels.max()}", "encode them with the LabelSpace"
        raise UsageError(expected=f"class indices in 0..{n_classes - 1}", got=got, fix=fix)
    return labels.astype(np.int64)
