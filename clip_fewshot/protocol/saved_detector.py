"""How well a saved model tells known pictures from unknown ones, on pictures that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.config import count_or_names
from clip_fewshot.conformal.p_values import choose_alphas, explain_alphas
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import escape, number
from clip_fewshot.data.sampling import choose_test_side, drop_duplicates
from clip_fewshot.errors import ArtifactError, DataError, UsageError
from clip_fewshot.evaluation.clustering import ari, clustering_accuracy, nmi
from clip_fewshot.evaluation.intervals import accuracy_interval, statistic_interval
from clip_fewshot.evaluation.metrics import RANKING_MEASURES
from clip_fewshot.open_world.answers import Answer
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.report import tables
from clip_fewshot.report.shifts import describe_shift
from clip_fewshot.types import FloatArray

STATISTIC_TITLES = {"auroc": "AUROC", "aupr": "AUPR ", "eer": "EER  ", "fpr95": "FPR95"}


class Meeting(NamedTuple):
    """Known and novel pictures, and what the model said of each."""

    known: ImageDataset
    novel: ImageDataset
    answers: tuple[list[Answer], list[Answer]]


class Sides(NamedTuple):
    """Pictures of known classes that the model was not trained on, and pictures of unknown classes."""

    known: ImageDataset
    novel: ImageDataset


def measure_saved(world: OpenWorldClassifier, sides: Sides, alphas: Sequence[float], discover: bool) -> dict[str, Any]:
    """Figures of the saved detector, without the pictures on which a class was ever named.

    Args:
        alphas: false-alarm rates to try, in (0, 1); empty: see :func:`choose_alphas`.
        discover: also group what was called unknown at the model's own rate.

    Raises:
        ArtifactError: the model has no detector.
        DataError: no picture is left on one of the sides.
    """
    if world.rejector_ is None:
        fix = "train it on two pictures or more of each class"
        raise ArtifactError(expected="a model with a novelty detector", got="one without", fix=fix)
    (known, some), (novel, others) = map(world.drop_named, sides)
    if not len(known) or not len(novel):
        fix = "give others (`novel`), or other known ones (`data`)"
        raise DataError(expected="known and unknown pictures that no class was named on", got="none", fix=fix)
    answers, shift = world.predict(known), world.find_shift()
    met = Meeting(known, novel, (answers, world.predict(novel)))
    tried = choose_alphas(alphas, world.rejector_.n_calibration)
    return _measure(met, world.rejector_, tried) | {
        "n_left_out": some + others,
        "notes": [*explain_alphas(alphas, world.rejector_.n_calibration), *describe_shift(shift, of_known=True)],
        "shift": shift.to_json(),
        "alpha": world.alpha_,
        "discovery": _group(world, met) if discover else None,
    }


def sides_of(
    world: OpenWorldClassifier,
    data: ImageDataset,
    novel: ImageDataset | None = None,
    *,
    unseen: str | None = None,
    fresh: bool = False,
    seed: int | None = None,
    test_fraction: float = 0.5,
) -> Sides:
    """Which pictures of ``data`` the model has not been trained on, and which show classes it does not know.

    Args:
        novel: pictures of unknown classes in place of those in ``data``.
        unseen: names of the unknown classes, with commas between them; None for all that the model does not know.
        fresh: no picture of ``data`` was used in training, so take all of them.
        seed: of the split under which the model was trained; None for the model's own.
        test_fraction: of that split.

    Raises:
        DataError: no class that the model knows, or none that it does not.
        UsageError: a name in ``unseen`` that is no unknown class, or a number; ``novel`` and ``unseen`` at once.
    """
    if novel is not None and unseen:
        raise UsageError(expected="`novel` or `unseen`", got="both", fix="leave one out")
    data.required_labels()
    asked = count_or_names(unseen or ",")
    if isinstance(asked, int):
        got, fix = f"the number {asked}", "a saved model knows its own"
        raise UsageError(expected="names of classes", got=got, fix=fix, where="`unseen`")
    known_names = world.model.label_space_.names
    known = [name for name in data.label_space.names if name in known_names]
    if not known:
        got, fix = _first_names(data.label_space.names), f"the model knows {_first_names(known_names)}"
        raise DataError(expected="pictures of classes the model knows", got=got, fix=fix, where=data.name)
    others = [name for name in data.label_space.names if name not in known_names]
    hidden = [] if novel is not None else _unknown_names(asked, others)
    if fresh:
        return Sides(data.restrict(known), data.restrict(hidden) if novel is None else novel)
    seed = world.model.seed if seed is None else seed
    chosen, _ = drop_duplicates(data.restrict([*known, *hidden]))
    ours = chosen.restrict(known)
    is_test = choose_test_side(ours, _count_shots(world), seed, test_fraction)
    return Sides(ours.subset(np.flatnonzero(is_test)), chosen.restrict(hidden) if novel is None else novel)


def _count_shots(world: OpenWorldClassifier) -> int:
    """The K with which the model was trained: the most pictures of a class, without those that namings brought."""
    names = world.model.label_space_.names
    counts = np.bincount(world.known_.labels, minlength=len(names))
    for naming in world.named_:
        for name, digests in naming.classes.items():
            counts[names.index(name)] -= len(digests)
    return int(counts.max())


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(map(escape, names[:10]))


def _unknown_names(asked: Sequence[str], others: Sequence[str]) -> Sequence[str]:
    """The classes to take as unknown, out of ``others``, which the model does not know."""
    if not others:
        fix = "pass `novel` with pictures of other classes"
        raise DataError(expected="a class that the model does not know", got="none", fix=fix, where="`data`")
    wrong = [name for name in asked if name not in others]
    if wrong:
        got = ", ".join(wrong)
        raise UsageError(expected=f"some of {', '.join(others)}", got=got, fix="change `unseen`", where="`unseen`")
    return asked or others


def _measure(met: Meeting, rejector: Rejector, alphas: Sequence[float]) -> dict[str, Any]:
    """Threshold-free figures, and at each alpha the realised rates, all with 95 % intervals."""
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
        **{name: statistic_interval(f, is_novel, [scores]).to_json() for name, f in RANKING_MEASURES.items()},
        "rates": [_rates(rejector, p, alpha) for alpha in alphas],
    }


def _rates(rejector: Rejector, p: Sequence[FloatArray], alpha: float) -> dict[str, Any]:
    """Share of known and of novel pictures flagged at ``alpha``; or why that alpha is refused."""
    refusal = rejector.refusal(alpha)
    if refusal:
        return {"alpha": alpha, "refused": refusal}
    false_alarms, detected = (accuracy_interval([rejector.flags(part, alpha)]).to_json() for part in p)
    return {"alpha": alpha, "refused": None, "false_alarm_rate": false_alarms, "detection_rate": detected}


def _group(world: OpenWorldClassifier, met: Meeting) -> dict[str, Any] | None:
    """The groups among what was called unknown, and how they agree with what the pictures really show."""
    flagged = sum(answer.label is None for answers in met.answers for answer in answers)
    if not flagged:
        return None
    world.discover()
    found, unknown = world.discovery_, world.grouped_
    record: dict[str, Any] = {
        "n_flagged": flagged,
        "n_joined": len(unknown.answered) - flagged,
        "n_clusters": found.n_clusters,
    }
    record |= {"reason": found.reason}
    if met.novel.labels is None:
        return record
    shown = {
        digest: name
        for part in (met.known, met.novel)
        for digest, name in zip(part.digests, _true_names(part), strict=True)
    }
    truth = [shown[digest] for digest in unknown.pictures.digests]  # false alarms are groups of their own
    agreement = {"ari": ari, "nmi": nmi, "accuracy": clustering_accuracy}
    return record | {"n_classes": len(set(truth))} | {name: f(truth, found.labels) for name, f in agreement.items()}


def _true_names(pictures: ImageDataset) -> list[str]:
    """What each picture shows; one name for all where it is not known."""
    return ["?"] * len(pictures) if pictures.labels is None else pictures.label_space.decode(pictures.labels)


def describe_saved(found: Mapping[str, Any]) -> str:
    """The figures as lines and a table."""
    neighbours = "" if found["n_neighbors"] is None else f", k = {found['n_neighbors']}"
    lines = [
        *found["notes"],
        f"{found['n_known']:,} known and {number(found['n_novel'], 'unknown picture')}; {found['detector']} on "
        f"{found['features']} features{neighbours}, calibrated on {number(found['n_calibration'], 'picture')}",
        *(f"{title} {tables.estimate_of(found[key])}" for key, title in STATISTIC_TITLES.items()),
        "",
        tables.format_plain([["alpha", "false alarms", "detected"], *map(_rate_row, found["rates"])]),
        *(f"alpha {row['alpha']:g} refused: {row['refused']}" for row in found["rates"] if row["refused"]),
    ]
    return "\n".join([*lines, *_groups_text(found["alpha"], found["discovery"])])


def _rate_row(row: dict[str, Any]) -> list[str]:
    if row["refused"]:
        return [f"{row['alpha']:.3g}", "refused", "refused"]
    cells = (row["false_alarm_rate"], row["detection_rate"])
    return [f"{row['alpha']:.3g}", *(tables.estimate_of(cell) for cell in cells)]


def _groups_text(alpha: float, groups: dict[str, Any] | None) -> list[str]:
    if groups is None:
        return []
    pictures = f"{number(groups['n_flagged'], 'flagged picture')}, and {groups['n_joined']} that joined them,"
    line = f"at alpha {alpha:g}, {pictures} fall into {number(groups['n_clusters'], 'group')}"
    if "ari" in groups:
        agreement = ", ".join(f"{name} {tables.format_fraction(groups[name])}" for name in ("ari", "nmi", "accuracy"))
        line += f" ({number(groups['n_classes'], 'class', 'classes')} among them; {agreement})"
    return ["", line, *([f"no group: {groups['reason']}"] if groups.get("reason") else [])]
