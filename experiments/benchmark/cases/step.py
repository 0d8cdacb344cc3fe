"""One training step: the whole network on pixels, against the last layers on what enters them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import CutState
from clip_fewshot.features.prefix import run_prefix
from clip_fewshot.optim.adamw import AdamW, group_parameters
from clip_fewshot.tuning.last_layers import copy_last_layers
from experiments.benchmark.options import Options
from experiments.benchmark.plain import Original, by_name, original, random_backbone
from experiments.benchmark.row import Check, Row
from experiments.benchmark.timing import WHOLE, Side, Times, Watch, interleave

CLASSES = 100
SCALE = 100.0  # what CLIP's logit scale was trained to
CLIP_NORM = 1.0
STEPS = 4  # of ours per repeat: one alone is too short a time to measure
GRADIENTS = "forward + backward"
FP32, FP16 = 2e-6, 1e-3  # largest relative difference of gradients, by the type the cut is stored in


class Setting(NamedTuple):
    """A line of the table. ``unfreeze`` 0: the tail alone trains, which for a ResNet is the attention pool."""

    arch: str
    unfreeze: int
    batch: int
    asked: float | None


TABLE = (
    Setting("ViT-B/32", 1, 16, 50),
    Setting("ViT-B/32", 2, 16, 5),
    Setting("ViT-B/32", 3, 16, 3),
    Setting("ViT-B/32", 4, 16, 2.2),
    Setting("ViT-B/16", 1, 4, 80),
    Setting("ViT-B/16", 2, 4, 5),
    Setting("RN50", 3, 16, 3),
    Setting("RN50", 0, 16, 20),
)


def settings(options: Options) -> list[Setting]:
    """The table, or what the options ask for; a promise is kept where architecture, N and batch are those of it."""
    chosen = []
    for arch in [options.arch] if options.arch else dict.fromkeys(setting.arch for setting in TABLE):
        known = {setting.unfreeze: setting for setting in TABLE if setting.arch == arch}
        for n in options.depths or known or (1,):
            usual = known.get(n, Setting(arch, n, 16, None))
            batch = options.batch or usual.batch
            chosen.append(Setting(arch, n, batch, usual.asked if batch == usual.batch else None))
    return chosen


def rows(options: Options) -> Iterator[Row]:
    """A training step of each setting, whole and cut."""
    chosen = settings(options)
    for arch in dict.fromkeys(setting.arch for setting in chosen):
        backbone = random_backbone(arch, options.seed)
        plain = original(backbone)
        for setting in chosen:
            if setting.arch == arch:
                yield from measure(backbone, plain, setting, options)


def measure(backbone: Backbone, plain: Original, setting: Setting, options: Options) -> Iterator[Row]:
    """The gradients alone, and the step with its optimiser."""
    task = Task(backbone, setting, options.seed)
    checks = tuple(parity(task, plain))
    sides = {"naive": Side(Whole(task, plain).run, setting.batch), "ours": Side(Cut(task).run, STEPS * setting.batch)}
    times = interleave(sides, options.repeats)
    layers = f"N = {setting.unfreeze}" if setting.unfreeze else "the tail alone"
    what = f"{setting.arch}, {layers}, batch {setting.batch}"
    note = f"Plain way: {plain.name}, gradient clipping and AdamW as torch builds them by default."
    for part, name in ((GRADIENTS, f"{what}: {GRADIENTS}"), (WHOLE, f"{what}: step with AdamW")):
        naive, ours = times["naive"][part], times["ours"][part]
        yield Row(name, "image", ours, naive, setting.asked, checks if part == GRADIENTS else (), note)


def step_times(backbone: Backbone, plain: Original, unfreeze: int, batch: int, options: Options) -> dict[str, Times]:
    """CPU and wall seconds per picture of a whole step, of both sides; for cases that extrapolate."""
    task = Task(backbone, Setting(backbone.name, unfreeze, batch, None), options.seed)
    sides = {"naive": Side(Whole(task, plain).run, batch), "ours": Side(Cut(task).run, STEPS * batch)}
    return {name: times[WHOLE] for name, times in interleave(sides, options.repeats).items()}


class Task:
    """One batch of pictures with labels, fixed class weights, and the loss: cosine logits, cross-entropy."""

    def __init__(self, backbone: Backbone, setting: Setting, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        side, batch = backbone.image_size, setting.batch
        self.tower, self.unfreeze = backbone.visual, setting.unfreeze
        self.pixels = torch.randn(batch, 3, side, side, generator=draw)
        self.labels = torch.randint(CLASSES, (batch,), generator=draw)
        classes = torch.randn(CLASSES, backbone.config.embed_dim, generator=draw)
        self.classes = F.normalize(classes, dim=-1)

    def loss(self, features: Tensor) -> Tensor:
        """(b, d) features -> the loss."""
        return F.cross_entropy(SCALE * F.normalize(features, dim=-1) @ self.classes.T, self.labels)

    def suffix(self) -> nn.Module:
        """The last layers, all of which train."""
        return copy_last_layers(self.tower, self.unfreeze).requires_grad_(True)

    def stored(self, half: bool) -> Callable[[], CutState]:
        """Reads what enters the last layers out of the store; each call reads it again, as a step does."""
        if self.unfreeze == 0:  # the library keeps features there and trains no tail; the table asks for its step
            with torch.no_grad():
                state = self.tower.advance(self.tower.embed(self.pixels), 0, self.tower.n_blocks)
            tokens = state.tokens.half() if half else state.tokens
            return lambda: state._replace(tokens=tokens.float())
        prefix, items = (
            run_prefix(self.tower, [self.pixels], [self.unfreeze], half=half),
            torch.arange(len(self.labels)),
        )
        return lambda: prefix.rows(self.unfreeze, items)

    def trained(self) -> set[str]:
        """Names of the parameters that train, in the whole tower."""
        tail = {id(parameter) for parameter in self.tower.tail().parameters()}
        names = {name for name, parameter in self.tower.named_parameters() if id(parameter) in tail}
        return names | set(self.tower.last_parameters(self.unfreeze))


class Whole:
    """The step as the originals take it: pixels through every block, of which the last ones keep their gradients."""

    def __init__(self, task: Task, plain: Original) -> None:
        self.task, self.visual = task, copy.deepcopy(plain.visual)
        names = task.trained()
        self.parameters = [p.requires_grad_(True) for name, p in by_name(self.visual).items() if name in names]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5)

    def run(self, watch: Watch) -> None:
        """Steps through the whole tower."""
        with watch(GRADIENTS):
            self.optimizer.zero_grad()
            self.task.loss(self.visual(self.task.pixels)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()


class Cut:
    """Ours: the stored input of the last layers, which are all that runs."""

    def __init__(self, task: Task) -> None:
        self.task, self.suffix, self.stored = task, task.suffix(), task.stored(task.tower.halves)
        self.optimizer = AdamW(group_parameters([(self.suffix, 1e-5)], weight_decay=0.01), CLIP_NORM)

    def run(self, watch: Watch) -> None:
        """Steps from the stored cut."""
        for _ in range(STEPS):
            with watch(GRADIENTS):
                self.optimizer.zero_grad()
                self.task.loss(self.suffix(self.stored())).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step(factor=1.0)


def parity(task: Task, plain: Original) -> Iterator[Check]:
    """The largest difference of a gradient between the two ways, as a share of the largest gradient.

    We rejected a measure tensor by tensor: where random weights attend to all places equally, the gradients of query
        and
    key are what is left of sums that cancel, and in RN50's pool the plain way itself is 6e-5 from float64 there.
    """
    expected = _without_key_bias(whole_gradients(task, plain))
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for half, bound in ((False, FP32), (True, FP16)) if task.tower.halves else ((False, FP32),):
        found = _without_key_bias(cut_gradients(task, half))
        worst = max(float((found[name] - gradient).abs().max()) for name, gradient in expected.items())
        yield Check(f"gradients, {'fp16' if half else 'fp32'} store", worst / largest, bound)


def whole_gradients(task: Task, plain: Original) -> dict[str, Tensor]:
    """Gradients of the plain way under the names that the suffix has: a tower that holds them as weights is cut."""
    step = Whole(task, plain)
    task.loss(step.visual(task.pixels)).backward()  # type: ignore[no-untyped-call]
    holder, given = copy.deepcopy(task.tower), by_name(step.visual)
    with torch.no_grad():
        for name, parameter in holder.named_parameters():
            gradient = given[name].grad
            if gradient is not None:
                parameter.copy_(gradient)
    return {name: p.detach() for name, p in copy_last_layers(holder, task.unfreeze).named_parameters()}


def cut_gradients(task: Task, half: bool) -> dict[str, Tensor]:
    """Gradients of ours, from a cut stored in half precision or not."""
    suffix, state = task.suffix(), task.stored(half)()
    task.loss(suffix(state)).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in suffix.named_parameters()}


def _without_key_bias(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """It cannot change the output, so its true gradient is zero; that of the plain way is rounding."""
    kept = {}
    for name, gradient in gradients.items():
        if name.endswith("in_proj_bias"):
            query, _, value = gradient.chunk(3)
            kept[name] = torch.cat([query, value])
        elif not name.endswith("k_proj.bias"):
            kept[name] = gradient
    return kept
