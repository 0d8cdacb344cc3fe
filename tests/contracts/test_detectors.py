"""What every detector in DETECTORS must do, whatever it computes."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.metrics import auroc
from clip_fewshot.novelty import CLASSFUL, DETECTORS, TEXTUAL, Detector, build_detector

pytestmark = pytest.mark.parametrize("name", DETECTORS)
C, SHOTS, D = 4, 12, 24
LABELS = np.repeat(np.arange(C), SHOTS)


def texts() -> tuple[np.ndarray, np.ndarray]:
    """Features of the known classes' names, as the images' own centres, and of words for other things."""
    centres = np.random.default_rng(0).normal(size=(C + 1, D)) * 0.5
    words = np.random.default_rng(9).normal(size=(60, D)) * 0.5
    return 1 + centres[:C], 1 + words


def built(name: str, **options: object) -> Detector:
    """The detector with what it cannot do without, and few enough neighbours that a row more or less is no matter."""
    concepts, negatives = texts()
    needed = {
        "lof": {"n_neighbors": 4},
        "knn": {"n_neighbors": 4},
        "mcm": {"concepts": concepts},
        "negative-labels": {"concepts": concepts, "negatives": negatives},
        "rank-average": {"members": [build_detector("lof", n_neighbors=4), build_detector("knn", n_neighbors=4)]},
    }
    return build_detector(name, **(needed.get(name, {}) | options))


def labels(name: str, y: np.ndarray) -> np.ndarray | None:
    """Classes for those who cannot do without."""
    return y if name in CLASSFUL else None


def features(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Known training images, known new ones, images of a class that is not among them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(C + 1, D)) * 0.5
    sample = lambda c, n: 1 + centres[np.repeat(c, n)] + 0.2 * rng.normal(size=(n * len(c), D))  # noqa: E731
    return sample(range(C), SHOTS), sample(range(C), 20), sample([C], 20)


def test_higher_is_more_normal_and_minus_one_is_novel(name: str) -> None:
    train, known, novel = features()
    detector = built(name).fit(train, LABELS)
    scores = detector.score_samples(np.concatenate([known, novel]))
    assert scores.shape == (len(known) + len(novel),)
    assert auroc(np.repeat([False, True], [len(known), len(novel)]), scores) > 0.95
    decision = detector.predict(np.concatenate([known, novel]))
    assert set(decision) <= {-1, 1}
    assert (decision[: len(known)] == 1).mean() > 0.7
    assert (decision[len(known) :] == -1).mean() > 0.5


def test_a_score_does_not_depend_on_what_is_scored_with_it(name: str) -> None:
    train, known, novel = features()
    detector = built(name).fit(train, labels(name, LABELS))
    together = detector.score_samples(np.concatenate([novel, known]))[len(novel) :]
    assert np.allclose(together, detector.score_samples(known), rtol=1e-9)


def test_leave_one_out_scores_are_those_of_refits(name: str) -> None:
    train, _, _ = features()
    train = np.concatenate([train, train[:2]])
    y = np.concatenate([LABELS, LABELS[:2]])
    detector = built(name).fit(train, y)
    assert list(detector.kept_) == list(range(len(LABELS)))
    assert detector.loo_scores_.shape == (len(LABELS),)
    spread = np.ptp(detector.loo_scores_)
    for i in range(0, len(LABELS), 5):
        rest = np.delete(np.arange(len(LABELS)), i)
        refit = built(name).fit(train[rest], y[rest]).score_samples(train[[i]])[0]
        # A probe is solved to a gap that allows 1e-3; all others have closed forms.
        assert abs(refit - detector.loo_scores_[i]) < (2e-3 if hasattr(detector, "probe_") else 1e-9) * spread


def test_its_offset_is_taken_from_its_leave_one_out_scores(name: str) -> None:
    train, _, _ = features()
    detector = built(name).fit(train, LABELS)
    assert np.sum(detector.loo_scores_ < detector.offset_) == 1  # of 48, one is the twentieth part
    assert detector.offset_ in detector.loo_scores_


def test_copies_are_survived_and_change_nothing(name: str) -> None:
    train, known, _ = features()
    copied = np.concatenate([train, np.repeat(train[:1], 40, axis=0)])
    y = np.concatenate([LABELS, np.repeat(LABELS[:1], 40)])
    detector = built(name).fit(copied, labels(name, y))
    asked = np.concatenate([known, train[:1] + 1e-4])
    scores = detector.score_samples(asked)
    assert np.isfinite(scores).all()
    assert np.allclose(scores, built(name).fit(train, labels(name, LABELS)).score_samples(asked), rtol=1e-6)
    assert list(detector.kept_) == list(range(len(train)))


def finite_or_refused(name: str, train: np.ndarray, y: np.ndarray | None, asked: np.ndarray) -> bool:
    """True where it scores; both ways are right, nan is not."""
    try:
        detector = built(name).fit(train, y)
    except UsageError:
        return False
    assert np.isfinite(detector.score_samples(asked)).all()
    assert np.isfinite(detector.loo_scores_).all()
    return True


def test_few_rows_and_a_single_class_are_survived_or_refused(name: str) -> None:
    train, known, _ = features()
    assert finite_or_refused(name, train, LABELS, known)
    assert finite_or_refused(name, train[:SHOTS], None, known) == (name not in CLASSFUL)
    assert finite_or_refused(name, train[:SHOTS], np.zeros(SHOTS), known) == (name not in CLASSFUL)
    assert finite_or_refused(name, train[::6], LABELS[::6], known)  # two images a class
    finite_or_refused(name, train[::12], LABELS[::12], known)  # one
    for n in (1, 2, 3, 4):
        finite_or_refused(name, train[:n], None, known)
        finite_or_refused(name, train[::7][:n], LABELS[::7][:n], known)


def test_more_features_than_rows_and_classes_of_all_sizes(name: str) -> None:
    rng = np.random.default_rng(1)
    X, y = 1 + rng.normal(size=(15, D)), np.array([0] * 9 + [1] * 3 + [2] * 2 + [3])
    assert finite_or_refused(name, X, y, 1 + rng.normal(size=(5, D)))


def test_constant_features_are_scored_or_refused_but_never_nan(name: str) -> None:
    finite_or_refused(name, np.ones((9, D)), np.arange(9) % 3, np.ones((2, D)))
    finite_or_refused(name, np.zeros((9, D)), np.arange(9) % 3, np.ones((2, D)))
    finite_or_refused(name, np.eye(9, D), np.arange(9) % 3, np.zeros((2, D)))


def test_arrays_are_numbers_and_restore_it_to_the_last_bit(name: str) -> None:
    train, known, _ = features()
    detector = built(name).fit(train, LABELS)
    arrays = {key: value.copy() for key, value in detector.to_arrays().items()}
    assert all(a.dtype.kind in "fiub" and a.flags.c_contiguous for a in arrays.values())
    restored = type(detector).from_arrays(arrays)
    assert restored.score_samples(known).tobytes() == detector.score_samples(known).tobytes()
    assert restored.loo_scores_.tobytes() == detector.loo_scores_.tobytes()
    assert (restored.offset_, list(restored.kept_)) == (detector.offset_, list(detector.kept_))
    assert (restored.predict(known) == detector.predict(known)).all()
    again = restored.to_arrays()
    assert {key: value.tobytes() for key, value in again.items()} == {k: v.tobytes() for k, v in arrays.items()}


def test_what_it_cannot_do_without_is_asked_for(name: str) -> None:
    train, _, _ = features()
    if name in CLASSFUL:
        with pytest.raises(UsageError, match="class"):
            built(name).fit(train)
    if name in TEXTUAL:
        with pytest.raises(UsageError, match="concepts"):
            build_detector(name).fit(train)
        with pytest.raises(UsageError, match=r"shape \(rows, 24\), as the images', got \(4, 7\)"):
            built(name, concepts=np.ones((4, 7))).fit(train)


def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=rf"'{name}'.*got 'x{name}'"):
        build_detector(f"x{name}")
