"""OpenAI's weights files: where they are, and a download that resumes and is checked."""

from __future__ import annotations

import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from clip_fewshot.config.options import PHOTOS_INSTALL
from clip_fewshot.errors import ArtifactError, ResourceError
from clip_fewshot.runtime.files import cache_root, hash_file, open_resumable

SOURCE = "https://openaipublic.azureedge.net/clip/models"
DOWNLOAD_PIECE = 1 << 20
TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 5  # a dropped connection is taken up again where it ended
MAX_DOWNLOAD_BYTES = 4 << 30


class WeightsFile(NamedTuple):
    """A published file; its SHA-256 is part of its address."""

    sha256: str
    file: str

    @property
    def url(self) -> str:
        """Where the file is downloaded from."""
        return f"{SOURCE}/{self.sha256}/{self.file}"

    @property
    def path(self) -> Path:
        """Where it lies on this machine once downloaded."""
        return cache_root() / "weights" / f"{self.sha256[:8]}-{self.file}"


OFFICIAL = {
    "RN50": WeightsFile("afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762", "RN50.pt"),
    "RN101": WeightsFile("8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599", "RN101.pt"),
    "RN50x4": WeightsFile("7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd", "RN50x4.pt"),
    "RN50x16": WeightsFile("52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa", "RN50x16.pt"),
    "RN50x64": WeightsFile("be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c", "RN50x64.pt"),
    "ViT-B/32": WeightsFile("40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", "ViT-B-32.pt"),
    "ViT-B/16": WeightsFile("5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", "ViT-B-16.pt"),
    "ViT-L/14": WeightsFile("b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", "ViT-L-14.pt"),
    "ViT-L/14@336px": WeightsFile(
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02", "ViT-L-14-336px.pt"
    ),
}


def fetch(weights: WeightsFile) -> Path:
    """Path of the checked file, downloaded if it is not there; an interrupted download is taken up where it ended.

    Raises:
        ResourceError: the address cannot be reached, or the disk is full.
        ArtifactError: the file, here or there, is not the one that OpenAI published.
    """
    path = weights.path
    if os.path.exists(path):
        _check(path, weights, "delete the file and run again")
        return path
    with open_resumable(path) as partial:
        _download(weights, partial)
        partial.flush()
        try:
            _check(Path(partial.name), weights, "run again; if it stays so, the address serves another file")
        except ArtifactError:
            partial.truncate(0)  # nothing of it is worth resuming
            raise
    return path


def _check(path: Path, weights: WeightsFile, fix: str) -> None:
    digest = hash_file(path)
    if digest != weights.sha256:
        raise ArtifactError(expected=f"SHA-256 {weights.sha256}", got=digest, fix=fix, where=str(weights.path))


def _download(weights: WeightsFile, partial: BinaryIO) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        before = partial.tell()
        try:
            _append_rest(weights, partial)
            return
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if partial.tell() > before and attempt < ATTEMPTS:
                continue
            got = f"no connection, or a broken one ({error})"
            fix = f"put that file at {weights.path}, or use the model photos (`model`), after {PHOTOS_INSTALL}"
            raise ResourceError(expected=f"the weights {weights.file} from {weights.url}", got=got, fix=fix) from error


def _append_rest(weights: WeightsFile, partial: BinaryIO) -> None:
    """Append what is missing, as far as the connection carries."""
    have = partial.tell()
    request = urllib.request.Request(weights.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise
    with response:
        if have and response.status != 206:  # the server ignored the range and sends all of it
            partial.truncate(0)
            partial.seek(0)
            have = 0
        total = have + int(response.headers.get("Content-Length") or 0)
        quiet = not sys.stderr.isatty()
        with tqdm(initial=have, total=total, unit="B", unit_scale=True, desc=weights.file, disable=quiet) as bar:
            while have <= MAX_DOWNLOAD_BYTES and (piece := response.read(DOWNLOAD_PIECE)):
                have += partial.write(piece)
                bar.update(len(piece))
    if have < total:
        raise http.client.IncompleteRead(b"", total - have)
