"""Every novelty detector on one model, over fresh support sets, against the choice of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.conformal.p_values import choose_alphas, explain_alphas
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.intervals import accuracy_interval, statistic_difference, statistic_interval
from clip_fewshot.evaluation.metrics import RANKING_MEASURES, auroc, det_curve
from clip_fewshot.features.encode import image_prefix
from clip_fewshot.features.prefix import Prefix, replay
from clip_fewshot.few_shot.approach import Point
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.novelty import DETECTORS, DetectorPart, find_detector
from clip_fewshot.open_world.alternatives import NoveltyChoice
from clip_fewshot.open_world.far_pictures import draw_strangers
from clip_fewshot.open_world.feature_spaces import list_stored_depths
from clip_fewshot.open_world.rejector import NoveltyScores, Rejector, fit_rejector
from clip_fewshot.open_world.select_detector import select_detector
from clip_fewshot.plots import density_panels, det_curves
from clip_fewshot.protocol.refits import PreparedSupport, Task, prepare
from clip_fewshot.runtime.files import write_text
from clip_fewshot.runtime.outputs import DETECTORS_FOLDER, mark_folder, write_results
from clip_fewshot.types import BoolArray, FloatArray, LabelArray, Progress

CHOSEN, FROZEN_MODEL, PROBE_MODEL = "auto", "frozen", "linear-probe"
EPOCHS = 20  # of a task that trains nothing: the probe is fitted on frozen features


class DetectorScene(NamedTuple):
    """What all support sets share.

    Attributes:
        labels: (k,) of the known test pictures.
        seen: the known and the novel test pictures behind the frozen layers.
        is_novel: (n,) of all of them, the known ones first.
        strangers: letters and patterns, far from every class; what chooses a detector never sees such.
        together: the test pictures are judged as one batch, the strangers as another, and ranked by their p-values.
    """

    task: Task
    names: tuple[str, ...]
    labels: LabelArray
    seen: tuple[Prefix, Prefix]
    is_novel: BoolArray
    strangers: Prefix
    together: bool = False


class Said(NamedTuple):
    """What a detector, calibrated on one support set, says of the n test pictures: higher = more normal.

    Attributes:
        strange: (f,) scores of the strangers.
        choice: which features it looks at, and all that was tried.
    """

    rejector: Rejector
    scores: FloatArray
    p: FloatArray
    strange: FloatArray
    choice: NoveltyChoice


Opinions = Mapping[str, Sequence[Said]]


class DetectorComparison(NamedTuple):
    """Figures of every detector, the best first; what :func:`save_comparison` draws; what the split has to say."""

    record: dict[str, Any]
    scene: DetectorScene
    opinions: Opinions
    warnings: Sequence[str]


def compare_detectors(
    backbone: Backbone,
    data: ImageDataset,
    novel: ImageDataset | None = None,
    *,
    progress: Progress,
    unseen: int | Sequence[str] = 3,
    shots: int = 16,
    seeds: int = 5,
    seed: int = 0,
    test_fraction: float = 0.5,
    alphas: Sequence[float] = (),
    detectors: Sequence[str | DetectorPart] = (),
    templates: Sequence[str] = (),
    together: bool = False,
) -> DetectorComparison:
    """Fit each detector on ``seeds`` support sets and ask it about the same sealed test pictures.

    Args:
        data: labelled pictures.
        novel: pictures of unknown classes in place of the hidden ones.
        unseen, shots, seed, test_fraction: as in :func:`~clip_fewshot.data.sampling.split_open_world`.
        alphas: false-alarm rates to try, in (0, 1); empty: see :func:`choose_alphas`.
        detectors: as :func:`~clip_fewshot.novelty.find_detector` takes them; empty for all of the library's own.
        templates: of the texts that some detectors read, with one "{}"; empty: the usual ones.
        together: judge the test pictures as one batch, see :class:`clip_fewshot.conformal.schemes.Together`.

    Raises:
        UsageError: no such detector, no unknown pictures, or too few shots for the choice among all detectors.
    """
    asked = check_detectors(detectors)
    progress("features", 0, 1)
    split = split_open_world(data, shots=shots, unseen=unseen, seed=seed, test_fraction=test_fraction)
    scene = _stage(backbone, split, novel, shots, seed, TrainSettings(EPOCHS, templates=tuple(templates)))
    scene = scene._replace(together=together)
    right, opinions, refused = _ask_all(scene, seeds, asked, progress)
    n = min(one.rejector.n_calibration for all_of in opinions.values() for one in all_of)
    record = {
        "notes": explain_alphas(alphas, n),
        "shots": shots,
        "seeds": seeds,
        "together": together,
        "classes": list(scene.names),
        "n_known": len(scene.labels),
        "n_novel": int(np.sum(scene.is_novel)),
        "accuracy": accuracy_interval(right).to_json(),
        "rows": sorted(_rows(scene, opinions, choose_alphas(alphas, n)), key=lambda row: -row["auroc"]["mean"]),
        "alternatives": _alternatives(opinions[CHOSEN]),
        "refused": refused,
    }
    return DetectorComparison(record, scene, opinions, split.warnings)


def check_detectors(detectors: Sequence[str | DetectorPart]) -> dict[str, DetectorPart]:
    """The detectors to compare, by name; what is none is refused before anything is computed.

    Raises:
        UsageError: lists what there is.
    """
    return dict(map(find_detector, detectors)) or {**DETECTORS}


def _ask_all(
    scene: DetectorScene, seeds: int, detectors: Mapping[str, DetectorPart], progress: Progress
) -> tuple[list[BoolArray], Opinions, dict[str, str]]:
    """Per support set which known pictures the probe had right; what each detector says; why some could not."""
    task, right = scene.task, []
    refused: dict[str, str] = {}
    opinions: dict[str, list[Said]] = {name: [] for name in (CHOSEN, *detectors)}
    for draw in range(1, seeds + 1):
        support = prepare(task, task.support(draw), list_stored_depths(task.backbone.visual))
        right.append(support.probe.predict(_frozen(scene.seen)[~scene.is_novel]) == scene.labels)
        for i, name in enumerate(opinions):
            progress("detectors", (draw - 1) * len(opinions) + i, seeds * len(opinions))
            if name in refused:
                continue
            answer = _ask_or_refused(scene, support, detectors.get(name, CHOSEN))
            if isinstance(answer, str):
                refused[name] = answer
            else:
                opinions[name].append(answer)
    return right, {name: all_of for name, all_of in opinions.items() if name not in refused}, refused


def _stage(
    backbone: Backbone,
    split: OpenWorldSplit,
    novel: ImageDataset | None,
    shots: int,
    seed: int,
    settings: TrainSettings,
) -> DetectorScene:
    """The sealed test pictures behind the frozen layers; they stay the same for all support sets."""
    task = Task(backbone, split.pool, shots, settings, 1, seed)
    known = split.test.open("novelty")
    novel = split.novel.open("novelty") if novel is None else novel
    if not len(novel):
        fix = "change `unseen`, or give pictures of unknown classes (`novel`)"
        raise UsageError(expected="one class or more to hide", got="none", fix=fix, where="`unseen`")
    depths = list_stored_depths(backbone.visual)
    seen = (image_prefix(backbone, known, depths), image_prefix(backbone, novel, depths))
    is_novel = np.arange(len(known) + len(novel)) >= len(known)
    strangers = image_prefix(backbone, draw_strangers(seed), depths)
    return DetectorScene(task, split.seen.names, known.required_labels(), seen, is_novel, strangers)


def _frozen(parts: Sequence[Prefix]) -> FloatArray:
    """(n, d) features of the pictures of all parts."""
    return np.concatenate([part.frozen_features().cpu().numpy() for part in parts])


def _judge(rejector: Rejector, together: bool, *parts: Prefix) -> NoveltyScores:
    own = [np.concatenate([replay(part, n, suffix).numpy() for part in parts]) for n, suffix in rejector.suffixes()]
    said = rejector.verdict(_frozen(parts), own, together)
    return said._replace(scores=said.p) if together else said


def _ask_or_refused(scene: DetectorScene, support: PreparedSupport, detector: str | DetectorPart) -> Said | str:
    """What a detector says, or why it cannot; without "auto" there is nothing to compare with."""
    try:
        return ask_detector(scene, support, detector)
    except UsageError as error:
        if detector == CHOSEN:
            raise
        return " ".join(str(error).split())


def ask_detector(scene: DetectorScene, support: PreparedSupport, detector: str | DetectorPart) -> Said:
    """Choose by hiding known classes, calibrate on the same shots, and judge the test pictures."""
    task, recipe = scene.task, support.recipe(scene.task, Point(PROBE_MODEL))
    spaces = None if detector == CHOSEN else (FROZEN_MODEL,)
    asked: dict[str, Any] = {"detector": detector, "spaces": spaces, "names": scene.names}
    choice = select_detector(task.backbone, recipe, support.data, support.frozen, pictures=support.images, **asked)
    if choice is None:
        raise UsageError(expected="two pictures of each class or more", got="one", fix="raise `shots`", where="`shots`")
    rejector = fit_rejector(task.backbone, recipe, support.data, support.frozen, choice, names=scene.names)
    said, strange = (_judge(rejector, scene.together, *parts) for parts in (scene.seen, [scene.strangers]))
    return Said(rejector, *said, strange.scores, choice)


def _rows(scene: DetectorScene, opinions: Opinions, alphas: Sequence[float]) -> list[dict[str, Any]]:
    """A row per detector."""
    reference = [one.scores for one in opinions[CHOSEN]]
    known = int(np.sum(~scene.is_novel))
    is_far = np.arange(known + len(scene.strangers)) >= known
    found = []
    for name, all_of in opinions.items():
        scores = [one.scores for one in all_of]
        difference = statistic_difference(auroc, scene.is_novel, scores, reference).to_json()
        far = [np.concatenate([one.scores[~scene.is_novel], one.strange]) for one in all_of]
        found.append(
            {
                "detector": name,
                **{key: statistic_interval(f, scene.is_novel, scores).to_json() for key, f in RANKING_MEASURES.items()},
                "auroc_far": statistic_interval(auroc, is_far, far).to_json(),
                "auroc_minus_auto": None if name == CHOSEN else difference,
                "rates": [_rates(scene, all_of, alpha) for alpha in alphas],
                "chosen": dict(Counter(str(one.rejector.chosen) for one in all_of).most_common()),
            }
        )
    return found


def _rates(scene: DetectorScene, all_of: Sequence[Said], alpha: float) -> dict[str, Any]:
    """Share of known and of novel pictures flagged at ``alpha``; or why that alpha is refused."""
    refusals = [one.rejector.refusal(alpha) for one in all_of]
    refused = next((refusal for refusal in refusals if refusal), None)
    if refused:
        return {"alpha": alpha, "refused": refused}
    flags = [one.rejector.flags(one.p, alpha) for one in all_of]
    false_alarms, detected = (
        accuracy_interval([flag[side] for flag in flags]).to_json() for side in (~scene.is_novel, scene.is_novel)
    )
    return {"alpha": alpha, "refused": None, "false_alarm_rate": false_alarms, "detection_rate": detected}


def _alternatives(all_of: Sequence[Said]) -> list[dict[str, Any]]:
    """What "auto" could choose, with its mean AUROC on hidden known classes (near) and on broken copies (far)."""
    rows = [row for one in all_of for row in (one.choice.selection.table if one.choice.selection else ())]
    found = []
    for name in dict.fromkeys(str(row.name) for row in rows):
        own = [row for row in rows if str(row.name) == name]
        far = [row.far for row in own if row.far is not None]
        near = float(np.mean([row.auroc for row in own]))
        found.append({"alternative": name, "near": near, "far": float(np.mean(far)) if far else None})
    return sorted(found, key=lambda row: -row["near"])


def save_comparison(comparison: DetectorComparison, found: Mapping[str, Any], folder: Path) -> None:
    """novelty.json with ``found``; det.svg, the mean over support sets; densities.svg, scores under the first."""
    mark_folder(folder, DETECTORS_FOLDER)
    write_results(folder / "novelty.json", found)
    is_novel, opinions = comparison.scene.is_novel, comparison.opinions
    curves = {name: [det_curve(is_novel, one.scores) for one in all_of] for name, all_of in opinions.items()}
    first = {name: all_of[0].scores for name, all_of in opinions.items()}
    write_text(folder / "det.svg", det_curves(curves).svg)
    write_text(folder / "densities.svg", density_panels(first, is_novel).svg)
