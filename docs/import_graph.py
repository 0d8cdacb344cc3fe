"""The house as a graph, read off its imports with ``ast``: `python docs/import_graph.py` prints its figures.

A room is a folder or a loose module of the package. Its floor is one above the highest room that it imports from, in
whatever way: lazy imports, those for type checkers and module names in strings count.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "clip_fewshot"

Graph = Mapping[str, set[str]]


def module_files(top: str = PACKAGE) -> dict[str, Path]:
    """Dotted name -> file, of every module under a folder but its face and its door, ``__main__``."""
    paths = sorted((ROOT / top).rglob("*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)
    return {name: path for name, path in zip(names, paths, strict=True) if name not in (top, f"{top}.__main__")}


def module_graph(top: str = PACKAGE) -> dict[str, set[str]]:
    """Each module with the modules under the same folder that it imports, however it does."""
    files = module_files(top)
    return {name: _targets(path, files) - {name} for name, path in files.items()}


def _targets(path: Path, files: Mapping[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and re.fullmatch(r"\w+(\.\w+)+", str(node.value)):
            names = [str(node.value)]
        for name in names:
            known = next((n for n in _prefixes(name) if n in files), None)
            found |= {known} if known else set()
    return found


def _prefixes(name: str) -> Iterable[str]:
    """a.b.c, a.b, a: what is imported may be a module, or a name in one."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def room_of(module: str) -> str:
    """The first name below the package."""
    return module.split(".")[1]


def room_graph(modules: Graph) -> dict[str, set[str]]:
    """Each room with the rooms it imports from."""
    rooms: dict[str, set[str]] = {room_of(name): set() for name in modules}
    for name, targets in modules.items():
        rooms[room_of(name)] |= {room_of(target) for target in targets} - {room_of(name)}
    return rooms


def longest_chain(modules: Graph) -> list[str]:
    """The longest way down the imports, from its top; there must be no circle."""

    @cache
    def way(name: str) -> tuple[str, ...]:
        below: tuple[str, ...] = max((way(target) for target in sorted(modules[name])), key=len, default=())
        return (name, *below)

    longest: tuple[str, ...] = max((way(name) for name in sorted(modules)), key=len)
    return [*longest]


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other."""
    reached = {name: _reached(graph, name) for name in graph}
    groups = {frozenset({other for other in reached[name] if name in reached[other]}) for name in graph}
    return sorted(sorted(group) for group in groups if group)


def _reached(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


def floors(rooms: Graph) -> dict[str, int]:
    """Room -> floor, from 0 on the ground."""

    @cache
    def height(name: str) -> int:
        return 1 + max((height(target) for target in rooms[name]), default=-1)

    return {name: height(name) for name in rooms}


def without_implied(rooms: Graph) -> dict[str, set[str]]:
    """The arrows that do not follow from others."""
    below = {name: _reached(rooms, name) for name in rooms}
    return {
        name: {target for target in targets if not any(target in below[other] for other in targets)}
        for name, targets in rooms.items()
    }


def main() -> int:
    """Print the counts, and fail where there is a circle."""
    modules = module_graph()
    rooms, closed = room_graph(modules), circles(modules)
    for circle in closed:
        print("circle:", " ".join(circle))
    if closed or circles(rooms):
        return 1
    arrows, chain = sum(map(len, rooms.values())), longest_chain(modules)
    print(f"{len(rooms)} rooms, {1 + max(floors(rooms).values())} floors, {arrows} arrows, no circle")
    print(f"longest chain, {len(chain)} files:", *chain, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
