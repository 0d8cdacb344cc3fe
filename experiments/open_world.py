"""`clip-fewshot open-world` from a checkout: `python -m experiments.open_world COMMAND STORE ...`."""

import sys

from clip_fewshot.commands import run_command

if __name__ == "__main__":
    sys.exit(run_command("open_world"))
