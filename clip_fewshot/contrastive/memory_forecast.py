"""How much memory a contrastive training takes, known before it is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import Tower
from clip_fewshot.contrastive.activation_memory import list_matrices
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.state import activation_dtype
from clip_fewshot.data.names import number
from clip_fewshot.runtime.units import format_size

LIBRARIES = 512 << 20  # bytes of Python, torch and its kernels
BATCHES = 2  # of pictures: one is used while the next one is made
PIXEL = 4  # bytes of one channel


class Growth(NamedTuple):
    """Bytes that a forward pass leaves for the backward pass: ``fixed``, and those of each pair."""

    fixed: int
    per_pair: int

    def at(self, pairs: int) -> int:
        """Of so many pairs."""
        return self.fixed + pairs * self.per_pair


NO_GROWTH = Growth(0, 0)


class TowerNeeds(NamedTuple):
    """What one tower asks for.

    Attributes:
        trained: bytes of the weights that train, in float32.
        plain: activations that are kept.
        recomputed: the same where blocks keep their input alone and run twice, one at a time.
    """

    trained: int
    plain: Growth
    recomputed: Growth


@dataclass(frozen=True)
class Forecast:
    """Bytes in one process. ``pairs`` are those in a pass; 0: of the state alone."""

    weights: int
    optimizer: int
    gradients: int
    activations: int
    pictures: int
    pairs: int

    @property
    def peak(self) -> int:
        """The most at one moment: all of it. Activations go as gradients come, but a system keeps what it has given."""
        return self.weights + self.optimizer + self.gradients + self.activations + self.pictures + LIBRARIES

    @property
    def total(self) -> str:
        """The peak in words."""
        return format_size(self.peak) + (
            f" with {number(self.pairs, 'pair')} in a pass" if self.pairs else " and activations"
        )

    def __str__(self) -> str:
        sizes = {name: size for name, size in asdict(self).items() if name != "pairs"} | {"libraries": LIBRARIES}
        return ", ".join(f"{name} {format_size(size)}" for name, size in sizes.items() if size) + f": {self.total}"


@dataclass(frozen=True)
class Needs:
    """What a model asks for, from :func:`measure_needs`: forecasts for any options follow without another pass.

    Attributes:
        weights: bytes of the model's weights, and of whatever else stays in memory beside it.
        visual, text: of the towers.
        matrices: bytes of the text tower's that ``text_weights`` halves.
        picture: bytes of one picture as the model takes it.
    """

    weights: int
    visual: TowerNeeds
    text: TowerNeeds
    matrices: int
    picture: int

    def forecast(self, options: ContrastiveOptions, pairs: int) -> Forecast:
        """Of steps on ``pairs`` pairs in this process; of the state alone for 0."""
        saved = self.matrices // 2 if options.text_weights == "bfloat16" else 0
        trained = self.visual.trained + self.text.trained
        moments = trained if options.optimizer == "sgd" else 2 * trained
        optimizer = moments // (2 if options.state_dtype == "bfloat16" else 1) + (trained if options.averaging else 0)
        in_pass = min(pairs, options.chunk or pairs)
        kept = [
            (tower.recomputed if options.checkpoint_gradients else tower.plain).at(in_pass)
            for tower in (self.visual, self.text)
        ]
        whole = in_pass == pairs  # then both towers keep theirs before either goes back
        return Forecast(
            weights=self.weights - saved,
            optimizer=optimizer,
            gradients=trained - saved,
            activations=sum(kept) if whole else max(kept),
            pictures=BATCHES * pairs * self.picture,
            pairs=in_pass,
        )


def measure_state(model: Backbone, beside: int = 0) -> Needs:
    """What the weights of ``model`` ask for when they train, activations left out.

    Args:
        beside: bytes of other models that stay in memory.
    """
    visual, text = (
        TowerNeeds(sum(map(_bytes_of, (p for p in tower.parameters() if p.requires_grad))), NO_GROWTH, NO_GROWTH)
        for tower in (model.visual, model.text)
    )
    matrices = sum(map(_bytes_of, list_matrices(model.text)))
    return Needs(count_bytes(model) + beside, visual, text, matrices, 3 * model.image_size**2 * PIXEL)


def measure_needs(model: Backbone, tokens: Tensor, beside: int = 0) -> Needs:
    """:func:`measure_state`, and activations by a forward pass over one blank picture and the longest text.

    Measured and not worked out from the widths, so that it holds for any two encoders, unfrozen layers and added heads.

    Args:
        model: in evaluation mode; what trains requires a gradient.
        tokens: (n, l) token ids of the texts to come, n >= 1.
        beside: bytes of other models that stay in memory.
    """
    longest = tokens[model.text.ends(tokens).argmax()][None].long().to(model.device)
    blank = torch.zeros((1, 3, model.image_size, model.image_size), device=model.device)
    needs = measure_state(model, beside)
    visual, text = (
        _growth(model, *one)
        for one in ((model.visual, model.encode_image, blank), (model.text, model.encode_text, longest))
    )
    return replace(needs, visual=TowerNeeds(needs.visual.trained, *visual), text=TowerNeeds(needs.text.trained, *text))


def count_bytes(model: nn.Module) -> int:
    """Of all weights and buffers."""
    return sum(map(_bytes_of, (*model.parameters(), *model.buffers())))


def _bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _growth(model: Backbone, tower: Tower, encode: Callable[[Tensor], Tensor], one: Tensor) -> tuple[Growth, Growth]:
    """Activations of plain blocks, and of blocks that run twice."""
    first = _kept(model, tower, encode, one)
    if activation_dtype(model) == torch.float32:
        return Growth(0, first[0]), Growth(0, first[1])
    second = _kept(model, tower, encode, torch.cat([one, one]))  # rounded weights are kept too, once for all pairs
    plain, recomputed = (Growth(max(0, 2 * a - b), b - a) for a, b in zip(first, second, strict=True))
    return plain, recomputed


def _kept(model: Backbone, tower: Tower, encode: Callable[[Tensor], Tensor], inputs: Tensor) -> tuple[int, int]:
    """Bytes that a pass keeps for the way back, weights aside: of plain blocks, and of blocks that run twice."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # held, so that no two have one address
    inside: list[int] = []  # of each block, less its input

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    def total() -> int:
        return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)

    def enter(block: nn.Module, given: tuple[Any, ...]) -> None:
        inside.append(total() + given[0].nbytes)

    def leave(block: nn.Module, given: tuple[Any, ...], found: Any) -> None:
        inside[-1] = max(0, total() - inside[-1])

    hooks = [hook for block in tower.blocks for hook in _watch(block, enter, leave)]
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            features = encode(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    whole = total()
    del features  # not before: its graph holds what was kept
    return whole, whole - sum(inside) + max(inside, default=0)


def _watch(block: nn.Module, enter: Callable[..., None], leave: Callable[..., None]) -> Iterator[Any]:
    yield block.register_forward_pre_hook(enter)
    yield block.register_forward_hook(leave)
