"""What a training minimises: the loss of an approach on tuned image features, with the modules it trains besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import MAX_LOG_SCALE, Backbone
from clip_fewshot.backbones.tower import Suffix
from clip_fewshot.data.captions import TEMPLATES, CaptionGenerator
from clip_fewshot.errors import UsageError
from clip_fewshot.features.encode import text_prefix
from clip_fewshot.features.prefix import Prefix
from clip_fewshot.few_shot.approach import BACKBONE_LR, HEAD_LR, Approach, Point, Value
from clip_fewshot.few_shot.build_head import Loss, bind_loss, build_head, class_directions, find_tuning, take_named
from clip_fewshot.geometry import margin_logits, normalise
from clip_fewshot.heads import CentredHead
from clip_fewshot.heads.zero_shot import zero_shot_weights
from clip_fewshot.losses import match_captions
from clip_fewshot.types import FloatArray

# Mean distance of unit features from their mean (mini 0.8, EfficientNet 0.7), below which one step of the layers moves
# them by more than they differ: an untrained ResNet (0.001) at the usual rate by 250 times that. A mean fixed before
# the training then hides all there is; docs/figures/narrow_features.md. Wider features keep it, and their figures.
NARROW = 0.1


class TrainableLoss(Protocol):
    """A loss on tuned image features, with the modules it trains besides the image suffix."""

    @property
    def head(self) -> nn.Module | None:
        """What maps features to class logits; None between two towers."""
        ...

    def __call__(self, features: Tensor, labels: Tensor, step: int) -> Tensor:
        """Features and labels of a batch -> scalar loss at that step."""
        ...

    def list_trained(self) -> list[tuple[nn.Module, float]]:
        """(module, peak learning rate) of everything it trains."""
        ...

    def end(self, tuned: Callable[[], Tensor]) -> None:
        """Fit what follows from the tuned (n, d) features of all training pictures."""
        ...


@runtime_checkable
class StartsFromExamples(Protocol):
    """A head that can begin better than at random."""

    def init_from_examples(self, features: Tensor, labels: Tensor) -> None:
        """Begin from (n, d) features with (n,) labels."""


@runtime_checkable
class ReadsTexts(Protocol):
    """A head that begins from the texts of its classes, and says so in its class."""

    reads_texts: ClassVar[bool]

    def init_from_texts(self, texts: Tensor, scale: float) -> None:
        """Begin from (c, d) unit text features and the backbone's factor on cosines."""


class HeadObjective:
    """A loss on the logits of a head; its margin, where it has one, is on the true logit, in training only."""

    def __init__(self, head: CentredHead, loss: Loss, rate: float) -> None:
        self.head, self.loss, self.rate = head, loss, rate

    def __call__(self, features: Tensor, labels: Tensor, step: int) -> Tensor:
        """(b, d) features and (b,) labels -> scalar loss of the head's logits."""
        return self.loss(self.head(features, labels), labels)

    def list_trained(self) -> list[tuple[nn.Module, float]]:
        """The head and its rate."""
        return [(self.head, self.rate)]

    def end(self, tuned: Callable[[], Tensor]) -> None:
        """Where the head followed its batches, it takes the mean of all."""
        if self.head.follows:
            self.head.recentre(tuned())


class CaptionBank:
    """A few captions of each class, run through the frozen text layers once.

    Attributes:
        size: captions per class; of own templates all.
        texts: (c, d) unit features of the classes' texts, those of zero-shot, where they are and can be read; or None.
    """

    def __init__(
        self,
        backbone: Backbone,
        class_names: Sequence[str],
        cuts: Sequence[int],
        seed: int,
        size: int = 8,
        templates: Sequence[str] = (),
        reads_texts: bool = False,
        reads_captions: bool = True,
    ) -> None:
        able = reads_texts and backbone.reads_texts
        self.texts = read_class_texts(backbone, class_names, templates) if able else None
        generator = CaptionGenerator(seed=seed, templates=templates)
        self.size = len(generator) if templates else size
        captions = [caption for name in class_names for caption in generator.bank(name, self.size)]
        self._prefix = text_prefix(backbone, captions, cuts) if reads_captions else None

    @property
    def prefix(self) -> Prefix:
        """States of all captions entering each cut of the text tower; caption j of class i is item i * size + j.

        Raises:
            UsageError: no caption was to be read.
        """
        if self._prefix is None:
            fix = "prepare the pictures for an approach that trains both towers"
            raise UsageError(expected="captions", got="none", fix=fix, where="support set")
        return self._prefix


def read_class_texts(backbone: Backbone, names: Sequence[str], templates: Sequence[str]) -> FloatArray:
    """(c, d) unit text features of class names; without templates by the usual ones.

    Not from the cache of names: what was read together with a name decides its last bit.
    """
    with torch.inference_mode():
        return zero_shot_weights(backbone, names, templates or TEMPLATES).float().cpu().numpy()


