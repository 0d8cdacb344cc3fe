"""Where the paths of a list start: searched, said, and never guessed between two folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import clip_fewshot as cf
from tests.data.pictures import class_folders, put


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The first source's tree: lists in data/, whose paths start from the folder above it."""
    for side, start in (("train", 0), ("test", 50)):
        folder = class_folders(tmp_path / "data" / "HYM" / side, {"ants": 3, "bees": 3}, start)
        paths = sorted(folder.rglob("*.png"))
        lines = [f"{path.relative_to(tmp_path)} {int(path.parent.name == 'bees')}" for path in paths]
        put(tmp_path / "data" / f"HYM_{side}.txt", "\n".join(lines) + "\n")
    return tmp_path


def test_the_first_source_is_read_from_its_own_folder_and_from_any_other(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for here in (project, project / "data", tmp_path_factory.mktemp("elsewhere")):
        monkeypatch.chdir(here)
        found = cf.read_dataset(project / "data" / "HYM_test.txt")
        assert found.counts() == {"0": 3, "1": 3}
        assert found.names[0] == "data/HYM/test/ants/000.png"
        assert found.warnings == (f"the paths in HYM_test.txt start from {project}",)


def test_paths_may_start_from_the_current_folder_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = project.parent / "lists"
    put(other / "deep" / "list.txt", (project / "data" / "HYM_test.txt").read_text())
    with pytest.raises(cf.DataError, match=r"no file data/HYM/test/ants/000.png"):
        cf.read_dataset(other / "deep" / "list.txt")
    monkeypatch.chdir(project)
    assert len(cf.read_dataset(other / "deep" / "list.txt")) == 6


def test_a_list_beside_its_pictures_means_these(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "own"):
        for i in range(2):
            put(place / f"{i}.png", i)
    found = cf.read_dataset(put(tmp_path / "own" / "list.txt", "0.png a\n1.png b\n"))
    assert {path.parent for path in found.images if isinstance(path, Path)} == {tmp_path / "own"}


def test_two_lists_are_two_sides(project: Path) -> None:
    data = project / "data"
    found = cf.read_dataset(data / "HYM_train.txt", test=data / "HYM_test.txt")
    assert found.partition == ("train",) * 6 + ("test",) * 6
    split = cf.split_open_world(found, shots=3)
    assert sorted(split.test.open("a look").names) == sorted(found.names[6:])
    folders = cf.read_dataset(data / "HYM" / "train", test=data / "HYM" / "test")
    assert folders.counts() == {"ants": 6, "bees": 6}
    assert folders.partition == found.partition


def test_sides_that_are_none(project: Path) -> None:
    data = project / "data"
    both = put(project / "both.csv", "image,label,split\ndata/HYM/test/ants/000.png,0,test\n")
    with pytest.raises(cf.DataError, match="one that is divided into train and test itself"):
        cf.read_dataset(both, test=data / "HYM_test.txt")
    other = put(project / "other.txt", "data/HYM/test/ants/000.png fly\n")
    with pytest.raises(cf.DataError, match=r"test classes that are among the training classes(.|\n)*fly"):
        cf.read_dataset(data / "HYM_train.txt", test=other)
    texts = put(project / "texts.csv", "image,caption\ndata/HYM/test/ants/000.png,an ant\n")
    with pytest.raises(cf.DataError, match="two sides of one kind"):
        cf.read_dataset(data / "HYM_train.txt", test=texts)
    with pytest.raises(cf.DataError, match="leak-exact"):
        cf.read_dataset(data / "HYM_train.txt", test=data / "HYM_train.txt")
    with pytest.raises(cf.UsageError, match=r"`test`: expected pictures on disk"):
        cf.read_dataset("digits", test=other)


def test_a_folder_that_is_named_is_the_one(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away")
    moved = put(away / "list.txt", (project / "data" / "HYM_test.txt").read_text())
    assert len(cf.read_dataset(moved, root=project)) == 6
    with pytest.raises(cf.DataError, match="6 that cannot be used"):
        cf.read_dataset(moved, root=project / "data")
    with pytest.raises(cf.DataError, match="expected a folder, got none; check `root`"):
        cf.read_dataset(moved, root=project / "nowhere")
    with pytest.raises(cf.UsageError, match=r"`root`: expected a list or table"):
        cf.read_dataset(project / "data" / "HYM" / "test", root=project)


def test_absolute_paths_are_read(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    lines = [f"{path} {path.parent.name}\n" for path in sorted((project / "data/HYM/test").rglob("*.png"))]
    found = cf.read_dataset(put(tmp_path_factory.mktemp("lists") / "list.txt", "".join(lines)))
    assert found.counts() == {"ants": 3, "bees": 3}
    assert found.warnings == ()


def test_between_two_folders_that_have_all_files_nobody_chooses(tmp_path: Path) -> None:
    for i, side in enumerate(("train", "test")):
        class_folders(tmp_path / side, {"": 3}, start=10 * i)
    listed = put(tmp_path / "labels.txt", "000.png ant\n001.png bee\n002.png ant\n")
    with pytest.raises(cf.DataError, match=r"2 that have all files:\n .*test\n .*train\n; name the one .*`root`"):
        cf.read_dataset(listed)
    found = cf.read_dataset(listed, root=tmp_path / "train")
    assert Path(str(found.images[0])) == tmp_path / "train" / "000.png"
    (tmp_path / "test" / "001.png").unlink()
    assert cf.read_dataset(listed).digests == found.digests  # one of them has all


def test_the_same_files_by_two_ways_are_no_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "set" / "photos", {"ant": 1, "bee": 1})
    os.symlink(tmp_path / "set", tmp_path / "link")
    listed = put(tmp_path / "set" / "list.txt", "photos/ant/000.png ant\nphotos/bee/000.png bee\n")
    monkeypatch.chdir(tmp_path / "link")
    assert cf.read_dataset(listed).warnings == ()


def test_a_row_with_a_mistake_never_moves_a_list_to_another_set(tmp_path: Path) -> None:
    for name, n in (("first", 3), ("second", 4)):
        class_folders(tmp_path / name / "photos", {"ant": n}, start=n * 10)
    listed = put(tmp_path / "first" / "list.txt", "".join(f"photos/ant/00{i}.png a{i}\n" for i in range(4)))
    with pytest.raises(cf.DataError, match=r"1 that cannot be used:\n  list.txt:4: no file photos/ant/003.png\n"):
        cf.read_dataset(listed)


def test_a_message_is_short_and_names_the_way_out(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    lines = "".join(f"data/HYM/{i}.png a\n" for i in range(80))
    listed = put(tmp_path_factory.mktemp("lists") / "list.txt", lines)
    with pytest.raises(cf.DataError) as caught:
        cf.read_dataset(listed)
    message = str(caught.value)
    assert "80 that cannot be used" in message
    assert message.count("no file") == 5
    assert "... and 75 more" in message
    assert "name the folder that the paths start from (`root`)" in message
    assert len(message) < 700


def test_ids_backslashes_and_a_leading_slash(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"cat": 1, "dog": 1})
    for text in ("train\\cat\\000.png,cat\ntrain\\dog\\000.png,dog", "/train/cat/000.png,cat\n/train/dog/000.png,dog"):
        assert cf.read_dataset(put(tmp_path / "t.csv", f"image,label\n{text}\n")).counts() == {"cat": 1, "dog": 1}
    ids = put(tmp_path / "ids.csv", "image,label\ntrain/cat/000,cat\ntrain/dog/000,dog\n")
    assert cf.read_dataset(ids).counts() == {"cat": 1, "dog": 1}
    put(tmp_path / "train" / "dog" / "000.jpg", 40)
    with pytest.raises(cf.DataError, match=r"ids.csv:3: train/dog/000 may mean 000.jpg or 000.png"):
        cf.read_dataset(ids)
