"""From what was measured to the arrays and pictures that the report draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clip_fewshot.data.thumbnail import shrink_picture
from clip_fewshot.discovery.undecided import Regrouped
from clip_fewshot.evaluation.reliability import ReliabilityBins, measure_reliability
from clip_fewshot.geometry import unit_rows
from clip_fewshot.plots.views import EmbeddingView, NoveltyView
from clip_fewshot.protocol.final_test import OpenWorldTest, Rejection
from clip_fewshot.report.pictures import PREVIEW_SIDE
from clip_fewshot.report.record import ClusterView, DiscoveryView
from clip_fewshot.types import FloatArray, LabelArray, LabelSpace

CLUSTER_MEMBERS = 12


def novelty_view(rejection: Rejection, alpha: float) -> NoveltyView:
    """Scores and DET curve of one support set."""
    flags = rejection.rejector.flags(np.concatenate([rejection.p_known, rejection.p_novel]), alpha)
    flagged = None if rejection.rejector.refusal(alpha) else int(flags.sum())
    return NoveltyView.of_scores(rejection.known, rejection.novel, flagged)


def discovery_view(grouped: Regrouped, met: OpenWorldTest) -> DiscoveryView:
    """The groups as pictures, the most central one first."""
    found, images, truth = grouped.found, met.images.subset(grouped.rows), [met.names[i] for i in grouped.rows]
    clusters = []
    for number in range(found.n_clusters):
        members = np.flatnonzero(found.labels == number)
        exemplar = int(found.exemplars[number])
        shown = [int(i) for i in members if i != exemplar][:CLUSTER_MEMBERS]
        names, counts = np.unique([truth[int(i)] for i in members], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        clusters.append(
            ClusterView(
                number=number,
                size=len(members),
                exemplar=shrink_picture(images.open(exemplar), PREVIEW_SIDE),
                members=tuple(shrink_picture(images.open(i), PREVIEW_SIDE) for i in shown),
                composition=tuple((str(names[i]), int(counts[i])) for i in order),
            )
        )
    joined = int((~met.unknown[grouped.rows]).sum())
    return DiscoveryView(found.linkage, found.labels, tuple(clusters), joined)


def embedding_views(
    features: Mapping[str, FloatArray], texts: FloatArray, labels: LabelArray, space: LabelSpace
) -> tuple[EmbeddingView, ...]:
    """One 2-D view per space of image features; the frozen texts stand in each."""
    return tuple(
        EmbeddingView(title, unit_rows(images), labels, unit_rows(texts), space.names)
        for title, images in features.items()
    )


def reliability_curves(
    labels: LabelArray, probabilities: Mapping[str, Sequence[FloatArray]]
) -> dict[str, ReliabilityBins]:
    """The bins of each method, the pictures of all its support sets together."""
    return {
        name: measure_reliability(np.tile(labels, len(tables)), np.concatenate(tables))
        for name, tables in probabilities.items()
    }
