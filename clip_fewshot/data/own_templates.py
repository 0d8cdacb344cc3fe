"""Templates by the name of a set, out of a file, or as they were typed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.names import escape
from clip_fewshot.data.templates import OPENAI_TEMPLATES, check_templates
from clip_fewshot.data.text_files import read_text
from clip_fewshot.errors import DataError

TEMPLATE_SETS: Mapping[str, tuple[str, ...]] = {"one": TEMPLATES[:1], "ensemble": TEMPLATES, "openai": OPENAI_TEMPLATES}


def choose_templates(source: str | None, more: Sequence[str] = ()) -> tuple[str, ...]:
    """The templates of ``source`` and ``more`` behind them, each once; none where neither is given.

    Args:
        source: a key of ``TEMPLATE_SETS``, or a text file with a template a line; empty lines are passed over.
        more: templates themselves.

    Raises:
        UsageError: a template without exactly one "{}".
        DataError: no such set or file, or an empty file.
    """
    named = () if source is None else TEMPLATE_SETS.get(source) or _read_templates(source)
    return tuple(dict.fromkeys([*named, *(check_templates(more, "`template`") if more else ())]))


def _read_templates(source: str) -> tuple[str, ...]:
    path = Path(source)
    if not os.path.exists(path):
        expected = f"one of {', '.join(TEMPLATE_SETS)}, or a file with a template a line"
        fix = "check the spelling, or give the text itself (`template`)"
        raise DataError(expected=expected, got=repr(source), fix=fix, where="`templates`")
    lines = [line.strip() for line in read_text(path).split("\n")]
    return check_templates([line for line in lines if line], escape(path))
