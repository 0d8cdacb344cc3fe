"""Streams of pairs: each picture once an epoch, a function of (seed, epoch, step), the same for any processes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import preprocess
from clip_fewshot.data.pairs.augment import RandomCrop
from clip_fewshot.data.pairs.batch import Identified, PairBatch, caption_ids
from clip_fewshot.data.pairs.captioned import CaptionedStream
from clip_fewshot.data.pairs.loader import LoaderSource
from clip_fewshot.data.pairs.stream import PairStream, prefetch
from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.row_cache import ROWS_FILE
from tests.data.pictures import pixels, put

PICTURES = 11


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Eleven pictures, the first as two identical files; one to four captions each, some of them shared."""
    root = tmp_path_factory.mktemp("pairs")
    lines = ["image,caption"]
    for i in range(PICTURES):
        put(root / f"{i:02d}.png", i)
        lines += [f"{i:02d}.png,caption {k} of {'all' if k == 0 else i}" for k in range(1 + i % 4)]
    put(root / "copy.png", 0)
    return read_dataset(put(root / "t.csv", "\n".join([*lines, "copy.png,of a copy"])))


@pytest.fixture
def stream(dataset: ImageDataset, tiny: Backbone) -> PairStream:
    return PairStream(dataset, tiny, batch=4, seed=5)


def equal(a: PairBatch, b: PairBatch) -> bool:
    assert a.caption_ids is not None
    assert b.caption_ids is not None
    pairs = ((a.images, b.images), (a.tokens, b.tokens), (a.caption_ids, b.caption_ids))
    return all(torch.equal(left, right) and left.dtype == right.dtype for left, right in pairs)


def joined(batches: Sequence[PairBatch]) -> PairBatch:
    ids = [batch.caption_ids for batch in batches if batch.caption_ids is not None]
    return PairBatch(torch.cat([b.images for b in batches]), torch.cat([b.tokens for b in batches]), torch.cat(ids))


def test_a_batch_is_pictures_and_captions_that_belong_together(
    stream: PairStream, dataset: ImageDataset, tiny: Backbone
) -> None:
    batches = list(stream.batches(epoch=3))
    assert len(batches) == stream.steps() == 2
    for batch, rows in zip(batches, stream.rows(3), strict=True):
        chosen = dataset.subset(rows)
        expected = [preprocess(chosen.open(i), tiny.image_size) for i in range(4)]
        assert np.array_equal(batch.images.numpy(), np.stack(expected))
        assert torch.equal(batch.tokens, tiny.tokenize(list(chosen.captions or ())))
        assert batch.caption_ids is not None
        assert torch.equal(batch.caption_ids, caption_ids(batch.tokens))
        assert batch.images.dtype == torch.float32
        assert batch.tokens.dtype == batch.caption_ids.dtype == torch.int64


def test_a_picture_comes_once_an_epoch_and_its_captions_equally_often(dataset: ImageDataset, tiny: Backbone) -> None:
    stream = PairStream(dataset, tiny, batch=4, seed=0, drop_last=False)
    epochs = [np.concatenate(stream.rows(epoch)) for epoch in range(300)]
    for rows in epochs:
        assert sorted(dataset.digests[row] for row in rows) == sorted(set(dataset.digests))
    drawn = Counter(np.concatenate(epochs).tolist())
    per_picture = Counter(dataset.digests)
    for row, digest in enumerate(dataset.digests):
        expected = 300 / per_picture[digest]
        assert abs(drawn[row] - expected) < 5 * np.sqrt(expected)
    assert len({tuple(rows) for rows in epochs}) == 300


def test_order_and_captions_follow_from_the_seed_and_the_epoch(
    dataset: ImageDataset, tiny: Backbone, stream: PairStream
) -> None:
    again = PairStream(dataset, tiny, batch=4, seed=5)
    assert all(map(equal, stream.batches(2), again.batches(2)))
    other = PairStream(dataset, tiny, batch=4, seed=6)
    for left, right in ((stream.rows(2), other.rows(2)), (stream.rows(2), stream.rows(3))):
        pictures = [[dataset.digests[row] for row in np.concatenate(rows)] for rows in (left, right)]
        assert pictures[0] != pictures[1]
        assert set(np.concatenate(left)) != set(np.concatenate(right))


