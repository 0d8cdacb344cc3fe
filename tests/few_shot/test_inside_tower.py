"""Approaches that train a small part of the tower under fixed texts, through every door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.backbones.tower import Suffix, Tower
from clip_fewshot.config import FewShotConfig
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.approach import APPROACHES, OWN, TUNED_SHARE, Approach, Point
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.model import reads_texts
from clip_fewshot.few_shot.objectives import read_class_texts
from clip_fewshot.few_shot.select import keep_trainable
from clip_fewshot.heads import CentredHead
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.pipeline import run_few_shot
from clip_fewshot.tuning.last_layers import copy_last_layers

INSIDE = ("prolip", "rla", "lora", "wise-ft")
CHANGED: dict[str, dict[str, Any]] = {
    "prolip": {"pull": 0.3},
    "rla": {"pull": 0.3},
    "lora": {"rank": 3, "alpha": 2.0},
    "wise-ft": {TUNED_SHARE: 0.25},
}


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load_backbone("mini", device="cpu")


@pytest.fixture(scope="module")
def split() -> OpenWorldSplit:
    return split_open_world(read_dataset("digits"), shots=4, unseen=["seven"], seed=0)


@pytest.mark.parametrize("name", INSIDE)
def test_it_begins_at_zero_shot_and_knows_its_pictures_better(name: str, mini: Backbone, split: OpenWorldSplit) -> None:
    zero_shot = FewShotClassifier(mini, "zero-shot").fit(split.support)
    model = FewShotClassifier(mini, name).fit(split.support)
    test = split.test.open("test")
    assert model.score(split.support) > zero_shot.score(split.support) - 1e-9
    assert model.score(test) > zero_shot.score(test) - 0.02
    assert isinstance(model.model_.head, CentredHead)
    texts = torch.from_numpy(read_class_texts(mini, model.label_space_.names, ()))
    assert torch.allclose(torch.as_tensor(model.model_.head.head.weight), texts, atol=1e-6)
    assert torch.equal(torch.as_tensor(model.model_.head.head.scale), mini.logit_scale.detach().exp())
    assert not model.model_.head.mean.any()


@pytest.mark.parametrize("name", INSIDE)
def test_options_and_weights_are_saved_and_loaded(
    name: str, mini: Backbone, split: OpenWorldSplit, tmp_path: Path
) -> None:
    model = FewShotClassifier(mini, name, options=CHANGED[name], epochs=1).fit(split.support)
    model.save(tmp_path / "m")
    read = FewShotClassifier.load(tmp_path / "m", mini)
    assert np.array_equal(read.predict_proba(split.pool), model.predict_proba(split.pool))
    assert read.model_.point == model.point == OWN[name].at(CHANGED[name])
    assert Point.from_json(model.point.to_json()) == model.point
    assert read.point == model.point
    if name == "lora":
        assert type(read.model_.suffix) is Suffix


def test_the_share_of_the_tuned_weights_is_an_option_of_whatever_trains_layers(
    mini: Backbone, split: OpenWorldSplit, tmp_path: Path
) -> None:
    half = FewShotClassifier(mini, "mlp", options={TUNED_SHARE: 0.5}, epochs=1).fit(split.support)
    half.save(tmp_path / "m")
    assert FewShotClassifier.load(tmp_path / "m", mini).point.options[TUNED_SHARE] == 0.5
    assert TUNED_SHARE not in FewShotClassifier(mini, "mlp").point.to_json()
    with pytest.raises(UsageError, match="tuned_share"):
        FewShotClassifier(mini, "text-prior", options={TUNED_SHARE: 0.5}).fit(split.support)


def test_options_of_another_approach_are_refused(mini: Backbone) -> None:
    with pytest.raises(UsageError, match="rank"):
        _ = FewShotClassifier(mini, "prolip", options={"rank": 3}).point


@pytest.mark.parametrize(
    ("name", "options"),
    [("lora", {"rank": 1.5}), ("lora", {"alpha": -1.0}), ("rla", {"pull": -1.0}), ("wise-ft", {TUNED_SHARE: 1.5})],
)
def test_values_outside_their_range_are_refused(
    name: str, options: dict[str, Any], mini: Backbone, split: OpenWorldSplit
) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        FewShotClassifier(mini, name, options=options).fit(split.support)


def test_without_a_layer_nothing_would_train(mini: Backbone, split: OpenWorldSplit) -> None:
    with pytest.raises(UsageError, match="zero-shot"):
        FewShotClassifier(mini, "lora", unfreeze=0).fit(split.support)
    kept, notes = keep_trainable([OWN["prolip"], OWN["lora"], APPROACHES["mlp"]], 0)
    assert [approach.name for approach in kept] == ["mlp"]
    assert [note.partition(" (")[0] for note in notes] == ["left out: prolip, lora"]


def test_who_reads_texts_says_so_itself() -> None:
    assert all(reads_texts(OWN[name]) for name in (*INSIDE, "text-prior"))
    assert not any(reads_texts(OWN[name]) for name in ("contrastive", "linear-probe"))


def test_a_class_that_is_named_later_is_trained_with_its_text(mini: Backbone, split: OpenWorldSplit) -> None:
    model = FewShotClassifier(mini, "prolip", epochs=1)
    world = OpenWorldClassifier(model, detector="knn", alpha=0.2).fit(split.support)
    novel = split.novel.open("test")
    world.name(novel.subset(np.arange(3)), "seven")
    assert np.mean(world.model.predict(novel.subset(np.arange(3, 40))) == "seven") > 0.7


class Residual(nn.Module):
    """A head of a user's own that begins at the texts: w_j = t_j + r_j (Yu et al., 2023)."""

    takes_tokens, reads_texts = False, True

    def __init__(self, in_features: int, n_classes: int) -> None:
        super().__init__()
        self.in_features, self.n_classes = in_features, n_classes
        self.texts = nn.Parameter(torch.zeros(n_classes, in_features), requires_grad=False)
        self.residual = nn.Parameter(torch.zeros(n_classes, in_features))

    def init_from_texts(self, texts: Tensor, scale: float) -> None:
        self.texts.data.copy_(scale * texts)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return nn.functional.normalize(features, dim=-1) @ (self.texts + self.residual).T


