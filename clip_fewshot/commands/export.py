"""A model in the format of another tool: `clip-fewshot export runs/digits-mini/model --out model.onnx`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import SavedModelOptions
from clip_fewshot.config import OutputOptions, option
from clip_fewshot.runtime.artifacts import MANIFEST

if TYPE_CHECKING:
    from clip_fewshot.backbones.backbone import Backbone
    from clip_fewshot.open_world.classifier import OpenWorldClassifier

EXPORT_FORMATS = ("onnx",)
DESCRIPTION = (
    "Write a model for another tool. onnx: one file that takes bytes of pictures, any number of any size; of a saved "
    "model it gives class, probabilities, p-value and the classes that cannot be ruled out, of a backbone features. "
    "The file is run by onnxruntime beside Python at 1, 3 and 64 pictures first: none is written that answers "
    "otherwise. What cannot be exported is refused by its name."
)
EXAMPLES = ("runs/digits-mini/model --out digits.onnx", "ViT-B/32 --out vit.onnx --overwrite")


@dataclass(frozen=True, kw_only=True)
class Options(SavedModelOptions, OutputOptions):
    exported: str = field(
        metadata={"positional": True, "metavar": "MODEL", "help": "folder of a saved model, or a backbone by its name"}
    )
    to: str | None = option(None, "the format (default: onnx)", choices=EXPORT_FORMATS, group="output")
    out: str | None = option(None, "the file (default: model.onnx)", metavar="PATH", group="output")


def main(options: Options) -> int:
    from clip_fewshot.protocol.export_onnx import export_onnx

    path = opening.choose_file(options, Path(options.out or "model.onnx"))
    done = export_onnx(open_exported(options), path, options.overwrite)
    found = {"schema": 1, "out": str(path), "to": options.to or EXPORT_FORMATS[0], "model": options.exported, **done}
    print(json.dumps(found, indent=1) if options.json else describe(found))
    return 0


def open_exported(options: Options) -> Backbone | OpenWorldClassifier:
    """The classifier in the folder MODEL, or the backbone of that name."""
    from clip_fewshot.runtime.artifacts import artifact_kind

    folder = Path(options.exported)
    if os.path.exists(folder / MANIFEST) and "classifier" in artifact_kind(folder):
        return opening.open_saved(folder, options.model, options.device, options.trust)
    return opening.open_model(options.exported, None, options.device)


def describe(found: dict[str, Any]) -> str:
    """What was written, what comes out of it, and how it compares."""
    from clip_fewshot.data.names import escape
    from clip_fewshot.runtime.units import format_size

    batches = ", ".join(map(str, found["checked"]))
    lines = [f"{escape(found['out'])}: {format_size(found['bytes'])}, checked at {batches} pictures"]
    return "\n".join(lines + [f"{name}: at most {off:.1g} from Python's" for name, off in found["differences"].items()])
