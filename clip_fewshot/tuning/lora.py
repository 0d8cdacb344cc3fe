"""Low-rank updates of the attention of the last N layers.

Edward J. Hu, Yelong Shen, Phillip Wallis, et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022, eq. 3:
h = (W + (alpha / r) B A) x, B (d, r) from zeros, so that training begins at the pretrained model. On query, key and
value as in Maxime Zanella, Ismail Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", 2024, sec. 3.

The sum is formed in each step, so that the folded last block works as it is. There is no dropout on x, as that
paper has: it would need A x for each token. Merged and unmerged weights are the same sum.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize

from clip_fewshot.backbones.tower import Suffix, Tower
from clip_fewshot.errors import UsageError
from clip_fewshot.tuning.last_layers import check_depth

IN_PROJECTION = "in_proj_weight"  # of our attention and torch's: query, key and value, one above the other
LINEAR_PARTS = {"qkv": 3, **dict.fromkeys(("query", "key", "value", "q_proj", "k_proj", "v_proj"), 1)}  # of others


class LowRankUpdate(nn.Module):
    """W -> W + (alpha / r) B A, with a B and an A for each of the parts that are stacked in W.

    Args:
        weight: W (parts * rows, d).
        rank: r >= 1.
        alpha: > 0.
    """

    def __init__(self, weight: Tensor, parts: int, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape[0] // parts, weight.shape[1]
        bound = columns**-0.5  # He's for a linear layer of torch
        self.down = nn.Parameter(weight.new_empty(parts, rank, columns).uniform_(-bound, bound))
        self.up = nn.Parameter(weight.new_zeros(parts, rows, rank))
        self.factor = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """W -> the sum, of the same shape."""
        return weight + self.factor * (self.up @ self.down).reshape(weight.shape)


class LowRankSuffix(Suffix):
    """A suffix in which nothing trains but low-rank updates."""

    def merge(self) -> Suffix:
        """The ordinary suffix, its attention weights the sums."""
        for block in self.blocks:
            for module, name, _ in list(_attention_weights(block)):
                if parametrize.is_parametrized(module, name):
                    parametrize.remove_parametrizations(module, name)
        return Suffix(list(self.blocks), self.tail).train(self.training).requires_grad_(False)


def add_low_rank_updates(tower: Tower, n: int, rank: int = 2, alpha: float = 1.0) -> Suffix:
    """A copy of the last ``n`` layers of ``tower`` with updates of their attention, which alone train.

    The first values of A come from torch's global generator.

    Args:
        rank: 1 to the width.
        alpha: > 0; the update is weighted with alpha / rank.

    Raises:
        UsageError: numbers outside their range, or a layer without attention.
    """
    check_depth(tower, n)
    suffix = tower.suffix(n).requires_grad_(False)
    if rank not in range(1, tower.token_features + 1) or not alpha > 0:
        expected = f"a whole rank in 1..{tower.token_features} and alpha > 0"
        raise UsageError(expected=expected, got=f"{rank} and {alpha}", fix="change them", where="lora")
    for block in suffix.blocks:
        found = list(_attention_weights(block))
        if not found:
            fix = 'choose a vision transformer, or another approach ("prolip" trains the projection of any tower)'
            raise UsageError(expected="layers with attention", got=type(block).__name__, fix=fix, where="lora")
        for module, name, parts in found:
            parametrize.register_parametrization(module, name, LowRankUpdate(getattr(module, name), parts, rank, alpha))
    return LowRankSuffix(list(suffix.blocks), suffix.tail).train(tower.training)


def _attention_weights(block: nn.Module) -> Iterator[tuple[nn.Module, str, int]]:
    """(module, name of its weight, how many parts are stacked in it) of queries, keys and values."""
    for path, module in block.named_modules():
        if isinstance(getattr(module, IN_PROJECTION, None), Tensor):
            yield module, IN_PROJECTION, 3
        elif isinstance(module, nn.Linear) and (parts := LINEAR_PARTS.get(path.rpartition(".")[2])):
            yield module, "weight", parts
