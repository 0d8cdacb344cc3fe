"""Tip-Adapter: the votes of the nearest known pictures beside the text of each class."""

from __future__ import annotations

from clip_fewshot.probes.cache import CacheProbe
from clip_fewshot.probes.joined import JoinedProbe


class TipAdapterProbe(JoinedProbe):
    """logits = s q t_j + a sum_i exp(-beta (1 - q x_i)) [y_i = j].

    Zhang, Fang, Zhang, Gao, Li, Dai, Qiao, Li, "Tip-Adapter: Training-free Adaption of CLIP for Few-shot
    Classification", 2022, equation 6. The cache is :class:`~clip_fewshot.probes.cache.CacheProbe`, which takes a
    mean over the pictures of a class, of rows that are centred. The paper chooses a and beta on a validation set; here
    left-out pictures do, and beta is the published 5.5 where no picture can be left out.

    Example:
        >>> import numpy as np
        >>> from clip_fewshot.probes import TipAdapterProbe
        >>> X, y = np.eye(4), np.array(["ant", "bee", "ant", "bee"])
        >>> texts = {"ant": np.array([0.8, 0, 0.6, 0]), "bee": np.array([0, 0.8, 0, 0.6])}
        >>> TipAdapterProbe(texts).fit(X[:2], y[:2]).predict(X[2:]).tolist()
        ['ant', 'bee']
    """

    part = CacheProbe
