"""Every public function meets every kind of input: the right answer or this library's error, never another's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from sklearn.base import clone

import clip_fewshot as cf
from clip_fewshot import losses
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.conformal.false_discoveries import benjamini_hochberg, storey
from clip_fewshot.conformal.p_values import check_alpha, p_values
from clip_fewshot.conformal.stream import StreamRanks, Watch
from clip_fewshot.contrastive.objectives import symmetric_objective
from clip_fewshot.data.collect import collect_images
from clip_fewshot.discovery import DISCOVERERS, semi_supervised_kmeans
from clip_fewshot.discovery.ward_tree import ward_tree
from clip_fewshot.errors import ClipFewShotError
from clip_fewshot.evaluation import clustering, intervals, metrics, reliability
from clip_fewshot.evaluation.calibration import fit_temperature
from clip_fewshot.heads import CentredHead, LinearHead
from clip_fewshot.novelty import DETECTORS, KNNDetector, mine_negatives
from clip_fewshot.probes import PROBES
from clip_fewshot.probes.head import HeadClassifier

C, SHOTS, D = 3, 9, 12
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(C), SHOTS)
# Values that bfloat16 and half precision hold exactly, so that each form says the same.
KNOWN = torch.tensor(1 + np.eye(D)[LABELS] + 0.2 * RNG.normal(size=(C * SHOTS, D))).bfloat16().double().numpy()
TEXTS = {"concepts": np.eye(D)[:C], "negatives": np.eye(D)[C:]}

FEATURES: dict[str, Callable[[np.ndarray], Any]] = {
    "list": np.ndarray.tolist,
    "list of rows": list,
    "float32": lambda X: X.astype(np.float32),
    "half": lambda X: X.astype(np.float16),
    "column by column": np.asfortranarray,
    "every other row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "big-endian": lambda X: X.astype(">f8"),
    "read-only": lambda X: np.frombuffer(X.tobytes()).reshape(X.shape),
    "tuples": lambda X: tuple(map(tuple, X.tolist())),
    "frame": lambda X: pd.DataFrame(X, columns=[f"feature {i}" for i in range(X.shape[1])]),
    "tensor": torch.tensor,
    "tensor with gradient": lambda X: torch.tensor(X, requires_grad=True),
    "half tensor": lambda X: torch.tensor(X).half(),
    "bfloat16 tensor": lambda X: torch.tensor(X).bfloat16().requires_grad_(),
    "list of tensors": lambda X: [torch.tensor(row, requires_grad=True) for row in X],
}
NO_FEATURES: dict[str, Callable[[np.ndarray], Any]] = {
    "one row": lambda X: X[0],
    "three axes": lambda X: X[None],
    "a number": lambda X: 3.0,
    "a text": lambda X: "features",
    "texts": lambda X: [*X.astype(str).tolist(), ["x"] * X.shape[1]],
    "nothing": lambda X: None,
    "a dict": lambda X: dict(enumerate(X)),
    "an object": lambda X: object(),
    "objects": lambda X: np.full(X.shape, None),
    "a path": lambda X: Path("features.parquet"),
    "ragged": lambda X: [*X[:-1].tolist(), X[-1, :-1].tolist()],
    "complex": lambda X: X + 1j,
    "sparse": sparse.csr_matrix,
    "NaN": lambda X: np.where(np.arange(len(X))[:, None] == 2, np.nan, X),
    "infinity": lambda X: np.where(np.arange(len(X))[:, None] == 2, np.inf, X).tolist(),
    "None among them": lambda X: [*X[:-1].tolist(), [None] * X.shape[1]],
    "too large": lambda X: 1e300 * X,
    "too large in single precision": lambda X: np.where(np.arange(len(X))[:, None] == 2, 1e200, X).tolist(),
    "a tensor of NaN": lambda X: torch.full(X.shape, torch.nan, dtype=torch.bfloat16),
    "a missing value": lambda X: pd.DataFrame(X).astype("Float64").mask(pd.DataFrame(X) == X[0, 0]),
}
CLASSES: dict[str, Callable[[np.ndarray], Any]] = {
    "list": np.ndarray.tolist,
    "small integers": lambda y: y.astype(np.uint8),
    "whole numbers": lambda y: y.astype(np.float32),
    "names": lambda y: np.array(["ant", "bee", "cat"])[y].tolist(),
    "objects": lambda y: np.array(["ant", "bee", "cat"], dtype=object)[y],
    "series": lambda y: pd.Series(np.array(["ant", "bee", "cat"])[y]),
    "categories": lambda y: pd.Series(np.array(["ant", "bee", "cat"])[y], dtype="category"),
    "tensor": torch.tensor,
    "list of tensors": lambda y: list(torch.tensor(y)),
}
NO_CLASSES: dict[str, Callable[[np.ndarray], Any]] = {
    "one more": lambda y: np.append(y, 0),
    "one fewer": lambda y: y[:-1],
    "one fewer tensor": lambda y: torch.tensor(y[:-1]),
    "none": lambda y: [],
    "a text": lambda y: "ant",
    "a number": lambda y: 1,
    "two columns": lambda y: np.stack([y, y], axis=1),
    "halves": lambda y: y + 0.5,
    "NaN": lambda y: np.where(y == 1, np.nan, y),
    "None among them": lambda y: [None, *y[1:].tolist()],
    "an object": lambda y: object(),
    "complex": lambda y: y + 1j,
}


def own_error(call: Callable[[], object]) -> ClipFewShotError | None:
    """The library's error, or None; another one goes through and fails the test."""
    try:
        call()
    except ClipFewShotError as error:
        return error
    return None


