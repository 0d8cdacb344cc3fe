"""What may be chosen: a detector of the registry, its neighbours, and the features it looks at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from clip_fewshot.novelty import DETECTORS, TEXTUAL, Detector, build_detector
from clip_fewshot.open_world.feature_spaces import FROZEN, depth_of
from clip_fewshot.open_world.text_features import Texts, options_of

AUTO = "auto"  # all detectors, in the place of a name
NEIGHBOURS = (2, 3, 5, 8, 12)  # all below the usual 16 shots: beyond the shots a class's neighbours are other classes
USUAL = 5  # neighbours, where nothing tells another number
NEIGHBOURLY = ("lof", "knn")
# Taken where another leads by less than its standard error: ahead of the others, or level, on digits and photos.
PREFERRED = ("mahalanobis", "knn")
LAST = ("lof",)  # with few shots the density around neighbours is mostly noise: behind the others on digits and photos
# How each detector is calibrated on features that do not depend on the shots. Full conformal is exact, and for
# neighbours costs under a millisecond a picture; Mahalanobis would take a fit per picture and class (0.12 s for ten
# classes of 16), so its known pictures are left out one by one. What is not here would take seconds to minutes either
# way, and is calibrated fold by fold like tuned features; what reads texts has seen no shot, and needs neither.
SCHEMES = {
    "lof": "full",
    "knn": "full",
    "mahalanobis": "leave-one-out",
    "relative-mahalanobis": "leave-one-out",
}


@dataclass(frozen=True)
class Alternative:
    """One thing that may be chosen.

    Attributes:
        detector: a key of DETECTORS.
        space: the features it looks at, see :mod:`clip_fewshot.open_world.feature_spaces`.
        n_neighbors: of detectors that have neighbours.
    """

    detector: str
    space: str = FROZEN
    n_neighbors: int | None = None

    def __str__(self) -> str:
        k = "" if self.n_neighbors is None else f", k = {self.n_neighbors}"
        return f"{self.detector}, {self.space} features{k}"

    def factory(self, texts: Texts | None = None) -> Callable[[], Detector]:
        """What makes the unfitted detector; ``texts`` for those that read them."""
        options: dict[str, Any] = {} if self.n_neighbors is None else {"n_neighbors": self.n_neighbors}
        if self.detector in TEXTUAL:
            options |= options_of(self.detector, texts)
        return partial(build_detector, self.detector, **options)


def alternatives(
    detectors: Collection[str], spaces: Collection[str], fewest_shots: int, reads: bool
) -> list[Alternative]:
    """Every detector with every number of neighbours in every space where it makes sense, the plainest first.

    Detectors that read texts look at the space that texts are in. Further down, where features tell less (of
    LOF, nearest neighbours and both Mahalanobis on digits and photos), two detectors stand for all.

    Args:
        reads: whether there are texts to read.
    """
    found = []
    for space in spaces:
        for name in sorted(detectors, key=_place):
            if name in TEXTUAL and not (reads and space == FROZEN):
                continue
            if depth_of(space) is not None and name not in PREFERRED:
                continue
            ks = neighbours(fewest_shots) if name in NEIGHBOURLY else [None]
            found += [Alternative(name, space, k) for k in ks]
    return found


def neighbours(fewest_shots: int) -> Sequence[int | None]:
    """Those below the shots, the one nearest to the usual number first."""
    return sorted((k for k in NEIGHBOURS if k < fewest_shots), key=lambda k: abs(k - USUAL))


def _place(name: str) -> int:
    return PREFERRED.index(name) if name in PREFERRED else len(PREFERRED) + (name in LAST)


def known_detectors(detector: str) -> tuple[str, ...]:
    """The detectors to choose among: all for "auto", else the one of that name.

    Raises:
        UsageError: a name that the registry does not have.
    """
    if detector == AUTO:
        return tuple(DETECTORS)
    if detector not in DETECTORS:
        build_detector(detector)  # says which there are
    return (detector,)
