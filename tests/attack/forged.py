"""Files that name code, or hold some: nothing of it is imported, unpickled, run or asked of the network.

An audit hook hears every import, process, socket and unpickled name while a loader reads. Digests are made anew by the
library's own writers, so that a loader has nothing but the content to go by.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import sqlite3
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive.tuned_files import TUNED_KIND, load_tuned
from clip_fewshot.features.table import read_features
from clip_fewshot.few_shot.search.record import read_trials
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.runtime.artifacts import load_artifact, save_artifact
from clip_fewshot.runtime.files import write_json
from tests.attack import lines, scene
from tests.attack.apart import fresh
from tests.attack.harness import Attack, Outcome
from tests.conftest import TINY

NAMES = (
    "python:os:abort",
    "python:http.server:test",
    "python:planted:run",
    "python:planted.inner:run",
    "python:./planted:run",
    "planted:run",
    "planted",
    "planted.run",
    "python:builtins:exec",
    "python:antigravity:fly_id",
    "python:this:s",
    "python:subprocess:Popen",
    "python:socket:socket",
    "python:signal:pause",
    "__import__('planted')",
    "{0.__class__.__mro__}",
    "builtins.exec",
    "os.system",
    "sklearn.externals.planted",
    "torch.hub:load",
    "../planted.py",
    "planted.py",
    "file:///tmp/planted.py",
    "$(touch planted)",
    "`touch planted`",
    "; touch planted",
    "!!python/object/apply:os.system [touch planted]",
    "python:planted:run\n",
    "Python:planted:run",
    " python:planted:run",
)
PLANTED = """import pathlib
pathlib.Path(__file__).with_name("ran").write_text("x")
def run(*a, **k):
    raise SystemExit("ran")
