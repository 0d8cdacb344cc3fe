"""A format: a file with one JSON object a line, {"file": "a.png", "label": "bee"}, beside its pictures."""

import json

from clip_fewshot.data.formats import Format
from clip_fewshot.data.listing import Entry, Listing


def read_json_lines(source):
    entries = []
    for number, line in enumerate(source.read_text("utf-8").splitlines(), start=1):
        record = json.loads(line)
        path, where = source.parent / record["file"], f"{source.name}:{number}"
        entries.append(Entry(path, record["file"], record["label"], where=where))
    return Listing(source, tuple(entries))


JSON_LINES = Format(read_json_lines, files=True)
