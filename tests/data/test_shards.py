"""Tar shards: read where they lie, equal to the same files in a folder; damage is named, hostile names do nothing."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_fewshot.data import shards as module
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.picture_kinds import ImageError
from clip_fewshot.data.pixels import pixel_batches
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.shards import shard_paths
from clip_fewshot.data.tar import contents, file_bytes
from clip_fewshot.errors import DataError
from tests.data.pictures import open_image, picture_bytes, put

Files = dict[str, bytes | str | int]


def archive(path: Path, files: Files, format: int = tarfile.PAX_FORMAT, mode: str = "w") -> Path:
    """A tar of bytes, texts, and the pictures of seeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=format) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            data = picture_bytes(content) if isinstance(content, int) else content
            data = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def three(start: int = 0) -> Files:
    return {
        f"{start + i:06d}.{end}": start + i if end == "png" else f"text {i}" for i in range(3) for end in ("png", "txt")
    }


def pairs(dataset: ImageDataset) -> list[tuple[str, str]]:
    assert dataset.captions is not None
    return list(zip(dataset.names, dataset.captions, strict=True))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_shard_reads_as_the_same_files_in_a_folder(format: int, tmp_path: Path) -> None:
    files: Files = three() | {("deep/" * 30) + "long.png": 9, ("deep/" * 30) + "long.txt": "one\r\n\r\n two \n"}
    for name, content in files.items():
        put(tmp_path / "folder" / name, content)
    plain = read_dataset(tmp_path / "folder", format="pairs")
    packed = read_dataset(archive(tmp_path / "s.tar", files, format))
    assert sorted(zip(packed.digests, packed.captions or (), strict=True)) == sorted(
        zip(plain.digests, plain.captions or (), strict=True)
    )
    assert packed.warnings == ()
    assert packed.skipped == ()
    assert packed.names[0] == "s.tar/000000.png"
    assert packed.origins is not None
    assert packed.origins[0] == "s.tar/000000.txt"
    rows = np.array([packed.digests.index(digest) for digest in plain.digests])
    squares = [np.concatenate(list(pixel_batches(each, 16))) for each in (packed.subset(rows), plain)]
    assert np.array_equal(squares[0], squares[1])


def test_a_key_may_hold_dots_and_what_is_no_sample_is_counted(tmp_path: Path) -> None:
    files: Files = {}
    for i, key in enumerate(("0", "img.0003", "shop v2.0 (final)")):
        files |= {f"{key}.png": i, f"{key}.txt": f"text {i}"}
    assert len(read_dataset(archive(tmp_path / "s.tar", files))) == 3
    others: Files = {
        "._0.png": "x",
        "__MACOSX/0.png": "x",
        "0.xml": "<a/>",
        "9.png": 9,
        "0.TXT": "other",
        "LICENSE": "x",
    }
    found = read_dataset(archive(tmp_path / "t.tar", files | others))
    assert len(found) == 3
    kinds = (
        ".xml files",
        "files without extension",
        "hidden or system files",
        "texts beside another",
        "sample without",
    )
    assert all(any(kind in line for line in found.warnings) for kind in kinds)
    assert sum(int(re.search(r" (\d+)(?: |$)", line)[1]) for line in found.warnings)  # type: ignore[index] == len(others)


def test_shards_keep_the_parts_that_their_names_say(tmp_path: Path) -> None:
    archive(tmp_path / "s" / "train-000.tar", three())
    archive(tmp_path / "s" / "more" / "Test-000.tar", three(3))
    put(tmp_path / "s" / "sizes.json", "{}")
    found = read_dataset(tmp_path / "s")
    assert found.warnings == ("passed over .json files: 1",)
    assert dict(zip(found.names, found.partition, strict=True))["Test-000.tar/000003.png"] == "test"
    assert found.partition.count("train") == 3
    inside = {
        f"{side}/{name}": content for side, start in (("val", 0), ("test", 3)) for name, content in three(start).items()
    }
    found = read_dataset(archive(tmp_path / "pairs.tar", inside))
    assert found.partition.count("test") == found.partition.count("train") == 3
    assert "validation" in found.warnings[-1]


