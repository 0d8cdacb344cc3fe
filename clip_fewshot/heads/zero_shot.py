"""Zero-shot head: class names instead of training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from clip_fewshot.data.templates import check_templates, fill_template
from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import check_prototypes, cosines, normalise, require_width
from clip_fewshot.runtime.arrays import as_texts

PROMPTS_PER_BATCH = 256


class TextBackbone(Protocol):
    """The part of a backbone that reads text."""

    def tokenize(self, texts: list[str]) -> Tensor:
        """t texts -> (t, length) token ids on any device."""
        ...

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(t, length) -> (t, d), not normalised."""
        ...


@torch.no_grad()
def zero_shot_weights(backbone: TextBackbone, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Class names x templates -> (c, d) unit rows: encode, normalise, average over templates, normalise again.

    Alec Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 3.1.4
    (prompt ensembling in the embedding space). The first normalisation gives every template the same say.

    Args:
        backbone: anything with ``tokenize`` and ``encode_text``.
        class_names: c names; underscores are read as the spaces a caption would have ("water_lily": water lily).
        templates: t texts with one "{}" where the name goes.

    Returns:
        float32 or better, on the device of the encoder.

    Example:
        >>> import clip_fewshot as cf
        >>> backbone = cf.load_backbone("mini")
        >>> cf.zero_shot_weights(backbone, ["zero", "one", "two"], ["a photo of a {}", "a small {}"]).shape
        torch.Size([3, 128])
    """
    check_templates(templates)
    names = as_texts(class_names, "class_names")
    if not names:
        raise UsageError(expected="at least one class name", got="0 names", fix="name the classes", where="class_names")
    prompts = [fill_template(template, name) for name in names for template in templates]
    starts = range(0, len(prompts), PROMPTS_PER_BATCH)
    encoded = [backbone.encode_text(backbone.tokenize(prompts[i : i + PROMPTS_PER_BATCH])) for i in starts]
    rows = normalise(torch.cat(encoded)).reshape(len(names), len(templates), -1)  # (c, t, d)
    return normalise(rows.mean(1))


class ZeroShotHead(nn.Module):
    """(n, d) features -> (n, c) logits ``scale * cosine`` with fixed class directions; nothing in it is trained.

    Args:
        weights: (c, d) class directions, such as ``zero_shot_weights`` gives.
        scale: positive; the backbone's ``logit_scale.exp()`` (100 for OpenAI's models).
    """

    takes_tokens = False
    weight: Tensor
    scale: Tensor

    def __init__(self, weights: Tensor, scale: float | Tensor) -> None:
        super().__init__()
        self.n_classes, self.in_features = weights.shape
        self.register_buffer("weight", check_prototypes(weights, torch.empty_like(weights)))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32).detach().clone())

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """(n, d) -> (n, c), float32 or better. ``labels`` change nothing."""
        require_width(features, self.in_features)
        return self.scale * cosines(features, self.weight)

    @torch.no_grad()
    def init_from(self, prototypes: Tensor) -> None:
        """Take the given (c, d) class directions."""
        self.weight.copy_(check_prototypes(prototypes, self.weight))


class BlankZeroShotHead(ZeroShotHead):
    """A zero-shot head of random directions, by size alone as all heads are built; the trainer gives it the texts.

    Args:
        in_features: d.
        n_classes: c.
    """

    reads_texts: ClassVar[bool] = True

    def __init__(self, in_features: int, n_classes: int) -> None:
        super().__init__(torch.randn(n_classes, in_features), 100.0)

    @torch.no_grad()
    def init_from_texts(self, texts: Tensor, scale: float) -> None:
        """Take (c, d) text features of the classes and the factor on cosines that goes with them."""
        self.init_from(texts)
        self.scale.fill_(scale)
