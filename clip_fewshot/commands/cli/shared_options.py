"""Options that commands share: the same name is the same option in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from clip_fewshot.config import (
    APPROACHES_HELP,
    BUILTIN_DATA,
    DEVICES,
    MODEL_HELP,
    ReadingOptions,
    check_fractions,
    check_range,
    model_for,
    option,
    split_names,
)
from clip_fewshot.errors import UsageError

PICTURES = "folder, list, table, JSON or Parquet of pictures; or digits, digits-wild"


def pictures_argument(**more: Any) -> Any:
    """The field of commands that take pictures one by one, or by the folder."""
    text = "pictures, or folders that hold some; or digits, digits-wild"
    return field(metadata={"positional": True, "metavar": "PICTURES", "help": text}, **more)


def sets_argument() -> Any:
    """The field of commands over several sets of pictures."""
    text = "sets of pictures: digits, digits-wild, or paths"
    return option(BUILTIN_DATA, text, positional=True, flag="--data", metavar="DATA")


def required_data(text: str) -> Any:
    """DATA of commands that have no pictures of their own to show what they do."""
    return field(metadata={"help": text, "positional": True, "flag": "--data"})


def trust_option() -> Any:
    """The field of commands that read saved models: a name in a file imports nothing by itself."""
    text = "your own code that the saved files name"
    return option((), text, metavar="NAME=python:MODULE:OBJECT", group="model")


def approaches_option() -> Any:
    """The field of commands that search."""
    return option((), APPROACHES_HELP, parse=split_names)


def parse_svg(text: str) -> Path:
    """Text to the path of a drawing."""
    if Path(text).suffix != ".svg":
        raise ValueError(f"expected a name that ends in .svg, got {text!r}")
    return Path(text)


def spark_option() -> Any:
    """The field of commands that may run on a cluster."""
    text = "compute in processes that Spark starts (on this machine, if it has no other master)"
    return option(False, text, group="processes")


def top_option() -> Any:
    """The field of commands that rank."""
    return option(5, "best answers shown", group="output")


def together_option() -> Any:
    """The field of commands that judge pictures."""
    text = "judge the pictures as one batch: finds more of new classes that several of them show"
    return option(False, text)


def quiet_option() -> Any:
    """The field of every command."""
    return option(False, "show no progress on standard error", group="output")


def truncate_option() -> Any:
    """The field of commands that read texts."""
    return option(False, "cut texts that are too long for the model instead of refusing them")


def seeds_option() -> Any:
    """The field of commands that repeat a measurement."""
    return option(5, "support sets drawn", group="support sets")


def seed_option() -> Any:
    """The field of commands that draw."""
    return option(0, "seed of everything random", group="support sets")


def shot_counts_option(default: tuple[int, ...]) -> Any:
    """The field of commands that repeat a measurement by shots; ``default`` is what no count stands for."""
    usual = ",".join(map(str, default))
    return option(
        (), f"labelled pictures per class, one count after the other (default: {usual})", group="support sets"
    )


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Of every command."""

    json: bool = option(False, "print JSON on standard output", group="output")
    quiet: bool = quiet_option()


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(CommandOptions):
    """Of commands that compute."""

    device: str = option("auto", "where to compute", choices=DEVICES, group="model")


@dataclass(frozen=True, kw_only=True)
class SavedModelOptions(DeviceOptions):
    """Of commands over a saved model or a store."""

    model: str | None = option(None, "the backbone, if its saved name cannot be loaded", group="model")
    trust: tuple[str, ...] = trust_option()


@dataclass(frozen=True, kw_only=True)
class PicturesOptions(ReadingOptions, DeviceOptions):
    """Of commands that look at pictures through a model."""

    data: str = option("digits", PICTURES, positional=True, flag="--data")
    model: str | None = option(None, MODEL_HELP, group="model")

    @property
    def model_name(self) -> str:
        """The model that was named, or the usual one for the pictures."""
        return model_for(self.data, self.model)


@dataclass(frozen=True, kw_only=True)
class TunedModelOptions(PicturesOptions):
    """Of commands that take a fine-tuned model as well."""

    tuned: Path | None = option(None, "what finetune made of that model: its DIR/model", group="model")


@dataclass(frozen=True, kw_only=True)
class SupportSetOptions(PicturesOptions):
    """Of commands that draw support sets."""

    shots: int = option(16, "labelled pictures per class", group="support sets")
    seeds: int = seeds_option()
    test_fraction: float = option(
        0.5, "share of each class sealed as test set where the data has no test part", group="support sets"
    )
    seed: int = seed_option()

    def __post_init__(self) -> None:
        check_range(self, "shots", "seeds")
        check_fractions(self, "test_fraction")


def refuse_idle(options: Any, names: Sequence[str], where_used: str) -> None:
    """Refuse options that have no effect beside the others.

    Args:
        where_used: how they would have one, such as "with --saved".

    Raises:
        UsageError: names those that are not at their default.
    """
    given = [f"`{f.name}`" for f in fields(options) if f.name in names and getattr(options, f.name) != f.default]
    if given:
        expected = f"{' and '.join(given)} {where_used}"
        raise UsageError(expected=expected, got="another command", fix="leave it out", where=given[0])
