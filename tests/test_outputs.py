"""Writers of detections: round trips through readers, formulas, names, empty results."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from defusedxml import ElementTree
from PIL import Image

from mxrcnn.config import ConfigError
from mxrcnn.data.coco import load_coco
from mxrcnn.data.formats.cvat import load_cvat
from mxrcnn.data.formats.yolo import load_yolo
from mxrcnn.data.formats.yolo_write import yolo_places
from mxrcnn.data.reading import Reading
from mxrcnn.data.records import DataError, Detections
from mxrcnn.data.voc import load_voc
from mxrcnn.data.voc.write import voc_corners
from mxrcnn.inference.outputs import WRITERS, Ids, Names, Output, Result, open_writers
from mxrcnn.inference.outputs.labelstudio import percents
from mxrcnn.inference.outputs.polygons import flat, join_rings, mask_rings
from mxrcnn.inference.outputs.xml import cvat_mask
from symnet.geometry.masks import decode, encode
from tests.factories import noise

CLASSES = ("cat", 'a "dog" & <co>')
SIZE = (60, 90)
READING = Reading(skip_bad=False, exif_orientation=True, max_pixels=0)
BOXES = np.array([[10.25, 20.5, 50.75, 59.5], [0, 0, 90, 60], [3.5, 4.5, 7.25, 9]], np.float32)
SCORES = np.array([0.9, 0.625, 0.05], np.float32)


def found(count: int = 3, masks: bool = False) -> Detections:
    """The first of three detections."""
    drawn = []
    for x1, y1, x2, y2 in BOXES.round().astype(int)[:count]:
        bits = np.zeros(SIZE, bool)
        bits[y1:y2, x1:x2] = True
        bits[y1 + 1, x1 + 1] = False
        drawn.append(encode(bits))
    classes = np.array([1, 2, 2])[:count]
    return Detections(
        BOXES[:count], SCORES[:count], classes, drawn if masks else None, CLASSES, SIZE
    )


def written(folder, formats, *results, **options):
    """Write results of (name, detections) with ids from 1; returns the folder."""
    names = Names()
    with open_writers(formats, Output(folder, CLASSES, **options)) as write:
        for number, (name, detections) in enumerate(results, start=1):
            pixels = np.asarray(noise(SIZE, seed=number))
            write(Result(name, names.stem(name), number, detections, pixels))
    return folder


RESULTS = (("day 1/a.jpg", found()), ("day 2/a.jpg", found(1)), ("none.jpg", found(0)))


# --- round trips --------------------------------------------------------------------------------


def test_voc_files_through_our_reader(tmp_path):
    out = written(tmp_path / "out", ["voc"], *RESULTS)
    year = tmp_path / "VOC2007"
    for place in ("JPEGImages", "ImageSets/Main", "Annotations"):
        (year / place).mkdir(parents=True)
    stems = []
    for path in sorted((out / "voc").rglob("*.xml")):
        stems.append("_".join(path.relative_to(out / "voc").with_suffix("").parts))
        path.rename(year / "Annotations" / f"{stems[-1]}.xml")
        noise(SIZE).save(year / "JPEGImages" / f"{stems[-1]}.jpg")
    (year / "ImageSets" / "Main" / "all.txt").write_text("\n".join(stems))
    dataset = load_voc(tmp_path, "2007_all", CLASSES)
    assert stems == ["day 1_a", "day 2_a", "none"]
    assert dataset.notes.lines() == []
    for record, (_, expected) in zip(dataset.records, RESULTS):
        np.testing.assert_array_equal(record.classes, expected.classes)
        np.testing.assert_allclose(record.boxes, expected.boxes, atol=0.5)
    scores = ElementTree.parse(year / "Annotations" / "day 1_a.xml").findall("object/score")
    assert [float(score.text) for score in scores] == pytest.approx(SCORES, abs=1e-6)


@pytest.mark.parametrize("masks", [False, True])
def test_coco_results_through_our_reader(tmp_path, masks):
    results = [(name, found(len(expected), masks)) for name, expected in RESULTS]
    out = written(tmp_path / "out", ["coco"], *results)
    rows = json.loads((out / "predictions.json").read_text())
    document = json.loads((out / "predictions_images.json").read_text())
    assert [image["file_name"] for image in document["images"]] == [name for name, _ in RESULTS]
    document["annotations"] = [
        {"id": number, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3], **row}
        for number, row in enumerate(rows, start=1)
    ]
    for name, _ in RESULTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise(SIZE).save(tmp_path / name)
    (tmp_path / "truth.json").write_text(json.dumps(document))
    dataset = load_coco(tmp_path / "truth.json", tmp_path, CLASSES)
    for record, (_, expected) in zip(dataset.records, results):
        np.testing.assert_array_equal(record.classes, expected.classes)
        np.testing.assert_allclose(record.boxes, expected.boxes, atol=1e-5)
        for mask, wanted in zip(record.masks or (), expected.masks or ()):
            np.testing.assert_array_equal(decode(mask, *SIZE), decode(wanted, *SIZE))
    assert ("segmentation" in rows[0]) == masks
    assert [row["score"] for row in rows] == [*SCORES.tolist(), SCORES[0]]


def test_csv(tmp_path):
    out = written(tmp_path, ["csv"], *RESULTS)
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == ["day 1/a.jpg"] * 3 + ["day 2/a.jpg"]
    assert [row["class"] for row in rows] == [CLASSES[0], CLASSES[1], CLASSES[1], CLASSES[0]]
    boxes = [[float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")] for row in rows]
    np.testing.assert_allclose(boxes, [*BOXES, BOXES[0]], atol=5e-4)
    assert (rows[0]["width"], rows[0]["height"], rows[0]["score"]) == ("90", "60", "0.900000")


@pytest.mark.parametrize("scores", [False, True])
def test_yolo(tmp_path, scores):
    out = written(tmp_path, ["yolo"], *RESULTS, yolo_scores=scores) / "yolo"
    assert (out / "classes.txt").read_text().splitlines() == list(CLASSES)
    assert (out / "labels" / "none.txt").read_text() == ""
    rows = np.loadtxt(out / "labels" / "day 1" / "a.txt")
    centres, sides = rows[:, 1:3] * (90, 60), rows[:, 3:5] * (90, 60)
    back = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    np.testing.assert_allclose(back, BOXES, atol=1e-4)
    assert rows[:, 0].tolist() == [0, 1, 1]
    assert rows.shape[1] == 5 + scores
    if scores:
        np.testing.assert_allclose(rows[:, 5], SCORES, atol=1e-6)


def test_labelstudio(tmp_path):
    """As in "Import pre-annotated data into Label Studio" and its "Units of image annotations"."""
    out = written(tmp_path, ["labelstudio"], *RESULTS, model="run 7")
    tasks = json.loads((out / "labelstudio.json").read_text())
    urls = ["day%201/a.jpg", "day%202/a.jpg", "none.jpg"]
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d={u}" for u in urls]
    (prediction,) = tasks[0]["predictions"]
    assert prediction["model_version"] == "run 7"
    assert prediction["score"] == pytest.approx(SCORES.mean())
    for row, box, score in zip(prediction["result"], BOXES, SCORES):
        value = row["value"]
        x, y = value["x"] * 0.9, value["y"] * 0.6
        back = [x, y, x + value["width"] * 0.9, y + value["height"] * 0.6]
        np.testing.assert_allclose(back, box, atol=1e-4)
        assert (row["original_width"], row["original_height"], row["type"]) == (
            *(90, 60),
            "rectanglelabels",
        )
        assert row["score"] == pytest.approx(score)
    assert len({row["id"] for task in tasks for row in task["predictions"][0]["result"]}) == 4
    assert tasks[2]["predictions"] == [{"model_version": "run 7", "result": []}]
    view = ElementTree.parse(out / "labelstudio.xml").getroot()
    assert [label.get("value") for label in view.iter("Label")] == list(CLASSES)
    labels, image = view.find("RectangleLabels"), view.find("Image")
    assert {(row["from_name"], row["to_name"]) for row in prediction["result"]} == {
        (labels.get("name"), image.get("name"))
    }


@pytest.mark.parametrize("masks", [False, True])
def test_cvat(tmp_path, masks):
    """As in CVAT's "XML annotation format", version 1.1, for images."""
    results = [(name, found(len(expected), masks)) for name, expected in RESULTS]
    root = ElementTree.parse(written(tmp_path, ["cvat"], *results) / "cvat.xml").getroot()
    assert [child.tag for child in root] == ["version", "meta", "image", "image", "image"]
    assert root.findtext("meta/task/size") == "3"
    assert [label.text for label in root.findall("meta/task/labels/label/name")] == list(CLASSES)
    images = root.findall("image")
    assert [image.get("name") for image in images] == [name for name, _ in RESULTS]
    assert [len(image) for image in images] == [3, 1, 0]
    for shape, box, score, mask in zip(images[0], BOXES, SCORES, found(3, True).masks):
        assert shape.tag == ("mask" if masks else "box")
        assert float(shape.findtext("attribute[@name='score']")) == pytest.approx(score, abs=1e-6)
        if masks:
            np.testing.assert_array_equal(cvat_bits(shape), decode(mask, *SIZE))
        else:
            sides = [float(shape.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")]
            np.testing.assert_allclose(sides, box, atol=0.005)


def cvat_bits(shape) -> np.ndarray:
    """The mask of CVAT's element: runs by row inside its rectangle, background first."""
    left, top, width, height = (int(shape.get(n)) for n in ("left", "top", "width", "height"))
    runs = [int(run) for run in shape.get("rle").split(",")]
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    bits = np.zeros(SIZE, bool)
    bits[top : top + height, left : left + width] = inside
    return bits


def test_cvat_masks_of_any_shape():
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98):
        bits = rng.random(SIZE) < share
        shape = ElementTree.fromstring(f"<mask {cvat_mask(bits)}/>")
        np.testing.assert_array_equal(cvat_bits(shape), bits)


# --- polygons -----------------------------------------------------------------------------------


def blots(seed: int, height: int, width: int) -> np.ndarray:
    """A random mask with several parts and holes."""
    coarse = np.random.default_rng(seed).random((9, 9), np.float32)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture) > 0.55


