"""The projection alone trains: where it begins, what its gradient is, what it costs, where the penalty leaves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.encoder_tower import EncoderParts, EncoderTower, Pool
from clip_fewshot.backbones.resnet import ModifiedResNet
from clip_fewshot.backbones.tower import Tower
from clip_fewshot.backbones.transformer import Perceptron
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.few_shot.approach import OWN
from clip_fewshot.few_shot.model import prepare_support
from clip_fewshot.few_shot.trainer import SupportData, TrainSettings, tune
from clip_fewshot.heads import BlankZeroShotHead
from clip_fewshot.tuning.projection import ProjectedSuffix, add_adapter, train_projection

QUICK = TrainSettings(epochs=2, min_steps=8)


@pytest.fixture(scope="module")
def data(tiny: Backbone, split: OpenWorldSplit) -> SupportData:
    return prepare_support(tiny, split.support, [1], views=2, seed=0, reads_texts=True)


def build_towers(tiny: Backbone) -> dict[str, Tower]:
    torch.manual_seed(0)
    parts = EncoderParts(nn.Flatten(2), [nn.Linear(256, 12), nn.ReLU()], Pool())
    return {
        "vit": tiny.visual,
        "resnet": ModifiedResNet(32, (1, 1, 1, 1), 8, 2, 16).eval(),
        "pair": EncoderTower(parts, 12, 8).eval(),
        "no projection": EncoderTower(parts, 12, None).eval(),
    }


@pytest.mark.parametrize("kind", ["vit", "resnet", "pair", "no projection"])
@pytest.mark.parametrize("build", [train_projection, add_adapter])
def test_it_begins_at_the_frozen_tower_and_trains_one_matrix(kind: str, build: object, tiny: Backbone) -> None:
    tower = build_towers(tiny)[kind]
    pictures = torch.randn(3, 3, 32 if kind == "resnet" else 16, 32 if kind == "resnet" else 16)
    suffix = (train_projection if build is train_projection else add_adapter)(tower, 1)
    assert isinstance(suffix, ProjectedSuffix)
    with torch.no_grad():
        state = tower.cut(tower.advance(tower.embed(pictures), 0, tower.n_blocks - 1), 1)
        assert torch.allclose(suffix(state), tower(pictures), atol=1e-6)
    trained = {name: p for name, p in suffix.named_parameters() if p.requires_grad}
    assert list(trained) == ["update"]
    own = build is train_projection and kind != "no projection"
    assert trained["update"].shape == (tower.token_features if own else tower.out_features, tower.out_features)


def test_the_gradient_is_the_one_worked_out_by_hand() -> None:
    """d/dP of cross-entropy(s norm(z P) M) + l |P - P0|^2, in float64, without autograd."""
    rng = np.random.default_rng(0)
    z, P0, D = rng.normal(size=(6, 5)), rng.normal(size=(5, 4)), rng.normal(size=(5, 4)) / 9
    M, y, s, shots = rng.normal(size=(3, 4)), np.array([0, 1, 2, 0, 1, 2]), 7.0, 2.0
    M /= np.linalg.norm(M, axis=1, keepdims=True)
    f = z @ (P0 + D)
    length = np.linalg.norm(f, axis=1, keepdims=True)
    u = f / length
    logits = s * u @ M.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    at_unit = s * (p - np.eye(3)[y]) @ M / len(y)  # (n, d)
    expected = z.T @ ((at_unit - (at_unit * u).sum(1, keepdims=True) * u) / length) + 2 * 0.7 / shots * D

    suffix = ProjectedSuffix([], nn.Identity(), torch.from_numpy(P0), None, 0.7).double()  # type: ignore[arg-type]
    with torch.no_grad():
        suffix.update.copy_(torch.from_numpy(D))
    head = BlankZeroShotHead(4, 3).double()
    head.init_from_texts(torch.from_numpy(M), s)
    loss = F.cross_entropy(head(suffix.after(torch.from_numpy(z))), torch.from_numpy(y)) + suffix.penalty(shots)
    loss.backward()  # type: ignore[no-untyped-call]
    assert suffix.update.grad is not None
    assert np.allclose(suffix.update.grad.numpy(), expected, atol=1e-12)


def test_a_strong_pull_gives_the_pretrained_projection_back(tiny: Backbone, data: SupportData) -> None:
    moved = []
    for pull in (0.1, 1e6):
        point = OWN["prolip"].at({"pull": pull})
        suffix = tune(tiny, OWN["prolip"], point, data, TrainSettings(epochs=1, min_steps=200), seed=0).suffix
        assert isinstance(suffix, ProjectedSuffix)
        moved.append(float(suffix.update.abs().max()))
    assert moved[0] > 1e-3
    assert moved[1] < 1e-5


def test_what_is_frozen_runs_once_for_each_view_and_nothing_before_the_cut(tiny: Backbone, data: SupportData) -> None:
    rows: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, Perceptron):
            rows.append(len(inputs[0]))
            assert all(module is not one for one in tiny.visual.modules())

    with torch.nn.modules.module.register_module_forward_hook(count):  # type: ignore[arg-type]
        tune(tiny, OWN["prolip"], OWN["prolip"].point, data, QUICK, seed=0)
    assert sum(rows) == 2 * len(data.labels)


def test_it_is_what_a_plain_loop_of_torch_finds(tiny: Backbone, data: SupportData) -> None:
    """One view, full batch, plain AdamW on P - P0 with the classifier's own rate."""
    one = SupportData(data.images.subset(np.arange(len(data.labels))), data.labels, data.n_classes, data.captions)
    settings = TrainSettings(epochs=1, min_steps=1, batch=len(data.labels), warmup=0, clip_norm=1e9)
    tuned = tune(tiny, OWN["prolip"], OWN["prolip"].point, one, settings, seed=0).suffix
    assert isinstance(tuned, ProjectedSuffix)
    plain = train_projection(tiny.visual, 1)
    assert isinstance(plain, ProjectedSuffix)
    z = plain.before(data.images.rows(1, torch.arange(len(data.labels))))
    texts, scale = torch.from_numpy(data.captions.texts), tiny.logit_scale.detach().exp()
    optimizer = torch.optim.AdamW([plain.update], 1e-3, (0.9, 0.98), eps=1e-6, weight_decay=0.05)
    logits = scale * F.normalize(z @ (plain.projection + plain.update), dim=-1) @ texts.T
    shots = len(data.labels) / data.n_classes
    loss = F.cross_entropy(logits, torch.from_numpy(data.labels)) + plain.update.square().sum() / shots
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert torch.allclose(tuned.update, plain.update, atol=1e-7)
    assert tuned.update.abs().max() > 1e-4
