"""Processes at work on a store, most of them killed:
`python -m tests.open_world.store.crashing MODE FOLDER COUNT SEED`.

One process imports everything and forks a child for each kill, so that a kill costs milliseconds. What a child was told
is on the disk for good it writes to a log, which survives it; after each kill the parent compares the store with that.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.model import encode_frozen, prepare_support
from clip_fewshot.open_world.alternatives import Alternative, NoveltyChoice
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.rejector import fit_rejector
from clip_fewshot.open_world.store.ingesting import Ingested
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.open_world.store.store import Store
from tests.conftest import TINY

PICTURES = 300
LONGEST = 0.25  # seconds until a kill


def made(folder: Path) -> tuple[Backbone, ImageDataset]:
    """A store in ``folder``, its backbone, and pictures for it."""
    backbone = build_backbone(TINY, seed=0, name="tiny")
    split = split_open_world(read_dataset("digits"), shots=6, unseen=["three", "eight", "nine"], seed=0)
    model = FewShotClassifier(backbone, "linear-probe").fit(split.support)
    data = prepare_support(backbone, split.support, [0], 1, 0)
    frozen = encode_frozen(data)
    rejector = fit_rejector(backbone, model.recipe_, data, frozen, NoveltyChoice(Alternative("lof", "frozen", 3)))
    Store.create(folder, OpenWorldClassifier.from_fit(model, rejector, 0.1, (frozen, data.labels))).close()
    pictures = join_images([split.novel.open("kill"), split.test.open("kill")])
    return backbone, pictures.subset(np.random.default_rng(0).permutation(len(pictures))[:PICTURES])


def started(work: Callable[[], object], delay: float | None = None) -> int:
    """A child at ``work``, killed after ``delay`` seconds."""
    child = os.fork()
    if child:
        return child
    if delay is not None:
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    try:
        work()
    except BaseException as error:  # a child must never run the parent's code
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)


def killed(work: Callable[[], object], delay: float | None = None) -> int:
    """The signal that ended a child at ``work``, 0 if it came to its end."""
    status = os.waitpid(started(work, delay), 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a child ended with an error")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def busy(folder: Path, backbone: Backbone, pictures: ImageDataset, seed: int) -> None:
    """Ingest and decide without end; each acknowledgement goes to the log first thing."""
    draw, log = random.Random(seed), os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(record: object) -> None:
        os.write(log, (json.dumps(record) + "\n").encode())

    store = Store.open(folder / "store", backbone, check=False)
    while True:
        rows = np.array(draw.sample(range(len(pictures)), 12))
        part, at = pictures.subset(rows), store.revision

        def told(done: Ingested, part: ImageDataset = part) -> None:
            write({"stored": part.digests[: done.new + done.seen_before]})

        store.ingest(part, 3, told)
        free = [d for d, one in store.held(pictures.digests).items() if one.verdict.state != "named"][:3]
        if free and draw.random() < 0.5:
            store.apply(Review(store.id, at, {f"class {at}": tuple(free)}, {}, ()))
            write({"revision": at + 1, "named": free})
        elif store.revision and draw.random() < 0.7 and store.history()[-1]["kind"] == "name":
            store.undo()
            write({"revision": at + 1, "free": True})


def compare(folder: Path, backbone: Backbone) -> tuple[int, int]:
    """Whether the store holds what was acknowledged; how many pictures and decisions."""
    records = (
        [json.loads(line) for line in (folder / "log").read_text().splitlines()] if (folder / "log").exists() else []
    )
    with Store.open(folder / "store", backbone) as store:
        store.check()
        stored = {digest for record in records for digest in record.get("stored", [])}
        if stored - store.held(stored).keys():
            raise SystemExit("an acknowledged picture is lost")
        tables = ("image", "embedding", "thumbnail")
        counts = [store.database.value(f"SELECT count(*) FROM {table}") for table in tables]
        if len(set(counts)) > 1 or counts[0] != store.database.value("SELECT count(DISTINCT digest) FROM image"):
            raise SystemExit(f"a picture is there twice, or in part: {counts}")
        decisions = [record["revision"] for record in records if "revision" in record]
        if store.revision < max(decisions, default=0):
            raise SystemExit("an acknowledged decision is lost")
        for record in records:
            stands = "named" in record and record["revision"] == store.revision
            if stands and {one.verdict.state for one in store.held(record["named"]).values()} != {"named"}:
                raise SystemExit("an acknowledged naming is lost")
        names = {event["class"] for event in store.history() if event["kind"] == "name"}
        if (
            not set(store.status().classes)
            <= set(store.world.model.label_space_.names)
            <= names | set(store.history()[0]["detail"]["classes"])
        ):
            raise SystemExit("pictures and classifier know different classes")
        return counts[0], store.revision


def at_random(folder: Path, count: int, seed: int) -> None:
    backbone, pictures = made(folder / "store")
    draw, kills = random.Random(seed), 0
    for i in range(count):
        kills += (
            killed(lambda i=i: busy(folder, backbone, pictures, seed + i), draw.uniform(0, LONGEST)) == signal.SIGKILL
        )
        found = compare(folder, backbone)
    print(json.dumps({"kills": kills, "pictures": found[0], "decisions": found[1]}))


def at_statements(folder: Path, count: int, seed: int) -> None:
    """The same work on copies of one store, killed at the n-th statement: all of a transaction is there, or nothing."""
    backbone, pictures = made(folder / "store")
    with Store.open(folder / "store", backbone) as store:
        store.ingest(pictures.subset(np.arange(40)))

    def copy() -> Path:
        shutil.rmtree(folder / "copy", ignore_errors=True)
        shutil.copytree(folder / "store", folder / "copy")
        return folder / "copy"

    def work(place: Path, last: int | None = None) -> int:
        """One ingest, one naming, one undo; the number of statements."""
        seen = 0

        def count_statement(statement: str) -> None:
            nonlocal seen
            seen += 1
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)

        with Store.open(place, backbone) as store:
            store.database._connection.set_trace_callback(count_statement)
            store.ingest(pictures.subset(np.arange(40, 46)), 3)
            store.name(store.unknown().pictures.digests[:3], "axolotl")
            store.undo()
        return seen

    def state(place: Path) -> tuple[object, ...]:
        with Store.open(place, backbone) as store:
            store.check()
            held = store.held(pictures.digests)
            said = store.world.judge(store.world.look(pictures.subset(np.arange(60, 64))))
            kinds = tuple(event["kind"] for event in store.history())
            return {digest: one.verdict for digest, one in held.items()}, said, kinds

    total = work(copy())
    states: list[object] = []  # each that a whole transaction ends in
    with Store.open(copy(), backbone) as store:
        for step in (
            lambda: None,
            lambda: store.ingest(pictures.subset(np.arange(40, 43)), 3),
            lambda: store.ingest(pictures.subset(np.arange(43, 46)), 3),
            lambda: store.name(store.unknown().pictures.digests[:3], "axolotl"),
            store.undo,
        ):
            step()
            states.append(state(folder / "copy"))
    reached = set()
    for n in sorted(random.Random(seed).sample(range(1, total + 1), min(count, total))):
        place = copy()
        if killed(lambda place=place, n=n: work(place, n)) != signal.SIGKILL:
            raise SystemExit(f"not killed at statement {n}")
        found = state(place)
        if found not in states:
            raise SystemExit(f"a kill at statement {n} of {total} left half a transaction")
        reached.add(states.index(found))
    print(json.dumps({"kills": min(count, total), "statements": total, "states": len(reached)}))


def together(folder: Path, count: int, seed: int) -> None:
    """Two that ingest the same pictures, one that decides and two that read, all at once and none of them killed."""
    backbone, pictures = made(folder / "store")
    pictures = pictures.subset(np.arange(count))

    def ingest(seed: int) -> None:
        rows = np.random.default_rng(seed).permutation(count)
        with Store.open(folder / "store", backbone) as store:
            done = store.ingest(pictures.subset(rows), 4)
        os.write(log, (json.dumps({"new": done.new, "known": done.known, "unknown": done.unknown}) + "\n").encode())

    def decide() -> None:
        with Store.open(folder / "store", backbone) as store:
            for i in range(3):
                while len(free := store.unknown().pictures.digests) < 3:
                    time.sleep(0.01)
                store.name(free[:3], f"class {i}")
            store.undo()

    def read() -> None:
        before = 0
        with Store.open(folder / "store", backbone) as store:
            while before < count:
                began = time.monotonic()
                unknown, status = store.unknown(), store.status()
                slowest = time.monotonic() - began
                now = sum(status.states.values())
                if now < before or len(unknown.pictures) != len(unknown.features) or slowest > 20:
                    raise SystemExit(f"a reader saw {before} pictures, then {now}, after {slowest:.1f} s")
                before = now

    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    jobs = [lambda: ingest(seed), lambda: ingest(seed + 1), decide, read, read]
    children = [started(job) for job in jobs]
    if any(os.waitpid(child, 0)[1] for child in children):
        raise SystemExit("a process ended with an error")
    news = [json.loads(line)["new"] for line in (folder / "log").read_text().splitlines()]
    with Store.open(folder / "store", backbone) as store:
        store.check()
        found = {"new": sum(news), "pictures": sum(store.status().states.values()), "revision": store.revision}
        found["named"] = store.status().states["named"]
        world, unknown = store.world, store.unknown()
        found["unknown still"] = all(a.label is None for a in world.judge(world.look_at_features(unknown.features), 1))
    print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    modes = {"random": at_random, "statements": at_statements, "together": together}
    modes[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
