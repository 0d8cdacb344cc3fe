"""Trees as strangers have them: the right classes, or a refusal that names every way out, and each of these works."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import clip_fewshot as cf
from clip_fewshot.data.formats import list_source
from clip_fewshot.data.listing import Listing
from tests.data.pictures import put

Counts = Mapping[str, int]


class Tree(NamedTuple):
    """Paths with how many pictures lie in each folder, other files with their text, and what is read of it."""

    folders: Counts
    counts: Counts | None = None
    test: int = 0
    said: str = ""
    files: Mapping[str, str] = {}
    options: Mapping[str, Any] = {}


def build(root: Path, tree: Tree) -> Path:
    seed = 0
    for folder, count in tree.folders.items():
        for _ in range(count):
            put(root / folder / f"{seed}.png", seed)
            seed += 1
    for name, text in tree.files.items():
        put(root / name, text)
    return root


def each(folders: str, count: int = 2) -> dict[str, int]:
    return dict.fromkeys(folders.split(), count)


READ = {
    "flat parts": Tree(each("train test"), None, 2, "test, train hold pictures and no class folders"),
    "flat parts by other words": Tree(each("Training valid DEV Testing"), None, 2, "no class folders"),
    "one folder": Tree(each("photos"), None, 0, "one folder of pictures names no classes: photos"),
    "one folder beside pictures": Tree({".": 2, "more": 1}, None, 0, "names no classes: more"),
    "one folder in each part": Tree(each("train/images test/images"), None, 2, "names no classes: images"),
    "unpacked twice": Tree(each("birds/birds/wren birds/birds/tit"), {"tit": 2, "wren": 2}, 0, "below birds/birds"),
    "unpacked twice, parts": Tree(each("b/train/wren b/train/tit b/val/tit b/test/wren"), {"tit": 4, "wren": 4}, 2),
    "unpacked twice beside a cover": Tree({"b": 1, "b/wren": 2, "b/tit": 2}, {"tit": 2, "wren": 2}, 0, "b/0.png"),
    "unpacked on a Mac": Tree(
        each("b/wren b/tit"),
        {"tit": 2, "wren": 2},
        0,
        "passed over hidden or system files: 1",
        {"__MACOSX/b/wren/._0.png": "x"},
    ),
    "each part unpacked twice": Tree(
        each("seg_train/seg_train/sea seg_train/seg_train/ice seg_test/seg_test/sea seg_pred/seg_pred"),
        {"ice": 2, "sea": 4},
        2,
        "not read: 2 pictures in no class folder",
    ),
    "sets": Tree(each("training_set/sea training_set/ice test_set/sea test_set/ice"), {"ice": 4, "sea": 4}, 4),
    "pictures of each part": Tree(each("train/images/sea train/images/ice test/images/ice"), {"ice": 4, "sea": 2}, 2),
    "parts of each class": Tree(each("sea/train sea/test ice/train ice/test"), {"ice": 4, "sea": 4}, 4),
    "a train is a vehicle": Tree(each("train bus"), {"bus": 2, "train": 2}),
    "letters": Tree(
        each("a/alley a/airfield/indoor b/bar"), {"airfield/indoor": 2, "alley": 2, "bar": 2}, 0, "letters"
    ),
    "a folder in each class": Tree(each("sea/images ice/pictures"), {"ice": 2, "sea": 2}, 0, "4 of 4 pictures deeper"),
    "deeper pictures of some": Tree(each("sea ice/2021 ice"), {"ice": 4, "sea": 2}),
    "outlines": Tree(
        each("sea ice"), {"ice": 2, "sea": 2}, 0, ".xml files: 2", {"lines/0.xml": "<a/>", "lines/1.xml": "<a/>"}
    ),
    "an unlabelled test part": Tree(each("train/sea train/ice test"), {"ice": 2, "sea": 2}, 0, "test/4.png"),
    "classes of their own in each part": Tree(each("train/a train/b test/c test/d"), dict.fromkeys("abcd", 2), 4),
    "boxes of a few": Tree(each("images", 5), None, 0, "passed over .txt files: 1", {"labels/0.txt": "0 .1 .2 .3 .4"}),
    "tables under any name": Tree(
        each("train test"),
        {"ice": 1, "sea": 2},
        2,
        "not read: 1 picture in no table, the first: train/1.png",
        {"train/a.csv": "image,label\n0.png,sea\n", "test/b.csv": "image,label\n2.png,sea\n3.png,ice\n"},
    ),
    "a table that says the same": Tree(
        each("sea ice"),
        {"ice": 2, "sea": 2},
        0,
        "passed over .csv files: 1",
        {"l.csv": "image,label\nsea/0.png,1\nsea/1.png,1\nice/2.png,2\nice/3.png,2\n"},
    ),
    "classes by number": Tree(each("class1 class2"), {"class1": 2, "class2": 2}),
    "a table of cameras": Tree(
        each("sea ice"),
        {"ice": 2, "sea": 2},
        0,
        ".csv files: 1",
        {"c.csv": "file,camera\nsea/0.png,x\nsea/1.png,y\nice/2.png,x\nice/3.png,y\n"},
    ),
    "the same folder's name in each part": Tree(each("train/train test/test"), None, 2, "no class folders"),
    "a table of other things": Tree(each("1 2"), {"1": 2, "2": 2}, 0, ".csv files: 1", {"c.csv": "class,price\n1,3\n"}),
}


@pytest.mark.parametrize("case", READ)
def test_the_right_reading(case: str, tmp_path: Path) -> None:
    tree = READ[case]
    found = cf.read_dataset(build(tmp_path, tree), **tree.options)
    assert (None if found.labels is None else found.counts()) == tree.counts
    assert found.partition.count("test") == tree.test
    assert tree.said in "\n".join(found.warnings)


HAM = {"ham_part_1": 2, "ham_part_2": 2}
WAYS_OUT: dict[str, tuple[Tree, str, Mapping[str, Counts | None]]] = {
    "alphabets": (
        Tree(each("Greek/c1 Greek/c2 Latin/c1 Latin/c2")),
        "folders in folders; say which are the classes: `classes_at`=1 (2: Greek, Latin), `classes_at`=2 (2: c1, c2), "
        "`format`=leaves (4: Greek/c1, Greek/c2, Latin/c1 ...)",
        {
            "classes_at=1": {"Greek": 4, "Latin": 4},
            "classes_at=2": {"c1": 4, "c2": 4},
            "format=leaves": dict.fromkeys(["Greek/c1", "Greek/c2", "Latin/c1", "Latin/c2"], 2),
        },
    ),
    "domains below a folder of their own": (
        Tree(each("pacs/art/dog pacs/art/cat pacs/photo/dog")),
        "`classes_at`=3 (2: cat, dog)",
        {"classes_at=2": {"art": 4, "photo": 2}, "classes_at=3": {"cat": 2, "dog": 4}},
    ),
    "domains of each part": (
        Tree(each("train/art/dog train/art/cat train/ink/dog test/art/cat test/ink/dog")),
        "`classes_at`=2 (2: art, ink)",
        {"classes_at=3": {"cat": 4, "dog": 6}},
    ),
    "a group among classes": (
        Tree(each("horse bird/robin bird/wren")),
        "pictures beside folders of pictures",
        {"classes_at=1": {"bird": 4, "horse": 2}, "format=leaves": {"bird/robin": 2, "bird/wren": 2, "horse": 2}},
    ),
    "test pictures beside classes": (
        Tree(each("cat dog test")),
        "got test beside cat, dog",
        {"classes_at=1": {"cat": 2, "dog": 2, "test": 2}, "format=unlabelled": None},
    ),
    "train beside what is no part": (
        Tree(each("train/cat train/dog extra")),
        "`classes_at`=1 if all are classes, 2 if they are parts",
        {"classes_at=2": {"cat": 2, "dog": 2}, "classes_at=1": {"extra": 2, "train": 4}},
    ),
    "pictures and masks": (
        Tree(each("images masks")),
        "images beside masks",
        {"classes_at=1": {"images": 2, "masks": 2}},
    ),
    "a part without class folders": (
        Tree(each("train/n1/images train/n2/images val/images")),
        "images beside n1, n2",
        {"classes_at=2": {"images": 2, "n1": 2, "n2": 2}},
    ),
    "a test part in a folder": (
        Tree(each("train/cat train/dog test/all")),
        "class folders in test, as in the other parts, got one folder, all",
        {"classes_at=2": {"all": 2, "cat": 2, "dog": 2}},
    ),
    "a table beside pictures": (
        Tree({".": 2}, files={"deep/l.csv": "image,label\n0.png,cat\n1.png,dog\n"}),
        "pass ROOT/deep/l.csv, or `format`=unlabelled",
        {"format=unlabelled": None},
    ),
    "a table beside flat parts": (
        Tree(each("train test"), files={"l.csv": "id,kind\n0,cat\n1,dog\n"}),
        "pass ROOT/l.csv",
        {"format=unlabelled": None},
    ),
    "a list without a header": (
        Tree(each("all"), files={"names.txt": "0.png cat\n1.png dog\n"}),
        "pass ROOT/names.txt",
        {"format=unlabelled": None, "format=folder": {"all": 2}},
    ),
    "numbered parts and a table": (
        Tree(HAM, files={"meta.csv": "image_id,dx\n0,nv\n1,mel\n2,nv\n3,mel\n"}),
        "got ham_part_1 beside ham_part_2, which are no classes of pictures; pass ROOT/meta.csv, or name the folder",
        {"classes_at=1": HAM},
    ),
    "a table that says otherwise": (
        Tree(each("mon tue"), files={"l.csv": "image,label\nmon/0.png,a\nmon/1.png,b\ntue/2.png,a\ntue/3.png,b\n"}),
        "mon: a, b",
        {"format=folder": {"mon": 2, "tue": 2}},
    ),
    "patients and a table": (
        Tree(each("p1/s1 p1/s2 p2/s1 p2/s2"), files={"l.csv": "image,label\np1/s1/0.png,a\n"}),
        "pass ROOT/l.csv, or say which are the classes",
        {"classes_at=1": {"p1": 4, "p2": 4}},
    ),
}


@pytest.mark.parametrize("case", WAYS_OUT)
def test_what_can_be_read_in_two_ways_is_refused_and_each_way_out_works(case: str, tmp_path: Path) -> None:
    tree, said, ways = WAYS_OUT[case]
    root = build(tmp_path, tree)
    with pytest.raises(cf.DataError) as caught:
        cf.read_dataset(root)
    assert said.replace("ROOT", str(root)) in str(caught.value)
    for way, counts in ways.items():
        option, _, value = way.partition("=")
        found = cf.read_dataset(root, **{option: int(value) if value.isdecimal() else value})  # type: ignore[arg-type]
        assert (None if found.labels is None else found.counts()) == counts


def test_a_depth_keeps_the_parts(tmp_path: Path) -> None:
    tree, _, _ = WAYS_OUT["domains of each part"]
    found = cf.read_dataset(build(tmp_path, tree), classes_at=3)
    assert [found.partition.count(side) for side in ("train", "test")] == [6, 4]


def test_a_depth_that_is_none(tmp_path: Path) -> None:
    root = build(tmp_path, Tree(each("a b")))
    with pytest.raises(cf.UsageError, match="1 or more"):
        cf.read_dataset(root, classes_at=0)
    with pytest.raises(cf.DataError, match="no picture that lies so deep"):
        cf.read_dataset(root, classes_at=3)
    with pytest.raises(cf.UsageError, match="a folder of folders, got the format 'csv'"):
        cf.read_dataset(put(root / "l.csv", "image,label\na/0.png,x\n"), classes_at=1)


def test_a_test_folder_of_one_class_is_of_that_class(tmp_path: Path) -> None:
    build(tmp_path / "learn", Tree(each("cat dog")))
    for seed in (70, 71):
        put(tmp_path / "try" / "cat" / f"{seed}.png", seed)
    found = cf.read_dataset(tmp_path / "learn", test=tmp_path / "try")
    assert found.counts() == {"cat": 4, "dog": 2}
    assert cf.read_dataset(tmp_path / "try").labels is None


NAMES = st.sampled_from(["train", "test", "val", "a", "b", "cat", "images", "labels", ".git", "__MACOSX", "x y"])
FILES = st.sampled_from(["0.png", "1.JPG", "n.txt", "l.csv", "m.xml", "Thumbs.db", ".x", "README", "2.heic", "z.tar"])
PATHS = st.builds(lambda folders, file: "/".join([*folders, file]), st.lists(NAMES, max_size=3), FILES)


def count_seen(root: Path) -> int:
    """Files below ``root``; a hidden or system folder counts as one thing."""
    seen = 0
    for item in root.iterdir():
        closed = item.name.startswith(".") or item.name == "__MACOSX"
        seen += count_seen(item) if item.is_dir() and not closed else 1
    return seen


def count_listed(listing: Listing) -> int:
    """What the warnings say was left out."""
    patterns = (r"^passed over .*: (\d+)$", r"^not read: (\d+) pictures? in no", r"^so have (\d+) more")
    numbers = [int(m[1]) for line in listing.warnings for p in patterns if (m := re.match(p, line))]
    return sum(numbers) + sum("has no partner" in line for line in listing.warnings)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    paths=st.lists(PATHS, min_size=1, max_size=9, unique=True),
    format=st.sampled_from([None, "folder", "leaves", "unlabelled", "pairs"]),
)
def test_all_that_is_seen_is_used_or_listed(
    paths: list[str], format: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for path in paths:
        put(root / path, "some words")
    try:
        listing = list_source(root, format)
    except cf.ClipFewShotError:
        return
    used = {entry.path for entry in listing.entries}
    used |= {root / entry.where.rpartition(":")[0] for entry in listing.entries if entry.caption is not None}
    assert len(used) + count_listed(listing) == count_seen(root), listing
    event(f"read: {len(used) > 0}")
    labels = {entry.label for entry in listing.entries}
    assert format is not None or not labels & {"test", "val", "images"}, listing


def test_a_way_back_in_the_name_of_a_folder_changes_nothing(tmp_path: Path) -> None:
    rows = [f"{folder}/{i}.png" for folder in ("u", "v") for i in range(2)]
    for seed, (name, place) in enumerate((name, place) for place in ("one", "two") for name in rows):
        put(tmp_path / place / name, seed)
    put(tmp_path / "one" / "metadata.csv", "".join(["file_name,label\n", *(f"{row},{row[0]}\n" for row in rows)]))
    put(tmp_path / "two" / "kinds.csv", "".join(["image,label\n", *(f"{row},{row[2]}\n" for row in rows)]))
    for way in (tmp_path, tmp_path / "one" / ".."):
        assert cf.read_dataset(way / "one").warnings == ()
        with pytest.raises(cf.DataError, match="divides the pictures otherwise"):
            cf.read_dataset(way / "two")
