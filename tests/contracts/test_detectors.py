"""What every detector in DETECTORS must do, whatever it computes."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.errors import UsageError
from clip_fewshot.metrics import auroc
from clip_fewshot.novelty import DETECTORS, build_detector

pytestmark = pytest.mark.parametrize("name", DETECTORS)
C, SHOTS, D = 4, 12, 24
LABELS = np.repeat(np.arange(C), SHOTS)


def features(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Known training images, known new ones, images of a class that is not among them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(C + 1, D)) * 0.5
    sample = lambda c, n: 1 + centres[np.repeat(c, n)] + 0.2 * rng.normal(size=(n * len(c), D))  # noqa: E731
    return sample(range(C), SHOTS), sample(range(C), 20), sample([C], 20)


def test_higher_is_more_normal_and_minus_one_is_novel(name: str) -> None:
    train, known, novel = features()
    detector = build_detector(name).fit(train, LABELS)
    scores = detector.score_samples(np.concatenate([known, novel]))
    assert scores.shape == (len(known) + len(novel),)
    assert auroc(np.repeat([False, True], [len(known), len(novel)]), scores) > 0.95
    decision = detector.predict(np.concatenate([known, novel]))
    assert set(decision) <= {-1, 1}
    assert (decision[: len(known)] == 1).mean() > 0.7
    assert (decision[len(known) :] == -1).mean() > 0.7


def test_a_score_does_not_depend_on_what_is_scored_with_it(name: str) -> None:
    train, known, novel = features()
    detector = build_detector(name).fit(train)
    together = detector.score_samples(np.concatenate([novel, known]))[len(novel) :]
    assert np.allclose(together, detector.score_samples(known), rtol=1e-9)


def test_copies_are_survived(name: str) -> None:
    train, known, _ = features()
    copied = np.concatenate([train, np.repeat(train[:1], 40, axis=0)])
    scores = build_detector(name).fit(copied).score_samples(np.concatenate([known, train[:1] + 1e-4]))
    assert np.isfinite(scores).all()
    assert np.abs(scores).max() < 100 * np.abs(np.median(scores))


def test_fewer_rows_than_neighbours_and_a_single_class_are_survived(name: str) -> None:
    train, known, _ = features()
    for few in (train[:3], train[:SHOTS]):
        assert np.isfinite(build_detector(name).fit(few).score_samples(known)).all()
    assert np.isfinite(build_detector(name).fit(train[:SHOTS], np.zeros(SHOTS)).score_samples(known)).all()


def test_constant_features_are_scored_or_refused_but_never_nan(name: str) -> None:
    try:
        scores = build_detector(name).fit(np.ones((9, D))).score_samples(np.ones((2, D)))
    except UsageError:
        return
    assert np.isfinite(scores).all()


def test_arrays_are_numbers_and_restore_it_to_the_last_bit(name: str) -> None:
    train, known, _ = features()
    detector = build_detector(name).fit(train)
    arrays = detector.to_arrays()
    assert all(a.dtype.kind in "fiub" and a.flags.c_contiguous for a in arrays.values())
    restored = type(detector).from_arrays(arrays)
    assert restored.score_samples(known).tobytes() == detector.score_samples(known).tobytes()
    assert (restored.predict(known) == detector.predict(known)).all()


def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=rf"'{name}'.*got 'x{name}'"):
        build_detector(f"x{name}")
