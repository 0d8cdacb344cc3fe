"""Streams, formats and the time budget."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from clip_fewshot.commands import COMMANDS, OPEN_WORLD, STORE_COMMANDS
from clip_fewshot.commands.cli.parser import flat_fields
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.commands.cli.run import run
from clip_fewshot.commands.cli.shared_options import CommandOptions
from clip_fewshot.runtime.progress import report_steps
from tests.cli.command import call, drop_progress, fork
from tests.cli.runs import TRIALS, Whole, decided, trial_files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork are POSIX")


def test_nothing_but_the_table_on_stdout_and_no_progress_bar_outside_a_terminal(whole: Whole) -> None:
    assert whole.ended.code == 0
    first, rule, *rows = whole.ended.out.splitlines()
    assert first.startswith("method")
    assert set(rule) == {"-"}
    assert any(row.split()[:2] == ["frozen", "probe"] for row in rows)
    assert whole.ended.err.splitlines() == [f"report: {whole.out / 'report.html'}   model: {whole.out / 'model'}"]
    assert len(trial_files(whole.out)) == TRIALS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_bar_per_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with show_progress() as progress:
        progress("search", 1, 2)
        progress("search", 2, 2)
        progress("refit", 1, 1)
    assert "search: 100%" in screen.getvalue()
    assert "refit: 100%" in screen.getvalue()


def test_a_pipe_gets_a_line_when_a_command_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clip_fewshot.commands.cli.progress.FIRST_LINE", 0.01)
    monkeypatch.setattr("clip_fewshot.commands.cli.progress.NEXT_LINE", 0.01)
    with show_progress() as progress:
        for done, total, line in ((1, 4, "[0 s] search, 1 of 4 (25 %)\n"), (0, 1, "[0 s] search\n")):
            progress("search", done, total)
            said = ""
            while line not in said:
                said += capsys.readouterr().err
                time.sleep(0.001)
            assert drop_progress(said) == ""
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_the_loops_of_the_library_and_that_something_is_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen, answers = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", answers)
    for name in ("FIRST_BAR", "TICK"):
        monkeypatch.setattr(f"clip_fewshot.commands.cli.progress.{name}", 0.01)
    with show_progress():
        while "at work [00:0" not in screen.getvalue():
            time.sleep(0.001)
        for _ in report_steps(range(4), "read pictures", 64, 16):
            while "read pictures" not in screen.getvalue():
                time.sleep(0.02)
        assert " 64 " not in screen.getvalue()  # a loop that is over leaves no bar
        print("the answer")
    assert answers.getvalue() == "the answer\n"
    assert (sys.stdout, sys.stderr) == (answers, screen)


def test_quiet_shows_nothing_of_stages_and_loops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clip_fewshot.commands.cli.progress.FIRST_LINE", 0.01)
    with show_progress(quiet=True), show_progress() as progress:
        progress("search", 1, 2)
        assert [*report_steps([1, 2], "read", 2)] == [1, 2]
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_the_processes_of_torchrun_the_first_tells(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("clip_fewshot.commands.cli.progress.FIRST_LINE", 0.01)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)

    def main(options: CommandOptions) -> int:
        said = ""
        while rank == "0" and "at work" not in said:
            said += capsys.readouterr().err
        time.sleep(0.05)
        return 0

    assert run(main, CommandOptions, "x", "", []) == 0
    assert ("at work" in capsys.readouterr().err) <= (rank == "0")


def test_every_command_can_be_quiet() -> None:
    places = [(COMMANDS, "clip_fewshot.commands"), (STORE_COMMANDS, "clip_fewshot.commands.open_world")]
    for names, place in places:
        for name in names:
            if name != OPEN_WORLD:
                options = import_module(f"{place}.{name}").Options
                assert "quiet" in {field.name for field, _, _ in flat_fields(options)}, name


def test_resuming_a_finished_run_in_a_new_interpreter_runs_no_trial_and_prints_json_alone(
    whole: Whole, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole.out, out)
    ended = call("few_shot", "--resume", out, "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == json.loads((out / "results.json").read_text())
    assert ended.err.count("\n") == 1
    assert trial_files(out) == trial_files(whole.out)
    assert decided(out) == decided(whole.out)


def test_a_budget_ends_the_run_in_time_with_results(whole: Whole, options: list[str], tmp_path: Path) -> None:
    out, began = tmp_path / "run", time.monotonic()
    ended = fork(tmp_path, "few_shot", *options, "--trials", 10_000, "--budget", "5s", "--out", out).wait()
    seconds = time.monotonic() - began
    assert ended.code == 0, ended.err
    search = json.loads((out / "results.json").read_text())["search"]
    assert 0 < search["finished"] + search["pruned"] < 10_000
    # What follows the search took this long a moment ago; a busy machine may make it twice as long.
    assert seconds < 5 + 2 * (whole.seconds - whole.search_seconds)