def test_folders_and_patterns_of_shards_in_order(tmp_path: Path) -> None:
    for i in range(3):
        archive(tmp_path / f"p-{i:02d}.tar", three(10 * i))
    whole = read_dataset(tmp_path)
    assert whole.names == tuple(f"p-{i:02d}.tar/{10 * i + j:06d}.png" for i in range(3) for j in range(3))
    assert read_dataset(str(tmp_path / "p-{00..02}.tar")).names == whole.names
    assert read_dataset(tmp_path / "p-{01,02}.tar").names == whole.names[3:]
    assert len(read_dataset(tmp_path / "p-0{0..0}.tar")) == 3
    with pytest.raises(DataError, match=r"(?s)2 that cannot be used.*p-03.tar.*p-04.tar"):
        read_dataset(tmp_path / "p-{01..04}.tar")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a{8..11}.tar", ["a8.tar", "a9.tar", "a10.tar", "a11.tar"]),
        ("a{08..10}.tar", ["a08.tar", "a09.tar", "a10.tar"]),
        ("{x,y}{0..1}.tar", ["x0.tar", "x1.tar", "y0.tar", "y1.tar"]),
        ("{a..b}.tar", ["a..b.tar"]),
    ],
)
def test_braces_mean_what_they_mean_in_a_shell(pattern: str, names: list[str]) -> None:
    assert [str(path) for path in shard_paths(Path(pattern))] == names


@pytest.mark.parametrize("pattern", ["{5..1}.tar", "{0..99999999999}.tar", "{0..999}{0..999}.tar"])
def test_patterns_without_end_are_refused(pattern: str) -> None:
    with pytest.raises(DataError):
        shard_paths(Path(pattern))


def test_json_captions_and_the_text_that_goes_before_them(tmp_path: Path) -> None:
    files: Files = {
        "a.JPG": picture_bytes(0, "JPEG"),
        "a.json": json.dumps({"caption": " two\nlines ", "width": 3}),
        "b.json": json.dumps({"caption": "from json"}),
        "b.webp": picture_bytes(1, "WEBP"),
        "b.txt": "from text",
        "b.cls": "7",
        ".c.png": 3,
    }
    dataset = read_dataset(archive(tmp_path / "s.tar", files))
    assert pairs(dataset) == [("s.tar/a.JPG", "two\nlines"), ("s.tar/b.webp", "from text")]
    said = ("passed over hidden or system files: 1", "left out the class of 1 sample: 1 other without")
    assert dataset.warnings == said


def classes(dataset: ImageDataset) -> list[str]:
    return [*dataset.label_space.decode(dataset.required_labels())]


@pytest.mark.parametrize(
    ("beside", "wanted"),
    [
        ({"cls": "{i}"}, ["0", "1", "10"]),
        ({"cls": "bee {i}\n"}, ["bee 0", "bee 1", "bee 10"]),
        ({"json": '{{"label": {i}}}'}, ["0", "1", "10"]),
        ({"json": '{{"label": {i}, "class_name": "bee {i}"}}'}, ["bee 0", "bee 1", "bee 10"]),
        ({"json": '{{"label": "{i}", "Class Name": "bee {i}"}}'}, ["bee 0", "bee 1", "bee 10"]),
        ({"json": '{{"class": "{i}"}}', "cls": "wasp {i}"}, ["wasp 0", "wasp 1", "wasp 10"]),
        ({"json": '{{"width": 3}}', "cls": "{i}"}, ["0", "1", "10"]),
    ],
)
def test_labelled_shards(beside: dict[str, str], wanted: list[str], tmp_path: Path) -> None:
    numbers = (10, 0, 1)
    files: Files = {f"{i:03d}.png": i for i in numbers} | {
        f"{i:03d}.{end}": text.format(i=i) for i in numbers for end, text in beside.items()
    }
    dataset = read_dataset(archive(tmp_path / "s.tar", files))
    assert dataset.label_space.names == tuple(wanted)
    assert classes(dataset) == [wanted[2], wanted[0], wanted[1]]
    assert dataset.captions is None
    assert dataset.warnings == ()


