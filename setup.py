"""What pyproject.toml cannot say: the README for the package index, where a link needs the repository's address."""

import re
from pathlib import Path

from setuptools import setup

RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)")


def read(name: str) -> str:
    """A file of the root; "" in the image's dependency layer (docker/), which is built before it is copied."""
    path = Path(__file__).parent / name
    return path.read_text("utf-8") if path.exists() else ""


def find(pattern: str, name: str) -> str:
    """What the group matches in the file's first line that fits, or ""."""
    found = re.search(pattern, read(name), flags=re.MULTILINE)
    return found[1] if found else ""


def render_readme(repository: str, tag: str) -> str:
    """The README with absolute links to the files of a tag; without a repository, its words and no pictures."""

    def point(link: re.Match[str]) -> str:
        picture, text, path = link.groups()
        if not repository:
            return "" if picture else text
        return f"{picture}[{text}]({repository}/{'raw' if picture else 'blob'}/{tag}/{path})"

    return RELATIVE.sub(point, read("README.md"))


# The one place of the address, which a fork changes too. An address in pyproject.toml would be a second one.
repository = find(r"^repository-code: *[\"']?(\S+?)/?[\"']?$", "CITATION.cff")
tag = "v" + find(r'^version = "(.+)"', "pyproject.toml")
setup(
    long_description=render_readme(repository, tag),
    long_description_content_type="text/markdown",
    project_urls={
        "Repository": repository,
        "Documentation": f"{repository}/blob/{tag}/docs/index.md",
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
    }
    if repository
    else {},
)
