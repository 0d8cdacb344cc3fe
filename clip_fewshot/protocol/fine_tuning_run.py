"""Contrastive fine-tuning of both towers, measured on pictures kept out before and after.

On pictures with classes, captions are made from class names and the figure is zero-shot accuracy; on captioned
pictures it is recall both ways.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.backbones.folder import BACKBONE_FOLDER
from clip_fewshot.contrastive.distillation import SelfDistillation
from clip_fewshot.contrastive.distributed.spark import run_on_spark
from clip_fewshot.contrastive.distributed.torchrun import join_world
from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.contrastive.finetuning import count_parameters, make_tunable
from clip_fewshot.contrastive.jobs import FINE_TUNING_PASSES, FineTuningJob
from clip_fewshot.contrastive.memory_check import Load, check_memory
from clip_fewshot.contrastive.memory_forecast import count_bytes, measure_needs
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.replayed import count_replayed_blocks, replay_pictures
from clip_fewshot.contrastive.trainer import train_contrastive
from clip_fewshot.contrastive.tuned_files import load_tuned, save_tuned
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.collect import list_warnings
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import number
from clip_fewshot.data.own_templates import choose_templates
from clip_fewshot.data.pairs.batch import PairSource
from clip_fewshot.data.pairs.captioned import CaptionedStream
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.protocol.caption_categories import compare_recall, describe_category
from clip_fewshot.protocol.fine_tuning_sides import FineTuningSides, divide, head_sides
from clip_fewshot.protocol.fine_tuning_task import FINE_TUNING_FOLDER, TRAINING_FOLDER, begin_task, describe_task
from clip_fewshot.protocol.retrieval import find_candidates, measure_cosines, measure_recall, recall_values
from clip_fewshot.protocol.zero_shot_accuracy import zero_shot_probabilities
from clip_fewshot.report import tables
from clip_fewshot.report.result_tables import RESULTS_FILE
from clip_fewshot.runtime.artifacts import ARTIFACT_SIGN
from clip_fewshot.runtime.device import PRECISIONS
from clip_fewshot.runtime.files import read_json, remove_half_files, write_bytes
from clip_fewshot.runtime.outputs import FolderKind, check_folder, mark_folder, write_results
from clip_fewshot.runtime.units import format_seconds
from clip_fewshot.types import FloatArray, Say

FINE_TUNING_BATCH, CLIP_NORM = 64, 1.0
TUNED_FOLDER = "model"
TUNED_MODEL = FolderKind("tuned model", (*BACKBONE_FOLDER.signs, ARTIFACT_SIGN))
PLAIN_FOLDER = "without_category"  # of the same training on the captions as they are


def finetune_by_spark(job: FineTuningJob) -> dict[str, Any]:
    """What :func:`finetune` returns at rank 0, whose files come to this machine if they lie on another."""
    check_job(job)
    with redirect_stdout(sys.stderr):  # what the processes print is no part of the result
        files = run_on_spark(_tuned_files, job, processes=job.processes)
    mark_folder(job.folder, FINE_TUNING_FOLDER)
    for name, data in files.items():
        write_bytes(job.folder / name, data)
    return dict(read_json(job.folder / RESULTS_FILE)) | {"folder": str(job.folder / TUNED_FOLDER)}


def check_job(job: FineTuningJob) -> None:
    """Refuse what would not train, and a place that is not ours to replace.

    Raises:
        UsageError: as of :class:`FineTuning`.
        ResourceError: the folder holds other files, or it is read.
    """
    _ = job.plan
    check_folder(job.folder, FINE_TUNING_FOLDER, job.overwrite, job)
    check_folder(job.folder / TUNED_FOLDER, TUNED_MODEL, job.overwrite)


def _tuned_files(job: FineTuningJob) -> dict[str, bytes]:
    """:func:`finetune` in the world that has been started; at rank 0 the files of model and results."""
    with join_world() as world:
        finetune(job, world)
    if world.rank > 0:
        return {}
    model = sorted((job.folder / TUNED_FOLDER).iterdir(), reverse=True)  # weights before what names them
    return {str(path.relative_to(job.folder)): path.read_bytes() for path in [*model, job.folder / RESULTS_FILE]}


def finetune(
    job: FineTuningJob,
    world: World,
    say: Say = lambda line: None,
    tell: Say = lambda line: None,
) -> dict[str, Any]:
    """Measure, train, save, measure what was saved; each process calls this, and the first one does all but train.

    Args:
        say: receives what a reader of the pictures should know, a sentence at a time.
        tell: receives a line on the memory that training will take.

    Returns:
        At rank 0 the figures before and after; elsewhere nothing.
    """
    started, leads = time.perf_counter(), world.rank == 0
    check_job(job)
    job = replace(job, template=choose_templates(job.templates, job.template), templates=None)
    data = read_dataset(job.data, **job.reading())
    if job.template and data.captions is not None:
        fix = "leave `template` and `templates` out"
        raise UsageError(expected="pictures with classes", got="captions", fix=fix, where="`template`")
    pretrained = load_backbone(job.model_name, device=job.device, dtype=PRECISIONS[job.precision])
    plain, warnings = divide(job, data, pretrained)
    for sentence in [*list_warnings(data), *warnings] if leads else []:
        say(sentence)
    sides, right = head_sides(job, plain, pretrained)
    if sides.earlier is not None and leads:
        say(sides.earlier.describe_changes(sides.kept, sides.held))
    found = _tune(job, sides, pretrained, world, say, tell)
    other, others = _without_category(job), None
    if job.category != "none":
        others = _tune(other, plain._replace(data=sides.data), pretrained, world, say, tell)
    if not leads:
        return {}
    if others is not None:
        values = [_recalls(job, pretrained, sides.held), _recalls(other, pretrained, plain.held)]
        found["category"] = {
            "kind": job.category,
            "right": right,
            "without": {key: others[key] for key in ("before", "after")},
            "difference": compare_recall(*values),
        }
    about = {"schema": 1, "model": job.model_name, "data": data.name, "pictures": sides.counts()}
    if sides.earlier is not None:
        about["changes"] = sides.earlier.count_changes(sides.kept, sides.held)
    found = about | found | {"seconds": time.perf_counter() - started}
    write_results(job.folder / RESULTS_FILE, found)
    return found | {"folder": str(job.folder / TUNED_FOLDER)}


def _tune(
    job: FineTuningJob,
    sides: FineTuningSides,
    pretrained: Backbone,
    world: World,
    say: Say,
    tell: Say,
) -> dict[str, Any]:
    """One training on the training side, saved in the job's folder; at rank 0 the figures before and after."""
    task, leads = describe_task(job, sides.data, pretrained), world.rank == 0
    if sides.earlier is not None:
        sides.earlier.check(task)
    tuned = make_tunable(pretrained, job.plan)
    trained, total = count_parameters(tuned)
    n = _blocks_to_rerun(pretrained, job, world)
    pairs = _stream(sides.kept, tuned, job, world, numbered=n is not None)
    objective = SelfDistillation(tuned, job.distil) if job.distil else None
    beside = count_bytes(pretrained) + (count_bytes(objective) if objective is not None else 0)
    needs = measure_needs(tuned, pairs.tokens, beside)
    forecast = check_memory(needs, _settings(job), Load(pairs.batch, world.size), tuned.device, changeable=())
    if leads:
        begin_task(job, task, sides.kept, sides.held, sides.earlier)
        tell(f"memory: {forecast}")
    figures = {"before": _measure(pretrained, sides.held, job)} if leads else {}
    if leads and job.from_ and os.path.isdir(begun := Path(job.from_) / TUNED_FOLDER):  # a stopped run has no model yet
        figures["earlier"] = _measure(load_tuned(begun, pretrained), sides.held, job)
    with replay_pictures(tuned, pretrained, pairs.pictures, n):
        _train(tuned, pairs, objective, job, world)
    if not leads:
        return {}
    for place in (job.folder, job.folder / TUNED_FOLDER):
        remove_half_files(place)
    if warning := save_tuned(tuned, job.folder / TUNED_FOLDER, job.overwrite).get("warning"):
        say(warning)
    return {
        "parameters": {"trained": trained, "all": total},
        "memory": asdict(forecast) | {"peak": forecast.peak},
        "training": _last_epoch(job.folder / TRAINING_FOLDER, pairs.steps()),
        **figures,
        "after": _measure(load_tuned(job.folder / TUNED_FOLDER, pretrained), sides.held, job),
    }


