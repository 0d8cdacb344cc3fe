"""The two pages most tests look at, drawn once."""

from __future__ import annotations

import pytest

from clip_fewshot.report.page import render_page
from tests.report import sample


@pytest.fixture(scope="package")
def source() -> str:
    """The page of the made-up run."""
    return render_page(sample.results(), sample.record())


@pytest.fixture(scope="package")
def hostile_source() -> str:
    """The page of the run whose names want to break out."""
    return render_page(*sample.hostile())
