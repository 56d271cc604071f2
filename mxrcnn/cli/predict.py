"""Detect objects in images, and print, draw and save them.

MODEL is a run, a quantized run, a known detector by name, or an .onnx file, which runs in
onnxruntime and needs no mxnet.
SOURCE is a file, a folder, a glob, a .txt list, a video, or - for standard input. A bad file is
named, the others go on, and the exit code is 1.

examples:
  mxrcnn predict runs/voc07 photos/
  mxrcnn predict runs/voc07 'photos/**/*.jpg' --save coco,yolo,labelstudio --out found
  mxrcnn predict runs/voc07 street.jpg --classes person dog --threshold person=0.7,dog=0.4
  mxrcnn predict runs/voc07 photos/ --threshold best-f1
  mxrcnn predict fasterrcnn_resnet50_fpn_coco street.jpg
  mxrcnn predict voc07.onnx clip.mp4 --every 0.5s --stream
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

    from mxrcnn.inference.outputs import Result
    from mxrcnn.inference.predictor import Predictor, Wanted
    from mxrcnn.inference.stream import Looked

FOLDERS = {"yolo": "yolo/labels", "voc": "voc", "draw": "pictures", "crops": "crops"}
IMAGE_URL = "/data/local-files/?d="
#: so many failures of the network in a row are not the images' fault
HOPELESS = 10
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
    _add_output(parser.add_argument_group("what to write"))
    how = parser.add_argument_group("how")
    how.add_argument("--checkpoint", metavar="best|last|N")
    how.add_argument("--gpus", metavar="0", help="for runs: the GPU to use; default: the CPU")
    how.add_argument(
        "--provider", help="for ONNX files: what onnxruntime runs on, such as cuda; default: cpu"
    )
    how.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="of images of equal shape in a row"
    )
    how.add_argument("--threads", type=int, default=2, metavar="N", help="that decode ahead")
    how.add_argument("--strict", action="store_true", help="stop at the first bad file")


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


def run(args: argparse.Namespace) -> int:
    from mxrcnn.errors import report_user_errors

    with report_user_errors():
        try:
            return _predict(args)
        except BrokenPipeError:  # the reader of standard output, such as head, has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


def _predict(args: argparse.Namespace) -> int:
    from mxrcnn.config import ConfigError
    from mxrcnn.inference.outputs import Ids, Names, Output, Result, open_writers
    from mxrcnn.inference.sources import Every, Sources
    from mxrcnn.inference.stream import BAD_IMAGE, detect_stream

    if args.batch_size < 1 or args.threads < 1:
        raise ConfigError("--batch-size and --threads must be at least 1")
    every = Every.parse(args.every)
    predictor = _load(args)
    formats = _formats(args)
    wanted, notes = _wanted(args, predictor, formats)
    sources = Sources(args.sources, every)
    ids = Ids(args.ids, predictor.class_names) if args.ids else None
    output = Output(
        Path(args.out),
        predictor.class_names,
        ids and ids.category_ids,
        ids is None,
        args.yolo_scores,
        args.image_url,
        Path(args.model).resolve().name,
        args.masks == "polygons",
    )
    notes += (*_useless(args, formats), *_masks(args, predictor, formats))
    _say(*notes, *sources.notes, *_stale(output.folder, formats))
    names, counts = Names(), _Counts()
    with open_writers(formats, output) as write, _bar(sources.total) as bar:
        pixels = bool({"draw", "crops"} & set(formats))
        how = args.exif, args.batch_size, args.threads, pixels
        looked = detect_stream(predictor, sources, wanted, *how)
        for number, item in enumerate(looked, start=1):
            bar.update()
            counts.images += 1
            try:
                if item.error:
                    raise item.error
                image_id = ids.image_id(item.source.name) if ids else number
            except BAD_IMAGE as error:
                if args.strict:
                    raise
                _report(item, args.stream, error)
                counts.fail(error)
                if counts.in_a_row == HOPELESS:
                    break
                continue
            counts.in_a_row = 0
            counts.reduced += item.reduced > 1
            stem = names.stem(item.source.name)
            result = Result(item.source.name, stem, image_id, item.found, item.pixels)
            write(result)
            counts.objects += len(item.found)
            counts.empty_masks += result.empty_masks
            if args.stream or not args.save:
                _report(item, args.stream, result=result if output.polygons else None)
    _say(*_summary(counts, names.renamed, output.folder if formats else None, sources.total))
    return 1 if counts.failed else 0


@dataclass
class _Counts:
    """Images that were looked at, those decoded at reduced size, objects in them and how many of
    them have an empty mask, failed images, and failures of the network (or for want of memory) in a
    row."""

    images: int = 0
    reduced: int = 0
    objects: int = 0
    empty_masks: int = 0
    failed: int = 0
    in_a_row: int = 0

    def fail(self, error: Exception) -> None:
        from mxrcnn.inference.stream import EngineError

        self.failed += 1
        self.in_a_row = self.in_a_row + 1 if isinstance(error, (EngineError, MemoryError)) else 0


def _load(args: argparse.Namespace) -> Predictor:
    from mxrcnn.config import ConfigError
    from mxrcnn.inference.predictor import Predictor

    context = None
    if args.gpus:
        if args.model.endswith(".onnx"):
            raise ConfigError("--gpus is for runs; for ONNX files: --provider cuda")
        from mxrcnn.config import contexts

        context = contexts(args.gpus)[0]
    return Predictor.load(args.model, args.checkpoint, context=context, provider=args.provider)


def _wanted(
    args: argparse.Namespace, predictor: Predictor, formats: list[str]
) -> tuple[Wanted, tuple[str, ...]]:
    """Which detections are kept, and where the thresholds come from."""
    from mxrcnn.inference.predictor import Wanted
    from mxrcnn.inference.thresholds import parse_thresholds

    names = predictor.class_names
    words = [
        part.strip()
        for word in args.classes or ()
        for part in ([word] if word in names else word.split(","))
    ]
    classes = predictor.class_numbers(
        int(word) if word.isdecimal() and word not in names else word for word in words
    )
    limits = parse_thresholds(args.threshold, predictor)
    notes, own = limits.notes, predictor.config.model.score_thresh
    if 0 < min(limits.scores) < own and not predictor.source.endswith(".onnx"):
        notes += (f"scores below {own:g} are never found: the network's own score_thresh",)
    masks = args.stream or bool(set(formats) & set(WITH_MASKS[args.masks or "rle"]))
    return Wanted(limits.scores, classes or None, args.max_detections, masks), notes


def _formats(args: argparse.Namespace) -> list[str]:
    formats = [word.strip() for word in args.save.split(",") if word.strip()]
    formats += ["draw"] * args.draw + ["crops"] * args.crops
    return formats or ([] if args.stream else ["draw"])


def _stale(folder: Path, formats: list[str]) -> list[str]:
    """Folders that hold files of an earlier start."""
    places = [folder / FOLDERS[name] for name in formats if name in FOLDERS]
    return [
        f"{place} holds earlier files; those of other images stay"
        for place in places
        if place.is_dir() and any(place.iterdir())
    ]


def _useless(args: argparse.Namespace, formats: list[str]) -> list[str]:
    """Options that only other formats use."""
    options = {
        "--ids": (args.ids, ("coco", "labelstudio")),
        "--yolo-scores": (args.yolo_scores, ("yolo",)),
        "--image-url": (args.image_url != IMAGE_URL, ("labelstudio",)),
    }
    return [
        f"{option} changes nothing without --save {' or '.join(users)}"
        for option, (given, users) in options.items()
        if given and not set(users) & set(formats)
    ]


def _masks(args: argparse.Namespace, predictor: Predictor, formats: list[str]) -> list[str]:
    """A note of the formats that leave out masks; ConfigError if --masks is given for nothing."""
    from mxrcnn.config import ConfigError

    if not predictor.finds_masks:
        if args.masks:
            raise ConfigError(f"--masks {args.masks}: {args.model} finds boxes, not masks")
        return []
    known = WITH_MASKS[args.masks or "rle"]
    without = [name for name in formats if name not in (*known, "crops")]
    return [f"{', '.join(without)}: boxes only, without masks"] if without else []


def _bar(total: int | None) -> tqdm:
    from tqdm import tqdm

    return tqdm(total=total, unit="image", dynamic_ncols=True, disable=None)


def _report(
    item: Looked, as_json: bool, error: Exception | None = None, result: Result | None = None
) -> None:
    """Print an image's detections, as JSON or as lines, or its error.

    result: if given, its polygons are printed in JSON instead of the masks' RLE.
    """
    from tqdm import tqdm

    from mxrcnn.inference.outputs.polygons import flat

    if as_json:
        told = {"error": str(error)} if error else item.found.to_dict()
        if result:
            for row, outline in zip(told["detections"], result.outlines):
                row["mask"] = flat(outline)
        line = json.dumps({"image": item.source.where, **told}, ensure_ascii=False)
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
    if error:
        tqdm.write(f"error: {error}", file=sys.stderr)
    elif not as_json:
        found = item.found
        width, height = found.size[::-1]
        pixels = f"{width} x {height} pixels, {found.orientation}"
        lines = [f"{item.source.where}: {len(found)} objects in {pixels}"]
        for box, score, name in zip(found.boxes, found.scores, found.names):
            place = " ".join(f"{value:7.1f}" for value in box)
            lines.append(f"  {name:<16} {score:.3f}  {place}")
        tqdm.write("\n".join(lines), file=sys.stdout)


def _say(*lines: str) -> None:
    """Print notes to stderr: standard output is for detections."""
    for line in lines:
        print(line, file=sys.stderr)


def _summary(counts: _Counts, renamed: int, folder: Path | None, total: int | None) -> list[str]:
    good = counts.images - counts.failed
    where = f", written to {folder}" if folder else ""
    lines = [f"{counts.objects} objects in {good} images{where}"]
    if renamed:
        lines.append(f"{renamed} images share the name of another: their files end in ~2, ~3, ...")
    if counts.reduced:
        lines.append(f"{counts.reduced} large JPEGs were decoded at 1/2, 1/4 or 1/8 of their size")
    if counts.empty_masks:
        lines.append(
            f"{counts.empty_masks} objects have an empty mask; as a polygon and in CVAT it is a box"
        )
    if counts.failed:
        lines.append(f"{counts.failed} of {counts.images} images failed, see above")
    if counts.in_a_row == HOPELESS:
        left = "" if total is None else f"; {total - counts.images} images were not looked at"
        lines.append(
            f"error: stopped, because the network failed on {HOPELESS} images in a row{left}"
        )
    return lines
