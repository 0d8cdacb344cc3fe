"""What in a data set makes a result too good, or wrong: copies, doubtful labels, classes that give themselves away.

Findings are results like others: nothing is refused here that can be read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import LISTED, number
from clip_fewshot.data.traces import read_traces
from clip_fewshot.evaluation.hints import find_hints
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.features.encode import encode_images
from clip_fewshot.geometry import unit_rows
from clip_fewshot.neighbors.near_copies import find_near_copies
from clip_fewshot.probes.label_suspects import find_label_suspects
from clip_fewshot.runtime import rng
from clip_fewshot.types import FloatArray, IndexArray

THUMB_SIDE = 16  # pixels of the grey thumbnails that are compared: a crop of 2 % keeps a cosine of .97, one of 32 .92
WITHHELD_PARTS = 20  # of pictures that are left out together
ABLE_PROBE = 0.7  # left-out accuracy below which a probe cannot tell a wrong label from its own errors
TELLING = 0.01  # of the test on traces
UNEVEN = 10  # times as many pictures as another class
FEWEST_OF_CLASS = 5  # pictures of a class, of which some are to be learned from and some are to be measured on
UNDIVIDED = "undivided"
WIDE = 0.05  # half the interval of an accuracy of .9: with fewer test pictures it is wider


def find_leaks(images: ImageDataset, backbone: Backbone | None, seed: int = 0) -> dict[str, Any]:
    """Every check on one set of pictures.

    Args:
        images: labelled or captioned; contradictions may be left in.
        backbone: whose features doubt labels; None leaves that check out.
        seed: of parts and permutations.

    Returns:
        Schema 1: ``classes`` with their sizes, and ``checks``: by name what was found ("found": a number), a sentence
        ("said"), what to do ("advice", "" where nothing was found) and the rows behind it.
    """
    single = _each_picture_once(images)
    copies = _list_copies(single)
    checks = {
        "both sides": _check_sides(single, copies),
        "two labels": _check_labels(single, copies),
        "copies": _check_copies(single, copies),
        "sizes": _check_sizes(single),
        **({} if images.captions is None else {"captions": _check_captions(images)}),
    }
    if images.labels is not None:
        checks |= {"doubtful labels": _check_doubts(single, backbone, copies, seed)} if backbone is not None else {}
        checks |= {"traces": _check_traces(single, seed)}
    return {
        "schema": 1,
        "data": images.name,
        "pictures": len(single),
        "sides": dict(sorted(Counter(side or UNDIVIDED for side in single.partition).items())),
        "classes": _count_classes(single),
        "checks": checks,
    }


def _each_picture_once(images: ImageDataset) -> ImageDataset:
    """A picture with five captions is five rows: one of them, for each label and side that it has."""
    labels = [0] * len(images) if images.labels is None else images.labels.tolist()
    keys = zip(map(str, images.images), images.names, labels, images.partition, strict=True)
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    return images.subset(np.array(sorted(first.values()), np.int64))


def _list_copies(images: ImageDataset) -> list[dict[str, Any]]:
    """Pairs of pictures that are one, nearest first: the same bytes, or a thumbnail that is nearly the same."""
    found = dict.fromkeys(sorted(_pair_same_files(images)), 1.0)
    near = find_near_copies(*_thumbnails(images))
    for i, j, similarity in zip(near.first.tolist(), near.second.tolist(), near.similarity.tolist(), strict=True):
        if images.digests[i] != images.digests[j]:
            found[i, j] = round(similarity, 4)
    pairs = [
        {"rows": (i, j), "same file": images.digests[i] == images.digests[j], "similarity": similarity}
        for (i, j), similarity in found.items()
    ]
    return sorted(pairs, key=lambda one: (not one["same file"], -one["similarity"], one["rows"]))


def _pair_same_files(images: ImageDataset) -> set[tuple[int, int]]:
    """Each copy with the first picture of its bytes on each side and under each label."""
    labels = [0] * len(images) if images.labels is None else images.labels.tolist()
    first: dict[str, dict[tuple[str, int], int]] = {}
    for i, (digest, *kind) in enumerate(zip(images.digests, images.partition, labels, strict=True)):
        first.setdefault(digest, {}).setdefault((kind[0], kind[1]), i)
    pairs = ((i, j) for i, digest in enumerate(images.digests) for j in first[digest].values() if i != j)
    return {(min(pair), max(pair)) for pair in pairs}


def _thumbnails(images: ImageDataset) -> tuple[FloatArray, FloatArray]:
    """(n, THUMB_SIDE^2) unit rows free of brightness and contrast, and those of the mirrored pictures."""
    grey = [
        np.asarray(images.open(i).convert("L").resize((THUMB_SIDE, THUMB_SIDE)), np.float64) for i in range(len(images))
    ]
    table = np.stack(grey) - np.mean(grey, axis=(1, 2), keepdims=True)
    return unit_rows(table.reshape(len(images), -1)), unit_rows(table[:, :, ::-1].reshape(len(images), -1))


def _pair(images: ImageDataset, one: dict[str, Any]) -> dict[str, Any]:
    """A pair as it is shown."""
    first, second = one["rows"]
    shown = {"first": images.names[first], "second": images.names[second]}
    return shown | {name: one[name] for name in ("same file", "similarity")}


def _entry(found: int, said: str, advice: str, rows: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"found": found, "said": said, "advice": advice if found else "", "rows": list(rows)}


def _check_sides(images: ImageDataset, copies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is learned from and measured on."""
    pairs = [one for one in copies if images.partition[one["rows"][0]] != images.partition[one["rows"][1]]]
    tested = {row for one in pairs for row in one["rows"] if images.partition[row] == "test"}
    files = sum(one["same file"] for one in pairs)
    said = f"{number(len(tested), 'test picture')} with a copy on the training side; same file: {number(files, 'pair')}"
    if "test" not in images.partition:
        said = "the source is not divided into train and test"
    return _entry(len(tested), said, "take them out of one side", [_pair(images, one) for one in pairs])