ONE = np.ones((1, 1), bool)
RING = np.pad(~np.pad(np.ones((3, 3), bool), 2), ((2, 2), (2, 6)))  # 11 x 15
ISLAND = RING | np.pad(ONE, ((5, 5), (5, 9)))
SHAPES = {
    "a pixel": np.pad(ONE, 5),
    "a line": np.pad(np.ones((1, 20), bool), 3),
    "the whole image": np.ones((7, 9), bool),
    "a diagonal": np.eye(9, dtype=bool),
    "a hole": RING,
    "an island in a hole": ISLAND,
    "noise": np.random.default_rng(0).random((40, 30)) < 0.4,
    **{f"blots {seed}": blots(seed, 80, 130) for seed in range(5)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_polygon_is_its_mask(name):
    """Drawn by COCO's rules, whether each part is a polygon or all are joined in one."""
    bits = SHAPES[name]
    rings = mask_rings(bits)
    np.testing.assert_array_equal(decode(flat(rings), *bits.shape), bits)
    np.testing.assert_array_equal(decode(flat([join_rings(rings)]), *bits.shape), bits)
    for ring in rings:
        assert (ring >= 0).all()
        assert (ring <= bits.shape[::-1]).all()
        assert (ring[0] != ring[-1]).any()


def test_polygons_are_short():
    assert len(mask_rings(np.pad(np.ones((50, 80), bool), 5))[0]) <= 8
    disk = np.hypot(*(np.indices((200, 200)) - 99.5)) < 90
    assert len(mask_rings(disk)[0]) < 300  # 720 before lines were simplified
    assert mask_rings(np.zeros((5, 5), bool)) == []


def test_rings_of_many_points_are_joined_close_by():
    """The nearest points are looked for among 500 of each."""
    angle = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 100
    joined = join_rings([circle, circle + (250, 0)])
    assert len(joined) == 6002
    steps = np.hypot(*np.diff(joined, axis=0).T)
    assert np.sort(steps)[-2:] == pytest.approx([50, 50], abs=0.1)
    assert np.sort(steps)[-3] < 1


def with_masks(masks) -> Detections:
    """A cat for each mask, as high and wide as the first; one of no area is empty."""
    size, count = masks[0].shape, len(masks)
    boxes = np.tile(np.array([[1, 2, 11, 8]], np.float32), (count, 1))
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    drawn = [encode(bits) for bits in masks]
    return Detections(boxes, scores, np.ones(count, np.int64), drawn, CLASSES, size)


def test_polygons_in_every_format(tmp_path):
    """Through our readers and by hand: the same masks; an empty mask is its box."""
    masks = [ISLAND, np.zeros_like(RING)]
    out = written(
        tmp_path,
        ["coco", "yolo", "labelstudio", "cvat"],
        ("a.png", with_masks(masks)),
        polygons=True,
    )
    height, width = RING.shape
    image = Image.fromarray(np.zeros((height, width), np.uint8))
    (tmp_path / "yolo" / "images").mkdir()
    for folder in (tmp_path, tmp_path / "yolo" / "images"):
        image.save(folder / "a.png")
    box = np.zeros_like(RING)
    box[2:8, 1:11] = True
    expected = [masks[0], box]

    rows = json.loads((out / "predictions.json").read_text())
    coco = [row["segmentation"] for row in rows]
    (tmp_path / "yolo" / "data.yaml").write_text("names: [cat, dog]\n")
    yolo = load_yolo(tmp_path / "yolo", "all", "auto", READING).records[0].masks
    cvat = load_cvat(tmp_path, "cvat", "auto", READING).records[0].masks
    (task,) = json.loads((out / "labelstudio.json").read_text())
    regions = task["predictions"][0]["result"]
    assert {region["type"] for region in regions} == {"polygonlabels"}
    studio = [
        [(np.array(region["value"]["points"]) * (width, height) / 100).ravel().tolist()]
        for region in regions
    ]
    for found_masks in (coco, yolo, cvat, studio):
        assert len(found_masks) == 2
        for mask, bits in zip(found_masks, expected):
            np.testing.assert_array_equal(decode(mask, height, width), bits)
    assert [len(rings) for rings in coco] == [2, 1]
    for mask, wanted in ((studio, cvat), (yolo, cvat)):
        for (ring,), (other,) in zip(mask, wanted):
            np.testing.assert_allclose(ring, other, atol=0.006)
    view = ElementTree.parse(out / "labelstudio.xml").getroot()
    assert view.find("PolygonLabels").get("name") == regions[0]["from_name"]


def test_empty_masks_are_counted():
    found_masks = with_masks([RING, np.zeros_like(RING)])
    assert Result("a", "a", 1, found_masks).empty_masks == 1
    assert Result("a", "a", 1, found()).empty_masks == 0


def test_pictures(tmp_path):
    out = written(tmp_path, ["draw", "crops"], *RESULTS)
    drawn = {p.relative_to(out / "pictures").as_posix() for p in out.rglob("pictures/**/*.png")}
    assert drawn == {"day 1/a.png", "day 2/a.png", "none.png"}
    source = np.asarray(noise(SIZE, seed=1))
    assert (np.asarray(Image.open(out / "pictures/day 1/a.png")) != source).any()
    crop = np.asarray(Image.open(out / "crops/cat/day 1/a_1.png"))
    np.testing.assert_array_equal(crop, source[20:60, 10:51])
    assert len(list((out / "crops").rglob("*.png"))) == 4


# --- formulas, names, empty results -------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "box", "expected"),
    [
        (voc_corners, (0, 0, 1, 1), (1, 1, 1, 1)),
        (voc_corners, (0, 0, 90, 60), (1, 1, 90, 60)),
        (voc_corners, (10.4, 20.6, 50.4, 59.6), (11, 22, 50, 60)),
        (voc_corners, (89.9, 59.9, 90, 60), (90, 60, 90, 60)),
        (voc_corners, (5.2, 5.2, 5.4, 5.4), (6, 6, 6, 6)),
        (yolo_places, (0, 0, 90, 60), (0.5, 0.5, 1, 1)),
        (yolo_places, (9, 6, 27, 12), (0.2, 0.15, 0.2, 0.1)),
        (percents, (0, 0, 90, 60), (0, 0, 100, 100)),
        (percents, (9, 6, 27, 12), (10, 10, 20, 10)),
    ],
)
def test_formulas(formula, box, expected):
    np.testing.assert_allclose(formula(np.array([box]), *SIZE), [expected], atol=1e-9)


def test_no_result_and_no_image(tmp_path):
    for count, results in enumerate(([], [RESULTS[2]])):
        out = written(tmp_path / str(count), WRITERS, *results)
        assert json.loads((out / "predictions.json").read_text()) == []
        assert len(json.loads((out / "labelstudio.json").read_text())) == count
        assert len(ElementTree.parse(out / "cvat.xml").getroot().findall("image")) == count
        assert (out / "predictions.csv").read_text().count("\n") == 1


def test_names_are_safe_and_never_the_same(tmp_path):
    names = Names()
    given = ["a.jpg", "a.png", "A.gif", "b/a.jpg", "a~2.jpg", "../x?.jpg", "b", ".jpg", "c.d.jpg"]
    assert [names.stem(name) for name in given] == [
        *("a", "a~2", "A~3", "b/a", "a%7E2", "%../x%3F", "b", ".jpg", "c.d")
    ]
    assert names.renamed == 2
    results = [(name, found(1)) for name in ("a.jpg", "a.png", "x\x01\ud800.jpg")]
    out = written(tmp_path, ["yolo", "voc", "draw"], *results)
    for pattern in ("yolo/labels/*", "voc/*", "pictures/*"):
        assert len(list(out.glob(pattern))) == 3
    assert all(ElementTree.parse(path) for path in out.glob("voc/*"))


def written_before_an_interrupt(folder, formats):
    with open_writers(formats, Output(folder, CLASSES)) as write:
        write(Result("b.jpg", "b", 1, found(1)))
        raise KeyboardInterrupt
    yield


@pytest.mark.parametrize("formats", [["coco"], ["csv"], ["cvat"], ["labelstudio"]])
def test_one_file_is_whole_or_not_there(tmp_path, formats):
    written(tmp_path, formats, RESULTS[0])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    interrupted = written_before_an_interrupt(tmp_path, formats)
    with pytest.raises(KeyboardInterrupt):
        next(interrupted)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_unknown_format(tmp_path):
    message = "no output format 'json'; there are: coco, csv"
    with pytest.raises(ConfigError, match=message), open_writers(["json"], Output(tmp_path, ())):
        pass


def test_ids_of_a_data_set(tmp_path):
    path = tmp_path / "instances.json"
    images = [(7, "x/a.jpg"), (8, "y/a.jpg"), (9, "y/b.jpg")]
    document = {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "categories": [{"id": 30 + k, "name": name} for k, name in enumerate(CLASSES)],
    }
    path.write_text(json.dumps(document))
    ids = Ids(path, CLASSES[::-1])
    assert ids.category_ids == (31, 30)
    assert [ids.image_id(name) for name in ("y/a.jpg", "b.jpg", "z/b.jpg")] == [8, 9, 9]
    for name in ("a.jpg", "c.jpg"):
        with pytest.raises(DataError, match=f"{name}: .*has no image of that name"):
            ids.image_id(name)
    with pytest.raises(ConfigError, match="no category 'cow'"):
        Ids(path, ("cow",))
