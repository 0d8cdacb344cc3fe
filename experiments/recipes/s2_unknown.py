"""S2's unknown pictures: a threshold from test labels beside one from known pictures; groups given and estimated."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import fcluster
from sklearn.neighbors import LocalOutlierFactor

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.discovery import discover_classes
from clip_fewshot.discovery.ward_tree import ward_tree
from clip_fewshot.evaluation.clustering import clustering_accuracy
from clip_fewshot.evaluation.intervals import accuracy_interval, statistic_interval
from clip_fewshot.evaluation.metrics import eer
from clip_fewshot.features.encode import encode_images
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.protocol.refits import PreparedSupport, Task
from clip_fewshot.types import BoolArray, FloatArray, IndexArray

GIVEN, ALPHA = 3, 0.05  # new classes that S2 was given; false alarms that ours is asked for


class Draw(NamedTuple):
    """What one support set says of all test pictures, those of known classes first.

    Attributes:
        written: scikit-learn's LOF on raw features, 20 neighbours; higher = more normal.
        ours: score of the calibrated detector.
        flags: what ours calls unknown.
        groups: of the pictures flagged: name of the way -> (group of each, number of groups).
    """

    written: FloatArray
    ours: FloatArray
    flags: BoolArray
    groups: dict[str, tuple[IndexArray, int]]


def found(
    tasks: Sequence[Task], supports: Sequence[PreparedSupport], test: ImageDataset, novel: ImageDataset
) -> dict[str, Any]:
    """Thresholds and groups over all draws."""
    is_novel = np.arange(len(test) + len(novel)) >= len(test)
    model = tasks[0].backbone
    frozen = np.concatenate([encode_images(model, part).features for part in (test, novel)])
    draws = [drawn(task, support, test, novel, frozen) for task, support in zip(tasks, supports, strict=True)]
    cuts = [oracle(is_novel, draw.written) for draw in draws]
    carried = [draw.written <= cut for draw, cut in zip(draws[1:] + draws[:1], cuts, strict=True)]
    return {
        "alpha": ALPHA,
        "written_eer": statistic_interval(eer, is_novel, [draw.written for draw in draws]).to_json(),
        "our_eer": statistic_interval(eer, is_novel, [draw.ours for draw in draws]).to_json(),
        "rates": {
            "as written": rates(is_novel, [draw.written <= cut for draw, cut in zip(draws, cuts, strict=True)]),
            "as written, on the next draw": rates(is_novel, carried),
            "ours": rates(is_novel, [draw.flags for draw in draws]),
        },
        "groups": grouped(draws, is_novel, novel.required_labels()),
    }


def drawn(
    task: Task,
    support: PreparedSupport,
    test: ImageDataset,
    novel: ImageDataset,
    frozen: FloatArray,
) -> Draw:
    """Both detectors of one support set, and the groups among what ours flags."""
    lof = LocalOutlierFactor(novelty=True).fit(support.frozen)
    probe = FewShotClassifier(task.backbone, approach="linear-probe", seed=task.seed)
    world = OpenWorldClassifier(probe, alpha=ALPHA).fit(support.images)
    answers = [answer for part in (test, novel) for answer in world.predict(part)]
    flags = np.array([answer.label is None for answer in answers])
    groups: dict[str, tuple[IndexArray, int]] = {}
    tree = ward_tree(frozen[flags])
    for told in sorted({len(novel.label_space), GIVEN}):
        groups[f"told {told}"] = fcluster(tree, told, "maxclust").astype(np.int64), told
    reference = (support.frozen, support.data.labels)
    estimated = discover_classes(frozen[flags], reference=reference, seed=task.seed)
    groups["estimated"] = estimated.labels, estimated.n_clusters
    return Draw(lof.score_samples(frozen), np.array([a.score for a in answers]), flags, groups)


def oracle(is_novel: BoolArray, scores: FloatArray) -> float:
    """The threshold at which as many known pictures are flagged as hidden ones are missed: it takes their labels."""
    cuts = np.unique(scores)
    known, unknown = np.sort(scores[~is_novel]), np.sort(scores[is_novel])
    alarms = np.searchsorted(known, cuts, "right") / len(known)
    misses = 1 - np.searchsorted(unknown, cuts, "right") / len(unknown)
    return float(cuts[np.argmin(np.abs(alarms - misses))])


def rates(is_novel: BoolArray, flags: list[BoolArray]) -> dict[str, Any]:
    """Share of the known pictures that were flagged, and of the hidden ones."""
    sides = {"false alarms": ~is_novel, "found": is_novel}
    return {name: accuracy_interval([flag[side] for flag in flags]).to_json() for name, side in sides.items()}


def grouped(draws: list[Draw], is_novel: BoolArray, labels: IndexArray) -> dict[str, Any]:
    """For each way: how many groups, and the share of the flagged pictures that it puts right.

    A false alarm belongs to no group, or into one of false alarms.
    """
    truth = np.concatenate([np.full(int((~is_novel).sum()), -1), labels])
    rows: dict[str, Any] = {}
    for way in draws[0].groups:
        accuracies = [clustering_accuracy(truth[draw.flags], draw.groups[way][0]) for draw in draws]
        counts = [draw.groups[way][1] for draw in draws]
        rows[way] = {"counts": counts, "accuracy": fmean(accuracies), "accuracies": accuracies}
    return rows