def refuses(forms: dict[str, Callable[[np.ndarray], Any]], right: np.ndarray, call: Callable[[Any], object]) -> None:
    """Each of the forms ends in the library's own error, and what they were made of is taken."""
    assert own_error(lambda: call(right)) is None
    taken = [name for name, form in forms.items() if own_error(partial(call, form(right))) is None]
    assert not taken


def same(answers: list[Any]) -> None:
    assert all(np.allclose(answer, answers[0], rtol=1e-4, atol=1e-5, equal_nan=True) for answer in answers)


PARTS: dict[str, Callable[[], Any]] = {
    **{name: lambda kind=kind: kind(**{t: TEXTS[t] for t in kind.needs_texts}) for name, kind in DETECTORS.items()},
    **{name: lambda kind=kind: kind(**({"texts": dict(enumerate(TEXTS["concepts"]))} if reads(kind) else {}))
       for name, kind in PROBES.items()},
    "head": lambda: HeadClassifier(epochs=1),
}  # fmt: skip


def reads(kind: type) -> bool:
    return bool(getattr(kind, "reads_texts", False))


def ask(part: Any, X: Any) -> Any:
    return part.score_samples(X) if hasattr(part, "score_samples") else part.predict_proba(X)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.filterwarnings("ignore:X has feature names")
@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_estimators_take_features_of_any_form(make: Callable[[], Any]) -> None:
    fitted = make().fit(KNOWN, LABELS)
    right = ask(fitted, KNOWN)
    same([right, *(ask(fitted, form(KNOWN)) for form in FEATURES.values())])
    same([right, *(ask(make().fit(FEATURES[name](KNOWN), LABELS), KNOWN) for name in ("list", "frame", "half tensor"))])


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_estimators_refuse_what_are_no_features_in_our_words(make: Callable[[], Any]) -> None:
    fitted = make().fit(KNOWN, LABELS)
    none = {"no row": lambda X: X[:0], "no column": lambda X: X[:, :0], "no value": lambda X: []}
    refuses(NO_FEATURES | none, KNOWN, lambda X: make().fit(X, LABELS))
    wide = {"wide": lambda X: np.hstack([X, X]), "narrow": lambda X: torch.tensor(X[:, 1:])}
    refuses(NO_FEATURES | none | wide, KNOWN, lambda X: ask(fitted, X))
    assert own_error(lambda: ask(make(), KNOWN)) is not None


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_estimators_take_classes_of_any_form_and_refuse_the_rest(make: Callable[[], Any]) -> None:
    right = ask(make().fit(KNOWN, LABELS), KNOWN)
    named = {} if reads(type(make())) else {k: v for k, v in CLASSES.items() if k not in ("list", "tensor")}
    numbered = {k: CLASSES[k] for k in ("list", "tensor", "small integers")}
    same([right, *(ask(make().fit(KNOWN, form(LABELS)), KNOWN) for form in (numbered | named).values())])
    refuses(NO_CLASSES, LABELS, lambda y: make().fit(KNOWN, y))


