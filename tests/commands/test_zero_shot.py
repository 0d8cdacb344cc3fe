"""Zero-shot accuracy against the same thing written down a second time."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.templates import OPENAI_TEMPLATES
from tests.commands.conftest import KNOWN, PER_CLASS, UNKNOWN, Command, one_line

ALL = sorted(KNOWN + UNKNOWN)


def right(mini: cf.Backbone, data: cf.ImageDataset, templates: tuple[str, ...]) -> float:
    """Accuracy by plain numpy: mean of unit prompt features per class, nearest by cosine."""
    prompts = [cf.encode_texts(mini, [t.format(name) for t in templates]) for name in data.label_space.names]
    weights = np.stack([(p / np.linalg.norm(p, axis=1, keepdims=True)).mean(axis=0) for p in prompts])
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return float(((cf.encode_images(mini, data).features @ weights.T).argmax(axis=1) == data.labels).mean())


@pytest.mark.parametrize(("flag", "templates"), [("one", TEMPLATES[:1]), ("ensemble", TEMPLATES)])
def test_accuracy_equals_the_plain_computation(
    command: Command, mini: cf.Backbone, photos: Path, flag: str, templates: tuple[str, ...]
) -> None:
    ended = command("zero_shot", photos, "--model", "mini", "--templates", flag, "--json")
    assert (ended.code, ended.err) == (0, "")
    found, data = ended.record, cf.read_dataset(photos)
    assert found["accuracy"]["mean"] == pytest.approx(right(mini, data, templates))
    assert found["accuracy"]["mean"] > 0.6
    assert found["accuracy"]["n_test"] == len(data)
    assert found["accuracy"]["ci95"][0] < found["accuracy"]["mean"] < found["accuracy"]["ci95"][1]
    assert found["templates"] == list(templates)
    recalls = [row["recall"] for row in found["classes"].values()]
    assert np.mean(recalls) == pytest.approx(found["accuracy"]["mean"])  # equally many of each class


def test_own_templates_and_names_are_what_is_measured(
    command: Command, mini: cf.Backbone, photos: Path, tmp_path: Path
) -> None:
    """What S0 asks: is a digit better called 0 or zero, in a sentence of one's own?"""
    own, other = "a photo of the number {}", "the digit {}, of seven"
    (tmp_path / "names.txt").write_text("".join(f"{name},{place}\n" for place, name in enumerate(ALL)))
    (tmp_path / "texts.txt").write_text(f"{own}\n{other}\n")
    data, base = cf.read_dataset(photos), ("zero_shot", photos, "--model", "mini", "--json")
    digits = cf.read_dataset(photos, class_names={name: str(place) for place, name in enumerate(ALL)})
    for asked, templates, named in (
        (("--template", own), (own,), data),
        (("--template", own, "--template", other), (own, other), data),
        (("--templates", tmp_path / "texts.txt"), (own, other), data),
        (("--templates", "openai"), OPENAI_TEMPLATES, data),
        (("--template", own, "--class-names", tmp_path / "names.txt"), (own,), digits),
    ):
        ended = command(*base, *asked)
        assert (ended.code, ended.err) == (0, ""), asked
        assert ended.record["templates"] == list(templates)
        assert list(ended.record["classes"]) == list(named.label_space.names)
        assert ended.record["accuracy"]["mean"] == pytest.approx(right(mini, named, templates))


def test_a_wrong_text_or_name_is_refused_before_any_picture_is_read(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    one_line(command("zero_shot", "nowhere", "--template", "a photo"), 2, "--template: expected one {}", "'a photo'")
    one_line(command("zero_shot", "nowhere", "--templates", "opnai"), 2, "--templates: expected one of one, ensemble")
    ended = command("zero_shot", photos, "--model", "mini", "--class-names", tmp_path / "names.txt")
    one_line(ended, 2, "names.txt: expected 7 names, one per class, got 2")


def test_the_text_has_a_line_per_class(command: Command, photos: Path) -> None:
    lines = command("zero_shot", photos, "--model", "mini").out.splitlines()
    assert f"{PER_CLASS * 7} pictures of 7 classes, mini, {len(TEMPLATES)} prompts per class" in lines[0]
    assert lines[1].startswith("accuracy 0.")
    assert re.fullmatch(r"NLL \d.*\], Brier 0.*\], ECE 0.*\]", lines[2])
    assert [line.split()[0] for line in lines[5:]] == sorted(KNOWN + UNKNOWN)
    assert {line.split()[-1] for line in lines[5:]} == {str(PER_CLASS)}


def test_a_test_part_of_the_source_is_what_is_measured(command: Command, photos: Path, tmp_path: Path) -> None:
    for side, chosen in (("train", slice(0, 10)), ("test", slice(10, 13))):
        for name in ("zero", "one"):
            (tmp_path / side / name).mkdir(parents=True)
            for path in sorted((photos / name).iterdir())[chosen]:
                shutil.copy(path, tmp_path / side / name)
    found = command("zero_shot", tmp_path, "--model", "mini", "--json").record
    assert found["accuracy"]["n_test"] == 6


def test_one_picture_is_ranked(command: Command, photos: Path) -> None:
    path = sorted((photos / "zero").iterdir())[0]
    found = command("zero_shot", photos, "--model", "mini", "--image", path, "--json").record
    values = [row["probability"] for row in found["top"]]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    assert sum(values) <= 1 + 1e-6
    assert found["top"][0]["class"] == "zero"
    text = command("zero_shot", photos, "--model", "mini", "--image", path).out.splitlines()
    assert text[1].split()[0] == "zero"
    assert len(text) == 6


def test_mistakes_are_one_line(command: Command, photos: Path) -> None:
    one_line(command("zero_shot", photos / "zero", "--model", "mini"), 2, "expected labelled images")
    one_line(command("zero_shot", photos, "--model", "midi"), 2, "'midi'")
    one_line(command("zero_shot", "nowhere"), 2, "nothing there")
    one_line(command("zero_shot", photos, "--model", "mini", "--image", "nowhere.png"), 2, "[missing]")
    one_line(command("zero_shot", photos, "--model", "mini", "--image", photos), 2, "expected a picture, got a folder")
    one_line(command("zero_shot", ""), 2, "DATA: expected pictures, got an empty name")
    one_line(command("zero_shot", photos, "--data", photos), 2, "expected DATA once")


def test_names_that_the_model_cannot_tell_are_said(command: Command, photos: Path, tmp_path: Path) -> None:
    """The shipped model has read no word but those of its captions: all others are one text."""
    strange = {"one": "newt", "two": "toad"}
    (tmp_path / "names.txt").write_text("".join(f"{name},{strange.get(name, name)}\n" for name in ALL))
    ended = command("zero_shot", photos, "--model", "mini", "--class-names", tmp_path / "names.txt")
    assert ended.code == 0
    assert "2 class names are the same text to mini: newt, toad" in ended.err
    assert command("zero_shot", photos, "--model", "mini").err == ""
