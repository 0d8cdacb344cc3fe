"""Which unlabelled pictures may teach.

Copies of labelled pictures would count twice, and pictures of other classes would draw the known ones towards them:
both are left out. The detector of strange pictures is a fixed one on frozen features: nothing is chosen here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.conformal.p_values import smallest_alpha
from clip_fewshot.data.collect import Images, collect_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import pixel_digest
from clip_fewshot.errors import UsageError
from clip_fewshot.features.encode import encode_images
from clip_fewshot.few_shot.trainer import SupportData
from clip_fewshot.few_shot.unlabelled import Unlabelled
from clip_fewshot.novelty import KNNDetector
from clip_fewshot.types import FloatArray, LabelArray

# Share of the known ones that is given up to keep others out. One that is left out costs little, but .2 takes away
# those that teach most: digits-wild at 4 shots .931 for .936.
STRANGE = 0.1
SCREENED = 1024  # pictures compared with the shots at a time


def collect_unlabelled(images: Images | None, takes: bool, approach: str) -> ImageDataset | None:
    """The pictures that ``fit`` is given without labels; None where there are none.

    Raises:
        UsageError: the approach does not learn from such.
    """
    if images is None:
        return None
    if not takes:
        expected, fix = (
            "an approach that learns from unlabelled pictures",
            "choose 'text-prior', or leave `unlabelled` out",
        )
        raise UsageError(expected=expected, got=repr(approach), fix=fix, where="`unlabelled`")
    return collect_images(images, purpose="unlabelled")


def drop_copies(pictures: ImageDataset, digests: Collection[str]) -> ImageDataset:
    """The pictures of which neither file nor pixels have one of ``digests``: sealed ones must not be looked at."""
    fresh = [
        i
        for i, digest in enumerate(pictures.digests)
        if digest not in digests and pixel_digest(pictures.open(i)) not in digests
    ]
    return pictures.subset(np.array(fresh, dtype=np.int64))


def add_unlabelled(
    backbone: Backbone, data: SupportData, frozen: FloatArray, support: ImageDataset, pictures: ImageDataset | None
) -> SupportData:
    """``data`` of ``support`` with those of the pictures that may teach; (n, d) ``frozen`` features of the shots."""
    if pictures is None:
        return data
    return replace(data, unlabelled=select_unlabelled(backbone, pictures, frozen, data.labels, {*support.digests}))


def select_unlabelled(
    backbone: Backbone, pictures: ImageDataset, frozen: FloatArray, labels: LabelArray, digests: Collection[str]
) -> Unlabelled:
    """Encode pictures with the frozen tower and leave out what must not teach.

    Args:
        frozen: (n, d) features of the shots. labels: (n,).
        digests: of the shots.
    """
    first = {digest: i for i, digest in reversed([*enumerate(pictures.digests)]) if digest not in digests}
    features = encode_images(backbone, pictures.subset(np.array(sorted(first.values()), dtype=np.int64))).features
    return screen(features, frozen, labels, len(pictures) - len(first))


def screen(features: FloatArray, frozen: FloatArray, labels: LabelArray, copies: int = 0) -> Unlabelled:
    """Leave out copies of the shots and what is strange beside them: :class:`KNNDetector`, full conformal.

    Where the shots are too few for STRANGE, the smallest share that they support takes its place.

    Args:
        features: (q, d). frozen: (n, d) of the shots. labels: (n,).
        copies: how many were left out before.
    """
    known = Calibrated(KNNDetector).fit(frozen, labels)
    fresh = features[~known.bag_.has_copy(features)] if len(features) else features
    parts = [known.p_values(fresh[i : i + SCREENED]) for i in range(0, len(fresh), SCREENED)]
    p = np.concatenate([np.empty(0), *parts])
    strange = known.flags(p, max(STRANGE, smallest_alpha(known.n_calibration_)))
    kept = fresh[~strange]
    return Unlabelled(kept, copies + len(features) - len(fresh), len(fresh) - len(kept))
