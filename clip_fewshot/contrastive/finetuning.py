"""Contrastive fine-tuning: which parts of a pretrained pair of towers train, at which rates, and how they are kept."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.encoder_tower import EncoderTower
from clip_fewshot.backbones.tower import Tower
from clip_fewshot.config import FINE_TUNING_RATES, Depth
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.errors import UsageError
from clip_fewshot.heads.attention import AttentionHead
from clip_fewshot.runtime import rng
from clip_fewshot.tuning.added_heads import AttentiveTower, HeadedTower, add_linear_head
from clip_fewshot.tuning.prompts import prompted

TOWERS = {"image": "visual", "text": "text"}
ALL: Literal["all"] = "all"


@dataclass(frozen=True)
class FineTuning:
    """What trains, and how fast.

    What was trained on millions of pairs moves thirty times slower than what is added to it. The last layer alone may
    go faster, but at these rates any number of layers and all weights train well: docs/figures/fine_tuning_rates.md.

    Args:
        unfreeze: last layers of each tower that train, >= 0, or "all": its stem, embeddings and first norms too. Two of
            them are for the image and the text tower. The logit scale trains with them; batch normalisations keep
            their statistics.
        lock: a tower that stays as it is, head included.
        head: added to each tower that is not locked: "linear" follows its features and starts as the identity,
            "attention" adds to them what it reads off all tokens and starts as nothing. So training begins at the
            zero-shot model and not below it.
        prompts: deep visual prompts per block, >= 0, in place of layers and heads; the text tower is locked.
        backbone_lr, head_lr: peak learning rates of pretrained layers and of what was added (heads, prompts), > 0. The
            defaults are AdamW's of ``FINE_TUNING_RATES``; plain gradient descent wants its own.
        seed: of what is added.

    Raises:
        UsageError: nothing would train, or parts that exclude each other.
    """

    unfreeze: Depth | tuple[Depth, Depth] = 1
    lock: Literal["none", "image", "text"] = "none"
    head: Literal["none", "linear", "attention"] = "none"
    prompts: int = 0
    backbone_lr: float = FINE_TUNING_RATES["adamw"][0]
    head_lr: float = FINE_TUNING_RATES["adamw"][1]
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = [depth for depth in self._asked if depth != ALL]
        if min(*numbers, self.prompts, 0) < 0 or min(self.backbone_lr, self.head_lr) <= 0:
            got = f"{self.unfreeze}, {self.prompts}, {self.backbone_lr:g} and {self.head_lr:g}"
            expected = "unfreeze and prompts of 0 or more, learning rates over 0"
            raise UsageError(
                expected=expected, got=got, fix="change them", where="`unfreeze`, `prompts`, `backbone_lr`, `head_lr`"
            )
        if self.prompts and (any(self._asked) or self.head != "none" or self.lock == "image"):
            got = f"`unfreeze`={self.unfreeze}, `head`={self.head}, `lock`={self.lock}"
            fix = "set `unfreeze`=0, leave the others out"
            raise UsageError(
                expected="prompts as all that trains in the image tower", got=got, fix=fix, where="`prompts`"
            )
        if not (self.prompts or any(self.depths.values()) or self.head != "none"):
            fix = "set `unfreeze`=1, `head`=linear or `prompts`=8"
            raise UsageError(
                expected="something that trains", got="neither layers, head nor prompts", fix=fix, where="`unfreeze`"
            )

    @property
    def trained(self) -> tuple[str, ...]:
        """Attributes of the towers that train."""
        return ("visual",) if self.prompts else tuple(tower for name, tower in TOWERS.items() if name != self.lock)

    @property
    def _asked(self) -> tuple[Depth, Depth]:
        """Of the image and the text tower, before one of them is locked."""
        return self.unfreeze if isinstance(self.unfreeze, tuple) else (self.unfreeze, self.unfreeze)

    @property
    def depths(self) -> dict[str, Depth]:
        """Last layers that train, by attribute of the tower; 0 of a locked one."""
        given = dict(zip(TOWERS.values(), self._asked, strict=True))
        return {tower: depth if tower in self.trained else 0 for tower, depth in given.items()}

    def options(self, **others: Any) -> ContrastiveOptions:
        """The rates as options of ``train_contrastive``; ``others`` are its further fields."""
        if self.prompts:
            return ContrastiveOptions(learning_rate=self.head_lr, **others)
        heads = {f"{tower}.head": self.head_lr for tower in self.trained if self.head != "none"}
        return ContrastiveOptions(learning_rate=self.backbone_lr, rates=heads, **others)


def make_tunable(backbone: Backbone, plan: FineTuning) -> Backbone:
    """A copy of ``backbone`` for ``train_contrastive``, in which what ``plan`` says requires a gradient, and no more.

    Raises:
        UsageError: a tower has fewer layers, or is of a kind that takes no prompts.
    """
    if plan.prompts:
        return prompted(backbone, plan.prompts, seed=plan.seed)
    _check_depths(backbone, plan)
    result = copy.deepcopy(backbone).requires_grad_(False)
    for name in TOWERS.values():
        tower: Tower = getattr(result, name)
        depth = plan.depths[name]
        if isinstance(tower, EncoderTower):  # what it holds still drops nothing out either
            tower.unfreeze(None if depth == ALL else depth)
        chosen = None if depth == ALL else set(tower.last_parameters(depth))
        for key, parameter in tower.named_parameters():
            parameter.requires_grad_(chosen is None or key in chosen)
        if name in plan.trained:
            setattr(result, name, _headed(tower, plan, name))
    if plan.head == "attention":
        for tower in (result.visual, result.text):
            if isinstance(tower, AttentiveTower):
                tower.foundation = backbone.digest
        result.name = f"{backbone.name} with attention heads"
    result.logit_scale.requires_grad_(any(plan.depths.values()))
    return result


def _check_depths(backbone: Backbone, plan: FineTuning) -> None:
    limits = {kind: getattr(backbone, tower).n_blocks for kind, tower in TOWERS.items()}
    asked = {kind: plan.depths[tower] for kind, tower in TOWERS.items()}
    for kind, depth in asked.items():
        if depth != ALL and depth > limits[kind]:
            most = ",".join(str(depth if depth == ALL else min(depth, limits[kind])) for kind, depth in asked.items())
            expected = f"0 to {limits[kind]} layers of the {kind} tower to unfreeze"
            fix = f"give one number for each tower, image first, such as {most}; or all"
            raise UsageError(expected=expected, got=str(depth), fix=fix, where="`unfreeze`")


def _headed(tower: Tower, plan: FineTuning, name: str) -> HeadedTower:
    if plan.head == "none":
        return HeadedTower(tower, None)
    if plan.head == "linear":
        return add_linear_head(tower)
    with rng.seed_torch(plan.seed, "attention head", name):
        head = AttentionHead(tower.token_features, tower.out_features)
    nn.init.zeros_(head.classifier.linear.weight)
    nn.init.zeros_(head.classifier.linear.bias)
    return AttentiveTower(tower, head.to(next(tower.parameters()).device))


def merge_heads(tuned: Backbone) -> Backbone:
    """A plain copy of what :func:`make_tunable` gave: heads become part of the projections, whose product they are.

    Its state dict is OpenAI's again, its features those of ``tuned`` to rounding. Of a pair, what was trained stays
    unfrozen.

    Raises:
        UsageError: an attention head, which no projection can take in.
    """
    result = copy.deepcopy(tuned).requires_grad_(True)
    for name in TOWERS.values():
        tower = getattr(result, name)
        plain = tower.merge() if isinstance(tower, HeadedTower) else tower
        if isinstance(plain, EncoderTower):
            plain.unfreeze(plain.unfrozen)
        setattr(result, name, plain)
    return result


def count_parameters(tuned: Backbone) -> tuple[int, int]:
    """(trained, all) numbers."""
    sizes = [(p.numel(), p.requires_grad) for p in tuned.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
