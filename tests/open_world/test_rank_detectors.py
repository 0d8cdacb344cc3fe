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


class Scripted:
    """Says of the pictures of a round what stands in their only feature's place of its own."""

    def __init__(self, place: int) -> None:
        self.place = place

    def fit(self, X: np.ndarray, y: object = None) -> Scripted:
        return self

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        return X[:, self.place]


def found(per_round: float, wobble: float, seed: int) -> np.ndarray:
    """(4, 100) scores of pictures that are novel; about ``per_round`` of them lie under the normal ones."""
    shares = np.clip(per_round + wobble * np.array([1, -1, 1, -1]) * (1 if seed else -1), 0, 1)
    return np.where(np.arange(100) < 100 * shares[:, None], -1.0, 1.0)


def choose(near: dict[str, tuple[float, float]], far: dict[str, float] | None = None) -> str:
    """What is chosen of candidates with an AUROC of (mean, wobble) on hidden classes and that one on far pictures."""
    columns = [found(mean, wobble, i % 2) for i, (mean, wobble) in enumerate(near.values())]
    strange = [found(mean, 0.001, 0) for mean in (far or {}).values()]
    rounds = [
        Round(
            np.zeros((2, len(near))),
            np.zeros((9, len(near))),
            np.stack([column[r] for column in columns], axis=1),
            far=[np.stack([column[r] for column in strange], axis=1)] if strange else [],
        )
        for r in range(4)
    ]
    made = {name: ([lambda i=i: Scripted(i)] * 4, rounds) for i, name in enumerate(near)}
    return rank_detectors(made).best  # type: ignore[arg-type]


def test_what_was_given_first_stays_where_the_lead_is_noise() -> None:
    assert choose({"usual": (0.8, 0.1), "lucky": (0.9, 0.1)}) == "usual"
    assert choose({"usual": (0.8, 0.01), "better": (0.9, 0.01)}) == "better"
    assert choose({"usual": (0.8, 0.01), "better": (0.9, 0.01), "best": (0.95, 0.01)}) == "best"
    noise = {f"other {i}": (0.7, 0.0) for i in range(40)}
    assert choose({"usual": (0.8, 0.02), "better": (0.88, 0.0), **noise}) == "usual"  # the best of forty-one
    assert choose({"usual": (0.8, 0.02), "better": (0.88, 0.0)}) == "better"


def test_far_pictures_have_a_veto() -> None:
    near = {"usual": (0.8, 0.01), "blind": (0.95, 0.01), "second": (0.7, 0.01)}
    assert choose(near, {"usual": 0.98, "blind": 0.5, "second": 0.99}) == "usual"
    assert choose(near, {"usual": 0.97, "blind": 0.96, "second": 0.99}) == "blind"  # as good as the usual one there
    assert choose(near, {"usual": 0.6, "blind": 0.5, "second": 0.99}) == "second"
    assert choose(near, {"usual": 0.85, "blind": 0.8, "second": 0.99}) == "usual"
    table = rank_detectors({"only": ([lambda: LOFDetector(3)] * 3, rounds(0.5))}).table
    assert table[0].far is None


def test_a_single_round_changes_nothing() -> None:
    one = rounds(0.0)[:1], rounds(1.5)[:1]
    made = {name: ([lambda: LOFDetector(3)], each) for name, each in zip(("usual", "lucky"), one, strict=True)}
    assert rank_detectors(made).best == "usual"


def test_a_candidate_that_refuses_a_round_is_out_and_when_all_do_the_first_says_why() -> None:
    made = rounds(0.5)
    choices = {"energy": ([EnergyDetector] * 3, made), "lof": ([lambda: LOFDetector(3)] * 3, made)}
    assert [row.name for row in rank_detectors(choices).table] == ["lof"]
    with pytest.raises(UsageError, match="classes"):
        rank_detectors({"energy": ([EnergyDetector] * 3, made)})
