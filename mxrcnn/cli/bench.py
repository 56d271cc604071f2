"""Measure a detector on this machine: training, inference, file reading, memory, peak arithmetic.

With --peer PYTHON, an interpreter that has torchvision, torchvision's equivalent is measured too,
in turns with ours. Nothing else should be running meanwhile.

examples:
  mxrcnn bench
  mxrcnn bench --network faster_rcnn_r50_fpn --precision fp32 --json r50.json
  mxrcnn bench --peer /path/to/tv/bin/python
"""

from __future__ import annotations

import argparse
import json

from mxrcnn.cli.common import add_words, image_size, request_of


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--network", default="faster_rcnn_vgg16", help="default: %(default)s")
    add("--precision", choices=("fp32", "bf16", "int8"), help="default: all that run well here")
    add("--mode", choices=("train", "infer"), help="default: both")
    add(
        "--size",
        type=image_size,
        metavar="HxW",
        help="image size of the network; default: 600x1000, for pyramids 800x1066",
    )
    add("--repeat", type=positive, default=5, metavar="N", help="default: 5")
    add("--threads", type=positive, metavar="N", help="default: the number of cores")
    add("--peer", metavar="PYTHON", help="an interpreter that has torchvision")
    add("--profile", action="store_true", help="only print milliseconds per operator")
    add("--json", metavar="FILE", help="also write the numbers to this file")
    add_words(parser)


def run(args: argparse.Namespace) -> int:
    from mxrcnn.bench.run import BenchRequest, profile, run_bench
    from mxrcnn.errors import report_user_errors
    from mxrcnn.files import atomic_write

    with report_user_errors():
        request = request_of(BenchRequest, args)
        if args.profile:
            print(profile(request))
            return 0
        report = run_bench(request)
        print(report.table())
        if args.json:
            with atomic_write(args.json) as file:
                file.write(json.dumps(report.json(), indent=2) + "\n")
    return 0
