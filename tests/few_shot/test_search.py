"""The study: what it draws, what it survives."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import optuna
import pytest
from hypothesis import given

from clip_fewshot.errors import ArtifactError, DivergedError, ResourceError
from clip_fewshot.few_shot.approach import APPROACHES, BASELINES, LINEAR_PROBE, PROBE, TEXT_PRIOR, Point
from clip_fewshot.few_shot.search import study
from clip_fewshot.few_shot.search.halving import Halving, estimate_worth
from clip_fewshot.few_shot.search.record import read_trials, round_time
from clip_fewshot.few_shot.search.space import SearchSpace
from clip_fewshot.few_shot.search.study import StudyPlan
from clip_fewshot.few_shot.select import FoldScore, TrialRecord, select_by_approach
from clip_fewshot.runtime import rng
from clip_fewshot.runtime.workers import Done, WorkerPool

SPACE = SearchSpace(tuple(APPROACHES.values()), max_unfreeze=4, baselines=(LINEAR_PROBE,))


class Scored:
    """A score as a study takes it; the object can be sent to workers."""

    def __init__(self, score: Callable[[Point, int], float]) -> None:
        self.score = score

    def evaluate(self, point: Point, fold: int) -> FoldScore:
        return FoldScore(self.score(point, fold))


def run_study(space: SearchSpace, score: Callable[[Point, int], float], *rest: Any, **more: Any) -> list[TrialRecord]:
    return study.run_study(space, Scored(score).evaluate, *rest, **more)


def toy_score(params: Point, fold: int) -> float:
    """Smooth, deterministic, best at N = 2 and lr = 1e-4."""
    if params.approach == PROBE:
        return 0.6
    return (
        0.8
        - 0.05 * (params.unfreeze - 2) ** 2
        - 0.02 * math.log10(params.rate("backbone_lr") / 1e-4) ** 2
        - 0.001 * fold
    )


def plan(folder: Path, **changes: object) -> StudyPlan:
    return replace(StudyPlan(trials=15, folds=3, seed=7, folder=folder), **changes)  # type: ignore[arg-type]


def what_was_drawn(records: list[TrialRecord]) -> list[tuple[int, str, str, tuple[float, ...]]]:
    return [(r.number, r.state, json.dumps(r.params, sort_keys=True), r.fold_values) for r in records]


def test_a_study_without_unfrozen_layers_draws_none(tmp_path: Path) -> None:
    heads = replace(SPACE, approaches=(APPROACHES["mlp-arcface"], APPROACHES["mlp"]), max_unfreeze=0)
    records = run_study(heads, toy_score, plan(tmp_path))
    assert {r.point.unfreeze for r in records} == {0}
    assert [r.point for r in records[1:3]] == [a.at({"unfreeze": 0}) for a in heads.approaches]
    assert len({r.point.rate("head_lr") for r in records[1:]}) > 5


def test_the_frozen_probe_is_trial_0_and_every_centre_comes_next(tmp_path: Path) -> None:
    records = run_study(SPACE, toy_score, plan(tmp_path))
    assert records[0].params["approach"] == PROBE
    centres = [r.point for r in records[1:5]]
    assert centres == [approach.point for approach in APPROACHES.values()]
    assert len(records) == 15


def test_a_study_begins_with_the_baselines_and_repeats_none(tmp_path: Path) -> None:
    space = SearchSpace((APPROACHES["mlp"], TEXT_PRIOR), max_unfreeze=4)
    records = run_study(space, toy_score, plan(tmp_path))
    assert [r.point.approach for r in records[:4]] == [*(a.name for a in BASELINES), "mlp"]
    assert {r.point.approach for r in records[3:]} == {"mlp"}
    assert len(records) == 15


def test_a_study_with_nothing_to_draw_ends_after_its_start(tmp_path: Path) -> None:
    space = SearchSpace((TEXT_PRIOR,), max_unfreeze=4)
    assert [r.point.approach for r in run_study(space, toy_score, plan(tmp_path))] == [a.name for a in BASELINES]
    assert len(run_study(space, toy_score, plan(tmp_path))) == 3


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

    def score(params: Point, fold: int) -> float:
        if params.approach == PROBE:
            return 0.9
        return toy_score(params, fold) - 0.01 * list(APPROACHES).index(params.approach)

    whole = run_study(SPACE, score, plan(tmp_path / "whole", trials=9))
    run_study(SPACE, score, plan(tmp_path / "parts", trials=stop))
    assert what_was_drawn(run_study(SPACE, score, plan(tmp_path / "parts", trials=9))) == what_was_drawn(whole)


def test_a_finished_study_is_not_run_again(tmp_path: Path) -> None:
    run_study(SPACE, toy_score, plan(tmp_path))

    def never(params: Point, fold: int) -> float:
        raise AssertionError("a finished trial ran again")

    assert len(run_study(SPACE, never, plan(tmp_path))) == 15


def _slow_score(params: Point, fold: int) -> float:
    time.sleep(0.01)
    return toy_score(params, fold)


def _study_process(folder: Path) -> None:
    run_study(SPACE, _slow_score, plan(folder))


@pytest.mark.attack
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
    def score(params: Point, fold: int) -> float:
        if params.approach == "mlp":
            raise DivergedError(expected="a finite loss", got="nan at step 3 of 60", fix="lower the learning rates")
        return toy_score(params, fold)

    records = run_study(SPACE, score, plan(tmp_path))
    failed = [r for r in records if r.state == "FAIL"]
    assert len(records) == 15
    assert failed
    assert all("nan at step 3" in r.reason for r in failed)
    assert "mlp" not in select_by_approach(records)
    assert what_was_drawn(run_study(SPACE, toy_score, plan(tmp_path))) == what_was_drawn(records)


def noise(*words: object) -> float:
    return float(rng.generator(0, *map(repr, words)).normal())


def noisy_score(params: Point, fold: int) -> float:
    return min(1.0, max(0.0, toy_score(params, 0) + 0.03 * noise(params, fold) + 0.02 * noise(fold)))


class Rising:
    """Each trial is better than all before it, whatever it drew."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def __call__(self, params: Point, fold: int) -> float:
        if params not in self.points:
            self.points.append(params)
        return 0.5 + 0.001 * self.points.index(params)


