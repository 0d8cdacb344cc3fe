"""Features as Parquet: what is written is what is read, and what is read is what was embedded."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.commands import embed
from clip_fewshot.data.picture_paths import picture_paths
from clip_fewshot.errors import ArtifactError, DataError, ResourceError, UsageError
from clip_fewshot.features.table import embed_files, find_skipped, read_features, write_features


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven pictures in two folders, a text that says it is one, and other files."""
    draws = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for i in range(7):
        path = folder / ("a" if i < 4 else "b") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    (folder / "b" / "poem.png").write_text("no picture")
    (folder / "notes.txt").write_text("nothing")
    return folder


def test_a_table_holds_the_features_of_the_pictures_whatever_the_chunk(
    photos: Path, tiny: cf.Backbone, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    paths = picture_paths(photos)
    expected = cf.encode_images(tiny, cf.read_images(paths))
    for chunk in (1, 3, 100):
        skipped = write_features(tmp_path / "t.parquet", embed_files(tiny, paths, chunk))
        assert [item.reason for item in skipped] == ["not-image"]
        found = read_features(tmp_path / "t.parquet")
        assert np.array_equal(found.features, expected.features)
        assert found.features.dtype == np.float32
        assert (found.digests, found.backbone) == (expected.digests, tiny.digest)
        assert [item.path for item in find_skipped(paths, tmp_path / "t.parquet")] == [skipped[0].path]


def test_a_table_is_whole_or_not_there(photos: Path, tiny: cf.Backbone, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "t.parquet"

    def broken() -> Iterator[Any]:
        yield next(embed_files(tiny, picture_paths(photos)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(out, broken())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]
    with pytest.raises(DataError, match="not-image"):
        write_features(out, embed_files(tiny, [photos / "b" / "poem.png"]))
    assert not out.exists()


def test_what_is_no_table_of_one_backbone_is_refused(photos: Path, tiny: cf.Backbone, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(ArtifactError, match="Parquet"):
        read_features(photos / "b" / "poem.png")
    with pytest.raises(ArtifactError):
        read_features(tmp_path / "nothing.parquet")
    with pytest.raises(ArtifactError, match="_SUCCESS"):
        read_features(photos)
    (photos / "_SUCCESS").touch()
    with pytest.raises(ArtifactError):
        read_features(photos)
    parts = list(embed_files(tiny, picture_paths(photos), 4))
    other = build_backbone(tiny.config, seed=1)
    parts += list(embed_files(other, picture_paths(photos), 4))
    write_features(tmp_path / "two.parquet", parts)
    with pytest.raises(ArtifactError, match="2 backbones"):
        read_features(tmp_path / "two.parquet")


def test_parts_of_spark_are_read_in_their_order(photos: Path, tiny: cf.Backbone, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = tmp_path / "t.parquet"
    for i, part in enumerate(embed_files(tiny, picture_paths(photos), 3)):
        write_features(folder / f"part-0000{i}-x.snappy.parquet", [part])
    (folder / "_SUCCESS").touch()
    expected = cf.encode_images(tiny, cf.read_images(picture_paths(photos)))
    assert np.array_equal(read_features(folder).features, expected.features)
    with pytest.raises(ResourceError, match="a folder"):
        write_features(folder, [])


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ResourceError, match=r"clip-fewshot\[parquet\]"):
        read_features(tmp_path / "t.parquet")


def test_pictures_are_named_by_folders_tables_and_lists(photos: Path) -> None:
    by_folder = picture_paths(photos)
    assert [path.name for path in by_folder] == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
        "4.png",
        "5.png",
        "6.png",
        "poem.png",
    ]
    table, lines = photos / "table.csv", photos / "list.txt"
    table.write_text('id;Path\n1;a/0.png\n2;"a/1.png"\n\n3;a/0.png\n')
    lines.write_text("a/0.png\n\n  b/no such file.png\n/far/away.png\n")
    assert picture_paths(table) == (photos / "a/0.png", photos / "a/1.png")
    assert picture_paths(str(lines)) == (photos / "a/0.png", photos / "b/no such file.png", Path("/far/away.png"))
    for empty in ("", "path,label\n"):
        table.write_text(empty)
        with pytest.raises(DataError, match="an empty table"):
            picture_paths(table)
    with pytest.raises(DataError):
        picture_paths(photos / "not there")


def test_the_command_says_what_it_left_out(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "t.parquet"
    assert embed.main(embed.Options(data=str(photos), model="mini", out=str(out), device="cpu", json=True)) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) | {"seconds": 0} == {
        "schema": 1,
        "out": str(out),
        "model": "mini",
        "pictures": 7,
        "unreadable": {"not-image": 1},
        "seconds": 0,
    }
    assert "1 unreadable picture: not-image" in said.err
    assert len(read_features(out)) == 7
    with pytest.raises(UsageError):
        embed.Options(data="")
