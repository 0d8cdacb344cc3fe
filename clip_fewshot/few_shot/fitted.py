"""What a fitted classifier answers, how well, and how it is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.collect import Images, collect_images
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.metrics import confusion_matrix
from clip_fewshot.evaluation.reliability import Scores, measure_reliability, score_probabilities
from clip_fewshot.features.encode import image_features
from clip_fewshot.few_shot.model import TunedModel
from clip_fewshot.types import FloatArray, LabelArray, LabelSpace

if TYPE_CHECKING:
    from clip_fewshot.plots.style import Drawing


class FittedClassifier:
    """A model, its classes and its backbone; see :class:`~clip_fewshot.few_shot.classifier.FewShotClassifier`."""

    backbone: Backbone
    model_: TunedModel
    label_space_: LabelSpace

    @property
    def classes_(self) -> NDArray[Any]:
        """(c,) the classes in the order of :meth:`predict_proba`: names, or the whole numbers that were the labels."""
        return self.label_space_.to_array()

    def features(self, images: Images) -> FloatArray:
        """(n, d) tuned features, not normalised."""
        self._check_fitted()
        pictures = collect_images(images, purpose="features")
        (features,) = image_features(self.backbone, pictures, [(self.model_.point.unfreeze, self.model_.suffix)])
        return features

    def predict_proba(self, images: Images) -> FloatArray:
        """(n, c) class probabilities, columns as in ``label_space_``."""
        features = self.features(images)
        return self.model_.probabilities(features) if len(features) else np.empty((0, len(self.label_space_)))

    def predict(self, images: Images) -> NDArray[Any]:
        """(n,) class names, or the whole numbers that were the labels."""
        best = self.predict_proba(images).argmax(axis=1)
        answers: NDArray[Any] = self.classes_[best]
        return answers

    def score(self, images: Images, labels: Iterable[object] | None = None) -> float:
        """Accuracy in [0, 1] on labelled pictures; opening a sealed set for it counts as a look."""
        return self.evaluate(images, labels).accuracy.mean

    def evaluate(self, images: Images, labels: Iterable[object] | None = None) -> Scores:
        """Accuracy, log loss, Brier score and calibration error on labelled pictures, with intervals over them.

        The intervals are of this one model: another draw of the labelled pictures makes another, and `few-shot`,
        `compare` and `shots` measure that, too.
        """
        return score_probabilities(*self._measure(images, labels, "score"))

    def plot_confusion(self, images: Images, labels: Iterable[object] | None = None) -> Drawing:
        """A matplotlib figure of what labelled pictures are taken for: rows are true classes, columns predicted ones.

        Opening a sealed set for it counts as a look, as in :meth:`score`.
        """
        from clip_fewshot.plots.confusion import confusion_plot  # matplotlib: half a second that no fit needs

        truth, (probabilities,) = self._measure(images, labels, "plot_confusion")
        counts = confusion_matrix(truth, probabilities.argmax(axis=1), len(self.label_space_))
        return confusion_plot(counts, self.label_space_.names).figure

    def plot_reliability(self, images: Images, labels: Iterable[object] | None = None) -> Drawing:
        """A matplotlib figure of how often labelled pictures show the class that is given with some probability."""
        from clip_fewshot.plots.reliability import reliability_plot

        truth, (probabilities,) = self._measure(images, labels, "plot_reliability")
        name = self.model_.point.approach
        return reliability_plot({name: measure_reliability(truth, probabilities)}).figure

    def _measure(
        self, images: Images, labels: Iterable[object] | None, purpose: str
    ) -> tuple[LabelArray, list[FloatArray]]:
        """(n,) true classes, and the (n, c) probabilities."""
        self._check_fitted()
        test = collect_images(images, labels, purpose)
        truth = self.label_space_.encode(test.label_space.decode(test.required_labels()))
        return truth, [self.predict_proba(test)]

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise UsageError(expected="a fitted classifier", got="one that never saw a picture", fix="call fit first")
