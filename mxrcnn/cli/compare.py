"""Compare two tested runs: is B really better, and on which images do they differ?

examples:
  mxrcnn compare runs/a runs/b
  mxrcnn compare runs/a runs/b --imageset 2007_test --metric voc12
  mxrcnn compare a/coco_results.json b/coco_results.json --data coco/annotations/val.json

Test both first. Images are resampled, the same ones for both: the difference of each metric comes
with a 95 % interval. compare.json has all numbers, compare.html the images that changed most.
"""

from __future__ import annotations

import argparse

from mxrcnn.cli.common import METRICS, add_data, add_data_path, request_of, use_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "a tested run, the folder of a test, or a file of COCO results"
    add("a", metavar="A", help=what)
    add("b", metavar="B", help="the same, to be compared with A")
    add_data_path(parser)
    add_data(parser)
    add("--imageset", help="images they were tested on; default: the run's validation images")
    add(
        "--metric",
        choices=METRICS,
        default="auto",
        help="the metric of the verdict, as in mxrcnn test; the table has all",
    )
    add("--resamples", type=int, default=2000, metavar="N", help="default: 2000")
    add("--seed", type=int, default=0, metavar="N", help="of the resamples")
    add("--pictures", type=int, default=50, metavar="N", help="images in compare.html, at most")
    add("--out", metavar="DIR", help="default: ./compare_A_B")


def run(args: argparse.Namespace) -> int:
    from mxrcnn.errors import report_user_errors
    from mxrcnn.evaluation.compare import CompareRequest, run_compare

    with report_user_errors():
        use_data(args, "imageset", "TESTING")
        comparison, written = run_compare(request_of(CompareRequest, args))
        print(comparison.table())
        print("\nwritten:", *written)
    return 0
