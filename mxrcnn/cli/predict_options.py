"""The options of mxrcnn predict."""

from __future__ import annotations

import argparse

IMAGE_URL = "/data/local-files/?d="
#: the formats that hold masks, by --masks
WITH_MASKS = {
    "rle": ("coco", "cvat", "draw"),
    "polygons": ("coco", "yolo", "labelstudio", "cvat", "draw"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a run's folder, an .onnx file from mxrcnn export, or a detector by name (mxrcnn "
        "weights list)",
    )
    add("sources", nargs="+", metavar="SOURCE", help="images, folders, globs, lists, videos, -")
    what = parser.add_argument_group("what to find")
    what.add_argument(
        "--threshold",
        default="0.5",
        metavar="SCORE",
        help="the lowest score, such as 0.5; or by class: 0.5,cat=0.7,dog=0.4; or best-f1, from "
        "the run's last mxrcnn test; default: 0.5",
    )
    what.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="names or numbers, also with commas; default: all",
    )
    what.add_argument("--max-detections", type=int, metavar="N", help="keep the N best per image")
    what.add_argument(
        "--exif",
        choices=("upright", "stored"),
        default="upright",
        help="rotate photos by their EXIF tag, or use them as stored; default: %(default)s",
    )
    what.add_argument(
        "--every", default="1", metavar="N|SECONDS", help="frames of videos: 10, or 0.5s"
    )
    _add_tiles(parser.add_argument_group("large images"))
    _add_output(parser.add_argument_group("what to write"))
    how = parser.add_argument_group("how")
    how.add_argument("--checkpoint", metavar="best|last|N")
    how.add_argument("--gpus", metavar="0", help="for runs: the GPU to use; default: the CPU")
    how.add_argument(
        "--provider", help="for ONNX files: what onnxruntime runs on, such as cuda; default: cpu"
    )
    how.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="of images of equal shape in a row, default: 1; or of an image's tiles, default: "
        "about two million pixels",
    )
    how.add_argument("--threads", type=int, default=2, metavar="N", help="that decode ahead")
    how.add_argument("--strict", action="store_true", help="stop at the first bad file")


def _add_tiles(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--tile",
        metavar="N|auto",
        help="look at the whole image and at tiles of N x N of its pixels, and join objects that "
        "their borders cut; auto: the size of the training images; 0: at the whole image only; "
        "default: as in training",
    )
    add(
        "--overlap",
        type=float,
        metavar="SHARE",
        help="the least share of a tile that neighbours have in common; default: as in training, "
        "or else 0.2, or 0.4 with --tile auto",
    )
    add(
        "--tile-scale",
        type=float,
        metavar="SCALE",
        help="network pixels per pixel of the image; default: as in training",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--out", default="predictions", metavar="DIR", help="default: %(default)s")
    add(
        "--save",
        default="",
        metavar="FORMATS",
        help="coco, csv, yolo, voc, labelstudio, cvat, draw, crops; several with commas",
    )
    add("--draw", action="store_true", help="pictures; also if nothing else is written")
    add("--crops", action="store_true", help="a picture of each object")
    add("--stream", action="store_true", help="print one JSON object an image")
    add("--ids", metavar="FILE", help="take COCO's image and category ids from this COCO file")
    add(
        "--masks",
        choices=tuple(WITH_MASKS),
        help="of detectors that find them: rle (default) for coco and cvat; polygons also for yolo "
        "and labelstudio",
    )
    add("--yolo-scores", action="store_true", help="a sixth number in YOLO's labels")
    add(
        "--image-url",
        default=IMAGE_URL,
        metavar="URL",
        help="for Label Studio: comes before an image's name; default: %(default)s",
    )
