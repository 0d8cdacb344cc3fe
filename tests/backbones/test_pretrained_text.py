"""Tokenizers and text encoders in Hugging Face's form."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.backbones.pretrained_text import JsonTokenizer, load_text_encoder
from clip_fewshot.errors import ArtifactError, DataError, ResourceError
from tests.backbones.encoders import image_encoder

TEXTS = ["a bee", "two bees in a field"]
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "bee", "bees", "two", "in", "field"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer of ten words that would cut and pad by itself."""
    marks = [{"id": i, "content": WORDS[i], "special": True} for i in range(4)]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = {word: {"id": word, "ids": [WORDS.index(word)], "tokens": [word]} for word in ("[CLS]", "[SEP]")}
    template = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    padding = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None}
    described: dict[str, Any] = {
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {**padding, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [{**mark, **plain} for mark in marks],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": template,
            "special_tokens": special,
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": "[UNK]"},
    }
    described["post_processor"]["pair"] = [*template, {"Sequence": {"id": "B", "type_id": 1}}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    return tmp_path


def test_a_tokenizer_neither_cuts_nor_pads_by_itself(folder: Path) -> None:
    pytest.importorskip("tokenizers")
    tokenizer = JsonTokenizer(folder / "tokenizer.json")
    assert [tokenizer(text) for text in TEXTS] == [[1, 4, 5, 2], [1, 7, 6, 8, 4, 9, 2]]
    assert tokenizer.pad == 0
    assert len(tokenizer.digest) == 64


def test_padding_that_also_ends_a_text_is_none(folder: Path) -> None:
    pytest.importorskip("tokenizers")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"ids": [2]', '"ids": [0]'))
    assert JsonTokenizer(path).pad == -1


def test_a_missing_or_foreign_file_is_explained(folder: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(DataError, match=r"a tokenizer\.json, got no file"):
        JsonTokenizer(folder / "none.json")
    (folder / "other.json").write_text("{}")
    with pytest.raises(ArtifactError, match="undamaged copy"):
        JsonTokenizer(folder / "other.json")


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ResourceError, match=r"pip install clip-fewshot\[text\]"):
        JsonTokenizer(folder / "tokenizer.json")


@pytest.mark.slow  # importing transformers takes seconds
@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert", "MPNet"])
@torch.no_grad()
def test_models_of_transformers_give_their_own_features(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "DistilBert":
        sizes = {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    options = sizes | {"vocab_size": 12, "max_position_embeddings": 24, "pad_token_id": 0}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**options)).eval()
    if kind == "MPNet":
        model.encoder.relative_attention_bias.weight.mul_(50)  # as large as a trained one
    model.save_pretrained(folder)
    ids = torch.tensor([[1, 4, 5, 2, 0, 0, 0], [1, 7, 6, 8, 4, 9, 2]])
    states = model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    for pool, expected in {
        "first": states[:, 0],
        "end": torch.stack([states[0, 3], states[1, 6]]),
        "mean": torch.stack([states[0, :4].mean(0), states[1].mean(0)]),
    }.items():
        encoder = load_text_encoder(folder, pool, context_length=12)
        assert torch.equal(encoder.rows(TEXTS, False)[:, :7], ids)
        tower = encoder.tower(8)
        assert tower.n_blocks == (2 if kind in ("Bert", "Roberta") else 1)
        torch.testing.assert_close(tower.trunk()(ids), expected, rtol=0, atol=1e-6 if kind != "MPNet" else 1e-5)
    both = PairBackbone(image_encoder(), encoder, 12)
    both.save(folder / "pair")
    assert (
        PairBackbone.load(folder / "pair", image_encoder(), load_text_encoder(folder, "mean", 12)).digest == both.digest
    )
