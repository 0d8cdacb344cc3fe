"""What a training takes, forecast before it: every part against what the training really holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import clip_fewshot as cf
from clip_fewshot.backbones.architectures import ARCHITECTURES, CLIPConfig
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.backbones.checkpoint import sketch_backbone
from clip_fewshot.backbones.encoders import TextEncoder
from clip_fewshot.contrastive import memory_check, memory_forecast
from clip_fewshot.contrastive.activation_memory import recompute_blocks, shrink_text_weights
from clip_fewshot.contrastive.distributed.world import SingleProcess
from clip_fewshot.contrastive.finetuning import FineTuning, make_tunable
from clip_fewshot.contrastive.memory_check import Load, check_memory, list_remedies, list_smaller
from clip_fewshot.contrastive.memory_forecast import Forecast, Needs, count_bytes, measure_needs, measure_state
from clip_fewshot.contrastive.objectives import wrap_objective
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.state import Training
from clip_fewshot.errors import ResourceError
from clip_fewshot.runtime import environment
from tests.contrastive.pairs import CONFIG, RESNET, patterns
from tests.data.pictures import put

GIB = 1 << 30
DEEP = replace(CONFIG, vision_layers=4, text_layers=3)
STEP = ContrastiveOptions(steps=1)
EVERY = ("checkpoint_gradients", "state_dtype", "model")


def bytes_of(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def needs_of(config: CLIPConfig) -> Needs:
    return measure_needs(build_backbone(config), patterns(1)[0].tokens)


def kept(model: cf.Backbone, pairs: int, size: int, recompute: bool = False) -> int:
    """What a pass over both towers really keeps, weights aside."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    found: dict[int, Tensor] = {}
    batch = patterns(1, size=size)[0]

    def keep(tensor: Tensor) -> Tensor:
        found.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    towers = recompute_blocks(model.visual, model.text) if recompute else nullcontext()
    with towers, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model.encode_image(batch.images[:pairs].clone()), model.encode_text(batch.tokens[:pairs].clone())
    del features
    return sum(t.untyped_storage().nbytes() for place, t in found.items() if place not in own)


@pytest.mark.parametrize(("config", "size"), [(DEEP, 16), (RESNET, 32)], ids=["vit", "resnet"])
def test_activations_are_those_that_a_pass_keeps(config: CLIPConfig, size: int) -> None:
    model, needs = build_backbone(config), needs_of(config)
    for pairs in (1, 7):
        assert needs.forecast(STEP, pairs).activations == pytest.approx(kept(model, pairs, size), rel=0.02)
        lean = needs.forecast(replace(STEP, checkpoint_gradients=True), pairs).activations
        held = kept(model, pairs, size, recompute=True)
        assert held < lean < kept(model, pairs, size)  # beside what is held one block runs again


def test_bfloat16_keeps_rounded_weights_once_and_half_of_each_pair() -> None:
    plain, half = build_backbone(DEEP), build_backbone(DEEP)
    half.activation_dtype = torch.bfloat16
    tokens = patterns(1)[0].tokens
    for pairs in (2, 7):
        found = measure_needs(half, tokens).forecast(STEP, pairs).activations
        assert found == pytest.approx(kept(half, pairs, 16), rel=0.02)
    assert measure_needs(half, tokens).visual.plain.per_pair < 0.8 * measure_needs(plain, tokens).visual.plain.per_pair


@pytest.mark.parametrize(
    "changes",
    [{}, {"state_dtype": "bfloat16"}, {"optimizer": "sgd"}, {"averaging": 0.9}, {"text_weights": "bfloat16"}],
    ids=str,
)
def test_weights_gradients_and_moments_are_those_of_a_training(changes: dict[str, Any]) -> None:
    model, options = build_backbone(DEEP), replace(STEP, **changes)
    model.activation_dtype = torch.bfloat16
    forecast = measure_needs(model, patterns(1)[0].tokens).forecast(options, 8)
    shrunk = options.text_weights == "bfloat16"
    with shrink_text_weights(model.text, torch.bfloat16) if shrunk else nullcontext():
        training = Training(model, wrap_objective(None, False), options, 1)
        training.advance(patterns(1)[0], SingleProcess())
        moments = [t for g in training.optimizer.groups for t in (*g.first, *g.second)]
        few = 4 * 16  # the logit scale belongs to no tower
        assert forecast.weights == count_bytes(model)
        assert abs(forecast.gradients - bytes_of(p.grad for p in model.parameters() if p.grad is not None)) < few
        assert abs(forecast.optimizer - bytes_of([*moments, *training.mean.tensors().values()])) < few


