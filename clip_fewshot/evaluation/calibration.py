"""The scale of logits under which their softmax is a probability."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import entr, logsumexp, softmax

from clip_fewshot.runtime.arrays import check_table
from clip_fewshot.types import FloatArray

SCALE_REACH = 6.0  # ln; how far from the usual scale is looked
SCALE_STEPS = 61
TEMPERATURE_SD = 1.0  # ln; how far from 1 a temperature usually lies: 1 to 5 for the heads of this library


def log_losses(logits: FloatArray, labels: NDArray[np.int64]) -> FloatArray:
    """(n,) -ln p of the labels under (n, c) logits."""
    return np.asarray(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels])


def fit_log_scale(logits: FloatArray, labels: NDArray[np.int64], usual: float, deviation: float) -> float:
    """The ln of the scale under which the labels are likeliest, drawn to the usual one where there are few.

    The maximum a posteriori under a normal prior. Likelihood alone has no bound where all labels are told right, and is
    0 where the only picture of a class is not.

    Args:
        logits: (n, c). labels: (n,) in 0..c-1.
        usual: ln of the usual scale. deviation: standard deviation around it.
    """

    def cost(log_scale: float) -> float:
        losses = log_losses(np.exp(log_scale) * logits, labels)
        return float(losses.sum() + (log_scale - usual) ** 2 / (2 * deviation**2))

    return _minimise(cost, usual)


def fit_temperature(left_out_logits: FloatArray, y: NDArray[np.int64]) -> float:
    """What (n, c) logits are to be divided by for their softmax to be right about (n,) labels.

    One number for all classes: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", 2017, section
    4.2; drawn to 1 where there are few pictures.

    Args:
        left_out_logits: of pictures that the classifier has not learned from. y: in 0..c-1.

    Example:
        >>> import numpy as np
        >>> from clip_fewshot.evaluation.calibration import fit_temperature
        >>> labels = np.tile([0, 0, 0, 1], 200)  # right in three of four cases, and too sure of it
        >>> logits = np.tile([5.0, 0.0], (800, 1))
        >>> round(float(np.exp(5 / fit_temperature(logits, labels))))  # 3 to 1
        3
    """
    labels, logits = check_table(y, left_out_logits)
    return float(np.exp(-fit_log_scale(logits, labels, 0.0, TEMPERATURE_SD)))


def match_temperature(logits: FloatArray, reference: FloatArray, highest: float) -> float:
    """The temperature in [1, highest] at which (n, c) logits are as unsure as the reference: mean entropies are equal.

    The entropy of a softmax rises with its temperature, so that there is one; 1 where the logits are less sure already.

    Args:
        reference: (n, c) probabilities of the same pictures.
    """
    precise, entropy = np.asarray(logits, np.float64), entr(reference).sum(axis=1).mean()

    def excess(temperature: float) -> float:
        return float(entr(softmax(precise / temperature, axis=1)).sum(axis=1).mean() - entropy)

    if excess(1.0) >= 0:
        return 1.0
    return highest if excess(highest) <= 0 else float(brentq(excess, 1.0, highest, xtol=1e-10))


def fit_left_out_temperature(logits: FloatArray, y: NDArray[np.int64]) -> tuple[FloatArray, float]:
    """((n,) -ln p of each label, the temperature of all): each picture under what the others ask for.

    A temperature that has seen a label makes it likelier, and the fewer there are, the more. The ln of the scale
    without picture i is one Newton step away, g_i / h, with its gradient g_i and the whole curvature h.

    Args:
        logits: (n, c) of pictures that the classifier has not learned from. y: (n,).
    """
    logits = np.asarray(logits, np.float64)
    temperature = fit_temperature(logits, y)
    scaled = logits / temperature
    p = softmax(scaled, axis=1)
    mean = (p * scaled).sum(axis=1)
    gradients = mean - scaled[np.arange(len(y)), y]  # of each loss by ln scale
    curvature = ((p * scaled**2).sum(axis=1) - mean**2 + gradients).sum() + 1 / TEMPERATURE_SD**2
    steps = np.clip(gradients / max(float(curvature), 1 / TEMPERATURE_SD**2), -1.0, 1.0)
    return log_losses(scaled * np.exp(steps)[:, None], y), temperature


def _minimise(cost: Callable[[float], float], usual: float) -> float:
    """The lowest point within reach: of a grid, then between its neighbours."""
    steps = usual + np.linspace(-SCALE_REACH, SCALE_REACH, SCALE_STEPS)
    best = steps[int(np.argmin([cost(step) for step in steps]))]
    width = 2 * SCALE_REACH / (SCALE_STEPS - 1)
    found = minimize_scalar(cost, bounds=(best - width, best + width), method="bounded", options={"xatol": 1e-8})
    return float(found.x)
