"""Every source of pairs: recognised, and the same pairs from each; pictures grouped and divided by content."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.formats import recognise
from clip_fewshot.data.pairs.split import group_captions, split_pairs
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DataError, UsageError
from tests.data.pictures import put
from tests.data.test_shards import archive

CAPTIONS = [
    ["a first text", "a second one, longer"],
    ["the only one"],
    ['he said "no"', "and a third"],
    ["the only one"],
]
ROWS = [(i, caption) for i, captions in enumerate(CAPTIONS) for caption in captions]


def folder(root: Path) -> Path:
    for i, captions in enumerate(CAPTIONS):
        put(root / "deep" / f"{i}.png", i)
        put(root / "texts" / f"{i}.txt", "\n\n".join(captions) + "\r\n")
    return root


def csv(root: Path) -> Path:
    lines = ["title;other;image_path", *(f'"{text.replace(chr(34), 2 * chr(34))}";x;{i}.png' for i, text in ROWS)]
    return put(root / "table.csv", "\n".join(lines))


def hub(root: Path) -> Path:
    lines = ["file_name,text", *(f'{i}.png,"{text.replace(chr(34), 2 * chr(34))}"' for i, text in ROWS)]
    return put(root / "metadata.csv", "\n".join(lines))


def lines(root: Path) -> Path:
    return put(root / "list.txt", "# pairs\n" + "".join(f"photos/{i}.png\t{caption}\n" for i, caption in ROWS))


def shards(root: Path) -> Path:
    for i, captions in enumerate(CAPTIONS):
        archive(root / "s" / f"{i // 2}.tar", {f"{i}.png": i, f"{i}.txt": "\n".join(captions)}, mode="a")
    return root / "s"


@pytest.mark.parametrize(
    ("make", "format"), [(folder, "pairs"), (csv, "csv"), (hub, "csv"), (lines, "captions"), (shards, "shards")]
)
def test_every_source_is_recognised_and_gives_the_same_pairs(
    make: object, format: str, tmp_path: Path, tiny: Backbone
) -> None:
    for i in range(len(CAPTIONS)):
        put(tmp_path / "away" / "photos" / f"{i}.png", i)
    source = make(tmp_path / "away")  # type: ignore[operator]
    if format == "pairs":
        for i in range(len(CAPTIONS)):
            (tmp_path / "away" / "photos" / f"{i}.png").unlink()
    assert recognise(source) == format
    dataset = read_dataset(source)
    oracle = read_dataset(folder(tmp_path / "oracle"))
    assert (dataset.captions, dataset.digests) == (oracle.captions, oracle.digests)
    assert dataset.warnings == ()
    assert dataset.origins is not None
    assert len(set(dataset.origins)) == (len(ROWS) if format != "shards" else len(CAPTIONS))
    here, there = (PairStream(each, tiny, batch=2, seed=0).rows(3) for each in (dataset, oracle))
    assert all(map(np.array_equal, here, there))


def test_origins_are_files_and_lines(tmp_path: Path) -> None:
    for i in range(len(CAPTIONS)):
        put(tmp_path / "a" / "photos" / f"{i}.png", i)
    origins = [read_dataset(source).origins or () for source in (folder(tmp_path / "b"), lines(tmp_path / "a"))]
    assert origins[0][:2] == ("texts/0.txt:1", "texts/0.txt:3")
    assert origins[1][:2] == ("list.txt:2", "list.txt:3")
    subset = read_dataset(tmp_path / "a" / "list.txt").subset(np.array([3, 1]))
    assert subset.origins == ("list.txt:5", "list.txt:3")


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("0.png\ta dog runs home\n1.png\tno dog runs here\n", "captions"),
        ("0.png\tgreat white shark\n1.png\tgreat white shark\n2.png\tgreat white shark\n", "list"),
        ("0.png\tant\n1.png\tbee\n", "list"),
        ("0.png\ta dog runs home\n1.png bee\n", "list"),
        ("0.png a dog runs home\n", "list"),
    ],
)
def test_captions_behind_tabs_are_told_from_labels(text: str, format: str, tmp_path: Path) -> None:
    assert recognise(put(tmp_path / "list.txt", text)) == format


def test_lists_of_captions_name_their_bad_lines(tmp_path: Path) -> None:
    put(tmp_path / "0.png", 0)
    text = "0.png\ta b c\n0.png no tab\n9.png\ta b d\n\t\n0.png\t \n0.png\ta b c\n"
    with pytest.raises(DataError) as caught:
        read_dataset(put(tmp_path / "list.txt", text), format="captions")
    message = str(caught.value)
    assert "list.txt:2: no tab" in message
    assert "list.txt:3: no file 9.png" in message
    assert "list.txt:5: empty caption" in message
    assert "list.txt:1:" not in message


def test_texts_that_belong_to_no_picture_may_share_a_stem(tmp_path: Path) -> None:
    folder(tmp_path)
    for place in ("README.txt", "deep/README.txt"):
        put(tmp_path / place, "about")
    assert len(read_dataset(tmp_path)) == len(ROWS)
    put(tmp_path / "other" / "0.jpg", 7)
    with pytest.raises(DataError, match=r"deep/0.png and other/0.jpg"):
        read_dataset(tmp_path)


SIDED = {
    "names of their own": (
        "train/0.png train/0.txt test/1.png test/1.txt",
        {"test/1.png": "test", "train/0.png": "train"},
    ),
    "the same names": ("train/0.png train/0.txt test/0.png test/0.txt", {"test/0.png": "test", "train/0.png": "train"}),
    "the same names, texts apart": (
        "images/train/0.png labels/train/0.txt images/test/0.png labels/test/0.txt",
        {"images/test/0.png": "test", "images/train/0.png": "train"},
    ),
}


@pytest.mark.parametrize("case", SIDED)
def test_pairs_keep_the_parts_of_their_folders(case: str, tmp_path: Path) -> None:
    paths, sides = SIDED[case]
    for i, path in enumerate(paths.split()):
        put(tmp_path / path, f"a word for {path}" if path.endswith(".txt") else i)
    found = read_dataset(tmp_path)
    assert dict(zip(found.names, found.partition, strict=True)) == sides
    assert found.captions is not None
    for name, caption in zip(found.names, found.captions, strict=True):
        assert caption.split()[-1].replace("labels", "images") == name.replace("png", "txt")


BOXES = {
    "YOLO": "0 0.41 0.49 0.20 0.23",
    "outline": "3 .1 .2 .3 .4 .5 .6",
    "names": "cat 48 240 195 371",
    "commas": "48,240,195,371,cat",
    "KITTI": "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59",
    "DOTA": "1 2 3 4 5 6 7 8 plane 0",
}


@pytest.mark.parametrize("case", BOXES)
def test_boxes_are_no_captions(case: str, tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / "a" / f"{i}.png", i)
        put(tmp_path / "a" / f"{i}.txt", f"{BOXES[case]}\n{BOXES[case]}\n")
        put(tmp_path / "b" / f"{i}.png", i)
        put(tmp_path / "b" / f"{i}.txt", "4 of 10 dogs\n2 cats, 3 birds and 1 cow\n")
    with pytest.raises(DataError, match=r"got boxes: 6 lines of numbers, the first in 0.txt"):
        read_dataset(tmp_path / "a")
    assert len(read_dataset(tmp_path / "b")) == 6


def many(root: Path, count: int, start: int = 0) -> ImageDataset:
    for i in range(start, start + count):
        put(root / f"{i}.png", i)
        put(root / f"{i}.txt", f"one of {i}\nother of {i}")
    return read_dataset(root)


def test_rows_are_grouped_by_content(tmp_path: Path) -> None:
    dataset = many(tmp_path, 3)
    pictures = group_captions(dataset.subset(np.array([4, 0, 5, 2, 1])))
    assert pictures.n == 3
    assert pictures.of_row.tolist() == [0, 1, 0, 2, 1]
    assert pictures.rows.tolist() == [0, 2, 1, 4, 3]
    assert pictures.draw(np.array([0.0, 0.0, 0.999])).tolist() == [0, 1, 3]
    assert pictures.draw(np.array([0.999, 0.5, 0.0])).tolist() == [2, 4, 3]


def test_a_split_divides_pictures_whatever_their_names_and_order(tmp_path: Path) -> None:
    dataset = many(tmp_path / "a", 30)
    train, test = split_pairs(dataset, test=10)
    assert len(set(test.digests)) == 10
    assert len(set(train.digests)) == 20
    assert not set(test.digests) & set(train.digests)
    assert len(train) + len(test) == len(dataset)
    assert set(split_pairs(dataset.subset(np.arange(60)[::-1]), test=10)[1].digests) == set(test.digests)
    assert set(split_pairs(dataset, test=10, seed=1)[1].digests) != set(test.digests)
    larger = split_pairs(many(tmp_path / "a", 30, start=30), test=10)
    assert not set(larger[1].digests) & set(train.digests)  # what was trained on is never tested on later


def test_the_sources_own_partition_is_kept(tmp_path: Path) -> None:
    for i in range(4):
        put(tmp_path / f"{i}.png", i)
    rows = [
        "image,caption,split",
        *(f"{i}.png,text {k},{'test' if i == 2 else 'train'}" for i in range(4) for k in (0, 1)),
    ]
    train, test = split_pairs(read_dataset(put(tmp_path / "t.csv", "\n".join(rows))), test=3)
    assert test.names == ("2.png", "2.png")
    assert len(train) == 6


@pytest.mark.parametrize("test", [0, 4, -1])
def test_a_split_leaves_both_sides_pictures(test: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 to 3 test pictures"):
        split_pairs(many(tmp_path, 4), test=test)


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("CLIP_FEWSHOT_REALDATA"), reason="CLIP_FEWSHOT_REALDATA names no folder")
def test_real_photos_with_five_captions_each(tiny: Backbone) -> None:
    dataset = read_dataset(Path(os.environ["CLIP_FEWSHOT_REALDATA"]) / "flickr8k_1k" / "captions.csv")
    train, test = split_pairs(dataset)
    assert (len(set(train.digests)), len(set(test.digests))) == (900, 100)
    assert (len(train), len(test)) == (4500, 500)
    stream = PairStream(train, tiny, batch=128, seed=0)
    assert stream.steps() == 7
    batches = list(stream.batches(0))
    assert all(batch.images.shape == (128, 3, 16, 16) for batch in batches)
    assert len({image.numpy().tobytes() for batch in batches for image in batch.images}) == 7 * 128
