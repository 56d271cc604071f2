"""Where COCO's annotation files and images are, in the usual layouts of folders."""

from __future__ import annotations

from os.path import isfile  # False, not an error, for names that no file can have
from pathlib import Path
from typing import Any

from mxrcnn.data.records import DataError

IMAGE_FOLDERS = (".", "images", "JPEGImages", "VOC2007/JPEGImages")


def resolve_coco(root: str | Path, imageset: str) -> tuple[Path, Path]:
    """Find (annotation file, image folder) of an image set such as `val2017` in the usual layouts.

    The file: `annotations/instances_{imageset}.json`, `annotations/{imageset}.json`,
    `{imageset}.json`, `instances_{imageset}.json`, `{imageset}/_annotations.coco.json`, or
    imageset as a path to a .json, from here or from root.
    The images: `{imageset}`, `images/{imageset}`, `images`, `JPEGImages` or `VOC2007/JPEGImages` of
    root; where none of them exists, the folder of the annotation file.
    Raises DataError, listing what was tried and what is there, unless exactly one file fits.
    """
    root = Path(root)
    if imageset.endswith(".json"):
        tried = [root / imageset, Path(imageset)]
    else:
        names = (f"instances_{imageset}.json", f"{imageset}.json")
        tried = [root / "annotations" / name for name in names]
        tried += [root / name for name in names[::-1]]
        tried.append(root / imageset / "_annotations.coco.json")
    found = {path.resolve(): path for path in tried if path.is_file()}
    if len(found) != 1:
        there = sorted([*root.glob("*.json"), *root.glob("*/*.json")])
        raise DataError(
            root,
            f"{len(found) or 'no'} annotation files fit image set {imageset!r}; "
            f"tried: {', '.join(map(str, tried))}; "
            f"JSON files there: {', '.join(map(str, there)) or 'none'}",
        )
    annotation_file = next(iter(found.values()))
    if annotation_file.name.startswith("_annotations."):
        return annotation_file, annotation_file.parent
    split = annotation_file.stem.replace("instances_", "", 1)
    folders = (split, f"images/{split}", *IMAGE_FOLDERS[1:])
    images = next((root / f for f in folders if (root / f).is_dir()), annotation_file.parent)
    return annotation_file, images


def image_root(path: Path, given: str | Path | None, entries: list[Any]) -> Path:
    """The given folder, or the first of the usual ones that has the first named image."""
    if given is not None:
        return Path(given)
    names = (e["file_name"] for e in entries if isinstance(e, dict) and "file_name" in e)
    name = next((n for n in names if isinstance(n, str)), None)
    folders = [path.parent / folder for folder in IMAGE_FOLDERS]
    return next((f for f in folders if name is not None and isfile(f / name)), folders[0])
