"""The house: its rooms, and the modules, imports and sizes as read from the sources.

`python -m tests.house` prints the figure and the table of docs/architecture.md; `--write` puts them
there. tests/test_architecture.py checks the rules.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PACKAGES = ("symnet", "mxrcnn", "tools")

#: in ROOMS: a room that may import all rooms above its line
ABOVE = "above"
#: the rooms from the ground up, and those that each may import. A room is a package or a module,
#: with all that is inside it except what has a line of its own
ROOMS = {
    "symnet.geometry": "",
    "symnet.machine": "",
    "symnet.ops": "symnet.geometry symnet.machine",
    "symnet.parts": "symnet.geometry symnet.machine symnet.ops",
    "symnet.bodies": "symnet.machine symnet.ops symnet.parts",
    "symnet.config": "symnet.geometry symnet.machine symnet.parts symnet.bodies",
    "symnet": ABOVE,
    "mxrcnn": "symnet",
    "mxrcnn.files": "",
    "mxrcnn.tables": "",
    "mxrcnn.program": "",
    "mxrcnn.config": "mxrcnn.files mxrcnn.program symnet symnet.config symnet.machine symnet.ops",
    "mxrcnn.runs": "mxrcnn.files mxrcnn.tables mxrcnn.config symnet symnet.machine",
    "mxrcnn.viz": "mxrcnn.files mxrcnn.tables symnet.geometry",
    "mxrcnn.graph_figure": "mxrcnn.files mxrcnn.viz symnet symnet.parts",
    "mxrcnn.data": ABOVE,
    "mxrcnn.weights": ABOVE,
    "mxrcnn.inference": ABOVE,
    "mxrcnn.evaluation": ABOVE,
    "mxrcnn.training": ABOVE,
    "mxrcnn.export": ABOVE,
    "mxrcnn.bench": ABOVE,
    "mxrcnn.errors": ABOVE,
    "mxrcnn.doctor": ABOVE,
    "mxrcnn.cli": ABOVE,
    "mxrcnn.__main__": "mxrcnn.cli",
    "tools": ABOVE,
}
#: shared graphs at the top of symnet; the other modules there are detectors of the registry
SHARED = ("symnet.detector", "symnet.two_stage", "symnet.classic")
#: the only packages that geometry may import: it must be usable and testable alone
NUMERIC = ("numpy", "pycocotools")

BEGIN, END = "<!-- made by `python -m tests.house --write` -->", "<!-- end -->"
CAPTION = "An arrow is an import. Imports that follow from other arrows are left out."
PAGE = REPO / "docs" / "architecture.md"


@dataclass(frozen=True)
class Import:
    """One import. kind: at the `top` of the file, in a `function`, or for `typing` only."""

    name: str
    kind: str


@dataclass(frozen=True)
class Module:
    """A source file by its dotted name."""

    name: str
    path: Path

    @cached_property
    def source(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def imports(self) -> list[Import]:
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        return list(imports_of(self.tree, package))

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring."""
        return " ".join((ast.get_docstring(self.tree) or "").partition("\n\n")[0].split())

    @property
    def lines(self) -> int:
        return len(self.source.splitlines())

    @cached_property
    def functions(self) -> dict[str, int]:
        """The longest function of each name, in lines, from `def` to the last line."""
        found: dict[str, int] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                found[node.name] = max(length, found.get(node.name, 0))
        return found


def imports_of(node: ast.AST, package: str, kind: str = "top") -> Iterator[Import]:
    """All imports in a source; `from a import b` is a.b, whether b is a module or not."""
    for child in ast.iter_child_nodes(node):
        inner = kind
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inner = "function"
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inner = "typing"
        yield from imports_of(child, package, inner)
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, kind) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - child.level + 1]
            parts = [*(above if child.level else []), *([child.module] if child.module else [])]
            yield from (Import(".".join([*parts, a.name]), kind) for a in child.names)
        elif isinstance(child, ast.Call) and child.args and isinstance(child.args[0], ast.Constant):
            called = getattr(child.func, "attr", getattr(child.func, "id", ""))
            if called in ("import_module", "__import__"):
                yield Import(str(child.args[0].value), "function")


