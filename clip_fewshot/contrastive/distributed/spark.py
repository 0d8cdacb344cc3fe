"""Spark as the starter of processes: the function that torchrun would run, and pictures embedded on all executors.

The master is the one that Spark is configured with (spark-submit, spark-defaults.conf, a session of the caller's), else
this machine. Executors on other machines need this package, and the pictures under the same paths.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.errors import ArtifactError, ClipFewShotError, DataError, ResourceError
from clip_fewshot.features.table import (
    BACKBONE_COLUMN,
    DIGEST_COLUMN,
    EMBEDDING_COLUMN,
    PATH_COLUMN,
    TABLE_CHUNK,
    embed_files,
)

T = TypeVar("T")

SPARK_SCHEMA = (
    f"{PATH_COLUMN} string, {DIGEST_COLUMN} string, {EMBEDDING_COLUMN} array<float>, {BACKBONE_COLUMN} string"
)
QUIET = {"spark.ui.enabled": "false", "spark.log.level": "ERROR"}
HERE = {"spark.driver.host": "localhost", "spark.driver.bindAddress": "127.0.0.1"}  # a host name may lead elsewhere
# A dead process ends the training with its name. By default Spark would begin it again, four times, from nothing.
ONCE = {"spark.task.maxFailures": "1", "spark.stage.maxConsecutiveAttempts": "1"}


def run_on_spark(job: Callable[..., T], *arguments: object, processes: int = 2) -> T:
    """Run ``job(*arguments)`` in processes that :func:`join_world` joins, by PySpark's ``TorchDistributor``.

    On this machine the driver starts them; on a cluster each is a task of one barrier stage.

    Args:
        job: a function of an importable module, as on torchrun's command line; its arguments can be pickled.
        processes: how many, >= 1.

    Returns:
        what ``job`` returned at rank 0; Spark carries it to the driver, so let it be bytes rather than models.

    Raises:
        ResourceError: no pyspark, no Java, or a process that died: its rank.
        ClipFewShotError: what ``job`` raised.
    """
    with _session(ONCE) as session:
        from pyspark.ml.torch.distributor import TorchDistributor

        conf = session.sparkContext.getConf()
        here = re.fullmatch(r"local(\[.*\])?", conf.get("spark.master")) is not None
        gpu = not here and conf.get("spark.task.resource.gpu.amount", "0") != "0"
        printed = _Overheard(sys.stdout)
        try:
            with redirect_stdout(printed):
                found = TorchDistributor(processes, local_mode=here, use_gpu=gpu).run(_outcome, here, job, arguments)
        except Exception as error:  # Java's, Spark's, or a RuntimeError that sends the reader to what was printed
            got, fix = _cause(str(error), printed.text), "start again; what was saved can be resumed"
            expected = f"all {processes} processes to the end"
            raise ResourceError(expected=expected, got=got, fix=fix, where="Spark") from error
    if isinstance(found, ClipFewShotError):
        raise found
    return cast(T, found)


def _outcome(here: bool, job: Callable[..., Any], arguments: Sequence[object]) -> Any:
    """What the job returns; a user's mistake as a value, as Spark makes text of exceptions."""
    try:
        found = job(*arguments)
    except ClipFewShotError as error:
        found = error
    if here and os.environ.get("RANK", "0") != "0":
        raise SystemExit(0)  # all write their result to one file, and the last one would win
    return found


