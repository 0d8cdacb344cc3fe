"""Visual prompts: against a slow twin in float64, against the plain model, and where stored states would be wrong."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.errors import ArtifactError, ClipFewShotError, UsageError
from clip_fewshot.features.prefix import run_prefix
from clip_fewshot.tuning.last_layers import describe_last_layers
from clip_fewshot.tuning.prompts import PromptedTransformer, load_prompts, prompted, save_prompts
from tests.backbones.conftest import SMALL, pixels

IMAGES = pixels(SMALL["vit"])
LAYERS = 3


@pytest.fixture
def plain() -> Backbone:
    return build_backbone(SMALL["vit"], seed=1)


def slow_features(backbone: Backbone, images: Tensor) -> Tensor:
    """Eq. 7 and 8 as they are written, with torch's own attention, every row of every block, in float64."""
    tower = copy.deepcopy(backbone.visual).double()
    assert isinstance(tower, PromptedTransformer)
    tokens = tower.embed(images.double()).tokens
    x, patches = tokens[:, :1], tokens[:, 1:]
    for i, block in enumerate(tower.transformer.resblocks):
        p = tower.prompts[str(i)].expand(len(x), -1, -1) if str(i) in tower.prompts else x[:, :0]
        z = torch.cat([x, p, patches], dim=1)
        attention = nn.MultiheadAttention(z.shape[2], block.attn.heads, batch_first=True).double()
        attention.load_state_dict(block.attn.state_dict())
        normed = block.ln_1(z)
        z = z + attention(normed, normed, normed, need_weights=False)[0]
        z = z + block.mlp(block.ln_2(z))
        x, patches = z[:, :1], z[:, 1 + p.shape[1] :]
    return tower.ln_post(x[:, 0]) @ tower.proj


@torch.no_grad()
@pytest.mark.parametrize(("depth", "first"), [(None, False), (1, False), (2, False), (2, True)])
def test_features_are_those_of_the_equations(plain: Backbone, depth: int | None, first: bool) -> None:
    model = prompted(plain, 5, depth, first=first, seed=3)
    expected = slow_features(model, IMAGES)
    double = copy.deepcopy(model).double()
    torch.testing.assert_close(double.visual(IMAGES.double()), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(model.encode_image(IMAGES).double(), expected, rtol=1e-4, atol=2e-5)
    assert (model.encode_image(IMAGES) - plain.encode_image(IMAGES)).abs().max() > 1e-3  # the prompts are seen


@torch.no_grad()
@pytest.mark.parametrize("depth", [None, 1, 2])
def test_no_prompts_change_nothing(plain: Backbone, depth: int | None) -> None:
    model = prompted(plain, 0, depth)
    torch.testing.assert_close(model.encode_image(IMAGES), plain.encode_image(IMAGES))
    tokens = plain.tokenize(["a bee", "two bees"])
    torch.testing.assert_close(model.encode_text(tokens), plain.encode_text(tokens))
    for n in range(LAYERS + 1):
        state = plain.visual.advance(plain.visual.embed(IMAGES), 0, LAYERS - n)
        if n == 0 or n >= (depth or LAYERS):
            torch.testing.assert_close(model.visual.suffix(n)(state), plain.visual.suffix(n)(state))


def test_prompts_and_class_token_train_and_nothing_else(plain: Backbone) -> None:
    before = copy.deepcopy(plain.state_dict())
    model = prompted(plain, 4)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names == {"visual.class_embedding", *(f"visual.prompts.{i}" for i in range(LAYERS))}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    pull = torch.randn(SMALL["vit"].embed_dim, generator=torch.Generator().manual_seed(0))
    (model.encode_image(IMAGES) @ pull).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0} == names
    optimizer.step()
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"visual.class_embedding"}
    assert set(after) - set(before) == {f"visual.prompts.{i}" for i in range(LAYERS)}  # OpenAI's names are kept
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    late = prompted(plain, 4, depth=1)  # what stands in front of the prompts may then run once per image
    assert {name for name, p in late.named_parameters() if p.requires_grad} == {"visual.prompts.2"}


