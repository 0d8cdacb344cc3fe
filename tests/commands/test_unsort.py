"""What --sort-into has copied is taken back, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from clip_fewshot.open_world.answers import Answer
from clip_fewshot.protocol import sort_pictures as steps
from clip_fewshot.runtime.files import copy_file
from tests.commands.conftest import Command, one_line


def answer(label: str | None) -> Answer:
    return Answer(label, 0.5, 0.0, ((label or "dog", 1.0),))


@pytest.fixture
def originals(tmp_path: Path) -> list[Path]:
    """Six files in two folders, each name twice."""
    found = [tmp_path / folder / f"{i}.png" for folder in "ab" for i in range(3)]
    for i, path in enumerate(found):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([i]))
    return found


def sort(folder: Path, files: list[Path], links: bool = False) -> None:
    sorter = steps.PictureSorter(folder, files, links)
    sorter.add([answer("dog"), answer("dog"), answer(None)])
    sorter.add([answer("dog"), answer("cat"), answer(None)])


@pytest.mark.parametrize("links", [False, True])
def test_all_is_as_it_was_before(links: bool, command: Command, originals: list[Path], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in originals}
    sort(tmp_path / "sorted", originals, links)
    copies = sorted(str(path.relative_to(tmp_path / "sorted")) for path in (tmp_path / "sorted").rglob("*.png"))
    assert copies == ["cat/1.png", "dog/0 (2).png", "dog/0.png", "dog/1.png", "unknown/2 (2).png", "unknown/2.png"]
    assert command("unsort", tmp_path / "sorted").out == "6 copies taken back\n"
    assert not (tmp_path / "sorted").exists()
    assert {path: path.read_bytes() for path in originals} == before


def test_what_is_the_users_stays(command: Command, originals: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "sorted"
    sort(folder, originals)
    (folder / "dog" / "0.png").write_bytes(b"painted over")
    (folder / "dog" / "1.png").rename(folder / "cat" / "moved.png")
    (folder / "dog" / "mine.txt").write_text("mine")
    originals[2].unlink()  # the copy in unknown/ is the last one there is
    ended = command("unsort", folder, "--json")
    left = ["cat/moved.png", "dog/0.png", "dog/mine.txt", "unknown/2.png"]
    assert ended.record == {"schema": 1, "taken_back": 3, "stays": [str(folder / name) for name in left]}
    assert command("unsort", folder).out == f"0 copies taken back; left in {folder}: 4 files\n"


def test_an_empty_folder_of_the_users_stays(originals: list[Path], tmp_path: Path) -> None:
    sort(tmp_path / "sorted", originals)
    (tmp_path / "sorted" / "mine").mkdir()
    assert steps.remove_copies(tmp_path / "sorted") == (6, [])
    assert [path.name for path in (tmp_path / "sorted").iterdir()] == ["mine"]


def test_what_cannot_be_removed_stays(
    command: Command, originals: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **more: bool) -> None:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        remove(path, **more)

    folder, remove = tmp_path / "sorted", Path.unlink
    sort(folder, originals)
    monkeypatch.setattr(Path, "unlink", refuse)
    left = [str(folder / name) for name in ("cat/1.png", "dog/1.png")]
    assert command("unsort", folder, "--json").record == {"schema": 1, "taken_back": 4, "stays": left}


def test_a_name_longer_than_systems_take_is_cut(originals: list[Path], tmp_path: Path) -> None:
    steps.PictureSorter(tmp_path / "out", originals[:2]).add([answer("x" * 300), answer("猫" * 300)])
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/*.png")) == ["x" * 60, "猫" * 60]


def test_a_killed_sorting_is_taken_back(originals: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path, link: bool) -> None:
        if source.name == "1.png":
            target.touch()
            raise KeyboardInterrupt
        copy_file(source, target, link)

    monkeypatch.setattr(steps, "copy_file", fail)
    with pytest.raises(KeyboardInterrupt):
        sort(tmp_path / "sorted", originals)
    with (tmp_path / "sorted" / steps.LIST_OF_COPIES).open("a") as file:
        file.write('{"copy": "dog/')
    assert steps.remove_copies(tmp_path / "sorted") == (2, [])


def test_names_of_classes_make_no_path(originals: list[Path], tmp_path: Path) -> None:
    names = ("../../up", "a/b", "a:b", "..", "A_B")
    steps.PictureSorter(tmp_path / "out", originals[:5]).add([answer(name) for name in names])
    found = {path.read_bytes()[0]: path.parent.name for path in (tmp_path / "out").glob("*/*.png")}
    assert found == {0: "_.._up", 1: "a_b", 2: "a_b (2)", 3: "_", 4: "A_B (3)"}


def test_thousands_of_one_name_are_numbered_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    monkeypatch.setattr(steps, "copy_file", lambda source, target, link: copied.append(target.name))
    files, began = [tmp_path / f"{i}" / "a.png" for i in range(3000)], time.process_time()
    steps.PictureSorter(tmp_path / "out", files).add([answer("dog")] * len(files))
    assert copied == ["a.png", *(f"a ({i}).png" for i in range(2, 3001))]
    assert time.process_time() - began < 10  # from 2 on for each: minutes


@pytest.mark.parametrize("copy", ["../b/0.png", "../0.png", "link/0.png", "{b}/0.png", "x" * 300 + "/0.png"])
def test_a_list_that_lies_removes_nothing(copy: str, originals: list[Path], tmp_path: Path) -> None:
    folder, twin = tmp_path / "sorted", tmp_path / "0.png"
    sort(folder, originals)
    shutil.copy(originals[3], twin)
    os.symlink(tmp_path / "b", folder / "link")
    line = {"copy": copy.format(b=tmp_path / "b"), "of": str(twin)}
    (folder / steps.LIST_OF_COPIES).write_text(json.dumps(line) + "\n")
    assert steps.remove_copies(folder)[0] == 0
    assert originals[3].exists()
    assert twin.exists()


@pytest.mark.parametrize("line", ["[]", '{"copy": 1, "of": 2}', "{}", "\x00"])
def test_lines_that_are_none_of_ours_are_passed_over(line: str, originals: list[Path], tmp_path: Path) -> None:
    sort(tmp_path / "sorted", originals)
    (tmp_path / "sorted" / steps.LIST_OF_COPIES).write_text(line)
    assert steps.remove_copies(tmp_path / "sorted")[0] == 0


def test_another_folder_is_refused(command: Command, originals: list[Path], tmp_path: Path) -> None:
    one_line(command("unsort", tmp_path / "a"), 2, "--sort-into has made")
    one_line(command("unsort", tmp_path / "nowhere"), 2, "--sort-into has made")
    assert all(path.exists() for path in originals)
