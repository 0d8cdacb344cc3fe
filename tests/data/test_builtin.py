"""The built-in sets are the real scans, the same on every machine, and the wild ones defeat raw pixels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from clip_fewshot.data.builtin import BUILTIN, DIGIT_NAMES, digits, raw_pixels, wild_digits
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import draw_support, split_open_world


def test_clean_digits_are_the_scans_with_a_black_border() -> None:
    scans, dataset = load_digits(), digits()
    assert np.array_equal(dataset.labels, scans.target)
    assert dataset.label_space.names == DIGIT_NAMES
    for i in (0, 500, 1796):
        picture = np.asarray(dataset.open(i))
        assert picture.shape == (10, 10, 3)
        assert np.array_equal(picture[1:-1, 1:-1, 1], np.rint(scans.images[i] * 255 / 16))
        assert picture.sum() == picture[1:-1, 1:-1].sum()
    assert np.abs(raw_pixels(dataset) - scans.data / 16).max() <= 0.5 / 255 + 1e-12


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_sets_are_distinct_and_found_by_name(name: str) -> None:
    dataset = read_dataset(name)
    assert dataset.name == name
    assert len(dataset) == len(set(dataset.digests)) == len(set(dataset.names)) == 1797
    assert dataset.open(3).mode == "RGB"
    dataset.open(3).putpixel((0, 0), (9, 9, 9))  # a copy: the set itself cannot be changed through it
    assert dataset.open(3).getpixel((0, 0)) != (9, 9, 9)


def test_wild_digits_do_not_change_between_calls() -> None:
    assert wild_digits.__wrapped__().fingerprint() == wild_digits().fingerprint()


def test_the_wild_varies_in_place_size_polarity_and_colour() -> None:
    pixels = raw_pixels(wild_digits()).reshape(-1, 32, 32, 3)
    spread = pixels.std(axis=0)
    assert spread.min() > 0.2  # every pixel is dark here and light there
    edge = np.concatenate([pixels[:, 0], pixels[:, -1]], axis=1).mean(axis=(1, 2))
    assert 0.3 < (edge > 0.5).mean() < 0.7  # light and dark grounds
    assert (np.ptp(pixels, axis=3).mean(axis=(1, 2)) > 0.02).mean() > 0.95  # colours


def pixel_accuracy(dataset: ImageDataset, shots: int, seed: int) -> float:
    split = split_open_world(dataset, shots=shots, seed=seed)
    test = split.test.open("baseline")
    features, centre = raw_pixels(split.support), raw_pixels(split.support).mean(axis=0)
    probe = LogisticRegression(max_iter=500).fit(features - centre, split.support.labels)
    return float(probe.score(raw_pixels(test) - centre, test.labels))


def test_raw_pixels_read_clean_digits_and_fail_in_the_wild() -> None:
    assert pixel_accuracy(digits(), 16, 0) > 0.85
    assert pixel_accuracy(wild_digits(), 16, 0) < 0.35


def test_raw_pixels_of_a_part_are_rows_of_the_whole() -> None:
    part = draw_support(digits(), 1, 0)
    rows = [digits().names.index(name) for name in part.names]
    assert np.array_equal(raw_pixels(part), raw_pixels(digits())[rows])
