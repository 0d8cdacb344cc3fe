"""S0: five pictures of each of ten digits, everything frozen but an output layer, twenty epochs of batches of ten.

As written, the pictures come class by class with one caption per class, so a batch holds five copies of two captions,
and each copy counts as a wrong answer to the other four. That loss cannot fall below ln 5, which nothing says: a curve
that ends at 1.61 looks like a training that failed. Ours shares the target among equal captions. Where the captions are
equal to the letter that is the same gradient and the same floor, but a floor that is known, so that what is left above
it tells how far the training came. The third row also removes the cause: captions drawn again, in mixed batches.

S0 asks whether a digit is better called 0 or zero, of four models, and its table of after-values ends in blanks:
``--models RN50,RN101,ViT-B/16,ViT-B/32`` measures all of it, each row printed as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.commands.cli import opening
from clip_fewshot.contrastive.finetuning import FineTuning, make_tunable, merge_heads
from clip_fewshot.contrastive.trainer import StepReport, train_contrastive
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.batch import PairBatch, PairSource, caption_ids
from clip_fewshot.data.pairs.captioned import CaptionedStream
from clip_fewshot.data.sampling import draw_support, split_open_world
from clip_fewshot.data.templates import fill_template
from clip_fewshot.errors import ClipFewShotError, UsageError
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.protocol.compare_backbones import list_models, try_backbone
from clip_fewshot.protocol.zero_shot_accuracy import zero_shot_probabilities
from clip_fewshot.report import tables
from clip_fewshot.types import BoolArray
from experiments.recipes.options import NAME_SETS

if TYPE_CHECKING:
    from experiments.recipes.options import Options

SHOTS, BATCH, EPOCHS, CAPTION = 5, 10, 20, "a photo of the number {}"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RENAMED = {"digits": dict(zip(WORDS, "0123456789", strict=True)), "words": dict(zip("0123456789", WORDS, strict=True))}
PLAN = FineTuning(unfreeze=0, head="linear", head_lr=3e-3)
RECIPES = {"as written": True, "shared targets": False, "captions drawn anew": False}  # identity targets
PUBLISHED_TEST = 50  # pictures behind each published figure
# (model, names) -> published accuracy before and after; None is a blank of S0.
PUBLISHED: dict[tuple[str, str], tuple[float, float | None]] = {
    ("RN50", "digits"): (0.56, 0.60),
    ("RN101", "digits"): (0.52, 0.68),
    ("ViT-B/16", "digits"): (0.66, None),
    ("ViT-B/32", "digits"): (0.52, None),
    ("RN50", "words"): (0.34, None),
    ("RN101", "words"): (0.36, None),
    ("ViT-B/16", "words"): (0.54, None),
    ("ViT-B/32", "words"): (0.22, None),
}
HEAD = ("model, names, recipe", "before", "after", "published: before", "after", "loss", "least possible", "above it")
INTERVAL = "0.000 [0.000, 0.000]"
LIKE = (*[INTERVAL] * 4, "0.000", "0.000", "0.000")
Pairs = PairSource | list[PairBatch]


def run(options: Options) -> dict[str, Any]:
    """All models, names of the classes, recipes and seeds, on the same sealed pictures; rows are printed as they come.

    A model that cannot be had is a row with its reason.
    """
    first = () if options.models and options.model is None else (options.model_name,)
    names = list_models((*first, *options.models))
    templates = opening.open_templates(options, ())
    data = opening.open_data(options.data, **options.reading())
    split = split_open_world(data, shots=SHOTS, seed=0)
    sets, test = choose_names(split.seen.names, options.name_sets), split.test.open("S0")
    about = {"data": data.name, "test_pictures": len(test), "seeds": options.seeds}
    titles = [title(name, naming, recipe) for name in names for naming in sets for recipe in RECIPES]
    widths = tables.measure_columns([HEAD, *((one, *LIKE) for one in titles)])
    show(options, f"{describe(about)}\n\n{tables.format_row(HEAD, widths)}")
    rows: list[dict[str, Any]] = []
    for name in names:
        for row in measured(name, sets, split.pool, test, templates, options):
            rows.append(row)
            show(options, line(row, widths))
    missing = [row["model"] for row in rows if "error" in row]
    return about | {"model": ", ".join(names), "models": list(names), "missing": missing, "rows": rows}


def choose_names(classes: Sequence[str], asked: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Name set -> new names by old ones; classes that are no digits keep the names that they have."""
    if set(classes) <= {*WORDS, *"0123456789"}:
        return {name: RENAMED[name] for name in asked or NAME_SETS}
    if asked:
        fix = "leave it out"
        raise UsageError(expected="digits as classes", got=", ".join(classes[:3]), fix=fix, where="`name_sets`")
    return {"as they are": {}}


