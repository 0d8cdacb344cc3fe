"""The watch against the mixture written out, against its level in simulation, and restored at every picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binom, kstest, spearmanr

from clip_fewshot.conformal.p_values import p_values
from clip_fewshot.conformal.stream import BETS, Alarm, StreamRanks, Watch, first_alarms
from clip_fewshot.errors import ArtifactError, UsageError

CHANCE = 1e-6


def null_stream(seed: int, n: int, t: int) -> np.ndarray:
    """Rounded scores, with ties, of n calibration pictures and a stream of t, as p-values of the stream."""
    scores = np.round(np.random.default_rng(seed).normal(size=n + t), 1)
    ranks = StreamRanks(scores[:n], seed)
    return np.array([ranks.update(score) for score in scores[n:]])


def test_capital_is_the_mixture_over_bets_and_beginnings() -> None:
    p = np.random.default_rng(0).random(30) ** 2
    factors = np.array([[1 - stake + (x <= cut) * stake / cut for cut, stake in BETS] for x in p])
    watch = Watch(1e-9)
    for t in range(1, 31):
        watch.update(p[t - 1])
        begun = [np.prod(factors[s - 1 : t], axis=0).mean() * (s**-0.5 - (s + 1) ** -0.5) for s in range(1, t + 1)]
        assert watch.capital_ == pytest.approx(sum(begun) + (t + 1) ** -0.5)


def test_no_bet_gains_on_average_and_all_fall_with_p() -> None:
    grid = (np.arange(10_000) + 0.5) / 10_000
    paths = np.array([[1 - stake + (x <= cut) * stake / cut for cut, stake in BETS] for x in grid])
    assert paths.mean(axis=0) == pytest.approx(np.ones(len(BETS)))
    assert (np.diff(paths, axis=0) <= 0).all()
    assert paths.min() > 0


@pytest.mark.parametrize("n", [0, 3, 40])
def test_ranks_are_independent_and_uniform(n: int) -> None:
    p = np.array([null_stream(seed, n, 12) for seed in range(700)])
    assert kstest(p.ravel(), "uniform").pvalue > CHANCE
    for lag in (1, 5):
        assert spearmanr(p[:, :-lag].ravel(), p[:, lag:].ravel()).pvalue > CHANCE


def test_ranks_equal_counting() -> None:
    scores = np.random.default_rng(1).integers(0, 5, 30).astype(float)
    ranks = StreamRanks(scores[:10])
    for t in range(10, 30):
        p = ranks.update(scores[t])
        assert (scores[:t] < scores[t]).sum() / (t + 1) < p < (1 + (scores[:t] <= scores[t]).sum()) / (t + 1)


def test_the_last_bit_of_a_score_moves_no_rank() -> None:
    scores = np.random.default_rng(1).normal(size=20)
    for factor in (1 - 1e-13, 1 + 1e-13):
        assert all(StreamRanks(scores).update(s * factor) == StreamRanks(scores).update(s) for s in scores)


def test_false_alarms_over_whole_streams_and_what_sharing_the_calibration_does() -> None:
    """Negative control: the p-values of one calibration set, each of them valid, raise alarms in most long streams."""
    runs, alpha = 400, 0.05
    proper = first_alarms(np.array([null_stream(seed, 20, 150) for seed in range(runs)]), alpha)
    assert (proper > 0).sum() <= binom.ppf(1 - CHANCE, runs, alpha)
    rng = np.random.default_rng(0)
    shared = [p_values(rng.normal(size=20), rng.normal(size=600), smoothed=True, seed=i) for i in range(100)]
    assert (first_alarms(np.array(shared), alpha) > 0).mean() > 3 * alpha


def test_a_new_category_is_noticed_and_dated() -> None:
    rng, begins, alarms = np.random.default_rng(0), 100, []
    for seed in range(20):
        scores = rng.normal(size=500)
        scores[100 + begins :] -= 4 * (rng.random(400 - begins) < 0.2)
        ranks, watch = StreamRanks(scores[:100], seed), Watch(0.01)
        raised = [alarm for score in scores[100:] if (alarm := watch.update(ranks.update(score)))]
        assert len(raised) == 1
        assert raised == [watch.alarm_]
        alarms.append(raised[0])
    assert np.median([alarm.picture for alarm in alarms]) < begins + 80
    assert abs(np.median([alarm.since for alarm in alarms]) - begins) < 25
    assert all(alarm.capital >= 100 for alarm in alarms)


def test_many_streams_at_once_equal_watches() -> None:
    p = np.random.default_rng(3).random((8, 200)) ** 1.6
    expected = []
    for row in p:
        watch = Watch(0.05)
        expected.append(next((alarm.picture for x in row if (alarm := watch.update(x))), 0))
    assert first_alarms(p, 0.05).tolist() == expected
    assert np.count_nonzero(expected) > 0


def test_after_its_alarm_a_watch_stands_still() -> None:
    watch = Watch(0.5)
    alarm = next(alarm for _ in range(99) if (alarm := watch.update(0.0)))
    before = watch.to_json()
    assert watch.update(0.0) is None
    assert (watch.to_json(), watch.capital_) == (before, alarm.capital)


def test_restored_at_every_picture_it_says_the_same_to_the_last_bit() -> None:
    scores = np.round(np.random.default_rng(2).normal(size=120) - (np.arange(120) > 60), 2)
    one, other = (StreamRanks(scores[:20], 7), Watch(0.02)), (StreamRanks(scores[:20], 7), Watch(0.02))
    for score in scores[20:]:
        other = (StreamRanks.from_json(other[0].to_json()), Watch.from_json(other[1].to_json()))
        assert one[1].update(one[0].update(score)) == other[1].update(other[0].update(score))
        assert (one[0].to_json(), one[1].to_json()) == (other[0].to_json(), other[1].to_json())
    assert isinstance(other[1].alarm_, Alarm)
    assert other[1].alarm_.since <= other[1].alarm_.picture


def test_mistakes_change_nothing() -> None:
    watch, ranks = Watch(), StreamRanks([1.0])
    before = (watch.to_json(), ranks.to_json())
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="a p-value in"):
            watch.update(wrong)
    with pytest.raises(UsageError, match="finite scores"):
        ranks.update(float("inf"))
    assert (watch.to_json(), ranks.to_json()) == before
    for alpha in (0, 1, -1):
        with pytest.raises(UsageError, match="alpha in"):
            Watch(alpha)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "alpha": 0.1}'])
def test_foreign_records_are_refused(text: str) -> None:
    for kind in (Watch, StreamRanks):
        with pytest.raises(ArtifactError, match="a record of schema 1"):
            kind.from_json(text)
    shorter = json.loads(Watch().to_json()) | {"begun": [1.0]}
    with pytest.raises(ArtifactError, match="12 bets"):
        Watch.from_json(json.dumps(shorter))