@pytest.mark.parametrize("augment", [None, 0.5])
@pytest.mark.parametrize("drop_last", [True, False])
def test_resuming_at_a_step_gives_what_would_have_come(
    dataset: ImageDataset, tiny: Backbone, augment: float | None, drop_last: bool
) -> None:
    stream = PairStream(dataset, tiny, batch=4, seed=1, drop_last=drop_last, augment=augment)
    whole = list(stream.batches(7))
    assert [len(batch) for batch in whole] == ([4, 4] if drop_last else [4, 4, 3])
    for start in range(stream.steps() + 1):
        rest = list(PairStream(dataset, tiny, batch=4, seed=1, drop_last=drop_last, augment=augment).batches(7, start))
        assert len(rest) == len(whole) - start
        assert all(map(equal, whole[start:], rest))


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("augment", [None, 0.5])
def test_processes_share_the_same_global_batch(
    dataset: ImageDataset, tiny: Backbone, world: int, augment: float | None
) -> None:
    def run(rank: int, world: int, start: int = 0) -> list[PairBatch]:
        stream = PairStream(dataset, tiny, batch=7, seed=2, rank=rank, world=world, drop_last=False, augment=augment)
        assert stream.steps() == 2
        return list(stream.batches(1, start))

    alone, shares = run(0, 1), [run(rank, world) for rank in range(world)]
    for step in range(2):
        sizes = [len(share[step]) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert equal(joined([share[step] for share in shares]), alone[step])
    if world == 5:  # the last four pictures of eleven: one process has none, and still a batch
        assert len(shares[4][1]) == 0
        assert shares[4][1].images.shape == (0, 3, tiny.image_size, tiny.image_size)
        assert shares[4][1].tokens.shape == (0, 77)
        assert equal(run(4, 5, start=1)[0], shares[4][1])


def test_caption_ids_are_equal_where_the_model_cannot_tell() -> None:
    tokens = torch.tensor([[1, 2, 0], [1, 3, 0], [1, 2, 0]], dtype=torch.int32)
    ids = caption_ids(tokens)
    assert ids[0] == ids[2] != ids[1]
    assert torch.equal(ids, caption_ids(tokens.long()))
    assert int(ids.min()) >= 0
    assert caption_ids(tokens[:0]).shape == (0,)


def test_captions_that_differ_by_case_have_one_id(dataset: ImageDataset, tiny: Backbone) -> None:
    captions = tuple("A  Dog" if i % 2 else "a dog" for i in range(len(dataset)))
    batch = next(PairStream(replace(dataset, captions=captions), tiny, batch=11, seed=0).batches(0))
    assert batch.caption_ids is not None
    assert len(set(batch.caption_ids.tolist())) == 1


def test_long_captions_stop_before_training_with_line_and_count(tmp_path: Path, tiny: Backbone) -> None:
    long = "word " * 80
    lines = ["image,caption", "0.png,short", f"1.png,{long}", f"2.png,two {long}", "2.png,fine"]
    for i in range(3):
        put(tmp_path / f"{i}.png", i)
    dataset = read_dataset(put(tmp_path / "t.csv", "\n".join(lines)))
    with pytest.raises(DataError) as caught:
        PairStream(dataset, tiny, batch=2, seed=0)
    message = str(caught.value)
    assert "at most 77 tokens" in message
    assert "2 with more" in message
    assert "t.csv:3: 82 in 'word" in message
    assert "t.csv:4: 83 in 'two" in message
    assert "(`truncate`)" in message
    stream = PairStream(dataset, tiny, batch=3, seed=0, truncate=True)
    batch = next(stream.batches(0))
    end = tiny.tokenize("x")[0].max()
    assert (batch.tokens == end).sum(dim=1).tolist() == [1, 1, 1]
    assert batch.tokens[batch.tokens[:, -1] != 0, -1].tolist() == [int(end)] * 2


def test_pictures_are_decoded_once_and_crops_never_kept(
    dataset: ImageDataset, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path))
    opened: Counter[str] = Counter()
    original = ImageDataset.opened

    def counting(images: ImageDataset, i: int) -> AbstractContextManager[Image.Image]:
        opened[images.digests[i]] += 1
        return original(images, i)

    monkeypatch.setattr(ImageDataset, "opened", counting)
    stream = PairStream(dataset, tiny, batch=4, seed=0, drop_last=False, augment=0.5)
    first = joined(list(stream.batches(0)))
    assert set(opened.values()) == {1}
    assert len(opened) == PICTURES
    kept = {path: path.read_bytes() for path in tmp_path.rglob(ROWS_FILE)}
    second = joined(list(stream.batches(1)))
    assert set(opened.values()) == {1}
    assert {path: path.read_bytes() for path in tmp_path.rglob(ROWS_FILE)} == kept
    assert not torch.equal(first.images.sort(0).values, second.images.sort(0).values)
    held = RandomCrop(0.5, tiny.image_size).held
    assert [len(content) for content in kept.values()] == [PICTURES * held * held * 3]


def test_a_crop_of_everything_is_the_plain_picture(dataset: ImageDataset, tiny: Backbone) -> None:
    plain, whole = (PairStream(dataset, tiny, batch=4, seed=0, augment=augment) for augment in (None, 1.0))
    assert all(map(equal, plain.batches(0), whole.batches(0)))


