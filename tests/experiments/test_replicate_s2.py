"""The defects of S2 and their repairs, side by side."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import clip_fewshot as cf
from clip_fewshot.evaluation.metrics import eer, rates_at
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.losses.matched import matched_floor
from clip_fewshot.protocol.refits import PreparedSupport, Task, prepare
from clip_fewshot.runtime.rng import generator
from experiments.recipes import s2, s2_unknown, s2_written
from tests.commands.conftest import Command, one_line

SHOTS = 4
Begun = tuple[Task, PreparedSupport]


@pytest.fixture(scope="module")
def begun(mini: cf.Backbone, digits: cf.ImageDataset) -> Begun:
    pool = cf.split_open_world(digits, shots=SHOTS, unseen=2, seed=0).pool
    task = Task(mini, pool, SHOTS, TrainSettings(), views=1, seed=0)
    return task, prepare(task, task.support(0), [s2.UNFREEZE])


def test_the_softmax_floor_is_what_a_perfect_softmax_costs() -> None:
    for classes in (2, 8, 100):
        right = torch.eye(classes, dtype=torch.float64)
        loss = F.cross_entropy(right, torch.arange(classes))
        assert s2_written.softmax_floor(classes) == pytest.approx(float(loss))
    assert s2_written.softmax_floor(8) == pytest.approx(1.274, abs=5e-4)


def test_as_written_the_loss_stays_above_its_floor_and_ours_goes_to_zero(begun: Begun) -> None:
    written, ours = (s2.trained(kind, "mlp", *begun) for kind in s2.KINDS)
    assert written.floor == pytest.approx(s2_written.softmax_floor(8))
    assert written.floor <= written.loss < written.floor + 0.1
    assert ours.loss < 0.05


def test_as_written_the_margin_tells_the_label_and_ours_does_not(begun: Begun) -> None:
    support = begun[1]
    labels, pictures = support.data.labels, support.data.images
    others = pictures.subset(s2.other_classes(labels))
    written, ours = (s2.trained(kind, "mlp-arcface", *begun) for kind in s2.KINDS)
    assert np.mean(s2.classes(written, others, labels) == labels) > 0.95  # none of them is of its label's class
    assert np.mean(s2.classes(written, pictures) == labels) < 0.7  # its own training pictures, labels withheld
    assert np.mean(s2.classes(ours, others, labels) == labels) < 0.05
    np.testing.assert_array_equal(s2.classes(ours, pictures, labels), s2.classes(ours, pictures))


def test_pairs_of_a_class_are_negatives_as_written(begun: Begun) -> None:
    task, support = begun
    labels = torch.tensor([0, 0, 1, 1])
    pairs = s2_written.WrittenPairs(task, support.data, 1, 0.0)
    features = torch.zeros(4, task.backbone.visual.out_features)  # equal logits
    assert float(pairs.loss(features, labels).detach()) == pytest.approx(log(4))
    assert matched_floor(labels[:, None] == labels) == pytest.approx(log(2))
    dealt = s2_written.batches(task, support.data)
    assert len(dealt) == task.settings.steps(len(support.data.labels))
    assert s2_written.pairs_floor(task, support.data) == pytest.approx(log(SHOTS))  # one batch is all pictures


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [2, 0, 1, 2, 0, 1, 1], [0, 1]])
def test_other_classes_has_each_row_once_and_never_its_own_class(labels: list[int]) -> None:
    given = np.array(labels)
    moved = s2.other_classes(given)
    assert sorted(moved.tolist()) == list(range(len(labels)))
    assert (given[moved] != given).all()


def test_the_oracle_threshold_is_that_of_the_equal_error_rate() -> None:
    rng = generator(0, "oracle")
    is_novel = np.arange(400) >= 250
    scores = rng.normal(size=400) - is_novel
    flags = scores <= s2_unknown.oracle(is_novel, scores)
    rates = rates_at(is_novel, flags)
    assert rates.false_alarm_rate == pytest.approx(eer(is_novel, scores), abs=0.01)
    assert 1 - (rates.detection_rate or 0) == pytest.approx(eer(is_novel, scores), abs=0.01)


def test_a_split_per_trial_scores_one_configuration_differently(
    begun: Begun, digits: cf.ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s2, "TRIALS", 6)
    task, support = begun
    test = digits.subset(np.arange(150)).restrict(task.pool.label_space.names)
    written, ours = s2.splits([task], [support], test)
    assert len(set(ours["scores"][0])) == 1
    assert len(set(written["scores"][0])) > 1
    assert written["test"] == ours["test"]


def test_the_command_has_a_part_per_defect(command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s2, "SHOTS", SHOTS)
    monkeypatch.setattr(s2, "TRIALS", 2)
    monkeypatch.setattr(s2, "SETTINGS", TrainSettings(epochs=1, min_steps=2))
    found = command("replicate", "s2", "--data", photos, "--model", "mini", "--seeds", 2, "--json").record
    assert [(row["approach"], row["kind"]) for row in found["approaches"]] == [
        (name, kind) for name in s2.APPROACHES for kind in s2.KINDS
    ]
    losses = [row["loss"] for row in found["approaches"]]
    assert len(set(losses)) == len(losses)  # eight trainings, no two of them the same
    assert (found["known"], found["hidden"]) == (6, 1)
    assert list(found["novelty"]["groups"]) == ["told 1", "told 3", "estimated"]
    text = s2.table(found | {"model": "mini"})
    for part in ("least possible", "pictures of other classes", "a split per trial", "asked for, ours", "estimated"):
        assert part in text
    assert text.count("\n\n") == 5
    one_line(command("replicate", "s2", "--data", "nowhere", "--model", "mini"), 2, "nothing there")
