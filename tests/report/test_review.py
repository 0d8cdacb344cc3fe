"""The review page as text: what it carries, in which order, and that no name in it can be anything but a name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.cluster.hierarchy import cophenet, linkage

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.thumbnail import thumbnail
from clip_fewshot.discovery import Discovery
from clip_fewshot.open_world.groups import build_groups
from clip_fewshot.open_world.name_suggestions import Suggestions
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.open_world.unknown import UnknownPictures
from clip_fewshot.report.review import ReviewView, _link_originals, _order, render_review
from clip_fewshot.types import LabelSpace

HOSTILE = '</script><script>alert(1)</script><!--\u202e"&'


@pytest.fixture
def view() -> ReviewView:
    """Twelve pictures in two groups of five, two in none; one of them not to be shown."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, -1, -1])
    features = np.eye(3)[labels] * 4 + rng.normal(size=(12, 3))
    digests = tuple(sha256(bytes([i])).hexdigest() for i in range(12))
    names = tuple(f"{HOSTILE}{i}.png" for i in range(12))
    pictures = ImageDataset("x", (None,) * 12, names, None, LabelSpace(()), None, ("",) * 12, digests)  # type: ignore[arg-type]
    found = Discovery(labels, 2, linkage(features, "ward"), np.array([0, 1]), interval=(2, 4), stability=(0.9, 0.8))
    known = LabelSpace((HOSTILE, "b"))
    answered = ("b", *(None,) * 11)
    unknown = UnknownPictures(pictures, features, np.full(12, 0.01), answered)
    groups = build_groups(found, unknown, (np.eye(3)[:2], np.array([0, 1])), known)
    word = Suggestions(((HOSTILE, 0.9), ("y", 0.1)), False, 0.5, 2, 1, 1, "")
    picture = thumbnail(Image.new("RGB", (9, 7), "red"))
    thumbnails = dict.fromkeys(digests[:11], picture)
    return ReviewView(HOSTILE, "5" * 32, 3, known.names, groups, (word, None), found, unknown, thumbnails)


