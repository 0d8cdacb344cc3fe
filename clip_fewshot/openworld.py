"""OpenWorldClassifier: fit -> predict a class or "unknown" -> discover groups among the unknown.

The decision is conformal: a picture is unknown when fewer than a share alpha of known pictures look as strange as
it does, measured on known training pictures that the model and the detector had not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from clip_fewshot import rng, storage
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import Suffix
from clip_fewshot.classifier import (
    PROBE,
    FewShotClassifier,
    Recipe,
    fit_model,
    frozen_features,
    named_part,
    prepare_support,
)
from clip_fewshot.data.collect import Images, collect_images, join
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import stratified_folds
from clip_fewshot.discovery import Discovery, discover_classes
from clip_fewshot.errors import UsageError
from clip_fewshot.features import image_features
from clip_fewshot.novelty import LOFDetector
from clip_fewshot.novelty.conformal import UnsupportedAlphaError, check_alpha, cross_p_values, flag
from clip_fewshot.novelty.selection import Round, Selection, select_detector
from clip_fewshot.training.trainer import SupportData
from clip_fewshot.tuning import last_layers
from clip_fewshot.types import BoolArray, FloatArray, IndexArray, LabelArray

KIND = "open-world classifier"
SPACES = ("frozen", "tuned", "both")
NEIGHBOURS = (2, 3, 5, 8, 12)  # all below the usual 16 shots: beyond the shots a class's neighbours are other classes
MAX_GROUPS = 4
CALIBRATION_FOLDS = 4


def in_space(space: str, frozen: FloatArray, tuned: FloatArray) -> FloatArray:
    """(n, d) rows of unit length per part: frozen features, tuned ones, or both side by side (n, 2d)."""
    parts = {"frozen": (frozen,), "tuned": (tuned,), "both": (frozen, tuned)}[space]
    return np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-12) for part in parts], axis=1)


@dataclass(frozen=True)
class NoveltyChoice:
    """Which features and how many neighbours, chosen by hiding known classes in turn.

    Attributes:
        selection: every alternative with the AUROC it had on the hidden classes; None where nothing could be hidden.
    """

    space: str
    n_neighbors: int
    selection: Selection[tuple[str, int]] | None = None

    def table(self) -> dict[str, float]:
        """AUROC of each alternative on the hidden classes, best first."""
        rows = self.selection.table if self.selection else ()
        return {f"{space} features, k = {k}": auroc for (space, k), auroc, _ in rows}


@dataclass(frozen=True)
class Judge:
    """A detector, the model whose features it knows, and what known pictures score that neither has seen.

    Attributes:
        suffix: the tuned image suffix, or None where the detector looks at frozen features alone.
        calibration: (n,) scores of held-out support pictures, higher = more normal.
    """

    suffix: Suffix | None
    detector: LOFDetector
    calibration: FloatArray


@dataclass(frozen=True)
class Rejector:
    """Says how strange a picture is, and calls it unknown at a chosen false-alarm rate.

    On frozen features there is one judge, calibrated by leaving out one picture at a time. Tuned features need a
    judge per fold, each tuned without its fold: the features of pictures that a model was tuned on lie closer
    together than those of fresh ones, and calibrating the final model on folds of other models was measured to flag
    13 % of known digits where 5 % were asked for; ranking per fold (cross-conformal) flagged 6 %, frozen features 6 %.

    Attributes:
        space: which features the judges look at, a member of SPACES.
        depth: the N of the tuned suffixes.
    """

    space: str
    depth: int
    judges: tuple[Judge, ...]

    @property
    def n_calibration(self) -> int:
        """Known pictures behind the p-values."""
        return sum(len(judge.calibration) for judge in self.judges)

    def suffixes(self) -> list[tuple[int, Suffix]]:
        """(n, suffix) under which :meth:`judge` wants to see the pictures."""
        return [(self.depth, judge.suffix) for judge in self.judges if judge.suffix is not None]

    def judge(self, frozen: FloatArray, tuned: Sequence[FloatArray]) -> list[FloatArray]:
        """(m,) scores by each judge, higher = more normal.

        Args:
            frozen: (m, d) features of the untuned tower.
            tuned: (m, d) features under each of :meth:`suffixes`.
        """
        if len(frozen) == 0:
            return [np.empty(0) for _ in self.judges]
        seen = tuned or [frozen]
        pairs = zip(self.judges, seen, strict=True)
        return [judge.detector.score_samples(in_space(self.space, frozen, features)) for judge, features in pairs]

    def p_values(self, scores: Sequence[FloatArray]) -> FloatArray:
        """(m,) share of known pictures at least as strange, in [1 / (n + 1), 1], from the scores of :meth:`judge`."""
        return cross_p_values([judge.calibration for judge in self.judges], scores)

    def flags(self, p: FloatArray, alpha: float) -> BoolArray:
        """(m,) which pictures are unknown; none where the support set is too small for ``alpha``."""
        if self.refusal(alpha):
            return np.zeros(len(p), dtype=bool)
        return flag(p, alpha, self.n_calibration)

    def refusal(self, alpha: float) -> str | None:
        """Why ``alpha`` cannot be kept, and how many pictures it would take; or None."""
        try:
            check_alpha(alpha, self.n_calibration)
        except UnsupportedAlphaError as error:
            return str(error)
        return None

    def to_tensors(self) -> dict[str, Tensor]:
        """All judges as named tensors."""
        tensors: dict[str, Tensor] = {}
        for i, judge in enumerate(self.judges):
            arrays = {f"detector.{k}": v for k, v in judge.detector.to_arrays().items()}
            arrays["calibration"] = judge.calibration
            state = judge.suffix.state_dict() if judge.suffix is not None else {}
            tensors |= {f"{i}.{k}": torch.as_tensor(v) for k, v in arrays.items()}
            tensors |= {f"{i}.suffix.{k}": v.detach().cpu().contiguous() for k, v in state.items()}
        return tensors

    @classmethod
    def from_tensors(cls, space: str, depth: int, tensors: dict[str, Tensor], backbone: Backbone) -> Rejector:
        """The inverse of :meth:`to_tensors`."""
        count = 1 + max(int(name.split(".")[0]) for name in tensors)
        judges = []
        for i in range(count):
            own = named_part(tensors, str(i))
            suffix = None
            if space != "frozen":
                suffix = last_layers(backbone.visual, depth)
                suffix.load_state_dict(named_part(own, "suffix"))
                suffix.eval().requires_grad_(False)
            arrays = {k: v.numpy() for k, v in named_part(own, "detector").items()}
            judges.append(Judge(suffix, LOFDetector.from_arrays(arrays), own["calibration"].numpy()))
        return cls(space, depth, tuple(judges))


def choose_novelty(backbone: Backbone, recipe: Recipe, data: SupportData, frozen: FloatArray) -> NoveltyChoice | None:
    """Hide groups of known classes in turn and keep what tells them best from the others.

    The unseen classes have no part in it. The model is refitted without the hidden classes, because a model that
    was trained to separate them would not meet them as unknown.

    Returns:
        None where a class has one picture only: nothing is left to calibrate on.
    """
    groups = _class_groups(data.labels, recipe.seed)
    usable = [k for k in NEIGHBOURS if k < _fewest_shots(data.labels)]
    if _fewest_shots(data.labels) < 2:
        return None
    if not groups or not usable:
        return NoveltyChoice("frozen", 1, None)
    spaces = SPACES[:1] if recipe.params.approach == PROBE else SPACES
    rounds: dict[str, list[Round]] = {space: [] for space in spaces}
    for group in groups:
        fit, normal, novel = _hide(data.labels, group, recipe.seed)
        model = fit_model(backbone, recipe, data.subset(fit))
        tuned = model.features(data.images)
        for space in spaces:
            X = in_space(space, frozen, tuned)
            rounds[space].append(Round(X[fit], X[normal], X[novel]))
    selection = select_detector(
        {(space, k): (partial(LOFDetector, n_neighbors=k), rounds[space]) for space in spaces for k in usable}
    )
    space, k = selection.best
    return NoveltyChoice(space, k, selection)


def fit_rejector(
    backbone: Backbone, recipe: Recipe, data: SupportData, frozen: FloatArray, choice: NoveltyChoice
) -> Rejector:
    """The chosen detector on the support set, calibrated on pictures that it and its model have not seen."""
    depth = recipe.params.unfreeze
    if choice.space == "frozen":
        detector = LOFDetector(n_neighbors=choice.n_neighbors).fit(in_space("frozen", frozen, frozen), data.labels)
        return Rejector(choice.space, depth, (Judge(None, detector, detector.loo_scores_),))
    judges = []
    for fit, held_out in _folds(data.labels, recipe.seed):
        model = fit_model(backbone, recipe, data.subset(fit))
        X = in_space(choice.space, frozen, model.features(data.images))
        detector = LOFDetector(n_neighbors=choice.n_neighbors).fit(X[fit], data.labels[fit])
        judges.append(Judge(model.suffix, detector, detector.score_samples(X[held_out])))
    return Rejector(choice.space, depth, tuple(judges))


class Answer(NamedTuple):
    """What the model says of one picture.

    Attributes:
        label: the class, or None for unknown.
        p_value: share of known pictures at least as strange, in (0, 1]; 1 without a detector.
        score: what the detector gave it, higher = more normal; 0 without a detector.
        top: (class, probability), most probable first, whatever the decision.
    """

    label: str | None
    p_value: float
    score: float
    top: tuple[tuple[str, float], ...]


class OpenWorldClassifier:
    """A classifier that can say "unknown", at a false-alarm rate its user chose.

    Args:
        model: a :class:`FewShotClassifier`; :meth:`fit` fits it.
        detector: a key of DETECTORS.
        alpha: share of pictures of known classes that may be called unknown, in (0, 1).

    Attributes:
        rejector_: the calibrated detector; None where one picture a class leaves nothing to calibrate on.
        reference_: frozen (n, d) features of the support set and their (n,) labels: the yardstick of discovery.
        unknown_: pictures that :meth:`predict` called unknown since the fit.
    """

    rejector_: Rejector | None
    reference_: tuple[FloatArray, LabelArray]
    unknown_: list[tuple[ImageDataset, FloatArray]]

    def __init__(self, model: FewShotClassifier, detector: str = "lof", alpha: float = 0.05) -> None:
        self.model = model
        self.detector = detector
        self.alpha = alpha

    @classmethod
    def from_fit(
        cls,
        model: FewShotClassifier,
        rejector: Rejector | None,
        alpha: float,
        reference: tuple[FloatArray, LabelArray],
    ) -> OpenWorldClassifier:
        """Wrap what is fitted already."""
        world = cls(model, alpha=alpha)
        world.rejector_, world.reference_, world.unknown_ = rejector, reference, []
        return world

    def fit(self, images: Images, labels: Sequence[str] | None = None) -> OpenWorldClassifier:
        """Fit the classifier, choose the detector's features by hiding known classes in turn, and calibrate it.

        Raises:
            DataError: no labels, or fewer than two classes.
            UsageError: one picture of some class only, or an alpha that so few pictures cannot support.
        """
        model, support = self.model, collect_images(images, labels, "fit")
        data = prepare_support(model.backbone, support, sorted({0, model.params.unfreeze}), model.views, model.seed)
        frozen = frozen_features(model.backbone, data)
        model.fit_prepared(data, frozen, support.label_space)
        choice = choose_novelty(model.backbone, model.recipe_, data, frozen)
        if choice is None:
            fix = "add pictures, or use FewShotClassifier, which never says unknown"
            raise UsageError("two pictures of each class or more", "one of some class", fix, "support set")
        rejector = fit_rejector(model.backbone, model.recipe_, data, frozen, choice)
        check_alpha(self.alpha, rejector.n_calibration)
        self.rejector_, self.reference_, self.unknown_ = rejector, (frozen, data.labels), []
        return self

    def predict(self, images: Images, top: int = 5) -> list[Answer]:
        """A class or "unknown" for each picture, with its p-value and the ``top`` most probable classes."""
        pictures = collect_images(images, purpose="predict")
        frozen, tuned, judged = self._features(pictures)
        probabilities = self.model.model_.probabilities(tuned)
        p, scores = np.ones(len(pictures)), np.zeros(len(pictures))
        unknown = np.zeros(len(pictures), dtype=bool)
        if self.rejector_ is not None:
            by_judge = self.rejector_.judge(frozen, judged)
            scores[:], p[:] = np.mean(by_judge, axis=0), self.rejector_.p_values(by_judge)
            unknown = self.rejector_.flags(p, self.alpha)
        self.unknown_.append((pictures.subset(np.flatnonzero(unknown)), frozen[unknown]))
        rows = zip(probabilities, p, scores, unknown, strict=True)
        return [self._answer(row, float(value), float(score), bool(novel), top) for row, value, score, novel in rows]

    def discover(self) -> tuple[Discovery, ImageDataset]:
        """Group what was called unknown so far: the groups, and the pictures in the order of their labels."""
        if not any(len(images) for images, _ in self.unknown_):
            raise UsageError("pictures that were called unknown", "none", "predict some pictures first", "discover")
        features = np.concatenate([features for _, features in self.unknown_])
        found = discover_classes(features, reference=self.reference_, seed=self.model.seed)
        return found, join([images for images, _ in self.unknown_])

    def save(self, folder: str | Path) -> None:
        """Write classifier and detector (not the backbone) to a folder, replacing an older one in one step."""
        files, meta = self.model.to_artifact()
        meta |= {"alpha": self.alpha, "detector": self.detector, "rejector": None}
        features, labels = self.reference_
        files["reference.safetensors"] = safetensors.numpy.save({"features": features, "labels": labels})
        if self.rejector_ is not None:
            files["rejector.safetensors"] = safetensors.torch.save(self.rejector_.to_tensors())
            meta["rejector"] = {"space": self.rejector_.space, "depth": self.rejector_.depth}
        storage.save_artifact(Path(folder), KIND, files, meta)

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone | None = None) -> OpenWorldClassifier:
        """Read back what :meth:`save` wrote; ``backbone`` None loads the one it was trained on by its name.

        Raises:
            ArtifactError: damaged files, or another backbone than it was trained on.
        """
        meta, files = storage.load_artifact(Path(folder), KIND)
        model = FewShotClassifier.from_artifact(files, meta, backbone, where=str(folder))
        rejector = None
        if meta["rejector"] is not None:
            tensors = safetensors.torch.load(files["rejector.safetensors"])
            rejector = Rejector.from_tensors(**meta["rejector"], tensors=tensors, backbone=model.backbone)
        reference = safetensors.numpy.load(files["reference.safetensors"])
        return cls.from_fit(model, rejector, meta["alpha"], (reference["features"], reference["labels"]))

    def _features(self, images: ImageDataset) -> tuple[FloatArray, FloatArray, list[FloatArray]]:
        """Frozen, tuned, and as each judge sees them."""
        backbone, model = self.model.backbone, self.model.model_
        judges = self.rejector_.suffixes() if self.rejector_ is not None else []
        suffixes = [(0, last_layers(backbone.visual, 0)), (model.params.unfreeze, model.suffix), *judges]
        frozen, tuned, *judged = image_features(backbone, images, suffixes)
        return frozen, tuned, judged

    def _answer(self, probabilities: FloatArray, p_value: float, score: float, unknown: bool, top: int) -> Answer:
        names = self.model.label_space_.names
        order = np.argsort(-probabilities, kind="stable")[:top]
        ranked = tuple((names[int(i)], float(probabilities[i])) for i in order)
        return Answer(None if unknown else ranked[0][0], p_value, score, ranked)


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
    fit, held_out = _folds(labels[known], seed)[0]
    return known[fit], known[held_out], np.flatnonzero(np.isin(labels, group))


def _folds(labels: LabelArray, seed: int) -> list[tuple[IndexArray, IndexArray]]:
    return stratified_folds(labels, min(CALIBRATION_FOLDS, _fewest_shots(labels)), seed)


def _fewest_shots(labels: LabelArray) -> int:
    return int(np.unique(labels, return_counts=True)[1].min())
