"""docs/training_on_pairs.md: its program runs, and prints what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clip_fewshot.backbones.clip import load_backbone

PAGE = (Path(__file__).parents[2] / "docs/training_on_pairs.md").read_text("utf-8")


@pytest.mark.slow
def test_the_program_prints_what_the_page_says(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    done = subprocess.run([sys.executable, "-c", found[1]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kernels = r"activations \d+|: \d+"  # what attention keeps for its way back depends on the processor
    assert re.sub(kernels, "", done.stdout) == re.sub(kernels, "", found[2])
    assert load_backbone(tmp_path / "model", device="cpu").digest != load_backbone("mini", device="cpu").digest
