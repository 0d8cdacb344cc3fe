"""Figures: right numbers in them, equal bytes for equal input, nothing of the outside in or out."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from PIL import Image
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from clip_fewshot import plots
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.metrics import DetCurve, det_curve
from clip_fewshot.evaluation.reliability import ReliabilityBins
from clip_fewshot.plots import Plot, style
from clip_fewshot.plots.dendrogram import lay_out_tree, order_leaves
from clip_fewshot.plots.det import _apart, _look, equal_error_rate, find_operating_point, normal_deviates
from clip_fewshot.plots.embedding import measure_modality_gap, project_on_plane
from clip_fewshot.plots.methods import METHODS
from clip_fewshot.plots.shots import choose_looks
from clip_fewshot.plots.style import INK, OUTLIER, SERIES, SOFT
from clip_fewshot.plots.views import EmbeddingView, NoveltyView, ShotPoint
from clip_fewshot.report.record import DiscoveryView, RunRecord
from clip_fewshot.types import FloatArray
from tests.report import sample

HOSTILE = ("<script>alert(1)</script>", "../../x", "$\\frac{1", "a\x00b\u202ec", "猫と🐝", "\udcff", "")


NOVEL_ROWS = np.arange(300) >= 180


def scores() -> dict[str, list[FloatArray]]:
    """Of twelve detectors on two support sets, each better than the last."""
    rng = np.random.default_rng(0)
    return {f"detector {i}": [rng.normal(size=300) - 0.3 * i * NOVEL_ROWS for _ in range(2)] for i in range(12)}


def first_scores() -> dict[str, FloatArray]:
    return {name: some[0] for name, some in scores().items()}


def curves() -> dict[str, list[DetCurve]]:
    return {name: [det_curve(NOVEL_ROWS, one) for one in some] for name, some in scores().items()}


def drawings() -> dict[str, Callable[[], Plot]]:
    found = sample.discovery(outliers=9)
    wide = tuple(f"class {i}" for i in range(60))
    nameless = tuple(HOSTILE)
    return {
        "history": lambda: plots.history_plot(sample.history()),
        "history-nothing-finished": lambda: plots.history_plot(
            [row | {"state": "failed", "value": None} for row in sample.history(3)]  # type: ignore[misc]
        ),
        "confusion": lambda: plots.confusion_plot(sample.confusion(7), sample.NAMES),
        "confusion-one-class": lambda: plots.confusion_plot(np.array([[5]]), ("a",)),
        "confusion-wide": lambda: plots.confusion_plot(sample.confusion(60), wide),
        "confusion-hostile": lambda: plots.confusion_plot(sample.confusion(7), nameless),
        "embedding": lambda: plots.embedding_plot(sample.embedding()),
        "embedding-many": lambda: plots.embedding_plot(sample.embedding(n=2500)),
        "embedding-hostile": lambda: plots.embedding_plot(sample.embedding(nameless[0], nameless)),
        "det": lambda: plots.det_plot(sample.novelty()),
        "det-no-threshold": lambda: plots.det_plot(replace(sample.novelty(), threshold=None)),
        "densities": lambda: plots.density_plot(sample.novelty()),
        "det-curves": lambda: plots.det_curves(curves()),
        "density-panels": lambda: plots.density_panels(first_scores(), NOVEL_ROWS),
        "dendrogram": lambda: plots.dendrogram_plot(found.linkage, found.labels),
        "reliability": lambda: plots.reliability_plot(sample.reliability()),
        "shots": lambda: plots.shots_plot(sample.shots(), title="digits"),
    }


@pytest.mark.parametrize("name", drawings())
def test_a_drawing_is_sound_self_contained_and_described(name: str) -> None:
    plot = drawings()[name]()
    tree = ElementTree.fromstring(plot.svg)
    for node in tree.iter():
        assert not node.tag.endswith("script")
        for key, value in node.attrib.items():
            if key.endswith("href"):
                assert value.startswith(("#", "data:image/png;base64,"))
    assert tree.attrib["viewBox"]
    assert 30 < len(plot.alt) < 400
    assert "http" not in plot.svg.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")


@pytest.mark.parametrize("name", ["history", "embedding-many", "dendrogram"])
def test_equal_drawings_are_equal_bytes_whatever_the_users_settings(name: str) -> None:
    first = drawings()[name]()
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": "other"}):
        settings = dict(matplotlib.rcParams)
        again = drawings()[name]()
        assert (again.svg, again.alt) == (first.svg, first.alt)
        assert again.figure._repr_svg_() == again.svg  # drawn twice: the layout stays where it is
        assert dict(matplotlib.rcParams) == settings


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys; from clip_fewshot import plots; from clip_fewshot.plots.views import ShotPoint;"
        "plots.shots_plot({'mlp': [ShotPoint(1, 0.5, 0.4, 0.6)]}); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_many_points_cost_pixels_not_nodes() -> None:
    few, many = (plots.embedding_plot(sample.embedding(n=n)).svg for n in (600, 5000))
    assert few.count("<use") > 590
    assert many.count("<use") < 100
    assert len(many) < 400_000


def test_the_failed_the_pruned_and_the_best_are_told() -> None:
    plot = plots.history_plot(sample.history())
    done = [row for row in sample.history() if row["state"] == "finished"]
    winner = max(done, key=lambda row: row["value"] or 0)
    assert f"trial {winner['number']} " in plot.alt
    assert "hollow: pruned" in plot.svg
    assert "failed" in plot.svg


def test_what_is_promised_and_what_is_kept_are_told() -> None:
    bins = ReliabilityBins(np.array([0.5, 0.9]), np.array([0.4, 0.8]), np.array([10, 30]))
    assert plots.reliability_plot({"zero_shot": bins}).alt.endswith(
        "Mean probability and accuracy: zero-shot 0.800, 0.700."
    )


def test_confusion_counts_and_errors_are_told() -> None:
    plot = plots.confusion_plot(np.array([[5, 3], [0, 4]]), ("cat", "dog"))
    assert plot.alt == (
        "Confusion matrix of 2 classes: right in 9 of 12. Most frequent errors: cat taken for dog 3 times."
    )
    assert ">5</text>" in plot.svg
    assert ">0</text>" not in plot.svg


def test_of_very_many_classes_neighbours_share_a_square() -> None:
    counts = 9 * np.eye(1001, dtype=np.int64)
    counts[0, 1000] = 27  # as many as the three classes of its square have on the diagonal
    mesh = plots.confusion_plot(counts, [f"class {i}" for i in range(1001)]).figure.axes[0].collections[0]
    shares = np.asarray(mesh.get_array()).reshape(334, 334)
    assert (shares[0, 0], shares[0, -1]) == (0.5, 0.5)
    np.testing.assert_array_equal(shares[1:], np.eye(334)[1:])


def test_the_plane_is_scikit_learns() -> None:
    x = np.random.default_rng(0).normal(size=(50, 9)) * np.arange(1, 10)
    ours, power = project_on_plane(x)
    reference = PCA(2).fit(x)
    theirs = reference.transform(x)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-10)
    np.testing.assert_allclose(power, reference.explained_variance_ratio_, atol=1e-12)


def test_the_plane_does_not_flip() -> None:
    x = np.random.default_rng(1).normal(size=(30, 5))
    plane, _ = project_on_plane(x)
    shuffled, _ = project_on_plane(x[::-1])
    np.testing.assert_allclose(plane, shuffled[::-1], atol=1e-10)


@pytest.mark.parametrize("x", [np.ones((4, 3)), np.ones((1, 3)), np.arange(4.0)[:, None]], ids=["same", "one", "1-d"])
def test_the_plane_of_degenerate_rows_is_finite(x: np.ndarray) -> None:
    plane, power = project_on_plane(x)
    assert plane.shape == (len(x), 2)
    assert np.isfinite(plane).all()
    assert np.isfinite(power).all()


def test_the_gap_of_opposite_directions_is_two() -> None:
    assert measure_modality_gap(np.array([[3.0, 0], [1, 0]]), np.array([[-7.0, 0]])) == pytest.approx(2)
    assert measure_modality_gap(np.zeros((2, 3)), np.zeros((1, 3))) == 0


def test_deviates_are_the_normal_quantiles() -> None:
    rates = np.array([0.001, 0.2, 0.5, 0.97])
    np.testing.assert_allclose(normal_deviates(rates), norm.ppf(rates), atol=1e-12)
    assert np.isfinite(normal_deviates(np.array([0.0, 1.0]))).all()


def test_the_marks_lie_on_the_drawn_curve() -> None:
    view = sample.novelty()
    operating = find_operating_point(view)
    assert operating is not None
    curve = np.stack([view.false_alarm, view.miss], axis=1)
    for mark in ((equal_error_rate(view),) * 2, operating):
        assert np.abs(curve - mark).max(axis=1).min() < 0.002
    assert operating[0] == pytest.approx(0.05, abs=0.002)
    assert find_operating_point(replace(view, threshold=None)) is None


def test_the_equal_error_rate_of_two_unit_normals_is_known() -> None:
    cuts = np.linspace(-8, 8, 4001)
    view = NoveltyView(np.zeros(1), np.zeros(1), None, norm.cdf(cuts, 1), norm.sf(cuts, -1))
    assert equal_error_rate(view) == pytest.approx(norm.cdf(-1), abs=1e-3)


def test_the_tree_is_scipys() -> None:
    found = sample.discovery((30, 20, 9))
    reference = dendrogram(found.linkage, no_plot=True, count_sort=False)
    assert order_leaves(found.linkage).tolist() == reference["leaves"]
    x, height, _ = lay_out_tree(found.linkage, found.labels)
    ours = sorted((x[int(a)], x[int(b)], d) for a, b, d, _ in found.linkage)
    theirs = sorted(
        ((xs[0] - 5) / 10, (xs[2] - 5) / 10, ys[1])
        for xs, ys in zip(reference["icoord"], reference["dcoord"], strict=True)
    )
    np.testing.assert_allclose(ours, theirs)
    assert height.max() == found.linkage[-1, 2]


def test_a_group_that_hangs_in_two_places_shows_its_picture_once() -> None:
    tree = linkage(np.array([[0.0], [1], [10], [11], [12], [30], [31], [32]]))
    labels = np.array([0, 0, 1, 1, 1, 0, 0, 0])
    exemplar = Image.new("RGB", (4, 4), (200, 40, 90))
    drawn = plots.dendrogram_plot(tree, labels, {0: exemplar, 1: exemplar}).svg
    assert drawn.count("<image") == 2


def test_a_chain_of_five_thousand_merges_is_drawn() -> None:
    m = 5000
    steps = np.arange(m - 1)
    chain = np.stack([np.where(steps == 0, 0, m + steps - 1), steps + 1, steps + 1.0, steps + 2], axis=1).astype(float)
    plot = plots.dendrogram_plot(chain, np.ones(m, dtype=np.int64))
    assert len(plot.svg) < 200_000


def test_outliers_far_below_do_not_squeeze_the_densities() -> None:
    view = sample.novelty()
    far = np.concatenate([view.novel_scores, [-2.3e7]])
    plot = plots.density_plot(NoveltyView(view.known_scores, far, view.threshold, view.false_alarm, view.miss))
    assert "first bar also holds" in plot.alt
    assert "first bar also holds" in plot.svg


def test_det_curves_are_averaged_at_equal_false_alarms() -> None:
    """What the description says of 5 % false alarms, from thresholds that keep them."""
    said = plots.det_curves(curves()).alt
    for name, some in scores().items():
        misses = []
        for one in some:
            known, novel = one[~NOVEL_ROWS], one[NOVEL_ROWS]
            misses.append(min((novel > t).mean() for t in one if (known <= t).mean() <= 0.05))
        assert f"{name} {np.mean(misses):.3f}" in said


def test_every_curve_is_named_beside_it_and_looks_its_own() -> None:
    looks = [tuple(map(str, _look(i).items())) for i in range(30)]
    assert len(set(looks)) == 30
    starts = [0.0, 0.01, 2.0, -3.2, -3.2, 0.02]
    places = _apart(starts, 0.3)
    assert np.diff(np.sort(places)).min() >= 0.3 - 1e-9
    assert min(places) >= normal_deviates(np.array([0.0]))[0] - 1e-9
    assert sorted(range(3), key=lambda i: places[i]) == [0, 1, 2]
    drawn = plots.det_curves(curves()).svg
    assert all(f">{name}<" in drawn for name in scores())


def test_panels_say_the_auroc_of_each_detector() -> None:
    plot = plots.density_panels(first_scores(), NOVEL_ROWS)
    for name, some in first_scores().items():
        assert f"{name}, AUROC {roc_auc_score(NOVEL_ROWS, -some):.3f}" in plot.svg
    assert plot.svg.count(">novel<") == len(first_scores())


def test_equal_scores_everywhere_are_drawn() -> None:
    same = np.full(5, -1.0)
    view = NoveltyView(same, same, None, np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert "no threshold" in plots.density_plot(view).alt
    assert "0.500" in plots.det_plot(view).alt


def test_a_curve_of_one_point_is_drawn() -> None:
    plot = plots.shots_plot({"mlp": [ShotPoint(16, 0.9, 0.88, 0.92)]})
    assert "mlp 0.900 at 16" in plot.alt


def test_more_methods_than_colours_look_different() -> None:
    looks = choose_looks(["mlp", *(f"m{i}" for i in range(12))])
    assert looks["mlp"] == METHODS.index("mlp")
    assert len(set(looks.values())) == 13
    curves = {name: [ShotPoint(1, 0.5, 0.4, 0.6), ShotPoint(2, 0.7, 0.6, 0.8)] for name in looks}
    lines = re.findall(r'style="fill: none; ([^"]*stroke-width: 1.6)', plots.shots_plot(curves).svg)
    assert len({*lines}) == len(curves)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(("colour", "least"), [*((c, 3.0) for c in SERIES), (INK, 7.0), (SOFT, 4.5), (OUTLIER, 3.0)])
def test_colours_stand_out_from_white(colour: str, least: float) -> None:
    assert 1.05 / (luminance(colour) + 0.05) >= least


def turned(colour: str) -> FloatArray:
    """What ``invert(1) hue-rotate(180deg)`` of CSS makes of it, by the matrix of Filter Effects 1."""
    lamp = np.array([0.213, 0.715, 0.072])
    inverted = 1 - np.array(to_rgb(colour))
    return np.clip(2 * lamp @ inverted - inverted, 0, 1)


@pytest.mark.parametrize("colour", [*SERIES, INK, SOFT, OUTLIER])
def test_colours_stand_out_from_a_dark_page(colour: str) -> None:
    paper = turned("#e2e7ec")
    assert np.abs(paper * 255 - [0x14, 0x18, 0x1D]).max() < 2  # that of the pages
    assert (luminance(to_hex(turned(colour))) + 0.05) / (luminance(to_hex(paper)) + 0.05) >= 3
    assert "fill: #e2e7ec" in plots.confusion_plot(np.array([[1]]), ("a",)).svg


def test_what_a_dark_page_turns_round_holds_every_text() -> None:
    curves = {"mlp": [ShotPoint(1, 0.5, 0.4, 0.6)]}
    drawn = plots.shots_panels({"digits": curves, "birds": curves}).svg
    inside = [group.get("id", "") for group in ElementTree.fromstring(drawn).find(".//*[@id='figure_1']") or ()]
    assert {name.partition("_")[0] for name in inside} == {"patch", "axes", "legend"}
    assert '#patch_1, #figure_1 > [id^="legend_"],\n[id^="axes_"] >' in drawn


@pytest.fixture
def font(tmp_path: Path) -> Iterator[None]:
    """A font of the system that has one character, as wide as it is high."""
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord("猫"): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": TTGlyphPen(None).glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "SimHei", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "one.ttf")
    before = [*font_manager.fontManager.ttflist]
    font_manager.fontManager.addfont(tmp_path / "one.ttf")
    style._list_families.cache_clear()
    yield
    font_manager.fontManager.ttflist = before
    style._list_families.cache_clear()


@pytest.mark.usefixtures("font")
def test_other_scripts_are_measured_with_a_font_of_the_system_and_drawn_with_the_readers() -> None:
    measured = []

    def paint(axes: Axes) -> None:
        measured.append(axes.text(0, 0, "猫" * 8, fontsize=10))

    svg = style.render(4, 3, paint).to_svg()
    assert measured[0].get_window_extent().width == pytest.approx(8 * 10, rel=0.02)
    assert f">{'猫' * 8}</text>" in svg
    assert "SimHei" not in svg


@pytest.mark.parametrize(
    "build",
    [
        lambda: EmbeddingView("x", np.zeros((3, 4)), np.zeros(3, int), np.zeros((2, 5)), ("a", "b")),
        lambda: EmbeddingView("x", np.zeros((3, 4)), np.zeros(2, int), np.zeros((2, 4)), ("a", "b")),
        lambda: EmbeddingView("x", np.zeros((3, 4)), np.zeros(3, int), np.zeros((1, 4)), ("a", "b")),
        lambda: NoveltyView(np.zeros(0), np.zeros(3), None, np.zeros(2), np.zeros(2)),
        lambda: NoveltyView(np.zeros(2), np.zeros(3), None, np.zeros(2), np.zeros(3)),
        lambda: DiscoveryView(np.zeros((3, 4)), np.zeros(3, int), ()),
        lambda: replace(sample.discovery((5, 4)), clusters=sample.discovery((5,)).clusters),
        lambda: replace(sample.discovery((5, 4)), clusters=sample.discovery((4, 5)).clusters),
        lambda: replace(sample.discovery((5,)), clusters=sample.discovery((5,)).clusters * 2),
        lambda: replace(sample.discovery((), 5), labels=np.full(5, -2)),
        lambda: RunRecord("x", ("a", "b"), confusion=np.zeros((3, 3), int)),
        lambda: RunRecord("x", ("a",), history=(sample.history(1)[0] | {"state": "COMPLETE"},)),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        build()
