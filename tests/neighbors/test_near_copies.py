"""Copies among rows that are alike anyway, and among rows that are not."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.geometry import unit_rows
from clip_fewshot.neighbors.near_copies import find_near_copies


def heap(n: int, likeness: float, seed: int = 0) -> np.ndarray:
    """Unit rows that share a direction: the more, the nearer to each other."""
    rng = np.random.default_rng(seed)
    return unit_rows(likeness * np.ones(64) / 8 + rng.normal(size=(n, 64)) / 8)


def pairs(rows: np.ndarray, views: np.ndarray | None = None) -> list[tuple[int, int]]:
    found = find_near_copies(rows, views)
    return sorted(zip(found.first.tolist(), found.second.tolist(), strict=True))


@pytest.mark.parametrize("likeness", [0.0, 1.0, 4.0])
def test_changed_copies_are_found_and_rows_that_are_merely_alike_are_not(likeness: float) -> None:
    rows = heap(80, likeness)
    assert pairs(rows) == []
    spread = np.median(np.linalg.norm(rows[:40] - rows[40:], axis=1))
    copies = unit_rows(rows[:5] + 0.05 * spread * heap(5, 0.0, seed=1))
    assert pairs(np.vstack([rows, copies])) == [(i, 80 + i) for i in range(5)]


def test_where_every_row_has_a_copy_all_are_found() -> None:
    rows = heap(30, 0.5)
    assert pairs(np.vstack([rows, rows])) == [(i, 30 + i) for i in range(30)]


def test_what_is_like_another_row_seen_otherwise_is_a_copy_of_it() -> None:
    rows = heap(40, 0.5)
    both = np.vstack([rows, rows[:1, ::-1]])
    assert pairs(both) == []
    assert pairs(both, both[:, ::-1]) == [(0, 40)]


def test_the_nearest_pair_stands_first_with_its_cosine() -> None:
    rows = heap(40, 0.0)
    both = np.vstack([rows, unit_rows(rows[3:4] + 0.05 * rows[4:5]), rows[7:8]])
    found = find_near_copies(both)
    assert (found.first[0], found.second[0]) == (7, 41)
    assert found.similarity.tolist() == pytest.approx([1.0, float(both[3] @ both[40])])


def test_no_row_and_one_row_have_no_pair() -> None:
    assert pairs(heap(1, 0.0)) == []
    assert pairs(heap(1, 0.0)[:0]) == []
