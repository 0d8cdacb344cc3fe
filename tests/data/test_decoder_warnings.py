"""What decoders say reaches the file that they say it of, in every thread, and nothing else is swallowed."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clip_fewshot as cf
from clip_fewshot.data.decode import decode
from clip_fewshot.data.decoder_warnings import HANDLER, listening
from clip_fewshot.data.picture_kinds import ImageError
from clip_fewshot.data.verify import check_pictures
from tests.data.pictures import encoded, put
from tests.data.raw_pictures import tiff


def fax(seed: int, damaged: bool) -> bytes:
    """A CCITT TIFF; a damaged one decodes, and libtiff complains."""
    dots = Image.fromarray(np.random.default_rng(seed).random((64, 64)) > 0.5)
    data = bytearray(encoded(dots, "TIFF", compression="group4"))
    if damaged:
        data[200] ^= 0x55
    return bytes(data)


def test_libtiff_is_heard_and_silent_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    decoded = decode(fax(0, damaged=True), "a.tif")
    assert [note.split(" ")[0] for note in decoded.notes] == ["decoder-warning"]
    assert "Fax4Decode: Bad code word at line #" in decoded.notes[0]
    assert decode(fax(0, damaged=False), "a.tif").notes == ()
    assert capfd.readouterr().err == ""


def test_a_listing_names_the_file_whatever_the_threads_do(tmp_path: Path) -> None:
    for i in range(24):
        put(tmp_path / ("ant" if i % 2 else "bee") / f"{i:02d}.tif", fax(i, damaged=i == 13))
    checked = check_pictures(sorted(tmp_path.rglob("*.tif")))
    assert [path.name for path, result in checked.items() if result.notes] == ["13.tif"]
    (warning,) = cf.read_dataset(tmp_path).warnings
    assert warning.startswith("decoder-warning (Fax4Decode")
    assert warning.endswith("13.tif")
    found = cf.read_images([tmp_path])
    assert found.warnings == (warning,)


def test_the_message_stands_in_the_error_of_a_refused_file(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded(Image.effect_noise((64, 64), 90), "TIFF", compression="tiff_lzw"))
    data[1000:1010] = b"\xff" * 10
    with pytest.raises(ImageError, match=r"noise\.tif.*LZW|noise\.tif.*code"):
        decode(bytes(data), "noise.tif")
    assert capfd.readouterr().err == ""


def test_the_log_of_pillow_stands_in_the_error_too(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ImageError, match=r"many\.tif.*More samples per pixel than can be decoded: 9"):
        decode(tiff(np.zeros((16, 16), np.uint8), 8, tags={277: [9]}), "many.tif")
    assert not caplog.records


def test_what_others_write_meanwhile_follows(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    with listening(heard, libtiff=True):
        os.write(2, b"half a progress bar\rTIFFReadDirectory: Wrong count.\n")
        os.write(2, b"a line of the program\n")
    assert heard == ["TIFFReadDirectory: Wrong count."]
    assert capfd.readouterr().err == "half a progress bar\ra line of the program\n"


def test_warnings_of_pillow_are_kept_by_thread_and_others_pass() -> None:
    def warn(heard: list[str], text: str) -> None:
        with listening(heard, libtiff=False):
            warnings.warn_explicit(text, UserWarning, "x.py", 1, module="PIL.Image")

    kept: list[list[str]] = [[] for _ in range(8)]
    with warnings.catch_warnings(record=True) as passed:
        warnings.simplefilter("error")
        threads = [threading.Thread(target=warn, args=(heard, f"text {i}")) for i, heard in enumerate(kept)]
        with HANDLER:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        warnings.simplefilter("always")
        warnings.warn("mine", stacklevel=1)
    assert kept == [[f"text {i}"] for i in range(8)]
    assert [str(one.message) for one in passed] == ["mine"]


def test_exif_data_that_pillow_warns_of() -> None:
    outside = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0\xff\0\0\0\xf0\0\0\0"  # a text beyond the end
    notes = decode(encoded(Image.new("RGB", (16, 16)), "PNG", exif=outside), "a.png").notes
    assert [note.split(" ")[0] for note in notes] == ["decoder-warning"]
