"""S1: half-precision weights break or stay, float32 ones move; random heads begin from nothing; all have their row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import clip_fewshot as cf
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.data.pairs.captioned import CaptionedStream
from experiments.recipes import s1, s1_rates
from experiments.recipes import s1_trained as ways
from tests.commands.conftest import Command


@pytest.fixture(scope="module")
def support(digits: cf.ImageDataset) -> cf.ImageDataset:
    return cf.draw_support(digits, 4, 0)


def test_adam_in_half_precision_breaks_the_weights(tiny: cf.Backbone, support: cf.ImageDataset) -> None:
    written = ways.half_adam(tiny, support, 0)
    assert written.broken is not None
    assert any(bool(torch.isnan(p).any()) for p in written.model.parameters())


def test_weights_rounded_to_half_precision_stay_where_float32_moves(
    tiny: cf.Backbone, support: cf.ImageDataset
) -> None:
    mended, ours = ways.rounded_adam(tiny, support, 0), ways.full(tiny, support, 0)
    assert mended.broken is None is ours.broken
    assert ours.parameters == sum(p.numel() for p in tiny.parameters())
    assert mended.frozen is not None
    assert 0.01 < mended.frozen < 1
    large = [
        p for p in mended.model.visual.parameters() if float(p.detach().min()) >= 0.5
    ]  # the gains of the norms, at 1
    assert large
    assert all(bool((p == 1).all()) for p in large)  # a step of 5e-5 is a tenth of their spacing
    assert all(bool((p != 1).any()) for p in ours.model.visual.parameters() if float(p.detach().min()) >= 0.5)


def test_a_random_start_knows_nothing_and_the_identity_all(
    mini: cf.Backbone, digits: cf.ImageDataset, support: cf.ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "HEAD_EPOCHS", 1)
    test = digits.subset(np.arange(200))
    before, written, ours = (
        float(np.mean(s1.measured(t.model, mini, t.blocks, test)["ensemble"]))
        for t in (
            ways.Trained(mini, None, 0, 0.0),
            ways.random_start(mini, support, 0, None),
            ways.planned(ways.SGD_HEADS, "sgd")(mini, support, 0),
        )
    )
    assert before > 0.7
    assert written < before - 0.1
    assert ours >= before - 0.05


def test_the_head_is_trained_first_and_the_layers_then(
    mini: cf.Backbone, support: cf.ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "HEAD_EPOCHS", 2)
    seen: list[set[str]] = []

    def descend(model: cf.Backbone, source: CaptionedStream, options: ContrastiveOptions) -> float:
        seen.append({name for name, p in model.named_parameters() if p.requires_grad})
        return 0.0

    monkeypatch.setattr(ways, "descend", descend)
    ways.head_first(mini, support, 0)
    assert seen[0] == {"visual.head.weight", "text.head.weight"} < seen[1]


def test_every_way_has_a_row(command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "FULL_EPOCHS", 1)
    monkeypatch.setattr(ways, "HEAD_EPOCHS", 2)
    found = command("replicate", "s1", "--data", photos, "--model", "mini", "--seeds", 1, "--json").record
    assert [row["way"] for row in found["rows"]] == ["zero-shot", *s1.WAYS]
    for row in found["rows"]:
        assert bool(row["accuracy"]) != bool(row["broken"])
        for figure in row["accuracy"].values():
            assert figure["ci95"][0] < figure["ci95"][1]
    assert set(found["rows"][0]["accuracy"]) == {
        "one prompt", "one prompt, top 5", "ensemble", "ensemble, top 5",
    }  # fmt: skip
    assert found["recommended"].startswith("Of the ways to share rates: ")
    lines = s1.table(found).splitlines()
    assert sum("no longer finite" in line for line in lines) == 1


def test_the_rates_alone(command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "HEAD_EPOCHS", 2)
    found = command("replicate", "s1_rates", "--data", photos, "--model", "mini", "--seeds", 1, "--json").record
    assert [row["way"] for row in found["rows"]] == ["zero-shot", *s1.RATES]
    assert found["shots"] == s1_rates.SHOTS


def test_the_recommendation_follows_the_intervals() -> None:
    figures = {"mean": 0.9, "ci95": [0.85, 0.95]}, {"mean": 0.8, "ci95": [0.7, 0.92]}, {"mean": 0.5, "ci95": [0.4, 0.6]}
    best, close, worse, last = list(s1.RATES)[:4]
    chosen = zip((best, close, worse, last), [*figures, figures[2]], strict=True)
    rows = [{"way": way, "accuracy": {"ensemble": f}} for way, f in chosen]
    told = s1.recommended(rows)
    assert told == f"Of the ways to share rates: {best}. Not told apart from it: {close}. Worse: {worse}; {last}."
    own = {"way": s1.DEFAULT, "accuracy": {"ensemble": figures[1]}}
    assert s1.recommended([*rows, own]).startswith(
        f"Of the ways to share rates: {s1.DEFAULT} (the default of finetune)"
    )
    far = {"way": s1.DEFAULT, "accuracy": {"ensemble": figures[2]}}
    assert s1.recommended([*rows, far]).startswith(f"Of the ways to share rates: {best}.")
