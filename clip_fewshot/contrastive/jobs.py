"""The options of the two training jobs over both towers, free of torch so that a command line answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clip_fewshot.config import (
    DEVICES,
    FINE_TUNING_RATES,
    MODEL_HELP,
    Depth,
    OutputOptions,
    ReadingOptions,
    TextOptions,
    check_fractions,
    check_range,
    model_for,
    option,
)
from clip_fewshot.errors import UsageError

if TYPE_CHECKING:
    from clip_fewshot.contrastive.finetuning import FineTuning

PRETRAINING_PASSES, FINE_TUNING_PASSES = 32, 10
CAPTIONED = "captioned pictures: pairs of files, table, list or tar shards"
LAYERS_GROUP, TRAINING_GROUP, MEMORY_GROUP = ({"group": title} for title in ("what trains", "training", "memory"))
MEASURED_GROUP, PROCESSES_GROUP, OUTPUT_GROUP = (
    {"group": title} for title in ("what is measured", "processes", "output")
)


@dataclass(frozen=True, kw_only=True)
class TrainingJob(ReadingOptions, OutputOptions):
    """What both jobs take.

    Raises:
        UsageError: a value outside its range; neither or both of ``out`` and ``resume``.
    """

    device: str = option("auto", "where to compute", choices=DEVICES, group="model")
    batch: int | None = option(
        None,
        "pairs in a step, of all processes together (default: all, at most 256; 64 to fine-tune)",
        **TRAINING_GROUP,
    )
    weight_decay: float = option(0.2, "on matrices", **TRAINING_GROUP)
    seed: int = option(0, "seed of everything random", **TRAINING_GROUP)
    chunk: int | None = option(
        None, "pairs in one pass: memory falls with it, the gradient stays (default: all)", **MEMORY_GROUP
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = option("auto", "of activations", **MEMORY_GROUP)
    truncate: bool = option(False, "cut texts that are too long for the model instead of refusing them")
    spark: bool = option(
        False, "compute in processes that Spark starts (on this machine, if it has no other master)", **PROCESSES_GROUP
    )
    processes: int = option(2, "how many, with --spark", **PROCESSES_GROUP)
    out: str | None = option(None, "new folder for the model, its checkpoint and its figures", **OUTPUT_GROUP)
    resume: str | None = option(None, "go on with the training in this folder", **OUTPUT_GROUP)

    def __post_init__(self) -> None:
        if (self.out is None) == (self.resume is None):
            got = "neither" if self.out is None else "both"
            raise UsageError(expected="`out` or `resume`", got=got, fix="name one folder", where="`out`")
        check_range(self, "batch", "chunk", "processes")
        self.reading()

    @property
    def folder(self) -> Path:
        """Where the training is, or will be."""
        return Path(self.out or self.resume or "")

    def stream_options(self, pictures: int, usual: int, rank: int, world: int) -> dict[str, Any]:
        """How this process streams that many pictures, in batches of ``usual`` where no number is named."""
        batch = min(usual, pictures) if self.batch is None else self.batch
        return {"batch": batch, "seed": self.seed, "rank": rank, "world": world, "truncate": self.truncate}


@dataclass(frozen=True, kw_only=True)
class Pretraining(TrainingJob, TextOptions):
    """A CLIP from scratch on image-caption pairs."""

    data: str = field(metadata={"help": CAPTIONED, "positional": True, "flag": "--data"})
    model: str | None = option(
        None, "official CLIP name or a JSON file of an architecture (default: ViT-B/32)", group="model"
    )
    passes: int | None = option(None, f"over the pictures (default: {PRETRAINING_PASSES})", **TRAINING_GROUP)
    steps: int | None = option(None, "optimiser steps, in place of passes", **TRAINING_GROUP)
    learning_rate: float | None = option(None, "peak (default: the paper's for the model)", **TRAINING_GROUP)
    warmup: int | None = option(None, "steps of rising rate (default: 2000, at most a tenth of all)", **TRAINING_GROUP)
    averaging: float = option(
        0.0, "decay per step of the mean of the weights that is kept in the end; 0: the last", **TRAINING_GROUP
    )
    identity_targets: bool = option(
        False, "take equal captions of a batch for wrong ones, as CLIP does", **TRAINING_GROUP
    )
    augment: float | None = option(
        None, "least share of the area of random crops, in (0, 1] (default: none)", **TRAINING_GROUP
    )
    checkpoint_gradients: bool = option(
        False, "compute blocks twice in place of keeping their activations", **MEMORY_GROUP
    )
    state_dtype: Literal["float32", "bfloat16"] = option("float32", "of the optimiser's moments", **MEMORY_GROUP)
    text_weights: Literal["float32", "bfloat16"] = option(
        "float32", "of the text tower while it is trained", **MEMORY_GROUP
    )
    validation: int = option(
        100, "pictures kept out of training to measure loss and recall on; 0: none", **MEASURED_GROUP
    )
    labelled: str | None = option(None, "pictures with classes to measure zero-shot accuracy on", **MEASURED_GROUP)
    tensorboard: bool = option(False, "show the figures in TensorBoard too", **MEASURED_GROUP)
    save_every: int | None = option(None, "steps between checkpoints (default: one an epoch)", **OUTPUT_GROUP)
    threads: int | None = option(None, "processor threads (default: torch's)", **PROCESSES_GROUP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.passes is not None:
            fix = "leave one of them out"
            raise UsageError(expected="`steps` or `passes`", got="both", fix=fix, where="`steps`")
        if self.labelled is None and (self.template or self.templates or self.class_names is not None):
            fix = "name some (`labelled`), or leave `template`, `templates` and `class_names` out"
            raise UsageError(expected="pictures with classes", got="captions alone", fix=fix, where="`template`")
        check_range(self, "passes", "steps", "threads", "save_every")
        check_range(self, "validation", least=0)


def _defaults(part: int) -> str:
    return f"default: {FINE_TUNING_RATES['adamw'][part]:g}; {FINE_TUNING_RATES['sgd'][part]:g} by sgd"


def parse_depths(text: str) -> Depth | tuple[Depth, Depth]:
    """Text to layers that train: "2", "all", or one for each tower, image first: "12,4".

    Raises:
        ValueError: anything else.
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) > 2 or not all(word == "all" or word.isdecimal() for word in words):
        raise ValueError(f"expected a number of layers, all, or one for each tower such as 12,4, got {text!r}")
    depths: list[Depth] = ["all" if word == "all" else int(word) for word in words]
    return (depths[0], depths[1]) if depths[1:] else depths[0]


