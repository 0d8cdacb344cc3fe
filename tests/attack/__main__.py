"""``python -m tests.attack``: the whole of every attack, and the table of what was tried and what held.

python -m tests.attack                          all, from where the last run with that folder and seed stopped
python -m tests.attack --only "corrupted store" --count 500
python -m tests.attack --seconds 600 --out docs/reliability.md
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

from tests.attack.harness import attacks, run, table

HEAD = """# What was tried to break it

`python -m tests.attack --out docs/reliability.md` writes this page; a small draw of each attack is part of `pytest`, a
larger one of `pytest -m attack`. *Tried* is what was really run, not what was planned. *Held* is how often the library
did what it must. A case follows from the seed and its number alone: `--only NAME --folder FOLDER` goes on where a run
with that folder stopped, and each line of its results says how to see a fault again.

What the table does not show: a power cut or a disk that lies, network file systems, Windows and macOS, several
machines, GPUs. Pillow's decoders are contained, not verified. In every run of the tests, in full, stand odd and wrong
arrays (`tests/contracts/test_doors.py`) and outputs over foreign files (`tests/commands/test_outputs.py`); kills of the
main job and of a store are many in `pytest -m slow` (`test_interruptions.py`, `test_crashes.py`).

"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="attacks whose names begin so (repeatable)")
    parser.add_argument("--count", type=int, help="cases of each attack, instead of the whole")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time for each attack")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/attack"), help="inputs and results")
    parser.add_argument("--out", type=Path, help="a page with the table")
    chosen = parser.parse_args(argv)
    rows = []
    for attack in attacks():
        if chosen.only and not attack.name.startswith(tuple(chosen.only)):
            continue
        count = attack.whole if chosen.count is None else chosen.count
        rows.append((attack, run(attack, chosen.folder.absolute(), chosen.seed, count, chosen.seconds)))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    page = table(rows)
    if chosen.out is not None:
        command = f"python -m tests.attack --seed {chosen.seed}"
        where = f"`{command}`, Python {platform.python_version()} on {platform.system()}."
        chosen.out.write_text(f"{HEAD}{page}\n\n{where}\n")
    failed = sum(not one["held"] for _, results in rows for one in results)
    print(f"{failed} of {sum(len(results) for _, results in rows):,} cases did not hold", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
