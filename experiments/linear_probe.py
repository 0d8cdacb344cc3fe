"""`clip-fewshot linear-probe` from a checkout: `python -m experiments.linear_probe`."""

import sys

from clip_fewshot.commands import run_command

if __name__ == "__main__":
    sys.exit(run_command("linear_probe"))
