"""What a picture shows of itself besides its pixels: size, format, camera, date, place in the tree."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePath
from typing import Any

from PIL import Image

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.listing import PARTITIONS
from clip_fewshot.data.names import fold_name, to_unicode
from clip_fewshot.data.picture_files import read_regular

MAKE, MODEL, SOFTWARE, CHANGED, EXIF, TAKEN = 271, 272, 305, 306, 0x8769, 36867  # tags of EXIF 2.3
TRACES = ("bytes", "width", "height", "format", "mode", "jpeg table", "camera", "software", "day", "folder", "name")


def read_traces(images: ImageDataset) -> dict[str, list[Any]]:
    """A list per trace, a value per picture: a number, a word, or None where the picture has none.

    ``jpeg table`` is the sum of the quantisation tables (low quality has large ones), ``day`` a number of days,
    ``folder`` the path without file, class and side, ``name`` the file's stem with its digits left out.
    """
    rows = [_read(image) | _place(images, i) for i, image in enumerate(images.images)]
    return {trace: [row.get(trace) for row in rows] for trace in TRACES}


def _read(image: Any) -> dict[str, Any]:
    if isinstance(image, Image.Image):
        return {"width": image.width, "height": image.height, "mode": image.mode}
    data = read_regular(image)
    found: dict[str, Any] = {"bytes": len(data)}
    try:
        with Image.open(io.BytesIO(data)) as header:  # no pixel is decoded
            tables = getattr(header, "quantization", None) or {}
            found |= {"width": header.width, "height": header.height, "format": header.format, "mode": header.mode}
            found["jpeg table"] = sum(map(sum, tables.values())) or None
            return found | _read_exif(header)
    except Exception:  # hostile bytes, errors of every type; a picture without readable EXIF has fewer traces
        return found


def _read_exif(header: Image.Image) -> dict[str, Any]:
    tags = header.getexif()
    camera = " ".join(str(tags[tag]).strip("\0 ") for tag in (MAKE, MODEL) if tag in tags)
    taken = tags.get_ifd(EXIF).get(TAKEN) or tags.get(CHANGED)
    return {"camera": camera or None, "software": tags.get(SOFTWARE), "day": _count_days(taken)}


def _count_days(taken: Any) -> int | None:
    try:
        return datetime.strptime(str(taken).strip("\0 ")[:10], "%Y:%m:%d").toordinal()
    except ValueError:
        return None


def _place(images: ImageDataset, i: int) -> dict[str, Any]:
    path, classes = PurePath(to_unicode(images.names[i])), _class_folders(images, i)
    parts: Sequence[str] = path.parts[:-1]
    own = [part for part in parts if fold_name(part) not in classes and part.lower() not in PARTITIONS]
    return {"folder": "/".join(own) or None, "name": re.sub(r"\d+", "", path.stem)}


def _class_folders(images: ImageDataset, i: int) -> set[str]:
    """What folders are called that are the class: as the source names it, and in one another as ``bird/owl``."""
    if images.labels is None:
        return set()
    name = (images.label_space.former or images.label_space.names)[int(images.labels[i])]
    return {fold_name(part) for part in (name, *name.split("/"))}
