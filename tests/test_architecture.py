"""The house's rules, read from the sources: which room may import which, no circles, sizes."""

import ast

import pytest

from tests.house import House, circles, imports_of

MAX_FILE, MAX_FUNCTION = 400, 60

#: files above 400 lines and functions above 60, with the reason; at most five
TOO_LONG = {
    "tools.train.parse_args": "still to be split",
}

#: the rooms from the ground up, and those that each may import besides itself; ALL are those above
#: its line. A room is a package, or a module at the top of one; its name covers what is inside
ALL = None
ROOMS = {
    "symnet.geometry": "",
    "symnet.machine": "",
    "symnet.ops": "symnet.geometry symnet.machine",
    "symnet.parts": "symnet.geometry symnet.machine symnet.ops",
    "symnet.bodies": "symnet.machine symnet.ops symnet.parts",
    "symnet.config": "symnet.geometry symnet.machine symnet.parts symnet.bodies",
    "symnet": ALL,
    "mxrcnn": "symnet",
    "mxrcnn.files": "",
    "mxrcnn.viz": ALL,
    "mxrcnn.config": ALL,
    "mxrcnn.runs": ALL,
    "mxrcnn.data": ALL,
    "mxrcnn.weights": ALL,
    "mxrcnn.inference": ALL,
    "mxrcnn.evaluation": ALL,
    "mxrcnn.training": ALL,
    "mxrcnn.export": ALL,
    "mxrcnn.bench": ALL,
    "mxrcnn.cli": ALL,
    "tools": ALL,
}
#: modules that belong to a room of another name
MEMBERS = {
    "mxrcnn.sections": "mxrcnn.config",
    "mxrcnn.settings": "mxrcnn.config",
    "mxrcnn.graph_figure": "mxrcnn.viz",
    "mxrcnn.errors": "mxrcnn.cli",
    "mxrcnn.doctor": "mxrcnn.cli",
}
#: imports that still run the wrong way
NOT_YET = {}

HOUSE = House()


def room_of(module):
    """The room that a module is in: the longest name in the tables that covers it."""
    names = {name: name for name in ROOMS} | MEMBERS
    covering = [name for name in names if f"{module}.".startswith(f"{name}.")]
    return names[max(covering, key=len)]


def allowed(room):
    above = list(ROOMS)[: list(ROOMS).index(room)]
    return {room, *(above if ROOMS[room] is ALL else ROOMS[room].split())}


def wrong_arrows(house, deferred):
    """(importer, imported) between modules whose rooms may not import each other."""
    return [
        (importer, imported)
        for importer, found in house.edges(deferred).items()
        for imported in sorted(found)
        if room_of(imported) not in allowed(room_of(importer))
    ]


def test_the_sources_are_found():
    assert {name.partition(".")[0] for name in HOUSE.modules} == {"symnet", "mxrcnn", "tools"}
    assert len(HOUSE.modules) > 100


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a.b as c", "a.b"),
        ("from a import b", "a.b"),
        ("from . import b", "p.q.b"),
        ("from ..b import c", "p.b.c"),
        ("try:\n    import a\nexcept ImportError:\n    pass", "a"),
        ("class A:\n    import a", "a"),
    ],
)
def test_the_reader_of_imports(source, found):
    assert [(i.name, i.deferred) for i in imports_of(ast.parse(source), "p.q")] == [(found, False)]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from a.b import c", "a.b.c"),
        ("if TYPE_CHECKING:\n    from a import b", "a.b"),
        ("importlib.import_module('a.b')", "a.b"),
        ("__import__('a')", "a"),
    ],
)
def test_the_reader_of_deferred_imports(source, found):
    assert [(i.name, i.deferred) for i in imports_of(ast.parse(source), "p.q")] == [(found, True)]


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
    """A room imports those that its line in the table allows."""
    wrong = wrong_arrows(HOUSE, deferred=False)
    rooms = [(a, b) for a, b in wrong if (room_of(a), room_of(b)) not in NOT_YET]
    assert rooms == []


def test_modules_import_each_other_in_no_circle():
    assert circles(HOUSE.edges(deferred=False)) == []


def test_circles_are_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(edges) == [["a", "b", "c"]]


def test_files_and_functions_are_short():
    long = {name: m.lines for name, m in HOUSE.modules.items() if m.lines > MAX_FILE}
    for name, module in HOUSE.modules.items():
        lengths = module.functions.items()
        long.update({f"{name}.{f}": length for f, length in lengths if length > MAX_FUNCTION})
    assert {name: lines for name, lines in long.items() if name not in TOO_LONG} == {}
