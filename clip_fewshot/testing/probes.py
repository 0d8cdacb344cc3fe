"""The contract of a probe."""

from __future__ import annotations

from typing import Any

import numpy as np

from clip_fewshot.probes import Probe
from clip_fewshot.testing.contract import (
    clusters,
    demand,
    demand_members,
    global_state,
    refuses,
    run_checks,
    same_bytes,
)
from clip_fewshot.types import FloatArray

_C, _SHOTS, _D = 4, 6, 20
_KNOWN, _LABELS, _NOVEL = clusters(_C, _SHOTS, _D)
ASKED = np.concatenate([_KNOWN + 0.01, _NOVEL])
NAMES = np.array(["ant", "bee", "cat", "dog"])


def check_probe(kind: type[Probe]) -> None:
    """Check a class against :class:`clip_fewshot.probes.Probe`; it is called with its defaults.

    Raises:
        ContractError: names what does not hold.
    """
    run_checks(_CHECKS, kind)


def fit_probe(kind: type[Probe], labels: Any = _LABELS, **options: Any) -> Probe:
    """A probe of four classes; one that reads texts is given them."""
    if getattr(kind, "reads_texts", False):
        options["texts"] = {label: _KNOWN[labels == label].mean(axis=0) for label in np.unique(labels).tolist()}
    return kind(**options).fit(_KNOWN, labels)


def extend_probe(probe: Probe, label: Any = _C) -> Probe:
    """The same, with a fifth that came later."""
    text = {"text": _NOVEL.mean(axis=0)} if getattr(probe, "reads_texts", False) else {}
    return probe.extend(_NOVEL, label, _KNOWN, **text)


def has_the_members(kind: type[Probe]) -> None:
    """Methods and class attributes."""
    demand_members(kind, Probe)
    if kind.takes_c:
        fit_probe(kind, C=1.0)


def learns_and_gives_probabilities(kind: type[Probe]) -> None:
    """(n, c) that sum to 1, whose largest are the logits' largest, and are right more often than chance is."""
    probe = fit_probe(kind)
    logits, probabilities = probe.logits(ASKED), probe.predict_proba(ASKED)
    for what, found in (("logits", logits), ("probabilities", probabilities)):
        demand(found.shape == (len(ASKED), _C), f"{what} have the shape {found.shape}, not ({len(ASKED)}, {_C})")
        demand(np.isfinite(found).all(), f"{what} are not finite")
    demand(np.allclose(probabilities.sum(axis=1), 1), "probabilities do not sum to 1")
    agree = np.array_equal(logits.argmax(axis=1), probabilities.argmax(axis=1))
    demand(agree, "logits and probabilities name other classes")
    right = np.mean(probe.classes_[logits[: len(_KNOWN)].argmax(axis=1)] == _LABELS)
    demand(right > 0.5, f"it has {right:.0%} of pictures right that lie in four clear groups")


def labels_of_any_kind(kind: type[Probe]) -> None:
    """Names, and numbers with gaps: ``classes_`` are those given, sorted."""
    plain = fit_probe(kind).logits(ASKED)
    for labels in (NAMES[_LABELS], 10 * _LABELS):
        probe = fit_probe(kind, labels)
        demand(probe.classes_.tolist() == np.unique(labels).tolist(), "classes_ are not the sorted labels of the fit")
        demand(np.allclose(probe.logits(ASKED), plain), "the names of the classes change the logits")
    demand(refuses(lambda: kind().fit(_KNOWN, np.zeros(len(_KNOWN), dtype=np.int64))), "a single class is taken")


def fitting_is_a_function(kind: type[Probe]) -> None:
    """The same rows give the same bits; neither rows nor numpy's global generator are touched."""
    rows, before = _KNOWN.copy(), global_state()
    first, second = (fit_probe(kind).logits(ASKED) for _ in range(2))
    demand(same_bytes(first, second), "two fits on the same pictures give other logits")
    demand(np.array_equal(rows, _KNOWN), "fit changes the features that it is given")
    demand(np.array_equal(global_state(), before), "numpy's global random state moves")


def a_picture_s_logits_are_its_own(kind: type[Probe]) -> None:
    """Neither the others that are asked nor the length of its features have a say: CLIP compares by angle."""
    probe = fit_probe(kind)
    alone, whole = probe.logits(ASKED[:5]), probe.logits(ASKED)
    demand(np.allclose(alone, whole[:5]), "logits of a picture depend on the others")
    demand(np.allclose(probe.logits(7.5 * ASKED), whole, atol=1e-6), "logits depend on the length of the features")


def a_class_more_moves_no_other(kind: type[Probe]) -> None:
    """What ``extend`` promises: the logits before it are the same bytes, and the probe itself stays as it is."""
    probe, before = fit_probe(kind), fit_probe(kind).logits(ASKED)
    more = extend_probe(probe)
    demand(more.classes_.tolist() == [*range(_C), _C], "extend does not put the new class behind the others")
    logits: FloatArray = more.logits(ASKED)
    demand(logits.shape == (len(ASKED), _C + 1), "extend gives no column to the new class")
    demand(same_bytes(logits[:, :_C], before), "extend moves the logits of the classes before")
    demand(same_bytes(probe.logits(ASKED), before), "extend changes the probe it is called on")
    found = np.mean(logits[len(_KNOWN) :].argmax(axis=1) == _C)
    demand(found > 0.5, f"after extend it finds {found:.0%} of the new class's own pictures")
    demand(refuses(lambda: extend_probe(probe, 1)), "extend takes a class that is there already")


def a_longer_name_can_be_added(kind: type[Probe]) -> None:
    """numpy's texts have a fixed width, which cuts what is put into them."""
    names = extend_probe(fit_probe(kind, NAMES[_LABELS]), "axolotl").classes_.tolist()
    demand(names == [*NAMES.tolist(), "axolotl"], "extend cuts a name that is longer than the others")


def arrays_restore_it(kind: type[Probe]) -> None:
    """``to_arrays`` holds numbers, and ``from_arrays`` gives the same probe to the last bit."""
    for probe in (fit_probe(kind), extend_probe(fit_probe(kind))):
        arrays = {name: np.array(value) for name, value in probe.to_arrays().items()}
        demand(all(a.dtype.kind in "fiub" for a in arrays.values()), "to_arrays gives something else than numbers")
        restored = kind.from_arrays(arrays)
        demand(same_bytes(restored.logits(ASKED), probe.logits(ASKED)), "from_arrays gives a probe with other logits")
        demand(restored.classes_.tolist() == probe.classes_.tolist(), "from_arrays gives other classes_")
    again = extend_probe(kind.from_arrays(fit_probe(kind).to_arrays()))
    demand(
        np.allclose(again.logits(ASKED), extend_probe(fit_probe(kind)).logits(ASKED)),
        "a restored probe extends to another one",
    )


_CHECKS = (
    has_the_members,
    learns_and_gives_probabilities,
    labels_of_any_kind,
    fitting_is_a_function,
    a_picture_s_logits_are_its_own,
    a_class_more_moves_no_other,
    a_longer_name_can_be_added,
    arrays_restore_it,
)
