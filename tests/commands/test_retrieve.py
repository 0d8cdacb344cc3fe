"""Texts for pictures and pictures for texts, against plain numpy; the gap between the two."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.runtime.files import read_json
from tests.commands.conftest import Command, one_line


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def captioned(photos: Path) -> Path:
    """A table with two captions for each of some digit pictures."""
    table = photos.with_name("photos-captions.csv")
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for picture in sorted(photos.glob("*/*.png"))[::7]:
            for caption in (f"a photo of a {picture.parent.name}", f"the digit {picture.parent.name}"):
                rows.writerow([picture.relative_to(table.parent), caption])
    return table


def test_pictures_for_a_text_are_the_nearest(command: Command, mini: cf.Backbone, photos: Path) -> None:
    found = command("retrieve", photos, "--model", "mini", "--text", "a photo of a seven", "--top", 3, "--json").record
    data = cf.read_dataset(photos)
    cosines = unit(cf.encode_images(mini, data).features) @ unit(cf.encode_texts(mini, ["a photo of a seven"]))[0]
    best = np.argsort(-cosines)[:3]
    assert [row["image"] for row in found["top"]] == [data.names[i] for i in best]
    np.testing.assert_allclose([row["cosine"] for row in found["top"]], cosines[best], atol=1e-5)
    assert all("seven" in row["image"] for row in found["top"])


def test_prompts_for_a_picture_have_probabilities(command: Command, mini: cf.Backbone, photos: Path) -> None:
    picture = next((photos / "two").iterdir())
    ended = command(
        "retrieve",
        photos,
        "--model",
        "mini",
        "--image",
        picture,
        "--prompt",
        "a two, red",
        "--prompt",
        "a six",
        "--json",
    )
    top = ended.record["top"]
    assert [row["text"] for row in top] == ["a two, red", "a six"]
    assert sum(row["probability"] for row in top) == pytest.approx(1)
    scale = float(mini.logit_scale.detach().exp())
    odds = np.exp(scale * (top[0]["cosine"] - top[1]["cosine"]))
    assert top[0]["probability"] / top[1]["probability"] == pytest.approx(odds, rel=1e-4)


def test_one_candidate_has_no_probability(command: Command, photos: Path) -> None:
    picture = next((photos / "two").iterdir())
    one = ("retrieve", "--model", "mini", "--image", picture, "--prompt", "a two")
    (row,) = command(*one, "--json").record["top"]
    assert (row["text"], row["probability"]) == ("a two", None)
    assert -1 <= row["cosine"] <= 1
    assert command(*one).out.splitlines()[-1].split()[-1] == "-"
    assert command(*one, "--prompt", "a two", "--json").record["top"] == [row]  # said twice, one candidate


def test_templates_about_each_class_are_candidates(command: Command, photos: Path) -> None:
    picture = next((photos / "two").iterdir())
    asked = ("retrieve", photos, "--model", "mini", "--image", picture, "--json")
    assert command(*asked).record["candidates"] == 7
    found = command(*asked, "--template", "the number {}", "--template", "one {}, no more").record
    assert found["candidates"] == 14
    assert found["top"][0]["text"] in ("the number two", "one two, no more")
    assert sum(row["probability"] for row in found["top"]) <= 1 + 1e-6


def test_captions_are_candidates_once_each(command: Command, captioned: Path, photos: Path) -> None:
    picture = next((photos / "one").iterdir())
    ended = command("retrieve", captioned, "--model", "mini", "--image", picture)
    assert ended.code == 0
    assert ended.out.splitlines()[0].endswith("best of 14")  # seven classes, two captions each
    assert len(ended.out.splitlines()) == 3 + 5
    images = command("retrieve", captioned, "--model", "mini", "--text", "a one", "--json").record
    assert images["candidates"] == len(set(cf.read_dataset(captioned).digests))


def test_mistakes_are_one_line(command: Command, photos: Path) -> None:
    one_line(command("retrieve", photos), 2, "one of --image and --text")
    one_line(command("retrieve", photos, "--text", "a", "--prompt", "b"), 2, "--prompt")
    one_line(command("retrieve", photos, "--text", "a " * 100, "--model", "mini"), 2, "77")
    assert command("retrieve", photos, "--text", "a " * 100, "--model", "mini", "--truncate").code == 0


def test_the_gap_is_that_of_the_means(command: Command, mini: cf.Backbone, captioned: Path, tmp_path: Path) -> None:
    cf.save_backbone(mini, tmp_path / "tuned")
    ended = command(
        "modality_gap", captioned, "--model", "mini", "--tuned", tmp_path / "tuned", "--out", tmp_path / "gap", "--json"
    )
    found = ended.record["models"]
    data = cf.read_dataset(captioned)
    once = data.subset(np.unique(data.digests, return_index=True)[1])
    images, texts = unit(cf.encode_images(mini, once).features), unit(cf.encode_texts(mini, sorted(set(data.captions))))
    assert found["before"]["gap"] == pytest.approx(np.linalg.norm(images.mean(0) - texts.mean(0)), abs=1e-5)
    assert found["before"]["spread"]["images"] == pytest.approx(np.sqrt(1 - (images.mean(0) ** 2).sum()), abs=1e-5)
    assert found["after"]["gap"] == pytest.approx(found["before"]["gap"], abs=1e-5)
    assert (found["before"]["n_images"], found["before"]["n_texts"]) == (len(once), 14)
    assert "<svg" in (tmp_path / "gap" / "before.svg").read_text()
    assert read_json(tmp_path / "gap" / "gap.json")["models"] == found
    lines = command("modality_gap", captioned, "--model", "mini", "--out", tmp_path / "gap").out.splitlines()
    assert len(lines) == 2


def test_the_gap_is_written_nowhere_unless_a_folder_is_named(
    command: Command, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("modality_gap", captioned, "--model", "mini", "--json")
    assert (ended.code, ended.record["models"]["before"]["plot"]) == (0, None)
    assert command("modality_gap", captioned, "--model", "mini").out.splitlines()[1].split()[-1] == "-"
    assert list(tmp_path.iterdir()) == []
