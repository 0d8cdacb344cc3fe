"""How the documentation site is made: `sphinx-build -W docs site` (the extra `docs`), then open site/index.html.

A dead link within the site, to a heading or to a file of the checkout is a warning, and so an error. Those that leave
it are asked by `sphinx-build -b linkcheck docs links`, which takes the network and is no part of `.ci/run`.

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

import inspect
import os
import re
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from jupyter_cache.executors import utils

import clip_fewshot
from clip_fewshot.commands.cli.parser import build_parser
from clip_fewshot.few_shot.approach import Approach

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
html_static_path, html_css_files = ["site.css"], ["site.css"]
add_module_names = False
python_maximum_signature_line_length = 80
autodoc_member_order = "bysource"
linkcheck_timeout, linkcheck_anchors = 20, False  # no anchors: the marks of GitHub's threads are made by scripts
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


class ItemList(Directive):
    """``item-list:: clip_fewshot.novelty.DETECTORS``: the parts in a dict, or the options of a class, a line each."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A list, its texts read as those of docstrings are."""
        module, name = self.arguments[0].rsplit(".", 1)
        items = getattr(import_module(module), name)
        if is_dataclass(items):
            said = {f"{field.name} = {field.default!r}": field.metadata["help"] for field in fields(items)}
        else:
            said = {part: describe_part(value) for part, value in items.items()}
        lines = StringList([f"- ``{item}``: {text}" for item, text in said.items()])
        box = nodes.container()
        self.state.nested_parse(lines, self.content_offset, box)
        return box.children


def describe_part(part: Any) -> str:
    """The first paragraph of its docstring; of an approach what trains and what classifies."""
    if isinstance(part, Approach):
        trained = f"trains {part.towers} by {part.tuning}, loss {part.loss}"
        last = f"the head {part.head}" if part.ends_in == "head" else f"the probe {part.probe}"
        return f"{'nothing trains' if part.towers == 'none' else trained}; {last} classifies."
    return " ".join((inspect.getdoc(getattr(part, "read", part)) or "").partition("\n\n")[0].split())


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


def open_to_keys(app: object, page: str, template: str, context: dict[str, Any], tree: object) -> None:
    """Code that is wider than the page scrolls by keys too; captions of the navigation are headings of a level."""
    context["body"] = context.get("body", "").replace("<pre>", '<pre tabindex="0">')
    captions = context["furo_navigation_tree"]
    context["furo_navigation_tree"] = captions.replace('role="heading"', 'role="heading" aria-level="2"')


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_directive("command-help", CommandHelp)
    app.add_directive("item-list", ItemList)
    app.connect("autodoc-skip-member", skip_generated)
    app.connect("autodoc-process-docstring", quote_names)
    app.connect("source-read", place_page)
    app.connect("html-page-context", open_to_keys, priority=900)  # after Furo's own
