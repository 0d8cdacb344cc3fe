"""What the first screen says follows from figures: each statement beside its untouched twin."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clip_fewshot.report.glossary import explain
from clip_fewshot.report.page import render_page
from clip_fewshot.report.verdict import (
    draw_conclusions,
    judge_results,
    suggest_commands,
    write_conclusions,
    write_verdict,
)
from tests.report import sample


def best(**changes: Any) -> dict[str, Any]:
    return sample.results(best=sample.results()["best"] | changes)


def difference(low: float, high: float, settles: int | None = 900) -> dict[str, Any]:
    mean = (low + high) / 2
    return {"mean": mean, "ci95": [low, high], "per_seed": [mean] * 3, "n_test": 503, "n_images_to_settle": settles}


def compared(**differences: dict[str, Any]) -> dict[str, Any]:
    return best(differences={name.replace("_prior", "-prior"): found for name, found in differences.items()})


def told(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {one.about: (one.text, one.advice) for one in draw_conclusions(results)}


@pytest.mark.parametrize(
    ("ci", "says"),
    [
        ([0.01, 0.04], "It beats frozen probe (+0.023"),
        ([-0.01, 0.04], "is within the noise"),
        ([-0.04, -0.01], "it is behind frozen probe"),
    ],
)
def test_the_verdict_follows_the_interval_of_the_paired_difference(ci: list[float], says: str) -> None:
    difference = {"mean": 0.023, "ci95": ci, "per_seed": [0.02, -0.01, 0.03], "n_test": 503}
    said = write_verdict(best(difference_to_probe=difference))
    assert says in said
    assert "ahead on 2 of 3" in said


def test_the_probe_may_win() -> None:
    said = write_verdict(best(approach="linear_probe", difference_to_probe=None))
    assert said.startswith("frozen probe was chosen")
    assert "No trained approach beat it" in said


def test_without_a_paired_difference_the_probe_is_named_beside() -> None:
    assert "The frozen probe has 0.929 [0.908, 0.950]." in write_verdict(best(difference_to_probe=None))


GOOD, LEVEL, WIDE, BAD = (0.02, 0.05), (-0.01, 0.02), (-0.02, 0.08), (-0.05, -0.01)


@pytest.mark.parametrize("baseline", ["raw_pixels", "zero_shot"])
@pytest.mark.parametrize(("interval", "beaten"), [(GOOD, True), (LEVEL, False), (BAD, False)])
def test_what_is_not_shown_to_be_better_than_a_plain_baseline_is_said_not_to_be(
    baseline: str, interval: tuple[float, float], beaten: bool
) -> None:
    others = {"linear_probe": difference(*LEVEL), baseline: difference(*interval)}
    text, advice = told(compared(**others))["accuracy"]
    name = baseline.replace("_", " ") if baseline == "raw_pixels" else "zero-shot"
    assert (f"It is not better than {name} (" in text) == (not beaten)
    assert ("--model" in advice) == (baseline == "raw_pixels" and not beaten)
    assert ("--shots" in advice) == (baseline == "zero_shot" and not beaten)
    assert "The difference to frozen probe" in text


@pytest.mark.parametrize(("interval", "few"), [(WIDE, True), (LEVEL, False), (GOOD, False), (BAD, False)])
def test_too_few_test_pictures_are_said_to_be_where_the_interval_holds_nothing_and_much(
    interval: tuple[float, float], few: bool
) -> None:
    _, advice = told(compared(linear_probe=difference(*interval, settles=1234)))["accuracy"]
    assert ("503 test pictures are too few to tell it from frozen probe (about 1,200 would settle" in advice) == few
    _, advice = told(compared(linear_probe=difference(*interval, settles=None)))["accuracy"]
    assert ("support sets, --seeds, come before" in advice) == few


def test_a_trained_row_is_named_where_it_is_better_and_passed_over_where_it_is_not() -> None:
    text, advice = told(compared(linear_probe=difference(*GOOD), mlp=difference(*BAD), contrastive=difference(*WIDE)))[
        "accuracy"
    ]
    assert "On the test images it is behind mlp (" in text
    assert "It beats frozen probe (" in text
    assert "every baseline" not in text
    assert "contrastive" not in text + advice


def test_every_baseline_is_beaten_where_each_is() -> None:
    text, advice = told(compared(linear_probe=difference(*GOOD), raw_pixels=difference(*GOOD)))["accuracy"]
    assert "It beats every baseline, frozen probe" in text
    assert advice == ""


def novelty(**changes: Any) -> dict[str, Any]:
    measured = {"auroc": 0.9, "auroc_ci95": [0.85, 0.94], "false_alarm_rate": 0.04, "detection_rate": 0.7}
    return sample.results(novelty=sample.results()["novelty"] | measured | changes)


@pytest.mark.parametrize(
    ("changes", "says", "advises"),
    [
        ({}, "70% of the pictures of 3 hidden classes are called unknown, and 4.0% of the known ones (5.0% ask", ""),
        (
            {"auroc": 0.52, "auroc_ci95": [0.47, 0.57]},
            "It cannot tell unknown pictures: a coin's AUROC is .5",
            "--model",
        ),
        ({"auroc": 0.4, "auroc_ci95": [0.3, 0.49]}, "It cannot tell unknown pictures", "--model"),
        ({"detection_rate": 0.2}, "It cannot tell most unknown pictures. 20% of the pictures", "--alpha"),
        ({"detection_rate": None, "refused": "it takes 19"}, "No picture is called unknown at the 5.0%", "takes 19"),
    ],
)
def test_the_answer_about_unknown_pictures_follows_the_interval_and_the_rates(
    changes: dict[str, Any], says: str, advises: str
) -> None:
    text, advice = told(novelty(**changes))["unknown"]
    assert says in text
    assert (advice == "") == (advises == "")
    assert advises in advice
    assert ("cannot tell" in text) == ("cannot tell" in says)


def test_sets_are_told_with_their_coverage_and_size() -> None:
    held = {"mean": 0.962, "ci95": [0.94, 0.975], "per_seed": [0.962], "n_test": 503}
    said, advice = told(sample.results(prediction_sets={"alpha": 0.05, "coverage": held, "size": 1.253}))["sets"]
    assert "0.962 [0.940, 0.975] of the test images, where 0.950 was asked for. An image has 1.25 such" in said
    assert not advice
    for high, why in ((0.951, "no more than chance"), (0.949, "mean over support sets is promised")):
        low = {"alpha": 0.05, "coverage": held | {"mean": 0.93, "ci95": [0.91, high]}, "size": 1.253}
        assert why in told(sample.results(prediction_sets=low))["sets"][0]
    assert "sets" not in told(sample.results()) | told(sample.results(prediction_sets=None))


def test_where_no_class_was_hidden_known_ones_in_turn_answer() -> None:
    rehearsal = {"detector": "knn", "alpha": 0.05, "auroc": 0.51, "auroc_ci95": [0.46, 0.56], "detection_rate": 0.06}
    text, advice = told(sample.results(novelty=None, discovery=None, rehearsal=rehearsal))["unknown"]
    assert text.startswith("It cannot tell unknown pictures")
    assert "at 5.0% false alarms 6% of their pictures are caught; AUROC is 0.510 [0.460, 0.560]" in text
    assert "--model" in advice
    nothing = sample.results(novelty=None, discovery=None)
    assert "2 --shots" in told(nothing)["unknown"][1]
    assert "no picture can be called unknown" in told(nothing)["groups"][0]
    nothing["dataset"] |= {"unseen": []}
    assert "no class was hidden" in told(nothing)["groups"][0]


@pytest.mark.parametrize(("ari", "look"), [(0.97, False), (0.04, True), (None, False)])
def test_groups_that_follow_no_class_are_to_be_looked_into(ari: float | None, look: bool) -> None:
    found = sample.results()["discovery"] | {"ari": ari, "n_flagged": 1470}
    text, advice = told(sample.results(discovery=found))["groups"]
    assert text.startswith("3 groups among the 1,470 pictures called unknown; 3 classes were hidden.")
    assert ("Look into a group" in advice) == look


@pytest.mark.parametrize("moved", [[], ["mlp", "linear_probe"]])
def test_a_search_that_changed_nothing_says_so(moved: list[str]) -> None:
    search = sample.results()["search"] | {"moved": moved, "tied": 1}
    text, advice = told(sample.results(search=search))["search"]
    assert text.startswith("It found better settings for mlp, frozen probe" if moved else "The search changed nothing")
    assert ("Fewer --trials" in advice) == (not moved)
    assert "search" not in told(sample.results())  # an earlier release did not record it


def test_the_next_commands_are_words_of_a_shell_whatever_the_folder_is_called() -> None:
    folder = Path("my runs") / "it's $HOME; `rm x`" / "model"
    calls = suggest_commands(sample.results(), "clip-fewshot", folder)
    assert [shlex.split(one) for one in calls] == [
        ["clip-fewshot", "predict", str(folder), "new_pictures/"],
        ["clip-fewshot", "open-world", "init", "store/", str(folder)],
    ]
    odd = suggest_commands(sample.results(), "clip-fewshot", Path("a\x1b[2J\n/model"))
    assert odd[0] == "clip-fewshot predict $'a\\x1b[2J\\n/model' new_pictures/"  # as bash writes what does not print
    for name in (b"caf\xe9 o'clock \\n", b'caf\xc3\xa9\n"'):
        told = suggest_commands(sample.results(), "echo -n", Path(os.fsdecode(name)))[0]
        said = subprocess.run(["bash", "-c", told], capture_output=True, check=True).stdout
        assert said == b"predict " + name + b" new_pictures/"
    blind = suggest_commands(sample.results(novelty=None), "python -m clip_fewshot", Path("model"))
    assert blind == ["python -m clip_fewshot predict model new_pictures/"]


def test_terminal_and_page_say_the_same() -> None:
    results = novelty(auroc=0.52, auroc_ci95=[0.47, 0.57])
    page, shown = render_page(results, sample.bare()), write_conclusions(results)
    head = page[page.index("<header>") : page.index("</header>")]
    for one in draw_conclusions(results):
        assert f"{one.about}: {one.text}" in shown
        assert str(explain(one.text)) in head
        assert one.advice in shown
        assert one.advice in head


WON, DRAWN, LOST = difference(*GOOD), difference(*LEVEL), difference(*BAD)


@pytest.mark.parametrize(
    ("found", "grade"),
    [
        ({"raw_pixels": WON, "linear_probe": WON}, ("good: better than every baseline", True)),
        ({"raw_pixels": WON, "linear_probe": DRAWN}, ("open: level with frozen probe", None)),
        ({"raw_pixels": WON, "linear_probe": LOST}, ("bad: behind frozen probe", False)),
        ({"raw_pixels": DRAWN, "linear_probe": WON}, ("bad: not better than raw pixels", False)),
        ({"zero_shot": LOST, "mlp": LOST}, ("bad: not better than zero-shot", False)),
        ({"linear_probe": WON, "mlp": LOST}, ("good: better than frozen probe", True)),
    ],
)
def test_accuracy_is_good_where_it_beats_what_costs_nothing(
    found: dict[str, Any], grade: tuple[str, bool | None]
) -> None:
    assert judge_results(compared(**found))["accuracy"] == grade


@pytest.mark.parametrize(
    ("changes", "grade"),
    [
        ({}, ("good: notices most of the unknown", True)),
        ({"auroc_ci95": [0.49, 0.6]}, ("bad: no better than a coin", False)),
        ({"detection_rate": 0.4}, ("bad: misses most of the unknown", False)),
        ({"false_alarm_rate": 0.11}, ("bad: too many false alarms", False)),
        ({"detection_rate": None, "false_alarm_rate": None}, ("open: calls nothing unknown", None)),
    ],
)
def test_the_unknown_are_graded(changes: dict[str, Any], grade: tuple[str, bool | None]) -> None:
    assert judge_results(novelty(**changes))["unknown"] == grade


@pytest.mark.parametrize(
    ("changes", "grade"),
    [
        ({"ari": 0.5}, ("good: groups are much like classes", True)),
        ({"ari": 0.4}, ("bad: groups mix classes", False)),
        ({"ari": 0.9, "n_clusters": 0}, ("bad: no group was found", False)),
    ],
)
def test_groups_are_graded(changes: dict[str, Any], grade: tuple[str, bool | None]) -> None:
    assert judge_results(sample.results(discovery=sample.results()["discovery"] | changes))["groups"] == grade


@pytest.mark.parametrize(
    ("found", "grade"),
    [
        (WON, ("good: better", True)),
        (DRAWN, ("open: within the noise", None)),
        (LOST, ("bad: worse", False)),
    ],
)
def test_the_gain_over_the_probe_is_graded(found: dict[str, Any], grade: tuple[str, bool | None]) -> None:
    assert judge_results(best(difference_to_probe=found))["probe"] == grade


def test_a_card_says_good_or_bad_in_words() -> None:
    page = render_page(novelty(detection_rate=0.4), sample.bare())
    assert '<dd class="grade bad"><span aria-hidden="true">✗</span> bad: misses most of the unknown</dd>' in page
