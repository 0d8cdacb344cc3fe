"""A study that several workers share."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from clip_fewshot.errors import ResourceError, UsageError
from clip_fewshot.few_shot.search.space import SearchSpace, enqueue_start


@contextmanager
def open_shared_study(url: str, name: str, space: SearchSpace) -> Iterator[optuna.Study]:
    """The study called ``name`` while the block lasts; what the database refuses in it is an error of ours."""
    with _errors():
        database = _database(url, attempts=5)
        try:
            yield _join(database, name, space)
        finally:
            database.remove_session()
            database.engine.dispose()


def _join(database: optuna.storages.RDBStorage, name: str, space: SearchSpace) -> optuna.Study:
    """Who makes the study fills its queue, which hands each point to one worker; the others wait for that."""
    try:
        study = optuna.create_study(storage=database, study_name=name, direction="maximize")
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=database, study_name=name)
        for _ in range(100):
            if len(study.get_trials(deepcopy=False)) >= space.start:
                return study
            time.sleep(0.1)  # in vain only if its maker was killed between two statements
    enqueue_start(study, space)
    return study


def _database(url: str, attempts: int) -> optuna.storages.RDBStorage:
    # The scheme that libpq and its users know; SQLAlchemy means psycopg2 by it, which is not installed.
    url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
    try:
        make_url(url)
    except (ArgumentError, ValueError) as error:  # whose words may repeat a password
        expected = "an address such as postgresql://user@host/database"
        raise UsageError(expected=expected, got="another text", fix="correct it", where="`storage`") from error
    try:
        # A trial can take longer than servers keep an idle connection, so each is tried before it is used.
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except DBAPIError:  # two workers that create the tables at once: the database refuses one of them
        if attempts == 1:
            raise
        time.sleep(0.2)
        return _database(url, attempts - 1)
    except ImportError as error:
        fix = "for PostgreSQL: pip install 'clip-fewshot[postgres]'"
        raise ResourceError(expected="a driver of that database", got=str(error), fix=fix, where="`storage`") from error


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        fix = "check address and server, then run again: the study goes on"
        got = str(_first(error))
        raise ResourceError(expected="a database to share the study in", got=got, fix=fix, where="`storage`") from error


def _first(error: BaseException) -> BaseException:
    """The driver's own error, below the errors that wrap it."""
    inner = error.__cause__ or error.__context__
    return error if inner is None else _first(inner)
