"""Figures of the report and of notebooks: plain arrays in, a drawing and its description out.

The stub beside this file lists them. Each is imported when it is first used: most commands import words of this room
and draw nothing, and matplotlib takes as long to import as they take to answer.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
