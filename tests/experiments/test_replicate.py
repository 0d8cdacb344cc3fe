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


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s0, "EPOCHS", 1)
    monkeypatch.setattr(s0, "SHOTS", 2)


def test_every_model_and_naming_has_its_rows_and_what_cannot_be_had_its_reason(
    command: Command, photos: Path, short: None, no_hub: None
) -> None:
    models = ("--models", "RN50,mini", "--models", "ViT-B/32", "--name-sets", "digits,words")
    asked = ("replicate", "s0", "--data", photos, "--seeds", 1, *models)
    ended = command(*asked, "--json")
    assert ended.code == 3
    found = ended.record
    assert (found["models"], found["missing"]) == (["RN50", "mini", "ViT-B/32"], ["RN50", "ViT-B/32"])
    rows = found["rows"]
    assert [(row["recipe"], row["names"]) for row in rows[1:-1]] == [
        (recipe, naming) for naming in ("digits", "words") for recipe in s0.RECIPES
    ]
    for row in rows[1:-1]:
        for when in ("before", "after"):
            assert row[when]["ci95"][0] < row[when]["mean"] <= row[when]["ci95"][1]
    assert [row["model"] for row in rows if "error" in row] == ["RN50", "ViT-B/32"]
    lines = command(*asked).out.splitlines()
    assert [line.split(",")[0].split()[0] for line in lines[2:11]] == ["model", "RN50", *["mini"] * 6, "ViT-B/32"]
    assert "no connection" in lines[3]
    assert lines[4].startswith("mini, digits, as written ")
    assert len({line.index("[") for line in lines[4:10]}) == 1


def test_the_names_are_those_that_the_texts_say(command: Command, photos: Path, short: None, mini: cf.Backbone) -> None:
    asked = ("replicate", "s0", "--data", photos, "--model", "mini", "--seeds", 1, "--json")
    before = {
        naming: command(*asked, "--name-sets", naming, "--template", "the digit {}").record["rows"][0]["before"]["mean"]
        for naming in ("digits", "words")
    }
    test = cf.split_open_world(cf.read_dataset(photos), shots=2, seed=0).test.open("test")
    for naming, names in (("words", test.label_space.names), ("digits", tuple("4176320"))):
        renamed = s0.renamed(test, {} if naming == "words" else s0.RENAMED["digits"])
        assert set(renamed.label_space.names) == set(names)
        assert before[naming] == pytest.approx(s0.right(mini, renamed, ("the digit {}",)).mean())


def test_published_figures_stand_beside_ours_with_the_intervals_of_fifty_pictures_and_the_blanks() -> None:
    told = s0.published("RN50", "digits")
    assert told is not None
    assert told["before"]["mean"] == pytest.approx(0.56)
    assert (round(told["before"]["ci95"][0], 3), round(told["before"]["ci95"][1], 3)) == (0.423, 0.688)  # Wilson
    blank = s0.published("ViT-B/32", "words")
    assert blank is not None
    assert (round(blank["before"]["mean"], 2), blank["after"]) == (0.22, None)
    assert s0.published("mini", "words") is None
    estimate = {"mean": 0.5, "ci95": (0.4, 0.6)}
    row = {"model": "ViT-B/32", "names": "words", "recipe": "as written", "loss": 2.0, "floor": 1.6}
    row |= {"before": estimate, "after": estimate, "published": blank}
    assert s0.line(row, [0] * 8).split("  ")[1:5] == ["0.500 [0.400, 0.600]"] * 2 + ["0.220 [0.128, 0.352]", "blank"]
    assert "1 of S0's 6 blanks" in s0.table({"rows": [row]})


def test_classes_that_are_no_digits_keep_their_names() -> None:
    assert s0.choose_names(["ants", "bees"], ()) == {"as they are": {}}
    with pytest.raises(cf.UsageError, match="digits as classes"):
        s0.choose_names(["ants", "bees"], ["words"])
    assert list(s0.choose_names(["0", "1"], ["words"])) == ["words"]
    assert list(s0.choose_names(["zero", "one"], ())) == ["digits", "words"]


def test_mistakes_are_one_line(command: Command) -> None:
    one_line(command("replicate", "s9"), 2, "s9")
    one_line(command("replicate", "s0", "--seeds", 0), 2, "--seeds")
    one_line(command("replicate", "s0", "--data", "nowhere", "--model", "mini"), 2, "nothing there")
    one_line(command("replicate", "s0", "--models", "mini,midi"), 2, "'midi'")
    one_line(command("replicate", "s1", "--models", "mini"), 2, "--models with s0")
    one_line(command("replicate", "s2", "--template", "a {}"), 2, "--template with s0 or s1")
