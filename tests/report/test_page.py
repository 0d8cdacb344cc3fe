"""The page: whole, harmless, self-contained, and readable without seeing it."""

from __future__ import annotations

import base64
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_fewshot.errors import ArtifactError
from clip_fewshot.plots.views import EmbeddingView
from clip_fewshot.report.page import render_page, write_report
from clip_fewshot.report.pictures import hash_source, thumbnail_uri
from clip_fewshot.report.record import PredictionExample
from tests.report import sample

SECTIONS = (
    "results",
    "probabilities",
    "classes",
    "predictions",
    "novelty",
    "discovery",
    "embeddings",
    "search",
    "repeat",
    "glossary",
)
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not close in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in {"style", "script"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_every_section_and_its_figure_is_there(page: Page) -> None:
    assert [attrs["id"] for attrs in page.all("section")] == list(SECTIONS)
    svgs = [a for a in page.all("img") if str(a["src"]).startswith("data:image/svg+xml")]
    assert len(svgs) == 8  # shots, reliability, densities, DET, dendrogram, two embeddings, history
    assert 'class="none"' not in page.text
    assert "No " not in page.text.replace("No tuned", "")


def test_the_headline_comes_first_with_intervals_and_the_best_marked(page: Page, source: str) -> None:
    assert page.text.index("frozen probe 0.929 [0.908, 0.950] 0.928 503 C 12.6") < page.text.index("Class by class")
    assert "mlp-arcface chosen 0.952 [0.932, 0.972] 0.951 503 backbone lr 3.2e-05" in page.text
    assert source[: source.index('id="novelty"')].count('class="tag"') == 1


def test_each_method_says_whether_its_probabilities_are_right(page: Page) -> None:
    assert "frozen probe 0.210 [0.190, 0.230] 0.105 [0.085, 0.125] 0.023 [0.013, 0.033]" in page.text


def test_what_was_selected_the_difference_and_the_warnings_are_told(page: Page) -> None:
    for said in ("It beats frozen probe (+0.023 [0.009, 0.037]", "validation folds", "edge of its range"):
        assert said in page.text


def test_nothing_is_loaded_from_elsewhere(page: Page, source: str) -> None:
    for tag, attrs in page.tags:
        assert tag not in {"iframe", "object", "embed", "base"}
        for key, value in attrs.items():
            assert not key.startswith("on")
            if key in {"src", "href", "srcset", "action", "data"}:
                assert str(value).startswith(("#", "data:")), (tag, key)
    assert "http:" not in source
    assert "https:" not in source
    assert "url(" not in source
    assert "@import" not in source
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    (script,) = re.findall(r"<script>(.+?)</script>", source, re.DOTALL)  # one, and no other may run
    assert f"script-src 'sha256-{hash_source(script)}';" in str(policy)


def test_it_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert all(str(a.get("alt", "")).strip() for a in page.all("img"))
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in page.all("a")} <= set(ids)
    assert {a["aria-labelledby"] for _, a in page.tags if a.get("aria-labelledby")} <= set(ids)
    assert all(a.get("scope") in {"row", "col"} for a in page.all("th") if not a.get("aria-hidden"))
    levels = [int(tag[1]) for tag, _ in page.tags if tag in {"h1", "h2", "h3"}]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(a.get("aria-describedby") in ids for a in page.all("a") if a.get("class") == "term")
    scrolling = [a for _, a in page.tags if a.get("class") == "scroll"]
    assert scrolling
    assert all(a["tabindex"] == "0" and (a.get("aria-label") or a.get("aria-labelledby")) for a in scrolling)


def test_equal_runs_are_equal_pages(source: str) -> None:
    assert render_page(sample.results(), sample.record()) == source


def test_a_page_of_digits_is_small(source: str) -> None:
    assert len(source.encode()) < 1_000_000


