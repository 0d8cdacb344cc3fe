"""How an open-world classifier sees pictures, and what it answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.config.ranges import require_int
from clip_fewshot.conformal.prediction_sets import class_p_values, measure_losses, prediction_sets
from clip_fewshot.data.cards import CARDS_SHOWN, render_cards
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import NO_CLASS
from clip_fewshot.discovery.undecided import UNDECIDED
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.open_world.fitted import Fitted
from clip_fewshot.open_world.rejector import NoveltyScores
from clip_fewshot.open_world.sight import Sight
from clip_fewshot.open_world.unknown import UnknownPictures
from clip_fewshot.runtime.result_rows import ResultRows
from clip_fewshot.types import EvalResult, FloatArray

BY_PICTURES, BY_NAME = "pictures", "name"


class Answer(NamedTuple):
    """What the model says of one picture.

    Attributes:
        label: the class, or None for unknown.
        p_value: share of known pictures at least as strange, in (0, 1]; 1 without a detector.
        score: what the detector gave it, higher = more normal; 0 without a detector.
        top: (class, probability), most probable first, whatever the decision.
        known_by: "pictures", or "name" for a class that has none: the detector has seen none of it and cannot vouch
            for it, so the class stands whatever the p-value; "" for unknown.
        possible: the classes that cannot be ruled out at alpha, most probable first, whatever the detector says; see
            :meth:`OpenWorldClassifier.predict_set`. None where nothing is known of held-out pictures.
    """

    label: str | None
    p_value: float
    score: float
    top: tuple[tuple[str, float], ...]
    known_by: str = BY_PICTURES
    possible: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        top = ", ".join(f"{name!r} {probability:.3f}" for name, probability in self.top)
        figures = f"p_value={self.p_value:.3g}, score={self.score:.3g}"
        return f"Answer(label={self.label!r}, {figures}, top=({top}), possible={self.possible})"

    def to_row(self) -> dict[str, Any]:
        """One line of a table: answer, known_by, p_value, score, and class and probability of each of ``top``.

        And ``possible``, the classes with a semicolon between them, where it is known.
        """
        row: dict[str, Any] = {"answer": self.label or NO_CLASS, "known_by": self.known_by}
        row |= {"p_value": self.p_value, "score": self.score}
        for place, (name, probability) in enumerate(self.top, start=1):
            row |= {f"class_{place}": name, f"probability_{place}": probability}
        return row if self.possible is None else row | {"possible": "; ".join(self.possible)}

    def measure_doubt(self, alpha: float) -> float:
        """How near another answer is, in [0, 1]: the greater of what the class lacks to certainty and ``alpha`` / p.

        Of "unknown" p / ``alpha``. We rejected p itself: it is as often low as high, whatever is known of a picture.

        Args:
            alpha: of the model; 0 for one without a detector.
        """
        if self.label is None:
            return min(self.p_value / alpha, 1.0)
        strange = alpha / self.p_value if self.known_by == BY_PICTURES else 0.0
        return max(1 - self.top[0][1], min(strange, 1.0))


class Answers(ResultRows[Answer]):
    """Answers beside their pictures: a list, a DataFrame by ``to_frame()``, and in a notebook the pictures.

    Copies and pickles leave the pictures out. ``alpha``: of the model; 0 for one without a detector.
    """

    def __init__(self, answers: Sequence[Answer], pictures: ImageDataset, alpha: float) -> None:
        super().__init__(answers, image=pictures.names)
        self._pictures, self._alpha = pictures, alpha

    def _repr_html_(self) -> str:
        """How often each class was answered, and the pictures, the most doubtful first."""
        counts = count_answers(self)
        order = np.argsort([-answer.measure_doubt(self._alpha) for answer in self], kind="stable")[:CARDS_SHOWN]
        captions = {row: _caption(self[row]) for row in order.tolist()}
        title = ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "no picture"
        if counts:
            title += ". The most doubtful first, each with its most probable class"
        if counts and self._alpha:
            title += f"; p: the share of known pictures that look as strange (unknown: at most {self._alpha:g})"
        return render_cards(title, self._pictures, captions, len(self) - len(captions))


def count_answers(answers: Sequence[Answer]) -> dict[str, int]:
    """How often each answer, the most frequent first and "unknown" last."""
    often = Counter(NO_CLASS if answer.label is None else answer.label for answer in answers)
    return dict(sorted(often.items(), key=lambda one: (one[0] == NO_CLASS, -one[1], one[0])))


def _caption(answer: Answer) -> str:
    name, probability = answer.top[0]
    return f"{answer.label or NO_CLASS} (p {answer.p_value:.3f}); {name} {probability:.0%}"


def judge(fitted: Fitted, alpha: float, sight: Sight, top: int, together: bool = False) -> list[Answer]:
    """What a model says of what it sees; ``together``: the pictures are one batch, see :meth:`Rejector.verdict`."""
    require_int(top, "top")
    n, rejector, probabilities = len(sight.frozen), fitted.rejector, see_probabilities(fitted, sight)
    said, unknown = NoveltyScores(np.zeros(n), np.ones(n)), np.zeros(n, dtype=bool)
    if rejector is not None:
        said = rejector.verdict(sight.frozen, sight.judged, together)
        unknown = rejector.flags(said.p, alpha)
    rows = zip(probabilities, said.p, said.scores, unknown, strict=True)
    by_name, possible = fitted.without_pictures(), select_possible(fitted, alpha, probabilities)
    answers = [_answer(fitted.names.names, by_name, *row, top) for row in rows]
    return [answer._replace(possible=one) for answer, one in zip(answers, possible, strict=True)]


def see_probabilities(fitted: Fitted, sight: Sight) -> FloatArray:
    """(n, c) of what a model sees."""
    features = sight.features[fitted.model.point.approach]
    return fitted.model.probabilities(features) if len(features) else np.empty((0, len(fitted.names)))


def find_sets(fitted: Fitted, alpha: float, sight: Sight) -> list[tuple[str, ...]]:
    """The classes of each picture that cannot be ruled out, of a model that is calibrated."""
    return [one or () for one in select_possible(fitted, alpha, see_probabilities(fitted, sight))]


def select_possible(
    fitted: Fitted, alpha: float, probabilities: FloatArray
) -> Sequence[tuple[str, ...]] | Sequence[None]:
    """The classes of each picture that cannot be ruled out, most probable first; None where nothing is calibrated.

    Where the detector keeps alpha within each class, so do they; a class that has no pictures is never ruled out then.
    """
    known, names = fitted.known, fitted.names.names
    if known.losses is None:
        return [None] * len(probabilities)
    once = ~np.isnan(known.losses)
    within = known.labels[once] if fitted.rejector is not None and fitted.rejector.per_class else None
    inside = prediction_sets(class_p_values(known.losses[once], measure_losses(probabilities), within), alpha)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    rows = zip(order.tolist(), inside, strict=True)
    return [tuple(names[label] for label in ranked if row[label]) for ranked, row in rows]


def _answer(
    names: Sequence[str],
    by_name: Sequence[str],
    probabilities: FloatArray,
    p_value: float,
    score: float,
    unknown: bool,
    top: int,
) -> Answer:
    order = np.argsort(-probabilities, kind="stable")[:top]
    ranked = tuple((names[int(i)], float(probabilities[i])) for i in order)
    label, known_by = ranked[0][0], BY_PICTURES
    if label in by_name:
        known_by = BY_NAME  # to a detector without pictures of it all of it is strange
    elif unknown:
        return Answer(None, float(p_value), float(score), ranked, "")
    return Answer(label, float(p_value), float(score), ranked, known_by)


def score_answers(answers: Sequence[Answer], truth: Sequence[str], left_out: int) -> EvalResult:
    """Share of answers that are the true class, in [0, 1]; "unknown" is wrong.

    Args:
        left_out: pictures that were not asked about, because a class was named on them: for the notes.

    Raises:
        UsageError: no answer.
    """
    if not answers:
        raise UsageError(
            expected="pictures that no class was named on", got=f"{left_out} that were", fix="add others", where="score"
        )
    right = np.array([answer.label == name for answer, name in zip(answers, truth, strict=True)])
    notes = (f"left out, for a class was named on them: {left_out:,}",) if left_out else ()
    return replace(accuracy_interval([right]), notes=notes)


def select_unknown(pictures: ImageDataset, frozen: FloatArray, answers: Sequence[Answer]) -> UnknownPictures:
    """Those that were called unknown, and those that may be: what :func:`discover_undecided` looks at."""
    p, answered = np.array([answer.p_value for answer in answers]), tuple(answer.label for answer in answers)
    open_rows = [one.label is None or (one.known_by != BY_NAME and one.p_value <= UNDECIDED) for one in answers]
    return UnknownPictures(pictures, frozen, p, answered).subset(np.flatnonzero(open_rows))
