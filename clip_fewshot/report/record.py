"""What the report page shows besides results.json: plain arrays, names and small pictures.

The pipeline fills one :class:`RunRecord`; nothing here knows a model, a data set or a study. Whatever a run did not
measure is left at its default and the page says so in a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.reliability import ReliabilityBins
from clip_fewshot.plots.views import TRIAL_STATES, EmbeddingView, NoveltyView, ShotPoint, TrialRow
from clip_fewshot.types import FloatArray, LabelArray


class PredictionExample(NamedTuple):
    """One test picture with its most probable classes.

    Attributes:
        picture: any size and mode; the page shrinks it.
        true_name: the class it shows, None where that is not known.
        top: (class name, probability in [0, 1]), most probable first.
        unknown: whether the novelty detector flagged it; None where none ran.
        p_value: conformal p-value of "shows a known class", in (0, 1].
        possible: the classes that cannot be ruled out at alpha; None where that is not known.
        file: what the picture is called in its data set; "" where that is not known.
        votes: (class, number of fresh support sets whose model answers it), most first; the confusion matrix is made
            of these.
    """

    picture: Image
    true_name: str | None
    top: tuple[tuple[str, float], ...]
    unknown: bool | None = None
    p_value: float | None = None
    possible: tuple[str, ...] | None = None
    file: str = ""
    votes: tuple[tuple[str, int], ...] = ()


class ClusterView(NamedTuple):
    """One candidate class among the flagged images.

    Attributes:
        number: its label in ``DiscoveryView.labels``.
        size: how many images it holds.
        exemplar: its most central picture.
        members: some others, in the order to show them.
        suggested: a name proposed for it, if any.
        composition: (true class, count), largest first: known here only because the run is an experiment.
    """

    number: int
    size: int
    exemplar: Image
    members: tuple[Image, ...] = ()
    suggested: str | None = None
    composition: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class DiscoveryView:
    """The flagged images, and those that joined a group though a class was answered, as a tree and as groups.

    Attributes:
        linkage: (m - 1, 4) merges in SciPy's layout (left, right, height, size); (0, 4) for one image.
        labels: (m,) cluster number of each image; -1 for those in no cluster.
        clusters: one entry per cluster, in the order to show them; none where every image is in no cluster.
        joined: how many of the m images were not flagged.
    """

    linkage: FloatArray
    labels: LabelArray
    clusters: tuple[ClusterView, ...]
    joined: int = 0

    def __post_init__(self) -> None:
        if self.linkage.shape != (max(len(self.labels) - 1, 0), 4):
            got = f"{self.linkage.shape} for {number(len(self.labels), 'image')}"
            expected = "a linkage matrix (m - 1, 4)"
            raise UsageError(expected=expected, got=got, fix="pass the one that made the labels", where="DiscoveryView")
        sizes = {int(k): int((self.labels == k).sum()) for k in np.unique(self.labels) if k != -1}
        shown = {cluster.number: cluster.size for cluster in self.clusters}
        if shown != sizes or len(shown) != len(self.clusters) or any(k < -1 for k in sizes):
            fix = "number clusters from 0, and images in none -1"
            expected = "one cluster of each label and its size"
            raise UsageError(expected=expected, got=f"{shown} for {sizes}", fix=fix, where="DiscoveryView")

    @property
    def n_outliers(self) -> int:
        """Flagged images in no cluster."""
        return int((self.labels == -1).sum())


@dataclass(frozen=True)
class RunRecord:
    """Everything the page shows besides the results dict.

    Attributes:
        command: the command line that repeats the run.
        class_names: the c known classes, in the order of the confusion matrix.
        confusion: (c, c) counts, true class by row, predicted class by column; None where nothing was predicted.
        history: the trials of the search, by number.
        predictions: example pictures with their top-k answers.
        embeddings: one view per picture of the common space, for example before and after tuning.
        novelty: None where no class was held out.
        discovery: None where nothing was flagged or no class was held out.
        reliability: method -> accuracy by the probability that is given; the chosen one last.
        shots: method -> accuracy by shots per class; empty for a run at one number of shots.
    """

    command: str
    class_names: tuple[str, ...]
    confusion: NDArray[np.int64] | None = None
    history: tuple[TrialRow, ...] = ()
    predictions: tuple[PredictionExample, ...] = ()
    embeddings: tuple[EmbeddingView, ...] = ()
    novelty: NoveltyView | None = None
    discovery: DiscoveryView | None = None
    reliability: Mapping[str, ReliabilityBins] = field(default_factory=dict)
    shots: Mapping[str, tuple[ShotPoint, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        c = len(self.class_names)
        if self.confusion is not None and self.confusion.shape != (c, c):
            got = f"{self.confusion.shape} for {c} class names"
            fix = "pass counts over all known classes"
            raise UsageError(expected="a square confusion matrix", got=got, fix=fix, where="RunRecord.confusion")
        states = {row["state"] for row in self.history} - set(TRIAL_STATES)
        if states:
            expected = f"trial states out of {list(TRIAL_STATES)}"
            raise UsageError(expected=expected, got=f"{sorted(states)}", fix="map them", where="RunRecord.history")
