"""The pictures of the page: cards to filter, and shelves of the first screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from clip_fewshot.data.names import number
from clip_fewshot.report.pictures import PREVIEW_SIDE, thumbnail_uri
from clip_fewshot.report.record import PredictionExample, RunRecord

SHELF_LENGTH = 4
UNSURE_BELOW = 0.9  # probability of the answer: above it a right answer is not doubtful
MATRIX_UP_TO = 20  # classes; above it the matrix is a drawing, and its most frequent mistakes are listed

# kind -> what the card says, whether that is good, what the filter calls it
CARD_KINDS: dict[str, tuple[str, bool | None, str]] = {
    "wrong": ("wrong", False, "wrong answers"),
    "missed": ("unseen class, not flagged", False, "unknown, missed"),
    "alarm": ("flagged as unknown, a false alarm", False, "false alarms"),
    "right": ("right", True, "right answers"),
    "caught": ("flagged as unknown, rightly", True, "unknown, noticed"),
    "flagged": ("flagged as unknown", None, "called unknown"),
    "": ("", None, "not judged"),
}


class Card(NamedTuple):
    """One predicted picture. ``true`` and ``answers`` are places in the gallery's names; -1: of no known name."""

    uri: str
    example: PredictionExample
    kind: str
    verdict: str
    good: bool | None
    true: int
    answers: tuple[int, ...]
    sure: float


class ShelfItem(NamedTuple):
    """A picture of the first screen and where it leads."""

    uri: str
    place: str
    title: str
    note: str


class Shelf(NamedTuple):
    """Pictures of one kind."""

    title: str
    why: str
    items: list[ShelfItem]


class Gallery(NamedTuple):
    """All pictures of test answers, in the order of the record.

    Attributes:
        names: the classes, known ones first, in the order of the confusion matrix.
        kinds: (kind, what the filter calls it, how many cards), of those that occur.
    """

    cards: list[Card]
    names: list[str]
    kinds: list[tuple[str, str, int]]


def build_gallery(record: RunRecord) -> Gallery:
    """A card for each example, and what they can be filtered by."""
    known = record.class_names
    others = {one.true_name for one in record.predictions if one.true_name is not None} - set(known)
    names = [*known, *sorted(others)]
    places = {name: i for i, name in enumerate(names)}
    cards = [_card(example, len(known), places) for example in record.predictions]
    counts = Counter(card.kind for card in cards)
    return Gallery(cards, names, [(kind, CARD_KINDS[kind][2], counts[kind]) for kind in CARD_KINDS if counts[kind]])


def _card(example: PredictionExample, n_known: int, places: dict[str, int]) -> Card:
    true = -1 if example.true_name is None else places[example.true_name]
    kind = _judge(example, 0 <= true < n_known)
    verdict, good, _ = CARD_KINDS[kind]
    said = {name for name, _ in (*example.top[:1], *example.votes)}
    answers = tuple(sorted(places[name] for name in said if name in places))
    sure = example.top[0][1] if example.top else 0.0
    return Card(thumbnail_uri(example.picture, PREVIEW_SIDE), example, kind, verdict, good, true, answers, sure)


def _judge(example: PredictionExample, known: bool) -> str:
    if example.true_name is None:
        return "flagged" if example.unknown else ""
    if not known:
        return "caught" if example.unknown else "missed"
    if example.unknown:
        return "alarm"
    return "right" if example.top and example.top[0][0] == example.true_name else "wrong"


def choose_shelves(gallery: Gallery, record: RunRecord) -> list[Shelf]:
    """The first screen: of each kind that occurs the pictures that teach most, then one picture of each group."""
    mistakes = ("Surest mistakes", "Another class is answered.", "wrong", lambda card: -card.sure)
    missed = ("Unknown, missed", "A known class is answered.", "missed", lambda card: -_p_value(card))
    alarms = ("False alarms", "Known, called unknown.", "alarm", _p_value)
    unsure = ("Right, but unsure", "Another is likely too.", "right", lambda card: card.sure)
    kinds: tuple[tuple[str, str, str, Callable[[Card], float]], ...] = (mistakes, missed, alarms, unsure)
    shelves = [Shelf(title, why, _pick(gallery.cards, kind, by)) for title, why, kind, by in kinds]
    groups = () if record.discovery is None else record.discovery.clusters[:SHELF_LENGTH]
    found = [
        ShelfItem(thumbnail_uri(g.exemplar), f"group-{g.number}", f"Group {g.number}", number(g.size, "image"))
        for g in groups
    ]
    shelves.append(Shelf("Groups of unknown", "The most central of each.", found))
    return [one for one in shelves if one.items]


def _pick(cards: Sequence[Card], kind: str, by: Callable[[Card], float]) -> list[ShelfItem]:
    chosen = [i for i, card in enumerate(cards) if card.kind == kind and (kind != "right" or card.sure < UNSURE_BELOW)]
    return [_item(cards[i], i) for i in sorted(chosen, key=lambda i: by(cards[i]))[:SHELF_LENGTH]]


def _item(card: Card, place: int) -> ShelfItem:
    said = "unknown" if card.example.unknown else card.example.top[0][0] if card.example.top else ""
    return ShelfItem(
        thumbnail_uri(card.example.picture), f"picture-{place}", card.example.true_name or "", f"said {said}"
    )


def _p_value(card: Card) -> float:
    return card.sure if card.example.p_value is None else card.example.p_value
