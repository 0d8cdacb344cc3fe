"""Low-rank updates: where they begin, what they become, which weights they find."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.encoder_tower import EncoderParts, EncoderTower, Pool
from clip_fewshot.backbones.resnet import ModifiedResNet
from clip_fewshot.backbones.tower import CutState, Suffix, Tower
from clip_fewshot.backbones.transformer import Perceptron
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.approach import OWN
from clip_fewshot.few_shot.model import prepare_support
from clip_fewshot.few_shot.trainer import TrainSettings, tune
from clip_fewshot.tuning import finish_tuning
from clip_fewshot.tuning.lora import LowRankUpdate, add_low_rank_updates


class OtherAttention(nn.Module):
    """One head, its parts in layers of their own, or in one."""

    def __init__(self, width: int, stacked: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width) if stacked else None
        self.query, self.key, self.value = (None if stacked else nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, -1) if self.qkv else (self.query(x), self.key(x), self.value(x))  # type: ignore
        return x + nn.functional.scaled_dot_product_attention(*parts)


def torch_block() -> nn.Module:
    return nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "torch": torch_block,
    "stacked": lambda: OtherAttention(12, stacked=True),
    "apart": lambda: OtherAttention(12, stacked=False),
}


def state_before(tower: Tower, inputs: Tensor, n: int) -> CutState:
    with torch.no_grad():
        return tower.cut(tower.advance(tower.embed(inputs), 0, tower.n_blocks - n), n)


def disturb(suffix: Suffix) -> None:
    """As a training would."""
    for module in suffix.modules():
        if isinstance(module, LowRankUpdate):
            nn.init.normal_(module.up, std=0.3)


def check_begins_and_merges(tower: Tower, inputs: Tensor, n: int) -> None:
    suffix, plain = add_low_rank_updates(tower, n, rank=3, alpha=2.0), tower.suffix(n)
    state = state_before(tower, inputs, n)
    with torch.no_grad():
        began = suffix(state)
        assert torch.allclose(began, plain(state), atol=1e-6)
        disturb(suffix)
        unmerged = suffix(state)
        merged = finish_tuning(suffix)
        assert type(merged) is Suffix
        assert torch.allclose(merged(state), unmerged, atol=1e-6)
        assert not torch.allclose(unmerged, began, atol=1e-2)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    fresh = tower.suffix(n)
    fresh.load_state_dict(merged.state_dict())
    assert torch.allclose(fresh(state), merged(state), atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_it_begins_at_the_tower_and_ends_as_an_ordinary_suffix(n: int, tiny: Backbone) -> None:
    check_begins_and_merges(tiny.visual, torch.randn(4, 3, 16, 16), n)


def test_the_text_tower_too(tiny: Backbone) -> None:
    check_begins_and_merges(tiny.text, tiny.tokenize(["a bee", "two long ants"]), 2)


@pytest.mark.parametrize("kind", BLOCKS)
def test_attention_of_others_too(kind: str) -> None:
    torch.manual_seed(0)
    blocks = [BLOCKS[kind]() for _ in range(2)]
    tower = EncoderTower(EncoderParts(nn.Linear(9, 12), blocks, Pool()), 12, 8).eval()
    check_begins_and_merges(tower, torch.randn(4, 5, 9), 1)


def test_the_sum_part_by_part(tiny: Backbone) -> None:
    torch.manual_seed(1)
    update = LowRankUpdate(torch.zeros(3 * 8, 6), parts=3, rank=2, alpha=5.0)
    nn.init.normal_(update.up)
    update.requires_grad_(False)
    weight = torch.randn(24, 6)
    slow = weight.clone().double()
    for part in range(3):
        for row in range(8):
            for column in range(6):
                for r in range(2):
                    product = float(update.up[part, row, r]) * float(update.down[part, r, column])
                    slow[part * 8 + row, column] += 2.5 * product
    assert torch.allclose(update(weight).double(), slow, atol=1e-6)


def test_nothing_else_trains_and_nothing_before_the_cut_runs(tiny: Backbone, split: OpenWorldSplit) -> None:
    data = prepare_support(tiny, split.support, [1, 2], views=1, seed=0, reads_texts=True)
    own, rows = set(tiny.visual.modules()), []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, Perceptron):
            assert module not in own
            rows.append(len(inputs[0]))

    approach, settings = OWN["lora"], TrainSettings(epochs=1, min_steps=5, batch=8)
    with torch.nn.modules.module.register_module_forward_hook(count):  # type: ignore[arg-type]
        tuned = tune(tiny, approach, approach.at({"unfreeze": 2}), data, settings, seed=0)
    assert rows == [8] * 2 * 5
    assert tuned.losses[-1] != tuned.losses[0]
    before = tiny.visual.suffix(2).state_dict()
    moved = {name for name, value in tuned.suffix.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"blocks.0.attn.in_proj_weight", "blocks.1.attn.in_proj_weight"}
    change = tuned.suffix.state_dict()["blocks.0.attn.in_proj_weight"] - before["blocks.0.attn.in_proj_weight"]
    for part in change.chunk(3):
        assert torch.linalg.matrix_rank(part.double(), rtol=1e-3) <= 2


def test_a_tower_without_attention_is_refused() -> None:
    with pytest.raises(UsageError, match=r"layers with attention.*Bottleneck"):
        add_low_rank_updates(ModifiedResNet(32, (1, 1, 1, 1), 8, 2, 16), 1)


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (33, 1.0), (2, 0.0)])
def test_numbers_outside_their_range_are_refused(rank: int, alpha: float, tiny: Backbone) -> None:
    with pytest.raises(UsageError, match="rank"):
        add_low_rank_updates(tiny.visual, 1, rank, alpha)
