"""New classes among test pictures: `python -m experiments.discovery digits --unseen seven+eight --shots 4,16`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import clip_fewshot as cf
from clip_fewshot.config import MODELS, DataOptions
from experiments import opening, tables
from experiments.options import run

DESCRIPTION = (
    "Hide classes, let an open-world classifier on frozen features flag what is unknown, group that, and compare with "
    "the semi-supervised k-means of generalised category discovery, which sees all test pictures at once. One match of "
    "groups and classes for all pictures; the same test pictures for each of the support sets."
)
OURS, REGROUPED, GCD, TOLD = "ours", "ours, all regrouped", "k-means, its own number", "k-means, number told"
WAYS = (OURS, REGROUPED, GCD, TOLD)
SIDES = ("all", "old", "new")


@dataclass(frozen=True)
class Options:
    data: str = cf.option(
        "digits", "folder, list file or CSV of labelled pictures; or digits, digits-wild", positional=True
    )
    unseen: tuple[str, ...] = cf.option(
        ("seven+eight+nine", "zero+three+six", "one+four+five", "two+five+eight"), "hidden classes, with + between them"
    )
    shots: tuple[int, ...] = cf.option((4, 8, 16), "labelled pictures per known class")
    seeds: int = cf.option(10, "support sets")
    alpha: float = cf.option(0.05, "share of known pictures that may be flagged, in (0, 1)")
    method: str | None = cf.option(None, "ward, average or semi-supervised (default: what fits the known classes)")
    background: str | None = cf.option(None, "pictures of no class, mixed in: they should end in no group")
    model: str | None = cf.option(None, f"{MODELS} (default: ViT-B/32; mini for digits)")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    json: bool = cf.option(False, "print JSON")

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise cf.UsageError(
                expected="2 support sets or more", got=str(self.seeds), fix="change --seeds", where="--seeds"
            )


class Scene(NamedTuple):
    """Pictures as features: of the pool, and known, hidden and background ones to be told apart.

    Attributes:
        test: (n, d) features of ``pictures``.
        truth: (n,) class of each test picture, in one numbering; hidden ones come last; -1 background.
        n_known: classes.
    """

    backbone: cf.Backbone
    split: cf.OpenWorldSplit
    pool: cf.FloatArray
    pictures: cf.ImageDataset
    test: cf.FloatArray
    truth: cf.IndexArray
    n_known: int
    n_new: int


class Draw(NamedTuple):
    """What one support set leads to: class or group of each test picture, by way; how many groups, and how sure."""

    found: dict[str, cf.IndexArray]
    flags: cf.BoolArray
    groups: cf.Discovery
    estimated: int


def main(options: Options) -> int:
    data = opening.dataset(options.data)
    data.required_labels()
    name = DataOptions(data=options.data, model=options.model).model_name
    backbone = opening.model(name, None, options.device)
    extra = None if options.background is None else opening.dataset(options.background)
    rows = [row for hidden in options.unseen for row in measured(options, backbone, data, extra, hidden.split("+"))]
    record = {
        "schema": 1,
        "model": name,
        "data": data.name,
        "alpha": options.alpha,
        "rows": rows,
        "pooled": pooled(rows),
    }
    print(json.dumps(record, indent=1) if options.json else text(record))
    return 0


def measured(
    options: Options, backbone: cf.Backbone, data: cf.ImageDataset, extra: cf.ImageDataset | None, hidden: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A row per number of shots."""
    scene = staged(backbone, data, extra, hidden)
    for shots in options.shots:
        draws = [drawn(scene, options, shots, seed) for seed in range(options.seeds)]
        yield {"unseen": "+".join(hidden), "shots": shots, "n_new": scene.n_new, **row(scene, draws)}


def staged(backbone: cf.Backbone, data: cf.ImageDataset, extra: cf.ImageDataset | None, hidden: Sequence[str]) -> Scene:
    """Every picture goes through the tower once."""
    import numpy as np

    split = cf.split_open_world(data, shots=1, unseen=hidden)
    parts = [split.test.open("discovery"), split.novel.open("discovery"), *([] if extra is None else [extra])]
    features = [cf.encode_images(backbone, part).features for part in (split.pool, *parts)]
    n_known, n_new = len(split.seen), len(split.unseen)
    truth = [parts[0].required_labels(), n_known + parts[1].required_labels()]
    truth += [np.full(len(part), -1) for part in parts[2:]]
    test = np.concatenate(features[1:])
    return Scene(backbone, split, features[0], cf.join(parts), test, np.concatenate(truth), n_known, n_new)


