"""What surrounds Spark and needs no Java; Spark itself is started in tests/spark."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clip_fewshot.contrastive.distributed import spark
from clip_fewshot.errors import DataError, ResourceError

REPORT = """
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  host      : node7
  rank      : 3 (local_rank: 0)
  exitcode  : -9 (pid: 1234)
  error_file: <N/A>
"""


def fail() -> bytes:
    raise DataError(expected="a picture", got="a poem", fix="look at it")


def test_the_blamed_process_is_named() -> None:
    assert spark._cause(f"Command failed\n{REPORT}\n====") == "rank 3 that ended with exit code -9"
    assert spark._cause("failed. View stdout logs", REPORT) == "rank 3 that ended with exit code -9"
    assert spark._cause("An error occurred\n\n  java.io.IOException: full  \n") == "java.io.IOException: full"
    assert spark._cause("") == "an error without words"


def test_on_one_machine_rank_0_alone_hands_its_result_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    assert spark._outcome(True, int, ["7"]) == 7
    monkeypatch.setenv("RANK", "1")
    assert spark._outcome(False, int, ["7"]) == 7  # on a cluster Spark takes that of rank 0 itself
    with pytest.raises(SystemExit) as ended:
        spark._outcome(True, int, ["7"])
    assert ended.value.code == 0


def test_a_mistake_is_a_result_and_a_defect_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    assert isinstance(spark._outcome(True, fail, []), DataError)
    with pytest.raises(ZeroDivisionError):
        spark._outcome(True, lambda: 1 // 0, [])


def test_without_java_or_pyspark_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ResourceError, match=r"clip-fewshot\[spark\]"):
        spark.run_on_spark(fail)
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="openjdk"):
        spark.run_on_spark(fail)


def test_a_table_is_never_written_over_something(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="there already"):
        spark.embed_on_spark([Path("a.png")], "mini", tmp_path)
    with pytest.raises(DataError, match="UTF-8"):
        spark.embed_on_spark([Path("\udcff.png")], "mini", tmp_path / "new")
