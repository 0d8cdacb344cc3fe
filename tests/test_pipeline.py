"""The main job end to end, on a tiny random model: what it writes, what it never sees, what it survives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_fewshot import pipeline
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.folder import save_backbone
from clip_fewshot.config import FewShotConfig
from clip_fewshot.data import builtin
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, SealedSet
from clip_fewshot.errors import ArtifactError, ClipFewShotError, DataError, ResourceError, UsageError
from clip_fewshot.few_shot.search.record import list_trials
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.pipeline import run_few_shot
from clip_fewshot.protocol.run_folder import resume_config
from clip_fewshot.protocol.zero_shot_accuracy import zero_shot_probabilities
from clip_fewshot.report.headline import headline_table
from clip_fewshot.report.schema import check_results
from clip_fewshot.runtime import rng, workers
from clip_fewshot.runtime.events import EventLog
from tests.few_shot import test_approach
from tests.few_shot.test_approach import COSINE

OPTIONS_OF_SCHEMA_1 = (
    "data model pretrained shots unseen trials seeds approaches max_unfreeze epochs views decode alpha test_fraction "
    "seed device jobs cache_memory storage budget out resume"
)

COSINE_AT = "tests.few_shot.test_approach"


def changed(config: FewShotConfig, **options: Any) -> FewShotConfig:
    """``config`` with other values for some options."""
    return FewShotConfig.from_json(config.to_json() | options)


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


@pytest.fixture(scope="module", autouse=True)
def fewer_digits() -> Iterator[None]:
    """A quarter of the scans: enough to go through every hop."""
    with pytest.MonkeyPatch.context() as patch:
        quarter = builtin.digits().subset(np.arange(450))
        patch.setitem(builtin.BUILTIN, "digits", lambda: quarter)
        yield


@pytest.fixture(scope="module")
def model(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    save_backbone(tiny, folder, half=False)
    return str(folder)


@pytest.fixture(scope="module")
def config(model: str) -> FewShotConfig:
    two = ("mlp-arcface", "contrastive")
    return FewShotConfig.of(
        model=model, shots=4, trials=5, seeds=2, epochs=1, max_unfreeze=2, alpha=0.1, approaches=two, jobs=1
    )


@pytest.fixture(scope="module")
def finished(config: FewShotConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("run")
    return out, run_few_shot(changed(config, out=str(out)), silent, "the command", EventLog(out / "events.jsonl"))


def study_and_model(out: Path) -> dict[str, Any]:
    """Everything that selection decided, as bytes, less the clock."""
    trials = {}
    for path in sorted((out / "trials").iterdir()):
        record = json.loads(path.read_text())
        del record["record"]["seconds"]
        trials[path.name] = record
    return {"trials": trials, "model": {p.name: p.read_bytes() for p in sorted((out / "model").iterdir())}}


def test_it_writes_what_the_schema_promises(finished: tuple[Path, dict[str, Any]], config: FewShotConfig) -> None:
    out, results = finished
    check_results(results)
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["search"]["test_looks"] == 1
    assert results["search"]["finished"] + results["search"]["pruned"] + results["search"]["failed"] == 5
    assert set(results["approaches"]) == {"text-prior", *config.search.approaches}
    assert len(results["best"]["test"]["per_seed"]) == 2
    assert len(results["dataset"]["unseen"]) == 3
    assert results["shift"]["pictures"] == min(500, results["dataset"]["counts"]["test"])
    assert any("another camera" in told for told in results["warnings"]) == (results["shift"]["verdict"] != "same")
    page = (out / "report.html").read_text()
    assert "the command" in page
    assert page.count("<img") > 10


def test_each_trial_and_the_test_are_told(finished: tuple[Path, dict[str, Any]]) -> None:
    out, results = finished
    *trials, test = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    rows = {record.number: record.to_row() for record in list_trials(out)}
    assert {told["step"]: (told["kind"], told["value"], told["approach"]) for told in trials} == {
        number: ("trial", row["value"], row["approach"]) for number, row in rows.items()
    }
    best = results["best"]
    assert (test["kind"], test["step"], test[best["approach"]]) == ("test", 5, best["test"]["mean"])


def test_a_run_that_was_judged_otherwise_is_not_gone_on_with(
    finished: tuple[Path, dict[str, Any]], config: FewShotConfig, tmp_path: Path
) -> None:
    out = tmp_path / "old"
    out.mkdir()
    record = json.loads((finished[0] / "run.json").read_text())
    del record["key"]["objective"], record["sha256"]  # as releases wrote it that did not seal
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="an earlier release judged by F1"):
        run_few_shot(FewShotConfig.of(resume=str(out)), silent)


def test_without_unfrozen_layers_what_cannot_train_is_left_out(config: FewShotConfig, tmp_path: Path) -> None:
    results = run_few_shot(changed(config, max_unfreeze=0, seeds=1, out=str(tmp_path / "run")), silent)
    assert list(results["approaches"]) == ["text-prior", "mlp-arcface"]
    assert results["approaches"]["mlp-arcface"]["params"]["unfreeze"] == 0
    assert [w for w in results["warnings"] if w.startswith("left out: contrastive (")]
    check_results(results)
    alone = changed(config, max_unfreeze=0, approaches=("contrastive",), out=str(tmp_path / "none"))
    with pytest.raises(UsageError, match="nothing trains with 0 unfrozen layers"):
        run_few_shot(alone, silent)


def test_the_saved_model_answers(finished: tuple[Path, dict[str, Any]], digits: ImageDataset) -> None:
    out, results = finished
    world = OpenWorldClassifier.load(out / "model")
    answers = world.predict(digits.subset(np.arange(40)), top=2)
    assert all(a.label is None or a.label in results["dataset"]["classes"] for a in answers)
    assert all(len(a.top) == 2 and 0 < a.p_value <= 1 for a in answers)


def test_the_report_has_the_coverage_of_the_sets_that_the_saved_model_gives(
    finished: tuple[Path, dict[str, Any]], config: FewShotConfig
) -> None:
    out, results = finished
    world = OpenWorldClassifier.load(out / "model")
    data = config.data
    split = pipeline.split_open_world(
        builtin.BUILTIN["digits"](),
        shots=data.shots,
        unseen=data.unseen_classes,
        seed=data.seed,
        test_fraction=data.test_fraction,
    )
    test = split.test.open("the same again")
    sets, truth = world.predict_set(test), test.label_space.decode(test.required_labels())
    found = results["prediction_sets"]
    assert found["alpha"] == world.alpha
    held = np.mean([a in s for a, s in zip(truth, sets, strict=True)])
    assert found["coverage"]["mean"] == pytest.approx(held, abs=0.01)
    assert found["size"] == pytest.approx(np.mean([len(one) for one in sets]), abs=0.02)  # the last bit of a loss


def test_the_same_command_gives_the_same_bytes(
    finished: tuple[Path, dict[str, Any]], config: FewShotConfig, tmp_path: Path
) -> None:
    again = run_few_shot(changed(config, out=str(tmp_path)), silent, "the command")
    assert study_and_model(tmp_path) == study_and_model(finished[0])
    timeless = {"timing", "search", "config"}
    assert {k: v for k, v in again.items() if k not in timeless} == {
        k: v for k, v in finished[1].items() if k not in timeless
    }


def test_two_processes_give_the_same_bytes_as_one(
    finished: tuple[Path, dict[str, Any]], config: FewShotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PRICE", 0.0)
    results = run_few_shot(changed(config, out=str(tmp_path), jobs=2), silent, "the command")
    assert study_and_model(tmp_path) == study_and_model(finished[0])
    assert results["approaches"] == finished[1]["approaches"]


class Shuffled(SealedSet):
    """A sealed set whose labels are permuted when it is opened."""

    __slots__ = ()

    def open(self, purpose: str) -> ImageDataset:
        images = super().open(purpose)
        return replace(images, labels=rng.generator(1, "permute").permutation(images.required_labels()))


def test_permuting_the_test_labels_changes_no_byte_of_study_or_model(
    finished: tuple[Path, dict[str, Any]], config: FewShotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = pipeline.split_open_world

    def permuted(*args: Any, **options: Any) -> OpenWorldSplit:
        split = honest(*args, **options)
        test, novel = split.test.open("test of the test"), split.novel.open("test of the test")
        return replace(split, test=Shuffled(test), novel=Shuffled(novel))

    monkeypatch.setattr(pipeline, "split_open_world", permuted)
    results = run_few_shot(changed(config, out=str(tmp_path)), silent, "the command")
    assert study_and_model(tmp_path) == study_and_model(finished[0])
    chance = results["linear_probe"]["mean"]
    assert chance < 0.4 < finished[1]["linear_probe"]["mean"] + 0.2


def test_replacing_the_test_images_by_noise_changes_no_byte_of_study_or_model(
    finished: tuple[Path, dict[str, Any]], config: FewShotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = pipeline.split_open_world
    noise = rng.generator(0, "noise")

    def poisoned(*args: Any, **options: Any) -> OpenWorldSplit:
        split = honest(*args, **options)
        test = split.test.open("test of the test")
        pictures = tuple(Image.fromarray(noise.integers(0, 256, (10, 10, 3), dtype=np.uint8)) for _ in test.images)
        return replace(split, test=SealedSet(replace(test, images=pictures)))

    monkeypatch.setattr(pipeline, "split_open_world", poisoned)
    run_few_shot(changed(config, out=str(tmp_path)), silent, "the command")
    assert study_and_model(tmp_path) == study_and_model(finished[0])


def test_the_test_set_stays_sealed_until_model_and_study_are_on_disk(
    config: FewShotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    opened = SealedSet.open

    def recorded(self: SealedSet, purpose: str) -> ImageDataset:
        order.append(f"open with {len(list((tmp_path / 'trials').iterdir()))} trials")
        assert (tmp_path / "model" / "manifest.json").is_file()
        return opened(self, purpose)

    monkeypatch.setattr(SealedSet, "open", recorded)
    run_few_shot(changed(config, out=str(tmp_path)), silent, "the command")
    assert order == ["open with 5 trials"] * 2


class Killed(BaseException):
    """Stands in for a kill between two trials."""


def test_a_run_that_was_cut_off_resumes_to_the_same_bytes(
    finished: tuple[Path, dict[str, Any]], config: FewShotConfig, tmp_path: Path
) -> None:
    def cut(stage: str, done: int, total: int) -> None:
        if (stage, done) in (("search", 3), ("refit", 1)):
            raise Killed

    for options in (changed(config, out=str(tmp_path)), FewShotConfig.of(resume=str(tmp_path))):
        with pytest.raises(Killed):
            run_few_shot(options, cut, "the command")
    run_few_shot(FewShotConfig.of(resume=str(tmp_path)), silent, "the command")
    assert study_and_model(tmp_path) == study_and_model(finished[0])


def test_resuming_can_add_trials(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    assert resume_config(FewShotConfig.of(resume=str(out))).run.n_trials == 5
    more = resume_config(FewShotConfig.of(resume=str(out), trials=9))
    assert (more.run.n_trials, more.data.shots, more.run.out) == (9, 4, str(out))


def test_a_second_run_on_one_folder_is_refused_and_told_who_holds_it(config: FewShotConfig, tmp_path: Path) -> None:
    def second(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("search", 1):
            with pytest.raises(ResourceError, match="pid"):
                run_few_shot(changed(config, out=str(tmp_path)), silent, "the command")
            raise Killed

    with pytest.raises(Killed):
        run_few_shot(changed(config, out=str(tmp_path)), second, "the command")


def test_a_run_begun_by_an_earlier_release_goes_on_unless_it_decoded_otherwise(
    finished: tuple[Path, dict[str, Any]], config: FewShotConfig, tmp_path: Path
) -> None:
    held = json.loads((finished[0] / "run.json").read_text())
    assert set(held["config"]) == set(OPTIONS_OF_SCHEMA_1.split())
    assert held["config"]["decode"] == "exact"
    assert held["key"]["options"]["decode"] == "exact"
    (tmp_path / "run.json").write_text(json.dumps({"config": held["config"] | {"decode": "fast"}}))
    with pytest.raises(ArtifactError, match="in no other way"):
        run_few_shot(FewShotConfig.of(resume=str(tmp_path)), silent, "the command")


def test_an_option_that_no_part_has_is_no_option() -> None:
    with pytest.raises(TypeError, match="no such option: sots"):
        FewShotConfig.of(sots=4)


def test_another_run_in_a_used_folder_is_refused_by_name_of_the_option(
    finished: tuple[Path, dict[str, Any]], config: FewShotConfig
) -> None:
    with pytest.raises(ArtifactError, match="other shots"):
        run_few_shot(changed(config, shots=5, out=str(finished[0])), silent, "the command")


def test_resuming_what_never_began_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="interrupted run"):
        run_few_shot(FewShotConfig.of(resume=str(tmp_path)), silent, "the command")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of a user's own, ten pictures each, one of them broken."""
    root = tmp_path / "photos"
    for i, name in enumerate(("bee", "ant <b>", "wasp")):
        (root / name).mkdir(parents=True)
        for j in range(10):
            pixels = rng.generator(0, name, j).integers(0, 80, (20, 24, 3)) + 80 * np.eye(3, dtype=np.int64)[i]
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{j}.png")
    (root / "bee" / "broken.jpg").write_bytes(b"not a picture")
    return root


