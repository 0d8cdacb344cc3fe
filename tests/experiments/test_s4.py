"""What S4's recipe says of Spark, resuming, decay and categories, with Spark played by this process."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from experiments.recipes import s4, s4_category, s4_processes
from tests.commands.conftest import Command, one_line

RESUMED = {"stopped_after": 8, "went_on_after": 6, "epoch": 2, "position": 0, "loss": 2.5, "from_one": 0.0}
WORDS = ("a red one", "some blue", "green and old", "the last")


@pytest.fixture(scope="module")
def table(photos: Path) -> Path:
    """Digit pictures with a caption and a class each."""
    path = photos.with_name("covers.csv")
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "class"])
        for i, picture in enumerate(sorted(photos.glob("*/*.png"))[::2]):
            caption = f"{WORDS[i % 4]} photo of number {picture.parent.name}"
            rows.writerow([picture.relative_to(path.parent), caption, picture.parent.name])
    return path


@pytest.fixture(scope="module")
def pairs(table: Path) -> cf.ImageDataset:
    return cf.read_dataset(table)


def test_the_driver_s_own_copy_is_untouched_and_what_is_sent_back_is_trained(
    pairs: cf.ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s4_processes, "run_on_spark", lambda job, data, *, processes: job(data))
    found = s4_processes.compared(pairs)
    written, ours = found["spark"]["rows"]["as written"], found["spark"]["rows"]["ours"]
    assert written["change"] == 0
    assert written["from_one"] == ours["change"] > s4_processes.RATE / 2
    assert ours["from_one"] == 0
    assert found["resume"]["from_one"] == 0
    row = next(line for line in s4_processes.table(found).splitlines() if "saved as written" in line)
    assert row.split()[-2] == "0.0e+00"


def test_what_is_resumed_was_stopped_and_the_comparison_can_fail(pairs: cf.ImageDataset) -> None:
    start = build_backbone(s4_processes.SMALL, 0).state_dict()
    found = s4_processes.resumed(pairs, start)
    assert found["went_on_after"] == 6 < found["stopped_after"] == 8
    assert (found["epoch"], found["position"]) == (2, 0)
    assert found["from_one"] > s4_processes.RATE


def test_without_spark_its_row_says_so(pairs: cf.ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> bytes:
        raise cf.ResourceError(expected="Java 17 or later", got="none", fix="install it", where="Spark")

    monkeypatch.setattr(s4_processes, "run_on_spark", missing)
    found = {"spark": s4_processes.by_spark(pairs, {}, {}), "resume": RESUMED}
    assert "Spark was not run: Spark: expected Java 17" in s4_processes.table(found)


def test_decay_as_written_shrinks_what_the_loss_does_not_ask_for(
    mini: cf.Backbone, pairs: cf.ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s4, "EPOCHS", 10)
    for kind, shrinks in (("as written", True), ("as written, decay decoupled", False), ("ours", False)):
        found = s4.change(mini, s4.ended(kind, mini, pairs, 0))
        assert (found["weights"] < 1 - 1e-3) == shrinks, (kind, found)


def test_pictures_train_to_the_same_weights_stored_or_not(
    mini: cf.Backbone, pairs: cf.ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s4, "EPOCHS", 1)
    stored = s4.ended("as written", mini, pairs, 0).state_dict()
    monkeypatch.setattr(s4, "count_replayed_blocks", lambda plan, tower: None)
    plain = s4.ended("as written", mini, pairs, 0).state_dict()
    assert s4_processes.distance(stored, plain) < s4.ADAM["lr"] / 10


def test_a_category_seen_in_the_picture_gives_its_caption_away(mini: cf.Backbone, pairs: cf.ImageDataset) -> None:
    """Captions that say nothing: only a leak finds them."""
    mute = replace(pairs, captions=tuple("a photo" + "." * (i + 1) for i in range(len(pairs))))
    found = s4_category.compared(mini, mute)
    assert found is not None
    rows = {kind: row["text to image, recall@5"]["mean"] for kind, row in found["rows"].items()}
    assert rows["predicted from its picture (leaks)"] > rows["predicted from the caption"] + 0.4
    assert found["rows"]["given"]["right"]["mean"] == 1
    unlabelled = replace(pairs, labels=None)
    assert s4_category.compared(mini, unlabelled) is None
    assert "none" in s4_category.table(None)


def test_the_whole_recipe(command: Command, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s4, "EPOCHS", 1)
    monkeypatch.setattr(s4_processes, "EPOCHS", 3)
    monkeypatch.setattr(s4_processes, "run_on_spark", lambda job, data, *, processes: job(data))
    found: dict[str, Any] = command(
        "replicate", "s4", "--data", table, "--model", "mini", "--seeds", 1, "--json"
    ).record
    assert found["pictures"] == {"training": 50, "test": 6}
    for row in found["recall"].values():
        for figure in row.values():
            assert figure["ci95"][0] <= figure["mean"] <= figure["ci95"][1]
            assert 0 < figure["chance"] <= 1
    assert len(found["best_texts"]["top"]) == 5
    lines = s4.table(found).splitlines()
    assert lines[2].split()[:3] == ["before", "as", "written"]
    assert sum("recall@" in line for line in lines) == 7
    one_line(command("replicate", "s4", "--data", "digits", "--model", "mini"), 2, "caption per row")


def test_the_optimiser_is_the_recipe_s(mini: cf.Backbone, pairs: cf.ImageDataset) -> None:
    options = s4.PLAN.options(epochs=1)
    assert (options.learning_rate, options.betas, options.eps) == tuple(s4.ADAM[k] for k in ("lr", "betas", "eps"))
    with s4.tuning(mini, pairs, 0) as (tuned, stream):
        assert next(stream.batches(0)).images.dtype == torch.int64
        trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert "logit_scale" in trained
    assert np.isfinite(s4.decay_to_gradient(mini, pairs))
