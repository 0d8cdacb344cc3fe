"""The prefix from disk is the prefix computed, row by row, and what cannot be stored is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.errors import UsageError
from clip_fewshot.features import encode, stored_prefix
from clip_fewshot.features.encode import image_batches, image_prefix, text_prefix
from clip_fewshot.features.prefix import InMemory, OnDisk, Prefix, run_prefix
from clip_fewshot.runtime.files import cache_root
from clip_fewshot.runtime.row_cache import ROWS_FILE
from clip_fewshot.tuning.last_layers import copy_last_layers
from tests.conftest import TINY

RESNET = CLIPConfig(
    embed_dim=16, image_size=64, vision_layers=(1, 1, 1, 1), vision_width=8, vision_heads=8, patch_size=None,
    text_width=16, text_layers=1, text_heads=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["vit", "resnet"])
def backbone(request: pytest.FixtureRequest, tiny: Backbone) -> Backbone:
    return tiny if request.param == "vit" else build_backbone(RESNET, seed=0, name="small resnet")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of inputs of each forward pass through frozen layers."""
    counts: list[int] = []
    freeze = stored_prefix.freeze

    def counted(tower: nn.Module, inputs: torch.Tensor, *rest: object) -> object:
        counts.append(len(inputs))
        return freeze(tower, inputs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stored_prefix, "freeze", counted)
    return counts


def assert_same(one: Prefix, other: Prefix, depths: range, rounding: float = 0.0) -> None:
    """Equal rows; another grouping into batches is allowed ``rounding``."""
    assert len(one) == len(other)
    items = torch.arange(len(one))
    for view in range(one.views):
        torch.testing.assert_close(
            one.frozen_features(items, view), other.frozen_features(items, view), rtol=0, atol=rounding
        )
        for n in depths:
            mine, theirs = one.rows(n, items, view), other.rows(n, items, view)
            assert mine.tokens.dtype == torch.float32
            largest = float(theirs.tokens.abs().max())  # halves next to each other differ by 1/1024
            torch.testing.assert_close(mine.tokens, theirs.tokens, rtol=0, atol=(rounding > 0) * largest / 1024)
            assert torch.equal(mine.position, theirs.position)
            assert (mine.token is None) == (theirs.token is None)
            assert mine.token is None or (mine.token - theirs.token).abs().max() <= rounding  # type: ignore[operator]


