"""The contract of a method of discovery."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import is_valid_linkage

from clip_fewshot.discovery import DiscovererPart, discover_classes
from clip_fewshot.discovery.base import Discoverer, Partition
from clip_fewshot.discovery.known import KnownRows
from clip_fewshot.evaluation.clustering import ari
from clip_fewshot.testing.contract import clusters, demand, demand_members, global_state, run_checks
from clip_fewshot.types import FloatArray

_D, _MOST = 24, 6
_REFERENCE = clusters(4, 8, _D, seed=1)[:2]
_KNOWN = KnownRows.from_features(*_REFERENCE)
_ROWS = clusters(2, 14, _D, seed=2)[0]
UNIT = _ROWS / np.linalg.norm(_ROWS, axis=1, keepdims=True)


def check_discoverer(part: DiscovererPart) -> None:
    """Check a method against :class:`clip_fewshot.discovery.base.Discoverer`.

    Args:
        part: a class, or a function, that is called as ``(known, most, seed)``.

    Raises:
        ContractError: names what does not hold.
    """
    run_checks(_CHECKS, part)


def has_the_members(part: DiscovererPart) -> None:
    """Methods of what it builds."""
    demand_members(part(_KNOWN, _MOST, 0), Discoverer)


def demand_parts(found: Partition, n: int) -> None:
    """Labels of n rows, and a tree of them."""
    demand(isinstance(found, Partition), f"part gives a {type(found).__name__}, and no Parts")
    demand(found.labels.shape == (n,), f"labels of {n} rows have the shape {found.labels.shape}")
    demand(found.labels.dtype.kind == "i" and (found.labels >= -1).all(), "labels are not whole numbers from -1 up")
    demand(is_valid_linkage(found.tree) and len(found.tree) == n - 1, f"the tree is no linkage of {n} rows")
    demand(len(found.rises) == len(found.needed), "rises and needed differ in length")


def parts_any_rows(part: DiscovererPart) -> None:
    """Two and more, and rows that are all the same."""
    rule = part(_KNOWN, _MOST, 0)
    for rows in (UNIT, UNIT[:2], UNIT[:3], np.repeat(UNIT[:1], 9, axis=0)):
        demand_parts(rule.part(rows), len(rows))
    alike = rule.part(np.repeat(UNIT[:1], 9, axis=0)).labels
    demand(len(np.unique(alike)) == 1, "copies of one picture fall into several parts")


def the_order_of_rows_has_no_say(part: DiscovererPart) -> None:
    """The same parts under other numbers; the same rule asked again gives the same bytes."""
    rule, order = part(_KNOWN, _MOST, 0), np.random.default_rng(5).permutation(len(UNIT))
    plain, turned = rule.part(UNIT).labels, rule.part(UNIT[order]).labels
    demand(ari(plain[order], turned) == 1, "the order of the rows changes the parts")
    demand(np.array_equal(rule.part(UNIT).labels, plain), "the same rule parts the same rows in another way")


def a_seed_is_all_its_chance(part: DiscovererPart) -> None:
    """Also of its resamples; neither rows nor numpy's global generator are touched."""
    rows, before = UNIT.copy(), global_state()
    first, second = (_resampled_labels(part, rows) for _ in range(2))
    demand(np.array_equal(first, second), "the same seed gives other parts")
    demand(np.array_equal(rows, UNIT), "part changes the features that it is given")
    demand(np.array_equal(global_state(), before), "numpy's global random state moves")


def _resampled_labels(part: DiscovererPart, rows: FloatArray) -> FloatArray:
    rng, rule = np.random.default_rng(3), part(_KNOWN, _MOST, 7)
    resampled = rule.resample(rng)
    demand_members(resampled, Discoverer)
    found = [rule.part(rows), resampled.part(rows), resampled.resample(rng).part(rows[:9])]
    for parts, n in zip(found, (len(rows), len(rows), 9), strict=True):
        demand_parts(parts, n)
    return np.concatenate([parts.labels for parts in found])


def its_groups_come_with_all_that_is_promised(part: DiscovererPart) -> None:
    """Through :func:`discover_classes`: the largest group first, an interval, a stability of each."""
    found = discover_classes(_ROWS, reference=_REFERENCE, method=part, max_clusters=_MOST)
    sizes = [int((found.labels == k).sum()) for k in range(found.n_clusters)]
    demand(sizes == sorted(sizes, reverse=True), "groups do not stand in the order of their size")
    demand(found.interval[0] <= found.n_clusters <= found.interval[1], "the interval does not hold the count")
    demand(all(0 <= share <= 1 for share in found.stability), "a stability is not in [0, 1]")


_CHECKS = (
    has_the_members,
    parts_any_rows,
    the_order_of_rows_has_no_say,
    a_seed_is_all_its_chance,
    its_groups_come_with_all_that_is_promised,
)
