"""Entry of ``python -m experiments.benchmark``."""

import sys

from clip_fewshot.commands.cli.run import run
from experiments.benchmark import DESCRIPTION, PROG, Options, main

if __name__ == "__main__":  # a child process of a case imports this module too
    sys.exit(run(main, Options, PROG, DESCRIPTION))
