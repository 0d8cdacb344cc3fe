"""The contracts themselves: a member that breaks one promise fails, by the name of that promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clip_fewshot.discovery.base import Partition
from clip_fewshot.discovery.silhouette import Silhouette
from clip_fewshot.heads import LinearHead
from clip_fewshot.losses import cross_entropy
from clip_fewshot.novelty import KNNDetector, MCMDetector, RelativeMahalanobisDetector
from clip_fewshot.probes import PrototypeProbe
from clip_fewshot.testing import (
    ContractError,
    check_backbone,
    check_detector,
    check_discoverer,
    check_head,
    check_loss,
    check_probe,
)
from clip_fewshot.types import FloatArray
from tests.backbones.encoders import pair


class NoScores:
    """What lacks a method."""

    needs_classes, needs_texts, neighbourly, at_depth, scheme = False, (), False, False, None
    fit = predict = to_arrays = from_arrays = None


class NoScheme:
    """What lacks a class attribute; the names of its methods are there."""

    needs_classes, needs_texts, neighbourly, at_depth = False, (), False, False
    fit = score_samples = predict = to_arrays = from_arrays = print


class UnknownScheme(KNNDetector):
    scheme = "quarter"


class Upside(KNNDetector):
    def score_samples(self, X: FloatArray) -> FloatArray:
        return -super().score_samples(X)


class RelativeToBatch(KNNDetector):
    def score_samples(self, X: FloatArray) -> FloatArray:
        scores = super().score_samples(X)
        return np.asarray(scores - scores.mean())


class Ranked(KNNDetector):
    def score_samples(self, X: FloatArray) -> FloatArray:
        return np.asarray(super().score_samples(X) + 1e-3 * np.arange(len(X)))


class Decided(KNNDetector):
    def predict(self, X: FloatArray) -> Any:
        return np.ones(len(X), dtype=np.int64)


class Random(KNNDetector):
    def fit(self, X: FloatArray, y: Any = None) -> KNNDetector:
        noise = 1e-3 * np.random.default_rng().normal(size=np.shape(X))
        return super().fit(np.asarray(X) + noise, y)


class KnowsItself(KNNDetector):
    @property
    def loo_scores_(self) -> FloatArray:
        return np.asarray(self.score_samples(self.rows_))

    @loo_scores_.setter
    def loo_scores_(self, value: FloatArray) -> None:
        pass


class Forgets(KNNDetector):
    def to_arrays(self) -> dict[str, Any]:
        return super().to_arrays() | {"rows": np.round(self.rows_, 2)}


class Names(KNNDetector):
    def to_arrays(self) -> dict[str, Any]:
        return super().to_arrays() | {"name": np.array(["knn"])}


class NotANumber(KNNDetector):
    def score_samples(self, X: FloatArray) -> FloatArray:
        return super().score_samples(X) / (0.0 if len(self.rows_) == 2 else 1.0)


class NeedsNoClasses(RelativeMahalanobisDetector):
    needs_classes = False


class NeedsClasses(KNNDetector):
    needs_classes = True


class ReaderThatLearns(MCMDetector):
    def score_samples(self, X: FloatArray) -> FloatArray:
        return np.asarray(super().score_samples(X) + self.loo_scores_.mean())


DETECTORS = {
    NoScores: "method score_samples is missing",
    NoScheme: "attribute scheme is missing",
    UnknownScheme: "scheme is 'quarter'",
    Upside: "pictures of a class that is far from all known ones score higher",
    RelativeToBatch: "scores of new pictures depend on the others",
    Ranked: "scores of new pictures depend on the others",
    Decided: "predict is not -1 below offset_",
    Random: "two fits on the same pictures give other scores",
    KnowsItself: "loo_scores_ are not the scores under a detector fitted without the picture",
    Forgets: "from_arrays gives a detector with other scores",
    Names: "to_arrays gives something else than numbers",
    NeedsNoClasses: "needs_classes is False, and features without classes are refused",
    NeedsClasses: "needs_classes is True, and features without classes are taken",
    ReaderThatLearns: "needs_texts is given, and the scores depend on the pictures",
}


@pytest.mark.parametrize("part", DETECTORS, ids=lambda part: part.__name__)
def test_a_broken_detector(part: type) -> None:
    with pytest.raises(ContractError, match=DETECTORS[part]):
        check_detector(part)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_detector_that_says_nan_of_too_few_pictures() -> None:
    with pytest.raises(ContractError, match="is not finite"):
        check_detector(NotANumber)


class Moves(PrototypeProbe):
    def extend(self, X: FloatArray, label: Any, known: FloatArray | None = None) -> PrototypeProbe:
        return PrototypeProbe().fit(
            np.concatenate([known, X]), np.append(np.repeat(self.classes_, 6), np.repeat(label, len(X)))
        )


class InPlace(PrototypeProbe):
    def extend(self, X: FloatArray, label: Any, known: FloatArray | None = None) -> PrototypeProbe:
        self.__dict__ = super().extend(X, label, known).__dict__
        return self


class Cuts(PrototypeProbe):
    def extend(self, X: FloatArray, label: Any, known: FloatArray | None = None) -> PrototypeProbe:
        extended = super().extend(X, label, known)
        extended.classes_ = extended.classes_.astype(self.classes_.dtype)
        return extended


class Unsure(PrototypeProbe):
    def predict_proba(self, X: FloatArray) -> FloatArray:
        return super().predict_proba(X) / 2


class ByLength(PrototypeProbe):
    def logits(self, X: FloatArray) -> FloatArray:
        return super().logits(X) * np.linalg.norm(X, axis=1, keepdims=True)


class LosesScale(PrototypeProbe):
    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> PrototypeProbe:
        return super().from_arrays({**arrays, "scale": np.array(1.0)})


PROBES = {
    type("NoExtend", (PrototypeProbe,), {"extend": None}): "method extend is missing",
    Moves: "extend moves the logits of the classes before",
    InPlace: "extend changes the probe it is called on",
    Cuts: "extend cuts a name that is longer",
    Unsure: "probabilities do not sum to 1",
    ByLength: "logits depend on the length of the features",
    LosesScale: "from_arrays gives a probe with other logits",
}


@pytest.mark.parametrize("kind", PROBES, ids=lambda kind: kind.__name__)
def test_a_broken_probe(kind: type[Any]) -> None:
    with pytest.raises(ContractError, match=PROBES[kind]):
        check_probe(kind)


class NoTokens(LinearHead):
    takes_tokens = property()  # type: ignore[assignment]


class Probabilities(LinearHead):
    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(features, labels).softmax(1)


class LogProbabilities(LinearHead):
    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(features, labels).log_softmax(1)


class AlwaysMargin(LinearHead):
    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = super().forward(features)
        return logits if labels is None else logits - nn.functional.one_hot(labels, self.n_classes)


class Batch(LinearHead):
    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = super().forward(features)
        return logits / (1 + logits.abs().max())


class Detached(LinearHead):
    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(features.detach(), labels)


class FirstClass(LinearHead):
    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(features) + nn.functional.one_hot(torch.tensor(0), self.n_classes)


class Hidden(LinearHead):
    def __init__(self, in_features: int, n_classes: int) -> None:
        super().__init__(in_features, n_classes)
        self.shift = float(torch.rand(()))

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(features) + self.shift


HEADS = {
    NoTokens: "attribute takes_tokens is missing",
    Probabilities: "it gives probabilities, not logits",
    LogProbabilities: "it gives logarithms of probabilities",
    AlwaysMargin: "labels change the logits outside training",
    Batch: "logits of a picture depend on the others of its batch",
    Detached: "no gradient reaches features",
    FirstClass: "with the classes renamed the logits are others",
    Hidden: "a head with the same state gives other logits",
}


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_a_broken_head(head: type[nn.Module]) -> None:
    with pytest.raises(ContractError, match=HEADS[head]):
        check_head(head)


def by_sample(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def overflowing(logits: Tensor, targets: Tensor) -> Tensor:
    return -(logits.float().exp() / logits.float().exp().sum(1, keepdim=True)).gather(1, targets[:, None]).log().mean()


def half(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, targets)


def detached(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits.detach(), targets) + 0 * cross_entropy(logits, targets)


def in_order(logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (torch.arange(len(logits)) * nn.functional.cross_entropy(logits, targets, reduction="none")).sum()


def broadcasting(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits[: len(targets)], targets)


LOSSES = {
    by_sample: r"the loss has the shape \(8,\)",
    overflowing: "the loss of logits times 10000 in torch.float16 is not finite",
    half: "is in torch.float16, not in float32",
    detached: "the gradient is not the derivative",
    in_order: "the loss depends on the order of the samples",
    broadcasting: "three targets for eight rows of logits are taken",
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_broken_loss(loss: Any) -> None:
    with pytest.raises(ContractError, match=LOSSES[loss]):
        check_loss(loss)


class Stubborn(Silhouette):
    resample = None  # type: ignore[assignment]


class Shorter(Silhouette):
    def part(self, rows: FloatArray) -> Partition:
        found = super().part(rows)
        return Partition(found.labels[1:], found.tree)


class NoTree(Silhouette):
    def part(self, rows: FloatArray) -> Partition:
        return Partition(super().part(rows).labels, np.empty((0, 4)))


class RowNumbers(Silhouette):
    def part(self, rows: FloatArray) -> Partition:
        found = super().part(rows)
        labels = np.arange(len(rows)) // 10 if len(np.unique(rows, axis=0)) > 1 else found.labels
        return Partition(labels.astype(np.int64), found.tree)


class Unseeded(Silhouette):
    def part(self, rows: FloatArray) -> Partition:
        found = super().part(rows)
        return Partition(found.labels + np.random.default_rng().integers(1, 10**6), found.tree)


DISCOVERERS = {
    Stubborn: "method resample is missing",
    Shorter: "labels of 28 rows have the shape",
    NoTree: "the tree is no linkage of 28 rows",
    RowNumbers: "the order of the rows changes the parts",
    Unseeded: "the same rule parts the same rows in another way",
}


@pytest.mark.parametrize("part", DISCOVERERS, ids=lambda part: part.__name__)
def test_a_broken_discoverer(part: type[Any]) -> None:
    with pytest.raises(ContractError, match=DISCOVERERS[part]):
        check_discoverer(part)


def test_broken_backbones() -> None:
    with pytest.raises(ContractError, match="it is a Linear, and no Backbone"):
        check_backbone(nn.Linear(2, 2))  # type: ignore[arg-type]
    training = pair().train()
    with pytest.raises(ContractError, match="it is in training mode"):
        check_backbone(training)
    leaky, embed = pair(), pair().visual.embed
    leaky.visual.embed = lambda pixels: embed(pixels - pixels.mean(0))  # type: ignore[method-assign]
    with pytest.raises(ContractError, match="image features depend on the batch"):
        check_backbone(leaky)
    uncut = pair()
    suffix = uncut.text.suffix
    uncut.text.suffix = lambda n: nn.Sequential(suffix(n), nn.Tanh())  # type: ignore[method-assign]
    with pytest.raises(ContractError, match="do not go on to its features"):
        check_backbone(uncut)