"""
MODULES = ("planted", "http.server", "antigravity", "this", "webbrowser")
DEADLY = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn",
          "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "webbrowser.", "urllib.",
          "pickle.find_class", "ctypes.dlopen")  # fmt: skip

_heard: list[str] | None = None


def _hear(event: str, given: tuple[Any, ...]) -> None:
    if _heard is None:
        return
    named = event == "import" and str(given[0]).split(".")[0] in {name.split(".")[0] for name in MODULES}
    if (named and given[0] in (*MODULES, "planted.inner")) or event.startswith(DEADLY):
        _heard.append(f"{event} {given[:2]}"[:120])


@cache
def _hook() -> None:
    sys.addaudithook(_hear)  # for as long as this process lives


@contextlib.contextmanager
def _listening(cwd: Path) -> Iterator[list[str]]:
    """In ``cwd``, which is on the path of imports and has modules to import, with all that is heard."""
    global _heard
    _hook()
    (cwd / "planted.py").write_text(PLANTED)
    before = os.getcwd()
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))
    _heard = heard = []
    try:
        yield heard
    finally:
        _heard = None
        sys.path.remove(str(cwd))
        os.chdir(before)
        sys.modules.pop("planted", None)
        if (cwd / "ran").exists():
            heard.append("planted code ran")


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every text in JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(inner, str):
            yield (*path, key)
        yield from _leaves(inner, (*path, key))


def _forge(value: Any, draw: np.random.Generator, name: str) -> str:
    """Put ``name`` into one text of ``value``; where it now is."""
    ways = list(_leaves(value))
    way = ways[int(draw.integers(len(ways)))]
    inner = value
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = name
    return ".".join(map(str, way))


Forge = Callable[[Path, Path, np.random.Generator, str], str]
Load = Callable[[Path], object]


def _artifact(make: Callable[[Path], Path], kind: str) -> Forge:
    def forge(folder: Path, to: Path, draw: np.random.Generator, name: str) -> str:
        meta, files = load_artifact(make(folder), kind)
        way = _forge(meta, draw, name)
        save_artifact(to, kind, files, meta)
        return way

    return forge


def _forge_backbone(folder: Path, to: Path, draw: np.random.Generator, name: str) -> str:
    meta, files = load_artifact(scene.world(folder), "open-world classifier")
    meta["backbone"]["name"] = name
    save_artifact(to, "open-world classifier", files, meta)
    return "backbone.name"


def _forge_json(make: Callable[[Path], Path]) -> Forge:
    def forge(folder: Path, to: Path, draw: np.random.Generator, name: str) -> str:
        shutil.copytree(make(folder), to)
        files = sorted(to.glob("*.json"))
        hit = files[int(draw.integers(len(files)))]
        value = json.loads(hit.read_text())
        way = _forge(value, draw, name)
        hit.write_text(json.dumps(value))
        return f"{hit.name}: {way}"

    return forge


def _forge_run(folder: Path, to: Path, draw: np.random.Generator, name: str) -> str:
    """A run that was begun with such a name, as the library writes it down."""
    options = cf.FewShotConfig.of(data=str(scene.photos(folder)), model=str(scene.model(folder)), trials=3).to_json()
    ways = ("model", "data", "format", "detector", "discoverer", "approaches", "storage", "templates")
    key = ways[int(draw.integers(len(ways)))]
    options |= {key: [name] if key == "approaches" else name}
    write_json(to / "run.json", {"key": {}, "config": options})
    return key


def _forge_store(folder: Path, to: Path, draw: np.random.Generator, name: str) -> str:
    """A store that the library made around a backbone of that name; or one whose newest classifier was rewritten."""
    if draw.random() < 0.5:
        backbone = build_backbone(TINY, seed=0, name=name)
        cf.Store.create(to, cf.OpenWorldClassifier.load(scene.world(folder), backbone)).close()
        return "encoder.name"
    shutil.copytree(scene.store(folder), to)
    with contextlib.closing(sqlite3.connect(to / "store.sqlite3")) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        asked = "SELECT number, meta FROM revision WHERE length(meta) > 20 ORDER BY number DESC"
        number, meta = database.execute(asked).fetchone()
        value = json.loads(meta)
        way = _forge(value, draw, name)
        database.execute("UPDATE revision SET meta = ? WHERE number = ?", (json.dumps(value), number))
        database.commit()
    return way


def _open_store(to: Path) -> None:
    with cf.Store.open(to) as store:
        store.status()
        store.history()
        store.world.to_artifact()


KIND = "open-world classifier"
LOADERS: dict[str, tuple[Forge, Load]] = {
    "backbone": (_forge_backbone, lambda to: cf.OpenWorldClassifier.load(to)),
    "classifier": (_artifact(scene.world, KIND), lambda to: cf.OpenWorldClassifier.load(to)),
    "classifier with its backbone": (
        _artifact(scene.world, KIND),
        lambda to: cf.OpenWorldClassifier.load(to, scene.tiny()),
    ),
    "store": (_forge_store, _open_store),
    "trials": (_forge_json(lambda folder: scene.search(folder) / "trials"), read_trials),
    "review": (_forge_json(scene.review), lambda to: Review.read(to / "review.json")),
    "tuned heads": (_artifact(scene.tuned, TUNED_KIND), lambda to: load_tuned(to, scene.tiny())),
    "run": (_forge_run, lambda to: cf.run_few_shot(cf.FewShotConfig.of(resume=str(to)))),
    "backbone folder": (_forge_json(scene.model), lambda to: cf.load_backbone(to, device="cpu")),
}


def strike(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    names = list(LOADERS)
    loader, name = names[number % len(names)], NAMES[number // len(names) % len(NAMES)]
    forge, load = LOADERS[loader]
    cwd = fresh(folder, "forged")
    way = forge(folder, cwd / "it", draw, name)
    return _judged(cwd, lambda: load(cwd / "it"), f"{loader}, {way} = {name!r}")


def _judged(cwd: Path, load: Callable[[], object], again: str) -> Outcome:
    what, held = "loaded", True
    with _listening(cwd) as heard:
        try:
            load()
        except cf.ClipFewShotError:
            what = "refused"
        except BaseException as error:
            what, held, again = f"raw {type(error).__name__}", False, f"{again}: {error}"[:300]
    if heard or list(cwd.rglob("canary*")):
        return Outcome(False, "executed", f"{again}: {heard[:3]}")
    return Outcome(held, what, "" if held else again)


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
    return _judged(cwd, lambda: read(path), f"payload {which} to {reader}")


def prepare(folder: Path) -> None:
    lines.prepare(folder)
    scene.search(folder)
    scene.tuned(folder)


N_PAYLOADS = len(list(payloads("canary")))
ATTACKS = [
    Attack(
        "forged names",
        "no import, process or socket; refused, or the name is only a name",
        len(LOADERS) * len(NAMES) * 3,
        24,
        prepare,
        strike,
    ),
    Attack(
        "pickles and archives",
        "nothing unpickled or run; refused by our own error",
        len(READERS) * N_PAYLOADS,
        30,
        prepare,
        strike_pickle,
    ),
]
