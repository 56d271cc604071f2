#!/usr/bin/env python3
"""Measure a detector on this machine: training, inference, file reading, memory, peak arithmetic.

With --peer PYTHON, an interpreter that has torchvision, torchvision's equivalent is measured too,
in turns with ours. Nothing else should be running meanwhile.

examples:
  python tools/bench.py
  python tools/bench.py --network faster_rcnn_r50_fpn --precision fp32 --json r50.json
  python tools/bench.py --peer /path/to/tv/bin/python
"""

import argparse
import json
import sys

from _common import add_words, image_size, new_parser, request_of


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = new_parser(__doc__)
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
    return parser.parse_args()


def main() -> int:
    args = parse_args()
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


if __name__ == "__main__":
    sys.exit(main())
