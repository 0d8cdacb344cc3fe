"""A CLIP trained from scratch on image-caption pairs, as ``experiments.pretrain`` does it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import clip_fewshot as cf
from experiments import opening

if TYPE_CHECKING:
    from experiments.pretrain import Options

MODEL_FILES = ("model.safetensors", "config.json")
REPORTS = 100  # lines of loss in a training
BATCH, VALIDATION_BATCH = 256, 256
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pretrain_as_one_of_many(options: Options) -> dict[str, bytes]:
    """:func:`pretrain` in the world that torchrun or Spark has started; the model's files, at rank 0."""
    with cf.join_world() as world:
        pretrain(options, world)
    return {name: (options.out / name).read_bytes() for name in MODEL_FILES} if world.rank == 0 else {}


def pretrain(options: Options, world: cf.World) -> cf.Backbone:
    """Read, split, train, and write the model to ``options.out``; each process of ``world`` calls this."""
    say: Callable[[str], None] = print_now if world.rank == 0 else lambda line: None
    started = time.perf_counter()
    model = build(options.model or "ViT-B/32", options)
    data = opening.dataset(options.data or "")
    kept, held = cf.split_pairs(data, options.validation, options.seed) if options.validation else (data, None)
    pairs = stream(kept, model, options, world)
    settings = training_options(options, model, pairs.steps())
    total = settings.total(pairs.steps())
    weights = sum(p.numel() for p in model.parameters())
    say(f"{model.name}: {weights:,} weights; {len(kept):,} captions, {pairs.batch} pictures a step, {total:,} steps")
    trained = cf.train_contrastive(
        model,
        pairs,
        settings,
        world=world,
        validation=validation(held, model, options, world),
        on_step=progress(total, say),
        on_validation=lambda step, figures: say(f"step {step:6d}  {shown(figures)}"),
        folder=options.out,
        resume=options.resume,
        tensorboard=options.tensorboard,
    )
    if world.rank == 0:
        cf.save_backbone(trained, options.out, half=False)
    say(f"model, checkpoint and metrics.jsonl in {options.out} ({time.perf_counter() - started:.0f} s)")
    return trained


def build(name: str, options: Options) -> cf.Backbone:
    """Random weights of an official architecture, or of the one in a JSON file, by the seed."""
    path = Path(name)
    known = {"ViT-L/14-336px": "ViT-L/14@336px"}.get(name, name)
    if path.suffix == ".json":
        config = read_architecture(path)
    elif known in cf.ARCHITECTURES:
        config = cf.ARCHITECTURES[known]
    else:
        expected = f"one of {', '.join(cf.ARCHITECTURES)}, or a .json file"
        raise cf.UsageError(expected=expected, got=repr(name), fix="check the spelling", where="--model")
    model = cf.build_backbone(config, options.seed, path.stem if path.suffix == ".json" else known)
    model.activation_dtype = DTYPES[options.precision]
    return model.to(cf.resolve_device(options.device))


def read_architecture(path: Path) -> cf.CLIPConfig:
    """The fields of :class:`CLIPConfig` as a JSON object."""
    if not path.is_file():
        raise cf.DataError(expected="a file", got="none", fix="check the path", where=str(path))
    fields: Any = cf.read_json(path)
    try:
        if isinstance(fields["vision_layers"], list):
            fields["vision_layers"] = tuple(fields["vision_layers"])
        fields.pop("sha256", None)  # in the config.json of a saved model
        return cf.CLIPConfig(**fields)
    except (TypeError, KeyError, AttributeError) as error:
        expected = f"an object with {', '.join(cf.CLIPConfig.__dataclass_fields__)}"
        raise cf.DataError(expected=expected, got=str(error), fix="correct the file", where=str(path)) from error


def training_options(options: Options, model: cf.Backbone, per_epoch: int) -> cf.ContrastiveOptions:
    """The paper's numbers for the model, less what was asked for otherwise."""
    length = {"steps": options.steps} if options.steps else {"epochs": options.epochs or 32}
    total = options.steps or per_epoch * (options.epochs or 32)
    own = {} if options.learning_rate is None else {"learning_rate": options.learning_rate}
    return cf.paper_options(
        model.name if model.name in cf.ARCHITECTURES else model.config,
        warmup_steps=min(2000, total // 10) if options.warmup is None else options.warmup,
        weight_decay=options.weight_decay,
        averaging=options.averaging,
        identity_targets=options.identity_targets,
        chunk=options.chunk,
        checkpoint_gradients=options.checkpoint_gradients,
        state_dtype=options.state_dtype,
        text_weights=options.text_weights,
        save_every=options.save_every,
        seed=options.seed,
        **length,
        **own,
    )


def stream(data: cf.ImageDataset, model: cf.Backbone, options: Options, world: cf.World) -> cf.PairStream:
    """This process's part of the training pairs."""
    batch = min(BATCH, len(set(data.digests))) if options.batch is None else options.batch
    return cf.PairStream(
        data,
        model,
        batch=batch,
        seed=options.seed,
        rank=world.rank,
        world=world.size,
        truncate=options.truncate,
        augment=options.augment,
    )


def validation(
    held: cf.ImageDataset | None, model: cf.Backbone, options: Options, world: cf.World
) -> cf.Validation | None:
    """Loss and recall on the pictures held out, zero-shot accuracy on the labelled ones."""
    labelled = None if options.labelled is None else opening.dataset(options.labelled)
    pairs = None
    if held is not None:
        pairs = cf.PairStream(
            held,
            model,
            batch=min(VALIDATION_BATCH, len(set(held.digests))),
            seed=options.seed,
            rank=world.rank,
            world=world.size,
            truncate=options.truncate,
            drop_last=False,
        )
    return None if pairs is None and labelled is None else cf.Validation(pairs, labelled)


def progress(total: int, say: Callable[[str], None]) -> Callable[[cf.StepReport], None]:
    """A printer of the mean loss, and its excess over what the batches allowed."""
    window: list[cf.StepReport] = []
    every = max(1, total // REPORTS)

    def on_step(report: cf.StepReport) -> None:
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


def shown(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())


def print_now(line: str) -> None:
    print(line, flush=True)
