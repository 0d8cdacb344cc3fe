"""Every activation and number of heads, in every thing that holds weights: the same features, or a refusal."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.backbones.folder import save_backbone
from clip_fewshot.data.image import CLIP_MEAN, CLIP_STD
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.runtime.files import hash_file
from tests.backbones.conftest import SMALL, openai_model, pixels, shaken
from tests.backbones.test_huggingface import huggingface_state

VARIANTS = [
    replace(SMALL[kind], activation=activation, vision_heads=heads[0], text_heads=heads[1])
    for kind in SMALL
    for activation in ("quick_gelu", "gelu")
    for heads in ((2, 1), (8, 1), (4, 2))
]
UNTOLD = r"expected heads and activation.*activation='quick_gelu', heads=\(\d, 1\).*activation='gelu'"


def name_of(config: CLIPConfig) -> str:
    kind = "vit" if config.patch_size else "resnet"
    return f"{kind}-{config.activation}-{config.vision_heads}-{config.text_heads}"


@pytest.fixture(params=VARIANTS, ids=name_of)
def theirs(request: pytest.FixtureRequest) -> nn.Module:
    return other_variant(request.param)


def other_variant(config: CLIPConfig) -> Any:
    """OpenAI's code with another activation and other heads: the oracle. Its own rule is a head per 64 channels."""
    model: Any = openai_model(config)
    model.load_state_dict(shaken(build_backbone(config, seed=3)).state_dict())
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            text = module.embed_dim == config.text_width
            module.num_heads = config.text_heads if text else config.vision_heads
            module.head_dim = module.embed_dim // module.num_heads
        if hasattr(module, "gelu") and config.activation == "gelu":
            module.gelu = nn.GELU()
    if config.patch_size is None:
        model.visual.attnpool.num_heads = config.vision_heads
    model.told = config
    return model


def given(config: CLIPConfig) -> dict[str, Any]:
    return {"activation": config.activation, "heads": (config.vision_heads, config.text_heads)}


