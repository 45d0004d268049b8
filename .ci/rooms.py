"""Who may know whom in dmpo/: reads the imports, names those that go up or round in a circle, and draws the map.

    python .ci/rooms.py                      # lists what is against the rule; exit status 1 if anything is
    python .ci/rooms.py --draw docs/map.svg  # the picture of the README

A room is a folder or a file at the top of dmpo/. A room may import rooms that stand below it in `ROOMS`, and no other;
imports inside functions count, too. dmpo/__init__.py and dmpo/__main__.py are no rooms: they show the others.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]

ROOMS = {  # from the top, with what the map says of a room
    "cli": "the commands",
    "view": "dmpo view, the page",
    "trainer": "the training loop",
    "sft": "supervised fine-tuning",
    "pretrain": "makes embedded models",
    "run": "folder, checkpoints, signals",
    "evaluation": "dmpo eval, accuracy",
    "planning": "expected memory",
    "objectives": "one file a loss",
    "rollouts": "completions, scores, buffer",
    "decoding": "decoders and their cache",
    "models": "loading, LoRA, tokens",
    "distributed": "ranks, sharding",
    "tasks": "prompts and rows",
    "config": "keys, YAML",
    "rewards": "read and compare answers",
    "losses": "weights, WDCE, WDDO",
    "randomness": "seeds",
    "storage": "whole files, locks, a thread",
    "kernels": "Triton, C++, CUDA",
}
_FACES = {"dmpo", "dmpo.__main__"}


def read_imports(root: Path = ROOT) -> dict[str, set[str]]:
    """The modules of dmpo that each module of dmpo imports; a name that a package exports counts as the package."""
    paths = {_module(path.relative_to(root)): path for path in sorted((root / "dmpo").rglob("*.py"))}
    paths |= {_module("dmpo" / path.relative_to(root)): path for path in sorted((root / "kernels").rglob("*.py"))}
    imports = {name: set(_imported(name, path, paths)) - {name} - _FACES for name, path in paths.items()}
    return {name: targets for name, targets in imports.items() if name not in _FACES}


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imported(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                if submodule in modules or source in modules:
                    yield submodule if submodule in modules else source


def room_of(module: str) -> str:
    """The room of dmpo.run.lock is run."""
    return module.split(".")[1]


def upward(imports: dict[str, set[str]]) -> list[str]:
    """Imports of a room that stands above, each as a line."""
    order = list(ROOMS)
    lines = []
    for module, targets in imports.items():
        for target in sorted(targets):
            room, other = room_of(module), room_of(target)
            unknown = {room, other} - ROOMS.keys()
            if unknown:
                lines.append(f"{module} imports {target}: {min(unknown)} is no room; add it to ROOMS in .ci/rooms.py")
            elif room != other and order.index(other) < order.index(room):
                lines.append(f"{module} imports {target}: {other} stands above {room}")
    return lines


def circles(imports: dict[str, set[str]]) -> list[str]:
    """Circles of modules, each as a line."""
    lines, finished, trail = [], set[str](), list[str]()

    def visit(module: str) -> None:
        trail.append(module)
        for target in sorted(imports.get(module, ())):
            if target in trail:
                lines.append(" imports ".join([*trail[trail.index(target) :], target]))
            elif target not in finished:
                visit(target)
        finished.add(trail.pop())

    for module in imports:
        if module not in finished:
            visit(module)
    return lines


def arrows(imports: dict[str, set[str]]) -> set[tuple[str, str]]:
    """(room, a room that it imports), without the pairs that a longer way joins, too, and without those that go up."""
    order = list(ROOMS)
    direct: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, targets in imports.items():
        room = room_of(module)
        others = {room_of(target) for target in targets} & ROOMS.keys()
        direct[room] |= {other for other in others if order.index(room) < order.index(other)}
    below: dict[str, set[str]] = {}
    for room in reversed(order):
        below[room] = direct[room].union(*(below[other] for other in direct[room]))
    return {
        (room, target)
        for room in ROOMS
        for target in direct[room]
        if not any(target in below[other] for other in direct[room])
    }


def rows_of_map(edges: set[tuple[str, str]]) -> list[list[str]]:
    """The rooms in rows: every arrow leads to a lower row, and a room stands near the rooms that it is joined to."""
    level: dict[str, int] = {}
    for room in reversed(ROOMS):
        level[room] = max((level[target] + 1 for source, target in edges if source == room), default=0)
    rows = [[room for room in ROOMS if level[room] == number] for number in range(max(level.values()), -1, -1)]
    x = {room: (number + 0.5) / len(row) for row in rows for number, room in enumerate(row)}
    for _ in range(20):
        for row in rows:
            joined = {room: [x[b if a == room else a] for a, b in edges if room in (a, b)] for room in row}
            row.sort(key=lambda room: (sum(joined[room]) / max(1, len(joined[room])), room))
            x |= {room: (number + 0.5) / len(row) for number, room in enumerate(row)}
    return rows


def draw(imports: dict[str, set[str]], root: Path = ROOT) -> str:
    """The map as SVG: an arrow leads from a room to a room that it imports, if no longer way leads there."""
    edges = arrows(imports)
    rows = rows_of_map(edges)
    width, step, box_width, box_height, margin = 980, 84, 216, 44, 34
    centre = {
        room: (width * (number + 0.5) / len(row), margin + step * line)
        for line, row in enumerate(rows)
        for number, room in enumerate(row)
    }
    height = 2 * margin + step * (len(rows) - 1)
    lines = []
    for source, target in sorted(edges):
        (x1, middle), (x2, other) = centre[source], centre[target]
        y1, y2 = middle + box_height / 2, other - box_height / 2 - 2
        bend = f"{x1:.0f} {y1 + 30:.0f}, {x2:.0f} {y2 - 30:.0f}"
        lines.append(f'<path d="M {x1:.0f} {y1:.0f} C {bend}, {x2:.0f} {y2:.0f}"/>')
    boxes = []
    for room, (x, y) in centre.items():
        name = f"{room}.py" if (root / "dmpo" / f"{room}.py").exists() else f"{room}/"
        corner = f'x="{x - box_width / 2:.0f}" y="{y - box_height / 2:.0f}" width="{box_width}" height="{box_height}"'
        boxes += [
            f'<rect {corner} rx="6" fill="#ffffff" stroke="#30507a"/>',
            f'<text x="{x:.0f}" y="{y - 3:.0f}" font-weight="bold">{name}</text>',
            f'<text x="{x:.0f}" y="{y + 14:.0f}" font-size="12" fill="#444444">{escape(ROOMS[room])}</text>',
        ]
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" font-size="14" text-anchor="middle">',
        "<title>The rooms of dmpo/: an arrow leads from a room to a room that it imports</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M 0 0 L 8 4 L 0 8 z" fill="#7088a8"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#f5f7fa"/>',
        '<g fill="none" stroke="#7088a8" marker-end="url(#tip)">',
    ]
    return "\n".join([*head, *lines, "</g>", *boxes, "</svg>", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", type=Path, metavar="FILE", help="write the map as SVG")
    options = parser.parse_args()
    imports = read_imports()
    if options.draw:
        options.draw.write_text(draw(imports), encoding="utf-8")
    problems = upward(imports) + circles(imports)
    print("\n".join(problems) or "imports go down only, without a circle")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