def test_one_shot_and_no_unseen_class_on_a_folder_of_photos(folder: Path, model: str, tmp_path: Path) -> None:
    """Nothing to validate on, nothing to calibrate on, nothing novel: said, not crashed."""
    out = tmp_path / "run"
    config = FewShotConfig.of(data=str(folder), model=model, shots=1, seeds=2, epochs=1, trials=5, out=str(out), jobs=1)
    results = run_few_shot(config, silent, "the command")
    check_results(results)
    assert results["best"]["approach"] in ("text-prior", "zero_shot")
    assert results["novelty"] is None
    (skipped,) = results["dataset"]["skipped"]
    assert (Path(skipped["path"]).name, skipped["reason"]) == ("broken.jpg", "not-image")
    assert any("not-image" in warning for warning in results["warnings"])
    world = OpenWorldClassifier.load(out / "model")
    assert world.rejector_ is None
    assert {a.label for a in world.predict([folder / "bee" / "0.png"])} <= {"bee", "ant <b>", "wasp"}
    assert "ant <b>" not in (out / "report.html").read_text()


@pytest.mark.parametrize("alpha", [0.01, None])
def test_an_alpha_that_the_shots_cannot_support_is_refused_unless_nobody_asked_for_it(
    folder: Path, model: str, tmp_path: Path, alpha: float | None
) -> None:
    config = FewShotConfig.of(
        data=str(folder),
        model=model,
        shots=3,
        seeds=1,
        epochs=1,
        trials=3,
        unseen="wasp",
        alpha=alpha,
        out=str(tmp_path / "r"),
    )
    results = run_few_shot(config, silent, "the command")
    found, fallen = results["novelty"], "alpha is 0.1429, the least for 6 calibration images"
    assert 0 <= found["auroc"] <= 1
    assert (found["refused"] is None) == (found["false_alarm_rate"] is not None) == (alpha is None)
    assert any(fallen in warning for warning in results["warnings"]) == (alpha is None)
    assert "99" in str(found["refused"]) if alpha else found["alpha"] == pytest.approx(1 / 7)


