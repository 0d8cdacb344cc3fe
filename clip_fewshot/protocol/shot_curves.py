"""Accuracy by shots per class: results of the main job at several numbers of shots, as curves and as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.config import FewShotConfig
from clip_fewshot.data.names import number
from clip_fewshot.data.read import read_dataset
from clip_fewshot.few_shot.approach import APPROACHES, find_approach
from clip_fewshot.plots import shots_panels
from clip_fewshot.plots.methods import display_name, order_methods
from clip_fewshot.plots.views import ShotPoint
from clip_fewshot.protocol.run_folder import settle_depth
from clip_fewshot.report import tables
from clip_fewshot.report.headline import FIGURES
from clip_fewshot.runtime.files import read_json, write_text
from clip_fewshot.runtime.outputs import shorten_home, write_results

BASELINE_KEYS = ("raw_pixels", "zero_shot", "linear_probe")


def read_finished(config: FewShotConfig) -> Mapping[str, Any] | None:
    """results.json in the run's folder where that run is complete, on these pictures and weights; else None."""
    out = Path(config.run.out or "")
    if not os.path.isfile(out / "results.json"):
        return None
    results: Mapping[str, Any] = read_json(out / "results.json")
    names = [find_approach(approach).name for approach in config.search.approaches] or list(APPROACHES)
    backbone = load_backbone(config.data.model_name, pretrained=config.data.pretrained, device=config.run.device)
    asked = json.loads(json.dumps(settle_depth(config, backbone).to_json() | {"approaches": names}))
    same = shorten_home(results["config"]) == shorten_home(asked) and _same_input(config, backbone, out, results)
    return results if same else None


def _same_input(config: FewShotConfig, backbone: Backbone, out: Path, results: Mapping[str, Any]) -> bool:
    data = read_dataset(config.data.data, **config.data.reading())
    same_weights = read_json(out / "run.json")["key"]["backbone"] == backbone.digest
    return bool(same_weights and results["dataset"]["fingerprint"] == data.fingerprint())


def collect_curves(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that is reported of one set of pictures, out of ``runs``, contents of results.json by ascending shots."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for results in runs:
        tests = {name: results[name] for name in BASELINE_KEYS}
        tests |= {name: approach["test"] for name, approach in results["approaches"].items()}
        for name, test in tests.items():
            point = {key: test[key] for key in ("mean", "ci95", "per_seed", *FIGURES) if key in test}
            methods.setdefault(name, []).append({"shots": results["config"]["shots"], **point})
    return {
        "n_classes": len(runs[0]["dataset"]["classes"]),
        "n_test": runs[0]["dataset"]["counts"]["test"],
        "fingerprint": runs[0]["dataset"]["fingerprint"],
        "methods": {name: methods[name] for name in order_methods(set(methods))},
        "chosen": [{"approach": results["best"]["approach"], **results["best"]["test"]} for results in runs],
    }


def save_curves(record: Mapping[str, Any], folder: Path) -> None:
    """shots.json, and shots.svg with a panel for each set."""
    write_results(folder / "shots.json", record)
    panels = {name: curve_points(item) for name, item in record["data"].items()}
    write_text(folder / "shots.svg", shots_panels(panels).svg)


def curve_points(item: Mapping[str, Any]) -> dict[str, list[ShotPoint]]:
    """What :func:`collect_curves` returns, as points of a plot."""
    return {
        name: [ShotPoint(point["shots"], point["mean"], *point["ci95"]) for point in points]
        for name, points in item["methods"].items()
    }


def describe_curves(found: Mapping[str, Any]) -> str:
    """A Markdown table per set of pictures; the best of each column is bold."""
    return "\n\n".join(
        f"{_caption(name, item)}\n\n{tables.format_markdown(_rows(item))}" for name, item in found.items()
    )


def _caption(name: str, item: Mapping[str, Any]) -> str:
    tested = number(item["n_test"], "sealed test picture")
    return f"**{name}**, {number(item['n_classes'], 'class', 'classes')}, {tested}, 95 % intervals:"


def _rows(item: Mapping[str, Any]) -> list[list[str]]:
    columns = zip(*item["methods"].values(), strict=True)
    best = [max(point["mean"] for point in column) for column in columns]
    rows = [
        [display_name(name), *(_cell(point, top) for point, top in zip(points, best, strict=True))]
        for name, points in item["methods"].items()
    ]
    shots = [str(point["shots"]) for point in next(iter(item["methods"].values()))]
    chosen = [f"{one['mean']:.3f} {display_name(one['approach'])}" for one in item["chosen"]]
    return [["shots per class", *shots], *rows, ["chosen in validation", *chosen]]


def _cell(point: Mapping[str, Any], best: float) -> str:
    text = tables.estimate_of(point)
    mean, _, bounds = text.partition(" ")
    return f"**{mean}** {bounds}" if point["mean"] == best else text
