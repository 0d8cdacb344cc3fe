"""Cuts, suffixes and "the last N layers"."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.tower import CutState, OneRow, Tower
from clip_fewshot.errors import UsageError
from tests.backbones.conftest import SMALL, pixels

TEXTS = ["a bee", "a photo of two bees and a flower"]


def towers(backbone: Backbone) -> list[tuple[Tower, Tensor]]:
    return [(backbone.visual, pixels(backbone.config)), (backbone.text, backbone.tokenize(TEXTS))]


@torch.no_grad()
def test_every_cut_continues_to_the_same_features(small: Backbone) -> None:
    for tower, inputs in towers(small):
        whole, start = tower(inputs), tower.embed(inputs)
        assert whole.shape == (2, tower.out_features)
        for n in range(tower.n_blocks + 1):
            state = tower.advance(start, 0, tower.n_blocks - n)
            torch.testing.assert_close(tower.suffix(n)(state), whole, rtol=0, atol=2e-6)
            # the long way: every token through every block
            after = tower.advance(state, tower.n_blocks - n, tower.n_blocks)
            torch.testing.assert_close(tower.project(after), whole, rtol=0, atol=2e-6)


def test_the_one_row_of_the_last_block_has_the_gradients_of_all_rows(small: Backbone) -> None:
    """In float64, against the long way through the whole block; the key bias, whose true gradient is 0, left out."""
    double = copy.deepcopy(small).double()
    for tower, inputs in towers(small):
        if not isinstance(tower.blocks[-1], OneRow):
            continue
        wide = double.visual if tower is small.visual else double.text
        pixels_or_tokens = inputs.double() if inputs.is_floating_point() else inputs
        for n in (1, 2):
            with torch.no_grad():
                state = wide.advance(wide.embed(pixels_or_tokens), 0, wide.n_blocks - n)
            weights = torch.randn(wide.out_features, dtype=torch.float64)
            ((wide._view(n)(state) @ weights).sum()).backward()
            short = {name: p.grad.clone() for name, p in wide.named_parameters() if p.grad is not None}
            wide.zero_grad()
            after = wide.advance(state, wide.n_blocks - n, wide.n_blocks)
            (wide.project(after) @ weights).sum().backward()
            long = {name: p.grad.clone() for name, p in wide.named_parameters() if p.grad is not None}
            wide.zero_grad()
            assert short.keys() == long.keys() == set(wide.last_parameters(n))
            for name, gradient in long.items():
                torch.testing.assert_close(short[name], gradient, rtol=1e-9, atol=1e-11)


def test_a_cut_before_the_last_block_holds_normalised_tokens(small: Backbone) -> None:
    for tower, inputs in towers(small):
        with torch.no_grad():
            raw = tower.advance(tower.embed(inputs), 0, tower.n_blocks - 1)
            state, suffix = tower.cut(raw, 1), tower.suffix(1)
            torch.testing.assert_close(suffix(state), suffix(raw), rtol=0, atol=2e-6)
        if isinstance(tower.blocks[-1], OneRow):
            assert state.token is not None
            assert torch.equal(state.token, raw.tokens[torch.arange(2), raw.position])
            torch.testing.assert_close(
                state.tokens.var(dim=-1, unbiased=False), torch.ones(state.tokens.shape[:2]), rtol=0, atol=1e-2
            )
            with pytest.raises(UsageError, match="normalised"):
                suffix.tokens(state)  # a head that pools by itself reads every token
            with pytest.raises(UsageError, match="raw tokens"):
                tower.blocks[-1].forward_row(raw)
        else:
            assert state is raw


def test_the_one_query_of_the_attention_pool_has_the_gradients_of_keys_and_values(small: Backbone) -> None:
    """In float64, against torch's own multi-head attention."""
    if isinstance(small.visual.blocks[-1], OneRow):
        pytest.skip("this tower has no attention pool")
    pool = copy.deepcopy(small.visual.tail()).double()
    state = CutState(
        torch.rand(3, pool.k_proj.in_features, 2, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    )
    weights = torch.randn(small.visual.out_features, dtype=torch.float64)

    def long_way() -> Tensor:
        tokens = pool.tokens(state).transpose(0, 1)
        mixed, _ = torch.nn.functional.multi_head_attention_forward(
            tokens[:1], tokens, tokens, tokens.shape[2], pool.heads, None,
            torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]), None, None, False, 0.0,
            pool.c_proj.weight, pool.c_proj.bias, use_separate_proj_weight=True,
            q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
        )  # fmt: skip
        return mixed[0]

    gradients = []
    for forward in (long_way, lambda: pool(state)):
        pool.zero_grad()
        (forward() @ weights).sum().backward()
        gradients.append({name: p.grad for name, p in pool.named_parameters() if name != "k_proj.bias"})
    torch.testing.assert_close(long_way(), pool(state), rtol=1e-10, atol=1e-12)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-11)


