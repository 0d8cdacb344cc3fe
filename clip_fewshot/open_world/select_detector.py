"""Choosing what says "unknown" without any unseen class: known classes are hidden in turn and play the unknown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.config import AUTO
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.errors import UsageError
from clip_fewshot.features.encode import image_prefix
from clip_fewshot.features.prefix import Prefix
from clip_fewshot.few_shot.model import Recipe, TunedModel, fit_model
from clip_fewshot.few_shot.trainer import SupportData
from clip_fewshot.novelty import DETECTORS, DetectorPart, facts_of, find_detector
from clip_fewshot.open_world.alternatives import Alternative, NoveltyChoice, count_fewest_shots, split_folds
from clip_fewshot.open_world.far_pictures import FAR_KINDS, copy_broken
from clip_fewshot.open_world.feature_spaces import (
    BOTH,
    DEPTHS,
    FROZEN,
    TUNED,
    build_space,
    encode_own,
    is_tuned,
    name_depth,
    parse_depth,
)
from clip_fewshot.open_world.rank_detectors import Round, rank_detectors
from clip_fewshot.open_world.text_features import drop_classes, encode_concepts, widen_texts
from clip_fewshot.runtime import rng
from clip_fewshot.runtime.progress import report_steps
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

NEIGHBOURS = (2, 3, 5, 8, 12)  # all below the usual 16 shots: beyond the shots a class's neighbours are other classes
USUAL = 5  # neighbours, where nothing tells another number
MAX_GROUPS = 4


def select_detector(
    backbone: Backbone,
    recipe: Recipe,
    data: SupportData,
    frozen: FloatArray,
    *,
    pictures: ImageDataset | None = None,
    detector: str | DetectorPart = AUTO,
    spaces: Collection[str] | None = None,
    names: Sequence[str] | None = None,
    per_class: bool = False,
    n_neighbors: int | None = None,
) -> NoveltyChoice | None:
    """Hide groups of known classes in turn and keep what tells them best from the others.

    The unseen classes have no part in it. The model is refitted without the hidden classes, because a model that
    was trained to separate them would not meet them as unknown. Broken copies of the support pictures stand for what
    is far from every class, see :func:`rank_detectors`.

    Args:
        pictures: the support set, of which copies are broken; None: only hidden classes play the unknown.
        detector: as :func:`find_detector` takes it, or "auto" for all of DETECTORS. A foreign one is never among
            those: it is used where it is given.
        spaces: the features that may be chosen; None: all that recipe and data have.
        names: of the classes, for detectors that read texts; None leaves those out.
        per_class: only what can be calibrated class by class: detectors with a scheme, on features not tuned.
        n_neighbors: of a detector that has neighbours; None: chosen among NEIGHBOURS.

    Raises:
        UsageError: no such detector, one without neighbours that is given a number of them, or one that cannot be
            calibrated class by class.

    Returns:
        None where a class has one picture only: nothing is left to calibrate on.
    """
    detectors = list_detectors(detector, n_neighbors)
    if count_fewest_shots(data.labels) < 2:
        return None
    allowed = [space for space in _spaces(recipe, data) if spaces is None or space in spaces]
    shots = count_fewest_shots(data.labels)
    ks = list_neighbour_counts(shots) if n_neighbors is None else [n_neighbors]
    offered = list_alternatives(detectors, allowed, ks, names is not None)
    if per_class:
        offered = _by_class(offered, detectors)
    groups = _class_groups(data.labels, recipe.seed)
    if not groups or not offered:
        return NoveltyChoice(_plain(detectors, n_neighbors or min(USUAL, shots - 1)))
    rounds: dict[str, list[Round]] = {one.space: [] for one in offered}
    known, far = Viewed(data.images, frozen), None if pictures is None else _view_far(backbone, recipe, data, pictures)
    for group in report_steps(groups, "hide classes in turn", len(groups)):
        fit, normal, novel = _hide(data.labels, group, recipe.seed)
        model = fit_model(backbone, recipe, data.subset(fit)) if {TUNED, BOTH} & rounds.keys() else None
        for space, found in rounds.items():
            X = known.build(space, model)
            strange = () if far is None else np.array_split(far.build(space, model), FAR_KINDS)
            found.append(Round(X[fit], X[normal], X[novel], data.labels[fit], strange))
    needs, templates = {name for one in offered for name in one.needs_texts}, recipe.settings.templates
    texts = encode_concepts(backbone, names, templates, needs) if needs and names is not None else None
    hidden = [drop_classes(texts, group) for group in groups]
    widths = {space: found[0].fit.shape[1] for space, found in rounds.items()}
    selection = rank_detectors(
        {
            one: ([one.factory(widen_texts(left, widths[one.space])) for left in hidden], rounds[one.space])
            for one in offered
        }
    )
    return NoveltyChoice(selection.best, selection)


class Viewed(NamedTuple):
    """Pictures behind the frozen layers, and their (n, d) frozen features."""

    images: Prefix
    frozen: FloatArray

    def build(self, space: str, model: TunedModel | None) -> FloatArray:
        """(n, d) features of that space; ``model`` for the tuned ones."""
        tuned = model.features(self.images) if model is not None and is_tuned(space) else self.frozen
        return build_space(space, self.frozen, encode_own(space, self.images, tuned))


def _view_far(backbone: Backbone, recipe: Recipe, data: SupportData, pictures: ImageDataset) -> Viewed:
    """Broken copies, kind after kind, at every depth that a space may ask for."""
    cuts = [n for n in sorted({*DEPTHS, recipe.point.unfreeze}) if n in data.images.cuts]
    images = image_prefix(backbone, copy_broken(pictures, recipe.seed), cuts)
    return Viewed(images, images.frozen_features().cpu().numpy())


def list_detectors(detector: str | DetectorPart, n_neighbors: int | None = None) -> dict[str, DetectorPart]:
    """The detectors to choose among: all of the library for "auto", else the one that is named or given.

    Raises:
        UsageError: see :func:`find_detector`; ``n_neighbors`` beside "auto" or a detector without neighbours.
    """
    found: dict[str, DetectorPart] = {**DETECTORS} if detector == AUTO else dict([find_detector(detector)])
    if n_neighbors is not None and (detector == AUTO or not all(facts_of(part).neighbourly for part in found.values())):
        can = [name for name, part in DETECTORS.items() if part.neighbourly]
        fix = f"name such a one, as `detector` {can[-1]}, or leave `n_neighbors` out"
        got = AUTO if detector == AUTO else next(iter(found))
        raise UsageError(expected="a detector that has neighbours", got=repr(got), fix=fix, where="`n_neighbors`")
    return found


def list_alternatives(
    detectors: Mapping[str, DetectorPart], spaces: Collection[str], ks: Sequence[int | None], reads: bool
) -> list[Alternative]:
    """Every detector with every number of neighbours in every space where it makes sense, the preferred first.

    The detector goes before the space: the better one further down is preferred to the next on frozen features.

    Detectors that read texts look at the space that texts are in. Features from further down stand beside the frozen
    ones, since alone they tell less, and only of detectors that are ``at_depth``.

    Args:
        detectors: in the order of preference.
        ks: numbers of neighbours.
        reads: whether there are texts to read.
    """
    found = []
    for name, part in detectors.items():
        facts = facts_of(part)
        for space in spaces:
            if facts.needs_texts and (is_tuned(space) or not reads):
                continue
            if parse_depth(space) is not None and not facts.at_depth:
                continue
            found += [_alternative(name, part, space, k) for k in (ks if facts.neighbourly else [None])]
    return found


def _alternative(name: str, part: DetectorPart, space: str, k: int | None) -> Alternative:
    return Alternative(name, space, k, None if DETECTORS.get(name) is part else part)


def list_neighbour_counts(fewest_shots: int) -> Sequence[int | None]:
    """Those below the shots, the one nearest to the usual number first."""
    return sorted((k for k in NEIGHBOURS if k < fewest_shots), key=lambda k: abs(k - USUAL))


def _by_class(offered: Sequence[Alternative], detectors: Mapping[str, DetectorPart]) -> list[Alternative]:
    """Those that full conformal or leave-one-out can rank within each class."""
    if not any(facts_of(part).scheme for part in detectors.values()):
        can = [name for name, part in DETECTORS.items() if part.scheme]
        fix = f"choose one of {', '.join(can)}, or leave it to {AUTO}"
        got = ", ".join(detectors)
        raise UsageError(
            expected="a detector that can be calibrated per class", got=repr(got), fix=fix, where="per_class"
        )
    return [one for one in offered if one.scheme]


def _spaces(recipe: Recipe, data: SupportData) -> list[str]:
    tuned = [] if recipe.approach.towers == "none" else [TUNED, BOTH]
    return [FROZEN, *tuned, *(name_depth(n) for n in DEPTHS if n in data.images.cuts)]


def _plain(detectors: Mapping[str, DetectorPart], k: int) -> Alternative:
    """What is taken where nothing can be hidden: the preferred one that needs no texts, on frozen features."""
    plain = {name: part for name, part in detectors.items() if not facts_of(part).needs_texts}
    name, part = next(iter((plain or detectors).items()))
    return _alternative(name, part, FROZEN, k if facts_of(part).neighbourly else None)


def _class_groups(labels: LabelArray, seed: int) -> list[LabelArray]:
    """The classes in at most MAX_GROUPS groups, each to be hidden once; no groups if there are under three classes."""
    classes = np.unique(labels)
    if len(classes) < 3:
        return []
    shuffled = rng.generator(seed, "pseudo-unknown").permutation(classes)
    return [np.sort(group) for group in np.array_split(shuffled, min(MAX_GROUPS, len(classes)))]


def _hide(labels: LabelArray, group: LabelArray, seed: int) -> tuple[IndexArray, IndexArray, IndexArray]:
    """(rows to fit on, known rows held out, rows of the hidden classes)."""
    known = np.flatnonzero(~np.isin(labels, group))
    fit, held_out = split_folds(labels[known], seed)[0]
    return known[fit], known[held_out], np.flatnonzero(np.isin(labels, group))
