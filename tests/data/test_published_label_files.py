"""Label files as people publish them: each is built small, read without options, and read again with a mistake in it.

A set that cannot be read right is refused with the reason. What must never happen is a wrong class without a word, so
each case is also tried with other names of its columns or keys, and with one broken row: right, or refused.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import clip_fewshot as cf
from clip_fewshot.data.formats import list_source
from tests.data.pictures import picture_bytes, put

Truth = dict[str, str]  # name of a picture file -> its class


class Published(NamedTuple):
    """A set as it lies on disk.

    Attributes:
        source: what is passed to ``read_dataset``.
        truth: what it says.
        labels: the file with the labels, which is changed and broken; None for a tree of folders.
        test: names of the pictures on its test side, where it has one.
        options: of ``read_dataset``, beside the source.
    """

    source: Path
    truth: Truth
    labels: Path | None = None
    test: frozenset[str] = frozenset()
    options: Mapping[str, Any] = {}


def pictures(root: Path, paths: list[str]) -> None:
    for i, path in enumerate(paths):
        suffix = Path(path).suffix.lower()
        put(root / path, picture_bytes(1000 * len(root.parts) + i, "PNG" if suffix == ".png" else "JPEG"))


def table(path: Path, *rows: str) -> Path:
    return put(path, "\n".join(rows) + "\n")


def dump(path: Path, content: object) -> Path:
    return put(path, json.dumps(content))


NAMES = ("boxer", "pug", "boxer", "beagle", "pug", "beagle")


def kaggle_ids(root: Path) -> Published:
    ids = [f"00{i}b2f6ca" for i in range(6)]
    pictures(root, [f"train/{i}.jpg" for i in ids] + ["test/ffff.jpg"])
    labels = table(root / "labels.csv", "id,breed", *(f"{i},{name}" for i, name in zip(ids, NAMES, strict=True)))
    return Published(labels, {f"{i}.jpg": name for i, name in zip(ids, NAMES, strict=True)}, labels)


def keras_frame(root: Path) -> Published:
    pictures(root, [f"images/{i}.png" for i in range(6)])
    labels = table(root / "train.csv", "filename,class", *(f"{i}.png,{name}" for i, name in enumerate(NAMES)))
    return Published(labels, {f"{i}.png": name for i, name in enumerate(NAMES)}, labels)


def hugging_face_csv(root: Path) -> Published:
    truth: Truth = {}
    pictures(root, [f"{'train' if i < 4 else 'test'}/{i}.png" for i in range(6)])
    for side, numbers in (("train", range(4)), ("test", range(4, 6))):
        labels = table(root / side / "metadata.csv", "file_name,label", *(f"{i}.png,{NAMES[i]}" for i in numbers))
        truth |= {f"{i}.png": NAMES[i] for i in numbers}
    return Published(root, truth, labels, frozenset({"4.png", "5.png"}))


def hugging_face_lines(root: Path) -> Published:
    pictures(root, [f"{i}.png" for i in range(6)])
    lines = [json.dumps({"file_name": f"{i}.png", "label": name, "width": 32}) for i, name in enumerate(NAMES)]
    return Published(root, {f"{i}.png": name for i, name in enumerate(NAMES)}, table(root / "metadata.jsonl", *lines))


def dassl(root: Path) -> Published:
    pictures(root, [f"images/{i}.jpg" for i in range(6)])
    numbers = {name: n for n, name in enumerate(("pug", "boxer", "beagle"))}
    items = [[f"{i}.jpg", numbers[name], name] for i, name in enumerate(NAMES)]
    labels = dump(root / "split_zhou.json", {"train": items[:3], "val": items[3:4], "test": items[4:]})
    return Published(labels, {f"{i}.jpg": n for i, n in enumerate(NAMES)}, labels, frozenset({"4.jpg", "5.jpg"}))


def cross_modal(root: Path) -> Published:
    pictures(root, [f"images/{i}.jpg" for i in range(6)])
    numbers = {name: n for n, name in enumerate(("pug", "boxer", "beagle"))}
    items = [{"impath": f"images/{i}.jpg", "label": numbers[n], "classname": n} for i, n in enumerate(NAMES)]
    labels = dump(root / "shot_2-seed_1.json", {"train": items[:4], "val": items[4:]})
    return Published(labels, {f"{i}.jpg": name for i, name in enumerate(NAMES)}, labels)


def coco(root: Path) -> Published:
    pictures(root, [f"images/{i}.jpg" for i in range(6)])
    numbers = {name: n for n, name in enumerate(("pug", "boxer", "beagle"), start=10)}
    images = [{"id": 100 + i, "file_name": f"{i}.jpg", "width": 32, "height": 24} for i in range(6)]
    annotations = [{"id": i, "image_id": 100 + i, "category_id": numbers[name]} for i, name in enumerate(NAMES)]
    categories = [{"id": n, "name": name, "supercategory": "dog"} for name, n in numbers.items()]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    labels = dump(root / "annotations.json", content)
    return Published(labels, {f"{i}.jpg": name for i, name in enumerate(NAMES)}, labels)


def cub(root: Path) -> Published:
    folders = {name: f"00{n}.{name}" for n, name in enumerate(("beagle", "boxer", "pug"), start=1)}
    paths = sorted(f"{folders[name]}/{name}_{i:04d}.jpg" for i, name in enumerate(NAMES))
    pictures(root / "images", paths)
    table(root / "images.txt", *(f"{n} {path}" for n, path in enumerate(paths, start=1)))
    numbers = {folder: n for n, folder in enumerate(folders.values(), start=1)}
    table(root / "classes.txt", *(f"{n} {folder}" for folder, n in numbers.items()))
    table(root / "train_test_split.txt", *(f"{n} {n % 2}" for n in range(1, 7)))
    table(root / "bounding_boxes.txt", *(f"{n} 60.0 27.0 325.0 304.0" for n in range(1, 7)))
    rows = [f"{n} {numbers[path.split('/')[0]]}" for n, path in enumerate(paths, start=1)]
    labels = table(root / "image_class_labels.txt", *rows)
    names = [Path(path).name for path in paths]
    truth = {Path(path).name: path.split("/")[0] for path in paths}
    return Published(root / "images.txt", truth, labels, frozenset(names[1::2]))


def food_101(root: Path) -> Published:
    paths = [f"{name}/100{i}" for i, name in enumerate(NAMES)]
    pictures(root / "images", [f"{path}.jpg" for path in paths])
    labels, test = table(root / "meta" / "train.txt", *paths[:4]), table(root / "meta" / "test.txt", *paths[4:])
    truth = {f"100{i}.jpg": name for i, name in enumerate(NAMES)}
    return Published(labels, truth, labels, frozenset({"1004.jpg", "1005.jpg"}), {"test": test})


def food_101_json(root: Path) -> Published:
    pictures(root / "images", [f"{name}/100{i}.jpg" for i, name in enumerate(NAMES)])
    lists = {name: [f"{name}/100{i}" for i, n in enumerate(NAMES) if n == name] for name in dict.fromkeys(NAMES)}
    labels = dump(root / "meta" / "train.json", lists)
    return Published(labels, {f"100{i}.jpg": name for i, name in enumerate(NAMES)}, labels)


def dtd(root: Path) -> Published:
    paths = [f"{name}/{name}_000{i}.jpg" for i, name in enumerate(NAMES)]
    pictures(root / "images", paths)
    return Published(
        table(root / "labels" / "train1.txt", *paths),
        {Path(path).name: name for path, name in zip(paths, NAMES, strict=True)},
        root / "labels" / "train1.txt",
    )


def celeba(root: Path) -> Published:
    pictures(root, [f"img_align_celeba/00000{i}.jpg" for i in range(1, 7)])
    rows = [f"00000{i}.jpg,{max(0, i - 4)},{name}" for i, name in enumerate(NAMES, start=1)]
    labels = table(root / "people.csv", "image_id,partition,label", *rows)
    truth = {f"00000{i}.jpg": name for i, name in enumerate(NAMES, start=1)}
    return Published(labels, truth, labels, frozenset({"000006.jpg"}))


def places(root: Path) -> Published:
    paths = [f"{name[0]}/{name}/0000000{i}.jpg" for i, name in enumerate(NAMES)]
    pictures(root, paths)
    return Published(root, {Path(path).name: path.split("/")[1] for path in paths})


def places_list(root: Path) -> Published:
    paths = [f"/{name[0]}/{name}/0000000{i}.jpg" for i, name in enumerate(NAMES)]
    pictures(root / "data_large", [path[1:] for path in paths])
    labels = table(root / "places365_train.txt", *(f"{path} {path.split('/')[2]}" for path in paths))
    return Published(labels, {Path(path).name: path.split("/")[2] for path in paths}, labels)


def omniglot(root: Path) -> Published:
    paths = [f"{alphabet}/character0{n}/{i}_{n}.png" for i, alphabet in enumerate(("Greek", "Latin")) for n in (1, 2)]
    pictures(root, paths)
    truth = {Path(path).name: str(Path(path).parent) for path in paths}
    return Published(root, truth, options={"format": "leaves"})


def fifty_one(root: Path) -> Published:
    pictures(root / "data", [f"{i:06d}.jpg" for i in range(6)])
    classes = ["pug", "boxer", "beagle"]
    keys = {f"{i:06d}": classes.index(name) for i, name in enumerate(NAMES)}
    labels = dump(root / "labels.json", {"classes": classes, "labels": keys})
    return Published(labels, {f"{i:06d}.jpg": name for i, name in enumerate(NAMES)}, labels)


def image_net(root: Path) -> Published:
    synsets = {"boxer": "n02108089", "pug": "n02110958", "beagle": "n02088364"}
    paths = [f"train/{synsets[name]}/{synsets[name]}_{i}.JPEG" for i, name in enumerate(NAMES)]
    pictures(root, paths)
    words = {"boxer": "boxer", "pug": "pug, pug-dog", "beagle": "beagle"}
    names = table(root / "LOC_synset_mapping.txt", *(f"{synsets[name]} {word}" for name, word in words.items()))
    return Published(root, {Path(path).name: name for path, name in zip(paths, NAMES, strict=True)}, names)


def letters(root: Path) -> Published:
    paths = [f"{name}/{i}.png" for i, name in enumerate(("A", "a", "B", "b"))]
    pictures(root, paths)
    return Published(root, {Path(path).name: path[0] for path in paths})


def birds(root: Path) -> Published:
    pictures(root, [f"{'test' if i > 3 else 'train'}/{name}/{i}.jpg" for i, name in enumerate(NAMES)])
    numbers = sorted(set(NAMES))
    rows = [
        f"{numbers.index(n)},{'test' if i > 3 else 'train'}/{n}/{i}.jpg,{n},{'test' if i > 3 else 'train'}"
        for i, n in enumerate(NAMES)
    ]
    labels = table(root / "birds.csv", "class id,filepaths,labels,data set", *rows)
    truth = {f"{i}.jpg": name for i, name in enumerate(NAMES)}
    return Published(labels, truth, labels, frozenset({"4.jpg", "5.jpg"}))


READ: tuple[Callable[[Path], Published], ...] = (
    *(kaggle_ids, keras_frame, hugging_face_csv, hugging_face_lines, dassl, cross_modal, coco, cub, food_101),
    *(food_101_json, dtd, celeba, places, places_list, fifty_one, image_net, letters, birds),
)
WITH_OPTIONS: tuple[Callable[[Path], Published], ...] = (omniglot,)
EVERY = READ + WITH_OPTIONS


def answer(published: Published) -> tuple[Truth, frozenset[str]]:
    """What is read: the class of each picture, and the test side."""
    found = cf.read_dataset(published.source, **published.options)
    files = [Path(str(image)).name for image in found.images]
    labels = found.label_space.decode(found.required_labels())
    test = frozenset(file for file, part in zip(files, found.partition, strict=True) if part == "test")
    return dict(zip(files, labels, strict=True)), test


@pytest.mark.parametrize("make", EVERY)
def test_it_says_what_it_says(make: Callable[[Path], Published], tmp_path: Path) -> None:
    published = make(tmp_path)
    assert answer(published) == (published.truth, published.test)


def test_at_least_eighteen_need_no_option() -> None:
    assert len(READ) >= 18
    assert len(EVERY) + len(REFUSED) >= 20


def renamed(text: str) -> str:
    """Columns and keys under other names; words that stand for pictures and classes stay."""
    words = ("label", "class", "image_id", "category_id", "file_name", "filename", "impath", "labels", "breed")
    return re.sub(rf"\b({'|'.join(words)})\b", lambda match: f"my_{match[1][::-1]}", text)


def shuffled(text: str) -> str:
    """Rows, columns and keys in another order."""
    lines, rng = text.splitlines(), random.Random(1)
    if text.startswith("{") and len(lines) == 1:
        content = json.loads(text)
        return json.dumps(dict(reversed(content.items())))
    if "," in lines[0] and not text.startswith("{"):
        cells = [line.split(",")[::-1] for line in lines]
        return "\n".join(map(",".join, [cells[0], *rng.sample(cells[1:], len(cells) - 1)])) + "\n"
    return "\n".join(rng.sample(lines, len(lines))) + "\n"


def emptied(text: str) -> str:
    """The last class, or the last path, is gone."""
    for name in ("pug", "beagle", "boxer"):
        place = text.rfind(name)
        if place >= 0:
            return text[:place] + text[place + len(name) :]
    return text.rstrip("\n")[:-1] + "\n"


def misspelt(text: str) -> str:
    """The last picture, or number, is another that is not there."""
    found = [*re.finditer(r"\d+(?=\D*$)", text)]
    return text[: found[-1].start()] + "987654" + text[found[-1].end() :]


def cut(text: str) -> str:
    """The file ends in the middle of its last row, or of all."""
    kept, _, last = text.rstrip().rpartition("\n")
    return f"{kept}\n{last[: len(last) // 2]}" if kept else text[: len(text) // 2]


CHANGES = {"renamed": renamed, "shuffled": shuffled, "emptied": emptied, "misspelt": misspelt, "cut": cut}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", [make for make in EVERY if make not in (places, omniglot, letters)])
def test_changed_or_broken_it_is_right_or_refused(
    make: Callable[[Path], Published], change: str, tmp_path: Path
) -> None:
    published = make(tmp_path)
    assert published.labels is not None
    text = published.labels.read_text()
    changed = CHANGES[change](text)
    if changed == text:
        assert change == "renamed"  # a file without names
        return
    published.labels.write_text(changed)
    try:
        found, test = answer(published)
    except cf.ClipFewShotError:
        return
    wrong = {(published.truth[name], label) for name, label in found.items() if published.truth[name] != label}
    assert len(found) == len(published.truth)
    assert test == published.test
    if wrong:  # a list of names with a hole is not used: the same classes, called as their folders are
        assert make is image_net
        assert len(wrong) == len(set(published.truth.values()))
        assert "not used" in "".join(cf.read_dataset(published.source).warnings)


def yolo(root: Path) -> Path:
    pictures(root, [f"images/train/{i}.jpg" for i in range(4)])
    for i in range(4):
        table(root / f"labels/train/{i}.txt", f"{i % 2} 0.41 0.49 0.20 0.23", "1 0.1 0.2 0.05 0.06")
    return root


def coco_boxes(root: Path) -> Path:
    published = coco(root)
    content = json.loads(published.source.read_text())
    content["annotations"][0]["bbox"] = [1, 2, 3, 4]
    return dump(published.source, content)


def celeba_parts(root: Path) -> Path:
    pictures(root, [f"img_align_celeba/00000{i}.jpg" for i in range(1, 7)])
    return table(root / "list_eval_partition.txt", *(f"00000{i}.jpg {max(0, i - 4)}" for i in range(1, 7)))


def celeba_parts_table(root: Path) -> Path:
    pictures(root, [f"img_align_celeba/00000{i}.jpg" for i in range(1, 7)])
    return table(root / "p.csv", "image_id,partition", *(f"00000{i}.jpg,{max(0, i - 4)}" for i in range(1, 7)))


def attributes(root: Path) -> Path:
    pictures(root, [f"{i}.jpg" for i in range(4)])
    return table(root / "a.csv", "image_id,Bald,Smiling", *(f"{i}.jpg,{i % 2},1" for i in range(4)))


REFUSED: Mapping[Callable[[Path], Path], str] = {
    yolo: "expected captions, got boxes: 8 lines of numbers",
    coco_boxes: "expected one class per picture, got boxes",
    celeba_parts: "expected classes of pictures, got parts",
    celeba_parts_table: "the label .*columns 'image_id', 'partition'",
    attributes: "the label .*columns 'image_id', 'Bald', 'Smiling'",
}


@pytest.mark.parametrize("make", REFUSED)
def test_what_names_no_class_is_refused_with_the_reason(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(cf.DataError, match=REFUSED[make]):
        cf.read_dataset(make(tmp_path))


def test_the_reason_names_a_way_out(tmp_path: Path) -> None:
    parts = celeba_parts(tmp_path)
    assert set(cf.read_dataset(parts, format="list").label_space.names) == {"0", "1", "2"}
    table_of_attributes = attributes(tmp_path / "b")
    assert cf.read_dataset(table_of_attributes, columns={"label": "Bald"}).counts() == {"0": 2, "1": 2}


def test_captions_of_coco(tmp_path: Path) -> None:
    pictures(tmp_path, ["images/0.jpg", "images/1.jpg", "images/2.jpg"])
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(3)]
    texts = [{"image_id": i, "caption": f"dog {i}"} for i in (0, 1)]
    found = cf.read_dataset(dump(tmp_path / "captions.json", {"images": images, "annotations": texts}))
    assert found.captions == ("dog 0", "dog 1")
    assert found.warnings == ("not read: 1 picture without an annotation",)


WORDS = st.sampled_from(["image", "label", "labels", "images", "annotations", "categories", "id", "image_id", "train"])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1, 3), WORDS, st.sampled_from(["0.png", "file_name", "bbox"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JSON)
def test_any_json_is_read_or_refused(content: object, tmp_path: Path) -> None:
    put(tmp_path / "0.png", 0)
    try:
        listing = list_source(dump(tmp_path / "t.json", content), None)
    except cf.DataError as error:
        str(error).encode("utf-8")
        return
    assert all(entry.path.name == "0.png" for entry in listing.entries)


TWICE = {
    "a key": '{"0.png": "a", "0.png": "b"}',
    "an image": '{"images": [{"id": 1, "file_name": "0.png"}, {"id": 1, "file_name": "1.png"}], "annotations": []}',
}


@pytest.mark.parametrize("case", TWICE)
def test_what_stands_twice_is_refused(case: str, tmp_path: Path) -> None:
    with pytest.raises(cf.DataError, match=r"twice in one object|an id of their own"):
        cf.read_dataset(put(tmp_path / "t.json", TWICE[case]))
