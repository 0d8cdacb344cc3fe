"""Features of many pictures as Parquet: `clip-fewshot embed photos/ --model ViT-B/32 --out photos.parquet`."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import PicturesOptions, refuse_idle, required_data, spark_option
from clip_fewshot.config import option
from clip_fewshot.errors import UsageError

DESCRIPTION = "Embed the pictures of a folder or a table into Parquet, which read_features loads."
EXAMPLES = ("photos/ --model ViT-B/32 --out photos.parquet", "paths.csv --out features/ --spark")
FEATURES_OUT = "features.parquet"


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions):
    data: str = required_data("folder of pictures, or a table or list of their paths")
    out: str | None = option(
        None, f"table to write; by Spark a folder of its parts (default: {FEATURES_OUT})", group="output"
    )
    spark: bool = spark_option()

    def __post_init__(self) -> None:
        if not self.data:
            raise UsageError(expected="pictures", got="an empty name", fix="name a folder or a table", where="DATA")
        refuse_idle(self, ("class_names",), "where classes are read")


def main(options: Options) -> int:
    from clip_fewshot.data.picture_paths import picture_paths
    from clip_fewshot.features.table import embed_files, find_skipped, write_features

    started, out = time.perf_counter(), Path(options.out or FEATURES_OUT)
    reading = {name: value for name, value in options.reading().items() if name not in ("test", "class_names")}
    sides = [options.data, *filter(None, [options.test])]
    paths = tuple(dict.fromkeys(path for side in sides for path in picture_paths(side, **reading)))
    if options.spark:
        from clip_fewshot.contrastive.distributed.spark import embed_on_spark

        embed_on_spark(paths, options.model_name, out, options.device)
        left_out = find_skipped(paths, out)
    else:
        backbone = opening.open_model(options.model_name, None, options.device)
        left_out = write_features(out, embed_files(backbone, paths))
    reasons = dict(sorted(Counter(item.reason for item in left_out).items()))
    opening.warn(f"{n} unreadable pictures: {reason}" for reason, n in reasons.items())
    seconds, done = round(time.perf_counter() - started, 1), len(paths) - len(left_out)
    found = {"schema": 1, "out": str(out), "model": options.model_name, "pictures": done, "unreadable": reasons}
    text = f"{done:,} pictures embedded by {options.model_name} in {seconds} s: {out}"
    print(json.dumps(found | {"seconds": seconds}, indent=1) if options.json else text)
    return 0
