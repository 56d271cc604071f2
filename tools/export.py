#!/usr/bin/env python3
"""Export a run's detector: as one ONNX file, or for MXNet's other bindings.

If --to ends in .onnx, the result is an ONNX file of the complete detector, from the image tensor to
boxes, scores and classes. Otherwise it is a folder with NAME-symbol.json, NAME-0000.params and
NAME.json (classes and preprocessing), where NAME is the folder's name. --check runs the ONNX file
and the run on images, prints how well they agree and how long they take, and fails if a detection
differs.

examples:
  python tools/export.py runs/voc07 --to voc07.onnx
  python tools/export.py runs/voc07 --to voc07.onnx --check street.jpg people.jpg
  python tools/export.py runs/voc07 --to exported/voc07
"""

import argparse
import sys
from pathlib import Path

from _common import add_run, new_parser


def parse_args() -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_run(parser)
    parser.add_argument("--to", required=True, metavar="PLACE", help="FILE.onnx, or a new folder")
    parser.add_argument(
        "--check",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="compare the ONNX file with the run on these images",
    )
    args = parser.parse_args()
    if args.check and not args.to.endswith(".onnx"):
        parser.error("--check only works for ONNX files: --to FILE.onnx")
    return args


def main() -> int:
    args = parse_args()
    from mxrcnn.errors import report_user_errors
    from mxrcnn.export.check import check
    from mxrcnn.export.model import export_onnx, export_symbol
    from mxrcnn.inference.detector import Detector

    with report_user_errors():
        detector = Detector.load(args.run, args.checkpoint)
        if args.to.endswith(".onnx"):
            written = [export_onnx(detector, args.to)]
        else:
            written = export_symbol(detector, args.to)
        for path in written:
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return 0 if check(detector, Path(args.to), args.check) else 1


if __name__ == "__main__":
    sys.exit(main())