def test_captions_and_classes_together(tmp_path: Path) -> None:
    files = three() | {f"{i:06d}.cls": f"class {i}" for i in range(3)} | {"000001.txt": "one\ntwo"}
    dataset = read_dataset(archive(tmp_path / "s.tar", files))
    assert [caption for _, caption in pairs(dataset)] == ["text 0", "one", "two", "text 2"]
    assert classes(dataset) == ["class 0", "class 1", "class 1", "class 2"]


def test_an_empty_text_beside_a_caption_in_json_takes_that(tmp_path: Path) -> None:
    files = three() | {"000001.txt": " \n", "000001.json": '{"caption": "from json"}', "000002.json": "{}"}
    dataset = read_dataset(archive(tmp_path / "s.tar", files))
    assert [caption for _, caption in pairs(dataset)] == ["text 0", "from json", "text 2"]
    assert dataset.warnings == ()


def test_what_not_all_have_is_left_out_and_told(tmp_path: Path) -> None:
    one_class = read_dataset(archive(tmp_path / "s.tar", three() | {"000001.cls": "7"}))
    assert one_class.labels is None
    assert one_class.warnings == ("left out the class of 1 sample: 2 others without",)
    files: Files = {f"{i}.{end}": i if end == "png" else f"{i}" for i in range(3) for end in ("png", "cls")}
    no_class = {"3.png": 3, "3.txt": "a caption"}
    mostly = read_dataset(archive(tmp_path / "t.tar", files | no_class | {"0.txt": "another"}))
    assert classes(mostly) == ["0", "1", "2"]
    assert mostly.captions is None
    assert mostly.warnings == (
        "left out the caption of 1 sample: 2 others without",
        "passed over 1 sample without a class",
    )


@pytest.mark.parametrize("text", ["", " \n", "bee\nwasp"])
def test_a_class_file_says_one_class(text: str, tmp_path: Path) -> None:
    dataset = read_dataset(archive(tmp_path / "s.tar", three() | {"x.png": 7, "x.cls": text}))
    assert len(dataset) == 3
    assert "s.tar/x.cls: expected a class in .cls" in dataset.warnings[0]


def test_damaged_pictures_are_skipped_by_reason(tmp_path: Path) -> None:
    files = three() | {"bad.jpg": picture_bytes(5, "JPEG")[:300], "bad.txt": "half a picture"}
    dataset = read_dataset(archive(tmp_path / "s.tar", files))
    assert len(dataset) == 3
    assert [(Path(path).name, reason) for path, reason, _ in dataset.skipped] == [("bad.jpg", "truncated")]


