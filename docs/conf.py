"""How the documentation site is made: `sphinx-build -W docs site` (the extra `docs`), then open site/index.html.

Sphinx, and not mkdocs-material with mkdocstrings. Both were tried on the same classes: the other prints the 400
cross-references of the docstrings as they stand, role and all; asks the network for fonts, and for the search of a
site that is opened from disk; and its makers have announced its end for May 2027. Sphinx resolves the references and
asks no network.

The tutorials are notebooks. MyST-NB runs each in a kernel of its own at every build and shows what it prints. It brings
36 packages; nbclient and ipykernel alone, with a page of our own to turn cells into pages, would still be 29. nbsphinx
needs pandoc, which no package index has. The notebooks of the checkout hold no outputs: a change of them is as small as
it is. A cell that fails, or warns, fails the build.
"""

from __future__ import annotations

import os
import re
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from jupyter_cache.executors import utils

import clip_fewshot
from clip_fewshot.commands.cli.parser import build_parser

project, author, release = "clip_fewshot", "the authors of clip_fewshot", clip_fewshot.__version__
copyright = "the authors of clip_fewshot, MIT licence"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
nb_execution_mode, nb_execution_timeout, nb_execution_in_temp = "force", 600, True  # seconds a cell
nb_execution_raise_on_error, nb_output_stderr = True, "remove-warn"
nb_render_markdown_format = "myst"  # it knows tables
os.environ["TQDM_DISABLE"] = "1"  # in the kernels: bars go to standard error, as warnings do, and only these are meant
# MyST-NB hands no options to the client; without this, what a command prints breaks after each 100 bytes.
utils.executenb = partial(utils.executenb, coalesce_streams=True)
html_theme, html_title, html_show_sourcelink = "furo", f"clip_fewshot {release}", False
html_copy_source = False
add_module_names = False
python_maximum_signature_line_length = 80
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # `unfreeze=AUTO`, not what it is at the moment of the build
myst_heading_anchors = 3
napoleon_use_ivar = True
napoleon_custom_sections = [("Class attributes", "params_style")]

ROOT = Path(__file__).parent.parent
OUTSIDE = {  # what lies elsewhere in the checkout, and the page that shows it
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
    "clip_fewshot/backbones/mini/MODEL_CARD.md": "mini",
    "clip_fewshot/backbones/photos/MODEL_CARD.md": "photos",
}
LINK = re.compile(rf"\]\(((?:\.\./)*)({'|'.join(map(re.escape, OUTSIDE))})")
ESTIMATED = re.compile(r"(?<![\w`.~])(\w+_)\b(?![\w`])")  # `classes_` and the like: a link in Sphinx's language


class CommandHelp(Directive):
    """``{command-help} open_world init``: what `--help` says, from the parser itself."""

    required_arguments, final_argument_whitespace = 1, True

    def run(self) -> list[nodes.Node]:
        """One literal block."""
        words = self.arguments[0].split()
        command: Any = import_module(f"clip_fewshot.commands.{'.'.join(words)}")
        prog = " ".join(["clip-fewshot", *words]).replace("_", "-")
        text = build_parser(command.Options, prog, command.DESCRIPTION, command.EXAMPLES).format_help()
        return [nodes.literal_block(text, text, language="text")]


def skip_generated(app: object, what: str, name: str, value: object, skip: bool, options: object) -> bool:
    """Leave out the methods that scikit-learn puts into each estimator."""
    return skip or (name.startswith("set_") and name.endswith("_request"))


def place_page(app: object, page: str, source: list[str]) -> None:
    """Read the pages of ``OUTSIDE`` from where they are, and turn links to them into links to their pages."""
    home = next((path for path, shown in OUTSIDE.items() if shown == page and page != "index"), None)
    text = source[0] if home is None else (ROOT / home).read_text("utf-8").replace("](docs/", "](../docs/")
    text = LINK.sub(lambda link: f"]({link[1].removeprefix('../')}{OUTSIDE[link[2]]}.md", text)
    source[0] = text.replace("](../docs/", "](").replace("](LICENSE)", "](../LICENSE)")


def quote_names(app: object, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Set scikit-learn's names with an underscore at the end as code."""
    lines[:] = [line if line.startswith(">>>") else ESTIMATED.sub(r"``\1``", line) for line in lines]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-skip-member", skip_generated)
    app.connect("autodoc-process-docstring", quote_names)
    app.connect("source-read", place_page)
