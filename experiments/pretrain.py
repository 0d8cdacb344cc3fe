"""`clip-fewshot pretrain` from a checkout; with --preset, the recipe of the model that ships with the package.

`python -m experiments.pretrain PAIRS --out DIR`, and `python -m experiments.pretrain --preset mini --out DIR`.
"""

import sys

from clip_fewshot.commands import run_command
from experiments.glyphs import command

if __name__ == "__main__":
    preset = any(word.split("=")[0] == "--preset" for word in sys.argv[1:])
    sys.exit(command.start() if preset else run_command("pretrain"))
