"""Pictures that were called known join the groups that they are more like; by laws, and by planted classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import norm

from clip_fewshot.discovery import discover_classes
from clip_fewshot.discovery.known import KnownRows
from clip_fewshot.discovery.undecided import (
    UNDECIDED,
    choose_group,
    discover_undecided,
    estimate_prior,
    measure_known,
    measure_spread,
)

SHOTS, EACH, KNOWN, NEW = 6, 30, 5, 3


class Planted(NamedTuple):
    """Known classes 0..4 with shots, new ones 5..7, all pictures of which a third at random is called unknown."""

    rows: np.ndarray
    classes: np.ndarray
    unknown: np.ndarray
    p: np.ndarray
    reference: tuple[np.ndarray, np.ndarray]


@pytest.fixture
def planted() -> Planted:
    rng = np.random.default_rng(3)
    shots, classes = np.repeat(np.arange(KNOWN), SHOTS), np.repeat(np.arange(KNOWN + NEW), EACH)
    means = np.eye(KNOWN + NEW, 24)
    reference = means[shots] + rng.normal(0, 0.1, (len(shots), 24)), shots
    rows = means[classes] + rng.normal(0, 0.1, (len(classes), 24))
    p = rng.uniform(size=len(classes))
    p[classes >= KNOWN] = np.tile([0.03, 0.1, 0.3], NEW * EACH // 3)
    return Planted(rows, classes, p <= 0.05, p, reference)


def test_what_is_undecided_joins_what_it_is_like(planted: Planted) -> None:
    rows, found = discover_undecided(planted.rows, planted.unknown, planted.p, planted.reference)
    assert found.n_clusters == NEW
    assert (np.diff(rows) > 0).all()
    new = planted.classes[rows] >= KNOWN
    assert new.sum() == NEW * EACH  # two thirds of these had been answered by a known class
    assert {*rows[~new]} == {*np.flatnonzero(planted.unknown & (planted.classes < KNOWN))}
    assert (found.labels[~new] == -1).all()  # false alarms are back with the known
    for group in range(NEW):
        assert len({*planted.classes[rows[found.labels == group]]}) == 1
    assert found.linkage.shape == (len(rows) - 1, 4)
    assert [found.labels[row] for row in found.exemplars] == [*range(NEW)]
    assert len(found.stability) == NEW
    assert found.interval[0] <= NEW <= found.interval[1]


def test_the_order_of_pictures_has_no_say(planted: Planted) -> None:
    rows, found = discover_undecided(planted.rows, planted.unknown, planted.p, planted.reference)
    other = np.random.default_rng(0).permutation(len(planted.p))
    again = discover_undecided(planted.rows[other], planted.unknown[other], planted.p[other], planted.reference)
    parts = [
        {frozenset(r[f.labels == k].tolist()) for k in range(NEW)}
        for r, f in ((rows, found), (other[again.rows], again.found))
    ]
    assert parts[0] == parts[1]


def test_the_settled_have_no_say(planted: Planted) -> None:
    rows, found = discover_undecided(planted.rows, planted.unknown, planted.p, planted.reference)
    few = np.flatnonzero(planted.p <= UNDECIDED)
    again = discover_undecided(planted.rows[few], planted.unknown[few], planted.p[few], planted.reference)
    assert np.array_equal(rows, few[again.rows])
    assert np.array_equal(found.labels, again.found.labels)


def test_what_is_like_nothing_is_in_no_group(planted: Planted) -> None:
    strange = np.concatenate([planted.rows, -planted.rows[:1]])
    unknown, p = np.append(planted.unknown, True), np.append(planted.p, 0.03)
    rows, found = discover_undecided(strange, unknown, p, planted.reference)
    assert rows[-1] == len(planted.rows)
    assert found.labels[-1] == -1
    assert found.n_clusters == NEW


def test_without_a_group_nothing_joins(planted: Planted) -> None:
    known = planted.classes < KNOWN
    rows, found = discover_undecided(planted.rows[known], planted.unknown[known], planted.p[known], planted.reference)
    assert found.n_clusters == 0
    assert np.array_equal(rows, np.flatnonzero(planted.unknown[known]))


def test_one_shot_of_each_class_decides_by_the_flags_alone(planted: Planted) -> None:
    features, labels = planted.reference
    one = features[::SHOTS], labels[::SHOTS]
    rows, found = discover_undecided(planted.rows, planted.unknown, planted.p, one)
    assert {*np.flatnonzero(planted.unknown)} <= {*rows}
    start = np.flatnonzero(planted.unknown | (_shares(planted.p) < 0.5))
    assert found.n_clusters == discover_classes(planted.rows[start], reference=one).n_clusters


def _shares(p: np.ndarray) -> np.ndarray:
    shares = np.ones(len(p))
    shares[p <= UNDECIDED] = estimate_prior(p[p <= UNDECIDED])
    return shares


def test_the_share_of_known_among_equal_p_values() -> None:
    even = np.arange(1, 101) / 100  # as those of 100 known pictures
    mixed = np.concatenate([even, np.full(19, 0.01)])  # 19 new ones beside the known one at .01
    shares = estimate_prior(mixed[mixed <= UNDECIDED])
    assert shares[0] == pytest.approx(26 / 25 / 20)  # 26: the 25 in (.25, .5], and one more to be careful
    assert (shares[1:50] == 1).all()
    assert (estimate_prior(even[even <= UNDECIDED]) == 1).all()
    assert len(estimate_prior(np.empty(0))) == 0


def test_the_share_of_known_rises_with_p() -> None:
    p = np.random.default_rng(1).beta(0.3, 1, 500) * UNDECIDED
    assert (np.diff(estimate_prior(p)[np.argsort(p)]) >= 0).all()


@pytest.mark.parametrize("shots", [4, 16])
def test_few_shots_do_not_hide_how_many_axes_a_class_spreads_along(shots: int) -> None:
    spread = np.array([1.0] * 20 + [0.3] * 40) / 100
    truth = (spread**2).sum() ** 2 / (spread**4).sum()
    rng, labels = np.random.default_rng(5), np.repeat(np.arange(6), shots)
    found = [measure_spread(KnownRows(rng.normal(size=(len(labels), 60)) * spread, labels)).axes for _ in range(40)]
    assert np.median(found) == pytest.approx(truth, rel=0.15)


def test_without_any_strange_picture_there_is_nothing(planted: Planted) -> None:
    none = np.zeros(40, dtype=bool)
    for p in (np.ones(40), np.append(np.full(3, 1e-3), np.ones(37))):  # the three look like known classes
        rows, found = discover_undecided(planted.rows[:40], none, p, planted.reference)
        assert (len(rows), found.n_clusters, found.linkage.shape) == (0, 0, (0, 4))


def test_a_row_goes_where_its_density_times_the_prior_is_the_largest(planted: Planted) -> None:
    """Gaussians of one variance on every axis, by SciPy; where the known means lie is exact here."""
    known = KnownRows.from_features(*planted.reference)
    spread, rng = measure_spread(known), np.random.default_rng(5)
    deviation, error = np.sqrt(spread.within / spread.axes), spread.within / SHOTS  # squared, of a mean of few shots
    means, centres = known.means(), np.eye(KNOWN + NEW, 24)[KNOWN:]
    middles = (means[rng.integers(KNOWN, size=200)] + centres[rng.integers(NEW, size=200)]) / 2
    rows, prior = middles + rng.normal(0, 0.02, (200, 24)), rng.uniform(0.001, 0.999, 200)
    far = np.sqrt(((rows[:, None] - means) ** 2).sum(axis=2).min(axis=1) - error)
    near = np.linalg.norm(rows[:, None] - centres, axis=2)
    as_known = norm.logpdf(far, scale=deviation) + np.log(prior)
    as_new = norm.logpdf(near, scale=deviation) + np.log(1 - prior)[:, None]
    expected = np.where(as_new.max(axis=1) > as_known, as_new.argmax(axis=1), -1)
    assert 50 < (expected < 0).sum() < 150
    assert (choose_group(rows, centres, measure_known(rows, prior, known, spread)) == expected).all()
