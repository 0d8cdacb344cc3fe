"""Known classes that play the unknown: on planted features of which the answer is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clip_fewshot.open_world.alternatives import Alternative, NoveltyChoice
from clip_fewshot.protocol.rehearsal import measure_rehearsal

SHOTS, TESTED, SEEDS = 8, 15, 3


def outcome(n_classes: int, apart: float, seed: int = 0) -> Any:
    """What a finished test holds of classes ``apart`` from each other in 12 dimensions."""
    rng = np.random.default_rng(seed)
    centres = 4 + apart * rng.normal(size=(n_classes, 12))

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(n_classes), count)
        return centres[labels] + 0.3 * rng.normal(size=(len(labels), 12)), labels

    features, labels = draw(TESTED)
    fits = []
    for _ in range(SEEDS + 1):
        frozen, own = draw(SHOTS)
        fits.append(SimpleNamespace(support=SimpleNamespace(frozen=frozen, data=SimpleNamespace(labels=own))))
    test = SimpleNamespace(required_labels=lambda: labels, label_space=range(n_classes))
    return SimpleNamespace(fits=fits, known=[SimpleNamespace(frozen=features)] * len(fits), test=test)


def choice(detector: str = "mahalanobis", space: str = "frozen") -> NoveltyChoice:
    return NoveltyChoice(Alternative(detector, space))


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_classes_far_apart_are_told_and_classes_in_one_heap_are_not(n_classes: int) -> None:
    far = measure_rehearsal(outcome(n_classes, 3.0), choice(), 0.05, 0)
    assert far is not None
    assert far["auroc"] > 0.99
    assert far["detection_rate"] > 0.95
    assert far["auroc_ci95"][0] > 0.85
    assert far["rounds"] == min(4, n_classes)
    heap = measure_rehearsal(outcome(n_classes, 0.0), choice(), 0.05, 0)
    assert heap is not None
    assert heap["auroc_ci95"][0] < 0.5 < heap["auroc_ci95"][1]
    assert heap["detection_rate"] < 0.2


def test_a_choice_that_would_need_a_training_or_two_classes_is_stood_in_for() -> None:
    for n_classes, chosen, used in (
        (4, choice(), "mahalanobis"),
        (4, choice(space="tuned"), "knn"),
        (4, choice("max-softmax"), "knn"),
        (2, choice(), "mahalanobis"),
        (2, choice("relative-mahalanobis"), "knn"),
    ):
        found = measure_rehearsal(outcome(n_classes, 3.0), chosen, 0.05, 0)
        assert found is not None
        assert found["detector"] == used


def test_one_class_alone_has_no_rehearsal() -> None:
    assert measure_rehearsal(outcome(1, 1.0), choice(), 0.05, 0) is None
