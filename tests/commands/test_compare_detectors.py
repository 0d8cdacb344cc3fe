"""All detectors compared: the same pictures for every support set, figures of named libraries, paired differences."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import clip_fewshot as cf
from clip_fewshot.features.texts import class_texts
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.novelty import KNNDetector
from clip_fewshot.open_world.far_pictures import draw_strangers
from clip_fewshot.open_world.rejector import fit_rejector
from clip_fewshot.open_world.select_detector import select_detector
from clip_fewshot.protocol import compare_detectors
from clip_fewshot.protocol.detector_tables import describe_comparison
from clip_fewshot.protocol.refits import Task, prepare
from clip_fewshot.runtime.files import read_json
from clip_fewshot.types import FloatArray
from tests.commands.conftest import PER_CLASS, UNKNOWN, Command, one_line

USUAL = ("--model", "mini", "--unseen", ",".join(UNKNOWN), "--shots", "4", "--seeds", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def found(photos: Path, folder: Path, mini: cf.Backbone) -> Any:
    """Three detectors and the choice among all."""
    done = compare(mini, photos, seeds=2, alphas=(0.01, 0.05, 0.1), detectors=("knn", "mahalanobis", "mcm"))
    compare_detectors.save_comparison(done, done.record, folder)
    return {"data": str(photos), "model": "mini", **done.record}


def compare(mini: cf.Backbone, photos: Path, **chosen: Any) -> compare_detectors.DetectorComparison:
    data, common = cf.read_dataset(photos), {"unseen": list(UNKNOWN), "shots": 4, "progress": lambda *done: None}
    return compare_detectors.compare_detectors(mini, data, **common, **chosen)


def test_every_row_is_there_sorted_and_paired_with_auto(found: Any, split: Any) -> None:
    rows = {row["detector"]: row for row in found["rows"]}
    assert set(rows) == {"auto", "knn", "mahalanobis", "mcm"}
    means = [row["auroc"]["mean"] for row in found["rows"]]
    assert means == sorted(means, reverse=True)
    assert (found["n_known"], found["n_novel"]) == (split.test.n, 2 * PER_CLASS)
    assert rows["auto"]["auroc_minus_auto"] is None
    for name in ("knn", "mahalanobis", "mcm"):
        lead = np.subtract(rows[name]["auroc"]["per_seed"], rows["auto"]["auroc"]["per_seed"])
        assert rows[name]["auroc_minus_auto"]["per_seed"] == pytest.approx(lead)
        assert sum(rows[name]["chosen"].values()) == found["seeds"] == 2
        assert all("frozen features" in what for what in rows[name]["chosen"])


def test_figures_are_those_of_scikit_learn_on_fresh_support_sets(found: Any, photos: Path, split: Any) -> None:
    """The knn row, written down again with the classes of the library alone."""
    known, novel = split.test.open("test"), split.novel.open("test")
    backbone = cf.load_backbone("mini", device="cpu")
    task = Task(backbone, split.pool, 4, TrainSettings(20), 1, 0)
    row = next(row for row in found["rows"] if row["detector"] == "knn")
    frozen = np.concatenate([cf.encode_images(backbone, part).features for part in (known, novel)])
    is_novel = np.arange(len(frozen)) >= len(known)
    strangers = cf.encode_images(backbone, draw_strangers(0)).features
    right, flags = [], []
    for place, draw in enumerate((1, 2)):
        support = prepare(task, task.support(draw), [])
        assert not set(support.images.digests) & set(known.digests)
        recipe = support.recipe(task, cf.Point("linear-probe"))
        choice = select_detector(backbone, recipe, support.data, support.frozen, detector="knn")
        assert choice is not None
        rejector = fit_rejector(backbone, recipe, support.data, support.frozen, choice)
        scores, p = rejector.verdict(frozen, [])
        far = np.append(scores[~is_novel], rejector.verdict(strangers, []).scores)
        is_far = np.arange(len(far)) >= len(known)
        assert row["auroc_far"]["per_seed"][place] == pytest.approx(roc_auc_score(is_far, -far))
        assert row["auroc"]["per_seed"][place] == pytest.approx(roc_auc_score(is_novel, -scores))
        assert row["aupr"]["per_seed"][place] == pytest.approx(average_precision_score(is_novel, -scores))
        right.append(np.mean(support.probe.predict(frozen[~is_novel]) == known.required_labels()))
        flags.append(p <= 0.1 + 1e-9)
    assert found["accuracy"]["per_seed"] == pytest.approx(right)
    refused, own, loose = row["rates"]
    assert "it takes 99 known images" in refused["refused"]
    assert own["refused"] is None
    assert loose["false_alarm_rate"]["per_seed"] == pytest.approx([flag[~is_novel].mean() for flag in flags])
    assert loose["detection_rate"]["per_seed"] == pytest.approx([flag[is_novel].mean() for flag in flags])


def test_auto_is_the_choice_over_all_features(found: Any) -> None:
    auto = next(row for row in found["rows"] if row["detector"] == "auto")
    assert sum(auto["chosen"].values()) == 2
    tried = {row["alternative"]: row for row in found["alternatives"]}
    assert {*auto["chosen"]} <= {*tried}
    assert {name.split(",")[0] for name in tried} == {*cf.DETECTORS}
    assert all(0 <= row[side] <= 1 for row in tried.values() for side in ("near", "far"))
    assert [row["near"] for row in found["alternatives"]] == sorted(
        (row["near"] for row in tried.values()), reverse=True
    )


def test_text_record_and_figures_agree(found: Any, folder: Path) -> None:
    said = describe_comparison(found)
    lines = said.splitlines()
    assert "4 shots a class, 2 support sets" in lines[0]
    assert lines[4].split()[0] == found["rows"][0]["detector"]
    assert "alpha 0.01 refused: it takes 99 known images" in said
    assert "auto chose" in said
    first = found["alternatives"][0]
    assert re.search(rf"{re.escape(first['alternative'])} +{first['near']:.3f} +{first['far']:.3f}", said)
    assert f"and {len(found['alternatives']) - 12} more in --json" in said
    for figure in ("det.svg", "densities.svg"):
        drawn = (folder / figure).read_text()
        assert all(row["detector"] in drawn for row in found["rows"])


def test_outliers_from_elsewhere_take_the_place_of_hidden_classes(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    chosen = ("--seeds", 1, "--novel", photos / "six", "--detectors", "knn", "--out", tmp_path, "--json")
    found = command("novelty", photos, *USUAL, *chosen).record
    assert read_json(tmp_path / "novelty.json") == found
    assert found["n_novel"] == PER_CLASS
    assert not set(found["classes"]) & set(UNKNOWN)
    least = 1 / (4 * len(found["classes"]) + 1)
    for row in found["rows"]:
        assert [(one["alpha"], one["refused"]) for one in row["rates"]] == [
            (pytest.approx(max(alpha, least)), None) for alpha in (least, 0.05, 0.1) if alpha >= least
        ]
    assert "calibration images; the usual 0.01 takes 99" in found["notes"][0]


def test_a_detector_of_one_s_own_has_its_row_and_one_that_refuses_is_a_line(mini: cf.Backbone, photos: Path) -> None:
    class Farthest(KNNDetector):
        def score_samples(self, X: FloatArray) -> FloatArray:
            return 2 * super().score_samples(X)

    class Picky(KNNDetector):
        def fit(self, X: FloatArray, y: Any = None) -> KNNDetector:
            raise cf.UsageError(expected="more rows", got="few", fix="add some", where="Picky")

    found = {"data": "", "model": "", **compare(mini, photos, seeds=1, detectors=(Farthest, Picky)).record}
    assert sorted(row["detector"] for row in found["rows"]) == ["Farthest", "auto"]
    described = describe_comparison(found)
    assert "Farthest " in described
    assert "Picky refused: Picky: expected more rows" in described


def test_mistakes_are_one_line(command: Command, photos: Path) -> None:
    one_line(command("novelty", photos, "--detectors", "oracle"), 2, "rank-average")
    one_line(command("novelty", photos, *USUAL[:4], "--shots", "1"), 2, "two pictures of each class")
    one_line(command("novelty", photos, *USUAL[:4], "--shots", "99"), 2, "need 99")
    one_line(command("novelty", photos, *USUAL[:2], "--unseen", "0", "--shots", "2"), 2, "--novel")
    one_line(command("novelty", photos, "--fresh"), 2, "--fresh with --saved")


def test_texts_are_made_of_own_templates(photos: Path, mini: cf.Backbone, found: Any) -> None:
    """What reads texts says something else; what reads none says the same."""
    texts = ("the number {}",)
    own = compare(mini, photos, seeds=1, detectors=("knn", "mcm"), templates=texts)
    usual = compare(mini, photos, seeds=1, detectors=("knn", "mcm"))
    for name, same in (("knn", True), ("mcm", False)):
        mine, theirs = (done.opinions[name][0] for done in (own, usual))
        assert np.array_equal(mine.scores, theirs.scores) == same
    rejector = own.opinions["mcm"][0].rejector
    assert rejector.texts is not None
    by_name = class_texts(mini, own.scene.names, texts)
    np.testing.assert_array_equal(rejector.texts["concepts"], np.stack([by_name[name] for name in own.scene.names]))


def test_of_a_saved_model_the_texts_are_known(command: Command, photos: Path, world: Path) -> None:
    one_line(command("novelty", photos, "--saved", world, "--template", "a {}"), 2, "--template without --saved")
