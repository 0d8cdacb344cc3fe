"""Calibrated detectors against fits of every bag, and against counting; refusals, copies, order."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import normalize

from clip_fewshot.conformal import bags, calibration, neighbour_bags, schemes
from clip_fewshot.conformal.bags import Bag
from clip_fewshot.conformal.calibration import Calibrated, _ranks, _shares_of_gaps
from clip_fewshot.conformal.p_values import UnsupportedAlphaError
from clip_fewshot.conformal.schemes import SCHEMES, Full, split_in_halves
from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import DETECTORS, KNNDetector, LOFDetector, build_detector
from clip_fewshot.novelty.base import needs_no_refits

SEVERAL = settings(max_examples=40, deadline=None)
WAYS = [(scheme, per_class) for scheme in SCHEMES for per_class in (False, True)]


class SlowLOF(LOFDetector):
    """LOF by the way of every detector: a fit for each bag."""


class SlowKNN(KNNDetector):
    """The same of nearest neighbours."""


class Odd:
    """A detector that looks at the order of its rows, as none should: the bag must hide it."""

    def fit(self, X: np.ndarray, y: np.ndarray | None = None) -> Odd:
        self.kept_ = np.arange(len(X))
        weights = np.linspace(1, 2, len(X))
        self.centre = np.average(X, axis=0, weights=weights)
        self.loo_scores_ = -np.linalg.norm(X - self.centre, axis=1) * weights
        return self

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        return -np.linalg.norm(X - self.centre, axis=1)


class Nearest:
    """Minus the distance to the nearest other row."""

    def fit(self, X: np.ndarray, y: np.ndarray | None = None) -> Nearest:
        self.rows, self.kept_ = X, np.arange(len(X))
        far = np.linalg.norm(X[:, None] - X, axis=2) + np.diag(np.full(len(X), np.inf))
        self.loo_scores_ = -far.min(axis=1)
        return self

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        return -np.linalg.norm(X[:, None] - self.rows, axis=2).min(axis=1)


def draw(seed: int, n: int, d: int = 6, grid: float = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, d)) + 1
    return np.round(rows / grid) * grid if grid else rows  # on a grid distances tie


def labelled(seed: int, grid: float = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Known pictures of three classes of unlike size, their classes, new pictures."""
    return draw(seed, 24, grid=grid), np.repeat(["a", "b", "c"], [11, 8, 5]), draw(seed + 1, 5, grid=grid)


@SEVERAL
@given(
    st.sampled_from(
        [
            (LOFDetector, SlowLOF),
            (KNNDetector, SlowKNN),
            (partial(KNNDetector, mean=False), partial(SlowKNN, mean=False)),
        ]
    ),
    st.integers(0, 9999),
    st.integers(1, 13),
    st.sampled_from([0, 0.5]),
    st.sampled_from(WAYS),
    st.booleans(),
)
def test_the_short_way_of_neighbours_equals_fits_of_every_bag(
    detectors: tuple[Callable[..., Any], ...], seed: int, k: int, grid: float, way: tuple[str, bool], told: bool
) -> None:
    """Ties included: leave-one-out sums in another order, and what ties there parts by the last bit."""
    X, y, new = labelled(seed, grid)
    fast, slow = (
        Calibrated(partial(detector, k), *way).fit(X, y if told or way[1] else None).p_values(new)
        for detector in detectors
    )
    assert fast.tolist() == slow.tolist()


def test_neighbours_that_tie_are_those_of_a_fit_on_the_bag() -> None:
    """Rows of +-1 in 16 features: all distances are exact, and many are equal; the order of the bag decides."""
    rows = np.random.default_rng(0).choice([-1.0, 1.0], size=(30, 16))
    full = Full(partial(LOFDetector, 3), Bag.from_features(rows[:22], None), 0)
    assert full.shortcut is not None
    fast = full.compare(rows[22:], [None])[None]
    full.shortcut = None
    slow = full.compare(rows[22:], [None])[None]
    assert fast.members.tolist() == slow.members.tolist()
    assert fast.own == pytest.approx(slow.own, rel=1e-12)


