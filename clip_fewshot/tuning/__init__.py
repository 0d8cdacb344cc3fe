"""What trains inside a tower. An open folder: each member turns a tower and a depth into a trainable module."""

from __future__ import annotations

from collections.abc import Callable

from clip_fewshot.backbones.tower import Suffix, Tower
from clip_fewshot.tuning.last_layers import check_depth as check_depth
from clip_fewshot.tuning.last_layers import describe_last_layers as describe_last_layers
from clip_fewshot.tuning.last_layers import last_layers as last_layers
from clip_fewshot.tuning.prompts import describe_prompts as describe_prompts
from clip_fewshot.tuning.prompts import load_prompts as load_prompts
from clip_fewshot.tuning.prompts import prompted as prompted
from clip_fewshot.tuning.prompts import save_prompts as save_prompts

TUNINGS: dict[str, Callable[[Tower, int], Suffix]] = {"last-layers": last_layers}