def _without_category(job: FineTuningJob) -> FineTuningJob:
    """The same on the captions as they are, in a folder inside; going on from such a one where there is one."""
    inside, begun = str(job.folder / PLAIN_FOLDER), Path(job.from_ or "") / PLAIN_FOLDER
    from_ = str(begun) if job.from_ and os.path.isdir(begun) else job.from_
    return replace(job, category="none", out=job.out and inside, resume=job.resume and inside, from_=from_)


def _recalls(job: FineTuningJob, pretrained: Backbone, held: ImageDataset) -> dict[str, FloatArray]:
    """Figure -> (pictures,) of what ``job`` has saved."""
    model = load_tuned(job.folder / TUNED_FOLDER, pretrained)
    among = find_candidates(model, held, job.truncate)
    return recall_values(measure_cosines(model, among, job.truncate), among.belongs)


def _blocks_to_rerun(pretrained: Backbone, job: FineTuningJob, world: World) -> int | None:
    """How many last layers of the image tower must run at each step; None: no states are stored.

    Every process would have to store those of all pictures. The running mean of --distil is a model of its own.
    """
    alone = world.size == 1 and not job.distil
    return count_replayed_blocks(job.plan, pretrained.visual) if alone else None


def _stream(
    data: ImageDataset, model: Backbone, job: FineTuningJob, world: World, numbered: bool
) -> PairStream | CaptionedStream:
    """This process's part of the pairs."""
    asked = job.stream_options(len(set(data.digests)), FINE_TUNING_BATCH, world.rank, world.size)
    asked["numbered"] = numbered
    if data.captions is not None:
        return PairStream(data, model, **asked)
    return CaptionedStream(data, model, **asked, templates=job.template)