Rows = tuple[Any, Any, Any]  # features and classes to learn from, features to ask about
POOR: dict[str, Callable[[Any, Any, Any], Rows]] = {
    "constant": lambda X, y, asked: (np.ones_like(X), y, asked),
    "zeros": lambda X, y, asked: (np.zeros_like(X), y, asked),
    "a row of zeros": lambda X, y, asked: (np.concatenate([0 * X[:1], X[1:]]), y, asked),
    "zeros asked": lambda X, y, asked: (X, y, 0 * asked),
    "duplicates": lambda X, y, asked: (X[np.zeros(len(X), int)], y, asked),
    "huge": lambda X, y, asked: (X * 1e300, y, asked * 1e300),
    "tiny": lambda X, y, asked: (X * 1e-320, y, asked * 1e-320),
    "one of each class": lambda X, y, asked: (X[::SHOTS], y[::SHOTS], asked),
    "one class": lambda X, y, asked: (X, np.zeros_like(y), asked),
    "one row": lambda X, y, asked: (X[:1], y[:1], asked),
    "none asked": lambda X, y, asked: (X, y, asked[:0]),
    "whole numbers": lambda X, y, asked: ((10 * X).astype(np.int64), y, (10 * asked).astype(np.int64)),
    "truths": lambda X, y, asked: (X > 1, y, asked > 1),
    "masked": lambda X, y, asked: (np.ma.masked_array(X, X > 2), y, asked),
    "labels with gaps": lambda X, y, asked: (X, 10 * y - 7, asked),
}


def group(X: Any, y: Any, asked: Any, method: str) -> Any:
    return cf.discover_classes(asked, reference=(X, y), method=method).labels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", POOR.values(), ids=POOR)
def test_poor_rows_give_numbers_or_our_error(change: Callable[[Any, Any, Any], Rows]) -> None:
    X, y, asked = change(KNOWN, LABELS, KNOWN[:12] + 0.1)
    doors = [lambda make=make: ask(make().fit(X, y), asked) for make in PARTS.values()]
    doors += [partial(group, X, y, asked, method) for method in DISCOVERERS]
    for door in doors:
        with suppress(ClipFewShotError):
            assert not np.isnan(np.asarray(door(), float)).any()


def test_a_yes_or_no_is_two_classes() -> None:
    X, y = KNOWN[: 2 * SHOTS], LABELS[: 2 * SHOTS]
    for make in (lambda: PROBES["linear-probe"]() if "linear-probe" in PROBES else cf.LinearProbe(), KNNDetector):
        same([ask(make().fit(X, form(y)), X) for form in (np.asarray, lambda y: y == 1, lambda y: [c == 1 for c in y])])


ON_FEATURES: dict[str, Callable[[Any], Any]] = {
    "discover_classes": lambda X: cf.discover_classes(X, min_cluster_size=3).labels,
    "its reference": lambda X: cf.discover_classes(KNOWN[::2], reference=(X, LABELS)).labels,
    "semi_supervised_kmeans": lambda X: semi_supervised_kmeans(X, (KNOWN, LABELS), 1),
    "its centres": lambda X: semi_supervised_kmeans(KNOWN, (KNOWN, LABELS), X),
    "ward_tree": lambda X: ward_tree(X)[:, 2],
    "Calibrated": lambda X: Calibrated(KNNDetector, "split").fit(KNOWN, LABELS).p_values(X),
    "Calibrated.fit": lambda X: Calibrated(KNNDetector, "split").fit(X, LABELS).p_values(KNOWN[:3] + 0.1),
    "mine_negatives": lambda X: mine_negatives(TEXTS["concepts"], X, 5),
    "its concepts": lambda X: mine_negatives(X, KNOWN, 5),
    "mcm's concepts": lambda X: cf.MCMDetector(X[:C] if hasattr(X, "iloc") else X).fit(KNOWN).score_samples(KNOWN),
}


@pytest.mark.parametrize("call", ON_FEATURES.values(), ids=ON_FEATURES)
def test_functions_of_features(call: Callable[[Any], Any]) -> None:
    skipped = ("frame",) if call is ON_FEATURES["mcm's concepts"] else ()
    same([call(KNOWN), *(call(form(KNOWN)) for name, form in FEATURES.items() if name not in skipped)])
    unsaid = ("nothing",) if call is ON_FEATURES["its centres"] else ()  # None: as many as there seem to be
    refuses({k: v for k, v in NO_FEATURES.items() if k not in unsaid}, KNOWN, call)


@pytest.mark.parametrize("name", ["its reference", "semi_supervised_kmeans", "Calibrated", "mcm's concepts"])
def test_features_of_another_model_are_refused(name: str) -> None:
    assert own_error(lambda: ON_FEATURES[name](KNOWN[:, 1:])) is not None


