"""The copy of a study that Optuna's own tools open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from clip_fewshot.few_shot.search.journal import write_journal
from clip_fewshot.few_shot.search.record import list_trials
from tests.few_shot.test_search import SPACE, plan, run_study, toy_score


def test_optuna_reads_the_trials_as_they_ended(tmp_path: Path) -> None:
    run = tmp_path / "digits-mini"
    run_study(SPACE, toy_score, plan(run / "trials"))
    path = run / "study.log"
    for _ in range(2):  # a run that goes on writes it again
        write_journal(path, run / "trials")
    study = optuna.load_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="digits-mini")
    records = list_trials(run)
    assert [t.state.name for t in study.trials] == [r.state for r in records]
    assert [t.user_attrs["approach"] for t in study.trials] == [r.point.approach for r in records]
    assert study.best_value == max(r.value for r in records if r.state == "COMPLETE")
    assert [list(t.intermediate_values.values()) for t in study.trials] == [list(r.fold_values) for r in records]


def test_the_dashboard_lists_it_by_the_name_of_its_run(tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", exc_type=ImportError)
    run_study(SPACE, toy_score, plan(tmp_path / "digits-mini" / "trials"))
    path = tmp_path / "digits-mini" / "study.log"
    write_journal(path, tmp_path / "digits-mini" / "trials")
    app, said = dashboard.wsgi(JournalStorage(JournalFileBackend(str(path)))), list[str]()
    asked: dict[str, Any] = {}
    setup_testing_defaults(asked)
    body = b"".join(app(asked | {"PATH_INFO": "/api/studies"}, lambda status, *head: said.append(status)))
    (study,) = json.loads(body)["study_summaries"]
    assert (said, study["study_name"]) == (["200 OK"], "digits-mini")
