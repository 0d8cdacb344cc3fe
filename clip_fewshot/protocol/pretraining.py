"""A CLIP trained from scratch on image-caption pairs, with the numbers of CLIP's paper where none are given."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_fewshot.backbones.architectures import ARCHITECTURES, CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.checkpoint import sketch_backbone
from clip_fewshot.backbones.folder import save_backbone
from clip_fewshot.contrastive.distributed.spark import run_on_spark
from clip_fewshot.contrastive.distributed.torchrun import join_world
from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.contrastive.jobs import PRETRAINING_PASSES, Pretraining
from clip_fewshot.contrastive.memory_check import Load, check_memory
from clip_fewshot.contrastive.memory_forecast import measure_needs, measure_state
from clip_fewshot.contrastive.options import ContrastiveOptions, paper_options
from clip_fewshot.contrastive.trainer import TRAINING_RUN, StepReport, train_contrastive
from clip_fewshot.contrastive.validation import Validation
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.collect import list_warnings
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import number
from clip_fewshot.data.own_templates import choose_templates
from clip_fewshot.data.pairs.split import split_pairs
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.device import PRECISIONS, resolve_device
from clip_fewshot.runtime.files import read_json, write_bytes
from clip_fewshot.runtime.outputs import check_folder, mark_folder
from clip_fewshot.runtime.units import format_seconds
from clip_fewshot.types import Say

MODEL_FILES = ("model.safetensors", "config.json")
REPORTS = 100  # lines of loss in a training
PRETRAINING_BATCH, VALIDATION_BATCH = 256, 256
CHANGEABLE = ("checkpoint_gradients", "state_dtype", "model")  # where memory is short


def pretrain_by_spark(job: Pretraining) -> None:
    """:func:`pretrain` in processes of Spark; the model's files come to this machine if they lie on another."""
    check_folder(job.folder, TRAINING_RUN, job.overwrite, job)
    files = run_on_spark(_pretrained_files, job, processes=job.processes)
    mark_folder(job.folder, TRAINING_RUN)
    for name, data in files.items():
        write_bytes(job.folder / name, data)


def _pretrained_files(job: Pretraining) -> dict[str, bytes]:
    """:func:`pretrain` in the world that has been started; at rank 0 the model's files."""
    with join_world() as world:
        pretrain(job, world)
    return {name: (job.folder / name).read_bytes() for name in MODEL_FILES} if world.rank == 0 else {}


def pretrain(job: Pretraining, world: World, say: Say = lambda line: None, warn: Say = lambda line: None) -> Backbone:
    """Read, split, train, and write the model to ``job.folder``; each process of ``world`` calls this.

    Args:
        say: receives a line at a time on how far the training is.
        warn: receives what a reader of the pictures should know.
    """
    if world.rank > 0:
        say = warn = _be_silent  # one process speaks for all
    started = time.perf_counter()
    check_folder(job.folder, TRAINING_RUN, job.overwrite, job)
    name, config = find_architecture(job.model or "ViT-B/32")
    _check_state(config, job)
    model = build_untrained(name, config, job)
    data = _read(job.data, warn, **job.reading() | {"class_names": None})
    kept, held = split_pairs(data, job.validation, job.seed) if job.validation or job.test else (data, None)
    pairs = _stream(kept, model, job, world)
    settings = choose_options(job, model, pairs.steps())
    total = settings.total(pairs.steps())
    weights, load = sum(p.numel() for p in model.parameters()), Load(pairs.batch, world.size)
    forecast = check_memory(measure_needs(model, pairs.tokens), settings, load, model.device, CHANGEABLE)
    shape = f"{number(len(kept), 'caption')}, {number(pairs.batch, 'picture')} a step, {number(total, 'step')}"
    say(f"{model.name}: {weights:,} weights; {shape}")
    say(f"memory: {forecast}")
    if config.warning():
        warn(config.warning())
    if world.rank == 0:
        mark_folder(job.folder, TRAINING_RUN)
    trained = train_contrastive(
        model,
        pairs,
        settings,
        world=world,
        validation=_validation(held, model, job, world, warn),
        on_step=_report_steps(total, say),
        on_validation=lambda step, figures: say(f"step {step:6d}  {_shown(figures)}"),
        folder=job.folder,
        resume=job.resume is not None,
        tensorboard=job.tensorboard,
    )
    if world.rank == 0:
        save_backbone(trained, job.folder, half=False, overwrite=True)  # beside the checkpoint
    say(f"model, checkpoint and metrics.jsonl in {job.folder} ({format_seconds(time.perf_counter() - started)})")
    return trained


def find_architecture(name: str) -> tuple[str, CLIPConfig]:
    """An official name, or the stem of a JSON file, and the architecture it stands for."""
    path = Path(name)
    if path.suffix == ".json":
        return path.stem, read_architecture(path)
    known = {"ViT-L/14-336px": "ViT-L/14@336px"}.get(name, name)
    if known not in ARCHITECTURES:
        expected = f"one of {', '.join(ARCHITECTURES)}, or a .json file"
        raise UsageError(expected=expected, got=repr(name), fix="check the spelling", where="`model`")
    return known, ARCHITECTURES[known]


