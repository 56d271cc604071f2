"""Look at data sets, split them, convert them, and try augmentations on them.

examples:
  mxrcnn data augment photos
  mxrcnn data convert photos photos_coco --to coco
  mxrcnn data split photos --val 0.2 --test 0.1 --to photos_split
  mxrcnn data stats photos
"""

from __future__ import annotations

import argparse
from importlib import import_module

from mxrcnn.program import spelled

#: subcommand -> (its module, what it does). As of a command, the module's docstring is its help,
#: and it has `add_arguments(parser)` and `run(args) -> int`.
PARTS = {
    "augment": ("mxrcnn.cli.data_augment", "see what augmentations do, and what they cost"),
    "convert": ("mxrcnn.cli.data_convert", "write it in the form of COCO, Pascal VOC or YOLO"),
    "split": ("mxrcnn.cli.data_split", "split it into train, val and test, stratified by class"),
    "stats": ("mxrcnn.cli.data_stats", "count images, objects, classes and sizes"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", required=True, metavar="|".join(PARTS))
    for name, (path, text) in PARTS.items():
        module = import_module(path)
        part = parts.add_parser(
            name,
            help=text,
            description=spelled(module.__doc__ or ""),
            formatter_class=parser.formatter_class,
        )
        module.add_arguments(part)
        part.set_defaults(run_part=module.run)


def run(args: argparse.Namespace) -> int:
    return args.run_part(args)
