"""A finished trial, in memory and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from clip_fewshot.errors import ArtifactError
from clip_fewshot.few_shot.select import TrialRecord
from clip_fewshot.runtime.files import SEAL, read_json, seal, write_json
from clip_fewshot.runtime.reading import as_path
from clip_fewshot.runtime.result_rows import ResultRows

RECORD = "record"  # user attribute that marks a trial as finished
UNSEALED_TRIAL = {"record", "params", "distributions"}  # what is in a file of the releases that did not seal


def write_trial(folder: Path, record: TrialRecord, trial: optuna.Trial, study: str) -> None:
    """Write a finished trial to its file in ``folder``; ``study``: what no run has that means something else by it."""
    distributions = {name: distribution_to_json(d) for name, d in trial.distributions.items()}
    content = {"study": study, "record": asdict(record), "params": trial.params, "distributions": distributions}
    write_json(folder / _file_name(record.number), content | {SEAL: seal(_without_clock(content))[SEAL]})


def round_time(seconds: float) -> float:
    """Whole milliseconds of ``seconds``, and behind them six digits which show whether a file says what was written.

    The seal of a trial leaves its time out: the same command writes the same bytes but for this number.
    """
    whole = round(seconds * 1e9) // 1_000_000
    return float(f"{whole / 1000:.3f}{_check_digits(whole):06d}")


def _check_digits(milliseconds: int) -> int:
    return crc32(str(milliseconds).encode()) % 1_000_000


def _without_clock(content: Any) -> Any:
    return {**content, "record": {**content["record"], "seconds": None}}


@dataclass(frozen=True)
class StoredTrial:
    """A trial as its file holds it: how it ended, Optuna's side of it, its study (None in files of before)."""

    record: TrialRecord
    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    study: str | None

    def to_frozen_trial(self, state: TrialState, value: float | None) -> FrozenTrial:
        """The trial as Optuna keeps it, with this state and value."""
        return optuna.create_trial(state=state, params=self.params, distributions=self.distributions, value=value)


def read_trials(folder: Path, study: str | None = None) -> dict[int, StoredTrial]:
    """The finished trials of a folder by number, in order.

    Args:
        study: that they must be of; None: of whichever, all of one.

    Raises:
        ArtifactError: a damaged file, or one that was put in another's place.
    """
    found: dict[int, StoredTrial] = {}
    for path in sorted(folder.glob("[0-9]*.json")):
        stored = _read(path)
        study = study or stored.study
        if stored.study not in (None, study) or _file_name(stored.record.number) != path.name:
            raise _damaged(path, f"trial {stored.record.number} of study {stored.study}")
        found[stored.record.number] = stored
    return found


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
    found = [stored.record for stored in read_trials(as_path(folder, "folder") / "trials").values()]
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
        if content.keys() != UNSEALED_TRIAL and content.get(SEAL) != seal(_without_clock(content))[SEAL]:
            raise _damaged(path, "one that was changed since it was written")
        distributions = {name: json_to_distribution(d) for name, d in content["distributions"].items()}
        stored = StoredTrial(_record(content["record"]), content["params"], distributions, content.get("study"))
        stored.to_frozen_trial(TrialState.PRUNED, None)  # refuses parameters outside their ranges
        _check_ranges(stored.record, stored.study is not None)
        return stored
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _check_ranges(record: TrialRecord, checked: bool) -> None:
    """Refuse what no trial can say; ``checked``: the time carries its digits, see :func:`round_time`."""
    losses = [loss for fold in record.losses for loss in fold]
    sound = (
        record.state in ("COMPLETE", "PRUNED", "FAIL")
        and all(0 <= value <= 1 for value in record.fold_values)
        and all(loss >= 0 for loss in losses)
        and all(temperature > 0 for temperature in record.temperatures)
        and type(record.number) is int
        and record.seconds >= 0
        and (not checked or record.seconds == round_time(record.seconds))
    )
    if not sound:
        raise ValueError("a state, score, loss, temperature or time that none can have")


def _damaged(path: Path, got: str) -> ArtifactError:
    fix = "restore it, or delete it and the trials after it: they run again"
    return ArtifactError(expected="a finished trial", got=got, fix=fix, where=str(path))