def _check_labels(images: ImageDataset, copies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    labels = images.labels
    pairs = [one for one in copies if labels is not None and labels[one["rows"][0]] != labels[one["rows"][1]]]
    rows = []
    for one in pairs:
        names = images.label_space.decode(images.required_labels()[list(one["rows"])])
        rows.append(_pair(images, one) | {"first label": names[0], "second label": names[1]})
    return _entry(
        len(pairs), f"{number(len(pairs), 'pair')} of copies with two labels", "keep the right one of each", rows
    )


def _check_copies(images: ImageDataset, copies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Copies on one side count as more pictures than there are; undivided, chance may put them on both."""
    pairs = [one for one in copies if images.partition[one["rows"][0]] == images.partition[one["rows"][1]]]
    whole = "on one side" if "test" in images.partition else "that a split may part"
    said = f"{number(len(pairs), 'pair')} of copies {whole}"
    return _entry(len(pairs), said, "keep one of each", [_pair(images, one) for one in pairs])


def _check_doubts(
    images: ImageDataset, backbone: Backbone, copies: Sequence[dict[str, Any]], seed: int
) -> dict[str, Any]:
    """Labels that a probe on frozen features doubts, which has learned neither from the picture nor from its copies."""
    labels = images.required_labels()
    parts = _draw_parts(images, copies, seed)
    if any(len(np.unique(np.delete(labels, part))) < 2 for part in parts):
        return _entry(0, "not looked for: too few pictures of two classes", "")
    X = encode_images(backbone, images).features.astype(np.float64)
    doubts = find_label_suspects(X, labels, parts, seed)
    knows = f"{doubts.accuracy:.0%} of the left-out pictures are told by a probe on {backbone.name}"
    if doubts.accuracy < ABLE_PROBE:
        return _entry(0, f"not looked for: {knows}, too few to doubt a label by it; try another --model", "")
    names = images.label_space.names
    rows = [
        {"picture": images.names[i], "label": names[labels[i]], "suggested": names[k], "probability": round(p, 3)}
        for i, k, p in zip(doubts.rows.tolist(), doubts.suggested.tolist(), doubts.probability.tolist(), strict=True)
    ]
    return _entry(len(rows), f"{number(len(rows), 'doubtful label')}; {knows}", "look at these pictures", rows)


def _draw_parts(images: ImageDataset, copies: Sequence[dict[str, Any]], seed: int) -> list[IndexArray]:
    """The pictures in WITHHELD_PARTS parts at most, copies in one."""
    n = len(images)
    ends = np.array([one["rows"] for one in copies], np.int64).reshape(-1, 2)
    links = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    count, group = connected_components(links, directed=False)
    part = rng.generator(seed, "audit").permutation(count) % min(WITHHELD_PARTS, count)
    return [np.flatnonzero(part[group] == k) for k in range(min(WITHHELD_PARTS, count))]


def _check_traces(images: ImageDataset, seed: int) -> dict[str, Any]:
    """Whether classes can be told without looking at a pixel."""
    labels, sides = images.required_labels(), np.array(images.partition)
    order = rng.generator(seed, "halves").permutation(len(images))
    fit, held_out = np.sort(order[::2]), np.sort(order[1::2])
    if "test" in images.partition:
        fit, held_out = np.flatnonzero(sides != "test"), np.flatnonzero(sides == "test")
    hints = find_hints(read_traces(images), labels, fit, held_out, seed)
    rows = [one._asdict() | {"tells": one.p_value <= TELLING} for one in hints]
    telling = [one for one in hints if one.p_value <= TELLING]
    if not telling:
        least = f" (p = {min(one.p_value for one in hints):.2g})" if hints else ": nothing varies"
        return _entry(0, f"the class cannot be told without the pixels{least}", "", rows)
    best = max(telling, key=lambda one: one.accuracy)
    said = (
        f"the class is told without a pixel for {best.accuracy:.0%} of {number(len(held_out), 'held-out picture')}, "
        f"where guessing has {best.guessing:.0%} (p = {best.p_value:.2g}): {', '.join(one.trace for one in telling)}"
    )
    return _entry(len(telling), said, "take pictures of all classes the same way, or save them alike", rows)


def _count_classes(images: ImageDataset) -> dict[str, dict[str, int]]:
    if images.labels is None:
        return {}
    counts = Counter(zip(images.labels.tolist(), images.partition, strict=True))
    sides = sorted(set(images.partition))
    return {
        name: {side or UNDIVIDED: counts[label, side] for side in sides}
        for label, name in enumerate(images.label_space.names)
    }


def _check_sizes(images: ImageDataset) -> dict[str, Any]:
    problems = list(_judge_sizes(images))
    said = "; ".join(problems) or "each class has enough, and there are enough test pictures"
    return _entry(len(problems), said, "bring more pictures of what is rare, and more test pictures")


def _judge_sizes(images: ImageDataset) -> Iterator[str]:
    tested = sum(side == "test" for side in images.partition)
    if tested:
        low, high = accuracy_interval([np.arange(tested) < round(0.9 * tested)]).ci95
        if (high - low) / 2 > WIDE:
            yield f"with {number(tested, 'test picture')} an accuracy of .9 is known to [{low:.2f}, {high:.2f}] only"
    classes = _count_classes(images)
    for side in sorted(set(images.partition)) if classes else []:
        if empty := [name for name, counts in classes.items() if not counts[side or UNDIVIDED]]:
            yield f"no {side} pictures of {_list_names(empty)}".replace("  ", " ")
    sizes = {name: sum(counts.values()) for name, counts in classes.items()}
    if few := [name for name, n in sizes.items() if 0 < n < FEWEST_OF_CLASS]:
        yield f"fewer than {FEWEST_OF_CLASS} pictures of {_list_names(few)}"
    if sizes and max(sizes.values()) >= UNEVEN * max(1, min(sizes.values())):
        most, least = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
        yield f"{most} has {number(sizes[most], 'picture')}, {least} has {sizes[least]:,}"


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _check_captions(images: ImageDataset) -> dict[str, Any]:
    """Equal captions: a loss that takes the others in a batch for wrong answers cannot fall below the floor."""
    counts = Counter(images.captions)
    repeated = {caption: n for caption, n in counts.items() if n > 1}
    floor = sum(n * math.log(n) for n in counts.values()) / max(1, len(images))
    said = (
        f"{sum(repeated.values()):,} of {number(len(images), 'caption')} not the only one of their text: where equal "
        f"ones count as wrong answers, the contrastive loss of all together cannot fall below {floor:.3f}"
    )
    rows = [{"caption": caption, "times": n} for caption, n in Counter(repeated).most_common()]
    advice = "use a loss that lets equal captions share (this library's does)"
    return _entry(len(repeated), said if repeated else "each caption occurs once", advice, rows)
