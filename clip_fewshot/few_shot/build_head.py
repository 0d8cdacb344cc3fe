"""The head of an approach, and which part of an approach is given which option."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.approach import Approach, Point, Value
from clip_fewshot.heads import HEADS, CentredHead
from clip_fewshot.losses import LOSSES
from clip_fewshot.probes.text_mean import fit_mean
from clip_fewshot.runtime.parts import find_part
from clip_fewshot.tuning import TUNINGS
from clip_fewshot.types import FloatArray

Loss = Callable[..., Tensor]


def class_directions(unit: Tensor, labels: Tensor, texts: FloatArray) -> Tensor:
    """(c, d) weights of the text-informed probe, about as long as the (n, d) unit rows are around their mean.

    One for each class, like a picture that shows nothing else: what a head with hidden layers can begin from too.
    """
    rows = unit.double().cpu().numpy()
    mean = fit_mean(rows, labels.cpu().numpy(), texts.astype(np.float64))
    weights = mean.weights + mean.scale * texts
    weights -= weights.mean(axis=0)
    length = np.linalg.norm(rows - rows.mean(axis=0), axis=1).mean() / np.linalg.norm(weights, axis=1).mean()
    return torch.as_tensor(length * weights, dtype=unit.dtype, device=unit.device)


def build_head(
    backbone: Backbone, approach: Approach, point: Point, n_classes: int, mean: Tensor | None = None
) -> CentredHead:
    """The head of ``approach``; ``mean`` None: centred on zeros, to be loaded over."""
    if approach.head is None:
        fix = "its classifier is a probe"
        raise UsageError(expected="an approach with a head", got=repr(approach.name), fix=fix, where="approach")
    make = find_part("heads", approach.head, HEADS) if isinstance(approach.head, str) else approach.head
    width = backbone.visual.out_features
    _, options = bind_loss(approach, point.part_options())
    try:
        head = make(width, n_classes, **options)
    except TypeError as error:
        expected = f"a head that takes {', '.join(options) or 'no options'}"
        fix = "name in `centre` and `options` what the head's constructor takes"
        raise UsageError(expected=expected, got=str(error), fix=fix, where=f"approach {approach.name!r}") from error
    return CentredHead(head, torch.zeros(width) if mean is None else mean)


def bind_loss(approach: Approach, options: Mapping[str, Value]) -> tuple[Loss, dict[str, Any]]:
    """The loss with the options that it names, and those that it and the tuning leave for the head."""
    if approach.loss is None:
        fix = "choose an approach that trains"
        raise UsageError(expected="an approach with a loss", got=repr(approach.name), fix=fix, where="approach")
    loss = find_part("losses", approach.loss, LOSSES) if isinstance(approach.loss, str) else approach.loss
    own, rest = take_named(loss, take_named(find_tuning(approach), options)[1])
    return (partial(loss, **own) if own else loss), rest


def take_named(part: Callable[..., Any], options: Mapping[str, Value]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that ``part`` names behind its first two arguments, and the others."""
    named = list(inspect.signature(part).parameters)[2:]
    own = {name: value for name, value in options.items() if name in named}
    return own, {name: value for name, value in options.items() if name not in named}


def find_tuning(approach: Approach) -> Callable[..., Any]:
    """How the approach cuts a tower."""
    tuning = approach.tuning
    return find_part("tuning", tuning, TUNINGS) if isinstance(tuning, str) else tuning
