"""The interval and the stability, on methods whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.discovery import discover_classes
from clip_fewshot.discovery.base import Partition
from clip_fewshot.discovery.discover import count_agreed, drop_unstable
from clip_fewshot.discovery.stability import (
    HALVES,
    Half,
    draw_halves,
    find_interval,
    measure_overlap,
    measure_stability,
)
from tests.discovery.planted import planted


class Fixed:
    """Says what it was told to, in turn; the rows hold their own part."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def part(self, rows: np.ndarray) -> Partition:
        number = self.numbers.pop(0)
        return Partition(np.arange(len(rows)) % max(number, 1) - (number == 0), np.empty((0, 4)))

    def resample(self, rng: np.random.Generator) -> Fixed:
        return self


def test_the_interval_holds_every_number_and_one_unseen_class() -> None:
    rows = np.zeros((40, 2))
    between = lambda groups, numbers: find_interval(groups, draw_halves(groups, rows, Fixed(numbers), 2, 0))  # noqa: E731
    assert between(1, [3] * HALVES) == (1, 4)
    assert between(3, [0] + [3] * (HALVES - 2) + [9]) == (0, 10)
    assert between(6, [5] * HALVES) == (5, 7)
    assert find_interval(1, draw_halves(1, rows[:2], Fixed([]), 2, 0)) == (1, 1)


def test_the_number_is_that_of_the_usual_half_where_groups_are_not_found_again() -> None:
    labels = np.repeat(np.arange(4), 30)
    halves = [Half(np.arange(60), np.zeros(60, dtype=np.int64), number) for number in (1, 2, 3, 9)]
    assert count_agreed(labels, (0.9, 0.1, 0.5, 0.5), halves) == 2
    assert count_agreed(labels, (0.9, 0.1, 0.5, 0.8), halves) == 4  # most are found again
    assert count_agreed(labels[::2], (0.1,) * 4, halves) == 4  # too few to say
    assert count_agreed(labels[:60], (0.1, 0.1), [halves[3]]) == 2
    assert measure_stability(labels, 4, halves) == pytest.approx((0.5, 0.5, 0, 0))


def test_overlap_is_that_of_the_most_similar_part() -> None:
    groups = np.array([0, 0, 0, 0, 1, 1, -1])
    parts = np.array([5, 5, 5, 7, 7, 7, 7])
    assert measure_overlap(groups, parts, 3)[:2] == pytest.approx([3 / 4, 2 / 4])
    assert np.isnan(measure_overlap(groups, parts, 3)[2])
    assert measure_overlap(groups, np.full(7, -1), 2).tolist() == [0, 0]


def test_a_small_group_is_kept_if_it_is_stable() -> None:
    labels = np.repeat([0, 1, 2, -1], [20, 20, 8, 1])
    kept = [len(drop_unstable(labels, (0.9, other, small))[1]) for other, small in ((0.9, 0.7), (0.9, 0.5), (0.5, 0.1))]
    assert kept == [3, 2, 3]
    assert set(drop_unstable(labels, (0.9, 0.9, 0.5))[0]) == {0, 1, -1}


def test_a_group_that_is_not_found_again_is_clutter_where_the_others_are() -> None:
    labels = np.repeat([0, 1, 2], [30, 20, 20])
    told = [(0.3, 0.9, 0.9), (0.9, 0.9, 0.3), (0.3, 0.7, 0.7), (0.5, 0.9, 0.9)]
    assert [len(drop_unstable(labels, stability)[1]) for stability in told] == [2, 2, 3, 3]


@pytest.mark.slow
def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Nine tenths are said; 12 draws of 1 to 6 classes with strays; .75 is 1.7 standard errors below."""
    held = []
    for seed in range(12):
        sizes = [12 + 9 * ((seed + i) % 5) for i in range(1 + seed % 6)]
        X, _, reference = planted(sizes, seed, strays=sum(sizes) // 10, apart=0.7)
        low, high = discover_classes(X, reference=reference, seed=seed).interval
        held.append(low <= len(sizes) <= high)
    assert np.mean(held) >= 0.75
