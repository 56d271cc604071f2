#!/usr/bin/env python3
"""Detect objects in images: prints them and draws them.

examples:
  python tools/demo.py runs/voc07 street.jpg people.jpg --out pictures
  python tools/demo.py voc07.onnx street.jpg
"""

import argparse
import sys
from pathlib import Path

import _repo  # noqa: F401


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run's folder, or a .onnx file of tools/export.py")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--out", default="demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--threshold", type=float, default=0.5, help="default: %(default)s")
    parser.add_argument("--checkpoint", metavar="best|last|N")
    parser.add_argument("--gpus", metavar="0", help="the GPU to use; without it, the CPU")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    from mxrcnn.config import ConfigError
    from mxrcnn.data.images import read_image
    from mxrcnn.errors import report_user_errors
    from mxrcnn.inference.detector import Detector
    from mxrcnn.inference.onnx_detector import OnnxDetector
    from mxrcnn.training.run import contexts
    from mxrcnn.viz import draw_detections

    with report_user_errors():
        if args.run.endswith(".onnx"):
            if args.checkpoint or args.gpus:
                raise ConfigError("--checkpoint and --gpus are for runs, not for ONNX files")
            detector = OnnxDetector(args.run)
        else:
            detector = Detector.load(args.run, args.checkpoint, context=contexts(args.gpus)[0])
        names = detector.class_names
        Path(args.out).mkdir(parents=True, exist_ok=True)
        for place, path in enumerate(args.images, start=1):
            pixels = read_image(path, detector.config.data.exif_orientation)
            found = detector.predict(pixels)
            picture = Path(args.out) / f"{place:03d}_{Path(path).stem}.png"
            draw_detections(pixels, found, names, args.threshold).save(picture)
            shown = found[found.scores >= args.threshold]
            print(f"{path}: {len(shown)} objects, drawn in {picture}")
            for box, score, k in zip(shown.boxes, shown.scores, shown.classes):
                place_text = " ".join(f"{value:7.1f}" for value in box)
                print(f"  {names[int(k) - 1]:<16} {score:.3f}  {place_text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
