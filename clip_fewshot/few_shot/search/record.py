"""A finished trial, in memory and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from clip_fewshot.errors import ArtifactError
from clip_fewshot.few_shot.select import TrialRecord
from clip_fewshot.runtime.files import read_json, write_json
from clip_fewshot.runtime.result_rows import ResultRows

RECORD = "record"  # user attribute that marks a trial as finished


def write_trial(folder: Path, record: TrialRecord, trial: optuna.Trial) -> None:
    """Write a finished trial to its file in ``folder``."""
    distributions = {name: distribution_to_json(d) for name, d in trial.distributions.items()}
    content = {"record": asdict(record), "params": trial.params, "distributions": distributions}
    write_json(folder / _file_name(record.number), content)


@dataclass(frozen=True)
class StoredTrial:
    """A trial as its file holds it: how it ended, and Optuna's side of it."""

    record: TrialRecord
    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]

    def to_frozen_trial(self, state: TrialState, value: float | None) -> FrozenTrial:
        """The trial as Optuna keeps it, with this state and value."""
        return optuna.create_trial(state=state, params=self.params, distributions=self.distributions, value=value)


def read_trials(folder: Path) -> dict[int, StoredTrial]:
    """The finished trials of a folder by number, in order."""
    return {int(path.stem): _read(path) for path in sorted(folder.glob("[0-9]*.json"))}


def list_trials(folder: str | Path) -> ResultRows[TrialRecord]:
    """The finished trials of a run, in order; ``.to_frame()`` makes a DataFrame of them.

    Args:
        folder: of the run, as ``runs/digits-mini``.

    Raises:
        ArtifactError: no trial there, or a damaged one.

    Example:
        >>> import clip_fewshot as cf
        >>> config = cf.FewShotConfig.of(shots=2, trials=4, seeds=1, approaches=("mlp",), epochs=1, out="run/")
        >>> results = cf.run_few_shot(config)
        >>> cf.list_trials("run/").to_frame()["approach"].tolist()
        ['zero-shot', 'text-prior', 'linear-probe', 'mlp']
    """
    found = [stored.record for stored in read_trials(Path(folder) / "trials").values()]
    if not found:
        fix = "name the folder of a run with trials"
        raise ArtifactError(expected="finished trials", got="none", fix=fix, where=str(folder))
    return ResultRows(found)


def read_record(trial: FrozenTrial) -> TrialRecord:
    """What a finished trial of a shared study carries."""
    return _record(trial.user_attrs[RECORD])


def missing_trial_error(folder: Path, number: int, later: int) -> ArtifactError:
    """A trial without which later ones mean nothing: they were drawn in its light."""
    fix = "restore it, or delete the trials after it: they run again"
    return ArtifactError(
        expected=f"trial {_file_name(number)}", got=f"{_file_name(later)} next", fix=fix, where=str(folder)
    )


def foreign_trial_error(folder: Path, number: int) -> ArtifactError:
    """A trial that this study would not draw."""
    fix = "go on with the release that wrote it, or delete it: it runs again"
    return ArtifactError(
        expected="the trial that comes next",
        got="one with other parameters",
        fix=fix,
        where=str(folder / _file_name(number)),
    )


def _file_name(number: int) -> str:
    return f"{number:05d}.json"


def _record(fields: Mapping[str, Any]) -> TrialRecord:
    lists = {name: tuple(fields.get(name, ())) for name in ("fold_values", "temperatures")}
    losses = tuple(tuple(fold) for fold in fields.get("losses", ()))
    return TrialRecord(**{**fields, **lists, "losses": losses})


def _read(path: Path) -> StoredTrial:
    content = read_json(path)
    try:
        distributions = {name: json_to_distribution(d) for name, d in content["distributions"].items()}
        stored = StoredTrial(_record(content["record"]), content["params"], distributions)
        stored.to_frozen_trial(TrialState.PRUNED, None)  # refuses parameters outside their ranges
        return stored
    except (KeyError, TypeError, ValueError, IndexError) as error:
        fix = "restore it, or delete it and the trials after it: they run again"
        raise ArtifactError(
            expected="a finished trial", got=f"{type(error).__name__}: {error}", fix=fix, where=str(path)
        ) from error
