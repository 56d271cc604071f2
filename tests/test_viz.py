"""Drawn pictures: where there is ink, what stays unchanged, and odd inputs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image, ImageFont

from mxrcnn import viz
from mxrcnn.data.records import Detections
from mxrcnn.evaluation.report import Report
from mxrcnn.evaluation.voc import evaluate_voc
from mxrcnn.viz import losses
from symnet.geometry.masks import encode
from tests.test_evaluation_voc import found, random_case, record

NAMES = ["cat", "a/b: $x^$", "dog"]


def grey(height=200, width=300) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def is_color(picture, k) -> np.ndarray:
    return (np.asarray(picture) == viz.class_color(k)).all(axis=2)


def drawn_on(image, picture) -> np.ndarray:
    return (np.asarray(picture) != image).any(axis=2)


def test_boxes_are_where_they_should_be():
    image = grey()
    picture = viz.draw_detections(image, found([(50, 60, 150, 160)], [0.9]), NAMES)
    colored = is_color(picture, 1)
    for y, x in ((60, 100), (159, 100), (110, 50), (110, 149)):  # the pixels that the box covers
        assert colored[y, x]
    assert not drawn_on(image, picture)[75:155, 60:140].any()
    rows, columns = np.nonzero(colored)
    assert (columns.min(), columns.max(), rows.max()) == (50, 149, 159)
    assert rows.min() < 50  # the label is above the box
    assert (image == 128).all()


def test_threshold_and_order():
    image = grey()
    detections = found([(20, 60, 120, 160), (20, 60, 120, 160)], [0.6, 0.9], [1, 3])
    shown = viz.draw_detections(image, detections, NAMES)
    assert is_color(shown, 3)[60, 70]  # the better one is on top, whatever the order given
    assert is_color(shown, 1).any()  # and the other's label is still to be seen
    assert not is_color(viz.draw_detections(image, detections, NAMES, 0.7), 1).any()
    none = viz.draw_detections(image, detections, NAMES, 0.95)
    assert not drawn_on(image, none).any()


@pytest.mark.parametrize("size", [(1, 1), (8, 500), (40, 30), (1500, 2000)])
def test_any_size_and_boxes_outside(size):
    boxes = [(-50, -50, 10_000, 10_000), (0, 0, 1, 1), (9000, 9000, 9001, 9001), (5, 5, 2, 2)]
    detections = found(boxes, [0.9, 0.8, 0.7, 0.6], [1, 2, 3, 1])
    picture = viz.draw_detections(grey(*size), detections, NAMES)
    assert (picture.height, picture.width) == size
    assert drawn_on(grey(*size), picture).any()


def test_larger_images_have_thicker_lines():
    def thickness(scale):
        box = np.array([(20, 60, 120, 160)]) * scale
        picture = viz.draw_detections(grey(200 * scale, 300 * scale), found(box, [0.9]), NAMES)
        return is_color(picture, 1)[110 * scale].sum() / 2

    assert thickness(6) >= 2.5 * thickness(1) >= 5


def test_labels_do_not_cover_each_other():
    boxes = [(50, 60, 150, 160), (52, 62, 152, 158), (48, 61, 149, 162)]
    picture = viz.draw_detections(grey(), found(boxes, [0.9, 0.8, 0.7], [1, 2, 3]), NAMES)
    chips = [is_color(picture, k).sum() for k in (1, 2, 3)]
    alone = [
        is_color(viz.draw_detections(grey(), found([b], [0.9], [k]), NAMES), k).sum()
        for k, b in enumerate(boxes, 1)
    ]
    assert chips[0] >= 0.9 * alone[0]
    assert min(chips) > 300  # of about 500 pixels of a label


def test_hard_objects_are_dashed():
    def inked(**flags):
        picture = viz.draw_ground_truth(grey(), record(1, [(50, 60, 150, 160)], **flags), NAMES)
        return is_color(picture, 1)[70:150, 50].mean()

    assert inked() == 1
    assert 0.3 < inked(difficult=[True]) < 0.7
    assert 0.3 < inked(crowd=[True]) < 0.7


def test_masks_are_tinted():
    polygon = [[60, 70, 100, 70, 100, 110, 60, 110]]
    plain = record(1, [(50, 60, 150, 160)])
    image = grey()
    masked = dataclasses.replace(plain, masks=(polygon,))
    tinted = drawn_on(image, viz.draw_ground_truth(image, masked, NAMES))
    assert tinted[75:105, 65:95].all()
    assert not tinted[115:150, 65:95].any()
    assert (image == 128).all()
    uncompressed = {"size": [200, 300], "counts": [0, 200 * 80, 200 * 220]}
    found_mask = Detections(plain.boxes, np.array([0.9]), plain.classes, [uncompressed])
    tinted = drawn_on(image, viz.draw_detections(image, found_mask, NAMES))
    assert tinted[:, :80].all()
    assert not tinted[75:150, 90:140].any()


def with_masks(boxes, masks, classes) -> Detections:
    plain = found(boxes, np.linspace(0.9, 0.8, len(boxes)), classes)
    return Detections(plain.boxes, plain.scores, plain.classes, masks)


def test_a_mask_is_translucent_inside_its_outline():
    image = grey()
    square = np.zeros(image.shape[:2], bool)
    square[80:140, 70:120] = True
    detections = with_masks([(50, 60, 150, 160)], [encode(square)], [1])
    picture = np.asarray(viz.draw_detections(image, detections, NAMES))
    color = np.array(viz.class_color(1))
    assert (picture[110, 95] == (0.55 * 128 + 0.45 * color).round()).all()
    for y, x in ((80, 95), (139, 95), (110, 70), (110, 119)):
        assert (picture[y, x] == color).all()
    for y, x in ((79, 95), (140, 95), (110, 69), (110, 120)):
        assert (picture[y, x] == 128).all()
    assert (image == 128).all()


def test_outlines_follow_holes_and_the_images_edge_and_get_thicker():
    def outline(scale):
        ring = np.zeros((200 * scale, 300 * scale), bool)
        ring[: 100 * scale, : 100 * scale] = True
        ring[40 * scale : 60 * scale, 40 * scale : 60 * scale] = False
        box = [(200 * scale, 150 * scale, 210 * scale, 160 * scale)]
        detections = with_masks(box, [encode(ring)], [1])
        picture = viz.draw_detections(grey(*ring.shape), detections, NAMES)
        return is_color(picture, 1)[: 100 * scale, : 100 * scale]

    seen = outline(1)
    assert seen[0, 50]  # the image's edge
    assert seen[50, 39]  # around the hole
    assert not seen[50, 20]
    assert not seen[50, 50]
    assert outline(6)[20 * 6].sum() >= 2 * seen[20].sum() > 0


def test_better_masks_lie_over_worse_ones_and_empty_ones_are_nothing():
    image = grey()
    left, right, none = (np.zeros(image.shape[:2], bool) for _ in range(3))
    left[80:140, 70:120] = True
    right[80:140, 100:150] = True
    boxes = [(10, 10, 20, 20)] * 3
    masks = [encode(left), encode(right), encode(none)]
    picture = viz.draw_detections(image, with_masks(boxes, masks, [1, 3, 2]), NAMES)
    assert is_color(picture, 1)[110, 119]
    assert not is_color(picture, 3)[110, 100]
    assert is_color(picture, 3)[110, 149]


def test_objects_with_and_without_masks():
    polygon = [[60, 70, 100, 70, 100, 110, 60, 110]]
    both = record(1, [(50, 60, 110, 120), (150, 60, 210, 120)])
    both = dataclasses.replace(both, masks=(polygon, None))
    changed = drawn_on(grey(), viz.draw_ground_truth(grey(), both, NAMES))
    assert changed[75:105, 65:95].all()
    assert not changed[75:105, 165:195].any()


def test_comparison_shows_both_sides(shared_data):
    path = sorted((shared_data / "photos").glob("*.jpg"))[0]
    image = np.asarray(Image.open(path).convert("RGB"))
    height, width = image.shape[:2]
    truth = record(1, [(100, 100, 300, 300)])
    pictures = [
        viz.draw_comparison(image, truth, found([(100, 100, 300, 300)], [0.9], [3]), NAMES)
        for _ in range(2)
    ]
    assert np.array_equal(*pictures)
    picture = pictures[0]
    assert picture.width > 2 * width
    assert picture.height > height
    sides = np.asarray(picture)[-height:, :width], np.asarray(picture)[-height:, -width:]
    for side, own, other in ((sides[0], 1, 3), (sides[1], 3, 1)):
        assert is_color(side, own).sum() > 500
        assert is_color(side, other).sum() < is_color(image, other).sum() + 50


def test_bad_images_and_classes():
    for image in (grey()[..., 0], grey().astype(np.float32), grey()[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            viz.draw_detections(image, Detections.empty(), NAMES)
    with pytest.raises(IndexError, match="class 4"):
        viz.draw_detections(grey(), found([(1, 1, 9, 9)], [0.9], [4]), NAMES)


def test_old_pillow_without_font_sizes(monkeypatch):
    bitmap = getattr(ImageFont, "load_default_imagefont", ImageFont.load_default)
    monkeypatch.setattr(ImageFont, "load_default", lambda: bitmap())
    picture = viz.draw_detections(grey(), found([(50, 60, 150, 160)], [0.9]), NAMES)
    assert is_color(picture, 1)[60, 100]


def test_palette():
    colors = [viz.class_color(k) for k in range(1, 16)]
    assert len(set(colors)) == 15
    assert viz.class_color(16) == colors[0]


def same_picture(a, b) -> bool:
    return np.array_equal(np.asarray(Image.open(a)), np.asarray(Image.open(b)))


def test_precision_recall_plots(tmp_path):
    records, detections, _ = random_case(1)
    names = ["cat", "a/b: $x^$", "absent", "unfound"]
    records.append(record("more", [(1, 1, 9, 9)], [4]))
    absent = found([(1, 1, 9, 9)], [0.5], [3])
    records = [r if 3 not in r.classes else record(r.image_id, []) for r in records]
    report = evaluate_voc(records, {**detections, "more": absent}, names)
    paths = viz.plot_precision_recall(report, tmp_path)
    assert [p.name for p in paths] == [
        "pr_overview.png",
        "pr_cat.png",
        "pr_a%2Fb%3A %24x%5E%24.png",
        "pr_absent.png",
        "pr_unfound.png",
    ]
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in paths}
    assert all(np.asarray(Image.open(p)).std() > 5 for p in paths)
    again = viz.plot_precision_recall(report, tmp_path / "again")
    assert all(same_picture(a, b) for a, b in zip(paths, again))


def test_precision_recall_of_nothing(tmp_path):
    paths = viz.plot_precision_recall(Report({"mAP": math.nan}), tmp_path)
    assert len(paths) == 1
    assert Image.open(paths[0]).width > 100


def log_rows(steps):
    for step in steps:
        train = {"kind": "train", "step": step, "epoch": step // 10, "lr": 0.01}
        yield {**train, "images_per_second": 2.0, "RPNLogLoss": 1 / (step + 1), "RCNNAcc": 0.5}
        if step % 10 == 9:
            yield {"kind": "val", "step": step, "epoch": step // 10, "mAP": step / 100}


def test_loss_plots(tmp_path):
    rows = list(log_rows(range(40)))
    viz.plot_losses(rows, tmp_path / "all.png")
    size = Image.open(tmp_path / "all.png").size
    viz.plot_losses([], tmp_path / "none.png")
    viz.plot_losses([{"kind": "start"}], tmp_path / "neither.png")
    assert same_picture(tmp_path / "none.png", tmp_path / "neither.png")
    viz.plot_losses(rows[:1], tmp_path / "one.png")
    assert Image.open(tmp_path / "one.png").height < size[1] + 1
    viz.plot_losses([r for r in rows if r["kind"] == "val"], tmp_path / "val.png")
    assert Image.open(tmp_path / "val.png").height < size[1]
    bad = [{**r, "RPNLogLoss": v} for r, v in zip(rows, (math.nan, None, math.inf))]
    viz.plot_losses([*bad, *rows[3:]], tmp_path / "bad.png")
    viz.plot_losses([{"kind": "train", "step": 1, "RPNLogLoss": None}], tmp_path / "null.png")
    assert same_picture(tmp_path / "null.png", tmp_path / "none.png")


def test_loss_plots_after_a_resume(tmp_path):
    rows = list(log_rows(range(40)))
    lost = [{**row, "RPNLogLoss": 77.0} for row in log_rows(range(20, 30))]
    viz.plot_losses(rows, tmp_path / "straight.png")
    viz.plot_losses(lost + rows, tmp_path / "resumed.png")
    assert same_picture(tmp_path / "straight.png", tmp_path / "resumed.png")


def test_smoothing():
    values = np.random.default_rng(0).normal(size=50)
    expected = [values[max(0, i - 3) : i + 4].mean() for i in range(50)]
    assert losses._smoothed(values, 3) == pytest.approx(expected)
    assert losses._smoothed(values[:1], 3) == pytest.approx(values[:1])
