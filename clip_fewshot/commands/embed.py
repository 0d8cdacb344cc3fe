"""Features of many pictures as Parquet: `clip-fewshot embed photos/ --model ViT-B/32 --out photos.parquet`."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import PicturesOptions, refuse_idle, required_data, spark_option
from clip_fewshot.config import OutputOptions, TextOptions, option
from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.units import format_seconds

DESCRIPTION = "Embed the pictures of a folder or a table into Parquet, which read_features loads."
EXAMPLES = ("photos/ --model ViT-B/32 --out photos.parquet", "photos/ --labels --out labelled.parquet")
FEATURES_OUT, OF_LABELS = "features.parquet", ("class_names", "classes_at", "max_skipped", "template", "templates")


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions, TextOptions, OutputOptions):
    data: str = required_data("folder of pictures, or a table or list of their paths")
    labels: bool = option(False, "record classes and their texts too, for compare --features", group="data")
    out: str | None = option(None, f"table, or Spark's folder of parts (default: {FEATURES_OUT})", group="output")
    spark: bool = spark_option()

    def __post_init__(self) -> None:
        if not self.data:
            raise UsageError(expected="pictures", got="an empty name", fix="name a folder or a table", where="DATA")
        refuse_idle(self, () if self.labels else OF_LABELS, "with --labels")
        refuse_idle(self, ("labels",) if self.spark else (), "without --spark")


def main(options: Options) -> int:
    started, out = time.perf_counter(), opening.choose_table(options, FEATURES_OUT)
    done, left_out = (embed_labels if options.labels else embed_paths)(options, out)
    reasons, seconds = Counter(sorted(item.reason for item in left_out)), round(time.perf_counter() - started, 1)
    opening.warn(f"{number(n, 'unreadable picture')}: {reason}" for reason, n in reasons.items())
    found = {"schema": 1, "out": str(out), "model": options.model_name, "pictures": done, "unreadable": reasons}
    text = f"{number(done, 'picture')} embedded by {options.model_name} in {format_seconds(seconds)}: {out}"
    print(json.dumps(found | {"seconds": seconds}, indent=1) if options.json else text)
    return 0


def embed_paths(options: Options, out: Path) -> tuple[int, tuple[Any, ...]]:
    """Write the pictures that the source names; how many, and those that could not be read."""
    from clip_fewshot.data.picture_paths import list_pictures
    from clip_fewshot.features.table import embed_files, find_skipped, write_features

    reading = {name: value for name, value in options.reading().items() if name in ("root", "columns", "format")}
    sides = [list_pictures(side, **reading) for side in (options.data, options.test) if side is not None]
    opening.warn(note for _, notes in sides for note in notes)
    paths = tuple(dict.fromkeys(path for found, _ in sides for path in found))
    if options.spark:
        from clip_fewshot.contrastive.distributed.spark import embed_on_spark

        embed_on_spark(paths, options.model_name, out, options.device)
        left_out = find_skipped(paths, out)
    else:
        backbone = opening.open_model(options.model_name, None, options.device)
        left_out = write_features(out, embed_files(backbone, paths), overwrite=options.overwrite)
    return len(paths) - len(left_out), left_out


def embed_labels(options: Options, out: Path) -> tuple[int, tuple[Any, ...]]:
    """The same of a source with classes, which the table then has."""
    from clip_fewshot.data.read import read_dataset
    from clip_fewshot.features.labelled_table import write_labelled
    from clip_fewshot.few_shot.objectives import read_class_texts

    pictures, templates = read_dataset(options.data, **options.reading()), opening.open_templates(options, ())
    pictures.required_labels()
    opening.warn(pictures.warnings)
    backbone = opening.open_model(options.model_name, None, options.device)
    texts = read_class_texts(backbone, pictures.label_space.names, templates)
    return len(pictures), write_labelled(out, backbone, pictures, texts, options.model_name, options.overwrite)