SCORES: dict[str, Callable[[Point, int], float]] = {
    "saturated": lambda params, fold: 1.0,
    "tied": lambda params, fold: 0.75,
    "smooth": toy_score,
    "noisy": noisy_score,
    "rising": Rising(),
}


@pytest.mark.parametrize("name", SCORES)
def test_fifty_trials_run_at_most_half_of_all_folds(name: str, tmp_path: Path) -> None:
    records = run_study(SPACE, SCORES[name], plan(tmp_path, trials=50))
    trained = [len(r.fold_values) for r in records if r.params["approach"] != PROBE]
    assert len(records) == 50
    assert sum(trained) <= 0.5 * 49 * 3
    assert all(r.state == "COMPLETE" for r in records[:5])
    if name in ("saturated", "tied"):
        assert [r.state for r in records[5:]] == ["PRUNED"] * 45
    if name == "saturated":
        assert sum(trained) == 4 * 3
    if name == "rising":
        assert max(r.number for r in records if r.state == "COMPLETE") > 40


def test_what_halving_finds_is_near_the_best_that_any_trial_saw(tmp_path: Path) -> None:
    records = run_study(SPACE, toy_score, plan(tmp_path, trials=50))
    assert max(r.value for r in records if r.state == "COMPLETE") > max(r.value for r in records) - 0.005


def rivals(*rows: tuple[float, ...]) -> list[TrialRecord]:
    """A probe of three folds, then these trials."""
    points = [(PROBE, (0.5, 0.5, 0.5)), *(("mlp", row) for row in rows)]
    states = ["COMPLETE" if len(values) == 3 else "PRUNED" for _, values in points]
    return [
        TrialRecord(number, state, {"approach": name}, values, 1.0)
        for number, ((name, values), state) in enumerate(zip(points, states, strict=True))
    ]


def test_a_trial_stops_when_perfect_folds_would_only_tie_with_the_best_of_its_approach() -> None:
    rules = Halving(rivals((0.9, 0.8, 1.0)), start=2, folds=3)
    assert rules.can_win("mlp", [])
    assert rules.can_win("mlp", [0.71])
    assert not rules.can_win("mlp", [0.7])
    assert not rules.can_win("mlp", [0.9, 0.8])
    assert rules.can_win("contrastive", [0.0, 0.0])
    assert not Halving(rivals((1.0, 1.0, 1.0)), start=2, folds=3).can_win("mlp", [])


@given(folds=st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=2, max_size=6))
def test_stopping_what_cannot_win_never_changes_the_winner(folds: list[list[float]]) -> None:
    """The slow way: run everything."""
    everything = rivals(*map(tuple, folds))
    kept: list[TrialRecord] = []
    for record in everything:
        ran = [n for n in range(3) if Halving(kept, 0, 3).can_win(record.params["approach"], record.fold_values[:n])]
        kept.append(record if len(ran) == 3 else replace(record, state="PRUNED"))
    assert {k: r.number for k, r in select_by_approach(kept).items()} == {
        k: r.number for k, r in select_by_approach(everything).items()
    }


