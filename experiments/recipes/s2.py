"""S2: the four approaches on K pictures of each class, the unknown found and grouped; as written and as ours.

Both train the same layers at the same rates for as many steps. As written, a softmax stands before the cross-entropy,
the margin's logits know the label in validation too, every trial validates on another split, the threshold of "unknown"
is read off the test labels, and the number of new classes is given. Ours has the repair of each beside it.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clip_fewshot import LinearProbe
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.commands.cli import opening
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.evaluation.intervals import accuracy_interval, statistic_interval
from clip_fewshot.evaluation.metrics import weighted_f1
from clip_fewshot.features.encode import encode_images, image_prefix
from clip_fewshot.features.prefix import Prefix
from clip_fewshot.few_shot.approach import APPROACHES, LINEAR_PROBE, Point
from clip_fewshot.few_shot.cross_validation import CrossValidation
from clip_fewshot.few_shot.model import fit_model
from clip_fewshot.few_shot.trainer import TrainSettings, tune
from clip_fewshot.protocol.refits import PreparedSupport, Task, prepare
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import IndexArray
from experiments.recipes import s2_unknown
from experiments.recipes.s2_tables import table as table
from experiments.recipes.s2_written import Trained, last_epoch, of_support, pairs_floor, written

if TYPE_CHECKING:
    from experiments.recipes.options import Options

KNOWN, SHOTS, UNFREEZE, TRIALS = 8, 16, 1, 20
KINDS = ("as written", "ours")
SETTINGS = TrainSettings()


def run(options: Options) -> dict[str, Any]:
    """All four parts; the sealed pictures are the same throughout."""
    data = opening.open_data(options.data, **options.reading())
    hidden = min(s2_unknown.GIVEN, max(1, len(data.label_space) - KNOWN))
    split = split_open_world(data, shots=SHOTS, unseen=hidden, seed=0)
    test, novel = split.test.open("S2"), split.novel.open("S2")
    model = load_backbone(options.model_name, device=options.device)
    tasks = [Task(model, split.pool, SHOTS, SETTINGS, views=1, seed=seed) for seed in range(options.seeds)]
    supports = [prepare(task, task.support(0), [UNFREEZE]) for task in tasks]
    sealed = image_prefix(model, test, [UNFREEZE])
    return {
        "data": data.name,
        "known": len(split.seen),
        "hidden": len(split.unseen),
        "shots": SHOTS,
        "pictures": {"known": len(test), "hidden": len(novel)},
        "seeds": options.seeds,
        "approaches": [row for name in APPROACHES for row in compared(name, tasks, supports, sealed, test)],
        "leak": [leak(kind, tasks, supports, sealed, test) for kind in KINDS],
        "splits": splits(tasks, supports, test),
        "novelty": s2_unknown.found(tasks, supports, test, novel),
    }


def compared(
    name: str, tasks: list[Task], supports: list[PreparedSupport], sealed: Prefix, test: ImageDataset
) -> list[dict[str, Any]]:
    """A row for each way to do one approach."""
    rows = []
    for kind in KINDS:
        ends = [trained(kind, name, task, support) for task, support in zip(tasks, supports, strict=True)]
        right = [classes(end, sealed) == test.required_labels() for end in ends]
        figures = {"loss": fmean(end.loss for end in ends), "floor": fmean(end.floor for end in ends)}
        rows.append({"approach": name, "kind": kind, "accuracy": accuracy_interval(right).to_json()} | figures)
    return rows


def trained(kind: str, name: str, task: Task, support: PreparedSupport) -> Trained:
    """One training on a whole support set, or on what is left of one."""
    point = APPROACHES[name].at({"unfreeze": UNFREEZE})
    return ours(task, support, point) if kind == "ours" else written(task, support.data, point)


def ours(task: Task, support: PreparedSupport, point: Point) -> Trained:
    """The package's trainer; the probe's C is the one that folds of the support set chose."""
    data = support.data
    tuned = tune(task.backbone, APPROACHES[point.approach], point, data, task.settings, task.seed)
    loss, head = fmean(tuned.losses[-last_epoch(task, data) :]), tuned.head
    if head is not None:
        return Trained(tuned.suffix, lambda x, y: head(x, y).argmax(dim=1), loss, 0.0)
    probe = LinearProbe(C=support.probe.C_).fit(*of_support(tuned.suffix, data, point))
    floor = pairs_floor(task, data)
    return Trained(tuned.suffix, lambda x, _: torch.from_numpy(probe.predict(x.cpu().numpy())), loss, floor)


@torch.no_grad()
def classes(end: Trained, pictures: Prefix, labels: IndexArray | None = None) -> IndexArray:
    """(n,) what the model says of the pictures, with or without their labels."""
    features = pictures.outputs(UNFREEZE, end.suffix, torch.arange(len(pictures))).float()
    told = None if labels is None else torch.as_tensor(labels, device=features.device)
    return np.asarray(end.classify(features, told).cpu().numpy())


def leak(
    kind: str, tasks: list[Task], supports: list[PreparedSupport], sealed: Prefix, test: ImageDataset
) -> dict[str, Any]:
    """What validation of the approach with a margin reports, on its pictures and on those of other classes.

    A validation that is right whatever the pictures show has read the labels.
    """
    told, exchanged, honest = [], [], []
    for task, support in zip(tasks, supports, strict=True):
        train, held = task.folds(support.data.labels)[0]
        part = replace(support, images=support.images.subset(train), data=support.data.subset(train))
        end, labels = trained(kind, "mlp-arcface", task, part), support.data.labels[held]
        told.append(classes(end, support.data.images.subset(held), labels) == labels)
        others = held[other_classes(labels)]
        exchanged.append(classes(end, support.data.images.subset(others), labels) == labels)
        honest.append(classes(end, sealed) == test.required_labels())
    pooled = {"validation": told, "exchanged": exchanged}
    figures = {key: accuracy_interval([np.concatenate(rows)]).to_json() for key, rows in pooled.items()}
    return {"kind": kind, "test": accuracy_interval(honest).to_json()} | figures


def other_classes(labels: IndexArray) -> IndexArray:
    """(n,) for each row one of another class, each taken once, where no class is the larger half."""
    order = np.argsort(labels, kind="stable")
    moved = np.empty_like(order)
    moved[order] = np.roll(order, int(np.bincount(labels).max()))
    return moved


def fold_f1(bench: CrossValidation, fold: int) -> float:
    """Weighted F1 of the frozen probe on one fold, what the source's trials are judged by."""
    train, validation = (bench.data.subset(rows) for rows in bench.folds[fold])
    model = fit_model(bench.backbone, bench.recipe, train)
    return weighted_f1(validation.labels, model.probabilities(model.features(validation.images)).argmax(axis=1))


def splits(tasks: list[Task], supports: list[PreparedSupport], test: ImageDataset) -> list[dict[str, Any]]:
    """The score of one configuration, the probe, in trials that each split the support set again or do not."""
    rows: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    sealed = encode_images(tasks[0].backbone, test).features
    for task, support in zip(tasks, supports, strict=True):
        n, point = len(support.data.labels), LINEAR_PROBE.point
        orders = [generator(task.seed, "split of a trial", trial).permutation(n) for trial in range(TRIALS)]
        anew = [(np.sort(order[n // 5 :]), np.sort(order[: n // 5])) for order in orders]
        bench = CrossValidation(task.backbone, support.data, support.recipe(task, point), task.by_name, anew)
        rows["as written"].append([fold_f1(bench, trial) for trial in range(TRIALS)])
        bench = replace(bench, folds=task.folds(support.data.labels))
        folds = range(len(bench.folds))
        rows["ours"].append([fmean(fold_f1(bench, fold) for fold in folds) for _ in range(TRIALS)])
    guesses = [support.probe.predict(sealed) for support in supports]
    honest = statistic_interval(weighted_f1, test.required_labels(), guesses).to_json()
    return [{"kind": kind, "scores": scores, "test": honest} for kind, scores in rows.items()]
