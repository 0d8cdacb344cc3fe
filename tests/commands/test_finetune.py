"""Tuned on digit pictures: no worse than before, saved as what was measured, the same after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clip_fewshot as cf
from clip_fewshot.commands.finetune import Options
from clip_fewshot.contrastive.finetuning import FineTuning, count_parameters, make_tunable
from clip_fewshot.contrastive.tuned_files import load_tuned
from clip_fewshot.protocol import fine_tuning_run
from clip_fewshot.protocol.retrieval import measure_recall, picture_chance, rank_right, text_chance
from clip_fewshot.runtime.files import SEAL, read_json
from clip_fewshot.tuning.prompts import load_prompts
from tests.commands.conftest import Command, one_line

QUICK = ("--model", "mini", "--passes", 2, "--batch", 16, "--backbone-lr", 1e-4, "--held-out", 0.4)


@pytest.fixture(scope="module")
def captioned(photos: Path) -> Path:
    """A table with two captions for each of some digit pictures."""
    table = photos.with_name("pairs.csv")
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for picture in sorted(photos.glob("*/*.png"))[::3]:
            for caption in (f"a photo of a {picture.parent.name}", f"a picture of the {picture.parent.name}"):
                rows.writerow([picture.relative_to(table.parent), caption])
    return table


def features(model: cf.Backbone) -> list[torch.Tensor]:
    images = torch.randn(3, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return [model.encode_image(images), model.encode_text(model.tokenize(["a two", "a photo of a seven"]))]


def test_accuracy_does_not_fall_and_the_model_is_what_was_measured(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    ended = command("finetune", photos, "--out", tmp_path / "run", *QUICK, "--head", "linear", "--json")
    assert ended.code == 0
    assert ended.err.startswith("warning: OpenAI's code loads these weights without a word")
    assert ended.err.count("\n") == 1
    found = ended.record
    before, after = (found[part]["zero-shot accuracy"] for part in ("before", "after"))
    assert after["mean"] >= before["mean"] > 0.6
    assert after["ci95"][0] < after["mean"] <= after["ci95"][1]
    assert after["chance"] == pytest.approx(1 / 7)
    assert after["n_test"] == found["pictures"]["test"]
    assert found["pictures"]["training"] + found["pictures"]["test"] == 7 * 16
    assert found["training"]["loss"] > found["training"]["floor"] > 0  # several pictures of a class in each batch
    assert read_json(tmp_path / "run" / "results.json")["after"] == found["after"]
    again = command("zero_shot", photos, "--model", tmp_path / "run" / "model", "--json")
    assert again.code == 0


def test_attention_heads_are_used_beside_the_model_they_were_trained_on(
    command: Command, photos: Path, mini: cf.Backbone, tmp_path: Path
) -> None:
    found = command("finetune", photos, "--out", tmp_path / "run", *QUICK, "--head", "attention", "--json").record
    model = ("--model", "mini", "--tuned", tmp_path / "run" / "model")
    tuned = load_tuned(tmp_path / "run" / "model", mini)
    assert found["parameters"]["all"] == sum(p.numel() for p in tuned.parameters())
    data, held = cf.read_dataset(photos), found["after"]["zero-shot accuracy"]
    assert held["mean"] >= found["before"]["zero-shot accuracy"]["mean"]
    again = command("zero_shot", photos, *model, "--json").record
    assert again["accuracy"]["n_test"] == len(data)
    picture = next(photos.glob("*/*.png"))
    top = command("retrieve", photos, *model, "--image", picture, "--json").record["top"]
    plain = command("retrieve", photos, "--model", "mini", "--image", picture, "--json").record["top"]
    assert top[0]["cosine"] != plain[0]["cosine"]
    gap = command("modality_gap", photos, *model, "--out", tmp_path / "gap", "--json").record["models"]
    assert gap["before"]["gap"] != gap["after"]["gap"]


@pytest.mark.parametrize("chosen", [("--unfreeze", 1), ("--unfreeze", 0, "--head", "linear")])
def test_a_pair_of_encoders_from_the_users_own_code(
    command: Command, photos: Path, tmp_path: Path, chosen: tuple[object, ...]
) -> None:
    name = "python:tests.backbones.encoders:pair"
    common = ("--passes", 1, "--batch", 16, "--held-out", 0.4, "--json")
    found = command("finetune", photos, "--model", name, "--out", tmp_path / "run", *common, *chosen).record
    assert found["model"] == name
    again = command("zero_shot", photos, "--model", name, "--tuned", tmp_path / "run" / "model", "--json")
    assert again.code == 0


@pytest.mark.parametrize(
    ("head", "optimizer", "precision"),
    [("none", "sgd", "bfloat16"), ("linear", "sgd", "float32"), ("attention", "adamw", "float16")],
)
def test_everything_trains_by_either_optimiser_in_any_precision(
    command: Command, photos: Path, tmp_path: Path, head: str, optimizer: str, precision: str
) -> None:
    chosen = ("--unfreeze", "all", "--head", head, "--optimizer", optimizer, "--precision", precision, "--json")
    ended = command("finetune", photos, "--out", tmp_path / "run", *QUICK, "--per-class", 4, *chosen)
    assert (ended.code, "error" in ended.err) == (0, False)
    assert ended.record["parameters"]["trained"] == ended.record["parameters"]["all"]
    assert ended.record["after"]["zero-shot accuracy"]["mean"] > 0.5
    task = read_json(tmp_path / "run" / "task.json")
    assert (task["unfreeze"], task["optimizer"], task["precision"]) == ("all", optimizer, precision)


def test_layers_of_each_tower_are_read_and_a_run_of_before_goes_on(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    common = ("--model", "mini", "--per-class", 2, "--passes", 1, "--held-out", 0.4)
    chosen = (*common, "--unfreeze", "2,1", "--json")
    first = command("finetune", photos, "--out", tmp_path / "run", *chosen).record
    plan = FineTuning(unfreeze=(2, 1), head="linear")
    assert first["parameters"]["trained"] == count_parameters(make_tunable(cf.load_backbone("mini"), plan))[0]
    task = tmp_path / "run" / "task.json"
    older = {key: value for key, value in read_json(task).items() if key not in ("optimizer", "precision", SEAL)}
    task.write_text(json.dumps(older))
    again = command("finetune", photos, "--resume", tmp_path / "run", *chosen).record
    assert again["after"] == first["after"]
    other = command("finetune", photos, "--resume", tmp_path / "run", *chosen, "--optimizer", "sgd")
    one_line(other, 2, "optimizer; repeat")
    for wrong in ("x", "1,2,3", "1,", "-1"):
        one_line(command("finetune", photos, "--out", tmp_path / "new", *common, f"--unfreeze={wrong}"), 2, "12,4")


def test_captions_are_recalled(command: Command, captioned: Path, tmp_path: Path) -> None:
    chosen = ("--lock", "text", "--distil", 0.5, "--chunk", 5)
    ended = command("finetune", captioned, "--out", tmp_path / "run", *QUICK, *chosen, "--json")
    assert ended.code == 0
    assert ended.err.startswith("warning: OpenAI's code loads these weights without a word")
    assert ended.err.count("\n") == 1
    rows = ended.record["after"]
    assert [key[-2:] for key in rows] == ["@1", "@5", "10"] * 2
    for before, after in zip(ended.record["before"].values(), rows.values(), strict=True):
        assert after["mean"] >= before["mean"] - 0.1
        assert 0 < after["chance"] < after["mean"]
    text = cf.load_backbone(tmp_path / "run" / "model", device="cpu").text.state_dict()
    assert all(torch.equal(text[key], tensor) for key, tensor in cf.load_backbone("mini").text.state_dict().items())


def test_prompts_are_saved_alone(command: Command, photos: Path, mini: cf.Backbone, tmp_path: Path) -> None:
    chosen = (
        "--unfreeze",
        0,
        "--prompts",
        2,
        "--passes",
        1,
        "--batch",
        32,
        "--model",
        "mini",
        "--held-out",
        0.4,
        "--json",
    )
    found = command("finetune", photos, "--out", tmp_path / "run", *chosen).record
    prompted = load_prompts(tmp_path / "run" / "model", mini)
    assert found["parameters"]["trained"] == sum(p.numel() for p in prompted.parameters() if p.requires_grad)
    assert not torch.equal(features(prompted)[0], features(mini)[0])


def test_the_table(command: Command, photos: Path, tmp_path: Path) -> None:
    chosen = ("--out", tmp_path / "run", "--model", "mini", "--per-class", 2, "--passes", 1, "--held-out", 0.4)
    memory, *lines = command("finetune", photos, *chosen).out.splitlines()
    assert memory.startswith("memory: weights 3")
    assert memory.endswith(" MB with 14 pairs in a pass")
    assert "14 pictures to train on" in lines[0]
    assert lines[3].split() == ["before", "after", "chance"]
    assert lines[4].startswith("zero-shot accuracy  0.")
    assert lines[-1] == f"model: {tmp_path / 'run' / 'model'}"


def test_recalls_equal_plain_loops(tiny: cf.Backbone, captioned: Path) -> None:
    data = cf.read_dataset(captioned)
    captions, digests = data.captions or (), list(dict.fromkeys(data.digests))
    texts = list(dict.fromkeys(captions))
    own = {digest: {c for c, d in zip(captions, data.digests, strict=True) if d == digest} for digest in digests}
    pictures = cf.encode_images(tiny, data.subset(np.array([data.digests.index(d) for d in digests]))).features
    sentences = cf.encode_texts(tiny, texts)
    cosines = (pictures / np.linalg.norm(pictures, axis=1, keepdims=True)) @ (
        sentences / np.linalg.norm(sentences, axis=1, keepdims=True)
    ).T
    forth, back = [], []
    for i, digest in enumerate(digests):
        forth.append(bool(own[digest] & {texts[j] for j in np.argsort(-cosines[i])[:1]}))
        finding = [text in own[digests[int(np.argmax(cosines[:, texts.index(text)]))]] for text in own[digest]]
        back.append(np.mean(finding))
    found = measure_recall(tiny, data)
    assert found["image to text, recall@1"]["mean"] == pytest.approx(np.mean(forth))
    assert found["text to image, recall@1"]["mean"] == pytest.approx(np.mean(back))
    assert 0 < np.mean(back) < 1
    low, high = found["text to image, recall@1"]["ci95"]
    assert low < np.mean(back) < high


def test_ranks_and_chance_by_hand() -> None:
    cosines = np.array([[0.9, 0.1, 0.5], [0.2, 0.2, 0.1], [np.nan, 0.3, 0.1]])
    belongs = np.eye(3, dtype=np.bool_)
    assert rank_right(cosines, belongs).tolist() == [0, 1, 1]  # a tie is lost
    assert rank_right(np.full((1, 3), np.nan), belongs[:1]).tolist() == [2]
    two_of_four = np.array([[True, True, False, False], [False, False, True, True]])
    assert text_chance(two_of_four, 1) == pytest.approx(0.5)
    assert text_chance(two_of_four, 2) == pytest.approx(1 - 1 / 6)
    assert picture_chance(two_of_four, 1) == pytest.approx(0.5)
    assert text_chance(two_of_four, 10) == 1


def test_mistakes_are_one_line(command: Command, photos: Path, captioned: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "a", "--held-out", 0.4)
    one_line(command("finetune", photos), 2, "--out")
    one_line(command("finetune", photos, *out, "--spark", "--processes", 0), 2, "--processes")
    one_line(command("finetune", photos, *out, "--unfreeze", 0, "--head", "none"), 2, "something that trains")
    one_line(command("finetune", photos, *out, "--prompts", 3), 2, "--unfreeze=0")
    one_line(command("finetune", photos, *out, "--model", "mini", "--unfreeze", 99), 2, "layers of the image tower")
    one_line(command("finetune", photos, *out, "--model", "mini", "--batch", 9999), 2, "batch")
    one_line(command("finetune", captioned, *out, "--model", "mini", "--per-class", 3), 2, "--per-class")
    one_line(command("finetune", photos, *out, "--distil", 2, *QUICK), 2, "alpha")
    one_line(command("finetune", "nowhere", *out), 2, "nothing there")


def test_a_folder_keeps_to_its_task(command: Command, photos: Path, tmp_path: Path) -> None:
    chosen = ("--model", "mini", "--per-class", 2, "--passes", 1, "--held-out", 0.4)
    new, begun = ("--out", tmp_path / "run"), ("--resume", tmp_path / "run")
    assert command("finetune", photos, *chosen, *new).code == 0
    one_line(command("finetune", photos, *chosen, *new), 2, "--resume")
    one_line(command("finetune", photos, *chosen, *begun, "--seed", 1), 2, "another seed")
    assert command("finetune", photos, *chosen, *begun).code == 0
    one_line(command("finetune", photos, *chosen, *begun, *new), 2, "--out or --resume, got both")


def test_by_spark_the_result_is_that_of_one_process(
    command: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for Spark (itself started in tests/spark): rank 0 prints, and shares no disk with this machine."""
    far, chosen = tmp_path / "far", ("--model", "mini", "--per-class", 2, "--passes", 1, "--held-out", 0.4, "--json")

    def elsewhere(job: Any, options: Options, *, processes: int) -> Any:
        print("rank 0 says", processes)
        return job(replace(options, out=str(far)))

    monkeypatch.setattr(fine_tuning_run, "run_on_spark", elsewhere)
    ended = command("finetune", photos, "--out", tmp_path / "near", *chosen, "--spark", "--processes", 3)
    assert (ended.code, ended.err) == (0, "rank 0 says 3\n")
    alone = command("finetune", photos, "--out", tmp_path / "alone", *chosen).record
    for same in ("before", "after", "parameters", "pictures"):
        assert ended.record[same] == alone[same]
    assert ended.record["folder"] == str(tmp_path / "near" / "model")
    assert weights_digest(tmp_path / "near") == weights_digest(tmp_path / "alone")
    assert cf.load_backbone(tmp_path / "near" / "model", device="cpu").image_size


