"""Where pictures and texts lie: `clip-fewshot modality-gap pairs/ --tuned runs/tuned/model --out gap/`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import TunedModelOptions
from clip_fewshot.config import OutputOptions, TextOptions, option

DESCRIPTION = (
    "Distance between the mean picture and the mean text (the modality gap), and both on two principal components, "
    "for a model and, with --tuned, the same model after training."
)
EXAMPLES = (
    "books.csv --columns image=img_paths,caption=name",
    "pairs/ --model ViT-B/32 --tuned runs/tuned/model --out gap/",
)


@dataclass(frozen=True, kw_only=True)
class Options(TunedModelOptions, TextOptions, OutputOptions):
    out: str | None = option(None, "folder for gap.json and a plot per model", group="output")


def main(options: Options) -> int:
    from clip_fewshot.data.captions import TEMPLATES
    from clip_fewshot.plots import embedding_plot
    from clip_fewshot.protocol.embedding_gap import embed_both, measure_gap
    from clip_fewshot.runtime.files import write_text
    from clip_fewshot.runtime.outputs import GAP_FOLDER, mark_folder, write_results

    folder = None if options.out is None else opening.choose_folder(options, options.out, GAP_FOLDER)
    templates = opening.open_templates(options, TEMPLATES[:1])
    data = opening.open_measured(options)
    found: dict[str, Any] = {"schema": 1, "data": data.name, "models": {}}
    for when, tuned in {"before": None, "after": options.tuned}.items():
        if when == "after" and tuned is None:
            continue
        view = embed_both(opening.open_model(options.model_name, tuned, options.device), data, when, templates)
        found["models"][when] = {"name": str(tuned or options.model_name), "plot": None, **measure_gap(view)}
        if folder is not None:
            mark_folder(folder, GAP_FOLDER)
            plot = folder / f"{when}.svg"
            write_text(plot, embedding_plot(view).svg)
            found["models"][when]["plot"] = str(plot)
    if folder is not None:
        write_results(folder / "gap.json", found)
    print(json.dumps(found, indent=1) if options.json else table(found))
    return 0


def table(found: dict[str, Any]) -> str:
    """A line per model."""
    from clip_fewshot.report import tables

    rows = [
        [
            f"{when} ({model['name']})",
            tables.format_fraction(model["gap"]),
            *(tables.format_fraction(model["spread"][what]) for what in ("images", "texts")),
            model["plot"] or "-",
        ]
        for when, model in found["models"].items()
    ]
    return tables.format_plain([["model", "gap", "spread of images", "spread of texts", "plot"], *rows])
