"""The four approaches: named compositions of a head, a loss, and the towers that train.

mlp-arcface          last N image layers and an MLP; cross-entropy with an angular margin on the true logit
mlp                  last N image layers and an MLP; cross-entropy
contrastive-arcface  last N layers of both towers; symmetric cross-entropy, margin on matched pairs; then a probe
contrastive          last N layers of both towers; symmetric cross-entropy; then a linear probe on the image features

Example:
    >>> import clip_fewshot as cf
    >>> list(cf.APPROACHES)
    ['mlp-arcface', 'mlp', 'contrastive-arcface', 'contrastive']
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.captions import CaptionGenerator
from clip_fewshot.errors import UsageError
from clip_fewshot.features.encode import text_prefix
from clip_fewshot.features.prefix import Prefix
from clip_fewshot.geometry import margin_logits
from clip_fewshot.heads import ArcFaceHead, CentredHead, MLPHead
from clip_fewshot.losses import cross_entropy, same_caption, symmetric_cross_entropy
from clip_fewshot.tuning.last_layers import last_layers

MAX_LOG_SCALE = 4.605170185988092  # ln 100, CLIP's bound on the logit scale


@dataclass(frozen=True)
class TuneParams:
    """What the search decides.

    Attributes:
        approach: a key of APPROACHES, or "linear-probe" (nothing is tuned).
        unfreeze: the N of "the last N layers", 0 to the number of blocks.
        backbone_lr: peak learning rate of pretrained layers.
        head_lr: peak learning rate of the head; without effect where there is none.
        margin: additive angular margin in radians; without effect where there is none.
        scale: logit scale of the ArcFace head.
    """

    approach: str
    unfreeze: int = 0
    backbone_lr: float = 1e-4
    head_lr: float = 1e-3
    margin: float = 0.2
    scale: float = 16.0

    def to_json(self) -> dict[str, Any]:
        """The parameters that mean something for this approach."""
        searched = approach(self.approach).searched if self.approach in APPROACHES else ()
        return {name: value for name, value in asdict(self).items() if name in searched}


class Objective(Protocol):
    """A loss on tuned image features, with the modules it trains besides the image suffix."""

    def __call__(self, features: Tensor, labels: Tensor, step: int) -> Tensor: ...

    def trained(self, params: TuneParams) -> list[tuple[nn.Module, float]]:
        """(module, peak learning rate) of everything it trains."""
        ...


class HeadObjective:
    """Cross-entropy on the logits of a head; its margin, where it has one, is on the true logit, in training only."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def __call__(self, features: Tensor, labels: Tensor, step: int) -> Tensor:
        return cross_entropy(self.head(features, labels), labels)

    def trained(self, params: TuneParams) -> list[tuple[nn.Module, float]]:
        return [(self.head, params.head_lr)]


class CaptionBank:
    """A few captions of each class, run through the frozen text layers once.

    Attributes:
        prefix: states of all captions entering each cut of the text tower; caption j of class i is item i * size + j.
        size: captions per class.
    """

    def __init__(self, backbone: Backbone, class_names: Sequence[str], cuts: Sequence[int], seed: int, size: int = 8):
        generator = CaptionGenerator(seed=seed)
        captions = [caption for name in class_names for caption in generator.bank(name, size)]
        self.size = size
        self.prefix: Prefix = text_prefix(backbone, captions, cuts)


class ContrastiveObjective(nn.Module):
    """Symmetric cross-entropy between pictures and captions of their classes.

    Each step draws one caption a class, so that pictures of one class share one caption and the targets share
    their mass over them: a picture is never the negative of a caption that is true of it.
    """

    def __init__(self, backbone: Backbone, captions: CaptionBank, unfreeze: int, margin: float) -> None:
        super().__init__()
        self.depth = min(unfreeze, backbone.text.n_blocks)
        self.text = last_layers(backbone.text, self.depth)
        self.log_scale = nn.Parameter(backbone.logit_scale.detach().float().clone())
        self.captions, self.margin = captions, margin

    def forward(self, features: Tensor, labels: Tensor, step: int) -> Tensor:
        classes, place = torch.unique(labels, return_inverse=True)
        chosen = classes.cpu() * self.captions.size + (step + classes.cpu()) % self.captions.size
        texts = self.captions.prefix.outputs(self.depth, self.text, chosen).float()
        cosines = F.normalize(features, dim=-1) @ F.normalize(texts, dim=-1)[place].T
        scale = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        logits = margin_logits(cosines, same_caption(labels), self.margin, scale)
        return symmetric_cross_entropy(logits, caption_ids=labels)

    def trained(self, params: TuneParams) -> list[tuple[nn.Module, float]]:
        return [(self, params.backbone_lr)]


