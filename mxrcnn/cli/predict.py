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
  mxrcnn predict runs/aerial scene.tif --tile 1024 --overlap 0.2
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mxrcnn.cli.predict_options import IMAGE_URL, WITH_MASKS, add_arguments

if TYPE_CHECKING:
    from tqdm import tqdm

    from mxrcnn.inference.outputs import Result
    from mxrcnn.inference.predictor import Predictor, Wanted
    from mxrcnn.inference.sources import Sources
    from mxrcnn.inference.stream import Looked
    from mxrcnn.inference.tiles import TiledPredictor

__all__ = ["add_arguments", "run"]

FOLDERS = {"yolo": "yolo/labels", "voc": "voc", "draw": "pictures", "crops": "crops"}
#: so many failures of the network in a row are not the images' fault
HOPELESS = 10


def run(args: argparse.Namespace) -> int:
    from mxrcnn.errors import report_user_errors

    with report_user_errors():
        return _predict(args)


def _predict(args: argparse.Namespace) -> int:
    from mxrcnn.config import ConfigError
    from mxrcnn.inference.outputs import Ids, Names, Output, Result, open_writers
    from mxrcnn.inference.sources import Every, Sources
    from mxrcnn.inference.stream import BAD_IMAGE

    if args.threads < 1 or (args.batch_size is not None and args.batch_size < 1):
        raise ConfigError("--batch-size and --threads must be at least 1")
    every = Every.parse(args.every)
    predictor = _load(args)
    tiled = _tiled(args, predictor)
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
    notes += (tiled.note,) if tiled else ()
    _say(*notes, *sources.notes, *_stale(output.folder, formats))
    names, counts = Names(), _Counts()
    with open_writers(formats, output) as write, _bar(sources.total) as bar:
        pixels = bool({"draw", "crops"} & set(formats))
        looked = _look(args, tiled or predictor, sources, wanted, pixels)
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
            counts.untiled += tiled is not None and not item.tiles
            if args.stream or not args.save:
                _report(item, args.stream, result=result if output.polygons else None)
    _say(*_summary(counts, names.renamed, output.folder if formats else None, sources.total))
    return 1 if counts.failed else 0


@dataclass
class _Counts:
    """Images that were looked at, those decoded at reduced size, objects in them and how many of
    them have an empty mask, failed images, failures of the network (or for want of memory) in a
    row, and images that were too small for tiles."""

    images: int = 0
    reduced: int = 0
    objects: int = 0
    empty_masks: int = 0
    failed: int = 0
    in_a_row: int = 0
    untiled: int = 0

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


def _tiled(args: argparse.Namespace, predictor: Predictor) -> TiledPredictor | None:
    """The predictor in tiles that --tile asks for, or by default the model's training."""
    from mxrcnn.config import ConfigError
    from mxrcnn.inference.tiles import TiledPredictor, Tiling

    data = predictor.config.data
    tile = data.tile if args.tile is None else args.tile
    tile = int(tile) if str(tile).isdecimal() else tile
    if tile == 0:
        if args.overlap is not None or args.tile_scale is not None:
            raise ConfigError("--overlap and --tile-scale are for --tile N")
        if data.tile:
            _say(f"--tile 0: in training, images were cut into tiles of {data.tile} pixels")
        return None
    if args.tile is None:
        _say(f"--tile {tile}: as in training (--tile 0: only whole images)")
    tiling = Tiling(tile, args.overlap, args.tile_scale, args.batch_size)
    return TiledPredictor(predictor, tiling)


def _look(
    args: argparse.Namespace,
    predictor: Predictor | TiledPredictor,
    sources: Sources,
    wanted: Wanted,
    pixels: bool,
) -> Iterator[Looked]:
    """The sources with their detections."""
    from mxrcnn.inference.predictor import Predictor
    from mxrcnn.inference.stream import detect_stream, detect_tiles

    if isinstance(predictor, Predictor):
        how = args.exif, args.batch_size or 1, args.threads, pixels
        return detect_stream(predictor, sources, wanted, *how)
    return detect_tiles(predictor, sources, wanted, args.exif, pixels, progress=True)


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
    if counts.untiled:
        lines.append(f"{counts.untiled} images fit into a tile and were predicted whole")
    if counts.failed:
        lines.append(f"{counts.failed} of {counts.images} images failed, see above")
    if counts.in_a_row == HOPELESS:
        left = "" if total is None else f"; {total - counts.images} images were not looked at"
        lines.append(
            f"error: stopped, because the network failed on {HOPELESS} images in a row{left}"
        )
    return lines
