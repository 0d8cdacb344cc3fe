"""Text encoders in Hugging Face's form: a folder with config.json, model.safetensors and tokenizer.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clip_fewshot.backbones.encoders import TextEncoder
from clip_fewshot.backbones.transformers_package import EXTRA, read_module
from clip_fewshot.errors import ArtifactError, DataError, ResourceError
from clip_fewshot.runtime.files import hash_bytes
from clip_fewshot.runtime.reading import read_whole


class JsonTokenizer:
    """A tokenizer.json as it was trained: text -> token ids with the marks it sets.

    Attributes:
        pad: id of its padding, or -1 where it has none or pads with the mark that ends a text.
        digest: SHA-256 of the file.

    Raises:
        ResourceError: the package ``tokenizers`` is not installed.
        ArtifactError: another file.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            fix = EXTRA
            raise ResourceError(expected="the package tokenizers", got=str(error), fix=fix, where=str(path)) from error
        place = Path(path)
        if not os.path.isfile(place):
            raise DataError(expected="a tokenizer.json", got="no file", fix="check the path", where=str(path))
        try:
            data = read_whole(place)
            self._tokenizer: Any = Tokenizer.from_str(data.decode())
        except Exception as error:  # whatever the Rust side meets comes as a bare Exception
            fix = "get an undamaged copy"
            raise ArtifactError(expected="a tokenizer.json", got=str(error), fix=fix, where=str(path)) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.digest, marks = hash_bytes(data), self("")
        known = (self._tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
        self.pad = next((i for i in known if i is not None and i not in marks[-1:]), -1)

    def __call__(self, text: str) -> list[int]:
        """Text -> token ids with their marks."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids


def load_text_encoder(folder: str | Path, pool: str = "mean", context_length: int = 77) -> TextEncoder:
    """A Hugging Face encoder (BERT, MiniLM, E5, ...) from its folder, by the package transformers, without any network.

    Args:
        folder: holds config.json, model.safetensors and tokenizer.json. Pickled weights are not read, code in the
            folder is not run.
        pool: "mean" over a text's tokens, "first", "end", or "pooler" for the encoder's own.
        context_length: most tokens of a text, marks among them.

    Raises:
        ResourceError: transformers or tokenizers is not installed.
        DataError, ArtifactError: a file is missing or cannot be read.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import BertConfig, BertModel
        >>> import clip_fewshot as cf
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        >>> BertModel(BertConfig(vocab_size=3, **sizes)).save_pretrained("tiny-bert/")
        >>> words = Tokenizer(models.WordLevel({"a": 0, "bee": 1, "?": 2}, unk_token="?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> words.save("tiny-bert/tokenizer.json")
        >>> cf.load_text_encoder("tiny-bert/").tokenizer("a bee")
        [0, 1]
    """
    tokenizer = JsonTokenizer(Path(folder) / "tokenizer.json")
    module = read_module(folder)
    return TextEncoder(module, tokenizer, pool=pool, context_length=context_length)
