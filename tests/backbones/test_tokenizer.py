"""Token ids equal to OpenAI's: frozen for hard strings, and compared live where its package is installed."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_fewshot.backbones.tokenizer import load_tokenizer, tokenize
from clip_fewshot.errors import UsageError
from tests.backbones.conftest import openai_file

# Made once by OpenAI's simple_tokenizer.py: text -> ids without the marks.
GOLDEN: dict[str, list[int]] = json.loads((Path(__file__).parent / "golden_tokens.json").read_text("utf-8"))


def test_the_vocabulary_file_is_openais() -> None:
    packed = resources.files("clip_fewshot.backbones").joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    assert hashlib.sha256(packed).hexdigest() == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


@pytest.mark.parametrize("text", GOLDEN, ids=lambda text: ascii(text[:30]))
def test_hard_strings(text: str) -> None:
    assert load_tokenizer().encode(text) == GOLDEN[text]


pieces = st.sampled_from(
    ["a", "A", "aa", "the ", "'s", "ſ", "é", "中", "😀", "&amp;", "<|endoftext|>", "\u00a0", "Ã©", "--", "7"]
)


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.text(max_size=40), st.lists(pieces, max_size=20).map("".join)))
def test_any_text_gives_openais_ids(text: str) -> None:
    assert load_tokenizer().encode(text) == oracle().encode(text)


@lru_cache(maxsize=1)
def oracle() -> Any:
    return openai_file("simple_tokenizer").SimpleTokenizer()


def test_rows_are_marked_and_padded() -> None:
    rows = tokenize(["a cat", ""])
    assert rows.shape == (2, 77)
    assert rows.dtype.is_floating_point is False
    assert rows[0, :5].tolist() == [49406, 320, 2368, 49407, 0]
    assert rows[1, :3].tolist() == [49406, 49407, 0]
    assert tokenize("a cat").tolist() == rows[:1].tolist()
    assert tokenize([]).shape == (0, 77)


def test_the_longest_text_fits_and_the_next_is_refused_by_number() -> None:
    assert tokenize("dog " * 75)[0, -1] == 49407
    with pytest.raises(UsageError, match=r"text 1: expected at most 77 tokens, got 78 in 'dog dog"):
        tokenize(["fine", "dog " * 76])


def test_truncation_keeps_the_end_mark() -> None:
    row = tokenize("dog " * 300, truncate=True)[0]
    assert row[-1] == 49407
    assert (row[1:-1] == row[1]).all()
