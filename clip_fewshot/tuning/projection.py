"""The visual projection alone trains, held near the pretrained one.

Mohammad Fahes, Tuan-Hung Vu, Andrei Bursuc, Patrick Perez, Raoul de Charette, "CLIP's Visual Embedding Projector is a
Few-shot Cornucopia", 2026 (ProLIP): the loss is cross-entropy(s norm(z P) M) + l ||P - P0||^2 with l = 1 / shots, where
z is what enters the projection, M the texts of the classes and s CLIP's scale. RLA, its form for towers whose
projection is not at hand, puts a matrix that begins as the identity behind the features.

What enters the projection does not change: it is computed once per picture, and a step is one product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.encoder_tower import Pool, PooledTail, replace_modules
from clip_fewshot.backbones.resnet import AttentionPool
from clip_fewshot.backbones.tower import CutState, Suffix, Tail, Tower
from clip_fewshot.backbones.transformer import TokenTail
from clip_fewshot.errors import UsageError
from clip_fewshot.tuning.last_layers import check_depth


class ProjectedSuffix(Suffix):
    """Frozen blocks and pooling, then a projection P = P0 + D of which D trains from zeros.

    With D in place of P the optimiser's weight decay draws to P0 too, and not to zero.

    Args:
        blocks, tail: state at the cut -> (b, w).
        projection: (w, d), P0.
        bias: (d,) that follows it and does not train, or None.
        pull: l times the shots, >= 0; 1 is the paper's.
    """

    projection: Tensor
    bias: Tensor | None

    def __init__(
        self, blocks: Sequence[nn.Module], tail: Tail, projection: Tensor, bias: Tensor | None, pull: float
    ) -> None:
        super().__init__(blocks, tail)
        if not pull >= 0:
            fix = "1 is the usual one, 0 lets the projection go"
            raise UsageError(expected="a pull >= 0", got=f"{pull}", fix=fix, where="`pull`")
        self.requires_grad_(False)
        self.register_buffer("projection", projection.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.update, self.pull = nn.Parameter(torch.zeros_like(projection)), pull

    def forward(self, state: CutState) -> Tensor:
        """State at the cut -> (b, d) features, not normalised."""
        return self.after(self.before(state))

    def before(self, state: CutState) -> Tensor:
        """State at the cut -> (b, w), what enters the projection."""
        return super().forward(state)

    def after(self, held: Tensor) -> Tensor:
        """(b, w) -> (b, d) features."""
        features = held @ (self.projection + self.update)
        return features if self.bias is None else features + self.bias

    def penalty(self, shots: float) -> Tensor:
        """l ||P - P0||^2, l = pull / shots."""
        return self.pull / shots * self.update.square().sum()

    def train(self, mode: bool = True) -> ProjectedSuffix:
        """Switch to training; what is frozen does not drop out."""
        super().train(mode)
        self.blocks.eval()
        self.tail.eval()
        return self


def train_projection(tower: Tower, n: int, pull: float = 1.0) -> Suffix:
    """The last ``n`` blocks of ``tower``, of which the projection alone trains; without a projection, an adapter."""
    check_depth(tower, n)
    suffix = tower.suffix(n)
    found = _split(suffix.tail)
    if found is None:
        return add_adapter(tower, n, pull)
    built = ProjectedSuffix(list(suffix.blocks), *found, pull)
    built.update.requires_grad_(n > 0)
    return built.train(tower.training)


def add_adapter(tower: Tower, n: int, pull: float = 1.0) -> Suffix:
    """The last ``n`` blocks of ``tower``, frozen, and behind them a (d, d) matrix that trains from the identity.

    It works for each tower.
    """
    check_depth(tower, n)
    suffix = tower.suffix(n)
    # The first layers of a tower that was sent to a worker are empty, on no device: see drop_first_layers.
    device = next(p.device for p in tower.parameters() if not p.is_meta)
    identity = torch.eye(tower.out_features, device=device)
    built = ProjectedSuffix(list(suffix.blocks), suffix.tail, identity, None, pull)
    built.update.requires_grad_(n > 0)
    return built.train(tower.training)


def _split(tail: Tail) -> tuple[Tail, Tensor, Tensor | None] | None:
    """(what comes before the projection, the projection (w, d), its bias); None: there is no such matrix."""
    if isinstance(tail, TokenTail):
        return PooledTail(Pool("end", tail.norm), nn.Identity()), tail.projection, None
    if isinstance(tail, AttentionPool):
        return replace_modules(tail, c_proj=nn.Identity()), tail.c_proj.weight.T, tail.c_proj.bias
    if isinstance(tail, PooledTail) and isinstance(tail.projection, nn.Linear):
        bare = replace_modules(tail, projection=nn.Identity())
        return bare, tail.projection.weight.T, tail.projection.bias
    return None
