"""Unlabelled pictures beside the shots: which of them may teach, and what became of them.

Copies of labelled pictures would count twice, and pictures of other classes would draw the known ones towards them:
both are left out first. The detector of strange pictures is a fixed one on frozen features: nothing is chosen here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.conformal.p_values import smallest_alpha
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import pixel_digest
from clip_fewshot.features.encode import encode_images
from clip_fewshot.novelty import KNNDetector
from clip_fewshot.probes import Probe
from clip_fewshot.types import FloatArray, LabelArray

# Share of the known ones that is given up to keep others out: a picture that is left out costs little.
STRANGE = 0.1
SCREENED = 1024  # pictures compared with the shots at a time


@dataclass(frozen=True)
class Unlabelled:
    """Pictures that may teach, as the frozen tower sees them.

    Attributes:
        features: (q, d) of those that may.
        copies: how many were left out as copies of shots or of one another.
        unknown: how many were left out because they show something else.
    """

    features: FloatArray
    copies: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class UnlabelledUse:
    """What unlabelled pictures did to a classifier.

    Attributes:
        used, copies, unknown: numbers of pictures: they add up to those that were given.
        moved: share of the used ones whose class they changed, in [0, 1].
        share: how far the classifier follows them, in [0, 1].
        agreement: share of the shots that lie nearest to the unlabelled pictures of their own class.
        refused: the classifier is the one without them, because that share is too low.

    Example:
        >>> from clip_fewshot.few_shot.unlabelled import UnlabelledUse
        >>> print(UnlabelledUse(used=90, copies=4, unknown=6, moved=0.1, share=1.0, agreement=0.97, refused=False))
        90 of 100 unlabelled pictures used (4 copies and 6 unknown left out); 10.0 % of them changed their class
    """

    used: int
    copies: int
    unknown: int
    moved: float
    share: float
    agreement: float
    refused: bool

    @classmethod
    def of(cls, given: Unlabelled, probe: Probe) -> UnlabelledUse:
        """What a fitted probe says of them."""
        learned = {name: getattr(probe, f"{name}_") for name in ("moved", "share", "agreement", "refused")}
        return cls(len(given.features), given.copies, given.unknown, **learned)

    def to_json(self) -> dict[str, Any]:
        """For files."""
        return asdict(self)

    def __str__(self) -> str:
        n = self.used + self.copies + self.unknown
        left = f"({self.copies:,} copies and {self.unknown:,} unknown left out)"
        if self.refused:
            return (
                f"{n:,} unlabelled pictures were not used: with them only {self.agreement:.1%} of the shots lie where "
                f"their class does {left}"
            )
        moved = f"{100 * self.moved:.1f} % of them changed their class"
        return f"{self.used:,} of {n:,} unlabelled pictures used {left}; {moved}"


def drop_copies(pictures: ImageDataset, digests: Collection[str]) -> ImageDataset:
    """The pictures of which neither file nor pixels have one of ``digests``: sealed ones must not be looked at."""
    fresh = [
        i
        for i, digest in enumerate(pictures.digests)
        if digest not in digests and pixel_digest(pictures.open(i)) not in digests
    ]
    return pictures.subset(np.array(fresh, dtype=np.int64))


def select_unlabelled(
    backbone: Backbone,
    pictures: ImageDataset,
    frozen: FloatArray,
    labels: LabelArray,
    digests: Collection[str],
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
