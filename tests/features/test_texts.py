"""Class names as directions: those of the text tower, each name read once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.errors import UsageError
from clip_fewshot.features import texts
from clip_fewshot.features.texts import class_texts
from clip_fewshot.heads.zero_shot import zero_shot_weights


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that the text tower reads; the cache is empty."""
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path))
    names: list[str] = []
    plain = texts.zero_shot_weights
    monkeypatch.setattr(texts, "zero_shot_weights", lambda b, w, t: (names.extend(w), plain(b, w, t))[1])
    return names


def test_equal_to_the_zero_shot_weights(tiny: Backbone, encoded: list[str]) -> None:
    names = ["bee", "water_lily", "bee"]
    found = class_texts(tiny, names, TEMPLATES)
    assert [*found] == ["bee", "water_lily"]
    expected = zero_shot_weights(tiny, ["bee", "water_lily"], TEMPLATES).numpy()
    np.testing.assert_allclose(np.stack([*found.values()]), expected, atol=1e-6)
    assert encoded == ["bee", "water_lily"]


def test_a_name_is_read_once(tiny: Backbone, encoded: list[str]) -> None:
    names = [f"word {i}" for i in range(30)]
    first = class_texts(tiny, names, TEMPLATES[:1])
    again = class_texts(tiny, [*names[::-1], "another"], TEMPLATES[:1])
    assert encoded == [*names, "another"]
    assert all(np.array_equal(first[name], again[name]) for name in names)
    class_texts(tiny, names[:2], TEMPLATES[:2])
    assert encoded[31:] == names[:2]  # other templates, other directions


def test_a_kill_costs_one_chunk(tiny: Backbone, encoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "NAMES_CHUNK", 4)
    counted = texts.zero_shot_weights

    def interrupted(backbone: Backbone, names: list[str], templates: list[str]) -> object:
        if "word 9" in names:
            raise KeyboardInterrupt
        return counted(backbone, names, templates)

    monkeypatch.setattr(texts, "zero_shot_weights", interrupted)
    names = [f"word {i}" for i in range(10)]
    with pytest.raises(KeyboardInterrupt):
        class_texts(tiny, names, TEMPLATES[:1])
    monkeypatch.setattr(texts, "zero_shot_weights", counted)
    class_texts(tiny, names, TEMPLATES[:1])
    assert encoded == names


def test_nothing_to_read_is_refused(tiny: Backbone) -> None:
    with pytest.raises(UsageError, match="at least one name, got none"):
        class_texts(tiny, [], TEMPLATES)
