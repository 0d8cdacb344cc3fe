"""What the shortcuts save: `python -m experiments.benchmark [CASE ...] [--record FILE]`.

Each case does one thing the plain way and ours, in turns in one process, and prints the medians, the ratio, and beside
it the figure that shows that both computed the same. `cases` is an open folder: a module with a function ``rows`` and
its name in ``CASES`` is a case.
"""

from experiments.benchmark.command import DESCRIPTION as DESCRIPTION
from experiments.benchmark.command import PROG as PROG
from experiments.benchmark.command import main as main
from experiments.benchmark.options import Options as Options
