"""What the commands share: their parser and common options."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from mxrcnn.program import spelled

if TYPE_CHECKING:
    from mxrcnn.data.detect import Found

T = TypeVar("T")

METRICS = ("auto", "voc07", "voc12", "coco")
SKIP_BAD = {"data.skip_bad": (bool, "", "leave out bad files instead of stopping")}
TILES = {
    "data.tile": (
        int,
        "N",
        "cut images that are larger into tiles of N x N of their pixels; 0: do not (docs/train.md)",
    ),
    "data.overlap": (
        float,
        "SHARE",
        "the least share of a tile that neighbours have in common, default 0.2",
    ),
}


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that names other commands as the user started this one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return spelled(action.help or "")


def new_parser(description: str | None, prog: str) -> argparse.ArgumentParser:
    """A parser that shows the module's docstring in its help, line by line."""
    return argparse.ArgumentParser(
        prog=prog, description=spelled(description or ""), formatter_class=_Help
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the run to work on, for `use_known_run`, and its checkpoint."""
    parser.add_argument(
        "run", help="the run's folder, or a known detector by name (mxrcnn weights list)"
    )
    parser.add_argument(
        "--checkpoint", metavar="best|last|N", help="N is a step; default: best, else last"
    )


def use_known_run(args: argparse.Namespace) -> str | None:
    """Replace the name of a known detector by its converted run; returns the name, if it is one.

    Raises WeightsError as `known_run` does.
    """
    from mxrcnn.weights.convert import known_run

    given, args.run = args.run, str(known_run(args.run))
    return given if given != args.run else None


def add_settings(group: Any, settings: Mapping[str, tuple[Any, str, str]]) -> None:
    """Add flags that set settings, for `given_settings`: --lr for train.lr.

    settings: name -> (type, metavar, help). A tuple of choices takes the type's place, and bool
    makes a flag without a value.
    """
    for name, (kind, metavar, text) in settings.items():
        flag = "data-root" if name == "data.root" else name.partition(".")[2].replace("_", "-")
        options: dict[str, Any] = {"type": kind, "metavar": metavar}
        if kind is bool:
            options = {"action": "store_true", "default": None}
        elif isinstance(kind, tuple):
            options = {"choices": kind}
        group.add_argument(f"--{flag}", dest=name, help=text, **options)


def add_data(group: Any, default: str = "the run's", default_root: str = "the run's") -> None:
    """Add the data set and its folder."""
    kinds = "voc, coco or another of mxrcnn.data.DATASETS"
    add_settings(
        group,
        {
            "data.dataset": (str, "KIND", f"{kinds}; default: {default}"),
            "data.root": (str, "DIR", f"its folder; default: {default_root}"),
        },
    )


def add_data_path(group: Any) -> None:
    """Add --data and --images, for `use_data`."""
    group.add_argument(
        "--data",
        dest="data_path",
        metavar="PATH",
        help="a data set's folder or file, of VOC, COCO, LabelImg, YOLO, LabelMe, CSV or CVAT: "
        "finds out --dataset, --data-root and --imageset",
    )
    text = (
        "the folder of the images that a file of COCO, CSV or CVAT names, if they are not near it"
    )
    add_settings(group, {"data.images": (str, "DIR", text)})


def use_data(args: argparse.Namespace, option: str, purpose: str, validation: str = "") -> None:
    """Set the data's kind, folder and, unless one is given, image set by --data, and say so.

    option: the `dest` of --imageset. purpose: TRAINING or TESTING, as in `mxrcnn.data.detect`.
    validation: the `dest` of --val-imageset, which is set to the validation images if there are
    any and no image set is given. Raises ConfigError beside options that --data replaces, DataError
    as `detect` does.
    """
    if args.data_path is None:
        return
    from mxrcnn.config import ConfigError
    from mxrcnn.data import detect

    for name, flag in (("data.dataset", "--dataset"), ("data.root", "--data-root")):
        if getattr(args, name) is not None:
            raise ConfigError(f"--data finds out {flag}: give one of the two")
    if getattr(args, "resume", None):
        raise ConfigError("--data is for new runs; --data-root says where a run's data are now")
    found = detect.detect(args.data_path)
    setattr(args, "data.dataset", found.kind)
    setattr(args, "data.root", str(found.root))
    if getattr(args, "data.images") is None:
        setattr(args, "data.images", "")  # not those of a run's own data
    print(f"--data {args.data_path}: {found}")
    if getattr(args, option) is None:
        setattr(args, option, found.the_imageset(getattr(detect, purpose)))
        if validation and args.val is None and getattr(args, validation) is None:
            setattr(args, validation, found.imageset(detect.VALIDATION) or None)
            print(f"  validation on: {getattr(args, validation) or 'none'}")
    print(f"  image set: {getattr(args, option)}")
    unused = found.imageset(detect.VALIDATION) if validation and args.val is not None else ""
    if unused:
        print(f"  not used, as --val is given: {unused}")


def add_val(group: Any) -> None:
    """Add --val, for `use_val`."""
    group.add_argument(
        "--val",
        metavar="SHARE|PATH",
        help="validate on this share of the training images, such as 0.2, instead of training on "
        "them: stratified by class, near-duplicates and frames of a video on one side, the same "
        "for the same --set split_seed=N; or on another data set, as in --data",
    )


def use_val(args: argparse.Namespace) -> None:
    """Set the images to validate on by --val, and say so; errors as in `use_data`."""
    if args.val is None:
        return
    from mxrcnn.config import ConfigError
    from mxrcnn.data import NAMING, detect

    if args.resume:
        raise ConfigError("--val is for new runs; a resumed run goes on with its own images")
    try:
        share = float(args.val)
    except ValueError:
        found = detect.detect(args.val)
        chosen = getattr(args, "data.val_imageset") or found.the_imageset(
            (*detect.VALIDATION, *detect.TESTING), "--val-imageset"
        )
        images = getattr(args, "data.images") if found.kind in NAMING else None
        where = {"dataset": found.kind, "root": str(found.root), "images": images or ""}
        for name, value in {**where, "imageset": chosen}.items():
            setattr(args, f"data.val_{name}", value)
        print(f"--val {args.val}: {found}\n  image set: {chosen}")
        return
    if not 0 < share < 1:
        raise ConfigError(f"--val {args.val}: a share is above 0 and below 1, such as 0.2")
    if getattr(args, "data.val_imageset") is not None:
        raise ConfigError("--val and --val-imageset: give one of the two")
    setattr(args, "data.val_share", share)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the data set that a part of `mxrcnn data` reads, for `find_source`."""
    parser.add_argument("path", metavar="PATH", help="a data set's folder or file, as in --data")
    parser.add_argument(
        "--dataset", metavar="KIND", help="its kind, if the path could be several data sets"
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        default="",
        help="the folder of its images, if they are not near a file of COCO, CSV or CVAT",
    )


def find_source(args: argparse.Namespace) -> Found:
    """The data set at the path given; DataError as `detect` raises it."""
    from mxrcnn.data.detect import detect

    return detect(args.path, args.dataset)


def add_test_data(parser: argparse.ArgumentParser) -> None:
    """Add the data to test a run on, by default its own, and the metric."""
    add_data(parser)
    add_settings(parser, SKIP_BAD)
    parser.add_argument(
        "--metric",
        choices=METRICS,
        default="auto",
        help="auto (default): COCO's AP@[.50:.95] of boxes and masks for COCO data, VOC07 mAP for "
        "VOC data",
    )


def add_words(parser: Any) -> None:
    """Add --set, which takes KEY=VALUE words for any setting."""
    parser.add_argument(
        "--set",
        dest="words",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="any setting of config.json",
    )


def request_of(kind: type[T], args: argparse.Namespace, **more: Any) -> T:
    """A request dataclass: its fields are the options of the same names, settings, and `more`."""
    options = {**vars(args), "settings": given_settings(args), **more}
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: options[name] for name in names if name in options})


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings given as options: those whose `dest` is the name of a setting."""
    return {name: value for name, value in vars(args).items() if "." in name and value is not None}


def image_size(text: str) -> tuple[int, int]:
    """Parse 600x800 as (600, 800), height and width; ArgumentTypeError for anything else."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, as in 600x800")
    return int(height), int(width)
