"""The copy of a study that Optuna's own tools open."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from clip_fewshot.few_shot.search.journal import write_journal
from clip_fewshot.few_shot.search.record import list_trials
from tests.few_shot.test_search import SPACE, plan, run_study, toy_score


def test_optuna_reads_the_trials_as_they_ended(tmp_path: Path) -> None:
    run_study(SPACE, toy_score, plan(tmp_path / "trials"))
    path = tmp_path / "study.log"
    for _ in range(2):  # a run that goes on writes it again
        write_journal(path, tmp_path / "trials")
    study = optuna.load_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="few-shot")
    records = list_trials(tmp_path)
    assert [t.state.name for t in study.trials] == [r.state for r in records]
    assert [t.user_attrs["approach"] for t in study.trials] == [r.point.approach for r in records]
    assert study.best_value == max(r.value for r in records if r.state == "COMPLETE")
    assert [list(t.intermediate_values.values()) for t in study.trials] == [list(r.fold_values) for r in records]