BuildHead = Callable[[int, int, TuneParams], MLPHead]  # (in_features, n_classes, params) -> head


def _mlp(in_features: int, n_classes: int, params: TuneParams) -> MLPHead:
    return MLPHead(in_features, n_classes)


def _mlp_arcface(in_features: int, n_classes: int, params: TuneParams) -> MLPHead:
    classifier = ArcFaceHead(in_features, n_classes, margin=params.margin, scale=params.scale)
    return MLPHead(in_features, n_classes, hidden_features=in_features, classifier=classifier)


@dataclass(frozen=True)
class Approach:
    """How one approach is built and searched.

    Attributes:
        head: makes the head that classifies; None: both towers train contrastively and a linear probe classifies.
        min_unfreeze: smallest N that trains anything.
        searched: the fields of TuneParams that have an effect.
        centre: the point to begin from.

    Example:
        >>> import clip_fewshot as cf
        >>> approach: cf.Approach = cf.APPROACHES["mlp-arcface"]
        >>> approach.searched
        ('unfreeze', 'backbone_lr', 'head_lr', 'margin', 'scale')
    """

    head: BuildHead | None
    min_unfreeze: int
    searched: tuple[str, ...]
    centre: TuneParams


APPROACHES: dict[str, Approach] = {
    "mlp-arcface": Approach(
        head=_mlp_arcface,
        min_unfreeze=0,
        searched=("unfreeze", "backbone_lr", "head_lr", "margin", "scale"),
        centre=TuneParams("mlp-arcface", unfreeze=1),
    ),
    "mlp": Approach(
        head=_mlp,
        min_unfreeze=0,
        searched=("unfreeze", "backbone_lr", "head_lr"),
        centre=TuneParams("mlp", unfreeze=1),
    ),
    "contrastive-arcface": Approach(
        head=None,
        min_unfreeze=1,
        searched=("unfreeze", "backbone_lr", "margin"),
        centre=TuneParams("contrastive-arcface", unfreeze=1),
    ),
    "contrastive": Approach(
        head=None,
        min_unfreeze=1,
        searched=("unfreeze", "backbone_lr"),
        centre=TuneParams("contrastive", unfreeze=1, margin=0.0),
    ),
}


def approach(name: str) -> Approach:
    """The registered approach of that name."""
    if name not in APPROACHES:
        raise UsageError(
            expected=f"one of {', '.join(APPROACHES)}", got=repr(name), fix="check the spelling", where="approach"
        )
    return APPROACHES[name]


def text_cuts(backbone: Backbone, cuts: Sequence[int]) -> list[int]:
    """The cuts of the text tower that go with ``cuts`` of the image tower, which may be deeper."""
    return sorted({min(n, backbone.text.n_blocks) for n in cuts})


def build_objective(
    backbone: Backbone, params: TuneParams, n_classes: int, captions: CaptionBank, features: Tensor, labels: Tensor
) -> Objective:
    """The loss of ``params.approach`` with the modules it trains, at their starting point.

    Args:
        features: (n, d) of the training pictures before any tuning; a head is centred on them and starts at their
            class means.
        labels: (n,).
    """
    chosen = approach(params.approach)
    if chosen.head is None:
        margin = params.margin if "margin" in chosen.searched else 0.0
        return ContrastiveObjective(backbone, captions, params.unfreeze, margin)
    mean = F.normalize(features, dim=-1).mean(dim=0)
    head = blank_head(backbone, params, n_classes, mean)
    inner = head.head
    if isinstance(inner, MLPHead):
        inner.init_from_examples(F.normalize(features, dim=-1) - mean, labels)
    return HeadObjective(head)


def blank_head(backbone: Backbone, params: TuneParams, n_classes: int, mean: Tensor | None = None) -> CentredHead:
    """The head of ``params.approach``; ``mean`` None: zeros, to be loaded over."""
    build = approach(params.approach).head
    if build is None:
        raise UsageError(
            expected="an approach with a head",
            got=repr(params.approach),
            fix="its classifier is a probe",
            where="approach",
        )
    width = backbone.visual.out_features
    return CentredHead(build(width, n_classes, params), torch.zeros(width) if mean is None else mean)
