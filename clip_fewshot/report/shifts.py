"""What is said of a batch of pictures that comes from elsewhere than the known ones, and what to do then."""

from __future__ import annotations

from clip_fewshot.conformal.shift import SHIFT, UNMOVED, Shift

BRING = "train with labelled pictures from there, or add some to their classes"


def describe_shift(shift: Shift | None, of_known: bool = False) -> list[str]:
    """Two sentences, or none where there is nothing to say.

    Args:
        of_known: all pictures are of known classes, as in a test.
    """
    if shift is None or shift.verdict() == UNMOVED:
        return []
    few = f"{round(100 * shift.ordinary)} % look like known ones, {round(100 * shift.undone)} % once one difference is"
    why = f"all classes have moved alike (p = {shift.p_value:.2g})" if shift.moved() else f"{few} taken off"
    if of_known:
        return [f"the test pictures come from another camera or style than the shots: {why}", f"to do better, {BRING}"]
    camera = "these pictures come from another camera or style"
    if shift.verdict() == SHIFT:
        return [f"{camera}: {why}", f"what is called unknown need be no new class; {BRING}"]
    return [
        f"{camera}, or most are of new classes: {why}",
        f"look at some before you name any; of known classes, {BRING}",
    ]