def half_of_the_layers(tower: Tower, n: int, floor: int = 0) -> Suffix:
    """A tuning of a user's own, with an option."""
    suffix = copy_last_layers(tower, n)
    for block in suffix.blocks[:floor]:
        block.requires_grad_(False)
    return suffix


def test_heads_and_tunings_of_others_get_texts_and_options(mini: Backbone, split: OpenWorldSplit) -> None:
    centre = {"unfreeze": 2, "backbone_lr": 1e-4, "head_lr": 1e-2, "floor": 1}
    mine = Approach("mine", head=Residual, loss="cross-entropy", tuning=half_of_the_layers, centre=centre)
    assert reads_texts(mine)
    model = FewShotClassifier(mini, mine, epochs=2).fit(split.support)
    before, after = mini.visual.suffix(2).state_dict(), model.model_.suffix.state_dict()
    assert all(torch.equal(after[key], before[key]) == key.startswith("blocks.0") for key in after)
    assert model.score(split.test.open("test")) > 0.9


def test_the_main_job_searches_them(tmp_path: Path) -> None:
    options: dict[str, Any] = {"shots": 2, "unseen": "0", "trials": 4, "seeds": 1, "epochs": 1, "jobs": 1}
    config = FewShotConfig.of(**options, device="cpu", approaches=("prolip", "lora"), out=str(tmp_path / "run"))
    results = run_few_shot(config)
    assert all(results["approaches"][name]["test"]["mean"] > 0.85 for name in ("prolip", "lora"))
