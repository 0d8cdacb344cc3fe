"""Learning from a few labelled pictures, and knowing what you have never seen.

The stub beside this file is the one list of public names, for people, for type checkers and for import. A name is
imported when it is first used, so that ``import clip_fewshot`` and every ``--help`` cost nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
