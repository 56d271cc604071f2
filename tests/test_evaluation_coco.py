"""COCO's metrics: the published numbers, odd inputs, and our detections as COCO results."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from mxrcnn.config import make_config
from mxrcnn.data.coco import load_coco, resolve_coco
from mxrcnn.data.records import DataError, Dataset, Detections
from mxrcnn.evaluation.coco import METRICS, detections_to_coco, evaluate_coco
from mxrcnn.evaluation.core import evaluate
from mxrcnn.evaluation.run import draw_extremes
from mxrcnn.evaluation.submission import write_coco_results
from symnet.geometry.masks import decode, encode
from tests.test_evaluation_voc import found, record

PUBLISHED = {
    "bbox": ".504581 .696973 .572982 .585626 .519400 .501398 "
    ".386813 .593680 .595353 .639811 .566421 .564291",
    "segm": ".319545 .562288 .298927 .387374 .310183 .326934 "
    ".268230 .415449 .416839 .469450 .376759 .381472",
}
SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]


def small_truth(**changes) -> dict:
    annotation = {"id": 0, "image_id": 1, "category_id": 7, "bbox": [2, 2, 10, 10]}
    return {
        "images": [{"id": 1, "width": 40, "height": 30}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [{**annotation, "segmentation": SQUARE, **changes}],
    }


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_published_numbers(shared_data, iou_type, capfd):
    folder = shared_data / "eval_coco"
    results = json.loads((folder / f"instances_val2014_fake{iou_type}100_results.json").read_text())
    report = evaluate_coco(folder / "instances_val2014_100.json", results, iou_type)
    assert list(report.metrics) == list(METRICS)
    expected = [float(number) for number in PUBLISHED[iou_type].split()]
    assert [round(value, 6) for value in report.metrics.values()] == expected
    measured = [row["AP"] for row in report.per_class.values() if row["AP"] >= 0]
    assert np.mean(measured) == pytest.approx(report.metrics["AP"])
    assert sum(row["ignored_objects"] for row in report.per_class.values()) == 9
    assert sum(row["objects"] for row in report.per_class.values()) == 839 - 9
    assert sum(row["detections"] for row in report.per_class.values()) == len(results)
    assert capfd.readouterr().out == ""


def test_no_results_are_zero_and_no_truth_is_a_dash():
    report = evaluate_coco(small_truth(), [])
    assert (report.metrics["AP"], report.metrics["AR100"]) == (0, 0)
    assert (report.per_class["cat"]["AP"], report.per_class["dog"]["AP"]) == (0, -1)
    nothing = evaluate_coco({**small_truth(), "annotations": []}, [])
    assert set(nothing.metrics.values()) == {-1}
    assert nothing.table().splitlines()[-3].split() == ["ARl", "-"]
    assert nothing.curves == {}


def test_arguments_are_left_unchanged_and_ids_of_zero_count():
    truth = small_truth()
    rle = mask_utils.frPyObjects(SQUARE, 30, 40)[0]
    result = {"image_id": 1, "category_id": 7, "score": 0.5, "bbox": [2, 2, 10, 10]}
    results = [{**result, "segmentation": {**rle, "counts": rle["counts"].decode()}}]
    before = copy.deepcopy((truth, results))
    for iou_type in ("bbox", "segm"):
        assert evaluate_coco(truth, results, iou_type).metrics["AP"] == pytest.approx(1)
    assert (truth, results) == before


def test_a_masks_area_is_not_taken_from_its_box():
    truth = small_truth(area=100)
    rle = mask_utils.frPyObjects(SQUARE, 30, 40)[0]
    far_too_big = [0, 0, 4000, 3000]
    stray = {"image_id": 1, "category_id": 7, "score": 0.9, "bbox": far_too_big}
    empty = mask_utils.encode(np.asfortranarray(np.eye(30, 40, dtype=np.uint8)))
    results = [{**stray, "segmentation": empty}, {**stray, "score": 0.5, "segmentation": rle}]
    # the stray mask is small, so it is a false positive among the small objects
    assert evaluate_coco(truth, results, "segm").metrics["APs"] == pytest.approx(0.5, abs=0.01)


def test_bad_input_is_named(tmp_path):
    result = {"image_id": 1, "category_id": 7, "score": 0.5, "bbox": [2, 2, 10, 10]}
    with pytest.raises(ValueError, match="keypoints"):
        evaluate_coco(small_truth(), [], "keypoints")
    with pytest.raises(ValueError, match="result 1: image 99"):
        evaluate_coco(small_truth(), [result, {**result, "image_id": 99}])
    with pytest.raises(ValueError, match="result 0: no 'segmentation'"):
        evaluate_coco(small_truth(), [result], "segm")
    with pytest.raises(DataError, match="ground truth: has no annotations"):
        evaluate_coco({"images": [], "categories": []}, [])
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        evaluate_coco(broken, [])


def test_names_used_twice_are_told_apart():
    truth = small_truth()
    truth["categories"][1]["name"] = "cat"
    assert set(evaluate_coco(truth, []).per_class) == {"cat (7)", "cat (3)"}


def dataset(category_ids=(7, 3)) -> Dataset:
    records = (record(5, []), record(1, [(2, 2, 12, 12)]))
    return Dataset("small", ("cat", "dog"), records, category_ids=category_ids)


def test_detections_become_results(tmp_path):
    grid = np.asfortranarray(np.eye(30, 40, dtype=np.uint8))
    rle = mask_utils.encode(grid)
    uncompressed = {"size": [2, 2], "counts": [1, 3]}
    first = found([(2, 2, 12.5, 12), (0, 0, 1, 1)], [0.75, 0.5], [1, 2])
    masked = Detections(first.boxes, first.scores, first.classes, [rle, uncompressed])
    detections = {1: masked, 5: found([(0, 0, 4, 2)], [0.25], [2])}
    results = detections_to_coco(detections, dataset())
    place = {"image_id": 5, "category_id": 3, "bbox": [0, 0, 4, 2], "score": 0.25}
    assert results[0] == place
    assert results[1]["category_id"] == 7
    assert results[1]["bbox"] == [2, 2, 10.5, 10]
    assert isinstance(results[1]["segmentation"]["counts"], str)
    assert (mask_utils.decode(results[1]["segmentation"]) == grid).all()
    assert mask_utils.decode(results[2]["segmentation"]).tolist() == [[0, 1], [1, 1]]
    path = write_coco_results(detections, dataset(), tmp_path)
    assert path.name == "coco_results.json"
    assert json.loads(path.read_text()) == results
    plain = detections_to_coco(detections, dataset(None))
    assert [r["category_id"] for r in plain] == [2, 1, 2]


def test_round_trip_of_the_truth_has_ap_one():
    detections = {1: found([(2, 2, 12, 12)], [0.9])}
    report = evaluate_coco(small_truth(), detections_to_coco(detections, dataset()))
    assert report.metrics["AP"] == pytest.approx(1)
    assert report.metrics["APl"] == -1


# Boxes and masks in one report


def published_case(shared_data) -> tuple[Dataset, dict]:
    """The 100 images with the official masks as detections; boxes are the masks' own."""
    folder = shared_data / "eval_coco"
    truth = load_coco(folder / "instances_val2014_100.json", require_images=False)
    results = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    class_of = {category_id: k for k, category_id in enumerate(truth.category_ids, 1)}
    detections = {}
    for image_id in dict.fromkeys(r["image_id"] for r in results):
        mine = [r for r in results if r["image_id"] == image_id]
        boxes = [mask_utils.toBbox(r["segmentation"]) for r in mine]
        corners = [(x, y, x + w, y + h) for x, y, w, h in boxes]
        scores, classes = zip(*[(r["score"], class_of[r["category_id"]]) for r in mine])
        plain = found(corners, scores, classes)
        masks = [r["segmentation"] for r in mine]
        detections[image_id] = Detections(plain.boxes, plain.scores, plain.classes, masks)
    return truth, detections