def measured(
    name: str,
    sets: Mapping[str, Mapping[str, str]],
    pool: ImageDataset,
    test: ImageDataset,
    templates: Sequence[str],
    options: Options,
) -> Iterator[dict[str, Any]]:
    """The rows of one model, or the one that says why there are none."""
    model = try_backbone(name, options.device)
    if isinstance(model, ClipFewShotError):
        opening.warn([f"{name}: {model}"])
        yield {"model": name, "error": model.got}
        return
    for naming, rename in sets.items():
        renamed_pool, held = renamed(pool, rename), renamed(test, rename)
        supports = [draw_support(renamed_pool, SHOTS, seed) for seed in range(options.seeds)]
        before = accuracy_interval([right(model, held, templates)]).to_json()
        for recipe in RECIPES:
            ends = [trained(model, support, recipe, seed, templates) for seed, support in enumerate(supports)]
            after = accuracy_interval([right(tuned, held, templates) for tuned, _, _ in ends]).to_json()
            losses, floors = [loss for _, loss, _ in ends], [floor for _, _, floor in ends]
            figures = {"loss": fmean(losses), "floor": fmean(floors), "losses": losses}
            found = {"model": name, "names": naming, "recipe": recipe, "before": before, "after": after} | figures
            yield found | ({"published": published(name, naming)} if recipe == "as written" else {})


def published(name: str, naming: str) -> dict[str, Any] | None:
    """The source's own figures with the intervals that fifty pictures leave; None of a model that it does not have."""
    if (name, naming) not in PUBLISHED:
        return None
    of_fifty = {
        when: None if value is None else accuracy_interval([np.arange(PUBLISHED_TEST) < round(value * PUBLISHED_TEST)])
        for when, value in zip(("before", "after"), PUBLISHED[name, naming], strict=True)
    }
    return {when: None if found is None else found.to_json() for when, found in of_fifty.items()}


def renamed(data: ImageDataset, names: Mapping[str, str]) -> ImageDataset:
    """The same pictures, their classes under other names."""
    new = tuple(names.get(name, name) for name in data.label_space.names)
    return replace(data, label_space=replace(data.label_space, names=new))


def trained(
    model: Backbone, support: ImageDataset, recipe: str, seed: int, templates: Sequence[str] = ()
) -> tuple[Backbone, float, float]:
    """(tuned model, mean loss of the last epoch, mean of the least that its batches allowed)."""
    tuned = make_tunable(model, PLAN)
    pairs: Pairs = in_order(support, tuned, templates[0] if templates else CAPTION)
    if recipe == "captions drawn anew":
        pairs = CaptionedStream(support, tuned, batch=BATCH, seed=seed, templates=templates)
    reports: list[StepReport] = []
    note: Callable[[StepReport], None] = reports.append
    options = PLAN.options(epochs=EPOCHS, identity_targets=RECIPES[recipe], seed=seed)
    train_contrastive(tuned, pairs, options, on_step=note)
    last = [report for report in reports if report.epoch == EPOCHS - 1]
    return merge_heads(tuned), fmean(r.loss for r in last), fmean(r.floor for r in last)


def in_order(support: ImageDataset, model: Backbone, caption: str = CAPTION) -> list[PairBatch]:
    """The pictures class by class, with their class's one caption, in batches of ten."""
    import torch

    labels = support.required_labels()
    order = np.argsort(labels, kind="stable")
    names = support.label_space.decode(labels[order])
    images = torch.stack([model.preprocess(support.open(int(row))) for row in order])
    tokens = model.tokenize([fill_template(caption, name) for name in names])
    parts = zip(torch.split(images, BATCH), torch.split(tokens, BATCH), strict=True)
    return [PairBatch(some, texts, caption_ids(texts)) for some, texts in parts]


def right(model: Backbone, held: ImageDataset, templates: Sequence[str] = ()) -> BoolArray:
    """(n,) whether the nearest class name is the true one."""
    names = held.label_space.names
    guesses = zero_shot_probabilities(model, held, names, templates or TEMPLATES).argmax(dim=1).numpy()
    return np.asarray(guesses == held.required_labels())


def title(name: str, naming: str, recipe: str) -> str:
    """What stands first in a row."""
    return f"{name}, {naming}, {recipe}"


def line(row: Mapping[str, Any], widths: Sequence[int]) -> str:
    """One row."""
    if "error" in row:
        return tables.format_row([row["model"], f"not to be had: {row['error']}"], widths)
    told = row.get("published") or {}
    cells = [
        title(row["model"], row["names"], row["recipe"]),
        *(tables.estimate_of(row[when]) for when in ("before", "after")),
        *((tables.estimate_of(told[when]) if told[when] else "blank") if told else "-" for when in ("before", "after")),
        *map(tables.format_fraction, (row["loss"], row["floor"], row["loss"] - row["floor"])),
    ]
    return tables.format_row(cells, widths)


def describe(found: Mapping[str, Any]) -> str:
    """What stands above the rows."""
    return (
        f"S0 on {found['data']}: {SHOTS} pictures per class, batches of {BATCH}, {EPOCHS} epochs, {found['seeds']} "
        f"draws, {found['test_pictures']:,} pictures kept out; loss of the last epoch"
    )


def show(options: Options, text: str) -> None:
    """A part of the answer as soon as it is there, unless all of it is asked for as JSON."""
    if not options.json:
        print(text, flush=True)


def table(found: Mapping[str, Any]) -> str:
    """What stands below the rows."""
    told = [row for row in found["rows"] if row.get("published")]
    blanks = sum(row["published"]["after"] is None for row in told)
    all_blanks = sum(after is None for _, after in PUBLISHED.values())
    return (
        f"\nPublished figures are of {PUBLISHED_TEST} pictures; {blanks} of S0's {all_blanks} blanks are filled above."
    )
