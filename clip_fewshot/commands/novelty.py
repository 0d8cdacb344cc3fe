"""How well unknown pictures are recognised: `clip-fewshot novelty digits` of all detectors, `--saved` of one model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.commands.cli.shared_options import SupportSetOptions, refuse_idle, together_option, trust_option
from clip_fewshot.config import OutputOptions, TextOptions, check_fractions, count_or_names, option
from clip_fewshot.runtime.outputs import DETECTORS_FOLDER

DESCRIPTION = """Compare all novelty detectors on the frozen features of one model, over support sets and a sealed test
set, or with --saved measure that of a saved model, on the test side that was sealed when it was trained on DATA."""
EXAMPLES = ("train.txt --test test.txt --root . --unseen cat,dog", "photos/ --saved runs/photos-ViT-B-32/model")
OF_SAVED, SAVED = ("fresh", "discover", "split_seed", "trust"), {"group": "with --saved"}
OF_DETECTORS = ("shots", "seeds", "seed", "detectors", "together", "out", "overwrite", "template", "templates")
OF_ALL = ("shots", "seeds", "seed", "test_fraction", "alphas", "detectors", "together")


@dataclass(frozen=True, kw_only=True)
class Options(SupportSetOptions, TextOptions, OutputOptions):
    unseen: str | None = option(None, "classes to hide, count or names (default: 3; --saved: all new)", listed=True)
    novel: str | None = option(None, "pictures of unknown classes (default: those of the hidden classes)")
    alphas: tuple[float, ...] = option((), "false-alarm rates to try (default: 0.01, 0.05, 0.1 or the least supported)")
    detectors: tuple[str, ...] = option((), "detectors to compare, python:MODULE:NAME for your own (default: all)")
    together: bool = together_option()
    out: str | None = option(None, "folder for novelty.json, det.svg and densities.svg", group="output")
    saved: Path | None = option(None, "folder of a saved model: measure that one alone", **SAVED)
    trust: tuple[str, ...] = trust_option()
    fresh: bool = option(False, "no picture of DATA was used in training, so take all of them", **SAVED)
    discover: bool = option(True, "group what was called unknown at the model's own false-alarm rate", **SAVED)
    split_seed: int | None = option(None, "seed under which DATA was split (default: the model's)", **SAVED)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self, "alphas")
        refuse_idle(self, OF_DETECTORS if self.saved else OF_SAVED, f"with{'out' if self.saved else ''} --saved")


def main(options: Options) -> int:
    _ = options.out and opening.choose_folder(options, options.out, DETECTORS_FOLDER)
    data = opening.open_data(options.data, **options.reading())
    data.required_labels()
    novel = options.novel and opening.open_data(options.novel)
    with show_progress() as progress:
        found, text = (compare if options.saved is None else measure)(options, data, novel, progress)
    print(json.dumps(found, indent=1) if options.json else text)
    return 0


def compare(options: Options, data: Any, novel: Any, progress: Any) -> tuple[dict[str, Any], str]:
    """All detectors; what was found is also written to a folder, and drawn, where one is given."""
    from clip_fewshot.protocol import compare_detectors, detector_tables

    compare_detectors.check_detectors(options.detectors)
    asked = {name: getattr(options, name) for name in OF_ALL} | {"templates": opening.open_templates(options, ())}
    asked["unseen"] = count_or_names(unseen := options.unseen or "3")
    backbone = opening.open_model(options.model_name, None, options.device)
    done = compare_detectors.compare_detectors(backbone, data, novel, progress=progress, **asked)
    opening.warn(done.warnings)
    found = {"schema": 1, "data": options.data, "model": options.model_name, "unseen": unseen} | done.record
    if options.out:
        compare_detectors.save_comparison(done, found, Path(options.out))
    return found, detector_tables.describe_comparison(found)


def measure(options: Options, data: Any, novel: Any, _: object) -> tuple[dict[str, Any], str]:
    """One saved model."""
    from clip_fewshot.protocol.saved_detector import describe_saved, measure_saved, sides_of

    world = opening.open_saved(options.saved or Path(), options.model, options.device, options.trust)
    asked: dict[str, Any] = {"unseen": options.unseen, "fresh": options.fresh, "seed": options.split_seed}
    sides = sides_of(world, data, novel, test_fraction=options.test_fraction, **asked)
    found = measure_saved(world, sides, options.alphas, options.discover)
    opening.warn(f"left out, for a class was named on them: {n:,}" for n in [found["n_left_out"]] if n)
    return found, describe_saved(found)
