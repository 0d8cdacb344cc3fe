"""What in a set of pictures would make a result too good: `clip-fewshot audit photos/ --test new_photos/`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.parser import rename_to_flags
from clip_fewshot.commands.cli.shared_options import PicturesOptions, required_data, seed_option
from clip_fewshot.errors import ResourceError

DESCRIPTION = (
    "Look for copies on both sides or under two labels, for labels that a probe on frozen features doubts, for classes "
    "that can be told without a pixel (by size, format, camera, date, folder), for classes that are too small and for "
    "captions that repeat. What is found is listed and nothing is changed; the exit code is 0, or 3 without the model."
)
EXAMPLES = ("photos/ --model photos", "train.csv --test test.csv --json")


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions):
    data: str = required_data("folder, list, table, JSON or Parquet of pictures with classes or captions")
    seed: int = seed_option()


def main(options: Options) -> int:
    from clip_fewshot.protocol.audit import find_leaks
    from clip_fewshot.report.audit_tables import describe_audit

    pictures = opening.open_data(options.data, **options.reading(), contradictions=True)
    backbone, code = None, opening.DONE
    if pictures.labels is not None:
        try:
            backbone = opening.open_model(options.model_name, None, options.device)
        except ResourceError as error:  # the other checks need no model
            opening.warn([f"no label is doubted: {rename_to_flags(error, Options)}"])
            code = opening.SOME_SKIPPED
    found = find_leaks(pictures, backbone, options.seed) | {"model": None if backbone is None else options.model_name}
    print(json.dumps(found, indent=1) if options.json else describe_audit(found))
    return code
