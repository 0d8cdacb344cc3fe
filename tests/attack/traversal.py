"""Names that lead out of the folder they are in: in lists, tables, JSON, archives, links, manifests, classes, reviews.

A secret picture lies beside the data. It is never among the pictures that are read, and nothing is written outside.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import clip_fewshot as cf
from clip_fewshot.runtime.artifacts import load_artifact, save_artifact
from tests.attack import lines, scene
from tests.attack.apart import command, fresh
from tests.attack.harness import Attack, Outcome
from tests.data.pictures import class_folders, picture_bytes, put

SECRET = 4242  # the seed of a picture
WAYS = (
    "../secret.png",
    "ant/../../secret.png",
    "./../secret.png",
    "..//secret.png",
    "file://{outside}/secret.png",
    "..\\secret.png",
    "%2e%2e/secret.png",
    "ant/../../../{name}/secret.png",
    "link/secret.png",
    "link.png",
    "/proc/self/cwd/../secret.png",
    "~/secret.png",
    "$PWD/../secret.png",
    "../secret.png\0.png",
    "....//secret.png",
    "..%c0%afsecret.png",
    "ant/0.png/../../../secret.png",
    "\u2025/secret.png",
)


def _list(place: Path, way: str) -> Path:
    rows = [f"{name}/{i:03d}.png {name}" for name in ("ant", "bee") for i in range(3)]
    return put(place / "data.txt", "\n".join([*rows, f"{way} ant", ""]))


def _csv(place: Path, way: str) -> Path:
    rows = [f"{name}/{i:03d}.png,{name}" for name in ("ant", "bee") for i in range(3)]
    return put(place / "data.csv", "\n".join(["image,label", *rows, f'"{way}",ant', ""]))


def _split_json(place: Path, way: str) -> Path:
    rows = [[f"{name}/{i:03d}.png", label, name] for label, name in enumerate(("ant", "bee")) for i in range(3)]
    return put(place / "data.json", json.dumps({"train": [*rows, [way, 0, "ant"]], "val": [], "test": rows[:0]}))


def _coco(place: Path, way: str) -> Path:
    files = [f"{name}/{i:03d}.png" for name in ("ant", "bee") for i in range(3)]
    images = [{"id": i, "file_name": file} for i, file in enumerate([*files, way])]
    marks = [{"id": i, "image_id": i, "category_id": int("bee" in one["file_name"])} for i, one in enumerate(images)]
    names = [{"id": 0, "name": "ant"}, {"id": 1, "name": "bee"}]
    return put(place / "data.json", json.dumps({"images": images, "annotations": marks, "categories": names}))


def _tar(place: Path, way: str) -> Path:
    path = place / "data.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(6):
            for suffix, data in ((".png", picture_bytes(i)), (".cls", b"%d" % (i % 2))):
                member = tarfile.TarInfo(f"{i:03d}{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        for kind in (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(way.replace("\0", "") if kind == tarfile.REGTYPE else f"9{kind.decode()}.png")
            member.type, member.linkname = kind, way.replace("\0", "")
            member.size = len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(data))
    return path


def _links(place: Path, way: str) -> Path:
    root = class_folders(place / "tree", {"ant": 3, "bee": 3})
    (root / "ant" / "out.png").symlink_to(way.replace("\0", "").replace("../", "../../", 1))
    (root / "bee" / "more").symlink_to(place.parent)
    return root


READ: dict[str, Callable[[Path, str], Path]] = {
    "list": _list,
    "table": _csv,
    "split JSON": _split_json,
    "COCO": _coco,
    "tar": _tar,
    "links": _links,
}


def strike_read(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    kind, way = list(READ)[number % len(READ)], WAYS[number // len(READ)]
    outside = fresh(folder, "traversal")
    place = class_folders(outside / "data", {"ant": 3, "bee": 3})
    put(outside / "secret.png", SECRET)
    (place / "link").symlink_to("..")
    (place / "link.png").symlink_to("../secret.png")
    way = way.format(outside=outside, name=outside.name)
    source = READ[kind](place, way)
    before, again = scene.tree(outside), f"{kind}: {way!r}"
    try:
        found = cf.read_dataset(source)
        opened = [found.open(i).tobytes() for i in range(len(found))]
    except cf.ClipFewShotError:
        opened = None
    except Exception as error:
        return Outcome(False, f"raw {type(error).__name__}", f"{again}: {error}"[:300])
    if scene.tree(outside) != before:
        return Outcome(False, "written outside", again)
    secret = cf.read_images([outside / "secret.png"]).open(0).tobytes()
    if opened is not None and secret in opened:
        return Outcome(False, "the secret was read", again)
    return Outcome(True, "refused" if opened is None else "read without it")


NAMES = ("../x", "/tmp/escaped_attack", "..", ".", "a/b", "a\\..\\b", "con", "x\0y", "-rf", "~", "$(touch canary)",
         "`touch canary`", "x;touch canary", "x\ny", "<b>", "%s%n", "{0}", "'; DROP TABLE image; --")  # fmt: skip


def strike_written(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    """Hostile names in manifests, classes and reviews: all that is written lies where it was asked for."""
    kinds = (_manifest, _naming, _archive)
    kind, name = kinds[number % len(kinds)], NAMES[number // len(kinds) % len(NAMES)]
    outside = fresh(folder, "written")
    place = outside / "in"
    place.mkdir()
    put(outside / "secret.png", SECRET)
    before, again = set(scene.tree(outside)), f"{kind.__name__[1:]}: {name!r}"
    try:
        what = kind(folder, place, name)
    except cf.ClipFewShotError:
        what = "refused"
    except Exception as error:
        return Outcome(False, f"raw {type(error).__name__}", f"{again}: {error}"[:300])
    new = [path for path in set(scene.tree(outside)) - before if not path.startswith("in/")]
    hit = new or list(Path("/tmp").glob("*escaped_attack*")) or list(outside.rglob("canary*"))
    return Outcome(not hit, "written outside" if hit else what, f"{again}: {hit}" if hit else "")


def _manifest(folder: Path, place: Path, name: str) -> str:
    """A saved model whose manifest points elsewhere; then saved over."""
    meta, files = load_artifact(scene.world(folder), "open-world classifier")
    save_artifact(place / "model", "open-world classifier", files, meta)
    path = place / "model" / "manifest.json"
    manifest = json.loads(path.read_text())
    entry = next(iter(manifest["files"].values()))
    entry["file"] = name if "/" in name or "." in name else f"../../{name}"
    path.write_text(json.dumps(manifest))
    cf.OpenWorldClassifier.load(place / "model", scene.tiny())
    return "loaded"


def _naming(folder: Path, place: Path, name: str) -> str:
    """A class of that name through store, review page and saved model."""
    shutil.copytree(scene.store(folder), place / "store")
    ended = command(place, "open_world", "add", place / "store", f"x{name}".replace("\0", ""),
                    scene.strange(folder) / "tick", "--model", scene.model(folder), cwd=place)  # fmt: skip
    if raw := ended.raw():
        raise RuntimeError(f"{raw}: {ended.err[-300:]}")
    ended = command(place, "open_world", "review", place / "store", "--names", 0, "--model", scene.model(folder),
                    "--out", place / "page.html", cwd=place)  # fmt: skip
    if raw := ended.raw():
        raise RuntimeError(f"{raw}: {ended.err[-300:]}")
    return "named"


def _archive(folder: Path, place: Path, name: str) -> str:
    """An archive of weights with members that lead out."""
    path = place / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for member in (f"archive/{name}", f"../{name}", f"{os.sep}{name}", "archive/data.pkl"):
            archive.writestr(member.replace("\0", "") or "x", b"\x80\x02}.")
    cf.load_backbone(path, device="cpu")
    return "loaded"


ATTACKS = [
    Attack(
        "traversal, reading", "the picture outside is not read", len(READ) * len(WAYS), 24, lines.prepare, strike_read
    ),
    Attack(
        "traversal, writing",
        "nothing is written outside; refused by our own error, or used as a name",
        3 * len(NAMES),
        3,
        lines.prepare,
        strike_written,
    ),
]
