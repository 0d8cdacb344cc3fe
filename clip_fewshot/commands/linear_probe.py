"""Which frozen CLIP suits these pictures: `clip-fewshot linear-probe photos/ --models ViT-B/32,RN50`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import SupportSetOptions
from clip_fewshot.config import option
from clip_fewshot.errors import UsageError

DESCRIPTION = (
    "Look at a set of pictures, then compare CLIP models by a logistic regression on their frozen features, "
    "with the same regression on raw pixels beside them."
)
EXAMPLES = ("photos/ --models ViT-B/32,RN50 --tune", "photos/ --every-picture --grid sample.svg")
PIXELS = "raw pixels"


@dataclass(frozen=True, kw_only=True)
class Options(SupportSetOptions):
    models: tuple[str, ...] = option((), "models to compare, beside or in place of --model", group="model")
    every_picture: bool = option(
        False, "train once, on all pictures that are not sealed, in place of --shots", group="support sets"
    )
    tune: bool = option(False, "search C in 1e-6..1e6 by cross-validation on the training pictures")
    C: float = option(1.0, "inverse regularisation without --tune")
    grid: Path | None = option(None, "write a sample of each class to this .svg file", group="output")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.C > 0:
            raise UsageError(expected="a number above 0", got=f"{self.C:g}", fix="change --C", where="--C")


def main(options: Options) -> int:
    from clip_fewshot.protocol import compare_backbones as protocol
    from clip_fewshot.runtime.files import write_text

    data = opening.open_data(options.data, **options.reading())
    seen = protocol.look_at_data(data, options.seed)
    if not options.json:
        print(protocol.describe_data(seen), flush=True)
    if options.grid is not None:
        write_text(options.grid, protocol.draw_sample(data, options.seed))
    shots = None if options.every_picture else options.shots
    sizes: dict[str, Any] = {"seeds": options.seeds, "seed": options.seed, "test_fraction": options.test_fraction}
    material = protocol.draw_material(data, shots=shots, **sizes)
    opening.warn(material.warnings)
    found = [measure(options, name, material) for name in (PIXELS, *list_models(options))]
    record = {"schema": 1, "data": seen, "shots": shots or "all", "tuned": options.tune, "models": found}
    print(json.dumps(record, indent=1) if options.json else "\n" + protocol.describe_features(found))
    return 0


def list_models(options: Options) -> tuple[str, ...]:
    """The models to compare, each once."""
    first = () if options.models and options.model is None else (options.model_name,)
    return tuple(dict.fromkeys((*first, *options.models)))


def measure(options: Options, name: str, material: Any) -> dict[str, Any]:
    """One model, or raw pixels; what the probe has to say goes to standard error."""
    from clip_fewshot.backbones.clip import load_backbone
    from clip_fewshot.data.builtin import raw_pixels
    from clip_fewshot.protocol.compare_backbones import frozen_features, measure_features

    features = raw_pixels if name == PIXELS else frozen_features(load_backbone(name, device=options.device))
    C = None if options.tune else options.C
    found = measure_features(name, features, material, C=C, seed=options.seed)
    opening.warn(f"{name}: {note}" for note in found["notes"])
    return found