class Reader(HTMLParser):
    """Elements as a browser would find them, and the text of each script and style."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.inside:
            self.inside[str(self.cdata_elem)][-1] += data


def read(source: str) -> Reader:
    reader = Reader()
    reader.feed(source)
    return reader


def record(source: str) -> Any:
    return json.loads(read(source).inside["script"][0])


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(view: ReviewView) -> None:
    page = read(render_review(view))
    (policy,) = [a["content"] for tag, a in page.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    own = {
        kind: f"'sha256-{b64encode(sha256(page.inside[kind][-1].encode()).digest()).decode()}'"
        for kind in ("script", "style")
    }
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("script-src") == own["script"]
    assert rules.pop("style-src") == own["style"]
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules == {"img-src": "data: file:", "require-trusted-types-for": "'script'", "trusted-types": "'none'"}
    assert [a for tag, a in page.found if tag == "script"] == [{"type": "application/json", "id": "data"}, {}]
    assert not [a for _, a in page.found if any(name.startswith("on") or name == "style" for name in a)]
    assert not [
        a for _, a in page.found for name in ("src", "href") if not (a.get(name) or "data:").startswith(("data:", "#"))
    ]


def test_a_hostile_name_stays_a_name(view: ReviewView) -> None:
    source = render_review(view)
    assert "<script>alert" not in source
    assert "\u202e" not in source
    data = record(source)
    assert data["classes"][0]["name"] == HOSTILE  # what a review must carry, byte for byte
    assert "\u202e" not in data["classes"][0]["shown"] + data["pictures"][0]["name"]


def test_groups_come_with_their_pictures_the_most_typical_first(view: ReviewView) -> None:
    data = record(render_review(view))
    digests = [picture["digest"] for picture in data["pictures"]]
    for group, told in zip(view.groups, data["groups"], strict=True):
        assert [digests[i] for i in told["pictures"]] == [group.pictures.digests[i] for i in group.exemplars]
    assert [digests[i] for i in data["loose"]] == [*view.unknown.pictures.digests[10:]]
    assert [picture["answered"] for picture in data["pictures"]] == [1, *(None,) * 11]  # the class "b"
    assert data["groups"][0]["words"] == [[HOSTILE, 0.9], ["y", 0.1]]
    assert data["groups"][0]["nearest"]["place"] == 0
    assert (data["store"], data["revision"]) == ("5" * 32, 3)


def test_what_has_no_thumbnail_is_there_by_its_name(view: ReviewView) -> None:
    few = replace(
        view, thumbnails={view.unknown.pictures.digests[0]: view.thumbnails[view.unknown.pictures.digests[0]]}
    )
    data = record(render_review(few))
    assert [len(group["pictures"]) for group in data["groups"]] == [5, 5]
    assert sum(bool(picture["thumbnail"]) for picture in data["pictures"]) == 1
    assert len(data["loose"]) == 2
    assert all(picture["name"].endswith(".png") for picture in data["pictures"])


def test_originals_are_linked_from_the_page_and_no_link_names_the_user(
    view: ReviewView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, held = tmp_path / "anna", view.unknown.pictures
    monkeypatch.setenv("HOME", str(home))
    beside, disk = home / "photos" / "javascript:a b#?.png", tmp_path / "disk" / "c.png"
    places = (beside, home / "猫.png", Path("no place.png"), disk)
    pictures = replace(held.subset(range(4)), images=places)
    unknown = view.unknown.subset(np.arange(4))._replace(pictures=pictures)
    assert _link_originals(unknown, home / "photos") == {
        held.digests[0]: "./javascript%3Aa%20b%23%3F.png",
        held.digests[1]: "./../%E7%8C%AB.png",
        held.digests[3]: "./../../disk/c.png",
    }
    assert _link_originals(unknown, Path("/elsewhere")) == {held.digests[3]: f"./..{tmp_path}/disk/c.png"}
    linked = record(render_review(replace(view, originals={held.digests[0]: "./a.png"})))["pictures"]
    assert [picture["original"] for picture in linked] == ["./a.png", *[None] * 11]


def test_the_page_is_the_same_for_the_same_and_another_for_another(view: ReviewView) -> None:
    assert render_review(view) == render_review(view)
    token = re.compile(r'"token": "\w+"')
    assert token.findall(render_review(view)) != token.findall(render_review(replace(view, revision=4)))


@pytest.mark.parametrize("n", [2, 3, 40])
def test_any_two_pictures_part_at_the_highest_merge_between_their_places(n: int) -> None:
    points = np.random.default_rng(n).normal(size=(n, 3))
    tree = linkage(points, "average")
    place, heights = _order(tree, n)
    assert sorted(place) == list(range(n))
    for (i, j), height in zip(zip(*np.triu_indices(n, 1), strict=True), cophenet(tree), strict=True):
        low, high = sorted((place[i], place[j]))
        assert heights[low:high].max() == pytest.approx(height)


def test_one_picture_has_no_tree(view: ReviewView) -> None:
    place, heights = _order(np.empty((0, 4)), 1)
    assert (place.tolist(), heights.tolist()) == ([0], [])


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script")
def test_the_page_sums_a_review_as_python_does() -> None:
    name = 'ax"ol\\otl \u00e4\u2028\x7f\x01 \U0001f98e \ud83d'
    steps = ({"kind": "move", "to": 3, "pictures": ["ab" * 32]},)
    review = Review("store", 3, {name: ("ab" * 32,)}, {"b": ("cd" * 32,)}, ("ef" * 32,), steps).to_json()
    unsummed = {key: value for key, value in reversed(review.items()) if key != "crc32"}
    script = files("clip_fewshot.report").joinpath("review_state.js").read_text("utf-8")
    program = f"{script}\nprocess.stdout.write(String(checksum(JSON.parse(process.argv[1]))))"
    done = subprocess.run(["node", "-e", program, json.dumps(unsummed)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == review["crc32"]