BAD_TEXTS: dict[str, tuple[str, bytes | str, str]] = {
    "blank": ("x.txt", " \n", "a caption or a class, got none"),
    "latin": ("x.txt", b"f\xfbr", "UTF-8 text"),
    "no json": ("x.json", "{", "expected JSON"),
    "deep": ("x.json", "[" * 100_000, "expected JSON"),
    "no caption": ("x.json", '{"caption": null}', "a caption or a class, got none"),
    "number": ("x.json", '{"caption": 7}', "a caption or a class, got none"),
    "list": ("x.json", "[1]", "a caption or a class, got none"),
    "large": ("x.txt", "x" * (module.TEXT_LIMIT + 1), "at most 1.05 MB"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_a_text_without_a_caption_costs_its_sample_and_two_stop(case: str, tmp_path: Path) -> None:
    name, content, message = BAD_TEXTS[case]
    files = three() | {"x.png": 7, name: content, "y.png": 8}
    dataset = read_dataset(archive(tmp_path / "s.tar", files))
    assert len(dataset) == 3
    first, second = dataset.warnings
    assert message in first
    assert f"s.tar/{name}" in first
    assert second.startswith("passed over 1 sample without picture or text")
    with pytest.raises(DataError) as caught:
        read_dataset(archive(tmp_path / "t.tar", {**files, f"y{name[1:]}": content}))
    assert all(f"t.tar/{key}{name[1:]}" in str(caught.value) for key in "xy")


def test_two_pictures_of_one_key_are_both_named(tmp_path: Path) -> None:
    dataset = read_dataset(
        archive(tmp_path / "s.tar", three() | {"x.png": 7, "x.jpg": picture_bytes(8, "JPEG"), "x.txt": "?"})
    )
    assert "x.png and x.jpg" in dataset.warnings[0]
    assert len(dataset) == 3


def test_compressed_cut_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    whole = archive(tmp_path / "s.tar", three()).read_bytes()
    header = whole.index(b"000001.png")
    broken = bytearray(whole)
    broken[header + 150] ^= 1
    second = contents(tmp_path / "s.tar").files["000001.png"]
    cases = {
        "compressed": archive(tmp_path / "c.tar", three(), mode="w:gz").read_bytes(),
        "cut": whole[: second.offset + 100],
        "damaged": bytes(broken),
        "empty": b"",
        "no tar": b"x" * 2000,
    }
    for case, data in cases.items():
        path = put(tmp_path / "bad" / f"{case}.tar", data)
        with pytest.raises(DataError, match="a whole, uncompressed tar archive") as caught:
            read_dataset(path)
        assert path.name in str(caught.value)
    with tarfile.open(tmp_path / "bad" / "damaged.tar") as tar:
        assert len(tar.getnames()) == 2  # what tarfile alone makes of it, without a word


def test_names_links_and_devices_reach_nothing_outside(tmp_path: Path) -> None:
    put(tmp_path / "secret.png", 50)
    hostile: Files = {"../secret.png": 1, str(tmp_path / "secret.png"): 2, "a/../../secret.png": 3, "c:\\secret.png": 4}
    path = archive(tmp_path / "s.tar", three() | hostile | {"../secret.txt": "x"})
    with tarfile.open(path, "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "l.png"), (tarfile.LNKTYPE, "h.png"), (tarfile.FIFOTYPE, "f.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(member)
    dataset = read_dataset(path)
    assert len(dataset) == 3
    assert dataset.warnings == ("passed over tar entries that are no regular files: 8",)


def test_files_in_archives_are_paths_like_others(tmp_path: Path) -> None:
    path = archive(tmp_path / "s.tar", {"./a.png": 1, "b//c.png": 2})
    assert open_image(path / "a.png").size == (32, 24)
    assert open_image(str(path / "b" / "c.png")).size == (32, 24)
    with pytest.raises(ImageError) as caught:
        open_image(path / "none.png")
    assert caught.value.reason == "missing"
    with pytest.raises(DataError, match="at most 10 bytes"):
        file_bytes(path / "a.png", 10)
    assert file_bytes(tmp_path / "s.png", 10) is None
    put(path, b"no longer a tar")
    with pytest.raises(ImageError) as caught:
        open_image(path / "a.png")
    assert caught.value.reason == "unreadable"


def test_a_picture_that_changed_in_its_archive_is_refused(tmp_path: Path) -> None:
    dataset = read_dataset(archive(tmp_path / "s.tar", three()))
    archive(tmp_path / "s.tar", three(3) | {"000000.png": 99})
    with pytest.raises(DataError, match="as it was first read"):
        dataset.open(0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_gives_data_or_a_data_error(data: st.DataObject, tmp_path: Path) -> None:
    damaged = bytearray(archive(tmp_path / "s.tar", three()).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = put(tmp_path / "d.tar", bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    try:
        dataset = read_dataset(path, max_skipped=0.9)
    except DataError as error:
        str(error).encode("utf-8")
        return
    assert len(dataset)