@dataclass(frozen=True, kw_only=True)
class FineTuningJob(TrainingJob, TextOptions):
    """A pretrained CLIP on captioned pictures, or on pictures with classes."""

    data: str = option(
        "digits", "captioned or labelled pictures; or digits, digits-wild", positional=True, flag="--data"
    )
    model: str | None = option(None, MODEL_HELP, group="model")
    unfreeze: Depth | tuple[Depth, Depth] = option(
        1,
        "last layers of each tower that train; two numbers are for image and text; all: stems and embeddings too",
        parse=parse_depths,
        metavar="N|N,N|all",
        **LAYERS_GROUP,
    )
    lock: Literal["none", "image", "text"] = option("none", "a tower that stays as it is", **LAYERS_GROUP)
    head: Literal["none", "linear", "attention"] | None = option(
        None,
        "added to each tower: linear is merged into it at the end, attention reads all tokens and stays (default: "
        "linear; none beside prompts)",
        **LAYERS_GROUP,
    )
    prompts: int = option(0, "deep visual prompts per block, trained alone (with --unfreeze 0)", **LAYERS_GROUP)
    backbone_lr: float | None = option(
        None, f"peak learning rate of pretrained layers ({_defaults(0)})", **TRAINING_GROUP
    )
    head_lr: float | None = option(None, f"peak learning rate of heads and prompts ({_defaults(1)})", **TRAINING_GROUP)
    optimizer: Literal["adamw", "sgd"] = option("adamw", "AdamW, or descent with momentum", **TRAINING_GROUP)
    distil: float = option(
        0.0, "share of the targets from a running mean of the model itself, in [0, 1]", **TRAINING_GROUP
    )
    passes: int | None = option(
        None, f"over the pictures, each with other captions (default: {FINE_TUNING_PASSES})", **TRAINING_GROUP
    )
    per_class: int | None = option(None, "training pictures per class (default: all)", **TRAINING_GROUP)
    category: Literal["none", "column", "predicted"] = option(
        "none",
        "class before each caption: of its row (column), or as the training side reads it off the words, out of fold "
        "(predicted); recall with and without",
        **TRAINING_GROUP,
    )
    from_: str | None = option(
        None,
        "go on from the fine-tuning in this folder, on DATA as it is now: its weights and optimiser, a new schedule",
        metavar="PATH",
        **TRAINING_GROUP,
    )
    held_out: float = option(
        0.2, "share of the pictures kept out, where DATA itself has no test part", **MEASURED_GROUP
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "passes", "per_class")
        check_fractions(self, "held_out")

    @property
    def model_name(self) -> str:
        """The model that was named, or the usual one for the pictures."""
        return model_for(self.data, self.model)

    @property
    def plan(self) -> FineTuning:
        """What trains, checked. Not while options are read: it takes torch, seconds before a command can show a bar."""
        from clip_fewshot.contrastive.finetuning import FineTuning

        layers, added = FINE_TUNING_RATES[self.optimizer]
        chosen: dict[str, Any] = {name: getattr(self, name) for name in ("unfreeze", "lock", "prompts", "seed")}
        return FineTuning(
            **chosen,
            head=self.head or ("none" if self.prompts else "linear"),
            backbone_lr=layers if self.backbone_lr is None else self.backbone_lr,
            head_lr=added if self.head_lr is None else self.head_lr,
        )
