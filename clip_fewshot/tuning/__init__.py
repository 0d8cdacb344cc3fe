"""What trains inside a tower. An open folder: each member turns a tower and a depth into a trainable module."""

from __future__ import annotations

from collections.abc import Callable

from clip_fewshot.backbones.tower import Suffix, Tower
from clip_fewshot.tuning.last_layers import check_depth as check_depth
from clip_fewshot.tuning.last_layers import copy_last_layers as copy_last_layers
from clip_fewshot.tuning.last_layers import describe_last_layers as describe_last_layers

TUNINGS: dict[str, Callable[[Tower, int], Suffix]] = {"last-layers": copy_last_layers}
