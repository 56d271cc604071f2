"""A split as a data set of the same kind, for other programs too: `mxrcnn data split --to`.

Annotations stay as they are: they are linked, or copied entry by entry where one file has all of
them. Images are linked. `split.json` holds the names of all sides.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from defusedxml.ElementTree import tostring

from mxrcnn.config import DataConfig
from mxrcnn.data import read_annotations
from mxrcnn.data.coco import resolve_coco
from mxrcnn.data.coco.document import entries_of, read_json
from mxrcnn.data.detect import detect
from mxrcnn.data.formats import csv_table, cvat, labelimg, labelme
from mxrcnn.data.formats.pairs import IMAGE_FOLDERS, files_of, find_pairs, named_image, the_folders
from mxrcnn.data.reading import Reading, read_xml_root
from mxrcnn.data.records import DataError, Dataset, ImageId
from mxrcnn.data.split import Split, write_split
from mxrcnn.data.voc.image_sets import LABEL_MAP, list_images
from mxrcnn.files import atomic_folder, atomic_write


@dataclass(frozen=True)
class _Divided:
    """What to write: the settings it was read with, its image set, its sides, the side of each.

    by_path and by_id: image file, and image id -> side.
    """

    data: DataConfig
    imageset: str
    sides: tuple[str, ...]
    by_path: Mapping[Path, str]
    by_id: Mapping[ImageId, str]

    @property
    def root(self) -> Path:
        return Path(self.data.root)

    def one_file(self, ending: str) -> Path:
        """The only file of the image set; DataError if there are several."""
        files = files_of(self.root, self.imageset, ending)
        if len(files) > 1:
            raise DataError(self.root, f"{self.imageset}: split one file at a time")
        return files[0]

    def reading(self) -> Reading:
        images = Path(self.data.images) if self.data.images else None
        return Reading(False, False, 0, images)


def write_sides(
    split: Split, dataset: Dataset, data: DataConfig, imageset: str, folder: Path
) -> list[str]:
    """Write a split into a new folder; returns the names of what is in there.

    data, imageset: how the data set was read. voc: lists in ImageSets/Main; yolo: data.yaml and
    lists; coco, csv, cvat: a file a side; labelimg, labelme: a folder a side. What was written is
    read back and compared. Raises DataError if the folder is not empty, if joined files cannot be
    split as one, and if what is read back differs.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(folder, "is there already: give a new or an empty folder")
    parts = {side: split.take(dataset, side) for side in split.sides}
    by_path = {record.path: side for side, part in parts.items() for record in part.records}
    by_id = {record.image_id: side for side, part in parts.items() for record in part.records}
    divided = _Divided(data, imageset, tuple(split.sides), by_path, by_id)
    with atomic_folder(folder) as partial:
        WRITERS[data.dataset](divided, dataset, partial)
        write_split(split, dataset, partial / "split.json")
        _compare(parts, data, partial, folder)
        return sorted(path.name for path in partial.iterdir())


def _compare(parts: Mapping[str, Dataset], data: DataConfig, partial: Path, folder: Path) -> None:
    """DataError unless each side is read from the new folder as it was."""
    found = detect(partial, data.dataset)
    for side, part in parts.items():
        where = {"root": str(found.root), "images": "", "class_names": part.class_names}
        back = read_annotations(replace(data, **where), found.imageset(((side,),)))
        if _content(back) != _content(part):
            raise DataError(folder, f"{side} would not be read as it is in {data.root}")


def _content(dataset: Dataset) -> Counter:
    names = ("", *dataset.class_names)
    return Counter(
        (r.path.name, r.height, r.width, tuple(names[k] for k in r.classes), r.boxes.tobytes())
        for r in dataset.records
    )


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target.resolve())


def _write_lines(path: Path, lines: list[str]) -> None:
    with atomic_write(path) as handle:
        handle.writelines(f"{line}\n" for line in lines)


def _voc(divided: _Divided, dataset: Dataset, to: Path) -> None:
    """ImageSets/Main/SIDE.txt of each year; Annotations and JPEGImages are links."""
    stems: dict[tuple[Path, Path, str], list[str]] = {}
    for image in list_images(divided.root, divided.imageset):
        side = divided.by_path.get(image.image())
        if side is not None:  # else a bad one that was skipped
            home = to / f"VOC{image.year}" if image.year else to
            stems.setdefault((image.folder, home, side), []).append(image.stem)
    for source, home in dict.fromkeys(key[:2] for key in stems):
        for name in ("Annotations", "JPEGImages", LABEL_MAP):
            if (source / name).exists():
                _link(source / name, home / name)
    for (_, home, side), some in stems.items():
        _write_lines(home / "ImageSets" / "Main" / f"{side}.txt", some)


