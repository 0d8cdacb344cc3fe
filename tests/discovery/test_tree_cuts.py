"""Cuts of a tree are SciPy's, whatever the number of parts."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster

from clip_fewshot.discovery.tree_cuts import TreeCuts
from clip_fewshot.discovery.ward_tree import ward_tree


def test_every_cut_is_that_of_scipy() -> None:
    tree = ward_tree(np.random.default_rng(0).normal(size=(23, 3)))
    cuts = TreeCuts.from_mergers(tree)
    for parts in range(1, 24):
        ours, expected = cuts.cut(parts), fcluster(tree, parts, "maxclust")
        assert len(set(ours)) == ours.max() + 1 == parts
        assert ((ours[:, None] == ours) == (expected[:, None] == expected)).all()
