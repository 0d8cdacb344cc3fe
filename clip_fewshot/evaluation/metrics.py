"""Pure functions on arrays: classification, calibration, novelty, retrieval.

Every function takes the truth first and returns fractions in [0, 1]. Labels are any integers or strings that
compare equal; none of them needs to be 0..c-1 except where ``n_classes`` is an argument.

Novelty has one convention, turned around in one place (:func:`_novelty`): scores have scikit-learn's sign, higher
= more normal, and *novel is the positive class*. A false alarm is a known image that is flagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clip_fewshot.config.ranges import require_int
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.arrays import as_array, as_labels, as_scores, as_yes_or_no, check_indices, check_table
from clip_fewshot.runtime.result_rows import ResultRows
from clip_fewshot.types import BoolArray, FloatArray


class ClassMetrics(NamedTuple):
    """One line of the per-class table; precision is 0 for a class that was never predicted."""

    precision: float
    recall: float
    f1: float
    support: int


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Fraction of (n,) predictions equal to their labels.

    Args:
        labels, predictions: (n,) numbers or names, n at least 1.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.accuracy(["cat", "dog", "cat", "cat"], ["cat", "dog", "dog", "cat"])
        0.75
    """
    truth, guess = check_paired(labels, predictions)
    return float(np.mean(truth == guess))


def balanced_accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Mean recall over the classes that occur in ``labels``."""
    table = contingency_table(*check_paired(labels, predictions), shared=True)
    support = table.sum(axis=1)
    return float(np.mean(np.diag(table)[support > 0] / support[support > 0]))


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """(c, c) counts; row = true class, column = predicted class, both indices in 0..n_classes-1."""
    truth, guess = check_paired(labels, predictions)
    require_int(n_classes, "n_classes")
    truth, guess = check_indices(truth, n_classes), check_indices(guess, n_classes)
    flat = np.bincount(truth * n_classes + guess, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def per_class_table(
    labels: ArrayLike, predictions: ArrayLike, n_classes: int, names: Sequence[str] | None = None
) -> ResultRows[ClassMetrics]:
    """Precision, recall, F1 and support of each of the c classes, in order.

    Args:
        names: of the classes, for the first column of ``.to_frame()``; None: their numbers.
    """
    table = confusion_matrix(labels, predictions, n_classes)
    hits, support, predicted = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(support, 1)
    lines = [
        ClassMetrics(float(p), float(r), float(f), int(s))
        for p, r, f, s in zip(precision, recall, _f1(table), support, strict=True)
    ]
    return ResultRows(lines, **{"class": range(n_classes) if names is None else names})


def macro_f1(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Mean F1 over the classes that occur in labels or predictions, each counting the same."""
    return float(np.mean(_f1(contingency_table(*check_paired(labels, predictions), shared=True))))


