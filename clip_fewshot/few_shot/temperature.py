"""How sure a trained head may be: as sure of its own pictures as a probe is whose penalty they chose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import entr, softmax

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.sampling import stratified_folds
from clip_fewshot.evaluation.calibration import fit_temperature
from clip_fewshot.few_shot.model import Recipe, TunedModel, fit_model
from clip_fewshot.few_shot.trainer import SupportData
from clip_fewshot.probes import LinearProbe
from clip_fewshot.probes.text_prior import TextPriorProbe
from clip_fewshot.types import FloatArray

HIGHEST_TEMPERATURE = 8.0
HIGHEST_AT_ONE_SHOT = 2.0  # of so few pictures little is known
HELD_OUT = 3  # folds


def fit_calibrated(backbone: Backbone, recipe: Recipe, data: SupportData, validated: float | None = None) -> TunedModel:
    """:func:`~clip_fewshot.few_shot.model.fit_model`, with the temperature of its head, see :func:`match_temperature`.

    A head that is less sure of its own pictures than the probe has learned less of them, or has small logits. Which of
    both, only pictures that it has not seen can tell: it is then trained again without each third of them. At one shot
    a class there are none, and it is left as it is.

    Args:
        validated: the temperature that held-out pictures ask for, where they were asked already. Heads that hold some
            out have learned from fewer and are surer or less sure than this one, so that it is taken together with the
            matched one, as their geometric mean.
    """
    model = fit_model(backbone, recipe, data)
    if model.head is None:
        return model
    matched = match_temperature(model.logits(model.features(data.images)), data, recipe.probe_c)
    shots = int(np.bincount(data.labels).min())
    if matched == 1 and shots > 1:
        temperature = validated or _validate(backbone, recipe, data, min(shots, HELD_OUT))
    else:
        temperature = matched if validated is None else (matched * validated) ** 0.5
    return replace(model, temperature=temperature)


def _validate(backbone: Backbone, recipe: Recipe, data: SupportData, n_folds: int) -> float:
    logits = np.empty((len(data.labels), data.n_classes))
    for train, held_out in stratified_folds(data.labels, n_folds, recipe.seed):
        trained = fit_model(backbone, recipe, data.subset(train))
        logits[held_out] = trained.logits(trained.features(data.images.subset(held_out)))
    return fit_temperature(logits, data.labels)


def match_temperature(logits: FloatArray, data: SupportData, C: float | None) -> float:
    """What a head's (n, c) logits of its own pictures are to be divided by; never below 1.

    A head is trained until it is sure of its pictures, and then for as many steps more as the settings say: its logits
    are of no scale. The frozen probe has learned from the same pictures, and how sure it may be of them is known: its
    penalty is the one under which pictures that were held out are likeliest. So the temperature is the one at which the
    mean entropy of both is equal, which is one number, without a training more. At one shot a class no picture can be
    held out; there the text-informed probe says it, whose penalty is chosen by twins, and without texts nothing does.

    We rejected logits of held-out thirds for all heads: up to three trainings more, and no nearer to the best
    temperature (docs/figures/calibration.md).

    Args:
        C: of the frozen probe; None: searched.
    """
    features = data.images.frozen_features().cpu().numpy()
    if np.bincount(data.labels).max() > 1:
        reference = LinearProbe(C=C).fit(features, data.labels).predict_proba(features)
        return _equalise_entropy(logits, reference, HIGHEST_TEMPERATURE)
    if data.captions.texts is None:
        return 1.0
    texts = dict(enumerate(data.captions.texts))
    reference = TextPriorProbe(texts).fit(features, data.labels).predict_proba(features)
    return _equalise_entropy(logits, reference, HIGHEST_AT_ONE_SHOT)


def _equalise_entropy(logits: FloatArray, reference: FloatArray, highest: float) -> float:
    """The temperature in [1, highest] at which the softmax, whose entropy rises with it, has that of the reference."""
    precise, entropy = np.asarray(logits, np.float64), entr(reference).sum(axis=1).mean()

    def excess(temperature: float) -> float:
        return float(entr(softmax(precise / temperature, axis=1)).sum(axis=1).mean() - entropy)

    if excess(1.0) >= 0:
        return 1.0
    return highest if excess(highest) <= 0 else float(brentq(excess, 1.0, highest, xtol=1e-10))
