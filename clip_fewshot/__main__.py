"""`python -m clip_fewshot NAME` is `clip-fewshot NAME`."""

import sys

from clip_fewshot.commands import main

if __name__ == "__main__":  # a process that torch or multiprocessing starts imports this module too
    sys.exit(main())
