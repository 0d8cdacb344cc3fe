"""A command looks for no garbage while it imports, and as ever once it works."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What a process does that meets torch: it ends, by whether garbage is looked for at that moment.
MEETS_TORCH = """
import gc, os, sys

class Meets:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os._exit(10 + gc.isenabled())

sys.meta_path.insert(0, Meets())
from clip_fewshot.commands import main
main(sys.argv[1:])
"""
IMPORTS = """
import gc
from clip_fewshot.commands.cli.imports import import_quickly

with import_quickly():
    import json, decimal
    print(gc.isenabled(), end=" ")
print(gc.isenabled(), gc.get_freeze_count() > 1000, end=" ")
gc.unfreeze()
import torch
with import_quickly():
    print(gc.isenabled(), end=" ")
print(gc.isenabled(), gc.get_freeze_count() > 1000)
"""


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("few-shot", "digits", "--model", "mini"),
        ("predict", "model", "photos"),
        ("open-world", "init", "store", "model"),
        ("open-world", "ingest", "store", "photos"),
        ("open-world", "discover", "store"),
        ("open-world", "review", "store"),
        ("open-world", "apply", "store", "review.json"),
    ],
    ids=" ".join,
)
def test_torch_is_imported_while_the_collector_rests(words: tuple[str, ...]) -> None:
    assert run(MEETS_TORCH, *words).returncode == 10


def test_what_was_imported_is_left_out_of_later_collections_and_what_comes_later_is_not() -> None:
    assert run(IMPORTS).stdout.split() == ["False", "True", "True", "True", "True", "False"]