def test_boxes_lie_inside_with_the_share_of_the_area_that_was_asked_for() -> None:
    crop = RandomCrop(0.25, 24)
    assert crop.held == 48
    boxes = crop.boxes(np.random.default_rng(0).random((4000, 3)))
    left, top, right, bottom = boxes.T
    assert boxes.min() >= 0
    assert boxes.max() <= 48
    assert np.allclose(right - left, bottom - top)
    shares = ((right - left) / 48) ** 2
    assert np.allclose(np.quantile(shares, [0, 0.5, 1]), [0.25, 0.625, 1], atol=0.02)
    assert np.allclose(crop.boxes(np.zeros((1, 3))), [[0, 0, 24, 24]])
    assert abs(((left + right) / 2).mean() - 24) < 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"batch": 12},
        {"batch": 2, "world": 3},
        {"rank": 1},
        {"rank": -1},
        {"augment": 0.0},
        {"augment": 2},
    ],
)
def test_wrong_arguments_are_refused_at_once(wrong: dict[str, float], dataset: ImageDataset, tiny: Backbone) -> None:
    with pytest.raises(UsageError):
        PairStream(dataset, tiny, **{"batch": 4, "seed": 0, **wrong})  # type: ignore[arg-type]


def test_no_captions_and_no_such_step_are_refused(stream: PairStream, digits: ImageDataset, tiny: Backbone) -> None:
    with pytest.raises(DataError, match="a caption per row"):
        PairStream(digits, tiny, batch=4, seed=0)
    for start in (-1, 3):
        with pytest.raises(UsageError, match="step"):
            stream.batches(0, start)


def test_a_file_that_changed_stops_the_training_that_waits_for_it(
    tmp_path: Path, tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path / "cache"))
    for i in range(3):
        put(tmp_path / "p" / f"{i}.png", i)
        put(tmp_path / "p" / f"{i}.txt", f"text {i}")
    stream = PairStream(read_dataset(tmp_path / "p"), tiny, batch=1, seed=0)
    put(tmp_path / "p" / "1.png", 9)
    with pytest.raises(DataError, match=r"1\.png"):
        list(stream.batches(0))


def test_an_identity_names_what_differs_and_nothing_else(dataset: ImageDataset, tiny: Backbone) -> None:
    def differing(other: ImageDataset, **changes: Any) -> set[str]:
        now = PairStream(other, tiny, **({"batch": 4, "seed": 5} | changes)).identity()
        return {key for key in began if began[key] != now[key]}

    began = PairStream(dataset, tiny, batch=4, seed=5).identity()
    captions = dataset.captions or ()
    assert differing(dataset, rank=1, world=3, truncate=True) == set()  # no caption was cut
    assert differing(replace(dataset, name="elsewhere", captions=tuple(map(str.upper, captions)))) == set()
    assert differing(dataset, batch=5) == {"batch"}
    assert differing(dataset, seed=6) == {"seed"}
    assert differing(dataset, augment=0.5) == {"augment"}
    assert differing(replace(dataset, captions=("another", *captions[1:]))) == {"captions"}
    assert differing(replace(dataset, captions=(captions[2], captions[1], captions[0], *captions[3:]))) == {"captions"}
    assert differing(replace(dataset, digests=("0" * 64, *dataset.digests[1:]))) == {"pictures"}
    assert differing(dataset.subset(np.arange(len(dataset))[::-1])) == {"pictures", "captions"}  # other batches come


def test_labelled_pictures_are_told_by_their_classes(digits: ImageDataset, tiny: Backbone) -> None:
    some = digits.subset(np.arange(12))
    began = CaptionedStream(some, tiny, batch=4, seed=5).identity()
    later = CaptionedStream(some, tiny, batch=4, seed=6, shared="caption", world=2).identity()
    assert {key for key in began if began[key] != later[key]} == {"seed", "shared"}
    swapped = replace(some, labels=some.required_labels()[::-1].copy())
    other = CaptionedStream(swapped, tiny, batch=4, seed=5).identity()
    assert {key for key in began if began[key] != other[key]} == {"classes"}
    assert not isinstance(LoaderSource([], tiny), Identified)


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(("ahead", "decode", "ThreadPool"))}


def test_one_item_is_made_while_the_one_before_is_used() -> None:
    made: list[int] = []
    third = threading.Event()

    def items() -> Generator[int, None, None]:
        for i in range(5):
            made.append(i)
            if i == 2:
                third.set()
            yield i

    ready = prefetch(items())
    assert made == []
    assert next(ready) == 0
    assert next(ready) == 1
    assert third.wait(10)  # made although nobody has asked for it
    time.sleep(0.01)
    assert made == [0, 1, 2]  # and no further
    assert list(ready) == [2, 3, 4]


