"""OpenWorldClassifier: fit -> predict a class or "unknown" -> discover groups among the unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
import safetensors.torch

from clip_fewshot import storage
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.classifier import FewShotClassifier, frozen_features, prepare_support
from clip_fewshot.data.collect import Images, collect_images, join
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.discovery import Discovery, discover_classes
from clip_fewshot.errors import UsageError
from clip_fewshot.features import image_features
from clip_fewshot.novelty import build_detector
from clip_fewshot.novelty.conformal import check_alpha
from clip_fewshot.rejection import Rejector, choose_novelty, fit_rejector
from clip_fewshot.tuning import last_layers
from clip_fewshot.types import FloatArray, LabelArray

KIND = "open-world classifier"


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
        build_detector(self.detector)  # an unknown name is refused before any training
        model, support = self.model, collect_images(images, labels, "fit")
        data = prepare_support(model.backbone, support, [model.params.unfreeze], model.views, model.seed)
        frozen = frozen_features(data)
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
