"""What is said of a batch of pictures that comes from elsewhere than the known ones, and what to do then."""

from __future__ import annotations

from clip_fewshot.conformal.shift import SHIFT, UNMOVED, Shift

BRING = "bring labelled pictures from there and train with them, or add them to their classes"


def describe_shift(shift: Shift | None) -> list[str]:
    """A sentence, or none where there is nothing to say."""
    if shift is None or shift.verdict() == UNMOVED:
        return []
    if shift.verdict() == SHIFT:
        moved = f"these pictures differ from the known ones in all classes alike (p = {shift.p_value:.2g})"
        return [f"{moved}, as another camera or style makes them: what is called unknown need be no new class; {BRING}"]
    few = f"{round(100 * shift.ordinary)} % of these pictures look like known ones"
    undone = f"and {round(100 * shift.undone)} % once a difference common to all is taken off"
    advice = f"look at some before you name any; if their classes are known ones, {BRING}"
    return [f"{few}, {undone}: they come from another camera or style, or most are of new classes; {advice}"]
