"""The groups of a store as files that other tools open, change and give back to :meth:`Store.apply`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError
from clip_fewshot.open_world.store import rows
from clip_fewshot.open_world.store.labels import GROUP_PREFIX, NO_GROUP
from clip_fewshot.open_world.store.material import build_dataset, is_there
from clip_fewshot.open_world.store.rows import StoredPicture
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.protocol.sort_pictures import PictureSorter
from clip_fewshot.report.label_files import LabelledFile, format_label_csv, make_coco, make_tasks
from clip_fewshot.runtime.files import write_json, write_text
from clip_fewshot.runtime.outputs import check_file, check_new_folder
from clip_fewshot.runtime.reading import as_path

COCO, CSV, FOLDERS, LABEL_STUDIO = "coco", "csv", "folders", "label-studio"
FORM_OF_SUFFIX = {".json": COCO, ".csv": CSV, "": FOLDERS}


class Exported(NamedTuple):
    """What was written: how many pictures under how many labels, the folder that their paths start from.

    ``lost``: names of pictures that are left out, because their files are not where they were.
    """

    pictures: int
    labels: int
    root: Path
    lost: tuple[str, ...]


class Labelled(NamedTuple):
    """One picture, and its label: its class, "group-0" and so on for the groups, or "ungrouped"."""

    picture: StoredPicture
    label: str


def label_pictures(store: Store, everything: bool = False) -> list[Labelled]:
    """The pictures of the groups of :meth:`Store.discover`, and the unknown ones in none, in the order of their coming.

    Args:
        everything: those of known and named classes too, under their class.
    """
    database = store.database
    groups = () if everything and not rows.find_unknown(database) else store.discover()
    grouped = {digest: f"{GROUP_PREFIX}{group.number}" for group in groups for digest in group.pictures.digests}
    return [
        Labelled(one, grouped.get(one.digest) or one.verdict.label or NO_GROUP)
        for one in rows.find_shown(database)
        if everything or one.digest in grouped or one.verdict.state == "unknown"
    ]


def export_groups(
    store: Store, out: str | Path, to: str | None = None, everything: bool = False, overwrite: bool = False
) -> Exported:
    """Write the unknown pictures of a store with a label each: "group-0" and so on, or "ungrouped".

    Change the labels in another tool, then give its file or folder to :meth:`Store.apply`: a new label makes a class,
    one of the store's classes takes the picture, "rejected" rejects it, and what was left as it is stays undecided.
    Pictures are known again by the SHA-256 of their files, so that a tool may copy and rename them.

    Args:
        out: a new file, or for folders a new folder.
        to: "coco" (JSON with a box around each picture), "csv", "folders" (a copy of each picture in a folder per
            label) or "label-studio" (JSON with predictions). None: by the suffix: .json is COCO, none are folders.
        everything: the pictures of known and named classes too, under their class.
        overwrite: replace a file that is there.

    Raises:
        UsageError: no such form, no picture that is unknown, or none whose file is there.
        ResourceError: ``out`` is there already.

    Example:
        >>> import clip_fewshot as cf
        >>> from pathlib import Path
        >>> from clip_fewshot.protocol.export_groups import export_groups
        >>> digits, folder = cf.read_dataset("digits"), Path("new_pictures")
        >>> folder.mkdir()
        >>> split = cf.split_open_world(digits, shots=8, unseen=3)
        >>> novel = split.novel.open("example").subset(range(40))
        >>> for i in range(40):
        ...     novel.open(i).save(folder / f"{i}.png")
        >>> model = cf.FewShotClassifier(cf.load_backbone("mini"), approach="linear-probe")
        >>> world = cf.OpenWorldClassifier(model, detector="knn").fit(split.support)
        >>> with cf.Store.create("shop/", world) as store:
        ...     ingested = store.ingest(cf.read_images(["new_pictures"]))
        ...     exported = export_groups(store, "groups.csv")
        >>> Path("groups.csv").read_text().splitlines()[0]
        'image,label,p_value,digest'
    """
    path = as_path(out, "out")
    form = to or FORM_OF_SUFFIX.get(path.suffix.lower(), "")
    if form not in FORM_OF_SUFFIX.values() and form != LABEL_STUDIO:
        forms = ", ".join([*FORM_OF_SUFFIX.values(), LABEL_STUDIO])
        expected = f"a name that ends in .json, .csv or nothing, or a form: {forms}"
        raise UsageError(expected=expected, got=repr(to or path.name), fix="choose one", where="`to`")
    if form == FOLDERS:
        check_new_folder(path)
    else:
        check_file(path, overwrite, is_own=lambda there: False)
    labelled = label_pictures(store, everything)
    found, lost = list[Labelled](), list[str]()
    for one in labelled:
        if is_there(one.picture):
            found.append(one)
        else:
            lost.append(one.picture.name)
    if not found:
        got, fix = (
            f"none of {number(len(labelled), 'picture')} with its file",
            "relink() the folder that holds them now",
        )
        raise UsageError(expected="pictures in files", got=got, fix=fix, where="store")
    root = _write(path, form, found, f"clip-fewshot, revision {store.revision}")
    return Exported(len(found), len({one.label for one in found}), root, tuple(lost))


def _write(path: Path, form: str, labelled: Sequence[Labelled], version: str) -> Path:
    """The folder that the paths in the file start from."""
    files = [Path(str(one.picture.place)) for one in labelled]
    root = Path(os.path.commonpath([file.parent for file in files]))
    if form == FOLDERS:
        PictureSorter(path, files).add([one.label for one in labelled])
        return path
    pictures = [
        LabelledFile(file.relative_to(root).as_posix(), one.label, one.picture.verdict.p_value, one.picture.digest)
        for file, one in zip(files, labelled, strict=True)
    ]
    if form == CSV:
        write_text(path, format_label_csv(pictures))
    elif form == LABEL_STUDIO:
        write_json(path, make_tasks(pictures, version))
    else:
        opened = build_dataset([one.picture for one in labelled])
        write_json(path, make_coco(pictures, [opened.open(i).size for i in range(len(opened))]))
    return root
