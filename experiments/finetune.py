"""Tune a pretrained CLIP on pairs, or on pictures with classes: `python -m experiments.finetune photos/ --out DIR`.

On several processes: `torchrun --nproc-per-node 2 -m experiments.finetune photos/ --out DIR`, or `--spark`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import clip_fewshot as cf
from clip_fewshot.config import MODELS, DataOptions
from experiments import opening, tables
from experiments.options import run
from experiments.progress import show_progress

PROG = "python -m experiments.finetune"
DESCRIPTION = (
    "Contrastive fine-tuning on captioned pictures, or on pictures with classes, whose captions are made from class "
    "names. Zero-shot accuracy, or recall both ways, on pictures kept out, before and after. DIR/model is the result."
)
BATCH, CLIP_NORM = 64, 1.0
TRAINING, MODEL, TASK, RESULTS = "training", "model", "task.json", "results.json"
MAY_DIFFER = {"out", "resume", "chunk", "device", "json", "spark", "processes"}  # from a run to the one that goes on


@dataclass(frozen=True)
class Options:
    """The command line."""

    out: Path = cf.option(None, "folder for the model, checkpoint and results (required)")
    data: str = cf.option("digits", "captioned or labelled pictures; or digits, digits-wild", positional=True)
    model: str | None = cf.option(None, f"{MODELS} (default: ViT-B/32; mini for digits)")
    unfreeze: int = cf.option(1, "last layers of each tower that train")
    lock: Literal["none", "image", "text"] = cf.option("none", "a tower that stays as it is")
    head: Literal["none", "linear", "attention"] = cf.option(
        "none", "added to each tower: linear is merged into it at the end, attention reads all tokens and stays"
    )
    prompts: int = cf.option(0, "deep visual prompts per block, trained alone (with --unfreeze 0)")
    backbone_lr: float = cf.option(1e-5, "peak learning rate of pretrained layers")
    head_lr: float = cf.option(1e-3, "peak learning rate of heads and prompts")
    weight_decay: float = cf.option(0.2, "on matrices")
    distil: float = cf.option(0.0, "share of the targets from a running mean of the model itself, in [0, 1]")
    epochs: int = cf.option(10, "passes over the pictures, each with other captions")
    batch: int | None = cf.option(None, f"pairs in a step, of all processes together (default: {BATCH}, or all)")
    chunk: int | None = cf.option(None, "pairs in one pass: memory falls with it, the gradient stays (default: all)")
    shots: int | None = cf.option(None, "training pictures per class (default: all)")
    test_fraction: float = cf.option(0.2, "of the pictures kept out, where DATA itself has no test part")
    truncate: bool = cf.option(False, "cut captions that are too long instead of refusing them")
    resume: bool = cf.option(False, "go on from the checkpoint in --out")
    seed: int = cf.option(0, "of the parts, order, captions and heads")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    spark: bool = cf.option(False, "start the processes by Spark (on this machine, if it has no other master)")
    processes: int = cf.option(2, "how many, with --spark")
    json: bool = cf.option(False, "print JSON")

    def __post_init__(self) -> None:
        if self.out is None:
            raise cf.UsageError(expected="a folder", got="none", fix="give --out DIR", where="--out")
        for name in ("epochs", "batch", "shots", "processes"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise cf.UsageError(
                    expected="1 or more", got=str(getattr(self, name)), fix=f"change --{name}", where=f"--{name}"
                )
        if not 0 < self.test_fraction < 1:
            raise cf.UsageError(
                expected="inside (0, 1)", got=str(self.test_fraction), fix="change it", where="--test-fraction"
            )
        _ = self.plan  # checks the rest

    @property
    def plan(self) -> cf.FineTuning:
        """What trains."""
        return cf.FineTuning(
            unfreeze=self.unfreeze,
            lock=self.lock,
            head=self.head,
            prompts=self.prompts,
            backbone_lr=self.backbone_lr,
            head_lr=self.head_lr,
            seed=self.seed,
        )


def main(options: Options) -> int:
    if options.spark:
        from experiments.spread import finetune_by_spark

        found = finetune_by_spark(options)
    else:
        with cf.join_world() as world:
            found = finetune(options, world)
    if found:
        print(json.dumps(found, indent=1) if options.json else summary(found))
    return 0


def finetune(options: Options, world: cf.World) -> dict[str, Any]:
    """Measure, train, save, measure what was saved; each process calls this, and the first one does all but train."""
    started, leads = time.perf_counter(), world.rank == 0
    data = opening.dataset(options.data) if leads else cf.read_dataset(options.data)
    name = DataOptions(data=options.data, model=options.model).model_name
    pretrained = cf.load_backbone(name, device=options.device)
    kept, held = divided(data, pretrained, options)
    tuned = cf.tunable(pretrained, options.plan)
    trained, total = cf.count_parameters(tuned)
    n = rerun(pretrained, options, world)
    pairs = source(kept, tuned, options, world, numbered=n is not None)
    if leads:
        begin(options, task(options, data, pretrained))
    before = measure(pretrained, held, options) if leads else {}
    with cf.replayed_pictures(tuned, pretrained, pairs.pictures, n):
        train(tuned, pairs, options, world)
    if not leads:
        return {}
    cf.save_tuned(tuned, options.out / MODEL)
    after = measure(cf.load_tuned(options.out / MODEL, pretrained), held, options)
    found = {
        "schema": 1,
        "model": name,
        "data": data.name,
        "pictures": {"training": len(set(kept.digests)), "test": len(set(held.digests))},
        "parameters": {"trained": trained, "all": total},
        "training": last_epoch(options.out / TRAINING, pairs.steps()),
        "before": before,
        "after": after,
        "seconds": time.perf_counter() - started,
    }
    cf.write_json(options.out / RESULTS, found)
    return found | {"folder": str(options.out / MODEL)}


def divided(data: cf.ImageDataset, model: cf.Backbone, options: Options) -> tuple[cf.ImageDataset, cf.ImageDataset]:
    """(training, test): the source's own parts, or by a hash of the content."""
    if data.captions is None:
        split = cf.split_open_world(
            data, shots=options.shots or 1, seed=options.seed, test_fraction=options.test_fraction
        )
        opening.warn(split.warnings)
        return (split.support if options.shots else split.pool), split.test.open("zero-shot accuracy")
    if options.shots is not None:
        raise cf.UsageError(expected="pictures with classes", got="captions", fix="leave it out", where="--shots")
    cf.PairStream(data, model, batch=1, seed=0, truncate=options.truncate)  # names captions that are too long, of both
    pictures = len(set(data.digests))
    return cf.split_pairs(data, max(1, round(options.test_fraction * pictures)), options.seed)


