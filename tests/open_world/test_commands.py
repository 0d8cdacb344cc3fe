"""The commands over a store: what they say, what they do, and how they refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clip_fewshot.commands import STORE_COMMANDS
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.open_world.store.store import Store
from tests.open_world.conftest import Bench, command

Said = Callable[..., Any]


def review(filled: Path, said: Said, to: Path, **names: int) -> Path:
    """A saved review that gives groups names."""
    groups = said("discover", filled, "--names", "0", "--json")["groups"]
    with Store.open(filled) as store:
        given = {name: tuple(p["digest"] for p in groups[number]["pictures"]) for name, number in names.items()}
        to.write_text(json.dumps(Review(store.id, store.revision, given, {}, ()).to_json()))
    return to


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 2) -> str:
    capsys.readouterr()
    try:
        got: Any = command([*map(str, words)])
    except SystemExit as end:  # argparse's way
        got = end.code
    assert got == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_week_from_init_to_undo(bench: Bench, tmp_path: Path, said: Said) -> None:
    store = tmp_path / "shop"
    made = said("init", store, bench.model, "--json")
    assert (made["revision"], len(made["classes"])) == (0, 7)
    first = said("ingest", store, bench.known, bench.strange, "--transaction", "64", "--json")
    assert (first["new"], first["seen_before"]) == (210, 0)
    again = said("ingest", store, bench.strange, "--json")
    assert (again["new"], again["seen_before"]) == (0, 150)
    assert said("status", store, "--json")["states"]["unknown"] == first["unknown"]
    found = said("discover", store, "--json")
    low, high = found["interval"]
    assert low <= len(found["groups"]) <= high
    assert {"seven", "nine"} <= {group["names"][0]["name"] for group in found["groups"]}

    applied = said("apply", store, review(store, said, tmp_path / "r.json", seven=0), "--json")
    (report,) = applied["reports"]
    assert applied["revision"] == 1
    assert report["change"]["ci95"][0] <= report["change"]["mean"] <= report["change"]["ci95"][1]
    answers = said("predict", store, bench.fresh, "--json")["answers"]
    assert "seven" in {answer["label"] for answer in answers}
    events = said("status", store, "--history", "--json")["history"]
    assert [event["kind"] for event in events] == ["create", "name"]
    taken = said("undo", store, "--json")
    assert (taken["revision"], taken["taken_back"]) == (2, ["seven"])
    assert "seven" not in {answer["label"] for answer in said("predict", store, bench.fresh, "--json")["answers"]}


@pytest.mark.parametrize("words", [("status", "--history"), ("undo",)], ids=lambda words: words[0])
def test_what_computes_nothing_imports_no_torch(words: Sequence[str], filled: Path, tmp_path: Path, said: Said) -> None:
    said("apply", filled, review(filled, said, tmp_path / "r.json", seven=0))
    name, *more = words
    run = f"from clip_fewshot.commands import main; main(['open-world', {name!r}, {str(filled)!r}, *{more!r}])"
    done = subprocess.run(
        [sys.executable, "-c", f"{run}; import sys; print(*sys.modules, file=sys.stderr)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "seven" in done.stdout
    assert not set(done.stderr.split()) & {"torch", "scipy", "sklearn", "PIL", "matplotlib"}


def test_what_people_are_told(bench: Bench, filled: Path, tmp_path: Path, said: Said) -> None:
    assert said("ingest", filled, bench.strange) == "0 new pictures (0 known, 0 unknown); 150 seen before\n"
    assert "revision 0, backbone mini; 150 pictures" in said("status", filled)
    table = said("discover", filled)
    groups = said("discover", filled, "--json")["groups"]
    assert f"unknown pictures: {len(groups)} groups (90 % [" in table
    assert "answered known" in table
    assert "nearest known class" in table
    assert f"{len(groups)} groups, revision 0" in said("review", filled, "--out", tmp_path / "r.html")
    path = review(filled, said, tmp_path / "r.json", seven=0)
    told = said("apply", filled, path)
    assert "revision 1: 8 classes" in told
    named = f"seven ({len(groups[0]['pictures'])} pictures): "
    assert named + "what the other classes score stays the same, to the last bit" in told
    assert "On held-out pictures of the classes before, accuracy goes from" in told
    assert "was applied before, as revision 1" in said("apply", filled, path)
    assert "7 classes as before; seven taken back" in said("undo", filled)


def test_a_store_is_checked(filled: Path, said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    assert said("check", filled) == "sound: 150 pictures, 0 decisions\n"
    assert said("check", filled, "--json") == {"schema": 1, "sound": True, "pictures": 150, "revision": 0}
    with Store.open(filled) as store:
        store.database.run("UPDATE image SET score = 7 WHERE seq = 3")
    assert "image, row 3: other content than was written" in refused(capsys, "check", filled)


def test_a_review_of_an_older_state_is_refused_and_changes_nothing(
    filled: Path, tmp_path: Path, said: Said, capsys: pytest.CaptureFixture[str]
) -> None:
    old = review(filled, said, tmp_path / "old.json", nine=1)
    said("apply", filled, review(filled, said, tmp_path / "new.json", seven=0))
    before = said("status", filled)
    told = refused(capsys, "apply", filled, old)
    assert "expected a review of revision 1, got one of 0; make a new review" in told
    assert said("status", filled) == before


def test_a_watch_tells_when_something_new_arrives(bench: Bench, tmp_path: Path, said: Said) -> None:
    store = tmp_path / "shop"
    said("init", store, bench.model)
    rare = ("--stream-alpha", "0.00001")  # which half of the known teaches is drawn by the last bits of their features
    assert "nothing new is arriving" in said("watch", store, bench.known, *rare)
    seen = said("watch", store, bench.strange, "--json", code=5)
    assert seen["arriving"]
    assert seen["fresh"]
    assert (seen["looked_at"], seen["pictures"]) == (150, 210)
    assert "A NEW CATEGORY was arriving before" in said("watch", store, code=5)
    assert said("watch", store, "--restart", "--json")["pictures"] == 0


def test_names_from_a_list_of_ones_own(filled: Path, tmp_path: Path, said: Said) -> None:
    words = tmp_path / "words.txt"
    words.write_text("axolotl\n\nseven\n")
    (first, *_) = said("discover", filled, "--words", words, "--json")["groups"]
    assert {one["name"] for one in first["names"]} == {"axolotl", "seven"}
    (first, *_) = said("discover", filled, "--names", "0", "--json")["groups"]
    assert first["names"] == []


def test_pictures_that_cannot_be_read_are_listed_and_the_rest_is_done(
    bench: Bench, filled: Path, tmp_path: Path, said: Said
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name in ("ingest", "watch", "predict"):
        told = said(name, filled, bench.fresh, tmp_path / "broken.png", "--json", code=5 if name == "watch" else 3)
        assert told["schema"] == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("status missing", "expected a folder with a store"),
        ("init STORE MODEL", "expected a folder without a store"),
        ("ingest STORE missing.png", "cannot be read"),
        ("ingest STORE", "PICTURES"),
        ("ingest STORE x --transaction 0", "1 or more"),
        ("discover STORE --words missing.txt", "a readable text file"),
        ("discover STORE", "expected unknown pictures, got none"),
        ("review STORE --shown 0", "1 or more"),
        ("apply STORE missing.json", "expected a saved review, got No such file or directory; check the path"),
        ("apply STORE PAGE", "give the review.json that it saves"),
        ("undo STORE", "expected a decision to take back, got none: the store is as it was made"),
        ("watch STORE --stream-alpha 2", "between 0 and 1"),
        ("dance STORE", "one of init, ingest"),
    ],
)
def test_mistakes_are_one_line(
    bench: Bench, empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, why: str
) -> None:
    page = tmp_path / "review.html"
    page.write_text("<!doctype html>")
    places = {"STORE": empty, "MODEL": bench.model, "PAGE": page}
    assert why in refused(capsys, *(places.get(word, word) for word in words.split()))


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name}" in listed for name in STORE_COMMANDS)
    for name in STORE_COMMANDS:
        with pytest.raises(SystemExit) as end:
            command([name, "--help"])
        assert end.value.code == 0
        assert "STORE" in capsys.readouterr().out
    assert command([]) == 2


def test_names_are_chosen_by_own_templates(filled: Path, tmp_path: Path, said: Said) -> None:
    (tmp_path / "words.txt").write_text("seven\nnine\nrabbit\n")
    asked = ("discover", filled, "--words", tmp_path / "words.txt", "--json")
    usual, own = said(*asked), said(*asked, "--template", "the number {}", "--template", "one {}")
    assert [group["pictures"] for group in usual["groups"]] == [group["pictures"] for group in own["groups"]]
    assert usual["groups"][0]["names"] != own["groups"][0]["names"]
    assert {name["name"] for name in own["groups"][0]["names"]} == {"seven", "nine", "rabbit"}


def test_pictures_of_another_camera_are_told_from_new_classes(
    bench: Bench, empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shutil.copytree(empty, tmp_path / "store")
    washed = tmp_path / "washed"
    washed.mkdir()
    for path in sorted(bench.known.iterdir()):
        with Image.open(path) as picture:  # ink of which half is there, on paper that is not white
            picture.convert("L").point(lambda value: value // 2 + 90).save(washed / path.name)
    assert command(["ingest", str(store), str(washed), "--json"]) == 0
    ended = capsys.readouterr()
    assert json.loads(ended.out)["shift"]["verdict"] in ("shift", "shift or new")
    assert "another camera or style" in ended.err
    assert "train with labelled pictures from there" in ended.err
    assert command(["predict", str(store), str(washed), "--json"]) == 0
    ended = capsys.readouterr()
    assert json.loads(ended.out)["shift"]["verdict"] in ("shift", "shift or new")
    assert "another camera or style" in ended.err
    assert command(["watch", str(store), "--stream-alpha", "0.9"]) == 5
    assert "ANOTHER CAMERA OR STYLE" in capsys.readouterr().out
    assert command(["predict", str(store), str(bench.known), "--json"]) == 0
    ended = capsys.readouterr()
    assert (json.loads(ended.out)["shift"]["verdict"], ended.err) == ("same", "")
