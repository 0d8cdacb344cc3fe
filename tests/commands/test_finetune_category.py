"""A category before each caption: read off the words, never off the test side's classes, and compared in pairs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.protocol.caption_categories import add_categories, compare_recall, head_captions
from clip_fewshot.protocol.retrieval import find_candidates, measure_cosines, measure_recall, recall_values
from tests.commands.conftest import Command, one_line

QUICK = ("--model", "mini", "--passes", 1, "--batch", 16, "--head", "none", "--backbone-lr", 1e-4)
COLUMNS = ("image", "caption", "label", "split")
Write = Callable[..., Path]


@pytest.fixture
def write(photos: Path, tmp_path: Path) -> Write:
    """A table of digit pictures, a row each as ``row(name, i)`` says; every third picture is for testing."""

    def table(name: str, row: Callable[[str, int], tuple[str, str]]) -> Path:
        path = photos.with_name(f"{tmp_path.name}-{name}")
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for i, picture in enumerate(sorted(photos.glob("*/*.png"))):
                caption, label = row(picture.parent.name, i)
                rows.writerow([picture.relative_to(path.parent), caption, label, "test" if i % 3 == 0 else "train"])
        return path

    return table


def files_of(run: Path) -> dict[str, bytes]:
    """All that a run wrote, but for what holds times."""
    found = [path for path in run.rglob("*") if path.is_file()]
    timed = (".lock", "metrics.jsonl", "results.json")
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in found if path.name not in timed}


def timeless(record: Any) -> Any:
    return {key: value for key, value in record.items() if key not in ("data", "seconds", "folder")}


def test_permuting_the_test_categories_changes_no_byte(
    command: Command, write: Write, mini: cf.Backbone, tmp_path: Path
) -> None:
    names = ("zero", "one", "two", "three", "four", "six", "seven")

    def other(name: str, i: int) -> str:
        return names[(names.index(name) + 3) % 7] if i % 3 == 0 else name

    tables = [
        write("right.csv", lambda name, i: (f"a photo of a {name}", name)),
        write("permuted.csv", lambda name, i: (f"a photo of a {name}", other(name, i))),
    ]
    runs = [tmp_path / "right", tmp_path / "permuted"]
    right, permuted = (
        command("finetune", table, "--out", run, *QUICK, "--category", "predicted", "--json")
        for table, run in zip(tables, runs, strict=True)
    )
    assert (right.code, permuted.code) == (0, 0)
    assert right.err == permuted.err
    assert files_of(runs[0]) == files_of(runs[1])
    assert timeless(right.record) == timeless(permuted.record)
    assert right.record["category"]["right"]["mean"] > 0.9  # the words say the category
    known, mixed = map(cf.read_dataset, tables)
    twice = [add_categories(data, data, "column", mini, seed=0, truncate=False) for data in (known, mixed)]
    assert twice[0].held.captions != twice[1].held.captions  # the column is looked at where it is asked for
    assert [headed.right for headed in twice] == [None, None]


def test_recall_with_and_without_is_compared_picture_by_picture(
    command: Command, write: Write, mini: cf.Backbone, tmp_path: Path
) -> None:
    table = write("numbers.csv", lambda name, i: (f"x{i}", f"a photo of a {name}"))
    chosen = ("--out", tmp_path / "run", *QUICK, "--category", "column")
    ended = command("finetune", table, *chosen, "--json")
    found = ended.record["category"]
    assert found["kind"] == "column"
    held = cf.read_dataset(table)
    held = held.subset([i for i, part in enumerate(held.partition) if part == "test"])
    with_names = replace(held, captions=head_captions(held.captions or (), held.label_space.decode(held.labels)))  # type: ignore[arg-type]
    models = (
        cf.load_backbone(tmp_path / "run" / folder, device="cpu") for folder in ("model", "without_category/model")
    )
    sides = [(model, part) for model, part in zip(models, (with_names, held), strict=True)]
    recalls = [measure_recall(model, part) for model, part in sides]
    for key, difference in found["difference"].items():
        assert ended.record["after"][key]["mean"] == pytest.approx(recalls[0][key]["mean"])
        assert found["without"]["after"][key]["mean"] == pytest.approx(recalls[1][key]["mean"])
        assert difference["mean"] == pytest.approx(recalls[0][key]["mean"] - recalls[1][key]["mean"])
        assert difference["ci95"][0] <= difference["mean"] <= difference["ci95"][1]
    better = found["difference"]["text to image, recall@5"]
    assert better["ci95"][0] > 0  # the number of a picture says nothing of it
    lines = command("finetune", table, "--resume", tmp_path / "run", *QUICK, "--category", "column").out.splitlines()
    head = next(line for line in lines if line.startswith("category before the caption: column"))
    assert head.split()[-3:] == ["with", "without", "difference"]
    one_line(command("finetune", table, "--resume", tmp_path / "run", *QUICK), 2, "another category")


def test_the_difference_is_that_of_the_pictures(tiny: cf.Backbone, write: Write) -> None:
    data = cf.read_dataset(write("t.csv", lambda name, i: (f"a photo of a {name}", name)))
    among = find_candidates(tiny, data)
    values = recall_values(measure_cosines(tiny, among), among.belongs)
    for key, row in measure_recall(tiny, data).items():
        assert values[key].mean() == pytest.approx(row["mean"])
    nothing = {key: np.zeros_like(of_each) for key, of_each in values.items()}
    for key, row in compare_recall(values, nothing).items():
        assert row["mean"] == pytest.approx(values[key].mean())
    same = compare_recall(values, values)["image to text, recall@1"]
    assert (same["mean"], same["p_value"]) == (0, 1)
    assert same["ci95"][0] < 0 < same["ci95"][1]


def test_no_caption_is_read_by_a_model_that_knows_its_picture(tiny: cf.Backbone, write: Write) -> None:
    """Classes by a coin, two equal captions a picture: what knows the other caption of a picture knows all."""
    rng = np.random.default_rng(0)
    coins = rng.integers(0, 2, 112)
    once = cf.read_dataset(write("t.csv", lambda name, i: (f"number {i} of {hash_word(i)}", str(coins[i]))))
    data = once.subset(np.repeat(np.arange(len(once)), 2))
    kept, held = (
        data.subset([i for i, part in enumerate(data.partition) if part == side]) for side in ("train", "test")
    )
    found = add_categories(kept, held, "predicted", tiny, seed=0, truncate=False)
    assert found.right is not None
    assert found.right["mean"] < 0.65
    again = add_categories(kept, kept, "predicted", tiny, seed=0, truncate=False).held
    names = kept.label_space.decode(kept.required_labels())
    assert np.mean([c.startswith(f"{n}: ") for c, n in zip(again.captions or (), names, strict=True)]) > 0.75
    assert (found.kept.labels, found.held.labels) == (None, None)
    assert [c.partition(": ")[2] for c in found.held.captions or ()] == list(held.captions or ())


def hash_word(i: int) -> str:
    return "".join(chr(97 + (i * k) % 26) for k in (3, 7, 11, 17))


def test_a_category_of_one_picture_is_taken(tiny: cf.Backbone, write: Write) -> None:
    data = cf.read_dataset(write("t.csv", lambda name, i: (f"picture {i}", "rare" if i == 4 else "common")))
    found = add_categories(data, data, "predicted", tiny, seed=0, truncate=False)
    assert {c.partition(":")[0] for c in found.kept.captions or ()} == {"common"}


def test_mistakes_are_one_line(command: Command, write: Write, photos: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run", *QUICK)
    one_line(
        command("finetune", photos, *out, "--category", "column", "--held-out", 0.4),
        2,
        "--category",
        "captioned pictures",
    )
    one_class = write("one.csv", lambda name, i: (f"a {name}", "digit"))
    one_line(command("finetune", one_class, *out, "--category", "predicted"), 2, "2 categories or more")
    long = write("long.csv", lambda name, i: (" ".join(["word"] * 74), name))
    one_line(command("finetune", long, *out, "--category", "column"), 2, "--truncate")
    one_line(command("finetune", long, *out, "--category", "given"), 2, "column")
    assert not (tmp_path / "run").exists()
