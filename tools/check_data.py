#!/usr/bin/env python3
"""Look a data set over before training: faults, what is in it, and whether the anchors fit it.

examples:
  python tools/check_data.py --dataset voc --data-root VOCdevkit --imageset 2007_train,2007_test
  python tools/check_data.py --dataset coco --data-root coco --imageset train2017,val2017 \\
      --network faster_rcnn_r50_fpn --json check.json --out check
  python tools/check_data.py --dataset voc --data-root cells --imageset 2007_train \\
      --set anchor_scales=2,4,8,16 short_side=480 long_side=640

Exit code 0: a training can start; 1: errors would stop it (tools/train.py --skip-bad leaves such
images out). With --strict warnings count as well.
"""

import argparse
import sys
from pathlib import Path

import _repo  # noqa: F401


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset",
        metavar="KIND",
        help="voc, coco or another of mxrcnn.data.DATASETS; default: synthetic",
    )
    parser.add_argument("--data-root", metavar="DIR")
    parser.add_argument(
        "--imageset",
        metavar="A,B",
        help="image sets, the one to train on first; default: the data set's own",
    )
    parser.add_argument("--network", help="whose anchors; default: faster_rcnn_vgg16")
    parser.add_argument("--preset", metavar="NAME", help="as of tools/train.py")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="any setting of a run"
    )
    parser.add_argument("--json", metavar="FILE", help="write the whole report, every fault in it")
    parser.add_argument("--out", metavar="DIR", help="draw pictures there")
    parser.add_argument("--pictures", type=int, default=12, metavar="N", help="faults to draw")
    parser.add_argument("--strict", action="store_true", help="warnings, too, give exit code 1")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    from mxrcnn.data.check import check_data
    from mxrcnn.data.check_report import table, to_json
    from mxrcnn.errors import report_user_errors
    from mxrcnn.files import atomic_write
    from mxrcnn.training.run import TrainRequest, build_config

    given = {"data.dataset": args.dataset, "data.root": args.data_root}
    with report_user_errors():
        settings = {key: value for key, value in given.items() if value is not None}
        config, _ = build_config(
            TrainRequest(
                network=args.network, preset=args.preset, settings=settings, words=tuple(args.set)
            )
        )
        names = args.imageset.split(",") if args.imageset else [config.data.imageset]
        check = check_data(config, [name.strip() for name in names])
        print(table(check))
        if args.json:
            with atomic_write(args.json) as handle:
                handle.write(to_json(check))
        if args.out:
            from mxrcnn.data.check_pictures import draw_check

            print("\npictures:", *draw_check(check, Path(args.out), args.pictures), sep="\n  ")
    return 0 if check.passed(args.strict) else 1


if __name__ == "__main__":
    sys.exit(main())
