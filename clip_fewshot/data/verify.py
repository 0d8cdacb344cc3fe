"""Open every picture of a listing once, and look at the set as a whole before anything is trained on it."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from clip_fewshot.data.decode import decoding
from clip_fewshot.data.decoder_warnings import HANDLER
from clip_fewshot.data.listing import Entry, Listing, refuse_any
from clip_fewshot.data.names import escape, list_first, number
from clip_fewshot.data.picture_files import reading
from clip_fewshot.data.picture_kinds import ImageError
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.files import hash_bytes
from clip_fewshot.runtime.progress import report_steps

DEFAULT_SKIPPED = 0.05  # fraction of the pictures; .01 stopped a folder of 120 at two that a phone had spoilt
CHECK_THREADS = min(8, os.cpu_count() or 1)  # decoding leaves the interpreter lock to others
RARE, COMMON = 2, 20  # a label of at most RARE images, one letter off one of COMMON or more, looks like a typing error
TYPO_LENGTH = 4  # letters; shorter names are near each other by chance


class Checked(NamedTuple):
    """A file that was opened: its SHA-256, and the error or what had to be decided."""

    digest: str
    notes: tuple[str, ...]
    error: ImageError | None


def check_pictures(paths: Iterable[Path]) -> dict[Path, Checked]:
    """Read and decode each file once, in threads."""
    distinct = list(dict.fromkeys(paths))
    with HANDLER, ThreadPoolExecutor(CHECK_THREADS) as pool:
        return dict(
            zip(distinct, report_steps(pool.map(_check, distinct), "read pictures", len(distinct)), strict=True)
        )


def _check(path: Path) -> Checked:
    digest = ""
    try:
        with reading(path) as data:
            digest = hash_bytes(data)
            with decoding(data, path) as picture:
                return Checked(digest, picture.notes, None)
    except ImageError as error:
        return Checked(digest, (), error)


def refuse_decisions(checked: Mapping[Path, Checked]) -> dict[Path, Checked]:
    """The same, with every picture that needed a decision refused for it."""
    return {path: result._replace(error=_undecided(path, result)) for path, result in checked.items()}


def _undecided(path: Path, result: Checked) -> ImageError | None:
    if result.error is not None or not result.notes:
        return result.error
    return ImageError(
        result.notes[0],
        expected="a picture that needs no decision",
        got=result.notes[0],
        fix="convert it",
        where=escape(path),
    )


def refuse_too_many(checked: Mapping[Path, Checked], max_skipped: float | None, source: Path) -> None:
    """Stop if more pictures are unreadable than ``max_skipped``, a fraction in [0, 1], allows."""
    if max_skipped is not None and not 0 <= max_skipped <= 1:
        expected = "a share from 0 to 1"
        raise UsageError(expected=expected, got=str(max_skipped), fix="change it", where="`max_skipped`")
    errors = [result.error for result in checked.values() if result.error is not None]
    allowed = max(1, int(DEFAULT_SKIPPED * len(checked))) if max_skipped is None else int(max_skipped * len(checked))
    if len(errors) > allowed or len(errors) == len(checked):
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(error.reason for error in errors).most_common())
        lines = list_first(f"[{error.reason}] {error.where}: {error.got}; {error.fix}" for error in errors)
        got = f"{len(errors)} of {len(checked)} ({reasons}):{lines}\n"
        fix = "repair them, or leave them out by a greater share in `max_skipped`"
        raise DataError(expected=f"at most {allowed} unreadable", got=got, fix=fix, where=escape(source))


def refuse_contradictions(entries: Iterable[Entry], checked: Mapping[Path, Checked], source: Path) -> list[str]:
    """Stop where identical pictures have two labels or lie in train and test; a warning for other copies."""
    first: dict[str, Entry] = {}
    conflicts, leaks, copies = [], [], []
    for entry in entries:
        earlier = first.setdefault(checked[entry.path].digest, entry)
        both = f"{escape(earlier.name)} and {escape(entry.name)}"
        if earlier.label != entry.label:
            conflicts.append(f"{both}: {escape(str(earlier.label))!r} and {escape(str(entry.label))!r}")
        elif earlier.partition != entry.partition:
            leaks.append(both)
        elif earlier.path != entry.path:
            copies.append(both)
    refuse_any(conflicts, "one label per picture (label-conflict: identical files)", "keep the right one", source)
    refuse_any(leaks, "no picture in both train and test (leak-exact: identical files)", "remove one of each", source)
    return (
        [f"{number(len(copies), 'copy of another picture', 'copies of other pictures')}, the first: {copies[0]}"]
        if copies
        else []
    )


def find_typing_errors(counts: Mapping[str, int]) -> list[str]:
    """A warning for each rare label that is one letter off a common one."""
    common: dict[str, str] = {}
    for label, count in counts.items():
        if count >= COMMON:
            common |= dict.fromkeys(_one_letter_less(label), label)
    found = []
    for label, count in counts.items():
        near = next((common[v] for v in _one_letter_less(label) if v in common), None) if count <= RARE else None
        if near is not None and len(label) >= TYPO_LENGTH and label.isalpha():
            found.append(
                f"{label!r} ({number(count, 'image')}) may be meant as {near!r} ({number(counts[near], 'image')})"
            )
    return found


def _one_letter_less(label: str) -> set[str]:
    """Two names share one of these if a letter was dropped, added or replaced, or two were swapped."""
    return {label, *(label[:i] + label[i + 1 :] for i in range(len(label)))}


def list_decisions(checked: Mapping[Path, Checked]) -> list[str]:
    """A warning per kind of decision that was taken for readable pictures."""
    by_note: dict[str, list[Path]] = defaultdict(list)
    for path, result in checked.items():
        for note in result.notes:
            by_note[note].append(path)
    return [
        f"{note}: {number(len(paths), 'picture')}, the first {escape(paths[0])}"
        for note, paths in sorted(by_note.items())
    ]


def check_listing(
    listing: Listing, strict: bool, max_skipped: float | None, contradictions: bool = False
) -> tuple[dict[Path, Checked], list[str]]:
    """All of the above: the state of each file, and the warnings; ``contradictions`` between copies may be left in."""
    checked = check_pictures(entry.path for entry in listing.entries)
    if strict:
        checked = refuse_decisions(checked)
    refuse_too_many(checked, max_skipped, listing.source)
    readable = [entry for entry in listing.entries if checked[entry.path].error is None]
    labels = Counter(entry.label for entry in readable if entry.label is not None)
    copies = [] if contradictions else refuse_contradictions(readable, checked, listing.source)
    usable = {path: result for path, result in checked.items() if result.error is None}
    return checked, [*listing.warnings, *copies, *find_typing_errors(labels), *list_decisions(usable)]
