"""What the protocol decides, apart from what it costs."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.evaluation.metrics import weighted_f1
from clip_fewshot.few_shot.approach import APPROACHES, LINEAR_PROBE, OWN, PROBE
from clip_fewshot.few_shot.select import TrialRecord, select
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.protocol.refits import Task, build_evaluate, count_image_steps, prepare, refit


def trial(number: int, name: str, value: float, state: str = "COMPLETE", **params: float) -> TrialRecord:
    return TrialRecord(number, state, OWN[name].at(params).to_json(), (value, value, value), seconds=1.0)


def test_the_probe_wins_unless_beaten_by_a_standard_error() -> None:
    """At 0.9 of 100 pictures the standard error is 0.030."""
    near = [trial(0, PROBE, 0.88), trial(1, "mlp", 0.90, unfreeze=2)]
    far = [trial(0, PROBE, 0.85), trial(1, "mlp", 0.90, unfreeze=2)]
    assert select(near, [APPROACHES["mlp"]], 100, 5)[1] == PROBE
    assert select(far, [APPROACHES["mlp"]], 100, 5)[1] == "mlp"
    assert select(near, [APPROACHES["mlp"]], 10_000, 5)[1] == "mlp"


def test_perfect_scores_do_not_make_the_error_zero() -> None:
    assert select([trial(0, PROBE, 0.995), trial(1, "mlp", 1.0)], [APPROACHES["mlp"]], 112, 5)[1] == PROBE
    assert select([trial(0, PROBE, 0.95), trial(1, "mlp", 1.0)], [APPROACHES["mlp"]], 112, 5)[1] == "mlp"


def test_each_approach_keeps_its_own_best_point_and_only_complete_trials_count() -> None:
    trials = [
        trial(0, PROBE, 0.5),
        trial(1, "mlp", 0.7, unfreeze=1),
        trial(2, "mlp", 0.8, unfreeze=2),
        trial(3, "mlp", 0.99, "PRUNED", unfreeze=3),
        trial(4, "contrastive", 0.6, "FAIL", unfreeze=1),
    ]
    winners, best = select(trials, [APPROACHES["mlp"], APPROACHES["contrastive"]], 100, 5)
    assert winners["mlp"].unfreeze == 2
    assert winners["contrastive"] == APPROACHES["contrastive"].point
    assert best == "mlp"


def test_without_trials_every_approach_keeps_its_centre() -> None:
    winners, best = select([], [APPROACHES["mlp"], APPROACHES["contrastive"]], 7, 5)
    assert best == PROBE
    assert winners == {name: APPROACHES[name].point for name in ("mlp", "contrastive")}
    frozen, _ = select([], [APPROACHES["mlp"]], 7, 0)
    assert frozen["mlp"] == APPROACHES["mlp"].at({"unfreeze": 0})


@pytest.fixture(scope="module")
def task(tiny: Backbone, split: OpenWorldSplit) -> Task:
    return Task(tiny, split.pool, shots=4, settings=TrainSettings(epochs=1, min_steps=6), views=1, seed=0)


def test_k_shots_means_k(task: Task) -> None:
    for draw in (0, 1, 2):
        support = task.support(draw)
        assert set(support.counts().values()) == {4}
        held_out = np.concatenate([validation for _, validation in task.folds(support.required_labels())])
        assert sorted(held_out) == list(range(len(support)))
    assert task.support(1).digests != task.support(2).digests


def test_one_shot_leaves_no_folds(task: Task) -> None:
    assert task.folds(np.arange(7)) == []


def test_a_fold_is_scored_by_a_model_that_never_saw_it(task: Task, split: OpenWorldSplit) -> None:
    """The slow way: fit the probe on the training rows alone, and score the validation rows."""
    support = prepare(task, split.support, [0])
    train, validation = task.folds(support.data.labels)[1]
    from clip_fewshot.probes import LinearProbe

    probe = LinearProbe(C=support.probe.C_).fit(support.frozen[train], support.data.labels[train])
    expected = weighted_f1(support.data.labels[validation], probe.predict(support.frozen[validation]))
    assert build_evaluate(task, support)(LINEAR_PROBE.point, 1) == pytest.approx(expected)


def test_steps_are_counted_fold_by_fold(task: Task, split: OpenWorldSplit) -> None:
    support = prepare(task, split.support, [0])
    pruned = TrialRecord(2, "PRUNED", APPROACHES["mlp"].point.to_json(), (0.5,), 1.0)
    (train, _), *_ = task.folds(support.data.labels)
    assert count_image_steps(task, support, [trial(0, PROBE, 0.5), pruned]) == 6 * min(32, len(train))


def test_the_probe_is_always_among_the_refitted(task: Task) -> None:
    fit = refit(task, {"mlp": APPROACHES["mlp"].at({"unfreeze": 1})}, draw=1)
    assert set(fit.models) == {PROBE, "mlp"}
    np.testing.assert_allclose(fit.models[PROBE].features(fit.support.data.images), fit.support.frozen, atol=1e-6)