def test_the_best_third_goes_on_and_ties_do_not() -> None:
    rules = Halving(rivals((0.9,), (0.8,), (0.7,), (0.6,)), start=2, folds=3)  # with the probe five rivals
    assert rules.is_promising([0.85])
    assert not rules.is_promising([0.8])
    assert not rules.is_promising([0.75])
    assert not Halving(rivals(*[(1.0,)] * 20), start=2, folds=3).is_promising([1.0])


def test_the_sampler_is_told_of_a_pruned_trial_what_is_expected_of_it() -> None:
    """By hand: 0.1 above the start on one fold of three, of which 2/3 are believed."""
    start = [trial for trial in rivals((0.7, 0.6, 0.5)) if trial.state == "COMPLETE"]  # fold means .6 .55 .5
    assert estimate_worth(rivals((0.7,))[1], start, 3) == pytest.approx(0.55 + 0.1 * 2 / 3)
    assert estimate_worth(rivals((0.7, 0.5))[1], start, 3) == pytest.approx(0.55 + (0.6 - 0.575) * 8 / 9)
    assert estimate_worth(start[1], start, 3) == pytest.approx(0.6)
    assert estimate_worth(rivals(())[1], start, 3) is None
    assert estimate_worth(replace(start[1], state="FAIL"), start, 3) is None


class Jumbled(WorkerPool):
    """Three calls at once, which end in an order of chance."""

    def __init__(self, seed: int) -> None:
        super().__init__(3)
        self.dice, self.pool = random.Random(seed), ThreadPoolExecutor(3)

    @property
    def slots(self) -> int:
        return 3

    def submit(self, method: Callable[..., Any], *arguments: Any) -> Future[Done]:
        return self.pool.submit(self.late, self.dice.uniform(0, 0.004), method, arguments)

    def late(self, seconds: float, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Done:
        time.sleep(seconds)
        return Done(method(*arguments), 1.0)


def often_failing_score(params: Point, fold: int) -> float:
    if noise("fails", params, fold) > 1.2:
        raise DivergedError(expected="a finite loss", got=f"nan in fold {fold}", fix="lower the learning rates")
    return noisy_score(params, fold)


@pytest.mark.parametrize("seed", range(3))
def test_the_study_is_the_same_however_many_folds_run_at_once(seed: int, tmp_path: Path) -> None:
    options = {"trials": 30, "seed": seed}
    alone = run_study(SPACE, often_failing_score, plan(tmp_path / "alone", **options))
    crew = Jumbled(seed)
    with crew.pool:
        together = run_study(SPACE, often_failing_score, plan(tmp_path / "together", **options), crew=crew)
    assert what_was_drawn(together) == what_was_drawn(alone)
    assert {r.state for r in alone} == {"COMPLETE", "PRUNED", "FAIL"}


@pytest.mark.parametrize("lost", [{1}, {0, 4}, {5, 8}, {12}, {6, 7, 9, 10}])
def test_any_part_of_the_last_generation_can_be_lost(lost: set[int], tmp_path: Path) -> None:
    """Trials 0 to 4 are the start, 5 to 12 the generation after it."""
    whole = run_study(SPACE, noisy_score, plan(tmp_path, trials=16))
    for number in {*range(13 if max(lost) > 4 else 5, 16), *lost}:
        (tmp_path / f"{number:05d}.json").unlink()
    assert what_was_drawn(run_study(SPACE, noisy_score, plan(tmp_path, trials=16))) == what_was_drawn(whole)


def test_a_trial_that_this_study_would_not_draw_is_refused(tmp_path: Path) -> None:
    run_study(SPACE, toy_score, plan(tmp_path / "one", trials=8))
    run_study(SPACE, toy_score, plan(tmp_path / "other", trials=8, seed=8))
    shutil.copy(tmp_path / "other" / "00007.json", tmp_path / "one" / "00007.json")
    with pytest.raises(ArtifactError, match=r"00007\.json.*other parameters"):
        run_study(SPACE, toy_score, plan(tmp_path / "one", trials=9))


def test_the_best_of_equals_is_the_earlier(tmp_path: Path) -> None:
    records = run_study(SPACE, lambda params, fold: 0.5, plan(tmp_path))
    assert select_by_approach(records)["mlp"].number == min(r.number for r in records if r.params["approach"] == "mlp")


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
    whole = run_study(SPACE, toy_score, plan(tmp_path, trials=15))
    (tmp_path / "00005.json").unlink()
    with pytest.raises(ArtifactError, match=r"00005\.json.*00006\.json"):
        run_study(SPACE, toy_score, plan(tmp_path))
    for number in range(6, 15):
        (tmp_path / f"{number:05d}.json").unlink()
    assert what_was_drawn(run_study(SPACE, toy_score, plan(tmp_path))) == what_was_drawn(whole)


@pytest.mark.parametrize("name", APPROACHES)
def test_only_parameters_with_an_effect_are_drawn_each_inside_its_range(name: str) -> None:
    study = optuna.create_study()
    for _ in range(30):
        trial = study.ask()
        params = SearchSpace((APPROACHES[name],), max_unfreeze=3).suggest(trial)
        assert set(trial.params) == {"approach", *APPROACHES[name].space}
        assert APPROACHES[name].space["unfreeze"].low <= params.unfreeze <= 3
        assert 1e-6 <= params.rate("backbone_lr") <= 1e-3
        study.tell(trial, 0.0)


def test_an_unreachable_database_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(ResourceError, match="storage"):
        run_study(SPACE, toy_score, plan(tmp_path, storage="sqlite:////nonexistent/folder/study.db"))


def test_two_workers_share_a_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    run_study(SPACE, toy_score, plan(tmp_path / "one", trials=6, storage=url))
    both = run_study(SPACE, toy_score, plan(tmp_path / "two", trials=10, storage=url))
    assert len(both) == 10
    assert optuna.get_all_study_names(url) == ["few-shot"]
    assert len(list((tmp_path / "two").glob("*.json"))) == 4


def test_a_shared_study_has_a_name_that_people_can_read(tmp_path: Path) -> None:
    url, titled = f"sqlite:///{tmp_path}/study.db", {"name": "cc0c6abf", "title": "7 classes, 16 shots, seed 0"}
    run_study(SPACE, toy_score, plan(tmp_path / "one", trials=6, storage=url, **titled))
    assert len(run_study(SPACE, toy_score, plan(tmp_path / "two", trials=8, storage=url, **titled))) == 8
    assert optuna.get_all_study_names(url) == ["7 classes, 16 shots, seed 0 (cc0c6abf)"]
    before = f"sqlite:///{tmp_path}/before.db"  # as releases called it that had no titles
    run_study(SPACE, toy_score, plan(tmp_path / "three", trials=6, storage=before, name="cc0c6abf"))
    assert len(run_study(SPACE, toy_score, plan(tmp_path / "four", trials=8, storage=before, **titled))) == 8
    assert optuna.get_all_study_names(before) == ["cc0c6abf"]


def as_before(path: Path) -> dict[str, Any]:
    """A trial's file as releases wrote it that did not seal."""
    content = json.loads(path.read_text())
    return {name: content[name] for name in ("record", "params", "distributions")}


def test_any_changed_byte_of_a_trial_is_refused(tmp_path: Path) -> None:
    run_study(SPACE, toy_score, plan(tmp_path, trials=2))
    path, dice, said = tmp_path / "00001.json", random.Random(0), list[str]()
    sound, right = path.read_bytes(), read_trials(tmp_path)
    for at in dice.sample(range(len(sound)), 150):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << dice.randrange(8)]) + sound[at + 1 :])
        try:
            assert read_trials(tmp_path) == right  # a blank became another
        except ArtifactError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all("00001.json" in message for message in said)
    path.write_bytes(sound)
    assert read_trials(tmp_path) == right


