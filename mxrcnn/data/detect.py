"""Which kind of data set a path is, for --data PATH: its reader, its folder, its image sets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mxrcnn.data.coco import resolve_coco
from mxrcnn.data.formats import labelimg, labelme, yolo
from mxrcnn.data.formats.csv_table import looks_like_table
from mxrcnn.data.formats.pairs import ALL, find_folders
from mxrcnn.data.formats.yolo_names import read_data_yaml
from mxrcnn.data.records import DataError
from mxrcnn.data.voc.image_sets import image_sets

#: names of image sets by purpose, best first, without year
TRAINING = (("train", "training"), ("trainval",))
VALIDATION = (("val", "valid", "validation"),)
TESTING = (("test", "testing"), *VALIDATION)
SPLITS = tuple(name for group in (*TRAINING, *TESTING) for name in group)
#: bytes at the beginning of a file that tell its kind
_HEAD = 1 << 16

LOOKED_FOR = """\
  voc: VOC*/ImageSets/Main/*.txt, or ImageSets/Main/*.txt of one year
  coco: a JSON file with images, annotations and categories, here or in annotations/
  labelimg: images with VOC's XML files beside them or in annotations/, xml/ or labels/
  yolo: data.yaml, or classes.txt with images/ and labels/
  labelme: images with LabelMe's JSON files beside them or in annotations/, json/ or labels/
  csv: a table filename,width,height,class,xmin,ymin,xmax,ymax, or path,x1,y1,x2,y2,class
  cvat: an XML file of CVAT's format "for images\""""


@dataclass(frozen=True)
class Found:
    """A data set: kind, folder and image sets as in --dataset, --data-root and --imageset.

    why: what it was recognised by.
    """

    kind: str
    root: Path
    imagesets: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.why}), image sets: {', '.join(self.imagesets)}"

    def imageset(self, purposes: Sequence[Sequence[str]]) -> str:
        """The image sets for the first purpose that there is, joined by +; "" for none."""
        return "+".join(of_purpose(self.imagesets, purposes))

    def the_imageset(self, purposes: Sequence[Sequence[str]], option: str = "--imageset") -> str:
        """`imageset`, or the only image set; DataError if there are several others.

        option: what chooses one, for the error.
        """
        name = self.imageset(purposes) or (self.imagesets[0] if len(self.imagesets) == 1 else "")
        if not name:
            sets = ", ".join(self.imagesets)
            raise DataError(self.root, f"choose its image set by {option}; there is: {sets}")
        return name


def detect(path: str | Path, kind: str | None = None) -> Found:
    """What kind of data set a folder or a file is. Reads names, and beginnings of files.

    kind: the only kind to look for. Raises DataError if it is none, which lists what was looked
    for, or could be several.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(path, "no such file or folder")
    probes = (_voc, _coco, _labelimg, _yolo, _labelme, _csv, _cvat)
    found = [result for probe in probes if (result := probe(path)) is not None]
    found = [f for f in found if kind in (None, f.kind)]
    if [f.kind for f in found[:2]] == ["voc", "labelimg"]:
        del found[1]  # the same XML files; the lists of VOC say more
    if not found and kind:
        raise DataError(path, f"no data set of the kind {kind!r}; looked for\n{LOOKED_FOR}")
    if not found:
        raise DataError(path, f"no data set of a known kind; looked for\n{LOOKED_FOR}")
    if len(found) > 1:
        ways = "".join(f"\n  --dataset {f.kind} --data-root {f.root}: {f}" for f in found)
        raise DataError(
            path, f"this could be several data sets; choose one, with --imageset:{ways}"
        )
    return found[0]


def of_purpose(imagesets: Iterable[str], purposes: Sequence[Sequence[str]]) -> list[str]:
    """Those of the image sets that are for the first purpose that there is, such as TRAINING."""
    for names in purposes:
        fitting = [name for name in imagesets if _plain(name) in names]
        if fitting:
            return fitting
    return []


def _plain(imageset: str) -> str:
    """`train` of 2007_train, annotations/instances_train2017.json, train/_annotations.coco.json."""
    path = PurePosixPath(imageset)
    name = path.parent.name if path.name.startswith("_annotations.") else path.name
    name = re.sub(r"\.(json|csv|xml)$", "", name.lower()).replace("instances_", "")
    return re.sub(r"^\d+_|\d+$", "", name)


def _voc(path: Path) -> Found | None:
    devkit = path / "VOCdevkit" if (path / "VOCdevkit").is_dir() else path
    sets = tuple(image_sets(devkit))
    return Found("voc", path, sets, "it has ImageSets/Main") if sets else None


def _coco(path: Path) -> Found | None:
    patterns = ("*.json", "annotations/*.json", "*/_annotations.coco.json")
    files = [f for f in _files(path, ".json", patterns) if _json_kind(f) == "coco"]
    if not files:
        return None
    root = path
    if path.is_file():
        root = _root_of_images(path)
    names = tuple(dict.fromkeys(file.relative_to(root).as_posix() for file in files))
    return Found("coco", root, names, f"{files[0].name} is COCO's JSON")


