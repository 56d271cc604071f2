"""See what augmentations do to a data set's images, and measure what they cost.

examples:
  mxrcnn data augment photos
  mxrcnn data augment photos --augment mosaic:1,strong --out look
  mxrcnn data augment fruits_nuts --network mask_rcnn_r50_fpn --set short_side=600

For each transform, OUT/NAME.jpg shows one image in three random variants, with its objects as the
network gets them. A table says how long a loader process takes for an image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mxrcnn.cli.common import add_source, add_words, find_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add = parser.add_argument
    add("--imageset", metavar="NAME", help="default: the images to train on")
    add(
        "--augment",
        metavar="LIST",
        help="as in mxrcnn train, but each alone; default: all transforms, always applied",
    )
    add("--network", help="whose image size and masks; default: faster_rcnn_vgg16")
    add("--out", metavar="DIR", default="augmentations", help="default: %(default)s")
    add("--no-pictures", action="store_true", help="only measure")
    add_words(parser)


def run(args: argparse.Namespace) -> int:
    from mxrcnn.config import make_config, override, parse_settings
    from mxrcnn.data import detect, open_dataset
    from mxrcnn.data.trial import all_items, draw_each, measure, table
    from mxrcnn.errors import report_user_errors

    with report_user_errors():
        found = find_source(args)
        print(f"{args.path}: {found}")
        config = make_config(*([args.network] if args.network else []))
        settings = {"data.dataset": found.kind, "data.root": str(found.root)}
        settings["data.images"] = args.images
        data = override(config, {**settings, **parse_settings(args.words)}).data
        dataset = open_dataset(data, args.imageset or found.the_imageset(detect.TRAINING))
        items = args.augment.split(",") if args.augment else all_items(data.masks)
        if not args.no_pictures:
            for path in draw_each(items, data, dataset, Path(args.out)):
                print(path)
        print(f"\n{table(measure(items, data, dataset))}")
    return 0
