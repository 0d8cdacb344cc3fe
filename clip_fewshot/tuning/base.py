"""What a trainable suffix may offer besides its features; the trainer asks for each, and none has to be there."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.tower import CutState, Suffix
from clip_fewshot.errors import UsageError


@runtime_checkable
class StartsFrozen(Protocol):
    """A suffix whose first part does not train: it runs once per picture, and not in each step."""

    def before(self, state: CutState) -> Tensor:
        """The frozen part: state at the cut -> (b, w)."""
        ...

    def after(self, held: Tensor) -> Tensor:
        """The part that trains: (b, w) -> (b, d) features."""
        ...


@runtime_checkable
class Penalised(Protocol):
    """A suffix that is drawn back to where it began."""

    def penalty(self, shots: float) -> Tensor:
        """Scalar that is added to the loss; ``shots``: pictures per class."""
        ...


@runtime_checkable
class Merges(Protocol):
    """A suffix that becomes an ordinary one when it is trained."""

    def merge(self) -> Suffix:
        """The same function of the state, without the parts that were added for the training."""
        ...


def finish_tuning(suffix: Suffix) -> Suffix:
    """The suffix as it is saved: merged where it merges."""
    return suffix.merge() if isinstance(suffix, Merges) else suffix


def check_share(share: float) -> None:
    """Refuse a share of the tuned weights outside [0, 1]."""
    if not 0 <= share <= 1:
        fix = "0 gives the frozen weights, 1 the tuned ones"
        raise UsageError(expected="a share in [0, 1]", got=f"{share}", fix=fix, where="`tuned_share`")


@torch.no_grad()
def blend_weights(start: nn.Module, tuned: nn.Module, share: float) -> None:
    """Give ``tuned`` the weights (1 - share) start + share tuned, in place: WiSE-FT.

    Mitchell Wortsman, Gabriel Ilharco, Jong Wook Kim, et al., "Robust fine-tuning of zero-shot models", 2022, eq. 1.
    At 0 and 1 the bytes are those of ``start`` and of ``tuned``.

    Args:
        start: a module of the same parts.
        share: in [0, 1].
    """
    if share == 1:
        return
    begun = start.state_dict()
    for name, tensor in tuned.state_dict().items():
        if share == 0 or not tensor.is_floating_point():
            tensor.copy_(begun[name])
        else:
            tensor.lerp_(begun[name], 1 - share)
