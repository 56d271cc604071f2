"""Test a run: prints AP by class, and writes report.html, report.json, results and pictures.

examples:
  mxrcnn test runs/voc07 --imageset 2007_test
  mxrcnn test runs/coco --imageset val2017 --metric voc12 --checkpoint last
  mxrcnn test fasterrcnn_resnet50_fpn_coco --data coco/annotations/instances_val2017.json
"""

from __future__ import annotations

import argparse
import sys

from mxrcnn.cli.common import (
    add_data_path,
    add_run,
    add_settings,
    add_test_data,
    request_of,
    use_data,
    use_known_run,
)

TILE = {
    "data.tile": (
        int,
        "N",
        "predict larger images in tiles of N x N of their pixels; 0: do not; default: as in "
        "training",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_run(parser)
    add_data_path(parser)
    add_test_data(parser)
    add_settings(parser, TILE)
    add("--imageset", help="images to test on; default: the run's validation images")
    add("--params", metavar="FILE", help="test these .params instead of a checkpoint")
    add(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        help="bf16: convolutions in bfloat16, several times faster on CPUs with AMX; default: the "
        "run's own, see mxrcnn quantize",
    )
    add("--batch-size", type=int, default=1, metavar="N")
    add("--num-workers", type=int, default=0, metavar="N", help="0: a thread")
    add("--gpus", metavar="0", help="the GPU to use; without it, the CPU")
    add(
        "--ci",
        action="store_true",
        help="print and store 95 %% intervals beside AP, from 2,000 resamples of the images",
    )
    add("--pictures", type=int, default=4, metavar="N", help="draw the N best and N worst images")
    add("--out", metavar="DIR", help="default: RUN/test_IMAGESET; for a name: ./test_NAME")


def run(args: argparse.Namespace) -> int:
    from mxrcnn.config import contexts
    from mxrcnn.errors import report_user_errors
    from mxrcnn.evaluation.run import TestRequest, run_test

    with report_user_errors():
        name = use_known_run(args)
        args.out = args.out or (name and f"test_{name}")  # its run is in the cache
        use_data(args, "imageset", "TESTING")
        outcome = run_test(request_of(TestRequest, args), contexts(args.gpus)[0])
        print(outcome.report.table())
        print(f"\nwritten to {outcome.out}: {', '.join(outcome.written)}")
        pages = [outcome.out / name for name in outcome.written if name.endswith(".html")]
        print("to look at:", *pages, *outcome.pictures, sep="\n  ")
    for failure in outcome.failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if outcome.failures else 0
