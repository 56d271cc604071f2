"""Write a data set in the form of COCO, Pascal VOC or YOLO, and say what that form cannot hold.

examples:
  mxrcnn data convert photos photos_coco --to coco
  mxrcnn data convert instances.json voc --to voc --images photos --link
  mxrcnn data convert VOCdevkit yolo --to yolo --imageset 2007_trainval,2007_test

All image sets are written, under their names. Images are copied; --link makes hard links, or
symbolic ones to another disk. DST must be new or empty, and is whole or not there. It is read back
and compared, which takes about as long as reading PATH.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mxrcnn.cli.common import add_source, add_words, find_source

if TYPE_CHECKING:
    from mxrcnn.config import DataConfig

FORMS = ("coco", "voc", "yolo")
#: the settings that matter here
SETTINGS = ("data.class_names", "data.exif_orientation", "data.max_image_pixels", "data.skip_bad")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add = parser.add_argument
    add("folder", metavar="DST", help="the new data set's folder")
    add("--to", required=True, choices=FORMS, help="the form to write")
    add("--imageset", metavar="A,B", help="image sets; default: all there are")
    add("--link", action="store_true", help="link images instead of copying them")
    add("--polygons", action="store_true", help="yolo: write polygons instead of boxes")
    add("--skip-bad", action="store_true", help="leave out bad files instead of stopping")
    add_words(parser)


def run(args: argparse.Namespace) -> int:
    from mxrcnn.config import ConfigError
    from mxrcnn.data.convert import convert, read_source
    from mxrcnn.errors import report_user_errors
    from mxrcnn.program import spelled

    with report_user_errors():
        if args.polygons and args.to != "yolo":
            raise ConfigError("--polygons is for --to yolo; coco has all masks, voc none")
        found = find_source(args)
        print(f"{args.path}: {found}")
        names = args.imageset.split(",") if args.imageset else ()
        source = read_source(found, _settings(args), [name.strip() for name in names])
        made = convert(source, args.folder, args.to, args.link, args.polygons)
        for line in source.notes.lines():
            print(f"  {line}")
        for name, count in sorted(source.notes.unread.items()):
            print(f"  {count} objects have the field {name!r}, which is not read")
        print(f"{args.folder}: {args.to}, {len(source.class_names)} classes, {made.images}")
        for name, (images, objects) in made.sets.items():
            print(f"  {name}: {images} images, {objects} objects")
        print("lost or changed:" if made.lost else "nothing was lost")
        for line in made.lost:
            print(f"  {line}")
        print(spelled(f"train on it: mxrcnn train --data {args.folder}"))
    return 0


def _settings(args: argparse.Namespace) -> DataConfig:
    """How to read; ConfigError for settings that do not matter here."""
    from mxrcnn.config import ConfigError, make_config, override, parse_settings
    from mxrcnn.config.overrides import resolve

    config = make_config()
    given = resolve(config, parse_settings(args.words))
    for name in given:
        if name not in SETTINGS:
            raise ConfigError(f"--set {name}: only {', '.join(SETTINGS)} matter here")
    given = {"data.skip_bad": args.skip_bad, "data.images": args.images, **given}
    return override(config, given).data
