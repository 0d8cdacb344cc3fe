"""What is said of another camera: nothing, or what to do."""

from __future__ import annotations

from clip_fewshot.conformal.shift import Shift
from clip_fewshot.report.shifts import BRING, describe_shift


def test_each_verdict_has_its_words() -> None:
    assert describe_shift(None) == describe_shift(Shift(0.4, 0.8, 0.8, 0.9, 100)) == []
    (moved,) = describe_shift(Shift(0.002, 0.5, 0.6, 0.9, 100))
    assert "p = 0.002" in moved
    assert "no new class" in moved
    (either,) = describe_shift(Shift(0.3, 0.1, 0.7, 0.9, 100))
    assert either.startswith("10 % of these pictures look like known ones, and 70 % once")
    assert "or most are of new classes" in either
    assert BRING in moved
    assert BRING in either