ON_CLASSES: dict[str, Callable[[Any], Any]] = {
    "accuracy": lambda y: cf.accuracy(y, y),
    "balanced_accuracy": lambda y: metrics.balanced_accuracy(y, y),
    "macro_f1": lambda y: metrics.macro_f1(y, y),
    "weighted_f1": lambda y: metrics.weighted_f1(y, y),
    "nmi": lambda y: clustering.nmi(LABELS, y),
    "ari": lambda y: clustering.ari(y, LABELS),
    "clustering_accuracy": lambda y: clustering.clustering_accuracy(LABELS, y),
    "gcd_accuracy": lambda y: clustering.gcd_accuracy(y, LABELS, LABELS == 0).all,
    "statistic_interval": lambda y: intervals.statistic_interval(lambda t, o: 0.5, y, [LABELS]).mean,
    "reference": lambda y: cf.discover_classes(KNOWN, reference=(KNOWN, y)).n_clusters,
    "Calibrated": lambda y: Calibrated(KNNDetector, "split").fit(KNOWN, y).p_values(KNOWN[:3] + 0.1),
}


@pytest.mark.parametrize("call", ON_CLASSES.values(), ids=ON_CLASSES)
def test_functions_of_classes(call: Callable[[Any], Any]) -> None:
    same([call(LABELS), *(call(form(LABELS)) for form in CLASSES.values())])
    with_itself = ("one more", "one fewer", "one fewer tensor")  # lengths agree where both are the same
    both = call in (ON_CLASSES[k] for k in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"))
    refuses({k: v for k, v in NO_CLASSES.items() if not (both and k in with_itself)}, LABELS, call)


def test_numbers_are_not_compared_with_names() -> None:
    for metric in (cf.accuracy, metrics.balanced_accuracy, metrics.macro_f1, metrics.weighted_f1):
        assert own_error(lambda metric=metric: metric([0, 1], ["0", "1"])) is not None
        assert own_error(lambda metric=metric: metric(["a", None], ["a", "b"])) is not None
        assert metric([0, 1], [0, 1]) == metric(["0", "1"], ["0", "1"]) == metric([False, True], [0.0, 1.0]) == 1


SCORES = np.linspace(0.05, 0.95, 20)
NOVEL = np.arange(20) % 3 == 0
VECTORS: dict[str, Callable[[np.ndarray], Any]] = {
    "list": np.ndarray.tolist,
    "series": pd.Series,
    "tensor": lambda s: torch.tensor(s, requires_grad=True),
    "generator": iter,
}
NO_VECTORS: dict[str, Callable[[np.ndarray], Any]] = {
    "NaN": lambda s: np.where(s > 0.9, np.nan, s),
    "infinity": lambda s: np.where(s > 0.9, np.inf, s),
    "a table": lambda s: s[:, None],
    "a number": lambda s: 0.5,
    "texts": lambda s: s.astype(str),
    "None among them": lambda s: [None, *s[1:]],
    "nothing": lambda s: None,
    "complex": lambda s: s + 1j,
}
ON_SCORES: dict[str, Callable[[Any], Any]] = {
    **{name: partial(metric, NOVEL) for name, metric in metrics.RANKING_MEASURES.items()},
    "det_curve": lambda s: metrics.det_curve(NOVEL, s).miss_rate,
    "p_values": lambda s: p_values(SCORES, s),
    "its calibration": lambda s: p_values(s, SCORES),
    "benjamini_hochberg": lambda p: benjamini_hochberg(p, 0.1),
    "storey": lambda p: storey(p, 0.1),
    "mean_interval": lambda s: intervals.mean_interval([s]).mean,
}


@pytest.mark.parametrize("call", ON_SCORES.values(), ids=ON_SCORES)
def test_functions_of_scores(call: Callable[[Any], Any]) -> None:
    same([call(SCORES), *(call(form(SCORES)) for form in VECTORS.values())])
    refuses(NO_VECTORS, SCORES, call)
    assert own_error(lambda: cf.auroc(NOVEL[:-1], SCORES)) is not None


YES_OR_NO: dict[str, Callable[[Any], Any]] = {
    "accuracy_interval": lambda right: cf.accuracy_interval([right, right]).mean,
    "paired_difference": lambda right: intervals.paired_difference([right], [NOVEL]).mean,
    "auroc": lambda novel: cf.auroc(novel, SCORES),
    "rates_at": lambda flagged: metrics.rates_at(NOVEL, flagged).detection_rate,
    "gcd_accuracy": lambda old: clustering.gcd_accuracy(NOVEL, NOVEL, old).all,
}


@pytest.mark.parametrize("call", YES_OR_NO.values(), ids=YES_OR_NO)
def test_what_is_neither_yes_nor_no_is_refused(call: Callable[[Any], Any]) -> None:
    """NaN and 2 are true in numpy: three answers that nobody knows were an accuracy of 1."""
    same([call(form(NOVEL)) for form in (np.asarray, np.ndarray.tolist, lambda b: b.astype(float), torch.tensor)])
    wrong = {
        "NaN": lambda b: np.full(len(b), np.nan),
        "twos": lambda b: np.where(b, 2, 0),
        "texts": lambda b: np.where(b, "yes", "no"),
        "None": lambda b: [None] * len(b),
        "one fewer": lambda b: b[:-1],
    }
    same_length = call is YES_OR_NO["accuracy_interval"]
    refuses({k: v for k, v in wrong.items() if not (same_length and k == "one fewer")}, NOVEL, call)


TABLE = np.random.default_rng(1).dirichlet(np.ones(C), size=len(LABELS))
ON_TABLES: dict[str, Callable[[Any, Any], Any]] = {
    "expected_calibration_error": cf.expected_calibration_error,
    "top_k_accuracy": partial(metrics.top_k_accuracy, k=2),
    "score_probabilities": lambda y, p: reliability.score_probabilities(y, [p]).nll.mean,
    "measure_losses": reliability.measure_losses,
    "measure_brier": reliability.measure_brier,
    "measure_gaps": reliability.measure_gaps,
    "fit_temperature": lambda y, p: fit_temperature(p, y),
}


@pytest.mark.parametrize("call", ON_TABLES.values(), ids=ON_TABLES)
def test_functions_of_labels_and_tables(call: Callable[[Any, Any], Any]) -> None:
    forms = {k: FEATURES[k] for k in ("list", "float32", "frame", "tensor with gradient", "list of tensors")}
    same([call(LABELS, TABLE), *(call(LABELS, form(TABLE)) for form in forms.values())])
    refuses(NO_FEATURES | {"none": lambda p: p[:0]}, TABLE, lambda p: call(LABELS, p))
    strangers = {"a class too many": lambda y: np.where(y == 2, C, y), "minus one": lambda y: y - 1}
    refuses(NO_CLASSES | strangers | {"names": lambda y: y.astype(str)}, LABELS, lambda y: call(y, TABLE))


PICTURES = [Image.fromarray(np.full((24, 24, 3), 20 * i, dtype=np.uint8)) for i in range(6)]


@pytest.fixture(scope="module")
def classifier() -> cf.FewShotClassifier:
    return cf.FewShotClassifier(cf.load_backbone("mini"), "linear-probe").fit(PICTURES, [1, 0] * 3)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([12, 3] * 3, ("3", "12")),
        (np.array([12, 3] * 3, np.uint8), ("3", "12")),
        (torch.tensor([1, 0] * 3), ("0", "1")),
        ([*torch.tensor([1, 0] * 3)], ("0", "1")),
        ([True, False] * 3, ("False", "True")),
        (np.array([True, False] * 3), ("False", "True")),
        (pd.Series(["ox", "elk"] * 3), ("elk", "ox")),
        (pd.Series(["ox", "elk"] * 3, dtype="category"), ("elk", "ox")),
        (np.array(["ox", "elk"] * 3, dtype=object), ("elk", "ox")),
        (iter(["ox", "elk"] * 3), ("elk", "ox")),
    ],
)
def test_labels_of_any_kind_become_names(labels: Any, names: tuple[str, ...]) -> None:
    found = collect_images(PICTURES, labels)
    assert found.label_space.names == names
    assert found.label_space.decode(found.labels) == [names[i] for i in ([1, 0] * 3)]


