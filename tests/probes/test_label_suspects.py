"""Labels that were changed on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.probes.label_suspects import find_label_suspects


def scene(n: int = 90, d: int = 10, classes: int = 3) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    X = 4 * np.eye(d)[labels] + rng.normal(size=(n, d))
    return X, labels, list(np.arange(n).reshape(-1, 9))


def test_changed_labels_are_found_with_what_they_were_and_right_ones_are_not() -> None:
    X, labels, parts = scene()
    assert len(find_label_suspects(X, labels, parts).rows) == 0
    wrong = labels.copy()
    wrong[[4, 33, 71]] = (wrong[[4, 33, 71]] + 1) % 3
    found = find_label_suspects(X, wrong, parts)
    assert sorted(found.rows.tolist()) == [4, 33, 71]
    assert found.suggested.tolist() == labels[found.rows].tolist()
    assert (found.probability > found.own).all()
    assert (np.diff(found.probability - found.own) <= 0).all()
    assert found.accuracy == pytest.approx(87 / 90, abs=0.05)


def test_a_copy_with_the_same_wrong_label_does_not_vouch_for_it_where_both_are_left_out() -> None:
    X, labels, _ = scene()
    wrong, both = np.append(labels, labels[:1]), np.vstack([X, X[:1]])
    wrong[[0, 90]] = 1
    together = [np.append(np.arange(9), 90), *np.arange(9, 90).reshape(-1, 9)]
    assert sorted(find_label_suspects(both, wrong, together).rows.tolist()) == [0, 90]
