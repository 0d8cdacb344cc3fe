"""How many pictures a comparison takes: against the closed form, and against the interval on as many pictures."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.evaluation.intervals import paired_difference
from clip_fewshot.evaluation.sample_size import count_images_to_settle


def answers(rng: np.random.Generator, rates: list[float], n: int) -> list[np.ndarray]:
    return [rng.random(n) < rate for rate in rates]


def test_of_one_support_set_it_is_the_square_of_reach_over_difference() -> None:
    rng = np.random.default_rng(0)
    a, b = answers(rng, [0.7], 200), answers(rng, [0.66], 200)
    found = paired_difference(a, b)
    assert found.ci95[0] < 0 < found.ci95[1]
    expected = 200 * ((found.ci95[1] - found.mean) / found.mean) ** 2
    assert count_images_to_settle(a, b) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_on_as_many_pictures_leaves_zero_out_and_on_fewer_does_not(seed: int) -> None:
    """The same pictures over again are more pictures of the same kind; the support sets agree."""
    rng = np.random.default_rng(seed)
    a, b = answers(rng, [0.72], 150) * 5, answers(rng, [0.68], 150) * 5
    needed = count_images_to_settle(a, b)
    assert needed is not None
    for times, settled in ((int(np.ceil(1.05 * needed / 150)), True), (int(0.95 * needed / 150), False)):
        if times:
            low, high = paired_difference([np.tile(x, times) for x in a], [np.tile(x, times) for x in b]).ci95
            assert (low > 0 or high < 0) == settled


def test_support_sets_that_differ_keep_their_part_of_the_variance() -> None:
    """Against sums of squares in plain loops, and a search by one picture after the other."""
    n, sizes = 400, (12, 16, 12, 16)
    a = [np.arange(n) >= size for size in sizes]  # wrong on 12 or 16 pictures
    b = [np.arange(n) < n - 24] * 4
    table = np.array(a, float) - np.array(b, float)
    mean, by_seed, by_image = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rest = sum((table[s, i] - by_seed[s] - by_image[i] + mean) ** 2 for s in range(4) for i in range(n)) / (3 * (n - 1))
    of_seeds = (sum((value - mean) ** 2 for value in by_seed) / 3 - rest / n) / 4
    of_images = sum((value - mean) ** 2 for value in by_image) / (n - 1) / n
    assert of_seeds > 0
    found = paired_difference(a, b)
    squared = (found.ci95[1] - found.mean) ** 2 / (of_seeds + of_images)
    expected = next(m for m in range(1, 10**6) if mean**2 >= squared * (of_seeds + of_images * n / m))
    assert count_images_to_settle(a, b) == expected


def test_no_number_of_pictures_settles_what_support_sets_disagree_on_or_what_is_equal() -> None:
    right, wrong = np.ones(100, bool), np.zeros(100, bool)
    assert count_images_to_settle([right, right], [right, right]) is None
    assert count_images_to_settle([right, wrong, right], [wrong, right, right]) is None
    assert count_images_to_settle([right, wrong, right], [wrong, right, wrong]) is None
    assert count_images_to_settle([right], [right]) is None


def test_what_is_settled_takes_fewer_than_there_are() -> None:
    rng = np.random.default_rng(1)
    needed = count_images_to_settle(answers(rng, [0.9] * 3, 400), answers(rng, [0.6] * 3, 400))
    assert needed is not None
    assert needed < 400
