"""A finished study as a file of Optuna's own: `optuna-dashboard runs/digits-mini/study.log` opens it.

A copy, not where the study lives. Optuna 5.0 reads a journal that was cut within a line, as a kill leaves it, but
cannot add to it: its next trial ends in an AttributeError.
"""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from clip_fewshot.few_shot.search.record import StoredTrial, read_trials

JOURNAL = "study.log"


def write_journal(path: Path, trials: Path) -> None:
    """Write the finished trials of a folder to ``path``, in place of what is there; a study in a database has none.

    The study is called like the folder of ``path``: a run's own name, as digits-mini.
    """
    found = read_trials(trials)
    path.unlink(missing_ok=True)
    storage, name = JournalStorage(JournalFileBackend(str(path))), path.absolute().parent.name or "few-shot"
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    study.add_trials([_to_shown_trial(found[number]) for number in sorted(found)])


def _to_shown_trial(stored: StoredTrial) -> optuna.trial.FrozenTrial:
    record = stored.record
    return optuna.create_trial(
        state=TrialState[record.state],
        value=record.value if record.state == "COMPLETE" else None,
        params=stored.params,
        distributions=stored.distributions,
        user_attrs=record.params | {"seconds": record.seconds, "reason": record.reason},
        intermediate_values=dict(enumerate(record.fold_values)),
    )
