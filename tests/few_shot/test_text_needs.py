"""What is left of a study where the backbone reads no texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_fewshot.backbones.foreign import ForeignBackbone
from clip_fewshot.config import FewShotConfig
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.approach import OWN
from clip_fewshot.few_shot.text_needs import keep_readable, list_baselines, needs_texts
from clip_fewshot.pipeline import run_few_shot
from tests.backbones.test_foreign import build

TEXTLESS = {"linear-probe", "mlp", "mlp-arcface", "gda", "kernel-ridge"}


def picture_model() -> ForeignBackbone:
    return build(texts=False)


def test_which_approaches_need_texts() -> None:
    assert {name for name, approach in OWN.items() if not needs_texts(approach)} == TEXTLESS


def test_what_is_left_out_is_said() -> None:
    backbone = picture_model()
    kept, (note,) = keep_readable([OWN["mlp"], OWN["contrastive"]], backbone)
    assert kept == (OWN["mlp"],)
    why = "they need texts, and foreign reads pictures alone"
    assert note == f"left out: zero-shot, text-prior, contrastive ({why})"
    assert [one.name for one in list_baselines(backbone)] == ["linear-probe"]
    assert len(list_baselines(build())) == 3
    assert keep_readable([OWN["contrastive"]], build()) == ((OWN["contrastive"],), ())
    with pytest.raises(UsageError, match="which reads pictures alone"):
        keep_readable([OWN["contrastive"]], backbone)


def test_the_main_job_runs_on_pictures_alone(tmp_path: Path) -> None:
    model = "python:tests.few_shot.test_text_needs:picture_model"
    config = FewShotConfig.of(
        data="digits", model=model, shots=2, trials=3, seeds=1, epochs=1, max_unfreeze=0, unseen="0", out=str(tmp_path)
    )
    results = run_few_shot(config)
    assert results["zero_shot"] is None
    assert sorted(results["approaches"]) == ["mlp", "mlp-arcface"]
    assert [note for note in results["warnings"] if "zero-shot, text-prior, contrastive" in note]
    assert (tmp_path / "report.html").is_file()