def _check_state(config: CLIPConfig, job: Pretraining) -> None:
    """Refuse a model whose state alone is too large, before it is built: the system would end the process."""
    state = ContrastiveOptions(
        steps=1, averaging=job.averaging, state_dtype=job.state_dtype, text_weights=job.text_weights
    )
    check_memory(measure_state(sketch_backbone(config)), state, Load(0), resolve_device(job.device), CHANGEABLE)


def build_untrained(name: str, config: CLIPConfig, job: Pretraining) -> Backbone:
    """Random weights by the seed, on the device, in the precision of the job."""
    model = build_backbone(config, job.seed, name)
    model.activation_dtype = PRECISIONS[job.precision]
    return model.to(resolve_device(job.device))


def read_architecture(path: Path) -> CLIPConfig:
    """The fields of :class:`CLIPConfig` as a JSON object."""
    if not os.path.isfile(path):
        raise DataError(expected="a file", got="none", fix="check the path", where=str(path))
    fields: Any = read_json(path)
    try:
        if isinstance(fields["vision_layers"], list):
            fields["vision_layers"] = tuple(fields["vision_layers"])
        fields.pop("sha256", None)  # in the config.json of a saved model
        return CLIPConfig(**fields)
    except (TypeError, KeyError, AttributeError) as error:
        expected = f"an object with {', '.join(CLIPConfig.__dataclass_fields__)}"
        raise DataError(expected=expected, got=str(error), fix="correct the file", where=str(path)) from error


def choose_options(job: Pretraining, model: Backbone, per_epoch: int) -> ContrastiveOptions:
    """The paper's numbers for the model, less what was asked for otherwise."""
    length = {"steps": job.steps} if job.steps else {"epochs": job.passes or PRETRAINING_PASSES}
    total = job.steps or per_epoch * (job.passes or PRETRAINING_PASSES)
    own = {} if job.learning_rate is None else {"learning_rate": job.learning_rate}
    return paper_options(
        model.name if model.name in ARCHITECTURES else model.config,
        warmup_steps=min(2000, total // 10) if job.warmup is None else job.warmup,
        weight_decay=job.weight_decay,
        averaging=job.averaging,
        identity_targets=job.identity_targets,
        chunk=job.chunk,
        checkpoint_gradients=job.checkpoint_gradients,
        state_dtype=job.state_dtype,
        text_weights=job.text_weights,
        save_every=job.save_every,
        seed=job.seed,
        **length,
        **own,
    )


def _stream(data: ImageDataset, model: Backbone, job: Pretraining, world: World) -> PairStream:
    """This process's part of the training pairs."""
    asked = job.stream_options(len(set(data.digests)), PRETRAINING_BATCH, world.rank, world.size)
    return PairStream(data, model, **asked, augment=job.augment)


def _validation(
    held: ImageDataset | None, model: Backbone, job: Pretraining, world: World, warn: Say
) -> Validation | None:
    """Loss and recall on the pictures held out, zero-shot accuracy on the labelled ones."""
    templates = choose_templates(job.templates, job.template) or TEMPLATES
    labelled = None if job.labelled is None else _read(job.labelled, warn, class_names=job.class_names)
    pairs = None
    if held is not None:
        pairs = PairStream(
            held,
            model,
            batch=min(VALIDATION_BATCH, len(set(held.digests))),
            seed=job.seed,
            rank=world.rank,
            world=world.size,
            truncate=job.truncate,
            drop_last=False,
        )
    return None if pairs is None and labelled is None else Validation(pairs, labelled, templates)


def _report_steps(total: int, say: Say) -> Callable[[StepReport], None]:
    """A printer of the mean loss, and its excess over what the batches allowed."""
    window: list[StepReport] = []
    every = max(1, total // REPORTS)

    def on_step(report: StepReport) -> None:
        window.append(report)
        if len(window) < every and report.step + 1 < total:
            return
        loss = sum(item.loss for item in window) / len(window)
        floor = sum(item.floor for item in window) / len(window)
        waited = sum(item.data_seconds for item in window)
        busy = sum(item.compute_seconds for item in window)
        say(
            f"step {report.step + 1:6d}  loss {loss:.3f}  floor {floor:.3f}  scale {report.scale:.1f}  "
            f"{len(window) / (waited + busy):.2f} steps/s, {waited / (waited + busy):.0%} of it waiting for data"
        )
        window.clear()

    return on_step


def _shown(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())


def _read(source: str, warn: Say, **reading: Any) -> ImageDataset:
    data = read_dataset(source, **reading)
    for sentence in list_warnings(data):
        warn(sentence)
    return data


def _be_silent(line: str) -> None:
    """The others would repeat what the first process says."""