def _settings(job: FineTuningJob) -> ContrastiveOptions:
    return job.plan.options(
        epochs=job.passes or FINE_TUNING_PASSES,
        optimizer=job.optimizer,
        weight_decay=job.weight_decay,
        clip_norm=CLIP_NORM,
        chunk=job.chunk,
        seed=job.seed,
    )


def _train(
    model: Backbone,
    pairs: PairSource,
    objective: SelfDistillation | None,
    job: FineTuningJob,
    world: World,
) -> None:
    """``model``, in place."""
    train_contrastive(
        model,
        pairs,
        _settings(job),
        objective=objective,
        world=world,
        folder=job.folder / TRAINING_FOLDER,
        resume=job.resume is not None,
        start=None if job.from_ is None else Path(job.from_) / TRAINING_FOLDER,
    )


def _last_epoch(folder: Path, steps: int) -> dict[str, float]:
    """Mean loss of the last epoch, and of the least that its batches allowed."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    last = [line for line in lines if line["kind"] == "train"][-steps:]
    means = {key: sum(line[key] for line in last) / len(last) for key in ("loss", "floor")}
    return means | {"steps": last[-1]["step"], "scale": last[-1]["scale"]}


def _measure(model: Backbone, held: ImageDataset, job: FineTuningJob) -> dict[str, dict[str, Any]]:
    """Name of a figure -> mean, ci95, n_test, chance."""
    if held.captions is not None:
        return measure_recall(model, held, job.truncate)
    names = held.label_space.names
    guesses = zero_shot_probabilities(model, held, names, job.template or TEMPLATES).argmax(dim=1).numpy()
    right = guesses == held.required_labels()
    return {"zero-shot accuracy": accuracy_interval([right]).to_json() | {"chance": 1 / len(names)}}


def describe_finetuning(found: dict[str, Any]) -> str:
    """A line per figure."""
    names = [name for name in ("before", "earlier", "after") if name in found]
    head, parts = ["", *names, "chance"], [found[name] for name in names]
    chances = {key: row["chance"] for key, row in found["after"].items()}
    rows = [
        [key, *(tables.estimate_of(part[key]) for part in parts), tables.format_fraction(chance)]
        for key, chance in chances.items()
    ]
    pictures, parameters, training = found["pictures"], found["parameters"], found["training"]
    excess = training["loss"] - training["floor"]
    return "\n".join(
        [
            f"{found['data']}, {found['model']}: {number(pictures['training'], 'picture')} to train on, "
            f"{pictures['test']:,} kept out; {parameters['trained']:,} of {parameters['all']:,} parameters trained",
            f"{number(training['steps'], 'step')} in {format_seconds(found['seconds'])}; "
            f"loss of the last epoch {training['loss']:.3f}, "
            f"{excess:.3f} above the least possible; scale {training['scale']:.1f}",
            "",
            tables.format_plain([head, *rows]),
            *(["", describe_category(found["category"], found["after"])] if "category" in found else []),
            "",
            f"model: {found['folder']}",
        ]
    )
