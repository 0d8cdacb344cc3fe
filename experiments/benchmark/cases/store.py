"""The store: pictures in, questions, groups among the unknown, and classes of them.

`--stored 1000000` takes 3.3 GB of disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.read import read_dataset
from clip_fewshot.features.prefix import Prefix
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.objectives import CaptionBank
from clip_fewshot.few_shot.trainer import SupportData
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.sight import Sight
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, LabelArray, LabelSpace
from experiments.benchmark.isolation import alone
from experiments.benchmark.options import Options
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import clip_like

MEMORY = 2.0  # GiB
ASKED = 1000  # pictures fetched by their digests
APART = 1.0  # k-means finds such classes; as far apart, for their spread, as those of photos (.7) and scans (1.7)


@dataclass(frozen=True)
class Sizes:
    """What the store holds: ``known`` pictures of each known class and ``new`` ones of each new class in a batch."""

    batches: int = 20
    classes: int = 20  # known, and as many new
    known: int = 45
    new: int = 5
    shots: int = 16
    arch: str = "ViT-B/32"

    @property
    def batch(self) -> int:
        """Pictures that are written at once."""
        return self.classes * (self.known + self.new)

    def draw(self, number: int) -> tuple[FloatArray, LabelArray]:
        """Features and classes of a batch in a random order; classes from ``classes`` on are new."""
        width = encoder(self).visual.out_features
        drawn = clip_like(2 * self.classes, self.known, width, 0, f"batch {number}", APART)
        rows = np.flatnonzero((drawn.y < self.classes) | (np.arange(len(drawn.y)) % self.known < self.new))
        rows = generator(number, "order").permutation(rows)
        return drawn.X[rows], drawn.y[rows]


class DrawnModel(FewShotClassifier):
    """A classifier on features that are drawn: what a network costs is not what is measured."""

    sizes: Sizes

    def prepare(
        self, support: ImageDataset, cuts: Sequence[int], unlabelled: ImageDataset | None = None
    ) -> tuple[SupportData, FloatArray]:
        """Drawn features in the place of what the tower makes of the pictures."""
        sizes = self.sizes
        drawn = clip_like(2 * sizes.classes, sizes.shots, self.backbone.visual.out_features, 0, "shots", APART)
        X, y = drawn.X[drawn.y < sizes.classes], support.required_labels()
        captions = CaptionBank(self.backbone, support.label_space.names, [], self.seed, reads_captions=False)
        return SupportData(Prefix(torch.from_numpy(X), {}, 1, torch.arange(len(X))), y, sizes.classes, captions), X


class Drawn(OpenWorldClassifier):
    """What judges drawn features of the pictures it is given."""

    drawn: FloatArray

    def look(self, images: ImageDataset) -> Sight:
        """Those that were drawn last."""
        return self.look_at_features(self.drawn)


class Discovered(NamedTuple):
    """Groups, less the new classes; whether the interval leaves these out; 1 - ARI of the new pictures."""

    too_many: int
    outside: bool
    wrong: float


def rows(options: Options, sizes: Sizes | None = None) -> Iterator[Row]:
    """What a large store takes to fill, open, read, group and name."""
    sizes = sizes or (Sizes() if options.stored is None else Sizes(-(-options.stored // Sizes().batch)))
    with TemporaryDirectory() as folder:
        place, n = Path(folder) / "store", sizes.batches * sizes.batch
        filled = alone(options.n_threads, fill, place, sizes)
        size = sum(file.stat().st_size for file in place.iterdir()) / n
        checks: tuple[Check, ...] = (Check("peak memory", filled.peak_gib, MEMORY, "GiB"), Check("bytes per picture", size))
        note = "Features are drawn and the pictures small: of network and JPEGs nothing is in the first line."
        what = f"{n:,} pictures into a store, {sizes.batch:,} per transaction synced to the disk"
        yield Row(what, "picture", filled.times.scaled(1 / n), checks=checks, note=note)
        among = f"{sizes.classes} x {sizes.new * sizes.batches:,} new among {n:,}"
        jobs = (
            (f"look for damage in {n:,}", check),
            (f"{ASKED:,} of {n:,} by digest, with thumbnails", fetch),
            (f"open, count by state and class, of {n:,}", count),
            (f"group {among}", discover),
            (f"make classes of these groups, {among}", name),
            (f"take that back, {among}", undo),
        )
        for what, job in jobs:
            asked = alone(options.n_threads, job, place, sizes)
            checks = (Check("peak memory", asked.peak_gib, MEMORY, "GiB"),)
            if asked.found is not None:
                checks += (Check("groups too many", asked.found.too_many), Check("1 - ARI", asked.found.wrong))
                checks += (Check("interval leaves the truth out", asked.found.outside),)
            yield Row(what, "store", asked.times, checks=checks)


def fill(place: Path, sizes: Sizes) -> None:
    """The store and what is in it: digits over and over, each under a digest of its own, named by its class."""
    digits, labels = read_dataset("digits"), np.repeat(np.arange(sizes.classes), sizes.shots)
    names = LabelSpace(tuple(f"class {label:02d}" for label in range(sizes.classes)))
    model = DrawnModel(encoder(sizes), "linear-probe")
    model.sizes = sizes
    drawn = Drawn(model, detector="mahalanobis")
    drawn.fit(replace(digits.subset(np.arange(len(labels))), labels=labels, label_space=names, captions=None))
    with Store.create(place, drawn) as store:
        store.session.set_world(0, drawn)
        for number in range(sizes.batches):
            numbers = number * sizes.batch + np.arange(sizes.batch)
            drawn.drawn, y = sizes.draw(number)
            pictures = digits.subset(numbers % len(digits))
            names_of = tuple(f"{label}/{i}" for label, i in zip(y, numbers, strict=True))
            digests = tuple(map(digest, numbers.tolist()))
            store.ingest(replace(pictures, digests=digests, names=names_of), sizes.batch)


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
        numbers = generator(0, "asked").integers(0, sizes.batches * sizes.batch, ASKED).tolist()
        store.thumbnails(map(digest, numbers))


def count(place: Path, sizes: Sizes) -> None:
    """Read the status."""
    with Store.open(place, check=False) as store:
        store.status()


def discover(place: Path, sizes: Sizes) -> Discovered:
    """Group what is unknown or may be."""
    with Store.open(place, encoder(sizes), check=False) as store:
        store.discover()
        found = store.discovery_
        y = np.array([int(name.split("/")[0]) for name in store.grouped_.pictures.names])
    (low, high), new = found.interval, y >= sizes.classes
    wrong = 1 - adjusted_rand_score(y[new], found.labels[new])
    return Discovered(found.n_clusters - sizes.classes, not low <= sizes.classes <= high, wrong)


def name(place: Path, sizes: Sizes) -> None:
    """A class of each group that was kept."""
    with Store.open(place, encoder(sizes), check=False) as store:
        groups = [
            {"name": f"new {group.number}", "pictures": list(group.pictures.digests)} for group in store.discover()
        ]
        store.apply({"schema": 1, "store": store.id, "revision": store.revision, "groups": groups})


def undo(place: Path, sizes: Sizes) -> None:
    """Back to what was there before."""
    with Store.open(place, encoder(sizes), check=False) as store:
        store.undo()
