"""Every method on the same support sets: accuracy, difference to a reference, log loss, seconds, numbers kept.

A method is given support pictures and the texts of the classes, nothing else: it chooses its own options on them, if it
chooses any. Then it says what each sealed picture shows. One that learns from the sealed pictures, as a transductive
method does, answers them differently side by side than alone; that is looked for and refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.backbones.tower import Tower
from clip_fewshot.config import AUTO
from clip_fewshot.errors import ClipFewShotError, UsageError
from clip_fewshot.evaluation.intervals import paired_difference
from clip_fewshot.evaluation.reliability import score_probabilities
from clip_fewshot.features.encode import image_prefix
from clip_fewshot.few_shot.approach import OWN, PROBE, TEXT_PRIOR, Approach, find_approach
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.model import Recipe, TunedModel, fit_frozen_probe, reads_texts
from clip_fewshot.probes import Probe, find_probe
from clip_fewshot.protocol.method_scene import DrawnSupport, MethodScene
from clip_fewshot.runtime.parts import user_code_error
from clip_fewshot.tuning import copy_last_layers
from clip_fewshot.types import BoolArray, FloatArray, Progress

ASKED_AGAIN = 32  # sealed pictures that are also asked about apart from the others
SAME_ANSWER = 1e-4  # of a probability: rounding moves it by 1e-6 at most
CHOOSING = Approach(AUTO, loss=None, towers="none", ends_in="probe")  # stands for the choice among approaches


class FittedMethod(NamedTuple):
    """What a method has become: (rows of the test side) -> (m, c) probabilities, and what it cost."""

    ask: Callable[[Any], FloatArray]
    seconds: float
    parameters: int


def choose_methods(approaches: Sequence[str | Approach], reference: str | None, texts: bool) -> list[Approach]:
    """The methods to compare, the reference first.

    Args:
        approaches: names, python:MODULE:NAME, or approaches; "auto" for what :class:`FewShotClassifier` chooses; empty
            for all of the library that train no tower.
        reference: name of the one that the others are compared with; None: "text-prior" where there are texts and it
            is among them, else "linear-probe", else the first.
        texts: whether there are texts of the classes.

    Raises:
        UsageError: no such approach, two of one name, or a reference that is not among them.
    """
    asked = [CHOOSING if one == AUTO else find_approach(one) for one in approaches] or [
        one for one in OWN.values() if one.towers == "none"
    ]
    by_name = {approach.name: approach for approach in asked}
    if len(by_name) < len(asked) and any(by_name[approach.name] != approach for approach in asked):
        fix = "rename one"
        raise UsageError(expected="a name for each method", got="two of one name", fix=fix, where="`approaches`")
    usual = [TEXT_PRIOR.name] * texts + [PROBE]
    first = reference or next((name for name in usual if name in by_name), asked[0].name)
    if first not in by_name:
        fix = "choose one of them, or add it to `approaches`"
        expected = f"one of {', '.join(by_name)}"
        raise UsageError(expected=expected, got=repr(first), fix=fix, where="`reference`")
    return [by_name.pop(first), *by_name.values()]


def measure_methods(scene: MethodScene, methods: Sequence[Approach], progress: Progress) -> Iterator[dict[str, Any]]:
    """A row for each method, the first being the reference, as soon as it is there.

    Returns:
        rows with ``method`` and ``points``, one for each number of shots: ``shots`` with ``error``, or with
        ``accuracy`` and ``difference`` to the reference with their intervals over support sets and test pictures,
        ``loss`` (mean -ln p of the true class), ``brier`` and ``ece``, each with its interval, mean ``seconds`` of a
        fit behind the frozen layers, and
        ``parameters``: the numbers that a fitted model keeps beside the frozen tower.
    """
    reference: dict[int, list[BoolArray]] = {}
    for method in methods:
        points = []
        for done, (shots, supports) in enumerate(scene.supports.items()):
            progress(method.name, done, len(scene.supports))
            try:
                answers = [_answer(scene, method, support) for support in supports]
            except ClipFewShotError as error:
                points.append({"shots": shots, "error": " ".join(str(error).split())})
                continue
            right = [one.probabilities.argmax(axis=1) == scene.test.labels for one in answers]
            points.append({"shots": shots, **_measure(scene, answers, right, reference.get(shots))})
            if method is methods[0]:
                reference[shots] = right
        progress(method.name, len(scene.supports), len(scene.supports))
        yield {"method": method.name, "points": points}


def describe_scene(scene: MethodScene, name: str, reference: str) -> dict[str, Any]:
    """What is said of a set before any method is fitted; its ``rows`` are still to come."""
    supports = next(iter(scene.supports.values()))
    return {
        "name": name,
        "model": scene.compared.model,
        "reference": reference,
        "n_classes": len(scene.test.label_space),
        "n_test": len(scene.test),
        "fingerprint": scene.compared.pictures.fingerprint(),
        "test_looks": scene.looks,
        "shots": list(scene.supports),
        "draws": [support.pictures.fingerprint() for support in supports],
        "rows": [],
    }


class Answered(NamedTuple):
    """(n, c) probabilities of the test pictures, and what the method cost."""

    probabilities: FloatArray
    seconds: float
    parameters: int


def _measure(
    scene: MethodScene, answers: Sequence[Answered], right: list[BoolArray], reference: list[BoolArray] | None
) -> dict[str, Any]:
    scores = score_probabilities(scene.test.required_labels(), [one.probabilities for one in answers])
    return {
        "accuracy": scores.accuracy.to_json(),
        "difference": None if reference is None else paired_difference(right, reference).to_json(),
        "loss": scores.nll.to_json(),
        "brier": scores.brier.to_json(),
        "ece": scores.ece.to_json(),
        "seconds": round(float(np.mean([one.seconds for one in answers])), 4),
        "parameters": max(one.parameters for one in answers),
    }


def _answer(scene: MethodScene, method: Approach, support: DrawnSupport) -> Answered:
    """Fit on one support set and ask about the test pictures."""
    try:
        fitted = (_fit_on_features if method.towers == "none" and method is not CHOOSING else _train)(
            scene, method, support
        )
        probabilities = fitted.ask(slice(None))
        _check_answers(scene, probabilities, fitted.ask)
    except Exception as error:  # whatever the user's code meets; a defect of ours shows itself
        if method is CHOOSING or OWN.get(method.name) == method or isinstance(error, ClipFewShotError):
            raise
        raise user_code_error(method.name, "a fit and an answer", error) from error
    return Answered(probabilities, fitted.seconds, fitted.parameters)


def _fit_on_features(scene: MethodScene, method: Approach, support: DrawnSupport) -> FittedMethod:
    """A probe, on copies of what is its to see."""
    if reads_texts(method) and scene.texts is None:
        fix = "embed a labelled source with --labels, or take pictures"
        raise UsageError(expected="texts of the classes", got="features without", fix=fix, where=method.name)
    X, y = support.features.copy(), support.pictures.required_labels().copy()
    began = time.perf_counter()
    C = fit_frozen_probe(X, y, scene.seed).C_ if find_probe(method.probe)[1].takes_c else None
    texts = None if scene.texts is None else scene.texts.copy()
    probe = Recipe(method, method.point, scene.settings, C, scene.seed).fit_probe(X, y, texts)
    seconds = time.perf_counter() - began
    return FittedMethod(lambda rows: probe.predict_proba(scene.sealed[rows].copy()), seconds, count_numbers(probe))


def _train(scene: MethodScene, method: Approach, support: DrawnSupport) -> FittedMethod:
    """An approach that trains inside the tower, at its centre; or the choice, in the seconds of all that it tries."""
    backbone = scene.compared.backbone
    if backbone is None:
        fix = "name pictures in place of `features`"
        raise UsageError(expected="pictures to train on", got="features alone", fix=fix, where=method.name)
    how: dict[str, Any] = {"epochs": scene.settings.epochs, "templates": scene.settings.templates, "seed": scene.seed}
    classifier = FewShotClassifier(backbone, AUTO if method is CHOOSING else method, **how)
    began = time.perf_counter()
    if method is CHOOSING:
        classifier.fit(support.pictures)
    else:
        method.check_trains(classifier.point)
        data, _ = classifier.prepare(support.pictures, [classifier.point.unfreeze])
        began = time.perf_counter()
        classifier.fit_prepared(data, support.features, support.pictures.label_space)
    seconds, model = time.perf_counter() - began, classifier.model_
    features = model.features(image_prefix(backbone, scene.test, [model.point.unfreeze]))
    return FittedMethod(
        lambda rows: model.probabilities(features[rows]), seconds, count_trained(model, backbone.visual)
    )


def count_numbers(probe: Probe) -> int:
    """How many numbers a fitted probe keeps."""
    arrays = probe.to_arrays().values()
    return sum(array.size for array in arrays if array.dtype.kind == "f" and array.ndim)


def count_trained(model: TunedModel, tower: Tower) -> int:
    """How many numbers a trained model keeps beside the frozen ``tower``: the layers that moved, its head or probe."""
    frozen = copy_last_layers(tower, model.point.unfreeze).state_dict()
    states = model.suffix.state_dict().items()
    moved: int = sum(state.numel() for name, state in states if name not in frozen or not frozen[name].equal(state))
    head = 0 if model.head is None else sum(weight.numel() for weight in model.head.parameters())
    return moved + head + (0 if model.probe is None else count_numbers(model.probe))


def _check_answers(scene: MethodScene, probabilities: FloatArray, ask: Callable[[Any], FloatArray]) -> None:
    """Refuse what are no probabilities of the classes, and answers that depend on the pictures asked beside them.

    Raises:
        UsageError: says which.
    """
    shape = (len(scene.test), len(scene.test.label_space))
    if probabilities.shape != shape or not np.isfinite(probabilities).all():
        got = f"an array {probabilities.shape}" + (", not finite" if probabilities.shape == shape else "")
        raise UsageError(expected=f"probabilities {shape}", got=got, fix="correct `predict_proba`")
    rows = np.unique(np.linspace(0, len(scene.test) - 1, ASKED_AGAIN).astype(int))[::-1]
    if not np.allclose(ask(rows), probabilities[rows], rtol=0, atol=SAME_ANSWER):
        fix = "let it learn from the support set alone"
        got = "answers that depend on the sealed pictures beside it"
        raise UsageError(expected="an answer to each picture by itself", got=got, fix=fix)
