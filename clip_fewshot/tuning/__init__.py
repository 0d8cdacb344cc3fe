"""What trains inside a tower. An open folder: each member turns a tower and a depth into a trainable module.

Each entry of ``TUNINGS`` is called as ``(tower, n, **options)``.
"""

from __future__ import annotations

from collections.abc import Callable

from clip_fewshot.backbones.tower import Suffix
from clip_fewshot.tuning.base import finish_tuning as finish_tuning
from clip_fewshot.tuning.last_layers import check_depth as check_depth
from clip_fewshot.tuning.last_layers import choose_depth as choose_depth
from clip_fewshot.tuning.last_layers import copy_last_layers as copy_last_layers
from clip_fewshot.tuning.last_layers import describe_last_layers as describe_last_layers
from clip_fewshot.tuning.lora import add_low_rank_updates
from clip_fewshot.tuning.projection import add_adapter, train_projection

TUNINGS: dict[str, Callable[..., Suffix]] = {
    "last-layers": copy_last_layers,
    "projection": train_projection,
    "adapter": add_adapter,
    "lora": add_low_rank_updates,
}
