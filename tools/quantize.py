#!/usr/bin/env python3
"""Make a faster copy of a run, in int8 or bfloat16, and measure both: accuracy and images/s.

The copy is a run folder that tools/test.py, tools/demo.py and Detector.load use like any other.

examples:
  python tools/quantize.py runs/voc07 --imageset 2007_test
  python tools/quantize.py runs/voc07 --precision bf16 --out runs/voc07_fast
"""

import argparse
import sys

import _repo  # noqa: F401


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the run's folder, as tools/train.py made it")
    parser.add_argument(
        "--precision", choices=("int8", "bf16"), default="int8", help="default: %(default)s"
    )
    parser.add_argument("--out", metavar="DIR", help="default: RUN_int8, or RUN_bf16")
    parser.add_argument(
        "--dataset",
        metavar="KIND",
        help="voc, coco or another of mxrcnn.data.DATASETS; default: the run's",
    )
    parser.add_argument("--data-root", metavar="DIR", help="default: the run's")
    parser.add_argument(
        "--calibration-imageset",
        metavar="NAME",
        help="where int8 learns the ranges of values; default: the run's training images",
    )
    parser.add_argument(
        "--images", type=int, default=32, metavar="N", help="to calibrate on; default: %(default)s"
    )
    parser.add_argument(
        "--imageset", metavar="NAME", help="to test on; default: the run's validation images"
    )
    parser.add_argument(
        "--metric",
        choices=("auto", "voc07", "voc12", "coco"),
        default="auto",
        help="auto (default): COCO's AP@[.50:.95] for COCO data, of boxes and of masks; VOC07 mAP "
        "for VOC data",
    )
    parser.add_argument(
        "--checkpoint", metavar="best|last|N", help="N is a step; default: best, else last"
    )
    parser.add_argument("--skip-bad", action="store_true", default=None, help="leave out bad files")
    parser.add_argument("--no-test", action="store_true", help="do not measure before and after")
    return parser.parse_args()


#: command line options and the settings that they are short for
SETTINGS = {"dataset": "data.dataset", "data_root": "data.root", "skip_bad": "data.skip_bad"}


def main() -> int:
    args = parse_args()
    from mxrcnn.errors import report_user_errors
    from mxrcnn.evaluation.quantized import QuantizeRequest, quantize_and_test

    given = {key: getattr(args, option) for option, key in SETTINGS.items()}
    out = args.out or f"{args.run.rstrip('/')}_{args.precision}"
    with report_user_errors():
        table = quantize_and_test(
            QuantizeRequest(
                run=args.run,
                out=out,
                precision=args.precision,
                settings={key: value for key, value in given.items() if value is not None},
                calibration_imageset=args.calibration_imageset,
                images=args.images,
                imageset=args.imageset,
                metric=args.metric,
                checkpoint=args.checkpoint,
                test=not args.no_test,
            )
        )
        print(table)
        print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
