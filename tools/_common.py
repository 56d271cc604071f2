"""Shared by all tools: the path to this clone's packages, and command-line options."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# `python tools/NAME.py` uses the packages of its own clone, whether or not they are installed
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the tool's docstring unchanged in its help."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the run to work on and its checkpoint."""
    parser.add_argument("run", help="the run's folder, written by tools/train.py")
    parser.add_argument(
        "--checkpoint", metavar="best|last|N", help="N is a step; default: best, else last"
    )


def add_data(parser: Any, default: str, default_root: str) -> None:
    """Add the data set and its folder."""
    parser.add_argument(
        "--dataset",
        dest="data.dataset",
        metavar="KIND",
        help=f"voc, coco or another of mxrcnn.data.DATASETS; default: {default}",
    )
    parser.add_argument(
        "--data-root",
        dest="data.root",
        metavar="DIR",
        help=f"its folder; default: {default_root}",
    )


def add_test_data(parser: argparse.ArgumentParser) -> None:
    """Add the data to test a run on, by default its own, and the metric."""
    add_data(parser, "the run's", "the run's")
    parser.add_argument(
        "--metric",
        choices=("auto", "voc07", "voc12", "coco"),
        default="auto",
        help="auto (default): COCO's AP@[.50:.95] of boxes and masks for COCO data, VOC07 mAP for "
        "VOC data",
    )
    add_skip_bad(parser)


def add_skip_bad(parser: Any) -> None:
    """Add the option that leaves out bad files instead of stopping."""
    parser.add_argument(
        "--skip-bad",
        dest="data.skip_bad",
        action="store_true",
        default=None,
        help="leave out bad files instead of stopping",
    )


def add_words(parser: Any) -> None:
    """Add --set, which takes KEY=VALUE words for any setting."""
    parser.add_argument(
        "--set",
        dest="words",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="any setting of config.json",
    )


def request_of(kind: type[T], args: argparse.Namespace, **more: Any) -> T:
    """A request dataclass: its fields are the options of the same names, settings, and `more`."""
    options = {**vars(args), "settings": given_settings(args), **more}
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: options[name] for name in names if name in options})


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings given as options: those whose `dest` is the name of a setting."""
    return {name: value for name, value in vars(args).items() if "." in name and value is not None}


def image_size(text: str) -> tuple[int, int]:
    """Parse 600x800 as (600, 800), height and width; ArgumentTypeError for anything else."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, as in 600x800")
    return int(height), int(width)
