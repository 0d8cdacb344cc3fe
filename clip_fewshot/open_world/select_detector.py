"""Choosing what says "unknown" without any unseen class: known classes are hidden in turn and play the unknown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.sampling import stratified_folds
from clip_fewshot.errors import UsageError
from clip_fewshot.features.prefix import replay
from clip_fewshot.few_shot.model import Recipe, fit_model
from clip_fewshot.few_shot.trainer import SupportData
from clip_fewshot.novelty import TEXTUAL
from clip_fewshot.open_world.alternatives import (
    AUTO,
    NEIGHBOURLY,
    PREFERRED,
    SCHEMES,
    USUAL,
    Alternative,
    alternatives,
    known_detectors,
)
from clip_fewshot.open_world.feature_spaces import (
    BOTH,
    DEPTHS,
    FROZEN,
    TUNED,
    TokenReader,
    depth_of,
    depth_space,
    in_space,
    is_tuned,
)
from clip_fewshot.open_world.rank_detectors import Round, Selection, select_detector
from clip_fewshot.open_world.text_features import texts_of, without_classes
from clip_fewshot.runtime import rng
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

MAX_GROUPS = 4
CALIBRATION_FOLDS = 4


@dataclass(frozen=True)
class NoveltyChoice:
    """Which detector on which features, chosen by hiding known classes in turn.

    Attributes:
        best: what was chosen.
        selection: every alternative with the AUROC it had on the hidden classes; None where nothing could be hidden.
    """

    best: Alternative
    selection: Selection[Alternative] | None = None

    @property
    def margin(self) -> float:
        """Lead in AUROC of the choice over the best alternative with another detector or features; 0 without one."""
        if self.selection is None:
            return 0.0
        by_name = {row.name: row.auroc for row in self.selection.table}
        kind = (self.best.detector, self.best.space)
        others = [auroc for name, auroc in by_name.items() if (name.detector, name.space) != kind]
        return by_name[self.best] - max(others) if others else 0.0

    def to_json(self) -> dict[str, Any]:
        """For results: the choice, its lead and the table."""
        features = {"features": self.best.space, "n_neighbors": self.best.n_neighbors, "chosen": str(self.best)}
        return features | {"margin": self.margin, "selection": self.table()}

    def table(self) -> dict[str, float]:
        """AUROC of each alternative on the hidden classes, best first."""
        return {str(row.name): row.auroc for row in self.selection.table} if self.selection else {}


def choose_novelty(
    backbone: Backbone,
    recipe: Recipe,
    data: SupportData,
    frozen: FloatArray,
    *,
    detector: str = AUTO,
    spaces: Collection[str] | None = None,
    names: Sequence[str] | None = None,
    per_class: bool = False,
) -> NoveltyChoice | None:
    """Hide groups of known classes in turn and keep what tells them best from the others.

    The unseen classes have no part in it. The model is refitted without the hidden classes, because a model that
    was trained to separate them would not meet them as unknown.

    Args:
        detector: a key of DETECTORS, or "auto" for all of them.
        spaces: the features that may be chosen; None: all that recipe and data have.
        names: of the classes, for detectors that read texts; None leaves those out.
        per_class: only what can be calibrated class by class: detectors with a scheme, on features not tuned.

    Raises:
        UsageError: an unknown detector, or one that cannot be calibrated class by class.

    Returns:
        None where a class has one picture only: nothing is left to calibrate on.
    """
    detectors = known_detectors(detector)
    if fewest_shots(data.labels) < 2:
        return None
    allowed = [space for space in _spaces(recipe, data) if spaces is None or space in spaces]
    offered = alternatives(detectors, allowed, fewest_shots(data.labels), names is not None)
    if per_class:
        offered = _by_class(offered, detector)
    groups = _class_groups(data.labels, recipe.seed)
    if not groups or not offered:
        return NoveltyChoice(_plain(detectors, fewest_shots(data.labels)))
    rounds: dict[str, list[Round]] = {one.space: [] for one in offered}
    for group in groups:
        fit, normal, novel = _hide(data.labels, group, recipe.seed)
        tuned = frozen
        if {TUNED, BOTH} & rounds.keys():
            tuned = fit_model(backbone, recipe, data.subset(fit)).features(data.images)
        for space, found in rounds.items():
            X = in_space(space, frozen, own_features(space, data, tuned))
            found.append(Round(X[fit], X[normal], X[novel], data.labels[fit]))
    reads = any(one.detector in TEXTUAL for one in offered) and names is not None
    texts = texts_of(backbone, names) if reads and names is not None else None
    hidden = [without_classes(texts, group) for group in groups]
    selection = select_detector({one: ([one.factory(left) for left in hidden], rounds[one.space]) for one in offered})
    return NoveltyChoice(selection.best, selection)


def _by_class(offered: Sequence[Alternative], detector: str) -> list[Alternative]:
    """Those that full conformal or leave-one-out can rank within each class."""
    if detector not in (AUTO, *SCHEMES):
        fix = f"choose one of {', '.join(SCHEMES)}, or leave it to {AUTO}"
        raise UsageError(
            expected="a detector that can be calibrated per class", got=repr(detector), fix=fix, where="per_class"
        )
    return [one for one in offered if one.detector in SCHEMES and not is_tuned(one.space)]


def _spaces(recipe: Recipe, data: SupportData) -> list[str]:
    tuned = [] if recipe.approach.towers == "none" else [TUNED, BOTH]
    return [FROZEN, *tuned, *(depth_space(n) for n in DEPTHS if n in data.images.cuts)]


def own_features(space: str, data: SupportData, tuned: FloatArray) -> FloatArray:
    """(n, d) what a judge of that space sees of the support set besides its frozen features."""
    n = depth_of(space)
    return tuned if n is None else replay(data.images, n, TokenReader()).numpy()


def _plain(detectors: tuple[str, ...], shots: int) -> Alternative:
    """What is taken where nothing can be hidden."""
    name = PREFERRED[0] if PREFERRED[0] in detectors else detectors[0]
    return Alternative(name, FROZEN, min(USUAL, shots - 1) if name in NEIGHBOURLY else None)


def _class_groups(labels: LabelArray, seed: int) -> list[LabelArray]:
    """The classes dealt into at most MAX_GROUPS groups, each to be hidden once; none with fewer than three classes."""
    classes = np.unique(labels)
    if len(classes) < 3:
        return []
    shuffled = rng.generator(seed, "pseudo-unknown").permutation(classes)
    return [np.sort(group) for group in np.array_split(shuffled, min(MAX_GROUPS, len(classes)))]


def _hide(labels: LabelArray, group: LabelArray, seed: int) -> tuple[IndexArray, IndexArray, IndexArray]:
    """(rows to fit on, known rows held out, rows of the hidden classes)."""
    known = np.flatnonzero(~np.isin(labels, group))
    fit, held_out = folds(labels[known], seed)[0]
    return known[fit], known[held_out], np.flatnonzero(np.isin(labels, group))


def folds(labels: LabelArray, seed: int) -> list[tuple[IndexArray, IndexArray]]:
    """(rows to fit on, rows held out), stratified, as many as the shots allow."""
    return stratified_folds(labels, min(CALIBRATION_FOLDS, fewest_shots(labels)), seed)


def fewest_shots(labels: LabelArray) -> int:
    """Pictures of the smallest class."""
    return int(np.unique(labels, return_counts=True)[1].min())
