"""Every cross-reference of a docstring names something that exists, in a way that a reader (and Sphinx) can follow."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for top in ("clip_fewshot", "experiments") for path in (ROOT / top).rglob("*.py"))
REFERENCE = re.compile(r":(mod|class|func|meth|attr|data|exc):`~?([^`]+)`")


def defined(path: Path) -> Iterator[str]:
    """The classes, functions and constants that a module defines itself."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def imported(path: Path) -> ModuleType:
    return import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


HOMES: dict[str, list[Path]] = defaultdict(list)
for module_path in MODULES:
    for defined_name in defined(module_path):
        HOMES[defined_name].append(module_path)


class Reference(NamedTuple):
    """What a docstring refers to, and the classes around that docstring."""

    kind: str
    target: str
    inside: tuple[str, ...]


def references(node: ast.AST, inside: tuple[str, ...] = ()) -> Iterator[Reference]:
    """Of all docstrings in a module."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        here = (*inside, node.name) if isinstance(node, ast.ClassDef) else inside
        for kind, target in REFERENCE.findall(ast.get_docstring(node) or ""):
            yield Reference(kind, target, here)
        inside = here
    for child in ast.iter_child_nodes(node):
        yield from references(child, inside)


def follow(value: object, path: list[str]) -> bool:
    """Whether ``path`` leads from ``value`` to something; a field of a dataclass counts though the class lacks it."""
    for name in path:
        if name in getattr(value, "__annotations__", {}) and not hasattr(value, name):
            return name == path[-1]
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


def exists(reference: Reference, module: ModuleType) -> bool:
    """A dotted path; a name of the classes around or of the module; or a name that one module alone defines."""
    path = reference.target.split(".")
    if path[0] in ("clip_fewshot", "experiments"):
        for end in range(len(path), 0, -1):
            try:
                home = import_module(".".join(path[:end]))
            except ModuleNotFoundError:
                continue
            return follow(home, path[end:]) and (reference.kind != "mod" or end == len(path))
    if reference.kind == "mod":
        return False
    around = [value for name in reference.inside if (value := getattr(module, name, None))]
    homes = [imported(home) for home in HOMES[path[0]]] if len(HOMES[path[0]]) == 1 else []
    return any(follow(place, path) for place in (*around, module, *homes))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_docstring_refers_to_exists(path: Path) -> None:
    found = list(references(ast.parse(path.read_text("utf-8"))))
    if not found:
        return
    module = imported(path)
    stale = [f":{item.kind}:`{item.target}`" for item in found if not exists(item, module)]
    assert not stale, f"{path.relative_to(ROOT)} refers to {', '.join(stale)}"


def test_the_check_can_fail() -> None:
    module = import_module("clip_fewshot.data.read")
    assert exists(Reference("func", "read_dataset", ()), module)
    assert exists(Reference("class", "FewShotClassifier", ()), module)  # one module alone defines it
    assert not exists(Reference("func", "read_nothing", ()), module)
    assert not exists(Reference("mod", "old.solver", ()), module)
    assert not exists(Reference("mod", "clip_fewshot.data.read.read_dataset", ()), module)
