"""Draw the house from its imports: `python docs/draw_architecture.py` writes docs/architecture.svg.

`--check` writes nothing and fails where the committed picture is stale: rooms, floors or arrows have changed, or a line
count is off by more than a tenth. Arrows that follow from others are left out. The figures: docs/import_graph.py.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from import_graph import PACKAGE, ROOT, Graph, floors, module_graph, room_graph, without_implied

PICTURE = Path(__file__).with_name("architecture.svg")
OPEN = {"data", "heads", "losses", "backbones", "probes", "novelty", "discovery", "tuning"}
COLOURS = ("#4c78a8", "#b5651d", "#5b8c5a", "#9a5b8f", "#8a7a3d", "#3b8b8b", "#a94f4f", "#6a6aa8")
WIDTH, HEIGHT, FLOOR, GAP, LANE, MARGIN = 132, 50, 104, 26, 14, 40  # pixels
SWEEPS = 24


Node = tuple[str, int]  # a room on its floor, or on a floor below an arrow to it that passes there


class Drawing:
    """Where everything stands. Arrows to one room share their way through the floors between."""

    def __init__(self, rooms: Graph) -> None:
        self.height = floors(rooms)
        self.arrows: set[tuple[Node, Node]] = set()
        for name, targets in sorted(without_implied(rooms).items()):
            for target in sorted(targets):
                lanes = [(target, floor) for floor in range(self.height[target], self.height[name])]
                self.arrows |= {*zip([*lanes[1:], (name, self.height[name])], lanes, strict=True)}
        nodes = {node for arrow in self.arrows for node in arrow} | {*self.height.items()}
        self.rows = [sorted(n for n in nodes if n[1] == floor) for floor in range(1 + max(self.height.values()))]
        self.near: dict[Node, list[Node]] = defaultdict(list)
        for upper, lower in sorted(self.arrows):
            self.near[upper].append(lower)
            self.near[lower].append(upper)
        self.x: dict[Node, float] = {}
        for row in self.rows:
            self._place(row, [0.0] * len(row))
        self._settle()

    def is_room(self, node: Node) -> bool:
        """Whether a node is a room and not a place where an arrow passes a floor."""
        return self.height[node[0]] == node[1]

    def _settle(self) -> None:
        """Order each floor by what it is tied to, up and down in turn, then draw the ties straight."""
        for sweep in range(SWEEPS):
            step = 1 if sweep % 2 else -1
            for row in self.rows[::step]:
                aim = {node: self._aim(node, node[1] - step) for node in row}
                row.sort(key=lambda node: (aim[node], node))
                self._place(row, [aim[node] for node in row])
        for _ in range(SWEEPS):
            for row in self.rows:
                self._place(row, [self._aim(node, None) for node in row])

    def _aim(self, node: Node, floor: int | None) -> float:
        """The mean place of the neighbours, on one floor or on both."""
        places = [self.x[other] for other in self.near[node] if floor is None or other[1] == floor]
        return sum(places) / len(places) if places else self.x[node]

    def _place(self, row: Sequence[Node], wanted: Sequence[float]) -> None:
        """The places nearest to those wanted, in least squares, that keep order and distance."""
        shift, shifts = 0.0, [0.0]
        for left, right in pairwise(row):
            shift += (self._width(left) + self._width(right)) / 2 + GAP
            shifts.append(shift)
        pools: list[list[float]] = []  # isotonic regression: neighbours that would overlap move as one
        for value, moved in zip(wanted, shifts, strict=True):
            pools.append([value - moved])
            while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
                pools[-2:] = [pools[-2] + pools[-1]]
        flat = [_mean(pool) for pool in pools for _ in pool]
        self.x.update({node: place + moved for node, place, moved in zip(row, flat, shifts, strict=True)})

    def _width(self, node: Node) -> float:
        return WIDTH if self.is_room(node) else LANE


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def drawn(rooms: Graph) -> str:
    """The picture, as SVG."""
    plan = Drawing(rooms)
    left = min(plan.x.values()) - WIDTH / 2 - MARGIN
    width = max(plan.x.values()) - left + WIDTH / 2 + MARGIN
    height = FLOOR * len(plan.rows) + 2 * MARGIN
    place = {
        node: (x - left, height - MARGIN - FLOOR * (node[1] + 0.5)) for node, x in plan.x.items()
    }  # the ground floor is the lowest
    targets = sorted({lower[0] for _, lower in plan.arrows}, key=lambda name: (plan.height[name], name))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(targets)}
    body = [
        f'<rect class="floor" y="{height - MARGIN - FLOOR * (floor + 1):.0f}" width="{width:.0f}" height="{FLOOR}"/>'
        for floor in range(0, len(plan.rows), 2)
    ]
    body += [_arrow(plan, place, upper, lower, colour[lower[0]]) for upper, lower in sorted(plan.arrows)]
    body += [_box(name, place[name, floor], rooms) for name, floor in sorted(plan.height.items())]
    return _page(width, height, body, colour.values(), f"{len(rooms)} rooms on {len(plan.rows)} floors")


def _arrow(plan: Drawing, place: Mapping[Node, tuple[float, float]], upper: Node, lower: Node, colour: str) -> str:
    """A curve between two floors; beside the rooms of a floor a passing arrow runs straight down."""
    (x0, y0), (x1, y1) = place[upper], place[lower]
    head, through, end = f' marker-end="url(#{colour[1:]})"', "", y1 - HEIGHT / 2 - 5
    if not plan.is_room(lower):
        head, through, end = "", f"V{y1 + HEIGHT / 2:.0f}", y1 - HEIGHT / 2
    start = y0 + HEIGHT / 2
    middle = (start + end) / 2
    curve = f"M{x0:.0f} {start:.0f}C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {end:.0f}{through}"
    return f'<path d="{curve}" stroke="{colour}"{head}/>'


def _box(name: str, place: tuple[float, float], rooms: Graph) -> str:
    x, y = place[0] - WIDTH / 2, place[1] - HEIGHT / 2
    inside = ROOT / PACKAGE / name
    files = [*inside.rglob("*.py")] or [inside.with_suffix(".py")]
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in files)
    count = f"{lines:,} lines" if len(files) == 1 else f"{len(files)} files, {lines:,} lines"
    kind = "open" if name in OPEN else "room"
    return (
        f'<g class="{kind}"><title>{name} imports from {", ".join(sorted(rooms[name])) or "nothing"}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="7"/>'
        f'<text x="{place[0]:.0f}" y="{place[1] - 4:.0f}" class="name">{name}</text>'
        f'<text x="{place[0]:.0f}" y="{place[1] + 14:.0f}" class="count">{count}</text></g>'
    )


STYLE = """
text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; text-anchor: middle }
.name { font-size: 15px; font-weight: 600; fill: #1f2933 }
.count { font-size: 11px; fill: #52606d }
.note { font-size: 12px; fill: #52606d }
rect { fill: #ffffff; stroke: #9aa5b1; stroke-width: 1.2 }
.open rect { fill: #fff3d6; stroke: #c98a1b }
.floor { fill: #f3f3ef; stroke: none }
path { fill: none; stroke-width: 1.5; stroke-opacity: .75 }
marker path { stroke: none }
"""


def _page(width: float, height: float, body: Sequence[str], colours: Iterable[str], title: str) -> str:
    markers = "".join(
        f'<marker id="{colour[1:]}" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="6" markerHeight="6" '
        f'orient="auto"><path d="M0 0L8 4L0 8z" style="fill:{colour}"/></marker>'
        for colour in sorted({*colours})
    )
    note = (
        f"{title}. An arrow leads to what a room imports from; those that follow from others are left out. "
        "Yellow: an open set, where a member of your own plugs in."
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img"><title>{title}</title>',
            f"<style>{STYLE}</style><defs>{markers}</defs>",
            f'<rect width="{width:.0f}" height="{height:.0f}" style="fill:#fbfbfa;stroke:none"/>',
            *body,
            f'<text class="note" x="{width / 2:.0f}" y="{height - 14:.0f}">{note}</text>',
            "</svg>\n",
        ]
    )


COUNT = re.compile(r"([\d,]+) lines")


def is_stale(old: str, new: str) -> bool:
    """Whether rooms, floors or arrows differ, or a line count by more than a tenth."""
    if re.sub(r'class="count">[^<]*', "", old) != re.sub(r'class="count">[^<]*', "", new):
        return True
    counts = [[int(n.replace(",", "")) for n in COUNT.findall(text)] for text in (old, new)]
    return any(abs(a - b) > max(20, a / 10) for a, b in zip(*counts, strict=True))


def main(arguments: Sequence[str]) -> int:
    """Write the picture, or with --check fail where the written one is another."""
    picture = drawn(room_graph(module_graph()))
    if "--check" in arguments:
        stale = not PICTURE.exists() or is_stale(PICTURE.read_text("utf-8"), picture)
        if stale:
            print("docs/architecture.svg is stale: run python docs/draw_architecture.py", file=sys.stderr)
        return int(stale)
    PICTURE.write_text(picture, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
