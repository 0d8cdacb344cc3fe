"""Ranks against counting, and their mean against refits of everything."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.utils.estimator_checks import check_estimator

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import KNNDetector, LOFDetector, MahalanobisDetector, MCMDetector, RankAverageDetector
from clip_fewshot.novelty.rank_average import rank_scores

RNG = np.random.default_rng(0)


def draw(seed: int, n: int = 24, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + 1


def test_ranks_are_those_that_counting_gives() -> None:
    yardstick = RNG.integers(0, 9, size=30).astype(float)
    assert np.allclose(rank_scores(yardstick, yardstick), rankdata(yardstick) / 31)


def test_known_images_that_only_rounding_tells_apart_share_their_rank() -> None:
    yardstick = RNG.integers(1, 9, size=30).astype(float)
    rounded = yardstick * (1 + 1e-13 * RNG.uniform(-1, 1, size=30))
    assert np.allclose(rank_scores(rounded, yardstick), rank_scores(yardstick, yardstick), atol=1e-9)


def test_ranks_grow_with_the_score_also_beyond_the_known_images() -> None:
    yardstick = RNG.normal(size=20)
    ranks = rank_scores(yardstick, np.linspace(-50, 50, 2001))
    assert (np.diff(ranks) > 0).all()
    assert 0 < ranks[0] < 1 / 21 < 20 / 21 < ranks[-1] < 1
    assert np.isfinite(rank_scores(np.ones(4), np.array([0.0, 1.0, 2.0]))).all()


def test_is_the_mean_of_its_members_ranks() -> None:
    X, new = draw(0), draw(1)
    members = [LOFDetector(3), MahalanobisDetector(), KNNDetector(2)]
    fitted = [member.fit(X) for member in members]
    expected = np.mean([rank_scores(m.loo_scores_, m.score_samples(new)) for m in fitted], axis=0)
    assert np.allclose(RankAverageDetector(members).fit(X).score_samples(new), expected, rtol=1e-12)
    assert not hasattr(MahalanobisDetector(), "kept_")


def test_leave_one_out_refits_ranks_too() -> None:
    X = draw(2, n=12)
    detector = RankAverageDetector([KNNDetector(2), MahalanobisDetector()]).fit(X)
    for i in range(len(X)):
        without = RankAverageDetector([KNNDetector(2), MahalanobisDetector()]).fit(np.delete(X, i, axis=0))
        assert without.score_samples(X[[i]])[0] == pytest.approx(detector.loo_scores_[i], rel=1e-9)


def test_members_of_every_kind_are_restored() -> None:
    X, new = draw(3), draw(4)
    detector = RankAverageDetector([MCMDetector(RNG.normal(size=(3, 6))), RankAverageDetector()]).fit(X)
    restored = RankAverageDetector.from_arrays(detector.to_arrays())
    assert restored.score_samples(new).tobytes() == detector.score_samples(new).tobytes()


def test_no_members_are_refused() -> None:
    with pytest.raises(UsageError, match="1 member or more"):
        RankAverageDetector([]).fit(draw(0))


@pytest.mark.slow  # by default once a base class, in test_lof.py
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_passes_scikit_learns_own_checks() -> None:
    results = check_estimator(RankAverageDetector(), on_fail=None)
    assert not [(r["check_name"], r["exception"]) for r in results if r["status"] not in ("passed", "skipped")]
