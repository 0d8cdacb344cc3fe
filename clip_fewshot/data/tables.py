"""Text files that name pictures: ``path label`` lists and tables with a header. Errors carry ``file:line``."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from clip_fewshot.data.listing import PARTITIONS, VALIDATION, VALIDATION_JOINED, Listing
from clip_fewshot.data.manifest import ManifestRow, resolve
from clip_fewshot.data.names import escape
from clip_fewshot.errors import DataError

SENTENCE = 3  # words; few class names have as many
LONGEST_LINE = 100_000  # characters; longer ones come from files that are no text
SEPARATORS = (",", ";", "\t", "|")
# Role -> column names, the preferred one first; compared without case and outer spaces.
COLUMN_NAMES = {
    "path": ("filepath", "image", "path", "image_path", "file_name"),
    "label": ("label", "class"),
    "caption": ("caption", "title", "text"),
    "partition": ("split", "partition"),
}
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_text(path: Path) -> str:
    """A text file as the byte-order mark says, else strictly as UTF-8; line ends become line feeds."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            expected="a readable text file", got=str(error), fix="check path and permissions", where=escape(path)
        ) from error
    return decode_text(data, escape(path))


def decode_text(data: bytes, where: str) -> str:
    """The same for bytes that are in memory; ``where`` is named in errors."""
    encoding = next((name for bom, name in BOMS if data.startswith(bom)), "utf-8")
    try:
        return data.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = f"byte {data[error.start]:#04x} at offset {error.start}"
        raise DataError(expected="UTF-8 text", got=got, fix="save it as UTF-8", where=f"{where}:{line}") from error


def read_list(source: Path) -> Listing:
    """Lines ``path label``: the last field is the label.

    Labels with spaces stand in double quotes (doubled inside) or behind a tab. Empty lines and lines that start with
    ``#`` are passed over.
    """
    return _read_lines(source, lambda where, line: ManifestRow(where, *_fields(line)))


def read_captions(source: Path) -> Listing:
    """Lines ``path<TAB>caption``; a picture may have several. Quotes in a caption are part of it."""
    return _read_lines(source, _captioned)


def is_captions(source: Path) -> bool:
    """Whether what stands behind the tabs of a list are captions and no labels: half are sentences, half differ."""
    texts = [line.partition("\t")[2].strip() for _, line in _lines(source)]
    sentences = sum(len(text.split()) >= SENTENCE for text in texts)
    return all(texts) and 2 * sentences >= len(texts) and 2 * len(set(texts)) > len(texts)


def _lines(source: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(source).split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line


def _read_lines(source: Path, parse: Callable[[str, str], ManifestRow]) -> Listing:
    rows, problems = [], []
    for number, line in _lines(source):
        where = f"{escape(source.name)}:{number}"
        try:
            if len(line) > LONGEST_LINE:
                raise ValueError(f"{len(line):,} characters")
            rows.append(parse(where, line))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    return resolve(source, rows, problems)


def _captioned(where: str, line: str) -> ManifestRow:
    path, tab, caption = line.partition("\t")
    if not tab:
        raise ValueError(f"no tab in {escape(line[:80])!r}")
    return ManifestRow(where, _unquoted(path.strip()), caption=caption.strip())


def _fields(line: str) -> tuple[str, str]:
    by_tab = line.split("\t")
    if len(by_tab) == 2:
        return _unquoted(by_tab[0]), _unquoted(by_tab[1])
    match = re.fullmatch(r"\s*(?P<path>.*\S)\s+(?P<label>\"(?:[^\"]|\"\")*\"|[^\s\"]+)\s*", line)
    if match is None or len(by_tab) > 2:
        raise ValueError(f"no 'path label' in {escape(line[:80])!r}")
    return _unquoted(match["path"]), _unquoted(match["label"])


def _unquoted(field: str) -> str:
    if not field.startswith('"'):
        return field
    inner = field[1:-1]
    if len(field) < 2 or not field.endswith('"') or '"' in inner.replace('""', ""):
        raise ValueError(f"unbalanced quotes in {escape(field[:80])}")
    return inner.replace('""', '"')


def read_csv(source: Path) -> Listing:
    """A table with a header; separator (``, ; tab |``) and columns are found by the names in ``COLUMN_NAMES``.

    No cell is taken for missing: ``NA`` and ``None`` are ordinary class names.
    """
    text = read_text(source)
    separator, columns, width = _header(text, source)
    rows, problems, sides = [], [], set[str]()
    for line, cells in _records(text, separator, source):
        where = f"{escape(source.name)}:{line}"
        if len(cells) != width:
            problems.append(f"{where}: {len(cells)} cells under a header of {width}")
            continue
        row = {role: cells[column] for role, column in columns.items()}
        side = row.get("partition", "").strip().lower()
        if side and side not in PARTITIONS:
            problems.append(f"{where}: {escape(side)!r} is none of {', '.join(PARTITIONS)}")
            continue
        sides.add(side)
        rows.append(ManifestRow(where, row["path"], row.get("label"), row.get("caption"), PARTITIONS.get(side, "")))
    return resolve(source, rows, problems, warnings=[VALIDATION_JOINED] if sides & {*VALIDATION} else [])


def is_table(source: Path) -> bool:
    """Whether a text file starts with a header of ours."""
    try:
        _header(read_text(source), source)
    except DataError:
        return False
    return True


def _header(text: str, source: Path) -> tuple[str, dict[str, int], int]:
    """Separator, column of each role, and number of columns."""
    names: list[str] = []
    for separator in SEPARATORS:
        _, cells = next(_records(text, separator, source, skip=0), (1, []))
        names = [cell.strip().casefold() for cell in cells]
        columns = {role: names.index(alias) for role in COLUMN_NAMES for alias in _present(role, names)[:1]}
        if "path" in columns and columns.keys() & {"label", "caption"}:
            twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
            if twice:
                got = ", ".join(map(escape, twice))
                raise DataError(
                    expected="a name per column", got=f"twice {got}", fix="rename one", where=f"{escape(source)}:1"
                )
            return separator, columns, len(names)
    wanted = f"a header with one of {'/'.join(COLUMN_NAMES['path'])} and one of "
    wanted += "/".join((*COLUMN_NAMES["label"], *COLUMN_NAMES["caption"]))
    got = f"the first line {escape(text[:80].split(chr(10))[0])!r}"
    raise DataError(expected=wanted, got=got, fix="name the columns in the first line", where=f"{escape(source)}:1")


def _present(role: str, names: list[str]) -> list[str]:
    return [alias for alias in COLUMN_NAMES[role] if alias in names]


def _records(text: str, separator: str, source: Path, skip: int = 1) -> Iterator[tuple[int, list[str]]]:
    """(first physical line, cells) of each record after the first ``skip``, blank lines left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for number, cells in enumerate(reader):
            if cells and number >= skip:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        fix = "close the quotes, or double those inside"
        raise DataError(
            expected="a well-formed table", got=str(error), fix=fix, where=f"{escape(source)}:{line}"
        ) from error
