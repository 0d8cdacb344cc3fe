"""How well unknown pictures are found where no class was hidden: known ones play the unknown, a quarter at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.intervals import statistic_interval
from clip_fewshot.evaluation.metrics import auroc
from clip_fewshot.open_world.alternatives import Alternative, NoveltyChoice
from clip_fewshot.open_world.feature_spaces import FROZEN, build_space
from clip_fewshot.protocol.final_test import FinalTest
from clip_fewshot.protocol.refits import PreparedSupport
from clip_fewshot.runtime import rng
from clip_fewshot.types import BoolArray, FloatArray, LabelArray

REHEARSALS = 4
STAND_IN = Alternative("knn", FROZEN, 5)  # of a choice that would need a training, a text or more classes in each round


def measure_rehearsal(outcome: FinalTest, choice: NoveltyChoice, alpha: float, seed: int) -> dict[str, Any] | None:
    """The detector without some known classes meets the test pictures of all, on each fresh support set.

    It is the chosen one where that looks at frozen features and has enough left, else nearest neighbours. The test
    pictures are those that were opened already, and nothing is chosen by what comes out. The rate of false alarms is
    set on them: a class that is left alone has too few shots to calibrate on.

    Args:
        alpha: rate of false alarms at which the unknown are counted.
        seed: of the rounds.

    Returns:
        Detector, AUROC with its interval and the share caught at ``alpha``, as means over rounds and support sets; None
        where there are no test pictures of two classes.
    """
    labels = outcome.test.required_labels()
    hidden = _draw_rounds(labels, seed)
    if not hidden:
        return None
    chosen = choice.best if choice.best.space == FROZEN and choice.best.scheme else STAND_IN
    try:
        scores = _score_rounds(chosen, outcome, hidden)
    except UsageError:  # what is left in a round is too little for it
        chosen = STAND_IN
        scores = _score_rounds(chosen, outcome, hidden)

    def mean_auroc(truth: LabelArray, scores: FloatArray) -> float:
        return float(
            np.mean([auroc(np.isin(truth, one), column) for one, column in zip(hidden, scores.T, strict=True)])
        )

    found = statistic_interval(mean_auroc, labels, scores)
    caught = [
        _share_caught(np.isin(labels, one), column, alpha)
        for each in scores
        for one, column in zip(hidden, each.T, strict=True)
    ]
    return {
        "detector": chosen.detector,
        "alpha": alpha,
        "rounds": len(hidden),
        "auroc": found.mean,
        "auroc_ci95": list(found.ci95),
        "detection_rate": float(np.mean(caught)),
    }


def _draw_rounds(labels: LabelArray, seed: int) -> list[LabelArray]:
    """The classes with test pictures in at most REHEARSALS groups, each to be hidden once; none of a single class."""
    classes = np.unique(labels)
    shuffled = rng.generator(seed, "rehearsal").permutation(classes)
    return list(np.array_split(shuffled, min(REHEARSALS, len(classes)))) if len(classes) > 1 else []


def _score_rounds(chosen: Alternative, outcome: FinalTest, hidden: Sequence[LabelArray]) -> list[FloatArray]:
    """(n, rounds) scores of the test pictures, per fresh support set."""
    fits = zip(outcome.fits[1:], outcome.known[1:], strict=True)
    return [np.stack([_score(chosen, fit.support, one, sight.frozen) for one in hidden], axis=1) for fit, sight in fits]


def _score(chosen: Alternative, support: PreparedSupport, hidden: LabelArray, frozen: FloatArray) -> FloatArray:
    """(n,) how normal pictures with (n, d) ``frozen`` features look to a detector that knows the other classes."""
    labels = support.data.labels
    known = ~np.isin(labels, hidden)
    detector = chosen.factory()().fit(build_space(FROZEN, support.frozen, support.frozen)[known], labels[known])
    return detector.score_samples(build_space(FROZEN, frozen, frozen))


def _share_caught(novel: BoolArray, scores: FloatArray, alpha: float) -> float:
    """Of the novel ones, how many score below all but a share ``alpha`` of the others."""
    threshold = np.quantile(scores[~novel], alpha, method="lower")
    return float((scores[novel] < threshold).mean())
