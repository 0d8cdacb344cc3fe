"""The coverage experiment at a small size: its figures are counts, its shapes are what their names say."""

from __future__ import annotations

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.conformal.calibration import Calibrated
from experiments import coverage
from experiments.simulated import SHAPES, draw, stream
from tests.commands.conftest import Command, one_line


def test_a_small_run(command: Command) -> None:
    ended = command("coverage", "--draws", 2, "--batches", 2, "--streams", 2, "--json")
    assert (ended.code, ended.err) == (0, "")
    found = ended.record
    assert len(found["coverage"]) == len(SHAPES) * 12
    assert len({row["shape"] for row in found["coverage"]}) == len(SHAPES) == 6
    refused = {
        (row["shape"], row["per_class"]): [c["needed"] for c in row["cells"] if c["refused"]]
        for row in found["coverage"]
    }
    assert refused["5 classes x 3 shots", True] == [198, 38, 18]  # split, the last of the schemes
    assert refused["2 classes x 64 shots", False] == [198]
    assert len(found["discoveries"]) == 12
    assert [row["false_alarms"]["rate"] for row in found["watch"]]
    text = coverage.text(found, coverage.Options(draws=2))
    assert "needs 99" in text
    assert "False discoveries, 1,000 batches" in text
    assert text == coverage.text(found, coverage.Options(draws=2))


def test_a_rate_and_its_error_over_draws() -> None:
    flags = np.random.default_rng(0).random((400, 5)) < 0.1
    whole = coverage.rate(flags, np.ones((400, 5), dtype=bool))
    assert whole["rate"] == pytest.approx(flags.mean())
    assert whole["se"] == pytest.approx(flags.mean(axis=1).std() / 20)
    asked = np.zeros((400, 5), dtype=bool)
    asked[:, 1] = True
    assert coverage.rate(flags, asked)["rate"] == pytest.approx(flags[:, 1].mean())
    assert coverage.kept({"rate": 0.13, "se": 0.01}, 0.1)
    assert not coverage.kept({"rate": 0.1301, "se": 0.01}, 0.1)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_shapes(shape: coverage.Shape) -> None:
    world, again = draw(shape, 3, 40, 4), draw(shape, 3, 40, 4)
    assert world.X.tobytes() == again.X.tobytes()
    assert Calibrated(cf.LOFDetector).fit(world.X, world.y).n_calibration_ == sum(shape.shots)
    assert len(world.X) == sum(shape.shots) + shape.copies * len(range(0, sum(shape.shots), 3))
    assert len(world.known) == len(world.known_y) == 40
    assert not set(world.known_y) - set(range(len(shape.shots)))


def test_a_stream_changes_where_it_should() -> None:
    world = draw(SHAPES[0], 0, 100, 100)
    changed = (stream(world, 60, 0.2, 0) != world.known).any(axis=1)
    assert not changed[:60].any()
    assert 0 < changed[60:].sum() < 20
    assert stream(world, 0, 0, 0).tobytes() == world.known.tobytes()


def test_mistakes_are_one_line(command: Command) -> None:
    one_line(command("coverage", "--draws", "1"), 2, "--draws")
