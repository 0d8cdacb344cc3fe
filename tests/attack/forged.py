"""Files that name code: nothing of it is imported, run or asked of the network.

An audit hook hears every import, process, socket and unpickled name while a loader reads. Digests are made anew by the
library's own writers, so that a loader has nothing but the content to go by.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive.tuned_files import TUNED_KIND, load_tuned
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
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {trigger}")  # which forbid the change, not who makes it
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
    return judge(cwd, lambda: load(cwd / "it"), f"{loader}, {way} = {name!r}")


def judge(cwd: Path, load: Callable[[], object], again: str) -> Outcome:
    """What was heard while ``load`` ran."""
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


def prepare(folder: Path) -> None:
    lines.prepare(folder)
    scene.search(folder)
    scene.tuned(folder)


ATTACKS = [
    Attack(
        "forged names",
        "no import, process or socket; refused, or the name is only a name",
        len(LOADERS) * len(NAMES) * 3,
        24,
        prepare,
        strike,
    )
]
