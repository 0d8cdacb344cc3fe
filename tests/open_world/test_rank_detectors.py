from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.metrics import auroc
from clip_fewshot.novelty import EnergyDetector, LOFDetector
from clip_fewshot.open_world.rank_detectors import Round, rank_detectors


def rounds(distance: float, seed: int = 0) -> list[Round]:
    """Three hidden classes in turn, ``distance`` away from the known ones."""
    rng = np.random.default_rng(seed)
    made = []
    for axis in range(3):
        fit, normal = (1 + 0.2 * rng.normal(size=(n, 16)) for n in (24, 12))
        novel = 1 + 0.2 * rng.normal(size=(12, 16))
        novel[:, axis] += distance
        made.append(Round(fit, normal, novel))
    return made


def test_the_features_that_tell_hidden_classes_apart_win() -> None:
    candidates = {
        ("tuned", 4): ([lambda: LOFDetector(4)] * 3, rounds(0.0)),
        ("frozen", 4): ([lambda: LOFDetector(4)] * 3, rounds(1.5)),
    }
    choice = rank_detectors(candidates)
    assert choice.best == ("frozen", 4)
    assert [a.name for a in choice.table] == [("frozen", 4), ("tuned", 4)]
    assert choice.margin == pytest.approx(choice.table[0].auroc - choice.table[1].auroc)
    assert choice.margin > 0.2


def test_each_round_is_the_auroc_of_its_hidden_class() -> None:
    made = rounds(0.7)
    table = rank_detectors({"only": ([lambda: LOFDetector(3)] * 3, made)}).table
    for one, expected in zip(made, table[0].per_round, strict=True):
        detector = LOFDetector(3).fit(one.fit)
        normal, novel = detector.score_samples(one.normal), detector.score_samples(one.novel)
        wins = (novel[:, None] < normal[None]).mean() + 0.5 * (novel[:, None] == normal[None]).mean()
        assert expected == pytest.approx(wins)
        assert expected == pytest.approx(auroc([False] * 12 + [True] * 12, np.concatenate([normal, novel])))
    assert table[0].auroc == pytest.approx(np.mean(table[0].per_round))


def test_of_equals_the_first_given_wins_and_the_margin_is_nothing() -> None:
    made = rounds(0.5)
    choice = rank_detectors({name: ([lambda: LOFDetector(3)] * 3, made) for name in ("first", "second")})
    assert (choice.best, choice.margin) == ("first", 0.0)


def test_candidates_must_hide_the_same_classes() -> None:
    made = rounds(0.5)
    with pytest.raises(UsageError, match=r"same number of rounds, >= 1, got \[3, 2\]"):
        rank_detectors({"a": ([lambda: LOFDetector(3)] * 3, made), "b": ([lambda: LOFDetector(3)] * 2, made[:2])})
    with pytest.raises(UsageError, match=r"got \[0\]"):
        rank_detectors({"a": ([], [])})


def test_what_was_given_first_stays_where_the_lead_is_noise() -> None:
    class Scripted:
        def __init__(self, order: list[int]) -> None:
            self.order = order

        def fit(self, X: np.ndarray, y: object = None) -> Scripted:
            return self

        def score_samples(self, X: np.ndarray) -> np.ndarray:
            return np.array(self.order, dtype=float)

    one = Round(np.ones((2, 1)), np.ones((2, 1)), np.ones((2, 1)))
    right, half, wrong = [2, 3, 0, 1], [1, 3, 0, 2], [0, 1, 2, 3]
    noisy = {"plain": [right, half, right, half], "lucky": [half, right, right, right]}
    clear = {"plain": [half, half, half, wrong], "better": [right, right, right, half]}
    for scripts, expected in ((noisy, "plain"), (clear, "better")):
        made = {
            name: ([lambda order=order: Scripted(order) for order in orders], [one] * 4)
            for name, orders in scripts.items()
        }
        choice = rank_detectors(made)  # type: ignore[arg-type]
        assert choice.best == expected
        assert choice.table[0].name != "plain"


def test_a_candidate_that_refuses_a_round_is_out_and_when_all_do_the_first_says_why() -> None:
    made = rounds(0.5)
    choices = {"energy": ([EnergyDetector] * 3, made), "lof": ([lambda: LOFDetector(3)] * 3, made)}
    assert [row.name for row in rank_detectors(choices).table] == ["lof"]
    with pytest.raises(UsageError, match="classes"):
        rank_detectors({"energy": ([EnergyDetector] * 3, made)})
