"""What holds for every command."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("few_shot", "predict", "zero_shot", "linear_probe", "novelty", "shots", "benchmark")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers_at_once_and_names_the_command(name: str) -> None:
    argv = [sys.executable, "-m", f"experiments.{name}", "--help"]
    took = []
    for _ in range(3):  # the least of three: the machine may be busy
        began = time.perf_counter()
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
        took.append(time.perf_counter() - began)
        if took[-1] < 0.5:
            break
    assert min(took) < 0.5
    assert done.stdout.startswith(f"usage: python -m experiments.{name}")
    assert done.stderr == ""


def test_no_command_imports_anything_heavy_before_it_runs() -> None:
    code = f"import sys, {', '.join(f'experiments.{name}' for name in COMMANDS)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & {"torch", "numpy", "sklearn", "PIL", "matplotlib", "optuna"}
