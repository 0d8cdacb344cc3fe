"""`audit`: what is found is printed and recorded, and is no error."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.commands.conftest import Command


def test_what_is_found_is_a_table_or_a_record_and_the_exit_code_is_0(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    for side, names in (("train", ("zero", "one")), ("test", ("zero", "one"))):
        for name in names:
            for place in sorted((photos / name).iterdir())[side == "test" :: 2]:
                (tmp_path / side / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(place, tmp_path / side / name / place.name)
    sound = command("audit", tmp_path / "train", "--test", tmp_path / "test", "--model", "mini", "--json")
    assert (sound.code, sound.err) == (0, "")
    assert sound.record["checks"]["both sides"]["found"] == 0
    assert sound.record["model"] == "mini"
    taken = next((tmp_path / "train/zero").iterdir())
    shutil.copy(taken, tmp_path / "test/zero/again.png")
    ended = command("audit", tmp_path / "train", "--test", tmp_path / "test", "--model", "mini")
    assert ended.code == 0
    assert "! both sides" in ended.out
    assert "1 test picture with a copy on the training side; same file: 1 pair" in ended.out
    assert "again.png" in ended.out
    assert command("audit", tmp_path / "none").code == 2


def test_without_the_model_the_other_checks_are_made_and_the_exit_code_is_3(
    command: Command, photos: Path, no_hub: None
) -> None:
    ended = command("audit", photos, "--json")
    assert ended.code == 3
    assert "no label is doubted" in ended.err
    assert "--model" in ended.err
    assert "traces" in ended.record["checks"]
    assert "doubtful labels" not in ended.record["checks"]
