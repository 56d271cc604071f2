"""Split a data set by seed, stratified by class, with images that look the same on one side.

examples:
  mxrcnn data split photos --val 0.2                 # only print the split
  mxrcnn data split photos --val 0.2 --test 0.1 --to photos_split
  mxrcnn train --data photos_split

The split is that of mxrcnn train --val. DIR must be new or empty: lists of images (VOC, YOLO), a
file a side (COCO, CSV, CVAT) or a folder a side (LabelImg, LabelMe), with links to PATH's images
and annotations. PATH is not changed. DIR is read back and compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mxrcnn.cli.common import add_source, find_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add = parser.add_argument
    add("--val", type=float, required=True, metavar="SHARE", help="of the images, such as 0.2")
    add("--test", type=float, default=0.0, metavar="SHARE", help="of the images; default: no test")
    add("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    add("--imageset", metavar="NAME", help="the images to split; default: those to train on")
    add("--to", metavar="DIR", help="write the split there")
    add("--skip-bad", action="store_true", help="leave out bad files instead of stopping")


def run(args: argparse.Namespace) -> int:
    from mxrcnn.config import DataConfig
    from mxrcnn.data import open_dataset
    from mxrcnn.data.detect import TRAINING
    from mxrcnn.data.split import make_split, shares_of, table
    from mxrcnn.data.split_files import write_sides
    from mxrcnn.errors import report_user_errors
    from mxrcnn.program import command

    with report_user_errors():
        shares = shares_of(args.val, args.test)
        found = find_source(args)
        imageset = args.imageset or found.the_imageset(TRAINING)
        print(f"{args.path}: {found}\n  image set: {imageset}")
        where = {"root": str(found.root), "images": args.images}
        data = DataConfig(dataset=found.kind, **where, skip_bad=args.skip_bad)
        dataset = open_dataset(data, imageset)
        for line in dataset.notes.lines():
            print(f"  {line}")
        split = make_split(dataset, data, shares, args.seed)
        print(table(split, dataset))
        if args.to:
            written = write_sides(split, dataset, data, imageset, Path(args.to))
            print(f"written to {args.to}: {', '.join(written)}")
            print(f"train on it: {command('train', '--data', args.to)}")
        else:
            print("nothing was written: --to DIR writes it")
    return 0
