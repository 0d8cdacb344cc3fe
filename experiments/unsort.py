"""`clip-fewshot unsort` from a checkout: `python -m experiments.unsort`."""

import sys

from clip_fewshot.commands import run_command

if __name__ == "__main__":
    sys.exit(run_command("unsort"))
