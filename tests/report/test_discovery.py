"""Discovery on the page: groups and outliers of the tree, its cut, and the sentences around it."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from clip_fewshot import plots
from clip_fewshot.discovery import discover_classes
from clip_fewshot.plots.dendrogram import _runs, find_cut_height, lay_out_tree
from clip_fewshot.plots.style import INK, OUTLIER, SERIES
from clip_fewshot.report.page import render_page
from clip_fewshot.report.record import ClusterView, DiscoveryView
from clip_fewshot.types import FloatArray, LabelArray
from tests.report import sample
from tests.report.test_page import Page

SHAPES = [((30, 20, 9), 0), ((12, 8), 0), ((1, 1), 0), ((30, 20, 9), 7), ((12,), 5), ((12,), 1), ((40, 3), 40)]


def yields(tree: FloatArray, height: float, labels: LabelArray) -> bool:
    """Whether SciPy, cutting at ``height``, gets each group as one whole part."""
    parts = fcluster(tree, height, "distance")
    pairs = {(int(part), int(label)) for part, label in zip(parts, labels, strict=True)}
    own = [part for part, label in pairs if label >= 0]
    strangers = {part for part, label in pairs if label < 0}
    return len(own) == len(set(own)) == len(np.unique(labels[labels >= 0])) and not strangers & set(own)


@pytest.mark.parametrize(("sizes", "outliers"), SHAPES)
def test_cutting_where_the_line_is_gives_the_groups(sizes: tuple[int, ...], outliers: int) -> None:
    found = sample.discovery(sizes, outliers)
    cut = find_cut_height(found.linkage, found.labels)
    assert cut is not None
    assert yields(found.linkage, cut, found.labels)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.integers(1, 6), st.integers(0, 2))
def test_there_is_a_cut_exactly_where_one_height_yields_the_groups(seed: int, m: int, k: int, moved: int) -> None:
    rng = np.random.default_rng(seed)
    tree = linkage(rng.normal(size=(m, 3)), "ward")
    labels = fcluster(tree, k, "maxclust").astype(np.int64) - 1
    labels[labels == rng.integers(0, k)] = -1  # one part is dissolved
    labels[rng.integers(0, m, moved)] = rng.integers(-1, k, moved)  # and some images are put elsewhere
    ends = np.concatenate([[0.0], tree[:, 2]])
    possible = any(yields(tree, height, labels) for height in (ends[:-1] + ends[1:]) / 2)
    cut = find_cut_height(tree, labels)
    groups = np.unique(labels[labels >= 0])
    assert (cut is not None) == (possible and len(groups) > 0)
    assert cut is None or yields(tree, cut, labels)


def test_a_tree_of_one_group_or_none_has_no_cut() -> None:
    for found in (sample.discovery((12,)), sample.discovery((), 12)):
        assert find_cut_height(found.linkage, found.labels) is None
    assert find_cut_height(np.zeros((0, 4)), np.zeros(1, dtype=np.int64)) is None


def test_what_discovery_finds_among_strays_of_known_classes_can_be_cut_and_shown() -> None:
    rng = np.random.default_rng(3)
    centres = 4 * rng.normal(size=(8, 24))
    known = np.repeat(np.arange(5), 16)
    reference = centres[known] + rng.normal(size=(80, 24)), known
    shown = np.repeat([5, 6, 7, 0, 1, 2], [40, 30, 25, 2, 3, 2])
    found = discover_classes(centres[shown] + rng.normal(size=(102, 24)), reference=reference)
    assert found.n_clusters == 3
    assert ((found.labels == -1) == (shown < 5)).all()
    cut = find_cut_height(found.linkage, found.labels)
    assert cut is not None
    assert yields(found.linkage, cut, found.labels)
    clusters = (ClusterView(k, int((found.labels == k).sum()), sample.glyph("7")) for k in range(3))
    assert DiscoveryView(found.linkage, found.labels, tuple(clusters)).n_outliers == 7


def test_nodes_are_of_a_group_of_none_or_mixed() -> None:
    found = sample.discovery((6, 5), 4)
    group = lay_out_tree(found.linkage, found.labels)[2]
    assert {int(k): int((group == k).sum()) for k in np.unique(group)} == {-2: 2, -1: 7, 0: 11, 1: 9}


def test_runs_are_the_neighbours_of_one_label() -> None:
    assert _runs(np.array([2, 2, -1, 2, 0, 0])) == [(2, (0, 1)), (-1, (2, 2)), (2, (3, 3)), (0, (4, 5))]


def words(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", svg)


def test_outliers_are_grey_and_have_no_number() -> None:
    plot = plots.dendrogram_plot(*tree_of(sample.discovery((40, 30), 20)))
    assert {"0", "1", "no group", "cut"} <= {word.strip() for word in words(plot.svg)}
    assert not {"-1", "\u22121", "2"} & set(words(plot.svg))
    assert OUTLIER in plot.svg
    assert SERIES[2] not in plot.svg
    assert "90 flagged images in 2 groups, 20 of them in no group;" in plot.alt
    assert "the cut at" in plot.alt


def test_a_tree_without_outliers_has_nothing_grey() -> None:
    plot = plots.dendrogram_plot(*tree_of(sample.discovery((40, 30))))
    assert OUTLIER not in plot.svg
    assert "no group" not in plot.svg + plot.alt


def test_no_group_wears_the_outliers_grey() -> None:
    plot = plots.dendrogram_plot(*tree_of(sample.discovery((9,) * 8)))
    assert SERIES[-1] not in plot.svg
    assert INK in plot.svg


def test_a_few_scattered_outliers_do_not_hide_the_bars_of_the_groups() -> None:
    found = sample.discovery((40, 30))
    labels = found.labels.copy()
    labels[[0, 5, 50]] = -1
    plot = plots.dendrogram_plot(found.linkage, labels)
    assert "no group" not in words(plot.svg)
    assert "the cut at" not in plot.alt


def test_each_group_shows_its_exemplar_where_there_is_room() -> None:
    found = sample.discovery((60, 40, 1, 1, 1), 9)
    pictures = {cluster.number: cluster.exemplar for cluster in found.clusters}
    plot = plots.dendrogram_plot(*tree_of(found), pictures)
    assert plot.svg.count("<image") == 3  # the three single images lie side by side: one is shown
    assert "Below the groups" in plot.alt
    bare = plots.dendrogram_plot(*tree_of(found))
    assert "<image" not in bare.svg
    assert "Below the groups" not in bare.alt
    assert plots.dendrogram_plot(*tree_of(found), {0: pictures[0]}).svg.count("<image") == 1


def tree_of(found: DiscoveryView) -> tuple[FloatArray, LabelArray]:
    return found.linkage, found.labels


def section(found: DiscoveryView, **measured: object) -> Page:
    entry = sample.results()["discovery"] | {"n_clusters": len(found.clusters)} | measured
    return Page(render_page(sample.results(discovery=entry), sample.bare(discovery=found)))


def scattered(outlier: int) -> DiscoveryView:
    """Two groups, with one image of the first in none: no height cuts it off alone."""
    found = sample.discovery((12, 8))
    labels = found.labels.copy()
    labels[outlier] = -1
    first, second = found.clusters
    return DiscoveryView(found.linkage, labels, (first._replace(size=11), second))


SAYS = [
    (sample.discovery((1,)), "The saved model flagged 1 image. Grouping it found 1 candidate class; in truth 3"),
    (sample.discovery((1,)), "One image alone makes no tree."),
    (sample.discovery((12,)), "The saved model flagged 12 images. Grouping them found 1 candidate class;"),
    (sample.discovery((12,)), "All are one group, so nothing is cut."),
    (sample.discovery((12, 9)), "one colour per group. Cut at the dashed line, it falls into the groups."),
    (sample.discovery((12, 9)), "the true classes, false alarms included: ARI 0.742, NMI 0.711, accuracy 0.884."),
    (sample.discovery((12, 9), 1), "1 flagged image is in no group: too few alike, or nearer to a known class."),
    (sample.discovery((12, 9), 5), "5 flagged images are in no group:"),
    (sample.discovery((12, 9), 5), "nearer to a known class. Agreement with the true classes"),
    (sample.discovery((12, 9), 5), "and the images in no group counted as one more group: ARI 0.742"),
    (sample.discovery((12, 9), 5), "grey ones are in no group. Cut at the dashed line, it falls into the groups, and"),
    (scattered(3), "No cut at one height yields these groups, so none is drawn."),
    (sample.discovery((), 12), "flagged 12 images, and all are in no group: too few are alike, or they lie among"),
    (sample.discovery((), 12), "No candidate class was found; in truth 3 classes were unseen."),
    (sample.discovery((), 1), "flagged 1 image, and it is in no group"),
]


@pytest.mark.parametrize(("found", "says"), SAYS)
def test_the_page_tells_groups_from_what_is_in_none(found: DiscoveryView, says: str) -> None:
    page = section(found)
    assert says in page.text
    assert "Group -1" not in page.text


def test_one_unseen_class_is_one() -> None:
    assert "in truth 1 class was unseen" in section(sample.discovery((12, 9)), n_unseen=1).text


def test_zero_groups_are_a_sentence_without_a_figure() -> None:
    page = section(sample.discovery((), 12))
    assert page.all("img") == []
    assert "Agreement with the true classes" not in page.text


def test_the_caption_names_a_dashed_line_only_where_one_is_drawn() -> None:
    for found in (sample.discovery((12, 9), 5), sample.discovery((12,)), scattered(3)):
        page = section(found)
        uris = [str(a["src"]) for a in page.all("img") if "svg" in str(a["src"])]
        svg = base64.b64decode(uris[0].split(",")[1]).decode()
        assert any("cut" in word for word in words(svg)) == ("dashed line" in page.text)


def test_a_view_counts_its_outliers() -> None:
    assert sample.discovery((5, 4), 3).n_outliers == 3
    assert sample.discovery((5, 4)).n_outliers == 0
