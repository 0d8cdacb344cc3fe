"""How well a saved model tells the unknown: `python -m experiments.novelty digits --saved runs/digits-mini/model`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import clip_fewshot as cf
from experiments import opening, tables

if TYPE_CHECKING:
    from experiments.novelty import Options

STATISTICS = {"auroc": "AUROC", "aupr": "AUPR ", "eer": "EER  ", "fpr95": "FPR95"}


class Meeting(NamedTuple):
    """Known and novel pictures, and what the model said of each."""

    known: cf.ImageDataset
    novel: cf.ImageDataset
    answers: tuple[list[cf.Answer], list[cf.Answer]]


def judged(options: Options, folder: Path) -> dict[str, Any]:
    """The figures of the model in ``folder``."""
    world = opening.saved_model(folder, options.model, options.device)
    rejector = world.rejector_
    if rejector is None:
        fix = "train it on two pictures or more of each class"
        raise cf.ArtifactError(
            expected="a model with a novelty detector", got="one without", fix=fix, where=str(folder)
        )
    known, novel, left_out = fresh_parts(options, world)
    met = Meeting(known, novel, (world.predict(known), world.predict(novel)))
    return measure(met, rejector, options.alpha) | {
        "n_left_out": left_out,
        "alpha": world.alpha,
        "discovery": grouped(world, met) if options.discover else None,
    }


def fresh_parts(options: Options, world: cf.OpenWorldClassifier) -> tuple[cf.ImageDataset, cf.ImageDataset, int]:
    """:func:`parts` without the pictures on which a class was ever named, and how many those were."""
    (known, some), (novel, others) = map(world.without_named, parts(options, world))
    opening.warn([f"{some + others} pictures on which a class was named are left out"] if some + others else [])
    if not len(known) or not len(novel):
        fix = "give others with --novel, or other DATA"
        raise cf.DataError(
            expected="known and unknown pictures that no class was named on", got="none", fix=fix, where=options.data
        )
    return known, novel, some + others


def parts(options: Options, world: cf.OpenWorldClassifier) -> tuple[cf.ImageDataset, cf.ImageDataset]:
    """(pictures of known classes that the model was not trained on, pictures of unknown classes)."""
    data, known_names = opening.dataset(options.data), world.model.label_space_.names
    data.required_labels()
    known = [name for name in data.label_space.names if name in known_names]
    if not known:
        got = f"{', '.join(map(cf.shown, data.label_space.names[:10]))}"
        fix = f"the model knows {', '.join(map(cf.shown, known_names[:10]))}"
        raise cf.DataError(expected="pictures of classes the model knows", got=got, fix=fix, where=options.data)
    others = [name for name in data.label_space.names if name not in known_names]
    unseen = [] if options.novel else unknown_names(options.unseen_names, others)
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
        raise cf.DataError(expected="a class that the model does not know", got="none in DATA", fix=fix, where="DATA")
    wrong = [name for name in asked if name not in others]
    if wrong:
        raise cf.UsageError(
            expected=f"some of {', '.join(others)}", got=", ".join(wrong), fix="change --unseen", where="--unseen"
        )
    return asked or others


def measure(met: Meeting, rejector: cf.Rejector, alphas: Sequence[float]) -> dict[str, Any]:
    """Threshold-free figures, and at each alpha the realised rates, all with 95 % intervals."""
    import numpy as np

    scores = np.array([answer.score for part in met.answers for answer in part])
    is_novel = np.arange(len(scores)) >= len(met.known)
    p = [np.array([answer.p_value for answer in part]) for part in met.answers]
    return {
        "schema": 1,
        "n_known": len(met.known),
        "n_novel": len(met.novel),
        "n_calibration": rejector.n_calibration,
        "detector": rejector.chosen.detector,
        "features": rejector.chosen.space,
        "n_neighbors": rejector.n_neighbors,
        **{name: cf.statistic_interval(getattr(cf, name), is_novel, [scores]).to_json() for name in STATISTICS},
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
        *(f"{title} {tables.estimate(found[key]['mean'], found[key]['ci95'])}" for key, title in STATISTICS.items()),
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
