"""Every detector in DETECTORS keeps the contract, and the promises that the library's own make beyond it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.metrics import auroc
from clip_fewshot.novelty import DETECTORS, build_detector
from clip_fewshot.testing.contract import clusters
from clip_fewshot.testing.detectors import _CHECKS, build

each = pytest.mark.parametrize("name", DETECTORS)


@each
@pytest.mark.parametrize("check", _CHECKS, ids=lambda check: check.__name__)
def test_contract(name: str, check: Callable[..., None]) -> None:
    check(DETECTORS[name])


@each
def test_a_class_far_from_all_others_is_told_from_them(name: str) -> None:
    train, labels, novel = clusters(4, 8, 16)
    fresh = train + 0.05 * np.random.default_rng(1).normal(size=train.shape)
    detector = build(DETECTORS[name]).fit(train, labels)
    scores = detector.score_samples(np.concatenate([fresh, novel]))
    assert auroc(np.repeat([False, True], [len(fresh), len(novel)]), scores) > 0.95


@each
def test_its_offset_is_the_twentieth_part_of_its_leave_one_out_scores(name: str) -> None:
    train, labels, _ = clusters(4, 12, 16)
    detector = build(DETECTORS[name]).fit(train, labels)
    assert np.sum(detector.loo_scores_ < detector.offset_) == 1  # of 48, one is the twentieth part
    assert detector.offset_ in detector.loo_scores_


@each
def test_what_it_cannot_do_without_is_asked_for_by_name(name: str) -> None:
    train, labels, _ = clusters(4, 8, 16)
    if DETECTORS[name].needs_classes:
        with pytest.raises(UsageError, match="class"):
            build_detector(name).fit(train)
    if DETECTORS[name].needs_texts:
        with pytest.raises(UsageError, match="concepts"):
            build_detector(name).fit(train, labels)
        with pytest.raises(UsageError, match=r"shape \(rows, 16\), as the images', got \(4, 7\)"):
            build_detector(name, concepts=np.ones((4, 7))).fit(train, labels)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=rf"one of {', '.join(DETECTORS)}.* got 'loff'"):
        build_detector("loff")
