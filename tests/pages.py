"""The pages that are made: commands, settings, the wheel's description, tables of reproduce.md.

`python -m tests.pages --write` writes them. tests/test_docs.py compares them.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

from mxrcnn.cli import COMMANDS
from mxrcnn.cli.common import new_parser
from mxrcnn.config import make_config
from mxrcnn.config.listing import Setting, settings_of
from symnet import list_detectors

REPO = Path(__file__).resolve().parent.parent
MADE, END = "<!-- made by `python -m tests.pages --write` -->", "<!-- end -->"
#: patterns of networks that share settings, larger families first
FAMILIES = ("*_rcnn_*", "faster_rcnn_*", "mask_rcnn_*", "fcos_*", "*_fpn", "*v1_c4", "*v2_c4")


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of one command, as `mxrcnn` makes it."""
    module = import_module(COMMANDS[name][0])
    parser = new_parser(module.__doc__, f"mxrcnn {name}")
    module.add_arguments(parser)
    return parser


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command's own commands, such as `list` of `mxrcnn weights`."""
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}


def commands_page() -> str:
    """Every command with all of its options."""
    parts = [
        "# Commands",
        MADE,
        "In a clone, `python tools/train.py` is `mxrcnn train`, `tools/test.py` is `mxrcnn test` "
        "and `tools/demo.py` is `mxrcnn predict`; the other scripts of `tools/` start the command "
        "that they are named after. `mxrcnn COMMAND --help` prints what is below.",
        "\n".join(f"- [{name}](#mxrcnn-{name}): {text}" for name, (_, text) in COMMANDS.items()),
    ]
    for name in COMMANDS:
        parser = parser_of(name)
        parts += [f"## mxrcnn {name}", _prose(parser.description or ""), *_options(parser)]
        for sub, inner in subparsers(parser).items():
            about = _prose(inner.description or "")
            parts += [f"### mxrcnn {name} {sub}", *filter(None, [about]), *_options(inner)]
    return "\n\n".join(parts) + "\n"


def _prose(description: str) -> str:
    """A module's docstring as Markdown: its indented lines are a block of code."""
    lines, code = [], False
    for line in description.strip().splitlines():
        if line.startswith("  ") != code:
            lines += ["```"] if code else ["", "```sh"]
            code = not code
        lines.append(line[2:] if code else _escaped(line))
    return "\n".join([*lines, *["```"] * code])


def _escaped(text: str) -> str:
    return re.sub(r"([*<])", r"\\\1", text)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser, group by group, as lists."""
    for group in parser._action_groups:
        shown = [a for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
        shown = [a for a in shown if not isinstance(a, argparse._SubParsersAction)]
        if shown:
            title = group.title or ""
            yield "**Options**" if title in ("options", "optional arguments") else f"**{title}**"
            yield "\n".join(_option(parser, action) for action in shown)


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    if not value and action.nargs != 0:
        value = action.dest.rpartition(".")[2].upper()
    names = [f"{name} {value}".strip() for name in action.option_strings] or [str(value)]
    text = _escaped(parser._get_formatter()._expand_help(action)) if action.help else ""
    return f"- `{'`, `'.join(names)}`" + (f": {text}" if text else "")


def settings_page() -> str:
    """Every setting of every network, with its defaults."""
    found: dict[str, dict[str, Setting]] = {}
    for network in list_detectors():
        for setting in settings_of(make_config(network)):
            found.setdefault(setting.name, {})[network] = setting
    parts = [
        "# Settings",
        MADE,
        "All settings of a run are in its `config.json`. `--set KEY=VALUE` changes any of them "
        "(`--set train.lr=0.01 anchor_scales=2,4,8,16`); the section in front may be left out if "
        "no other section has the name. `mxrcnn train --list-settings --network NAME` lists those "
        "of one network, and `--print-config` those that differ from the defaults. An unknown key "
        "is an error that names the closest one. Defaults that differ by network are given for "
        "each; presets change others.",
    ]
    for section in ("data", "train", "model"):
        names = [name for name in found if name.startswith(f"{section}.")]
        rows = "\n".join(_setting(name, found[name]) for name in names)
        parts += [f"## {section}", rows]
    return "\n\n".join(parts) + "\n"


def _setting(name: str, by_network: dict[str, Setting]) -> str:
    first = next(iter(by_network.values()))
    values: dict[str, list[str]] = {}
    for network, setting in by_network.items():
        values.setdefault(setting.default, []).append(network)
    common = max(values, key=lambda value: len(values[value]))
    others = [f"`{v}` in {_families(names)}" for v, names in values.items() if v != common]
    where = f" Only in {_families(by_network)}." if set(by_network) != set(list_detectors()) else ""
    default = "; ".join([f"default `{common}`", *others])
    return f"- `{name}` ({first.kind}; {default}): {_escaped(first.doc)}.{where}"


def _families(networks: Iterable[str]) -> str:
    """Names of networks, with one pattern for a family that is among them as a whole."""
    left, shown = set(networks), []
    for pattern in FAMILIES:
        family = set(fnmatch.filter(list_detectors(), pattern))
        if len(family) > 1 and family <= left:
            left -= family
            shown.append(pattern)
    return ", ".join(f"`{name}`" for name in [*shown, *sorted(left)])


def package_page() -> str:
    """The wheel's description: README.md without pictures and without links into the clone."""
    text = (REPO / "README.md").read_text("utf-8")
    text = re.sub(r"^!\[.*\n\n", "", text, flags=re.M)
    text = re.sub(r"\[([^\]]+)\]\((?!https://)([^)]+)\)", r"\1 (`\2`)", text)
    return f"{MADE}\n{text}"


def reproduce_page() -> str:
    """docs/reproduce.md with the tables of tests.accuracy between its marks."""
    from tests.accuracy.tables import markdown

    text = (REPO / "docs" / "reproduce.md").read_text("utf-8")
    before, rest = text.split(f"{MADE}\n")
    return f"{before}{MADE}\n\n{markdown()}\n\n{END}\n{rest.partition(f'{END}{chr(10)}')[2]}"


#: file in docs/ -> what makes it
PAGES = {
    "commands.md": commands_page,
    "settings.md": settings_page,
    "package.md": package_page,
    "reproduce.md": reproduce_page,
}


if __name__ == "__main__":
    for file, make in PAGES.items():
        if "--write" in sys.argv:
            (REPO / "docs" / file).write_text(make(), "utf-8")
        else:
            print(make())
