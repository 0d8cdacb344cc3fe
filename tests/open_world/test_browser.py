"""A person at the review page, in headless Chromium: from unknown pictures to classes that predict answers with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser import MARKS, open_pages, run_chromium
from tests.open_world.conftest import Bench

pytestmark = MARKS
Said = Callable[..., Any]
HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=document.title='run'>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with run_chromium() as started:
        yield started


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    with open_pages(chromium) as open_page:
        yield open_page


@pytest.fixture
def page(filled: Path, tmp_path: Path, said: Said) -> Path:
    said("review", filled, "--out", tmp_path / "review.html")
    return tmp_path / "review.html"


def group(tab: Any, number: int) -> Any:
    return tab.locator(f'[data-group="{number}"]')


def size(tab: Any, number: int) -> int:
    return int(group(tab, number).locator("h2 .soft").inner_text().split()[0])


def majority(found: Any) -> str:
    digits = Counter(Path(picture["image"]).name.split("_")[0] for picture in found["pictures"])
    return digits.most_common(1)[0][0]


def saved(tab: Any, to: Path, how: Callable[[], None]) -> Any:
    with tab.expect_download() as download:
        how()
    assert download.value.suggested_filename == "review.json"
    download.value.save_as(to)
    return json.loads(to.read_text())


def test_from_an_unknown_picture_to_a_class_that_predict_returns(
    bench: Bench, filled: Path, page: Path, tmp_path: Path, said: Said, opened: Callable[..., Any]
) -> None:
    found = said("discover", filled, "--names", "1", "--json")["groups"]
    assert [majority(one) for one in found] == ["eight", "seven", "nine"]  # what the clicks below go by
    tab = opened(page)
    sizes = [size(tab, n) for n in range(len(found))]
    assert sizes == [len(one["pictures"]) for one in found]

    group(tab, 0).locator("[data-word]").first.click()  # a name by mouse: what is suggested
    first = group(tab, 0).locator("input").input_value()
    assert first == found[0]["names"][0]["name"]

    for key in ("j", "n"):  # a name by keyboard: to the next group, and into its field
        tab.keyboard.press(key)
    tab.keyboard.type("number seven")
    tab.keyboard.press("Enter")
    assert "new class “number seven”" in tab.locator("#said").inner_text()
    assert tab.evaluate("document.activeElement.closest('[data-group]').dataset.group") == "2"

    group(tab, 2).locator("[data-do=split]").click()  # one group into two, and these into one
    group(tab, 3).locator("[data-do=merge]").click()
    tab.locator("#chooser button", has_text="Group 2").click()
    tab.locator("#said", has_text="Group 3 merged into group 2").wait_for()
    assert group(tab, 3).count() == 0
    assert size(tab, 2) == sizes[2]
    tab.keyboard.press("n")
    tab.keyboard.type("number nine")
    tab.keyboard.press("Enter")

    picture = group(tab, 0).locator(".tile").last  # the least typical one, by keyboard
    number = int(picture.get_attribute("data-i"))
    picture.focus()
    tab.keyboard.press("Space")
    tab.keyboard.press("m")
    tab.locator("#chooser button", has_text="Group 1").press("Enter")
    tab.locator("#said", has_text="1 picture moved to group 1").wait_for()
    assert (size(tab, 0), size(tab, 1)) == (sizes[0] - 1, sizes[1] + 1)

    loose = tab.locator("[data-bin=loose] .tile")
    loose.first.click()
    loose.nth(2).click(modifiers=["Shift"])
    assert tab.locator("#count").inner_text() == "3 selected:"
    tab.keyboard.press("x")
    assert tab.locator("[data-bin=rejected] .tile").count() == 3

    review = saved(tab, tmp_path / "review.json", lambda: tab.locator("[data-do=save]").click())
    told = {one["name"]: one for one in review["groups"]}
    assert set(told) == {first, "number seven", "number nine"}
    moved = json.loads(tab.locator("#data").text_content())["pictures"][number]["digest"]
    assert moved in told["number seven"]["pictures"]
    assert len(review["rejected"]) == 3
    assert [step["kind"] for step in review["steps"]] == ["split", "merge", "move"]

    applied = said("apply", filled, tmp_path / "review.json", "--json")
    assert applied["revision"] == 1
    assert {*told} <= {*applied["classes"]}
    answers = said("predict", filled, bench.fresh, "--json")["answers"]
    right = {"eight": first, "seven": "number seven", "nine": "number nine"}
    truth = [right[Path(answer["image"]).name.split("_")[0]] for answer in answers]
    hits = [answer["label"] == name for answer, name in zip(answers, truth, strict=True)]
    assert np.mean(hits) > 0.6
    assert {answer["label"] for answer in answers} >= {*right.values()}
    assert said("apply", filled, tmp_path / "review.json", "--json")["again"]


def test_everything_can_be_undone_and_a_reload_finds_its_way_back(page: Path, opened: Callable[..., Any]) -> None:
    tab = opened(page)
    before = tab.evaluate("JSON.stringify(state)")
    group(tab, 0).locator("[data-do=split]").click()
    group(tab, 1).locator("[data-do=reject]").click()
    group(tab, 2).locator("input").fill("eight")
    group(tab, 2).locator("input").press("Escape")
    for tile in range(2):
        group(tab, 0).locator(".tile").nth(tile).click()
    tab.locator("[data-do=new]").click()
    after = tab.evaluate("JSON.stringify(state)")
    for _ in range(4):
        tab.keyboard.press("u")
    assert tab.evaluate("JSON.stringify(state)") == before
    for _ in range(4):
        tab.keyboard.press("Control+Shift+Z")
    assert tab.evaluate("JSON.stringify(state)") == after
    tab.once("dialog", lambda dialog: dialog.accept())  # leave without saving?
    tab.reload()
    assert tab.evaluate("JSON.stringify(state)") == after
    assert group(tab, 2).locator("input").input_value() == "eight"


def test_undo_says_what_it_takes_back_and_outlives_a_reload(page: Path, opened: Callable[..., Any]) -> None:
    tab = opened(page)
    before = tab.evaluate("JSON.stringify(state)")
    group(tab, 1).locator("input").fill("crab")
    group(tab, 1).locator("[data-do=reject]").click()
    tab.once("dialog", lambda dialog: dialog.accept())
    tab.reload()
    tab.locator("[data-do=undo]").click()
    assert tab.locator("#said").inner_text() == "Undone: Group 1 rejected."
    tab.locator("[data-do=undo]").click()
    assert tab.locator("#said").inner_text() == "Undone: Group 1: Becomes the new class “crab”."
    assert tab.evaluate("JSON.stringify(state)") == before
    assert tab.locator("[data-do=undo]").is_disabled()


def test_what_the_review_decides_is_told_before_it_is_saved(page: Path, opened: Callable[..., Any]) -> None:
    tab = opened(page)
    told = lambda: tab.locator("#decides li").all_inner_texts()  # noqa: E731
    assert told() == ["Nothing yet."]
    sizes, total = [size(tab, n) for n in range(3)], len(json.loads(tab.locator("#data").text_content())["pictures"])
    group(tab, 0).locator("input").fill("crab")
    group(tab, 2).locator("input").fill("five")
    group(tab, 1).locator("[data-do=reject]").click()
    tab.locator("#tally").click()
    assert tab.locator("#decides").evaluate("e => e.getBoundingClientRect().bottom") < 900
    assert told() == [
        f"New class “crab”: {sizes[0]} pictures.",
        f"The class “five” gets {sizes[2]} pictures more and is trained again.",
        f"{sizes[1]} pictures rejected: shown no more.",
        f"All else stays as it is: {total - sum(sizes)} pictures.",
    ]


@pytest.mark.parametrize("width", [390, 1280])
def test_pictures_come_before_the_tree_and_all_of_them_can_be_reached(
    filled: Path, tmp_path: Path, said: Said, opened: Callable[..., Any], width: int
) -> None:
    said("review", filled, "--shown", "3", "--out", tmp_path / "few.html")
    tab = opened(tmp_path / "few.html", width)
    assert tab.locator(".tile").first.bounding_box()["y"] < 800
    assert tab.locator("[alt^='Merge tree']").bounding_box()["y"] > tab.locator(".tile").last.bounding_box()["y"]
    assert group(tab, 0).locator("img").count() == 3  # the others by their names
    assert group(tab, 0).locator(".tile bdi.title").first.inner_text().endswith(".png")
    tab.evaluate("data.drawn = 5; draw()")
    sizes = [size(tab, n) for n in range(3)]
    assert group(tab, 0).locator(".tile").count() == 5
    while tab.locator(".more:not([hidden])").count():
        tab.locator(".more:not([hidden])").first.press("Enter")
    assert tab.evaluate("document.activeElement.matches('.tile')")
    assert [group(tab, n).locator(".tile").count() for n in range(3)] == sizes
    pictures = json.loads(tab.locator("#data").text_content())["pictures"]
    assert tab.locator(".tile").count() == len(pictures)


def test_the_original_of_a_picture_opens(page: Path, opened: Callable[..., Any]) -> None:
    tab = opened(page)
    tile = group(tab, 0).locator(".tile").nth(1)
    name = Path(tile.locator("img").get_attribute("alt")).name
    for how in ("click", "key"):
        with tab.context.expect_page() as other:
            if how == "click":
                tile.click()
                assert tab.locator("#original").inner_text() == f"Open {name}"
                tab.locator("#original").click()
            else:
                tile.focus()
                tab.keyboard.press("o")
        assert other.value.url.endswith(f"/strange/{name}")
        assert other.value.evaluate("document.images[0].naturalWidth") > 0


def test_a_picture_can_be_looked_at_closer_as_its_file_has_it(page: Path, opened: Callable[..., Any]) -> None:
    Image.new("RGB", (400, 300)).save(page.with_name("whole.png"))
    tab = opened(page, 390)
    tab.keyboard.press("v")
    assert tab.locator("#said").inner_text() == "Go to a picture first."
    names = [one.get_attribute("alt") for one in group(tab, 0).locator(".tile img").all()[:2]]
    closer, size_of = tab.locator("#closer"), "document.querySelector('#closer img').naturalWidth"
    group(tab, 0).locator(".tile").first.focus()
    tab.keyboard.press("v")
    assert closer.locator("h2").inner_text() == names[0]
    assert "% of known pictures" in closer.inner_text()
    assert closer.locator("img").bounding_box()["width"] > 300
    assert tab.evaluate(size_of) < 400
    tab.evaluate("data.pictures.forEach((one) => { one.original = './whole.png' })")
    tab.keyboard.press("ArrowRight")
    assert closer.locator("h2").inner_text() == names[1]
    tab.wait_for_function(f"{size_of} === 400")
    closer.get_by_role("button", name="Previous").click()
    assert closer.locator("h2").inner_text() == names[0]
    tab.keyboard.press("Escape")
    assert tab.evaluate("document.activeElement.title").split("\n")[0] == names[0]
    tab.keyboard.press("Space")
    tab.get_by_role("button", name="Look closer").click()
    assert closer.locator("h2").inner_text() == names[0]


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light"), (1280, "dark")])
def test_axe_finds_nothing(page: Path, opened: Callable[..., Any], width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab = opened(page, width, color_scheme=scheme, bypass_csp=True)
    group(tab, 0).locator("input").fill("crab")
    group(tab, 1).locator("input").fill("unknown")
    group(tab, 2).locator(".tile").first.click()
    for dialog, key in (("", ""), ("#keys", "?"), ("#closer", "v"), ("#chooser", "m")):
        if dialog:
            tab.keyboard.press(key)
            assert tab.locator(dialog).is_visible()
        assert [(one["id"], one["nodes"][0]["html"]) for one in axe.run(tab).response["violations"]] == []
        if dialog:
            tab.keyboard.press("Escape")


def test_on_paper_there_are_pictures_and_decisions_and_no_buttons(page: Path, opened: Callable[..., Any]) -> None:
    tab = opened(page)
    tab.emulate_media(media="print")
    assert [b for b in tab.locator("button:not(.tile)").all() if b.is_visible()] == []
    assert tab.locator("#decides").is_visible()
    assert tab.locator("[alt^='Merge tree']").is_visible()
    assert group(tab, 0).locator(".tile").first.is_visible()


def test_names_are_checked_before_they_are_saved(page: Path, opened: Callable[..., Any], tmp_path: Path) -> None:
    tab = opened(page)
    tab.keyboard.press("Control+s")
    assert "Nothing to save yet" in tab.locator("#said").inner_text()
    field, hint = group(tab, 0).locator("input"), group(tab, 0).locator(".hint")
    for wrong, why in (
        ("Unknown", "where there is no class"),
        ("a\u202eb", "do not print"),
        ("x" * 101, "at most 100"),
    ):
        field.fill(wrong)
        tab.keyboard.press("Control+s")
        assert why in hint.inner_text()
        assert tab.evaluate("document.activeElement.getAttribute('aria-invalid')") == "true"
    field.fill(" FIVE ")
    field.press("Enter")
    assert "Joins the known class “five”" in hint.inner_text()
    group(tab, 1).locator("input").fill("Nine")
    group(tab, 2).locator("input").fill(" ni ne")
    group(tab, 2).locator("input").press("Enter")
    assert "together with group 1" in group(tab, 2).locator(".hint").inner_text()
    review = saved(tab, tmp_path / "r.json", lambda: tab.keyboard.press("Control+s"))
    assert [(one["name"], one["existing"]) for one in review["groups"]] == [("five", True), ("Nine", False)]


def test_a_hostile_name_is_a_name(page: Path, tmp_path: Path, opened: Callable[..., Any]) -> None:
    tab = opened(page)
    group(tab, 0).locator("input").fill(HOSTILE[:99])
    group(tab, 0).locator("input").press("Enter")
    group(tab, 1).locator("[data-do=merge]").click()
    assert HOSTILE[:99] in tab.locator("#chooser").inner_text()
    tab.keyboard.press("Escape")
    assert tab.title().startswith("Review: shop")
    review = saved(tab, tmp_path / "r.json", lambda: tab.keyboard.press("Control+s"))
    assert review["groups"][0]["name"] == HOSTILE[:99]


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1200, "light"), (1200, "dark")])
def test_it_fits_and_draws(page: Path, tmp_path: Path, opened: Callable[..., Any], width: int, scheme: str) -> None:
    tab = opened(page, width, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    broken = "[...document.images].filter(i => i.loading !== 'lazy' && !(i.complete && i.naturalWidth)).length"
    assert tab.evaluate(broken) == 0
    tab.screenshot(path=tmp_path / "page.png")
    drawn = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert drawn.std() > 25
    assert (drawn > 240).mean() > 0.4 if scheme == "light" else (drawn < 60).mean() > 0.3
    group(tab, 0).locator(".tile").first.click()
    buttons = tab.locator("#picked button")
    boxes = [buttons.nth(i).bounding_box() for i in range(buttons.count())]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] >= 40 for box in boxes)


def test_the_policy_stops_what_is_not_the_pages_own(page: Path, chromium: Any) -> None:
    """Else the tests above could not hear it."""
    loud = page.with_name("loud.html")
    loud.write_text(page.read_text("utf-8").replace("<main>", "<main><script>document.title = 'run'</script>"), "utf-8")
    heard: list[str] = []
    tab = chromium.new_page()
    tab.on("console", lambda message: heard.append(message.text))
    tab.goto(loud.as_uri())
    assert tab.title().startswith("Review")
    assert any("Content Security Policy" in text for text in heard)
    tab.close()
