"""Every novelty detector on one model, over fresh support sets, against the choice of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import clip_fewshot as cf
from experiments import opening, tables
from experiments.progress import show_progress

if TYPE_CHECKING:
    from experiments.novelty import Options

AUTO, FROZEN, MODEL = "auto", "frozen", "linear-probe"
STATISTICS = {"auroc": "AUROC", "aupr": "AUPR", "fpr95": "FPR95", "eer": "EER"}


class Scene(NamedTuple):
    """What all support sets share.

    Attributes:
        labels: (k,) of the known test pictures.
        seen: the known and the novel test pictures behind the frozen layers.
        is_novel: (n,) of all of them, the known ones first.
    """

    task: cf.Task
    names: tuple[str, ...]
    labels: cf.LabelArray
    seen: tuple[cf.Prefix, cf.Prefix]
    is_novel: cf.BoolArray


class Said(NamedTuple):
    """What a detector, calibrated on one support set, says of the n test pictures: higher = more normal."""

    rejector: cf.Rejector
    scores: cf.FloatArray
    p: cf.FloatArray


Opinions = Mapping[str, Sequence[Said]]


def compared(options: Options) -> dict[str, Any]:
    """Figures of every detector, the best first; written to a folder, and drawn, where one is given."""
    import numpy as np

    scene = staged(options)
    right, opinions, refused = opined(scene, options)
    record = {
        "schema": 1,
        "data": options.data,
        "model": options.config.data.model_name,
        "shots": options.shots,
        "seeds": options.seeds,
        "unseen": options.unseen or "3",
        "classes": list(scene.names),
        "n_known": len(scene.labels),
        "n_novel": int(np.sum(scene.is_novel)),
        "accuracy": cf.interval(right).to_json(),
        "rows": sorted(rows(scene, opinions, options.alpha), key=lambda row: -row["auroc"]["mean"]),
        "refused": refused,
    }
    if options.out is not None:
        cf.write_json(options.out / "novelty.json", record)
        draw_figures(options.out, scene, opinions)
    return record


def opined(scene: Scene, options: Options) -> tuple[list[cf.BoolArray], Opinions, dict[str, str]]:
    """Per support set which known pictures the probe had right; what each detector says; why some could not."""
    task, right = scene.task, []
    refused: dict[str, str] = {}
    opinions: dict[str, list[Said]] = {name: [] for name in (AUTO, *(options.detectors or cf.DETECTORS))}
    with show_progress() as progress:
        for draw in range(1, options.seeds + 1):
            support = cf.prepare(task, task.support(draw), depths(task))
            right.append(support.probe.predict(frozen(scene)[~scene.is_novel]) == scene.labels)
            for name in [name for name in opinions if name not in refused]:
                answer = said_or_refused(scene, support, name)
                if isinstance(answer, str):
                    refused[name] = answer
                else:
                    opinions[name].append(answer)
            progress("support sets", draw, options.seeds)
    return right, {name: all_of for name, all_of in opinions.items() if name not in refused}, refused


def staged(options: Options) -> Scene:
    """The sealed test pictures behind the frozen layers; they stay the same for all support sets."""
    import numpy as np

    config, data = options.config.data, opening.dataset(options.data)
    data.required_labels()
    split = cf.split_open_world(
        data, shots=config.shots, unseen=config.unseen_classes, seed=config.seed, test_fraction=config.test_fraction
    )
    opening.warn(split.warnings)
    backbone = opening.model(config.model_name, None, options.device)
    task = cf.Task(backbone, split.pool, config.shots, cf.TrainSettings(), 1, config.seed)
    known = split.test.open("novelty")
    novel = split.novel.open("novelty") if options.novel is None else opening.dataset(options.novel)
    if not len(novel):
        raise cf.UsageError(
            expected="one class or more to hide", got="none", fix="change --unseen, or give --novel", where="--unseen"
        )
    seen = (cf.image_prefix(backbone, known, depths(task)), cf.image_prefix(backbone, novel, depths(task)))
    is_novel = np.arange(len(known) + len(novel)) >= len(known)
    return Scene(task, split.seen.names, known.required_labels(), seen, is_novel)


def depths(task: cf.Task) -> list[int]:
    """The numbers of last blocks before which features are looked at too."""
    return [n for n in cf.DEPTHS if n < task.backbone.visual.n_blocks]


def frozen(scene: Scene) -> cf.FloatArray:
    """(n, d) features of the test pictures."""
    import numpy as np

    return np.concatenate([part.frozen().cpu().numpy() for part in scene.seen])


def said_or_refused(scene: Scene, support: cf.Prepared, name: str) -> Said | str:
    """What a detector says, or why it cannot; without "auto" there is nothing to compare with."""
    try:
        return said(scene, support, name)
    except cf.UsageError as error:
        if name == AUTO:
            raise
        return " ".join(str(error).split())


def said(scene: Scene, support: cf.Prepared, name: str) -> Said:
    """Choose by hiding known classes, calibrate on the same shots, and judge the test pictures."""
    import numpy as np

    task, recipe = scene.task, support.recipe(scene.task, cf.Point(MODEL))
    spaces = None if name == AUTO else (FROZEN,)
    choice = cf.choose_novelty(
        task.backbone, recipe, support.data, support.frozen, detector=name, spaces=spaces, names=scene.names
    )
    if choice is None:
        raise cf.UsageError(
            expected="two pictures of each class or more", got="one", fix="raise --shots", where="--shots"
        )
    rejector = cf.fit_rejector(task.backbone, recipe, support.data, support.frozen, choice, names=scene.names)
    own = [
        np.concatenate([cf.replay(part, n, suffix).numpy() for part in scene.seen]) for n, suffix in rejector.suffixes()
    ]
    return Said(rejector, *rejector.verdict(frozen(scene), own))


def rows(scene: Scene, opinions: Opinions, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """A row per detector."""
    measures: dict[str, Any] = {key: getattr(cf, key) for key in STATISTICS}
    reference = [one.scores for one in opinions[AUTO]]
    found = []
    for name, all_of in opinions.items():
        scores = [one.scores for one in all_of]
        difference = cf.statistic_difference(cf.auroc, scene.is_novel, scores, reference).to_json()
        found.append(
            {
                "detector": name,
                **{key: cf.statistic_interval(f, scene.is_novel, scores).to_json() for key, f in measures.items()},
                "auroc_minus_auto": None if name == AUTO else difference,
                "rates": [rates(scene, all_of, alpha) for alpha in alphas],
                "chosen": dict(Counter(str(one.rejector.chosen) for one in all_of).most_common()),
            }
        )
    return found


def rates(scene: Scene, all_of: Sequence[Said], alpha: float) -> dict[str, Any]:
    """Share of known and of novel pictures flagged at ``alpha``; or why that alpha is refused."""
    refusals = [one.rejector.refusal(alpha) for one in all_of]
    refused = next((refusal for refusal in refusals if refusal), None)
    if refused:
        return {"alpha": alpha, "refused": refused}
    flags = [one.rejector.flags(one.p, alpha) for one in all_of]
    false_alarms, detected = (
        cf.interval([flag[side] for flag in flags]).to_json() for side in (~scene.is_novel, scene.is_novel)
    )
    return {"alpha": alpha, "refused": None, "false_alarm_rate": false_alarms, "detection_rate": detected}


def draw_figures(folder: Path, scene: Scene, opinions: Opinions) -> None:
    """det.svg, the mean over support sets; densities.svg, scores under the first."""
    curves = {name: [cf.det_curve(scene.is_novel, one.scores) for one in all_of] for name, all_of in opinions.items()}
    first = {name: all_of[0].scores for name, all_of in opinions.items()}
    cf.write_text(folder / "det.svg", cf.det_curves(curves).svg)
    cf.write_text(folder / "densities.svg", cf.density_panels(first, scene.is_novel).svg)


def text(record: Mapping[str, Any]) -> str:
    """What was compared, and two tables: how well novel pictures are told, and what was decided at each alpha."""
    lines = [
        f"{record['data']}, {record['model']}, {record['shots']} shots a class, {record['seeds']} support sets, "
        f"{record['n_known']:,} known and {record['n_novel']:,} unknown test pictures",
        f"known classes: accuracy {rate(record['accuracy'])} of the frozen probe",
        "",
        tables.plain([["detector", *STATISTICS.values(), "AUROC - auto"], *map(_told, record["rows"])]),
        "",
        tables.plain([_head(record["rows"][0]["rates"]), *map(_decided, record["rows"])]),
        "",
    ]
    refusals = {(one["alpha"], one["refused"]) for row in record["rows"] for one in row["rates"] if one["refused"]}
    lines += [f"alpha {alpha:g} refused: {why}" for alpha, why in sorted(refusals)]
    auto = next(row for row in record["rows"] if row["detector"] == AUTO)
    lines += [f"auto chose {', '.join(f'{what} ({n})' for what, n in auto['chosen'].items())}"]
    lines += [f"{name} refused: {why}" for name, why in record["refused"].items()]
    return "\n".join(lines)


def _told(row: Mapping[str, Any]) -> list[str]:
    difference = row["auroc_minus_auto"]
    cells = [rate(row[key]) for key in STATISTICS]
    if difference is None:
        return [row["detector"], *cells, "-"]
    low, high = difference["ci95"]
    return [row["detector"], *cells, f"{difference['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"]


def _head(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return ["detector", *(f"{what} at {one['alpha']:g}" for one in found for what in ("false alarms", "detected"))]


def _decided(row: Mapping[str, Any]) -> list[str]:
    cells = [row["detector"]]
    for one in row["rates"]:
        cells += ["refused"] * 2 if one["refused"] else [rate(one["false_alarm_rate"]), rate(one["detection_rate"])]
    return cells


def rate(found: Mapping[str, Any]) -> str:
    """A share with its interval."""
    return tables.estimate(found["mean"], found["ci95"])
