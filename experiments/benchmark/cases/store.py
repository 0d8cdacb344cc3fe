"""The store: pictures in, questions, and groups among the unknown. `--pictures 1000000` fills 3.3 GB of disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.few_shot.approach import PROBE
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.answers import Answer
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.sight import Sight
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.runtime.rng import generator
from experiments.benchmark.isolation import alone
from experiments.benchmark.options import Options
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import clip_like

MEMORY = 4.0  # GiB
BATCH = 1000
ASKED = 1000  # pictures fetched by their digests


@dataclass(frozen=True)
class Sizes:
    """How many pictures the store holds."""

    pictures: int = 20_000
    one_unknown_in: int = 20
    classes: int = 20  # among the unknown
    arch: str = "ViT-B/32"


class Drawn(OpenWorldClassifier):
    """A classifier whose features and answers are drawn: what a network costs is not what is measured."""

    sizes: Sizes
    done: int = 0

    def look(self, images: ImageDataset) -> Sight:
        """Random features for each picture, the same for the same digest."""
        width = self.model.backbone.visual.out_features
        draws = clip_like(self.sizes.classes, -(-len(images) // self.sizes.classes), width, 0, f"batch {self.done}").X
        features = draws[generator(self.done, "order").permutation(len(draws))[: len(images)]]
        return Sight({PROBE: features}, [])

    def judge(self, sight: Sight, top: int = 5, together: bool = False) -> list[Answer]:
        """A drawn answer for each picture."""
        name, places = self.model.label_space_.names[0], range(self.done, self.done + len(sight.frozen))
        self.done += len(sight.frozen)
        strange = [place % self.sizes.one_unknown_in == 0 for place in places]
        return [Answer(None if new else name, 0.01 if new else 0.5, -1.0, ((name, 1.0),)) for new in strange]


def rows(options: Options, sizes: Sizes | None = None) -> Iterator[Row]:
    """What a large store takes to fill, open, read and group."""
    sizes = sizes or (Sizes() if options.stored is None else Sizes(options.stored))
    with TemporaryDirectory() as folder:
        place, n = Path(folder) / "store", sizes.pictures
        filled = alone(options.n_threads, fill, place, sizes)
        size = sum(file.stat().st_size for file in place.iterdir()) / n
        checks = (Check("peak memory", filled.peak_gib, MEMORY, "GiB"), Check("bytes per picture", size))
        note = "Features and answers are drawn: of network and detector, only their making is in the first line."
        what = f"{n:,} pictures into a store, {BATCH:,} per transaction synced to the disk"
        yield Row(what, "picture", filled.times.scaled(1 / n), checks=checks, note=note)
        jobs = (
            (f"look for damage in {n:,}", check),
            (f"{ASKED:,} of {n:,} by digest, with thumbnails", fetch),
            (f"open, count by state and class, of {n:,}", count),
            (f"group the {-(-n // sizes.one_unknown_in):,} unknown of {n:,}", discover),
        )
        for what, job in jobs:
            asked = alone(options.n_threads, job, place, sizes)
            yield Row(what, "store", asked.times, checks=(Check("peak memory", asked.peak_gib, MEMORY, "GiB"),))


def fill(place: Path, sizes: Sizes) -> None:
    """The store, and ``sizes.pictures`` in it: digits over and over, each under a digest of its own."""
    digits = read_dataset("digits")
    support = split_open_world(digits, shots=4, unseen=3).support
    drawn = Drawn(FewShotClassifier(encoder(sizes), "linear-probe"), detector="knn")
    drawn.fit(support)
    drawn.sizes = sizes
    with Store.create(place, drawn) as store:
        store.session.set_world(0, drawn)
        for start in range(0, sizes.pictures, BATCH):
            numbers = np.arange(start, min(start + BATCH, sizes.pictures))
            digests = tuple(map(digest, numbers.tolist()))
            store.ingest(replace(digits.subset(numbers % len(digits)), digests=digests, names=digests), BATCH)


def digest(number: int) -> str:
    """A digest for picture ``number``."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def encoder(sizes: Sizes) -> Backbone:
    """Random weights: the width is what counts."""
    return load_backbone(sizes.arch, pretrained=sizes.arch == "mini")


def check(place: Path, sizes: Sizes) -> None:
    """Open the store and read all of it."""
    Store.open(place, check=True).close()


def fetch(place: Path, sizes: Sizes) -> None:
    """Read some pictures by digest."""
    with Store.open(place, check=False) as store:
        numbers = generator(0, "asked").integers(0, sizes.pictures, ASKED).tolist()
        store.thumbnails(map(digest, numbers))


def count(place: Path, sizes: Sizes) -> None:
    """Read the status."""
    with Store.open(place, check=False) as store:
        store.status()


def discover(place: Path, sizes: Sizes) -> None:
    """Group all unknown pictures."""
    with Store.open(place, encoder(sizes), check=False) as store:
        store.discover()
