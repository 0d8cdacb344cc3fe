"""The options of the main job, free of torch so that a command line answers at once."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from clip_fewshot.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
BUILTIN_DATA = ("digits", "digits-wild")
DEFAULT_TRIALS = 50
MODELS = "official CLIP name, file, saved folder, open_clip:NAME, python:MODULE:FUNCTION (your own code) or mini"
MODEL_HELP = f"{MODELS} (default: ViT-B/32; mini for digits)"
APPROACHES_HELP = "approaches to search over, python:MODULE:NAME for your own (default: all)"
HIDDEN = "***"


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A dataclass field whose metadata describe it on the command line."""
    return field(default=default, metadata={"help": text, **metadata})


def check_least(options: Any, *names: str, least: int = 1) -> None:
    """Refuse numbers below ``least`` in the named fields, alone or in a list; None is not one.

    Raises:
        UsageError: names the field in backquotes, which a command line shows as its flag.
    """
    for name in names:
        value = getattr(options, name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and one < least:
                raise UsageError(expected=f"{least} or more", got=str(one), fix=f"change `{name}`", where=f"`{name}`")


def check_fractions(options: Any, *names: str) -> None:
    """Refuse numbers outside (0, 1) in the named fields, alone or in a list; None is not one.

    Raises:
        UsageError: as in :func:`check_least`.
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


def without_password(text: str) -> str:
    """``text`` with ``***`` for the password of each address in it."""
    return re.sub(r"(://[^\s:/@]*:)[^\s@]*@", rf"\1{HIDDEN}@", text)


def split_names(text: str) -> tuple[str, ...]:
    """The names in ``text``, commas between them."""
    names = tuple(part.strip() for part in text.split(","))
    if "" in names:
        raise ValueError(f"expected names with commas between them, got {text!r}")
    return names


@dataclass(frozen=True)
class FewShotConfig:
    """What ``run_few_shot`` does. Fractions are in [0, 1], durations in seconds.

    Raises:
        UsageError: a value outside its range.

    Example:
        >>> import clip_fewshot as cf
        >>> config = cf.FewShotConfig(data="photos/", shots=4, unseen="cat,dog", trials=20)
        >>> config.alpha
        0.05
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
    trials: int | None = option(
        None, f"total trials of the study, interrupted runs included (default: {DEFAULT_TRIALS})"
    )
    seeds: int = option(5, "fresh support sets on which the best of each approach is refitted")
    approaches: tuple[Any, ...] = option(  # names; in Python Approach objects too
        (), APPROACHES_HELP, parse=split_names
    )
    max_unfreeze: int = option(5, "largest N of 'the last N layers'")
    epochs: int = option(20, "passes over the support set in each training")
    views: int | None = option(
        None, "fixed views per picture: 1 centre crop, 2 with its mirror image (default: 2; 1 for digits)"
    )
    decode: Literal["exact", "fast"] = option(
        "exact", "how pictures become pixels: as CLIP's own preprocessing, or within one grey level of it"
    )
    alpha: float = option(0.05, "false-alarm rate of the unknown warning, in (0, 1)")
    test_fraction: float = option(0.5, "share of each class sealed as test set where the data has no test part")
    seed: int = option(0, "seed of everything random")
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
    budget: float | None = option(None, "stop searching in time, e.g. 90s, 10min, 2h", duration=True)
    out: str | None = option(None, "output folder (default: runs/<data>-<model>)")
    resume: str | None = option(None, "go on with the run in this folder, under its own options")

    def __post_init__(self) -> None:
        for name, low, high in (
            ("shots", 1, None),
            ("trials", 1, None),
            ("seeds", 1, None),
            ("max_unfreeze", 1, None),
            ("epochs", 1, None),
            ("views", 1, 2),
            ("jobs", 1, None),
            ("cache_memory", 0, None),
        ):
            value = getattr(self, name)
            if value is not None and (value < low or (high is not None and value > high)):
                limit = f"at least {low}" if high is None else f"{low} to {high}"
                raise UsageError(
                    expected=limit,
                    got=str(value),
                    fix=f"change --{name.replace('_', '-')}",
                    where=f"--{name.replace('_', '-')}",
                )
        for name in ("alpha", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(
                    expected="a fraction between 0 and 1",
                    got=str(getattr(self, name)),
                    fix=f"change {flag}",
                    where=flag,
                )
        if self.storage and (self.jobs or 1) > 1:
            fix = "start more runs on that database instead"
            raise UsageError(
                expected="one process per worker of a shared study", got=f"--jobs {self.jobs}", fix=fix, where="--jobs"
            )

    @property
    def builtin(self) -> bool:
        """Whether the data ships with the package."""
        return self.data in BUILTIN_DATA

    @property
    def model_name(self) -> str:
        """The model that is loaded, "auto" resolved."""
        return model_for(self.data, self.model)

    @property
    def n_trials(self) -> int:
        """Trials of the study, the default where none was given."""
        return DEFAULT_TRIALS if self.trials is None else self.trials

    @property
    def n_views(self) -> int:
        """Mirrored digits and letters are other digits and letters, so only photos get the second view."""
        return self.views or (1 if self.builtin else 2)

    @property
    def unseen_classes(self) -> int | list[str]:
        """A count, or class names."""
        if self.unseen is None:
            return 3 if self.builtin else 0
        return count_or_names(self.unseen)

    def to_json(self) -> dict[str, Any]:
        """The options as they may be written down."""
        return asdict(self) | {"storage": self.storage and without_password(self.storage)}

    def study_key(self) -> dict[str, Any]:
        """The options that decide what a finished trial means; they must be equal on resume."""
        elsewhere = {"out", "resume", "trials", "budget", "storage", "device", "jobs", "cache_memory"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in elsewhere}
