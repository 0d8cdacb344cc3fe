"""How sure a trained head may be: as sure of its own pictures as a probe is whose penalty they chose."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import entr, softmax

from clip_fewshot.few_shot.trainer import SupportData
from clip_fewshot.probes import LinearProbe
from clip_fewshot.probes.text_prior import TextPriorProbe
from clip_fewshot.types import FloatArray

REACH = 2.0  # ln; the farthest from 1 that a temperature may lie: 7
REACH_AT_ONE_SHOT = 0.7  # ln; of so few pictures little is known: 2


def match_temperature(logits: FloatArray, data: SupportData, C: float | None) -> float:
    """What a head's (n, c) logits of its own pictures are to be divided by.

    A head is trained until it is sure of its pictures, and then for as many steps more as the settings say: its logits
    are of no scale. The frozen probe has learned from the same pictures, and how sure it may be of them is known: its
    penalty is the one under which pictures that were held out are likeliest. So the temperature is the one at which the
    mean entropy of both is equal, which is one number, without a training more. At one shot a class no picture can be
    held out; there the text-informed probe says it, whose penalty is chosen by twins, and without texts nothing does.

    We rejected logits of held-out thirds, by maximum likelihood: up to three trainings more, and no nearer to the best
    temperature (docs/figures/calibration.md).

    Args:
        C: of the frozen probe; None: searched.
    """
    features = data.images.frozen_features().cpu().numpy()
    reach = REACH
    if np.bincount(data.labels).max() > 1:
        reference = LinearProbe(C=C).fit(features, data.labels).predict_proba(features)
    elif data.captions.texts is not None:
        texts = dict(enumerate(data.captions.texts))
        reference = TextPriorProbe(texts).fit(features, data.labels).predict_proba(features)
        reach = REACH_AT_ONE_SHOT
    else:
        return 1.0
    return _equalise_entropy(np.asarray(logits, np.float64), float(entr(reference).sum(axis=1).mean()), reach)


def _equalise_entropy(logits: FloatArray, entropy: float, reach: float) -> float:
    """The temperature at which the softmax has that mean entropy, which rises with it; or an end of the reach."""

    def excess(log_temperature: float) -> float:
        return float(entr(softmax(logits / np.exp(log_temperature), axis=1)).sum(axis=1).mean()) - entropy

    if excess(-reach) >= 0:
        return float(np.exp(-reach))
    if excess(reach) <= 0:
        return float(np.exp(reach))
    return float(np.exp(brentq(excess, -reach, reach, xtol=1e-10)))