def _root_of_images(file: Path) -> Path:
    """The file's folder, or the one above if the file's first image is found from there only."""
    name = re.search(rb'"file_name"\s*:\s*"([^"\\\0]{1,1000})"', _head(file))
    for root in (file.parent, file.parent.parent):
        images = resolve_coco(root, file.relative_to(root).as_posix())[1]
        if name and (images / name[1].decode("utf-8", "replace")).is_file():
            return root
    return file.parent


def _json_kind(file: Path) -> str:
    """The kind, labelme or coco, or an empty text, by the keys at the beginning of a JSON file."""
    head = _head(file)
    if re.search(rb'"(shapes|imagePath|imageData)"\s*:', head):
        return "labelme"
    keys = rb'"(images|annotations|categories|info|licenses)"\s*:\s*[\[{]'
    return "coco" if re.search(keys, head) else ""


def _labelimg(path: Path) -> Found | None:
    sets = _beside(path, ".xml", labelimg.FOLDERS, lambda f: _xml_root(f) == b"annotation")
    return Found("labelimg", path, sets, "images with VOC's XML files") if sets else None


def _labelme(path: Path) -> Found | None:
    sets = _beside(path, ".json", labelme.FOLDERS, lambda f: _json_kind(f) == "labelme")
    return Found("labelme", path, sets, "images with LabelMe's JSON files") if sets else None


def _beside(
    path: Path, ending: str, names: Sequence[str], fits: Callable[[Path], bool]
) -> tuple[str, ...]:
    """The image sets whose first annotation file fits."""
    sets = []
    for imageset in dict.fromkeys((ALL, *SPLITS)) if path.is_dir() else ():
        for _, labels in find_folders(path, imageset, ending, names)[:1]:
            first = min(f for f in labels.iterdir() if f.name.lower().endswith(ending))
            sets += [imageset] if fits(first) else []
    return tuple(sets)


def _yolo(path: Path) -> Found | None:
    if path.is_file():
        return _yolo(path.parent) if path.name in yolo.YAMLS else None
    for name in yolo.YAMLS:
        if (path / name).is_file():
            values = read_data_yaml(path / name)
            sets = tuple(key for key in ("train", "val", "test") if values.get(key))
            return Found("yolo", path, sets, f"it has {name}") if sets else None
    if not any((path / name).is_file() for name in yolo.LISTS):
        return None
    sets = _beside(path, ".txt", yolo.FOLDERS, lambda f: True)
    return Found("yolo", path, sets, "class names, images and label files") if sets else None


def _csv(path: Path) -> Found | None:
    files = [file for file in _files(path, ".csv", ("*.csv",)) if looks_like_table(file)]
    return _tables("csv", path, files, "is a table of boxes")


def _cvat(path: Path) -> Found | None:
    files = [f for f in _files(path, ".xml", ("*.xml",)) if _xml_root(f) == b"annotations"]
    return _tables("cvat", path, files, "is CVAT's XML")


def _tables(kind: str, path: Path, files: Sequence[Path], what: str) -> Found | None:
    if not files:
        return None
    root = path.parent if path.is_file() else path
    return Found(kind, root, tuple(file.name for file in files), f"{files[0].name} {what}")


def _files(path: Path, ending: str, patterns: Iterable[str]) -> list[Path]:
    """The path itself, or the files of a folder, if they have the ending."""
    if path.is_file():
        return [path] if path.name.lower().endswith(ending) else []
    return [file for pattern in patterns for file in sorted(path.glob(pattern)) if file.is_file()]


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_HEAD)
    except OSError as error:
        raise DataError(file, f"unreadable: {error}") from error


def _xml_root(file: Path) -> bytes:
    """The name of the first element of an XML file, without parsing it."""
    found = re.search(rb"<([A-Za-z][\w.-]*)", _head(file))
    return found[1] if found else b""
