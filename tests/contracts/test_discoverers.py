"""Every method in DISCOVERERS keeps the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clip_fewshot.discovery import DISCOVERERS
from clip_fewshot.testing.discoverers import _CHECKS


@pytest.mark.parametrize("method", DISCOVERERS)
@pytest.mark.parametrize("check", _CHECKS, ids=lambda check: check.__name__)
def test_contract(method: str, check: Callable[..., None]) -> None:
    check(DISCOVERERS[method])
