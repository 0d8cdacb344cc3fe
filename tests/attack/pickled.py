"""Files that hold code, as pickles and archives do: nothing of it is unpickled or run, whoever reads them."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import clip_fewshot as cf
from clip_fewshot.contrastive.tuned_files import load_tuned
from clip_fewshot.features.table import read_features
from clip_fewshot.few_shot.search.record import read_trials
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.runtime.artifacts import load_artifact, save_artifact
from tests.attack import lines, scene
from tests.attack.apart import fresh
from tests.attack.forged import KIND, judge
from tests.attack.harness import Attack, Outcome


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.made = call, arguments

    def __reduce__(self) -> Any:
        return self.made


def payloads(canary: str) -> Iterator[bytes]:
    """Pickles of all protocols that write a file, bare and in the wrappings in which weights come."""
    touch = f"open({canary!r}, 'w').close()"
    evils = (Evil(os.system, f"touch {canary}"), Evil(eval, touch), Evil(exec, touch), Evil(open, canary, "w"))
    for evil in evils:
        for protocol in (0, 2, 4):
            yield pickle.dumps(evil, protocol)
            yield pickle.dumps({"state_dict": {"visual.proj": evil}}, protocol)
        yield _zipped({"archive/data.pkl": pickle.dumps({"model": evil}, 2), "archive/version": b"3\n"})
        yield _zipped({"archive/data.pkl": b"\x80\x02}.", "archive/constants.pkl": pickle.dumps(evil, 2),
                       "archive/code/__torch__.py": b"class M(Module):\n  def __setstate__(self): pass\n"})  # fmt: skip
        yield b"\x93NUMPY\x01\x00" + _npy_header() + pickle.dumps(evil, 4)
        yield pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(evil, 2)


def _npy_header() -> bytes:
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    return len(text).to_bytes(2, "little") + text


def _zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _in_folder(name: str, load: Callable[[Path], object], **others: bytes) -> Callable[[Path], object]:
    """A reader of a folder, in which the payload stands as ``name``."""

    def read(payload: Path) -> object:
        place = payload.parent / "place"
        place.mkdir()
        shutil.copyfile(payload, place / name)
        for other, data in others.items():
            (place / other.replace("_json", ".json")).write_bytes(data)
        return load(place)

    return read


def _in_model(payload: Path) -> object:
    meta, files = load_artifact(scene.world(payload.parents[2]), KIND)
    place, data = payload.parent / "place", payload.read_bytes()
    save_artifact(place, KIND, dict.fromkeys(files, data), meta)
    return cf.OpenWorldClassifier.load(place, scene.tiny())


CODE = b'{"auto_map": {"AutoModel": "planted.run"}, "model_type": "%s"}'
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{
        f"weights {suffix}": (suffix, lambda path: cf.load_backbone(path, device="cpu"))
        for suffix in (".pt", ".pth", ".bin", ".safetensors", "")
    },
    "tuned": (".pt", lambda path: load_tuned(path, scene.tiny())),
    "model": (".bin", _in_model),
    "text encoder": (".bin", _in_folder("pytorch_model.bin", lambda place: cf.load_text_encoder(str(place)),
                                        config_json=CODE % b"bert")),
    "backbone folder": (".bin", _in_folder("pytorch_model.bin", lambda place: cf.load_backbone(place, device="cpu"),
                                           config_json=CODE % b"clip")),
    **{
        f"data {suffix}": (suffix, lambda path: cf.read_dataset(path))
        for suffix in (".csv", ".json", ".txt", ".parquet", ".tar", ".pkl", ".npy", ".npz", ".mat")
    },
    "pictures": (".png", lambda path: cf.read_images([path])),
    "features": (".parquet", read_features),
    "review": (".json", Review.read),
    "trials": (".json", _in_folder("00000.json", read_trials)),
    "store": (".sqlite3", _in_folder("store.sqlite3", lambda place: cf.Store.open(place, scene.tiny()))),
    "class names": (".txt", lambda path: cf.read_dataset(scene.photos(path.parents[2]), class_names=str(path))),
}  # fmt: skip


def strike_pickle(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    cwd = fresh(folder, "pickled")
    listed = list(payloads(str(cwd / "canary")))
    reader = list(READERS)[number % len(READERS)]
    which = number // len(READERS) % len(listed)
    suffix, read = READERS[reader]
    path = cwd / f"payload{suffix}"
    path.write_bytes(listed[which])
    return judge(cwd, lambda: read(path), f"payload {which} to {reader}")


N_PAYLOADS = len(list(payloads("canary")))
ATTACKS = [
    Attack(
        "pickles and archives",
        "nothing unpickled or run; refused by our own error",
        len(READERS) * N_PAYLOADS,
        30,
        lines.prepare,
        strike_pickle,
    )
]
