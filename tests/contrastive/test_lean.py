"""What bfloat16 moments, bfloat16 text weights and recomputed blocks save, and what they cost in accuracy."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import clip_fewshot as cf
from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive.activation_memory import recompute_blocks, shrink_text_weights
from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.contrastive.objectives import symmetric_objective
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.optim.adamw import AdamW, group_parameters, round_to_bfloat16
from tests.contrastive.pairs import CONFIG, RESNET, Double, batch, patterns, symmetric


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_rounding_goes_to_a_neighbour_and_is_right_on_average() -> None:
    values = torch.cat([torch.randn(200, generator=generator()), torch.tensor([0.0, -0.0, 1.0, 2.0**-130, 3e38])])
    draws = torch.stack([round_to_bfloat16(values, generator(i)).float() for i in range(2000)])
    down = (values.view(torch.int32) & -65536).view(torch.float32)
    up = ((values.view(torch.int32) & -65536) + 65536).view(torch.float32)
    assert ((draws == down) | (draws == up)).all()
    gap = (up - down).abs().clamp(max=3e38)
    share = (draws == up).float().mean(0)
    wanted = ((values - down) / (up - down)).nan_to_num()
    assert (share - wanted).abs().max() < 4.5 * 0.5 / 2000**0.5  # four and a half deviations of a coin
    assert ((draws - values).abs() <= gap).all()
    assert torch.equal(draws[:, 202], torch.ones(2000))  # what bfloat16 can hold stays


def steps(dtype: torch.dtype, count: int, gradient: Tensor, betas: tuple[float, float]) -> AdamW:
    weight = nn.Parameter(torch.ones(len(gradient), 1))
    holder = nn.Module()
    holder.weight = weight
    optimizer = AdamW(group_parameters([(holder, 1e-3)], 0.0), betas=betas, state_dtype=dtype)
    for step in range(count):
        weight.grad = (gradient if step == 0 else torch.zeros_like(gradient))[:, None]
        optimizer.step(1.0)
    return optimizer


def test_moments_fall_in_bfloat16_as_they_should_where_rounding_to_nearest_would_hold_them() -> None:
    """With beta2 = .999 a step takes away a thousandth, and half a step of bfloat16 is up to four thousandths."""
    gradient, count = torch.full((4000,), 3.0), 300
    lean = steps(torch.bfloat16, count, gradient, (0.9, 0.999)).groups[0].second[0].float()
    right = 0.001 * 9 * 0.999 ** (count - 1)
    assert float(lean.mean()) == pytest.approx(right, rel=0.01)
    nearest = torch.tensor(0.001 * 9).bfloat16()
    for _ in range(count - 1):
        nearest = (nearest.float() * 0.999).bfloat16()
    assert float(nearest) > 1.3 * right  # the negative control


def held(optimizer: AdamW) -> int:
    return sum(t.numel() * t.element_size() for g in optimizer.groups for t in (*g.first, *g.second))


def test_moments_in_bfloat16_take_half_and_the_training_ends_where_it_would() -> None:
    """On activations in float32: in bfloat16 a last bit of the first weights moves the end by 1 to 17 %."""
    plain, lean = (trained(state_dtype=kind, activations=torch.float32) for kind in ("float32", "bfloat16"))
    assert distance(lean, plain) < 0.05 * distance(plain, build_backbone(CONFIG))
    sizes = {
        kind: held(AdamW(group_parameters([(plain, 1e-3)], 0.1), state_dtype=kind))
        for kind in (torch.float32, torch.bfloat16)
    }
    assert sizes[torch.bfloat16] * 2 == sizes[torch.float32]


@cache
def trained(
    text: str = "float32", state_dtype: str = "float32", activations: torch.dtype = torch.bfloat16
) -> cf.Backbone:
    """Forty steps; text weights in bfloat16 need activations in bfloat16."""
    backbone = build_backbone(CONFIG)
    backbone.activation_dtype = activations
    options = ContrastiveOptions(steps=40, learning_rate=3e-3, text_weights=text, state_dtype=state_dtype, chunk=4)  # type: ignore[arg-type]
    return cf.train_contrastive(backbone, patterns(8), options)


def distance(one: cf.Backbone, other: cf.Backbone) -> float:
    theirs = dict(other.named_parameters())
    return (
        sum(float((p.detach() - theirs[n].detach()).double().square().sum()) for n, p in one.named_parameters()) ** 0.5
    )


def loss(model: cf.Backbone) -> float:
    pairs = patterns(1, seed=7)[0]
    with torch.no_grad():
        features = model.encode_image(pairs.images), model.encode_text(pairs.tokens)
        return float(symmetric_objective(*features, model.logit_scale, pairs.caption_ids))


def test_text_weights_in_bfloat16_learn_without_a_float32_master() -> None:
    lean, plain = trained(text="bfloat16"), trained()
    assert all(p.dtype == torch.float32 for p in lean.parameters())
    assert distance(lean, plain) < 0.3 * distance(plain, build_backbone(CONFIG))
    assert abs(loss(lean) - loss(plain)) < 0.05
    assert loss(build_backbone(CONFIG)) - loss(plain) > 0.5


def test_text_weights_in_bfloat16_take_half_and_come_back() -> None:
    backbone = build_backbone(CONFIG)
    before = sum(p.numel() * p.element_size() for p in backbone.text.parameters())
    matrices = sum(p.numel() for n, p in backbone.text.named_parameters() if p.ndim == 2 and "positional" not in n)
    with shrink_text_weights(backbone.text, torch.bfloat16):
        inside = sum(p.numel() * p.element_size() for p in backbone.text.parameters())
    assert before - inside == 2 * matrices
    assert all(p.dtype == torch.float32 for p in backbone.parameters())


def test_an_update_smaller_than_a_step_of_bfloat16_arrives_on_average() -> None:
    holder = nn.Module()
    holder.weight = nn.Parameter(torch.ones(20_000, 1, dtype=torch.bfloat16))
    optimizer = AdamW(group_parameters([(holder, 1e-4)], 0.0))  # a step of bfloat16 at 1 is .0039 down
    for _ in range(20):
        holder.weight.grad = torch.ones_like(holder.weight)
        optimizer.step(1.0)
    assert float(holder.weight.detach().float().mean()) == pytest.approx(1 - 20e-4, abs=1e-4)


def test_equal_seeds_round_alike_and_a_restored_optimiser_goes_on() -> None:
    one, again = (steps(torch.bfloat16, 5, torch.randn(50, generator=generator()), (0.9, 0.98)) for _ in range(2))
    other = steps(torch.bfloat16, 2, torch.randn(50, generator=generator(1)), (0.9, 0.98))
    for name, tensor in other.tensors().items():
        tensor.copy_(one.tensors()[name])
    other.taken = one.taken
    assert all(torch.equal(t, again.tensors()[name]) for name, t in other.tensors().items())
    for optimizer in (again, other):
        optimizer.groups[0].parameters[0].data.copy_(one.groups[0].parameters[0].data)
        optimizer.groups[0].parameters[0].grad = torch.ones(50, 1)
        optimizer.step(1.0)
    assert all(torch.equal(t, again.tensors()[name]) for name, t in other.tensors().items())


def saved_bytes(model: Double, pairs: PairBatch, recompute: bool) -> int:
    """What autograd keeps of a forward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    towers = recompute_blocks(model.visual, model.text) if recompute else nullcontext()
    with towers, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model.encode_image(pairs.images), model.encode_text(pairs.tokens)
        del features
    return sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize(("config", "size"), [(CONFIG, 16), (RESNET, 32)], ids=["vit", "resnet"])
@pytest.mark.parametrize("chunk", [None, 4])
def test_recomputed_blocks_give_the_same_gradient_for_less_memory(
    config: CLIPConfig, size: int, chunk: int | None
) -> None:
    plain, lean, pairs = Double(config).train(), Double(config).train(), batch(6, size=size)
    contrastive_gradients(plain, pairs, symmetric, chunk=chunk)
    with recompute_blocks(lean.visual, lean.text):
        contrastive_gradients(lean, pairs, symmetric, chunk=chunk)
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(lean.get_parameter(name).grad, parameter.grad, rtol=1e-12, atol=1e-14)
    for name, value in plain.named_buffers():
        torch.testing.assert_close(lean.get_buffer(name), value, rtol=1e-12, atol=1e-14)
    assert saved_bytes(lean, pairs, True) < 0.6 * saved_bytes(lean, pairs, False)
    assert all("forward" not in block.__dict__ for block in lean.visual.blocks)
