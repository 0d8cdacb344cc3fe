"""Rows that come back are the rows that were kept, whatever happened to the files in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_fewshot.runtime import rng
from clip_fewshot.runtime.files import SEAL
from clip_fewshot.runtime.row_cache import ABOUT, DIGEST_BYTES, INDEX, ROWS_FILE, Batch, RowCache, RowFile

SHAPE = (3, 5)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowFile:
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path))
    return new_shelf()


def new_shelf() -> RowFile:
    return RowFile("things", {"size": 3}, SHAPE, np.float16)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float16)


def keys(count: int) -> list[str]:
    return [f"picture {i}" for i in range(count)]


def test_a_key_with_a_name_that_is_no_utf_8_is_a_key(shelf: RowFile) -> None:
    odd = [os.fsdecode(b"caf\xe9"), "caf\N{LATIN SMALL LETTER E WITH ACUTE}"]
    shelf.append(odd, rows(2))
    assert len(set(shelf.find(odd).tolist())) == 2
    np.testing.assert_array_equal(new_shelf().read(new_shelf().find(odd)), rows(2))
    assert len({rng.derive_seed(0, name) for name in odd}) == 2


def assert_holds(shelf: RowFile, wanted: list[str], values: np.ndarray) -> None:
    """Every row that is found is the one kept under that key."""
    places = shelf.find(wanted)
    for place, value in zip(places, values, strict=True):
        if place >= 0:
            np.testing.assert_array_equal(shelf.read(np.array([place]))[0], value)


def test_rows_come_back_by_key_in_any_order(shelf: RowFile) -> None:
    values = rows(4)
    assert shelf.find(keys(4)).tolist() == [-1] * 4
    assert shelf.append(keys(2), values[:2])
    assert shelf.append(keys(4)[2:], values[2:])
    for reader in (shelf, new_shelf()):
        places = reader.find([*reversed(keys(4)), "another"])
        assert places.tolist() == [3, 2, 1, 0, -1]
        np.testing.assert_array_equal(reader.read(places[:4]), values[::-1])
        assert reader.map_rows().shape == (4, *SHAPE)
    assert shelf.read(np.array([], dtype=np.int64)).shape == (0, *SHAPE)


def test_a_shelf_is_found_again_without_knowing_its_shape(shelf: RowFile) -> None:
    assert RowFile.open_existing("things", {"size": 3}) is None
    shelf.append(keys(1), rows(1))
    found = RowFile.open_existing("things", {"size": 3})
    assert found is not None
    assert (found.shape, found.dtype, found.path) == (SHAPE, np.float16, shelf.path)
    assert RowFile.open_existing("things", {"size": 4}) is None
    about = (shelf.folder / ABOUT).read_text()
    (shelf.folder / ABOUT).write_text(about.replace("<f2", "(,<f2"))
    assert RowFile.open_existing("things", {"size": 3}) is None
    (shelf.folder / ABOUT).write_text("{")
    assert RowFile.open_existing("things", {"size": 3}) is None
    (shelf.folder / ABOUT).write_text(about.replace("<f2", "<i2"))  # rows of as many bytes, and of other numbers
    assert RowFile.open_existing("things", {"size": 3}) is None
    unsealed = {name: value for name, value in json.loads(about).items() if name != SEAL}
    (shelf.folder / ABOUT).write_text(json.dumps(unsealed))  # as releases before wrote it
    assert RowFile.open_existing("things", {"size": 3}) is not None
    (shelf.folder / ABOUT).write_text("{")
    (half := shelf.folder / f".{ABOUT}.ab12.tmp").write_text("{")
    assert new_shelf().append(keys(1), rows(1))  # and is declared anew
    assert not half.exists()
    assert RowFile.open_existing("things", {"size": 3}) is not None


def test_the_later_row_of_a_key_counts(shelf: RowFile) -> None:
    first, second = rows(1, seed=1), rows(1, seed=2)
    shelf.append(["a"], first)
    shelf.append(["a"], second)
    np.testing.assert_array_equal(new_shelf().read(new_shelf().find(["a"])), second)


@settings(max_examples=60, deadline=None)
@given(kept_rows=st.integers(0, 4 * 30), kept_index=st.integers(0, 4 * 64), flipped=st.integers(0, 4 * 30 - 1))
def test_no_torn_or_flipped_byte_yields_a_wrong_row(
    tmp_path_factory: pytest.TempPathFactory, kept_rows: int, kept_index: int, flipped: int
) -> None:
    root = tmp_path_factory.mktemp("torn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIP_FEWSHOT_CACHE", str(root))
        values = rows(4)
        shelf = new_shelf()
        shelf.append(keys(4), values)
        content = bytearray((shelf.folder / ROWS_FILE).read_bytes())
        content[flipped] ^= 1
        (shelf.folder / ROWS_FILE).write_bytes(content[:kept_rows])
        os.truncate(shelf.folder / INDEX, kept_index)
        torn = new_shelf()
        found = torn.find(keys(4))
        damaged = flipped // torn.row_bytes
        whole = min(kept_rows // torn.row_bytes, kept_index // (2 * DIGEST_BYTES))
        assert [place >= 0 for place in found] == [i < whole and i != damaged for i in range(4)]
        assert_holds(torn, keys(4), values)
        missing = np.flatnonzero(found < 0)
        assert torn.append([keys(4)[i] for i in missing], values[missing])
        repaired = new_shelf()
        assert (repaired.find(keys(4)) >= 0).all()
        assert_holds(repaired, keys(4), values)


def _fill(worker: int) -> None:
    shelf = new_shelf()
    for i in range(20):
        shelf.append([f"{worker}/{i}"], rows(1, seed=100 * worker + i))


def test_processes_that_write_at_once_lose_nothing(shelf: RowFile) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_fill, args=(k,)) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    for k in range(3):
        places = shelf.find([f"{k}/{i}" for i in range(20)])
        assert (places >= 0).all()
        np.testing.assert_array_equal(shelf.read(places), np.concatenate([rows(1, 100 * k + i) for i in range(20)]))


WRITER = """
import itertools, numpy as np
from tests.runtime.test_row_cache import new_shelf, rows
shelf = new_shelf()
for i in itertools.count():
    shelf.append([f"{i}/{k}" for k in range(50)], np.concatenate([rows(1, seed=50 * i + k) for k in range(50)]))
    print(i, flush=True)
