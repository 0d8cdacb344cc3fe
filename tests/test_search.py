"""The study: what it draws, what it survives."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from clip_fewshot.config import TUNED_APPROACHES
from clip_fewshot.errors import ArtifactError, DivergedError, ResourceError
from clip_fewshot.search import PROBE, SearchSpace, StudyPlan, TrialRecord, best_by_approach, run_study
from clip_fewshot.training.approach import APPROACHES, TuneParams

SPACE = SearchSpace(TUNED_APPROACHES, max_unfreeze=4)


def toy_score(params: TuneParams, fold: int) -> float:
    """Smooth, deterministic, best at N = 2 and lr = 1e-4."""
    if params.approach == PROBE:
        return 0.6
    return 0.8 - 0.05 * (params.unfreeze - 2) ** 2 - 0.02 * math.log10(params.backbone_lr / 1e-4) ** 2 - 0.001 * fold


def plan(folder: Path, **changes: object) -> StudyPlan:
    return replace(StudyPlan(trials=15, folds=3, seed=7, folder=folder), **changes)  # type: ignore[arg-type]


def what_was_drawn(records: list[TrialRecord]) -> list[tuple[int, str, str, tuple[float, ...]]]:
    return [(r.number, r.state, json.dumps(r.params, sort_keys=True), r.fold_values) for r in records]


def test_the_frozen_probe_is_trial_0_and_every_centre_comes_next(tmp_path: Path) -> None:
    records = run_study(SPACE, toy_score, plan(tmp_path))
    assert records[0].params["approach"] == PROBE
    centres = [TuneParams(**r.params) for r in records[1:5]]
    assert centres == [APPROACHES[name].centre for name in TUNED_APPROACHES]
    assert len(records) == 15


def test_the_study_is_repeatable_and_its_seed_matters(tmp_path: Path) -> None:
    first = run_study(SPACE, toy_score, plan(tmp_path / "a"))
    again = run_study(SPACE, toy_score, plan(tmp_path / "b"))
    other = run_study(SPACE, toy_score, plan(tmp_path / "c", seed=8))
    assert what_was_drawn(first) == what_was_drawn(again)
    assert what_was_drawn(first) != what_was_drawn(other)


@pytest.mark.parametrize("stop", [1, 3, 9])
def test_a_resumed_study_draws_what_the_uninterrupted_one_draws(tmp_path: Path, stop: int) -> None:
    whole = run_study(SPACE, toy_score, plan(tmp_path / "whole"))
    run_study(SPACE, toy_score, plan(tmp_path / "parts", trials=stop))
    resumed = run_study(SPACE, toy_score, plan(tmp_path / "parts"))
    assert what_was_drawn(resumed) == what_was_drawn(whole)


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_resumed_study_prunes_what_the_uninterrupted_one_prunes(tmp_path: Path, stop: int) -> None:
    """The probe is a rival too, and a strong one decides early which trials go on."""

    def score(params: TuneParams, fold: int) -> float:
        if params.approach == PROBE:
            return 0.9
        return toy_score(params, fold) - 0.01 * TUNED_APPROACHES.index(params.approach)

    whole = run_study(SPACE, score, plan(tmp_path / "whole", trials=9))
    run_study(SPACE, score, plan(tmp_path / "parts", trials=stop))
    assert what_was_drawn(run_study(SPACE, score, plan(tmp_path / "parts", trials=9))) == what_was_drawn(whole)


def test_a_finished_study_is_not_run_again(tmp_path: Path) -> None:
    run_study(SPACE, toy_score, plan(tmp_path))

    def never(params: TuneParams, fold: int) -> float:
        raise AssertionError("a finished trial ran again")

    assert len(run_study(SPACE, never, plan(tmp_path))) == 15


def _slow_score(params: TuneParams, fold: int) -> float:
    time.sleep(0.01)
    return toy_score(params, fold)


def _study_process(folder: Path) -> None:
    run_study(SPACE, _slow_score, plan(folder))


def test_twenty_kills_lose_no_finished_trial_and_repeat_none(tmp_path: Path) -> None:
    """SIGKILL at random moments until at least 20 have hit, over as many studies as that takes."""
    whole = what_was_drawn(run_study(SPACE, toy_score, plan(tmp_path / "whole")))
    fork = multiprocessing.get_context("fork")
    dice, kills, study = random.Random(0), 0, 0
    while kills < 20:
        folder = tmp_path / f"killed-{study}"
        study += 1
        before: dict[str, bytes] = {}
        while True:
            child = fork.Process(target=_study_process, args=(folder,))
            child.start()
            child.join(dice.uniform(0.02, 0.35))
            killed = child.is_alive() and child.pid is not None
            if child.is_alive() and child.pid is not None:
                os.kill(child.pid, signal.SIGKILL)
            child.join()
            files = {path.name: path.read_bytes() for path in folder.glob("*.json")} if folder.exists() else {}
            assert before.items() <= files.items(), "a finished trial was lost or changed"
            before = files
            kills += killed and child.exitcode == -signal.SIGKILL
            if child.exitcode == 0:
                break
        assert what_was_drawn(run_study(SPACE, toy_score, plan(folder))) == whole
    assert kills >= 20


def test_a_diverged_trial_fails_with_its_reason_and_the_study_goes_on(tmp_path: Path) -> None:
    def score(params: TuneParams, fold: int) -> float:
        if params.approach == "mlp":
            raise DivergedError("a finite loss", "nan at step 3 of 60", "lower the learning rates")
        return toy_score(params, fold)

    records = run_study(SPACE, score, plan(tmp_path))
    failed = [r for r in records if r.state == "FAIL"]
    assert len(records) == 15
    assert failed
    assert all("nan at step 3" in r.reason for r in failed)
    assert "mlp" not in best_by_approach(records)
    assert what_was_drawn(run_study(SPACE, toy_score, plan(tmp_path))) == what_was_drawn(records)


def test_halving_prunes_the_worse_and_never_the_best(tmp_path: Path) -> None:
    records = run_study(SPACE, toy_score, plan(tmp_path, trials=40))
    run = sum(len(r.fold_values) for r in records)
    assert run < 0.75 * 40 * 3
    assert max(r.value for r in records) == max(r.value for r in records if r.state == "COMPLETE")
    assert {r.state for r in records} == {"COMPLETE", "PRUNED"}


def test_the_best_of_equals_is_the_earlier(tmp_path: Path) -> None:
    records = run_study(SPACE, lambda params, fold: 0.5, plan(tmp_path))
    assert best_by_approach(records)["mlp"].number == min(r.number for r in records if r.params["approach"] == "mlp")


def test_a_deadline_stops_the_study_and_leaves_it_resumable(tmp_path: Path) -> None:
    end = time.monotonic() + 0.15
    late = run_study(SPACE, _slow_score, plan(tmp_path, deadline=lambda: end))
    assert 0 < len(late) < 15
    assert what_was_drawn(run_study(SPACE, toy_score, plan(tmp_path))) == what_was_drawn(
        run_study(SPACE, toy_score, plan(tmp_path / "whole"))
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"record": {}, "params": {}, "distributions": {}}'])
def test_a_damaged_trial_file_is_named(tmp_path: Path, content: str) -> None:
    run_study(SPACE, toy_score, plan(tmp_path, trials=3))
    (tmp_path / "00002.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"00002\.json"):
        run_study(SPACE, toy_score, plan(tmp_path))


def test_a_missing_trial_is_refused_and_deleted_last_ones_run_again(tmp_path: Path) -> None:
    whole = run_study(SPACE, toy_score, plan(tmp_path, trials=8))
    (tmp_path / "00005.json").unlink()
    with pytest.raises(ArtifactError, match=r"00005\.json.*00006\.json"):
        run_study(SPACE, toy_score, plan(tmp_path, trials=8))
    (tmp_path / "00006.json").unlink()
    (tmp_path / "00007.json").unlink()
    assert what_was_drawn(run_study(SPACE, toy_score, plan(tmp_path, trials=8))) == what_was_drawn(whole)


@pytest.mark.parametrize("name", TUNED_APPROACHES)
def test_only_parameters_with_an_effect_are_drawn_each_inside_its_range(name: str) -> None:
    study = optuna.create_study()
    for _ in range(30):
        trial = study.ask()
        params = SearchSpace((name,), max_unfreeze=3).suggest(trial)
        assert set(trial.params) == {"approach", *APPROACHES[name].searched}
        assert APPROACHES[name].min_unfreeze <= params.unfreeze <= 3
        assert 1e-6 <= params.backbone_lr <= 1e-3
        study.tell(trial, 0.0)


def test_an_unreachable_database_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(ResourceError, match="--storage"):
        run_study(SPACE, toy_score, plan(tmp_path, storage="sqlite:////nonexistent/folder/study.db"))


def test_two_workers_share_a_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    run_study(SPACE, toy_score, plan(tmp_path / "one", trials=6, storage=url))
    both = run_study(SPACE, toy_score, plan(tmp_path / "two", trials=10, storage=url))
    assert len(both) == 10
    assert len(list((tmp_path / "two").glob("*.json"))) == 4