def test_trials_in_each_others_place_are_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    run_study(SPACE, toy_score, plan(one, trials=3))
    run_study(SPACE, lambda *_: 0.2, plan(other, trials=3, name="on other pictures"))
    held = (one / "00001.json").read_bytes()
    for source in (one / "00002.json", other / "00001.json"):
        shutil.copy(source, one / "00001.json")
        with pytest.raises(ArtifactError, match=r"00001\.json"):
            run_study(SPACE, toy_score, plan(one))
        with pytest.raises(ArtifactError, match=r"0000[12]\.json"):
            read_trials(one)
    (one / "00001.json").write_bytes(held)
    assert len(run_study(SPACE, toy_score, plan(one))) == 15


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("state", "COmPLETE"), ("fold_values", [1.5]), ("fold_values", [-0.1]), ("seconds", -1.0), ("number", 1.0)],
        *[("losses", [[-1.0]]), ("temperatures", [0.0]), ("fold_values", ["a"])],
    ],
)
def test_trials_of_before_go_on_and_their_values_have_ranges(tmp_path: Path, name: str, value: object) -> None:
    whole = run_study(SPACE, toy_score, plan(tmp_path, trials=5))
    for path in tmp_path.glob("*.json"):
        path.write_text(json.dumps(as_before(path)))
    assert run_study(SPACE, toy_score, plan(tmp_path, trials=5)) == whole
    content = as_before(tmp_path / "00001.json")
    content["record"][name] = value
    (tmp_path / "00001.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"00001\.json"):
        run_study(SPACE, toy_score, plan(tmp_path))


def test_the_time_of_a_trial_is_the_one_that_was_written() -> None:
    for seconds in (0.0, 0.0004, 1.2345, 96.4, 123456.789):
        kept = round_time(seconds)
        assert kept == round_time(kept) == pytest.approx(seconds, abs=2e-3)