class ContrastiveObjective(nn.Module):
    """A contrastive loss between pictures and captions of their classes.

    Each step draws one caption a class, so that pictures of one class share one caption and the targets share
    their mass over them: a picture is never the negative of a caption that is true of it.

    Args:
        narrow: compare pictures, and captions, by what differs between them: the mean of the batch is taken off.
    """

    head = None

    def __init__(
        self,
        backbone: Backbone,
        text: Suffix,
        captions: CaptionBank,
        loss: Loss,
        margin: float,
        point: Point,
        narrow: bool,
    ) -> None:
        super().__init__()
        self.depth = min(point.unfreeze, backbone.text.n_blocks)
        self.text = text
        self.log_scale = nn.Parameter(backbone.logit_scale.detach().float().clone())
        self.captions, self.loss, self.margin, self.rate = captions, loss, margin, point.rate(BACKBONE_LR)
        self.narrow = narrow

    def forward(self, features: Tensor, labels: Tensor, step: int) -> Tensor:
        """(b, d) features and (b,) labels -> scalar loss against the captions of the batch."""
        classes, place = torch.unique(labels, return_inverse=True)
        chosen = classes.cpu() * self.captions.size + (step + classes.cpu()) % self.captions.size
        texts = self.captions.prefix.outputs(self.depth, self.text, chosen).float()
        images, captions = normalise(features), normalise(texts)
        if self.narrow:
            images, captions = (normalise(unit - unit.mean(dim=0)) for unit in (images, captions))
        cosines = images @ captions[place].T
        scale = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        logits = margin_logits(cosines, match_captions(labels), self.margin, scale)
        return self.loss(logits, caption_ids=labels)

    def list_trained(self) -> list[tuple[nn.Module, float]]:
        """The text suffix with the logit scale, and their rate."""
        return [(self, self.rate)]

    def end(self, tuned: Callable[[], Tensor]) -> None:
        """Nothing: the probe behind it centres by itself."""


def text_cuts(backbone: Backbone, cuts: Sequence[int]) -> list[int]:
    """The cuts of the text tower that go with ``cuts`` of the image tower, which may be deeper."""
    return sorted({min(n, backbone.text.n_blocks) for n in cuts})


def copy_tuned_layers(approach: Approach, tower: Any, n: int, options: Mapping[str, Value]) -> Suffix:
    """The part of ``tower`` that trains, as the approach cuts it.

    Args:
        options: of all parts of the approach; the tuning is given those that it names.
    """
    cut = find_tuning(approach)
    suffix: Suffix = cut(tower, n, **take_named(cut, options)[0])
    return suffix


def build_objective(
    backbone: Backbone,
    approach: Approach,
    point: Point,
    n_classes: int,
    captions: CaptionBank,
    features: Tensor,
    labels: Tensor,
) -> TrainableLoss:
    """The loss of ``approach`` with the modules it trains, at their starting point.

    Args:
        features: (n, d) of the training pictures before any tuning; a head is centred on them and, where it can, starts
            from the text-informed probe on them, or without texts from the pictures themselves.
        labels: (n,).
    """
    loss, options = bind_loss(approach, point.part_options())
    unit = normalise(features)
    mean = unit.mean(dim=0)
    narrow = point.unfreeze > 0 and float((unit - mean).norm(dim=1).mean()) < NARROW
    if approach.towers == "both":
        margin = float(options.pop("margin", 0.0))
        _refuse_options(options, approach)
        depth = min(point.unfreeze, backbone.text.n_blocks)
        text = copy_tuned_layers(approach, backbone.text, depth, point.part_options())
        return ContrastiveObjective(backbone, text, captions, loss, margin, point, narrow)
    head = build_head(backbone, approach, point, n_classes, mean)
    head.follows = narrow
    if isinstance(head.head, ReadsTexts):  # texts and pictures are compared as they are: no mean is taken off
        head.mean.zero_()
        head.follows = False
        head.head.init_from_texts(*_texts_and_scale(backbone, captions))
    elif isinstance(head.head, StartsFromExamples):
        if captions.texts is None:
            head.head.init_from_examples(unit - mean, labels)
        else:
            rows = class_directions(unit, labels, captions.texts)
            head.head.init_from_examples(rows, torch.arange(n_classes, device=rows.device))
    return HeadObjective(head, loss, point.rate(HEAD_LR))


def _texts_and_scale(backbone: Backbone, captions: CaptionBank) -> tuple[Tensor, float]:
    if captions.texts is None:
        fix = "prepare the support set with reads_texts=True"
        raise UsageError(expected="texts of the classes", got="none", fix=fix, where="a head that reads texts")
    return torch.from_numpy(captions.texts), float(backbone.logit_scale.detach().exp())


def _refuse_options(options: Mapping[str, Value], approach: Approach) -> None:
    if options:
        got, fix = f"{sorted(options)} besides", "take them out of `centre`"
        raise UsageError(expected="options that the loss has", got=got, fix=fix, where=f"approach {approach.name!r}")
