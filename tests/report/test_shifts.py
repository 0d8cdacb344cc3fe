"""What is said of another camera: nothing, or what to do."""

from __future__ import annotations

from clip_fewshot.conformal.shift import Shift
from clip_fewshot.report.shifts import BRING, describe_shift


def test_each_verdict_has_its_words() -> None:
    assert describe_shift(None) == describe_shift(Shift(0.4, 0.8, 0.8, 0.9, 100, 1.0, 0.8, 0.5)) == []
    moved, advice = describe_shift(Shift(0.002, 0.5, 0.6, 0.9, 100, 1.0, 0.8, 0.5))
    assert "p = 0.002" in moved
    assert "no new class" in advice
    either, look = describe_shift(Shift(0.1, 0.1, 0.7, 0.9, 100, 1.0, 0.4, 0.5))
    assert either.endswith("most are of new classes: 10 % look like known ones, 70 % once one difference is taken off")
    assert "before you name any" in look
    agreed = describe_shift(Shift(0.1, 0.1, 0.7, 0.9, 100, 1.0, 0.8, 0.5))
    assert "new classes" not in agreed[0]
    assert all(BRING in said for said in (advice, look, agreed[1]))
    assert all(len(said) <= 160 for said in (moved, advice, either, look, *agreed))


def test_of_a_test_that_holds_known_classes_alone_nothing_else_is_said() -> None:
    for shift in (Shift(0.002, 0.5, 0.6, 0.9, 100, 1.0, 0.8, 0.5), Shift(0.1, 0.1, 0.7, 0.9, 100, 1.0, 0.4, 0.5)):
        said = " ".join(describe_shift(shift, of_known=True))
        assert said.startswith("the test pictures come from another camera or style than the shots")
        assert "new class" not in said
