"""S1: class names against photos, then every way to tune that was tried there, each with its interval.

As written, all weights train by Adam in the half precision in which CLIP's loader leaves them on a GPU: Adam's squared
gradients and its epsilon underflow, and the weights become NaN. Rounding the weights to half precision after a step in
float32, as the usual mend does, freezes those whose step is smaller than half their spacing. Ours are float32
throughout. The linear layer behind each frozen tower is as written drawn at random, and has to learn again what the
towers know; ours begins as the identity, where the gradient is small: plain descent needs a hundred times the rate, and
at the written one, clipped, it hardly moves from either start. The rest are ways to share rates between what is
pretrained and what is added.

S1 trained on all 244 photos of ants and bees; here each seed draws 16 of each class, so that the intervals hold the
draw as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.commands.cli import opening
from clip_fewshot.config import FINE_TUNING_RATES
from clip_fewshot.contrastive.finetuning import FineTuning, count_parameters
from clip_fewshot.contrastive.replayed import replay_pictures
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import draw_support, split_open_world
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.features.encode import encode_images, encode_texts
from clip_fewshot.heads.zero_shot import ZeroShotHead, zero_shot_weights
from clip_fewshot.plots.views import EmbeddingView
from clip_fewshot.protocol.embedding_gap import measure_gap
from clip_fewshot.report import tables
from experiments.recipes import s1_trained as ways

if TYPE_CHECKING:
    from experiments.recipes.options import Options

SHOTS, TOP = 16, 5
LAYER_RATES, HEAD_RATES, SGD_RATES = (1e-5, 1e-4, 1e-3), (1e-3, 3e-3), (1e-3, 1e-2)
LAST = FineTuning(unfreeze=1)
Train = Callable[..., ways.Trained]


def layer(backbone_lr: float, head_lr: float | None = None) -> Train:
    """The last layer of each tower, and where it has a rate a linear head."""
    head: Any = {} if head_lr is None else {"head": "linear", "head_lr": head_lr}
    return ways.planned(replace(LAST, backbone_lr=backbone_lr, **head))


RATES: dict[str, Train] = {
    **{f"last layer at {rate:g}": layer(rate) for rate in LAYER_RATES},
    **{f"last layer at {rate:g}, head at {head:g}": layer(rate, head) for rate in LAYER_RATES for head in HEAD_RATES},
    f"head at {ways.HEAD_RATE:g} first, then last layer at {ways.LAYER_RATE:g}": ways.head_first,
}
DEFAULT = "last layer at {:g}, head at {:g}".format(*FINE_TUNING_RATES["adamw"])
WAYS: dict[str, Train] = {
    "all weights, Adam in float16 (as written)": ways.half_adam,
    "all weights, rounded to float16 (as mended)": ways.rounded_adam,
    "all weights, float32 (ours)": ways.full,
    "linear heads, SGD at 0.001, random start (as written)": partial(ways.random_start, clip_norm=None),
    "linear heads, SGD at 0.001, random start, clipped": partial(ways.random_start, clip_norm=1.0),
    "linear heads, SGD at 0.001, from the identity": ways.planned(ways.WRITTEN, "sgd"),
    "linear heads, SGD at 0.1, from the identity (ours)": ways.planned(ways.SGD_HEADS, "sgd"),
    "linear heads, AdamW at 0.001, from the identity": ways.planned(ways.WRITTEN),
    "linear heads, AdamW at 0.003, from the identity (ours)": ways.planned(ways.HEADS),
    "attention heads, AdamW at 0.003 (ours)": ways.planned(replace(ways.HEADS, head="attention")),
    **{f"last layer, SGD at {rate:g}": ways.planned(replace(LAST, backbone_lr=rate), "sgd") for rate in SGD_RATES},
    **RATES,
}


def run(options: Options, chosen: Mapping[str, Train] | None = None, most: int = SHOTS) -> dict[str, Any]:
    """All ways or those chosen, all seeds, up to ``most`` pictures a class; the sealed pictures stay."""
    data = opening.open_data(options.data, **options.reading())
    prompts = opening.open_templates(options, TEMPLATES)
    split = split_open_world(data, shots=1, seed=0)
    shots = min(most, int(np.bincount(split.pool.required_labels()).min()))
    test, model = split.test.open("S1"), load_backbone(options.model_name, device=options.device)
    supports = [draw_support(split.pool, shots, seed) for seed in range(options.seeds)]
    before = summarised([measured(model, model, None, test, prompts)], count_parameters(model)[1])
    rows = [{"way": "zero-shot", **before}]
    for way, train in (chosen or WAYS).items():
        found = []
        for seed, support in enumerate(supports):
            trained = train(model, support, seed)
            figure = measured(trained.model, model, trained.blocks, test, prompts) if trained.broken is None else {}
            found.append({**figure, "loss": trained.loss, "frozen": trained.frozen, "broken": trained.broken})
        rows.append({"way": way, **summarised(found, trained.parameters)})
    shape = {"classes": len(test.label_space), "shots": shots, "test_pictures": len(test), "seeds": options.seeds}
    return {"data": data.name, **shape, "rows": rows, "recommended": recommended(rows)}


def measured(
    model: Backbone,
    pretrained: Backbone,
    blocks: int | None,
    test: ImageDataset,
    ensemble: Sequence[str] = TEMPLATES,
) -> dict[str, Any]:
    """Hits per picture (n,) by one prompt and by several, among the first and among the first five; and the gap."""
    import torch

    if blocks is None:
        images = encode_images(model, test).features
    else:
        with replay_pictures(model, pretrained, test, blocks), torch.no_grad():
            numbers = torch.split(torch.arange(len(test)), 64)
            images = torch.cat([model.encode_image(some) for some in numbers]).cpu().numpy()
    names, labels = test.label_space.names, test.required_labels()
    found: dict[str, Any] = {}
    for prompts, templates in (("one prompt", TEMPLATES[:1]), ("ensemble", ensemble)):
        head = ZeroShotHead(zero_shot_weights(model, names, templates).cpu(), 1.0)
        order = head(torch.from_numpy(images)).argsort(dim=1, descending=True).numpy()
        found[prompts] = order[:, 0] == labels
        if len(names) > TOP:
            found[f"{prompts}, top {TOP}"] = (order[:, :TOP] == labels[:, None]).any(axis=1)
    texts = encode_texts(model, [TEMPLATES[0].format(name) for name in names])
    return found | {"gap": measure_gap(EmbeddingView("", images, labels, texts, names))["gap"]}


def summarised(found: list[dict[str, Any]], parameters: int) -> dict[str, Any]:
    """One row: accuracies with intervals over pictures and seeds, the mean of the rest, what went wrong."""
    whole = [one for one in found if one.get("broken") is None]
    row: dict[str, Any] = {"parameters": parameters, "broken": [one["broken"] for one in found if one.get("broken")]}
    row["accuracy"] = {
        key: accuracy_interval([one[key] for one in whole]).to_json()
        for key in (whole[0] if whole else {})
        if isinstance(whole[0][key], np.ndarray)
    }
    for key in ("gap", "loss", "frozen"):
        values = [one[key] for one in whole if one.get(key) is not None]
        row[key] = fmean(values) if values else None
    return row


def recommended(rows: list[dict[str, Any]]) -> str:
    """Which way to share the rates, and which others its figures do not exclude.

    Those of `finetune` are kept unless another way is better by more than its interval.
    """
    tried = {row["way"]: row["accuracy"]["ensemble"] for row in rows if row["way"] in RATES}
    top = max(tried, key=lambda way: tried[way]["mean"])
    close = [way for way in tried if tried[way]["ci95"][1] >= tried[top]["mean"]]
    best = DEFAULT if DEFAULT in close else top
    rest = [way for way in close if way != best]
    worse = [way for way in tried if way not in close]
    told = f"Of the ways to share rates: {best}{' (the default of finetune)' if best == DEFAULT else ''}."
    told += f" Not told apart from it: {'; '.join(rest)}." if rest else ""
    return told + (f" Worse: {'; '.join(worse)}." if worse else "")


def table(found: dict[str, Any]) -> str:
    """A line per way, what broke, and the recommendation."""
    kinds = list(found["rows"][0]["accuracy"])
    head = ["way", "parameters trained", *kinds, "gap", "loss", "weights that stayed"]
    rows = [
        [
            row["way"],
            "-" if row["way"] == "zero-shot" else f"{row['parameters']:,}",
            *(_estimate(row["accuracy"].get(kind)) for kind in kinds),
            *("-" if row[key] is None else tables.format_fraction(row[key]) for key in ("gap", "loss", "frozen")),
        ]
        for row in found["rows"]
    ]
    title = (
        f"S1 on {found['data']}, {found['model']} ({found['rows'][0]['parameters']:,} parameters): {found['shots']} "
        f"pictures of each of {found['classes']} classes, {found['seeds']} draws, {found['test_pictures']:,} kept out; "
        f"{ways.FULL_EPOCHS} epochs of all weights, {ways.HEAD_EPOCHS} of heads; loss of the last epoch"
    )
    broken = [
        f"{row['way']}: weights no longer finite after step {', '.join(map(str, row['broken']))}"
        for row in found["rows"]
        if row["broken"]
    ]
    return "\n\n".join([title, tables.format_plain([head, *rows]), *broken, found["recommended"]])


def _estimate(found: dict[str, Any] | None) -> str:
    return "-" if found is None else tables.estimate(found["mean"], found["ci95"])
