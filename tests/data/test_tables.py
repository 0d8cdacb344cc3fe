"""One reader of headers and cells: tables as spreadsheets and other programs write them, and DataFrames."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pandas
import pytest

import clip_fewshot as cf
from clip_fewshot.data.columns import COLUMN_NAMES
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.data.picture_paths import picture_paths
from tests.data.pictures import class_folders, put

BOOKS = """,image,name,author,format,book_depository_stars,price,currency,old_price,isbn,category,img_paths
0,https://d.com/1.jpg,"Mindset, and more",Carol,Paperback,4.0,10.88,$,14.05,978,Mind-Body-Spirit,dataset/MBS/0.png
1,https://d.com/2.jpg,The Power of Now,Eckhart,Paperback,4.5,9.83,$,,979,Mind-Body-Spirit,dataset/MBS/1.png
2,https://d.com/3.jpg,Grey's Anatomy,Henry,Hardback,,49.99,$,,980,Medical,dataset/MBS/2.png
"""
NAMES = ("Mindset, and more", "The Power of Now", "Grey's Anatomy")
PREPARED = 'caption,image_url\n"Mindset, and more",dataset/MBS/0.png\nThe Power of Now,dataset/MBS/1.png\n'


@pytest.fixture
def books(tmp_path: Path) -> Path:
    for i in range(3):
        put(tmp_path / "dataset" / "MBS" / f"{i}.png", i)
    return tmp_path


def test_the_table_of_the_book_covers_as_it_is(books: Path) -> None:
    found = cf.read_dataset(put(books / "books.csv", BOOKS))
    assert found.captions == NAMES
    assert found.label_space.decode(found.required_labels()) == ["Mind-Body-Spirit"] * 2 + ["Medical"]
    assert found.names == tuple(f"dataset/MBS/{i}.png" for i in range(3))
    assert found.warnings == ("column 'img_paths' is read as the image, and not 'image'",)
    columns = {"image": "img_paths", "caption": "author", "label": "format"}
    chosen = cf.read_dataset(books / "books.csv", columns=columns)
    assert chosen.captions == ("Carol", "Eckhart", "Henry")
    assert chosen.counts() == {"Hardback": 1, "Paperback": 2}


def test_the_prepared_table_of_the_book_covers(books: Path) -> None:
    found = cf.read_dataset(put(books / "prepared.csv", PREPARED))
    assert found.captions == NAMES[:2]
    assert found.labels is None
    addresses = PREPARED.replace("dataset/", "https://")
    with pytest.raises(cf.DataError, match=r"prepared.csv:2: https://MBS/0.png is an address; download it first"):
        cf.read_dataset(put(books / "prepared.csv", addresses))


def test_a_data_frame_is_a_table(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(books)
    frame = pandas.read_csv(put(books / "books.csv", BOOKS), index_col=0)
    found = cf.read_dataset(frame)
    assert (found.captions, len(found.label_space)) == (NAMES, 2)
    columns = {"image": "img_paths", "label": "isbn"}
    sides = cf.read_dataset(frame[:2], test=frame[2:].assign(isbn=978), columns=columns, root=books)
    assert sides.counts() == {"978": 2, "979": 1}
    assert sides.partition == ("train", "train", "test")
    with pytest.raises(cf.DataError, match=r"row 1: no file dataset/MBS/9.png"):
        cf.read_dataset(frame.assign(img_paths=["dataset/MBS/0.png", "dataset/MBS/9.png", "dataset/MBS/1.png"]))
    with pytest.raises(cf.DataError, match=r"row 1: empty caption"):
        cf.read_dataset(frame.assign(name=["x", None, "y"]))
    with pytest.raises(cf.UsageError, match="expected a list of pictures, got a int"):
        cf.read_dataset(3)  # type: ignore[arg-type]


LIKE_LABELS = {
    "blank after the comma": "image, label\n{0}, cat\n{1}, dog\n",
    "quotes behind a blank": 'image, "label"\n{0}, "cat"\n{1}, "dog"\n',
    "mark and semicolons": "\ufeffimage;label\r\n{0};cat\r\n{1};dog\r\n",
    "tabs": "image\tlabel\n{0}\tcat\n{1}\tdog\n",
    "empty columns of a spreadsheet": "image,label,,\n{0},cat,,\n{1},dog,,\n,,,\n",
    "short rows of a spreadsheet": "image,label,,\n{0},cat\n{1},dog,\n",
    "an index without a name": ",label,image\n0,cat,{0}\n1,dog,{1}\n",
    "shuffled": "note,label,image\nx,cat,{0}\nx,dog,{1}\n",
    "ids": "image_id,label\n0,cat\n1,dog\n",
    "backslashes": "image,label\nphotos\\0.png,cat\nphotos\\1.png,dog\n",
    "numbers and names": "path,label,class_name\n{0},0,cat\n{1},1,dog\n{2},1,dog\n",
    "only one other column": "id,breed\n{0},cat\n{1},dog\n{2},cat\n{3},dog\n",
    "a name that repeats": "file,name\n{0},cat\n{1},dog\n{2},cat\n{3},dog\n",
    "separator in front": "sep=;\nimage;label\n{0};cat\n{1};dog\n",
    "empty rows in front": ",,\n\nimage,label,\n{0},cat,\n{1},dog,\n",
    "old line ends": "image,label\r{0},cat\r{1},dog\r",
    "other capitals of extensions": "image,label\nphotos/0.PNG,cat\nphotos/1.Png,dog\n",
    "paths of another machine": "image,label\n/home/ada/x/photos/0.png,cat\n/home/ada/x/photos/1.png,dog\n",
    "paths of Windows": "image,label\nD:\\x\\photos\\0.png,cat\nD:\\x\\photos\\1.png,dog\n",
    "parts by number": "image_id,partition,label\n{0},0,cat\n{1},2,dog\n",
}


@pytest.mark.parametrize("case", LIKE_LABELS)
def test_tables_as_they_are_found(case: str, tmp_path: Path) -> None:
    for i in range(4):
        put(tmp_path / "photos" / f"{i}.png", i)
    text = LIKE_LABELS[case].format(*(f"photos/{i}.png" for i in range(4)))
    source = put(tmp_path / "t.csv", text)
    found = cf.read_dataset(source)
    assert found.label_space.names == ("cat", "dog")
    assert found.label_space.decode(found.required_labels())[:2] == ["cat", "dog"]
    assert found.captions is None
    assert [path.name for path in picture_paths(source)][:2] == ["0.png", "1.png"]


@pytest.mark.parametrize("name", [name for names in COLUMN_NAMES.values() for name in names])
def test_every_known_name_is_known_in_every_spelling(name: str, tmp_path: Path) -> None:
    put(tmp_path / "0.png", 0)
    role = next(role for role, names in COLUMN_NAMES.items() if name in names)
    cells = {"image": "0.png", "label": "cat", "caption": "a cat", "split": "train"}
    header = {"image": "image", "label": "label"} | {role: f" {name[:3].upper()}_{name[3:]} ".replace("_ ", " ")}
    table = f"{','.join(header.values())}\n{','.join(cells[each] for each in header)}\n"
    found = cf.read_dataset(put(tmp_path / "t.csv", table))
    assert found.counts() == {"cat": 1}
    assert found.captions == (("a cat",) if role == "caption" else None)
    assert found.partition == (("train",) if role == "split" else ("",))


def test_one_name_belongs_to_one_role() -> None:
    pairs = itertools.combinations(COLUMN_NAMES.values(), 2)
    assert all(not set(one) & set(other) for one, other in pairs)


REFUSED = {
    "two columns of one name": ("image,label,label\n0.png,a,b\n", {}, "t.csv:1: .*twice label"),
    "no such column": ("image,label\n0.png,a\n", {"label": "kind"}, "a column 'kind', got columns 'image', 'label'"),
    "no such role": ("image,label\n0.png,a\n", {"kind": "label"}, "`columns`: expected one of image, label"),
    "a price": ("image,price\n0.png,3\n", {}, "name the columns with `columns`"),
    "a part misspelt": ("image,label,set\n0.png,a,train\n1.png,b,tset\n", {}, "t.csv:3: 'tset' is none of train"),
    "a path of another machine that is not here": (
        "image,label\n/home/ada/0.png,a\n/home/ada/7.png,b\n",
        {},
        "t.csv:2: no file /home/ada/0.png(.|\n)*t.csv:3: no file /home/ada/7.png",
    ),
    "another extension": ("image,label\n0.jpg,a\n1.png,b\n", {}, "t.csv:2: no file 0.jpg"),
    "one width": ("image,width\n0.png,3\n1.png,3\n", {}, "name the columns with `columns`"),
    "another header": ("a,b,c\n0.png,x,y\n", {}, "the image .*got columns 'a', 'b', 'c'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_that_say_too_little(case: str, tmp_path: Path) -> None:
    class_folders(tmp_path, {"": 2})
    for i in range(2):
        put(tmp_path / f"{i}.png", i)
    text, columns, message = REFUSED[case]
    with pytest.raises(cf.ClipFewShotError, match=message):
        cf.read_dataset(put(tmp_path / "t.csv", text), columns=columns)


NOTED = {
    "a column that may be of parts": ("image,label,is_train\n0.png,a,1\n1.png,b,0\n", "column 'is_train' is not read"),
    "several labels": ("image,label\n0.png,a|b\n1.png,a\n2.png,b\n", "join other classes, as of .*: 'a|b'"),
    "a list of labels": ("image,label\n0.png,\"['a', 'b']\"\n1.png,a\n2.png,b\n", "join other classes"),
    "a zero in front": ("image,label\n0.png,01\n1.png,1\n", "look the same: '01' and '1'"),
    "a repeated row": (
        "image,label\n0.png,a\n0.png,a\n1.png,b\n1,b\n",
        "passed over 2 repeated rows, .*: t.csv:3 repeats t.csv:2",
    ),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_may_be_meant_otherwise_is_said(case: str, tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / f"{i}.png", i)
    text, said = NOTED[case]
    (warning,) = cf.read_dataset(put(tmp_path / "t.csv", text)).warnings
    assert re.search(said, warning)


def test_a_set_that_is_no_part_is_left_alone(tmp_path: Path) -> None:
    for i in range(2):
        put(tmp_path / f"{i}.png", i)
    found = cf.read_dataset(put(tmp_path / "t.csv", "image,label,set\n0.png,a,Star Wars\n1.png,b,City\n"))
    assert found.partition == ("", "")


def test_pictures_alone_are_enough_to_be_embedded(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 2})
    expected = [tmp_path / "a" / f"00{i}.png" for i in range(2)]
    for text in ("filename,class\na/000.png,x\na/001.png,y\n", "photo\na/000.png\na/001.png\n"):
        assert list(picture_paths(put(tmp_path / "t.csv", text))) == expected
    for text in ("a/000.png\na/001.png\n", "a/000.png x\na/001.png y\n", "a/000.png\tx y\na/001.png\tz\n"):
        assert list(picture_paths(put(tmp_path / "t.txt", text))) == expected
    named = put(tmp_path / "t.csv", "a,b\nx,a/000.png\n")
    assert list(picture_paths(named, columns={"image": "b"})) == expected[:1]
    assert list(picture_paths(put(tmp_path / "u.txt", "nowhere.png\n"))) == [tmp_path / "nowhere.png"]


PATHS = {
    "no header, one column": ("l.csv", "0.png\n1.png\n", None),
    "objects": ("l.json", '{"0.png": "a", "1.png": "b"}', None),
    "an object a line": ("l.jsonl", '{"image": "0.png", "label": "a"}\n{"image": "1.png", "label": "b"}\n', None),
    "labels behind": ("l.txt", "0.png a\n1.png b\n", None),
    "no header": ("l.csv", "0.png,a\n1.png,b\n", "cells of a table; begin it with a header"),
    "another header": ("l.csv", "one,two\n0.png,a\n1.png,b\n", "cells of a table"),
    "cells in a text": ("l.txt", '"0.png";a\n"1.png";b\n', "cells of a table"),
    "a cell too many": ("l.csv", "image,label\n0.png,a,7\n1.png,b\n", "l.csv:2: 3 cells under a header of 2"),
    "an empty path": ("l.csv", "image,label\n,a\n1.png,b\n", "l.csv:2: empty path"),
}


@pytest.mark.parametrize("case", PATHS)
def test_paths_are_never_cells_or_headers(case: str, tmp_path: Path) -> None:
    for i in range(2):
        put(tmp_path / f"{i}.png", i)
    name, text, refused = PATHS[case]
    source = put(tmp_path / name, text)
    if refused is None:
        assert [path.name for path in cf.picture_paths(source)] == ["0.png", "1.png"]
        return
    with pytest.raises(cf.DataError, match=refused):
        cf.picture_paths(source)


def test_a_data_frame_of_captions_is_trained_on(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(books)
    frame = pandas.read_csv(put(books / "prepared.csv", PREPARED))
    model = cf.load_backbone("mini", device="cpu")
    (batch,) = PairStream(cf.read_dataset(frame), model, batch=2, seed=0, truncate=True).batches(0)
    assert batch.images.shape[0] == 2
