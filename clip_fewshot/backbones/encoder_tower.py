"""Encoders that others built, as towers: stem, blocks and pooling of theirs, and a linear projection of ours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.one_query import select_row
from clip_fewshot.backbones.tower import CutState, Tail, TextTower, Tower

Module = TypeVar("Module", bound=nn.Module)


def _mean(tokens: Tensor, position: Tensor) -> Tensor:
    inside = mask_up_to(position, tokens.shape[1])[..., None].to(tokens)
    return (tokens * inside).sum(1) / inside.sum(1)


REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "all": lambda tokens, position: tokens.mean(1),  # of pictures; those that are maps never come here
    "mean": _mean,
    "first": lambda tokens, position: tokens[:, 0],
    "end": select_row,
}


class Pool(nn.Module):
    """What leaves the last block -> one vector per input.

    Args:
        reduce: "all" (the mean of all tokens or places), "mean" (of the tokens of a text), "first" (the class token),
            "end" (the token that ends a text), or a module that does it, called with the tokens alone.
        norm: the final norm, or whatever stands between the last block and the pooling; default nothing.
    """

    def __init__(self, reduce: str | nn.Module = "all", norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = norm or nn.Identity()
        self.how = reduce if isinstance(reduce, str) else "module"
        self.module = reduce if isinstance(reduce, nn.Module) else None

    def tokens(self, tokens: Tensor) -> Tensor:
        """(b, l, d), a map (b, c, h, w) or one vector each (b, d) -> (b, l, d) as the pooling sees them."""
        normed: Tensor = self.norm(tokens)
        return normed[:, None] if normed.ndim == 2 else normed.flatten(2).mT if normed.ndim == 4 else normed

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """The same and the (b,) ends -> (b, d)."""
        normed: Tensor = self.norm(tokens)
        if self.module is not None:
            normed = self.module(normed)
        elif normed.ndim == 4:
            normed = normed.mean((2, 3))
        elif normed.ndim == 3:
            normed = REDUCTIONS[self.how](normed, position)
        return normed


class EncoderParts(NamedTuple):
    """How an encoder is cut.

    Attributes:
        stem: inputs -> what enters the first block: tokens (b, l, d), a map (b, c, h, w), or the inputs as they are.
        blocks: one after the other; those of a text that must not see the padding are :class:`PositionedBlock`.
        pool: what leaves the last block -> (b, width).
        halves: whether states between the blocks may be stored in half precision: not behind rectified units.
        projection: the encoder's own, from what its pooling gives into a space that it shares with another.
    """

    stem: nn.Module
    blocks: Sequence[nn.Module]
    pool: Pool
    halves: bool = False
    projection: nn.Module | None = None


class PooledTail(Tail):
    """Pooling, then the projection."""

    def __init__(self, pool: Pool, projection: nn.Module) -> None:
        super().__init__()
        self.pool, self.projection = pool, projection

    def forward(self, state: CutState) -> Tensor:
        """State after the last block -> (b, out) features, not normalised."""
        features: Tensor = self.projection(self.pool(state.tokens, state.position))
        return features

    def tokens(self, state: CutState) -> Tensor:
        """State after the last block -> (b, l, d) tokens as the pooling sees them."""
        return self.pool.tokens(state.tokens)


class EncoderTower(Tower):
    """An encoder of pictures behind a projection.

    Args:
        parts: the encoder; its modules are taken over, not copied.
        width: of the vectors that its pooling gives.
        out_features: of the projection, drawn from torch's global generator; None: the encoder's own, if it has one.
    """

    def __init__(self, parts: EncoderParts, width: int, out_features: int | None) -> None:
        super().__init__()
        self.stem, self.layers, self.pool = parts.stem, nn.ModuleList(parts.blocks), parts.pool
        self.halves, self.token_features = parts.halves, width
        self.projection: nn.Module = parts.projection or nn.Identity()
        if out_features is None:
            self.out_features = width if parts.projection is None else _width_behind(parts.projection, width)
        else:
            self.out_features = out_features
            self.projection = nn.Linear(width, out_features, bias=False)
            nn.init.normal_(self.projection.weight, std=width**-0.5)
        self._unfrozen: int | None = 0

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, first to last."""
        return list(self.layers)

    @property
    def unfrozen(self) -> int | None:
        """How many of the last blocks train; None: the whole encoder."""
        return self._unfrozen

    def embed(self, inputs: Tensor) -> CutState:
        """Inputs -> what enters the first block; position 0 for each."""
        return CutState(self.stem(inputs), torch.zeros(inputs.shape[0], dtype=torch.int64, device=inputs.device))

    def tail(self) -> PooledTail:
        """Pooling and projection, on the tower's own parameters."""
        return PooledTail(self.pool, self.projection)

    def trunk(self) -> EncoderTower:
        """This tower without its projection, on the same parameters."""
        bare = replace_modules(self, projection=nn.Identity())
        bare.out_features = self.token_features
        return bare

    def unfreeze(self, n: int | None) -> None:
        """Let the last ``n`` blocks, the pooling behind them and the projection take gradients, or all where None.

        With n = 0 the encoder is locked and only the projection trains.
        """
        names = set(self.last_parameters(0 if n is None else n))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(n is None or name in names or name.startswith("projection."))
        self._unfrozen = n
        self.train(self.training)

    def train(self, mode: bool = True) -> EncoderTower:
        """Switch to training; frozen layers do not drop out.

        Batch normalisations keep their statistics, as in :class:`Suffix`, unless the whole encoder trains.
        """
        super().train(mode)
        if self._unfrozen is not None:
            frozen = self.layers[: self.n_blocks - self._unfrozen]
            for module in (self.stem, *frozen, *([self.pool] if self._unfrozen == 0 else [])):
                module.eval()
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


class TextEncoderTower(EncoderTower, TextTower):
    """An encoder of texts behind a projection; token ids of ``pad`` do not count. None: all count."""

    def __init__(self, parts: EncoderParts, width: int, out_features: int | None, pad: int | None) -> None:
        super().__init__(parts, width, out_features)
        self.pad = pad

    def ends(self, tokens: Tensor) -> Tensor:
        """(b, l) token ids -> (b,) index of the last token that is not padding."""
        if self.pad is None:
            return torch.full_like(tokens[:, 0], tokens.shape[1] - 1)
        return ((tokens != self.pad) * torch.arange(tokens.shape[1], device=tokens.device)).argmax(1)

    def embed(self, inputs: Tensor) -> CutState:
        """(b, l) token ids -> what enters the first block."""
        return CutState(self.stem(inputs.clamp(min=0)), self.ends(inputs))


@torch.no_grad()
def _width_behind(projection: nn.Module, width: int) -> int:
    like = next(projection.parameters())
    vectors: Tensor = projection(torch.zeros(1, width, device=like.device, dtype=like.dtype))
    return vectors.shape[1]


def replace_modules(module: Module, **changed: nn.Module | None) -> Module:
    """A copy with other submodules (None: without them) that shares all parameters with ``module``."""
    other = copy.copy(module)
    kept = {name: child for name, child in module._modules.items() if name not in changed}
    other.__dict__["_modules"] = kept | {name: child for name, child in changed.items() if child is not None}
    return other


def mask_up_to(position: Tensor, length: int) -> Tensor:
    """(b,) ends -> (b, length) bool: the tokens of each text, its end among them."""
    return torch.arange(length, device=position.device) <= position[:, None]
