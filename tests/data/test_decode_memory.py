"""No picture takes more than 400 MB and no folder more than 1.5 GB, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_fewshot.data.decode import decode
from clip_fewshot.data.decode_memory import MemoryBudget
from clip_fewshot.data.picture_kinds import ImageError
from tests.data.pictures import encoded
from tests.data.raw_pictures import png, tiff

PICTURE, FOLDER = 400e6, 1.5e9  # bytes
needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measured through /proc")


def test_a_budget_is_never_exceeded_and_a_thread_that_holds_the_most_does_not_wait() -> None:
    budget, lock, held, most = MemoryBudget(100), threading.Lock(), [0], [0]

    def work(amount: int) -> None:
        for _ in range(50):
            with budget.hold(amount), budget.hold(amount // 2), budget.hold(amount):
                with lock:
                    held[0] += amount
                    most[0] = max(most[0], held[0])
                time.sleep(1e-4)  # the others run: without waiting for each other they would hold more together
                with lock:
                    held[0] -= amount

    threads = [threading.Thread(target=work, args=(amount,)) for amount in (100, 60, 40, 30, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert 60 <= most[0] <= 100


def flat(mode: str, megapixels: float, colour: object, format: str, **options: object) -> Callable[[], bytes]:
    return lambda: encoded(Image.new(mode, (8000, int(megapixels * 125)), colour), format, **options)  # type: ignore[arg-type]


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif


# Near the greatest size that is taken of each kind.
LARGE: dict[str, Callable[[], bytes]] = {
    "png 16 bits": flat("I;16", 50, 9000, "PNG"),
    "png alpha": flat("RGBA", 43, (9, 9, 9, 9), "PNG"),
    "png turned": flat("RGB", 43, 9, "PNG", exif=turned()),
    "jpeg progressive": flat("RGB", 34, 9, "JPEG", progressive=True, subsampling=0),
    "jpeg turned": flat("RGB", 50, 9, "JPEG", exif=turned()),
    "webp": flat("RGB", 21, 9, "WEBP", lossless=True, method=0),
    "tiff floats": flat("F", 29, 0.5, "TIFF"),
    "tiff strip": lambda: tiff(np.zeros((3500, 8000, 4), np.uint16), 16, 2, deflate=True, tags={338: [2]}),
    "png deep key": lambda: png(np.zeros((3000, 8000, 3), np.uint16), 16, 2, tRNS=b"\0" * 6),
    "jpeg 2000": flat("RGB", 50, 9, "JPEG2000"),
    "avif": flat("RGBA", 20, (9, 9, 9, 9), "AVIF", speed=10),
}
CHILD = """
import re, sys
from pathlib import Path
import clip_fewshot.data.verify as verify
verify.CHECK_THREADS = 8
checked = verify.check_pictures(sorted(Path(sys.argv[1]).iterdir()))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])  # ru_maxrss counts the parent too
print(*sorted({str(one.error) for one in checked.values()}))
"""


def peak(folder: Path) -> int:
    """Bytes, of a process that checks the pictures in ``folder`` in 8 threads."""
    ended = subprocess.run([sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, check=True)
    measured, errors = ended.stdout.splitlines()
    assert errors == "None"
    return int(measured) * 1024


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE)
def test_one_large_picture(case: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(LARGE[case]())
    measured = peak(tmp_path)
    print(f"{case}: {measured / 1e6:.0f} MB")  # pytest -m slow -s shows the figures
    assert measured <= PICTURE


@needs_linux
@pytest.mark.slow
def test_a_folder_of_large_pictures_in_eight_threads(tmp_path: Path) -> None:
    for case in ("png 16 bits", "png alpha", "webp", "jpeg progressive"):
        (tmp_path / f"{case} 0").write_bytes(LARGE[case]())
        for i in range(1, 16):
            os.link(tmp_path / f"{case} 0", tmp_path / f"{case} {i}")
    measured = peak(tmp_path)
    print(f"64 pictures: {measured / 1e6:.0f} MB")
    assert measured <= FOLDER


def test_what_would_take_more_is_refused_by_its_header() -> None:
    large = Image.new("L", (7000, 6500))
    for format, options in (("WEBP", {"lossless": True, "method": 0}), ("PNG", {"exif": turned()})):
        if format == "PNG":
            large = large.convert("RGB")
        with pytest.raises(ImageError, match="MB while it is decoded") as caught:
            decode(encoded(large, format, **options), "a")
        assert caught.value.reason == "too-large"
    tile = tiff(np.zeros((16, 16), np.uint8), 8, deflate=True, tags={322: [60_000], 323: [60_000], 324: [8], 325: [9]})
    with pytest.raises(ImageError, match="MB while it is decoded"):
        decode(tile, "a.tif")
