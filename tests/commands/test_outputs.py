"""No output replaces what this library did not write: each output x each target, before any picture is read."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.commands.cli.parser import flat_fields
from clip_fewshot.commands.cli.run import run
from clip_fewshot.commands.cli.values import arms_of, item_of
from clip_fewshot.config import FewShotConfig
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.trainer import train_contrastive
from clip_fewshot.contrastive.tuned_files import save_tuned
from clip_fewshot.features.table import write_features
from clip_fewshot.runtime.artifacts import save_artifact
from clip_fewshot.runtime.files import remove_half_files, replace_file
from clip_fewshot.runtime.outputs import (
    FILE_MARK,
    FOLDER_MARK,
    SOURCES,
    FolderKind,
    check_file,
    check_folder,
    mark_folder,
)
from tests.commands.test_commands import MODULES

LIKE_OURS = ("results.json", "model.safetensors", "metrics.jsonl", "compare.json", "gap.json", "store.sqlite3")
TARGETS = ("out", "grid", "record", "resume")  # options that say where to write
# Output of a command -> what is typed before it. IN is what the command reads; "" where it reads nothing.
FILES = {
    ("linear_probe", "--grid"): ("IN",),
    ("predict", "--grid"): ("IN", "IN"),
    ("open-world review", "--out"): ("IN",),
    ("embed", "--out"): ("IN",),
    ("export", "--out"): ("IN",),
    ("experiments.benchmark", "--record"): (),
}
FOLDERS = {
    ("few_shot", "--out"): ("IN",),
    ("few_shot", "--resume"): ("IN",),
    ("shots", "--out"): ("IN",),
    ("compare", "--out"): ("IN",),
    ("modality_gap", "--out"): ("IN",),
    ("novelty", "--out"): ("IN",),
    ("finetune", "--out"): ("IN",),
    ("finetune", "--resume"): ("IN",),
    ("pretrain", "--out"): ("IN",),
    ("pretrain", "--resume"): ("IN",),
    ("open-world init", "STORE"): (),
    ("experiments.glyphs.command", "--out"): (),
}
# None of ours is replaced either: test_predict.py, test_results.py, open_world/test_export.py.
ALWAYS_NEW = {(name, "--out") for name in ("predict", "open-world predict", "results", "open-world export")}
READ = SOURCES | {"root", "folder"}  # options with the path of something that is read
NAMES = {  # options with words that are no path
    *("model", "models", "unseen", "approaches", "detector", "detectors", "discoverer", "method", "device", "storage"),
    *(
        "columns",
        "format",
        "template",
        "trust",
        "text",
        "prompt",
        "hide",
        "name",
        "reference",
        "preset",
        "arch",
        "cases",
    ),
    *("unfreeze", "lock", "head", "optimizer", "category", "precision", "state_dtype", "text_weights"),
    "sort_into",  # a new folder always, see test_predict.py
    *("experiment", "arguments", "docker_image", "shm_size", "runs", "gpus"),
}


def test_no_output_of_any_command_is_forgotten() -> None:
    """Each option with a text or a path is one that is read, one that is no path, or one in the tables above."""
    found = set()
    for name, module in MODULES.items():
        for field, hint, _ in flat_fields(import_module(module).Options):
            if field.name in TARGETS:
                found.add((name, "--" + field.name))
                assert "overwrite" in {other.name for other, _, _ in flat_fields(import_module(module).Options)}, name
            elif "choices" not in field.metadata and {item_of(arm) for arm in arms_of(hint)} & {str, Path}:
                assert field.name in READ | NAMES, f"{name}: {field.name} is not known to be read"
    assert found == {key for key in FILES | FOLDERS if key[1] != "STORE"} | ALWAYS_NEW


OPENED: list[str] = []


@pytest.fixture
def opened() -> list[str]:
    """The files that are opened meanwhile."""
    if not OPENED:  # a hook cannot be taken off again
        sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" else None)
        OPENED.append("begun")
    return OPENED


def digest(root: Path) -> str:
    """Of all names, links and bytes below a folder."""
    lines = []
    for path in sorted(root.rglob("*")):
        what = f"-> {os.readlink(path)}" if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        lines.append(f"{path.relative_to(root)} {what!r}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def mine(place: Path, photos: Path) -> Path:
    """A folder of a user's, with what looks like results, a model and pictures."""
    for name in ("report.html", "results.json", "run.json", "compare.csv", "config.json", "notes.txt"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text('{"mine": 1}')
    for path in sorted(photos.rglob("*.png"))[:2]:
        (place / "one").mkdir(exist_ok=True)
        (place / "one" / path.name).write_bytes(path.read_bytes())
    return place


def targets(root: Path, photos: Path, suffix: str) -> dict[str, Path]:
    """What may lie where an output is sent."""
    folder, file = mine(root / "mine", photos), root / f"drawing{suffix}"
    file.write_text("mine")
    (root / f"linked{suffix}").symlink_to(file)
    (root / "linked").symlink_to(folder)
    (root / f"nowhere{suffix}").symlink_to(root / "gone")
    (root / f"folder{suffix}.d{suffix}").mkdir()
    (root / f"folder{suffix}.d{suffix}" / "notes.txt").write_text("mine")
    (alike := root / "alike").mkdir()
    for name in LIKE_OURS:
        (alike / name).write_text("mine")
    found = {
        "file": file,
        "names like ours": alike,
        "link": root / f"linked{suffix}",
        "broken link": root / f"nowhere{suffix}",
    }
    return found | {"folder": root / f"folder{suffix}.d{suffix}", "linked folder": root / "linked", "data": folder}


def call(name: str, words: list[str]) -> int:
    module = import_module(MODULES[name])
    try:
        return run(module.main, module.Options, name, module.DESCRIPTION, words)
    except SystemExit as end:
        return int(end.code or 0)


def typed(key: tuple[str, str], target: Path, source: object) -> list[str]:
    name, flag = key
    before = [str(source) for word in (FILES | FOLDERS)[key] if word == "IN"]
    behind = [str(target), str(source)] if flag == "STORE" else [flag, str(target)]
    return [*(before if flag != "--resume" or name != "few_shot" else []), *behind]


@pytest.mark.parametrize("what", ["file", "link", "broken link", "folder", "names like ours", "linked folder", "data"])
@pytest.mark.parametrize("key", FILES | FOLDERS, ids=" ".join)
def test_what_is_not_ours_stays_as_it_was(
    key: tuple[str, str], what: str, photos: Path, tmp_path: Path, capsys: Any, opened: list[str]
) -> None:
    places = targets(tmp_path, photos, {"--grid": ".svg", "--out": ".html"}.get(key[1], ".json"))
    target, before = places[what], digest(tmp_path)
    if key[1] == "--grid" and target.suffix != ".svg":
        target = places["file"]  # the drawing itself is then what is read
    source = target if what == "data" else photos
    opened.clear()
    code = call(key[0], typed(key, target, source))
    read = [path for path in opened if path.endswith((".png", ".safetensors", ".npz", ".pt"))]
    out, err = capsys.readouterr()
    assert code in (2, 4), err
    assert (out, err.count("\n")) == ("", 1), err
    assert target.name in err
    assert digest(tmp_path) == before
    assert read == []


@pytest.mark.parametrize("key", FILES | FOLDERS, ids=" ".join)
def test_a_new_place_is_taken_and_insisting_takes_any(
    key: tuple[str, str], photos: Path, tmp_path: Path, capsys: Any
) -> None:
    """Then the command goes on to what it reads, which is not there: that is what it complains of."""
    if not (FILES | FOLDERS)[key] or key == ("few_shot", "--resume"):
        pytest.skip("it reads nothing")
    suffix = ".svg" if key[1] == "--grid" else ".html"
    old = targets(tmp_path, photos, suffix)["file" if key in FILES else "linked folder"]
    for words in ([tmp_path / f"new{suffix}"], [old, "--overwrite"]):
        call(key[0], [*typed(key, words[0], tmp_path / "absent"), *map(str, words[1:])])
        err = capsys.readouterr().err
        assert "absent" in err
        assert str(words[0]) not in err


SAVERS: dict[str, Callable[[Path, Backbone, Any, bool], Any]] = {
    "classifier": lambda place, tiny, fitted, insist: fitted.model.save(place, insist),
    "open-world classifier": lambda place, tiny, fitted, insist: fitted.save(place, insist),
    "backbone": lambda place, tiny, fitted, insist: cf.save_backbone(tiny, place, overwrite=insist),
    "tuned": lambda place, tiny, fitted, insist: save_tuned(tiny, place, insist),
    "artifact": lambda place, tiny, fitted, insist: save_artifact(place, "thing", {"a.txt": b"a"}, {}, insist),
}


@pytest.fixture(scope="module")
def fitted(mini: Backbone, split: Any) -> cf.OpenWorldClassifier:
    classifier = cf.FewShotClassifier(mini, approach="linear-probe", seed=0)
    return cf.OpenWorldClassifier(classifier, alpha=0.2).fit(split.support)


@pytest.mark.parametrize("what", ["file", "link", "broken link", "linked folder", "data"])
@pytest.mark.parametrize("name", SAVERS)
def test_python_refuses_the_same(
    name: str, what: str, tiny: Backbone, fitted: cf.OpenWorldClassifier, photos: Path, tmp_path: Path
) -> None:
    target, save = targets(tmp_path, photos, ".txt")[what], SAVERS[name]
    before = digest(tmp_path)
    with pytest.raises(cf.ClipFewShotError, match=target.name):
        save(target, tiny, fitted, False)
    assert digest(tmp_path) == before


@pytest.mark.parametrize("name", SAVERS)
def test_what_is_saved_again_is_replaced_and_what_a_person_put_there_stays(
    name: str, tiny: Backbone, fitted: cf.OpenWorldClassifier, photos: Path, tmp_path: Path
) -> None:
    save = SAVERS[name]
    save(tmp_path / "new", tiny, fitted, False)
    (tmp_path / "new" / "notes.txt").write_text("mine")
    save(tmp_path / "new", tiny, fitted, False)
    assert (tmp_path / "new" / "notes.txt").read_text() == "mine"
    foreign = mine(tmp_path / "mine", photos)
    save(foreign, tiny, fitted, True)
    assert (foreign / "notes.txt").read_text() == '{"mine": 1}'


def test_what_begins_in_python_refuses_before_it_reads(photos: Path, tiny: Backbone, tmp_path: Path) -> None:
    foreign, pictures = mine(tmp_path / "mine", photos), cf.read_images([photos])
    pairs = cf.LoaderSource([([pictures.open(0), pictures.open(1)], ["one", "two"])], tiny)
    before = digest(tmp_path)
    begun: list[Callable[[], Any]] = [
        lambda: cf.run_few_shot(FewShotConfig.of(data=str(tmp_path / "absent"), out=str(foreign))),
        lambda: train_contrastive(tiny, pairs, ContrastiveOptions(steps=1), folder=foreign),
        lambda: cf.Store.create(foreign, None),  # type: ignore[arg-type]
    ]
    for begin in begun:
        with pytest.raises(cf.ResourceError, match="holds"):
            begin()
    assert digest(tmp_path) == before


def test_a_table_of_features_is_replaced_and_another_table_is_not(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from clip_fewshot.features.table import Embedded

    part = Embedded(("a.png",), cf.FeatureSet(np.ones((1, 2), np.float32), ("0" * 64,), "me"), ())
    own, other = tmp_path / "own.parquet", tmp_path / "other.parquet"
    write_features(own, [part])
    write_features(own, [part])
    parquet.write_table(arrow.table({"path": ["a.png"], "price": [3]}), other)
    before = other.read_bytes()
    with pytest.raises(cf.ResourceError, match="another file"):
        write_features(other, [part])
    assert other.read_bytes() == before
    write_features(other, [part], overwrite=True)
    assert other.read_bytes() != before


def test_a_drawing_of_ours_is_replaced_until_somebody_has_changed_it(
    photos: Path, tmp_path: Path, command: Any
) -> None:
    out = tmp_path / "sample.svg"
    words = (photos, "--shots", "4", "--seeds", "1", "--model", "mini", "--grid", out)
    assert command("linear_probe", *words).code == 0
    assert out.read_text().endswith(FILE_MARK)
    first = out.read_bytes()
    assert command("linear_probe", *words).code == 0
    assert out.read_bytes() == first
    out.write_text(out.read_text() + "<!-- my note -->")
    refused = command("linear_probe", *words)
    assert (refused.code, refused.out) == (4, "")
    assert command("linear_probe", *words, "--overwrite").code == 0
    assert out.read_bytes() == first


def test_one_command_does_not_write_into_the_folder_of_another(photos: Path, tmp_path: Path, command: Any) -> None:
    words = (photos, "--model", "mini", "--out", tmp_path / "gap")
    assert command("modality_gap", *words).code == 0
    assert command("modality_gap", *words).code == 0
    other = command("compare", *words)
    assert other.code == 4
    assert "measured modality gap" not in other.err
    assert "comparison of methods" in other.err


def test_a_run_may_be_called_as_what_comes_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind, config = FolderKind("thing"), FewShotConfig.of(data="digits", model="mini")
    for name in ("digits", "mini"):
        mark_folder(Path(name), kind)
        assert check_folder(Path(name), kind, options=config) == Path(name)
    mark_folder(Path("photos"), kind)
    with pytest.raises(cf.ResourceError, match="that of `data`"):
        check_folder(Path("photos"), kind, options=FewShotConfig.of(data="photos"))


def test_no_results_inside_of_the_pictures(photos: Path, tmp_path: Path, command: Any) -> None:
    before, link = digest(photos), tmp_path / "link"
    link.symlink_to(photos)
    for data in (photos, link):
        refused = command("few_shot", data, "--model", "mini", "--out", photos / "run")
        assert refused.code == 4
        assert "inside of" in refused.err
        refused = command("linear_probe", data, "--model", "mini", "--grid", photos / "sample.svg")
        assert (refused.code, refused.out) == (4, "")
        assert "inside of" in refused.err
    assert digest(photos) == before


def test_what_a_kill_leaves_is_no_obstacle_and_what_looks_like_it_is(tmp_path: Path) -> None:
    kind = FolderKind("thing", (("about.json", frozenset({"a", "b"})),))
    for name, content in ((".lock", "pid 1 on here"), (".report.html.ab12.tmp", "half"), (".lock", "")):
        folder = tmp_path / f"{name}{len(content)}"
        folder.mkdir()
        (folder / name).write_text(content)
        check_folder(folder, kind)
    (tmp_path / ".lock0" / ".lock").write_text("combination 12-34-56")
    with pytest.raises(cf.ResourceError, match=r"'\.lock'"):
        check_folder(tmp_path / ".lock0", kind)


@pytest.mark.parametrize("content", ['{"a": 1}', "[" * 200_000, '["a", "b"]', "\udcff", '{"kind": "other"}'])
def test_only_its_own_mark_or_sign_makes_a_folder_ours(content: str, tmp_path: Path) -> None:
    kind = FolderKind("thing", (("about.json", frozenset({"a", "b"})),))
    for name in ("about.json", FOLDER_MARK):
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(cf.ResourceError, match="holds"):
            check_folder(tmp_path, kind)
        (tmp_path / name).unlink()
    (tmp_path / "about.json").write_text('{"a": 1, "b": 2, "c": 3}')
    check_folder(tmp_path, kind)
    (tmp_path / "about.json").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    mark_folder(tmp_path, kind)
    (tmp_path / "link").symlink_to(tmp_path)
    check_folder(tmp_path / "link", kind)  # ours behind a link: a run goes on there


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "missing/" * 600, "file.txt/inside"])
def test_a_name_that_the_system_refuses_is_one_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("mine")
    for check in (lambda path: check_folder(path, FolderKind("thing")), check_file):
        with pytest.raises(cf.ResourceError, match="a place to write to"):
            check(tmp_path / name)


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    for overwrite in (False, True):
        with pytest.raises(cf.ResourceError, match="a device"):
            check_file(Path(os.devnull), overwrite)


def test_what_a_kill_left_of_a_file_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    for name in (".table[1].parquet.ab12.tmp", ".table.parquet.cd34.tmp", "notes.tmp"):
        (tmp_path / name).write_text("half")
    with replace_file(tmp_path / "table[1].parquet") as file:
        file.write(b"more")
        remove_half_files(tmp_path, "table[1].parquet")
        assert len(list(tmp_path.glob(".*.tmp"))) == 2  # the one above, and that of another table
    (tmp_path / ".folder.tmp").mkdir()
    (tmp_path / ".link.tmp").symlink_to("nowhere")
    os.mkfifo(tmp_path / ".pipe.tmp")
    remove_half_files(tmp_path)
    foreign = {".folder.tmp", ".link.tmp", ".pipe.tmp"}
    assert {path.name for path in tmp_path.iterdir()} == {"notes.tmp", "table[1].parquet", *foreign}