class _Overheard:
    """A stream that remembers the end of what passes through it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._end = stream, deque[str](maxlen=500)

    @property
    def text(self) -> str:
        return "".join(self._end)

    def write(self, text: str) -> int:
        self._end.append(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


def _cause(error: str, printed: str = "") -> str:
    """The process that torchrun's report blames, else the last line of an error."""
    blamed = re.search(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", printed + error, re.DOTALL)
    if blamed:
        return f"rank {blamed[1]} that ended with exit code {blamed[2]}"
    lines = [line.strip() for line in error.split("\n") if line.strip()]
    return lines[-1][:500] if lines else "an error without words"


def embed_on_spark(paths: Sequence[Path], model: str, out: Path, device: str = "auto") -> None:
    """Features of picture files by a pandas UDF on all executors: a folder of Parquet parts in the order of ``paths``.

    Numbers and columns are those of :func:`write_features`. What executors have embedded is in their cache, so after a
    kill the same call computes what is missing.

    Args:
        model: a name that :func:`load_backbone` knows on every executor.
        out: a folder that is not there yet, on a disk that all share.

    Raises:
        ResourceError: no pyspark, no Java, ``out`` is there already, or the job failed.
    """
    if out.exists():
        fix = "remove it, or choose another place (`out`)"
        raise ResourceError(expected="a new place", got="one that is there already", fix=fix, where=str(out))
    names = [(_text(path),) for path in paths]
    digest, unfinished = _loaded(model, device).digest, out.with_name(f".{out.name}.unfinished")
    with _session({"spark.sql.execution.arrow.maxRecordsPerBatch": str(TABLE_CHUNK)}) as session:
        slices = max(session.sparkContext.defaultParallelism, -(-len(names) // TABLE_CHUNK))
        rows = session.sparkContext.parallelize(names, min(slices, len(names)))
        table = session.createDataFrame(rows, f"{PATH_COLUMN} string")
        embedded = table.mapInPandas(partial(_embed, model=model, device=device, digest=digest), SPARK_SCHEMA)
        try:
            embedded.write.mode("overwrite").parquet(unfinished.absolute().as_uri())
        except Exception as error:
            expected = "pictures embedded by Spark"
            raise ResourceError(expected=expected, got=_cause(str(error)), fix="see above", where=str(out)) from error
    unfinished.rename(out)


def _text(path: Path) -> str:
    """A path as Java can hold it."""
    try:
        return str(path).encode("utf-8").decode()
    except UnicodeEncodeError as error:
        fix = "rename it, or embed without Spark"
        raise DataError(expected="file names in UTF-8", got=f"{str(path)!r}", fix=fix, where="Spark") from error


def _embed(frames: Iterator[Any], model: str, device: str, digest: str) -> Iterator[Any]:
    """Frames of paths -> frames of the table; runs in the executors."""
    import pandas

    backbone = _loaded(model, device)
    if backbone.digest != digest:
        expected = "the driver's weights"
        raise ArtifactError(expected=expected, got="others", fix=f"give each executor the same {model}", where="Spark")
    for frame in frames:
        for part in embed_files(backbone, [Path(name) for name in frame[PATH_COLUMN]]):
            yield pandas.DataFrame(part.columns())


@cache
def _loaded(model: str, device: str) -> Backbone:
    return load_backbone(model, device=device)


@contextmanager
def _session(settings: dict[str, str]) -> Iterator[Any]:
    """The session that there is, else one of our own while the block lasts."""
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        fix = "install it (openjdk-17-jre-headless) or set JAVA_HOME"
        raise ResourceError(expected="Java 17 or later", got="none", fix=fix, where="Spark")
    try:
        from pyspark import SparkConf, SparkContext
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ResourceError(
            expected="the package pyspark", got=str(error), fix="pip install 'clip-fewshot[spark]'", where="Spark"
        ) from error
    with warnings.catch_warnings(), _environment():
        # What is used here is tested with that version.
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
        active = SparkSession.getActiveSession()
        if active is not None:
            yield active
            return
        try:
            SparkContext._ensure_initialized()  # starts Java, which alone knows what master Spark is configured with
        except Exception as error:
            got = _cause(str(error))
            raise ResourceError(expected="Java 17 or later", got=got, fix="check JAVA_HOME", where="Spark") from error
        conf = SparkConf().setAppName("clip_fewshot")
        here = HERE if conf.get("spark.master", "").startswith("local") else {}
        for key, value in (QUIET | here | settings).items():
            conf.setIfMissing(key, value)
        conf.set("spark.ui.showConsoleProgress", "false")  # Python's default is true, on standard error
        session = SparkSession.builder.config(conf=conf).getOrCreate()
        try:
            yield session
        finally:
            session.stop()


@contextmanager
def _environment() -> Iterator[None]:
    """Processes that are started here run this interpreter and import from where this one does."""
    before = {key: os.environ.get(key) for key in ("PYSPARK_PYTHON", "PYTHONPATH")}
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
