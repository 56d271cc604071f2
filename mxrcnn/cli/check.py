"""Check a data set before training: its faults, its contents, and whether the anchors fit it.

examples:
  mxrcnn check --data photos
  mxrcnn check --dataset voc --data-root VOCdevkit --imageset 2007_train,2007_test
  mxrcnn check --dataset coco --data-root coco --imageset train2017,val2017 \\
      --network faster_rcnn_r50_fpn --json check.json --out check
  mxrcnn check --dataset voc --data-root cells --imageset 2007_train \\
      --set anchor_scales=2,4,8,16 short_side=480 long_side=640

Exit code 0: training can start; 1: errors would stop it. With --strict, warnings count too.
mxrcnn train --skip-bad leaves out bad images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mxrcnn.cli.common import (
    TILES,
    add_data,
    add_data_path,
    add_settings,
    add_words,
    given_settings,
    use_data,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_data_path(parser)
    add_data(parser, "synthetic", "data/synthetic for synthetic")
    add(
        "--imageset",
        metavar="A,B",
        help="image sets, starting with the training set; default: the data set's own",
    )
    add("--network", help="the network whose anchors to check; default: faster_rcnn_vgg16")
    add("--preset", metavar="NAME", help="as in mxrcnn train")
    add_settings(parser, TILES)
    add_words(parser)
    add("--json", metavar="FILE", help="write the full report, with every fault")
    add("--out", metavar="DIR", help="draw pictures in this folder")
    add("--pictures", type=int, default=12, metavar="N", help="how many faults to draw")
    add("--strict", action="store_true", help="also exit with code 1 for warnings")


def run(args: argparse.Namespace) -> int:
    from mxrcnn.data.check import check_data
    from mxrcnn.data.check.report import table, to_json
    from mxrcnn.errors import report_user_errors
    from mxrcnn.files import atomic_write
    from mxrcnn.training.configure import TrainRequest, build_config

    with report_user_errors():
        use_data(args, "imageset", "TRAINING")
        request = TrainRequest(
            network=args.network,
            preset=args.preset,
            settings=given_settings(args),
            words=tuple(args.words),
        )
        config = build_config(request).config
        names = args.imageset.split(",") if args.imageset else [config.data.imageset]
        check = check_data(config, [name.strip() for name in names])
        print(table(check))
        if args.json:
            with atomic_write(args.json) as handle:
                handle.write(to_json(check))
        if args.out:
            from mxrcnn.data.check.pictures import draw_check

            print("\npictures:", *draw_check(check, Path(args.out), args.pictures), sep="\n  ")
    return 0 if check.passed(args.strict) else 1
