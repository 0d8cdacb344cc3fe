"""Features of many pictures as a Parquet table: written in parts of bounded size, read as one FeatureSet.

Columns: ``path`` as it was given, ``digest`` of the file, ``embedding`` (float32, not normalised), ``backbone`` (digest
of the weights). Spark writes the same table as a folder of parts. With classes and their texts:
:mod:`clip_fewshot.features.labelled_table`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.collect import keep_readable
from clip_fewshot.data.dataset import SkippedImage
from clip_fewshot.data.names import escape, to_unicode
from clip_fewshot.data.parquet import import_pyarrow
from clip_fewshot.errors import ArtifactError, DataError, UsageError
from clip_fewshot.features.encode import encode_images
from clip_fewshot.features.sums import TableSums, check_sums
from clip_fewshot.runtime.files import remove_half_files, replace_file
from clip_fewshot.runtime.outputs import check_file
from clip_fewshot.runtime.reading import open_regular
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
        got = str(chunk)
        raise UsageError(expected="chunks of 1 picture or more", got=got, fix="change chunk", where="embed_files")
    for start in range(0, len(paths), chunk):
        pictures = keep_readable(paths[start : start + chunk])
        yield Embedded(tuple(map(to_unicode, pictures.names)), encode_images(backbone, pictures), pictures.skipped)


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
    written, sums = 0, TableSums(metadata)
    with replace_file(out) as file, parquet.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        for part in parts:
            skipped += part.skipped
            written += len(part.paths)
            sums.add(table := arrow.table(part.columns(), schema=schema))
            writer.write_table(table)
        writer.add_key_value_metadata(sums.metadata())
        _refuse_nothing(written, skipped, out)
    return tuple(skipped)


def _refuse_nothing(written: int, skipped: Sequence[SkippedImage], out: Path) -> None:
    """Stop where no picture could be read."""
    if not written:
        reasons = "; ".join(f"[{item.reason}] {escape(item.path)}: {item.detail}" for item in skipped[:3])
        got = reasons or "none"
        raise DataError(expected="a picture that can be read", got=got, fix="check the paths", where=str(out))


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
        expected = "features of one backbone"
        raise ArtifactError(expected=expected, got=got, fix="embed all pictures with the same model", where=str(place))
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
    skipped = keep_readable([path for path in paths if to_unicode(path) not in written]).skipped
    _refuse_nothing(len(written), skipped, table)
    return skipped


def read_columns(place: Path, columns: list[str] | None) -> Any:
    """An Arrow table of those columns, or of all.

    Raises:
        ArtifactError: no such table, an unfinished one, or a damaged one.
    """
    arrow, _ = import_pyarrow()
    if os.path.isdir(place) and not os.path.exists(place / FINISHED):
        fix = "embed again"
        raise ArtifactError(expected="a finished table", got=f"a folder without {FINISHED}", fix=fix, where=str(place))
    parts = sorted(place.glob("*.parquet")) if os.path.isdir(place) else [place]
    try:
        return arrow.concat_tables([_read_part(part, columns) for part in parts])
    except (arrow.ArrowException, OSError, KeyError, ValueError, MemoryError) as error:
        text = str(error).split("\n")[0]
        fix = "check the path"
        raise ArtifactError(expected="a Parquet table of features", got=text, fix=fix, where=str(place)) from error


def _read_part(part: Path, columns: list[str] | None) -> Any:
    _, parquet = import_pyarrow()
    with open_regular(part), parquet.ParquetFile(part, page_checksum_verification=True) as opened:
        names = opened.schema_arrow.names
        lacking = [name for name in columns or [] if name not in names]
        if lacking:
            raise KeyError(f"no column {', '.join(lacking)}")
        table = opened.read(columns)
        table.validate(full=True)
        check_sums(table, names, opened.metadata.metadata, part)
        return table
