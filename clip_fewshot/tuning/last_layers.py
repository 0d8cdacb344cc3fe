"""Unfreezing the last N layers: the N of the search.

"The last N layers" are the last N residual blocks and everything after them (final norm, projection); N = 0
trains nothing. The frozen layers before the cut are never copied and never run again during training.
"""

from __future__ import annotations

from clip_fewshot.backbones.tower import Suffix, Tower
from clip_fewshot.config import DEFAULT_UNFREEZE
from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError


def copy_last_layers(tower: Tower, n: int) -> Suffix:
    """A trainable copy of the last ``n`` layers of ``tower``; the tower itself stays as it is.

    Args:
        n: 0 (frozen: the copy of the tail takes no gradient) to the number of blocks.
    """
    check_depth(tower, n)
    return tower.suffix(n)


def check_depth(tower: Tower, n: int) -> None:
    """Refuse a number of layers that the tower does not have."""
    if not 0 <= n <= tower.n_blocks:
        fix = "choose another number"
        raise UsageError(expected=f"0 to {tower.n_blocks} layers to unfreeze", got=str(n), fix=fix, where="unfreeze")


def choose_depth(tower: Tower, asked: int | None) -> int:
    """The largest N of a study: what is asked for, else what ``tower`` unlocks, else 5.

    A tower may have fewer blocks.
    """
    unlocked = DEFAULT_UNFREEZE if tower.unfrozen is None else tower.unfrozen
    return unlocked if asked is None else asked


def describe_last_layers(tower: Tower, n: int) -> str:
    """The exact parameters that training the last ``n`` layers changes, one name and size a line."""
    sizes = dict(tower.named_parameters())
    lines = [f"{name}  {tuple(sizes[name].shape)}" for name in tower.last_parameters(n)]
    total = sum(sizes[name].numel() for name in tower.last_parameters(n))
    return "\n".join([*lines, f"{number(total, 'parameter')} in {number(len(lines), 'tensor')}"])
