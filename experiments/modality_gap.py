"""`clip-fewshot modality-gap` from a checkout: `python -m experiments.modality_gap`."""

import sys

from clip_fewshot.commands import run_command

if __name__ == "__main__":
    sys.exit(run_command("modality_gap"))
