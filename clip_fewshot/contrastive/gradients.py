"""The exact gradient of a loss over a batch of any size, in bounded memory, on one process or many.

A contrastive loss needs all features of the batch at once but not all activations. So: the features of every chunk
without a graph; the loss on all of them, of all processes; then each chunk once more, with a graph, and the gradient of
the loss at its features sent through it (Luyu Gao, Yunyi Zhang, Jiawei Han, Jamie Callan, "Scaling Deep Contrastive
Learning Batch Size under Memory Limited Setup", 2021, section 3). Summing the losses of chunks instead is another loss,
in which a picture meets the captions of its own chunk only; and running the whole loss once for each chunk and tower
adds the gradient of the logit scale up 2 x chunks times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from clip_fewshot.contrastive.distributed.world import SingleProcess, World
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.errors import UsageError

# (image features (n, d), text features (m, d), logarithm of the logit scale, caption ids (n,) or None) -> loss over the
# pairs of all processes. Features are not normalised; m is n unless the batches say otherwise.
Objective = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]


class HasModules(Protocol):
    """Anything made of modules."""

    def modules(self) -> Iterator[nn.Module]:
        """All modules of the model."""
        ...


class PairModel(HasModules, Protocol):
    """What contrastive training needs of a model; a Backbone is one."""

    logit_scale: nn.Parameter

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        ...

    @property
    def text(self) -> nn.Module:
        """The text tower."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, d), not normalised."""
        ...

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(b, l) token ids -> (b, d), not normalised."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All parameters, of which some may be frozen."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...


def contrastive_gradients(
    model: PairModel,
    batch: PairBatch,
    objective: Objective,
    *,
    world: World = SingleProcess(),  # noqa: B008 - immutable
    chunk: int | None = None,
    loss_scale: float = 1.0,
) -> Tensor:
    """Set ``.grad`` of every trained parameter to the gradient of ``objective`` over the batches of all processes.

    Where the model draws (dropout), the second pass over a chunk draws what the first drew. Batch normalisations see
    one chunk of one process at a time and count it once, so a model that has them in training mode has another
    gradient for another ``chunk``; all others have the same to rounding. A trained parameter that no feature depends on
    gets zeros. Parameters of ``objective``'s own are given their gradient too; the caller empties it before.

    Args:
        world: the processes; each brings its part of the batch, of any length.
        chunk: rows of images, and of texts, in one pass with a graph, >= 1; None: all at once, in a single pass.
        loss_scale: factor on the gradients inside the towers, taken out again at the end: float16 activations lose
            gradients under 6e-8. Too large a one gives gradients that are not finite.

    Returns:
        scalar, the loss over the whole batch, without graph; the same on all processes.

    Raises:
        UsageError: a chunk under 1, or no pair on any process.
    """
    if chunk is not None and chunk < 1:
        raise UsageError(expected="chunks of 1 pair or more", got=f"{chunk}", fix="change chunk", where="chunk")
    towers = [p for p in model.parameters() if p.requires_grad and p is not model.logit_scale]
    for parameter in (*towers, model.logit_scale):
        parameter.grad = None
    images = _Encoded(model, model.encode_image, batch.images, chunk)
    texts = _Encoded(model, model.encode_text, batch.tokens, chunk)
    scale = model.logit_scale.detach().clone().requires_grad_(model.logit_scale.requires_grad)
    ids = None if batch.caption_ids is None else world.gather(batch.caption_ids.to(images.leaf.device))
    with torch.enable_grad():
        loss = objective(_everyone(images.leaf, world), _everyone(texts.leaf, world), scale, ids)
        loss.backward()  # type: ignore[no-untyped-call]
        images.backward(loss_scale)
        texts.backward(loss_scale)
    for parameter in towers:  # a process without rows has none of its own, and the others would wait for it
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    gradients = [p.grad for p in towers if p.grad is not None]
    world.sum_(gradients)
    if loss_scale != 1:
        torch._foreach_div_(gradients, loss_scale)
    # Every process has computed the whole loss, so this gradient is whole already: summed, it would be too large.
    model.logit_scale.grad = scale.grad
    return loss.detach()


@torch.no_grad()
def encode_in_chunks(
    model: PairModel, encode: Callable[[Tensor], Tensor], inputs: Tensor, chunk: int | None = None
) -> Tensor:
    """(n, ...) inputs, n may be 0 -> (n, d) features without graph, ``chunk`` rows at a time."""
    if len(inputs) == 0:  # the width of the features is known only by making one
        with preserve_buffers(model):
            return encode(inputs.new_zeros((1, *inputs.shape[1:])))[:0]
    return torch.cat([encode(part) for part in torch.split(inputs, chunk or len(inputs))])


class _Encoded:
    """Features of one tower: a leaf for the loss, and the way back from its gradient into the tower."""

    def __init__(self, model: PairModel, encode: Callable[[Tensor], Tensor], inputs: Tensor, chunk: int | None) -> None:
        self._encode, self._device = encode, model.device
        self._parts = torch.split(inputs, chunk or max(1, len(inputs)))
        self._whole: Tensor | None = None
        self._draws: list[_Draws] = []
        if len(inputs) == 0:
            features = encode_in_chunks(model, encode, inputs)
        elif len(self._parts) == 1:
            self._whole = features = encode(inputs)
        else:
            with torch.no_grad(), preserve_buffers(model):
                features = torch.cat([self._first(part) for part in self._parts])
        self.leaf = features.detach().requires_grad_()

    def _first(self, part: Tensor) -> Tensor:
        self._draws.append(_Draws(self._device))
        return self._encode(part)

    def backward(self, loss_scale: float) -> None:
        """Send the leaf's gradient, times ``loss_scale``, through the tower."""
        if self.leaf.grad is None or len(self.leaf) == 0:
            return
        gradient = self.leaf.grad if loss_scale == 1 else self.leaf.grad * loss_scale
        if self._whole is not None:
            _send(self._whole, gradient)
            return
        for part, rows, draws in zip(self._parts, torch.split(gradient, len(self._parts[0])), self._draws, strict=True):
            with draws.replay():
                features = self._encode(part)
            _send(features, rows)


class _Draws:
    """Where torch's generators stand, to draw the same once more."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._state = self._now()

    def _now(self) -> tuple[Tensor, Tensor | None]:
        return torch.get_rng_state(), torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None

    def _set(self, state: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], self._device)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Run a block from where the generators stood, and put them back where they are."""
        now = self._now()
        self._set(self._state)
        try:
            yield
        finally:
            self._set(now)


@contextmanager
def preserve_buffers(model: HasModules) -> Iterator[None]:
    """Run a block on copies of the model's buffers: batch normalisations that it passes through count nothing.

    Copies and not values put back after it: what a graph has saved of a buffer must not be written to.
    """
    held = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    for module, buffers in held:
        module._buffers.update({key: value if value is None else value.clone() for key, value in buffers.items()})
    try:
        yield
    finally:
        for module, buffers in held:
            module._buffers.update(buffers)


def _send(features: Tensor, gradient: Tensor) -> None:
    if features.requires_grad:  # not where the whole tower is frozen
        features.backward(gradient)  # type: ignore[no-untyped-call]


def _everyone(leaf: Tensor, world: World) -> Tensor:
    """(n_r, d) of this process -> (n, d) of all; the gradient reaches this one's rows."""
    if world.size == 1:
        return leaf
    counts = world.gather(torch.tensor([len(leaf)], device=leaf.device))
    start = int(counts[: world.rank].sum())
    rows = world.gather(leaf)
    return torch.cat([rows[:start], leaf, rows[start + len(leaf) :]])
