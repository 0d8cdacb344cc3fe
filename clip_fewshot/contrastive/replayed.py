"""Pictures that run through a tower's frozen layers once for a whole training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import Tower
from clip_fewshot.contrastive.finetuning import FineTuning
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.features.encode import image_prefix
from clip_fewshot.tuning.added_heads import HeadedTower


def count_replayed_blocks(plan: FineTuning, tower: Tower) -> int | None:
    """How many last blocks of the pretrained image tower a training must run; None: all of them, nothing is stored."""
    depth = plan.depths["visual"]
    if isinstance(depth, str) or plan.prompts:  # its stem trains too, or prompts before the first block
        return None
    n: int = depth
    if plan.head == "attention" and "visual" in plan.trained:
        # It reads all tokens, which a cut before a last block may not have kept.
        read = max(n, 1)
        n = read + tower.reads_one_row(read)
    return n if n < tower.n_blocks else None


@contextmanager
def replay_pictures(model: Backbone, pretrained: Backbone, pictures: ImageDataset, n: int | None) -> Iterator[None]:
    """While the block lasts, ``model.encode_image`` takes numbers of ``pictures``, (b,) int64, in place of pixels.

    Their states before the last ``n`` blocks are computed once, or found in the cache; a step costs what is behind
    them. They are stored in single precision: half of it would move gradients by 1e-3, and the weights of several
    processes, which store nothing, would differ from those of one process (by 1.6e-4 after 15 steps on digits, where
    the same steps from pixels differ by 6e-8).

    Args:
        model: from :func:`make_tunable`.
        pretrained: what it was made of: states in the cache serve all trainings that begin there.
        n: from :func:`count_replayed_blocks`; None: the model takes pixels as ever.
    """
    if n is None:
        yield
        return
    tower, prefix = model.visual, image_prefix(pretrained, pictures, [n], half=False)
    head = tower.head if isinstance(tower, HeadedTower) else None

    def forward(items: Tensor) -> Tensor:
        if n:
            return tower.finish(prefix.rows(n, items), n)
        features: Tensor = prefix.frozen_features(items) if head is None else head(prefix.frozen_features(items))
        return features

    tower.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del tower.forward  # the method of the class is seen again
