"""Reads the house from its sources: modules, imports, rooms, sizes.

`python -m tests.house` prints the figure of docs/architecture.md, `--write` puts it there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PACKAGES = ("symnet", "mxrcnn", "tools")


@dataclass(frozen=True)
class Import:
    """One import. deferred: it stands in a function, or is for type checkers only."""

    name: str
    deferred: bool


@dataclass(frozen=True)
class Module:
    """A source file by its dotted name."""

    name: str
    path: Path

    @cached_property
    def source(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def imports(self) -> list[Import]:
        is_package = self.path.name == "__init__.py"
        package = self.name if is_package else self.name.rpartition(".")[0]
        return list(imports_of(self.tree, package))

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

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


def imports_of(node: ast.AST, package: str, deferred: bool = False) -> Iterator[Import]:
    """All imports in a source; `from a import b` is a.b, whether b is a module or not."""
    for child in ast.iter_child_nodes(node):
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield from imports_of(child, package, deferred or inside)
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, deferred) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - child.level + 1]
            parts = [*(above if child.level else []), *([child.module] if child.module else [])]
            yield from (Import(".".join([*parts, a.name]), deferred) for a in child.names)
        elif isinstance(child, ast.Call) and child.args and isinstance(child.args[0], ast.Constant):
            called = getattr(child.func, "attr", getattr(child.func, "id", ""))
            if called in ("import_module", "__import__"):
                yield Import(str(child.args[0].value), True)


class House:
    """All product modules below a folder."""

    def __init__(self, root: Path = REPO, packages: tuple[str, ...] = PACKAGES) -> None:
        paths = [path for name in packages for path in sorted((root / name).rglob("*.py"))]
        self.modules: dict[str, Module] = {}
        for path in paths:
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.modules[name] = Module(name, path)

    def edges(self, deferred: bool) -> dict[str, set[str]]:
        """Imports between product modules: those at the top of files, or the deferred ones."""
        found: dict[str, set[str]] = {name: set() for name in self.modules}
        for name, module in self.modules.items():
            for item in module.imports:
                target = item.name
                while target and target not in self.modules:
                    target = target.rpartition(".")[0]
                if target and target != name and item.deferred == deferred:
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
