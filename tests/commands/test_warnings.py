"""What was seen and not used is said by every command that reads pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands.conftest import KNOWN, Command
from tests.commands.test_reading import NEEDED

READING = {
    **{name: NEEDED.get(name, ()) for name in ("zero_shot", "linear_probe", "finetune", "retrieve", "modality_gap")},
    "few_shot": NEEDED["few_shot"],
    "compare": ("--shot-counts", 2, "--seeds", 2, "--approaches", "gda", "--reference", "gda", "--out", "compared"),
    "shots": ("--shot-counts", 1, "--seeds", 1, "--trials", 1, "--approaches", "mlp", "--epochs", 1, "--out", "curves"),
    "embed": ("--out", "e.parquet"),
}


@pytest.fixture
def messy(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes, and a note in one."""
    for name in KNOWN[:3]:
        shutil.copytree(photos / name, tmp_path / "messy" / name)
    (tmp_path / "messy" / KNOWN[0] / "about.md").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "messy"


@pytest.mark.parametrize("name", READING)
def test_a_command_on_data_says_what_it_passed_over(name: str, command: Command, messy: Path) -> None:
    if name == "embed":
        pytest.importorskip("pyarrow")
    ended = command(name, messy, "--model", "mini", *READING[name])
    assert ended.code == 0, ended.err
    assert ended.err.count("warning: passed over .md files: 1") == 1, ended.err


def test_a_command_on_pictures_too(command: Command, messy: Path, world: Path) -> None:
    ended = command("predict", world, messy / KNOWN[0])  # as open-world ingest, watch and add read them
    assert "warning: passed over .md files: 1" in ended.err
