"""Contrastive fine-tuning of both towers, measured on pictures kept out before and after.

On pictures with classes, captions are made from class names and the figure is zero-shot accuracy; on captioned
pictures it is recall both ways.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.contrastive.distillation import SelfDistillation
from clip_fewshot.contrastive.distributed.spark import run_on_spark
from clip_fewshot.contrastive.distributed.torchrun import join_world
from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.contrastive.finetuning import count_parameters, make_tunable
from clip_fewshot.contrastive.jobs import FINE_TUNING_PASSES, FineTuningJob
from clip_fewshot.contrastive.replayed import count_replayed_blocks, replay_pictures
from clip_fewshot.contrastive.trainer import train_contrastive
from clip_fewshot.contrastive.tuned_files import load_tuned, save_tuned
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.collect import list_warnings
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.own_templates import choose_templates
from clip_fewshot.data.pairs.batch import PairSource
from clip_fewshot.data.pairs.captioned import CaptionedStream
from clip_fewshot.data.pairs.split import split_pairs
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.protocol.retrieval import measure_recall
from clip_fewshot.protocol.zero_shot_accuracy import zero_shot_probabilities
from clip_fewshot.report import tables
from clip_fewshot.runtime.files import read_json, write_bytes, write_json
from clip_fewshot.types import Progress, Say

FINE_TUNING_BATCH, CLIP_NORM = 64, 1.0
TRAINING_FOLDER, TUNED_FOLDER, TASK, RESULTS_FILE = "training", "model", "task.json", "results.json"
MAY_DIFFER = {"out", "resume", "chunk", "device", "spark", "processes"}  # from a run to the one that goes on
TEXTS = {"template", "templates", "class_names"}  # written down as the templates themselves, and in the pictures' names
WRITTEN_AS = {"passes": "epochs", "per_class": "shots", "held_out": "test_fraction"}  # in task.json, as ever


def finetune_by_spark(job: FineTuningJob) -> dict[str, Any]:
    """What :func:`finetune` returns at rank 0, whose files come to this machine if they lie on another."""
    with redirect_stdout(sys.stderr):  # what the processes print is no part of the result
        files = run_on_spark(_tuned_files, job, processes=job.processes)
    for name, data in files.items():
        write_bytes(job.folder / name, data)
    return dict(read_json(job.folder / RESULTS_FILE)) | {"folder": str(job.folder / TUNED_FOLDER)}


def _tuned_files(job: FineTuningJob) -> dict[str, bytes]:
    """:func:`finetune` in the world that has been started; at rank 0 the files of model and results."""
    with join_world() as world:
        finetune(job, world)
    if world.rank > 0:
        return {}
    model = sorted((job.folder / TUNED_FOLDER).iterdir(), reverse=True)  # weights before what names them
    return {str(path.relative_to(job.folder)): path.read_bytes() for path in [*model, job.folder / RESULTS_FILE]}


def finetune(
    job: FineTuningJob, world: World, say: Say = lambda line: None, progress: Progress = lambda *done: None
) -> dict[str, Any]:
    """Measure, train, save, measure what was saved; each process calls this, and the first one does all but train.

    Args:
        say: receives what a reader of the pictures should know, a sentence at a time.

    Returns:
        At rank 0 the figures before and after; elsewhere nothing.
    """
    started, leads = time.perf_counter(), world.rank == 0
    templates = choose_templates(job.templates, job.template)
    data = read_dataset(job.data, class_names=job.class_names)
    if templates and data.captions is not None:
        fix = "leave `template` and `templates` out"
        raise UsageError(expected="pictures with classes", got="captions", fix=fix, where="`template`")
    pretrained = load_backbone(job.model_name, device=job.device)
    kept, held, warnings = _divide(data, pretrained, job)
    for sentence in [*list_warnings(data), *warnings] if leads else []:
        say(sentence)
    tuned = make_tunable(pretrained, job.plan)
    trained, total = count_parameters(tuned)
    n = _blocks_to_rerun(pretrained, job, world)
    pairs = _stream(kept, tuned, job, world, templates, numbered=n is not None)
    if leads:
        _begin(job, _task(job, data, pretrained, templates))
    before = _measure(pretrained, held, job, templates) if leads else {}
    with replay_pictures(tuned, pretrained, pairs.pictures, n):
        _train(tuned, pairs, job, world, progress)
    if not leads:
        return {}
    save_tuned(tuned, job.folder / TUNED_FOLDER)
    after = _measure(load_tuned(job.folder / TUNED_FOLDER, pretrained), held, job, templates)
    found = {
        "schema": 1,
        "model": job.model_name,
        "data": data.name,
        "pictures": {"training": len(set(kept.digests)), "test": len(set(held.digests))},
        "parameters": {"trained": trained, "all": total},
        "training": _last_epoch(job.folder / TRAINING_FOLDER, pairs.steps()),
        "before": before,
        "after": after,
        "seconds": time.perf_counter() - started,
    }
    write_json(job.folder / RESULTS_FILE, found)
    return found | {"folder": str(job.folder / TUNED_FOLDER)}


def _divide(
    data: ImageDataset, model: Backbone, job: FineTuningJob
) -> tuple[ImageDataset, ImageDataset, tuple[str, ...]]:
    """(training, test, warnings): the source's own parts, or by a hash of the content."""
    if data.captions is None:
        split = split_open_world(data, shots=job.per_class or 1, seed=job.seed, test_fraction=job.held_out)
        kept = split.support if job.per_class else split.pool
        return kept, split.test.open("zero-shot accuracy"), tuple(split.warnings)
    if job.per_class is not None:
        fix = "leave it out"
        raise UsageError(expected="pictures with classes", got="captions", fix=fix, where="`per_class`")
    PairStream(data, model, batch=1, seed=0, truncate=job.truncate)  # names captions that are too long, of both
    pictures = len(set(data.digests))
    return *split_pairs(data, max(1, round(job.held_out * pictures)), job.seed), ()


