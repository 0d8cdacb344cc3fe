"""Resize and crop, at most one grey level from :func:`clip_fewshot.data.image.resize_crop`, in less time.

Pillow resamples rows, rounds to 8 bits, resamples columns, rounds again. Here the first step is Pillow's own, equal to
the last bit, on the rows that the square sees; the second is torch's, with vector instructions and weights of 16 bits
instead of 22. What enters it is the same and its sums are within 0.1 of Pillow's, so that they round to the same
integer or to neighbours: the bound holds for every picture, not only for those that were tried.

It saves 5 to 16 % of the CPU time of decoding. We rejected five faster ways, because their error is larger or because
they depend on a package that few people have: docs/figures/decoding.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_fewshot.data.image import frame, resize_crop

REACH = 2  # source pixels to each side that a bicubic kernel sees, times the factor of reduction
TALL = 2  # times its width: Pillow 13 resamples the columns of a taller picture first, and clips in between


def resize_crop_fast(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """RGB ``image`` -> (size, size, 3): short side to ``size``, centre square of it. Tall pictures go the exact way."""
    import torch
    import torch.nn.functional as F

    if image.height > TALL * image.width:
        return np.asarray(resize_crop(image, size))
    width, height, left, top = frame(*image.size, size)
    first, last = _rows_seen(image.height, height, top, size)
    band = image if last - first == image.height else image.crop((0, first, image.width, last))
    rows = np.asarray(band.resize((width, last - first), Image.Resampling.BICUBIC))
    columns = np.zeros((image.height, size, 3), np.uint8)  # the rows left black reach no row of the square
    columns[first:last] = rows[:, left : left + size]
    planes = torch.from_numpy(columns).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, (height, size), mode="bicubic", antialias=True)
    return np.asarray(resized[0, :, top : top + size].permute(1, 2, 0).numpy())


def _rows_seen(source: int, resized: int, top: int, size: int) -> tuple[int, int]:
    """The rows of ``source`` that rows ``top`` to ``top + size`` of ``resized`` are made of, and one more each."""
    scale = source / resized
    reach = REACH * max(scale, 1.0) + 1
    return max(0, int(top * scale - reach)), min(source, int((top + size) * scale + reach) + 1)