def rerun(pretrained: cf.Backbone, options: Options, world: cf.World) -> int | None:
    """How many last layers of the image tower must run at each step; None: no states are stored.

    Every process would have to store those of all pictures. The running mean of --distil is a model of its own.
    """
    alone = world.size == 1 and not options.distil
    return cf.replayed_blocks(options.plan, pretrained.visual) if alone else None


def source(
    data: cf.ImageDataset, model: cf.Backbone, options: Options, world: cf.World, numbered: bool
) -> cf.PairStream | cf.CaptionedStream:
    """This process's part of the pairs."""
    stream = cf.CaptionedStream if data.captions is None else cf.PairStream
    batch = min(BATCH, len(set(data.digests))) if options.batch is None else options.batch
    return stream(
        data,
        model,
        batch=batch,
        seed=options.seed,
        rank=world.rank,
        world=world.size,
        truncate=options.truncate,
        numbered=numbered,
    )


def task(options: Options, data: cf.ImageDataset, model: cf.Backbone) -> dict[str, Any]:
    """What a run that goes on must share with the one that began."""
    chosen = {key: value for key, value in asdict(options).items() if key not in MAY_DIFFER}
    captions = hashlib.sha256("\n".join(data.captions or ()).encode("utf-8", "surrogatepass")).hexdigest()
    return chosen | {"model": model.digest, "data": data.fingerprint(), "captions": captions}


def begin(options: Options, now: dict[str, Any]) -> None:
    """Note the task in the folder; a folder in which another one was begun is refused."""
    path = options.out / TASK
    if path.exists():
        was = cf.read_json(path)
        other = sorted(key for key in now if was.get(key) != now[key])
        if other:
            fix = "repeat the options it began with, or choose a new folder"
            raise cf.UsageError(
                expected="the task that was begun there",
                got=f"another {', '.join(other)}",
                fix=fix,
                where=str(options.out),
            )
        if not options.resume:
            raise cf.UsageError(
                expected="a new folder", got="one with a training", fix="add --resume", where=str(options.out)
            )
    cf.write_json(path, now)


def train(model: cf.Backbone, pairs: cf.PairSource, options: Options, world: cf.World) -> None:
    """``model``, in place."""
    settings = options.plan.options(
        epochs=options.epochs,
        weight_decay=options.weight_decay,
        clip_norm=CLIP_NORM,
        chunk=options.chunk,
        seed=options.seed,
    )
    total = settings.total(pairs.steps())
    with show_progress() as update:
        cf.train_contrastive(
            model,
            pairs,
            settings,
            objective=cf.SelfDistillation(model, options.distil) if options.distil else None,
            world=world,
            on_step=lambda report: update("training", report.step + 1, total) if world.rank == 0 else None,
            folder=options.out / TRAINING,
            resume=options.resume,
        )


def last_epoch(folder: Path, steps: int) -> dict[str, float]:
    """Mean loss of the last epoch, and of the least that its batches allowed."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    last = [line for line in lines if line["kind"] == "train"][-steps:]
    means = {key: sum(line[key] for line in last) / len(last) for key in ("loss", "floor")}
    return means | {"steps": last[-1]["step"], "scale": last[-1]["scale"]}


def measure(model: cf.Backbone, held: cf.ImageDataset, options: Options) -> dict[str, dict[str, Any]]:
    """Name of a figure -> mean, ci95, n_test, chance."""
    if held.captions is not None:
        from experiments.recall import recalls

        return recalls(model, held, options.truncate)
    from experiments.zero_shot import probabilities

    names = held.label_space.names
    right = probabilities(model, held, names, cf.TEMPLATES).argmax(dim=1).numpy() == held.required_labels()
    return {"zero-shot accuracy": cf.interval([right]).to_json() | {"chance": 1 / len(names)}}


def summary(found: dict[str, Any]) -> str:
    """A line per figure."""
    head = ["", "before", "after", "chance"]
    parts, chances = (found["before"], found["after"]), {key: row["chance"] for key, row in found["after"].items()}
    rows = [
        [key, *(tables.estimate(part[key]["mean"], part[key]["ci95"]) for part in parts), tables.fraction(chance)]
        for key, chance in chances.items()
    ]
    pictures, parameters, training = found["pictures"], found["parameters"], found["training"]
    excess = training["loss"] - training["floor"]
    return "\n".join(
        [
            f"{found['data']}, {found['model']}: {pictures['training']:,} pictures to train on, "
            f"{pictures['test']:,} kept out; {parameters['trained']:,} of {parameters['all']:,} parameters trained",
            f"{training['steps']:,} steps in {found['seconds']:.0f} s; loss of the last epoch {training['loss']:.3f}, "
            f"{excess:.3f} above the least possible; scale {training['scale']:.1f}",
            "",
            tables.plain([head, *rows]),
            "",
            f"model: {found['folder']}",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
