"""Intervals that hold what they promise, on simulated studies whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation import interval, paired_difference
from clip_fewshot.types import BoolArray


def study(seeds: int, images: int, truth: float, rng: np.random.Generator, spread: float = 0.5) -> list[BoolArray]:
    """Hits with an effect per support set, an effect per image, and a coin; mean ``truth`` over all three."""
    base = stats.norm.ppf(truth) * np.sqrt(1 + 1 + spread**2)
    latent = base + spread * rng.normal(size=(seeds, 1)) + rng.normal(size=(1, images)) + rng.normal(size=(seeds, images))
    return list(latent > 0)


@pytest.mark.parametrize(("seeds", "images"), [(5, 200), (3, 50), (1, 100), (10, 400)])
@pytest.mark.parametrize("truth", [0.7, 0.95])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(seeds: int, images: int, truth: float) -> None:
    """600 studies; 95 % expected, below 92.3 % or so happens by chance once in a thousand."""
    rng = np.random.default_rng(0)
    spread = 0.0 if seeds == 1 else 0.3  # one support set says nothing about the next
    hits = 0
    for _ in range(600):
        low, high = interval(study(seeds, images, truth, rng, spread)).ci95
        hits += low <= truth <= high
    assert hits / 600 > 0.923


def test_images_alone_or_seeds_alone_would_be_too_narrow() -> None:
    rng = np.random.default_rng(1)
    covered = {"both": 0, "images": 0}
    for _ in range(300):
        table = study(4, 300, 0.8, rng, spread=0.6)
        low, high = interval(table).ci95
        covered["both"] += low <= 0.8 <= high
        pooled = stats.binomtest(int(np.sum(table)), np.size(table)).proportion_ci(0.95, "wilson")
        covered["images"] += pooled.low <= 0.8 <= pooled.high
    assert covered["both"] / 300 > 0.9
    assert covered["images"] / 300 < 0.7


def test_one_support_set_is_wilsons_interval() -> None:
    hits = np.arange(503) < 473
    expected = stats.binomtest(473, 503).proportion_ci(0.95, "wilson")
    assert interval([hits]).ci95 == pytest.approx((expected.low, expected.high), abs=5e-4)


def test_perfect_scores_keep_an_honest_lower_end() -> None:
    result = interval([np.ones(50, dtype=bool)] * 5)
    assert result.mean == 1
    assert result.ci95[1] == 1
    assert result.ci95[0] == pytest.approx(stats.binomtest(50, 50).proportion_ci(0.95, "wilson").low, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 40))))
def test_the_mean_lies_inside_and_the_interval_inside_zero_to_one(table: BoolArray) -> None:
    result = interval(list(table))
    assert 0 <= result.ci95[0] <= result.mean <= result.ci95[1] <= 1
    assert result.per_seed == pytest.approx(table.mean(axis=1).tolist())
    shuffled = interval([row[::-1] for row in table[::-1]])
    assert shuffled.ci95 == pytest.approx(result.ci95)


def test_pairing_tells_apart_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(2)
    latent = 1.0 + 0.5 * rng.normal(size=(5, 1)) + rng.normal(size=(1, 300)) + 0.2 * rng.normal(size=(5, 300))
    worse, better = list(latent > 0), list(latent + 0.15 > 0)
    difference = paired_difference(better, worse)
    assert difference.ci95[0] > 0
    assert interval(better).ci95[0] < interval(worse).ci95[1]
    assert difference.mean == pytest.approx(interval(better).mean - interval(worse).mean)


def test_the_paired_interval_covers_no_difference() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        shared = 1.0 + rng.normal(size=(1, 150))
        a, b = (list(shared + 0.4 * rng.normal(size=(5, 1)) + rng.normal(size=(5, 150)) > 0) for _ in range(2))
        low, high = paired_difference(a, b).ci95
        hits += low <= 0 <= high
    assert hits / 400 > 0.91


def test_equal_methods_differ_by_zero_within_what_the_images_allow() -> None:
    hits = [np.arange(100) % 3 == 0] * 3
    result = paired_difference(hits, hits)
    assert result.mean == 0
    assert -0.05 < result.ci95[0] < 0 < result.ci95[1] < 0.05


def test_tables_that_do_not_match_are_refused() -> None:
    with pytest.raises(UsageError, match="same images"):
        interval([np.ones(3, dtype=bool), np.ones(4, dtype=bool)])
    with pytest.raises(UsageError, match="evaluate both alike"):
        paired_difference([np.ones(3, dtype=bool)], [np.ones(3, dtype=bool)] * 2)