def test_the_gradient_is_that_of_the_equations(plain: Backbone) -> None:
    model = prompted(plain, 3).double()
    pull = torch.randn(SMALL["vit"].embed_dim, dtype=torch.float64)
    (model.visual(IMAGES.double()) @ pull).sum().backward()
    shift = torch.randn(3, SMALL["vit"].vision_width, dtype=torch.float64) * 1e-5
    for i in range(LAYERS):
        sides = []
        for sign in (1, -1):
            moved = copy.deepcopy(model)
            with torch.no_grad():
                moved.visual.prompts[str(i)].add_(sign * shift)
                sides.append((slow_features(moved, IMAGES) @ pull).sum())
        slope = (model.visual.prompts[str(i)].grad * shift).sum()
        torch.testing.assert_close((sides[0] - sides[1]) / 2, slope, rtol=1e-5, atol=1e-12)


def test_prompts_and_the_class_token_train(plain: Backbone, tmp_path: Path) -> None:
    shape = (4, SMALL["vit"].vision_width)
    deep = prompted(plain, 4, depth=2).visual.list_trained()
    assert {name: tuple(one.shape) for name, one in deep.items()} == {"prompts.1": shape, "prompts.2": shape}
    assert sum(one.numel() for one in prompted(plain, 4).visual.list_trained().values()) == 13 * shape[1]
    with pytest.raises(UsageError, match=r"prompted\(\)"):
        save_prompts(plain, tmp_path / "none")


def test_blocks_are_the_same_objects_each_time_and_a_copy_has_its_own(plain: Backbone) -> None:
    model = prompted(plain, 4, depth=2)
    other = copy.deepcopy(model)
    for tower in (model.visual, other.visual):
        assert all(a is b for a, b in zip(tower.blocks, tower.blocks, strict=True))
        owned = [id(getattr(block, "prompts", None)) for block in tower.blocks]
        assert owned == [id(None), *map(id, tower.prompts.values())]
    assert other.visual.blocks[1].prompts is not model.visual.blocks[1].prompts
    assert other.visual.blocks[1].block is other.visual.transformer.resblocks[1]
    double = other.double().visual
    assert double.blocks[1].prompts.dtype == torch.float64


def test_first_values_are_seeded_and_in_the_bound(plain: Backbone) -> None:
    config = SMALL["vit"]
    values = prompted(plain, 200, seed=5).visual.prompts["0"].detach()
    bound = (6 / (3 * config.patch_size**2 + config.vision_width)) ** 0.5
    assert 0.98 * bound < values.abs().max() <= bound
    assert torch.equal(values, prompted(plain, 200, seed=5).visual.prompts["0"])
    assert not torch.equal(values, prompted(plain, 200, seed=6).visual.prompts["0"])
    assert not torch.equal(values, prompted(plain, 200, seed=5).visual.prompts["1"])


@torch.no_grad()
def test_stored_states_in_front_of_the_prompts_stay_valid(plain: Backbone) -> None:
    for depth, n in ((1, 1), (1, 2), (2, 2), (3, 3)):
        model = prompted(plain, 4, depth)
        prefix = run_prefix(model.visual, [IMAGES], [n], half=False)
        ordinary = run_prefix(plain.visual, [IMAGES], [n], half=False)
        assert torch.equal(prefix.cuts[n].tokens.values, ordinary.cuts[n].tokens.values)
        suffix = model.visual.suffix(n)
        replayed = prefix.outputs(n, suffix, torch.arange(len(IMAGES)))
        torch.testing.assert_close(replayed, model.encode_image(IMAGES))
        assert {name for name, p in suffix.named_parameters() if p.requires_grad} == {
            f"blocks.{i}.prompts" for i in range(n - depth, n)
        }


def test_a_cut_behind_prompts_is_refused_before_any_work(plain: Backbone) -> None:
    for early in (prompted(plain, 4), prompted(plain, 4, 2), prompted(plain, 4, 1, first=True)):
        for call in (
            lambda model=early: model.visual.suffix(1),
            lambda model=early: run_prefix(model.visual, [IMAGES], [1]),
        ):
            with pytest.raises(UsageError, match="train_contrastive"):
                call()
        assert not any(p.requires_grad for p in early.visual.suffix(0).parameters())  # nothing to train: no harm