def drawn(scene: Scene, options: Options, shots: int, seed: int) -> Draw:
    """One support set: flag, group, and assign."""
    import numpy as np

    support = cf.draw_support(scene.split.pool, shots, seed)
    place = {digest: i for i, digest in enumerate(scene.split.pool.digests)}
    reference = scene.pool[[place[digest] for digest in support.digests]], support.required_labels()
    model = cf.FewShotClassifier(scene.backbone, "linear-probe", seed=seed)
    world = cf.OpenWorldClassifier(model, alpha=options.alpha).fit(support)
    sight = world.seen(scene.test) if world.from_features else world.look(scene.pictures)
    answers = world.judge(sight, top=1)
    flags = np.array([answer.label is None for answer in answers])
    groups = cf.discover_classes(scene.test[flags], reference=reference, method=options.method, seed=seed)
    labels = support.label_space.encode([answer.top[0][0] for answer in answers])
    labels[flags] = np.where(groups.labels < 0, -1, scene.n_known + groups.labels)
    unit = scene.test[flags] / np.linalg.norm(scene.test[flags], axis=1, keepdims=True)
    centres = np.array([unit[groups.labels == k].mean(axis=0) for k in range(groups.n_clusters)])
    start = centres if len(centres) else 0
    found = {
        OURS: labels,
        REGROUPED: cf.semi_supervised_kmeans(scene.test, reference, start, seed=seed),
        GCD: cf.semi_supervised_kmeans(scene.test, reference, seed=seed),
        TOLD: cf.semi_supervised_kmeans(scene.test, reference, scene.n_new, seed=seed),
    }
    return Draw(found, flags, groups, int(found[GCD].max()) + 1 - scene.n_known)


def row(scene: Scene, draws: Sequence[Draw]) -> dict[str, Any]:
    """Counts, rates and accuracies with intervals, and each way against k-means with its own number."""
    import numpy as np

    real = scene.truth >= 0
    old = scene.truth < scene.n_known
    sides = {"all": real, "old": real & old, "new": real & ~old}
    hits = {way: [np.zeros(len(real), dtype=bool) for _ in draws] for way in WAYS}
    for way in WAYS:
        for hit, draw in zip(hits[way], draws, strict=True):
            hit[real] = cf.gcd_hits(scene.truth[real], draw.found[way][real])
    inside = [low <= scene.n_new <= high for low, high in (draw.groups.interval for draw in draws)]
    return {
        "counts": {OURS: [draw.groups.n_clusters for draw in draws], GCD: [draw.estimated for draw in draws]},
        "intervals": [draw.groups.interval for draw in draws],
        "covered": float(np.mean(inside)),
        "false_alarms": cf.interval([draw.flags[sides["old"]] for draw in draws]).to_json(),
        "detected": cf.interval([draw.flags[sides["new"]] for draw in draws]).to_json(),
        "background": background(scene, draws),
        "accuracy": {
            way: {side: cf.interval([hit[rows] for hit in hits[way]]).to_json() for side, rows in sides.items()}
            for way in WAYS
        },
        "difference": {
            way: {
                side: cf.paired_difference([h[rows] for h in hits[way]], [h[rows] for h in hits[GCD]]).to_json()
                for side, rows in sides.items()
            }
            for way in (OURS, REGROUPED)
        },
    }


def background(scene: Scene, draws: Sequence[Draw]) -> dict[str, float] | None:
    """Share of the pictures of no class that were flagged, and that ended in some group."""
    import numpy as np

    none = scene.truth < 0
    if not none.any():
        return None
    grouped = [draw.flags[none] & (draw.found[OURS][none] >= scene.n_known) for draw in draws]
    return {"flagged": float(np.mean([draw.flags[none] for draw in draws])), "grouped": float(np.mean(grouped))}


def pooled(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By shots, over all choices of hidden classes: share of support sets whose number is within one of the truth."""
    return {
        str(shots): {
            way: sum(abs(k - r["n_new"]) <= 1 for r in same for k in r["counts"][way])
            / sum(len(r["counts"][way]) for r in same)
            for way in (OURS, GCD)
        }
        | {"covered": sum(r["covered"] for r in same) / len(same)}
        for shots in sorted({r["shots"] for r in rows})
        for same in [[r for r in rows if r["shots"] == shots]]
    }


def text(record: Mapping[str, Any]) -> str:
    """A block per choice of hidden classes and number of shots."""
    lines = [f"{record['data']}, {record['model']}, alpha {record['alpha']:g}"]
    for r in record["rows"]:
        lines += ["", f"unseen {r['unseen']}, {r['shots']} shots a class, {len(r['intervals'])} support sets"]
        lines += [f"  flagged: {rate(r['false_alarms'])} of the known, {rate(r['detected'])} of the unseen"]
        if r["background"]:
            flagged, grouped = r["background"]["flagged"], r["background"]["grouped"]
            lines += [f"  background: {flagged:.3f} flagged, {grouped:.3f} in some group"]
        for way, counts in r["counts"].items():
            lines += [f"  new classes, {way}: {' '.join(map(str, counts))} (truth {r['n_new']})"]
        lines += [f"  the 90 % interval holds the truth in {r['covered']:.2f} of the support sets", ""]
        cells = [[way, *(rate(r["accuracy"][way][side]) for side in SIDES)] for way in WAYS]
        cells += [
            [f"{way} - {GCD}", *(rate(r["difference"][way][side]) for side in SIDES)] for way in (OURS, REGROUPED)
        ]
        lines += [tables.plain([["accuracy", *SIDES], *cells])]
    shares = [[f"{shots} shots", *map(tables.fraction, row.values())] for shots, row in record["pooled"].items()]
    return "\n".join([*lines, "", tables.plain([["number within one", OURS, GCD, "interval holds it"], *shares])])


def rate(found: Mapping[str, Any]) -> str:
    return tables.estimate(found["mean"], found["ci95"])


if __name__ == "__main__":
    sys.exit(run(main, Options, "python -m experiments.discovery", DESCRIPTION))