@pytest.mark.parametrize(
    "labels",
    ["oxoxox", ["ox"] * 5, ["ox"] * 7, [], 3, [None, "ox"] * 3, [0.5, 1.0] * 3, [float("nan"), "ox"] * 3, [b"ox"] * 6,
     {"ox": 1}, [1, "1"] * 3, [True, 1] * 3, [["ox"], ["elk"]] * 3, np.eye(6), torch.linspace(0, 1, 6)],
)  # fmt: skip
def test_labels_that_name_no_class_of_each_picture_are_refused(labels: Any) -> None:
    assert own_error(lambda: collect_images(PICTURES, labels)) is not None


NO_PICTURES = ["photo.png", b"photo.png", PICTURES[0], None, 3, {"a": PICTURES[0]}, [None], [3], [b"photo.png"], [""],
               pd.DataFrame({"image": ["a.png"]}), ["nowhere.png"], ["nul\0.png"], ["x" * 5000]]  # fmt: skip


def test_what_are_no_pictures_is_refused_at_each_door(classifier: cf.FewShotClassifier) -> None:
    doors: list[Callable[[Any], object]] = [
        classifier.predict,
        classifier.predict_proba,
        classifier.features,
        partial(cf.encode_images, classifier.backbone),
        lambda images: clone(classifier).fit(images, ["ox", "elk"]),
        lambda images: classifier.score(images, ["0"]),
    ]
    for door in doors:
        assert [images for images in NO_PICTURES if own_error(partial(door, images)) is None] == []
    assert own_error(lambda: cf.read_images("photo.png")) is not None


