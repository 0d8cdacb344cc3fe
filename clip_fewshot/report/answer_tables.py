"""What an open-world model says of pictures: as a table, for machines, and beside the pictures themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import NO_CLASS, escape, number, to_unicode
from clip_fewshot.data.thumbnail import shrink_picture
from clip_fewshot.open_world.answers import BY_NAME, Answer, count_answers
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.report import tables
from clip_fewshot.report.grid import SIDE, GridCell, picture_grid

SHOWN_POSSIBLE = 3
SHOWN_CLASSES = 10
SHOWN_ANSWERS = 40  # about a screen


def answers_table(
    world: OpenWorldClassifier, pictures: ImageDataset, answers: Sequence[Answer], where: str = "to_frame() has all"
) -> str:
    """How often each answer, then the ``SHOWN_ANSWERS`` most doubtful ones, the worst first; ``where`` all are.

    One line per picture: answer, share of known pictures that look as strange (p), classes, most probable first.

    First those that cannot be ruled out, where that is known, then the most probable ones, ruled out or not.

    Of a class that has no pictures the answer says so: the detector cannot vouch for it.
    """
    places = range(len(answers[0].top))
    sets = ["not ruled out"] if answers[0].possible is not None else []
    head = ["image", "answer", "p", *sets, *(f"top {place + 1}" for place in places)]
    doubts = measure_doubts(world, answers)
    rows = [
        [
            pictures.names[i],
            f"{answer.label} (name only)" if answer.known_by == BY_NAME else answer.label or "unknown",
            "-" if world.rejector_ is None else tables.format_fraction(answer.p_value),
            *([_list_possible(answer.possible)] if answer.possible is not None else []),
            *(f"{label} {tables.format_fraction(probability)}" for label, probability in answer.top),
        ]
        for i, answer in sorted(enumerate(answers), key=lambda one: (-doubts[one[0]], one[1].top[0][1]))[:SHOWN_ANSWERS]
    ]
    more = [f"... and {len(answers) - len(rows):,} less doubtful; {where}"] if len(answers) > len(rows) else []
    lines = [f"{answer_summary(answers)}; the most doubtful first", "", tables.format_plain([head, *rows]), *more]
    return "\n".join(lines)


def answer_summary(answers: Sequence[Answer]) -> str:
    """53 pictures: 37 dog, 12 horse, 4 unknown."""
    counts = count_answers(answers)
    unknown = counts.pop(NO_CLASS, 0)
    ranked = list(counts.items())
    parts = [f"{n:,} {name}" for name, n in ranked[:SHOWN_CLASSES]]
    if more := ranked[SHOWN_CLASSES:]:
        parts.append(f"{sum(n for _, n in more):,} of {number(len(more), 'other class', 'other classes')}")
    parts += [f"{unknown:,} {NO_CLASS}"] if unknown else []
    return f"{number(len(answers), 'picture')}: {', '.join(map(escape, parts))}"


def measure_doubts(world: OpenWorldClassifier, answers: Sequence[Answer]) -> list[float]:
    """See :meth:`Answer.measure_doubt`."""
    alpha = 0.0 if world.rejector_ is None else world.alpha_
    return [answer.measure_doubt(alpha) for answer in answers]


def answer_rows(world: OpenWorldClassifier, pictures: ImageDataset, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Rows of a file: picture, its :meth:`Answer.to_row` and doubt; p and score are None without a detector."""
    blind: dict[str, Any] = {"p_value": None, "score": None} if world.rejector_ is None else {}
    parts = zip(pictures.names, answers, measure_doubts(world, answers), strict=True)
    return [{"image": to_unicode(name), **answer.to_row(), **blind, "doubt": doubt} for name, answer, doubt in parts]


def _list_possible(names: Sequence[str]) -> str:
    """The first of them by name, the others by their number."""
    more = f" and {len(names) - SHOWN_POSSIBLE:,} more" if len(names) > SHOWN_POSSIBLE else ""
    return ", ".join(names[:SHOWN_POSSIBLE]) + more if names else "none"


def answers_record(world: OpenWorldClassifier, pictures: ImageDataset, answers: Sequence[Answer]) -> dict[str, Any]:
    """The same for machines; the label of an unknown picture is null, as is p where the model has no detector."""
    return {
        "schema": 1,
        "alpha": None if world.rejector_ is None and world.known_.losses is None else world.alpha_,
        "summary": answer_summary(answers),
        "counts": count_answers(answers),
        "answers": [
            {
                "image": name,
                "label": answer.label,
                "known_by": answer.known_by,
                "p_value": None if world.rejector_ is None else answer.p_value,
                "possible": None if answer.possible is None else list(answer.possible),
                "top": [{"class": label, "probability": probability} for label, probability in answer.top],
                "doubt": doubt,
            }
            for name, answer, doubt in zip(pictures.names, answers, measure_doubts(world, answers), strict=True)
        ],
        "skipped": [skipped._asdict() for skipped in pictures.skipped],
    }


def answers_grid(pictures: ImageDataset, answers: Sequence[Answer]) -> str:
    """The pictures with their answers, as SVG."""
    return picture_grid([_cell(pictures, i, answer) for i, answer in enumerate(answers)])


def _cell(pictures: ImageDataset, i: int, answer: Answer) -> GridCell:
    label, probability = answer.top[0]
    likely = f"{label} {probability:.2f}"
    lines = (likely,) if answer.label else ("unknown", f"({likely})")
    return GridCell(
        shrink_picture(pictures.open(i), 2 * SIDE), (*lines, Path(pictures.names[i]).name), answer.label is None
    )