def test_a_chunk_bounds_activations_and_frozen_layers_keep_none() -> None:
    needs = needs_of(DEEP)
    assert needs.forecast(replace(STEP, chunk=2), 64).activations == needs.visual.plain.at(2)
    assert needs.forecast(replace(STEP, chunk=99), 64) == needs.forecast(STEP, 64)
    tuned = make_tunable(build_backbone(DEEP), FineTuning(unfreeze=1, lock="text"))
    part = measure_needs(tuned, patterns(1)[0].tokens, beside=100)
    assert part.text == memory_forecast.TowerNeeds(0, memory_forecast.NO_GROWTH, memory_forecast.NO_GROWTH)
    assert 0 < part.visual.plain.per_pair < 0.4 * needs.visual.plain.per_pair
    assert part.weights == count_bytes(tuned) + 100


@pytest.mark.parametrize("plan", [FineTuning(head="attention"), FineTuning(unfreeze=0, prompts=2)], ids=str)
def test_added_parts_are_measured_with_their_towers(plan: FineTuning) -> None:
    tuned = make_tunable(build_backbone(DEEP), plan)
    found = measure_needs(tuned, patterns(1)[0].tokens).forecast(STEP, 3).activations
    assert found == pytest.approx(kept(tuned, 3, 16), rel=0.02)


def test_any_two_encoders() -> None:
    pair = cf.PairBackbone(
        cf.ImageEncoder(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ReLU()), size=16),
        TextEncoder(Words(32, 8), lambda text: [ord(letter) % 31 + 1 for letter in text]),
        dim=16,
        image_layers=None,
        text_layers=None,
    )
    tokens = pair.tokenize(["bee", "a longer text"])
    needs = measure_needs(pair, tokens)
    assert needs.weights == count_bytes(pair)
    assert needs.text.plain.per_pair > measure_needs(pair, tokens[:1]).text.plain.per_pair
    assert min(needs.visual.plain.per_pair, needs.text.plain.per_pair) > 0


class Words(torch.nn.Embedding):
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(ids)


def test_measuring_changes_nothing() -> None:
    model = build_backbone(RESNET).train()
    before = {name: t.clone() for name, t in model.eval().state_dict().items()}
    measure_needs(model, patterns(1)[0].tokens)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_sketch_asks_for_what_the_model_asks_for() -> None:
    for config in (DEEP, RESNET):
        assert measure_state(sketch_backbone(config)) == measure_state(build_backbone(config))
    assert measure_state(sketch_backbone(ARCHITECTURES["ViT-B/32"])).weights == 4 * 151_277_313


