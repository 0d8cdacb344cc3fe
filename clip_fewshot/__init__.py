"""Learning from a few labelled pictures, and knowing what you have never seen.

The stub beside this file is the one list of public names, for people, for type checkers and for import. A name is
imported when it is first used, so that ``import clip_fewshot`` and every ``--help`` cost nothing. The other classes of
members are found by their names too: ``clip_fewshot.KNNDetector`` is ``DETECTORS["knn"]``.
"""

from importlib import import_module
from typing import Any

import lazy_loader

__version__ = "0.1.0"

MEMBERS = {"Detector": "novelty", "Probe": "probes", "Head": "heads"}
_find_listed, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    for kind, room in MEMBERS.items():
        if name.endswith(kind) and name not in __all__:
            return getattr(import_module(f"{__name__}.{room}"), name)
    return _find_listed(name)
