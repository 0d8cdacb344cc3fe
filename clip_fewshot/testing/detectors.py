"""The contract of a novelty detector."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import Detector, DetectorPart, facts_of
from clip_fewshot.testing.contract import (
    clusters,
    demand,
    demand_members,
    global_state,
    refuses,
    run_checks,
    same_bytes,
)
from clip_fewshot.types import FloatArray, LabelArray

_C, _SHOTS, _D = 4, 8, 16
_KNOWN, _LABELS, _NOVEL = clusters(_C, _SHOTS, _D)
FRESH = clusters(_C, _SHOTS, _D)[0] + 0.05 * np.random.default_rng(1).normal(size=_KNOWN.shape)  # of the same classes
K = 3  # neighbours: few enough that a row more or less is no matter
_TEXTS = {
    "concepts": np.array([_KNOWN[c == _LABELS].mean(axis=0) for c in range(_C)]),
    "negatives": 1 + 0.5 * np.random.default_rng(9).normal(size=(60, _D)),
}
_LEFT_OUT = 2e-3  # of the spread of scores: how near a leave-one-out score is to that of a refit


def check_detector(part: DetectorPart) -> None:
    """Check a detector against :class:`clip_fewshot.novelty.Detector`.

    Args:
        part: a class, or a function that returns unfitted detectors.

    Raises:
        ContractError: names what does not hold.
    """
    run_checks(_CHECKS, part)


def build(part: DetectorPart) -> Detector:
    """An unfitted detector, with the texts and the number of neighbours that it says it takes."""
    facts = facts_of(part)
    options: dict[str, Any] = {name: _TEXTS[name] for name in facts.needs_texts}
    return part(**options, **({"n_neighbors": K} if facts.neighbourly else {}))


def labels_for(part: DetectorPart, labels: LabelArray) -> LabelArray | None:
    """Classes for those who cannot do without."""
    return labels if facts_of(part).needs_classes else None


def has_the_members(part: DetectorPart) -> None:
    """Methods and class attributes, the latter with values that mean something."""
    facts = facts_of(part)
    demand_members(facts, Detector)
    demand(facts.scheme in (None, "full", "leave-one-out"), f"scheme is {facts.scheme!r}")
    strange = [name for name in facts.needs_texts if name not in _TEXTS]
    demand(not strange, f"needs_texts names {', '.join(strange)}, where there are {', '.join(_TEXTS)}")


def higher_is_more_normal(part: DetectorPart) -> None:
    """The sign of scores, and that ``predict`` decides at ``offset_``."""
    detector, asked = build(part).fit(_KNOWN, _LABELS), np.concatenate([FRESH, _NOVEL])
    scores = detector.score_samples(asked)
    demand(
        np.shape(scores) == (len(asked),),
        f"scores of {number(len(asked), 'picture')} have the shape {np.shape(scores)}",
    )
    higher = scores[: len(FRESH)].mean() > scores[len(FRESH) :].mean()
    demand(higher, "pictures of a class that is far from all known ones score higher than known ones")
    decided = np.where(scores < detector.offset_, -1, 1)
    demand(np.array_equal(detector.predict(asked), decided), "predict is not -1 below offset_ and +1 from it on")


def a_score_is_the_picture_s_own(part: DetectorPart) -> None:
    """Neither the order of new pictures nor what is asked with them changes a score."""
    detector = build(part).fit(_KNOWN, labels_for(part, _LABELS))
    alone, asked = detector.score_samples(FRESH), np.concatenate([_NOVEL, FRESH])
    beside = detector.score_samples(asked)[len(_NOVEL) :]
    demand(np.allclose(beside, alone, rtol=1e-9), "scores of new pictures depend on the others")
    demand(np.allclose(detector.score_samples(FRESH[::-1])[::-1], alone, rtol=1e-9), "scores depend on the order")


def fitting_is_a_function(part: DetectorPart) -> None:
    """The same rows give the same scores; neither rows nor numpy's global generator are touched."""
    rows, before = _KNOWN.copy(), global_state()
    first, second = (build(part).fit(rows, _LABELS).score_samples(FRESH) for _ in range(2))
    demand(same_bytes(first, second), "two fits on the same pictures give other scores")
    demand(np.array_equal(rows, _KNOWN), "fit changes the features that it is given")
    demand(np.array_equal(global_state(), before), "numpy's global random state moves")


def leave_one_out_scores_are_those_of_refits(part: DetectorPart) -> None:
    """What calibration takes for the score of a known picture that is new."""
    rows, labels = np.concatenate([_KNOWN, _KNOWN[:2]]), np.concatenate([_LABELS, _LABELS[:2]])
    detector = build(part).fit(rows, labels)
    demand(list(detector.kept_) == list(range(len(_KNOWN))), "kept_ is not the first of each picture")
    found = detector.loo_scores_
    demand(
        np.shape(found) == (len(_KNOWN),),
        f"loo_scores_ of {number(len(_KNOWN), 'picture')} have the shape {np.shape(found)}",
    )
    for i in range(0, len(_KNOWN), 7):
        rest = np.delete(np.arange(len(_KNOWN)), i)
        refit = build(part).fit(rows[rest], labels[rest]).score_samples(rows[[i]])[0]
        off = abs(refit - found[i]) >= _LEFT_OUT * max(float(np.ptp(found)), 1e-12)
        demand(not off, "loo_scores_ are not the scores under a detector fitted without the picture")