def room_for(n: int, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(memory_check, "device_memory", lambda device: n)
    return torch.device("cpu")


def test_the_last_byte_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = needs_of(DEEP)
    forecast = needs.forecast(STEP, 8)
    assert check_memory(needs, STEP, Load(16, 2), room_for(forecast.peak, monkeypatch), ()) == forecast
    with pytest.raises(ResourceError) as refused:
        check_memory(needs, STEP, Load(16, 2), room_for(forecast.peak - 1, monkeypatch), ())
    assert refused.value.exit_code == 4
    assert "with 8 pairs in a pass" in refused.value.expected
    assert refused.value.fix.startswith("set `chunk`=4 (")


@pytest.mark.parametrize("spare", [0.95, 0.6, 0.3, 0.15, 0.08])
def test_what_is_advised_fits(spare: float, monkeypatch: pytest.MonkeyPatch) -> None:
    needs, load = needs_of(replace(DEEP, vocab_size=2000)), Load(4096)
    least = needs.forecast(STEP, 0).peak
    room = least + int(spare * (needs.forecast(STEP, 4096).peak - least)) - int((spare < 0.1) * 0.4 * least)
    monkeypatch.setattr(memory_forecast, "LIBRARIES", 0)
    found = list_remedies(needs, STEP, load, room, EVERY)
    for words, forecast in found.items():
        chosen = dict(word.replace("`", "").partition("=")[::2] for word in words.split())
        batch = int(chosen.pop("batch", 4096))
        changes: dict[str, Any] = {
            name: int(value) if value.isdigit() else (value or True) for name, value in chosen.items()
        }
        assert needs.forecast(replace(STEP, **changes), batch) == forecast
        assert forecast.peak <= room


def test_smaller_models_are_named_when_no_option_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    state = measure_state(sketch_backbone(ARCHITECTURES["RN50x64"]))
    with pytest.raises(ResourceError, match=r"take a smaller `model` \(.*RN50, .*ViT-B/32.*\)$") as refused:
        check_memory(state, STEP, Load(0), room_for(3 * GIB, monkeypatch), EVERY)
    assert "and activations" in refused.value.expected
    assert "RN50x16" not in refused.value.fix
    assert list_smaller(state, STEP, GIB // 2) == []


def test_the_words() -> None:
    said = str(Forecast(weights=2 * GIB, optimizer=3 * GIB, gradients=0, activations=7 << 20, pictures=1, pairs=1000))
    assert said == (
        "weights 2.15 GB, optimizer 3.22 GB, activations 7.34 MB, pictures 1 byte, libraries 537 MB: "
        "5.91 GB with 1,000 pairs in a pass"
    )


@pytest.mark.parametrize(
    ("own", "limits", "wanted"),
    [
        ("0::/\n", {"memory.max": "5000"}, 5000),
        ("0::/a.slice/b\n", {"a.slice/b/memory.max": "max", "a.slice/memory.max": "7000"}, 7000),
        ("4:memory:/job\n", {"memory/job/memory.limit_in_bytes": "6000"}, 6000),
        ("4:cpu,memory:/job\n0::/\n", {"memory/memory.limit_in_bytes": "8000"}, 8000),
        ("3:cpu:/job\n", {"cpu/job/memory.max": "9", "memory/job/memory.limit_in_bytes": "9"}, None),
    ],
)
def test_the_limit_of_the_own_control_group_and_of_those_around_it_counts(
    own: str, limits: dict[str, str], wanted: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(environment, "CGROUPS", tmp_path)
    monkeypatch.setattr(environment, "OWN_CGROUPS", tmp_path / "own")
    assert environment.usable_memory() == wanted or (wanted is None and environment.usable_memory() > 10**8)


RUN = """
import sys
from clip_fewshot.commands import main
code = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


def test_an_allocation_that_fails_all_the_same_is_no_traceback() -> None:
    def too_much(images: Tensor, texts: Tensor, scale: Tensor, ids: Tensor | None) -> Tensor:
        return torch.empty(1 << 50)

    def broken(images: Tensor, texts: Tensor, scale: Tensor, ids: Tensor | None) -> Tensor:
        return images @ texts[:, :3]

    with pytest.raises(ResourceError, match=r"expected enough memory, got .*; train fewer pairs at a time") as refused:
        cf.train_contrastive(build_backbone(CONFIG), patterns(1), STEP, objective=too_much)
    assert refused.value.exit_code == 4
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        cf.train_contrastive(build_backbone(CONFIG), patterns(1), STEP, objective=broken)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_of_a_training_is_the_forecast(tmp_path: Path) -> None:
    """Thirty million weights, begun and resumed: a second copy of the state would be a third more."""
    wide = replace(CONFIG, vision_width=512, text_width=512, vocab_size=49_408, context_length=77, image_size=32)
    (tmp_path / "wide.json").write_text(json.dumps(asdict(wide)))
    for i in range(4):
        put(tmp_path / "pairs" / f"{i}.png", i)
        put(tmp_path / "pairs" / f"{i}.txt", f"number {i}")
    job = ["pretrain", "pairs", "--model", "wide.json", "--steps", "2", "--batch", "2", "--validation", "0"]
    for folder in ("--out", "--resume"):
        call = [sys.executable, "-c", RUN, *job, "--threads", "1", "--device", "cpu", folder, "run"]
        said = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        forecast = float(re.search(r"libraries 537 MB: ([\d.]+) GB", said)[1]) * 1e9  # type: ignore[index]
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", said)[1]) << 10  # type: ignore[index]
        assert 0.8 * forecast < peak < 1.15 * forecast
