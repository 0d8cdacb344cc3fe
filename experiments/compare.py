"""`clip-fewshot compare` from a checkout: `python -m experiments.compare`."""

import sys

from clip_fewshot.commands import run_command

if __name__ == "__main__":
    sys.exit(run_command("compare"))
