"""Chunked gradients against those of the whole batch at once, in float64; many processes as threads of one."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.rng import seed_torch
from tests.contrastive.pairs import RESNET, Double, batch, symmetric


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def plain(model: Double, pairs: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its gradients by plain backpropagation."""
    model.zero_grad()
    loss = symmetric(
        model.encode_image(pairs.images), model.encode_text(pairs.tokens), model.logit_scale, pairs.caption_ids
    )
    loss.backward()
    return loss.detach(), gradients(model)


def worst(ours: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Largest relative error of a parameter's gradient; parameters without any count as far as they are large."""
    assert ours.keys() == right.keys()
    floor = 1e-3 * max(float(g.norm()) for g in right.values())
    return max(float((ours[k] - right[k]).norm()) / max(float(right[k].norm()), floor) for k in right)


@pytest.mark.parametrize("chunk", [1, 3, 5, 12, 13, 100, None])
@pytest.mark.parametrize("identity", [False, True])
def test_chunks_give_the_gradient_of_the_whole_batch(chunk: int | None, identity: bool) -> None:
    model, pairs = Double(), batch(13)
    pairs = PairBatch(pairs.images, pairs.tokens, None) if identity else pairs
    expected, right = plain(model, pairs)
    loss = contrastive_gradients(model, pairs, symmetric, chunk=chunk)
    assert worst(gradients(model), right) < 1e-10
    assert abs(float(loss - expected)) < 1e-12
    assert not loss.requires_grad


def test_the_whole_loss_once_per_chunk_and_tower_multiplies_the_gradient_of_the_scale() -> None:
    """The original's loop: right for the towers, 2 x chunks too large for the scale. The check above would see it."""
    model, pairs, chunk = Double(), batch(12), 4
    _, right = plain(model, pairs)
    model.zero_grad()
    with torch.no_grad():
        images, texts = model.encode_image(pairs.images), model.encode_text(pairs.tokens)
    for rows in torch.arange(12).split(chunk):
        for encode, inputs, kept in ((model.encode_image, pairs.images, 0), (model.encode_text, pairs.tokens, 1)):
            features = [images.clone(), texts.clone()]
            features[kept][rows] = encode(inputs[rows])
            symmetric(features[0], features[1], model.logit_scale, pairs.caption_ids).backward()
    wrong = gradients(model)
    assert float(wrong["logit_scale"] / right["logit_scale"]) == pytest.approx(2 * 12 / chunk)
    del wrong["logit_scale"], right["logit_scale"]
    assert worst(wrong, right) < 1e-10


def test_both_passes_drop_the_same() -> None:
    model, pairs = Double(dropout=0.5).train(), batch(10)
    with seed_torch(3, "dropout"):  # the first pass, by hand: chunks of images, then of texts
        images = torch.cat([model.encode_image(part) for part in pairs.images.split(4)])
        texts = torch.cat([model.encode_text(part) for part in pairs.tokens.split(4)])
    symmetric(images, texts, model.logit_scale, pairs.caption_ids).backward()
    right = {name: gradient.clone() for name, gradient in gradients(model).items()}
    before = torch.get_rng_state()
    with seed_torch(3, "dropout"):
        contrastive_gradients(model, pairs, symmetric, chunk=4)
    assert worst(gradients(model), right) < 1e-10
    assert torch.equal(before, torch.get_rng_state())


def test_what_the_second_pass_draws_is_not_drawn_twice() -> None:
    """The generator goes on from where the first passes left it, so the next step drops something else."""
    model, pairs = Double(dropout=0.5).train(), batch(4)
    with seed_torch(3, "dropout"):
        first, second = (float(contrastive_gradients(model, pairs, symmetric, chunk=2)) for _ in range(2))
    assert first != second


def test_batch_normalisations_count_each_chunk_once() -> None:
    model, pairs = Double(RESNET).train(), batch(8, size=32)
    contrastive_gradients(model, pairs, symmetric, chunk=4)
    counted = {k: v.clone() for k, v in model.named_buffers()}
    twin = Double(RESNET).train()
    for part in pairs.images.split(4):
        twin.encode_image(part)
    assert any("num_batches_tracked" in key for key in counted)
    for key, value in twin.named_buffers():
        torch.testing.assert_close(counted[key], value, rtol=1e-12, atol=1e-14)


def test_a_frozen_tower_and_a_frozen_scale_stay_without_gradient() -> None:
    model, pairs = Double(), batch(9)
    model.visual.requires_grad_(False)
    model.logit_scale.requires_grad_(False)
    _, right = plain(model, pairs)
    contrastive_gradients(model, pairs, symmetric, chunk=2)
    assert worst(gradients(model), right) < 1e-10


def test_gradients_are_set_not_added_to() -> None:
    model, pairs = Double(), batch(5)
    contrastive_gradients(model, pairs, symmetric, chunk=2)
    once = {name: gradient.clone() for name, gradient in gradients(model).items()}
    contrastive_gradients(model, pairs, symmetric, chunk=2)
    assert all(torch.equal(once[name], gradient) for name, gradient in gradients(model).items())


def test_a_loss_scale_leaves_the_gradient_as_it_is() -> None:
    model, pairs = Double(), batch(7)
    contrastive_gradients(model, pairs, symmetric, chunk=3)
    right = {name: gradient.clone() for name, gradient in gradients(model).items()}
    contrastive_gradients(model, pairs, symmetric, chunk=3, loss_scale=2.0**16)
    assert worst(gradients(model), right) < 1e-10


def test_more_texts_than_images() -> None:
    model, pairs = Double(), batch(5)
    more = PairBatch(pairs.images, batch(8).tokens, None)

    def every_picture_its_words(images: Tensor, texts: Tensor, scale: Tensor, ids: Tensor | None) -> Tensor:
        return (scale.exp() * images @ texts.T).log_softmax(1)[:, ::2].mean()

    every_picture_its_words(
        model.encode_image(more.images), model.encode_text(more.tokens), model.logit_scale, None
    ).backward()
    right = {name: gradient.clone() for name, gradient in gradients(model).items()}
    contrastive_gradients(model, more, every_picture_its_words, chunk=3)
    assert worst(gradients(model), right) < 1e-10


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="chunk"):
        contrastive_gradients(Double(), batch(3), symmetric, chunk=0)