def _blocks_to_rerun(pretrained: Backbone, job: FineTuningJob, world: World) -> int | None:
    """How many last layers of the image tower must run at each step; None: no states are stored.

    Every process would have to store those of all pictures. The running mean of --distil is a model of its own.
    """
    alone = world.size == 1 and not job.distil
    return count_replayed_blocks(job.plan, pretrained.visual) if alone else None


def _stream(
    data: ImageDataset, model: Backbone, job: FineTuningJob, world: World, templates: tuple[str, ...], numbered: bool
) -> PairStream | CaptionedStream:
    """This process's part of the pairs."""
    asked: dict[str, Any] = {
        "batch": min(FINE_TUNING_BATCH, len(set(data.digests))) if job.batch is None else job.batch,
        "seed": job.seed,
        "rank": world.rank,
        "world": world.size,
        "truncate": job.truncate,
        "numbered": numbered,
    }
    if data.captions is not None:
        return PairStream(data, model, **asked)
    return CaptionedStream(data, model, **asked, templates=templates)


def _task(job: FineTuningJob, data: ImageDataset, model: Backbone, templates: tuple[str, ...]) -> dict[str, Any]:
    """What a run that goes on must share with the one that began."""
    names = {f.name for f in fields(FineTuningJob)} - MAY_DIFFER - TEXTS - set(WRITTEN_AS)
    chosen = {name: getattr(job, name) for name in names} | {old: getattr(job, new) for new, old in WRITTEN_AS.items()}
    chosen["epochs"] = job.passes or FINE_TUNING_PASSES
    chosen["templates"] = list(templates) or None  # as of runs that were begun before there was a choice
    captions = hashlib.sha256("\n".join(data.captions or ()).encode("utf-8", "surrogatepass")).hexdigest()
    return chosen | {"model": model.digest, "data": data.fingerprint(), "captions": captions}


def _begin(job: FineTuningJob, now: dict[str, Any]) -> None:
    """Note the task in the folder; a folder in which another one was begun is refused."""
    path = job.folder / TASK
    if path.exists():
        was = read_json(path)
        other = sorted(key for key in now if was.get(key) != now[key])
        if other:
            fix = "repeat the options it began with, or choose a new folder"
            raise UsageError(
                expected="the task that was begun there",
                got=f"another {', '.join(other)}",
                fix=fix,
                where=str(job.folder),
            )
        if not job.resume:
            raise UsageError(
                expected="a new folder",
                got="one with a training",
                fix="go on with it (`resume`), or name another",
                where=str(job.folder),
            )
    write_json(path, now)


def _train(model: Backbone, pairs: PairSource, job: FineTuningJob, world: World, progress: Progress) -> None:
    """``model``, in place."""
    settings = job.plan.options(
        epochs=job.passes or FINE_TUNING_PASSES,
        weight_decay=job.weight_decay,
        clip_norm=CLIP_NORM,
        chunk=job.chunk,
        seed=job.seed,
    )
    total = settings.total(pairs.steps())
    train_contrastive(
        model,
        pairs,
        settings,
        objective=SelfDistillation(model, job.distil) if job.distil else None,
        world=world,
        on_step=lambda report: progress("training", report.step + 1, total) if world.rank == 0 else None,
        folder=job.folder / TRAINING_FOLDER,
        resume=job.resume is not None,
    )


def _last_epoch(folder: Path, steps: int) -> dict[str, float]:
    """Mean loss of the last epoch, and of the least that its batches allowed."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    last = [line for line in lines if line["kind"] == "train"][-steps:]
    means = {key: sum(line[key] for line in last) / len(last) for key in ("loss", "floor")}
    return means | {"steps": last[-1]["step"], "scale": last[-1]["scale"]}


def _measure(
    model: Backbone, held: ImageDataset, job: FineTuningJob, templates: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Name of a figure -> mean, ci95, n_test, chance."""
    if held.captions is not None:
        return measure_recall(model, held, job.truncate)
    names = held.label_space.names
    guesses = zero_shot_probabilities(model, held, names, templates or TEMPLATES).argmax(dim=1).numpy()
    right = guesses == held.required_labels()
    return {"zero-shot accuracy": accuracy_interval([right]).to_json() | {"chance": 1 / len(names)}}


def describe_finetuning(found: dict[str, Any]) -> str:
    """A line per figure."""
    head = ["", "before", "after", "chance"]
    parts, chances = (found["before"], found["after"]), {key: row["chance"] for key, row in found["after"].items()}
    rows = [
        [key, *(tables.estimate_of(part[key]) for part in parts), tables.format_fraction(chance)]
        for key, chance in chances.items()
    ]
    pictures, parameters, training = found["pictures"], found["parameters"], found["training"]
    excess = training["loss"] - training["floor"]
    return "\n".join(
        [
            f"{found['data']}, {found['model']}: {pictures['training']:,} pictures to train on, "
            f"{pictures['test']:,} kept out; {parameters['trained']:,} of {parameters['all']:,} parameters trained",
            f"{training['steps']:,} steps in {found['seconds']:.0f} s; loss of the last epoch {training['loss']:.3f}, "
            f"{excess:.3f} above the least possible; scale {training['scale']:.1f}",
            "",
            tables.format_plain([head, *rows]),
            "",
            f"model: {found['folder']}",
        ]
    )
