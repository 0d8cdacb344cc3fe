"""Check results.json and compare.json against schema 1 before they are written; the error names the field.

Written by hand, in forty lines of combinators, because the whole schema then reads as one table and a JSON-schema
library would be one more dependency for one file.

Fractions lie in [0, 1]. Keys beyond the schema are allowed: a later part may add, never change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from clip_fewshot.errors import ArtifactError

SCHEMA_VERSION = 1
Check = Callable[[Any, str], None]


def _refuse(expected: str, got: Any, where: str) -> None:
    shown = repr(got)
    fix = "write results of schema 1"
    raise ArtifactError(expected=expected, got=shown if len(shown) < 80 else f"{shown[:77]}...", fix=fix, where=where)


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """A finite number in [low, high]."""

    def check(value: Any, where: str) -> None:
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not plain or not math.isfinite(value) or not low <= value <= high:
            _refuse(f"a number in [{low:g}, {high:g}]", value, where)

    return check


def integer(low: int) -> Check:
    """A whole number of at least ``low``."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            _refuse(f"a whole number of at least {low}", value, where)

    return check


def text(value: Any, where: str) -> None:
    """A string."""
    if not isinstance(value, str):
        _refuse("a string", value, where)


def mapping(value: Any, where: str) -> None:
    """Any object with string keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        _refuse("an object", value, where)


def list_of(item: Check, at_least: int = 0) -> Check:
    """A list whose entries all pass ``item``."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) < at_least:
            _refuse(f"a list of at least {at_least}", value, where)
        for i, entry in enumerate(value):
            item(entry, f"{where}[{i}]")

    return check


def mapping_of(item: Check) -> Check:
    """An object whose values all pass ``item``."""

    def check(value: Any, where: str) -> None:
        mapping(value, where)
        for key, entry in value.items():
            item(entry, f"{where}.{key}")

    return check


def null_or(item: Check) -> Check:
    """null, or what ``item`` passes."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            item(value, where)

    return check


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields; fields not named here are allowed."""

    def check(value: Any, where: str) -> None:
        mapping(value, where)
        for key, item in required.items():
            if key not in value:
                _refuse("this field", "nothing", f"{where}.{key}")
            item(value[key], f"{where}.{key}")
        for key, item in (optional or {}).items():
            if key in value:
                item(value[key], f"{where}.{key}")

    return check


FRACTION, LOSS = number(0, 1), number(0)
SIGNED_SHARE = number(-1, 1)


def _interval(item: Check, further: Mapping[str, Check] | None = None) -> Check:
    """{"mean", "ci95": [lo, hi], "per_seed", "n_test"} with lo <= hi."""
    shape = record(
        {"mean": item, "ci95": list_of(item, 2), "per_seed": list_of(item, 1), "n_test": integer(1)},
        {"notes": list_of(text), "macro_f1": FRACTION, "params": mapping, **(further or {})},
    )

    def check(value: Any, where: str) -> None:
        shape(value, where)
        if len(value["ci95"]) != 2 or value["ci95"][0] > value["ci95"][1]:
            _refuse("[low, high] with low <= high", value["ci95"], f"{where}.ci95")

    return check


