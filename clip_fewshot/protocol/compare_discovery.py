"""New classes among test pictures, by the open-world way and by that of generalised category discovery.

Classes are hidden, an open-world classifier on frozen features flags what is unknown, that is grouped, what is
undecided joins, and this is compared with groups of the flagged pictures alone and with the semi-supervised k-means of
generalised category discovery (GCD), which sees all test pictures at once and no flags. Groups and classes are matched
once for all pictures; the test pictures are the same for each of the support sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import number
from clip_fewshot.data.sampling import OpenWorldSplit, draw_support, split_open_world
from clip_fewshot.discovery import Discovery, discover_classes, semi_supervised_kmeans
from clip_fewshot.discovery.undecided import discover_undecided
from clip_fewshot.evaluation.clustering import gcd_hits
from clip_fewshot.evaluation.intervals import accuracy_interval, paired_difference
from clip_fewshot.features.encode import encode_images
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.report import tables
from clip_fewshot.types import BoolArray, FloatArray, IndexArray, Progress, ignore_progress

OURS, GATED, GCD, TOLD = "ours", "ours, flagged only", "k-means, its own number", "k-means, number told"
WAYS = (OURS, GATED, GCD, TOLD)
SIDES = ("all", "old", "new")


class DiscoveryScene(NamedTuple):
    """Pictures as features: of the pool, and known, hidden and background ones to be separated.

    Attributes:
        test: (n, d) features of ``pictures``.
        truth: (n,) class of each test picture, in one numbering; hidden ones come last; -1 background.
        n_known: classes.
    """

    backbone: Backbone
    split: OpenWorldSplit
    pool: FloatArray
    pictures: ImageDataset
    test: FloatArray
    truth: IndexArray
    n_known: int
    n_new: int


class Draw(NamedTuple):
    """What one support set leads to: class or group of each test picture, by way; how many groups, and how sure."""

    found: dict[str, IndexArray]
    flags: BoolArray
    groups: Discovery
    estimated: int


def compare_discovery(
    backbone: Backbone,
    data: ImageDataset,
    background: ImageDataset | None,
    hidden: Sequence[str],
    *,
    shot_counts: Sequence[int] = (4, 8, 16),
    seeds: int = 5,
    alpha: float | None = None,
    method: str | None = None,
    progress: Progress = ignore_progress,
) -> Iterator[dict[str, Any]]:
    """A row per number of shots: counts of new classes, rates and accuracies with intervals, and differences from GCD.

    Args:
        data: labelled pictures.
        background: pictures of no class, mixed in: they should end in no group.
        hidden: names of the classes to hide.
        seeds: support sets, at least 2.
        alpha: share of known pictures that may be flagged, in (0, 1); None: as of :class:`OpenWorldClassifier`.
        method: of grouping; None for what fits the known classes.
    """
    stage, total = f"without {'+'.join(hidden)}", seeds * len(shot_counts)
    progress(stage, 0, total)
    scene = _stage(backbone, data, background, hidden, max(shot_counts))
    for i, shots in enumerate(shot_counts):
        draws = []
        for seed in range(seeds):
            draws.append(_draw(scene, alpha, method, shots, seed))
            progress(stage, i * seeds + seed + 1, total)
        yield {"unseen": "+".join(hidden), "shots": shots, "n_new": scene.n_new, **_row(scene, draws)}


def _stage(
    backbone: Backbone, data: ImageDataset, extra: ImageDataset | None, hidden: Sequence[str], most_shots: int
) -> DiscoveryScene:
    """Every picture goes through the tower once."""
    split = split_open_world(data, shots=most_shots, unseen=hidden)
    parts = [split.test.open("discovery"), split.novel.open("discovery"), *([] if extra is None else [extra])]
    features = [encode_images(backbone, part).features for part in (split.pool, *parts)]
    n_known, n_new = len(split.seen), len(split.unseen)
    truth = [parts[0].required_labels(), n_known + parts[1].required_labels()]
    truth += [np.full(len(part), -1) for part in parts[2:]]
    test = np.concatenate(features[1:])
    return DiscoveryScene(backbone, split, features[0], join_images(parts), test, np.concatenate(truth), n_known, n_new)


def _draw(scene: DiscoveryScene, alpha: float | None, method: str | None, shots: int, seed: int) -> Draw:
    """One support set: flag, group, and assign."""
    support = draw_support(scene.split.pool, shots, seed)
    place = {digest: i for i, digest in enumerate(scene.split.pool.digests)}
    reference = scene.pool[[place[digest] for digest in support.digests]], support.required_labels()
    model = FewShotClassifier(scene.backbone, "linear-probe", seed=seed)
    world = OpenWorldClassifier(model, alpha=alpha).fit(support)
    sight = world.look_at_features(scene.test) if world.from_features else world.look(scene.pictures)
    answers = world.judge(sight, top=1)
    flags = np.array([answer.label is None for answer in answers])
    p, known = np.array([answer.p_value for answer in answers]), [answer.top[0][0] for answer in answers]
    alone = discover_classes(scene.test[flags], reference=reference, method=method, seed=seed)
    rows, groups = discover_undecided(scene.test, flags, p, reference, method=method, seed=seed)
    labels = support.label_space.encode(known)
    found = {
        OURS: _grouped(labels, rows, groups.labels, scene.n_known),
        GATED: _grouped(labels, np.flatnonzero(flags), alone.labels, scene.n_known),
        GCD: semi_supervised_kmeans(scene.test, reference, seed=seed),
        TOLD: semi_supervised_kmeans(scene.test, reference, scene.n_new, seed=seed),
    }
    return Draw(found, flags, groups, int(found[GCD].max()) + 1 - scene.n_known)


def _grouped(answered: IndexArray, rows: IndexArray, groups: IndexArray, n_known: int) -> IndexArray:
    """(n,) class or group: what was answered, but for the pictures of a group or of none (-1)."""
    labels = answered.copy()
    labels[rows] = np.where(groups < 0, -1, n_known + groups)
    return labels


def _row(scene: DiscoveryScene, draws: Sequence[Draw]) -> dict[str, Any]:
    """Counts, rates and accuracies with intervals, and each way against k-means with its own number."""
    real = scene.truth >= 0
    old = scene.truth < scene.n_known
    sides = {"all": real, "old": real & old, "new": real & ~old}
    hits = {way: [np.zeros(len(real), dtype=bool) for _ in draws] for way in WAYS}
    for way in WAYS:
        for hit, draw in zip(hits[way], draws, strict=True):
            hit[real] = gcd_hits(scene.truth[real], draw.found[way][real])
    inside = [low <= scene.n_new <= high for low, high in (draw.groups.interval for draw in draws)]
    return {
        "counts": {OURS: [draw.groups.n_clusters for draw in draws], GCD: [draw.estimated for draw in draws]},
        "intervals": [draw.groups.interval for draw in draws],
        "covered": float(np.mean(inside)),
        "false_alarms": accuracy_interval([draw.flags[sides["old"]] for draw in draws]).to_json(),
        "detected": accuracy_interval([draw.flags[sides["new"]] for draw in draws]).to_json(),
        "background": _background(scene, draws),
        "accuracy": {
            way: {side: accuracy_interval([hit[rows] for hit in hits[way]]).to_json() for side, rows in sides.items()}
            for way in WAYS
        },
        "difference": {
            way: {
                side: paired_difference([h[rows] for h in hits[way]], [h[rows] for h in hits[GCD]]).to_json()
                for side, rows in sides.items()
            }
            for way in (OURS, GATED)
        },
    }


def _background(scene: DiscoveryScene, draws: Sequence[Draw]) -> dict[str, float] | None:
    """Share of the pictures of no class that were flagged, and that ended in some group."""
    none = scene.truth < 0
    if not none.any():
        return None
    grouped = [draw.found[OURS][none] >= scene.n_known for draw in draws]
    return {"flagged": float(np.mean([draw.flags[none] for draw in draws])), "grouped": float(np.mean(grouped))}


def pool_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By shots, over all choices of hidden classes: share of support sets whose number is exact, and within one."""
    return {
        str(shots): {
            f"{way}{name}": sum(abs(k - r["n_new"]) <= far for r in same for k in r["counts"][way])
            / sum(len(r["counts"][way]) for r in same)
            for far, name in ((1, ""), (0, ", exact"))
            for way in (OURS, GCD)
        }
        | {"covered": sum(r["covered"] for r in same) / len(same)}
        for shots in sorted({r["shots"] for r in rows})
        for same in [[r for r in rows if r["shots"] == shots]]
    }