def weighted_f1(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Mean F1 over the classes, weighted by how often each occurs in ``labels``."""
    table = contingency_table(*check_paired(labels, predictions), shared=True)
    return float(np.average(_f1(table), weights=table.sum(axis=1)))


def top_k_accuracy(labels: ArrayLike, scores: ArrayLike, k: int) -> float:
    """Fraction of rows of the (n, c) scores whose true class is among the k highest.

    A tie counts against the true class, so that a model that says the same for every class scores 0 and not 1.
    """
    truth, table = check_table(labels, scores)
    require_int(k, "k", 1, table.shape[1], "top_k_accuracy")
    relevant = np.zeros(table.shape, dtype=bool)
    relevant[np.arange(len(truth)), truth] = True
    return recall_at_k(relevant, table, k)


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, n_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the top confidence, weighted by bin size.

    Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", 2017, eq. 3; bins are (low, high]. As in
    papers: noise in small bins adds to it, see :func:`~clip_fewshot.evaluation.reliability.measure_gaps`.

    Args:
        labels: (n,) class numbers, 0 to c - 1.
        probabilities: (n, c), each row with sum 1.
        n_bins: 1 or more.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.expected_calibration_error([0, 1], [[0.75, 0.25], [0.75, 0.25]])
        0.25
    """
    truth, table = check_table(labels, probabilities)
    require_int(n_bins, "n_bins")
    confidence, hit = table.max(axis=1), table.argmax(axis=1) == truth
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    gap = np.bincount(bins, weights=confidence - hit, minlength=n_bins)  # bin size x (confidence - accuracy)
    return float(np.abs(gap).sum() / len(truth))


class DetCurve(NamedTuple):
    """Detection error trade-off: one point per threshold, flagged = score <= threshold, thresholds ascending."""

    thresholds: FloatArray
    false_alarm_rate: FloatArray
    miss_rate: FloatArray


class Rates(NamedTuple):
    """What a yes/no novelty decision did; None where there was no such image."""

    false_alarm_rate: float | None
    detection_rate: float | None


def auroc(is_novel: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a random novel image scores below a random known one; ties count one half.

    Args:
        is_novel: (n,) true, or 1, for novel images; some of both.
        scores: (n,) higher = more like the known ones.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.auroc(is_novel=[0, 0, 1, 1], scores=[0.9, 0.4, 0.5, 0.1])
        0.75
    """
    false_alarm, detection, _ = _roc(*_novelty(is_novel, scores))
    return float(np.sum(np.diff(false_alarm) * (detection[1:] + detection[:-1]) / 2))


def det_curve(is_novel: ArrayLike, scores: ArrayLike) -> DetCurve:
    """False-alarm and miss rate at every distinct score taken as threshold."""
    false_alarm, detection, thresholds = _roc(*_novelty(is_novel, scores))
    return DetCurve(-thresholds[1:], false_alarm[1:], 1 - detection[1:])


def aupr(is_novel: ArrayLike, scores: ArrayLike) -> float:
    """Average precision of the novel images: precision weighted by the recall it adds. Chance is their share."""
    novel, novelty = _novelty(is_novel, scores)
    false_alarm, detection, _ = _roc(novel, novelty)
    flagged = detection * novel.mean() + false_alarm * (1 - novel.mean())
    return float(np.sum(np.diff(detection) * detection[1:] / flagged[1:]) * novel.mean())


def eer(is_novel: ArrayLike, scores: ArrayLike) -> float:
    """Equal error rate: where false-alarm rate = miss rate, linear between the points of the ROC."""
    false_alarm, detection, _ = _roc(*_novelty(is_novel, scores))
    gap = false_alarm - (1 - detection)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(false_alarm[after - 1] + share * (false_alarm[after] - false_alarm[after - 1]))


def fpr95(is_novel: ArrayLike, scores: ArrayLike) -> float:
    """Share of known images flagged at the first threshold that flags at least 95 % of the novel ones.

    Args:
        is_novel, scores: as in :func:`auroc`.

    This is OpenOOD's direction. Papers that take *known* as positive (MCM among them) report the share of novel
    images accepted when 95 % of the known are: another number under the same name.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.fpr95(is_novel=[0, 0, 1, 1], scores=[0.9, 0.4, 0.5, 0.1])
        0.5
    """
    false_alarm, detection, _ = _roc(*_novelty(is_novel, scores))
    return float(false_alarm[np.argmax(detection >= 0.95)])


def rates_at(is_novel: ArrayLike, flagged: ArrayLike) -> Rates:
    """Share of known images flagged, and of novel images flagged."""
    novel, flag = (as_yes_or_no(a, "rates_at") for a in check_paired(is_novel, flagged))
    return Rates(*(float(flags.mean()) if flags.size else None for flags in (flag[~novel], flag[novel])))


def recall_at_k(relevant: ArrayLike, similarity: ArrayLike, k: int) -> float:
    """Fraction of the (n, m) rows with a relevant column among the k most similar; ties count against it.

    Args:
        relevant: (n, m) true where column j answers query i; several may (a caption that many pictures share).
        similarity: (n, m), higher = nearer; NaN, which a diverged model gives, is farther than all.
        k: 1 or more.
    """
    right, near = as_yes_or_no(relevant, "relevant"), as_array(similarity, "similarity").astype(np.float64)
    if near.ndim != 2 or right.shape != near.shape or not near.size:
        got, fix = f"{right.shape} and {near.shape}", "give one entry per query and answer"
        raise UsageError(expected="(n, m) and (n, m), n and m >= 1", got=got, fix=fix, where="recall_at_k")
    require_int(k, "k", where="recall_at_k")
    near = np.where(np.isnan(near), -np.inf, near)
    best = np.where(right, near, -np.inf).max(axis=1, keepdims=True)
    ahead = ((near >= best) & ~right).sum(axis=1)
    return float(np.mean((ahead < k) & right.any(axis=1)))


def check_paired(first: ArrayLike, second: ArrayLike, *, compared: bool = True) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as (n,) labels, integers or texts; ``compared``: with each other, as clusters and classes are not.

    Raises:
        UsageError: two lengths, or none; texts beside numbers, of which none are equal; NaN or no whole number.
    """
    a, b = as_labels(first, "first"), as_labels(second, "second")
    if a.shape != b.shape or not len(a) or (compared and (a.dtype.kind == "U") != (b.dtype.kind == "U")):
        got = f"{a.dtype} {a.shape} and {b.dtype} {b.shape}"
        fix = "pass one value per image, names or numbers in both"
        raise UsageError(expected="two (n,) arrays of the same n >= 1", got=got, fix=fix)
    return a, b


def contingency_table(first: NDArray[Any], second: NDArray[Any], shared: bool = False) -> NDArray[np.int64]:
    """Counts of (first, second) value pairs; ``shared``: both axes run over the union of the values."""
    if shared:
        values, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
        rows, columns, shape = codes[: len(first)], codes[len(first) :], (len(values), len(values))
    else:
        row_values, rows = np.unique(first, return_inverse=True)
        column_values, columns = np.unique(second, return_inverse=True)
        shape = (len(row_values), len(column_values))
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)


def _f1(table: NDArray[np.int64]) -> FloatArray:
    """2 TP / (2 TP + FP + FN) of each class; 0 where the class neither occurs nor is predicted."""
    return np.asarray(2 * np.diag(table) / np.maximum(table.sum(axis=0) + table.sum(axis=1), 1))


def _novelty(is_novel: ArrayLike, scores: ArrayLike) -> tuple[BoolArray, FloatArray]:
    """The one place where scikit-learn's sign (higher = normal) becomes novelty (higher = novel)."""
    novel, normality = as_yes_or_no(is_novel, "is_novel"), as_scores(scores, "scores")
    if novel.shape != normality.shape or not len(novel):
        fix = "pass one value per image"
        raise UsageError(
            expected="two (n,) arrays of the same n >= 1", got=f"{novel.shape} and {normality.shape}", fix=fix
        )
    if novel.all() or not novel.any():
        got = "novel ones only" if novel.all() else "known ones only"
        expected = "known and novel images"
        raise UsageError(expected=expected, got=got, fix="merge both before measuring novelty", where="novelty metric")
    return novel, -normality


def _roc(novel: BoolArray, novelty: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(false-alarm rate, detection rate, novelty threshold) at (0, 0) and at each distinct novelty, descending."""
    order = np.argsort(-novelty, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(novelty[order])), len(order) - 1)  # the last of each run of ties
    hits = np.cumsum(novel[order])[ends]
    alarms = ends + 1 - hits
    return (
        np.concatenate([[0.0], alarms / (~novel).sum()]),
        np.concatenate([[0.0], hits / novel.sum()]),
        np.concatenate([[np.inf], novelty[order][ends]]),
    )


# How well scores tell the unseen from the seen, whatever the threshold.
RANKING_MEASURES = {"auroc": auroc, "aupr": aupr, "fpr95": fpr95, "eer": eer}
