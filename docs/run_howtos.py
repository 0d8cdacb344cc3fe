"""Run what docs/start.md and docs/howto say, and put the answers under the commands: `python docs/run_howtos.py`.

The pages share one new folder, in the order of docs/howto/index.md: a later page goes on with what an earlier one made.
The photos in it are digits. Standard output alone is shown, its sentences folded at the width of a page. `--check`
writes nothing, and fails where an answer has other words than the page; figures are not compared, for the last digit
depends on the machine. Three minutes of one core.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from pathlib import Path

DOCS = Path(__file__).parent
WIDTH = 104  # characters of code that a page shows at 1280 pixels
NEW = {"two", "five"}  # classes of new_pictures/ that photos/ lacks
ANSWERED = re.compile(r"```console\n(\$ .*?[^\\]\n)(.*?)```|```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
START = 'clip-fewshot() {{ {python} -m clip_fewshot "$@"; }}\npython() {{ {python} "$@"; }}\n'


def pages() -> list[Path]:
    """In their order; those of docs/ itself that the list of the how-tos names have answers of their own."""
    listed = re.findall(r"^(\w+)$", (DOCS / "howto/index.md").read_text("utf-8"), flags=re.M)
    return [DOCS / "start.md", *(DOCS / "howto" / f"{name}.md" for name in listed)]


def lay_out(folder: Path) -> None:
    """Write photos/CLASS/ (60 pictures of eight digits each), strangers/ (of two), new_pictures/ (20 of each)."""
    import clip_fewshot as cf

    digits, met = cf.read_dataset("digits"), Counter[str]()
    for i, label in enumerate(digits.labels):
        name = digits.label_space.names[label]
        met[name] += 1
        home = Path("new_pictures") if met[name] <= 20 else Path("strangers" if name in NEW else "photos", name)
        if met[name] <= 80:
            (folder / home).mkdir(parents=True, exist_ok=True)
            digits.open(i).save(folder / home / f"{i:04}.png")


def answer(command: str, program: str, folder: Path) -> str:
    """What a command for the shell, or a Python program, prints."""
    script = START.format(python=shlex.quote(sys.executable)) + command.removeprefix("$ ")
    words = ["bash", "-c", script] if command else [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command or program}\nexit code {done.returncode}")
    said = done.stdout.removeprefix("\ufeff")  # of a table that Excel opens too
    said = said.replace(sys.executable, "python").replace("python -m clip_fewshot ", "clip-fewshot ")
    return "\n".join(folded(line.rstrip()) for line in said.strip("\n").split("\n")) + "\n"


def folded(line: str) -> str:
    """A sentence in lines of a page's width; a table's row, whose cells lie two spaces or a bar apart, as it is."""
    if len(line) <= WIDTH or "  " in line.strip() or "|" in line or set(line) == {"-"}:
        return line
    return textwrap.fill(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def renewed(text: str, folder: Path) -> str:
    """A page with the answers of today."""

    def ask(block: re.Match[str]) -> str:
        said = answer(block[1] or "", block[3] or "", folder)
        if block[1]:
            return f"```console\n{block[1]}{said}```"
        return f"```python\n{block[3]}```\n\n```text\n{said}```"

    return ANSWERED.sub(ask, text)


def words_of(text: str) -> str:
    """What two machines must agree on."""
    return re.sub(r"[\d.,\s\-–−+]+", " ", text)


def main(check: bool) -> None:
    """Renew the pages, or compare."""
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        for page in pages():
            old = page.read_text("utf-8")
            new = renewed(old, Path(folder))
            if check and words_of(new) != words_of(old):
                sys.exit(f"{page}: the answers have changed; python docs/run_howtos.py renews them")
            if not check:
                page.write_text(new, "utf-8")
            print(page.relative_to(DOCS))


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