def test_pictures_come_as_any_sequence(classifier: cf.FewShotClassifier, tmp_path: Path) -> None:
    for i, picture in enumerate(PICTURES):
        picture.save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir())
    right = classifier.predict_proba(PICTURES)
    forms = [tuple(PICTURES), iter(PICTURES), paths, list(map(str, paths)), pd.Series(list(map(str, paths))),
             np.array(list(map(str, paths)))]  # fmt: skip
    same([right, *map(classifier.predict_proba, forms)])
    assert classifier.score(PICTURES, [1, 0] * 3) == classifier.score(PICTURES, np.array(["1", "0"] * 3))


def test_no_picture_has_no_answer(classifier: cf.FewShotClassifier) -> None:
    assert classifier.predict([]).shape == (0,)
    assert classifier.predict([]).dtype.kind == "i"  # as the labels it learned from
    assert classifier.predict_proba([]).shape == (0, 2)
    assert classifier.features([]).shape == (0, 128)
    assert len(cf.encode_images(classifier.backbone, collect_images([]))) == 0
    assert own_error(lambda: classifier.score([], [])) is not None
    assert own_error(lambda: clone(classifier).fit([], [])) is not None


def test_a_text_is_not_a_list_of_its_letters(classifier: cf.FewShotClassifier) -> None:
    backbone = classifier.backbone
    calls: list[Callable[[Any], object]] = [
        partial(cf.encode_texts, backbone),
        lambda names: cf.zero_shot_weights(backbone, names, ["a {}"]),
        cf.LabelSpace,
    ]
    for call in calls:
        assert own_error(partial(call, ("a cat",))) is None
        for wrong in ("a cat", ("a cat", 3), (None,), 3):
            assert own_error(partial(call, wrong)) is not None, (call, wrong)
    assert own_error(lambda: cf.zero_shot_weights(backbone, ["cat"], "a {}")) is not None
    assert own_error(lambda: cf.LabelSpace(("o", "x")).encode("ox")) is not None
    assert own_error(lambda: cf.LabelSpace(("o", "x")).encode(["o", "x"])) is None
    for wrong in ([3], ["cow", 3], "cow", [None]):
        assert own_error(lambda wrong=wrong: cf.LabelSpace(("ox", "elk")).encode(wrong)) is not None
    for wrong in ([-1], [2], [0.5], ["ox"]):
        assert own_error(lambda wrong=wrong: cf.LabelSpace(("ox", "elk")).decode(wrong)) is not None


PRECISIONS = pytest.mark.parametrize(
    "precision", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)


@PRECISIONS
@pytest.mark.parametrize("name", cf.HEADS)
def test_a_row_without_direction_has_no_gradient_in_any_head(name: str, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    head = cf.HEADS[name](in_features=8, n_classes=3).to(precision)
    rows = torch.randn(5, 8).to(precision)
    rows[1], rows[3] = 0, 0
    rows.requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1])
    cf.cross_entropy(head(rows, labels), labels).backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    assert not rows.grad[[1, 3]].any()
    assert rows.grad[[0, 2, 4]].any(dim=1).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


