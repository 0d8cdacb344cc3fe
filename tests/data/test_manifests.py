"""Lists, tables and split files: they read back what was written, and every mistake is named with file and line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.formats import FORMATS, list_source, recognise
from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DataError
from tests.data.pictures import put


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(6):
        put(tmp_path / "images" / f"{i}.png", i)
    put(tmp_path / "images" / "my photo.png", 10)
    return tmp_path


def read(folder: Path, name: str, text: str | bytes) -> ImageDataset:
    return read_dataset(put(folder / name, text))


def pairs(dataset: ImageDataset) -> list[tuple[str, str]]:
    return list(zip(dataset.names, dataset.label_space.decode(dataset.required_labels()), strict=True))


LISTS = {
    "plain": "images/0.png ant\nimages/1.png bee\n",
    "below a folder of its own": "0.png ant\n1.png bee\n",
    "line ends, mark, comment, blanks": "\ufeff# a comment\r\n\r\nimages/0.png ant\r\n  images/1.png   bee  \r\n",
    "tabs": "images/0.png\tant\nimages/1.png\tbee",
    "quotes": '"images/0.png" "ant"\n"images/1.png" bee\n',
}


@pytest.mark.parametrize("case", LISTS)
def test_lists(case: str, photos: Path) -> None:
    dataset = read(photos, "list.txt", LISTS[case])
    assert [label for _, label in pairs(dataset)] == ["ant", "bee"]
    assert [Path(name).name for name in dataset.names] == ["0.png", "1.png"]


def test_labels_and_paths_with_spaces(photos: Path) -> None:
    text = 'images/my photo.png "great ""white"" shark"\nimages/0.png\ttiger shark\n"images/1.png" x\n'
    assert [label for _, label in pairs(read(photos, "list.txt", text))] == ['great "white" shark', "tiger shark", "x"]


def test_numbers_are_class_names(photos: Path) -> None:
    dataset = read(photos, "list.txt", "images/0.png 7\nimages/1.png 10\n")
    assert dataset.label_space.names == ("10", "7")


BAD_LISTS = {
    "no label": ("images/0.png ant\nimages/1.png\n", r"list.txt:2: no 'path label'"),
    "two tabs": ("images/0.png\tant\tbee\n", r"list.txt:1: no 'path label'"),
    "unbalanced": ('"images/0.png ant\n', r"list.txt:1: unbalanced quotes"),
    "absent": ("images/0.png ant\n\nimages/9.png bee\n", r"list.txt:3: no file images/9.png"),
    "outside": ("images/0.png ant\n../secret.png bee\n", r"list.txt:2: ../secret.png lies outside"),
    "absolute": ("/etc/hostname ant\n", r"\[not-image\] /etc/hostname"),
    "address": ("https://example.org/a.jpg ant\n", r"list.txt:1: .* is an address"),
    "nul": ("images/0\0.png ant\n", r"list.txt:1: no file images/0\\x00.png"),
    "long": ("x" * 200_000 + " ant\n", r"list.txt:1: 200,004 characters"),
    "two labels": ("images/0.png ant\n./images/0.png bee\n", r"list.txt:2: .* stands in list.txt:1 already"),
    "empty": ("\n\n# nothing\n", "no row at all"),
    "latin": (
        "images/0.png ant\nimages/1.png f\udcfbr\n",
        r"list.txt:2: expected UTF-8 text, got byte 0xfb at offset 31",
    ),
    "half utf-16": (b"\xff\xfea\x00 \x00b", "UTF-8 text"),
    "folder": ("images ant\n", r"1 of 1 \(1 not-regular\)"),
    "blank label": ('images/0.png " "\n', r"list.txt:1: empty label"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_bad_lists_name_file_and_line(case: str, photos: Path) -> None:
    put(photos.parent / "secret.png", 50)
    text, message = BAD_LISTS[case]
    with pytest.raises(DataError, match=message):
        read(photos, "list.txt", text)


def test_all_bad_lines_are_named_at_once(photos: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(photos, "list.txt", "images/0.png ant\nimages/8.png\nimages/9.png bee\nhttp://x/y a\n")
    assert all(f"list.txt:{line}:" in str(caught.value) for line in (2, 3, 4))
    assert "3 that cannot be used" in str(caught.value)


def test_a_repeated_line_is_read_once_and_mentioned(photos: Path) -> None:
    dataset = read(photos, "list.txt", "images/0.png ant\nimages/1.png bee\nimages/0.png ant\n")
    assert len(dataset) == 2
    assert dataset.warnings == ("passed over 1 repeated row, the first: list.txt:3 repeats list.txt:1",)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", ["filepath#label", "IMAGE#Class", " path #extra#label"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables(separator: str, header: str, encoding: str, photos: Path) -> None:
    width = header.count("#") + 1
    rows = [["0.png", "été"], ["1.png", "bee"]]
    lines = [header.split("#"), *([row[0], *["x"] * (width - 2), row[1]] for row in rows)]
    text = "\r\n".join(separator.join(line) for line in lines)
    dataset = read(photos, "table.csv", text.encode(encoding))
    assert [label for _, label in pairs(dataset)] == ["été", "bee"]


def test_missing_looking_cells_are_ordinary_names(photos: Path) -> None:
    names = ["NA", "None", "null", "nan", "-", "1e5"]
    text = "image,label\n" + "".join(f"{i}.png,{name}\n" for i, name in enumerate(names))
    assert [label for _, label in pairs(read(photos, "t.csv", text))] == names


def test_captions_and_parts(photos: Path) -> None:
    text = 'image,caption,split\n0.png,"one, two",train\n0.png,three,train\n1.png,"four\nfive",test\n2.png,x,val\n'
    dataset = read(photos, "t.csv", text)
    assert dataset.captions == ("one, two", "three", "four\nfive", "x")
    assert dataset.partition == ("train", "train", "test", "train")
    assert dataset.labels is None
    assert dataset.names == ("0.png", "0.png", "1.png", "2.png")
    assert "validation" in dataset.warnings[0]
    both = read(photos, "u.csv", "path,class,title\n0.png,ant,an ant\n")
    assert (both.captions, both.label_space.names) == (("an ant",), ("ant",))


BAD_TABLES = {
    "ragged": ("image,label\n0.png,ant\n1.png\n", r"t.csv:3: 1 cells under a header of 2"),
    "too wide": ("image,label\n0.png,ant,bee\n", r"t.csv:2: 3 cells"),
    "line after a quoted newline": ('image,caption\n0.png,"a\nb"\n9.png,x\n', r"t.csv:4: no file 9.png"),
    "unbalanced": ('image,label\n0.png,ant\n1.png,"bee\n2.png,x\n', r"t.csv:3: expected a well-formed table"),
    "quote inside": ('image,label\n0.png,"a"b\n', r"t.csv:2: expected a well-formed table"),
    "no path column": (
        "thing,label\n0.png,ant\n",
        r"t.csv:1: .*the image .*columns 'thing', 'label'; name the columns",
    ),
    "no label column": ("image,price\n0.png,3\n", r"t.csv:1: .*the label .* or caption .*columns 'image', 'price'"),
    "no header": ("0.png,ant\n", r"t.csv:1: .*header"),
    "twice": ("image,label,label\n0.png,ant,bee\n", r"t.csv:1: .*twice label"),
    "no rows": ("image,label\n", "no row at all"),
    "nothing": ("", "header"),
    "empty label": ("image,label\n0.png,\n", r"t.csv:2: empty label"),
    "blank caption": ("image,caption\n0.png,  \n", r"t.csv:2: empty caption"),
    "empty path": ("image,label\n,ant\n", r"t.csv:2: empty path"),
    "unknown part": ("image,label,split\n0.png,ant,holdout\n", r"t.csv:2: 'holdout' is none of train"),
    "latin": ("image,label\n0.png,f\udcfbr\n", r"t.csv:2: expected UTF-8 text"),
    "two labels": ("image,label\n0.png,ant\n0.png,bee\n", r"t.csv:3: .* stands in t.csv:2 already"),
    "train and test": ("image,label,split\n0.png,a,train\n0.png,a,test\n", r"t.csv:3: .* stands in t.csv:2 already"),
    "collision": ("image,label\n0.png,ant\n1.png,Ant\n2.png,x\n", "'Ant' and 'ant'"),
    "huge cell": ("image,label\n0.png," + "x" * 200_000 + "\n", r"t.csv:2: .*field larger"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_name_file_and_line(case: str, photos: Path) -> None:
    text, message = BAD_TABLES[case]
    with pytest.raises(DataError, match=message):
        read(photos, "t.csv", text)


def test_a_text_file_with_a_header_is_a_table(photos: Path) -> None:
    assert recognise(put(photos / "t.txt", "image,label\n0.png,ant\n")) == "csv"
    assert recognise(put(photos / "u.txt", "0.png ant\n")) == "list"
    assert recognise(put(photos / "v.tsv", "image\tlabel\n0.png\tant\n")) == "csv"
    assert recognise(photos / "images") == "unlabelled"


def coop(**changes: object) -> str:
    parts: dict[str, object] = {
        "train": [["0.png", 1, "bee"], ["1.png", 0, "wasp"]],
        "val": [["2.png", 0, "wasp"]],
        "test": [["3.png", 1, "bee"]],
    }
    return json.dumps({key: value for key, value in {**parts, **changes}.items() if value is not None})


def test_coop_splits(photos: Path) -> None:
    dataset = read(photos, "split.json", coop())
    assert dataset.label_space.names == ("wasp", "bee")
    assert pairs(dataset) == [("0.png", "bee"), ("1.png", "wasp"), ("2.png", "wasp"), ("3.png", "bee")]
    assert dataset.partition == ("train", "train", "train", "test")
    assert "validation" in dataset.warnings[0]
    assert read(photos, "no-val.json", coop(val=None)).warnings == ()


BAD_SPLITS = {
    "no json": ("{", "expected JSON"),
    "deep": ("[" * 100_000, "expected JSON"),
    "list": ("[]", "a column for the image"),
    "no test": (coop(test=None), "an object with train, test"),
    "more": (coop(extra=[]), "an object with train, test"),
    "no list": (coop(test={}), "a list under each part"),
    "pair": (coop(test=[["3.png", 1]]), r"test\[0\]"),
    "text label": (coop(test=[["3.png", "1", "bee"]]), r"test\[0\]"),
    "true label": (coop(test=[["3.png", True, "bee"]]), r"test\[0\]"),
    "negative": (coop(test=[["3.png", -1, "bee"]]), r"test\[0\]"),
    "two names": (coop(test=[["3.png", 1, "fly"]]), r"test\[0\]: label 1 is 'fly' here and 'bee' before"),
    "two numbers": (coop(test=[["3.png", 2, "bee"]]), "'bee' has two numbers"),
    "absent": (coop(test=[["9.png", 1, "bee"]]), r"split.json:test\[0\]: no file"),
    "leak": (coop(test=[["0.png", 1, "bee"]]), r"split.json:test\[0\]: .* stands in split.json:train\[0\]"),
    "surrogate": (coop(test=[["\ud800.png", 1, "bee"]]), r"no file \\ud800.png"),
}


@pytest.mark.parametrize("case", BAD_SPLITS)
def test_bad_splits_name_the_item(case: str, photos: Path) -> None:
    text, message = BAD_SPLITS[case]
    with pytest.raises(DataError, match=message):
        read(photos, "split.json", text)


def test_pictures_and_texts_that_share_a_stem(tmp_path: Path) -> None:
    put(tmp_path / "pictures" / "a.png", 1)
    put(tmp_path / "pictures" / "deep" / "b.png", 2)
    put(tmp_path / "lonely.png", 3)
    put(tmp_path / "texts" / "a.txt", "first\r\n\r\n second \n")
    put(tmp_path / "b.txt", "\ufefféin Bild")
    put(tmp_path / "README.txt", "about")
    dataset = read_dataset(tmp_path)
    assert dataset.captions == ("first", "second", "éin Bild")
    assert dataset.names == ("pictures/a.png", "pictures/a.png", "pictures/deep/b.png")
    assert dataset.warnings == ("lonely.png has no partner and was not read", "so have 1 more")


def test_stems_that_collide_are_both_named(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.jpg"):
        put(tmp_path / name, 1)
    put(tmp_path / "a.txt", "text")
    with pytest.raises(DataError, match=r"x/a.png and y/a.jpg"):
        read_dataset(tmp_path)
    (tmp_path / "y" / "a.jpg").unlink()
    put(tmp_path / "z" / "a.txt", "other")
    with pytest.raises(DataError, match=r"a.txt and z/a.txt"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("\n  \n", r"\n  a.txt"), (b"f\xfbr", "a.txt:1"), (None, "no pair")],
    ids=["blank", "latin", "none"],
)
def test_bad_texts(text: str | bytes | None, message: str, tmp_path: Path) -> None:
    put(tmp_path / "a.png", 1)
    if text is not None:
        put(tmp_path / "a.txt", text)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path, format="pairs")


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), min_size=1, max_size=12)
LABEL = TEXT.filter(lambda text: bool(text.strip()))


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(LABEL, min_size=1, max_size=6), separator=st.sampled_from([",", ";", "\t", "|"]))
def test_tables_read_back_what_was_written(labels: list[str], separator: str) -> None:
    with TemporaryDirectory() as folder:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=separator)
        writer.writerow(["filepath", "caption"])
        for i, label in enumerate(labels):
            put(Path(folder) / f"{i}.png", b"")
            writer.writerow([f"{i}.png", label])
        listing = list_source(put(Path(folder) / "t.csv", buffer.getvalue()), None)
    assert [entry.caption for entry in listing.entries] == [label.strip() for label in labels]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=10).filter(
                lambda name: name.strip() and "/" not in name and name not in (".", "..")
            ),
            st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=10).filter(str.strip),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda row: row[0],
    )
)
def test_lists_read_back_what_was_written(rows: list[tuple[str, str]]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    with TemporaryDirectory() as folder:
        for name, _ in rows:
            put(Path(folder) / "images" / name, b"")
        text = "".join(f"{quoted('images/' + name)} {quoted(label)}\n" for name, label in rows)
        listing = list_source(put(Path(folder) / "list.txt", text), "list")
    assert [(entry.name, entry.label) for entry in listing.entries] == [
        (f"images/{name}", label) for name, label in rows
    ]


FRAGMENTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["image", "label", "caption", "split", "train", "0.png", ",", ";", "\t", '"', '""', "\n", "\r", " "]
        ),
        st.sampled_from(["[", "]", "{", "}", ":", "1", "-1", "#", "\ufeff", "..", "/", "\\", "://", "null", '"train"']),
        st.text(max_size=5),
    ),
    max_size=30,
).map("".join)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(FRAGMENTS.map(lambda text: text.encode("utf-8", "replace")), st.binary(max_size=60)),
    data=st.data(),
)
def test_parsers_return_data_or_a_data_error(content: bytes, data: st.DataObject, tmp_path: Path) -> None:
    format = data.draw(st.sampled_from(["list", "csv", "coop", "json", "numbered", "pairs"]))
    put(tmp_path / "0.png", b"")
    source = put(tmp_path / ("0.txt" if format == "pairs" else "manifest"), content)
    try:
        listing = FORMATS[format].read(tmp_path if format == "pairs" else source)
    except DataError as error:
        str(error).encode("utf-8")  # printable everywhere
        return
    assert listing.entries
