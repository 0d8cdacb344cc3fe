"""A whole search: the plain network in every step, against ours and its pass through the frozen layers.

The two take turns fold by fold in one study, so that the sampler, which sees our scores, draws the same for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.data.read import read_dataset
from clip_fewshot.few_shot.approach import MLP, MLP_ARCFACE, Point
from clip_fewshot.few_shot.cross_validation import CrossValidation
from clip_fewshot.few_shot.search.generation import Evaluate
from clip_fewshot.few_shot.search.space import SearchSpace
from clip_fewshot.few_shot.search.study import StudyPlan, run_study
from clip_fewshot.few_shot.select import FoldScore, TrialRecord
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.protocol.refits import PreparedSupport, Task, prepare
from experiments.benchmark.cases.step import step_times
from experiments.benchmark.options import Options
from experiments.benchmark.plain import Original, original, random_backbone
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import picture_folder
from experiments.benchmark.timing import Spent, Times, now
from experiments.benchmark.uncut import uncut

APPROACHES = (MLP_ARCFACE, MLP)  # those that train the image tower alone, as the steps do that are compared with
SIDES = ("naive", "ours")
DIGITS = ("digits", "digits-wild")  # on plain digits scores near 1 are soon out of reach, which prunes more than usual


@dataclass(frozen=True)
class Sizes:
    """The search that is measured; ``steps_batch`` is the batch of the steps that its ratio is held against."""

    classes: int = 20
    shots: int = 4
    trials: int = 6
    epochs: int = 6
    max_unfreeze: int = 4
    steps_batch: int = 16
    digits_trials: int = 50
    digits_epochs: int = 10


@dataclass(frozen=True)
class Large:
    """The search that is extrapolated to."""

    classes: int = 100
    shots: int = 16
    trials: int = 50
    folds: int = 3


def rows(options: Options, sizes: Sizes | None = None) -> Iterator[Row]:
    """A whole study the plain way and ours, and the large one by extrapolation."""
    sizes = sizes or Sizes()
    backbone = random_backbone(options.arch or "ViT-B/32", options.seed)
    plain = original(backbone)
    found = measured(backbone, sizes, options)
    depths = range(1, sizes.max_unfreeze + 1)
    steps = {n: step_times(backbone, plain, n, sizes.steps_batch, options) for n in depths}
    yield searched(found, steps, sizes, plain)
    shares = []
    for data in DIGITS:
        pruned, share = pruning(data, sizes, options)
        shares.append(share)
        yield pruned
    yield extrapolated(found, steps, max(shares), Large(), options)


@dataclass
class Found:
    """One search in which both sides took turns.

    Attributes:
        pictures: that went through the frozen layers. prefix: what that took; ours alone has to pay it.
        spent: on trials, by side. points, scores: of each trial; scores by side.
    """

    pictures: int
    prefix: Spent
    spent: dict[str, Spent] = field(default_factory=lambda: dict.fromkeys(SIDES, Spent(0.0, 0.0)))
    points: list[Point] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)

    @property
    def depths(self) -> list[int]:
        """N of each trial that trained image layers."""
        return [point.unfreeze for point in self.points if point.unfreeze]

    def score(self, benches: dict[str, CrossValidation], point: Point, fold: int) -> FoldScore:
        """Train and score a point on each side, the first one in turns; the search learns ours."""
        scores = {}
        for side in SIDES if len(self.points) % 2 else SIDES[::-1]:
            began = now()
            scores[side] = benches[side].score(point, fold)
            self.spent[side] += now() - began
        self.points.append(point)
        self.scores.append({side: score.value for side, score in scores.items()})
        return scores["ours"]


def measured(backbone: Backbone, sizes: Sizes, options: Options) -> Found:
    """Trials on one fold each, so that nothing can be pruned."""
    with picture_folder(sizes.classes, sizes.shots, options.seed) as folder, TemporaryDirectory() as trials:
        settings = TrainSettings(epochs=sizes.epochs, min_steps=1)
        task = Task(backbone, read_dataset(folder), sizes.shots, settings, views=1, seed=options.seed)
        images = task.support(0)
        began = now()
        prepared = prepare(task, images, range(sizes.max_unfreeze + 1))
        found = Found(len(images), now() - began)
        ours = workbench(task, prepared)
        benches = {"naive": uncut(ours, images), "ours": ours}
        plan = StudyPlan(sizes.trials, 1, options.seed, Path(trials))
        space = SearchSpace(APPROACHES, sizes.max_unfreeze)
        run_study(space, lambda point, fold: found.score(benches, point, fold), plan)
    return found


def workbench(task: Task, prepared: PreparedSupport) -> CrossValidation:
    """What trains and scores one trial."""
    recipe = prepared.recipe(task, MLP_ARCFACE.point)
    return CrossValidation(task.backbone, prepared.data, recipe, task.by_name, task.folds(prepared.data.labels))


def searched(found: Found, steps: dict[int, dict[str, Times]], sizes: Sizes, plain: Original) -> Row:
    """The search, held against the steps of the N that it drew."""
    naive, ours = (sum(steps[n][side].cpu for n in found.depths) for side in SIDES)
    bound = 0.8 * naive / ours if ours else None
    apart = max(abs(scores["naive"] - scores["ours"]) for scores in found.scores)
    plain_best, our_best = (int(np.argmax([scores[side] for scores in found.scores])) for side in SIDES)
    checks = (
        Check("validation scores apart", apart, 1e-3),
        Check("best trials apart", float(plain_best != our_best), 0.0),
    )
    drawn = ", ".join(str(point.unfreeze) for point in found.points if point.unfreeze)
    mean = fmean(steps[n]["naive"].cpu / steps[n]["ours"].cpu for n in found.depths) if found.depths else 0.0
    note = (
        f"Search: {sizes.epochs} epochs, one validation fold, N drawn: {drawn}; measured once, the sides in turns by "
        f"trial; plain way: {plain.name} in every step, on pixels decoded once. Ours includes the pass through the "
        f"frozen layers ({found.prefix.cpu:.1f} s of CPU). Asked is what the steps alone give over the N drawn (time "
        f"of all plain steps over that of all of ours), less 20 %; the mean of their ratios, {mean:.1f}x, no search "
        "can reach, as times add up and ratios do not."
    )
    what = f"search, {sizes.classes} x {sizes.shots}, {sizes.trials} trials, nothing pruned"
    total = Times((found.spent["ours"] + found.prefix,))
    return Row(what, "search", total, Times((found.spent["naive"],)), bound, checks, note)


def pruning(data: str, sizes: Sizes, options: Options) -> tuple[Row, float]:
    """The search on scans of digits with and without pruning, and the share of folds that pruning left."""
    pool, backbone = read_dataset(data), load_backbone("mini", device="cpu")
    settings = TrainSettings(epochs=sizes.digits_epochs, min_steps=1)
    task = Task(backbone, pool, 16, settings, views=1, seed=options.seed)
    prepared = prepare(task, task.support(0), range(sizes.max_unfreeze + 1))
    bench = workbench(task, prepared)
    folds = len(bench.folds)

    def every_fold(point: Point, fold: int) -> FoldScore:
        return FoldScore(fmean(bench.score(point, i).value for i in range(folds)))

    def run(score: Evaluate, folds: int) -> tuple[Spent, Sequence[TrialRecord]]:
        with TemporaryDirectory() as trials:
            plan, began = StudyPlan(sizes.digits_trials, folds, options.seed, Path(trials)), now()
            records = run_study(SearchSpace(APPROACHES, sizes.max_unfreeze), score, plan)
            return now() - began, records

    whole, unpruned = run(every_fold, 1)
    short, records = run(bench.score, folds)
    tops = [max(r.value for r in kept if r.state == "COMPLETE") for kept in (unpruned, records)]
    n = len(prepared.data.labels)
    error = (tops[0] * (1 - tops[0]) / n + 1 / n**2) ** 0.5
    share = sum(len(record.fold_values) for record in records) / (folds * len(records))
    checks = (
        Check("winner's score below the unpruned one's", tops[0] - tops[1], error),
        Check("share of the folds run", share, 0.5),
    )
    note = f"With and without pruning: the bound is one standard error of a score on {n} pictures; measured once."
    what = f"search on {data} with mini, {sizes.digits_trials} trials: unpruned against pruned"
    return Row(what, "search", Times((short,)), Times((whole,)), None, checks, note), share


def extrapolated(found: Found, steps: dict[int, dict[str, Times]], share: float, large: Large, options: Options) -> Row:
    """What the measured steps, pass and share add up to for a search that is too long to wait for."""
    n = large.classes * large.shots
    trained = n - n // large.folds
    settings = TrainSettings()
    pictures = large.trials * large.folds * settings.steps(trained) * settings.batch_size(trained)

    def total(side: str, kept: float) -> Spent:
        per_picture = [fmean(getattr(times[side], clock) for times in steps.values()) for clock in ("cpu", "wall")]
        return Spent(*(kept * pictures * seconds for seconds in per_picture))

    passed = Spent(*(seconds * n / found.pictures for seconds in found.prefix))
    naive, ours = total("naive", 1.0), total("ours", share) + passed
    note = (
        f"Extrapolated, not run: {pictures:,} pictures in steps of N = 1 to {max(steps)} in equal parts at the steps' "
        f"medians, the larger share, {share:.2f}, of them with pruning, and the pass over {n:,} pictures; no decoding."
    )
    what = f"search, {large.classes} x {large.shots}, {large.trials} trials, ours pruned: extrapolated"
    return Row(what, "search", Times((ours,)), Times((naive,)), 8, (), note)
