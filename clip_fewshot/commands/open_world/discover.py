"""Groups among the unknown pictures: `clip-fewshot open-world discover store/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.open_world.shared import NamingOptions, open_store, print_answer
from clip_fewshot.data.names import number

if TYPE_CHECKING:
    from clip_fewshot.discovery import Discovery
    from clip_fewshot.open_world.groups import Group
    from clip_fewshot.open_world.name_suggestions import Suggestions

DESCRIPTION = "Group the unknown pictures and suggest a name for each group."
EXAMPLES = ("store/", 'store/ --names 5 --words animals.txt --template "a photo of a {}, a bird"')


@dataclass(frozen=True, kw_only=True)
class Options(NamingOptions):
    pass


def main(options: Options) -> int:
    words, templates = opening.read_words(options.words), opening.open_templates(options, ())
    with open_store(options.store, options) as store:
        from clip_fewshot.report.review import suggest_group_names

        groups = store.discover()
        found, unknown = store.discovery_, store.grouped_.unknown
        said = suggest_group_names(store, groups, options.names, words, templates)
    record = {
        "unknown": int(unknown.sum()),
        "joined": int((~unknown).sum()),
        "groups": [_record(group, found, names) for group, names in zip(groups, said, strict=True)],
        "interval": list(found.interval),
        "in_no_group": int((found.labels < 0).sum()),
        "reason": found.reason,
    }
    print_answer(options, record, _table(groups, found, said))
    return 0


def _record(group: Group, found: Discovery, said: Suggestions | None) -> dict[str, Any]:
    pictures = zip(group.pictures.names, group.pictures.digests, group.answered, strict=True)
    return {
        "number": group.number,
        "pictures": [{"image": name, "digest": digest, "answered": said} for name, digest, said in pictures],
        "stability": found.stability[group.number] if found.stability else None,
        "nearest": group.nearest and {"class": group.nearest[0], "cosine": group.nearest[1]},
        "names": [] if said is None else [{"name": word, "probability": p} for word, p in said.names],
        "none_fits": None if said is None else said.none_fits,
        "note": "" if said is None else said.note,
    }


def _table(groups: Sequence[Group], found: Discovery, said: Sequence[Suggestions | None]) -> str:
    from clip_fewshot.report import tables

    (low, high), outliers = found.interval, int((found.labels < 0).sum())
    joined = sum(answer is not None for group in groups for answer in group.answered)
    unknown, grouped = number(len(found.labels) - joined, "unknown picture"), number(len(groups), "group")
    head = f"{unknown}: {grouped} (90 % [{low}, {high}])" + (f", {outliers:,} in no group" if outliers else "")
    if joined:
        head += f"; {joined:,} that a known class was answered for are more like a group"
    rows = [["group", "pictures", "answered known", "stability", "nearest known class", "cosine", "might be called"]]
    for group, names in zip(groups, said, strict=True):
        nearest, cosine = group.nearest or ("-", float("nan"))
        stable = tables.format_fraction(found.stability[group.number]) if found.stability else "-"
        words = ", ".join(f"{word} {p:.2f}" for word, p in names.names) if names else "-"
        words = f"none of: {words}" if names and names.none_fits else words
        counts = str(group.number), f"{len(group):,}", str(sum(answer is not None for answer in group.answered))
        rows.append([*counts, stable, nearest, tables.format_fraction(cosine), words])
    head += f"\nno group: {found.reason}" if found.reason else ""
    notes = sorted({names.note for names in said if names and names.note})
    return "\n".join([head, *([tables.format_plain(rows)] if groups else []), *(f"note: {note}" for note in notes)])
