"""results.json, schema 1: what is missing or ill-typed is named by its path."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from clip_fewshot.errors import ArtifactError
from clip_fewshot.report.schema import check_results
from tests.report import sample

FREE = {"config", "environment", "params", "counts", "timing", "artifacts", "approaches"}  # any keys allowed below
OPTIONAL = {
    "raw_pixels",
    "warnings",
    "zero_shot.macro_f1",
    "linear_probe.macro_f1",
    "linear_probe.params",
    "best.difference_to_probe",
    *(f"{place}.{key}" for place in ("linear_probe", "best.test") for key in ("nll", "brier", "ece")),
    "novelty.chosen",
    "novelty.margin",
    "novelty.selection",
    "novelty.selection_far",
}


def required_paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of every field of the sample that schema 1 requires."""
    for key, entry in value.items():
        here = (*path, key)
        if ".".join(here) in OPTIONAL:
            continue
        yield here
        if isinstance(entry, dict) and key not in FREE:
            yield from required_paths(entry, here)


PATHS = list(required_paths(sample.results()))


def at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def test_a_whole_run_passes_and_survives_json() -> None:
    check_results(json.loads(json.dumps(sample.results())))


def test_a_run_without_unseen_classes_passes() -> None:
    check_results(sample.results(novelty=None, discovery=None))


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_a_missing_field_is_named(path: tuple[str, ...]) -> None:
    broken = copy.deepcopy(sample.results())
    del at(broken, path[:-1])[path[-1]]
    with pytest.raises(ArtifactError) as caught:
        check_results(broken)
    assert caught.value.where == ".".join(("results", *path))


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_an_ill_typed_field_is_named(path: tuple[str, ...]) -> None:
    broken = copy.deepcopy(sample.results())
    at(broken, path[:-1])[path[-1]] = object()
    with pytest.raises(ArtifactError) as caught:
        check_results(broken)
    assert str(caught.value.where).startswith(".".join(("results", *path)))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("schema",), 2, "results.schema"),
        (("seeds",), [], "results.seeds"),
        (("seeds",), [True], "results.seeds[0]"),
        (("best", "approach"), "mlp2", "results.best.approach"),
        (("best", "macro_f1"), math.nan, "results.best.macro_f1"),
        (("best", "validation"), 94.2, "results.best.validation"),
        (("best", "test", "ci95"), [0.9, 0.8], "results.best.test.ci95"),
        (("best", "test", "ci95"), [0.8], "results.best.test.ci95"),
        (("best", "test", "per_seed"), [0.9, "x"], "results.best.test.per_seed[1]"),
        (("best", "difference_to_probe", "mean"), -1.5, "results.best.difference_to_probe.mean"),
        (("approaches", "mlp", "test", "n_test"), 0, "results.approaches.mlp.test.n_test"),
        (("novelty", "auroc"), None, "results.novelty.auroc"),
        (("search", "test_looks"), 1.0, "results.search.test_looks"),
        (("timing",), {"search": math.inf}, "results.timing.search"),
        (("dataset", "classes"), "zero", "results.dataset.classes"),
        (("config",), {1: "x"}, "results.config"),
        (("warnings",), ["fine", 3], "results.warnings[1]"),
    ],
)
def test_values_out_of_range_are_named(path: tuple[str, ...], value: Any, named: str) -> None:
    broken = copy.deepcopy(sample.results())
    at(broken, path[:-1])[path[-1]] = value
    with pytest.raises(ArtifactError) as caught:
        check_results(broken)
    assert caught.value.where == named


def test_a_refused_alpha_leaves_both_rates_null() -> None:
    refused = sample.results()["novelty"] | {"false_alarm_rate": None, "detection_rate": None, "refused": "needs 99"}
    check_results(sample.results(novelty=refused))


def test_fields_beyond_the_schema_are_allowed() -> None:
    check_results(sample.results(calibration={"ece": 0.03}))


def test_not_an_object() -> None:
    with pytest.raises(ArtifactError, match="results: expected an object"):
        check_results([])
