"""Detect objects in images, and print and draw them.

An .onnx file runs in onnxruntime and does not need mxnet.

examples:
  mxrcnn predict runs/voc07 street.jpg people.jpg --out pictures
  mxrcnn predict runs/voc07 street.jpg --classes person dog --max-detections 10
  mxrcnn predict fasterrcnn_resnet50_fpn_coco street.jpg
  mxrcnn predict voc07.onnx street.jpg --provider cuda
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "run",
        help="a run's folder, an .onnx file from mxrcnn export, or a detector by name (mxrcnn "
        "weights list)",
    )
    add("images", nargs="+", metavar="IMAGE")
    add("--out", default="demo", metavar="DIR", help="default: %(default)s")
    add("--threshold", type=float, default=0.5, help="default: %(default)s")
    add("--classes", nargs="+", metavar="CLASS", help="names or numbers; default: all")
    add("--max-detections", type=int, metavar="N", help="keep the N best per image")
    add(
        "--exif",
        choices=("upright", "stored"),
        default="upright",
        help="rotate photos by their EXIF tag, or use them as stored; default: %(default)s",
    )
    add("--checkpoint", metavar="best|last|N")
    add("--gpus", metavar="0", help="for runs: the GPU to use; default: the CPU")
    add("--provider", help="for ONNX files: what onnxruntime runs on, such as cuda; default: cpu")


def run(args: argparse.Namespace) -> int:
    from mxrcnn.config import ConfigError
    from mxrcnn.errors import report_user_errors
    from mxrcnn.inference.predictor import Predictor

    with report_user_errors():
        context = None
        if args.gpus:
            if args.run.endswith(".onnx"):
                raise ConfigError("--gpus is for runs; for ONNX files: --provider cuda")
            from mxrcnn.config import contexts

            context = contexts(args.gpus)[0]
        predictor = Predictor.load(
            args.run, args.checkpoint, context=context, provider=args.provider
        )
        Path(args.out).mkdir(parents=True, exist_ok=True)
        for place, path in enumerate(args.images, start=1):
            found = predictor.predict(
                path, args.threshold, args.classes, args.max_detections, args.exif
            )
            picture = Path(args.out) / f"{place:03d}_{Path(path).stem}.png"
            found.plot(path).save(picture)
            width, height = found.size[::-1]
            pixels = f"{width} x {height} pixels, {found.orientation}"
            print(f"{path}: {len(found)} objects in {pixels}, drawn in {picture}")
            for box, score, name in zip(found.boxes, found.scores, found.names):
                place_text = " ".join(f"{value:7.1f}" for value in box)
                print(f"  {name:<16} {score:.3f}  {place_text}")
    return 0
