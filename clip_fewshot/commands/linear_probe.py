"""Which frozen CLIP suits these pictures: `clip-fewshot linear-probe photos/ --models ViT-B/32,RN50`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.parser import rename_to_flags
from clip_fewshot.commands.cli.shared_options import SupportSetOptions, parse_svg
from clip_fewshot.config import OutputOptions, option
from clip_fewshot.errors import UsageError

DESCRIPTION = (
    "Look at a set of pictures, then compare CLIP models by a logistic regression on their frozen features, "
    "with the same regression on raw pixels beside them."
)
EXAMPLES = ("photos/ --models all,photos --tune", "photos/ --every-picture --grid sample.svg")


@dataclass(frozen=True, kw_only=True)
class Options(SupportSetOptions, OutputOptions):
    models: tuple[str, ...] = option(
        (), "models to compare, beside or in place of --model; all: OpenAI's nine", group="model"
    )
    every_picture: bool = option(
        False, "train once, on all pictures that are not sealed, in place of --shots", group="support sets"
    )
    tune: bool = option(False, "search C in 1e-6..1e6 by cross-validation on the training pictures")
    C: float = option(1.0, "inverse regularisation without --tune")
    grid: Path | None = option(
        None, "write a sample of each class to this .svg file", parse=parse_svg, metavar="PATH", group="output"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.C > 0:
            raise UsageError(expected="a number above 0", got=f"{self.C:g}", fix="change --C", where="--C")


def main(options: Options) -> int:
    from clip_fewshot.protocol import compare_backbones as protocol
    from clip_fewshot.runtime.outputs import write_marked

    grid = options.grid and opening.choose_file(options, options.grid)
    first = () if options.models and options.model is None else (options.model_name,)
    names = protocol.list_models((*first, *options.models))
    data = opening.open_data(options.data, **options.reading())
    seen = protocol.look_at_data(data, options.seed)
    if grid is not None:
        write_marked(grid, protocol.draw_sample(data, options.seed))
    show(options, protocol.describe_data(seen))
    shots = None if options.every_picture else options.shots
    sizes: dict[str, Any] = {"seeds": options.seeds, "seed": options.seed, "test_fraction": options.test_fraction}
    material = protocol.draw_material(data, shots=shots, **sizes)
    opening.warn(material.warnings)
    C, widths, found = None if options.tune else options.C, protocol.measure_columns(names), []
    show(options, "\n" + protocol.describe_head(widths))
    for entry in protocol.compare_models(names, material, C=C, seed=options.seed, device=options.device):
        found.append(entry)
        show(options, protocol.describe_features(entry, widths))
        opening.warn(f"{entry['model']}: {rename_to_flags(note, Options)}" for note in entry["notes"])
    record = {"schema": 1, "data": seen, "shots": shots or "all", "tuned": options.tune, "models": found}
    if options.json:
        print(json.dumps(record, indent=1))
    return opening.exit_code_of(len(names), sum("error" in entry for entry in found))


def show(options: Options, text: str) -> None:
    """A part of the answer as soon as it is there, unless all of it is asked for as JSON."""
    if not options.json:
        print(text, flush=True)