@torch.no_grad()
def test_tokens_before_pooling_lead_to_the_features(small: Backbone) -> None:
    for tower, inputs in towers(small):
        suffix, state = tower.suffix(1), tower.advance(tower.embed(inputs), 0, tower.n_blocks - 1)
        tokens = suffix.tokens(state)
        assert tokens.shape[::2] == (2, tower.token_features)
        if hasattr(suffix.tail, "projection"):
            read = tokens[torch.arange(2), state.position] @ suffix.tail.projection
            torch.testing.assert_close(read, suffix(state), rtol=0, atol=3e-6)
        else:
            assert tokens.shape[1] == 1 + 2 * 2  # the mean and the places of a 64-pixel picture


def test_the_last_layers_of_a_vision_transformer_are_exactly_these() -> None:
    visual = build_backbone(SMALL["vit"]).visual
    block = "attn.in_proj_weight attn.in_proj_bias attn.out_proj.weight attn.out_proj.bias ln_1.weight ln_1.bias " + (
        "mlp.c_fc.weight mlp.c_fc.bias mlp.c_proj.weight mlp.c_proj.bias ln_2.weight ln_2.bias"
    )
    tail = {"ln_post.weight", "ln_post.bias", "proj"}
    assert visual.last_parameters(0) == []
    for n in range(1, 4):
        blocks = {f"transformer.resblocks.{i}.{name}" for i in range(3 - n, 3) for name in block.split()}
        assert set(visual.last_parameters(n)) == blocks | tail
    stem = {name for name, _ in visual.named_parameters()} - set(visual.last_parameters(3))
    assert stem == {"class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight", "ln_pre.bias"}


def test_the_last_layers_of_the_others_end_at_their_stems() -> None:
    text = build_backbone(SMALL["vit"]).text
    assert {name for name, _ in text.named_parameters()} - set(text.last_parameters(text.n_blocks)) == {
        "token_embedding.weight",
        "positional_embedding",
    }
    resnet = build_backbone(SMALL["resnet"]).visual
    assert resnet.n_blocks == 5
    two = {name.split(".")[0] for name in resnet.last_parameters(2)}
    assert two == {"layer3", "layer4", "attnpool"}
    rest = {name for name, _ in resnet.named_parameters()} - set(resnet.last_parameters(5))
    assert {name.split(".")[0] for name in rest} == {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}


def test_a_suffix_holds_what_last_parameters_names(small: Backbone) -> None:
    for tower, _ in towers(small):
        sizes = {name: parameter.numel() for name, parameter in tower.named_parameters()}
        for n in range(1, tower.n_blocks + 1):
            suffix = tower.suffix(n)
            assert sum(p.numel() for p in suffix.parameters()) == sum(sizes[name] for name in tower.last_parameters(n))
            assert all(p.requires_grad and p.dtype == torch.float32 for p in suffix.parameters())
        assert not any(p.requires_grad for p in tower.suffix(0).parameters())


def test_training_a_suffix_leaves_the_tower_alone(small: Backbone) -> None:
    for tower, inputs in towers(small):
        before = copy.deepcopy(tower.state_dict())
        suffix = tower.suffix(2).train()
        with torch.no_grad():
            state = tower.advance(tower.embed(inputs), 0, tower.n_blocks - 2)
        optimiser = torch.optim.SGD(suffix.parameters(), lr=0.1)
        statistics = {name: buffer.clone() for name, buffer in suffix.named_buffers()}
        first = suffix(state)
        first.square().mean().backward()
        missing = [name for name, p in suffix.named_parameters() if p.grad is None]
        assert missing in ([], ["tail.k_proj.bias"])  # it cancels in the softmax: its true gradient is 0
        optimiser.step()
        assert not torch.equal(suffix(state), first)
        assert all(torch.equal(buffer, statistics[name]) for name, buffer in suffix.named_buffers())
        assert all(torch.equal(tensor, before[name]) for name, tensor in tower.state_dict().items())
        assert all(p.grad is None for p in tower.parameters())


@pytest.mark.parametrize("n", [-1, 4])
def test_layers_that_do_not_exist_are_refused(n: int) -> None:
    visual = build_backbone(SMALL["vit"]).visual
    with pytest.raises(UsageError, match=r"0\.\.3"):
        visual.suffix(n)
    with pytest.raises(UsageError, match="choose blocks that exist"):
        visual.advance(visual.embed(pixels(SMALL["vit"])), 0, n)


@torch.no_grad()
def test_texts_are_cut_after_the_longest_without_changing_features(small: Backbone) -> None:
    tokens = small.tokenize([*TEXTS, "<|endoftext|> after the end"])
    short = small.trim(tokens)
    assert short.shape == (3, 10)
    torch.testing.assert_close(small.text(short), small.text(tokens), rtol=0, atol=2e-6)
    assert small.trim(tokens[:0]).shape == (0, 77)
    with pytest.raises(UsageError, match="at most 77 tokens"):
        small.text(torch.zeros(1, 78, dtype=torch.int64))
