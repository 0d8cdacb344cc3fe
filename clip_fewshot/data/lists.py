"""Text files without a header that name a picture a line: ``path label``, ``path<TAB>caption``, or the path alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from clip_fewshot.data.listing import Listing
from clip_fewshot.data.manifest import ManifestRow, resolve
from clip_fewshot.data.names import SUFFIXES, escape
from clip_fewshot.data.text_files import read_text
from clip_fewshot.data.tree_form import find_form
from clip_fewshot.errors import DataError

CELLS = re.compile(rf"({'|'.join(map(re.escape, sorted(SUFFIXES)))})\"?[,;|]")  # a picture, and another cell
SENTENCE = 3  # words; few class names have as many
LONGEST_LINE = 100_000  # characters; longer ones come from files that are no text


def read_list(source: Path, root: Path | None = None) -> Listing:
    """Lines ``path label``: the last field is the label.

    Labels with spaces stand in double quotes (doubled inside) or behind a tab. Empty lines and lines that start with
    ``#`` are passed over. Where every line is a path and nothing else, as in Food-101 and DTD, the class of a picture
    is the folder it lies in.
    """
    if _are_bare(source):
        return _read_bare(source, root)
    return resolve(source, *_parsed(source, lambda where, line: ManifestRow(where, *_fields(line))), root=root)


def read_captions(source: Path, root: Path | None = None) -> Listing:
    """Lines ``path<TAB>caption``; a picture may have several. Quotes in a caption are part of it."""
    return resolve(source, *_parsed(source, _captioned), root=root)


def list_paths(source: Path) -> list[str]:
    """The paths of a list, with labels or captions behind them or without."""
    bare = _are_bare(source)
    if any(CELLS.search(line.casefold()) for _, line in _lines(source)):
        fix = "begin it with a header such as image,label"
        raise DataError(expected="a path a line", got="cells of a table", fix=fix, where=escape(source))
    return [_path_of(line.strip(), bare) for _, line in _lines(source)]


def _path_of(line: str, bare: bool) -> str:
    try:
        if "\t" in line:
            return _unquoted(line.partition("\t")[0].strip())
        return _unquoted(line) if bare else _fields(line)[0]
    except ValueError:
        return line


def _are_bare(source: Path) -> bool:
    """Whether every line is one path: a single word, or words of which the last ends like a picture."""
    return all(_is_bare(line.strip()) for _, line in _lines(source))


def _is_bare(line: str) -> bool:
    if line.startswith('"'):
        return line.endswith('"') and '"' not in line[1:-1].replace('""', "")
    return "\t" not in line and (" " not in line or line.lower().endswith(tuple(SUFFIXES)))


def _read_bare(source: Path, root: Path | None) -> Listing:
    rows, problems = _parsed(source, lambda where, line: ManifestRow(where, _unquoted(line.strip())))
    ways = [PurePosixPath(row.path.replace("\\", "/")).parts[:-1] for row in rows]
    form = find_form(ways, source, innermost=True)
    labels = [form.label(way) for way in ways]
    if len(set(labels)) < 2 or None in labels:  # one folder of pictures names no classes
        problems += [f"{row.where}: no 'path label' in {escape(row.path[:80])!r}" for row in rows]
    labelled = [
        row._replace(label=label or "-", partition=form.side(way))
        for row, way, label in zip(rows, ways, labels, strict=True)
    ]
    note = f"no line of {escape(source.name)} has a label: the folder of each picture is its class"
    return resolve(source, labelled, problems, warnings=[note, *form.notes, *form.joined()], root=root)


def refuse_parts(source: Path) -> None:
    """Stop at a list of parts, as CelebA's, where it would be read as classes 0, 1 and 2.

    That its numbers are no classes stands in its name alone.
    """
    said = {_last_word(line) for _, line in _lines(source)}
    if re.search("partition|split", source.stem.lower()) and {"0", "1"} <= said <= {"0", "1", "2"}:
        fix = "name the list of classes, or a table of both; if these are the classes, say so by the format list"
        got = "parts: a name that says so, and 0, 1 and 2 behind the pictures"
        raise DataError(expected="classes of pictures", got=got, fix=fix, where=escape(source))


def _last_word(line: str) -> str:
    return line.split()[-1]


def is_captions(source: Path) -> bool:
    """Whether what stands behind the tabs of a list are captions and no labels: half are sentences, half differ."""
    texts = [line.partition("\t")[2].strip() for _, line in _lines(source)]
    sentences = sum(len(text.split()) >= SENTENCE for text in texts)
    return all(texts) and 2 * sentences >= len(texts) and 2 * len(set(texts)) > len(texts)


def _lines(source: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(source).split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line


def _parsed(source: Path, parse: Callable[[str, str], ManifestRow]) -> tuple[list[ManifestRow], list[str]]:
    """The rows, and the lines that are none."""
    rows, problems = [], []
    for number, line in _lines(source):
        where = f"{escape(source.name)}:{number}"
        try:
            if len(line) > LONGEST_LINE:
                raise ValueError(f"{len(line):,} characters")
            rows.append(parse(where, line))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    return rows, problems


def _captioned(where: str, line: str) -> ManifestRow:
    path, tab, caption = line.partition("\t")
    if not tab:
        raise ValueError(f"no tab in {escape(line[:80])!r}")
    return ManifestRow(where, _unquoted(path.strip()), caption=caption.strip())


def _fields(line: str) -> tuple[str, str]:
    by_tab = line.split("\t")
    if len(by_tab) == 2:
        return _unquoted(by_tab[0].strip()), _unquoted(by_tab[1].strip())
    match = re.fullmatch(r"\s*(?P<path>.*\S)\s+(?P<label>\"(?:[^\"]|\"\")*\"|[^\s\"]+)\s*", line)
    if match is not None and re.fullmatch(r"[\d.]+(,[\d.]+){3,}", match["label"]):
        raise ValueError(f"a box and no class in {escape(line[:80])!r}")
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