def test_ranks_do_not_depend_on_the_last_bit_and_infinite_scores_tie() -> None:
    members = np.array([[-2.0, -1.0, -1.0, 0.0, 3.0, np.inf]])
    for own, below, ties in ((-1.0, 1, 2), (0.0, 3, 1), (3.0, 4, 1), (np.inf, 5, 1), (-np.inf, 0, 0)):
        for factor in (1 - 1e-13, 1, 1 + 1e-13):
            for share in (0.3, 1.0):
                found = _ranks(members, np.array([[own * factor]]), np.array([share]))
                assert found == pytest.approx([(below + share * (ties + 1)) / 7])


@pytest.mark.parametrize("make", [LOFDetector, KNNDetector])
def test_the_short_way_in_blocks_of_any_size(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, new = labelled(2)
    whole = [Calibrated(make, scheme).fit(X, y).p_values(new).tolist() for scheme in ("full", "leave-one-out")]
    monkeypatch.setattr(calibration, "SCORES_AT_ONCE", 1)
    monkeypatch.setattr(neighbour_bags, "MARKS", 100)
    assert [Calibrated(make, scheme).fit(X, y).p_values(new).tolist() for scheme in ("full", "leave-one-out")] == whole


def test_interpolated_ranks_are_a_line_from_member_to_member() -> None:
    random = np.random.default_rng(0)
    members, own = random.normal(size=(40, 9)), random.normal(size=(40, 1))
    for i, p in enumerate(_ranks(members, own, _shares_of_gaps(members, own))):
        ranks = np.arange(1, 10) / 10
        expected = np.interp(own[i, 0], np.sort(members[i]), ranks, left=0.1, right=1)
        assert p == pytest.approx(expected)
    tied, copied = np.array([[1.0, 2, 2, 3]]), np.array([[1.0, np.inf, np.inf]])
    assert _shares_of_gaps(tied, np.array([[2.0 + 1e-12]])).tolist() == [1]
    assert _shares_of_gaps(copied, np.array([[2.0]])).tolist() == [1]


def test_interpolated_ranks_use_up_alpha_and_keep_it() -> None:
    """Of 28 known scores 1 / 29 is the greatest rate of ranks up to .05."""
    scores = np.random.default_rng(0).normal(size=(20_000, 29))
    members, own = scores[:, 1:], scores[:, :1]
    plain, line = (np.mean(_ranks(members, own, one) <= 0.05) for one in (1.0, _shares_of_gaps(members, own)))
    assert plain < 0.038 < 0.042 < line < 0.05


@pytest.mark.parametrize("told", [False, True])
def test_full_is_counting_over_fits_without_each_member(told: bool) -> None:
    """Written out: nothing of the bag's own machinery, and k fixed so that refits have the same."""
    X, _, new = labelled(3)
    y = np.repeat([0, 1], 12) if told else None
    p = Calibrated(partial(LOFDetector, 3), "full").fit(X, y).p_values(new)
    for i, row in enumerate(new):
        bag = np.vstack([X, row])
        scores = [LOFDetector(3).fit(np.delete(bag, j, axis=0)).score_samples(bag[[j]])[0] for j in range(len(bag))]
        assert p[i] == pytest.approx(np.mean(np.array(scores) <= scores[-1] + 1e-9))


def test_leave_one_out_is_counting_over_fits_without_each_known_picture() -> None:
    X, y, new = labelled(4)
    pooled = Calibrated(Nearest, "leave-one-out").fit(X, y).p_values(new)
    per_class = Calibrated(Nearest, "leave-one-out", per_class=True).fit(X, y).p_values(new)
    for i in range(len(new)):
        detectors = [Nearest().fit(np.delete(X, j, axis=0)) for j in range(len(X))]
        stranger = np.array([d.score_samples(X[[j]])[0] <= d.score_samples(new)[i] for j, d in enumerate(detectors)])
        assert pooled[i] == pytest.approx((1 + stranger.sum()) / (len(X) + 1))
        assert per_class[i] == pytest.approx(
            max((1 + stranger[y == c].sum()) / (1 + (y == c).sum()) for c in ("a", "b", "c"))
        )


def test_two_shots_of_two_classes_are_judged_alone_and_refused_together() -> None:
    X = np.random.default_rng(0).normal(size=(9, 8)) + np.eye(8)[[0, 0, 1, 1, 2, 2, 2, 2, 2]] * 5
    calibrated = Calibrated(DETECTORS["mahalanobis-margin"], "leave-one-out", levelled=True).fit(X[:4], [0, 0, 1, 1])
    assert calibrated.p_values(X[4:]) == pytest.approx([0.2] * 5)
    with pytest.raises(UsageError, match="without each of them, got 4; add images, or judge each picture alone"):
        calibrated.p_values(X[4:], together=True)


@pytest.mark.parametrize("kind", [part for part in DETECTORS.values() if needs_no_refits(part())])
def test_one_fit_says_what_a_refit_without_each_known_picture_says(kind: Callable[..., Any]) -> None:
    slow = type("Slow", (kind,), {})  # type: ignore[arg-type]
    random = np.random.default_rng(9)
    y = np.repeat([0, 1, 2], [6, 4, 2])
    X, new = 2 + random.normal(size=(3, 8))[y] + 0.5 * random.normal(size=(12, 8)), 2 + random.normal(size=(20, 8))
    how = {"concepts": random.normal(size=(3, 8))} if slow.needs_texts else {}
    for levelled in (False, True):
        short, long = (
            Calibrated(partial(one, **how), "leave-one-out", levelled=levelled).fit(X, y) for one in (kind, slow)
        )
        assert not short.scheme_.detectors  # type: ignore[attr-defined]
        assert len(long.scheme_.detectors) == 12  # type: ignore[attr-defined]
        assert short.p_values(new) == pytest.approx(long.p_values(new), abs=1e-6)


@pytest.mark.parametrize("suspects", [0, 64])
def test_copies_are_found_by_one_feature_as_by_all(suspects: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bags, "SUSPECTS", suspects)
    random = np.random.default_rng(3)
    known = random.integers(0, 3, size=(40, 4)) + 1.0  # many that share a feature
    near = known[:20] + random.choice([1e-8, 1e-4], size=(20, 1)) * random.choice([-1, 1], size=(20, 4))
    new = np.concatenate([near, random.integers(0, 3, size=(40, 4)) + 1.0])
    far = np.linalg.norm(normalize(new)[:, None] - normalize(known), axis=2).min(axis=1)
    assert 0 < (far < 1e-5).sum() < 60
    assert Bag.from_features(known, None).has_copy(new).tolist() == (far < 1e-5).tolist()


def test_many_pictures_are_left_out_in_twenty_parts_that_share_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "ALONE", 23)
    X, y, new = labelled(6)
    scheme = Calibrated(Nearest, "leave-one-out").fit(X, y)
    parts = scheme.scheme_.parts  # type: ignore[attr-defined]
    rows, labels = scheme.bag_.rows, scheme.bag_.labels
    assert labels is not None
    assert sorted(np.concatenate(parts)) == list(range(24))
    assert len(parts) == 20
    assert all(len(set(labels[part])) == len(part) for part in parts)
    stranger = np.zeros((len(new), 24), dtype=bool)
    for part in parts:
        detector = Nearest().fit(np.delete(rows, part, axis=0))
        stranger[:, part] = detector.score_samples(rows[part]) <= detector.score_samples(new)[:, None]
    assert scheme.p_values(new) == pytest.approx((1 + stranger.sum(axis=1)) / 25)


