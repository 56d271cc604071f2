"""The house's rules on imports, read from the sources: which way the arrows run."""

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = ("symnet", "mxrcnn", "tools")
SOURCES = {
    path.relative_to(REPO).as_posix(): path
    for package in PACKAGES
    for path in sorted((REPO / package).rglob("*.py"))
}
GEOMETRY = ("boxes", "anchors", "matching", "targets", "masks")
PURE = [name for name in SOURCES if Path(name).stem in GEOMETRY]


def imported_modules(source, package=""):
    """What a source imports anywhere in it; `from a import b` is a.b, be b a module or not."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = [*(above if node.level else []), *([node.module] if node.module else [])]
            found |= {".".join([*parts, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return found


def imports_of(module, sources):
    """(source, what it imports) for imports of the module or of something inside it."""
    return [
        (name, found)
        for name in sources
        for found in sorted(
            imported_modules(SOURCES[name].read_text("utf-8"), ".".join(Path(name).parts[:-1]))
        )
        if found == module or found.startswith(module + ".")
    ]


def sources_of(*packages):
    return [name for name in SOURCES if name.split("/")[0] in packages]


def test_the_sources_are_found():
    assert {name.split("/")[0] for name in SOURCES} == set(PACKAGES)
    assert {
        "symnet/geometry/boxes.py",
        "symnet/geometry/anchors.py",
        "symnet/geometry/targets.py",
    } <= set(PURE)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a.b as c", "a.b"),
        ("from a import b", "a.b"),
        ("def f():\n    from a.b import c", "a.b.c"),
        ("from . import b", "p.q.b"),
        ("from ..b import c", "p.b.c"),
        ("import importlib\nimportlib.import_module('a.b')", "a.b"),
        ("__import__('a')", "a"),
    ],
)
def test_the_reader_of_imports(source, found):
    assert found in imported_modules(source, "p.q")


@pytest.mark.parametrize(
    ("module", "sources"),
    [
        ("mxrcnn", sources_of("symnet")),
        ("tools", sources_of("symnet", "mxrcnn")),
        ("symnet.machine", PURE),
        *[(name, SOURCES) for name in ("pickle", "dill", "cPickle", "joblib", "shelve")],
    ],
)
def test_nobody_imports(module, sources):
    assert imports_of(module, sources) == []


def test_one_place_imports_mxnet():
    assert imports_of("mxnet", SOURCES) == [("symnet/machine/finder.py", "mxnet")]


def test_xml_is_parsed_by_defusedxml_alone():
    """A type and an exception of the standard library are harmless; its parsers are not."""
    harmless = {"xml.etree.ElementTree.Element"}  # a name for type checkers
    assert [found for found in imports_of("xml", SOURCES) if found[1] not in harmless] == []
