"""Prompts: the full context of 77 tokens, against the tokens that can matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from clip_fewshot.features.encode import encode_texts
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray
from experiments.benchmark.options import Options
from experiments.benchmark.plain import original, random_backbone
from experiments.benchmark.row import Check, Row
from experiments.benchmark.timing import WHOLE, Side, Watch, interleave

WORDS = ("amber", "barn", "cedar", "delta", "ember", "fern", "grey", "heron", "ivory", "jay", "kelp", "lark")


def rows(options: Options, prompts: int = 100) -> Iterator[Row]:
    """Prompts through the text tower, at full context length and trimmed."""
    backbone = random_backbone(options.arch or "ViT-B/32", options.seed)
    plain = original(backbone)
    found: dict[str, dict[int, FloatArray]] = {"naive": {}, "ours": {}}

    def naive(watch: Watch) -> None:
        texts = prompts_of(watch.repeat, prompts, options.seed)
        with torch.no_grad():
            found["naive"][watch.repeat] = plain.encode_text(backbone.tokenize(texts)).numpy()

    def ours(watch: Watch) -> None:
        found["ours"][watch.repeat] = encode_texts(backbone, prompts_of(watch.repeat, prompts, options.seed))

    times = interleave({"naive": Side(naive, prompts), "ours": Side(ours, prompts)}, options.repeats)
    expected, got = (np.concatenate(list(dict(sorted(side.items())).values())) for side in found.values())
    check = Check("features", float(np.abs(expected - got).max() / np.abs(expected).max()), 1e-6)
    note = f"Plain way: {plain.name} on all 77 tokens. The prompts are others in each repeat."
    what = f"{prompts} prompts, {options.arch or 'ViT-B/32'}"
    yield Row(what, "prompt", times["ours"][WHOLE], times["naive"][WHOLE], 6, (check,), note)


def prompts_of(repeat: int, count: int, seed: int) -> Sequence[str]:
    """Prompts of classes called by one to three words; other prompts in each repeat, so that no cache answers."""
    draw = generator(seed, "prompts", repeat)
    names = [" ".join(draw.choice(WORDS, 1 + i % 3)) + f" {repeat + 1}" for i in range(count)]
    return [f"a photo of a {name}." for name in names]
