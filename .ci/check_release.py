"""Refuses a release whose tag, changelog, citation or address do not agree; prints what the changelog says of it.

python .ci/check_release.py v0.1.0 https://github.com/OWNER/clip_fewshot > notes.md
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def find(pattern: str, name: str) -> str:
    """What the groups of a pattern hold, in a file that must have it."""
    found = re.search(pattern, (ROOT / name).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    if not found:
        sys.exit(f"{name}: nothing fits {pattern}")
    return found[1].strip()


def check(tag: str, repository: str) -> str:
    """The notes of the release."""
    version = find(r'^version = "([^"\n]+)"', "pyproject.toml")
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, and pyproject.toml has version {version}")
    cited = find(r"^version: ([^\n]+)", "CITATION.cff")
    if cited != version:
        sys.exit(f"CITATION.cff has version {cited}, and pyproject.toml {version}")
    address = find(r"^repository-code: ([^\n]+)", "CITATION.cff").strip("\"'").rstrip("/")
    if address != repository:
        sys.exit(f"CITATION.cff has the repository {address}, and this is {repository}")
    return find(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)\n(.+?)(?=^## |\Z)", "CHANGELOG.md")


if __name__ == "__main__":
    print(check(*sys.argv[1:]))