@PRECISIONS
def test_nor_has_it_in_a_centred_head_or_a_loss_of_pairs(precision: torch.dtype) -> None:
    rows = torch.zeros(4, 8, dtype=precision, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    cf.cross_entropy(CentredHead(cf.ArcFaceHead(8, 3), torch.zeros(8))(rows, labels), labels).backward()
    texts = torch.randn(4, 8).to(precision).requires_grad_()
    symmetric_objective(rows, texts, torch.tensor(4.6), None).backward()
    targets = losses.transport_targets(rows.detach(), texts.detach())
    assert all(t.isfinite().all() for t in targets)
    assert rows.grad is not None
    assert not rows.grad.any()
    assert texts.grad is not None
    assert texts.grad.isfinite().all()


def test_long_rows_keep_their_direction_in_half_precision() -> None:
    """Their length is above 65,504, which is infinite there."""
    rows = torch.full((2, 64), 2e4).half()
    head = cf.HEADS["linear"](in_features=64, n_classes=3).half()
    assert torch.equal(head(rows), head(rows / 2**8))


LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
NO_INDICES = {
    "numpy": lambda y: y.numpy(),
    "list": lambda y: y.tolist(),
    "floats": lambda y: y.float(),
    "yes or no": lambda y: y == 1,
    "one fewer": lambda y: y[:-1],
    "two axes": lambda y: y[:, None],
    "class 3": lambda y: y + 1,
    "class -1": lambda y: y - 1,
}


@pytest.mark.parametrize("wrong", NO_INDICES.values(), ids=NO_INDICES)
def test_losses_and_heads_refuse_what_are_no_class_indices(wrong: Callable[[torch.Tensor], Any]) -> None:
    labels = torch.tensor([0, 1, 2, 0])
    for call in (partial(cf.cross_entropy, LOGITS), partial(cf.ArcFaceHead(3, 3), LOGITS)):
        assert own_error(partial(call, labels)) is own_error(partial(call, labels.int())) is None
        assert own_error(partial(call, wrong(labels))) is not None


@pytest.mark.parametrize(
    "rows",
    [LOGITS.numpy(), LOGITS.tolist(), None, LOGITS[0], LOGITS[:, :2], LOGITS + 0j, torch.tensor(1.0)],
    ids=range(7),
)
def test_heads_and_losses_refuse_what_is_no_table_of_their_width(rows: Any) -> None:
    for name in cf.HEADS:
        assert own_error(lambda name=name: cf.HEADS[name](3, 3)(LOGITS)) is None
        assert own_error(lambda name=name: cf.HEADS[name](3, 3)(rows)) is not None
    assert own_error(lambda: cf.symmetric_cross_entropy(rows)) is not None
    assert own_error(lambda: cf.cross_entropy(rows, torch.tensor([0, 1, 2, 3]))) is not None


def test_an_empty_batch_has_no_loss() -> None:
    """Its mean is NaN, which spreads to all weights."""
    empty = torch.empty(0, 3)
    assert own_error(lambda: cf.cross_entropy(empty, torch.empty(0, dtype=torch.long))) is not None
    assert own_error(lambda: cf.symmetric_cross_entropy(torch.empty(0, 0))) is not None
    assert own_error(lambda: losses.matched_cross_entropy(empty, empty.bool())) is not None


def test_the_classes_of_members_are_found_at_the_top() -> None:
    for part in [*DETECTORS.values(), *PROBES.values(), LinearHead, CentredHead]:
        assert getattr(cf, part.__name__) is part
    with pytest.raises(AttributeError, match="ImaginaryDetector"):
        cf.ImaginaryDetector  # type: ignore[attr-defined]  # noqa: B018


SQUARE, TWO = np.eye(2), torch.tensor([0, 1])
SET = collect_images(PICTURES, ["ox", "elk"] * 3)
# What takes the number, one that is right, and those that are not; all refuse what is no number.
NUMBERS: dict[str, tuple[Callable[[Any], object], Any, list[Any]]] = {
    "LOF": (lambda n: cf.LOFDetector(n).fit(KNOWN), 3, [0, 2.5]),
    "KNN": (lambda n: KNNDetector(n).fit(KNOWN), np.int64(3), [0, 2.5]),
    "probe of a detector": (lambda C: cf.MaxSoftmaxDetector(C).fit(KNOWN, LABELS), 1, [0, -1.0, np.inf]),
    "LinearProbe": (lambda C: cf.LinearProbe(C).fit(KNOWN, LABELS), np.float32(1), [0, -1.0, np.inf]),
    "folds": (lambda f: cf.LinearProbe(folds=f).fit(KNOWN, LABELS), 2, [1, 2.5, [([0, 9, 18], [27])], [([0], [-1])]]),
    "Mahalanobis": (lambda s: cf.MahalanobisDetector(s).fit(KNOWN), 1, [0, 1.1]),
    "MCM": (lambda t: cf.MCMDetector(TEXTS["concepts"], t).fit(KNOWN), 0.01, [0, -1, np.inf]),
    "negative labels": (lambda t: cf.NegativeLabelsDetector(*TEXTS.values(), t).fit(KNOWN), 0.01, [0, np.inf]),
    "mine_negatives": (lambda n: mine_negatives(TEXTS["concepts"], KNOWN, n), 5, [0, 28, 2.5]),
    "prototype": (lambda s: cf.PrototypeProbe(s).fit(KNOWN, LABELS), 3, [0, np.inf]),
    "alpha": (lambda a: check_alpha(a, 100), 0.05, [0, 1, 2]),
    "q": (lambda q: benjamini_hochberg(SCORES, q), 0.1, [0, 1]),
    "Watch": (Watch, 0.1, [0, 1]),
    "Watch.update": (lambda p: Watch(0.1).update(p), 1, [-0.1, 1.1]),
    "StreamRanks": (lambda s: StreamRanks(SCORES).update(s), -3, [np.inf]),
    "label_smoothing": (lambda s: cf.cross_entropy(torch.eye(2), TWO, label_smoothing=s), 0, [-0.1, 1]),
    "margin": (lambda m: cf.ArcFaceHead(8, 3, margin=m), np.pi / 2, [-0.1, 90]),
    "scale": (lambda s: cf.ArcFaceHead(8, 3, scale=s), 30, [0, np.inf]),
    "in_features": (lambda n: cf.MLPHead(n, 3), 8, [0, -1, 2.5]),
    "n_classes": (lambda n: cf.LinearHead(8, n), 3, [0, -1, 2.5]),
    "n_bins": (lambda n: cf.expected_calibration_error([0, 1], SQUARE, n), 15, [0, 2.5]),
    "k": (lambda k: metrics.top_k_accuracy([0, 1], SQUARE, k), 2, [0, 3, 1.5]),
    "confusion": (lambda c: metrics.confusion_matrix([0, 1], [1, 0], c), 2, [1, 2.5]),
    "max_clusters": (lambda n: cf.discover_classes(KNOWN, max_clusters=n), 5, [0, 2.5]),
    "min_cluster_size": (lambda n: cf.discover_classes(KNOWN, min_cluster_size=n), 3, [0, 2.5]),
    "seed": (lambda s: cf.discover_classes(KNOWN, seed=s), -1, [2.5]),
    "shots": (lambda k: cf.draw_support(SET, k, 0), 2, [0, -1, 1.5]),
    "shots of a split": (lambda k: cf.split_open_world(SET, shots=k), 1, [0, 1.5]),
    "unseen": (lambda n: cf.split_open_world(SET, shots=1, unseen=n), 0, [2, -1, 0.5]),
    "test_fraction": (lambda f: cf.split_open_world(SET, shots=1, test_fraction=f), 0.5, [0, 1]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_outside_their_range_and_what_are_none(name: str) -> None:
    call, right, wrong = NUMBERS[name]
    assert own_error(lambda: call(right)) is None
    taken = [value for value in [*wrong, np.nan, "1", [1.0], object()] if own_error(partial(call, value)) is None]
    assert taken == []


def test_a_dataset_is_asked_for_by_name() -> None:
    for wrong in (PICTURES, None, 3, "digits", KNOWN):
        for call in (lambda x: cf.draw_support(x, 1, 0), lambda x: cf.split_open_world(x, shots=1)):
            assert "ImageDataset" in str(own_error(partial(call, wrong)))


def test_columns_of_a_feature_set_have_one_length() -> None:
    right = {"features": np.ones((2, 8)), "digests": ("x", "y"), "backbone": "mini", "labels": np.array([0, 1])}
    assert own_error(lambda: cf.FeatureSet(**right)) is None  # type: ignore[arg-type]
    for wrong in ({"digests": ("x",)}, {"digests": "xy"}, {"labels": np.array([0])}, {"features": np.ones(2)}):
        assert own_error(lambda wrong=wrong: cf.FeatureSet(**right | wrong)) is not None


@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_what_is_no_number_is_never_answered_with_one(strange: float) -> None:
    rows, labels = torch.ones(3, 8), torch.tensor([0, 1, 2])
    rows[1, 2] = strange
    for name in cf.HEADS:
        torch.manual_seed(0)
        logits = cf.HEADS[name](8, 3).eval()(rows)
        assert logits[[0, 2]].isfinite().all()
        assert logits[1].isnan().all()
        assert cf.cross_entropy(logits, labels).isnan()
    assert symmetric_objective(rows, torch.eye(3, 8), torch.tensor(4.6), None).isnan()


PATHS = {
    "load": cf.FewShotClassifier.load,
    "load with unknowns": cf.OpenWorldClassifier.load,
    "load_backbone": cf.load_backbone,
    "save_backbone": lambda path: cf.save_backbone(cf.load_backbone("mini"), path),
    "picture_paths": cf.picture_paths,
    "read_images": lambda path: cf.read_images([path]),
    "store": cf.Store.open,
    "list_trials": cf.list_trials,
    "read_history": cf.read_history,
}


@pytest.mark.parametrize("door", PATHS.values(), ids=PATHS)
def test_what_is_no_path_is_refused_at_each_door(door: Callable[[Any], Any]) -> None:
    for none in (None, 3, 2.5, True, b"x", ["a"], object()):
        refused = own_error(partial(door, none))
        assert refused is not None
        assert "path" in str(refused)
        assert type(none).__name__ in str(refused)
