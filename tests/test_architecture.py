"""The house's rules, read from the sources: rooms and their imports, no circles, sizes."""

import ast
import re

import pytest

from tests.house import (
    NUMERIC,
    PACKAGES,
    PAGE,
    REPO,
    ROOMS,
    SHARED,
    House,
    circles,
    imports_of,
    page,
    room_of,
    wrong_arrows,
)

MAX_FILE, MAX_FUNCTION = 400, 60

HOUSE = House()


def small_house(folder, **files):
    """A house of these files; `__` in a name is a folder."""
    for name, source in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return House(folder)


def test_the_sources_are_found():
    assert {name.partition(".")[0] for name in HOUSE.modules} == set(PACKAGES)
    assert len(HOUSE.modules) > 100


@pytest.mark.parametrize(
    ("source", "found", "kind"),
    [
        ("import a.b as c", "a.b", "top"),
        ("from a import b", "a.b", "top"),
        ("from . import b", "p.q.b", "top"),
        ("from ..b import c", "p.b.c", "top"),
        ("try:\n    import a\nexcept ImportError:\n    pass", "a", "top"),
        ("class A:\n    import a", "a", "top"),
        ("def f():\n    from a.b import c", "a.b.c", "function"),
        ("importlib.import_module('a.b')", "a.b", "function"),
        ("__import__('a')", "a", "function"),
        ("if TYPE_CHECKING:\n    from a import b", "a.b", "typing"),
    ],
)
def test_the_reader_of_imports(source, found, kind):
    assert [(i.name, i.kind) for i in imports_of(ast.parse(source), "p.q")] == [(found, kind)]


@pytest.mark.parametrize("module", ["pickle", "dill", "cPickle", "joblib", "shelve"])
def test_nobody_imports(module):
    assert HOUSE.importers(module) == []


def test_one_place_imports_mxnet():
    assert HOUSE.importers("mxnet") == [("symnet.machine.finder", "mxnet")]


def test_xml_is_parsed_by_defusedxml_alone():
    """A type and an exception of the standard library are harmless; its parsers are not."""
    harmless = {"xml.etree.ElementTree.Element"}  # a name for type checkers
    assert [found for found in HOUSE.importers("xml") if found[1] not in harmless] == []


def test_imports_run_downwards():
    """Also those inside functions: none climbs up. Imports for type checkers are free."""
    assert wrong_arrows(HOUSE, "top", "function") == []


def test_an_import_that_climbs_up_is_found(tmp_path):
    house = small_house(
        tmp_path,
        symnet__geometry__boxes="import numpy",
        symnet__parts__rpn="from symnet.geometry import boxes",
        mxrcnn__files="def f():\n    from mxrcnn.data import coco",
        mxrcnn__data__coco="import symnet.parts.rpn\nif TYPE_CHECKING:\n    import tools.x",
        tools__x="import mxrcnn.files",
    )
    assert wrong_arrows(house, "top") == []
    assert wrong_arrows(house, "top", "function") == [("mxrcnn.files", "mxrcnn.data.coco")]


def test_each_room_is_in_the_table():
    """A new package or module at the top of mxrcnn needs a line there, and a docstring."""
    tops = {".".join(name.split(".")[:2]) for name in HOUSE.modules if name.startswith("mxrcnn.")}
    rooms = {room for room in ROOMS if room.startswith("mxrcnn.")}
    assert tops == rooms
    assert {room for room in ROOMS if room not in HOUSE.modules} == {"tools"}
    assert [room for room in ROOMS if room != "tools" and not HOUSE.modules[room].summary] == []


def test_the_rooms_of_symnet():
    """Packages as in the table; beside them the shared graphs, and detectors of the registry."""
    inside = [name for name in HOUSE.modules if name.startswith("symnet.")]
    packages = {".".join(name.split(".")[:2]) for name in inside if name.count(".") > 1}
    assert packages == {room for room in ROOMS if room.startswith("symnet.")}
    registry = HOUSE.modules["symnet"].source
    for name in inside:
        if room_of(name) == "symnet":
            assert name in SHARED or f'"{name}"' in registry, name


def test_geometry_is_numpy_alone():
    found = {
        item.name.partition(".")[0]
        for name, module in HOUSE.modules.items()
        if room_of(name) == "symnet.geometry"
        for item in module.imports
    }
    standard = {"__future__", "collections", "dataclasses", "functools", "math", "typing"}
    assert found - standard == {"symnet", *NUMERIC}


def test_modules_import_each_other_in_no_circle():
    assert circles(HOUSE.edges("top")) == []


def test_circles_are_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(edges) == [["a", "b", "c"]]


def test_files_and_functions_are_short():
    long = {name: m.lines for name, m in HOUSE.modules.items() if m.lines > MAX_FILE}
    for name, module in HOUSE.modules.items():
        lengths = module.functions.items()
        long.update({f"{name}.{f}": length for f, length in lengths if length > MAX_FUNCTION})
    assert long == {}


def test_long_functions_are_found(tmp_path):
    body = "    pass\n"
    house = small_house(tmp_path, tools__x=f"def f():\n{body * 60}def g():\n{body * 59}")
    assert house.modules["tools.x"].functions == {"f": 61, "g": 60}
    assert house.modules["tools.x"].lines == 121


def test_the_page_shows_the_house_as_it_is():
    text = PAGE.read_text("utf-8")
    assert text == page(text, HOUSE), "run: python -m tests.house --write"


def test_the_pages_name_files_that_exist():
    """Paths in backquotes; a bare name is a file beside the one before it."""
    for name in ("architecture.md", "CONTRIBUTING.md"):
        folder = ""
        for path in re.findall(r"`([\w/]+(?:\.py|/))`", (REPO / "docs" / name).read_text("utf-8")):
            folder = path.rpartition("/")[0] if "/" in path else folder
            found = path if "/" in path else f"{folder}/{path}"
            assert (REPO / found).exists(), f"{name}: {path}"
