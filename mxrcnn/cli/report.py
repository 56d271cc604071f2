"""Write the page of a test: errors, curves, confusion matrix, and all images with their boxes.

examples:
  mxrcnn report runs/voc07
  mxrcnn report runs/voc07 --imageset 2007_test
  mxrcnn report results/coco_results.json --data coco/annotations/val.json

`mxrcnn test` writes the page as well: report.html in its folder. This makes it anew, for
example from tests of older versions. The page is one file, which needs nothing else.
"""

from __future__ import annotations

import argparse

from mxrcnn.cli.common import add_data, add_data_path, request_of, use_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="a tested run, the folder of a test, or a file of COCO results")
    add_data_path(parser)
    add_data(parser)
    add("--imageset", help="images it was tested on; default: the run's validation images")
    add("--out", metavar="FILE", help="default: report.html in the folder of the test")


def run(args: argparse.Namespace) -> int:
    from mxrcnn.errors import report_user_errors
    from mxrcnn.evaluation.page.run import ReportRequest, run_report

    with report_user_errors():
        use_data(args, "imageset", "TESTING")
        path, notes = run_report(request_of(ReportRequest, args))
        for note in notes:
            print(note)
        print(f"written to {path}: open it in a browser")
    return 0
