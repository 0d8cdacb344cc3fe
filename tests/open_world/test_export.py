"""Groups leave as files that other tools read, and come back as decisions."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DataError, ResourceError, UsageError
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.protocol.export_groups import export_groups
from tests.open_world.conftest import Bench

Said = Callable[..., Any]
Labels = dict[str, str]


def base(name: str) -> str:
    return Path(name).name


@pytest.fixture
def relabelled(filled: Path) -> Labels:
    """File name -> what a person makes of it: the first group is sevens, one picture is a four, one is nothing."""
    with Store.open(filled) as store:
        groups = store.discover()
        said = {name: f"group-{group.number}" for group in groups for name in map(base, group.pictures.names)}
    first = [name for name, label in said.items() if label == "group-0"]
    return said | dict.fromkeys(first, "seven") | {first[0]: "four", first[1]: "rejected"}


def check_applied(filled: Path, said: Said, labels: Labels, changed: Path) -> None:
    """All that the labels say, and nothing else."""
    before = said("status", filled, "--json")["states"]
    done = said("apply", filled, changed, "--json")
    assert done["revision"] == 1
    assert done["classes"][-1] == "seven"
    with Store.open(filled) as store:
        held = {base(one.name): one.verdict for one in store.held(_digests(filled)).values()}
        states = store.status().states
    decided = {name: label for name, label in labels.items() if not label.startswith("group-")}
    given = {name: "rejected" if held[name].state == "rejected" else held[name].label for name in decided}
    assert given == decided
    assert states["named"] + states["rejected"] == len(decided) > 10
    assert sum(states.values()) == sum(before.values())


def _digests(filled: Path) -> list[str]:
    with Store.open(filled) as store:
        return [bytes(row[0]).hex() for row in store.database.rows("SELECT digest FROM image")]


def test_a_table_comes_back(filled: Path, tmp_path: Path, said: Said, relabelled: Labels) -> None:
    table = tmp_path / "groups.csv"
    told = said("export", filled, "--out", table, "--json")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (told["pictures"], told["left_out"]) == (len(rows), 0)
    assert {row["label"] for row in rows} >= {"group-0", "group-1"}
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": relabelled.get(row["image"], row["label"])} for row in rows)
    check_applied(filled, said, relabelled, table)


def test_coco_comes_back_without_our_own_keys(
    bench: Bench, filled: Path, tmp_path: Path, said: Said, relabelled: Labels
) -> None:
    made, changed = tmp_path / "groups.json", bench.strange.parent / "from_the_tool.json"
    said("export", filled, "--out", made)
    coco = json.loads(made.read_text())
    assert {tuple(one["bbox"]) for one in coco["annotations"]} == {(0, 0, 10, 10)}
    names = sorted({*relabelled.values(), *(one["name"] for one in coco["categories"])})
    numbers = {one["id"]: one["name"] for one in coco["categories"]}
    for image, annotation in zip(coco["images"], coco["annotations"], strict=True):
        label = relabelled.get(image["file_name"], numbers[annotation["category_id"]])
        annotation["category_id"] = names.index(label)
        annotation["bbox"] = [0.0, 0.2, 9.9, 9.8]  # as of a tool that keeps fractions
        del image["digest"]
    coco["categories"] = [{"id": i, "name": name} for i, name in enumerate(names)]
    changed.write_text(json.dumps(coco))
    check_applied(filled, said, relabelled, changed)


def test_folders_come_back_though_files_have_other_names(
    filled: Path, tmp_path: Path, said: Said, relabelled: Labels
) -> None:
    folder, back = tmp_path / "groups", tmp_path / "back"
    said("export", filled, "--out", folder)
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        home = back / relabelled.get(path.name, path.parent.name)
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, home / f"{i}.png")
    check_applied(filled, said, relabelled, back)


def test_label_studio_comes_back(filled: Path, tmp_path: Path, said: Said, relabelled: Labels) -> None:
    made, changed = tmp_path / "tasks.json", tmp_path / "project-1.json"
    said("export", filled, "--out", made, "--to", "label-studio")
    tasks = json.loads(made.read_text())
    for task in tasks:
        (result,) = task.pop("predictions")[0]["result"]
        label = relabelled.get(task["data"]["file"], result["value"]["choices"][0])
        skipped = {"was_cancelled": True, "result": [result | {"value": {"choices": ["eight"]}}]}
        task["annotations"] = [skipped, {"result": [result | {"value": {"choices": [label]}}]}]
    changed.write_text(json.dumps(tasks))
    check_applied(filled, said, relabelled, changed)


def test_what_is_left_as_it_is_decides_nothing(filled: Path, tmp_path: Path, said: Said) -> None:
    said("export", filled, "--out", tmp_path / "groups.csv")
    with Store.open(filled) as store, pytest.raises(UsageError, match="expected a decision, got none"):
        store.apply(tmp_path / "groups.csv")


def test_known_pictures_leave_under_their_class(bench: Bench, filled: Path, tmp_path: Path, said: Said) -> None:
    said("ingest", filled, bench.known)
    with Store.open(filled) as store:
        some = export_groups(store, tmp_path / "some.csv").pictures
        all_of_them = export_groups(store, tmp_path / "all.json", everything=True)
        assert all_of_them.pictures == sum(store.status().states.values()) > some
        with pytest.raises(ResourceError, match="expected a new file"):
            export_groups(store, tmp_path / "some.csv")
        with pytest.raises(UsageError, match=r"a name that ends in \.json, \.csv or nothing"):
            export_groups(store, tmp_path / "some.xml")
    (tmp_path / "all.json").rename(all_of_them.root / "all.json")
    found = read_dataset(all_of_them.root / "all.json")  # boxes around whole pictures are classes
    assert len(found) == all_of_them.pictures
    assert "zero" in found.label_space.names
    (all_of_them.root / "all.json").unlink()


def test_files_that_are_gone_are_left_out(bench: Bench, filled: Path, tmp_path: Path, said: Said) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(bench.strange, moved)
    said("ingest", filled, moved)
    (lost, *_) = sorted(moved.iterdir())
    lost.unlink()
    told = said("export", filled, "--out", tmp_path / "groups.csv", "--everything", "--json", code=3)
    assert told["left_out"] == 1
    shutil.rmtree(moved)
    with Store.open(filled) as store, pytest.raises(UsageError, match=r"none of \d+ pictures with its file"):
        export_groups(store, tmp_path / "others.csv")


def test_two_classes_for_one_picture_are_refused(filled: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(f"image,label,digest\na.png,cat,{'0' * 64}\nb.png,dog,{'0' * 64}\n")
    with Store.open(filled) as store:
        with pytest.raises(DataError, match="one class a picture"):
            store.apply(table)
        table.write_text(f"image,label,digest\na.png,cat,{'0' * 64}\n")
        with pytest.raises(UsageError, match="expected pictures of the store, got 1 others"):
            store.apply(table)
        table.write_text("image,label,digest\na.png,cat,zz\n")
        with pytest.raises(DataError, match=r"labels\.csv:2"):
            store.apply(table)


def test_a_class_comes_back_from_a_folder_that_may_not_be_called_like_it(
    filled: Path, tmp_path: Path, said: Said
) -> None:
    with Store.open(filled) as store:
        first, second = store.discover()[:2]
        store.name(first, "a/b: c")
        labelled = export_groups(store, tmp_path / "groups", everything=True)
    assert labelled.lost == ()
    (home,) = [path for path in (tmp_path / "groups").iterdir() if path.name.startswith("a_b")]
    assert len([*home.glob("*.png")]) == len(first)
    moved = second.pictures.names[0]
    (copy,) = (tmp_path / "groups").rglob(base(moved))
    copy.rename(home / "renamed.png")
    done = said("apply", filled, tmp_path / "groups", "--json")
    assert done["classes"].count("a/b: c") == 1
    with Store.open(filled) as store:
        (held,) = store.held([second.pictures.digests[0]]).values()
    assert (held.verdict.state, held.verdict.label) == ("named", "a/b: c")
