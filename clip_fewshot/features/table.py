"""Features of many pictures as a Parquet table: written in parts of bounded size, read as one FeatureSet.

Columns: ``path`` as it was given, ``digest`` of the file, ``embedding`` (float32, not normalised), ``backbone`` (digest
of the weights). Spark writes the same table as a folder of parts. With classes and their texts:
:mod:`clip_fewshot.features.labelled_table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.collect import keep_readable
from clip_fewshot.data.dataset import SkippedImage
from clip_fewshot.data.names import escape
from clip_fewshot.data.parquet import import_pyarrow
from clip_fewshot.errors import ArtifactError, DataError, UsageError
from clip_fewshot.features.encode import encode_images
from clip_fewshot.runtime.files import remove_half_files, replace_file
from clip_fewshot.runtime.outputs import check_file
from clip_fewshot.types import FeatureSet

PATH_COLUMN, DIGEST_COLUMN, EMBEDDING_COLUMN, BACKBONE_COLUMN = TABLE_COLUMNS = (
    "path",
    "digest",
    "embedding",
    "backbone",
)
MARK_COLUMNS = LABEL_COLUMN, PART_COLUMN = "label", "part"
TABLE_CHUNK = 4096  # pictures at a time: 12 MB of features, and the cache's index is read once for each
FINISHED = "_SUCCESS"  # Spark's mark in a folder whose parts are all there


class Embedded(NamedTuple):
    """Some of the pictures: where the readable ones lie, their features, and the others.

    Attributes:
        marks: class and part of each readable one; empty where the table has none.
    """

    paths: tuple[str, ...]
    features: FeatureSet
    skipped: tuple[SkippedImage, ...]
    marks: tuple[tuple[str, str], ...] = ()

    def columns(self) -> dict[str, list[Any]]:
        """The rows of the table."""
        marks = {name: [mark[i] for mark in self.marks] for i, name in enumerate(MARK_COLUMNS)} if self.marks else {}
        return {
            PATH_COLUMN: list(self.paths),
            DIGEST_COLUMN: list(self.features.digests),
            EMBEDDING_COLUMN: list(self.features.features),
            BACKBONE_COLUMN: [self.features.backbone] * len(self.paths),
            **marks,
        }


def embed_files(backbone: Backbone, paths: Sequence[Path], chunk: int = TABLE_CHUNK) -> Iterator[Embedded]:
    """Features of picture files, ``chunk`` of them in memory at a time.

    They are kept in the cache as well: after a kill the same call computes what is missing.
    """
    if chunk < 1:
        raise UsageError(
            expected="chunks of 1 picture or more", got=str(chunk), fix="change chunk", where="embed_files"
        )
    for start in range(0, len(paths), chunk):
        pictures = keep_readable(paths[start : start + chunk])
        yield Embedded(tuple(map(_named, pictures.names)), encode_images(backbone, pictures), pictures.skipped)


def _named(path: str | Path) -> str:
    """A path as text; bytes that are no UTF-8 as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def is_feature_table(path: Path) -> bool:
    """Whether a file is a table that :func:`write_features` has written."""
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            return False
    arrow, parquet = import_pyarrow()
    try:
        return tuple(parquet.read_schema(path).names[: len(TABLE_COLUMNS)]) == TABLE_COLUMNS
    except (arrow.ArrowException, OSError, ValueError):
        return False


def write_features(
    out: Path, parts: Iterable[Embedded], metadata: Mapping[bytes, bytes] | None = None, overwrite: bool = False
) -> tuple[SkippedImage, ...]:
    """Write a table, part by part; it appears at ``out`` once it is whole.

    Args:
        metadata: of the schema, for parts with marks, see :mod:`clip_fewshot.features.labelled_table`.
        overwrite: replace a file that is no such table.

    Returns:
        the pictures that are not in it.

    Raises:
        DataError: no picture could be read.
        ResourceError: pyarrow is missing, or ``out`` cannot be written, or is another file.
    """
    arrow, parquet = import_pyarrow()
    check_file(out, overwrite, is_own=is_feature_table)
    remove_half_files(out.parent, out.name)
    types = dict.fromkeys((*TABLE_COLUMNS, *(MARK_COLUMNS if metadata else ())), arrow.string())
    types[EMBEDDING_COLUMN] = arrow.list_(arrow.float32())
    schema = arrow.schema(list(types.items()), metadata=metadata)
    skipped: list[SkippedImage] = []
    written = 0
    with replace_file(out) as file, parquet.ParquetWriter(file, schema) as writer:
        for part in parts:
            skipped += part.skipped
            written += len(part.paths)
            writer.write_table(arrow.table(part.columns(), schema=schema))
        _refuse_nothing(written, skipped, out)
    return tuple(skipped)


def _refuse_nothing(written: int, skipped: Sequence[SkippedImage], out: Path) -> None:
    """Stop where no picture could be read."""
    if not written:
        reasons = "; ".join(f"[{item.reason}] {escape(item.path)}: {item.detail}" for item in skipped[:3])
        raise DataError(
            expected="a picture that can be read", got=reasons or "none", fix="check the paths", where=str(out)
        )


def read_features(path: str | Path) -> FeatureSet:
    """The features that ``clip-fewshot embed`` has written: a Parquet file, or a folder of parts by Spark.

    Raises:
        ArtifactError: no such table, an unfinished one, or features of several backbones.
        ResourceError: pyarrow is missing.
    """
    place = Path(path)
    table = read_columns(place, [DIGEST_COLUMN, EMBEDDING_COLUMN, BACKBONE_COLUMN])
    backbones = table.column(BACKBONE_COLUMN).unique().to_pylist()
    embeddings = table.column(EMBEDDING_COLUMN).combine_chunks()
    widths = np.unique(np.diff(embeddings.offsets.to_numpy()))
    if len(backbones) != 1 or len(widths) != 1:
        got = f"{len(backbones)} backbones, widths {widths[:3].tolist()}"
        raise ArtifactError(
            expected="features of one backbone", got=got, fix="embed all pictures with the same model", where=str(place)
        )
    features = embeddings.flatten().to_numpy(zero_copy_only=False)
    return FeatureSet(
        features=features.astype(np.float32, copy=False).reshape(len(table), int(widths[0])),
        digests=tuple(table.column(DIGEST_COLUMN).to_pylist()),
        backbone=backbones[0],
    )


def find_skipped(paths: Sequence[Path], table: Path) -> tuple[SkippedImage, ...]:
    """Those of ``paths`` that a table made from them lacks, and why.

    Raises:
        DataError: it lacks all.
    """
    written = set(read_columns(table, [PATH_COLUMN]).column(PATH_COLUMN).to_pylist())
    skipped = keep_readable([path for path in paths if _named(path) not in written]).skipped
    _refuse_nothing(len(written), skipped, table)
    return skipped


def read_columns(place: Path, columns: list[str] | None) -> Any:
    """An Arrow table of those columns, or of all.

    Raises:
        ArtifactError: no such table, or an unfinished one.
    """
    arrow, parquet = import_pyarrow()
    if place.is_dir() and not (place / FINISHED).exists():
        raise ArtifactError(
            expected="a finished table", got=f"a folder without {FINISHED}", fix="embed again", where=str(place)
        )
    parts = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    try:
        return arrow.concat_tables([parquet.read_table(part, columns=columns) for part in parts])
    except (arrow.ArrowException, OSError, KeyError, ValueError) as error:
        text = str(error).split("\n")[0]
        raise ArtifactError(
            expected="a Parquet table of features", got=text, fix="check the path", where=str(place)
        ) from error
