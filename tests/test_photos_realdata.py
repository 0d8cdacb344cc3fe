"""The model photos on real photographs, by the shipped defaults; it needs the packages of the extra photos.

``CLIP_FEWSHOT_REALDATA=FOLDER pytest -s -n0 -m slow tests/test_photos_realdata.py`` prints the intervals.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.backbones.real_photos import PINNED

ROOT = Path(os.environ.get("CLIP_FEWSHOT_REALDATA", ""))
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not os.environ.get("CLIP_FEWSHOT_REALDATA"), reason="CLIP_FEWSHOT_REALDATA names no folder"),
    pytest.mark.skipif(not all(map(find_spec, PINNED)), reason="the packages of the extra photos are not installed"),
]
SCENES = {
    "bicycle": r"bikes?|bicycles?|bicyclist|biker|cyclist|bmx",
    "climbing": r"climb\w*|cliff",
    "dog": r"dogs?|puppy",
    "water": r"water|ocean|pool|beach|lake|waves?|surf\w*|swim\w*|river",
}


def write_scenes(folder: Path) -> Path:
    """Photos of which three captions or more of five name one scene and none names another, a folder a scene."""
    data = cf.read_dataset(ROOT / "flickr8k_1k" / "captions.csv")
    assert data.captions is not None
    texts: dict[Path, list[str]] = {}
    for image, caption in zip(data.images, data.captions, strict=True):
        texts.setdefault(image, []).append(caption.lower())
    for image, said in texts.items():
        named = {
            scene: sum(re.search(rf"\b({words})\b", text) is not None for text in said)
            for scene, words in SCENES.items()
        }
        (first, *others) = sorted(named, key=named.__getitem__, reverse=True)
        if named[first] >= 3 and not any(named[other] for other in others):
            (folder / first).mkdir(parents=True, exist_ok=True)
            (folder / first / image.name).write_bytes(image.read_bytes())
    return folder


@pytest.mark.parametrize("name", ["hymenoptera", "caltech101_20", "scenes"])
def test_sixteen_photos_a_class_beat_raw_pixels_beyond_doubt(name: str, tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "scenes") if name == "scenes" else ROOT / name
    parts = {"data": str(root)} if name == "scenes" else {"data": str(root / "train"), "test": str(root / "test")}
    results = cf.run_few_shot(cf.FewShotConfig.of(**parts, model="photos", out=str(tmp_path / "run")))
    raw, best = results["raw_pixels"], results["best"]["test"]
    print(name, *(f"{found['mean']:.3f} {found['ci95']}" for found in (raw, best)))
    assert best["ci95"][0] > raw["ci95"][1]
    some = cf.read_dataset(parts["data"]).subset(np.arange(20))
    answers = cf.OpenWorldClassifier.load(tmp_path / "run" / "model").predict(some)
    assert sum(answer.label is not None for answer in answers) > 10