def test_score_has_published_mask_numbers_beside_those_of_boxes(shared_data):
    truth, detections = published_case(shared_data)
    report = evaluate(truth, detections, "coco")
    expected = [float(number) for number in PUBLISHED["segm"].split()]
    segm = [report.metrics[f"segm_{name}"] for name in METRICS]
    np.testing.assert_allclose(segm, expected, atol=2e-4)  # scores are float32: some are equal now
    assert list(report.metrics) == [*METRICS, *(f"segm_{name}" for name in METRICS)]
    assert report.metrics["AP"] != report.metrics["segm_AP"]
    for row in report.per_class.values():
        assert list(row)[-2:] == ["segm_AP", "segm_AP50"]
    measured = [row["segm_AP"] for row in report.per_class.values() if row["segm_AP"] >= 0]
    assert np.mean(measured) == pytest.approx(report.metrics["segm_AP"])
    assert "COCO segm metrics, pycocotools" in report.notes
    lines = report.table().splitlines()
    assert lines[0] == "metric: coco, main number: segm_AP"
    assert "segm AP  segm AP50" in lines[2]
    assert max(map(len, report.table().splitlines())) < 100
    unmasked = {i: found(d.boxes, d.scores, d.classes) for i, d in detections.items()}
    assert list(evaluate(truth, unmasked, "coco").metrics) == list(METRICS)


