"""The table for the terminal and the sentences above the page's table."""

from __future__ import annotations

from typing import Any

from clip_fewshot.report.headline import (
    RunResults,
    collect_warnings,
    describe_selection,
    headline_rows,
    headline_table,
)
from clip_fewshot.report.verdict import write_conclusions
from tests.report import sample


def best(**changes: Any) -> dict[str, Any]:
    return sample.results(best=sample.results()["best"] | changes)


def test_rows_run_from_baselines_to_approaches_with_one_best() -> None:
    rows = headline_rows(sample.results())
    assert [row.name for row in rows] == ["raw pixels", "zero-shot", "frozen probe", *sample.APPROACHES]
    assert [row.name for row in rows if row.best] == ["mlp-arcface"]


def test_approaches_beyond_the_four_come_last() -> None:
    extra = dict(sample.results()["approaches"])
    extra |= {"adapter": extra["mlp"]}
    assert headline_rows(sample.results(approaches=extra))[-1].name == "adapter"


def test_the_table_is_aligned_and_marks_the_best() -> None:
    lines = headline_table(sample.results()).splitlines()
    assert lines[0].startswith("method")
    assert set(lines[1]) == {"-"}
    table = lines[2:9]
    assert [line for line in table if line.startswith("*")] == [table[3]]
    for mark in (" 0.", " [0.", "] "):
        assert len({line.index(mark) for line in table}) == 1, mark
    assert lines[10:] == write_conclusions(sample.results()).splitlines()
    assert all(line == line.rstrip() for line in lines)


def test_a_notebook_shows_the_headline_and_takes_it_over() -> None:
    results = RunResults(sample.results())
    assert results == sample.results()
    assert repr(results).startswith("RunResults: mlp-arcface was chosen: 0.9")
    assert "\n" not in repr(results)
    assert "* mlp-arcface" in results._repr_html_()
    frame = results.to_frame()
    assert frame.name.tolist() == [row.name for row in headline_rows(results)]
    assert frame["mean"].tolist() == [row.mean for row in headline_rows(results)]
    extra = {"<b>": results["approaches"]["mlp"]}
    assert "<b>" not in RunResults(sample.results(approaches=results["approaches"] | extra))._repr_html_()


def test_a_baseline_that_was_not_measured_has_no_row() -> None:
    names = [row.name for row in headline_rows(sample.results(zero_shot=None, raw_pixels=None))]
    assert names[0] == "frozen probe"


def test_warnings_name_repeated_looks_refusals_and_failures() -> None:
    rates = {"alpha": 0.01, "false_alarm_rate": None, "detection_rate": None}
    refused = sample.results()["novelty"] | rates | {"refused": "16 images support no rate below 1/17"}
    search = sample.results()["search"] | {"test_looks": 3}
    found = collect_warnings(sample.results(search=search, novelty=refused))
    assert len(found) == 4
    assert "edge" in found[0]
    assert "looked at 3 times" in found[1]
    assert "0.01 was refused: 16 images" in found[2]
    assert "1 trial of the search failed" in found[3]


def test_more_false_alarms_than_asked_are_warned_of() -> None:
    loud = sample.results()["novelty"] | {"false_alarm_rate": 0.139}
    found = collect_warnings(sample.results(novelty=loud))
    assert any("13.9% of the known test images where 5.0% were asked" in warning for warning in found)


def test_a_detector_to_which_broken_copies_look_known_is_warned_of() -> None:
    chosen = sample.results()["novelty"]["chosen"]
    blind = sample.results()["novelty"] | {"selection_far": {chosen: 0.61, "other": 0.99}}
    assert any(
        "look known to the detector (AUROC 0.61)" in one for one in collect_warnings(sample.results(novelty=blind))
    )


def test_the_approach_is_not_repeated_among_its_settings() -> None:
    approaches = {"mlp": sample.results()["approaches"]["mlp"] | {"params": {"approach": "mlp", "unfreeze": 1}}}
    rows = headline_rows(best(approach="linear_probe") | {"approaches": approaches})
    assert rows[-1].settings == "unfreeze 1"


def test_a_clean_run_warns_of_nothing() -> None:
    search = sample.results()["search"] | {"failed": 0}
    assert collect_warnings(sample.results(search=search, warnings=[])) == []


def test_the_selection_says_how_often_the_test_set_was_opened() -> None:
    assert "opened once, after the last choice" in describe_selection(sample.results())
    search = sample.results()["search"] | {"test_looks": 2}
    assert "opened 2 times" in describe_selection(sample.results(search=search))
    assert "novelty threshold" not in describe_selection(sample.results(novelty=None))
