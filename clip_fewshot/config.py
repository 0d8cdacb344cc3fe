"""The options of the main job, free of torch so that a command line answers at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from clip_fewshot.errors import ArtifactError, UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
BUILTIN_DATA = ("digits", "digits-wild")
DEFAULT_TRIALS = 50
MODELS = "official CLIP name, file, saved folder, open_clip:NAME, python:MODULE:FUNCTION (your own code) or mini"
MODEL_HELP = f"{MODELS} (default: ViT-B/32; mini for digits)"
APPROACHES_HELP = "approaches to search over, python:MODULE:NAME for your own (default: all)"
HIDDEN = "***"
AUTO = "auto"  # in the place of a detector's name: all of them, to choose among


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A dataclass field whose metadata describe it on the command line."""
    return field(default=default, metadata={"help": text, **metadata})


def check_range(options: Any, *names: str, least: float = 1, most: float = math.inf) -> None:
    """Refuse numbers outside [``least``, ``most``] in the named fields, alone or in a list; None is not one.

    Raises:
        UsageError: names the field in backquotes, which a command line shows as its flag.
    """
    limit = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}"
    for name in names:
        value = getattr(options, name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and not least <= one <= most:
                raise UsageError(expected=limit, got=str(one), fix=f"change `{name}`", where=f"`{name}`")


def check_fractions(options: Any, *names: str) -> None:
    """Refuse numbers outside (0, 1) in the named fields, alone or in a list; None is not one.

    Raises:
        UsageError: as in :func:`check_range`.
    """
    for name in names:
        value = getattr(options, name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and not 0 < one < 1:
                expected = "a fraction between 0 and 1"
                raise UsageError(expected=expected, got=f"{one:g}", fix=f"change `{name}`", where=f"`{name}`")


def model_for(data: str, model: str | None) -> str:
    """``model``, or where none is named the usual one: mini for the pictures of the package, else ViT-B/32."""
    return model or ("mini" if data in BUILTIN_DATA else "ViT-B/32")


def count_or_names(text: str) -> int | list[str]:
    """Text to a number or to names: "3" -> 3, "cat, dog" -> the names."""
    text = text.strip()
    return int(text) if text.isdigit() else [name.strip() for name in text.split(",") if name.strip()]


def hide_passwords(text: str) -> str:
    """``text`` with ``***`` for the password of each address in it."""
    return re.sub(r"(://[^\s:/@]*:)[^\s@]*@", rf"\1{HIDDEN}@", text)


def split_names(text: str) -> tuple[str, ...]:
    """The names in ``text``, commas between them."""
    names = tuple(part.strip() for part in text.split(","))
    if "" in names:
        raise ValueError(f"expected names with commas between them, got {text!r}")
    return names


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Which texts are made of class names. Without templates a command takes its usual ones."""

    template: tuple[str, ...] = option(
        (), 'text made of a class name, as "a photo of the number {}"; repeat it for more', texts=True, group="texts"
    )
    templates: str | None = option(
        None,
        "one, ensemble (7), openai (80, of OpenAI for ImageNet) or a file with a template a line",
        metavar="NAME|FILE",
        group="texts",
    )


@dataclass(frozen=True, kw_only=True)
class ClassTextOptions(TextOptions):
    """The same, and what the classes are called."""

    class_names: str | None = option(
        None, "file: other names of the classes, one a line in order, or label,name", metavar="FILE", group="texts"
    )


@dataclass(frozen=True)
class DataOptions(ClassTextOptions):
    """What to learn from: pictures, the model that looks at them, and the texts that it reads.

    Raises:
        UsageError: a value outside its range.
    """

    data: str = option(
        "digits",
        "folder, list file, CSV or CoOp split of pictures; or digits, digits-wild",
        positional=True,
        flag="--data",
    )
    model: str | None = option(None, MODEL_HELP)
    pretrained: bool = option(
        True, "load trained weights (--no-pretrained: the named architecture with random weights)"
    )
    shots: int = option(16, "labelled pictures per class, validation included")
    unseen: str | None = option(
        None, "number of classes to hold out as unknown, or their names (default: 0; 3 for digits)", listed=True
    )
    test_fraction: float = option(0.5, "share of each class sealed as test set where the data has no test part")
    seed: int = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        check_range(self, "shots")
        check_fractions(self, "test_fraction")

    @property
    def builtin(self) -> bool:
        """Whether the data ships with the package."""
        return self.data in BUILTIN_DATA

    @property
    def model_name(self) -> str:
        """The model, or the usual one for such data."""
        return model_for(self.data, self.model)

    @property
    def unseen_classes(self) -> int | list[str]:
        """A count, or class names."""
        if self.unseen is None:
            return 3 if self.builtin else 0
        return count_or_names(self.unseen)


@dataclass(frozen=True)
class SearchOptions:
    """How to search, to train and to judge.

    Raises:
        UsageError: a value outside its range.
    """

    seeds: int = option(5, "fresh support sets on which the best of each approach is refitted")
    approaches: tuple[Any, ...] = option(  # names; in Python Approach objects too
        (), APPROACHES_HELP, parse=split_names
    )
    max_unfreeze: int = option(5, "largest N of 'the last N layers'")
    epochs: int = option(20, "passes over the support set in each training")
    views: int | None = option(
        None, "fixed views per picture: 1 centre crop, 2 with its mirror image (default: 2; 1 for digits)"
    )
    alpha: float = option(0.05, "false-alarm rate of the unknown warning, in (0, 1)")

    def __post_init__(self) -> None:
        check_range(self, "seeds", "max_unfreeze", "epochs")
        check_range(self, "views", most=2)
        check_fractions(self, "alpha")


@dataclass(frozen=True)
class RunOptions:
    """How long to go on, where to compute, and where the results go. What a trial means does not depend on it.

    Raises:
        UsageError: a value outside its range.
    """

    detector: Any = option(  # a name; in Python a class too
        AUTO, 'what says "unknown": auto chooses; one by its name, or your own as python:MODULE:NAME', parse=str
    )
    n_neighbors: int | None = option(
        None, "most neighbours that --detector compares with, below the shots (default: chosen by hiding known classes)"
    )
    discoverer: Any = option(  # a name; in Python a class too
        None,
        "what groups the unknown: ward, average, semi-supervised or python:MODULE:NAME (default: what fits)",
        parse=str,
    )
    trials: int | None = option(
        None, f"total trials of the study, interrupted runs included (default: {DEFAULT_TRIALS})"
    )
    budget: float | None = option(None, "stop searching in time, e.g. 90s, 10min, 2h", duration=True)
    device: str = option("auto", "where to compute", choices=DEVICES)
    jobs: int | None = option(
        None, "processes that train side by side (default: by cores and memory; 1 on a GPU or with --storage)"
    )
    cache_memory: float | None = option(
        None,
        "stored states held in memory, over which they are mapped from disk (default: a quarter of RAM)",
        unit="GiB",
    )
    storage: str | None = option(None, "database URL of a study that several workers share, e.g. postgresql://...")
    out: str | None = option(None, "output folder (default: runs/<data>-<model>)")
    resume: str | None = option(None, "go on with the run in this folder, under its own options")

    def __post_init__(self) -> None:
        check_range(self, "trials", "jobs", "n_neighbors")
        check_range(self, "cache_memory", least=0)
        if self.storage and (self.jobs or 1) > 1:
            fix = "start more runs on that database instead"
            expected, got = "one process per worker of a shared study", f"{self.jobs} (`jobs`)"
            raise UsageError(expected=expected, got=got, fix=fix, where="`jobs`")

    @property
    def n_trials(self) -> int:
        """Trials, by default 50."""
        return DEFAULT_TRIALS if self.trials is None else self.trials


@dataclass(frozen=True)
class FewShotConfig:
    """What ``run_few_shot`` does, in three parts. Fractions are in [0, 1], durations in seconds.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.FewShotConfig.of(data="digits", shots=4).data.model_name
        'mini'
    """

    data: DataOptions = field(default_factory=DataOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    run: RunOptions = field(default_factory=RunOptions)

    @classmethod
    def of(cls, **options: Any) -> FewShotConfig:
        """Each option to the part that has it.

        Raises:
            UsageError: a value outside its range.
            TypeError: an option that no part has.
        """
        parts = {
            name: part(**{f.name: options.pop(f.name) for f in fields(part) if f.name in options})
            for name, part in PARTS.items()
        }
        if options:
            raise TypeError(f"no such option: {', '.join(options)}")
        return cls(**parts)

    @property
    def n_views(self) -> int:
        """Mirrored digits and letters are other digits and letters, so only photos get the second view."""
        return self.search.views or (1 if self.data.builtin else 2)

    def to_json(self) -> dict[str, Any]:
        """All options side by side, as they may be written down."""
        storage = self.run.storage and hide_passwords(self.run.storage)
        return self.study_key() | _told(self.run) | {"storage": storage}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> FewShotConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            TypeError, KeyError: options of another release.
            ArtifactError: pictures that were decoded in a way that is gone.
        """
        if any(record.get(name, value) != value for name, value in GONE.items()):
            fix = "begin another run: pictures are decoded as CLIP's own preprocessing does, and in no other way"
            raise ArtifactError(expected=f"a run with {GONE}", got="another one", fix=fix, where="options of a run")
        options = {name: value for name, value in record.items() if name not in GONE}
        lists = {name: tuple(record.get(name, ())) for name in ("approaches", "template")}
        return cls.of(**options | lists)

    def study_key(self) -> dict[str, Any]:
        """The options that decide what a finished trial means; they must be equal on resume."""
        return _told(self.data) | _told(self.search) | GONE


PARTS: Mapping[str, type[Any]] = {"data": DataOptions, "search": SearchOptions, "run": RunOptions}
GONE = {"decode": "exact"}  # what is left of an option of earlier releases, whose runs go on
# Written down where chosen: without them a run is one of schema 1.
LATER = {"detector": AUTO, "template": (), **dict.fromkeys(("discoverer", "n_neighbors", "templates", "class_names"))}


def _told(part: Any) -> dict[str, Any]:
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    return {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}