@pytest.mark.slow
def test_killed_and_resumed_it_ends_in_the_same_weights(photos: Path, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "experiments.finetune", photos, *QUICK, "--passes", 6, "--head", "linear"]
    quiet: dict[str, Any] = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL}

    def run(name: str, folder: str = "--out") -> None:
        subprocess.run([*map(str, call), folder, str(tmp_path / name)], check=True, **quiet)

    run("whole")
    child = subprocess.Popen([*map(str, call), "--out", str(tmp_path / "killed")], **quiet)
    manifest = tmp_path / "killed" / "training" / "checkpoint" / "manifest.json"
    while not manifest.exists():
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "killed" / "results.json").exists()
    (half := tmp_path / "killed" / "model" / ".model.safetensors.ab12.tmp").parent.mkdir(exist_ok=True)
    half.write_bytes(b"half")
    run("killed", "--resume")
    assert not half.exists()
    assert weights_digest(tmp_path / "killed") == weights_digest(tmp_path / "whole")


def weights_digest(run: Path) -> Any:
    return json.loads((run / "model" / "config.json").read_text())["sha256"]


def test_the_defaults_are_those_that_were_measured() -> None:
    assert Options(out="a").plan == FineTuning(unfreeze=1, head="linear", backbone_lr=1e-4, head_lr=3e-3)
    assert Options(out="a", optimizer="sgd").plan.head_lr == 0.1
    assert Options(out="a", unfreeze=0, prompts=2).plan.head == "none"
    own = Options(out="a", optimizer="sgd", backbone_lr=2.0, head_lr=3.0, head="none").plan
    assert (own.backbone_lr, own.head_lr, own.head) == (2.0, 3.0, "none")


