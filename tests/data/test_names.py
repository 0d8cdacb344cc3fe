"""Names of classes: which are the same, which look so, and which no class can have, at every door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clip_fewshot as cf
from clip_fewshot.data.class_names import rename_classes
from clip_fewshot.data.collect import collect_images
from clip_fewshot.data.names import check_class_name, fold_name, refuse_names, shape_of
from tests.data.pictures import put

CYRILLIC_A, GREEK_O, ZERO_WIDTH, FILLER, WIDE = "\u0430", "\u03bf", "\u200b", "\u3164", "\uff43\uff41\uff54"
SAME = {
    "case": ("Cat", "cat"),
    "width": (WIDE, "cat"),
    "nothing that is seen": (f"c{ZERO_WIDTH}at", "cat"),
    "a mark of direction": ("cat\u200f", "cat"),
    "spaces": ("red  cat", "red cat"),
    "encoding": ("caf\u00e9", "cafe\u0301"),
    "unknown": ("Unknown", "cat"),
    "unknown in wide letters": ("\uff35nknown", "cat"),
    "unknown in other letters": (f"unkn{GREEK_O}wn", "cat"),
    "a blank": (" ", "cat"),
    "nothing that shows": (ZERO_WIDTH + FILLER, "cat"),
}
APART = [
    ("other", "background"),
    ("cat", "cats"),
    ("A", "a"),
    ("none", "novel"),
    ("unknown bird", "cat"),
    ("\u041a", "K"),
]


def from_folders(root: Path, names: tuple[str, str]) -> cf.ImageDataset:
    for i, name in enumerate(names):
        put(root / "in" / name / f"{i}.png", i)
    return cf.read_dataset(root / "in")


def from_list(root: Path, names: tuple[str, str]) -> cf.ImageDataset:
    for i in range(2):
        put(root / f"{i}.png", i)
    return cf.read_dataset(put(root / "l.txt", "".join(f'{i}.png "{name}"\n' for i, name in enumerate(names))))


def from_frame(root: Path, names: tuple[str, str]) -> cf.ImageDataset:
    for i in range(2):
        put(root / f"{i}.png", i)
    return cf.read_dataset(pandas.DataFrame({"image": ["0.png", "1.png"], "label": names}), root=root)


def from_other_names(root: Path, names: tuple[str, str]) -> cf.ImageDataset:
    return rename_classes(from_folders(root, ("first", "second")), names)


def from_python(root: Path, names: tuple[str, str]) -> cf.ImageDataset:
    return collect_images([put(root / f"{i}.png", i) for i in range(2)], names)


def from_a_set_made_by_hand(root: Path, names: tuple[str, str]) -> cf.ImageDataset:
    made = from_folders(root, ("first", "second"))
    return collect_images(cf.ImageDataset(**{**vars(made), "label_space": cf.LabelSpace(names)}))


DOORS: tuple[Callable[[Path, tuple[str, str]], cf.ImageDataset], ...] = (
    *(from_folders, from_list, from_frame, from_other_names, from_python, from_a_set_made_by_hand),
)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", SAME)
def test_names_that_are_no_two_classes_are_refused(
    case: str, door: Callable[[Path, tuple[str, str]], cf.ImageDataset], tmp_path: Path
) -> None:
    with pytest.raises(cf.DataError):
        door(tmp_path, SAME[case])
    assert door(tmp_path / "twin", ("cat", "dog")).counts() == {"cat": 1, "dog": 1}


@pytest.mark.parametrize("names", APART)
def test_names_that_only_mean_something_elsewhere_are_read(names: tuple[str, str], tmp_path: Path) -> None:
    assert set(from_folders(tmp_path, names).counts()) == set(names)


def test_letters_of_other_scripts_are_said(tmp_path: Path) -> None:
    (warning,) = from_folders(tmp_path, ("cat", f"c{CYRILLIC_A}t")).warnings
    assert warning == "class names that look the same: 'cat' and 'c\\u0430t'"


def test_a_class_that_may_not_be_called_so_can_be_renamed(tmp_path: Path) -> None:
    with pytest.raises(cf.DataError, match="what answers say where there is no class"):
        from_folders(tmp_path, ("unknown", "cat"))
    renamed = cf.read_dataset(tmp_path / "in", class_names={"unknown": "rest", "cat": "cat"})
    assert renamed.counts() == {"cat": 1, "rest": 1}


@pytest.mark.parametrize("case", SAME)
def test_a_further_class_is_none_that_is_there(case: str) -> None:
    new, old = SAME[case]
    with pytest.raises(cf.UsageError):
        check_class_name(new, [old])
    assert check_class_name("dog", [old]) == "dog"


def test_a_further_class_that_looks_like_one_is_refused_unless_it_is_a_letter() -> None:
    with pytest.raises(cf.UsageError, match="a name that no class has"):
        check_class_name(f"c{CYRILLIC_A}t", ["cat"])
    assert check_class_name("a", ["A"]) == "a"
    assert check_class_name("\u039f", ["O"]) == "\u039f"


@given(st.lists(st.text(max_size=4), max_size=6, unique=True))
def test_names_that_pass_are_all_told_apart(names: list[str]) -> None:
    try:
        refuse_names(names, "here")
    except cf.DataError:
        return
    folded = [fold_name(name) for name in names if name not in "abcdefghijklmnopqrstuvwxyz".upper()]
    assert len({*folded}) == len(folded)
    assert "" not in folded
    assert "unknown" not in map(shape_of, names)