def test_no_thread_outlives_its_reader(stream: PairStream) -> None:
    before = threads()
    batches = stream.batches(0)
    next(batches)
    assert threads() > before
    batches.close()  # type: ignore[attr-defined]
    assert threads() == before


class Pairs(Dataset[tuple[Tensor, str]]):
    """Twelve pictures with noise of torch's, and their texts."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> tuple[Tensor, str]:
        return torch.full((3, 16, 16), float(i)) + torch.rand(()) / 2, f"text {i % 6}"


LOADERS = {
    "shuffled": lambda: DataLoader(Pairs(), 3, shuffle=True),
    "own generator": lambda: DataLoader(Pairs(), 3, shuffle=True, generator=torch.Generator().manual_seed(1)),
    "a share of it": lambda: DataLoader(Pairs(), 3, sampler=DistributedSampler(Pairs(), 2, 1)),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_gives_the_same_again_and_from_any_step(kind: str, tiny: Backbone) -> None:
    source = LoaderSource(LOADERS[kind](), tiny, seed=4)
    whole = list(source.batches(2))
    assert len(whole) == source.steps()
    list(source.batches(5)), torch.rand(3)
    assert all(map(equal, whole, source.batches(2)))
    assert all(map(equal, whole[1:], LoaderSource(LOADERS[kind](), tiny, seed=4).batches(2, start=1)))
    assert not torch.equal(joined(whole).images.floor(), joined(list(source.batches(3))).images.floor())
    for batch in whole:
        texts = [f"text {int(image.min()) % 6}" for image in batch.images]
        assert torch.equal(batch.tokens, tiny.tokenize(texts))


def test_a_loader_leaves_the_callers_generator_alone(tiny: Backbone) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(LoaderSource(DataLoader(Pairs(), 3, shuffle=True), tiny).batches(0))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow  # a new process imports torch
def test_a_loader_with_workers_is_a_function_of_the_epoch_too(tiny: Backbone) -> None:
    source = LoaderSource(DataLoader(Pairs(), 4, shuffle=True, num_workers=1, multiprocessing_context="spawn"), tiny)
    first, again = next(source.batches(1)), next(source.batches(1))
    assert equal(first, again)


def test_pictures_and_token_ids_are_taken_too(tiny: Backbone) -> None:
    pictures = [Image.fromarray(pixels(i)) for i in range(2)]
    tokens = tiny.tokenize(["one", "two"])
    (batch,) = LoaderSource([(pictures, tokens.int())], tiny).batches(0)
    assert torch.equal(batch.images, torch.stack([tiny.preprocess(picture) for picture in pictures]))
    assert torch.equal(batch.tokens, tokens)


IMAGES, TEXTS = torch.zeros(2, 3, 16, 16), ["a", "b"]
BAD_ITEMS: dict[str, tuple[object, str]] = {
    "no pair": (IMAGES, "got Tensor"),
    "three": ((IMAGES, TEXTS, TEXTS), "tuple of 3"),
    "bytes": ((IMAGES.to(torch.uint8), TEXTS), r"torch.uint8 \(2, 3, 16, 16\)"),
    "flat": ((IMAGES[0], TEXTS), "floats or PIL"),
    "one text": ((IMAGES, "ab"), "texts as strings"),
    "floats": ((IMAGES, torch.zeros(2, 77)), "token ids"),
    "fewer": ((IMAGES, ["a"]), "2 images, 1 text"),
    "long": ((IMAGES, ["a", "word " * 80]), "batch 0, text 1: expected at most 77 tokens, got 82"),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_items_that_are_no_pairs_are_named(case: str, tiny: Backbone) -> None:
    item, message = BAD_ITEMS[case]
    with pytest.raises(DataError, match=message) as caught:
        list(LoaderSource([item], tiny).batches(0))
    assert "batch 0" in str(caught.value)


def test_loaders_that_cannot_be_read_again_are_refused(tiny: Backbone) -> None:
    class Endless:
        def __iter__(self) -> Iterator[object]:
            while True:
                yield IMAGES, TEXTS

    with pytest.raises(UsageError, match="an iterator"):
        LoaderSource(iter([(IMAGES, TEXTS)]), tiny)
    with pytest.raises(UsageError, match="steps="):
        LoaderSource(Endless(), tiny)
    assert len(list(islice(LoaderSource(Endless(), tiny, steps=3).batches(0), 9))) == 3
    with pytest.raises(DataError, match="expected 2 batches, got 1 in epoch 4"):
        list(LoaderSource([(IMAGES, TEXTS)], tiny, steps=2).batches(4))
