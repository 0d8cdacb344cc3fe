"""The comparison of methods: who is given what, what is refused, and that the figures are what they are called."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss

import clip_fewshot as cf
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import draw_support, split_open_world
from clip_fewshot.errors import ArtifactError, DataError, UsageError
from clip_fewshot.evaluation.intervals import paired_difference
from clip_fewshot.few_shot.approach import OWN
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes import LinearProbe, PrototypeProbe
from clip_fewshot.protocol import compare_methods, method_scene, method_tables, published
from clip_fewshot.protocol.compare_sets import MethodPlan, compare_sets
from clip_fewshot.protocol.method_scene import ComparedSet, arrange_methods
from clip_fewshot.report.schema import check_comparison
from clip_fewshot.runtime.files import read_json
from clip_fewshot.runtime.rng import derive_seed

CLASSES, WIDTH, PER_CLASS = ("ant", "bee", "cat"), 6, 30
SETTINGS = TrainSettings(1)


def make_set(seed: int = 0, texts: bool = True, per_class: int = PER_CLASS) -> ComparedSet:
    """Features around a direction a class, whose texts lie near; there are no pictures."""
    draws = np.random.default_rng(seed)
    centres = unit_rows(draws.normal(size=(3, WIDTH)))
    labels = np.repeat(np.arange(3), per_class)
    names = tuple(f"{seed}-{i}" for i in range(len(labels)))
    features = (centres[labels] + 0.35 * draws.normal(size=(len(labels), WIDTH))).astype(np.float32)
    rows, near = dict(zip(names, features, strict=True)), unit_rows(centres + 0.2 * draws.normal(size=centres.shape))
    pictures = ImageDataset(
        "made", tuple(map(Path, names)), names, labels, cf.LabelSpace(CLASSES), None, ("",) * len(names), names
    )
    read = (lambda asked: near[pictures.label_space.encode(asked)]) if texts else None
    return ComparedSet(pictures, lambda some: np.stack([rows[one] for one in some.digests]), read, None, "none")


def approach(name: str, probe: Any) -> cf.Approach:
    return cf.Approach(name, towers="none", ends_in="probe", probe=probe)


def measure(compared: ComparedSet, *methods: Any, counts: tuple[int, ...] = (1, 4), seeds: int = 3) -> list[Any]:
    scene = arrange_methods(compared, counts, seeds, 0, SETTINGS)
    chosen = compare_methods.choose_methods(methods, None, scene.texts is not None)
    return list(compare_methods.measure_methods(scene, chosen, lambda *_: None))


class Recorded(PrototypeProbe):
    """Keeps what it was given."""

    seen: ClassVar[list[tuple[bytes, bytes]]] = []

    def fit(self, X: Any, y: Any) -> Recorded:
        self.seen.append((np.array(X).tobytes(), np.array(y).tobytes()))
        X *= 0.5  # spoils its own copy only
        super().fit(X, y)
        return self


class AlsoRecorded(Recorded):
    seen: ClassVar[list[tuple[bytes, bytes]]] = []


class Peeking(PrototypeProbe):
    """Centres on the pictures that it is asked about: transductive, in one line."""

    def logits(self, X: Any) -> Any:
        return super().logits(X - X.mean(axis=0) + 0.1)


class Broken(PrototypeProbe):
    def fit(self, X: Any, y: Any) -> Broken:
        if len(y) > 3:
            raise ArithmeticError("too much\nfor me")
        super().fit(X, y)
        return self


def test_every_method_is_given_the_same_draws_of_the_training_side_and_nothing_else() -> None:
    compared = make_set()
    measure(compared, approach("one", Recorded), approach("two", AlsoRecorded))
    assert Recorded.seen == AlsoRecorded.seen
    assert len(Recorded.seen) == 6
    split = split_open_world(compared.pictures, shots=4, seed=0)
    expected = [draw_support(split.pool, k, derive_seed(0, "draw", i)) for k in (1, 4) for i in (1, 2, 3)]
    for (X, y), support in zip(Recorded.seen, expected, strict=True):
        assert compared.features(support).tobytes() == X
        assert y == support.labels.tobytes()  # type: ignore[union-attr]
    assert not set(split.test.open("test").digests) & {one for support in expected for one in support.digests}
    assert set(expected[0].digests) < set(expected[3].digests)


def test_the_test_side_is_opened_once_whatever_is_compared() -> None:
    scene = arrange_methods(make_set(), (1, 2, 4), 3, 0, SETTINGS)
    assert scene.looks == 1
    assert list(scene.supports) == [1, 2, 4]


def test_a_method_that_learns_from_the_sealed_pictures_is_refused_and_the_others_go_on() -> None:
    rows = {row["method"]: row["points"] for row in measure(make_set(), "linear-probe", approach("peek", Peeking))}
    assert all("depend on the sealed pictures" in point["error"] for point in rows["peek"])
    assert all("accuracy" in point for point in rows["linear-probe"])


def test_a_method_that_fails_says_why_where_it_fails() -> None:
    first, second = measure(make_set(), "linear-probe", approach("broken", Broken))
    assert [sorted(point) for point in second["points"]][1] == ["error", "shots"]
    assert "accuracy" in second["points"][0]
    (said,) = method_tables.list_errors(second)
    assert said.startswith("broken has no result at 4 shots: ")
    assert "ArithmeticError: too much for me" in said
    record = {"sets": [{"rows": [first, second]}]}
    assert method_tables.count_results(record) == (4, 1)


def test_a_method_that_spoils_what_it_is_given_spoils_nothing_for_others() -> None:
    class Spoiling(PrototypeProbe):
        def predict_proba(self, X: Any) -> Any:
            found = super().predict_proba(X)
            X[:] = 0
            return found

    alone = measure(make_set(), "text-prior", "linear-probe")[1]
    beside = measure(make_set(), "text-prior", approach("spoiling", Spoiling), "linear-probe")[2]
    for one, other in zip(alone["points"], beside["points"], strict=True):
        assert one["accuracy"] == other["accuracy"]
        assert one["loss"] == other["loss"]


def test_what_are_no_probabilities_is_refused() -> None:
    class Short(PrototypeProbe):
        def predict_proba(self, X: Any) -> Any:
            return super().predict_proba(X)[:, :2]

    (row,) = measure(make_set(), approach("short", Short))
    assert all("expected probabilities" in point["error"] for point in row["points"])


def test_the_figures_are_those_of_a_fit_by_hand() -> None:
    compared = make_set(seed=5)
    text, linear = measure(compared, "text-prior", "linear-probe", counts=(2,), seeds=2)
    assert text["points"][0]["difference"] is None  # of the reference to itself
    split = split_open_world(compared.pictures, shots=2, seed=0)
    test = split.test.open("test")
    X_test, truth = compared.features(test), test.required_labels()
    texts = dict(enumerate(compared.texts(CLASSES)))  # type: ignore[misc]
    right: dict[str, list[Any]] = {"text": [], "linear": []}
    losses = []
    for i in (1, 2):
        support = draw_support(split.pool, 2, derive_seed(0, "draw", i))
        X, y = compared.features(support), support.required_labels()
        probe = LinearProbe().fit(X, y)
        right["linear"].append(probe.predict(X_test) == truth)
        right["text"].append(cf.PROBES["text-prior"](texts=texts).fit(X, y).predict(X_test) == truth)  # type: ignore[attr-defined, call-arg]
        losses.append(log_loss(truth, probe.predict_proba(X_test)))
    (point,) = linear["points"]
    assert point["accuracy"]["per_seed"] == [one.mean() for one in right["linear"]]
    assert point["difference"] == paired_difference(right["linear"], right["text"]).to_json()
    assert point["loss"]["per_seed"] == pytest.approx(losses, abs=1e-4)
    assert point["parameters"] == 3 * WIDTH + 3
    assert point["seconds"] >= 0


def test_without_texts_those_that_read_them_are_left_out_and_the_linear_probe_is_the_reference() -> None:
    rows = measure(make_set(texts=False))
    assert rows[0]["method"] == "linear-probe"
    by_name = {row["method"]: row["points"] for row in rows}
    assert set(by_name) == {name for name, one in OWN.items() if one.towers == "none"}
    for name in ("text-prior", "zero-shot"):
        assert all("expected texts of the classes" in point["error"] for point in by_name[name])
    assert "difference" in by_name["linear-probe"][0]


def test_features_alone_cannot_train_a_tower() -> None:
    rows = measure(make_set(), "text-prior", "mlp", "auto")
    assert all("expected pictures to train on" in point["error"] for row in rows[1:] for point in row["points"])


def test_a_number_of_shots_that_a_class_lacks_is_left_out_and_said() -> None:
    scene = arrange_methods(make_set(per_class=5), (2, 16, 8), 1, 0, SETTINGS)
    assert list(scene.supports) == [2]
    assert [warning.split(" left out")[0] for warning in scene.warnings[:2]] == ["at 16 shots", "at 8 shots"]
    with pytest.raises(DataError, match="training images per class"):
        arrange_methods(make_set(per_class=5), (16,), 1, 0, SETTINGS)


def test_one_class_is_nothing_to_compare_on() -> None:
    compared = make_set()
    with pytest.raises(DataError, match="two classes or more"):
        arrange_methods(replace(compared, pictures=compared.pictures.restrict(["ant"])), (1,), 1, 0, SETTINGS)


def test_the_reference_is_one_of_the_methods_and_stands_first() -> None:
    chosen = compare_methods.choose_methods(("linear-probe", "zero-shot"), "zero-shot", texts=True)
    assert [one.name for one in chosen] == ["zero-shot", "linear-probe"]
    with pytest.raises(UsageError, match="`reference`: expected one of linear-probe"):
        compare_methods.choose_methods(("linear-probe",), "zero-shot", texts=True)
    with pytest.raises(UsageError, match="two of one name"):
        compare_methods.choose_methods((approach("a", Recorded), approach("a", Peeking)), None, texts=True)
    with pytest.raises(UsageError, match="'magic'"):
        MethodPlan(("magic",), None, (1,), 1, 0, SETTINGS)


def compare(tmp_path: Path, *methods: Any, sets: int = 1, **more: Any) -> tuple[Any, list[str], list[str]]:
    shown: list[str] = []
    warned: list[str] = []
    plan = MethodPlan(methods, None, (1, 4), 3, 0, SETTINGS, **more)
    opened = ((f"set & {i}", make_set(i)) for i in range(sets))
    record = compare_sets(opened, plan, tmp_path, "the command", shown.append, warned.extend, lambda *_: None)
    return record, shown, warned


def test_json_csv_latex_and_screen_say_the_same(tmp_path: Path) -> None:
    record, shown, warned = compare(tmp_path, "text-prior", "linear-probe", approach("broken", Broken), sets=2)
    assert read_json(tmp_path / "compare.json") == record
    lines = list(csv.DictReader((tmp_path / "compare.csv").read_text("utf-8").splitlines()))
    points = [(entry, row, point) for entry in record["sets"] for row in entry["rows"] for point in row["points"]]
    assert len(lines) == len(points) == 12
    latex, screen = (tmp_path / "compare.tex").read_text("utf-8"), "\n".join(shown)
    for line, (entry, row, point) in zip(lines, points, strict=True):
        assert (line["set"], line["method"], line["shots"]) == (entry["name"], row["method"], str(point["shots"]))
        if "error" in point:
            assert (line["accuracy"], line["error"]) == ("", point["error"])
            continue
        assert float(line["accuracy"]) == point["accuracy"]["mean"]
        assert [float(line["accuracy_low"]), float(line["accuracy_high"])] == point["accuracy"]["ci95"]
        assert line["difference"] == ("" if point["difference"] is None else repr(point["difference"]["mean"]))
        assert float(line["loss"]) == point["loss"]["mean"]
        cell = (
            f"{point['accuracy']['mean']:.3f} [{point['accuracy']['ci95'][0]:.3f}, {point['accuracy']['ci95'][1]:.3f}]"
        )
        assert cell in latex
        assert cell in screen
    assert latex.count("\\begin{tabular}{lrrrr}") == 3  # two sets and their mean
    assert [said.split(":")[0] for said in warned] == ["broken has no result at 4 shots"] * 2
    drawing = (tmp_path / "compare.svg").read_text("utf-8")
    assert all(name in drawing for name in ("text-prior", "linear-probe", "set &amp; 0"))


def test_latex_and_csv_keep_what_has_a_meaning_there() -> None:
    rows = [["a_b & 50 %", "x,y"], ["#$~^\\{}", 'say "z"']]
    latex = method_tables.tables.format_latex(rows)
    assert "a\\_b \\& 50 \\% & x,y \\\\" in latex
    assert "\\#\\$\\textasciitilde{}\\^{}\\textbackslash{}\\{\\} &" in latex
    assert [list(row) for row in csv.reader(method_tables.tables.format_csv(rows).splitlines())] == rows


def test_rows_are_shown_and_written_as_they_come(tmp_path: Path) -> None:
    class Stopped(PrototypeProbe):
        def fit(self, X: Any, y: Any) -> Stopped:
            raise KeyboardInterrupt

    shown: list[str] = []
    plan = MethodPlan(("linear-probe", approach("stopped", Stopped)), None, (1,), 2, 0, SETTINGS)
    opened = iter([("made", make_set())])
    with pytest.raises(KeyboardInterrupt):
        compare_sets(opened, plan, tmp_path, "", shown.append, lambda _: None, lambda *_: None)
    assert shown[-1].startswith("| linear-probe |")
    (entry,) = read_json(tmp_path / "compare.json")["sets"]
    assert [row["method"] for row in entry["rows"]] == ["linear-probe"]


def test_the_mean_over_sets_has_students_interval_from_three_sets_on(tmp_path: Path) -> None:
    record, shown, _ = compare(tmp_path, "text-prior", "linear-probe", sets=3)
    summary = record["summary"]
    for i, row in enumerate(summary["rows"]):
        for j, point in enumerate(row["points"]):
            for what in ("accuracy", "loss"):
                values = [entry["rows"][i]["points"][j][what]["mean"] for entry in record["sets"]]
                assert point[what]["mean"] == pytest.approx(np.mean(values))
                reach = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
                assert point[what]["ci95"] == pytest.approx(np.clip(reach, 0, 1 if what == "accuracy" else None))
    assert summary["rows"][0]["points"][0]["difference"] is None
    assert summary["rows"][1]["points"][0]["difference"]["ci95"] is not None
    assert "mean of the sets" in shown[-1]
    assert method_tables.mean_of_sets([0.5, 0.7], 0, 1) == {"mean": 0.6, "ci95": None, "per_set": [0.5, 0.7]}


def test_a_mean_over_sets_wants_all_of_them(tmp_path: Path) -> None:
    record, _, _ = compare(tmp_path, "linear-probe", approach("broken", Broken), sets=2)
    broken = record["summary"]["rows"][1]["points"]
    assert "accuracy" in broken[0]
    assert "ArithmeticError" in broken[1]["error"]
    assert compare(tmp_path, "linear-probe")[0]["summary"] is None


def test_compare_json_has_a_schema(tmp_path: Path) -> None:
    record, _, _ = compare(tmp_path, "linear-probe")
    check_comparison(record)
    record["sets"][0]["rows"][0]["points"][0]["accuracy"]["mean"] = 91.2
    with pytest.raises(ArtifactError, match=r"sets\[0\].rows\[0\].points\[0\].accuracy.mean"):
        check_comparison(record)


def test_sets_of_one_name_go_by_their_paths() -> None:
    assert method_scene.name_sets(["digits", "a/photos", "b.parquet"]) == ["digits", "photos", "b"]
    assert method_scene.name_sets(["a/photos", "b/photos"]) == ["a/photos", "b/photos"]


def test_published_numbers_are_those_of_their_sources() -> None:
    found = {(one["method"], one["set"]): one for one in published.select_published("RN50", ["caltech-101"])}
    averages = {method: one["accuracy"] for (method, name), one in found.items() if name == published.AVERAGE}
    shots = ("1", "2", "4", "8", "16")  # means of the eleven sets, computed from the two logs apart
    expected = {
        "Tip-Adapter": (0.6233, 0.6462, 0.6654, 0.6850, 0.7032),
        "GDA with texts": (0.6219, 0.6619, 0.6977, 0.7331, 0.7605),
        "Tip-Adapter-F": (0.6460, 0.6665, 0.6967, 0.7245, 0.7583),
    }
    for method, values in expected.items():
        assert tuple(averages[method][n] for n in shots) == values
    assert averages["zero-shot"] == {"0": 0.5889}
    assert found["Tip-X", "caltech101"]["accuracy"]["1"] == 0.8839
    assert all(re.fullmatch(r"github\.com/\S+ exp\.log \([0-9a-f]{7}\)", one["source"]) for one in found.values())
    assert published.select_published("ViT-B/16", []) == []
    assert "only for RN50" in published.describe_published([], ["mini"])


def test_published_numbers_stand_beside_a_table_of_that_model(tmp_path: Path) -> None:
    _, shown, _ = compare(tmp_path, "linear-probe", published=True)
    assert "Nothing published is at hand for none" in shown[-1]
