"""What is measured of the test for another camera: every kind of batch, the same in every process."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from clip_fewshot.data.dataset import ImageDataset
from experiments import shift


def test_every_kind_of_batch_is_judged_by_the_features_of_its_pictures(digits: ImageDataset) -> None:
    random, y = np.random.default_rng(0), digits.required_labels()
    known = 4 * np.eye(10, 40)[y] + random.normal(size=(len(y), 40))
    moved = {"blur": 0.0, "grey": 1.0, "sketch": 3.0}
    seen = {"known": known} | {name: known + by for name, by in moved.items()}
    found = shift.judge(digits, seen, shots=8, batch=80, seed=0)
    assert found == shift.judge(digits, seen, shots=8, batch=80, seed=0)
    assert len(found) == 2 + len(shift.CAMERAS) + len(shift.MIXED)
    assert found["known"] == found["known, other proportions"] == found["blur"] == found["50 % new"] == "same"
    assert found["grey"] == "shift"


@pytest.mark.slow
def test_sketches_of_digits_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    options = shift.Options(data="digits", model="mini", shot_counts=(8,), seeds=2, batch=60, json=True)
    assert shift.main(options) == 0
    rows = {row["batch"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert all(row["batches"] == 2 and row["shift"] <= row["named"] for row in rows.values())
    assert rows["sketch"]["named"] == 1


def test_grey_is_grey_and_a_sketch_is_white_where_nothing_is_drawn() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    for copy in (shift.CAMERAS["grey"](picture), shift.sketch(picture)):
        red, green, blue = np.moveaxis(np.asarray(copy), 2, 0)
        assert (red == green).all()
        assert (green == blue).all()
    assert np.asarray(shift.sketch(Image.new("RGB", (24, 24), (90, 120, 60)))).min() >= 250