def test_options_are_checked_alone() -> None:
    with pytest.raises(cf.UsageError, match="held_out"):
        Options(out="a", held_out=1.0)


def test_own_texts_are_what_it_learns_from_and_is_measured_by(
    command: Command, photos: Path, mini: cf.Backbone, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("\n".join("4176320"))  # four, one, seven, six, three, two, zero
    texts = ("--template", "the number {}", "--class-names", tmp_path / "names.txt")
    asked = ("finetune", photos, *QUICK, "--json")
    own = command(*asked, *texts, "--out", tmp_path / "own").record
    usual = command(*asked, "--out", tmp_path / "usual").record
    assert own["training"]["loss"] != usual["training"]["loss"]
    again = ("zero_shot", photos, "--json", "--template", "the number {}", "--class-names", tmp_path / "names.txt")
    assert own["before"]["zero-shot accuracy"]["mean"] != usual["before"]["zero-shot accuracy"]["mean"]
    assert command(*again, "--model", "mini").record["accuracy"]["mean"] == pytest.approx(
        own["before"]["zero-shot accuracy"]["mean"], abs=0.15
    )  # of all pictures, not only of those kept out
    held = read_json(tmp_path / "own" / "task.json")
    assert (held["templates"], read_json(tmp_path / "usual" / "task.json")["templates"]) == (["the number {}"], None)
    resumed = (*asked, "--resume", tmp_path / "own")
    one_line(command(*resumed), 2, "another data, templates")  # other names are other data
    one_line(command(*resumed, *texts, "--template", "one {}"), 2, "another templates")
    assert command(*resumed, *texts).code == 0


def test_captions_need_no_template(command: Command, captioned: Path, tmp_path: Path) -> None:
    asked = ("finetune", captioned, *QUICK, "--out", tmp_path / "run")
    one_line(command(*asked, "--template", "a {}"), 2, "--template: expected pictures with classes, got captions")
    (tmp_path / "names.txt").write_text("a\n")
    one_line(command(*asked, "--class-names", tmp_path / "names.txt"), 2, "expected labelled images, got captions")
    assert command(*asked).code == 0
