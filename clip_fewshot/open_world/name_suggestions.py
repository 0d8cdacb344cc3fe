"""What a group of pictures might be called: words through the text tower, and "none of them" where that is likelier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.conformal.p_values import smallest_shots
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.ties import tie_range
from clip_fewshot.features.texts import class_texts
from clip_fewshot.geometry import unit_rows
from clip_fewshot.open_world.nouns import load_nouns
from clip_fewshot.types import BoolArray, FloatArray, LabelArray

SHARPNESS = 2.0 ** np.arange(0, 9, 0.5)  # factors on cosines, out of which the known classes choose
NAMES_ALPHA = 0.1


class KnownClasses(NamedTuple):
    """The known classes: (n, d) image features, their (n,) labels, and the (c,) names that labels are indices into."""

    features: FloatArray
    labels: LabelArray
    names: Sequence[str]


@dataclass(frozen=True)
class Suggestions:
    """Names for a group, and what right names are worth with this model.

    Attributes:
        names: (word, probability), most probable first. Probabilities are over the whole list, as sharp as the names
            of the known classes deserve: a model that would not have found those gives every word next to nothing.
        none_fits: the best word scores so low that, had the right name been on the list, this would be rare.
        p_value: how rare: the share of known classes, this group among them, whose best word scores no higher.
        n_known: known classes behind it. first: how many of them would have got their own name first.
        listed: how many would have had it among as many words as were asked for.
        note: what a reader should know, or "".
    """

    names: tuple[tuple[str, float], ...]
    none_fits: bool
    p_value: float
    n_known: int
    first: int
    listed: int
    note: str


def suggest_names(
    backbone: Backbone,
    features: FloatArray,
    known: KnownClasses,
    words: Sequence[str] | None = None,
    top: int = 5,
    alpha: float = NAMES_ALPHA,
    templates: Sequence[str] = (),
) -> Suggestions:
    """Rank words by how well they tell a group of pictures from the known classes.

    The score of a word is a cosine between two differences: the group's mean picture less the mean of the known
    classes, and the word less the mean word. Pictures and texts lie in different parts of CLIP's space, and some words
    are near all pictures (hubs); subtracting the means removes both. With the shipped model and 12,952 words, each
    digit held out in turn, the right word came first for 9 of 10, where plain cosines had 2, and 1 on digits in the
    wild; the mean word taken out alone had none. Names of known classes are not suggested.

    Every known class is put in the group's place, with its own name on the list: an exact conformal test, as the group
    counts among the others then. It takes no pictures of new classes, and 9 known classes at the default alpha.

    Args:
        backbone: the model of the features; its text tower reads the words, once (see :func:`class_texts`).
        features: (n, d) frozen features of the group's pictures, n >= 1.
        known: a (features, labels, names) triple of one class or more.
        words: the list; None: :func:`clip_fewshot.open_world.nouns.load_nouns`.
        top: names to give.
        alpha: share of groups with a right name on the list for which ``none_fits`` may be true, in (0, 1).
        templates: captions with one "{}"; more of them cost as much again, the first time. Empty: the usual one.

    Raises:
        UsageError: no pictures, no known class, no words, or an alpha outside (0, 1).
    """
    spoken = [_spoken(name) for name in known.names]
    listed = list(dict.fromkeys(_spoken(word) for word in (load_nouns() if words is None else words)))
    if not len(features) or not spoken or not listed or not 0 < alpha < 1:
        got = f"{len(features)}, {len(spoken)}, {len(listed)} and {alpha:g}"
        expected = "a picture, a known class and a word or more, and alpha in (0, 1)"
        raise UsageError(
            expected=expected, got=got, fix="pass the group's features and its reference", where="suggest_names"
        )
    vocabulary = list(dict.fromkeys([*listed, *spoken]))
    texts = class_texts(backbone, vocabulary, templates or TEMPLATES[:1])
    directions = np.stack([texts[word] for word in vocabulary])
    directions = unit_rows(directions - directions[: len(listed)].mean(axis=0))
    scores = _contrasts(features, known) @ directions.T  # (c + 1, words), the group last
    own = np.array([vocabulary.index(name) for name in spoken])
    scores[~_allowed(own, len(spoken), scores.shape)] = -np.inf
    return _suggestions(vocabulary, scores, own, min(top, len(listed)), alpha)


def _spoken(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def _contrasts(features: FloatArray, known: KnownClasses) -> FloatArray:
    """(c + 1, d) unit directions from the mean of all other classes to each class, the group as the last class."""
    rows = unit_rows(np.asarray(known.features, np.float64))
    means = [rows[known.labels == c].mean(axis=0) for c in range(len(known.names))]
    means.append(unit_rows(np.asarray(features, np.float64)).mean(axis=0))
    stacked = unit_rows(np.stack(means))
    return unit_rows(stacked - (stacked.sum(axis=0) - stacked) / (len(stacked) - 1))


def _allowed(own: LabelArray, n_known: int, shape: tuple[int, ...]) -> BoolArray:
    """(c + 1, words) false for the names of other known classes."""
    allowed = np.ones(shape, dtype=bool)
    allowed[:, own] = False
    allowed[np.arange(n_known), own] = True
    return allowed


def _suggestions(vocabulary: Sequence[str], scores: FloatArray, own: LabelArray, top: int, alpha: float) -> Suggestions:
    """From (c + 1, words) scores, the group's last; ``own``: (c,) the column of each known class's name."""
    n = len(own)
    right = scores[np.arange(n), own]
    above = (scores[:n] > right[:, None]).sum(axis=1)
    likelihood = [log_softmax(s * scores[:n], axis=1)[np.arange(n), own].sum() for s in SHARPNESS]
    sharpness = SHARPNESS[int(np.argmax(likelihood))]
    probabilities = np.exp(log_softmax(sharpness * scores[-1]))
    order = [i for i in np.argsort(-scores[-1], kind="stable")[:top] if np.isfinite(scores[-1, i])]
    best = scores.max(axis=1)
    p_value = float((1 + np.sum(best[:-1] <= tie_range(best[-1])[1])) / (n + 1))
    return Suggestions(
        names=tuple((vocabulary[i], float(probabilities[i])) for i in order),
        none_fits=p_value <= alpha + 1e-9,
        p_value=p_value,
        n_known=n,
        first=int((above == 0).sum()),
        listed=int((above < top).sum()),
        note=_note(n, int((above < top).sum()), top, alpha),
    )


def _note(n: int, listed: int, top: int, alpha: float) -> str:
    needed = smallest_shots(alpha)
    notes = []
    if n < needed:
        notes.append(
            f"whether no name fits is told from {needed} known classes on (alpha = {alpha:g}), and there are {n}"
        )
    if 2 * listed < n:
        notes.append(
            f"this model would have put the right name among the first {top} for {listed} of {n} known classes"
        )
    return "; ".join(notes)
