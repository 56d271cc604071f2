"""The documentation: its commands parse, its links and tests exist, its made pages are current."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from mxrcnn.cli import COMMANDS
from mxrcnn.config import ConfigError, make_config, override, parse_settings
from mxrcnn.program import SCRIPTS
from symnet import list_detectors
from tests.conftest import REPO
from tests.pages import PAGES, parser_of, subparsers

DOCS = sorted([REPO / "README.md", *(REPO / "docs").glob("*.md")])
NAMES = [str(path.relative_to(REPO)) for path in DOCS]
OF_SCRIPT = {f"{script}.py": name for name, script in SCRIPTS.items()}
#: a command as text: `mxrcnn train` or `tools/train.py`
START = re.compile(r"(?:\bmxrcnn (?P<name>[a-z]+)|\btools/(?P<script>\w+\.py))(?=[\s`]|$)")
#: words that stand for others: a line with one is only checked for its options
VAGUE = re.compile(r"^\.\.\.$|[$\[]|^--help$")


class Wrong(Exception):
    """A command line that its parser refuses."""


class Strict(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise Wrong(message)


@cache
def strict_parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command, which raises Wrong, as do those inside it."""
    parser = parser_of(name)
    for one in (parser, *subparsers(parser).values()):
        one.__class__ = Strict
    return parser


def code_lines(text: str) -> Iterator[str]:
    """The lines of blocks marked sh, without comments; lines that end in a backslash are joined."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            yield re.sub(r"(^|\s)#.*", "", line)


def spans(text: str) -> Iterator[str]:
    """Code inside sentences."""
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_blocks))


def commands_in(line: str) -> Iterator[tuple[str, list[str]]]:
    """(command, its words) for each command of ours in a line, also those after --."""
    found = list(START.finditer(line))
    for match, after in zip(found, [*found[1:], None]):
        name = match["name"] or OF_SCRIPT.get(match["script"], match["script"])
        rest = line[match.end() : after.start() if after else len(line)]
        rest = re.split(r"[;&|)>]\s|&&|\s-- ", f"{rest} ")[0]
        yield name, shlex.split(rest.removesuffix(" python "))


def check(name: str, words: list[str], whole: bool) -> None:
    """Wrong for an unknown command or option, and for a whole line that does not parse."""
    if name not in COMMANDS:
        raise Wrong(f"no command {name}")
    parser = strict_parser(name)
    if name == "launch" and whole:
        words = [*words, "--", "true"]
    if whole and not any(map(VAGUE.search, words)):
        check_settings(parser.parse_args(words))
        return
    parsers = [parser, *subparsers(parser).values()]
    known = [option for one in parsers for option in one._option_string_actions]
    for word in (w.partition("=")[0].rstrip(",.") for w in words):
        if word.startswith("--") and word not in known:
            raise Wrong(f"mxrcnn {name} has no option {word}")


def check_settings(args: argparse.Namespace) -> None:
    """Wrong for --set words that do not suit the given network, or that suit none."""
    words = getattr(args, "words", [])
    given = getattr(args, "network", None)
    problems = []
    for network in [given] if given else list_detectors():
        try:
            override(make_config(network), parse_settings(words))
            return
        except ConfigError as error:
            problems.append(str(error))
    raise Wrong(problems[0])


def problems_of(text: str) -> list[str]:
    """What is wrong with the commands of a page."""
    found = []
    for lines, whole in ((code_lines(text), True), (spans(text), False)):
        for line in lines:
            for name, words in commands_in(line):
                try:
                    check(name, words, whole)
                except Wrong as error:
                    found.append(f"{line.strip()}: {error}")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_pages_parse(name):
    assert problems_of((REPO / name).read_text("utf-8")) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_help_parse(name):
    lines = re.findall(r"(?:^  .*\n?)+", import_module(COMMANDS[name][0]).__doc__, re.M)
    assert problems_of("```sh\n" + "".join(lines) + "\n```\n") == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("mxrcnn train --ephocs 3", "unrecognized arguments: --ephocs 3"),
        ("mxrcnn tarin", "no command tarin"),
        ("python tools/demo.py RUN", "the following arguments are required: SOURCE"),
        ("python tools/no.py", "no command no.py"),
        ("mxrcnn train --precision fp8", "argument --precision: invalid choice"),
        ("mxrcnn train --set anchor_scale=2", "anchor_scale"),
        ("mxrcnn launch -n 2 -- mxrcnn train --lr x", "argument --lr: invalid float value"),
        ("mxrcnn weights shwo x", "invalid choice: 'shwo'"),
        ("mxrcnn test RUN ... --nothing", "no option --nothing"),
        ("a && mxrcnn test RUN --metric coco3; b", "invalid choice: 'coco3'"),
        ("mxrcnn test RUN --metric coco  # --nothing", ""),
        ("srun mxrcnn launch --from-env slurm -- python tools/train.py $X", ""),
    ],
)
def test_wrong_commands_are_found(line, problem):
    found = problems_of(f"```sh\n{line}\n```\n")
    assert len(found) == bool(problem)
    assert problem in "".join(found)


def test_wrong_options_in_sentences_are_found():
    assert len(problems_of("Try `mxrcnn train --nothing`, or `tools/train.py --seed`.")) == 1


@pytest.mark.parametrize("file", PAGES)
def test_made_pages_are_current(file):
    """`python -m tests.pages --write` makes them anew."""
    assert (REPO / "docs" / file).read_text("utf-8") == PAGES[file]()


@pytest.mark.parametrize("name", NAMES)
def test_python_of_pages_compiles_and_imports(name):
    text = (REPO / name).read_text("utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = import_module(node.module)
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def slugs(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them for plain headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    titles = [re.sub(r"[^\w\s-]", "", t).strip() for t in re.findall(r"^#+ (.*)", text, re.M)]
    return {re.sub(r"\s+", "-", title.lower()) for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = REPO / name
    text = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text("utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.is_file(), link
        assert not anchor or anchor in slugs(target), link


@cache
def names_in(file: str) -> set[str]:
    """The names of a file's tests and classes."""
    tree = ast.parse((REPO / "tests" / file).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("name", NAMES)
def test_tests_that_pages_name_exist(name):
    """`test_a.py::test_b`, and after it `::test_c` or `test_c` of the same file."""
    file = ""
    for span in re.findall(r"`([^`\n]+)`", (REPO / name).read_text("utf-8")):
        match = re.match(r"(?:tests/)?(test_\w+\.py)?(?:::)?(test_\w+)?$", span)
        if not match:
            continue
        file = match[1] or file
        if match[1]:
            assert (REPO / "tests" / file).is_file(), span
        if match[2] and file:
            assert match[2] in names_in(file), f"{file} has no {match[2]}"


def test_every_complaint_has_an_example_and_an_answer():
    text = (REPO / "docs" / "complaints.md").read_text("utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0] != "| complaint"]
    assert len(rows) > 25
    for complaint, example, here, test in rows:
        assert "](https://github.com/" in example, complaint
        assert "test_" in test or "**We have this too**" in here, complaint


def test_the_readme_is_short():
    text = (REPO / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
