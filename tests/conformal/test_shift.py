"""Another camera is told from new classes: level, power, and what an exact test says of the same pictures."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from clip_fewshot.conformal.shift import (
    FEWEST_ORDINARY,
    SHIFT,
    SHIFT_OR_NEW,
    UNMOVED,
    Shift,
    _agreement,
    _align,
    _p_value,
    find_shift,
)
from clip_fewshot.errors import UsageError
from clip_fewshot.types import FloatArray, LabelArray

N_CLASSES, N_FEATURES, APART = 5, 40, 2.5


class Draw:
    """Known pictures of five classes, and what others there may be."""

    def __init__(self, seed: int, shots: int = 8) -> None:
        self.random = np.random.default_rng(seed)
        self.means = APART * self.random.normal(size=(N_CLASSES + 4, N_FEATURES)) / N_FEATURES**0.25
        self.y = np.repeat(np.arange(N_CLASSES), shots)
        self.X = self.pictures(self.y)

    def pictures(self, y: LabelArray) -> FloatArray:
        return 5 + self.means[y] + self.random.normal(size=(len(y), N_FEATURES)) * np.linspace(0.5, 2, N_FEATURES)

    def known(self, n: int, share: FloatArray | None = None) -> FloatArray:
        return self.pictures(self.random.choice(N_CLASSES, n, p=share))

    def new(self, n: int) -> FloatArray:
        return self.pictures(self.random.choice(np.arange(N_CLASSES, N_CLASSES + 4), n))

    def camera(self, strength: float) -> FloatArray:
        direction = self.random.normal(size=N_FEATURES)
        return strength * direction / np.linalg.norm(direction)


def verdicts(make: object, n: int = 40, shots: int = 8) -> list[str]:
    draws = [Draw(seed, shots) for seed in range(n)]
    return [find_shift(draw.X, draw.y, make(draw)).verdict() for draw in draws]  # type: ignore[operator]


@pytest.mark.parametrize("shots", [3, 8])
@pytest.mark.parametrize("share", [None, np.array([0.9, 0.1, 0, 0, 0]), np.array([0.5, 0.2, 0.1, 0.1, 0.1])])
def test_known_pictures_are_the_same_in_any_proportions(shots: int, share: FloatArray | None) -> None:
    p = [find_shift(draw.X, draw.y, draw.known(60, share)).p_value for draw in (Draw(i, shots) for i in range(60))]
    assert sum(one <= 0.05 for one in p) <= binom.ppf(0.999, 60, 0.05)
    assert sum(one <= 0.01 for one in p) <= binom.ppf(0.999, 60, 0.01)


def test_classes_that_the_features_do_not_tell_apart_keep_the_level() -> None:
    random = np.random.default_rng(0)
    p = [find_shift(*_noise(random)).p_value for _ in range(60)]
    assert sum(one <= 0.05 for one in p) <= binom.ppf(0.999, 60, 0.05)


def _noise(random: np.random.Generator) -> tuple[FloatArray, LabelArray, FloatArray]:
    return random.normal(size=(40, 60)), np.arange(40) % 5, random.normal(size=(60, 60))


def test_another_camera_is_found() -> None:
    weak = verdicts(lambda draw: draw.known(60) + draw.camera(3.0))
    assert weak.count(SHIFT) >= 36
    strong = verdicts(lambda draw: draw.known(60) + draw.camera(9.0))
    assert strong.count(UNMOVED) <= 2
    assert strong.count(SHIFT) > 20  # few look ordinary, but they stand to each other as the known ones do
    blurred = verdicts(lambda draw: 0.6 * (draw.known(60) - 5) + 5 + draw.camera(6.0))
    assert blurred.count(SHIFT) > 32


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_new_classes_are_no_shift(share: float) -> None:
    n = round(100 * share)
    found = verdicts(lambda draw: np.concatenate([draw.known(100 - n), draw.new(n)]))
    assert found.count(SHIFT) <= binom.ppf(0.999, len(found), 0.01)
    assert found.count(UNMOVED) >= 32  # four new classes alone may look like another camera, and are called both


def test_pictures_of_another_kind_are_no_shift() -> None:
    found = verdicts(lambda draw: np.concatenate([draw.known(50), -5 + draw.random.normal(size=(50, N_FEATURES))]))
    assert found.count(UNMOVED) >= 38


def test_the_permutations_are_those_of_an_exact_test() -> None:
    """Two classes of two known and two new pictures: 36 ways to share them out, all of which can be counted."""
    random = np.random.default_rng(3)
    pairs = [(random.normal(size=(2, 3)), random.normal(size=(2, 3)) + 1) for _ in range(2)]
    signs = [np.array(one) for one in sorted({*product([1, -1], repeat=4)}) if sum(one) == 0]
    moved = [[(-one / 2) @ np.concatenate(pair) for one in signs] for pair in pairs]
    common = np.array([a @ b for a in moved[0] for b in moved[1]])
    true = np.mean(pairs[0][1], 0) - np.mean(pairs[0][0], 0), np.mean(pairs[1][1], 0) - np.mean(pairs[1][0], 0)
    exact = np.mean(common >= true[0] @ true[1] - 1e-9)
    many = [_p_value([*pairs], np.random.default_rng(seed)) for seed in range(20)]
    assert np.mean(many) == pytest.approx(exact, abs=0.02)


def test_the_agreement_is_that_of_the_true_means() -> None:
    """Of means with so much noise that they correlate far less by themselves."""
    random = np.random.default_rng(0)
    true = random.normal(size=(8, 30))
    other = 0.8 * true + 0.6 * random.normal(size=true.shape)
    classes = np.repeat(np.arange(8), 6)
    seen = []
    for _ in range(40):
        rows, means = (one[classes] + 2 * random.normal(size=(48, 30)) for one in (3 + 2 * other, true))
        means = means.reshape(8, 6, 30).mean(axis=1)
        seen.append(_agreement(rows, classes, means, np.full(8, 30 * 4 / 6)))
    a, b = true - true.mean(axis=0), other - other.mean(axis=0)
    assert np.mean(seen) == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()), abs=0.03)
    assert _agreement(rows, np.zeros(48, int), means, np.zeros(8)) == 0.0


def test_a_contraction_and_a_displacement_of_known_classes_are_taken_off() -> None:
    random = np.random.default_rng(0)
    means, classes = random.normal(size=(6, 50)), np.arange(60) % 6
    rows = 0.3 * (means[classes] - means.mean(axis=0)) + 0.1 * random.normal(size=(60, 50)) + 4
    aligned, found = _align(rows, means)
    np.testing.assert_array_equal(found, classes)
    np.testing.assert_allclose(aligned.mean(axis=0), means.mean(axis=0), atol=1e-9)


def test_one_class_that_moves_alone_adds_nothing() -> None:
    random = np.random.default_rng(0)
    still = random.normal(size=(6, 4)) * 1e-3
    pairs = [(still, still.copy()), (still, still + 5)]
    assert _p_value(pairs, np.random.default_rng(0)) > 0.05


def test_the_same_batch_has_the_same_answer_whatever_its_length() -> None:
    draw = Draw(0)
    batch = draw.known(700)
    assert find_shift(draw.X, draw.y, batch) == find_shift(draw.X, draw.y, batch.tolist())  # type: ignore[arg-type]
    assert find_shift(draw.X, draw.y, batch).pictures == 500
    assert find_shift(draw.X, draw.y, batch, seed=1) != find_shift(draw.X, draw.y, batch)


def test_too_little_is_no_verdict() -> None:
    draw = Draw(0)
    for X, y, batch in (
        (draw.X, draw.y, draw.known(FEWEST_ORDINARY - 1) + 99),
        (draw.X[:0], draw.y[:0], draw.known(50)),
        (draw.X[::8], draw.y[::8], draw.known(50)),  # one picture a class
        (draw.X[:8], draw.y[:8], draw.known(50)),  # one class: nothing is common to classes
    ):
        assert find_shift(X, y, batch).p_value == 1.0


def test_bad_rows_are_refused() -> None:
    draw = Draw(0)
    for wrong in (draw.known(20)[:, 1:], np.full((20, N_FEATURES), np.nan), ["a"] * 20):
        with pytest.raises(UsageError):
            find_shift(draw.X, draw.y, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ((0.002, 0.5, 0.6, 0.9, 100, 1.0, 0.8, 0.7), SHIFT),
        ((0.002, 0.5, 0.6, 0.9, 100, 1.0, 0.5, 0.7), SHIFT_OR_NEW),  # hidden known classes agree far better
        ((0.3, 0.3, 0.7, 0.9, 100, 1.0, 0.8, 0.7), UNMOVED),  # enough look ordinary: they alone decide
        ((0.002, 0.1, 0.1, 0.9, 100, 1.0, 0.8, 0.7), SHIFT),
        ((0.1, 0.1, 0.7, 0.9, 100, 1.0, 0.8, 0.7), SHIFT),
        ((1.0, 0.1, 0.7, 0.9, 100, 1.0, 0.8, 0.7), SHIFT),  # too few to be compared
        ((0.3, 0.1, 0.7, 0.9, 100, 1.0, 0.8, 0.7), UNMOVED),  # the few were compared and have not moved
        ((0.1, 0.1, 0.7, 0.9, 100, 1.0, 0.6, 0.7), SHIFT_OR_NEW),  # known classes taken for new agree as well
        ((0.1, 0.1, 0.7, 0.9, 100, 1.0, 0.4, 0.1), SHIFT_OR_NEW),
        ((0.1, 0.1, 0.7, 0.9, 100, 0.5, 0.8, 0.7), SHIFT_OR_NEW),  # taking it off moves known pictures away
        ((0.1, 0.1, 0.7, 0.2, 100, 1.0, 0.8, 0.7), UNMOVED),  # all look like one class: a new one does
        ((0.1, 0.1, 0.7, 0.9, 30, 1.0, 0.8, 0.7), UNMOVED),
    ],
)
def test_the_verdict(numbers: tuple[Any, ...], verdict: str) -> None:
    assert Shift(*numbers).verdict() == Shift(*numbers).to_json()["verdict"] == verdict
