"""Killed anywhere and resumed, a training ends where it would have ended; what it wrote loads elsewhere."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive.metrics_log import MetricsLog
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.trainer import StepReport
from clip_fewshot.contrastive.validation import Validation
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.errors import ArtifactError, ResourceError, UsageError
from clip_fewshot.runtime.files import hold_folder, read_json
from tests.backbones.conftest import openai_model
from tests.conftest import TINY
from tests.contrastive.pairs import CONFIG, patterns
from tests.data.pictures import put

FULL = replace(CONFIG, vision_width=64, text_width=64)  # heads as OpenAI's code derives them


def train(folder: Path, steps: int = 4, **changes: object) -> cf.Backbone:
    options = ContrastiveOptions(steps=steps, learning_rate=1e-3, **changes)  # type: ignore[arg-type]
    return cf.train_contrastive(build_backbone(FULL), patterns(2), options, folder=folder, resume=True)


def equal(one: cf.Backbone, other: cf.Backbone) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.attack
def test_killed_at_every_write_it_ends_in_the_weights_of_the_run_left_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.contrastive.killed", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] > 20
    assert found["weights_equal"]
    assert found["figures_equal"]


def test_what_a_kill_left_by_half_is_gone_after_the_next_start(tmp_path: Path) -> None:
    train(tmp_path)
    half = put(tmp_path / ".model.safetensors.ab12.tmp", b"half")
    train(tmp_path)
    assert not half.exists()


def test_the_weights_in_a_checkpoint_are_a_model(tmp_path: Path) -> None:
    trained = train(tmp_path)
    (path,) = (tmp_path / "checkpoint").glob("model-*.safetensors")
    assert equal(cf.load_backbone(path, device="cpu"), trained)


def test_the_result_runs_in_openais_own_code(tmp_path: Path) -> None:
    trained = train(tmp_path)
    theirs = openai_model(FULL)
    theirs.load_state_dict(trained.state_dict())
    pairs = patterns(1)[0]
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode_image(pairs.images), trained.encode_image(pairs.images))
        tokens = torch.nn.functional.pad(pairs.tokens, (0, FULL.context_length - pairs.tokens.shape[1]))
        torch.testing.assert_close(theirs.encode_text(tokens), trained.encode_text(tokens))


def test_the_result_is_saved_and_loaded(tmp_path: Path) -> None:
    trained = train(tmp_path / "run")
    cf.save_backbone(trained, tmp_path / "model", half=False)
    assert equal(cf.load_backbone(tmp_path / "model", device="cpu"), trained)


def test_other_options_are_refused_and_lean_ones_are_not(tmp_path: Path) -> None:
    trained = train(tmp_path)
    for changes in ({"weight_decay": 0.1}, {"state_dtype": "bfloat16"}, {"rates": {"visual": 1.0}}):
        with pytest.raises(UsageError, match=next(iter(changes))):
            train(tmp_path, **changes)
    with pytest.raises(UsageError, match="total"):
        train(tmp_path, steps=5)
    assert equal(train(tmp_path, chunk=2, checkpoint_gradients=True), trained)  # done already


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> cf.ImageDataset:
    """Eight pictures with a caption each."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(8):
        put(root / f"{i}.png", i)
        put(root / f"{i}.txt", f"number {i}")
    return cf.read_dataset(root)


def fed(folder: Path, data: cf.ImageDataset, stop: int | None = None, **changes: Any) -> cf.Backbone:
    """Trained for six steps on pairs of ``data``; by a KeyboardInterrupt for fewer."""

    def on_step(report: StepReport) -> None:
        if report.step == stop:
            raise KeyboardInterrupt

    model = build_backbone(TINY)
    pairs = PairStream(data, model, **({"batch": 4, "seed": 0} | changes))
    options = ContrastiveOptions(steps=6, learning_rate=1e-3)
    return cf.train_contrastive(model, pairs, options, folder=folder, resume=True, on_step=on_step)


def test_other_pairs_are_refused_and_named(pictures: cf.ImageDataset, tmp_path: Path) -> None:
    whole = fed(tmp_path / "whole", pictures)
    with pytest.raises(KeyboardInterrupt):
        fed(tmp_path / "run", pictures, stop=4)
    for changes, said in (({"seed": 7}, "began with: seed 0, got seed 7;"), ({"batch": 3}, "batch 4, got batch 3;")):
        with pytest.raises(UsageError, match=said):
            fed(tmp_path / "run", pictures, **changes)
    others = replace(pictures, captions=tuple(f"{caption}!" for caption in pictures.captions or ()))
    for data, what in ((pictures.subset(np.arange(7)), "pictures 8 with"), (others, "captions 8 with")):
        with pytest.raises(UsageError, match=f"the pairs it began with: .*{what}"):
            fed(tmp_path / "run", data)
    assert equal(fed(tmp_path / "run", replace(pictures, name="moved")), whole)