def test_hostile_names_are_only_text(hostile_source: str) -> None:
    source, page = hostile_source, Page(hostile_source)
    assert {tag for tag, _ in page.tags} & {"img", "b", "svg"} == {"img", "b"}
    assert len(page.all("script")) == 1
    assert all(not key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert all(str(a["src"]).startswith("data:image/") for a in page.all("img"))
    assert not set(source) & set("\x00\x1b\u202e\udcff")
    source.encode("utf-8")
    assert "{{ 7 * 7 }}" in page.text
    assert "alert(1)" in page.text
    assert "../../x" in page.text
    drawn = [base64.b64decode(str(a["src"]).split(",")[1]).decode() for a in page.all("img") if "svg" in str(a["src"])]
    assert drawn
    assert all("<script" not in svg and "\x1b" not in svg and "\u202e" not in svg for svg in drawn)


NOTHING_UNSEEN = {"dataset": sample.results()["dataset"] | {"unseen": []}, "novelty": None, "discovery": None}
NO_DETECTOR = {"novelty": None, "discovery": None}
LEFT_OUT = [
    (NOTHING_UNSEEN, {}, "No class was held out as unseen, so there was nothing to tell apart."),
    (NOTHING_UNSEEN, {}, "No class was held out as unseen, so no group was looked for."),
    (NO_DETECTOR, {}, "3 classes were held out as unseen, but nothing was there to calibrate a detector on"),
    (NO_DETECTOR, {}, "No image could be flagged as unknown, so no group was looked for."),
    ({}, {"discovery": None}, "No image was flagged as unknown, so there was nothing to group."),
    ({}, {"discovery": sample.discovery(())}, "No image was flagged as unknown, so there was nothing to group."),
    ({}, {}, "No example predictions were recorded"),
    ({}, {}, "No embeddings were recorded"),
    ({}, {}, "No confusion matrix was recorded"),
    ({}, {}, "No trial was run."),
]


@pytest.mark.parametrize(("changed", "recorded", "says"), LEFT_OUT)
def test_what_a_run_did_not_measure_is_said(changed: dict[str, Any], recorded: dict[str, Any], says: str) -> None:
    page = Page(render_page(sample.results(**changed), sample.bare(**recorded)))
    assert says in page.text
    assert [attrs["id"] for attrs in page.all("section")] == list(SECTIONS)


def test_the_barest_run_still_makes_a_page() -> None:
    results = sample.results(zero_shot=None, raw_pixels=None, warnings=[], artifacts={}, **NOTHING_UNSEEN)
    page = Page(render_page(results, sample.bare()))
    assert page.all("img") == []
    assert "Read this first" in page.text  # one trial failed


def test_a_refused_alpha_keeps_the_scores_and_says_why() -> None:
    refused = sample.results()["novelty"] | {
        "false_alarm_rate": None,
        "detection_rate": None,
        "refused": "it takes 99 known images",
    }
    refused |= {"features": "frozen", "n_neighbors": 1}
    view = replace(sample.novelty(), threshold=None)
    page = Page(render_page(sample.results(novelty=refused), sample.bare(novelty=view)))
    assert "by the local outlier factor on frozen features with 1 neighbour." in page.text
    assert "left of the threshold" not in page.text
    assert "A false-alarm rate of 0.05 was refused: it takes 99 known images." in page.text
    assert "No false-alarm threshold is in use" in page.text


def test_a_method_without_seeds_of_its_own_keeps_its_row() -> None:
    once = sample.accuracy(0.794) | {"per_seed": [0.794]}
    assert "zero-shot 0.794 (not by seed)" in Page(render_page(sample.results(zero_shot=once), sample.bare())).text


@pytest.mark.parametrize(
    ("true", "top", "unknown", "says", "css"),
    [
        ("one", "one", False, "right", "good"),
        ("one", "two", None, "wrong", "bad"),
        ("one", "one", True, "flagged as unknown, a false alarm", "bad"),
        ("nine", "one", True, "flagged as unknown, rightly", "good"),
        ("nine", "one", False, "unseen class, not flagged", "bad"),
        (None, "one", True, "flagged as unknown", None),
    ],
)
def test_a_prediction_is_judged(true: str | None, top: str, unknown: bool | None, says: str, css: str | None) -> None:
    example = PredictionExample(sample.glyph("1"), true, ((top, 0.9),), unknown, 0.2)
    source = render_page(sample.results(), sample.bare(predictions=(example,)))
    assert says in Page(source).text
    assert [css] == [c for c in ("good", "bad") if f'<p class="{c}"' in source] or css is None


@pytest.mark.parametrize(
    ("possible", "says"),
    [
        (("one", "two"), "Not ruled out: one, two"),
        ((), "Not ruled out: none of the classes"),
        (tuple("abcdefg"), "Not ruled out: a, b, c, d, e and 2 more"),
        (None, ""),
    ],
)
def test_a_prediction_shows_its_set(possible: tuple[str, ...] | None, says: str) -> None:
    example = PredictionExample(sample.glyph("1"), "one", (("one", 0.9),), False, 0.2, possible)
    text = Page(render_page(sample.results(), sample.bare(predictions=(example,)))).text.replace(" ,", ",")
    assert says in text
    assert ("Not ruled out" in text) == bool(says)


def test_a_class_nothing_is_predicted_as_has_a_dash_not_a_nan() -> None:
    counts = np.array([[5, 0], [3, 0]])
    record = sample.bare(class_names=("cat", "dog"), confusion=counts)
    assert "dog 3 – 0.000 0.000" in Page(render_page(sample.results(), record)).text


def test_many_classes_many_images() -> None:
    names = tuple(f"class number {i}" for i in range(200))
    rng = np.random.default_rng(0)
    view = EmbeddingView(
        "frozen", rng.normal(size=(4000, 16)), rng.integers(0, 200, 4000), rng.normal(size=(200, 16)), names
    )
    record = sample.bare(class_names=names, confusion=sample.confusion(200), embeddings=(view,))
    assert len(render_page(sample.results(), record)) < 2_000_000


def test_thumbnails_drop_metadata_and_take_the_smaller_coding() -> None:
    photo = Image.effect_noise((400, 300), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    buffer = BytesIO()
    photo.save(buffer, "JPEG", exif=exif)
    uri = thumbnail_uri(Image.open(buffer))
    assert uri.startswith("data:image/jpeg;base64,")
    data = base64.b64decode(uri.split(",")[1])
    assert b"secret" not in data
    assert Image.open(BytesIO(data)).size == (96, 72)
    assert thumbnail_uri(Image.new("RGBA", (8, 8))).startswith("data:image/png;base64,")


def test_both_files_are_written_and_results_read_back(tmp_path: Path) -> None:
    write_report(tmp_path / "run", sample.results(), sample.bare())
    assert json.loads((tmp_path / "run/results.json").read_text("utf-8")) == sample.results()
    assert (tmp_path / "run/report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["report.html", "results.json"]


def test_bad_results_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"results\.seeds"):
        write_report(tmp_path / "run", sample.results(seeds=None), sample.bare())
    assert not (tmp_path / "run").exists()


def test_hostile_names_come_back_from_results_as_they_were(tmp_path: Path) -> None:
    results, _ = sample.hostile()
    write_report(tmp_path, results, sample.bare())
    assert json.loads((tmp_path / "results.json").read_bytes()) == results


def test_the_page_says_what_every_alternative_gave_and_which_was_chosen(source: str) -> None:
    part = source[source.index('id="novelty"') : source.index('id="discovery"')]
    assert "-0.004 AUROC against the best" in part
    assert part.index("energy, tuned features") < part.index("<b>knn, frozen features, k = 5</b>") < part.index("lof")
    assert "3 alternatives" in part
    assert "far pictures" in part
    assert part.index("energy, tuned features") < part.index("0.500") < part.index("<b>knn, frozen features, k = 5</b>")
