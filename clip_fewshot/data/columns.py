"""What each column of a table says: known by its name, among several names by what stands below."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_fewshot.data.listing import PARTITIONS, refuse_any
from clip_fewshot.data.names import escape
from clip_fewshot.errors import DataError, UsageError

# Role -> column names, the likeliest first; compared in small letters without blanks, dashes and underscores.
COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "image": (
        *("filepath", "image", "path", "imagepath", "filename", "file", "img", "imgpath", "imagepaths", "imgpaths"),
        *("filepaths", "impath", "imagefile", "imagefilename", "imagename", "imgname", "imgfile", "photo", "picture"),
        *("photopath", "picturepath", "images", "imageurl", "imgurl", "photourl", "url", "imageid", "imgid", "photoid"),
        *("pictureid", "uri", "key", "id"),
    ),
    "label": (
        *("label", "class", "classname", "labelname", "category", "categoryname", "target", "labels", "classes"),
        *("categories", "species", "cls", "classid", "labelid", "categoryid", "choice"),
    ),
    "caption": ("caption", "title", "text", "captions", "sentence", "description", "prompt", "comment", "rawcaption"),
    "split": ("split", "partition", "set", "subset", "dataset", "phase", "part"),
}
MEASURES = ("width", "height", "size", "bytes")  # of pictures, and no classes
EITHER = "name"  # a class where its values repeat and no other column has one, else a text
NEARLY = 0.2  # share of rows that may contradict the others and still be taken for mistakes
PROBED_ROWS = 200  # rows looked at to choose among columns


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes:
        source: where it was read; its folder is the first that paths may start from.
        names: of the columns; "" for one without.
        rows: (place for errors, a cell per column), of rows that can be used.
        problems: of rows that cannot, one sentence each.
        notes: what was left out.
    """

    source: Path
    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def column(self, number: int, most: int | None = None) -> list[str]:
        """The cells of a column, of the first ``most`` rows."""
        return [cells[number] for _, cells in self.rows[:most]]


