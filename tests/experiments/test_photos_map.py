"""The map that ships is the one that its derivation gives."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from clip_fewshot.backbones.checkpoint import read_state
from clip_fewshot.backbones.real_photos import PHOTOS_MAP, PINNED
from experiments.photos_map import derive_map, imagenet_names


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, (*PINNED, "torchvision"))), reason="the extra photos is not installed")
def test_the_map_is_derived_from_names_alone() -> None:
    shipped = read_state(PHOTOS_MAP)["map"].numpy()
    np.testing.assert_allclose(derive_map(imagenet_names()), shipped, rtol=1e-3, atol=2e-6)