def test_sources_that_say_nothing_are_not_compared(pictures: cf.ImageDataset, tmp_path: Path) -> None:
    model, options = build_backbone(TINY), ContrastiveOptions(steps=4, learning_rate=1e-3)
    pairs = PairStream(pictures, model, batch=4, seed=0)
    cf.train_contrastive(model, list(pairs.batches(0)), options, folder=tmp_path)
    trained = cf.train_contrastive(build_backbone(TINY, 1), pairs, options, folder=tmp_path, resume=True)
    assert equal(trained, model)
    assert read_json(tmp_path / "checkpoint" / "manifest.json")["meta"]["pairs"] is None


def test_a_folder_in_use_and_one_with_a_training_are_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(UsageError, match="resume"):
        cf.train_contrastive(build_backbone(FULL), patterns(2), ContrastiveOptions(steps=1), folder=tmp_path)
    with hold_folder(tmp_path), pytest.raises(ResourceError, match="no other run"):
        train(tmp_path)


def test_a_damaged_checkpoint_and_one_of_another_model_are_named(tmp_path: Path) -> None:
    train(tmp_path)
    options = ContrastiveOptions(steps=4, learning_rate=1e-3)
    wider = build_backbone(replace(FULL, embed_dim=24))
    with pytest.raises(ArtifactError, match="of this model"):
        cf.train_contrastive(wider, patterns(2), options, folder=tmp_path, resume=True)
    (path,) = (tmp_path / "checkpoint").glob("training-*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="SHA-256"):
        train(tmp_path)


def test_a_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.add("train", step, {"loss": float("nan") if step == 2 else 0.5})
    with log.path.open("a") as file:
        file.write('{"step": 1, "ki')  # what a failing machine leaves
    MetricsLog(tmp_path, 2)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines == [{"step": 1, "kind": "train", "loss": 0.5}, {"step": 2, "kind": "train", "loss": None}]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra 'tracking'")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_the_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cf.train_contrastive(
        build_backbone(CONFIG), patterns(2), ContrastiveOptions(steps=3), folder=tmp_path, tensorboard=True
    )
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [point.step for point in shown] == [1, 2, 3]
    assert [point.value for point in shown] == pytest.approx(
        [line["loss"] for line in lines if line["kind"] == "train"]
    )


def test_one_function_is_told_what_stands_in_the_file(tmp_path: Path) -> None:
    told, options = list[Mapping[str, Any]](), ContrastiveOptions(steps=3)
    checked = Validation(patterns(1), every=2)
    cf.train_contrastive(
        build_backbone(CONFIG), patterns(2), options, folder=tmp_path, validation=checked, on_event=told.append
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert told == [line for line in lines if line["kind"] != "checkpoint"]
    assert [event["step"] for event in told if event["kind"] == "train"] == [1, 2, 3]
    assert {event["kind"] for event in told} == {"train", "validation"}


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ResourceError, match=r"clip-fewshot\[tracking\]"):
        cf.train_contrastive(
            build_backbone(CONFIG), patterns(2), ContrastiveOptions(steps=3), folder=tmp_path, tensorboard=True
        )


def test_another_training_begins_with_the_weights_and_moments_of_an_earlier_one(tmp_path: Path) -> None:
    """Adam's first moment is .9 of the earlier one and .1 of the new gradient; without a start, the second alone."""
    options = ContrastiveOptions(steps=1, learning_rate=1e-3, seed=3)  # another seed, another number of steps
    end = train(tmp_path / "a")
    steps: list[StepReport] = []

    def go_on(name: str, start: Path | None) -> None:
        model = build_backbone(FULL)
        if start is None:
            model.load_state_dict(end.state_dict())
        folder = tmp_path / name
        cf.train_contrastive(model, patterns(2, seed=5), options, folder=folder, start=start, on_step=steps.append)

    go_on("b", tmp_path / "a")
    go_on("c", None)
    assert [report.step for report in steps] == [0, 0]
    assert steps[0].loss == steps[1].loss
    a, b, c = (load_rest(tmp_path / name) for name in "abc")
    moments = [name for name in a if name.startswith("optimizer.first.")]
    assert moments
    for name in moments:
        torch.testing.assert_close(b[name] - c[name], 0.9 * a[name], rtol=1e-4, atol=1e-8)
    assert max(float(a[name].abs().max()) for name in moments) > 1e-4
    assert (int(a["optimizer.taken"]), int(b["optimizer.taken"]), int(c["optimizer.taken"])) == (4, 5, 1)
    again = build_backbone(FULL)
    cf.train_contrastive(again, patterns(2, seed=5), options, folder=tmp_path / "b", start=tmp_path / "c", resume=True)
    assert int(load_rest(tmp_path / "b")["optimizer.taken"]) == 5  # its own checkpoint counts
    with pytest.raises(UsageError, match="a training with a checkpoint"):
        go_on("d", tmp_path / "nowhere")


def load_rest(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = (folder / "checkpoint").glob("training-*.safetensors")
    return safetensors.torch.load_file(path)
