"""`clip-fewshot export` from a checkout: `python -m experiments.export`."""

import sys

from clip_fewshot.commands import run_command

if __name__ == "__main__":
    sys.exit(run_command("export"))