@torch.no_grad()
def assert_same(loaded: Backbone, theirs: Any) -> None:
    images, tokens = pixels(theirs.told), loaded.tokenize(["a bee", "two bees and a flower"])
    torch.testing.assert_close(loaded.encode_image(images), theirs.encode_image(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(loaded.encode_text(tokens), theirs.encode_text(tokens), rtol=0, atol=1e-5)


def wrapped_states(state: dict[str, Tensor]) -> Iterator[tuple[str, Any]]:
    """What training scripts save; safetensors where it is a flat dictionary."""
    for prefix in ("", "module.", "_orig_mod.", "model.", "net.clip.", "module._orig_mod."):
        yield f"{prefix}pt", {prefix + key: tensor for key, tensor in state.items()}
        yield f"{prefix}safetensors", {prefix + key: tensor.clone() for key, tensor in state.items()}
    inner = {key.replace("visual.", "visual._fsdp_wrapped_module."): tensor for key, tensor in state.items()}
    yield "fsdp.pt", inner
    moments = {"state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    yield "epoch.pt", {"epoch": 3, "optimizer": moments, "state_dict": {f"module.{k}": v for k, v in state.items()}}
    yield "deep.pth", {"epoch": 3, "optimizer": moments, "nets": {"student": state}}


def write(content: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", SMALL)
def test_whatever_a_training_wraps_around_the_weights_is_taken_off(kind: str, tmp_path: Path) -> None:
    state = shaken(build_backbone(SMALL[kind])).state_dict()
    for name, content in wrapped_states(state):
        path = write(content, tmp_path / name)
        loaded = load_backbone(path, device="cpu", **given(SMALL[kind]))
        assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items()), name
        path.unlink()


def test_a_file_that_tells_nothing_is_refused_until_somebody_tells(theirs: Any, tmp_path: Path) -> None:
    parallel = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}
    for name, content in (("epoch.pt", {"epoch": 3, "state_dict": parallel}), ("w.safetensors", parallel)):
        path = write(content, tmp_path / name)
        with pytest.raises(ArtifactError, match=UNTOLD):
            load_backbone(path, device="cpu")
        assert_same(load_backbone(path, device="cpu", **given(theirs.told)), theirs)


def test_a_file_of_settings_beside_the_weights_is_read(theirs: Any, tmp_path: Path) -> None:
    config = theirs.told
    told = {"activation": config.activation, "vision_heads": config.vision_heads, "text_heads": config.text_heads}
    path = write({"state_dict": theirs.state_dict()}, tmp_path / "epoch.7.pt")
    (tmp_path / "epoch.7.json").write_text(json.dumps(told))
    assert_same(load_backbone(path, device="cpu"), theirs)
    another = write(theirs.state_dict(), tmp_path / "another.pt")
    with pytest.raises(ArtifactError, match=UNTOLD):
        load_backbone(another, device="cpu")


def open_clip_config(config: CLIPConfig) -> dict[str, Any]:
    width = config.vision_width * (1 if config.patch_size else 32)
    vision = {"image_size": config.image_size, "layers": config.vision_layers, "width": config.vision_width}
    vision |= {"patch_size": config.patch_size, "head_width": width // config.vision_heads}
    text = {"context_length": 77, "vocab_size": 49_408, "width": 64, "heads": config.text_heads, "layers": 2}
    model = {"embed_dim": config.embed_dim, "vision_cfg": vision, "text_cfg": text}
    prepared = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    return {"model_cfg": model | {"quick_gelu": config.activation == "quick_gelu"}, "preprocess_cfg": prepared}


def text_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As open_clip's models with a text tower of its own have them."""
    own = ("visual.", "logit_scale")
    return {key if key.startswith(own) else f"text.{key}": tensor.clone() for key, tensor in state.items()}


def test_open_clips_config_is_read_from_its_folder_and_beside_any_file(theirs: Any, tmp_path: Path) -> None:
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps(open_clip_config(theirs.told)))
    path = write(text_prefix(theirs.state_dict()), tmp_path / "open_clip_model.safetensors")
    assert_same(load_backbone(tmp_path, device="cpu"), theirs)
    assert_same(load_backbone(path, device="cpu"), theirs)
    state = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}
    epoch = write({"epoch": 1, "state_dict": state}, tmp_path / "epoch_1.pt")
    assert_same(load_backbone(epoch, device="cpu"), theirs)
    config.unlink()
    with pytest.raises(ArtifactError, match=UNTOLD):
        load_backbone(epoch, device="cpu")


def hugging_face_config(config: CLIPConfig) -> dict[str, Any]:
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "image_size": 64, "patch_size": 16}
    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": config.vision_heads, "hidden_act": config.activation}
    text |= {"num_attention_heads": config.text_heads, "hidden_act": config.activation}
    return {"model_type": "clip", "projection_dim": 48, "vision_config": vision, "text_config": text}


@pytest.mark.parametrize("config", [config for config in VARIANTS if config.patch_size], ids=name_of)
def test_hugging_faces_config_is_read_from_its_folder_and_beside_any_file(config: CLIPConfig, tmp_path: Path) -> None:
    theirs = other_variant(config)
    state = huggingface_state(theirs.state_dict())
    (tmp_path / "config.json").write_text(json.dumps(hugging_face_config(config)))
    weights = write(state, tmp_path / "model.safetensors")
    assert_same(load_backbone(tmp_path, device="cpu"), theirs)
    assert_same(load_backbone(weights, device="cpu"), theirs)
    weights.unlink()
    names = sorted(state)
    parts = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, keys in parts.items():
        write({key: state[key] for key in keys}, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {key: file for file, keys in parts.items() for key in keys}}))
    assert_same(load_backbone(tmp_path, device="cpu"), theirs)
    index.write_text(json.dumps({"weight_map": {"logit_scale": "../w.bin"}}))
    with pytest.raises(ArtifactError, match="a list of files in this folder"):
        load_backbone(tmp_path, device="cpu")


