"""A probe's free energy, less how far an image lies outside the space that the known images span."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import logsumexp

from clip_fewshot.novelty.probe_scores import GuidedDetector
from clip_fewshot.types import FloatArray


class ViMDetector(GuidedDetector):
    """Virtual-logit matching: the free energy of a linear probe less a virtual logit, the length of the residual.

    Wang, Li, Feng, Zhang, "ViM: Out-Of-Distribution with Virtual-logit Matching", 2022, eqs. 5 to 7. The residual is
    what the first principal axes of the known images leave of an image; it is scaled so that the mean over known images
    equals that of their largest logit. Theirs keeps 512 or 1,000 axes of many thousand images; the first axes of a few
    shots, one less than there are classes, tell classes apart, the others pictures. Arguments and attributes:
    :class:`GuidedDetector`.
    """

    @staticmethod
    def learn_rows(unit: FloatArray, logits: FloatArray) -> dict[str, FloatArray]:
        """Centre, (r, d) principal axes and scale of the residual."""
        centre = unit.mean(axis=0)
        n_axes = int(np.isfinite(logits[0]).sum()) - 1
        axes = np.linalg.svd(unit - centre, full_matrices=False)[2][:n_axes]
        length = _residual(unit - centre, axes).mean()
        scale = logits.max(axis=1).mean() / length if length > 0 else 0.0
        return {"centre": centre, "axes": axes, "scale": np.array([scale])}

    @staticmethod
    def judge_rows(guide: Mapping[str, FloatArray], unit: FloatArray, logits: FloatArray) -> FloatArray:
        """(m,) free energy less the virtual logit."""
        virtual = guide["scale"] * _residual(unit - guide["centre"], guide["axes"])
        return np.asarray(logsumexp(logits, axis=1) - virtual)


def _residual(rows: FloatArray, axes: FloatArray) -> FloatArray:
    """(n,) lengths of what orthonormal axes leave of the rows."""
    return np.asarray(np.linalg.norm(rows - rows @ axes.T @ axes, axis=1))
