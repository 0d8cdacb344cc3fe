"""Learning from a few labelled pictures, and knowing what you have never seen.

The stub beside this file is the one list of public names, for people, for type checkers and for import. A name is
imported when it is first used, so that ``import clip_fewshot`` and every ``--help`` cost nothing.
"""

import re
from pathlib import Path

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Until the commands in experiments/ import the modules they need: what stands below "Leaving" works, and is not shown.
_LEAVING = Path(__file__).with_suffix(".pyi").read_text("utf-8").partition("# Leaving")[2]
__all__ = sorted({*__all__} - {*re.findall(r"import (\w+) as", _LEAVING)})
__dir__ = __all__.copy
