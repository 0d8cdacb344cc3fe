"""Tables that name pictures: one reader of headers and cells for files and DataFrames. Errors carry ``file:line``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clip_fewshot.data.base_folder import count_files
from clip_fewshot.data.columns import Table, choose_columns, has_header, squash
from clip_fewshot.data.listing import PARTITIONS, VALIDATION, VALIDATION_JOINED, Listing
from clip_fewshot.data.manifest import ManifestRow, resolve
from clip_fewshot.data.names import escape
from clip_fewshot.data.text_files import read_text
from clip_fewshot.errors import DataError

if TYPE_CHECKING:
    import pandas

TABLE_SUFFIXES = (".csv", ".tsv")
SEPARATORS = (",", ";", "\t", "|")


def read_csv(source: Path, root: Path | None = None, columns: Mapping[str, str] | None = None) -> Listing:
    """A table with a header; separator (``, ; tab |``) and columns are found by the names in ``COLUMN_NAMES``.

    No cell is taken for missing: ``NA`` and ``None`` are ordinary class names.
    """
    return list_table(read_table(source, columns or {}), root, columns)


def list_table(
    table: Table, root: Path | None = None, columns: Mapping[str, str] | None = None, bare: bool = False
) -> Listing:
    """The pictures of a table.

    Args:
        root: folder that paths start from; None: it is searched.
        columns: role -> name of a column.
        bare: pictures alone are enough.
    """
    chosen, notes = choose_columns(table, columns or {}, lambda paths: count_files(table.source, paths, root), bare)
    notes = [*table.notes, *notes]
    rows, problems, sides = [], list(table.problems), set[str]()
    named = _numbered_parts(table, chosen)
    for where, cells in table.rows:
        row = {role: cells[column] for role, column in chosen.items()}
        said = row.get("split", "")
        side = named.get(said, said).casefold()
        if side and side not in PARTITIONS:
            problems.append(f"{where}: {escape(said)!r} is none of {', '.join(PARTITIONS)}")
            continue
        sides.add(side)
        rows.append(ManifestRow(where, row["image"], row.get("label"), row.get("caption"), PARTITIONS.get(side, "")))
    notes += [VALIDATION_JOINED] if sides & {*VALIDATION} else []
    return resolve(table.source, rows, problems, warnings=notes, root=root)


def read_table(source: Path, columns: Mapping[str, str]) -> Table:
    """The cells of a text file with a header."""
    text, where = read_text(source), escape(source)
    separator = _separator(text, columns, where)
    records = _records(text, separator, where)
    names = tuple(cell.strip() for cell in next(records, (1, []))[1])
    rows, problems = [], []
    for line, cells in records:
        place, filled = f"{escape(source.name)}:{line}", tuple(cell.strip() for cell in cells)
        if any(filled[len(names) :]) or any(names[len(filled) :]):
            problems.append(f"{place}: {len(cells)} cells under a header of {len(names)}")
        else:
            rows.append((place, (*filled, *[""] * len(names))[: len(names)]))
    return Table(source, names, tuple(rows), tuple(problems))


def is_table(source: Path, bare: bool = False) -> bool:
    """Whether a text file starts with a header of ours; ``bare``: a column of pictures is enough."""
    try:
        text = read_text(source)
    except DataError:
        return False
    return any(has_header(names, bare) for names in _headers(text).values())


def table_of(frame: pandas.DataFrame) -> Table:
    """The rows of a DataFrame; a missing cell is empty. Paths start from the current folder."""
    missing = frame.isna().to_numpy()
    cells = [
        tuple("" if is_missing else str(value).strip() for value, is_missing in zip(row, flags, strict=True))
        for row, flags in zip(frame.itertuples(index=False, name=None), missing, strict=True)
    ]
    places = [f"row {index}" for index in frame.index]
    return Table(Path("DataFrame"), tuple(map(str, frame.columns)), tuple(zip(places, cells, strict=True)))


def _numbered_parts(table: Table, chosen: Mapping[str, int]) -> Mapping[str, str]:
    """CelebA's partitions are 0, 1 and 2."""
    if "split" not in chosen or squash(table.names[chosen["split"]]) != "partition":
        return {}
    numbers = dict(zip("012", ("train", "val", "test"), strict=True))
    return numbers if set(table.column(chosen["split"])) <= numbers.keys() else {}


def _separator(text: str, columns: Mapping[str, str], where: str) -> str:
    """The one under which the first line is a header: has the named columns, or names of ours, or most cells."""
    headers, wanted = _headers(text), {squash(name) for name in columns.values()}

    def fitness(separator: str) -> tuple[bool, bool, int]:
        names = headers[separator]
        return wanted <= set(map(squash, names)), has_header(names), len(names)

    return max(SEPARATORS, key=fitness)


def _headers(text: str) -> dict[str, list[str]]:
    """The cells of the first line under each separator; none where its quotes do not close."""
    return {separator: _first_cells(text, separator) for separator in SEPARATORS}


def _first_cells(text: str, separator: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(_records(text, separator, ""), (1, []))[1]]
    except DataError:
        return []


def _records(text: str, separator: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """(first physical line, cells) of each record; quotes may stand behind a blank.

    Left out are records without a filled cell, and ``sep=;`` in front of the header, which spreadsheets write.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    line = 1
    try:
        for cells in reader:
            if any(map(str.strip, cells)) and (line > 1 or not cells[0].casefold().startswith("sep=")):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        fix = "close the quotes, or double those inside"
        raise DataError(expected="a well-formed table", got=str(error), fix=fix, where=f"{where}:{line}") from error