"""


def test_kills_leave_rows_out_and_none_wrong(shelf: RowFile) -> None:
    for attempt in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        done = int(writer.stdout.readline())
        time.sleep(0.003 * attempt)
        writer.send_signal(signal.SIGKILL)
        done = max([done, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
        writer.wait()
        writer.stdout.close()
        after = new_shelf()
        for i in range(done + 2):
            wanted = [f"{i}/{k}" for k in range(50)]
            assert i > done or (after.find(wanted) >= 0).all()
            assert_holds(after, wanted, np.concatenate([rows(1, seed=50 * i + k) for k in range(50)]))


def test_a_disk_that_refuses_costs_a_warning(shelf: RowFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "things").write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match="not cached.*CLIP_FEWSHOT_CACHE"):
        assert not new_shelf().append(keys(1), rows(1))
    (tmp_path / "things").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.warns(RuntimeWarning, match="1 byte free"):
        assert not new_shelf().append(keys(1), rows(1))
    assert shelf.find(keys(1)).tolist() == [-1]


COLUMNS = {"half": {"size": 1}, "double": {"size": 2}}


def counting(computed: list[int], batch: int = 2) -> Callable[[np.ndarray], Iterator[Batch[str]]]:
    """Row i holds i in both columns; what is computed is noted."""

    def compute(missing: np.ndarray) -> Iterator[Batch[str]]:
        for start in range(0, len(missing), batch):
            part = missing[start : start + batch]
            computed.extend(part.tolist())
            yield part, {"half": part[:, None].astype(np.float16), "double": part.astype(np.float64)}

    return compute


def test_what_is_missing_in_some_column_is_computed_once(shelf: RowFile) -> None:
    computed: list[int] = []
    cache = RowCache("things", COLUMNS)
    wanted = ["a", "b", "a", "c", "b"]
    for _ in range(2):
        found = cache.rows(wanted, counting(computed))
        assert computed == [0, 1, 3]
        assert found["half"].read().tolist() == [[0], [1], [0], [3], [1]]
        assert found["double"].read().tolist() == [0, 1, 0, 3, 1]
    one_column = RowCache("things", {"half": COLUMNS["half"]})
    assert one_column.rows(["c"], counting(computed))["half"].read().tolist() == [[3]]
    two_sizes = RowCache("things", {"half": COLUMNS["half"], "double": {"size": 3}})
    assert two_sizes.missing(["c", "d"]).tolist() == [0, 1]
    assert len(computed) == 3


def test_a_batch_is_kept_before_the_next_is_computed(shelf: RowFile) -> None:
    def killed(missing: np.ndarray) -> Iterator[Batch[str]]:
        yield from list(counting([])(missing))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RowCache("things", COLUMNS).rows(keys(7), killed)
    assert RowCache("things", COLUMNS).missing(keys(7)).tolist() == [4, 5, 6]


def test_rows_of_another_process_are_found_though_it_began_later(shelf: RowFile) -> None:
    computed: list[int] = []
    early, late = RowCache("things", COLUMNS), RowCache("things", COLUMNS)
    assert early.missing(keys(3)).tolist() == [0, 1, 2]
    late.rows(keys(3), counting(computed))
    early.rows(keys(3), counting(computed))
    assert computed == [0, 1, 2]


def test_what_the_disk_refuses_stays_in_memory(shelf: RowFile, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    cache = RowCache("things", COLUMNS)
    cache.rows(keys(2), counting(computed))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.warns(RuntimeWarning, match="1 byte free") as warned:
        found = cache.rows([*keys(6), "picture 5"], counting(computed))
    assert len(warned) == len(COLUMNS)  # each column asks once
    assert found["double"].read().tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert found["double"].places().tolist() == [0, 1, -1, -1, -1, -1, -1]
    assert computed == [0, 1, 2, 3, 4, 5]
    assert cache.missing(keys(6)).tolist() == [2, 3, 4, 5]
