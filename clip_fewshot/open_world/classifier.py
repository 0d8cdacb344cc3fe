"""OpenWorldClassifier: fit -> predict a class or "unknown" -> discover groups among the unknown -> name them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sklearn.base import BaseEstimator, ClassifierMixin

from clip_fewshot.conformal.p_values import explain_alpha
from clip_fewshot.conformal.shift import Shift, find_shift
from clip_fewshot.data.collect import Images, collect_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import check_class_name
from clip_fewshot.discovery import DiscovererPart
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.unlabelled import Unlabelled
from clip_fewshot.open_world.add_class import Extender, Extension
from clip_fewshot.open_world.answers import Answer, Answers, find_sets, judge, score_answers, select_unknown
from clip_fewshot.open_world.artifact import WorldState
from clip_fewshot.open_world.drawn import DrawnWorld
from clip_fewshot.open_world.feature_spaces import list_stored_depths
from clip_fewshot.open_world.fit_detector import fit_detector
from clip_fewshot.open_world.fitted import KnownPictures, Naming, Step, extend_names
from clip_fewshot.open_world.groups import Group, Groups, discover_groups
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.open_world.select_detector import list_detectors
from clip_fewshot.open_world.sight import Observer, Sight, look, see_features
from clip_fewshot.open_world.unknown import drop_pictures, join_unknown
from clip_fewshot.runtime.parts import check_instance
from clip_fewshot.types import EvalResult, FloatArray, LabelArray, LabelSpace


class OpenWorldClassifier(DrawnWorld, WorldState, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that can say "unknown", at a false-alarm rate its user chose, and learn what that was.

    After a naming the detector calibrates on the named pictures too. These were picked by their small p-values, so no
    theorem keeps ``alpha`` any more: docs/figures/naming.md has what was measured.

    Args:
        model: a :class:`FewShotClassifier`; :meth:`fit` fits it.
        detector: "auto" takes the first of DETECTORS unless hidden known classes speak for another; one of them, by its
            key; or one of your own, see :func:`find_detector`, which "auto" does not know.
        alpha: share of pictures of known classes that may be called unknown, in (0, 1); None: 0.05, or the least that
            the known pictures support if more, with a warning. One that is given and not supported is refused.
        per_class: keep ``alpha`` within each class, whatever the proportions in which they come. It takes as many shots
            of each class as there are in all otherwise, 19 for an alpha of 0.05.

    Attributes:
        rejector_: the calibrated detector; None where one picture a class leaves nothing to calibrate on.
        reference_: frozen (n, d) features of the known pictures and their (n,) labels: the yardstick of discovery.
        unknown_: pictures that :meth:`predict` called unknown since the fit or gave a class with a p-value of at most
            a half, and that have no name yet.
        grouped_: those that :meth:`discover` looked at last and that are unknown or joined a group.
        discovery_: what it found among these. named_: the history, oldest first; :meth:`undo` takes one back.
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

    @classmethod
    def from_fit(
        cls,
        model: FewShotClassifier,
        rejector: Rejector | None,
        alpha: float | None,
        reference: tuple[FloatArray, LabelArray],
        pictures: ImageDataset | None = None,
        losses: FloatArray | None = None,
        unlabelled: Unlabelled | None = None,
    ) -> OpenWorldClassifier:
        """Wrap what is fitted already.

        Args:
            pictures: the known ones, which a model that is trained again needs.
            losses, unlabelled: as of :meth:`calibrate_sets`.
        """
        world = cls(model, alpha=alpha)
        world._begin(rejector, KnownPictures(*reference, pictures, losses))
        world.calibrate_quickly(unlabelled)
        return world

    def fit(
        self, images: Images, labels: Iterable[object] | None = None, *, unlabelled: Images | None = None
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
        check_instance(self.model, FewShotClassifier, "pass FewShotClassifier(backbone)", "model")
        model, support = self.model, collect_images(images, labels, "fit")
        more = model.collect_unlabelled(unlabelled)
        model.choose(support, more)
        data, frozen = model.prepare(support, [model.point.unfreeze, *list_stored_depths(model.backbone.visual)], more)
        model.fit_prepared(data, frozen, support.label_space)
        rejector = fit_detector(model.backbone, model.recipe_, data, frozen, support, self.detector, self.per_class)
        if self.alpha is not None:
            rejector.check(self.alpha)
        for sentence in explain_alpha(self.alpha, rejector.n_calibration):
            warnings.warn(sentence, RuntimeWarning, stacklevel=2)
        self._begin(rejector, KnownPictures(frozen, data.labels, support))
        self.calibrate_quickly(data.unlabelled)
        return self

    def predict(self, images: Images, top: int = 5, together: bool = False) -> Answers:
        """A class or "unknown" for each picture, with its p-value and the ``top`` most probable classes.

        ``.to_frame()`` of what comes back is a DataFrame with a row per picture.

        Args:
            together: the pictures are one batch, and a p-value depends on the others: of new classes that several
                pictures show more are found, see :class:`clip_fewshot.conformal.schemes.Together`.
        """
        pictures = collect_images(images, purpose="predict")
        self.calibrate_quickly()
        sight = self.look(pictures)
        answers = self.judge(sight, top, together)
        found = select_unknown(pictures, sight.frozen, answers)
        self.unknown_.append(drop_pictures(found, self._history.with_a_name()))
        self._seen = sight.frozen
        return Answers(answers, pictures, self.alpha_ if self.rejector_ is not None else 0.0)

    def find_shift(self, images: Images | None = None) -> Shift:
        """Whether pictures come from elsewhere than the known ones, as from another camera, and are no new classes.

        ``.verdict()`` of what comes back is "same", "shift" or "shift or new"; see :mod:`clip_fewshot.conformal.shift`.

        Args:
            images: 50 or more, drawn independently; None: those that :meth:`predict` saw last.
        """
        seen = self._seen if images is None else self.look(collect_images(images, purpose="find_shift")).frozen
        return find_shift(*self.reference_, seen, self.model.seed)

    def predict_set(self, images: Images, alpha: float | None = None) -> list[tuple[str, ...]]:
        """The classes of each picture that cannot be ruled out, most probable first; nothing is remembered.

        A picture of a known class has its class in its set with a probability of 1 - ``alpha`` or more. The same shots
        teach and calibrate, by cross-validation: no theorem says so, but simulation and pictures do, from 1 to 16 shots
        (docs/figures/prediction_sets.md). A set is empty where no class fits, and has all classes where fewer than
        1 / ``alpha`` - 1 shots are there in all. With ``per_class`` that holds within each class, as do the shots that
        it takes. The detector removes no class: its verdict stands in :meth:`predict`, beside ``possible``. Pictures
        that were named are no random draw: nothing is promised after a naming.

        Args:
            alpha: share of pictures whose set may lack their class, in (0, 1); None: that of the classifier.

        Raises:
            UsageError: no pictures to calibrate on, or a model that learned from unlabelled ones was named more since.

        Example:
            >>> import clip_fewshot as cf
            >>> split = cf.split_open_world(cf.read_dataset("digits"), shots=4)
            >>> model = cf.FewShotClassifier(cf.load_backbone("mini"), approach="linear-probe")
            >>> world = cf.OpenWorldClassifier(model, detector="knn").fit(split.support)
            >>> sum(len(names) for names in world.predict_set(split.support, alpha=0.1)) < 2 * len(split.support)
            True
        """
        pictures = collect_images(images, purpose="predict")
        if self.known_.losses is None:
            self.calibrate_sets()
        fitted, asked = self._fitted(), self.alpha_ if alpha is None else alpha
        return find_sets(fitted, asked, self.look(pictures))

    def calibrate_sets(self, losses: FloatArray | None = None, unlabelled: Unlabelled | None = None) -> None:
        """What :meth:`predict_set` calls where it was not done yet: five trainings on parts of the known pictures.

        Args:
            losses: (n,) -ln p of the class of each known picture by models without it, where they are there already.
            unlabelled: further pictures that the model has learned from; they are not kept.
        """
        known, learned = self.known_, self.model.model_.unlabelled
        if losses is None and (not len(known.labels) or (learned is not None and unlabelled is None)):
            fix = "fit an OpenWorldClassifier; what it learns from without labels is not kept for later"
            got = "none beside the model"
            raise UsageError(expected="known pictures, and all others it learned from", got=got, fix=fix, where="sets")
        if losses is None:
            losses = self._extender().leave_out(known, self.model.label_space_, unlabelled if learned else None)
        if len(losses) != len(known.labels):
            expected, fix = f"{len(known.labels)} losses", "pass one a known picture"
            raise UsageError(expected=expected, got=str(len(losses)), fix=fix, where="calibrate_sets")
        self.known_ = replace(known, losses=losses)

    def calibrate_quickly(self, unlabelled: Unlabelled | None = None) -> None:
        """The same where it takes no time."""
        there = len(self.known_.labels) and (unlabelled is not None or self.model.model_.unlabelled is None)
        if self.known_.losses is None and there and self._extender().is_quick:
            self.calibrate_sets(unlabelled=unlabelled)

    def _extender(self) -> Extender:
        return Extender(self.model.backbone, self.model.recipe(), self.model.views)

    def look(self, images: ImageDataset) -> Sight:
        """The pictures as this model sees them."""
        rejector, model = self.rejector_, self.model.model_
        return look(self.model.backbone, images, [Observer({model.point.approach: model}, rejector)])[0]

    def look_at_features(self, features: FloatArray) -> Sight:
        """The same from (n, d) frozen features alone; UsageError unless the model works :attr:`from_features`."""
        return see_features(self.model.model_, features, self.from_features)

    def judge(self, sight: Sight, top: int = 5, together: bool = False) -> list[Answer]:
        """What :meth:`predict` answers; nothing is remembered."""
        return judge(self._fitted(), self.alpha_, sight, top, together)

    def _answer(self, images: Images) -> list[Answer]:
        return self.judge(self.look(collect_images(images, purpose="plot_scores")))

    def score(self, images: Images, labels: Iterable[object] | None = None) -> float:
        """The mean of :meth:`evaluate`, in [0, 1]."""
        return self.evaluate(images, labels).mean

    def evaluate(self, images: Images, labels: Iterable[object] | None = None) -> EvalResult:
        """Share of pictures of known classes that are given their class, in [0, 1]; "unknown" is wrong.

        Pictures on which a class was named are left out and counted in ``notes``. To open a sealed set is a look.
        UsageError: pictures of a class that the model does not know, or only pictures that were named.
        """
        test, left_out = self.drop_named(collect_images(images, labels, "score"))
        truth = test.label_space.decode(test.required_labels())
        self.model.label_space_.encode(sorted(set(truth)))  # refuses classes it was never shown
        return score_answers(self.judge(self.look(test)) if truth else [], truth, left_out)

    def discover(self, method: str | DiscovererPart | None = None) -> Groups:
        """Group what was called unknown so far, the largest group first; outliers are in none.

        A picture that was given a class joins a group that it is more like, see :func:`discover_undecided`; the group
        says what was answered (``answered``), and the answer stands until the group is named. ``discovery_`` holds
        the tree, and the group of each picture in the order of ``grouped_``.
        ``method``: as of :func:`discover_classes`.
        """
        judged, seed = join_unknown(self.unknown_), self.model.seed
        found = discover_groups(judged, self.reference_, self.model.label_space_, method, seed)
        self.grouped_, self.discovery_ = found.pictures, found.found
        return found.groups

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
        return self.extend({check_class_name(name, ()): pictures})

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

    def _learn(self, classes: Mapping[str, Group | Images | None], names: LabelSpace, new: bool) -> Extension:
        history, encode, before = self._history, lambda pictures: self.look(pictures).frozen, self._fitted()
        digests, more = history.gather(classes, names, encode, self.from_features, before.known.first(0))
        shown = frozenset().union(*digests.values())
        after, report = self._extender().extend(before, more, names)
        asked = self.alpha
        if asked is not None and before.rejector and after.rejector and not before.rejector.refusal(asked):
            after.rejector.check(asked)  # too few pictures of a class, where alpha is kept within each
        history.steps.append(Step(Naming(digests, new), before, list(self.unknown_)))
        self._become(after)
        self.shown_ |= shown
        self.unknown_ = [drop_pictures(part, shown) for part in self.unknown_]
        return report
