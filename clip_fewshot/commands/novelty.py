"""How well the unknown is told: `clip-fewshot novelty digits` of all detectors, `--saved` of one model."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.commands.cli.shared_options import SupportSetOptions
from clip_fewshot.config import check_fractions, count_or_names, option
from clip_fewshot.errors import UsageError

DESCRIPTION = (
    "Compare all novelty detectors on the frozen features of one model, over fresh support sets and the same sealed "
    "test pictures, or with --saved measure the detector of a model that was saved. The test side of DATA is then the "
    "one that was sealed when the model was trained on the same data under the same seed."
)
EXAMPLES = ("photos/ --unseen cat,dog --out runs/novelty", "photos/ --saved runs/photos-ViT-B-32/model")
OF_SAVED, OF_DETECTORS = ("fresh", "discover", "split_seed"), ("shots", "seeds", "seed", "detectors", "out")
COMPARED = ("shots", "seeds", "seed", "test_fraction", "alphas", "detectors")
SAVED: dict[str, Any] = {"group": "with --saved"}


@dataclass(frozen=True, kw_only=True)
class Options(SupportSetOptions):
    unseen: str | None = option(
        None, "number of classes to hide, or their names (default: 3; with --saved all it does not know)", listed=True
    )
    novel: str | None = option(None, "pictures of unknown classes (default: those of the hidden classes)")
    alphas: tuple[float, ...] = option((0.01, 0.05, 0.1), "false-alarm rates to try, in (0, 1)")
    detectors: tuple[str, ...] = option((), "detectors to compare (default: all)")
    out: str | None = option(None, "folder for novelty.json, det.svg and densities.svg", group="output")
    saved: Path | None = option(None, "folder of a saved model: measure that one alone", **SAVED)
    fresh: bool = option(False, "no picture of DATA was used in training, so take all of them", **SAVED)
    discover: bool = option(True, "group what was called unknown at the model's own false-alarm rate", **SAVED)
    split_seed: int | None = option(None, "seed under which DATA was split (default: the model's)", **SAVED)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self, "alphas")
        idle = OF_SAVED if self.saved is None else OF_DETECTORS
        given = [f"`{one.name}`" for one in fields(self) if one.name in idle and getattr(self, one.name) != one.default]
        if given:
            expected = f"{' and '.join(given)} {'with' if self.saved is None else 'without'} --saved"
            raise UsageError(expected=expected, got="another command", fix="leave it out", where=given[0])
        if self.saved and self.novel and self.unseen:
            raise UsageError(expected="--novel or --unseen", got="both", fix="leave one out")


def main(options: Options) -> int:
    from clip_fewshot.protocol.compare_detectors import describe_comparison
    from clip_fewshot.protocol.saved_detector import describe_saved

    data = opening.open_data(options.data)
    data.required_labels()
    novel = None if options.novel is None else opening.open_data(options.novel)
    if options.saved is None:
        found, describe = compare(options, data, novel), describe_comparison
    else:
        found, describe = measure(options, options.saved, data, novel), describe_saved
    print(json.dumps(found, indent=1) if options.json else describe(found))
    return 0


def compare(options: Options, data: Any, novel: Any) -> dict[str, Any]:
    """All detectors; what was found is also written to a folder, and drawn, where one is given."""
    from clip_fewshot.protocol.compare_detectors import check_detectors, compare_detectors, draw_comparison
    from clip_fewshot.runtime.files import write_json

    check_detectors(options.detectors)
    backbone = opening.open_model(options.model_name, None, options.device)
    unseen, asked = options.unseen or "3", {name: getattr(options, name) for name in COMPARED}
    with show_progress() as progress:
        done = compare_detectors(backbone, data, novel, progress=progress, unseen=count_or_names(unseen), **asked)
    opening.warn(done.warnings)
    found = {"schema": 1, "data": options.data, "model": options.model_name, "unseen": unseen} | done.record
    if options.out is not None:
        write_json(Path(options.out) / "novelty.json", found)
        draw_comparison(done, Path(options.out))
    return found


def measure(options: Options, folder: Path, data: Any, novel: Any) -> dict[str, Any]:
    """One saved model."""
    from clip_fewshot.protocol.saved_detector import measure_saved, sides_of

    world = opening.open_saved(folder, options.model, options.device)
    asked: dict[str, Any] = {"unseen": options.unseen, "fresh": options.fresh, "seed": options.split_seed}
    sides = sides_of(world, data, novel, test_fraction=options.test_fraction, **asked)
    found = measure_saved(world, sides, options.alphas, options.discover)
    if found["n_left_out"]:
        opening.warn([f"{found['n_left_out']} pictures on which a class was named are left out"])
    return found