def test_the_config_of_another_file_in_the_folder_does_not_count(tmp_path: Path) -> None:
    theirs = other_variant(VARIANTS[5])
    state = theirs.state_dict()
    (tmp_path / "config.json").write_text(json.dumps(hugging_face_config(VARIANTS[1])))
    with pytest.raises(ArtifactError, match=UNTOLD):
        load_backbone(write(state, tmp_path / "w.pt"), device="cpu")
    (tmp_path / "config.json").rename(tmp_path / "open_clip_config.json")
    with pytest.raises(ArtifactError, match=UNTOLD):
        load_backbone(tmp_path / "w.pt", device="cpu")
    save_backbone(build_backbone(VARIANTS[1]), tmp_path / "ours", half=False)
    with pytest.raises(ArtifactError, match=UNTOLD):
        load_backbone(write(state, tmp_path / "ours" / "w.pt"), device="cpu")
    (tmp_path / "ours" / "w.json").write_text(json.dumps(open_clip_config(VARIANTS[5])))
    assert_same(load_backbone(tmp_path / "ours" / "w.pt", device="cpu"), theirs)


def test_a_file_of_an_older_release_is_told_by_its_config(tmp_path: Path) -> None:
    usual = build_backbone(SMALL["vit"])
    save_backbone(usual, tmp_path, half=False)
    weights = tmp_path / "model.safetensors"
    safetensors.torch.save_file(usual.state_dict(), weights)  # without a header, where heads are OpenAI's
    with pytest.raises(ArtifactError, match=UNTOLD):
        load_backbone(weights, device="cpu")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"sha256": hash_file(weights)}))
    assert load_backbone(weights, device="cpu").digest == load_backbone(tmp_path, device="cpu").digest == usual.digest


