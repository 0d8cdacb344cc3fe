"""The names of class folders out of a text beside them, as ``n01440764 tench, Tinca tinca`` of ImageNet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from clip_fewshot.data.names import escape, number
from clip_fewshot.data.text_files import read_text


def read_folder_names(texts: Iterable[Path], folders: Sequence[str]) -> tuple[Mapping[str, str], list[str]]:
    """(folder -> name, note), of the first text that has a line for every folder; nothing where there is none.

    Of several words with commas between them, as in WordNet, the first is the name; where two classes share it, the
    folder stands behind it.
    """
    for path in texts:
        lines = [line.split(None, 1) for line in read_text(path).split("\n")]
        table = {words[0]: words[1].split(",")[0].strip() for words in lines if len(words) == 2}
        nameless = [folder for folder in folders if folder not in table]
        if not nameless:
            often = Counter(table[folder] for folder in folders)
            names = {f: table[f] if often[table[f]] == 1 else f"{table[f]} ({f})" for f in folders}
            return names, [f"the names of the classes are those in {escape(path.name)}"]
        if 2 * len(nameless) < len(folders):
            classes = number(len(nameless), "class", "classes")
            return {}, [f"{escape(path.name)} has no name for {classes}, such as {escape(nameless[0])}: not used"]
    return {}, []
