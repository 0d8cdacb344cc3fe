"""The coverage experiment at a small size: its figures are counts, its shapes are what their names say."""

from __future__ import annotations

import re

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.conformal.p_values import p_values
from clip_fewshot.open_world.alternatives import Alternative
from clip_fewshot.open_world.judges import LabelledRows
from clip_fewshot.open_world.rejector import calibrate_shots
from experiments import coverage, coverage_detectors
from experiments.simulated import SHAPES, draw, stream, texts
from tests.commands.conftest import Command, one_line


def test_a_small_run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_detectors, "SHAPES", SHAPES[1:3])  # the others take minutes
    ended = command("coverage", "--draws", 2, "--detector-draws", 2, "--batches", 2, "--streams", 2, "--json")
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
    assert [(row["shape"], row["detector"]) for row in found["detectors"]] == [
        (shape.name, name)
        for shape in SHAPES[1:3]
        for name, part in cf.DETECTORS.items()
        for _ in range(2 + bool(part.scheme))
    ]
    first = [row for row in found["detectors"] if row["shape"] == SHAPES[1].name]
    asked = [(row["calibrated"][-9:], [cell["refused"] is None for cell in row["cells"]]) for row in first]
    assert all(given == [False, way != "per class"] for way, given in asked)  # 15 pictures, 3 of a class
    text = coverage.text(found, coverage.Options(draws=2))
    assert "needs 99" in text
    assert re.search("5 classes x 3 shots, knn, full, levelled +refused +0", text)
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


def test_detectors_are_judged_as_a_rejector_calibrates_them() -> None:
    world = draw(SHAPES[0], 3, 40, 4)
    pictures, said = np.concatenate([world.known, world.novel]), texts(world, 3)
    mcm = cf.MCMDetector(said["concepts"])
    by_hand = {
        "mcm": p_values(mcm.fit(world.X).score_samples(world.X), mcm.score_samples(pictures)),
        "knn": Calibrated(cf.KNNDetector, "full", levelled=True).fit(world.X, world.y).p_values(pictures),
    }
    for name, p in by_hand.items():
        refused, flags = coverage_detectors.judge(Alternative(name), world, said, 3)
        assert refused == [None, None]
        assert flags.tolist() == [(p <= level + 1e-9).tolist() for level in (0.05, 0.1)]


def test_no_fold_holds_out_a_copy_of_what_it_learned_from() -> None:
    world = draw(SHAPES[5], 0, 2, 2)
    judges = calibrate_shots(Alternative("energy"), LabelledRows(world.X, world.y)).judges
    assert len(judges) == 4
    for judge in judges:
        assert np.abs(judge.held_out.rows[:, None] - judge.known.rows).max(axis=2).min() > 1e-3
        assert len(judge.held_out.rows) + len(judge.known.rows) == 80


def test_a_cell_is_marked_beyond_chance_over_all_cells() -> None:
    cells = [{"alpha": 0.1, "rate": 0.1 + 0.01 * far, "se": 0.01, "draws": 1000} for far in (-5, 2, 2.5, 3.1)]
    coverage_detectors.mark(cells)  # one of four: 2.24 standard errors
    assert [cell["kept"] for cell in cells] == [True, True, False, False]
    cells = [cell | {"draws": 10} for cell in cells]
    coverage_detectors.mark(cells)  # of ten draws: 2.69
    assert [cell["kept"] for cell in cells] == [True, True, True, False]


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
    one_line(command("coverage", "--detector-draws", "1"), 2, "--detector-draws")
