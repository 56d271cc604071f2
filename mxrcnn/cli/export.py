"""Export a run's detector: as one ONNX file, or for MXNet's other bindings.

If --to ends in .onnx, the result is an ONNX file of the complete detector, from the image tensor to
boxes, scores and classes. Otherwise it is a folder with NAME-symbol.json, NAME-0000.params and
NAME.json (classes and preprocessing), where NAME is the folder's name. --check runs the ONNX file
and the run on images, prints how well they agree and how long they take, and fails if a detection
differs.

examples:
  mxrcnn export runs/voc07 --to voc07.onnx
  mxrcnn export runs/voc07 --to voc07.onnx --check street.jpg people.jpg
  mxrcnn export runs/voc07 --to exported/voc07
  mxrcnn export fcos_resnet50_fpn_coco --to fcos.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mxrcnn.cli.common import add_run, use_known_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--to", required=True, metavar="PLACE", help="FILE.onnx, or a new folder")
    parser.add_argument(
        "--check",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="compare the ONNX file with the run on these images",
    )


def run(args: argparse.Namespace) -> int:
    if args.check and not args.to.endswith(".onnx"):
        message = "--check only works for ONNX files: --to FILE.onnx"
        raise argparse.ArgumentError(None, message)
    from mxrcnn.errors import report_user_errors
    from mxrcnn.export.check import check
    from mxrcnn.export.model import export_onnx, export_symbol
    from mxrcnn.inference.detector import Detector
    from mxrcnn.inference.thresholds import stored_best_f1

    with report_user_errors():
        use_known_run(args)
        detector = Detector.load(args.run, args.checkpoint)
        if args.to.endswith(".onnx"):
            written = [export_onnx(detector, args.to)]
        else:
            written = export_symbol(detector, args.to)
        for path in written:
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        best = "with" if stored_best_f1(detector) else "without (no test report of this checkpoint)"
        print(f"best F1 thresholds: {best}")
        return 0 if check(detector, Path(args.to), args.check) else 1
