"""The stored prefix equals the long way, picture by picture and cut by cut."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import CutState
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.features.encode import encode_images, encode_texts, image_batches, image_features, image_prefix
from clip_fewshot.features.prefix import replay, run_prefix
from clip_fewshot.tuning.last_layers import copy_last_layers, describe_last_layers


def test_every_cut_replays_to_the_full_forward(tiny: Backbone, split: OpenWorldSplit) -> None:
    images = split.support
    prefix = image_prefix(tiny, images, range(tiny.visual.n_blocks + 1))
    with torch.no_grad():
        expected = torch.cat([tiny.encode_image(batch) for batch in image_batches(tiny, images)])
    for n in range(tiny.visual.n_blocks + 1):  # states in half precision, features of the frozen tower in single
        torch.testing.assert_close(
            replay(prefix, n, copy_last_layers(tiny.visual, n)), expected, rtol=0, atol=2e-3 if n else 1e-6
        )


def test_views_lie_next_to_each_other_and_the_second_is_the_mirror_image(tiny: Backbone, split: OpenWorldSplit) -> None:
    images = split.support.subset(np.arange(5))
    both = image_prefix(tiny, images, [1], views=2)
    plain = image_prefix(tiny, images, [1])
    items = torch.arange(5)
    torch.testing.assert_close(both.rows(1, items, 0).tokens, plain.rows(1, items).tokens, rtol=0, atol=1e-6)
    with torch.no_grad():
        mirrored = torch.stack([tiny.preprocess(images.open(i)).flip(-1) for i in range(5)])
        state = tiny.visual.advance(tiny.visual.embed(mirrored), 0, tiny.visual.n_blocks - 1)
    state = tiny.visual.cut(state, 1)
    torch.testing.assert_close(both.rows(1, items, 1).tokens, state.tokens, rtol=0, atol=2e-3)
    torch.testing.assert_close(both.rows(1, items, 1).token, state.token, rtol=0, atol=1e-6)


def test_a_subset_keeps_all_views_of_its_items(tiny: Backbone, split: OpenWorldSplit) -> None:
    prefix = image_prefix(tiny, split.support.subset(np.arange(6)), [0, 2], views=2)
    part = prefix.subset(np.array([4, 1]))
    assert len(part) == 2
    for view in (0, 1):
        mine, whole = part.rows(2, torch.tensor([0, 1]), view), prefix.rows(2, torch.tensor([4, 1]), view)
        assert isinstance(mine, CutState)
        assert torch.equal(mine.tokens, whole.tokens)


def test_one_pass_serves_suffixes_of_any_depth(tiny: Backbone, split: OpenWorldSplit) -> None:
    suffixes = [(n, copy_last_layers(tiny.visual, n)) for n in (2, 0, 3, 2)]
    features = image_features(tiny, split.support, suffixes)
    reference = encode_images(tiny, split.support)
    for values in features:
        np.testing.assert_allclose(values, reference.features, rtol=0, atol=1e-6)
    assert reference.digests == split.support.digests


def test_no_pictures_give_no_rows(tiny: Backbone, split: OpenWorldSplit) -> None:
    (none,) = image_features(
        tiny, split.support.subset(np.array([], dtype=np.int64)), [(0, copy_last_layers(tiny.visual, 0))]
    )
    assert none.shape == (0, tiny.visual.out_features)


def test_texts_of_any_number_and_length_are_encoded_alike(tiny: Backbone) -> None:
    texts = ["a bee", "a photo of a very long sentence about a bee in a garden"]
    together = encode_texts(tiny, texts)
    alone = np.concatenate([encode_texts(tiny, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_what_trains_is_listed_exactly(tiny: Backbone, n: int) -> None:
    listed = [line.split()[0] for line in describe_last_layers(tiny.visual, n).splitlines()[:-1]]
    trainable = sum(p.numel() for p in copy_last_layers(tiny.visual, n).parameters() if p.requires_grad)
    sizes = dict(tiny.visual.named_parameters())
    assert sum(sizes[name].numel() for name in listed) == trainable


@pytest.mark.parametrize(("half", "bound"), [(False, 2e-6), (True, 1e-3)], ids=["single", "half"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_gradients_are_those_of_the_whole_tower(tiny: Backbone, half: bool, bound: float, n: int) -> None:
    """Through the stored cut and the folded last block, against all layers and all tokens, as everybody trains."""
    inputs = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    target = torch.randn(6, tiny.visual.out_features, generator=torch.Generator().manual_seed(2))
    whole = copy.deepcopy(tiny.visual)
    state = whole.advance(whole.embed(inputs), 0, whole.n_blocks)
    (whole.project(state) * target).sum().backward()
    suffix = tiny.visual.suffix(n)
    prefix = run_prefix(tiny.visual, [inputs], [n], half=half)
    (suffix(prefix.rows(n, torch.arange(6))) * target).sum().backward()
    expected = dict(whole._view(n).named_parameters())
    width = tiny.visual.token_features
    for name, parameter in suffix.named_parameters():
        mine, theirs = parameter.grad, expected[name].grad
        assert mine is not None
        assert theirs is not None
        if name.endswith("in_proj_bias"):  # the key bias cancels: its true gradient is 0, both sides hold rounding
            mine, theirs = (torch.cat([g[:width], g[2 * width :]]) for g in (mine, theirs))
        assert (mine - theirs).abs().max() <= bound * theirs.abs().max(), name