def masked_detection() -> dict:
    """Detections that match the object of `small_truth` exactly, box and mask."""
    plain = found([(2, 2, 12, 12)], [0.9])
    rle = mask_utils.merge(mask_utils.frPyObjects(SQUARE, 30, 40))
    return {1: Detections(plain.boxes, plain.scores, plain.classes, [rle])}


@pytest.mark.parametrize("masks", [None, ([], SQUARE), (None, SQUARE)])
def test_objects_without_masks_leave_segm_out_with_a_note(masks):
    records = [record(1, [(2, 2, 12, 12), (20, 20, 30, 30)])]
    if masks is not None:
        records = [replace(records[0], masks=masks)]
    truth = Dataset("small", ("cat",), tuple(records))
    report = evaluate(truth, masked_detection(), "coco")
    assert list(report.metrics) == list(METRICS)
    note = next(n for n in report.notes if n.startswith("no segm metrics"))
    assert note.endswith(f"{2 if masks is None else 1} of the 2 objects have no mask")


def test_sizes_that_the_file_lacks_are_those_of_the_images(tmp_path):
    """pycocotools needs image sizes to draw polygons."""
    document = small_truth()
    document["images"] = [{"id": 1, "file_name": "a.png"}]
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    file = tmp_path / "set.json"
    file.write_text(json.dumps(document))
    report = evaluate(load_coco(file, class_names=["cat", "dog"]), masked_detection(), "coco")
    assert report.metrics["segm_AP"] == pytest.approx(1)


def test_a_detector_of_masks_that_finds_nothing():
    truth = Dataset("small", ("cat",), (replace(record(1, [(2, 2, 12, 12)]), masks=(SQUARE,)),))
    none = Detections.empty()
    nothing = {1: Detections(none.boxes, none.scores, none.classes, [])}
    assert evaluate(truth, nothing, "coco").metrics["segm_AP"] == 0


def test_pictures_show_masks_of_both_sides(shared_data, tmp_path):
    data = load_coco(*resolve_coco(shared_data / "fruits_nuts", "trainval"))
    data = replace(data, records=data.records[:1])
    first = data.records[0]
    answers = found(first.boxes, np.full(len(first), 0.9), first.classes)
    masks = [encode(decode(m, first.height, first.width)) for m in first.masks]
    shown = Detections(answers.boxes, answers.scores, answers.classes, masks)
    pictures = [
        np.asarray(Image.open(draw_extremes(data, {first.image_id: d}, make_config(), out, 1)[0]))
        for d, out in ((answers, tmp_path / "a"), (shown, tmp_path / "b"))
    ]
    middle = pictures[0].shape[1] // 2
    changed = np.abs(pictures[0].astype(int) - pictures[1]).sum(axis=2) > 60
    assert changed[:, middle + 20 :].mean() > 0.02
    assert not changed[:, : middle - 20].any()


@pytest.mark.parametrize(
    "detections",
    [
        {2: found([], [])},
        {1: found([(0, 0, 1, 1)], [0.5], [3])},
        {1: found([(0, 0, 1, 1)], [0.5], [0])},
        {1: found([(0, 0, 1, 1)], [math.nan])},
    ],
)
def test_detections_that_do_not_fit_the_data(detections, tmp_path):
    with pytest.raises(ValueError, match="image"):
        write_coco_results(detections, dataset(), tmp_path)
    assert list(Path(tmp_path).iterdir()) == []
