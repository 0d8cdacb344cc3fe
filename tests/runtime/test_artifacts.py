"""A saved folder is read as it was written, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from clip_fewshot.errors import ArtifactError, ResourceError
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.runtime.artifacts import MANIFEST, load_artifact, open_artifact, save_artifact
from clip_fewshot.runtime.files import hash_bytes, seal

FILES = {"weights.bin": b"of a model", "pictures-0.bin": b"and its pictures"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_artifact(tmp_path / "kept", "kind", FILES, {"classes": ["a", "b"], "temperature": 0.5})
    return tmp_path / "kept"


def change(folder: Path, changed: Any) -> Any:
    path = folder / MANIFEST
    path.write_text(json.dumps(changed(json.loads(path.read_text()))))
    return path


def as_before(manifest: dict[str, Any]) -> dict[str, Any]:
    """As releases wrote it that sealed ``meta`` alone."""
    del manifest["sha256"]
    digest = hash_bytes(json.dumps(manifest["meta"], sort_keys=True).encode())
    return manifest | {"schema": 1, "meta_sha256": digest}


def rename(manifest: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return manifest | {"files": {name.replace(old, new): entry for name, entry in manifest["files"].items()}}


def test_any_changed_byte_of_the_manifest_is_refused(folder: Path) -> None:
    path, draw = folder / MANIFEST, np.random.default_rng(0)
    sound, right = path.read_bytes(), load_artifact(folder, "kind")
    for at in draw.choice(len(sound), 150, replace=False):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << int(draw.integers(8))]) + sound[at + 1 :])
        try:
            assert load_artifact(folder, "kind") == right  # a blank became another
        except ArtifactError:
            continue
    path.write_bytes(sound)
    assert load_artifact(folder, "kind") == right


@pytest.mark.parametrize("before", [False, True])
def test_a_file_under_another_name_is_not_passed_over(folder: Path, before: bool) -> None:
    if before:
        change(folder, as_before)
    right = load_artifact(folder, "kind")
    assert right[1] == FILES
    change(folder, lambda held: rename(held, "pictures-0.bin", "pictures-0.bim"))
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(folder, "kind")


def test_the_newer_form_needs_its_seal(folder: Path) -> None:
    change(folder, lambda held: {name: value for name, value in held.items() if name != "sha256"})
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(folder, "kind")


@pytest.mark.parametrize(
    "part",
    [
        *({"files": None}, {"files": {"a": {}}}, {"files": {"a": None}}, {"files": [1]}, {"schema": "2"}, {"kind": 7}),
        {"files": {"../a.bin": {"file": "../a-9834876dcfb05cb1.bin", "sha256": "9834876dcfb05cb1" * 4, "bytes": 1}}},
    ],
)
def test_what_was_sealed_by_somebody_else_is_refused_in_our_words(folder: Path, part: dict[str, Any]) -> None:
    change(folder, lambda held: seal(held | part))
    with pytest.raises(ArtifactError):
        load_artifact(folder, "kind")


def test_the_folder_of_a_run_names_that_of_its_model(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="check the path"):
        load_artifact(folder.parent, "kind")
    folder.rename(folder.parent / "model")
    with pytest.raises(ArtifactError, match="give the folder 'model' in it"):
        load_artifact(folder.parent, "kind")


def test_what_lies_about_is_not_read_to_know_that_it_is_foreign(tmp_path: Path) -> None:
    with (tmp_path / "film.bin").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ResourceError, match=r"film\.bin"):
        save_artifact(tmp_path, "kind", FILES, {})
    save_artifact(tmp_path, "kind", FILES, {}, overwrite=True)
    save_artifact(tmp_path, "kind", {"weights.bin": b"of another"}, {})
    assert load_artifact(tmp_path, "kind")[1] == {"weights.bin": b"of another"}
    assert len(list(tmp_path.iterdir())) == 3  # the film, the manifest and the file it names


def test_what_does_not_fit_together_is_our_error(folder: Path) -> None:
    for broken in (KeyError("x"), RuntimeError("size mismatch"), safetensors.SafetensorError("header"), ValueError()):
        with pytest.raises(ArtifactError, match="restore it from a copy"), open_artifact(folder, "kind"):
            raise broken


@pytest.mark.parametrize("meta", [{}, {"backbone": None}, {"backbone": {"name": 5, "digest": "x"}}])
def test_a_forged_model_is_our_error(tmp_path: Path, meta: dict[str, Any]) -> None:
    files = {"weights.safetensors": safetensors.numpy.save({"a": np.zeros(1)})}
    save_artifact(tmp_path, "few-shot classifier", files, meta)
    with pytest.raises(ArtifactError):
        FewShotClassifier.load(tmp_path)
