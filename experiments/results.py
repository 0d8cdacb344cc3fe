"""`clip-fewshot results` from a checkout: `python -m experiments.results`."""

import sys

from clip_fewshot.commands import run_command

if __name__ == "__main__":
    sys.exit(run_command("results"))