def test_too_few_pictures_are_listed_before_any_training(folder: Path, model: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shots"):
        run_few_shot(FewShotConfig.of(data=str(folder), model=model, shots=100, out=str(tmp_path / "r")), silent, "c")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"shots": 0}, "shots"),
        ({"alpha": 1.0}, "alpha"),
        ({"seeds": -1}, "seeds"),
        ({"jobs": 0}, "jobs"),
        ({"jobs": 2, "storage": "sqlite:///study.db"}, "jobs"),
        ({"cache_memory": -1.0}, "cache_memory"),
    ],
)
def test_options_outside_their_range_are_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=f"`{name}`"):
        FewShotConfig.of(**options)


def test_the_built_in_sets_are_known_to_the_configuration() -> None:
    assert set(builtin.BUILTIN) == {"digits", "digits-wild"}
    assert FewShotConfig.of(data="digits-wild").data.builtin
    assert FewShotConfig.of(data="digits").n_views == 1
    assert FewShotConfig.of(data="photos").n_views == 2
    assert FewShotConfig.of(data="photos").data.model_name == "ViT-B/32"


def test_an_approach_of_ones_own_stands_in_table_report_and_model(
    config: FewShotConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "run")
    own = changed(config, approaches=("mlp", f"python:{COSINE_AT}:COSINE"), trials=6, seeds=1, out=out)
    results = run_few_shot(own, silent, "the command")
    assert set(results["approaches"]) == {"text-prior", "mlp", "cosine"}
    assert "cosine" in headline_table(results)
    assert "cosine" in (tmp_path / "run" / "report.html").read_text()
    drawn = [json.loads(path.read_text())["record"]["params"] for path in sorted((tmp_path / "run/trials").iterdir())]
    assert {"approach": "cosine", "unfreeze": 1, "scale": 16, "gamma": 2.0} in drawn
    again = FewShotConfig.of(resume=out, trials=7, jobs=1)
    with pytest.raises(ArtifactError, match=r"'cosine', which a file must not import"):
        run_few_shot(again, silent, "")
    named = changed(again, approaches=("mlp", COSINE))
    assert run_few_shot(named, silent, "")["search"]["finished"] >= 3
    monkeypatch.setattr(test_approach, "focal", lambda logits, labels, gamma: logits.sum())
    other = replace(COSINE, loss=test_approach.focal)
    with pytest.raises(ArtifactError, match="pictures, weights or code"):
        run_few_shot(changed(again, approaches=("mlp", other)), silent, "")


