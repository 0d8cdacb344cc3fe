"""CoOp's draws of shots: found wherever they were drawn, classes in the order of their numbers, beside their split."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.errors import DataError, UsageError
from tests.data.pictures import put
from tests.data.test_inert_pickle import PROTOCOLS, draw_bytes

CLASSES = ("leopard", "accordion", "face")  # numbers 0, 1, 2: not in the order of the alphabet
AWAY = "/home/other/data/caltech-101/101_ObjectCategories"
Shots = list[tuple[str, int, str]]


def shots(folder: str, first: int, n: int) -> Shots:
    return [(f"{folder}/{name}/{i}.png", c, name) for c, name in enumerate(CLASSES) for i in range(first, first + n)]


@pytest.fixture
def caltech(tmp_path: Path) -> Path:
    """The tree as CoOp's instructions make it: pictures, the split file, and a draw made on another machine."""
    root = tmp_path / "caltech-101"
    rows = [[f"{name}/{i}.png", c, name] for c, name in enumerate(CLASSES) for i in range(6)]
    for k, (path, _, _) in enumerate(rows):
        put(root / "101_ObjectCategories" / str(path), k)
    parts = {"train": rows[::3], "val": rows[1::3], "test": rows[2::3]}
    (root / "split_zhou_Caltech101.json").write_text(json.dumps(parts))
    return root


def write(root: Path, data: bytes, name: str = "shot_2-seed_1.pkl") -> Path:
    return put(root / "split_fewshot" / name, data)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_draw_is_read_where_it_lies(caltech: Path, protocol: int) -> None:
    place = write(caltech, draw_bytes(protocol, shots(AWAY, 0, 2), shots(AWAY, 2, 1)))
    found = cf.read_dataset(place)
    assert found.label_space.names == CLASSES
    assert set(found.counts().values()) == {2}
    assert set(found.partition) == {"train"}
    assert [Path(name).name for name in found.names] == ["0.png", "1.png"] * 3
    assert any("left out: 3 validation images of the draw" in line for line in found.warnings)
    assert found.origins is not None
    assert found.origins[0] == "shot_2-seed_1.pkl:train[0]"


def test_the_pictures_may_lie_elsewhere(caltech: Path, tmp_path: Path) -> None:
    place = write(tmp_path / "far" / "away" / "draws", draw_bytes(4, shots(AWAY, 0, 2)))
    for root in (caltech, caltech / "101_ObjectCategories", tmp_path):
        assert len(cf.read_dataset(place, root=root)) == 6
    with pytest.raises(DataError, match="no file /home/other"):
        cf.read_dataset(place, root=put(tmp_path / "other" / "a.png", 1).parent)


def test_paths_of_this_machine_and_of_windows(caltech: Path) -> None:
    here = write(caltech, draw_bytes(4, shots(str(caltech / "101_ObjectCategories"), 0, 2)), "here.pkl")
    assert len(cf.read_dataset(here)) == 6
    away = [
        (path.replace("/", "\\"), c, name) for path, c, name in shots("D:/data/caltech-101/101_ObjectCategories", 0, 2)
    ]
    assert len(cf.read_dataset(write(caltech, draw_bytes(4, away), "windows.pkl"))) == 6
    relative = write(caltech, draw_bytes(4, shots("./data/101_ObjectCategories", 0, 2)), "relative.pkl")
    assert len(cf.read_dataset(relative)) == 6


def test_a_draw_is_measured_on_the_test_part_of_its_split(caltech: Path) -> None:
    place = write(caltech, draw_bytes(4, shots(AWAY, 3, 2)))
    data = cf.read_dataset(place, test=caltech / "split_zhou_Caltech101.json")
    split = cf.split_open_world(data, shots=2)
    assert {Path(name).name for name in split.support.names} == {"3.png", "4.png"}
    assert set(split.support.counts().values()) == {2}
    assert {Path(name).name for name in split.test.open("t").names} == {"2.png", "5.png"}
    assert not any("joined the training side" in line for line in data.warnings)
    assert any("is divided itself: its test part is read, and not 12 others" in line for line in data.warnings)


WRONG: dict[str, tuple[Any, str]] = {
    "no dictionary": ([], "a dictionary with train"),
    "no train": ({"val": []}, "a dictionary with train"),
    "a split, no draw": ({"train": [], "val": [], "test": []}, "a dictionary with train"),
    "no list": ({"train": {}}, "a list under each part"),
    "no Datum": ({"train": [["a.png", 0, "a"]]}, r"(?s)instances of Datum.*train\[0\]"),
    "nothing": ({"train": []}, "no row at all"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_pickles_are_refused(caltech: Path, case: str) -> None:
    content, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        cf.read_dataset(write(caltech, pickle.dumps(content, 4)))


def test_a_bad_label_and_a_bomb_in_a_field_are_named(caltech: Path) -> None:
    bomb: Any = []
    for _ in range(60):
        bomb = [bomb, bomb]
    rows: Any = [
        *shots(AWAY, 0, 1),
        (f"{AWAY}/face/1.png", -1, "face"),
        (f"{AWAY}/face/2.png", "2", "face"),
        (bomb, 0, "leopard"),
    ]
    with pytest.raises(DataError, match=r"(?s)3 that cannot be used:\n  train\[3\]\n  train\[4\]\n  train\[5\]"):
        cf.read_dataset(write(caltech, draw_bytes(4, rows)))
    two_names = [*shots(AWAY, 0, 1), (f"{AWAY}/face/1.png", 2, "faces")]
    with pytest.raises(DataError, match="label 2 is 'faces' here and 'face' before"):
        cf.read_dataset(write(caltech, draw_bytes(4, two_names)))


def test_options_that_a_draw_has_no_use_for(caltech: Path) -> None:
    place = write(caltech, draw_bytes(4, shots(AWAY, 0, 2)))
    with pytest.raises(UsageError, match="columns"):
        cf.read_dataset(place, columns={"image": "x"})
    assert np.array_equal(cf.read_dataset(place, format="draw").required_labels(), np.repeat([0, 1, 2], 2))
