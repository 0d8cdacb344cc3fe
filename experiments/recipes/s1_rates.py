"""S1's question of rates alone, at few pictures: the defaults of `finetune` follow it, and photos can afford it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.recipes import s1

if TYPE_CHECKING:
    from experiments.recipes.options import Options

SHOTS = 4


def run(options: Options) -> dict[str, Any]:
    """As S1, with the ways to share rates and no others."""
    return s1.run(options, s1.RATES, SHOTS)


table = s1.table
