"""Every detector, probe, discoverer and metric with rows and labels that are odd, or wrong.

Odd ones (lists, tensors, frames, half precision, labels of other types) give the answer of the plain arrays. Wrong ones
(other lengths, NaN, texts) are refused by our own error. Poor ones (constant, one row, huge) give numbers or our error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse

import clip_fewshot as cf
from clip_fewshot.conformal.false_discoveries import benjamini_hochberg, storey
from clip_fewshot.discovery import DISCOVERERS
from clip_fewshot.evaluation import calibration, clustering, intervals, metrics
from clip_fewshot.testing.detectors import build
from tests.attack.harness import Attack, Outcome, shuffled

C, SHOTS, D = 4, 8, 16


class Rows(NamedTuple):
    """What is learned from, and what is asked about."""

    X: Any
    y: Any
    asked: Any


Change = Callable[[Rows], Rows]


@cache
def plain() -> Rows:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(C, D))
    y = np.arange(C * SHOTS) % C
    X = centres[y] + 0.3 * draw.normal(size=(C * SHOTS, D))
    return Rows(X, y, X[:12] + 0.1 * draw.normal(size=(12, D)))


def _texts(y: Any) -> Mapping[Any, Any]:
    """A text for each class, under every form that a label may take."""
    X, labels, _ = plain()
    return {name: X[labels == i % C].mean(axis=0) for i, name in enumerate(np.unique(np.asarray(y)).tolist())}


def _detect(name: str) -> Callable[[Rows], Any]:
    return lambda rows: build(cf.DETECTORS[name]).fit(rows.X, rows.y).score_samples(rows.asked)


def _classify(name: str) -> Callable[[Rows], Any]:
    def answer(rows: Rows) -> Any:
        kind, options = cf.PROBES[name], {}
        if getattr(kind, "reads_texts", False):
            options = {"texts": _texts(rows.y if np.ndim(rows.y) == 1 and len(rows.y) else plain().y)}
        return kind(**options).fit(rows.X, rows.y).predict_proba(rows.asked)

    return answer


def _discover(name: str) -> Callable[[Rows], Any]:
    return lambda rows: cf.discover_classes(rows.asked, reference=(rows.X, rows.y), method=name).labels


DOORS: dict[str, Callable[[Rows], Any]] = {
    **{f"detector {name}": _detect(name) for name in cf.DETECTORS},
    **{f"probe {name}": _classify(name) for name in cf.PROBES},
    **{f"discoverer {name}": _discover(name) for name in DISCOVERERS},
}


def _of(name: str, change: Callable[[Any], Any]) -> Change:
    return lambda rows: rows._replace(**{name: change(getattr(rows, name))})


def _both(change: Callable[[Any], Any]) -> Change:
    return lambda rows: rows._replace(X=change(rows.X), asked=change(rows.asked))


def _put(value: float) -> Callable[[Any], Any]:
    def change(X: Any) -> Any:
        X = np.array(X, float)
        X[3, 2] = value
        return X

    return change


def _frame(X: Any) -> Any:
    if find_spec("pandas") is None:
        return X.tolist()
    import pandas

    return pandas.DataFrame(X)


ODD: dict[str, Change] = {
    "lists": _both(lambda X: X.tolist()),
    "tuples": _both(lambda X: tuple(map(tuple, X.tolist()))),
    "tensors": _both(torch.tensor),
    "half tensors": _both(lambda X: torch.tensor(X, dtype=torch.float16)),
    "bfloat16 tensors": _both(lambda X: torch.tensor(X, dtype=torch.bfloat16)),
    "tensors with gradients": _both(lambda X: torch.tensor(X, requires_grad=True)),
    "frames": _both(_frame),
    "single precision": _both(lambda X: X.astype(np.float32)),
    "half precision": _both(lambda X: X.astype(np.float16)),
    "column by column": _both(np.asfortranarray),
    "every second row": _both(lambda X: np.repeat(X, 2, axis=0)[::2]),
    "big-endian": _both(lambda X: X.astype(">f8")),
    "read-only": _both(lambda X: np.frombuffer(X.tobytes()).reshape(X.shape)),
    "list of labels": _of("y", lambda y: y.tolist()),
    "tensor of labels": _of("y", torch.tensor),
    "labels as bytes": _of("y", lambda y: y.astype(np.uint8)),
    "labels as texts": _of("y", lambda y: y.astype(str)),
    "labels as objects": _of("y", lambda y: np.array([str(label) for label in y], dtype=object)),
    "labels with gaps": _of("y", lambda y: y * 10 - 7),
}
MAY_BE_REFUSED = {"bfloat16 tensors", "tensors with gradients"}
WRONG: dict[str, Change] = {
    "NaN": _of("X", _put(np.nan)),
    "infinity": _of("X", _put(np.inf)),
    "NaN asked": _of("asked", _put(np.nan)),
    "infinity asked": _of("asked", _put(-np.inf)),
    "one row as a vector": _of("X", lambda X: X[0]),
    "three axes": _of("X", lambda X: X[None]),
    "no rows": lambda rows: rows._replace(X=rows.X[:0], y=rows.y[:0]),
    "no columns": _both(lambda X: X[:, :0]),
    "another width asked": _of("asked", lambda X: X[:, :-1]),
    "a vector asked": _of("asked", lambda X: X[0]),
    "complex": _of("X", lambda X: X + 1j),
    "texts": _of("X", lambda X: np.full(X.shape, "x")),
    "None": _of("X", lambda X: None),
    "a path": _of("X", lambda X: Path("features.parquet")),
    "objects": _of("X", lambda X: np.full(X.shape, None)),
    "ragged": _of("X", lambda X: [row[: 8 + i % 3] for i, row in enumerate(X.tolist())]),
    "sparse": _of("X", sparse.csr_matrix),
    "a label too few": _of("y", lambda y: y[:-1]),
    "a label too many": _of("y", lambda y: np.append(y, 0)),
    "no labels": _of("y", lambda y: y[:0]),
    "labels in a table": _of("y", lambda y: np.stack([y, y], axis=1)),
    "NaN labels": _of("y", lambda y: np.where(np.arange(len(y)) == 3, np.nan, y)),
    "one label for all": _of("y", lambda y: 0),
}
POOR: dict[str, Change] = {
    "constant": _of("X", np.ones_like),
    "zeros": _of("X", np.zeros_like),
    "a row of zeros": _of("X", lambda X: np.concatenate([np.zeros((1, D)), X[1:]])),
    "zeros asked": _of("asked", np.zeros_like),
    "duplicates": _of("X", lambda X: X[np.zeros(len(X), int)]),
    "huge": _both(lambda X: X * 1e300),
    "tiny": _both(lambda X: X * 1e-320),
    "one of each class": lambda rows: rows._replace(X=rows.X[:C], y=rows.y[:C]),
    "one class": _of("y", np.zeros_like),
    "two classes as truths": _of("y", lambda y: y > 1),
    "one row": lambda rows: rows._replace(X=rows.X[:1], y=rows.y[:1]),
    "none asked": _of("asked", lambda X: X[:0]),
    "whole numbers": _both(lambda X: (10 * X).astype(np.int64)),
    "truths": _both(lambda X: X > 0),
    "masked": _of("X", lambda X: np.ma.masked_array(X, X > 2)),
}
NEEDS_LABELS = {f"probe {name}" for name in cf.PROBES} | {
    f"detector {name}" for name, kind in cf.DETECTORS.items() if kind.needs_classes
}

TRUE, SAID = np.arange(20) % 4, np.arange(20) % 5 % 4
SCORES = np.random.default_rng(1).normal(size=(20, 4))
SHARES = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
NOVEL, P = TRUE == 3, np.linspace(0.01, 0.99, 20)
METRICS: dict[str, tuple[Callable[..., Any], Any, Any]] = {
    "accuracy": (metrics.accuracy, TRUE, SAID),
    "balanced_accuracy": (metrics.balanced_accuracy, TRUE, SAID),
    "macro_f1": (metrics.macro_f1, TRUE, SAID),
    "weighted_f1": (metrics.weighted_f1, TRUE, SAID),
    "auroc": (metrics.auroc, NOVEL, P),
    "aupr": (metrics.aupr, NOVEL, P),
    "eer": (metrics.eer, NOVEL, P),
    "fpr95": (metrics.fpr95, NOVEL, P),
    "expected_calibration_error": (metrics.expected_calibration_error, TRUE, SHARES),
    "clustering_accuracy": (clustering.clustering_accuracy, TRUE, SAID),
    "ari": (clustering.ari, TRUE, SAID),
    "nmi": (clustering.nmi, TRUE, SAID),
    "accuracy_interval": (lambda a, b: intervals.accuracy_interval([a, b]).mean, NOVEL, TRUE < 2),
    "mean_interval": (lambda a, b: intervals.mean_interval([a, b]).mean, P, P[::-1]),
    "paired_difference": (lambda a, b: intervals.paired_difference([a], [b]).mean, NOVEL, TRUE < 2),
    "fit_temperature": (calibration.fit_temperature, SCORES, TRUE),
    "benjamini_hochberg": (lambda a, b: benjamini_hochberg(a, 0.1).astype(float), P, P),
    "storey": (lambda a, b: storey(a, 0.1).astype(float), P, P),
}
BAD_VALUES: dict[str, Callable[[Any], Any]] = {
    "NaN": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 2, np.nan, a),
    "all NaN": lambda a: np.full(a.shape, np.nan),
    "infinity": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 2, np.inf, a),
    "one too few": lambda a: a[:-1],
    "none": lambda a: a[:0],
    "an axis more": lambda a: a[..., None],
    "nothing": lambda a: None,
    "texts of numbers and None": lambda a: np.array([None, *map(str, a.ravel()[1:])], dtype=object).reshape(a.shape),
}


class Case(NamedTuple):
    """A door, or a metric and which of its two arguments; and what is changed."""

    door: str
    place: int
    change: str


@cache
def cases() -> list[Case]:
    """All of them, mixed."""
    doors = [Case(door, 0, change) for door, change in product(DOORS, (*ODD, *WRONG, *POOR))]
    return shuffled([*doors, *(Case(name, place, bad) for name, place, bad in product(METRICS, (0, 1), BAD_VALUES))])


def strike(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    case = cases()[number]
    again = f"{case.door}: {case.change}"
    try:
        found = _metric(case) if case.door in METRICS else DOORS[case.door](_changed(case))
    except cf.ClipFewShotError as error:
        fine = case.change not in ODD or case.change in MAY_BE_REFUSED or case.door in METRICS
        return Outcome(fine, "refused", "" if fine else f"{again}: {error}"[:300])
    except Exception as error:
        return Outcome(False, f"raw {type(error).__name__}", f"{again}: {error}"[:300])
    return _judge(case, np.asarray(found), f"{again} (argument {case.place})")


def _changed(case: Case) -> Rows:
    return {**ODD, **WRONG, **POOR}[case.change](plain())


def _metric(case: Case) -> Any:
    call, *arguments = METRICS[case.door]
    arguments[case.place] = BAD_VALUES[case.change](np.asarray(arguments[case.place]))
    return call(*arguments)


def _judge(case: Case, found: Any, again: str) -> Outcome:
    if found.dtype.kind == "f" and np.isnan(found).any():
        return Outcome(False, "NaN", again)
    if case.door in METRICS:
        one_argument = case.door in ("benjamini_hochberg", "storey")  # of any length
        fine = one_argument and (case.place == 1 or case.change in ("one too few", "none"))
        return Outcome(fine, "accepted", again)
    if case.change in WRONG:
        idle = "label" in case.change and case.door not in NEEDS_LABELS and case.change == "NaN labels"
        return Outcome(idle, "accepted", again)
    if case.change in ODD:
        right = np.asarray(DOORS[case.door](plain()))
        rough = "half" in case.change or "float16" in case.change
        near = found.shape == right.shape and np.allclose(
            found, right, rtol=0.1 if rough else 1e-4, atol=0.05 if rough else 1e-5
        )
        return Outcome(
            bool(near) or (rough and "discoverer" in case.door), "other answer" if not near else "same", again
        )
    return Outcome(True, "numbers")


ATTACKS = [
    Attack(
        "bad arrays",
        "odd ones answered as plain ones, wrong ones refused by our own error, poor ones without NaN",
        len(cases()),
        60,
        lambda folder: None,
        strike,
    )
]
