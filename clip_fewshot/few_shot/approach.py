"""An approach: what is trained, by which head and loss, and over which options a study searches.

The four of the field of this library stand in ``APPROACHES``. An approach of your own is a value::

    space = {"scale": Range(1.0, 100.0, log=True)}
    Approach("cosine", head=CosineHead, loss=focal, space=space, centre={"scale": 16.0})

Nothing heavy is imported here: heads and losses may be named by their keys in ``HEADS`` and ``LOSSES``.

Example:
    >>> import clip_fewshot as cf
    >>> list(cf.APPROACHES)
    ['mlp-arcface', 'mlp', 'contrastive-arcface', 'contrastive']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from clip_fewshot.config.ranges import require_real
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.parts import find_part

Value = int | float | str
LOGISTIC = "logistic"
UNFREEZE, BACKBONE_LR, HEAD_LR, TUNED_SHARE = "unfreeze", "backbone_lr", "head_lr", "tuned_share"
TRAINER_OPTIONS = (UNFREEZE, BACKBONE_LR, HEAD_LR, TUNED_SHARE)  # those that the trainer reads by itself


class Range(NamedTuple):
    """Where a study looks for a number.

    Attributes:
        low, high: both ends belong to it. Whole numbers where ``low`` is an int. ``high`` None: the limit that the run
            sets, for "unfreeze".
        log: whether it is searched on a logarithmic scale.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.APPROACHES["mlp-arcface"].space["scale"] == cf.Range(8.0, 64.0, log=True)
        True
    """

    low: float
    high: float | None
    log: bool = False


@dataclass(frozen=True)
class Point:
    """One choice of a study: an approach, and values for its options.

    Attributes:
        approach: name of an :class:`Approach`.
        options: by name. "unfreeze" (the N of "the last N layers"), "backbone_lr" and "head_lr" (peak learning rates of
            pretrained layers and of the head) and "tuned_share" (of the tuned weights in their mean with the frozen
            ones, default 1) go to the trainer, all others to the tuning, loss, head or probe that takes them.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.Point("mlp", {"unfreeze": 2, "backbone_lr": 1e-4, "head_lr": 1e-3}).unfreeze
        2
    """

    approach: str
    options: Mapping[str, Value] = field(default_factory=dict)

    @property
    def unfreeze(self) -> int:
        """The N of "the last N layers"; 0 where nothing is unfrozen."""
        return int(self.options.get(UNFREEZE, 0))

    def rate(self, name: str) -> float:
        """The learning rate of that name."""
        return require_real(self.options.get(name, SCHEMA_1[name]), name, "[0, inf)")

    def part_options(self) -> dict[str, Value]:
        """What the parts are given: all that the trainer does not read."""
        return {k: v for k, v in self.options.items() if k not in TRAINER_OPTIONS}

    def to_json(self) -> dict[str, Any]:
        """Flat, as files hold it."""
        fixed = SCHEMA_1 if self.approach in OWN else {}
        return {"approach": self.approach, **fixed, **self.options}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Point:
        """The inverse of :meth:`to_json`."""
        name = record["approach"]
        known = {*OWN[name].centre, TUNED_SHARE} if name in OWN else record
        return cls(name, {k: v for k, v in record.items() if k in known and k != "approach"})

    def searched(self) -> dict[str, Value]:
        """The options that a study varied: of an approach of this library its space, of a foreign one all."""
        space = OWN[self.approach].space if self.approach in OWN else self.options
        return {k: v for k, v in self.options.items() if k in space}


@dataclass(frozen=True)
class Approach:
    """How one approach is built and searched.

    Args:
        name: under which it stands in tables, studies and saved models.
        head: a key of ``HEADS``, or a callable ``(in_features, n_classes, **options) -> module`` that maps features to
            logits. None: the towers train without one.
        loss: a key of ``LOSSES``, or a callable. With a head: ``(logits, labels) -> scalar``; between two towers:
            ``(logits_per_image, caption_ids=...) -> scalar``. None: nothing is trained.
        towers: what trains: "image"; "both", on pictures and captions of their classes; or "none".
        tuning: a key of ``TUNINGS``, or a callable ``(tower, n, **options) -> trainable suffix``.
        ends_in: what classifies in the end: the "head", or a "probe" on the trained features.
        probe: which probe, a key of ``PROBES``, the name of an entry point, "python:MODULE:NAME" or a class. Where no
            tower trains, the options go to it as keywords.
        space: options that a study searches, each with its range.
        centre: where the study begins, and the values of options that are not searched.

    Raises:
        UsageError: parts that do not fit each other.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.Approach("wide-mlp", head="mlp", loss="cross-entropy", centre={"hidden_features": 512}).ends_in
        'head'
    """

    name: str
    head: str | Callable[..., Any] | None = None
    loss: str | Callable[..., Any] | None = None
    towers: Literal["none", "image", "both"] = "image"
    tuning: str | Callable[..., Any] = "last-layers"
    ends_in: Literal["head", "probe"] = "head"
    probe: str | type[Any] = LOGISTIC
    space: Mapping[str, Range] = field(default_factory=dict)
    centre: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"approach {self.name!r}"
        if self.towers == "image" and (self.head is None or self.loss is None):
            fix = 'give both, or towers="both" for contrastive training'
            raise UsageError(expected="a head and a loss", got="not both", fix=fix, where=where)
        if self.ends_in == "head" and self.towers != "image":
            fix = 'write ends_in="probe"'
            raise UsageError(expected="a head that classifies", got=f"towers {self.towers!r}", fix=fix, where=where)
        if self.towers == "both" and (self.loss is None or self.head is not None):
            fix = "give a loss on (logits_per_image, caption_ids=...) and no head"
            raise UsageError(expected="a contrastive loss alone", got="other parts", fix=fix, where=where)
        if UNFREEZE in self.space and self.towers == "both" and self.space[UNFREEZE].low < 1:
            fix = "search from 1 on"
            raise UsageError(expected="layers that train in each trial", got="a range from 0", fix=fix, where=where)
        if self.ends_in == "head" and self.probe != LOGISTIC:
            fix = 'write ends_in="probe"'
            raise UsageError(expected="no probe beside a head that classifies", got="one", fix=fix, where=where)
        missing = set(self.space) - set(self.centre)
        if missing:
            fix = "say in `centre` where the study begins"
            raise UsageError(expected="a centre of every range", got=f"none of {sorted(missing)}", fix=fix, where=where)

    @property
    def point(self) -> Point:
        """The point to begin from."""
        return Point(self.name, dict(self.centre))

    @property
    def least_unfreeze(self) -> int:
        """The fewest last layers with which something trains: 1 where there is no head that trains by itself."""
        return int(self.space[UNFREEZE].low) if UNFREEZE in self.space else int(self.towers == "both")

    def start(self, max_unfreeze: int) -> Point:
        """The point to begin from, with no more layers than that."""
        if self.point.unfreeze <= max_unfreeze:
            return self.point
        return Point(self.name, {**self.centre, UNFREEZE: max_unfreeze})

    def check_trains(self, point: Point) -> None:
        """Refuse a point at which nothing would train.

        Raises:
            UsageError: says which classifier would come out.
        """
        if point.unfreeze < self.least_unfreeze:
            frozen = "zero-shot" if self.ends_in == "head" else "the frozen probe"
            got = f"{point.unfreeze}: it has no head that trains, so that nothing would train and {frozen} come out"
            fix = f"unfreeze 1 or more, or choose {PROBE!r}"
            raise UsageError(expected=f"layers that {self.name!r} can train", got=got, fix=fix, where="`unfreeze`")

    def at(self, options: Mapping[str, Value]) -> Point:
        """The centre with other values for some options.

        Raises:
            UsageError: an option that the approach does not have.
        """
        known = {*self.centre} | ({TUNED_SHARE} if self.towers != "none" else set())
        if self.name in OWN and (unknown := set(options) - known - set(SCHEMA_1)):
            fix = "check the spelling"
            expected = f"options out of {', '.join(sorted(known))}"
            raise UsageError(expected=expected, got=f"{sorted(unknown)}", fix=fix, where=f"approach {self.name!r}")
        kept = {k: v for k, v in options.items() if self.name not in OWN or k in self.space or k not in SCHEMA_1}
        return Point(self.name, {**self.centre, **kept})


# Schema 1 of trials and models holds these five for each approach of this library, with or without effect.
SCHEMA_1: Mapping[str, Value] = {UNFREEZE: 0, BACKBONE_LR: 1e-4, HEAD_LR: 1e-3, "margin": 0.2, "scale": 16.0}
RATE = Range(1e-6, 1e-3, log=True)
HEAD_RATE = Range(1e-4, 1e-2, log=True)
MARGIN = Range(0.0, 0.5)
SCALE_RANGE = Range(8.0, 64.0, log=True)

MLP_ARCFACE = Approach(
    "mlp-arcface",
    head="mlp-arcface",
    loss="cross-entropy",
    space={UNFREEZE: Range(0, None), BACKBONE_LR: RATE, HEAD_LR: HEAD_RATE, "margin": MARGIN, "scale": SCALE_RANGE},
    centre={**SCHEMA_1, UNFREEZE: 1},
)
MLP = Approach(
    "mlp",
    head="mlp",
    loss="cross-entropy",
    space={UNFREEZE: Range(0, None), BACKBONE_LR: RATE, HEAD_LR: HEAD_RATE},
    centre={UNFREEZE: 1, BACKBONE_LR: 1e-4, HEAD_LR: 1e-3},
)
CONTRASTIVE_ARCFACE = Approach(
    "contrastive-arcface",
    loss="symmetric",
    towers="both",
    ends_in="probe",
    space={UNFREEZE: Range(1, None), BACKBONE_LR: RATE, "margin": MARGIN},
    centre={UNFREEZE: 1, BACKBONE_LR: 1e-4, "margin": 0.2},
)
CONTRASTIVE = Approach(
    "contrastive",
    loss="symmetric",
    towers="both",
    ends_in="probe",
    space={UNFREEZE: Range(1, None), BACKBONE_LR: RATE},
    centre={UNFREEZE: 1, BACKBONE_LR: 1e-4, "margin": 0.0},
)
LINEAR_PROBE = Approach("linear-probe", towers="none", ends_in="probe")  # on frozen features
PROBE = LINEAR_PROBE.name
TEXT_PRIOR = Approach("text-prior", towers="none", ends_in="probe", probe="text-prior")  # the same, around the texts
ZERO_SHOT = Approach("zero-shot", towers="none", ends_in="probe", probe="zero-shot")  # the texts alone
TUNED_RATE = Range(1e-5, 1e-2, log=True)  # of maps that begin as the identity
PROLIP = Approach(
    "prolip",
    head="zero-shot",
    loss="cross-entropy",
    tuning="projection",
    space={UNFREEZE: Range(1, 1), BACKBONE_LR: TUNED_RATE, "pull": Range(0.01, 10.0, log=True)},
    centre={UNFREEZE: 1, BACKBONE_LR: 1e-3, "pull": 1.0},
)
RLA = replace(PROLIP, name="rla", tuning="adapter")
LORA = replace(
    PROLIP,
    name="lora",
    tuning="lora",
    space={UNFREEZE: Range(1, None), BACKBONE_LR: TUNED_RATE, "rank": Range(1, 16, log=True)},
    centre={UNFREEZE: 1, BACKBONE_LR: 3e-3, "rank": 2, "alpha": 1.0},
)
WISE_FT = replace(
    PROLIP,
    name="wise-ft",
    tuning="last-layers",
    space={UNFREEZE: Range(1, None), BACKBONE_LR: RATE, TUNED_SHARE: Range(0.0, 1.0)},
    centre={UNFREEZE: 1, BACKBONE_LR: 1e-4, TUNED_SHARE: 0.5},
)

APPROACHES: dict[str, Approach] = {a.name: a for a in (MLP_ARCFACE, MLP, CONTRASTIVE_ARCFACE, CONTRASTIVE)}
BASELINES = (ZERO_SHOT, TEXT_PRIOR, LINEAR_PROBE)  # the first trials of each study; nothing in them is searched
BASELINE_NAMES = tuple(approach.name for approach in BASELINES)
# Of the field, by closed forms on frozen features: none trains, and no option is searched.
TRAINING_FREE = tuple(
    Approach(name, towers="none", ends_in="probe", probe=name)
    for name in ("tip-adapter", "cross-modal", "gda", "gda-text", "kernel-ridge", "proker", "prototype-text")
)
UNDER_TEXTS = (PROLIP, RLA, LORA, WISE_FT)  # a small part of the tower trains; the texts classify
OWN: dict[str, Approach] = {**APPROACHES, **{a.name: a for a in (*BASELINES, *TRAINING_FREE, *UNDER_TEXTS)}}


def find_approach(approach: str | Approach) -> Approach:
    """``approach`` itself, or the one that a person means by that name.

    Raises:
        UsageError: no such approach, or a foreign one under the name of one of this library.
    """
    found: object = find_part("approaches", approach, OWN) if isinstance(approach, str) else approach
    if not isinstance(found, Approach):
        fix = "name an Approach(name, head=..., loss=...)"
        raise UsageError(expected="an Approach", got=f"a {type(found).__name__}", fix=fix, where="approach")
    if OWN.get(found.name, found) != found:
        raise UsageError(expected="a name of its own", got=repr(found.name), fix="rename it", where="approach")
    return found


def refuse_named(options: Sequence[str]) -> None:
    """Refuse options of one approach where the approach is yet to be chosen."""
    if options:
        fix = "name an approach, or leave them out"
        raise UsageError(expected="no options of an approach", got=", ".join(options), fix=fix, where="auto")
