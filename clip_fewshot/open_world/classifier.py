"""OpenWorldClassifier: fit -> predict a class or "unknown" -> discover groups among the unknown -> name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.config import AUTO
from clip_fewshot.data.collect import Images, collect_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.discovery import DiscovererPart, Discovery, discover_classes
from clip_fewshot.few_shot.classifier import NOTHING, FewShotClassifier
from clip_fewshot.novelty import DETECTORS, DetectorPart, find_detector
from clip_fewshot.open_world.add_class import Extender, Extension
from clip_fewshot.open_world.answers import Answer, judge, score_answers, select_unknown
from clip_fewshot.open_world.artifact import Saved, load_world, read_detector, write_world
from clip_fewshot.open_world.feature_spaces import list_stored_depths
from clip_fewshot.open_world.fit_detector import fit_detector
from clip_fewshot.open_world.fitted import Fitted, KnownPictures, Naming, Step, extend_names, needs_pictures
from clip_fewshot.open_world.groups import Group, build_groups
from clip_fewshot.open_world.history import History
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.open_world.select_detector import list_detectors
from clip_fewshot.open_world.sight import Observer, Sight, look, see_features
from clip_fewshot.open_world.unknown import UnknownPictures, drop_pictures, join_unknown
from clip_fewshot.runtime.artifacts import open_artifact, save_artifact
from clip_fewshot.runtime.reading import as_path
from clip_fewshot.runtime.result_rows import ResultRows
from clip_fewshot.types import EvalResult, FloatArray, LabelArray, LabelSpace

OPEN_WORLD_KIND = "open-world classifier"


class OpenWorldClassifier:
    """A classifier that can say "unknown", at a false-alarm rate its user chose, and learn what that was.

    After a naming the detector calibrates on the named pictures too. These were picked by their small p-values, so no
    theorem keeps ``alpha`` any more: docs/figures/naming.md has what was measured.

    Args:
        model: a :class:`FewShotClassifier`; :meth:`fit` fits it.
        detector: "auto" chooses among DETECTORS by hiding known classes in turn; one of them, by its key; or one of
            your own, see :func:`find_detector`, which "auto" does not know.
        alpha: share of pictures of known classes that may be called unknown, in (0, 1).
        per_class: keep ``alpha`` within each class, whatever the proportions in which they come. It takes as many shots
            of each class as there are in all otherwise, 19 for an alpha of 0.05.

    Attributes:
        rejector_: the calibrated detector; None where one picture a class leaves nothing to calibrate on.
        reference_: frozen (n, d) features of the known pictures and their (n,) labels: the yardstick of discovery.
        unknown_: pictures that :meth:`predict` called unknown since the fit, and that have no name yet.
        discovery_: what :meth:`discover` found last. named_: the history, oldest first; :meth:`undo` takes one back.
        shown_: digests of the pictures that were ever named: no test set has them any more, also after an undo.

    Example:
        >>> import clip_fewshot as cf
        >>> split = cf.split_open_world(cf.read_dataset("digits"), shots=8, unseen=3)
        >>> model = cf.FewShotClassifier(cf.load_backbone("mini"), approach="linear-probe")
        >>> world = cf.OpenWorldClassifier(model, detector="knn").fit(split.support)
        >>> answers = world.predict(split.novel)
        >>> sum(answer.label is None for answer in answers) > len(answers) / 2
        True
    """

    rejector_: Rejector | None
    unknown_: list[UnknownPictures]
    discovery_: Discovery
    known_: KnownPictures
    shown_: frozenset[str]
    _history: History

    def __init__(
        self,
        model: FewShotClassifier,
        detector: str | DetectorPart = AUTO,
        alpha: float = 0.05,
        per_class: bool = False,
    ) -> None:
        self.model, self.detector, self.alpha, self.per_class = model, detector, alpha, per_class

    @classmethod
    def from_fit(
        cls,
        model: FewShotClassifier,
        rejector: Rejector | None,
        alpha: float,
        reference: tuple[FloatArray, LabelArray],
        pictures: ImageDataset | None = None,
    ) -> OpenWorldClassifier:
        """Wrap what is fitted already; ``pictures``: the known ones, which a model that is trained again needs."""
        world = cls(model, alpha=alpha)
        world._begin(rejector, KnownPictures(*reference, pictures))
        return world

    def fit(
        self, images: Images, labels: Sequence[str] | None = None, *, unlabelled: Images | None = None
    ) -> OpenWorldClassifier:
        """Fit the classifier, choose the detector's features by hiding known classes in turn, and calibrate it.

        Args:
            images, labels, unlabelled: as of :meth:`FewShotClassifier.fit`. The detector learns and calibrates on the
                labelled pictures alone, and ``alpha`` is kept whatever the others show. :meth:`assign` fits without.

        Raises:
            DataError: no labels, or fewer than two classes.
            UsageError: one picture of some class only, too few for ``alpha``, or no use for ``unlabelled``.
        """
        list_detectors(self.detector)  # an unknown name is refused before any training
        model, support = self.model, collect_images(images, labels, "fit")
        more = model.collect_unlabelled(unlabelled)
        model.choose(support, more)
        depths = list_stored_depths(model.backbone.visual)
        data, frozen = model.prepare(support, [model.point.unfreeze, *depths], more)
        model.fit_prepared(data, frozen, support.label_space)
        rejector = fit_detector(model.backbone, model.recipe_, data, frozen, support, self.detector, self.per_class)
        rejector.check(self.alpha)
        self._begin(rejector, KnownPictures(frozen, data.labels, support))
        return self

    def _begin(self, rejector: Rejector | None, known: KnownPictures) -> None:
        self.rejector_, self.known_ = rejector, known
        self.unknown_, self._history, self.shown_ = [], History(), frozenset[str]()

    @property
    def reference_(self) -> tuple[FloatArray, LabelArray]:
        """(n, d) frozen features of the known pictures, and their (n,) classes."""
        return self.known_.frozen, self.known_.labels

    @property
    def named_(self) -> tuple[Naming, ...]:
        """The history, oldest first."""
        return self._history.namings

    @property
    def without_pictures(self) -> tuple[str, ...]:
        """The classes that are known by their names only."""
        return self._fitted().without_pictures()

    @property
    def from_features(self) -> bool:
        """Whether frozen features are all that the model sees of a picture, and all that it needs to learn of one."""
        return not needs_pictures(self.model.point, self.model.views, self.rejector_)

    def predict(self, images: Images, top: int = 5) -> ResultRows[Answer]:
        """A class or "unknown" for each picture, with its p-value and the ``top`` most probable classes.

        ``.to_frame()`` of what comes back is a DataFrame with a row per picture.
        """
        pictures = collect_images(images, purpose="predict")
        sight = self.look(pictures)
        answers = self.judge(sight, top)
        found = select_unknown(pictures, sight.frozen, answers)
        self.unknown_.append(drop_pictures(found, self._history.with_a_name()))
        return ResultRows(answers, image=pictures.names)

    def look(self, images: ImageDataset) -> Sight:
        """The pictures as this model sees them."""
        model = self.model.model_
        return look(self.model.backbone, images, [Observer({model.point.approach: model}, self.rejector_)])[0]

    def look_at_features(self, features: FloatArray) -> Sight:
        """The same from (n, d) frozen features alone; UsageError unless the model works :attr:`from_features`."""
        return see_features(self.model.model_, features, self.from_features)

    def judge(self, sight: Sight, top: int = 5) -> list[Answer]:
        """What :meth:`predict` answers; nothing is remembered."""
        return judge(self._fitted(), self.alpha, sight, top)

    def score(self, images: Images, labels: Sequence[str] | None = None) -> EvalResult:
        """Share of pictures of known classes that are given their class, in [0, 1]; "unknown" is wrong.

        Pictures on which a class was named are left out and counted in ``notes``. To open a sealed set is a look.
        UsageError: pictures of a class that the model does not know, or only pictures that were named.
        """
        test, left_out = self.drop_named(collect_images(images, labels, "score"))
        truth = test.label_space.decode(test.required_labels())
        self.model.label_space_.encode(sorted(set(truth)))  # refuses classes it was never shown
        return score_answers(self.judge(self.look(test)) if truth else [], truth, left_out)

    def drop_named(self, images: ImageDataset) -> tuple[ImageDataset, int]:
        """(the pictures on which no class was ever named, how many are left out)."""
        fresh = np.flatnonzero([digest not in self.shown_ for digest in images.digests])
        return (images, 0) if len(fresh) == len(images) else (images.subset(fresh), len(images) - len(fresh))

    def discover(self, method: str | DiscovererPart | None = None) -> tuple[Group, ...]:
        """Group what was called unknown so far, the largest group first; outliers are in none.

        ``discovery_`` holds the tree, and the group of each picture in the order of ``unknown_``.

        ``method``: as of :func:`discover_classes`.
        """
        pictures, features, p = join_unknown(self.unknown_)
        self.discovery_ = discover_classes(features, reference=self.reference_, method=method, seed=self.model.seed)
        return build_groups(self.discovery_, pictures, features, p, self.reference_, self.model.label_space_)

    def name(self, pictures: Group | Images, name: str) -> Extension:
        """Make a class of a group, or of any pictures, see :meth:`add_class`."""
        return self.add_class(name, pictures)

    def add_class(self, name: str, pictures: Group | Images | None = None) -> Extension:
        """Make a class of pictures, or of its name alone, which pictures may follow later.

        With a probe the logits of the other classes keep their bytes; a head is trained again. The report says what
        that did to the known classes. Without pictures a class is known by its text: the detector has seen none and
        cannot vouch for it (``known_by`` of answers). Pictures replace that text's row.

        Raises:
            UsageError: a name that is taken or cannot be one; no picture without a name; too few for ``alpha`` within
                each class; a model that reads no names ("text-prior" and "zero-shot" do).
        """
        return self.extend({name: pictures})

    def extend(self, classes: Mapping[str, Group | Images | None]) -> Extension:
        """Add several classes at once, see :meth:`add_class`: one training, one entry of the history, one undo."""
        return self._learn(classes, extend_names(self._fitted(), classes), new=True)

    def assign(self, pictures: Group | Images, name: str) -> Extension:
        """Add pictures to a class that is there. All is trained again, with them; the report says what that changed."""
        self.model.label_space_.encode([name])
        return self._learn({name: [] if pictures is None else pictures}, self.model.label_space_, new=False)

    def undo(self) -> Naming:
        """Take the last naming back: the logits and p-values before it return to the last bit.

        UsageError where nothing was named.
        """
        step = self._history.take_back()
        self._become(step.before)
        self.unknown_ = [*step.unknown, *self.unknown_[len(step.unknown) :]]
        return step.naming

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write classifier, detector and history (not the backbone) to a folder, replacing an older one in one step.

        Unless the model works :attr:`from_features`, the known pictures are in it as squares for all to see.
        ``overwrite`` and errors are those of :meth:`FewShotClassifier.save`.
        """
        save_artifact(as_path(folder, "folder"), OPEN_WORLD_KIND, *self.to_artifact(), overwrite)

    @classmethod
    def load(
        cls, folder: str | Path, backbone: Backbone | None = None, trusted: Mapping[str, Any] = NOTHING
    ) -> OpenWorldClassifier:
        """Read back what :meth:`save` wrote; arguments and errors as of :meth:`FewShotClassifier.load`."""
        with open_artifact(as_path(folder, "folder"), OPEN_WORLD_KIND) as (meta, files):
            return cls.from_artifact(files, meta, backbone, str(folder), trusted)

    def foreign_parts(self) -> dict[str, Any]:
        """Parts that are not the library's own, by name: what :meth:`load` wants as ``trusted``."""
        detectors = {} if self.detector == AUTO else dict([find_detector(self.detector)])
        if self.rejector_ is not None:
            detectors[self.rejector_.chosen.detector] = self.rejector_.chosen.part
        return self.model.foreign_parts() | {name: part for name, part in detectors.items() if name not in DETECTORS}

    def to_artifact(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """(files, meta) for :func:`save_artifact`."""
        files, meta = write_world(self.model, Saved(self._fitted(), self._history.steps, self.shown_))
        detector = AUTO if self.detector == AUTO else find_detector(self.detector)[0]
        return files, meta | {"alpha": self.alpha, "detector": detector, "per_class": self.per_class}

    @classmethod
    def from_artifact(
        cls,
        files: dict[str, bytes],
        meta: dict[str, Any],
        backbone: Backbone | None,
        where: str,
        trusted: Mapping[str, Any] = NOTHING,
    ) -> OpenWorldClassifier:
        """The inverse of :meth:`to_artifact`."""
        model, saved = load_world(files, meta, backbone, where, trusted)
        world = cls(model, read_detector(meta["detector"], trusted, where), meta["alpha"], meta.get("per_class", False))
        world._begin(saved.now.rejector, saved.now.known)
        world._history, world.shown_ = History(saved.steps), saved.shown
        return world

    def _learn(self, classes: Mapping[str, Group | Images | None], names: LabelSpace, new: bool) -> Extension:
        history, encode = self._history, lambda pictures: self.look(pictures).frozen
        before, model = self._fitted(), self.model
        digests, more = history.gather(classes, names, encode, self.from_features, before.known.first(0))
        shown = frozenset().union(*digests.values())
        after, report = Extender(model.backbone, model.recipe(), model.views).extend(before, more, names)
        if before.rejector is not None and after.rejector is not None and not before.rejector.refusal(self.alpha):
            after.rejector.check(self.alpha)  # too few pictures of a class, where alpha is kept within each
        history.steps.append(Step(Naming(digests, new), before, list(self.unknown_)))
        self._become(after)
        self.shown_ |= shown
        self.unknown_ = [drop_pictures(part, shown) for part in self.unknown_]
        return report

    def _fitted(self) -> Fitted:
        return Fitted(self.model.model_, self.model.label_space_, self.rejector_, self.known_)

    def _become(self, fitted: Fitted) -> None:
        self.model.model_, self.model.label_space_, self.rejector_, self.known_ = fitted
