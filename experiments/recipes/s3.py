"""S3: an encoder of pictures and one of texts brought together on captioned pictures, as written and as ours.

As written, the gradient of a batch in chunks has the logit scale's once for each chunk and tower, the targets of the
teacher have the wrong sign, and its running mean has its weights swapped. Each is measured by itself, and the last two
by what they do to a training as well: recall both ways on pictures kept out, of which the original shows none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.commands.cli import opening
from clip_fewshot.contrastive.distillation import SelfDistillation
from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.contrastive.objectives import identity_objective, symmetric_objective
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.split import split_pairs
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.losses.distillation import transport_targets
from clip_fewshot.protocol.retrieval import recall_of
from clip_fewshot.report import tables
from experiments.recipes.s3_stored import Held, Projections, Stored, held, locked, stored, train
from experiments.recipes.s3_written import WrittenDistillation, written_gradients, written_targets

if TYPE_CHECKING:
    from experiments.recipes.options import Options

APART, PAIRS, CHUNKS = 0.1, 32, (2, 4, 8)  # share of the pictures kept out; pairs and chunks of the gradient's check
KINDS = ("contrastive", "distilled, as written", "distilled, ours")


def run(options: Options) -> dict[str, Any]:
    """Gradients, targets, running means, and what they make of recall."""
    data = opening.open_data(options.data, **options.reading())
    pictures = len(set(data.digests))
    kept, apart = split_pairs(data, max(1, round(APART * pictures)), seed=0)
    model = load_backbone(options.model_name, device=options.device)
    encoders, start = locked(model)
    pairs, test = stored(encoders, kept), held(encoders, apart)
    trained = {kind: [ended(kind, start, pairs, seed) for seed in range(options.seeds)] for kind in KINDS}
    rows = {"before": recall_of([test.cosines(start)], test.belongs)}
    rows |= {kind: recall_of([test.cosines(end) for end, _ in ends], test.belongs) for kind, ends in trained.items()}
    return {
        "data": data.name,
        "pictures": {"training": len(pairs.rows), "test": len(test.pictures)},
        "seeds": options.seeds,
        "gradients": gradients(model, kept),
        "targets": [
            {"projections": when, **targets(projections, test)}
            for when, projections in (("before", start), ("after", trained["contrastive"][0][0]))
        ],
        "lags": {kind: [lag for _, lag in ends] for kind, ends in trained.items() if kind != "contrastive"},
        "recall": rows,
    }


def ended(kind: str, start: Projections, pairs: Stored, seed: int) -> tuple[Projections, float]:
    """(trained projections, how far behind them the teacher was, as a share of their way so far, meaned over steps)."""
    model = copy.deepcopy(start)
    if kind == "contrastive":
        return train(model, pairs, symmetric_objective, seed), 0.0
    teaching = WrittenDistillation(model) if kind.endswith("as written") else SelfDistillation(model)
    lags: list[float] = []
    look: Callable[[], None] = lambda: lags.append(distance(teaching.teacher, model) / distance(start, model))  # noqa: E731
    return train(model, pairs, teaching, seed, look), fmean(lags)


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """Between their parameters."""
    squares = [(a - b).detach().square().sum() for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    return float(torch.stack(squares).sum().sqrt())


def gradients(model: Backbone, data: ImageDataset) -> list[dict[str, Any]]:
    """Logit scale and towers against the unchunked gradient of the same batch, for each number of chunks."""
    size = min(PAIRS, len(set(data.digests)))
    batch = next(PairStream(data, model, batch=size, seed=0).batches(0))
    contrastive_gradients(model, batch, identity_objective)
    whole = _gradients(model)
    rows = []
    for chunks in CHUNKS:
        written_gradients(model, batch, -(-size // chunks))
        rows.append({"chunks": chunks, "kind": "as written", **_compared(_gradients(model), whole)})
        contrastive_gradients(model, batch, identity_objective, chunk=-(-size // chunks))
        rows.append({"chunks": chunks, "kind": "ours", **_compared(_gradients(model), whole)})
    return rows


def _gradients(model: Backbone) -> tuple[Tensor, Tensor]:
    """(of the logit scale, of everything else in one row)."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in trained.items()}
    scale = found.pop("logit_scale")
    return scale, torch.cat([gradient.flatten() for gradient in found.values()])


def _compared(found: tuple[Tensor, Tensor], whole: tuple[Tensor, Tensor]) -> dict[str, float]:
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, whole, strict=True)]
    return {"scale_ratio": float(found[0] / whole[0]), "scale_error": errors[0], "towers_error": errors[1]}


@torch.no_grad()
def targets(model: Projections, test: Held) -> dict[str, Any]:
    """How often a teacher's target is largest at the matching pair, and its mean there; a caption of each picture."""
    own = torch.from_numpy(test.belongs.argmax(axis=1))
    images, texts = model.encode_image(test.pictures), model.encode_text(test.captions[own])
    both = {"as written": written_targets(images, texts)[0], "ours": transport_targets(images, texts).per_image}
    place = torch.arange(len(images))
    return {
        kind: {
            "found": accuracy_interval([(target.argmax(dim=1).cpu() == place).numpy()]).to_json(),
            "mean": float(target.diagonal().mean()),
            "even": 1 / len(images),
        }
        for kind, target in both.items()
    }


def table(found: dict[str, Any]) -> str:
    """A part per defect, and recall."""
    pictures = found["pictures"]
    title = (
        f"S3 on {found['data']}, {found['model']}: {pictures['training']:,} pictures to train on, "
        f"{pictures['test']:,} kept out, {found['seeds']} seeds"
    )
    return "\n\n".join([title, _gradient_table(found), _target_table(found), _lag_table(found), _recall_table(found)])


def _gradient_table(found: dict[str, Any]) -> str:
    head = ["gradient in chunks, beside that in one piece", "scale, ratio", "scale, error", "all else, error"]
    rows = [
        [
            f"{row['chunks']} chunks, {row['kind']}",
            tables.format_fraction(row["scale_ratio"]),
            *(f"{row[key]:.0e}" for key in ("scale_error", "towers_error")),
        ]
        for row in found["gradients"]
    ]
    return tables.format_plain([head, *rows])


def _target_table(found: dict[str, Any]) -> str:
    head = ["target of the teacher", "largest at the matching pair", "mean there", "if all were equal"]
    rows = [
        [
            f"{row['projections']} training, {kind}",
            tables.estimate(row[kind]["found"]["mean"], row[kind]["found"]["ci95"]),
            *(tables.format_fraction(row[kind][key]) for key in ("mean", "even")),
        ]
        for row in found["targets"]
        for kind in ("as written", "ours")
    ]
    return tables.format_plain([head, *rows])


def _lag_table(found: dict[str, Any]) -> str:
    head = ["teacher behind the student, share of its way, all steps", "mean", "least", "most"]
    rows = [
        [kind, *(f"{lag:.4f}" for lag in (fmean(lags), min(lags), max(lags)))] for kind, lags in found["lags"].items()
    ]
    return tables.format_plain([head, *rows])


def _recall_table(found: dict[str, Any]) -> str:
    ways = found["recall"]
    rows = [
        [
            key,
            *(tables.estimate(r[key]["mean"], r[key]["ci95"]) for r in ways.values()),
            tables.format_fraction(row["chance"]),
        ]
        for key, row in ways["before"].items()
    ]
    return tables.format_plain([["", *ways, "chance"], *rows])
