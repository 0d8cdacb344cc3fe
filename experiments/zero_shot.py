"""`clip-fewshot zero-shot` from a checkout: `python -m experiments.zero_shot`."""

import sys

from clip_fewshot.commands import run_command

if __name__ == "__main__":
    sys.exit(run_command("zero_shot"))
