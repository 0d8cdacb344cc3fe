"""Scores that were probabilities: the order where float64 has no room for them, and files of before."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, getcontext

import numpy as np
import pytest
from scipy.special import expit, softmax

from clip_fewshot.conformal.p_values import p_values
from clip_fewshot.evaluation.metrics import auroc
from clip_fewshot.novelty import DETECTORS, MaxSoftmaxDetector, MCMDetector, NegativeLabelsDetector
from clip_fewshot.novelty.base import Detector
from clip_fewshot.novelty.log_odds import LOG_ODDS_KEY, measure_log_odds
from clip_fewshot.open_world.alternatives import Alternative

NAMES = np.eye(6)[:4]


def picture(*cosines: float) -> np.ndarray:
    """A unit row with these cosines to the first names."""
    rest = np.zeros(6 - len(cosines))
    rest[-1] = np.sqrt(1 - np.dot(cosines, cosines))
    return np.r_[cosines, rest]


KNOWN = np.array([picture(0.8, 0.1, 0, 0), picture(0, 0.75, 0, 0.1), picture(0.1, 0, 0.85, 0), picture(0, 0, 0.1, 0.7)])
NOVEL = np.array([picture(0.5, 0.1, 0, 0), picture(0, 0.55, 0, 0.1), picture(0.1, 0.1, 0.1, 0.52)])
AWAY = np.array([picture(0.0, 0.0, 0.0, 0.0)])


def exact_log_odds(logits: np.ndarray) -> float:
    """With 200 digits, in which nothing saturates."""
    getcontext().prec = 200
    weights = sorted(Decimal(float(z)).exp() for z in logits)
    return float((weights[-1] / sum(weights[:-1])).ln())


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1000.0])
def test_equals_arithmetic_of_200_digits(scale: float) -> None:
    logits = scale * np.random.default_rng(0).normal(size=(20, 5))
    assert np.allclose(measure_log_odds(logits), [exact_log_odds(row) for row in logits], rtol=1e-12)


def test_ranks_stay_where_nothing_saturated() -> None:
    logits = np.random.default_rng(1).normal(size=(300, 7))
    assert np.array_equal(np.argsort(measure_log_odds(logits)), np.argsort(softmax(logits, axis=1).max(axis=1)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: MCMDetector(NAMES, temperature=0.01),
        lambda: NegativeLabelsDetector(NAMES, -NAMES, temperature=0.01, groups=2),
    ],
)
def test_pictures_that_are_all_certain_keep_their_order(make: Callable[[], Detector]) -> None:
    detector = make().fit(KNOWN)
    scores = [detector.score_samples(rows) for rows in (KNOWN, NOVEL)]
    assert (expit(np.concatenate(scores)) == 1.0).all()  # what was compared before: seven times the same number
    assert auroc(np.r_[0, 0, 0, 0, 1, 1, 1], np.concatenate(scores)) == 1.0


def test_a_sure_probe_tells_the_surer_ones() -> None:
    surer, sure = MaxSoftmaxDetector.normality(np.array([[60.0, 0, 0], [50.0, 0, 0]]))
    assert expit(surer) == expit(sure) == 1.0
    assert surer > sure


def probabilities(make: Callable[[], Detector], detector: Detector, fresh: np.ndarray) -> tuple[dict, np.ndarray]:
    """(what an earlier release wrote, what it said of ``fresh``)."""
    arrays = dict(detector.to_arrays())
    return arrays | {"loo_scores": expit(arrays.pop(LOG_ODDS_KEY))}, expit(detector.score_samples(fresh))


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02, 0.01])
@pytest.mark.parametrize("kind", ["mcm", "negative-labels", "max-softmax"])
def test_what_an_earlier_release_stored_gives_the_p_values_that_it_gave(kind: str, temperature: float) -> None:
    rng = np.random.default_rng(3)
    X = np.repeat(KNOWN, 6, axis=0) + 0.05 * rng.normal(size=(24, 6))
    fresh = np.concatenate([KNOWN, NOVEL, AWAY]) + 0.02 * rng.normal(size=(8, 6))
    parts = {
        "mcm": lambda: MCMDetector(NAMES, temperature),
        "negative-labels": lambda: NegativeLabelsDetector(NAMES, -NAMES[:2], temperature),
        "max-softmax": lambda: MaxSoftmaxDetector(C=1 / temperature),
    }
    detector = parts[kind]().fit(X, np.repeat(np.arange(4), 6))
    stored, said = probabilities(parts[kind], detector, fresh)
    restored = type(detector).from_arrays(stored)
    before = p_values(stored["loo_scores"], said)
    assert np.array_equal(p_values(restored.loo_scores_, restored.score_samples(fresh)), before)


def test_a_watch_that_an_earlier_release_began_is_told_from_todays() -> None:
    """Its ranks hold probabilities."""
    assert [name for name in DETECTORS if Alternative(name).in_log_odds] == ["max-softmax", "mcm", "negative-labels"]


def test_the_two_forms_are_told_by_their_names() -> None:
    assert LOG_ODDS_KEY in MCMDetector(NAMES).fit(KNOWN).to_arrays()
    assert "loo_scores" not in MCMDetector(NAMES).fit(KNOWN).to_arrays()
