"""Accuracy by shots per class: `python -m experiments.shots` makes the table and the plot of the README."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clip_fewshot as cf
from clip_fewshot.config import BUILTIN_DATA
from clip_fewshot.protocol.run_folder import output_folder
from experiments import tables
from experiments.options import run
from experiments.progress import show_progress

PROG = "python -m experiments.shots"
DESCRIPTION = (
    "Run the main job at several numbers of shots and collect every method's accuracy with its interval: shots.json, "
    "shots.svg and a Markdown table on standard output. Each run has its own folder and is never done twice."
)
BASELINES = ("raw_pixels", "zero_shot", "linear_probe")
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    data: tuple[str, ...] = cf.option(BUILTIN_DATA, "sets of pictures: digits, digits-wild, or paths")
    shots: tuple[int, ...] = cf.option((1, 2, 4, 8, 16), "labelled pictures per class, validation included")
    model: str | None = cf.option(None, "as for few_shot (default: ViT-B/32; mini for digits)")
    approaches: tuple[str, ...] = cf.option((), "approaches to search over (default: all)")
    trials: int = cf.option(20, "trials of each search")
    seeds: int = cf.option(5, "fresh support sets on which the best of each approach is refitted")
    epochs: int = cf.option(20, "passes over the support set in each training")
    seed: int = cf.option(0, "seed of everything random")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    out: Path = cf.option(Path("runs/shots"), "output folder")
    json: bool = cf.option(False, "print shots.json on standard output instead of the table")

    def config(self, data: str, shots: int) -> cf.FewShotConfig:
        """The main job at one point of one curve; every class is known, as in published curves."""
        return cf.FewShotConfig.of(
            data=data,
            model=self.model,
            shots=shots,
            unseen="0",
            trials=self.trials,
            seeds=self.seeds,
            approaches=self.approaches,
            epochs=self.epochs,
            seed=self.seed,
            device=self.device,
            out=str(self.out / f"{Path(data).name}-{shots}"),
        )

    def __post_init__(self) -> None:
        for shots in self.shots:
            self.config(self.data[0], shots)  # refuses what is out of range before anything runs


def main(options: Options) -> int:
    command = shlex.join([*PROG.split(), *sys.argv[1:]])
    found = {}
    with show_progress() as progress:
        for data in options.data:
            runs = []
            for shots in sorted(set(options.shots)):
                place = f"{Path(data).name} at {shots}: "
                config = options.config(data, shots)
                runs.append(measured(config, lambda stage, *done, place=place: progress(place + stage, *done), command))
            found[Path(data).name] = entry(runs)
    record = {"schema": 1, "command": command, "seeds": options.seeds, "trials": options.trials, "data": found}
    cf.write_json(options.out / "shots.json", record)
    cf.write_text(options.out / "shots.svg", cf.shots_panels({name: curves(item) for name, item in found.items()}).svg)
    print(json.dumps(record, indent=1, sort_keys=True) if options.json else table(found))
    print(f"plot: {options.out / 'shots.svg'}   figures: {options.out / 'shots.json'}", file=sys.stderr)
    return 0


def measured(config: cf.FewShotConfig, progress: cf.Progress, command: str) -> Results:
    """results.json of one run: as it is where the run is complete, else made, or gone on with."""
    out = output_folder(config.data, config.run.out)
    if (out / "results.json").is_file():
        results: Results = cf.read_json(out / "results.json")
        if results["config"] == json.loads(json.dumps(config.to_json())) and same_input(config, out, results):
            return results
    return cf.run_few_shot(config, progress, command)


def same_input(config: cf.FewShotConfig, out: Path, results: Results) -> bool:
    """Whether pictures and weights are still those of the run."""
    data = config.data
    backbone = cf.load_backbone(data.model_name, pretrained=data.pretrained, device=config.run.device)
    same_weights = cf.read_json(out / "run.json")["key"]["backbone"] == backbone.digest
    return bool(same_weights and results["dataset"]["fingerprint"] == cf.read_dataset(data.data).fingerprint())


def entry(runs: Sequence[Results]) -> dict[str, Any]:
    """All that is reported of one set of pictures; ``runs`` by ascending shots."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for results in runs:
        tests = {name: results[name] for name in BASELINES}
        tests |= {name: approach["test"] for name, approach in results["approaches"].items()}
        for name, test in tests.items():
            point = {key: test[key] for key in ("mean", "ci95", "per_seed")}
            methods.setdefault(name, []).append({"shots": results["config"]["shots"], **point})
    return {
        "n_classes": len(runs[0]["dataset"]["classes"]),
        "n_test": runs[0]["dataset"]["counts"]["test"],
        "fingerprint": runs[0]["dataset"]["fingerprint"],
        "methods": {name: methods[name] for name in cf.ordered(set(methods))},
    }


def curves(item: Mapping[str, Any]) -> dict[str, list[cf.ShotPoint]]:
    """The entry as points of a plot."""
    return {
        name: [cf.ShotPoint(point["shots"], point["mean"], *point["ci95"]) for point in points]
        for name, points in item["methods"].items()
    }


def table(found: Mapping[str, Any]) -> str:
    """A Markdown table per set of pictures; the best of each column is bold."""
    return "\n\n".join(f"{_caption(name, item)}\n\n{tables.markdown(_rows(item))}" for name, item in found.items())


def _caption(name: str, item: Mapping[str, Any]) -> str:
    return f"**{name}**, {item['n_classes']} classes, {item['n_test']} sealed test pictures, 95 % intervals:"


def _rows(item: Mapping[str, Any]) -> list[list[str]]:
    columns = zip(*item["methods"].values(), strict=True)
    best = [max(point["mean"] for point in column) for column in columns]
    rows = [
        [cf.display_name(name), *(_cell(point, top) for point, top in zip(points, best, strict=True))]
        for name, points in item["methods"].items()
    ]
    shots = [str(point["shots"]) for point in next(iter(item["methods"].values()))]
    return [["shots per class", *shots], *rows]


def _cell(point: Mapping[str, Any], best: float) -> str:
    text = tables.estimate(point["mean"], point["ci95"])
    mean, _, bounds = text.partition(" ")
    return f"**{mean}** {bounds}" if point["mean"] == best else text


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