@pytest.mark.parametrize("approach", ["mlp", "contrastive-arcface"])
def test_a_few_shot_classifier_trains_the_prompts_alone(plain: Backbone, approach: str, tmp_path: Path) -> None:
    model = prompted(plain, 4, depth=1)
    draws = np.random.default_rng(0)
    pictures = [draws.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(8)]
    from PIL import Image

    images, labels = [Image.fromarray(p) for p in pictures], ["bee", "ant"] * 4
    classifier = cf.FewShotClassifier(model, approach, unfreeze=1, backbone_lr=0.1, epochs=1).fit(images, labels)
    tuned, untouched = classifier.model_.suffix, model.visual.suffix(1)
    changed = {
        name
        for (name, a), b in zip(tuned.named_parameters(), untouched.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert changed == {"blocks.0.prompts"}
    classifier.save(tmp_path / "model")
    again = cf.FewShotClassifier.load(tmp_path / "model", model)
    assert np.array_equal(again.predict_proba(images), classifier.predict_proba(images))
    with pytest.raises(ArtifactError, match="pass the backbone"):
        cf.FewShotClassifier.load(tmp_path / "model", plain)
    with pytest.raises(UsageError, match="prompts from block 1 of 3"):
        cf.FewShotClassifier(prompted(plain, 4), approach, unfreeze=1).fit(images, labels)


@pytest.mark.parametrize("recomputed", [False, True])
def test_contrastive_training_trains_the_prompts_alone(plain: Backbone, recomputed: bool) -> None:
    model = prompted(plain, 3)
    before, draws = copy.deepcopy(model.state_dict()), torch.Generator().manual_seed(0)
    tokens = plain.tokenize(["a bee", "an ant", "two bees"])
    batches = [PairBatch(torch.randn(3, *IMAGES.shape[1:], generator=draws), tokens) for _ in range(3)]
    options = ContrastiveOptions(steps=3, learning_rate=1e-2, chunk=2, checkpoint_gradients=recomputed)
    losses: list[float] = []
    cf.train_contrastive(model, batches, options, on_step=lambda report: losses.append(report.loss))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"visual.class_embedding", *(f"visual.prompts.{i}" for i in range(LAYERS))}
    assert len(losses) == 3


def test_saved_alone_and_read_back(plain: Backbone, tmp_path: Path) -> None:
    for depth, first in ((None, False), (2, False), (2, True)):
        model = prompted(plain, 3, depth, first=first, seed=2)
        with torch.no_grad():
            for parameter in model.visual.list_trained().values():
                parameter.add_(0.25)
        save_prompts(model, tmp_path / "prompts")
        again = load_prompts(tmp_path / "prompts", plain)
        assert again.digest == model.digest
        assert torch.equal(again.encode_image(IMAGES), model.encode_image(IMAGES))
    size = sum(file.stat().st_size for file in (tmp_path / "prompts").iterdir() if file.suffix == ".safetensors")
    assert size < 4 * (2 * 3 + 1) * SMALL["vit"].vision_width + 1000  # no frozen weight is in it
    with pytest.raises(ArtifactError, match="trained on"):
        load_prompts(tmp_path / "prompts", build_backbone(SMALL["vit"], seed=2))


@pytest.mark.parametrize(("n_prompts", "depth"), [(-1, None), (2, 0), (2, 4)])
def test_numbers_outside_their_range_are_refused(plain: Backbone, n_prompts: int, depth: int | None) -> None:
    with pytest.raises(ClipFewShotError, match=r"depth in 1\.\.3"):
        prompted(plain, n_prompts, depth)


def test_other_towers_are_refused(plain: Backbone) -> None:
    with pytest.raises(UsageError, match="ModifiedResNet"):
        prompted(build_backbone(SMALL["resnet"]))
    with pytest.raises(UsageError, match="PromptedTransformer"):
        prompted(prompted(plain))


def test_describe_last_layers_names_the_prompts_alone(plain: Backbone) -> None:
    text = describe_last_layers(prompted(plain, 4, depth=2).visual, 2)
    assert "prompts.1" in text
    assert "mlp" not in text