def test_own_texts_names_and_neighbours_go_through_every_hop_and_are_written_down(
    config: FewShotConfig, tiny: Backbone, tmp_path: Path
) -> None:
    texts, out = ("the number {}", "one {}, no more"), tmp_path / "run"
    (tmp_path / "names.txt").write_text("\n".join("0123456789"))
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    asked = {"templates": str(tmp_path / "texts.txt"), "class_names": str(tmp_path / "names.txt")}
    of_s2 = {"detector": "lof", "n_neighbors": 20, "seeds": 1, "trials": 3, "approaches": ("contrastive",)}
    own = changed(config, **asked, **of_s2, out=str(out))
    results = run_few_shot(own, silent, "the command")
    seen, unseen = results["dataset"]["classes"], results["dataset"]["unseen"]
    assert set(seen) | set(unseen) == set("0123456789")
    assert results["novelty"]["chosen"].startswith("lof, ")
    assert results["novelty"]["n_neighbors"] == 20
    assert (
        "the detector compares with 2 neighbours, not 20: they stay below the shots of a class" in results["warnings"]
    )
    test = pipeline.split_open_world(
        pipeline.read_dataset("digits", class_names=own.data.class_names), shots=4, unseen=3, seed=0
    ).test.open("test")
    guesses = zero_shot_probabilities(tiny, test, test.label_space.names, texts).argmax(dim=1).numpy()
    assert results["zero_shot"]["mean"] == pytest.approx((guesses == test.labels).mean())
    world = OpenWorldClassifier.load(out / "model")
    assert world.model.recipe().settings.templates == texts
    held = json.loads((out / "run.json").read_text())["config"]
    assert (held["template"], "templates" in held) == (list(texts), False)  # the texts themselves: files change
    began = resume_config(FewShotConfig.of(resume=str(out)))
    assert (began.data.template, began.run.n_neighbors) == (texts, 20)
    with pytest.raises(UsageError, match="got `template`; leave them out"):
        run_few_shot(FewShotConfig.of(resume=str(out), template=("another {}",)), silent, "")
    with pytest.raises(ArtifactError, match="other template"):
        run_few_shot(changed(own, templates="one"), silent, "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"template": ("a photo",)}, "`template`: expected one {}"),
        ({"templates": "opnai"}, "`templates`: expected one of one, ensemble, openai"),
        ({"n_neighbors": 20}, "`n_neighbors`: expected a detector that has neighbours, got 'auto'"),
        ({"n_neighbors": 20, "detector": "mcm"}, "got 'mcm'; name such a one, as `detector` lof"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_pictures_are_read(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ClipFewShotError, match=re.escape(said)):
        run_few_shot(FewShotConfig.of(data="nowhere", **options), silent, "")