def test_split_is_a_rank_among_the_half_that_was_not_learned_from() -> None:
    X, y, new = labelled(5)
    calibrated = Calibrated(Nearest, "split", seed=3).fit(X, y)
    bag = Bag.from_features(X, y)
    teach, rest = split_in_halves(bag.labels, 24, 3)
    detector = Nearest().fit(bag.rows[teach])
    for p, score in zip(calibrated.p_values(new), detector.score_samples(new), strict=True):
        assert p == pytest.approx((1 + (detector.score_samples(bag.rows[rest]) <= score).sum()) / 13)
    assert calibrated.n_calibration_ == 12
    held_out = calibrated.held_out()
    assert held_out.scores.tolist() == detector.score_samples(bag.rows[rest]).tolist()
    assert held_out.detector.score_samples(new).tolist() == detector.score_samples(new).tolist()
    with pytest.raises(UsageError, match='scheme="split"'):
        Calibrated(Nearest).fit(X, y).held_out()


@SEVERAL
@given(st.integers(0, 9999), st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_halves_share_every_class(seed: int, shots: list[int]) -> None:
    y = np.repeat(np.arange(len(shots)), shots)
    teach, rest = split_in_halves(y, len(y), seed)
    assert sorted([*teach, *rest]) == list(range(len(y)))
    assert len(teach) - len(rest) in (0, 1)
    counts = [np.bincount(y[half], minlength=len(shots)) for half in (teach, rest)]
    assert np.abs(counts[0] - counts[1]).max() <= 1


@pytest.mark.parametrize("make", [partial(LOFDetector, 3), partial(SlowLOF, 3), Odd])
@pytest.mark.parametrize(("scheme", "per_class"), WAYS)
def test_the_order_of_the_known_pictures_has_no_say(make: Callable[[], LOFDetector], scheme: str, per_class: bool):
    """On a grid, with copies and near-copies: where a detector's ties are broken by row number."""
    X, y, new = labelled(6, grid=0.5)
    X[3], X[20], X[5] = X[2], X[9], X[4] + 1e-7
    order = np.random.default_rng(0).permutation(len(X))
    asked = [Calibrated(make, scheme, per_class, smoothed=True).fit(X, y)]
    asked.append(Calibrated(make, scheme, per_class, smoothed=True).fit(X[order], y[order]))
    assert asked[0].p_values(new).tolist() == asked[1].p_values(new[::-1])[::-1].tolist()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "name", sorted(n for n, d in DETECTORS.items() if not d.needs_texts and n != "rank-average")
)  # a second per picture
def test_every_detector_is_calibrated(name: str, scheme: str) -> None:
    """Copies, three classes told by name, and pictures far from all; the order of nothing matters."""
    X, y, new = labelled(10)
    X = X + 4 * np.repeat(np.eye(3, 6), [11, 8, 5], axis=0)
    X[3] = X[2]
    make, order = partial(build_detector, name), np.random.default_rng(1).permutation(len(X))
    p = Calibrated(make, scheme, smoothed=True).fit(X, y).p_values(new)
    assert ((p > 0) & (p < 1)).all()
    again = Calibrated(make, scheme, smoothed=True).fit(X[order], y[order]).p_values(new[::-1])
    assert again[::-1].tolist() == p.tolist()


