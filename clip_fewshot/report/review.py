"""The review page: a person looks at the groups of a store, names, merges, splits, moves and rejects, and saves.

One HTML file without server or network. It runs one script, its own, by hash; data come as JSON that is no script, and
text is only ever set as text. It saves ``review.json``, for :meth:`clip_fewshot.open_world.store.store.Store.apply`.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from PIL import Image

from clip_fewshot import plots
from clip_fewshot.discovery import Discovery
from clip_fewshot.open_world.groups import Group
from clip_fewshot.open_world.name_suggestions import KnownClasses, Suggestions, suggest_names
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.open_world.unknown import UnknownPictures
from clip_fewshot.plots import text
from clip_fewshot.plots.dendrogram import order_leaves
from clip_fewshot.plots.style import SERIES
from clip_fewshot.report.pictures import hash_source, svg_uri
from clip_fewshot.runtime.files import hash_bytes
from clip_fewshot.runtime.outputs import shorten_home
from clip_fewshot.types import FloatArray, LabelArray

SHOWN = 1000  # thumbnails of a group, and of the pictures in none: some 5 MB of photos
DRAWN = 60  # pictures of a group on the screen before "Show all" is pressed
SCRIPTS = ("review_state.js", "review_draw.js", "review_actions.js")
SHORTCUTS = (
    (("j", "k"), "next, previous group"),
    (("n", "Enter", "Esc"), "name the group; on to the next name; back to the group"),
    (("1", "2", "…"), "take the first, second, … suggested name; the last is the nearest known class"),
    (("arrows", "Space"), "go among the pictures of a grid (Tab goes into it); select or unselect one"),
    (("Shift",), "with arrows or a click: select all between"),
    (("m",), "move what is selected; with nothing selected, merge the group with another"),
    (("g",), "what is selected becomes a group of its own"),
    (("s",), "split the group where its tree parts"),
    (("x",), "reject what is selected; with nothing selected, the group"),
    (("v",), "look at the picture closer; arrows go on to the next"),
    (("o",), "open the original of the picture"),
    (("Esc",), "select nothing"),
    (("u", "r"), "undo, redo; also Ctrl+Z, Ctrl+Shift+Z"),
    (("Ctrl+S",), "save review.json"),
)


@dataclass(frozen=True, eq=False)
class ReviewView:
    """What the page shows of one state of a store.

    Attributes:
        title: what the store is called. store, revision: what a review of it must carry.
        classes: names of the known classes.
        groups: largest first; those of :meth:`Store.discover`. suggestions: one per group, or None.
        found: the tree and groups of n pictures: all that are unknown, and those that joined a group.
        unknown: the n pictures, in the order of ``found``.
        thumbnails: JPEGs by digest, of the pictures to be shown; the others stand there by their names.
        originals: where files lie by digest, as relative addresses from the page; what has none has no link.
    """

    title: str
    store: str
    revision: int
    classes: tuple[str, ...]
    groups: tuple[Group, ...]
    suggestions: tuple[Suggestions | None, ...]
    found: Discovery
    unknown: UnknownPictures
    thumbnails: Mapping[str, bytes]
    originals: Mapping[str, str] = field(default_factory=dict)


def review_view(
    store: Store,
    title: str,
    top: int = 5,
    words: Sequence[str] | None = None,
    shown: int = SHOWN,
    templates: Sequence[str] = (),
    beside: Path | None = None,
) -> ReviewView:
    """Discover, suggest names and fetch thumbnails.

    Args:
        title: what the page calls the store.
        top: names to suggest per group; 0 for none.
        words: to choose names from, see :func:`suggest_names`.
        templates: texts with one "{}" that are made of the words; empty: the usual one.
        shown: thumbnails of each group, the most typical first, and of the pictures in none.
        beside: the folder where the page will lie, for links to the files; None for no links.

    Raises:
        UsageError: nothing is unknown.
    """
    revision, groups = store.revision, store.discover()
    found, unknown = store.discovery_, store.grouped_
    if store.revision != revision:  # decided by another process meanwhile
        return review_view(store, title, top, words, shown, templates, beside)
    loose = [unknown.pictures.digests[i] for i in np.flatnonzero(found.labels < 0)[:shown]]
    typical = [group.pictures.digests[i] for group in groups for i in group.exemplars[:shown]]
    return ReviewView(
        title=title,
        store=store.id,
        revision=revision,
        classes=store.world.model.label_space_.names,
        groups=groups,
        suggestions=suggest_group_names(store, groups, top, words, templates),
        found=found,
        unknown=unknown,
        thumbnails=store.thumbnails([*typical, *loose]),
        originals={} if beside is None else _link_originals(unknown, beside),
    )


def _link_originals(unknown: UnknownPictures, folder: Path) -> dict[str, str]:
    """Digest -> address of the file from ``folder``, relative: an absolute one would name the user to every reader."""
    links = {}
    for digest, place in zip(unknown.pictures.digests, unknown.pictures.images, strict=True):
        if isinstance(place, Path) and place.is_absolute() and place.drive == folder.absolute().drive:
            way = os.path.relpath(place, folder.absolute())
            if way == shorten_home(way):
                links[digest] = "./" + quote(Path(way).as_posix())  # so that no name is taken for a scheme
    return links


def suggest_group_names(
    store: Store,
    groups: Sequence[Group],
    top: int = 5,
    words: Sequence[str] | None = None,
    templates: Sequence[str] = (),
) -> tuple[Suggestions | None, ...]:
    """Names for each group; None where ``top`` is 0."""
    if not top:
        return (None,) * len(groups)
    world = store.world
    known, backbone = KnownClasses(*world.reference_, world.model.label_space_.names), world.model.backbone
    return tuple(suggest_names(backbone, one.features, known, words, top, templates=templates) for one in groups)


def render_review(view: ReviewView) -> str:
    """The page as HTML text, the same bytes for the same input."""
    style, script = _read("review.css"), '"use strict";\n' + "\n".join(map(_read, SCRIPTS))
    in_none = int((view.found.labels < 0).sum())
    record = _record(view)
    return _template().render(
        view=view,
        summary=_summary(view, in_none),
        notes=sorted({said.note for said in view.suggestions if said is not None and said.note}),
        tree=_tree(view),
        shortcuts=SHORTCUTS,
        data=_as_data(record | {"token": hash_bytes(json.dumps(record).encode())[:16]}),
        style=style,
        style_hash=hash_source(style),
        script=script,
        script_hash=hash_source(script),
    )


def _record(view: ReviewView) -> dict[str, Any]:
    """What the script works on; pictures are places in one list."""
    shown, _, p, answered = view.unknown
    place = {digest: i for i, digest in enumerate(shown.digests)}
    in_tree, heights = _order(view.found.linkage, len(shown))
    classes: dict[str | None, int | None] = {**dict(zip(view.classes, count(), strict=False)), None: None}
    pictures = [
        {
            "digest": digest,
            "name": text.clean(shown.names[i]),
            "p": float(p[i]),
            "answered": classes[answered[i]],
            "place": int(in_tree[i]),
            "thumbnail": b64encode(view.thumbnails.get(digest, b"")).decode("ascii"),
            "original": view.originals.get(digest),
        }
        for i, digest in enumerate(shown.digests)
    ]
    return {
        "store": view.store,
        "revision": view.revision,
        "classes": [{"name": name, "shown": text.shorten(name, 40)} for name in view.classes],
        "pictures": pictures,
        "heights": [float(f"{height:.6g}") for height in heights],
        "groups": [_group(view, group, place) for group in view.groups],
        "loose": np.flatnonzero(view.found.labels < 0).tolist(),
        "drawn": DRAWN,
    }


def _group(view: ReviewView, group: Group, place: Mapping[str, int]) -> dict[str, Any]:
    said = view.suggestions[group.number]
    nearest = group.nearest and {"place": view.classes.index(group.nearest[0]), "cosine": group.nearest[1]}
    return {
        "number": group.number,
        "pictures": [place[group.pictures.digests[i]] for i in group.exemplars],
        "colour": SERIES[group.number % (len(SERIES) - 1)],  # that of the tree
        "nearest": nearest,
        "words": [] if said is None else [list(word) for word in said.names],
        "none_fits": said is not None and said.none_fits,
    }


def _order(linkage: FloatArray, n: int) -> tuple[LabelArray, FloatArray]:
    """(n,) place of each picture among the leaves, left to right; (n - 1,) height at which neighbours merge."""
    place, heights = np.zeros(n, dtype=np.int64), np.zeros(max(n - 1, 0))
    if len(linkage):
        place[order_leaves(linkage)] = np.arange(n)
    last = [*place.tolist(), *[0] * len(linkage)]  # the rightmost leaf under each node
    for i, (left, right, height, _) in enumerate(linkage):
        heights[last[int(left)]] = height
        last[n + i] = last[int(right)]
    return place, heights


def _summary(view: ReviewView, in_none: int) -> str:
    low, high = view.found.interval
    parts = [
        f"{text.format_count(len(view.unknown.answered), 'picture')} in {text.format_count(len(view.groups), 'group')}"
    ]
    parts.append(f"the number of new classes is between {low} and {high} (90 %)" if low < high else "")
    parts.append(f"{in_none:,} in no group" if in_none else "")
    joined = int((~view.unknown.unknown).sum())
    parts.append(
        f"{joined:,} with a name on blue: that class was answered, but they are more like a group" if joined else ""
    )
    return ", ".join(part for part in parts if part) + f". Revision {view.revision}."


def _tree(view: ReviewView) -> plots.Plot | None:
    if len(view.unknown.answered) < 2:
        return None
    exemplars = {group.number: group.pictures.digests[group.exemplars[0]] for group in view.groups}
    pictures = {
        number: Image.open(BytesIO(view.thumbnails[digest]))
        for number, digest in exemplars.items()
        if digest in view.thumbnails
    }
    return plots.dendrogram_plot(view.found.linkage, view.found.labels, pictures)


def _as_data(record: Mapping[str, Any]) -> str:
    """JSON that no HTML parser takes for anything else: it holds no angle bracket, ampersand or line separator."""
    data = json.dumps(record, ensure_ascii=True, allow_nan=False)
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(name: str) -> str:
    return files("clip_fewshot.report").joinpath(name).read_text("utf-8")


def _finalize(value: Any) -> Any:
    return text.clean(value) if type(value) is str else value


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": text.format_count, "svg": lambda plot: svg_uri(plot.svg)}
    return environment.from_string(_read("review.html.j2"))
