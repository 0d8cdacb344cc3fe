"""From what was measured to results.json (schema 1) and the arrays and pictures of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_fewshot.data.collect import list_warnings
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import number
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.discovery.undecided import Regrouped
from clip_fewshot.evaluation import clustering, metrics
from clip_fewshot.evaluation.intervals import accuracy_interval, paired_difference, statistic_interval
from clip_fewshot.evaluation.reliability import score_probabilities
from clip_fewshot.evaluation.sample_size import count_images_to_settle
from clip_fewshot.few_shot.approach import BASELINE_NAMES, PROBE, ZERO_SHOT
from clip_fewshot.few_shot.select import TrialRecord, describe_changes, select_by_approach
from clip_fewshot.open_world.alternatives import NoveltyChoice
from clip_fewshot.plots.views import TrialRow
from clip_fewshot.protocol.examples import draw_examples
from clip_fewshot.protocol.final_test import FinalTest, OpenWorldTest, Rejection
from clip_fewshot.protocol.refits import Fit, Task
from clip_fewshot.protocol.rehearsal import measure_rehearsal
from clip_fewshot.protocol.report_views import discovery_view, embedding_views, novelty_view, reliability_curves
from clip_fewshot.report.record import RunRecord
from clip_fewshot.types import FloatArray, LabelArray, LabelSpace

STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
PROBE_KEY = "linear_probe"
RESULT_KEYS = {PROBE: PROBE_KEY, ZERO_SHOT.name: "zero_shot"}  # the two that results.json knows by other names


def method_entry(labels: LabelArray, probabilities: Sequence[FloatArray]) -> dict[str, Any]:
    """Accuracy, log loss, Brier score and calibration error over support sets with their intervals, and macro-F1."""
    predictions = [table.argmax(axis=1) for table in probabilities]
    return accuracy_entry(labels, predictions) | score_probabilities(labels, probabilities).to_json()


def accuracy_entry(labels: LabelArray, predictions: Sequence[LabelArray]) -> dict[str, Any]:
    """Accuracy over support sets with its interval, and macro-F1."""
    correct = [predicted == labels for predicted in predictions]
    macro_f1 = float(np.mean([metrics.macro_f1(labels, predicted) for predicted in predictions]))
    return accuracy_interval(correct).to_json() | {"macro_f1": macro_f1}


def difference_entry(labels: LabelArray, best: Sequence[LabelArray], other: Sequence[LabelArray]) -> dict[str, Any]:
    """Accuracy of the best minus that of another, on the same support sets and pictures."""
    right = [p == labels for p in best], [p == labels for p in other]
    settled = count_images_to_settle(*right)
    return {"n_test": len(labels)} | paired_difference(*right).to_json() | {"n_images_to_settle": settled}


def novelty_entry(rejections: Sequence[Rejection], alpha: float, detector: str) -> dict[str, Any]:
    """Mean over support sets; the per-set values stand beside each."""
    table: dict[str, list[float]] = {}
    all_scores = [np.concatenate([rejection.known, rejection.novel]) for rejection in rejections]
    is_novel = np.arange(len(all_scores[0])) >= len(rejections[0].known)
    for rejection, scores in zip(rejections, all_scores, strict=True):
        row = {
            "auroc": metrics.auroc(is_novel, scores),
            "eer": metrics.eer(is_novel, scores),
            "fpr95": metrics.fpr95(is_novel, scores),
        }
        if rejection.rejector.refusal(alpha) is None:
            p = np.concatenate([rejection.p_known, rejection.p_novel])
            rates = metrics.rates_at(is_novel, rejection.rejector.flags(p, alpha))
            row |= {"false_alarm_rate": float(rates[0] or 0.0), "detection_rate": float(rates[1] or 0.0)}
        for name, value in row.items():
            table.setdefault(name, []).append(value)
    entry: dict[str, Any] = {"detector": detector, "alpha": alpha, "false_alarm_rate": None, "detection_rate": None}
    entry |= {name: float(np.mean(values)) for name, values in table.items()}
    entry["auroc_ci95"] = list(statistic_interval(metrics.auroc, is_novel, all_scores).ci95)
    return entry | {"per_seed": table, "refused": rejections[0].rejector.refusal(alpha)}


def discovery_entry(grouped: Regrouped, met: OpenWorldTest, unseen: LabelSpace) -> dict[str, Any]:
    """How the groups agree with the classes they really show, false alarms included, each class as itself.

    ``n_flagged`` pictures were called unknown; ``n_joined`` were given a class, and joined a group.
    """
    found, truth = grouped.found, [met.names[i] for i in grouped.rows]
    entry: dict[str, Any] = {
        "n_clusters": found.n_clusters,
        "n_unseen": len(unseen),
        "n_flagged": int(met.unknown.sum()),
        "n_joined": int((~met.unknown[grouped.rows]).sum()),
        "ari": None,
        "nmi": None,
        "accuracy": None,
    }
    if len(truth) > 1:
        _, labels = np.unique(list(truth), return_inverse=True)
        entry |= {
            "ari": clustering.ari(labels, found.labels),
            "nmi": clustering.nmi(labels, found.labels),
            "accuracy": clustering.clustering_accuracy(labels, found.labels),
        }
    return entry


def trial_rows(trials: Sequence[TrialRecord]) -> tuple[TrialRow, ...]:
    """The search history as the report lists it."""
    return tuple(
        {
            "number": t.number,
            "approach": RESULT_KEYS.get(t.params["approach"], t.params["approach"]),
            "state": STATES[t.state],
            "value": t.value if t.fold_values and t.state != "FAIL" else None,
            "params": t.point.searched(),
            "seconds": t.seconds,
        }
        for t in trials
    )


def describe_unlabelled(given: ImageDataset | None, task: Task, fits: Sequence[Fit]) -> dict[str, Any]:
    """For results: what became of the unlabelled pictures on each support set; {} where none were given."""
    if given is None or task.unlabelled is None:
        return {}
    used = [model.unlabelled for fit in fits for model in fit.models.values() if model.unlabelled is not None]
    entry = {"pictures": len(given), "sealed": len(given) - len(task.unlabelled), "warnings": list_warnings(given)}
    return {"unlabelled": entry | {"per_seed": [one.to_json() for one in used], "said": [str(one) for one in used]}}


@dataclass(frozen=True)
class Run:
    """Everything a finished run knows; what the two documents are made of.

    Attributes:
        options: as they are written down. alpha: the one in force.
        notes: warnings of the search.
    """

    options: Mapping[str, Any]
    alpha: float
    dataset: ImageDataset
    split: OpenWorldSplit
    trials: Sequence[TrialRecord]
    outcome: FinalTest
    met: OpenWorldTest
    choice: NoveltyChoice | None
    naive_seconds: float
    notes: Sequence[str] = ()

    def results(self) -> dict[str, Any]:
        """results.json of schema 1, less environment, timing and artifacts, which the pipeline adds."""
        outcome, labels = self.outcome, self.outcome.test.required_labels()
        said = {name: outcome.probabilities(name) for name in outcome.fits[-1].models}
        entries = {name: self._entry(name, tables) for name, tables in said.items()}
        predicted = {name: [table.argmax(axis=1) for table in tables] for name, tables in said.items()}
        zero_shot = None if outcome.zero_shot is None else method_entry(labels, [outcome.zero_shot])
        if zero_shot is not None:
            entries[ZERO_SHOT.name] |= {"test": zero_shot}
        differences = {
            RESULT_KEYS.get(name, name): difference_entry(labels, predicted[outcome.best], other)
            for name, other in (predicted | {"raw_pixels": outcome.raw_pixels}).items()
            if name != outcome.best
        }
        best = entries[outcome.best] | {"approach": RESULT_KEYS.get(outcome.best, outcome.best)}
        best |= {"differences": differences}
        if outcome.best != PROBE:
            best["difference_to_probe"] = differences[PROBE_KEY]
        return {
            "schema": 1,
            "dataset": self._dataset(),
            "config": dict(self.options),
            "seeds": [fit.draw for fit in outcome.fits[1:]],
            "zero_shot": zero_shot,
            "raw_pixels": accuracy_entry(labels, outcome.raw_pixels),
            "linear_probe": entries[PROBE]["test"] | {"params": entries[PROBE]["params"]},
            "approaches": {name: entry for name, entry in entries.items() if name not in RESULT_KEYS},
            "best": best,
            "novelty": self._novelty(),
            "rehearsal": self._rehearsal(),
            "shift": outcome.shift.to_json(),
            "prediction_sets": self.met.measure_sets(self.split.seen, self.alpha),
            "discovery": self._discovery(),
            "search": self._search(),
            "warnings": self._warnings(),
        }

    def _entry(self, name: str, probabilities: Sequence[FloatArray]) -> dict[str, Any]:
        """What is reported of one approach."""
        outcome, best = self.outcome, select_by_approach(self.trials)
        test = method_entry(outcome.test.required_labels(), probabilities)
        params: dict[str, Any] = outcome.fits[-1].models[name].point.searched()
        if name == PROBE:
            params = {"C": outcome.fits[0].support.probe.C_}
        validation = best[name].value if name in best else None
        return {"params": params, "validation": validation, "test": test, "macro_f1": test["macro_f1"]}

    def record(self, command: str) -> RunRecord:
        """Arrays and pictures of the report."""
        outcome, labels, space = self.outcome, self.outcome.test.required_labels(), self.split.seen
        tables = outcome.probabilities(outcome.best)
        confusion = sum(metrics.confusion_matrix(labels, p.argmax(axis=1), len(space)) for p in tables)
        features = {"frozen": outcome.known[0].features[PROBE]}
        if outcome.best not in BASELINE_NAMES:
            features["after tuning"] = outcome.known[0].features[outcome.best]
        named = {} if outcome.zero_shot is None else {"zero_shot": [outcome.zero_shot]}
        drawn, chosen = named | {PROBE_KEY: outcome.probabilities(PROBE)}, outcome.best
        chosen = RESULT_KEYS.get(chosen, chosen)
        drawn[chosen] = drawn.pop(chosen, []) or tables  # the last one
        grouped = self.met.grouped
        return RunRecord(
            command=command,
            class_names=space.names,
            confusion=np.asarray(confusion),
            history=trial_rows(self.trials),
            predictions=draw_examples(self.met, space, tables),
            embeddings=embedding_views(features, outcome.texts, labels, space),
            novelty=novelty_view(outcome.rejections[0], self.alpha) if outcome.rejections else None,
            reliability=reliability_curves(labels, drawn),
            discovery=None if grouped is None else discovery_view(grouped, self.met),
        )

    def _dataset(self) -> dict[str, Any]:
        split = self.split
        counts = {
            "images": len(self.dataset),
            "skipped": len(self.dataset.skipped),
            "pool": len(split.pool),
            "support": len(split.support),
            "test": split.test.n,
            "novel": split.novel.n,
        }
        return {
            "name": self.dataset.name,
            "classes": list(split.seen.names),
            "unseen": list(split.unseen.names),
            "counts": counts,
            "fingerprint": self.dataset.fingerprint(),
            "skipped": [skipped._asdict() for skipped in self.dataset.skipped],
        }

    def _novelty(self) -> dict[str, Any] | None:
        if not self.outcome.rejections:
            return None
        rejector = self.outcome.rejections[0].rejector
        choice = (self.choice or rejector.choice).to_json()
        # Fresh support sets only: the saved model's own helped to choose detector, features and neighbours.
        return novelty_entry(self.outcome.rejections[1:], self.alpha, rejector.chosen.detector) | choice

    def _rehearsal(self) -> dict[str, Any] | None:
        if self.outcome.rejections or self.choice is None:
            return None
        return measure_rehearsal(self.outcome, self.choice, self.alpha, self.options["seed"])

    def _discovery(self) -> dict[str, Any] | None:
        grouped = self.met.grouped
        return None if grouped is None else discovery_entry(grouped, self.met, self.split.unseen)

    def _search(self) -> dict[str, Any]:
        states = [trial.state for trial in self.trials]
        return {
            "finished": states.count("COMPLETE"),
            "pruned": states.count("PRUNED"),
            "failed": states.count("FAIL"),
            "seconds": sum(trial.seconds for trial in self.trials),
            "naive_seconds_estimate": self.naive_seconds,
            "test_looks": self.split.test.looks,
            **describe_changes(self.trials),
        }

    def _warnings(self) -> list[str]:
        probes = [fit.support.probe.note_ for fit in self.outcome.fits]
        reasons = Counter(skipped.reason for skipped in self.dataset.skipped)
        unread = [
            f"{number(n, 'picture')} skipped as {reason}; results.json names them" for reason, n in reasons.items()
        ]
        told = {*unread, *self.dataset.warnings, *self.split.warnings, *(f"frozen probe: {n}" for n in probes if n)}
        return sorted({*told, *self.notes, *self._fewer_neighbours()})

    def _fewer_neighbours(self) -> set[str]:
        """What a reader must know who asked for more neighbours than the shots allow."""
        asked, rejections = self.options.get("n_neighbors"), self.outcome.rejections
        used = rejections[0].rejector.n_neighbors if rejections else asked
        if asked is None or used is None or used >= asked:
            return set()
        return {
            f"the detector compares with {number(used, 'neighbour')}, not {asked}: they stay below the shots of a class"
        }