class House:
    """All product modules below a folder."""

    def __init__(self, root: Path = REPO, packages: tuple[str, ...] = PACKAGES) -> None:
        paths = [path for name in packages for path in sorted((root / name).rglob("*.py"))]
        self.modules: dict[str, Module] = {}
        for path in paths:
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.modules[name] = Module(name, path)

    def edges(self, *kinds: str) -> dict[str, set[str]]:
        """Imports between product modules, of these kinds."""
        found: dict[str, set[str]] = {name: set() for name in self.modules}
        for name, module in self.modules.items():
            for item in module.imports:
                target = item.name
                while target and target not in self.modules:
                    target = target.rpartition(".")[0]
                if target and target != name and item.kind in kinds:
                    found[name].add(target)
        return found

    def importers(self, module: str) -> list[tuple[str, str]]:
        """(importer, what it imports) for imports of a module or of something inside it."""
        return [
            (importer.name, item.name)
            for importer in self.modules.values()
            for item in importer.imports
            if item.name == module or item.name.startswith(module + ".")
        ]


def room_of(module: str) -> str:
    """The room that a module is in: the longest name in ROOMS that covers it."""
    return max((r for r in ROOMS if f"{module}.".startswith(f"{r}.")), key=len, default="")


def may_import(room: str) -> set[str]:
    """The rooms that a room may import, with itself."""
    above = list(ROOMS)[: list(ROOMS).index(room)]
    return {room, *(above if ROOMS[room] == ABOVE else ROOMS[room].split())}


def wrong_arrows(house: House, *kinds: str) -> list[tuple[str, str]]:
    """(importer, imported) for imports between rooms that ROOMS does not allow."""
    return [
        (importer, imported)
        for importer, found in house.edges(*kinds).items()
        for imported in sorted(found)
        if room_of(imported) not in may_import(room_of(importer))
    ]


def arrows(house: House) -> dict[str, list[str]]:
    """The rooms that each room imports, without those that it reaches through another one."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for importer, imported in house.edges("top", "function").items():
        room = room_of(importer)
        found[room] |= {room_of(name) for name in imported} & may_import(room)

    def reached(room: str) -> set[str]:
        inner = found[room] - {room}
        return inner.union(*map(reached, inner))

    return {
        room: sorted(to - {room} - set().union(*map(reached, to - {room})))
        for room, to in found.items()
    }


def figure(house: House) -> str:
    """The rooms and their imports as a Mermaid flow chart."""
    lines = ["```mermaid", "flowchart TD"]
    for package in reversed(PACKAGES):
        rooms = [room for room in reversed(ROOMS) if room.partition(".")[0] == package]
        lines += [f"  subgraph {package}_[{package}]"]
        lines += [f"    {_id(room)}[{_label(room)}]" for room in rooms] + ["  end"]
    for room, found in reversed(arrows(house).items()):
        lines += [f"  {_id(room)} --> {_id(to)}" for to in found]
    return "\n".join([*lines, "```"])


def _id(room: str) -> str:
    return room.replace(".", "_")


def _label(room: str) -> str:
    return "detectors" if room == "symnet" else room.rpartition(".")[2]


def table(house: House) -> str:
    """The rooms with what their docstrings say, from the top down."""
    lines = ["| room | what it holds |", "|---|---|"]
    for room in reversed(ROOMS):
        if room in house.modules:
            place = room.replace(".", "/") + ("/" if house.modules[room].is_package else ".py")
            lines.append(f"| `{place}` | {house.modules[room].summary} |")
    return "\n".join(lines)


def page(text: str, house: House) -> str:
    """The page with figure and table as they are now between the marks."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    parts = [BEGIN, figure(house), CAPTION, table(house), END]
    return before + "\n\n".join(parts) + after


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other: strongly connected components (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(edges[name]):
            if target not in index:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[-len(group) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in edges:
        if name not in index:
            visit(name)
    return found


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(PAGE.read_text("utf-8"), House()), "utf-8")
    else:
        print(figure(House()), table(House()), sep="\n\n")
