"""Broken copies keep what they should and lose the rest; strangers are the same in every process."""

from __future__ import annotations

import numpy as np

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import resize_crop
from clip_fewshot.open_world.far_pictures import FAR_COPIES, FAR_KINDS, FAR_SIDE, copy_broken, draw_strangers


def pixels(images: ImageDataset) -> np.ndarray:
    return np.stack([np.asarray(images.open(i)) for i in range(len(images))]).astype(float)


def edges(pictures: np.ndarray) -> float:
    return float(np.abs(np.diff(pictures, axis=2)).mean())


def test_broken_copies_keep_the_colours_and_lose_the_shapes(digits: ImageDataset) -> None:
    support = digits.subset(range(40))
    broken = copy_broken(support, seed=3)
    assert len(broken) == FAR_KINDS * FAR_COPIES
    scrambled, blurred = np.array_split(pixels(broken), FAR_KINDS)
    whole = {np.sort(np.asarray(resize_crop(support.open(i), FAR_SIDE)), axis=None).tobytes() for i in range(40)}
    assert all(np.sort(one.astype(np.uint8), axis=None).tobytes() in whole for one in scrambled)  # the same pixels
    assert len({one.tobytes() for one in scrambled}) == FAR_COPIES
    assert not {*broken.digests} & {*support.digests}
    assert edges(blurred) < edges(scrambled) / 2
    assert np.abs(blurred.mean(axis=(1, 2)) - scrambled.mean(axis=(1, 2))).max() < 8
    assert copy_broken(support, seed=3).digests == broken.digests
    assert copy_broken(support, seed=4).digests != broken.digests


def test_few_pictures_are_broken_once_each(digits: ImageDataset) -> None:
    assert len(copy_broken(digits.subset(range(5)), seed=0)) == FAR_KINDS * 5


def test_strangers_are_letters_and_patterns(digits: ImageDataset) -> None:
    strangers = draw_strangers(0)
    letters, patterns = np.array_split(pixels(strangers), FAR_KINDS)
    assert len({*strangers.digests}) == FAR_KINDS * FAR_COPIES
    assert (letters == letters[..., :1]).all()  # grey
    assert min(np.ptp(one) for one in letters) >= 96  # can be read
    assert not (patterns == patterns[..., :1]).all()
    assert draw_strangers(0).digests == strangers.digests