def _yolo(divided: _Divided, dataset: Dataset, to: Path) -> None:
    """SIDE.txt, with a path a line, and data.yaml; `source` is a link to the data set."""
    _link(divided.root, to / "source")
    for side in divided.sides:
        paths = [path for path, its in divided.by_path.items() if its == side]
        inside = [path.relative_to(divided.root).as_posix() for path in paths]
        _write_lines(to / f"{side}.txt", [f"./source/{path}" for path in inside])
    names = [f"  {k}: {json.dumps(name)}" for k, name in enumerate(dataset.class_names)]
    lists = [f"{side}: {side}.txt" for side in divided.sides]
    _write_lines(to / "data.yaml", [*lists, "names:", *names])


def _coco(divided: _Divided, dataset: Dataset, to: Path) -> None:
    """SIDE.json, with the file's own entries."""
    if "+" in divided.imageset and not (divided.root / divided.imageset).is_file():
        raise DataError(divided.root, f"{divided.imageset}: split one file at a time")
    path = resolve_coco(divided.root, divided.imageset)[0]
    document = read_json(path)
    for side in divided.sides:
        part = dict(document)
        for key, name in (("images", "id"), ("annotations", "image_id")):
            entries = [e for e in entries_of(path, document, key) if isinstance(e, dict)]
            part[key] = [e for e in entries if divided.by_id.get(e.get(name)) == side]
        with atomic_write(to / f"{side}.json") as handle:
            json.dump(part, handle)
    names = {e["id"]: e["file_name"] for e in document["images"] if e["id"] in divided.by_id}
    _link_images(divided, to, {_base(r.path, names[r.image_id]) for r in dataset.records})


def _csv(divided: _Divided, dataset: Dataset, to: Path) -> None:
    """SIDE.csv, with the table's own rows."""
    path = divided.one_file(".csv")
    head, rows = csv_table.read_rows(path)
    images = {}
    for name in dict.fromkeys(name for name, _ in rows):
        folders = (path.stem, *IMAGE_FOLDERS)
        images[name] = named_image(path, "filename", [name], folders, divided.reading())
    for side in divided.sides:
        with atomic_write(to / f"{side}.csv") as handle:
            table = csv.writer(handle, lineterminator="\n")
            some = [fields for name, fields in rows if divided.by_path.get(images[name]) == side]
            table.writerows([*head, *some])
    _link_images(divided, to, {_base(image, name) for name, image in images.items()})


def _cvat(divided: _Divided, dataset: Dataset, to: Path) -> None:
    """SIDE.xml, with the file's own elements."""
    path, bases = divided.one_file(".xml"), set()
    for side in divided.sides:
        document = read_xml_root(path, "annotations", cvat.MOST_CVAT_BYTES)
        for element in document.findall("image"):
            names = cvat.names_of(element)
            image = named_image(path, "name", names, IMAGE_FOLDERS, divided.reading())
            bases.add(next(b for n in names[::-1] for b in [_base(image, n)] if b))
            if divided.by_path.get(image) != side:
                document.remove(element)
        with atomic_write(to / f"{side}.xml") as handle:
            handle.write(tostring(document, encoding="unicode"))
    _link_images(divided, to, bases)


def _base(image: Path, name: str) -> Path | None:
    """The folder in which an image has this name; None if it has not."""
    parts = PurePosixPath(name).parts
    return Path(*image.parts[: -len(parts)]) if image.parts[-len(parts) :] == parts else None


def _link_images(divided: _Divided, to: Path, bases: set[Path | None]) -> None:
    """Link the folder that all images are named in, where our readers look for it."""
    if len(bases) > 1:
        places = ", ".join(sorted(map(str, bases)))
        raise DataError(divided.root, f"its images are in several folders: {places}")
    base = next(iter(bases))
    confusing = any((base / side).is_dir() for side in divided.sides)
    _link(base, to / ("JPEGImages" if confusing else "images"))


def _beside(ending: str, names: tuple[str, ...]) -> Callable[[_Divided, Dataset, Path], None]:
    """SIDE/ with links to the images and their annotation files."""

    def write(divided: _Divided, dataset: Dataset, to: Path) -> None:
        for part in divided.imageset.split("+"):
            images, labels = the_folders(divided.root, part.strip(), ending, names)
            for pair in find_pairs(images, labels, ending):
                side = divided.by_path.get(pair.image)
                for path in (pair.image, pair.labels) if side else ():
                    if (to / side / path.name).is_symlink():
                        raise DataError(path, f"another file of {side} has this name")
                    _link(path, to / side / path.name)

    return write


#: kind of data set -> what writes its sides
WRITERS: dict[str, Callable[[_Divided, Dataset, Path], None]] = {
    "voc": _voc,
    "coco": _coco,
    "labelimg": _beside(".xml", labelimg.FOLDERS),
    "yolo": _yolo,
    "labelme": _beside(".json", labelme.FOLDERS),
    "csv": _csv,
    "cvat": _cvat,
}
