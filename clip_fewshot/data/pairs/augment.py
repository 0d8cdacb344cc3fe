"""The one augmentation that CLIP is trained with: a random square out of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_fewshot.data.pixels import Pixels
from clip_fewshot.errors import UsageError
from clip_fewshot.types import FloatArray


class RandomCrop:
    """A random square of a random part of the area, resized to the network's size.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 2.4: "a
    random square crop from resized images is the only data augmentation used during training". The crop is taken from
    the cached centre square, so a picture is decoded once, whatever is drawn; that square is kept so much larger that
    the smallest crop has ``size`` pixels of its own and nothing is blown up.

    Args:
        smallest: least share of the square's area, in (0, 1]; the paper names none, OpenCLIP trains with 0.9.
        size: of the result.

    Attributes:
        held: side of the squares that crops are taken from.
    """

    def __init__(self, smallest: float, size: int) -> None:
        if not 0 < smallest <= 1:
            fix = "use 0.9, or None for none"
            raise UsageError(expected="a share of the area in (0, 1]", got=str(smallest), fix=fix, where="augment")
        self.smallest, self.size = smallest, size
        self.held = math.ceil(size / math.sqrt(smallest))

    def boxes(self, draws: FloatArray) -> FloatArray:
        """(n, 3) draws in [0, 1) -> (n, 4) left, top, right, bottom in pixels of the held square."""
        side = self.held * np.sqrt(self.smallest + (1 - self.smallest) * draws[:, 0])
        corner = draws[:, 1:] * (self.held - side)[:, None]
        return np.concatenate([corner, np.minimum(corner + side[:, None], self.held)], axis=1)

    def __call__(self, squares: Pixels, draws: FloatArray, pool: ThreadPoolExecutor) -> Pixels:
        """(n, held, held, 3) -> (n, size, size, 3), picture i cropped as (n, 3) ``draws[i]`` say."""
        return np.stack(list(pool.map(self._crop, squares, self.boxes(draws).tolist())))

    def _crop(self, square: NDArray[np.uint8], box: Sequence[float]) -> Pixels:
        left, top, right, bottom = box
        crop = Image.fromarray(square).resize(
            (self.size, self.size), Image.Resampling.BICUBIC, (left, top, right, bottom)
        )
        return np.asarray(crop)
