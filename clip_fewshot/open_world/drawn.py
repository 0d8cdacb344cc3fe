"""The drawings of a fitted open-world classifier, and which pictures no measurement may use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_fewshot.data.collect import Images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.discovery.base import Discovery
from clip_fewshot.errors import UsageError

if TYPE_CHECKING:
    from clip_fewshot.plots.style import Drawing


class DrawnWorld:
    """What :class:`OpenWorldClassifier` draws in a notebook."""

    shown_: frozenset[str]
    discovery_: Discovery
    grouped_: Any
    rejector_: Any

    @abstractmethod
    def _answer(self, images: Images) -> Sequence[Any]:
        """What is said of pictures; nothing is remembered."""

    def drop_named(self, images: ImageDataset) -> tuple[ImageDataset, int]:
        """(the pictures on which no class was ever named, how many are left out)."""
        fresh = np.flatnonzero([digest not in self.shown_ for digest in images.digests])
        return (images, 0) if len(fresh) == len(images) else (images.subset(fresh), len(images) - len(fresh))

    def plot_groups(self) -> Drawing:
        """A matplotlib figure of what :meth:`discover` found last: a tree, a colour and a picture for each group."""
        from clip_fewshot.plots.dendrogram import dendrogram_plot  # matplotlib: half a second that no fit needs

        if not hasattr(self, "discovery_") or not len(self.discovery_.linkage):
            fix = "predict pictures, then call discover"
            raise UsageError(expected="two unknown pictures or more", got="none", fix=fix, where="plot_groups")
        found, pictures = self.discovery_, self.grouped_.pictures
        exemplars = {group: pictures.open(int(row)) for group, row in enumerate(found.exemplars)}
        return dendrogram_plot(found.linkage, found.labels, exemplars).figure

    def plot_scores(self, known: Images, novel: Images) -> Drawing:
        """A matplotlib figure of the detector's scores of pictures of known classes and of others.

        Nothing is remembered; opening a sealed set for it counts as a look.
        """
        from clip_fewshot.plots.densities import density_plot
        from clip_fewshot.plots.views import NoveltyView

        if self.rejector_ is None:
            got, fix = "a model that never says unknown", "fit an OpenWorldClassifier"
            raise UsageError(expected="a model with a detector", got=got, fix=fix, where="plot_scores")
        answers = [self._answer(images) for images in (known, novel)]
        seen, new = (np.array([answer.score for answer in some]) for some in answers)
        flagged = sum(answer.label is None for some in answers for answer in some)
        return density_plot(NoveltyView.of_scores(seen, new, flagged)).figure