def copies_change_nothing(part: DetectorPart) -> None:
    """A picture that is there forty times counts once."""
    copied, labels = np.concatenate([_KNOWN, np.repeat(_KNOWN[:1], 40, axis=0)]), np.append(_LABELS, np.repeat(0, 40))
    asked = np.concatenate([FRESH, _KNOWN[:1] + 1e-4])
    detector = build(part).fit(copied, labels_for(part, labels))
    scores = detector.score_samples(asked)
    demand(np.isfinite(scores).all(), "copies of a picture make scores that are not finite")
    plain = build(part).fit(_KNOWN, labels_for(part, _LABELS)).score_samples(asked)
    demand(np.allclose(scores, plain, rtol=1e-6), "copies of a picture change the scores")


def few_rows_are_scored_or_refused(part: DetectorPart) -> None:
    """One picture, one class, constant features: a finite score or a UsageError."""
    needs_classes = facts_of(part).needs_classes
    demand(_scores(part, _KNOWN, _LABELS, FRESH), "the pictures of four classes are refused")
    for one in (None, np.zeros(_SHOTS, dtype=np.int64)):
        taken = _scores(part, _KNOWN[:_SHOTS], one, FRESH)
        demand(taken or needs_classes, "a single class is refused, and needs_classes is False")
        demand(not (taken and needs_classes), "needs_classes is True, and a single class is taken")
    for step in (_SHOTS, _SHOTS // 2, 3):
        _scores(part, _KNOWN[::step], _LABELS[::step], FRESH)
    for n in (1, 2, 3, 4):
        _scores(part, _KNOWN[:n], None, FRESH)
    many, sizes = 1 + np.random.default_rng(1).normal(size=(15, _D)), np.array([0] * 9 + [1] * 3 + [2] * 2 + [3])
    _scores(part, many, sizes, FRESH)
    for rows in (np.ones((9, _D)), np.zeros((9, _D)), np.eye(9, _D)):
        _scores(part, rows, np.arange(9) % 3, np.zeros((2, _D)))


def _scores(part: DetectorPart, rows: FloatArray, labels: LabelArray | None, asked: FloatArray) -> bool:
    """True where it scores; False where it refuses. Both are right, NaN is not."""
    try:
        detector = build(part).fit(rows, labels)
    except UsageError:
        return False
    finite = np.isfinite(detector.score_samples(asked)).all() and np.isfinite(detector.loo_scores_).all()
    demand(finite, f"a score of too few pictures ({len(rows)}), or too similar, is not finite")
    return True


def arrays_restore_it(part: DetectorPart) -> None:
    """``to_arrays`` holds numbers alone, and ``from_arrays`` gives the same detector to the last bit."""
    detector = build(part).fit(_KNOWN, _LABELS)
    arrays = {name: np.array(value) for name, value in detector.to_arrays().items()}
    demand(all(a.dtype.kind in "fiub" for a in arrays.values()), "to_arrays gives something else than numbers")
    restored = type(detector).from_arrays(arrays)
    alike = same_bytes(restored.score_samples(FRESH), detector.score_samples(FRESH))
    demand(alike, "from_arrays gives a detector with other scores")
    demand(same_bytes(restored.loo_scores_, detector.loo_scores_), "from_arrays gives other loo_scores_")
    same = restored.offset_ == detector.offset_ and list(restored.kept_) == list(detector.kept_)
    demand(same, "from_arrays gives another offset_ or kept_")


def what_it_needs_is_asked_for(part: DetectorPart) -> None:
    """Classes and texts that are missing, or texts of another width, are refused by name."""
    facts = facts_of(part)
    refused = refuses(lambda: build(part).fit(_KNOWN))
    demand(refused or not facts.needs_classes, "needs_classes is True, and features without classes are taken")
    demand(facts.needs_classes or not refused, "needs_classes is False, and features without classes are refused")
    for name in facts.needs_texts:
        rest: dict[str, Any] = {other: _TEXTS[other] for other in facts.needs_texts if other != name}
        demand(refuses(partial(part(**rest).fit, _KNOWN)), f"it does without {name}, which needs_texts names")
        narrow = part(**rest, **{name: np.ones((4, 7))})
        demand(refuses(partial(narrow.fit, _KNOWN)), f"{name} of another width than the pictures' are taken")


def a_reader_of_texts_learns_from_no_picture(part: DetectorPart) -> None:
    """Without a scheme it is calibrated on all known pictures: they must be as new to it as any other."""
    if facts_of(part).needs_texts and facts_of(part).scheme is None:
        halves = [build(part).fit(rows).score_samples(FRESH) for rows in (_KNOWN[::2], _KNOWN[1::2])]
        demand(
            same_bytes(*halves), "needs_texts is given, and the scores depend on the pictures of the fit: name a scheme"
        )


def its_scheme_calibrates_it(part: DetectorPart) -> None:
    """p-values in (0, 1] under the scheme it names, and under that which asks least of a detector."""
    rows, labels = _KNOWN[::2], _LABELS[::2]
    for scheme in {facts_of(part).scheme or "split", "split"}:
        p = Calibrated(lambda: build(part), scheme).fit(rows, labels).p_values(FRESH[1:4])
        demand(((p > 0) & (p <= 1)).all(), f"p-values under the scheme {scheme!r} are not in (0, 1]")


_CHECKS = (
    has_the_members,
    what_it_needs_is_asked_for,
    higher_is_more_normal,
    a_score_is_the_picture_s_own,
    fitting_is_a_function,
    a_reader_of_texts_learns_from_no_picture,
    leave_one_out_scores_are_those_of_refits,
    copies_change_nothing,
    few_rows_are_scored_or_refused,
    arrays_restore_it,
    its_scheme_calibrates_it,
)
