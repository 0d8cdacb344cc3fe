"""How well a saved model tells the unknown: `python -m experiments.novelty runs/digits-mini/model digits`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import clip_fewshot as cf
from experiments import opening, tables
from experiments.options import run

DESCRIPTION = (
    "Novelty detection of a saved model: known test pictures against pictures of classes it was never shown. The test "
    "side of DATA is the one that was sealed when the model was trained on the same data under the same seed."
)


@dataclass(frozen=True)
class Options:
    saved: Path = field(metadata={"positional": True, "metavar": "MODEL", "help": "folder of a saved model"})
    data: str = field(metadata={"positional": True, "help": "labelled pictures; or digits, digits-wild"})
    novel: str | None = cf.option(None, "pictures of unknown classes (default: the other classes of DATA)")
    unseen: tuple[str, ...] = cf.option((), "classes of DATA to take as unknown (default: all the model does not know)")
    fresh: bool = cf.option(False, "no picture of DATA was used in training: take all of them, not the test side alone")
    alpha: tuple[float, ...] = cf.option((0.01, 0.05, 0.1), "false-alarm rates to try, in (0, 1)")
    test_fraction: float = cf.option(0.5, "the one the model was trained with; not used where DATA has a test part")
    seed: int | None = cf.option(None, "seed of the split (default: the model's)")
    discover: bool = cf.option(True, "group what was called unknown at the model's own false-alarm rate")
    model: str | None = cf.option(None, "the backbone it was trained on, if its saved name cannot be loaded")
    device: str = cf.option("auto", "where to compute, together with --model", choices=("auto", "cpu", "cuda", "mps"))
    json: bool = cf.option(False, "print JSON")

    def __post_init__(self) -> None:
        if self.novel and self.unseen:
            raise cf.UsageError("--novel or --unseen", "both", "leave one out")
        for alpha in self.alpha:
            if not 0 < alpha < 1:
                raise cf.UsageError("fractions between 0 and 1", f"{alpha:g}", "change --alpha", "--alpha")


class Meeting(NamedTuple):
    """Known and novel pictures, and what the model said of each."""

    known: cf.ImageDataset
    novel: cf.ImageDataset
    answers: tuple[list[cf.Answer], list[cf.Answer]]


def main(options: Options) -> int:
    world = opening.saved_model(options.saved, options.model, options.device)
    rejector = world.rejector_
    if rejector is None:
        fix = "train it on two pictures or more of each class"
        raise cf.ArtifactError("a model with a novelty detector", "one without", fix, str(options.saved))
    known, novel, left_out = fresh_parts(options, world)
    met = Meeting(known, novel, (world.predict(known), world.predict(novel)))
    found = measure(met, rejector, options.alpha)
    found |= {
        "n_left_out": left_out,
        "alpha": world.alpha,
        "discovery": grouped(world, met) if options.discover else None,
    }
    print(json.dumps(found, indent=1) if options.json else text(found))
    return 0


def fresh_parts(options: Options, world: cf.OpenWorldClassifier) -> tuple[cf.ImageDataset, cf.ImageDataset, int]:
    """:func:`parts` without the pictures on which a class was ever named, and how many those were."""
    (known, some), (novel, others) = map(world.without_named, parts(options, world))
    opening.warn([f"{some + others} pictures on which a class was named are left out"] if some + others else [])
    if not len(known) or not len(novel):
        fix = "give others with --novel, or other DATA"
        raise cf.DataError("known and unknown pictures that no class was named on", "none", fix, options.data)
    return known, novel, some + others


def parts(options: Options, world: cf.OpenWorldClassifier) -> tuple[cf.ImageDataset, cf.ImageDataset]:
    """(pictures of known classes that the model was not trained on, pictures of unknown classes)."""
    data, known_names = opening.dataset(options.data), world.model.label_space_.names
    data.required_labels()
    known = [name for name in data.label_space.names if name in known_names]
    if not known:
        got = f"{', '.join(map(cf.shown, data.label_space.names[:10]))}"
        fix = f"the model knows {', '.join(map(cf.shown, known_names[:10]))}"
        raise cf.DataError("pictures of classes the model knows", got, fix, options.data)
    others = [name for name in data.label_space.names if name not in known_names]
    unseen = [] if options.novel else unknown_names(options.unseen, others)
    if options.fresh:
        test, hidden = data.restrict(known), data.restrict(unseen)
    else:
        seed = world.model.seed if options.seed is None else options.seed
        chosen = data.restrict([*known, *unseen])
        split = cf.split_open_world(chosen, shots=1, unseen=unseen, seed=seed, test_fraction=options.test_fraction)
        test, hidden = split.test.open("novelty"), split.novel.open("novelty")
    return test, opening.dataset(options.novel) if options.novel else hidden


def unknown_names(asked: Sequence[str], others: Sequence[str]) -> Sequence[str]:
    """The classes to take as unknown, out of ``others``, which the model does not know."""
    if not others:
        fix = "pass --novel with pictures of other classes"
        raise cf.DataError("a class that the model does not know", "none in DATA", fix, "DATA")
    wrong = [name for name in asked if name not in others]
    if wrong:
        raise cf.UsageError(f"some of {', '.join(others)}", ", ".join(wrong), "change --unseen", "--unseen")
    return asked or others


def measure(met: Meeting, rejector: cf.Rejector, alphas: Sequence[float]) -> dict[str, Any]:
    """Threshold-free figures, and at each alpha the realised rates, all with 95 % intervals."""
    import numpy as np

    scores = np.array([answer.score for part in met.answers for answer in part])
    is_novel = np.arange(len(scores)) >= len(met.known)
    statistics = {"auroc": cf.auroc, "eer": cf.eer, "fpr95": cf.fpr95}
    p = [np.array([answer.p_value for answer in part]) for part in met.answers]
    return {
        "schema": 1,
        "n_known": len(met.known),
        "n_novel": len(met.novel),
        "n_calibration": rejector.n_calibration,
        "detector": rejector.chosen.detector,
        "features": rejector.chosen.space,
        "n_neighbors": rejector.n_neighbors,
        **{name: cf.statistic_interval(f, is_novel, [scores]).to_json() for name, f in statistics.items()},
        "rates": [rates(rejector, p, alpha) for alpha in alphas],
    }


def rates(rejector: cf.Rejector, p: Sequence[cf.FloatArray], alpha: float) -> dict[str, Any]:
    """Share of known and of novel pictures flagged at ``alpha``; or why that alpha is refused."""
    refusal = rejector.refusal(alpha)
    if refusal:
        return {"alpha": alpha, "refused": refusal}
    false_alarms, detected = (cf.interval([rejector.flags(part, alpha)]).to_json() for part in p)
    return {"alpha": alpha, "refused": None, "false_alarm_rate": false_alarms, "detection_rate": detected}


def grouped(world: cf.OpenWorldClassifier, met: Meeting) -> dict[str, Any] | None:
    """The groups among what was called unknown, and how they agree with what the pictures really show."""
    parts_of = zip((met.known, met.novel), met.answers, strict=True)
    pairs = [pair for images, answers in parts_of for pair in zip(true_names(images), answers, strict=True)]
    truth = [name for name, answer in pairs if answer.label is None]  # false alarms are groups of their own
    if not truth:
        return None
    world.discover()
    found = world.discovery_
    record = {"n_flagged": len(truth), "n_clusters": found.n_clusters}
    if met.novel.labels is None:
        return record
    agreement = {"ari": cf.ari, "nmi": cf.nmi, "accuracy": cf.clustering_accuracy}
    return record | {"n_classes": len(set(truth))} | {name: f(truth, found.labels) for name, f in agreement.items()}


def true_names(pictures: cf.ImageDataset) -> list[str]:
    """What each picture shows; one name for all where nobody says."""
    return ["?"] * len(pictures) if pictures.labels is None else pictures.label_space.decode(pictures.labels)


def text(found: dict[str, Any]) -> str:
    """The figures as lines and a table."""
    neighbours = "" if found["n_neighbors"] is None else f", k = {found['n_neighbors']}"
    lines = [
        f"{found['n_known']:,} known and {found['n_novel']:,} unknown pictures; {found['detector']} on "
        f"{found['features']} features{neighbours}, calibrated on {found['n_calibration']} pictures",
        *(
            f"{title} {tables.estimate(found[key]['mean'], found[key]['ci95'])}"
            for key, title in (("auroc", "AUROC"), ("eer", "EER  "), ("fpr95", "FPR95"))
        ),
        "",
        tables.plain([["alpha", "false alarms", "detected"], *map(_rate_row, found["rates"])]),
        *(f"alpha {row['alpha']:g} refused: {row['refused']}" for row in found["rates"] if row["refused"]),
    ]
    return "\n".join([*lines, *_groups_text(found["alpha"], found["discovery"])])


def _rate_row(row: dict[str, Any]) -> list[str]:
    if row["refused"]:
        return [f"{row['alpha']:g}", "refused", "refused"]
    cells = (row["false_alarm_rate"], row["detection_rate"])
    return [f"{row['alpha']:g}", *(tables.estimate(cell["mean"], cell["ci95"]) for cell in cells)]


def _groups_text(alpha: float, groups: dict[str, Any] | None) -> list[str]:
    if groups is None:
        return []
    line = f"at alpha {alpha:g}, {groups['n_flagged']} flagged pictures fall into {groups['n_clusters']} groups"
    if "ari" in groups:
        agreement = ", ".join(f"{name} {tables.fraction(groups[name])}" for name in ("ari", "nmi", "accuracy"))
        line += f" ({groups['n_classes']} classes among them; {agreement})"
    return ["", line]


if __name__ == "__main__":
    sys.exit(run(main, Options, "python -m experiments.novelty", DESCRIPTION))
