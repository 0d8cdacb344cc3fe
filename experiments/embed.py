"""Features of many pictures as Parquet: `python -m experiments.embed photos/ --model ViT-B/32 --out photos.parquet`."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clip_fewshot as cf
from clip_fewshot.config import MODELS
from experiments import opening
from experiments.options import run

DESCRIPTION = "Embed the pictures of a folder or a table into Parquet, which read_features loads."


@dataclass(frozen=True)
class Options:
    data: str = cf.option("", "folder of pictures, or a table or list of their paths", positional=True)
    out: Path = cf.option(Path("features.parquet"), "table to write; by Spark a folder of its parts")
    model: str = cf.option("mini", MODELS)
    spark: bool = cf.option(False, "embed on the executors of Spark (on this machine, if it has no other master)")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    json: bool = cf.option(False, "print JSON")

    def __post_init__(self) -> None:
        if not self.data:
            raise cf.UsageError(expected="pictures", got="none", fix="name a folder or a table", where="data")


def main(options: Options) -> int:
    started = time.perf_counter()
    paths = cf.picture_paths(options.data)
    if options.spark:
        cf.embed_on_spark(paths, options.model, options.out, options.device)
        left_out = cf.not_embedded(paths, options.out)
    else:
        backbone = cf.load_backbone(options.model, device=options.device)
        left_out = cf.write_features(options.out, cf.embed_files(backbone, paths))
    found = summary(options, len(paths), left_out, time.perf_counter() - started)
    print(json.dumps(found, indent=1) if options.json else sentence(found))
    return 0


def summary(options: Options, named: int, left_out: Sequence[Any], seconds: float) -> dict[str, Any]:
    """What was written, and by reason what was not."""
    reasons = Counter(item.reason for item in left_out)
    opening.warn(f"{n} unreadable pictures: {reason}" for reason, n in sorted(reasons.items()))
    return {
        "schema": 1,
        "out": str(options.out),
        "model": options.model,
        "pictures": named - len(left_out),
        "unreadable": dict(sorted(reasons.items())),
        "seconds": round(seconds, 1),
    }


def sentence(found: dict[str, Any]) -> str:
    """One line."""
    return f"{found['pictures']:,} pictures embedded by {found['model']} in {found['seconds']} s: {found['out']}"


if __name__ == "__main__":
    sys.exit(run(main, Options, "python -m experiments.embed", DESCRIPTION))
