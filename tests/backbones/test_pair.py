"""Two encoders in one space, wherever a CLIP goes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import clip_fewshot as cf
from clip_fewshot.backbones.folder import save_backbone
from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.features.encode import image_prefix, text_prefix
from clip_fewshot.features.prefix import replay
from clip_fewshot.few_shot.cross_validation import drop_first_layers
from clip_fewshot.heads import zero_shot_weights
from tests.backbones.encoders import SIZE, EfficientNet, Letters, image_encoder, pair, text_encoder

TEXTS = ["a bee", "two bees", "a field", "a reed"]


def pixels(n: int = 4) -> Tensor:
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def colours() -> Tensor:
    return 2 * torch.eye(4)[:, :3, None, None].expand(4, 3, SIZE, SIZE)


def weights(backbone: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.state_dict().items()}


def changed(before: dict[str, Tensor], backbone: nn.Module) -> set[str]:
    return {name for name, tensor in backbone.state_dict().items() if not torch.equal(before[name], tensor)}


@torch.no_grad()
def test_both_encoders_end_in_one_space() -> None:
    both = pair()
    images, texts = both.encode_image(pixels()), both.encode_text(both.tokenize(TEXTS))
    assert images.shape == texts.shape == (4, 12)
    assert both.tokenize("a bee").shape == (1, 80)
    trunks = both.trunks()
    assert trunks.encode_image(pixels()).shape == trunks.encode_text(both.tokenize(TEXTS)).shape == (4, 24)
    torch.testing.assert_close(both.visual.projection(trunks.encode_image(pixels())), images)
    assert torch.equal(pair().encode_image(pixels()), images)  # the seed decides the projections
    assert not torch.equal(
        PairBackbone(image_encoder(), text_encoder(length=80), 12, seed=1).encode_image(pixels()), images
    )


@pytest.mark.parametrize(("image", "text"), [(0, 0), (1, 0), (0, 2), (2, 1), (None, 0), (5, None)])
def test_gradients_flow_only_where_unfrozen(image: int | None, text: int | None) -> None:
    both = pair(image, text).train()
    before = weights(both)
    features = both.encode_image(pixels()) * both.encode_text(both.tokenize(TEXTS))
    (both.logit_scale.exp() * features).square().sum().backward()
    reached = {name for name, p in both.named_parameters() if p.grad is not None and bool(p.grad.any())}
    expected = {"logit_scale"}
    for side, n in (("visual", image), ("text", text)):
        tower = getattr(both, side)
        names = [name for name, _ in tower.named_parameters()] if n is None else tower.last_parameters(n)
        expected |= {f"{side}.{name}" for name in [*names, "projection.weight"]}
    assert reached <= expected
    assert all(name.endswith("key.bias") for name in expected - reached)  # softmax ignores it
    moved = changed(before, both)
    assert bool(moved) == (image is None)
    assert all("running" in name or "num_batches" in name for name in moved)


def test_what_is_locked_is_the_same_in_training() -> None:
    both = pair(1, 1).train()
    dropouts = {name: module.training for name, module in both.named_modules() if isinstance(module, nn.Dropout)}
    assert [name.split(".")[2] for name, training in dropouts.items() if training] == ["2"]
    state = both.visual.advance(both.visual.embed(pixels()), 0, 4)
    evaluated = both.eval().visual.advance(both.visual.embed(pixels()), 0, 4)
    torch.testing.assert_close(state.tokens, evaluated.tokens)


@pytest.mark.parametrize(("image", "text"), [(0, 0), (1, 2)])
def test_contrastive_training_moves_what_is_unfrozen_and_nothing_else(image: int, text: int) -> None:
    both = pair(image, text)
    before, losses = weights(both), []
    batches = [PairBatch(colours(), both.tokenize(TEXTS))] * 30
    options = ContrastiveOptions(steps=30, learning_rate=3e-3, averaging=0.0)
    cf.train_contrastive(both, batches, options, on_step=lambda report: losses.append(report.loss))
    assert losses[-1] < losses[0] - 0.2
    trained = {f"{side}.{name}" for side, n in (("visual", image), ("text", text)) for name in last(both, side, n)}
    moved = changed(before, both)
    assert moved <= trained | {"logit_scale"}
    assert {name for name in trained if name.endswith("weight")} <= moved


def last(both: PairBackbone, side: str, n: int) -> list[str]:
    return [*getattr(both, side).last_parameters(n), "projection.weight"]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    both = pair(1, None)
    with torch.no_grad():
        both.visual.projection.weight.mul_(2)  # type: ignore[operator, union-attr]
    both.save(tmp_path)
    loaded = PairBackbone.load(tmp_path, image_encoder(seed=5), text_encoder(seed=5, length=80))
    assert loaded.digest == both.digest
    assert (loaded.name, loaded.visual.unfrozen, loaded.text.unfrozen) == ("pair", 1, None)
    assert torch.equal(loaded.encode_image(pixels()), both.encode_image(pixels()))
    both.save(tmp_path)  # again, over the older one

    for image, text, what in (
        (image_encoder(EfficientNet), text_encoder(length=80), "visual"),
        (replace(image_encoder(), std=(0.3, 0.2, 0.26)), text_encoder(length=80), "std"),
        (image_encoder(), text_encoder("first", length=80), "text"),
        (image_encoder(), replace(text_encoder(length=80), tokenizer=Letters(pad=35)), "pad"),
    ):
        with pytest.raises(ArtifactError, match=f"another .*{what}"):
            PairBackbone.load(tmp_path, image, text)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="damaged"):
        PairBackbone.load(tmp_path, image_encoder(), text_encoder(length=80))


def test_whatever_changes_features_changes_the_digest() -> None:
    both = pair()
    digest, trunks = both.digest, both.trunks().digest
    assert pair().digest == digest
    assert pair(2, 1).digest == digest  # what will train is no part of the features
    with torch.no_grad():
        both.logit_scale += 1
        both.text.projection.weight.add_(1)  # type: ignore[operator, union-attr]
    assert (both.digest != digest, both.trunks().digest) == (True, trunks)
    both.mean = (0.5, 0.5, 0.5)
    others = [pair(seed=1), PairBackbone(image_encoder(), text_encoder("end", length=80), 12), both]
    assert len({digest, *(other.digest for other in others)}) == 4
    assert both.trunks().digest != trunks


def test_features_of_sets_are_those_of_the_encoders(digits: ImageDataset) -> None:
    both, some = pair(), digits.subset(np.arange(10))
    inputs = torch.stack([both.preprocess(some.open(i)) for i in range(10)])
    white = (np.full((SIZE, SIZE, 3), 255, np.uint8) / 255 - both.mean) / both.std
    assert float(inputs.max()) <= white.max() + 1e-6
    features = cf.encode_images(both, some)
    torch.testing.assert_close(torch.from_numpy(features.features), both.encode_image(inputs), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(cf.encode_texts(both, TEXTS)), both.encode_text(both.tokenize(TEXTS)))
    for prefix, tower in (
        (image_prefix(both, some, [1, 3]), both.visual),
        (text_prefix(both, TEXTS, [1, 3]), both.text),
    ):
        for n in (1, 3):
            torch.testing.assert_close(replay(prefix, n, tower.suffix(n)), prefix.frozen_features(), rtol=0, atol=5e-3)


def test_a_few_shot_classifier_on_a_pair(split: OpenWorldSplit, tmp_path: Path) -> None:
    both = pair()
    model = cf.FewShotClassifier(both, "contrastive-arcface", unfreeze=2, backbone_lr=1e-6, epochs=1).fit(split.support)
    model.save(tmp_path)
    some = split.support.subset(np.arange(9))
    loaded = cf.FewShotClassifier.load(tmp_path, both)
    np.testing.assert_array_equal(loaded.predict_proba(some), model.predict_proba(some))
    with pytest.raises(ArtifactError, match="pass the backbone it was trained on"):
        cf.FewShotClassifier.load(tmp_path, pair(seed=1))


def test_an_open_world_on_a_pair(split: OpenWorldSplit) -> None:
    both = pair()
    model = cf.OpenWorldClassifier(cf.FewShotClassifier(both, "mlp", unfreeze=1, epochs=2)).fit(split.support)
    answers = model.predict(split.support.subset(np.arange(12)))
    assert len(answers) == 12
    weights = zero_shot_weights(both, ["one", "two"], ["a {}"])
    torch.testing.assert_close(weights.norm(dim=1), torch.ones(2))


def test_only_layers_that_train_travel_to_workers() -> None:
    both = pair()
    bare = pickle.loads(pickle.dumps(drop_first_layers(both, 1)))
    there = {name for name, parameter in bare.named_parameters() if not parameter.is_meta}
    trained = {f"{side}.{name}" for side in ("visual", "text") for name in getattr(both, side).last_parameters(1)}
    assert there == trained | {"logit_scale"}


def test_a_pair_is_no_clip_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"PairBackbone\.save"):
        save_backbone(pair(), tmp_path)
    with pytest.raises(UsageError, match=r"0\.\.5"):
        pair(6, 0)
