"""What the protocol decides, apart from what it costs."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.evaluation.calibration import log_losses
from clip_fewshot.few_shot.approach import APPROACHES, BASELINES, LINEAR_PROBE, OWN, PROBE
from clip_fewshot.few_shot.model import TunedModel, fit_calibrated
from clip_fewshot.few_shot.select import TrialRecord, select
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.protocol.refits import (
    PreparedSupport,
    Task,
    build_cross_validation,
    build_evaluate,
    count_image_steps,
    gather_held_out,
    prepare,
    refit,
)


def trial(number: int, name: str, value: float, state: str = "COMPLETE", **params: float) -> TrialRecord:
    return TrialRecord(number, state, OWN[name].at(params).to_json(), (value, value, value), seconds=1.0)


def judged(number: int, name: str, losses: np.ndarray) -> TrialRecord:
    """A trial with these losses, in two folds."""
    folds = tuple(tuple(part.tolist()) for part in np.array_split(losses, 2))
    values = tuple(float(np.exp(-np.mean(fold))) for fold in folds)
    return TrialRecord(number, "COMPLETE", OWN[name].point.to_json(), values, 1.0, losses=folds)


def refit_on(task: Task, support: PreparedSupport, name: str) -> TunedModel:
    """The model of that approach on all of the support set."""
    return build_cross_validation(task, support).fit(OWN[name].point)


EVERY = [*BASELINES, APPROACHES["mlp"]]


@pytest.mark.parametrize(("gain", "chosen"), [(0.02, "text-prior"), (0.04, "mlp")])
def test_the_text_informed_probe_is_kept_within_one_standard_error(gain: float, chosen: str) -> None:
    """The error is that of the difference: what both find hard is no noise. By hand: 0.3 / sqrt(100) = 0.03."""
    hard, signs = np.linspace(0, 3, 100), np.tile([0.3, -0.3], 50)
    error = float(signs.std(ddof=1) / 10)
    assert 0.02 < error < 0.04
    trials = [judged(1, "text-prior", hard + 1), judged(3, "mlp", hard + 1 - gain + signs)]
    assert select(trials, EVERY, 5)[1] == chosen


def test_what_nothing_tells_apart_is_chosen_in_the_order_of_trust() -> None:
    losses = np.linspace(0, 1, 30)
    names = ("zero-shot", "text-prior", "linear-probe", "mlp")
    trials = [judged(i, name, losses) for i, name in enumerate(names)]
    assert select(trials, EVERY, 5)[1] == "text-prior"
    assert select([t for t in trials if t.number != 1], EVERY, 5)[1] == "linear-probe"
    assert select([t for t in trials if t.number in (0, 3)], EVERY, 5)[1] == "zero-shot"


def test_each_baseline_can_win() -> None:
    rng = np.random.default_rng(0)
    for best in ("zero-shot", "text-prior", "linear-probe"):
        trials = [judged(i, a.name, rng.random(40) + (a.name != best)) for i, a in enumerate(BASELINES)]
        assert select(trials, EVERY, 5)[1] == best


def test_each_approach_keeps_its_own_best_point_and_only_complete_trials_count() -> None:
    trials = [
        trial(0, PROBE, 0.5),
        trial(1, "mlp", 0.7, unfreeze=1),
        trial(2, "mlp", 0.8, unfreeze=2),
        trial(3, "mlp", 0.99, "PRUNED", unfreeze=3),
        trial(4, "contrastive", 0.6, "FAIL", unfreeze=1),
    ]
    winners, best = select(trials, [APPROACHES["mlp"], APPROACHES["contrastive"]], 5)
    assert winners["mlp"].unfreeze == 2
    assert winners["contrastive"] == APPROACHES["contrastive"].point
    assert best == "mlp"


def test_without_trials_every_approach_keeps_its_centre() -> None:
    winners, best = select([], EVERY, 5)
    assert best == "text-prior"
    assert winners["mlp"] == APPROACHES["mlp"].point
    frozen, _ = select([], [APPROACHES["mlp"]], 0)
    assert frozen["mlp"] == APPROACHES["mlp"].at({"unfreeze": 0})


def test_the_temperature_of_a_trial_is_the_geometric_mean_of_its_folds() -> None:
    assert replace(trial(0, "mlp", 0.5), temperatures=(2.0, 8.0)).temperature == pytest.approx(4)
    assert trial(0, "mlp", 0.5).temperature == 1


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
    found = build_evaluate(task, support)(LINEAR_PROBE.point, 1)
    p = probe.predict_proba(support.frozen[validation])[np.arange(len(validation)), support.data.labels[validation]]
    np.testing.assert_allclose(found.losses, -np.log(p), atol=1e-5)
    assert found.value == pytest.approx(float(np.exp(np.log(p).mean())), abs=1e-5)


def test_closed_forms_are_asked_about_pictures_that_they_leave_out(task: Task, split: OpenWorldSplit) -> None:
    support = prepare(task, split.support, [0])
    evaluate, folds = build_evaluate(task, support), task.folds(support.data.labels)
    model = refit_on(task, support, "text-prior")
    logits, labels = model.probe.left_out_logits(), support.data.labels  # type: ignore[union-attr]
    for fold, (_, validation) in enumerate(folds):
        expected = log_losses(logits[validation], labels[validation])
        np.testing.assert_allclose(evaluate(OWN["text-prior"].point, fold).losses, expected, atol=1e-5)


def test_large_logits_are_not_better_features(task: Task, split: OpenWorldSplit) -> None:
    support = prepare(task, split.support, [0])
    evaluate = build_evaluate(task, support)
    values = [evaluate(OWN["mlp-arcface"].at({"unfreeze": 0, "scale": scale}), 0) for scale in (16.0, 64.0)]
    assert values[1].temperature > values[0].temperature
    assert abs(values[0].value - values[1].value) < 0.1


def test_at_one_shot_the_baselines_are_compared_on_pictures_left_out(task: Task) -> None:
    one = replace(task, shots=1)
    support = prepare(one, one.support(0), [0])
    evaluate = build_evaluate(one, support)
    found = {a.name: evaluate(a.point, 0) for a in BASELINES}
    assert all(len(score.losses) == len(one.support(0).label_space) for score in found.values())
    assert found["linear-probe"].value == pytest.approx(1 / len(found["linear-probe"].losses))  # it has no answer
    assert found["zero-shot"].value != found["text-prior"].value


def test_losses_of_pictures_held_out_are_those_of_models_made_as_the_saved_one_is(task: Task) -> None:
    """In the order of the pictures, under the temperature that the saved one has; a closed form has none."""
    fit, point = refit(task, {"mlp": OWN["mlp"].point}, 0), OWN["mlp"].point
    data, folds = fit.support.data, task.folds(fit.support.data.labels)
    bench = build_cross_validation(task, fit.support)
    mlp = TrialRecord.from_scores(0, "COMPLETE", point, [bench.score(point, k) for k in range(len(folds))], 1.0)
    hot = replace(mlp, temperatures=(1e4,) * len(folds))
    for asked in (mlp, hot):
        losses = gather_held_out(task, fit, asked)
        assert losses is not None
        for train, validation in folds:
            model = fit_calibrated(task.backbone, fit.recipe(task, "mlp"), data.subset(train), asked.temperature)
            logits = model.logits(model.features(data.subset(validation).images)) / model.temperature
            assert losses[validation] == pytest.approx(log_losses(logits, data.labels[validation]), rel=1e-5)
    assert losses is not None
    assert np.ptp(losses) < 0.1  # so hot that every class is as likely
    assert gather_held_out(task, fit, replace(mlp, params=OWN["text-prior"].point.to_json())) is None
    assert gather_held_out(task, fit, replace(mlp, losses=mlp.losses[:1])) is None


def test_steps_are_counted_fold_by_fold(task: Task, split: OpenWorldSplit) -> None:
    support = prepare(task, split.support, [0])
    pruned = TrialRecord(2, "PRUNED", APPROACHES["mlp"].point.to_json(), (0.5,), 1.0)
    (train, _), *_ = task.folds(support.data.labels)
    assert count_image_steps(task, support, [trial(0, PROBE, 0.5), pruned]) == 6 * min(32, len(train))


def test_the_baselines_are_always_among_the_refitted(task: Task) -> None:
    fit = refit(task, {"mlp": APPROACHES["mlp"].at({"unfreeze": 1})}, draw=1)
    assert set(fit.models) == {"zero-shot", "text-prior", PROBE, "mlp"}
    np.testing.assert_allclose(fit.models[PROBE].features(fit.support.data.images), fit.support.frozen, atol=1e-6)


@pytest.mark.parametrize("name", ["rla", "prolip", "lora", "wise-ft", "mlp"])
def test_workers_train_what_this_process_trains(task: Task, split: OpenWorldSplit, name: str) -> None:
    """They are sent the tower without its first layers."""
    every = replace(task, approaches=(OWN[name],))
    bench = build_cross_validation(every, prepare(every, split.support, [0, 1]))
    here, there = (one.fit(OWN[name].point) for one in (bench, pickle.loads(pickle.dumps(bench))))
    images = bench.data.images
    np.testing.assert_allclose(there.features(images), here.features(images), atol=1e-5)
