"""The test on traces: it finds what is there, and its p-values are honest where nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clip_fewshot.evaluation.hints import TOGETHER, Hint, correct, encode_trace, find_hints

N = 120
LABELS = np.arange(N) % 3
FIT, HELD_OUT = np.flatnonzero(np.arange(N) // 3 % 2 == 0), np.flatnonzero(np.arange(N) // 3 % 2 == 1)


def found(**traces: Any) -> dict[str, Hint]:
    return {one.trace: one for one in find_hints(traces, LABELS, FIT, HELD_OUT)}


def test_a_trace_that_follows_the_class_is_told_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(0)
    told = found(
        camera=[("A", "B", None)[label] for label in LABELS],
        width=rng.integers(100, 900, N).tolist(),
        format=["JPEG"] * N,
    )
    assert set(told) == {"camera", "width", TOGETHER}  # what never varies is no trace
    assert told["camera"].accuracy == 1.0
    assert told["camera"].guessing == pytest.approx(1 / 3, abs=0.02)
    assert told["camera"].p_value < 0.01
    assert told["width"].p_value > 0.05


def test_guessing_the_largest_class_is_no_hint() -> None:
    uneven = np.where(np.arange(N) % 10 == 0, 1, 0)
    (one,) = find_hints({"width": np.random.default_rng(1).integers(9, 99, N).tolist()}, uneven, FIT, HELD_OUT)
    assert one.accuracy > 0.8
    assert one.p_value > 0.05


def test_p_values_of_several_traces_are_raised_as_holm_says() -> None:
    """Smallest first: times 4, 3, 2 and 1, never below the one before, at most 1."""
    raw = (0.01, 0.02, 0.021, 0.9)
    hints = [Hint(str(i), 0.5, 0.5, p) for i, p in enumerate(raw)]
    assert [one.p_value for one in correct(hints)] == pytest.approx([0.04, 0.06, 0.06, 0.9])
    assert [one.p_value for one in correct(hints[2:])] == pytest.approx([0.042, 0.9])
    assert correct([Hint("a", 0, 0, 0.8), Hint("b", 0, 0, 0.9)])[0].p_value == 1.0


@pytest.mark.slow
def test_under_independence_small_p_values_are_as_rare_as_they_say() -> None:
    rng, p = np.random.default_rng(0), []
    for _ in range(40):
        (one,) = find_hints(
            {"day": rng.normal(size=60).tolist()}, rng.integers(0, 2, 60), np.arange(30), np.arange(30, 60)
        )
        p.append(one.p_value)
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 3 * (0.1 * 0.9 / 40) ** 0.5


def test_words_are_numbered_by_how_often_they_are_learned_from_and_unknown_ones_are_none() -> None:
    codes = encode_trace(["b", "a", "a", None, "new"], np.arange(4))
    assert codes.tolist() == [1, 0, 0, -1, -1]
    assert encode_trace([3, None, 2.5], np.arange(3)).tolist() == [3, -1, 2.5]


def test_nothing_to_learn_from_gives_no_hint() -> None:
    assert find_hints({"width": [1, 2, 3]}, np.zeros(3, np.int64), np.arange(2), np.arange(2, 3)) == []
    assert find_hints({"width": [1, 2]}, np.arange(2), np.arange(2), np.arange(0)) == []


def test_any_whole_number_is_a_seed() -> None:
    assert len(find_hints({"width": list(range(N))}, LABELS, FIT, HELD_OUT, seed=-1)) == 1
