"""Make a faster copy of a run, in int8 or bfloat16, and compare accuracy and images/s.

The copy is an ordinary run folder: mxrcnn test, mxrcnn predict and Detector.load
read it.

examples:
  mxrcnn quantize runs/voc07 --imageset 2007_test
  mxrcnn quantize runs/voc07 --precision bf16 --out runs/voc07_fast
"""

from __future__ import annotations

import argparse

from mxrcnn.cli.common import add_run, add_test_data, request_of, use_known_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_run(parser)
    add("--precision", choices=("int8", "bf16"), default="int8", help="default: %(default)s")
    add("--out", metavar="DIR", help="default: RUN_int8, or RUN_bf16")
    add_test_data(parser)
    add(
        "--calibration-imageset",
        metavar="NAME",
        help="images from which int8 derives value ranges; default: the run's training images",
    )
    add(
        "--images",
        type=int,
        default=32,
        metavar="N",
        help="number of calibration images; default: %(default)s",
    )
    add(
        "--imageset", metavar="NAME", help="images to test on; default: the run's validation images"
    )
    add("--no-test", dest="test", action="store_false", help="only quantize, do not compare")


def run(args: argparse.Namespace) -> int:
    from mxrcnn.errors import report_user_errors
    from mxrcnn.evaluation.quantized import QuantizeRequest, quantize_and_test

    out = args.out or f"{args.run.rstrip('/')}_{args.precision}"
    with report_user_errors():
        use_known_run(args)
        print(quantize_and_test(request_of(QuantizeRequest, args, out=out)))
        print(f"written to {out}")
    return 0