@pytest.mark.parametrize("make", [partial(LOFDetector, 3), Odd])
def test_full_treats_the_new_picture_as_any_member(make: Callable[[], LOFDetector]) -> None:
    """Each member of a bag in the new picture's place: their p-values are the ranks 1, ..., n + 1, whatever the bag."""
    bag = draw(7, 20)
    p = [Calibrated(make, "full").fit(np.delete(bag, i, axis=0)).p_values(bag[[i]])[0] for i in range(20)]
    assert np.sort(p) == pytest.approx(np.arange(1, 21) / 20)
    copied = np.concatenate([bag, bag[:8], bag[:4]])
    p = [Calibrated(make, "full").fit(np.delete(copied, i, axis=0)).p_values(copied[[i]])[0] for i in range(32)]
    assert all(np.mean(np.array(p) <= alpha + 1e-9) <= alpha for alpha in np.arange(1, 33) / 32)
    assert set(np.array(p)[[*range(8), *range(20, 32)]]) == {1.0}


def test_leave_one_out_keeps_its_theorem_and_the_naive_rank_does_not() -> None:
    """A detector that flips with one more picture: the jackknife fails outright, the jackknife+ within 2 alpha."""

    class Unstable(Nearest):
        def fit(self, X: np.ndarray, y: np.ndarray | None = None) -> Unstable:
            super().fit(X)
            self.parity = len(X) % 2
            self.loo_scores_ = np.ones(len(X)) * (1 - self.parity)
            return self

        def score_samples(self, X: np.ndarray) -> np.ndarray:
            return np.ones(len(X)) * self.parity

    X, new = draw(0, 20), draw(1, 30)
    detector = Unstable().fit(X)
    naive = (1 + (detector.loo_scores_[:, None] <= detector.score_samples(new)).sum(axis=0)) / 21
    assert naive.max() <= 0.05  # all known pictures would be flagged
    assert Calibrated(Unstable, "leave-one-out").fit(X).p_values(new).min() == 1
    assert Calibrated(Unstable, "full").fit(X).p_values(new).min() == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_copies_of_known_pictures_count_once_and_are_not_new(scheme: str) -> None:
    """A hundred copies of an ordinary picture would let the strangest of twenty have p = 1/120."""
    X, _, new = labelled(8)
    middle = np.argmin(np.linalg.norm(normalize(X) - normalize(X).mean(axis=0), axis=1))
    copied = np.concatenate([X, np.repeat(X[[middle]], 100, axis=0)])
    plain, other = (Calibrated(partial(LOFDetector, 3), scheme).fit(rows) for rows in (X, copied))
    assert other.n_calibration_ == plain.n_calibration_
    assert other.p_values(3 - 2 * new).tolist() == plain.p_values(3 - 2 * new).tolist()
    assert other.p_values(X + 1e-8).tolist() == [1.0] * len(X)