def squash(name: str) -> str:
    """A column's name as it is compared: "Image Path", image_path and imagePath are the same."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def list_candidates(names: Sequence[str], role: str) -> list[int]:
    """The columns that a role may have by their names, the likeliest first."""
    squashed = [squash(name) for name in names]
    return [squashed.index(alias) for alias in COLUMN_NAMES[role] if alias in squashed]


def has_header(names: Sequence[str], bare: bool = False) -> bool:
    """Whether these cells are the first line of a table of pictures, unless ``bare`` with labels or captions."""
    says = bare or squash(EITHER) in map(squash, names)
    says = says or any(list_candidates(names, role) for role in ("label", "caption"))
    return bool(says and list_candidates(names, "image"))


def choose_columns(
    table: Table, wanted: Mapping[str, str], count_files: Callable[[Sequence[str]], int], bare: bool = False
) -> tuple[dict[str, int], list[str]]:
    """The column of each role, and a note on each choice that the names alone do not make.

    Args:
        wanted: role -> name of a column, of the user's.
        count_files: how many of some cells name a file.
        bare: pictures alone are enough.

    Raises:
        UsageError: no such role. DataError: no such column, or none of pictures, or of what they show.
    """
    chosen = {role: _number(table, name) for role, name in wanted.items() if _is_role(role)}
    notes: list[str] = []
    for role, choose in (("image", _with_files(count_files)), ("split", _with_parts), ("label", _with_names)):
        free = [i for i in list_candidates(table.names, role) if i not in chosen.values()]
        if role not in chosen and (number := choose(table, free)) is not None:
            chosen[role] = number
            notes += _note(table, role, number, free) if role != "split" else []
    _choose_texts(table, chosen, notes)
    if "image" not in chosen or not (bare or chosen.keys() & {"label", "caption"}):
        raise _unknown(table, chosen)
    for role, number in chosen.items():
        _refuse_twice(table, role, number)
    return chosen, [*notes, *([] if "split" in chosen else _note_parts(table.names))]


def _is_role(role: str) -> bool:
    if role not in COLUMN_NAMES:
        fix = "write image=..., label=..., caption=... or split=..."
        raise UsageError(expected=f"one of {', '.join(COLUMN_NAMES)}", got=repr(role), fix=fix, where="`columns`")
    return True


def _number(table: Table, name: str) -> int:
    for spelled in (name, *(other for other in table.names if squash(other) == squash(name))):
        if spelled in table.names and spelled:
            return table.names.index(spelled)
    fix = "name one of these in `columns`"
    got = _listed(table.names)
    raise DataError(expected=f"a column {escape(name)!r}", got=got, fix=fix, where=f"{escape(table.source)}:1")


def _refuse_twice(table: Table, role: str, number: int) -> None:
    if table.names.count(table.names[number]) > 1:
        got = f"twice {escape(table.names[number])}"
        where = f"{escape(table.source)}:1"
        raise DataError(expected=f"one column of that name for the {role}", got=got, fix="rename one", where=where)


def _with_files(count_files: Callable[[Sequence[str]], int]) -> Callable[[Table, list[int]], int | None]:
    """The column that names most files; of equals the likeliest that holds no addresses."""

    def choose(table: Table, free: list[int]) -> int | None:
        if len(free) < 2:
            return next(iter(free), None)
        cells = {i: table.column(i, PROBED_ROWS) for i in free}
        return max(free, key=lambda i: (count_files(cells[i]), -sum("://" in cell for cell in cells[i])))

    return choose


def _with_parts(table: Table, free: list[int]) -> int | None:
    """The column of which half or more are parts, or that can be nothing else."""
    for i in free:
        known = sum(cell.casefold() in PARTITIONS or not cell for cell in table.column(i))
        if 2 * known >= len(table.rows) or squash(table.names[i]) in ("split", "partition"):
            return i
    return None


def _with_names(table: Table, free: list[int]) -> int | None:
    """The likeliest column; of a number and a name for the same classes the name."""
    either = [i for i, name in enumerate(table.names) if squash(name) == EITHER]
    first = next(iter(free), None)
    if first is None or not all(cell.isdigit() for cell in table.column(first)):
        return first
    return next((i for i in [*free[1:], *either] if _says_the_same(table, first, i)), first)


def _says_the_same(table: Table, numbers: int, names: int) -> bool:
    """Whether two columns divide the rows into the same classes, and the second has words.

    Raises:
        DataError: nearly, but for a few rows.
    """
    pairs = Counter(zip(table.column(numbers), table.column(names), strict=True))
    rising = sorted(pairs, key=pairs.__getitem__)  # in a mapping of these the most common name of a number stays
    name_of, number_of = dict(rising), {name: number for number, name in rising}
    usual = {(number, name) for number, name in name_of.items() if number_of[name] == number}
    odd = [where for where, cells in table.rows if (cells[numbers], cells[names]) not in usual]
    if any(name.isdigit() for _, name in usual) or len(odd) > NEARLY * len(table.rows):
        return False
    problems = [f"{where}: another {escape(table.names[names])} than elsewhere for the same number" for where in odd]
    refuse_any(problems, "a name per number of a class", "correct them, or name the `columns`", table.source)
    return True


def _choose_texts(table: Table, chosen: dict[str, int], notes: list[str]) -> None:
    """Caption, and what is left to be a label: a column ``name``, or the only other one, where its values repeat."""
    free = [i for i in list_candidates(table.names, "caption") if i not in chosen.values()]
    if "caption" not in chosen and free:
        chosen["caption"] = free[0]
        notes += _note(table, "caption", free[0], free)
    others = [i for i, name in enumerate(table.names) if name and i not in chosen.values()]
    either = next((i for i in others if squash(table.names[i]) == EITHER), None)
    if either is not None and "label" not in chosen and _repeats(table, either):
        chosen["label"] = either
    elif either is not None and "caption" not in chosen:
        chosen["caption"] = either
    elif len(others) == 1 and not chosen.keys() & {"label", "caption"} and _repeats(table, others[0], 2):
        chosen["label"] = others[0]
        notes.append(f"column {escape(table.names[others[0]])!r} is read as the label")


def _note_parts(names: Sequence[str]) -> list[str]:
    """A note on columns that are not read though they may divide the pictures, as is_train."""
    hints = [name for name in names if {*re.split(r"[\W_]+", name.casefold())} & {*PARTITIONS, "fold"}]
    return [
        f"column {escape(name)!r} is not read; if it says which pictures are test, name it as split" for name in hints
    ]


def _repeats(table: Table, number: int, least: int = 1) -> bool:
    """Whether each value stands there twice on average, and there are ``least`` of them."""
    cells = table.column(number)
    return least <= len(set(cells)) <= len(cells) / 2 and squash(table.names[number]) not in MEASURES


def _note(table: Table, role: str, number: int, free: Sequence[int]) -> list[str]:
    others = ", ".join(repr(escape(table.names[i])) for i in free if i != number)
    return [f"column {escape(table.names[number])!r} is read as the {role}, and not {others}"] if others else []


def _unknown(table: Table, chosen: Collection[str]) -> DataError:
    wanted = [f"{role} ({', '.join(COLUMN_NAMES[role][:5])} ...)" for role in ("image", "label", "caption")]
    lacking = wanted[0] if "image" not in chosen else f"{wanted[1]} or {wanted[2]}"
    fix = "name the columns with `columns`, as image=COLUMN,label=COLUMN or image=COLUMN,caption=COLUMN"
    return DataError(
        expected=f"a header with a column for the {lacking}",
        got=_listed(table.names),
        fix=fix,
        where=f"{escape(table.source)}:1",
    )


def _listed(names: Sequence[str]) -> str:
    return "columns " + ", ".join(repr(escape(name[:80])) for name in names[:20] if name) if any(names) else "none"