@pytest.mark.parametrize("memory", [None, 0], ids=["in memory", "mapped"])
@pytest.mark.parametrize("views", [1, 2])
def test_equals_the_pass_that_keeps_all_in_memory(
    backbone: Backbone, split: OpenWorldSplit, passes: list[int], memory: int | None, views: int
) -> None:
    images, cuts = split.support, range(backbone.visual.n_blocks + 1)
    long_way = run_prefix(backbone.visual, image_batches(backbone, images, views), cuts, views)
    computed = image_prefix(backbone, images, cuts, views, memory)
    assert passes == [8 * views] * -(-len(images) // 8)  # the last batch is filled up
    read = image_prefix(backbone, images, cuts, views, memory)
    assert len(passes) == -(-len(images) // 8)  # nothing computed again
    assert_same(read, computed, cuts[1:])
    for prefix in (computed, read):
        assert_same(prefix, long_way, cuts[1:], 2e-6)
        assert {type(cut.tokens) for cut in prefix.cuts.values()} == {OnDisk if memory == 0 else InMemory}


def test_wide_maps_pass_in_the_small_batches_that_their_tower_wants(
    tiny: Backbone, split: OpenWorldSplit, passes: list[int]
) -> None:
    narrow = copy.deepcopy(tiny)
    narrow.visual.widest = 3
    found = image_prefix(narrow, split.support, [1], views=2)
    assert passes == [6] * 10  # 28 pictures with their mirror images, the last batch filled up
    assert [len(batch) for batch in image_batches(narrow, split.support)] == [3] * 9 + [1]
    assert [len(batch) for batch in image_batches(narrow, split.support, batch=20)] == [20, 8]
    assert [len(batch) for batch in image_batches(tiny, split.support)] == [28]
    assert_same(found, run_prefix(tiny.visual, image_batches(tiny, split.support, 2), [1], 2), range(1, 2), 2e-6)


def test_sets_that_overlap_share_rows(tiny: Backbone, split: OpenWorldSplit, passes: list[int]) -> None:
    some, all_of_them = split.support.subset(np.arange(5)), split.support
    image_prefix(tiny, some, [1, 2])
    image_prefix(tiny, all_of_them, [2])
    assert len(passes) == 1 + 3  # 5 of 28 pictures, then 23
    image_prefix(tiny, all_of_them, [1])
    assert len(passes) == 4 + 3  # cut 1 of the first five is there
    image_prefix(tiny, some, [1], views=2)
    assert passes[7:] == [16]  # the mirror images are not


@pytest.mark.parametrize("change", ["weights", "preprocessing"])
def test_another_model_shares_nothing(tiny: Backbone, split: OpenWorldSplit, passes: list[int], change: str) -> None:
    image_prefix(tiny, split.support, [1])
    other = copy.deepcopy(tiny)
    if change == "weights":
        with torch.no_grad():
            next(other.visual.parameters()).view(-1)[0] += 1e-3
    else:
        other.mean = (0.5, 0.5, 0.5)
    image_prefix(other, split.support, [1])
    assert len(passes) == 2 * 4


def test_a_damaged_row_is_computed_again(tiny: Backbone, split: OpenWorldSplit, passes: list[int]) -> None:
    first = image_prefix(tiny, split.support, [1, 2])
    for path in cache_root().glob(f"prefix/*/{ROWS_FILE}"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
    again = image_prefix(tiny, split.support, [1, 2])
    assert 4 < len(passes) < 8
    assert_same(again, first, range(1, 3))


def test_values_beyond_half_precision_are_kept_in_single(
    tiny: Backbone, split: OpenWorldSplit, passes: list[int]
) -> None:
    loud = copy.deepcopy(tiny)
    with torch.no_grad():
        loud.visual.blocks[0].mlp.c_proj.bias.fill_(1e5)  # type: ignore[union-attr]
    cuts, images = [1, 2], split.support
    prefix = image_prefix(loud, images, cuts)
    assert prefix.rows(2, torch.arange(3)).tokens.max() > 65504
    long_way = run_prefix(loud.visual, image_batches(loud, images), cuts, half=False)
    assert_same(prefix, long_way, range(1, 3), 2e-6)
    before = len(passes)
    assert_same(image_prefix(loud, images, cuts), prefix, range(1, 3))
    assert len(passes) == before
    assert run_prefix(loud.visual, image_batches(loud, images), [2]).rows(2, torch.arange(1)).tokens.isfinite().all()


def test_a_disk_that_refuses_leaves_all_in_memory(
    tiny: Backbone, split: OpenWorldSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="not cached"):
        prefix = image_prefix(tiny, split.support, [1, 2], memory=0)
    assert_same(prefix, run_prefix(tiny.visual, image_batches(tiny, split.support), [1, 2]), range(1, 3), 2e-6)


def test_rows_on_disk_travel_to_another_process_as_a_path(tiny: Backbone, split: OpenWorldSplit) -> None:
    mapped = image_prefix(tiny, split.support, [2], memory=0)
    mapped.rows(2, torch.arange(2))  # now it is mapped here
    sent = pickle.dumps(mapped.cuts[2].tokens)
    assert len(sent) < 2000
    travelled = replace(mapped, cuts={2: replace(mapped.cuts[2], tokens=pickle.loads(sent))})
    assert_same(travelled, mapped, range(2, 3))
    held, items = image_prefix(tiny, split.support, [2]), torch.arange(3)
    travelled_too = pickle.loads(pickle.dumps(held.cuts[2].tokens))
    assert torch.equal(travelled_too.take(items), held.rows(2, items).tokens)


def test_captions_are_encoded_once(tiny: Backbone, passes: list[int]) -> None:
    texts = ["a bee", "a photo of a bee in a garden", "a bee"]
    prefix = text_prefix(tiny, texts, [0, 1, 2])
    again = text_prefix(tiny, texts, [1, 2])
    assert passes == [16]  # two distinct ones, filled up
    assert_same(again, prefix, range(1, 3))
    with torch.no_grad():
        expected = tiny.encode_text(tiny.tokenize(texts))
        for n in (0, 1, 2):
            got = prefix.outputs(n, copy_last_layers(tiny.text, n), torch.arange(3))
            torch.testing.assert_close(got, expected, rtol=0, atol=2e-3 if n else 1e-6)


class Restless(nn.Module):
    """A block that is not the same twice."""

    def __init__(self, block: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.block, self.layer = block, layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.block(x))  # type: ignore[no-any-return]


def test_frozen_layers_that_change_are_refused(tiny: Backbone, split: OpenWorldSplit) -> None:
    dropping = build_backbone(TINY, seed=0)
    blocks = dropping.visual.transformer.resblocks  # type: ignore[union-attr]
    blocks[0] = Restless(blocks[0], nn.Dropout(0.1))  # type: ignore[index,operator]
    dropping.eval()
    assert len(image_prefix(dropping, split.support, [1])) == len(split.support)  # at rest in eval mode
    dropping.train()
    with pytest.raises(UsageError, match=r"Dropout transformer\.resblocks\.0\.layer in training mode.*eval"):
        image_prefix(dropping, split.support, [1])
    moving = build_backbone(RESNET, seed=0).train()
    with pytest.raises(UsageError, match=r"BatchNorm2d bn1 in training mode"):
        run_prefix(moving.visual, image_batches(moving, split.support), [1])
    with pytest.raises(UsageError, match="BatchNorm2d"):
        encode.image_features(moving, split.support, [(1, copy_last_layers(moving.visual, 1))])


def test_no_inputs(tiny: Backbone, split: OpenWorldSplit) -> None:
    nothing = split.support.subset(np.arange(0))
    assert encode.encode_images(tiny, nothing).features.shape == (0, tiny.visual.out_features)
    with pytest.raises(UsageError, match="at least one input"):
        image_prefix(tiny, nothing, [1])


def test_a_pass_that_is_cut_short_leaves_what_it_finished(
    tiny: Backbone, split: OpenWorldSplit, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = encode.image_batches

    def interrupted(backbone: Backbone, images: ImageDataset, views: int, batch: int) -> Iterator[torch.Tensor]:
        for i, inputs in enumerate(batches(backbone, images, views, batch)):
            if i == 2:
                raise KeyboardInterrupt
            yield inputs

    monkeypatch.setattr(encode, "image_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        image_prefix(tiny, split.support, [1])
    monkeypatch.setattr(encode, "image_batches", batches)
    resumed = image_prefix(tiny, split.support, [1])
    assert len(passes) == 4
    assert_same(resumed, image_prefix(tiny, split.support, [1]), range(1, 2))