ACCURACY = _interval(FRACTION, {"nll": _interval(LOSS), "brier": _interval(number(0, 2)), "ece": _interval(FRACTION)})
APPROACH = {"params": mapping, "validation": null_or(FRACTION), "test": ACCURACY}
RESULTS_SCHEMA = record(
    {
        "schema": integer(SCHEMA_VERSION),
        "dataset": record(
            {
                "name": text,
                "classes": list_of(text, 1),
                "unseen": list_of(text),
                "counts": mapping_of(integer(0)),
                "fingerprint": text,
            }
        ),
        "config": mapping,
        "environment": mapping,
        "seeds": list_of(integer(0), 1),
        "zero_shot": null_or(ACCURACY),
        "linear_probe": ACCURACY,
        "approaches": mapping_of(record(APPROACH, {"macro_f1": FRACTION})),
        "best": record(
            {"approach": text, **APPROACH, "macro_f1": FRACTION},
            {
                "difference_to_probe": null_or(_interval(SIGNED_SHARE)),
                "differences": mapping_of(_interval(SIGNED_SHARE, {"n_images_to_settle": null_or(integer(1))})),
            },
        ),
        "novelty": null_or(
            record(
                {
                    "detector": text,
                    "alpha": FRACTION,
                    "auroc": FRACTION,
                    "eer": FRACTION,
                    "fpr95": FRACTION,
                    "false_alarm_rate": null_or(FRACTION),
                    "detection_rate": null_or(FRACTION),
                },
                {
                    "auroc_ci95": list_of(FRACTION, 2),
                    "refused": null_or(text),
                    "features": text,
                    "n_neighbors": null_or(integer(1)),
                    "chosen": text,
                    "margin": SIGNED_SHARE,
                    "selection": mapping_of(FRACTION),
                    "selection_far": mapping_of(FRACTION),
                },
            )
        ),
        "discovery": null_or(
            record(
                {
                    "n_clusters": integer(0),
                    "n_unseen": integer(0),
                    "ari": null_or(SIGNED_SHARE),
                    "nmi": null_or(FRACTION),
                    "accuracy": null_or(FRACTION),
                }
            )
        ),
        "search": record(
            {
                "finished": integer(0),
                "pruned": integer(0),
                "failed": integer(0),
                "seconds": number(0),
                "naive_seconds_estimate": null_or(number(0)),
                "test_looks": integer(0),
            },
            {"moved": list_of(text), "tied": integer(0)},
        ),
        "timing": mapping_of(number(0)),
        "artifacts": mapping_of(text),
    },
    {
        "raw_pixels": null_or(ACCURACY),
        "warnings": list_of(text),
        "prediction_sets": null_or(record({"alpha": FRACTION, "coverage": _interval(FRACTION), "size": number(0)})),
        "rehearsal": null_or(
            record(
                {
                    "detector": text,
                    **dict.fromkeys(("alpha", "auroc", "detection_rate"), FRACTION),
                    "auroc_ci95": list_of(FRACTION, 2),
                }
            )
        ),
    },
)


def check_results(results: Any) -> None:
    """Raise :class:`ArtifactError` naming the first field of ``results`` that schema 1 does not allow."""
    RESULTS_SCHEMA(results, "results")
    if results["schema"] != SCHEMA_VERSION:
        _refuse(f"schema {SCHEMA_VERSION}", results["schema"], "results.schema")
    methods = {*results["approaches"], "linear_probe", "zero_shot"}
    if results["best"]["approach"] not in methods:
        _refuse(f"one of {sorted(methods)}", results["best"]["approach"], "results.best.approach")


POINT = record(
    {"shots": integer(1)},
    {
        "error": text,
        "accuracy": ACCURACY,
        "difference": null_or(record({"mean": SIGNED_SHARE, "ci95": list_of(SIGNED_SHARE, 2), "p_value": FRACTION})),
        "loss": record({"mean": number(0), "per_seed": list_of(number(0), 1)}),
        "seconds": number(0),
        "parameters": integer(0),
    },
)
COMPARISON_SCHEMA = record(
    {
        "schema": integer(SCHEMA_VERSION),
        "command": text,
        "seeds": integer(1),
        "seed": integer(0),
        "sets": list_of(
            record(
                {
                    **dict.fromkeys(("name", "model", "fingerprint", "reference"), text),
                    "n_classes": integer(2),
                    "n_test": integer(1),
                    "test_looks": integer(1),
                    "shots": list_of(integer(1), 1),
                    "draws": list_of(text, 1),
                    "rows": list_of(record({"method": text, "points": list_of(POINT, 1)})),
                }
            )
        ),
        "summary": null_or(record({"sets": list_of(text, 2), "rows": list_of(record({"method": text}))})),
        "published": list_of(record({"method": text, "set": text, "source": text, "accuracy": mapping_of(FRACTION)})),
    }
)


def check_comparison(comparison: Any) -> None:
    """Raise :class:`ArtifactError` naming the first field of ``comparison`` that schema 1 does not allow."""
    COMPARISON_SCHEMA(comparison, "comparison")
