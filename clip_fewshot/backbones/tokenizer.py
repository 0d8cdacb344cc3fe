"""CLIP's byte-pair encoding: texts -> token ids."""

from __future__ import annotations

import gzip
import html
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from itertools import pairwise

import regex
import torch
from torch import Tensor

from clip_fewshot.errors import UsageError

START, END = "<|startoftext|>", "<|endoftext|>"
N_MERGES = 48_894  # what OpenAI kept of the file's list: 49,408 ids - 2 x 256 bytes - 2 marks
CONTEXT_LENGTH = 77

# IGNORECASE matters although the text is in lower case by then: it lets 's match the long s of U+017F.
_PIECE = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


class Tokenizer:
    """Byte-pair encoding over UTF-8 bytes with the vocabulary of CLIP.

    Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016. Ids: 256 bytes, 256 bytes that
    end a word, the merges, the two marks.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        letters = _byte_letters()
        self._letters = letters
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        alphabet = sorted(letters.values(), key=lambda letter: (ord(letter) >= 256, ord(letter)))
        symbols = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, merges), START, END]
        self._ids = {symbol: i for i, symbol in enumerate(symbols)}
        self.start, self.end = self._ids[START], self._ids[END]
        self._words: dict[str, list[int]] = {START: [self.start], END: [self.end]}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without its marks; case, mojibake, entities and white space are normalised first."""
        from ftfy import fix_text  # here: its tables take as long to import as all of scikit-learn's estimators

        clean = html.unescape(html.unescape(fix_text(text))).strip()
        clean = regex.sub(r"\s+", " ", clean).strip().lower()
        return [token for piece in _PIECE.findall(clean) for token in self._encode_word(piece)]

    def _encode_word(self, word: str) -> list[int]:
        found = self._words.get(word)
        if found is None:
            *head, last = (self._letters[byte] for byte in word.encode("utf-8"))
            found = [self._ids[symbol] for symbol in self._merge([*head, last + "</w>"])]
            self._words[word] = found
        return found

    def _merge(self, symbols: list[str]) -> list[str]:
        """Join the best-ranked neighbouring pair everywhere, from the left, until no pair has a rank."""
        unranked = len(self._ranks)
        while len(symbols) > 1:
            rank, pair = min((self._ranks.get(pair, unranked), pair) for pair in pairwise(symbols))
            if rank == unranked:
                break
            joined: list[str] = []
            for symbol in symbols:
                # What was joined in this pass is longer than the pair's left half, so it is never taken for one.
                if joined and (joined[-1], symbol) == pair:
                    joined[-1] += symbol
                else:
                    joined.append(symbol)
            symbols = joined
        return symbols


@lru_cache(maxsize=1)
def load_tokenizer() -> Tokenizer:
    """CLIP's tokenizer, from the vocabulary file in the package (about 0.1 s; kept)."""
    packed = resources.files("clip_fewshot.backbones").joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : 1 + N_MERGES]
    return Tokenizer([(left, right) for left, right in map(str.split, lines)])


def tokenize(texts: str | Sequence[str], truncate: bool = False, context_length: int = CONTEXT_LENGTH) -> Tensor:
    """Texts -> (n, context_length) int64 token ids with start and end marks, padded with zeros.

    Args:
        texts: one text or many.
        truncate: cut texts that are too long, keeping the end mark; default False.
        context_length: columns; 77 for all CLIP models.

    Raises:
        UsageError: a text has more than ``context_length - 2`` tokens and ``truncate`` is off.
    """
    tokenizer = load_tokenizer()
    many = [texts] if isinstance(texts, str) else list(texts)
    rows = torch.zeros(len(many), context_length, dtype=torch.int64)
    for i, text in enumerate(many):
        ids = [tokenizer.start, *tokenizer.encode(text), tokenizer.end]
        if len(ids) > context_length:
            if not truncate:
                got = f"{len(ids)} in {text[:60]!r}"
                fix = "shorten it, or truncate=True"
                raise UsageError(expected=f"at most {context_length} tokens", got=got, fix=fix, where=f"text {i}")
            ids = [*ids[: context_length - 1], tokenizer.end]
        rows[i, : len(ids)] = torch.tensor(ids)
    return rows


def _byte_letters() -> dict[int, str]:
    """A printable letter for each byte: itself where Latin-1 prints it, else the next free one from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + i) for i, byte in enumerate(others)}
