"""The README: short, and its program runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import clip_fewshot as cf

TEXT = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def test_it_is_read_in_a_few_minutes() -> None:
    assert len(TEXT.splitlines()) <= 150


def test_its_program_runs(tmp_path: Path) -> None:
    """With digits for the photos, and with the model that comes with the package, by the approach it would choose."""
    (program,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    program = program.replace('load_backbone("photos")', 'load_backbone("mini"), "text-prior"')
    assert "mini" in program
    digits = cf.read_dataset("digits")
    for i in range(600):
        name = digits.label_space.names[digits.labels[i]]
        home = tmp_path / (f"photos/{name}" if i < 450 and name not in {"two", "five"} else "new_pictures")
        home.mkdir(parents=True, exist_ok=True)
        digits.open(i).save(home / f"{i}.png")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