def test_of_two_configs_that_of_the_weights_library_counts(tmp_path: Path) -> None:
    theirs, other = other_variant(VARIANTS[1]), VARIANTS[5]
    (tmp_path / "config.json").write_text(json.dumps(hugging_face_config(other)))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config(theirs.told)))
    write(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    assert_same(load_backbone(tmp_path, device="cpu"), theirs)


class Holder(nn.Module):
    """As torch.compile and the users' classes hold a model."""

    def __init__(self, held: nn.Module, name: str = "held") -> None:
        super().__init__()
        self.add_module(name, held)


def test_objects_are_read_by_their_modules_whatever_holds_them(theirs: Any) -> None:
    for model in (theirs, nn.DataParallel(theirs), Holder(Holder(theirs, "_orig_mod"))):
        assert_same(load_backbone(model, device="cpu"), theirs)
    ours = load_backbone(theirs, device="cpu")
    assert load_backbone(Holder(ours), device="cpu") is ours


class OtherAttention(nn.Module):
    """Attention that does not tell its heads."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.__dict__["inner"] = attention
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, *given: Tensor, **options: Any) -> Any:
        return self.inner(*given, **options)


def test_an_object_that_tells_nothing_is_believed_only_after_a_trial() -> None:
    theirs = other_variant(VARIANTS[2])
    for block in (*theirs.visual.transformer.resblocks, *theirs.transformer.resblocks):
        block.attn = OtherAttention(block.attn)
    with pytest.raises(ArtifactError, match=UNTOLD):
        load_backbone(theirs, device="cpu")
    assert_same(load_backbone(theirs, device="cpu", **given(theirs.told)), theirs)
    for wrong in ({"heads": (2, 1)}, {"heads": (4, 1)}, {"activation": "gelu"}):
        with pytest.raises(ArtifactError, match="features that differ"):
            load_backbone(theirs, device="cpu", **given(theirs.told) | wrong)
    with pytest.raises(ArtifactError, match="one that cannot be copied"):
        load_backbone(copy.deepcopy(theirs).to("meta"), device="cpu", **given(theirs.told))
    theirs.encode_image = None
    with pytest.raises(ArtifactError, match="one that fails on a trial input"):
        load_backbone(theirs, device="cpu", **given(theirs.told))


def test_an_archive_of_openais_needs_no_telling_and_its_twin_without_constants_does(tmp_path: Path) -> None:
    theirs = other_variant(SMALL["vit"])
    constants = {name: torch.tensor(64) for name in ("input_resolution", "context_length", "vocab_size")}
    assert_same(load_backbone(write(theirs.state_dict() | constants, tmp_path / "a.pt"), device="cpu"), theirs)
    with pytest.raises(ArtifactError, match=UNTOLD):
        load_backbone(write(theirs.state_dict(), tmp_path / "b.pt"), device="cpu")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_shipped_model_is_known_by_its_numbers(suffix: str, tmp_path: Path) -> None:
    mini = load_backbone("mini", device="cpu")
    state = {f"module.{key}": tensor.clone() for key, tensor in mini.state_dict().items()}
    assert load_backbone(write(state, tmp_path / f"w.{suffix}"), device="cpu").digest == mini.digest
    state["module.logit_scale"] += 1
    with pytest.raises(ArtifactError, match=r"heads=\(2, 1\)"):
        load_backbone(write(state, tmp_path / f"w.{suffix}"), device="cpu")


def test_activation_and_heads_go_together_and_never_against_the_weights(tmp_path: Path) -> None:
    backbone = build_backbone(VARIANTS[5])
    save_backbone(backbone, tmp_path, half=False)
    right = given(backbone.config)
    assert load_backbone(tmp_path, device="cpu", **right).digest == backbone.digest
    for wrong in ({"activation": "quick_gelu"}, {"heads": (2, 2)}, {"heads": (4, 1)}):
        for name in (tmp_path, tmp_path / "model.safetensors", backbone):
            with pytest.raises(UsageError, match="which the weights tell"):
                load_backbone(name, device="cpu", **right | wrong)
    for bad in ({"activation": "relu"}, {"heads": 4}, {"heads": (4,)}, {"heads": ("4", 2)}, {"activation": None}):
        with pytest.raises(UsageError, match=r"activation= one of .*heads=\(image tower, text tower\) together"):
            load_backbone(tmp_path, device="cpu", **right | bad)
    plain = write(backbone.state_dict(), tmp_path / "w.pt")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ArtifactError, match="heads that divide the width, got 5 heads"):
        load_backbone(plain, device="cpu", **right | {"heads": (5, 2)})


def changed(config: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    inner = config
    *parts, last = place.split(".")
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return config


@pytest.mark.parametrize("nothing", ["embed_dim", "text_layers", "text_width", "vision_width"])
def test_an_architecture_of_nothing_is_refused(nothing: str) -> None:
    with pytest.raises(UsageError, match="CLIPConfig"):
        replace(VARIANTS[5], **{nothing: 0})


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        ("vision_config.hidden_act", "gelu", "hidden_act"),
        ("text_config.hidden_act", "gelu_new", "hidden_act"),
        ("text_config.layer_norm_eps", 1e-6, "layer_norm_eps"),
        ("text_config.eos_token_id", 7, "eos_token_id '7'"),
        ("vision_config.image_size", 70, "image_size 70 as stated, got image_size 64"),
        ("vision_config.hidden_size", 256, "vision_width 256 as stated"),
        ("vision_config.num_attention_heads", "2", "vision_heads '2'"),
        ("vision_config.num_attention_heads", 5, "heads that divide the width"),
        ("vision_config", 5, "heads and activation of a CLIP model"),
        ("text_config_dict", {"num_attention_heads": 3}, "text_width 512, text_layers 12 as stated"),
    ],
)
def test_a_hugging_face_config_that_we_do_not_build_is_refused(
    place: str, value: Any, match: str, tmp_path: Path
) -> None:
    theirs, usual = other_variant(SMALL["vit"]), hugging_face_config(SMALL["vit"])
    write(huggingface_state(theirs.state_dict()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(usual))
    assert_same(load_backbone(tmp_path, device="cpu"), theirs)
    (tmp_path / "config.json").write_text(json.dumps(changed(usual, place, value)))
    with pytest.raises(ArtifactError, match=match):
        load_backbone(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        ("model_cfg.vision_cfg.no_ln_pre", True, "no_ln_pre 'True'"),
        ("model_cfg.text_cfg.no_causal_mask", True, "no_causal_mask"),
        ("model_cfg.text_cfg.pool_type", "last", "pool_type 'last'"),
        ("model_cfg.text_cfg.vocab_size", 32_000, "vocab_size '32000'"),
        ("model_cfg.vision_cfg.head_width", 0, "heads and activation of a CLIP model"),
        ("model_cfg.vision_cfg.width", 256, "vision_width 256 as stated"),
        ("preprocess_cfg.mean", [0.5, 0.5, 0.5], "mean"),
        ("preprocess_cfg.resize_mode", "squash", "resize_mode 'squash'"),
        ("model_cfg", [], "heads and activation of a CLIP model"),
    ],
)
def test_an_open_clip_config_that_we_do_not_build_is_refused(
    place: str, value: Any, match: str, tmp_path: Path
) -> None:
    theirs, usual = other_variant(SMALL["vit"]), open_clip_config(SMALL["vit"])
    write(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(usual))
    assert_same(load_backbone(tmp_path, device="cpu"), theirs)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(changed(usual, place, value)))
    with pytest.raises(ArtifactError, match=match):
        load_backbone(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_pictures_that_another_processor_prepares_are_refused(name: str, tmp_path: Path) -> None:
    theirs = other_variant(SMALL["vit"])
    write(huggingface_state(theirs.state_dict()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(hugging_face_config(theirs.told)))
    usual = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD, "do_resize": True, "do_center_crop": True, "resample": 3}
    for change in ({}, {"image_mean": [0.5] * 3}, {"resample": 2}, {"do_center_crop": False}):
        settings = usual | change
        content = {"image_processor": settings} if name.startswith("processor") else settings
        (tmp_path / name).write_text(json.dumps(content))
        if not change:
            assert_same(load_backbone(tmp_path, device="cpu"), theirs)
        else:
            with pytest.raises(ArtifactError, match=next(iter(change))):
                load_backbone(tmp_path, device="cpu")


def test_another_vocabulary_is_no_matter_of_heads(tmp_path: Path) -> None:
    """Hugging Face's code looks for the end of a text by a number that only its config tells."""
    few = build_backbone(replace(SMALL["vit"], vocab_size=1000))
    path = write(huggingface_state(few.state_dict()), tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match="vocab_size"):
        load_backbone(path, device="cpu", **given(few.config))
    config = hugging_face_config(few.config)
    config["text_config"] |= {"vocab_size": 1000, "eos_token_id": 999}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_backbone(path, device="cpu").digest == few.digest


def test_a_json_of_something_else_beside_the_weights_tells_nothing(tmp_path: Path) -> None:
    path = write(build_backbone(SMALL["vit"]).state_dict(), tmp_path / "w.pt")
    for content in ({"lr": 0.1}, [1, 2], {"model_type": "bert"}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(ArtifactError, match=UNTOLD):
            load_backbone(path, device="cpu")
        assert load_backbone(path, device="cpu", **given(SMALL["vit"])).config == SMALL["vit"]


def test_two_models_in_one_file_are_told_apart_by_the_usual_name_or_not_at_all(tmp_path: Path) -> None:
    one, two = (build_backbone(SMALL["vit"], seed=seed) for seed in (1, 2))
    states = one.state_dict(), two.state_dict()
    usual = write({"ema": states[1], "model": states[0]}, tmp_path / "a.pt")
    assert load_backbone(usual, device="cpu", **given(SMALL["vit"])).digest == one.digest
    with pytest.raises(ArtifactError, match="the weights of one model, got those of student, teacher"):
        load_backbone(write({"student": states[0], "teacher": states[1]}, tmp_path / "b.pt"), device="cpu")
    doubled = states[0] | {f"module.{key}": tensor for key, tensor in states[1].items()}
    with pytest.raises(ArtifactError):
        load_backbone(write(doubled, tmp_path / "c.pt"), device="cpu", **given(SMALL["vit"]))


def test_a_folder_without_weights_says_which_files_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config(SMALL["vit"])))
    with pytest.raises(ArtifactError, match=r"open_clip_pytorch_model\.bin, got none"):
        load_backbone(tmp_path, device="cpu")
    save_backbone(build_backbone(SMALL["vit"]), tmp_path / "ours", half=False)
    config = tmp_path / "ours" / "config.json"
    config.write_text(json.dumps(asdict(SMALL["vit"])))
    with pytest.raises(ArtifactError, match="sha256"):
        load_backbone(tmp_path / "ours", device="cpu")