class Threads:
    """A world of threads: each rank a thread with a model of its own."""

    def __init__(self, size: int) -> None:
        self.size, self._meet, self._slots = size, threading.Barrier(size), list[list[Tensor]]([] for _ in range(size))

    def of(self, rank: int) -> ThreadRank:
        return ThreadRank(rank, self.size, self)

    def exchange(self, rank: int, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        self._slots[rank] = [t.detach().clone() for t in tensors]
        self._meet.wait(20)
        all_ = [list(slot) for slot in self._slots]
        self._meet.wait(20)
        return all_


class ThreadRank:
    def __init__(self, rank: int, size: int, world: Threads) -> None:
        self.rank, self.size, self._world = rank, size, world

    def gather(self, rows: Tensor) -> Tensor:
        return torch.cat([slot[0] for slot in self._world.exchange(self.rank, [rows])])

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        everyone = self._world.exchange(self.rank, tensors)
        for i, tensor in enumerate(tensors):
            tensor.copy_(sum(slot[i] for slot in everyone[1:]) + everyone[0][i])

    def barrier(self) -> None:
        self._world.exchange(self.rank, [])


@pytest.mark.parametrize("shards", [(13,), (7, 6), (1, 9, 3), (5, 0, 8), (0, 13)])
def test_processes_with_uneven_and_empty_parts_give_the_gradient_of_the_whole(shards: tuple[int, ...]) -> None:
    pairs = batch(13)
    expected, right = plain(Double(), pairs)
    world, models = Threads(len(shards)), [Double() for _ in shards]
    results: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}

    def work(rank: int, rows: Tensor) -> None:
        model = models[rank]
        assert pairs.caption_ids is not None
        part = PairBatch(pairs.images[rows], pairs.tokens[rows], pairs.caption_ids[rows])
        results[rank] = contrastive_gradients(model, part, symmetric, world=world.of(rank), chunk=4), gradients(model)

    threads = [
        threading.Thread(target=work, args=(rank, rows))
        for rank, rows in enumerate(torch.split(torch.arange(13), list(shards)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results.keys() == set(range(len(shards)))
    for loss, found in results.values():
        assert worst(found, right) < 1e-10
        assert abs(float(loss - expected)) < 1e-12
