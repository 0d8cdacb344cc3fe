"""Encoders of others as towers: equal to themselves, and cut where they can be cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.encoder_tower import EncoderParts, EncoderTower, Pool
from clip_fewshot.backbones.encoders import ImageEncoder, TextEncoder
from clip_fewshot.backbones.shapes import strip_classifier
from clip_fewshot.errors import UsageError
from clip_fewshot.features.prefix import replay, run_prefix, run_suffixes
from tests.backbones import encoders as made
from tests.backbones.encoders import SIZE, WIDTH, Bag, Bert, Letters, image_encoder, text_encoder

TEXTS = ["a bee", "two", "a field of reeds"]
IMAGES = {"resnet": made.ResNet, "efficientnet": made.EfficientNet, "vit": made.VisionTransformer}
BLOCKS = {"resnet": 5, "efficientnet": 2, "vit": 3}


def pixels(n: int = 3) -> Tensor:
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def each_tower() -> list[tuple[EncoderTower, Tensor]]:
    encoder = text_encoder()
    images = [(image_encoder(kind).tower(8), pixels()) for kind in IMAGES.values()]
    return [*images, (encoder.tower(8), encoder.rows(TEXTS, False))]


@pytest.mark.parametrize("name", IMAGES)
@torch.no_grad()
def test_an_encoder_of_pictures_gives_its_own_features(name: str) -> None:
    encoder = image_encoder(IMAGES[name])
    tower = encoder.tower(8)
    assert (tower.n_blocks, tower.token_features, tower.out_features) == (BLOCKS[name], WIDTH, 8)
    torch.testing.assert_close(tower.trunk()(pixels()), strip_classifier(encoder.module)(pixels()))
    assert encoder.module(pixels()).shape == (3, made.CLASSES)  # the given one keeps its classifier
    assert not any(parameter.shape[0] == made.CLASSES for parameter in tower.parameters())


@pytest.mark.parametrize("pool", ["mean", "first", "end", "pooler"])
@torch.no_grad()
def test_an_encoder_of_texts_gives_its_own_features(pool: str) -> None:
    encoder = text_encoder(pool)
    tower, ids = encoder.tower(8), encoder.rows(TEXTS, False)
    output = encoder.module(ids, (ids != 0).long())
    states, lengths = output.last_hidden_state, [len(Letters()(text)) for text in TEXTS]
    expected = {
        "mean": torch.stack([row[:length].mean(0) for row, length in zip(states, lengths, strict=True)]),
        "first": states[:, 0],
        "end": torch.stack([row[length - 1] for row, length in zip(states, lengths, strict=True)]),
        "pooler": output.pooler_output,
    }[pool]
    assert tower.n_blocks == 3
    torch.testing.assert_close(tower.trunk()(ids), expected, rtol=0, atol=1e-6)
    assert any("pooler" in name or "module.dense" in name for name in tower.state_dict()) == (pool == "pooler")


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    encoder = text_encoder()
    tower = encoder.tower(8)
    for text in TEXTS:
        alone = torch.tensor([Letters()(text)])
        torch.testing.assert_close(tower(encoder.rows([text], False)), tower(alone), rtol=0, atol=1e-6)
    assert tower.ends(encoder.rows(TEXTS, False)).tolist() == [len(Letters()(text)) - 1 for text in TEXTS]


@torch.no_grad()
def test_every_cut_continues_to_the_same_features() -> None:
    for tower, inputs in each_tower():
        whole = tower(inputs)
        for n in range(tower.n_blocks + 1):
            state = tower.advance(tower.embed(inputs), 0, tower.n_blocks - n)
            torch.testing.assert_close(tower.suffix(n)(tower.cut(state, n)), whole)
        cuts = range(tower.n_blocks + 1)
        stored = run_prefix(tower, [inputs], cuts, half=False)
        for n in cuts:
            torch.testing.assert_close(replay(stored, n, tower.suffix(n)), whole)
        passed = run_suffixes(tower, [inputs], [(n, tower.suffix(n)) for n in cuts])
        for features in passed:
            torch.testing.assert_close(features, whole)


@torch.no_grad()
def test_tokens_for_heads_that_pool_by_themselves() -> None:
    for tower, inputs in each_tower():
        tokens = tower.suffix(1).tokens(tower.advance(tower.embed(inputs), 0, tower.n_blocks - 1))
        assert tokens.shape[::2] == (3, WIDTH)
        pooled = tower.tail()(tower.advance(tower.embed(inputs), 0, tower.n_blocks))
        if isinstance(tower.pool.norm, nn.Identity) and tower.pool.how == "all":
            torch.testing.assert_close(tower.projection(tokens.mean(1)), pooled)


@torch.no_grad()
def test_a_sequence_is_cut_where_parameters_begin() -> None:
    net = made.sequential()
    tower = ImageEncoder(net, SIZE).tower(8)
    assert [len(list(block.parameters())) for block in tower.blocks] == [2, 2]
    torch.testing.assert_close(tower.trunk()(pixels()), net(pixels()))


@torch.no_grad()
def test_whatever_gives_features_is_one_block() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x)
            return out

    odd = Odd()
    tower = ImageEncoder(odd, SIZE).tower(8)
    assert tower.n_blocks == 1
    torch.testing.assert_close(tower.trunk()(pixels()), odd(pixels()).mean((2, 3)))
    assert ImageEncoder(made.ResNet(), SIZE, whole=True).tower(8).token_features == made.CLASSES

    encoder = TextEncoder(Bag(), Letters(), context_length=20)
    text, ids = encoder.tower(8), encoder.rows(TEXTS, False)
    assert text.n_blocks == 1
    torch.testing.assert_close(text.trunk()(ids), encoder.module(ids, (ids != 0).long()))
    stored = run_prefix(text, [ids], [1])  # ids go through the cut
    torch.testing.assert_close(replay(stored, 1, text.suffix(1)), text(ids))
    torch.testing.assert_close(text_encoder(whole=True).tower(8).trunk()(ids), text_encoder().tower(8).trunk()(ids))


@torch.no_grad()
def test_parts_of_the_users_own() -> None:
    net = made.sequential()
    parts = EncoderParts(net[:3], [net[3], net[4]], Pool("all"))
    tower = ImageEncoder(net, SIZE, parts=parts).tower(8)
    assert tower.n_blocks == 2
    torch.testing.assert_close(tower.trunk()(pixels()), net(pixels()))


@torch.no_grad()
def test_what_only_looks_like_a_known_shape_is_one_block() -> None:
    class Doubled(made.ResNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(2 * x)

    class Shifted(Bert):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            return super().forward((input_ids + 1) % 40, attention_mask)

    doubled, shifted = Doubled().eval(), Shifted().eval()
    tower = ImageEncoder(doubled, SIZE).tower(8)
    assert (tower.n_blocks, tower.token_features) == (1, WIDTH)  # without its classifier all the same
    torch.testing.assert_close(tower.trunk()(pixels()), strip_classifier(doubled)(pixels()))
    encoder = TextEncoder(shifted, Letters(), "first", context_length=20)
    text, ids = encoder.tower(8), encoder.rows(TEXTS, False)
    assert text.n_blocks == 1
    torch.testing.assert_close(text.trunk()(ids), shifted(ids, (ids != 0).long()).last_hidden_state[:, 0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ImageEncoder(nn.Linear(5, 3), SIZE).tower(8), "encoder of inputs"),
        (lambda: ImageEncoder(nn.Flatten(0), SIZE).tower(8), "end the encoder or its parts with a pooling"),
        (lambda: TextEncoder(Bert(longest=10), Letters(), context_length=20).tower(8), "context length"),
        (lambda: TextEncoder(Bert(), Letters(), "average"), "mean, first, end or pooler"),
        (lambda: text_encoder().rows(["a long text of many words"], False), "at most 20 tokens, got 27 in 'a long"),
        (lambda: TextEncoder(Bert(), lambda text: []).rows([""], False), "at least one token"),
    ],
)
def test_a_users_mistake_is_explained(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


def test_a_text_is_cut_before_its_end() -> None:
    (row,) = text_encoder().rows(["a long text of many words"], True).tolist()
    assert (len(row), row[-1], row[:5]) == (20, 2, Letters()("a long text of many words")[:5])


@torch.no_grad()
def test_without_padding_of_its_own_a_tokenizer_is_padded_by_what_no_text_contains() -> None:
    encoder, bare = text_encoder(), TextEncoder(text_encoder().module, Letters(pad=-1), context_length=20)
    ids = bare.rows(TEXTS, False)
    assert int(ids.min()) == -1
    torch.testing.assert_close(bare.tower(8).trunk()(ids), encoder.tower(8).trunk()(encoder.rows(TEXTS, False)))
