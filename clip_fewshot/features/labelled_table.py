"""A feature table with classes: all that a comparison of methods needs, without the pictures.

Besides the columns of :mod:`clip_fewshot.features.table` it has ``label``, the name of the class, and ``part``, "train"
or "test" where the source says so. What concerns all rows stands in the metadata of the schema, as JSON under the key
``clip_fewshot``: the name of the model, the classes in their order, and their texts (float32, base64). A column
``label`` that you add to a table yourself is enough; it then has no texts.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset, SkippedImage
from clip_fewshot.data.names import to_unicode
from clip_fewshot.errors import ArtifactError
from clip_fewshot.features.encode import encode_images
from clip_fewshot.features.sums import TABLE_KEY
from clip_fewshot.features.table import (
    DIGEST_COLUMN,
    LABEL_COLUMN,
    PART_COLUMN,
    PATH_COLUMN,
    TABLE_CHUNK,
    Embedded,
    read_columns,
    read_features,
    write_features,
)
from clip_fewshot.runtime.reading import decode_json
from clip_fewshot.types import FloatArray, LabelSpace


class LabelledTable(NamedTuple):
    """What a table holds.

    Attributes:
        pictures: names, labels and digests; the files themselves are not looked for.
        features: (n, d) float32, not normalised.
        texts: (c, d) unit text features of the classes in the order of the label space, or None.
        model: name of the backbone, or its digest where the name is not recorded.
    """

    pictures: ImageDataset
    features: FloatArray
    texts: FloatArray | None
    model: str


def write_labelled(
    out: Path, backbone: Backbone, pictures: ImageDataset, texts: FloatArray, model: str, overwrite: bool = False
) -> tuple[SkippedImage, ...]:
    """Embed labelled pictures into a table, which appears at ``out`` once it is whole.

    Args:
        texts: (c, d) of the classes, in the order of the label space.
        model: the name that the backbone was opened by.
        overwrite: replace a file that is no such table.

    Returns:
        the pictures that are not in it.

    Raises:
        DataError, ResourceError: as of :func:`~clip_fewshot.features.table.write_features`.
    """
    rows = b64encode(np.ascontiguousarray(texts, "<f4").tobytes()).decode()
    about = {"model": model, "classes": pictures.label_space.names, "texts": rows}
    return write_features(out, _embed(backbone, pictures), {TABLE_KEY: json.dumps(about).encode()}, overwrite)


def _embed(backbone: Backbone, pictures: ImageDataset) -> Iterator[Embedded]:
    """Chunk by chunk; the unreadable pictures are told with the first."""
    labels = pictures.label_space.decode(pictures.required_labels())
    for start in range(0, len(pictures), TABLE_CHUNK):
        part = pictures.subset(np.arange(start, min(start + TABLE_CHUNK, len(pictures))))
        marks = tuple(zip(labels[start : start + TABLE_CHUNK], part.partition, strict=True))
        yield Embedded(
            tuple(map(to_unicode, part.names)), encode_images(backbone, part), () if start else pictures.skipped, marks
        )


def read_labelled(path: str | Path) -> LabelledTable:
    """The table that ``clip-fewshot embed --labels`` has written, or one with a column ``label`` of your own.

    Raises:
        ArtifactError: no such table, no labels in it, or texts that do not fit to the features.
        ResourceError: pyarrow is missing.
    """
    place, found = Path(path), read_features(path)
    table = read_columns(place, None)
    needed = [table.column(name).null_count for name in (LABEL_COLUMN, DIGEST_COLUMN) if name in table.column_names]
    if needed != [0, 0] or not np.isfinite(found.features).all():
        fix = "embed a labelled source with --labels, or add the column"
        expected = f"a class in the column {LABEL_COLUMN!r} of each row, and finite features"
        raise ArtifactError(expected=expected, got="a row without", fix=fix, where=str(place))
    labels = list(map(str, table.column(LABEL_COLUMN).to_pylist()))
    about = _read_metadata(table.schema.metadata or {}, place)
    classes = LabelSpace(tuple(about.get("classes", ())) or tuple(sorted(set(labels))))
    names = list(
        map(str, table.column(PATH_COLUMN if PATH_COLUMN in table.column_names else DIGEST_COLUMN).to_pylist())
    )
    parts = table.column(PART_COLUMN).to_pylist() if PART_COLUMN in table.column_names else [""] * len(labels)
    pictures = ImageDataset(
        name=place.stem,
        images=tuple(map(Path, names)),
        names=tuple(names),
        labels=classes.encode(labels),
        label_space=classes,
        captions=None,
        partition=tuple(part or "" for part in parts),
        digests=found.digests,
    )
    texts = _read_texts(about, len(classes), found.features.shape[1], place)
    return LabelledTable(pictures, found.features, texts, str(about.get("model", found.backbone)))


def _read_metadata(metadata: dict[bytes, bytes], place: Path) -> dict[str, Any]:
    try:
        about = decode_json(metadata.get(TABLE_KEY, b"{}"))
        if isinstance(about, dict):
            return about
        got = f"a {type(about).__name__}"
    except ValueError as error:
        got = str(error)
    raise ArtifactError(expected="an object in the metadata", got=got, fix="embed again", where=str(place))


def _read_texts(about: dict[str, Any], n_classes: int, width: int, place: Path) -> FloatArray | None:
    if "texts" not in about:
        return None
    try:
        texts = np.frombuffer(b64decode(about["texts"], validate=True), "<f4").astype(np.float32)
        return texts.reshape(n_classes, width)
    except (TypeError, ValueError) as error:
        expected = f"texts of {n_classes} classes, {width} numbers each"
        raise ArtifactError(expected=expected, got=str(error), fix="embed again", where=str(place)) from error
