"""What is unknown so far."""

from __future__ import annotations

import numpy as np
from PIL import Image

from clip_fewshot.data.collect import collect_images
from clip_fewshot.open_world.unknown import UnknownPictures, join_unknown


def asked(levels: list[int], p: list[float], answered: tuple[str | None, ...]) -> UnknownPictures:
    pictures = collect_images([Image.new("L", (4, 4), level) for level in levels])
    return UnknownPictures(pictures, np.array(levels, dtype=np.float64)[:, None], np.array(p), answered)


def test_of_a_picture_that_was_asked_about_again_the_newest_answer_counts() -> None:
    first, then = asked([10, 20], [0.01, 0.02], (None, None)), asked([20, 30], [0.3, 0.04], ("cat", None))
    joined = join_unknown([first, then])
    assert joined.p_values.tolist() == [0.01, 0.3, 0.04]
    assert joined.answered == (None, "cat", None)
    assert joined.features[:, 0].tolist() == [10, 20, 30]
