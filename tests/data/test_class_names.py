"""Other names for classes: by order, by label, out of a file; what does not fit is refused, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import clip_fewshot as cf
from clip_fewshot.data.class_names import rename_classes
from clip_fewshot.errors import DataError
from tests.data.pictures import class_folders, put


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "photos", {"n01": 2, "n02": 1, "n03": 1})


def names_of(folder: Path, text: str) -> tuple[str, ...]:
    return cf.read_dataset(folder, class_names=put(folder.parent / "names.txt", text)).label_space.names


@pytest.mark.parametrize(
    "text",
    [
        "tench\nred bee\nant\n",
        "\ntench \n\nred bee\nant",
        "\ufefftench\r\nred bee\r\nant\r\n",
        "n03\tant\nn01\ttench\nn02\tred bee\n",
        "n03,ant\nn01, tench\nn02,red bee\n",
        "label,name\nn01,tench\nn02,red bee\nn03,ant\nn99,of a class that is not here\n",
    ],
)
def test_a_file_names_the_classes_by_order_or_by_label(photos: Path, text: str) -> None:
    assert names_of(photos, text) == ("tench", "red bee", "ant")


def test_a_comma_is_part_of_a_name_where_no_label_stands_before_it(photos: Path) -> None:
    assert names_of(photos, "tench, Tinca tinca\nbee, any\nant\n") == ("tench, Tinca tinca", "bee, any", "ant")
    assert names_of(photos, "n01\ttench, Tinca tinca\nn02\tbee\nn03\tant\n")[0] == "tench, Tinca tinca"


def test_the_pictures_and_their_order_stay(photos: Path) -> None:
    before = cf.read_dataset(photos)
    after = cf.read_dataset(photos, class_names=["a", "b", "c"])
    assert (after.names, after.digests) == (before.names, before.digests)
    assert after.label_space.decode(after.required_labels()) == ["a", "a", "b", "c"]


def test_labels_that_are_numbers_count_by_their_value(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "photos", {"2": 1, "9": 1, "10": 1})
    assert cf.read_dataset(folder).label_space.names == ("10", "2", "9")
    renamed = cf.read_dataset(folder, class_names=["two", "nine", "ten"])
    assert renamed.label_space.names == ("ten", "two", "nine")


def test_other_names_hide_no_other_classes_and_move_no_picture(digits: cf.ImageDataset) -> None:
    renamed = rename_classes(digits, [f"{i}" for i in range(10)])
    again = rename_classes(renamed, [f"number {i}" for i in range(10)])
    splits = [cf.split_open_world(one, shots=4, unseen=3, seed=0) for one in (digits, renamed, again)]
    hidden = [[split.seen.names, split.unseen.names] for split in splits]
    places = [
        [[one.label_space.names.index(name) for name in names] for names in both]
        for one, both in zip((digits, renamed, again), hidden, strict=True)
    ]
    assert places[0] == places[1] == places[2]
    assert hidden[1][1] == tuple(str(i) for i in places[0][1])
    assert len({split.support.digests for split in splits}) == 1
    assert len({split.test.open("test").digests for split in splits}) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tench\nbee\n", r"names.txt: expected 3 names, one per class, got 2"),
        ("tench\nbee\nant\nfly\n", "got 4"),
        ("", "got 0"),
        ("n01,tench\nn02,bee\n", "a name for each of 3 classes, got none for \n  n03"),
        ("n01,tench\nn02,bee\nn01,carp\nn03,ant\n", r"names.txt:3: expected one name for n01, got 'tench' and 'carp'"),
        ("n01,tench\nn02\nn03,ant\n", r"names.txt:2: expected a label and its name, got 'n02'"),
        ("bee\nbee\nant\n", r"names.txt: expected distinct class names, got \['bee'\]"),
        ("unknown\nbee\nant\n", "names.txt: expected the name of a class, got 'unknown'"),
    ],
)
def test_what_does_not_fit_is_refused(photos: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        names_of(photos, text)


@pytest.mark.parametrize("names", [["a", "b", "c"], ("a", "b", "c"), {"n01": "a", "n02": "b", "n03": "c"}])
def test_names_are_taken_from_python_too(photos: Path, names: Sequence[str] | Mapping[str, str]) -> None:
    assert rename_classes(cf.read_dataset(photos), names).label_space.names == ("a", "b", "c")


def test_a_missing_file_and_captions_are_refused(photos: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        cf.read_dataset(photos, class_names=photos / "nowhere.txt")
    table = put(photos / "captions.csv", "image,caption\nn01/000.png,a tench\n")
    with pytest.raises(DataError, match="expected labelled images"):
        cf.read_dataset(table, class_names=["a"])
