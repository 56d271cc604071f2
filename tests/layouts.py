"""One data set written in the layouts of the common labelling tools.

Each function writes images and annotations into a folder. `python -m tests.all_layouts` writes BCCD
in all of them, trains and predicts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from mxrcnn.data.coco import dataset_to_coco
from mxrcnn.data.records import Dataset, ImageRecord

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"


def _copy(dataset: Dataset, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for record in dataset.records:
        shutil.copy(record.path, folder)


def _objects(dataset: Dataset, record: ImageRecord) -> list[tuple[str, list[float], list | None]]:
    """(class name, xyxy, polygons or None) of each object."""
    masks = record.masks or [None] * len(record)
    names = [dataset.class_names[k - 1] for k in record.classes]
    return list(zip(names, record.boxes.tolist(), masks))


def labelimg(dataset: Dataset, root: Path, xml: str = ".") -> None:
    """Images with XML files beside them, or in another folder of root."""
    _copy(dataset, root)
    (root / xml).mkdir(exist_ok=True)
    for record in dataset.records:
        text = f"<size><width>{record.width}</width><height>{record.height}</height></size>"
        for name, (x1, y1, x2, y2), _ in _objects(dataset, record):
            text += (
                f"<object><name>{escape(name)}</name><bndbox><xmin>{x1 + 1}</xmin>"
                f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            )
        path = root / xml / f"{record.path.stem}.xml"
        path.write_text(f"<annotation>{text}</annotation>")


def yolo(dataset: Dataset, root: Path) -> None:
    """images/train, labels/train and a data.yaml."""
    _copy(dataset, root / "images/train")
    (root / "labels/train").mkdir(parents=True)
    names = "".join(f"  {k}: {json.dumps(name)}\n" for k, name in enumerate(dataset.class_names))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{names}")
    for record in dataset.records:
        lines = []
        for name, (x1, y1, x2, y2), mask in _objects(dataset, record):
            values = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1] if mask is None else mask[0]
            sides = (record.width, record.height) * (len(values) // 2)
            shares = " ".join(f"{value / side:.6f}" for value, side in zip(values, sides))
            lines.append(f"{dataset.class_names.index(name)} {shares}")
        path = root / f"labels/train/{record.path.stem}.txt"
        path.write_text("".join(f"{line}\n" for line in lines))


def yolo_folders(dataset: Dataset, root: Path) -> None:
    """images, labels and classes.txt."""
    yolo(dataset, root)
    (root / "data.yaml").unlink()
    for name in ("images", "labels"):
        (root / name / "train").rename(root / "moved")
        (root / name).rmdir()
        (root / "moved").rename(root / name)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in dataset.class_names))


def labelme(dataset: Dataset, root: Path) -> None:
    """Images with JSON files beside them."""
    _copy(dataset, root)
    for record in dataset.records:
        shapes = []
        for group, (name, box, mask) in enumerate(_objects(dataset, record)):
            parts = [box] if mask is None else mask
            for part in parts:
                points = [part[i : i + 2] for i in range(0, len(part), 2)]
                kind = "rectangle" if mask is None else "polygon"
                shape = {"label": name, "points": points, "shape_type": kind}
                shapes.append({**shape, "group_id": group if len(parts) > 1 else None})
        document = {"version": "5.0", "shapes": shapes, "imagePath": record.path.name}
        document |= {"imageHeight": record.height, "imageWidth": record.width}
        (root / f"{record.path.stem}.json").write_text(json.dumps(document))


def csv_table(dataset: Dataset, root: Path) -> None:
    """labels.csv with a header."""
    _copy(dataset, root)
    lines = [HEADER]
    for record in dataset.records:
        start = f"{record.path.name},{record.width},{record.height}"
        objects = _objects(dataset, record)
        lines += [f"{start},{name},{','.join(map(str, box))}" for name, box, _ in objects]
        lines += [] if objects else [f"{start},,,,,"]
    text = "\r\n".join(lines) + "\r\n"  # and a BOM: as spreadsheets write
    (root / "labels.csv").write_bytes(text.encode("utf-8-sig"))


def retinanet(dataset: Dataset, root: Path) -> None:
    """labels.csv without a header, and the images in `images`."""
    _copy(dataset, root / "images")
    lines = []
    for record in dataset.records:
        path = f"images/{record.path.name}"
        objects = _objects(dataset, record)
        lines += [f"{path},{','.join(map(str, box))},{name}" for name, box, _ in objects]
        lines += [] if objects else [f"{path},,,,,"]
    (root / "labels.csv").write_text("\n".join(lines))


def cvat(dataset: Dataset, root: Path) -> None:
    """annotations.xml, and the images in `images`."""
    _copy(dataset, root / "images")
    labels = "".join(f"<label><name>{escape(n)}</name></label>" for n in dataset.class_names)
    text = f"<version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
    for i, record in enumerate(dataset.records):
        size = f'width="{record.width}" height="{record.height}"'
        text += f'<image id="{i}" name={quoteattr(record.path.name)} {size}>'
        for name, box, mask in _objects(dataset, record):
            if mask is None:
                corners = zip(("xtl", "ytl", "xbr", "ybr"), box)
                sides = " ".join(f'{corner}="{value:.2f}"' for corner, value in corners)
                text += f"<box label={quoteattr(name)} {sides}/>"
            else:
                pairs = zip(mask[0][::2], mask[0][1::2])
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in pairs)
                text += f'<polygon label={quoteattr(name)} points="{points}"/>'
        text += "</image>"
    (root / "annotations.xml").write_text(f"<annotations>{text}</annotations>")


def coco(dataset: Dataset, root: Path) -> None:
    """my labels.json, and the images beside it."""
    _copy(dataset, root)
    (root / "my labels.json").write_text(json.dumps(dataset_to_coco(dataset)))


def coco_apart(dataset: Dataset, root: Path) -> None:
    """labels.json, and the images in ../NAME photos, for --images."""
    root.mkdir(parents=True, exist_ok=True)
    _copy(dataset, images_apart(root))
    (root / "labels.json").write_text(json.dumps(dataset_to_coco(dataset)))


def images_apart(root: Path) -> Path:
    return root.with_name(f"{root.name} photos")


def voc(dataset: Dataset, root: Path) -> None:
    """VOCdevkit/VOC2007 with the image set train."""
    voc_year(dataset, root / "VOCdevkit/VOC2007")


def voc_year(dataset: Dataset, root: Path) -> None:
    """The folder of one year, with the image set train."""
    labelimg(dataset, root / "JPEGImages", "../Annotations")
    (root / "ImageSets/Main").mkdir(parents=True)
    stems = "\n".join(record.path.stem for record in dataset.records)
    (root / "ImageSets/Main/train.txt").write_text(stems)


#: layout -> (kind of data set, its image set, what writes it, pixels that it rounds boxes by)
LAYOUTS: dict[str, tuple[str, str, Callable[[Dataset, Path], None], float]] = {
    "voc": ("voc", "2007_train", voc, 0),
    "voc, one year": ("voc", "train", voc_year, 0),
    "coco": ("coco", "my labels.json", coco, 1e-4),
    "coco, images apart": ("coco", "labels.json", coco_apart, 1e-4),
    "labelimg": ("labelimg", "all", labelimg, 0),
    "labelimg, xml beside": ("labelimg", "all", lambda d, r: labelimg(d, r, "annotations"), 0),
    "yolo": ("yolo", "train", yolo, 1e-3),
    "yolo, classes.txt": ("yolo", "all", yolo_folders, 1e-3),
    "labelme": ("labelme", "all", labelme, 0),
    "csv": ("csv", "labels", csv_table, 0),
    "retinanet": ("csv", "labels", retinanet, 0),
    "cvat": ("cvat", "annotations", cvat, 0.006),
}


def first_images(dataset: Dataset, count: int) -> Dataset:
    return replace(dataset, records=dataset.records[:count])
