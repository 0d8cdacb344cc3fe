"""CoOp's draws of shots, ``split_fewshot/shot_16-seed_1.pkl``: ``{"train": [Datum, ...], "val": [Datum, ...]}``.

The pickle is read, not run (:mod:`clip_fewshot.data.inert_pickle`); of Dassl's ``Datum`` three fields are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from clip_fewshot.data.base_folder import count_files
from clip_fewshot.data.coop import is_triple, list_triples
from clip_fewshot.data.inert_pickle import MOST_PICKLE_BYTES, InertInstance, read_pickle
from clip_fewshot.data.listing import Listing, refuse_any
from clip_fewshot.data.names import escape, number
from clip_fewshot.errors import DataError
from clip_fewshot.runtime.reading import open_regular

DRAW = ".pkl"
DATUM_FIELDS = ("_impath", "_label", "_classname")


def read_draw(source: Path, root: Path | None = None) -> Listing:
    """The shots, classes in the order of their numbers. The draw's ``val`` is left out: it comes on top of the K.

    Paths are those of the machine that drew; the first of the folders that all share are left out until most of the
    files are found.
    """
    shots, warnings = _drawn(source)
    places = _shorten([path for path, _, _ in shots], source, root)
    triples = [[place, *rest] for place, (_, *rest) in zip(places, shots, strict=True)]
    return list_triples(source, {"train": triples}, warnings, root)


def _drawn(source: Path) -> tuple[list[list[Any]], list[str]]:
    """[path, label, class name] of each shot, and what was left out."""
    try:
        with open_regular(source) as file:
            data = file.read(MOST_PICKLE_BYTES + 1)
    except OSError as error:
        fix = "check path and permissions"
        raise DataError(expected="a readable file", got=str(error), fix=fix, where=escape(source)) from error
    parts = read_pickle(data, {"Datum"}, escape(source))
    if not isinstance(parts, dict) or not {"train"} <= parts.keys() <= {"train", "val"}:
        got, fix = "other content", "check the file"
        raise DataError(expected="a dictionary with train and perhaps val", got=got, fix=fix, where=escape(source))
    for part in parts.values():
        if not isinstance(part, list):
            got, fix = "something else", "check the file"
            raise DataError(expected="a list under each part", got=got, fix=fix, where=escape(source))
    shots = [
        [item.fields.get(name) for name in DATUM_FIELDS] if isinstance(item, InertInstance) else []
        for item in parts["train"]
    ]
    problems = [f"train[{i}]" for i, shot in enumerate(shots) if not is_triple(shot)]
    refuse_any(problems, f"instances of Datum with {', '.join(DATUM_FIELDS)}", "restore the file", source)
    left_out = len(parts.get("val", []))
    return shots, [
        f"left out: {number(left_out, 'validation image')} of the draw, for validation comes out of the K shots"
    ] * (left_out > 0)


def _shorten(paths: Sequence[str], source: Path, root: Path | None) -> Sequence[str]:
    """The paths without those leading folders, of the ones that all of them share, that are not here."""
    split = [path.replace("\\", "/").split("/") for path in paths]
    levels = zip(*(parts[:-1] for parts in split), strict=False)
    shared = list(takewhile(lambda level: len(set(level)) == 1, levels))
    ways = [["/".join(parts[cut:]) for parts in split] for cut in range(len(shared) + 1)]
    return max(ways, key=lambda way: count_files(source, way, root))
