"""What mxrcnn predict saves, read back: boxes by our readers, mAP by pycocotools, many images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mxrcnn.cli import main
from mxrcnn.config import make_config, override
from mxrcnn.data import open_dataset
from mxrcnn.data.detect import detect
from mxrcnn.data.records import Detections
from mxrcnn.evaluation.coco import METRICS
from mxrcnn.inference.detector import Detector
from symnet.geometry.masks import decode, encode
from tests.soak import Tenth, grew
from tests.threads import FAMILIES, images
from tests.threads import dataset as save
from tests.twenty_thousand import NETWORK, predict, write_photos, write_run

CLASSES = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    save(folder, images())
    return folder


# --- boxes --------------------------------------------------------------------------------------


def as_coco(out: Path, root: Path) -> None:
    document = json.loads((out / "predictions_images.json").read_text())
    rows = json.loads((out / "predictions.json").read_text())
    document["annotations"] = [
        {"id": k, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3], **row}
        for k, row in enumerate(rows, start=1)
    ]
    (root / "set.json").write_text(json.dumps(document))


def as_labelimg(out: Path, root: Path) -> None:
    for path in (out / "voc").iterdir():
        shutil.copy(path, root / "images")


def as_yolo(out: Path, root: Path) -> None:
    shutil.copytree(out / "yolo", root, dirs_exist_ok=True)


def as_csv(out: Path, root: Path) -> None:
    shutil.copy(out / "predictions.csv", root)


def as_cvat(out: Path, root: Path) -> None:
    shutil.copy(out / "cvat.xml", root)


def as_labelstudio(out: Path) -> dict[str, list[tuple[str, list[float]]]]:
    """There is no reader for it: objects by image, from the JSON."""
    found = {}
    for task in json.loads((out / "labelstudio.json").read_text()):
        rows = found[task["data"]["image"].rpartition("=")[2]] = []
        for region in task["predictions"][0]["result"]:
            sides = np.array([region["original_width"], region["original_height"]]) / 100
            value = region["value"]
            corner = np.array([value["x"], value["y"]]) * sides
            size = np.array([value["width"], value["height"]]) * sides
            rows.append((value["rectanglelabels"][0], [*corner, *(corner + size)]))
    return found


@pytest.fixture(scope="module")
def predicted(photos, tmp_path_factory) -> tuple[Path, dict[str, Detections]]:
    """All formats of `mxrcnn predict`, and the same detections as Python gives them."""
    place = tmp_path_factory.mktemp("boxes")
    run = write_run(place / "run", FAMILIES[0])
    words = ["--save", "coco,csv,yolo,voc,labelstudio,cvat", "--threshold", "0"]
    most = ["--max-detections", "12"]
    assert main(["predict", str(run), str(photos), *words, *most, "--out", str(place / "out")]) == 0
    detector = Detector.load(run)
    paths = sorted(photos.iterdir())
    return place / "out", {p.name: detector.predict(p, max_detections=12) for p in paths}


@pytest.mark.parametrize(
    ("layout", "atol"),
    [
        (as_coco, 1e-4),
        (as_csv, 6e-4),
        (as_yolo, 3e-4),  # a millionth of centre and side
        (as_labelimg, 0.5),
        (as_cvat, 6e-3),
        (as_labelstudio, 1e-4),
    ],
)
def test_saved_boxes_read_back(predicted, photos, tmp_path, layout, atol):
    out, expected = predicted
    if layout is as_labelstudio:
        read = as_labelstudio(out)
    else:
        shutil.copytree(photos, tmp_path / "images")
        layout(out, tmp_path)
        found = detect(tmp_path)
        settings = {"dataset": found.kind, "root": str(found.root), "class_names": CLASSES}
        config = override(
            make_config("faster_rcnn_vgg16"),
            {"model.num_classes": 4, **{f"data.{key}": value for key, value in settings.items()}},
        )
        assert found.kind == layout.__name__[len("as_") :]
        dataset = open_dataset(config.data, found.imagesets[0])
        read = {
            record.path.name: list(zip((CLASSES[k - 1] for k in record.classes), record.boxes))
            for record in dataset.records
        }
    assert read.keys() == expected.keys()
    for name, objects in read.items():
        assert [label for label, _ in objects] == list(expected[name].names)
        boxes = np.array([box for _, box in objects])
        np.testing.assert_allclose(boxes, expected[name].boxes, atol=atol)


# --- mAP ----------------------------------------------------------------------------------------


def truth(detector: Detector, photos: Path) -> dict[str, object]:
    """COCO annotations that a detector finds some of: its own detections, moved a little."""
    rng = np.random.default_rng(0)
    pictures, objects = [], []
    for image_id, path in zip((9, 4, 7), sorted(photos.iterdir())):
        found = detector.predict(path, max_detections=40)
        height, width = found.size
        pictures.append({"id": image_id, "file_name": path.name, "height": height, "width": width})
        for k in rng.permutation(len(found))[:10]:
            x1, y1, x2, y2 = found.boxes[k].tolist()
            right, down = rng.uniform(-0.2, 0.2, 2) * (x2 - x1, y2 - y1)
            box = [x1 + right, y1 + down, x2 - x1, y2 - y1]
            kind = 10 * int(found.classes[k])
            entry = {"id": len(objects) + 1, "image_id": image_id, "category_id": kind}
            entry.update(bbox=box, area=box[2] * box[3], iscrowd=0)
            if found.masks is not None:
                bits = decode(found.masks[k], *found.size)
                if not bits.any():
                    continue
                entry["segmentation"] = encode(np.roll(bits, round(right), axis=1))
            objects.append(entry)
    kinds = [{"id": 10 * k, "name": name} for k, name in enumerate(CLASSES, start=1)]
    return {"images": pictures, "annotations": objects, "categories": kinds}


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_coco_results_have_the_map_of_a_test(photos, tmp_path, family, capfd):
    """`mxrcnn test`, and `mxrcnn predict --threshold 0` scored by pycocotools alone."""
    masks = family.startswith("mask")
    run = write_run(tmp_path / "run", family)
    (tmp_path / "images").mkdir()
    for path in sorted(photos.iterdir())[:3]:
        shutil.copy(path, tmp_path / "images")
    instances = tmp_path / "instances.json"
    instances.write_text(json.dumps(truth(Detector.load(run), tmp_path / "images")))
    words = ["--data", str(instances), "--pictures", "0", "--out", str(tmp_path / "test")]
    assert main(["test", str(run), *words]) == 0
    words = ["--save", "coco", "--threshold", "0", "--ids", str(instances)]
    out = tmp_path / "out"
    assert main(["predict", str(run), str(tmp_path / "images"), *words, "--out", str(out)]) == 0
    ours = json.loads((tmp_path / "test" / "report.json").read_text())["metrics"]
    reference = COCO(str(instances))
    for kind, prefix in (("bbox", ""), ("segm", "segm_"))[: 1 + masks]:
        scored = COCOeval(reference, reference.loadRes(str(out / "predictions.json")), kind)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        # loadRes takes the area of a mask from its box, which decides whether an object is small
        names = METRICS if kind == "bbox" else [name for name in METRICS if name[-1] not in "sml"]
        theirs = dict(zip(METRICS, scored.stats))
        assert 0.05 < theirs["AP"] < 0.95
        for name in names:
            assert ours[prefix + name] == pytest.approx(theirs[name], abs=5e-7), prefix + name


# --- many images --------------------------------------------------------------------------------


def test_many_images(tmp_path):
    """`python -m tests.twenty_thousand` with 200 images, in a process of its own."""
    broken, good = write_photos(tmp_path / "photos", 200, 5)
    run = write_run(tmp_path / "run", NETWORK, short_side=32, long_side=48)
    outcome = predict(run, tmp_path / "photos", tmp_path / "out", 200)
    assert list(outcome.faults(broken, good)) == []
    assert not grew(*(Tenth.of(outcome.samples, number) for number in (2, 10)))