def describe_discovery(record: Mapping[str, Any]) -> str:
    """A block per choice of hidden classes and number of shots."""
    lines = [f"{record['data']}, {record['model']}, alpha {record['alpha'] or 'as the shots allow'}"]
    for r in record["rows"]:
        lines += [
            "",
            f"unseen {r['unseen']}, {number(r['shots'], 'shot')} a class, {number(len(r['intervals']), 'support set')}",
        ]
        alarms, detected = (tables.estimate_of(r[what]) for what in ("false_alarms", "detected"))
        lines += [f"  flagged: {alarms} of the known, {detected} of the unseen"]
        if r["background"]:
            flagged, grouped = r["background"]["flagged"], r["background"]["grouped"]
            lines += [f"  background: {flagged:.3f} flagged, {grouped:.3f} in some group"]
        for way, counts in r["counts"].items():
            lines += [f"  new classes, {way}: {' '.join(map(str, counts))} (truth {r['n_new']})"]
        lines += [f"  the 90 % interval holds the truth in {r['covered']:.2f} of the support sets", ""]
        cells = [[way, *(tables.estimate_of(r["accuracy"][way][side]) for side in SIDES)] for way in WAYS]
        for way in (OURS, GATED):
            ahead = [tables.estimate_of(r["difference"][way][side]) for side in SIDES]
            cells.append([f"{way} - {GCD}", *ahead])
        lines += [tables.format_plain([["accuracy", *SIDES], *cells])]
    shares = [[f"{shots} shots", *map(tables.format_fraction, row.values())] for shots, row in record["pooled"].items()]
    head = ["number within one", OURS, GCD, f"{OURS}, exact", f"{GCD}, exact", "interval holds it"]
    return "\n".join([*lines, "", tables.format_plain([head, *shares])])
