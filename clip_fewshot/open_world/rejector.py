"""What says "unknown" at a chosen false-alarm rate.

The decision is conformal: a picture is unknown when fewer than a share alpha of known pictures look as strange as
it does, measured on known training pictures that neither the model nor the detector had seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.conformal.batch import ask_held_out
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.conformal.p_values import UnsupportedAlphaError, check_alpha, cross_p_values, flag
from clip_fewshot.data.names import number
from clip_fewshot.few_shot.model import Recipe, fit_model
from clip_fewshot.few_shot.trainer import SupportData
from clip_fewshot.novelty import DETECTORS, Detector, DetectorPart
from clip_fewshot.novelty.rows import keep_distinct
from clip_fewshot.open_world.alternatives import Alternative, NoveltyChoice, split_folds
from clip_fewshot.open_world.feature_spaces import FROZEN, TokenReader, build_space, encode_own, is_tuned, parse_depth
from clip_fewshot.open_world.judges import Judge, LabelledRows, read_judge
from clip_fewshot.open_world.text_features import Texts, encode_concepts, widen_texts
from clip_fewshot.runtime.artifacts import select_part
from clip_fewshot.runtime.parts import ForeignPart, find_stored_part, foreign_parts
from clip_fewshot.types import BoolArray, FloatArray, IndexArray, LabelArray


class NoveltyScores(NamedTuple):
    """How strange pictures are.

    Attributes:
        scores: (m,) by the detector, higher = more normal; a mean where each fold has its own.
        p: (m,) share of known pictures at least as strange, in [1 / (n + 1), 1].
    """

    scores: FloatArray
    p: FloatArray


@dataclass(frozen=True, eq=False)
class Rejector:
    """Says how strange a picture is, and calls it unknown at a chosen false-alarm rate.

    Detectors of untuned features teach and calibrate on the same shots, see :class:`Calibrated`. Tuned features need a
    judge per fold, each tuned without its fold: the features of pictures that a model was tuned on lie closer
    together than those of fresh ones, and calibrating the final model on folds of other models was measured to flag
    13 % of known digits where 5 % were asked for; ranking per fold (cross-conformal) flagged 6 %.

    Attributes:
        chosen: the detector and the space that it looks at.
        unfreeze: the N of the tuned suffixes.
        texts: what text detectors read.
        per_class: rank a picture within each class and take the largest p-value, see :class:`Calibrated`.
        levelled: rank scores in units of the class that a picture looks like, where the same shots teach and calibrate;
            those saved by an earlier release are not.
    """

    chosen: Alternative
    unfreeze: int
    judges: tuple[Judge, ...]
    texts: Texts | None = None
    per_class: bool = False
    levelled: bool = False

    def __repr__(self) -> str:
        calibrated = number(self.n_calibration, "known picture")
        return f"Rejector({self.chosen.detector} on {self.chosen.space} features, {calibrated})"

    @property
    def n_calibration(self) -> int:
        """Known pictures behind the p-values; of the smallest class where they are ranked within each."""
        if self._calibrated is not None:
            return self._calibrated.n_calibration_
        return sum(len(scores) for scores in self._calibration)

    def suffixes(self) -> list[tuple[int, nn.Module]]:
        """(n, module) under which :meth:`verdict` wants to see the pictures besides the frozen tower."""
        depth = parse_depth(self.chosen.space)
        if depth is not None:
            return [(depth, TokenReader())]
        return [(self.unfreeze, judge.suffix) for judge in self.judges if judge.suffix is not None]

    def verdict(self, frozen: FloatArray, own: Sequence[FloatArray], together: bool = False) -> NoveltyScores:
        """Scores and p-values of pictures.

        Args:
            frozen: (m, d) features of the untuned tower.
            own: (m, d) features under each of :meth:`suffixes`.
            together: the p-values are those of one batch, see :class:`clip_fewshot.conformal.schemes.Together`.
        """
        if len(frozen) == 0:
            return NoveltyScores(np.empty(0), np.empty(0))
        seen = [build_space(self.chosen.space, frozen, features) for features in self._by_judge(frozen, own)]
        scores = [detector.score_samples(X) for detector, X in zip(self._detectors, seen, strict=True)]
        return NoveltyScores(np.mean(scores, axis=0), self._p_values(seen, scores, together))

    def learned(self) -> tuple[Sequence[Detector], Sequence[FloatArray], Calibrated | None]:
        """The detector of each judge, and either their calibration scores or what ranks in their place."""
        return self._detectors, [] if self._calibrated else self._calibration, self._calibrated

    def flags(self, p: FloatArray, alpha: float) -> BoolArray:
        """(m,) which pictures are unknown; none where the support set is too small for ``alpha``."""
        if self.refusal(alpha):
            return np.zeros(len(p), dtype=bool)
        return flag(p, alpha, self.n_calibration)

    def check(self, alpha: float) -> None:
        """Raise UnsupportedAlphaError where ``alpha`` cannot be kept; it carries the number of shots that would do."""
        if self._calibrated is not None:
            self._calibrated.flags(np.empty(0), alpha)
        else:
            check_alpha(alpha, self.n_calibration)

    def refusal(self, alpha: float) -> str | None:
        """Why ``alpha`` cannot be kept, and how many pictures it would take; or None."""
        try:
            self.check(alpha)
        except UnsupportedAlphaError as error:
            if self.per_class:
                return f"it takes {error.expected}, and there are {error.got}; {error.fix}"
            needed = number(error.needed, "known image")
            return f"it takes {needed} to calibrate on, and there are {error.n:,}; {error.fix}"
        return None

    @property
    def n_neighbors(self) -> int | None:
        """With how many the detector compares, which few shots keep below what was chosen; None for one without."""
        return getattr(self._detectors[0], "n_neighbors_", None)

    @property
    def choice(self) -> NoveltyChoice:
        """What :func:`fit_rejector` needs to make such a rejector again."""
        return NoveltyChoice(self.chosen)

    def extend(self, frozen: FloatArray, labels: LabelArray) -> Rejector | None:
        """A rejector that knows other pictures; None where that takes a training or a text.

        Args:
            frozen: (n, d) features of all known pictures. labels: (n,) their classes.
        """
        if self._calibrated is None or self.chosen.needs_texts or self.chosen.space != FROZEN:
            return None
        shots = LabelledRows(build_space(FROZEN, frozen, frozen), labels)
        return replace(self, judges=(Judge(None, shots, None),))

    def about(self) -> dict[str, Any]:
        """What :meth:`from_tensors` needs besides the tensors, as JSON."""
        chosen = {"detector": self.chosen.detector, "space": self.chosen.space, "n_neighbors": self.chosen.n_neighbors}
        foreign = [list(one) for one in foreign_parts("detectors", self.chosen.detector, self.chosen.part, DETECTORS)]
        about = chosen | {"unfreeze": self.unfreeze, "per_class": self.per_class, "levelled": self.levelled}
        return about | ({"foreign": foreign} if foreign else {})

    def to_tensors(self) -> dict[str, Tensor]:
        """What all judges know, as named tensors: detectors are fitted again when they are needed."""
        tensors = {f"texts.{name}": torch.as_tensor(rows) for name, rows in (self.texts or {}).items()}
        for i, judge in enumerate(self.judges):
            for name, shots in (("known", judge.known), ("held_out", judge.held_out)):
                if shots is not None:
                    tensors |= {f"{i}.{name}.{k}": torch.as_tensor(v) for k, v in shots._asdict().items()}
            state = judge.suffix.state_dict() if judge.suffix is not None else {}
            tensors |= {f"{i}.suffix.{k}": v.detach().cpu().contiguous() for k, v in state.items()}
        return tensors

    @classmethod
    def from_tensors(
        cls,
        about: dict[str, Any],
        tensors: dict[str, Tensor],
        backbone: Backbone,
        trusted: Mapping[str, Any],
        where: str,
    ) -> Rejector:
        """The inverse of :meth:`about` and :meth:`to_tensors`.

        Args:
            trusted: the foreign detector by its name, if there is one.
            where: the file, for messages.

        Raises:
            ArtifactError: a foreign detector that is not in ``trusted``, or has other code there.
        """
        name, held = about["detector"], [ForeignPart(*part) for part in about.get("foreign", [])]
        part: DetectorPart = find_stored_part("detectors", name, held, DETECTORS, trusted, where)
        chosen = Alternative(name, about["space"], about["n_neighbors"], None if DETECTORS.get(name) is part else part)
        texts = {name: rows.numpy() for name, rows in select_part(tensors, "texts").items()}
        count = 1 + max(int(name.split(".")[0]) for name in tensors if name[0].isdigit())
        judges = [
            read_judge(chosen.space, about["unfreeze"], select_part(tensors, str(i)), backbone) for i in range(count)
        ]
        ranked = about["per_class"], about.get("levelled", False)
        return cls(chosen, about["unfreeze"], tuple(judges), texts or None, *ranked)

    def _p_values(self, seen: Sequence[FloatArray], scores: Sequence[FloatArray], together: bool) -> FloatArray:
        if self.judges[0].held_out is None and (together or self._calibrated):
            return (self._calibrated or self._calibrate("leave-one-out")).p_values(seen[0], together)
        if not together:
            return cross_p_values(self._calibration, scores)
        asked = [
            ask_held_out(detector, judge.known.rows, judge.held_out.rows, X)
            for detector, judge, X in zip(self._detectors, self.judges, seen, strict=True)
            if judge.held_out is not None
        ]
        return cross_p_values(*zip(*asked, strict=True))

    def _by_judge(self, frozen: FloatArray, own: Sequence[FloatArray]) -> Sequence[FloatArray]:
        return own or [frozen] * len(self.judges)

    def _make(self) -> Detector:
        """Unfitted."""
        return self.chosen.factory(widen_texts(self.texts, self.judges[0].known.rows.shape[1]))()

    @cached_property
    def _detectors(self) -> list[Detector]:
        return [self._make().fit(judge.known.rows, judge.known.labels) for judge in self.judges]

    @cached_property
    def _calibration(self) -> list[FloatArray]:
        """Per judge, (n,) scores of known pictures that its detector has not learned from."""
        return [
            detector.loo_scores_ if judge.held_out is None else detector.score_samples(judge.held_out.rows)
            for detector, judge in zip(self._detectors, self.judges, strict=True)
        ]

    @cached_property
    def _calibrated(self) -> Calibrated | None:
        """Where the same shots teach and calibrate a detector that learns from them."""
        (first, *others) = self.judges
        if others or first.held_out is not None or self.chosen.scheme is None:
            return None
        return self._calibrate(self.chosen.scheme)

    def _calibrate(self, scheme: str) -> Calibrated:
        shots = self.judges[0].known
        return Calibrated(self._make, scheme, self.per_class, levelled=self.levelled).fit(shots.rows, shots.labels)


def fit_rejector(
    backbone: Backbone,
    recipe: Recipe,
    data: SupportData,
    frozen: FloatArray,
    choice: NoveltyChoice,
    *,
    names: Sequence[str] | None = None,
    per_class: bool = False,
) -> Rejector:
    """The chosen detector on the support set, calibrated on pictures that it and its model have not seen.

    Args:
        names: of the classes; a detector that reads texts needs them.
        per_class: as in :func:`select_detector`; both must have the same.
    """
    chosen, unfreeze = choice.best, recipe.point.unfreeze
    needs, templates = chosen.needs_texts, recipe.settings.templates
    texts = encode_concepts(backbone, names or (), templates, needs) if needs else None
    if not is_tuned(chosen.space):
        rows = build_space(chosen.space, frozen, encode_own(chosen.space, data.images, frozen))
        shots = LabelledRows(rows, data.labels)
        return replace(calibrate_shots(chosen, shots, texts, recipe.seed, per_class), unfreeze=unfreeze)
    judges = []
    for fit, held_out in _hold_out(frozen, data.labels, recipe.seed):
        model = fit_model(backbone, recipe, data.subset(fit))
        shots = LabelledRows(build_space(chosen.space, frozen, model.features(data.images)), data.labels)
        judges.append(Judge(model.suffix, shots.subset(fit), shots.subset(held_out)))
    return Rejector(chosen, unfreeze, tuple(judges), texts)


def calibrate_shots(
    chosen: Alternative, shots: LabelledRows, texts: Texts | None = None, seed: int = 0, per_class: bool = False
) -> Rejector:
    """The chosen detector on features that no training has touched; ``seed``: of the folds, where it takes any."""
    if chosen.scheme or chosen.needs_texts:
        return Rejector(chosen, 0, (Judge(None, shots, None),), texts, per_class, not per_class)
    folds = _hold_out(shots.rows, shots.labels, seed)
    judges = tuple(Judge(None, shots.subset(fit), shots.subset(held_out)) for fit, held_out in folds)
    return Rejector(chosen, 0, judges, texts)


def _hold_out(rows: FloatArray, labels: LabelArray, seed: int) -> list[tuple[IndexArray, IndexArray]]:
    """Folds of the distinct pictures: one that is held out looks too normal to what has learned from its copy."""
    kept = keep_distinct(rows).kept
    return [(kept[fit], kept[held_out]) for fit, held_out in split_folds(labels[kept], seed)]
