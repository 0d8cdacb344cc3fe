"""FewShotClassifier: fit, predict, predict_proba, score, save, load."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sklearn.base import BaseEstimator, ClassifierMixin

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.config import AUTO
from clip_fewshot.data.collect import Images, collect_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.few_shot.approach import OWN, SCHEMA_1, Approach, Point, Value, find_approach, refuse_named
from clip_fewshot.few_shot.artifact import collect_model_files, read_backbone, read_model, read_probe
from clip_fewshot.few_shot.cross_validation import choose_model
from clip_fewshot.few_shot.fitted import FittedClassifier
from clip_fewshot.few_shot.model import (
    Recipe,
    TunedModel,
    check_classes,
    encode_frozen,
    fit_calibrated,
    fit_frozen_probe,
    note_if_below_frozen,
    prepare_support,
    reads_texts,
    takes_unlabelled,
)
from clip_fewshot.few_shot.screening import add_unlabelled, collect_unlabelled
from clip_fewshot.few_shot.text_needs import check_texts
from clip_fewshot.few_shot.trainer import SupportData, TrainSettings
from clip_fewshot.few_shot.unlabelled import UnlabelledUse
from clip_fewshot.probes import PROBES, LinearProbe, Probe, find_probe
from clip_fewshot.runtime.artifacts import open_artifact, save_artifact
from clip_fewshot.runtime.parts import check_instance
from clip_fewshot.runtime.reading import as_path
from clip_fewshot.tuning.last_layers import check_depth
from clip_fewshot.types import FloatArray, LabelSpace

FEW_SHOT_KIND = "few-shot classifier"
NOTHING: Mapping[str, Any] = MappingProxyType({})


class FewShotClassifier(FittedClassifier, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The best classifier that a few labelled pictures buy, on top of a frozen backbone, which clones of it share.

    Args:
        backbone: from :func:`load_backbone`; never changed.
        approach: "auto": the best in validation of zero-shot, the text-informed probe, the linear probe and the four
            trained ones, see :func:`~clip_fewshot.few_shot.select.select`. Or one by its name, a key of ``OWN`` such as
            "text-prior", the linear probe around the texts of the classes, or "lora", a small part of the tower under
            fixed texts; an :class:`Approach`; the name of an entry point, or "python:MODULE:NAME".
        unfreeze: the N of "the last N layers", 0 to the number of blocks. This and the next four: None takes the
            approach's own, see ``Approach.centre``.
        backbone_lr, head_lr: peak learning rates.
        margin: what the true class must win by under ArcFace, an angle in radians.
        scale: by which ArcFace multiplies its cosines.
        options: of further options by name, such as "rank" of "lora". "tuned_share", in [0, 1], is one of all that
            trains layers: the weights are that share of the way from the frozen to the tuned ones.
        epochs: passes over the support set.
        views: 1, or 2 to train on mirror images too.
        seed: of everything random.
        probe: a key of ``PROBES`` or a class of your own, see :func:`find_probe`: what classifies where the approach
            has no head. None: the approach's own, the logistic one where it names none.
        templates: texts with one "{}", for captions and class texts; empty: those of :class:`CaptionGenerator`.

    Example:
        >>> import clip_fewshot as cf
        >>> split = cf.split_open_world(cf.read_dataset("digits"), shots=4)
        >>> model = cf.FewShotClassifier(cf.load_backbone("mini"), approach="mlp", unfreeze=0, epochs=5)
        >>> model.fit(split.support).score(split.test) > 0.7
        True
        >>> model.save("model/")
        >>> loaded = cf.FewShotClassifier.load("model/")
    """

    def __init__(
        self,
        backbone: Backbone,
        approach: str | Approach = AUTO,
        unfreeze: int | None = None,
        backbone_lr: float | None = None,
        head_lr: float | None = None,
        margin: float | None = None,
        scale: float | None = None,
        options: Mapping[str, Value] | None = None,
        epochs: int = 20,
        views: int = 1,
        seed: int = 0,
        probe: str | type[Probe] | None = None,
        templates: Sequence[str] = (),
    ) -> None:
        self.backbone, self.approach, self.options, self.probe = backbone, approach, options, probe
        self.unfreeze, self.backbone_lr, self.head_lr, self.margin = unfreeze, backbone_lr, head_lr, margin
        self.scale, self.epochs, self.views, self.seed, self.templates = scale, epochs, views, seed, templates

    def __sklearn_clone__(self) -> FewShotClassifier:
        return FewShotClassifier(**self.get_params(deep=False))  # scikit-learn would copy the backbone

    @classmethod
    def from_model(
        cls, backbone: Backbone, approach: Approach, model: TunedModel, label_space: LabelSpace, **training: Any
    ) -> FewShotClassifier:
        """Wrap a model that is already trained; ``training``: epochs, views, seed, probe, templates."""
        named = approach.name if OWN.get(approach.name) == approach else approach
        known: dict[str, Any] = {k: v for k, v in model.point.options.items() if k in SCHEMA_1}
        further = {k: v for k, v in model.point.options.items() if k not in SCHEMA_1}
        classifier = cls(backbone, named, **known, options=further or None, **training)
        classifier.model_, classifier.label_space_ = model, label_space
        return classifier

    @property
    def point(self) -> Point:
        """The approach's options as they are set, or as they were chosen."""
        if self.approach == AUTO:
            self._check_fitted()
            return self.model_.point
        given = {name: getattr(self, name) for name in SCHEMA_1 if getattr(self, name) is not None}
        return self._approach.at({**given, **(self.options or {})})

    def fit(
        self, images: Images, labels: Iterable[object] | None = None, *, unlabelled: Images | None = None
    ) -> FewShotClassifier:
        """Learn from labelled pictures.

        Args:
            images: a dataset, or paths, PIL pictures or arrays with ``labels``: names or whole numbers. Also a
                DataFrame, a dataset of torch or of Hugging Face, see :mod:`clip_fewshot.data.given`.
            unlabelled: further pictures, mostly of these classes, of which "text-prior" and "auto" learn too. Copies of
                ``images`` and what shows something else are left out; ``unlabelled_`` says what became of them.

        Raises:
            UsageError: layers that are not there, nothing that would train, or no use for ``unlabelled``.
            DataError: no labels, fewer than two classes, or a class without pictures.
            DivergedError: the training did not stay finite.
        """
        more = self.collect_unlabelled(unlabelled)
        if self.approach != AUTO:
            check_depth(self.backbone.visual, self.point.unfreeze)
            find_approach(self.approach).check_trains(self.point)
            find_probe(self._probe)
        support = collect_images(images, labels, "fit")
        check_classes(support)
        if self.approach == AUTO:
            return self._fit_best(support, more)
        return self.fit_prepared(*self.prepare(support, [self.point.unfreeze], more), support.label_space)

    def collect_unlabelled(self, images: Images | None) -> ImageDataset | None:
        """The pictures that :meth:`fit` is given without labels."""
        check_instance(self.backbone, Backbone, "pass what load_backbone(...) returns", "backbone")
        takes = self.approach == AUTO or takes_unlabelled(self._approach, self.probe)
        return collect_unlabelled(images, takes, str(self.approach))

    @property
    def unlabelled_(self) -> UnlabelledUse | None:
        """What unlabelled pictures did; None where there were none."""
        return self.model_.unlabelled

    def choose(self, support: ImageDataset, unlabelled: ImageDataset | None = None) -> None:
        """Where the approach is "auto" and none is chosen yet: choose one."""
        if self.approach == AUTO and not hasattr(self, "approach_"):
            self._fit_best(support, unlabelled)

    def _fit_best(self, support: ImageDataset, unlabelled: ImageDataset | None) -> FewShotClassifier:
        refuse_named([name for name in (*SCHEMA_1, "options", "probe") if getattr(self, name) is not None])
        settings = TrainSettings(epochs=self.epochs, templates=tuple(self.templates))
        choice = choose_model(self.backbone, support, settings, self.views, self.seed, unlabelled)
        self.approach_, self.trials_ = choice.approach, choice.trials
        self.model_, self.recipe_, self.label_space_ = choice.model, choice.recipe, support.label_space
        return self

    def prepare(
        self, support: ImageDataset, cuts: Sequence[int], unlabelled: ImageDataset | None = None
    ) -> tuple[SupportData, FloatArray]:
        """Labelled pictures behind the frozen layers, for all ``cuts``; and their (n, d) frozen features."""
        check_texts(self.backbone, self._approach, self.probe)
        texts, captions = reads_texts(self._approach, self.probe), self._approach.towers == "both"
        fixed = (self.backbone, support, cuts, self.views, self.seed)
        data = prepare_support(*fixed, templates=self.templates, reads_texts=texts, reads_captions=captions)
        frozen = encode_frozen(data)
        return add_unlabelled(self.backbone, data, frozen, support, unlabelled), frozen

    def fit_prepared(self, data: SupportData, frozen: FloatArray, label_space: LabelSpace) -> FewShotClassifier:
        """Like :meth:`fit`, on what :meth:`prepare` returned."""
        self.recipe_ = self.recipe(fit_frozen_probe(frozen, data.labels, self.seed).C_)
        self.model_ = fit_calibrated(self.backbone, self.recipe_, data)
        if note := note_if_below_frozen(self.backbone, self.recipe_, data, self.model_):
            warnings.warn(note, RuntimeWarning, stacklevel=3)
        self.label_space_ = label_space
        return self

    def recipe(self, probe_c: float | None = None) -> Recipe:
        """How the model is trained; ``probe_c`` None: with the C of the probe that was fitted."""
        if probe_c is None and isinstance(self.model_.probe, LinearProbe):
            probe_c = self.model_.probe.C_
        settings = TrainSettings(epochs=self.epochs, templates=tuple(self.templates))
        return Recipe(self._approach, self.point, settings, probe_c, self.seed, self.probe)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the trained parts (not the backbone) to a folder; an older model there is replaced in one step.

        Raises:
            ResourceError, ArtifactError: it holds a model of another kind, or other files and no ``overwrite``.
        """
        self._check_fitted()
        save_artifact(as_path(folder, "folder"), FEW_SHOT_KIND, *self.to_artifact(), overwrite)

    @classmethod
    def load(
        cls, folder: str | Path, backbone: Backbone | None = None, trusted: Mapping[str, Any] = NOTHING
    ) -> FewShotClassifier:
        """Read a saved classifier back.

        Args:
            backbone: the one it was trained on; None loads it by its name.
            trusted: parts from outside the library, by the name that they were saved under: no file imports any.

        Raises:
            ArtifactError: damaged files, another backbone than then, or a foreign part not passed.
        """
        with open_artifact(as_path(folder, "folder"), FEW_SHOT_KIND) as (meta, files):
            return cls.from_artifact(files, meta, backbone, str(folder), trusted)

    def foreign_parts(self) -> dict[str, Any]:
        """Parts that are not the library's own, by name: what :meth:`load` wants as ``trusted``."""
        approach, (name, probe) = self._approach, find_probe(self._probe)
        foreign: dict[str, Any] = {} if OWN.get(approach.name) == approach else {approach.name: approach}
        return foreign if self.probe is None or name in PROBES else foreign | {name: probe}

    def to_artifact(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """(files, meta) for :func:`clip_fewshot.runtime.artifacts.save_artifact`."""
        return self.collect_files(self.model_, self.label_space_)

    def collect_files(self, model: TunedModel, labels: LabelSpace) -> tuple[dict[str, bytes], dict[str, Any]]:
        """:meth:`to_artifact` of another model that was trained in the same way."""
        training: dict[str, Any] = {name: getattr(self, name) for name in ("epochs", "views", "seed")}
        training |= {"probe": self._probe} | ({"templates": list(self.templates)} if self.templates else {})
        return collect_model_files(self.backbone, self._approach, model, labels, training)

    @classmethod
    def from_artifact(
        cls,
        files: Mapping[str, bytes],
        meta: Mapping[str, Any],
        backbone: Backbone | None,
        where: str,
        trusted: Mapping[str, Any] = NOTHING,
    ) -> FewShotClassifier:
        """The inverse of :meth:`to_artifact`."""
        found = read_backbone(meta, backbone, trusted, where)
        approach, model, labels = read_model(files, meta, found, trusted, where)
        training = {**meta["training"], "probe": read_probe(meta, approach, trusted, where)}
        return cls.from_model(found, approach, model, labels, **training)

    @property
    def _approach(self) -> Approach:
        """The approach that was named, or the one that was chosen."""
        if self.approach != AUTO:
            return find_approach(self.approach)
        self._check_fitted()
        return self.approach_

    @property
    def _probe(self) -> str | type[Probe]:
        return self.probe or self._approach.probe
