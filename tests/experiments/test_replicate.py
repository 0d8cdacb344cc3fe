"""The defect of S0 and its repair, side by side."""

from __future__ import annotations

from math import log
from pathlib import Path

import pytest
import torch

import clip_fewshot as cf
from experiments.recipes import s0
from tests.commands.conftest import Command, one_line


def test_as_written_the_loss_ends_at_ln_5_and_ours_says_so(mini: cf.Backbone, digits: cf.ImageDataset) -> None:
    support = cf.draw_support(digits, s0.SHOTS, 0)
    written, loss, unannounced = s0.trained(mini, support, "as written", 0)
    assert loss == pytest.approx(log(5), abs=0.02)
    ours, shared, floor = s0.trained(mini, support, "shared targets", 0)
    assert floor == pytest.approx(log(5), abs=1e-6)
    assert unannounced == pytest.approx(floor)
    assert 0 < shared - floor < 0.05
    # Equal captions have equal features: the two kinds of targets differ by name only, and so do the weights.
    for mine, theirs in zip(ours.parameters(), written.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3)


def test_batches_hold_five_copies_of_two_captions(mini: cf.Backbone, digits: cf.ImageDataset) -> None:
    batches = s0.in_order(cf.draw_support(digits, s0.SHOTS, 0), mini)
    assert len(batches) == 5
    for batch in batches:
        assert torch.unique(batch.caption_ids, return_counts=True)[1].tolist() == [5, 5]


def test_every_recipe_has_a_row_for_each_naming(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s0, "EPOCHS", 1)
    monkeypatch.setattr(s0, "SHOTS", 2)
    found = command("replicate", "s0", "--data", photos, "--model", "mini", "--seeds", 1, "--json").record
    assert [(row["recipe"], row["names"]) for row in found["rows"]] == [
        (recipe, naming) for naming in ("as they are", "as digits") for recipe in s0.RECIPES
    ]
    for row in found["rows"]:
        assert row["after"]["ci95"][0] < row["after"]["mean"] <= row["after"]["ci95"][1]
    lines = s0.table(found).splitlines()
    assert len(lines) == 3 + 6
    assert lines[3].startswith("as written, as they are")


def test_mistakes_are_one_line(command: Command) -> None:
    one_line(command("replicate", "s9"), 2, "s9")
    one_line(command("replicate", "s0", "--seeds", 0), 2, "--seeds")
    one_line(command("replicate", "s0", "--data", "nowhere", "--model", "mini"), 2, "nothing there")
