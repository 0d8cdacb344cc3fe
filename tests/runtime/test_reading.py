"""What is no regular file of a sane size is refused at once, and what is no JSON is no JSON."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.text_files import read_text
from clip_fewshot.errors import ArtifactError, ClipFewShotError, DataError
from clip_fewshot.features.table import read_features
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.runtime.artifacts import MANIFEST, load_artifact, save_artifact
from clip_fewshot.runtime.files import read_json
from clip_fewshot.runtime.reading import decode_json, read_whole

PLACES = ("pipe", "socket", "device", "folder", "sparse", "x" * 5000, "nul\0in it")


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of everything that a name may lead to."""
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    Path("device").symlink_to("/dev/zero")
    Path("folder").mkdir()
    with Path("sparse").open("wb") as file:
        file.truncate(1 << 40)
    return tmp_path


@pytest.mark.parametrize("name", PLACES)
def test_only_a_regular_file_is_read(odd: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"."):
        read_whole(odd / name)
    Path("file").write_bytes(b"abc")
    assert read_whole("file") == read_whole("file", 3) == b"abc"
    with pytest.raises(OSError, match="3 bytes where at most 2"):
        read_whole("file", 2)


def test_the_beginning_of_a_text_may_end_inside_a_letter(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "a.txt").write_bytes("so\u00e4\u00e4".encode(encoding))
        size = (tmp_path / "a.txt").stat().st_size
        assert [read_text(tmp_path / "a.txt", size - cut) for cut in (0, 1)] == ["so\u00e4\u00e4", "so\u00e4"]
    (tmp_path / "a.txt").write_bytes(b"so\xe4so")
    with pytest.raises(DataError, match="UTF-8"):
        read_text(tmp_path / "a.txt", 4)


def test_a_table_beside_pictures_is_seen_however_long_it_is(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), (ord(name[0]), 0, 0)).save(tmp_path / name)
    (tmp_path / "kinds.csv").write_text("image,label\na.png,cat\nb.png,dog\n")
    with (tmp_path / "kinds.csv").open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"kinds\.csv"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".txt", ".tar", ".parquet", ".pkl"])
def test_no_reader_of_labels_waits_for_a_pipe(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    os.mkfifo(tmp_path / f"labels{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    for name in ("labels", "zero"):
        with pytest.raises(DataError):
            read_dataset(tmp_path / f"{name}{suffix}")


@pytest.mark.parametrize("name", PLACES)
def test_the_readers_of_what_the_library_wrote_wait_for_nothing(odd: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    for read in (Review.read, read_features, Store.open, OpenWorldClassifier.load, read_dataset, read_json):
        with pytest.raises(ClipFewShotError):
            read(Path(name))


def test_a_file_of_a_model_that_is_a_pipe_or_longer_than_it_was_is_refused(tmp_path: Path) -> None:
    save_artifact(tmp_path / "kept", "kind", {"a.bin": b"abc"}, {})
    (stored,) = (path for path in (tmp_path / "kept").iterdir() if path.name != MANIFEST)
    stored.write_bytes(b"abcd")
    with pytest.raises(ArtifactError, match="at most 3"):
        load_artifact(tmp_path / "kept", "kind")
    stored.unlink()
    os.mkfifo(stored)
    with pytest.raises(ArtifactError, match="no regular file"):
        load_artifact(tmp_path / "kept", "kind")


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 200_000, "[1e400]", "[NaN]", "[-Infinity]", b"\xff", b"", "{"]
)
def test_what_python_takes_for_json_and_is_none(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_json(text)
    assert decode_json('{"a": [1e300, 1, "x", null]}') == {"a": [1e300, 1, "x", None]}