@pytest.mark.parametrize(("scheme", "shots"), [("full", "19"), ("leave-one-out", "19"), ("split", "38 shots")])
def test_a_refusal_names_the_shots_and_nothing_else_is_done(scheme: str, shots: str) -> None:
    X, y, new = labelled(9)
    pooled = Calibrated(Nearest, scheme).fit(X, y)
    assert pooled.refusal(0.1) is None
    assert "99 calibration images in all" in str(pooled.refusal(0.01))
    per_class = Calibrated(Nearest, scheme, per_class=True).fit(X, y)
    refusal = str(per_class.refusal(0.05))
    assert shots in refusal
    assert "of each class" in refusal
    assert "ask for per_class=False" in refusal
    for name, n in per_class.n_per_class_.items():
        assert f"{n} of {name}" in refusal
    with pytest.raises(UnsupportedAlphaError, match="19 calibration images of each class") as caught:
        per_class.flags(per_class.p_values(new), 0.05)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert per_class.flags(np.array([0.1, 0.5]), 0.4).tolist() == [True, False]


def test_a_refusal_names_some_classes_and_counts_the_others() -> None:
    calibrated = Calibrated(Nearest, per_class=True).fit(draw(0, 40), np.arange(40) % 8)
    assert "5 of 4 and too few of 3 classes more" in str(calibrated.refusal(0.1))


@pytest.mark.parametrize(("scheme", "least"), [("full", 2), ("leave-one-out", 4), ("split", 5)])
def test_from_the_fewest_pictures_on(scheme: str, least: int) -> None:
    make = partial(LOFDetector, 5)
    for n in range(least, 9):
        p = Calibrated(make, scheme).fit(draw(n, n), np.arange(n) % 2).p_values(draw(n + 1, 3))
        assert ((p > 0) & (p <= 1)).all()
    with pytest.raises(UsageError, match="3 distinct rows or more"):
        Calibrated(make, scheme).fit(draw(0, least - 1)).p_values(draw(1, 2))
    one = Calibrated(Nearest, "full", per_class=True).fit(draw(0, 4), np.arange(4)).p_values(draw(1, 2))
    assert (one >= 0.5).all()


def test_mistakes() -> None:
    X, y, _ = labelled(1)
    with pytest.raises(UsageError, match="a scheme out of"):
        Calibrated(Nearest, "jackknife")
    with pytest.raises(UsageError, match="pass y, or ask for per_class=False"):
        Calibrated(Nearest, per_class=True).fit(X)
    with pytest.raises(UsageError, match="24 labels"):
        Calibrated(Nearest).fit(X, y[:-1])
    with pytest.raises(UsageError, match="one or more, got none"):
        Calibrated(Nearest).fit(X[:0])
    with pytest.raises(UsageError, match="finite features, got NaN or infinity in row 3"):
        Calibrated(Nearest).fit(np.where(np.arange(24)[:, None] == 3, np.nan, X))
    with pytest.raises(UsageError, match="2 distinct known images"):
        Calibrated(Nearest, "split").fit(np.repeat(X[:1], 3, axis=0))
    assert Calibrated(Nearest).fit(X).p_values(X[:0]).shape == (0,)
