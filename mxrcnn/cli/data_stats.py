"""Count a data set: images, objects, classes, sizes, and what its files have that is not read.

examples:
  mxrcnn data stats photos
  mxrcnn data stats VOCdevkit --imageset 2007_trainval,2007_test
  mxrcnn data stats labels.csv --json > stats.json

Sizes are COCO's: small objects have an area below 32 x 32 pixels, large ones above 96 x 96.
Annotations and image headers are read; pixels are not. Exit code 1: an image set was not readable.
"""

from __future__ import annotations

import argparse
import json
import sys

from mxrcnn.cli.common import add_source, find_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--imageset", metavar="A,B", help="image sets; default: all there are")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from mxrcnn.config import DataConfig
    from mxrcnn.data.stats import read_stats, table
    from mxrcnn.errors import report_user_errors
    from mxrcnn.tables import plain

    with report_user_errors():
        found = find_source(args)
        data = DataConfig(
            dataset=found.kind, root=str(found.root), images=args.images, skip_bad=True
        )
        names = args.imageset.split(",") if args.imageset else found.imagesets
        stats, failures = read_stats(data, [name.strip() for name in names])
        if args.json:
            print(json.dumps(plain({"kind": found.kind, "imagesets": stats}), indent=2))
        else:
            print(f"{args.path}: {found}\n\n{table(stats)}")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0
