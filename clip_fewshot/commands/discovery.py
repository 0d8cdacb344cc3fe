"""New classes among test pictures: `clip-fewshot discovery digits --hide seven+eight --shot-counts 4,16`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.commands.cli.shared_options import PicturesOptions, seeds_option, shot_counts_option
from clip_fewshot.config import ALPHA_HELP, check_fractions, check_range, option

DESCRIPTION = (
    "Hide classes, let an open-world classifier on frozen features flag what is unknown, group that and the undecided "
    "pictures that are like it, and compare with groups of the flagged pictures alone and with the semi-supervised "
    "k-means of generalised category discovery, which sees all test pictures at once. One match of groups and classes "
    "for all pictures; the same test pictures for each of the support sets."
)
EXAMPLES = ("digits --shot-counts 4,16", "photos/ --hide cat+dog --hide bird --background noise/")
DISCOVERY_SHOTS = (4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions):
    hide: tuple[str, ...] = option(
        ("seven+eight+nine", "zero+three+six", "one+four+five", "two+five+eight"), "hidden classes, with + between them"
    )
    background: str | None = option(None, "pictures of no class, mixed in: they should end in no group")
    alpha: float | None = option(None, ALPHA_HELP)
    method: str | None = option(
        None, "silhouette, ward, semi-supervised or python:MODULE:NAME (default: what fits the known classes)"
    )
    shot_counts: tuple[int, ...] = shot_counts_option(DISCOVERY_SHOTS)
    seeds: int = seeds_option()

    def __post_init__(self) -> None:
        check_range(self, "seeds", least=2)
        check_range(self, "shot_counts")
        check_fractions(self, "alpha")


def main(options: Options) -> int:
    from clip_fewshot.protocol.compare_discovery import compare_discovery, describe_discovery, pool_rows

    data = opening.open_data(options.data, **options.reading())
    data.required_labels()
    background = None if options.background is None else opening.open_data(options.background)
    backbone = opening.open_model(options.model_name, None, options.device)
    counts = options.shot_counts or DISCOVERY_SHOTS
    chosen: dict[str, Any] = {
        "shot_counts": counts,
        "seeds": options.seeds,
        "alpha": options.alpha,
        "method": options.method,
    }
    with show_progress() as progress:
        asked = [hidden.split("+") for hidden in options.hide]
        told = chosen | {"progress": progress}
        rows = [row for hidden in asked for row in compare_discovery(backbone, data, background, hidden, **told)]
    found = {"schema": 1, "model": options.model_name, "data": data.name, "alpha": options.alpha}
    found |= {"rows": rows, "pooled": pool_rows(rows)}
    print(json.dumps(found, indent=1) if options.json else describe_discovery(found))
    return 0
