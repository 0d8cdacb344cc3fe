"""A CLIP from scratch by its command: trained, stopped, gone on with, loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clip_fewshot as cf
from clip_fewshot.backbones.architectures import ARCHITECTURES
from clip_fewshot.commands import pretrain
from clip_fewshot.commands.cli.parser import parse
from clip_fewshot.contrastive import memory_check, memory_forecast
from clip_fewshot.contrastive.distributed.world import SingleProcess
from clip_fewshot.contrastive.jobs import Pretraining
from clip_fewshot.contrastive.options import paper_options
from clip_fewshot.contrastive.trainer import StepReport
from clip_fewshot.protocol import pretraining
from clip_fewshot.protocol.zero_shot_accuracy import zero_shot_probabilities
from clip_fewshot.runtime.progress import watch_steps
from tests.commands.conftest import Command, one_line

CONFIG = {
    "embed_dim": 16,
    "image_size": 16,
    "vision_layers": 1,
    "vision_width": 64,
    "vision_heads": 1,
    "patch_size": 8,
    "text_width": 64,
    "text_layers": 1,
    "text_heads": 1,
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures, each with a text file of two captions beside it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture number {i}\nthe {i}. one\n")
    (tmp_path / "tiny.json").write_text(json.dumps(CONFIG))
    return folder


def options(photos: Path, *more: str, folder: tuple[str, str] = ("--out", "out")) -> pretrain.Options:
    typed = [str(photos), "--model", str(photos.parent / "tiny.json"), folder[0], str(photos.parent / folder[1])]
    short = ["--batch", "4", "--passes", "3", "--validation", "4", "--device", "cpu"]
    return parse(pretrain.Options, "pretrain", pretrain.DESCRIPTION, [*typed, *short, *more])


def test_trains_a_given_architecture_and_writes_a_model(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain.main(options(photos, "--chunk", "3")) == 0
    said = capsys.readouterr().out
    assert "16 captions, 4 pictures a step, 6 steps" in said
    assert "floor 0.000" in said
    assert "image_to_text_recall@1" in said
    loaded = cf.load_backbone(photos.parent / "out", device="cpu")
    (checkpoint,) = (photos.parent / "out" / "checkpoint").glob("model-*.safetensors")
    of_checkpoint = cf.load_backbone(checkpoint, device="cpu").state_dict()
    assert all(torch.equal(tensor, of_checkpoint[name]) for name, tensor in loaded.state_dict().items())


def test_heads_that_others_would_take_wrongly_are_told_and_the_checkpoint_is_read_rightly(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos.parent / "tiny.json").write_text(json.dumps(CONFIG | {"vision_heads": 2, "text_heads": 4}))
    assert pretrain.main(options(photos)) == 0
    assert "no shape shows vision_heads 2, text_heads 4" in capsys.readouterr().err
    (checkpoint,) = (photos.parent / "out" / "checkpoint").glob("model-*.safetensors")
    loaded = (cf.load_backbone(path, device="cpu") for path in (photos.parent / "out", checkpoint))
    assert next(loaded).digest == next(loaded).digest


def test_what_does_not_fit_into_memory_ends_before_it_begins(
    photos: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos.parent / "tiny.json").write_text(json.dumps(CONFIG | {"image_size": 128}))
    typed = ("pretrain", photos, "--model", photos.parent / "tiny.json", "--steps", 1, "--batch", 8)
    typed = (*typed, "--validation", 0, "--device", "cpu", "--out", photos.parent / "out")
    size, memory = command(*typed).out.splitlines()[:2]
    assert memory.startswith(
        "memory: weights 13.2 MB, optimizer 26.4 MB, gradients 13.2 MB, activations 3.33 MB, pictures 3.15 MB"
    )
    assert memory.endswith(" MB with 8 pairs in a pass")
    monkeypatch.setattr(memory_forecast, "LIBRARIES", 0)
    state = 16 * int(size.split()[1].replace(",", ""))  # bytes of weights, gradients and moments
    for room, words in ((state + (5 << 20), "set --chunk=4 ("), (state * 4 // 5, "set --state-dtype=bfloat16 (")):
        monkeypatch.setattr(memory_check, "device_memory", lambda device, room=room: room)
        one_line(command(*typed[:-1], photos.parent / "new"), 4, "expected memory for weights 13.2 MB", words)
        assert not (photos.parent / "new").exists()


def test_goes_on_where_it_stopped(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    whole = pretraining.pretrain(options(photos, "--augment", "0.5"), SingleProcess()).state_dict()

    def stop_at_four(total: int, say: object) -> object:
        def on_step(report: StepReport) -> None:
            if report.step == 4:
                raise KeyboardInterrupt

        return on_step

    chosen = options(photos, "--augment", "0.5", folder=("--resume", "again"))
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "_report_steps", stop_at_four)
        with pytest.raises(KeyboardInterrupt):
            pretraining.pretrain(chosen, SingleProcess())
    with watch_steps(lambda stage, done, total: told.append(done) if (stage, total) == ("training", 6) else None):
        resumed = pretraining.pretrain(chosen, SingleProcess()).state_dict()
    assert told == [4, 5, 6, 6]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("name", ["ViT-B/32", "RN50", "ViT-L/14-336px"])
def test_official_models_train_with_the_paper_s_numbers(name: str, photos: Path) -> None:
    chosen = options(photos, "--model", name)
    with torch.device("meta"):
        model = cf.Backbone(ARCHITECTURES[name.replace("-336", "@336")], name.replace("-336", "@336"))
    settings, paper = pretraining.choose_options(chosen, model, per_epoch=100_000), paper_options(name)
    for field in ("learning_rate", "betas", "eps", "weight_decay", "warmup_steps"):
        assert getattr(settings, field) == getattr(paper, field)
    assert pretraining.choose_options(chosen, model, per_epoch=10).warmup_steps == 3


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--out", "x", "--chunk", "4"], "DATA"),
        (["photos", "--out", "x", "--steps", "3", "--passes", "1"], "--steps or --passes"),
        (["photos", "--out", "x", "--batch", "0"], "--batch"),
        (["photos"], "--out"),
    ],
)
def test_mistakes_are_one_line(typed: list[str], message: str, command: Command) -> None:
    one_line(command("pretrain", *typed), 2, message)


def test_an_unknown_model_and_a_wrong_file_are_named(photos: Path) -> None:
    with pytest.raises(cf.UsageError, match="ViT-B/33"):
        pretrain.main(options(photos, "--model", "ViT-B/33"))
    odd = photos.parent / "odd.json"
    odd.write_text('{"vision_layers": 3}')
    with pytest.raises(cf.DataError, match="embed_dim"):
        pretrain.main(options(photos, "--model", str(odd)))


def test_zero_shot_accuracy_is_by_own_texts_and_names(photos: Path) -> None:
    labelled, names = photos.parent / "labelled", photos.parent / "names.txt"
    for i in range(12):
        path = labelled / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((photos / f"{i}.png").read_bytes())
    names.write_text("a,apple\nb,bear\nc,cat\n")
    own = ("--labelled", str(labelled), "--template", "the {}, 1", "--class-names", str(names))
    assert pretrain.main(options(photos, *own)) == 0
    lines = map(json.loads, (photos.parent / "out" / "metrics.jsonl").read_text().splitlines())
    measured = [line["zero_shot_accuracy"] for line in lines if "zero_shot_accuracy" in line]
    model, data = cf.load_backbone(photos.parent / "out", device="cpu"), cf.read_dataset(labelled, class_names=names)
    guesses = zero_shot_probabilities(model, data, ("apple", "bear", "cat"), ("the {}, 1",)).argmax(dim=1).numpy()
    assert measured[-1] == pytest.approx((guesses == data.labels).mean())


def test_texts_about_classes_need_classes(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(photos, "--template", "a {}")
    assert "--template: expected pictures with classes, got captions alone" in capsys.readouterr().err


def test_what_spark_sent_may_be_replaced_by_what_it_sends_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Spark on other machines: the checkpoint, by which a training is known, stays there."""
    monkeypatch.setattr(pretraining, "run_on_spark", lambda *_, **__: dict.fromkeys(pretraining.MODEL_FILES, b"{}"))
    job = Pretraining(data="photos", out=str(tmp_path / "run"))
    for _ in range(2):
        pretraining.pretrain_by_spark(job)
        assert {*pretraining.MODEL_FILES} <= {path.name for path in (tmp_path / "run").iterdir()}
