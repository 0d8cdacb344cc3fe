import sys

from experiments.benchmark import DESCRIPTION, PROG, Options, main
from experiments.options import run

if __name__ == "__main__":  # a child process of a case imports this module too
    sys.exit(run(main, Options, PROG, DESCRIPTION))
