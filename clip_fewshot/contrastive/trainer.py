"""Contrastive training of both towers on image-caption pairs, on one process or many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.contrastive.activation_memory import recompute_blocks, shrink_text_weights
from clip_fewshot.contrastive.checkpoint import FOLDER as CHECKPOINT_FOLDER
from clip_fewshot.contrastive.checkpoint import CheckpointFolder
from clip_fewshot.contrastive.distributed.world import SingleProcess, World
from clip_fewshot.contrastive.gradients import Objective
from clip_fewshot.contrastive.metrics_log import Figures
from clip_fewshot.contrastive.objectives import wrap_objective
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.sources import epoch_length, time_batches, wrap_source
from clip_fewshot.contrastive.state import StepOutcome, Training, activation_dtype, broadcast_state
from clip_fewshot.contrastive.validation import Validation, validate
from clip_fewshot.data.pairs.batch import PairBatch, PairSource
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.artifacts import ARTIFACT_SIGN
from clip_fewshot.runtime.device import explain_full_memory
from clip_fewshot.runtime.events import OnEvent
from clip_fewshot.runtime.files import hold_folder, remove_half_files
from clip_fewshot.runtime.outputs import FolderKind, check_folder, mark_folder
from clip_fewshot.runtime.progress import report_steps

TRAINING_RUN = FolderKind("training", ((f"{CHECKPOINT_FOLDER}/{ARTIFACT_SIGN[0]}", ARTIFACT_SIGN[1]),))

Model = TypeVar("Model", bound=Backbone)


class StepReport(NamedTuple):
    """What a step saw.

    Attributes:
        step: its number, from 0.
        loss: over the batch of all processes, nats.
        floor: the least that the batch allowed; training is done when the difference is small.
        scale: factor on the cosines after the step, at most 100.
        seconds: since the training began, or went on.
        epoch: number of the pass over the source, from 0.
        learning_rate: the options' peak rate at this step of the schedule.
        gradient_norm: before clipping.
        data_seconds: waited for the batch.
        compute_seconds: spent on it.
        skipped: whether float16 overflowed and the weights stayed.
    """

    step: int
    loss: float
    floor: float
    scale: float
    seconds: float
    epoch: int = 0
    learning_rate: float = 0.0
    gradient_norm: float = 0.0
    data_seconds: float = 0.0
    compute_seconds: float = 0.0
    skipped: bool = False


def train_contrastive(
    model: Model,
    source: PairSource | Iterable[PairBatch],
    options: ContrastiveOptions,
    *,
    objective: Objective | None = None,
    world: World = SingleProcess(),  # noqa: B008 - immutable
    validation: Validation | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_validation: Callable[[int, dict[str, float]], None] | None = None,
    on_event: OnEvent | None = None,
    folder: Path | None = None,
    resume: bool = False,
    start: Path | None = None,
    tensorboard: bool = False,
) -> Model:
    """Train the parameters of ``model`` that require a gradient, in place.

    Killed at any moment and resumed, a training ends in the weights it would have ended in, on a CPU bit for bit. What
    is random in a step follows from (seed, step, rank), and the source yields the batches of a step again.

    Args:
        model: a CLIP, or any pair of encoders in one space; returned in evaluation mode, in float32.
        source: this process's part of each batch. A list is one epoch; an iterator needs ``options.steps``.
        options: how long, and how fast, as of ``clip_fewshot.contrastive.options.ContrastiveOptions``.
        objective: what to descend; None: CLIP's loss. A module is trained with the model and saved in checkpoints; one
            with ``prepare`` and ``after_step`` sees each batch before its features and the weights after.
        world: the processes that train together; each calls this with its part of the batches.
        validation: what to measure meanwhile, with the averaged weights where ``options.averaging`` is on.
        on_step, on_validation: called in every process; the latter with the steps taken and the figures.
        on_event: called in process 0 with what a line of ``metrics.jsonl`` says, as a dict, for experiment trackers:
            ``{"kind": "train" or "validation", "step": steps taken, "loss": ...}``.
        folder: of ``metrics.jsonl`` and the checkpoint; None: neither is written. One training at a time holds it.
        resume: go on from the checkpoint in ``folder`` if there is one.
        start: folder of another training of the same parameters, whose weights and moments this one begins with, at
            step 0 of its own schedule and on its own pairs. Once there is a checkpoint in ``folder``, that one counts.
        tensorboard: show the figures in TensorBoard too, under ``folder``/tensorboard.

    Raises:
        UsageError: too few batches; a folder with a checkpoint without ``resume``, or one of other options or, where
            the sources can tell, of other pairs.
        ArtifactError: a damaged checkpoint.
        ResourceError: ``folder`` holds something else.
        DivergedError: a loss that is not finite; the checkpoint before it is kept.

    Example:
        >>> import clip_fewshot as cf
        >>> from clip_fewshot.contrastive.options import ContrastiveOptions
        >>> digits, backbone = cf.read_dataset("digits").subset(range(8)), cf.load_backbone("mini")
        >>> loader = [(list(digits.images), digits.label_space.decode(digits.labels))]
        >>> steps = []
        >>> options = ContrastiveOptions(steps=2)
        >>> trained = cf.train_contrastive(backbone, cf.LoaderSource(loader, backbone), options, on_step=steps.append)
        >>> [step.epoch for step in steps]
        [0, 1]
    """
    if folder is None and (resume or tensorboard):
        raise UsageError(expected="a folder to resume from and to write to", got="none", fix="give one", where="folder")
    pairs = wrap_source(source, options.steps)
    length = epoch_length(pairs)
    with ExitStack() as stack:
        stack.enter_context(explain_full_memory("train fewer pairs at a time (`chunk`), or fewer layers"))
        if folder is not None and world.rank == 0:
            stack.enter_context(hold_folder(check_folder(folder, TRAINING_RUN, None)))
            mark_folder(folder, TRAINING_RUN)
            remove_half_files(folder)
        if options.text_weights == "bfloat16":
            stack.enter_context(shrink_text_weights(model.text, activation_dtype(model)))
        if options.checkpoint_gradients:
            stack.enter_context(recompute_blocks(model.visual, model.text))
        recipe = wrap_objective(objective, options.identity_targets).to(model.device)
        training = Training(model, recipe, options, options.total(length))
        keeper = CheckpointFolder(training, pairs, world, folder)
        keeper.begin(resume, start, tensorboard)
        training.set_train_mode()
        session = _Session(training, pairs, length, world, validation, keeper, on_step, on_validation, on_event)
        session.run()
        training.mean.install()
        broadcast_state(list(model.buffers()), world)  # batch statistics, of each process's own pictures until here
    for parameter in model.parameters():
        parameter.grad = None
    world.barrier()  # no process returns before the last checkpoint is on the disk
    return model.eval()


@dataclass
class _Session:
    """The loop, and whom it tells what."""

    training: Training
    pairs: PairSource
    length: int
    world: World
    validation: Validation | None
    keeper: CheckpointFolder
    on_step: Callable[[StepReport], None] | None
    on_validation: Callable[[int, dict[str, float]], None] | None
    on_event: OnEvent | None

    def run(self) -> None:
        training = self.training
        every = training.options.save_every or self.length
        started = time.perf_counter()
        batches = time_batches(self.pairs, training.taken, training.total)
        for batch, waited in report_steps(batches, "training", training.total, done=training.taken):
            began = time.perf_counter()
            outcome = training.advance(batch, self.world)
            floor = training.recipe.floor(batch, self.world, training.model.device)
            self._report(outcome, floor, started, began, waited)
            if self.validation is not None and self.validation.due(training.taken, training.total, self.length):
                self._validate(self.validation, training.options.chunk or max(1, len(batch)))
            if training.taken % every == 0 or training.taken == training.total:
                self.keeper.save()

    def _report(self, outcome: StepOutcome, floor: float, started: float, began: float, waited: float) -> None:
        training, now = self.training, time.perf_counter()
        report = StepReport(
            step=training.taken - 1,
            loss=outcome.loss,
            floor=floor,
            scale=float(training.model.logit_scale.detach().exp()),
            seconds=now - started,
            epoch=(training.taken - 1) // self.length,
            learning_rate=training.options.learning_rate * outcome.factor,
            gradient_norm=outcome.gradient_norm,
            data_seconds=waited,
            compute_seconds=now - began,
            skipped=not outcome.taken,
        )
        figures = report._asdict() | {"steps_per_second": 1 / max(1e-9, waited + now - began)}
        self._tell("train", {name: value for name, value in figures.items() if name != "step"})
        if self.on_step is not None:
            self.on_step(report)

    def _validate(self, validation: Validation, chunk: int) -> None:
        """No more pairs in a pass than training has, or measuring would take more memory than the steps do."""
        training = self.training
        with training.mean.swap_in():
            broadcast_state(list(training.model.buffers()), self.world)
            figures = validate(training.model, validation, self.world, chunk)
        self._tell("validation", figures)
        if self.on_validation is not None:
            self.on_validation(training.taken, figures)

    def _tell(self, kind: str, figures: Figures) -> None:
        self.keeper.log(kind, figures)
        if self.on_event is not None and self.world.rank == 0:
            self.on_event({"kind": kind, "step": self.training.taken, **figures})
