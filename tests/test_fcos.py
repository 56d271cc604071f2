"""FCOS: points, targets, losses, the head and its detections; and RegNet, its body.

Letters as in symnet/fcos.py. Images are not square, so that an exchange of rows and columns shows.
"""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.config import make_config, override
from mxrcnn.inference.detector import Detector
from mxrcnn.weights.torchvision import from_torchvision
from symnet import fcos, get_detector
from symnet.bodies import get_body, regnet
from symnet.config.fcos import FCOSConfig, FCOSForm
from symnet.detector import ImageTargetsInput
from symnet.fcos import FCOSHead
from symnet.geometry.anchors import PyramidPoints
from symnet.geometry.targets import PointMatching, fcos_targets, match_points
from symnet.machine import mx
from symnet.parts.layers import conv
from symnet.parts.losses import focal_loss, giou_loss
from tests.factories import make_dataset, make_record, noise
from tests.reference import plain_match_points
from tests.test_losses import backward, numeric_gradient

STRIDES = (8, 16, 32, 64, 128)
#: height and width of a padded image; p6 and p7 are ragged
PADDED = (96, 224)

#: one map a class, points at the centres of cells
OWN_FORM = FCOSForm(background_channel=False, centred=True)


# --- points -------------------------------------------------------------------------------------


def slow_points(strides, centred, height, width):
    """[(level, x, y)] of all points."""
    points = []
    for level, stride in enumerate(strides):
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        for i in range(rows):
            for j in range(columns):
                if centred:
                    points.append((level, stride * (j + 0.5), stride * (i + 0.5)))
                else:
                    points.append((level, j * (width // columns), i * (height // rows)))
    return points


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("strides", [STRIDES, STRIDES[:3]])
def test_points_go_along_the_rows_of_each_level(strides, centred):
    points, levels = PyramidPoints(strides, centred).grid(*PADDED)
    expected = slow_points(strides, centred, *PADDED)
    assert [(level, x, y) for level, (x, y) in zip(levels, points)] == expected
    assert points.dtype == np.float32
    assert not points.flags.writeable


# --- targets ------------------------------------------------------------------------------------


def slow_target(point, stride, place, objects, rule):
    """(class or 0, ltrb in strides, centerness) of one point; place: first, last or neither."""
    x, y = point
    best = None
    for x1, y1, x2, y2, kind in objects:
        sides = [x - x1, y - y1, x2 - x, y2 - y]
        low = 0 if "first" in place else rule.size_range[0] * stride
        high = math.inf if "last" in place else rule.size_range[1] * stride
        inside = min(sides) > 0 and low < max(sides) < high
        away = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
        if rule.center_sampling_radius and away >= rule.center_sampling_radius * stride:
            inside = False
        area = (x2 - x1) * (y2 - y1)
        if inside and (best is None or area < best[0]):
            left, top, right, bottom = sides
            centerness = math.sqrt(
                min(left, right) * min(top, bottom) / (max(left, right) * max(top, bottom))
            )
            best = area, kind, [side / stride for side in sides], centerness
    return best[1:] if best else (0, [0, 0, 0, 0], 0)


def random_objects(rng, count, padded=PADDED):
    height, width = padded
    sides = rng.uniform(4, [width * 0.8, height * 0.8], (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * ([width, height] - sides)
    kinds = rng.integers(1, 4, (count, 1))
    return np.concatenate([corners, corners + sides, kinds], axis=1).astype(np.float32)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("radius", [0.0, 1.5])
@pytest.mark.parametrize("padded", [PADDED, PADDED[::-1], (32, 32)])
@pytest.mark.parametrize("strides", [STRIDES, STRIDES[:3]])
def test_targets_against_loops(strides, padded, radius, centred):
    rng = np.random.default_rng(0)
    objects = random_objects(rng, 12, padded)
    padding = np.full((2, 5), -1, np.float32)
    rule = PointMatching(center_sampling_radius=radius)
    points, levels = PyramidPoints(strides, centred).grid(*padded)
    found = fcos_targets(points, levels, strides, np.concatenate([objects, padding]), rule)
    places = {0: "first", len(strides) - 1: "last"}
    for n, (point, level) in enumerate(zip(points, levels)):
        kind, ltrb, centerness = slow_target(
            point, strides[level], places.get(level, ""), objects.astype(float), rule
        )
        assert found[0][n] == kind - 1
        np.testing.assert_allclose(found[1][n], ltrb, rtol=1e-4, atol=1e-4)
        assert found[2][n] == pytest.approx(centerness, rel=1e-3, abs=1e-4)
    assert all(array.dtype == np.float32 for array in found)
    assert (found[0] >= 0).any()
    assert (found[2] <= 1).all()


@pytest.mark.parametrize("count", [0, 1, 60, 700])
def test_points_in_blocks_match_as_in_the_plain_form(count):
    """To the bit, including ties of equal areas, and with little memory: all pairs took 580 MB."""
    rng = np.random.default_rng(count)
    padded = (256, 384) if count < 700 else (800, 1344)
    boxes = np.repeat(random_objects(rng, -(-count // 2), padded)[:, :4], 2, axis=0)[:count]
    for rule in (PointMatching(), PointMatching((2.0, 16.0), 0.0)):
        points, levels = PyramidPoints(STRIDES).grid(*padded)
        tracemalloc.start()
        try:
            found = match_points(points, levels, STRIDES, boxes, rule)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 10e6
        every = slice(None, None, 1 if count < 700 else 97)
        wanted, _ = plain_match_points(points[every], levels[every], STRIDES, boxes, rule)
        np.testing.assert_array_equal(found[every], wanted)
        assert (found >= 0).any() == (count > 0)


def matched_levels(box, **rule):
    """How many points of each level belong to the only object."""
    points, levels = PyramidPoints(STRIDES).grid(256, 512)
    labels, _, _ = fcos_targets(
        points, levels, STRIDES, np.float32([[*box, 1]]), PointMatching(**rule)
    )
    return np.bincount(levels[labels >= 0], minlength=len(STRIDES)).tolist()


def test_an_object_belongs_to_the_level_of_its_size():
    """The largest distance to a side: to 64 on the first level, 64-128 on the next, and so on."""
    off = {"center_sampling_radius": 0}
    assert matched_levels((96, 96, 120, 128), **off) == [12, 0, 0, 0, 0]
    # from every point inside the farther side is 100 to 200 away
    found = matched_levels((100, 100, 300, 120), **off)
    assert found[0] == found[3] == found[4] == 0
    assert found[1] > 0
    assert found[2] > 0
    assert matched_levels((0, 100, 511, 140), **off)[0:2] == [0, 0]
    assert matched_levels((0, 100, 511, 140), **off)[4] == 0
    # other bounds: everything on the first level, nothing between
    wide = {"size_range": (1e4, 1e5), "center_sampling_radius": 0}
    assert matched_levels((100, 100, 300, 120), **wide)[1:4] == [0, 0, 0]
    assert matched_levels((100, 100, 300, 120), **wide)[0] > 0


def test_a_distance_on_the_border_of_two_ranges_belongs_to_neither():
    """As in torchvision, where both bounds are strict."""
    points = np.float32([[0, 0], [0, 0]])
    objects = np.float32([[-64, -10, 20, 10, 1]])
    labels, _, _ = fcos_targets(
        points, np.array([0, 1]), STRIDES, objects, PointMatching((4, 8), 0)
    )
    assert labels.tolist() == [-1, -1]


def test_centre_sampling_keeps_points_near_the_centre():
    box = (96, 64, 160, 112)
    everywhere, near = (matched_levels(box, center_sampling_radius=r)[0] for r in (0, 1.5))
    assert everywhere == 8 * 6
    assert near == 2 * 2  # the centre is a corner of four cells, 12 pixels reach no further
    assert matched_levels(box, center_sampling_radius=2.0)[0] == 4 * 4


def test_the_smallest_of_the_objects_around_a_point():
    objects = np.float32([[10, 10, 60, 60, 1], [20, 20, 44, 44, 2], [15, 15, 50, 50, 3]])
    points, levels = PyramidPoints(STRIDES[:1]).grid(64, 96)
    labels, _, _ = fcos_targets(
        points, levels, STRIDES[:1], objects, PointMatching(center_sampling_radius=0)
    )
    labels = labels.reshape(8, 12)
    assert labels[3, 4] == 1
    assert labels[2, 5] == 2  # on the border of the smallest
    assert labels[5, 5] == 2
    assert labels[6, 6] == 0
    assert labels[7, 7] == labels[3, 9] == -1


def test_no_objects_are_no_foreground():
    points, levels = PyramidPoints(STRIDES).grid(*PADDED)
    for objects in (np.zeros((0, 5)), np.full((3, 5), -1)):
        labels, ltrb, centerness = fcos_targets(
            points, levels, STRIDES, objects.astype(np.float32), PointMatching()
        )
        assert (labels == -1).all()
        assert not ltrb.any()
        assert not centerness.any()


# --- losses -------------------------------------------------------------------------------------


def slow_focal(logits, target, alpha, gamma):
    """Lin et al. 2017, equation 5, literally; logarithms by logaddexp."""
    log_p, log_not = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
    p = np.exp(log_p)
    positive = -alpha * (1 - p) ** gamma * log_p
    negative = -(1 - alpha) * p**gamma * log_not
    return np.where(target == 1, positive, negative)


FOCAL = [(0.25, 2.0), (0.5, 0.0), (0.75, 0.5), (0.25, 1.5)]


@pytest.mark.parametrize(("alpha", "gamma"), FOCAL)
def test_focal_loss_and_its_gradient(alpha, gamma):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (4, 6))
    target = rng.integers(0, 2, (4, 6)).astype(float)
    loss = focal_loss(mx.sym.Variable("logits"), mx.sym.Variable("target"), alpha, gamma)
    (found,), gradients = backward(mx.sym.MakeLoss(loss), logits=logits, target=target)
    np.testing.assert_allclose(
        found, slow_focal(logits, target, alpha, gamma), rtol=1e-4, atol=1e-6
    )
    expected = numeric_gradient(lambda x: slow_focal(x, target, alpha, gamma).sum(), logits)
    np.testing.assert_allclose(gradients["logits"], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), FOCAL)
def test_focal_loss_is_finite_at_logits_of_100(alpha, gamma):
    logits, target = np.array([100.0, 100, -100, -100]), np.array([1.0, 0, 1, 0])
    loss = focal_loss(mx.sym.Variable("logits"), mx.sym.Variable("target"), alpha, gamma)
    (found,), gradients = backward(mx.sym.MakeLoss(loss), logits=logits, target=target)
    np.testing.assert_allclose(found, [0, 100 * (1 - alpha), 100 * alpha, 0], atol=1e-5)
    np.testing.assert_allclose(gradients["logits"], [0, 1 - alpha, -alpha, 0], atol=1e-5)


def slow_giou(boxes, others):
    """GIoU of boxes (n, 4) xyxy, pair by pair."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    area, other = (np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (boxes, others))
    low, high = np.minimum(boxes[:, :2], others[:, :2]), np.maximum(boxes[:, 2:], others[:, 2:])
    hull, union = np.prod(high - low, axis=1), area + other - shared
    return shared / union - (hull - union) / hull


def test_giou_loss_and_its_gradient():
    rng = np.random.default_rng(1)
    ltrb, target = rng.uniform(0.2, 5, (2, 2, 7, 4))
    point = rng.uniform(-9, 9, (14, 2))

    def boxes(distances):
        distances = distances.reshape(-1, 4)
        return np.concatenate([point - distances[:, :2], point + distances[:, 2:]], axis=1)

    def slow(distances):
        return 1 - slow_giou(boxes(distances), boxes(target))

    loss = mx.sym.MakeLoss(giou_loss(mx.sym.Variable("ltrb"), mx.sym.Variable("target")))
    (found,), gradients = backward(loss, ltrb=ltrb, target=target)
    np.testing.assert_allclose(found.ravel(), slow(ltrb), rtol=1e-4, atol=1e-5)
    expected = numeric_gradient(lambda x: slow(x).sum(), ltrb)
    np.testing.assert_allclose(gradients["ltrb"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1e-6, 100.0])
@pytest.mark.parametrize("target", [0.0, 3.0])
def test_giou_loss_of_empty_and_of_huge_boxes(value, target):
    loss = mx.sym.MakeLoss(giou_loss(mx.sym.Variable("ltrb"), mx.sym.Variable("target")))
    values = {"ltrb": np.full((1, 1, 4), value), "target": np.full((1, 1, 4), target)}
    (found,), gradients = backward(loss, **values)
    assert 0 <= found[0, 0] <= 2
    assert np.isfinite(gradients["ltrb"]).all()


def head_of_variables(config):
    """A head whose maps are inputs, and their names."""
    names = {"cls_logits": "cls", "ltrb": "ltrb", "centerness": "ctr"}
    levels = range(len(config.points.strides))
    maps = {
        field: [mx.sym.Variable(f"{name}{level}") for level in levels]
        for field, name in names.items()
    }
    return FCOSHead(**maps)


def head_values(config, images, make, padded=PADDED):
    """Values of those inputs: make(name, shape)."""
    channels = config.num_classes - (not config.form.background_channel)
    values = {}
    for level, stride in enumerate(config.points.strides):
        size = tuple(math.ceil(side / stride) for side in padded)
        for name, count in (("cls", channels), ("ltrb", 4), ("ctr", 1)):
            values[f"{name}{level}"] = make(name, (images, count, *size))
    return values


def labels_of(config, objects, padded=PADDED):
    """Labels of several images, batched, by name."""
    detector, rng = get_detector("fcos_r50_fpn"), np.random.default_rng(0)
    targets = [
        detector.assign_targets(config, ImageTargetsInput(boxes, padded, padded), rng)
        for boxes in objects
    ]
    return {name: np.stack([t[name] for t in targets]) for name in fcos.LABELS}


def flat(values, name, levels):
    """(B, N, columns) of the maps of all levels."""
    maps = [values[f"{name}{level}"] for level in range(levels)]
    return np.concatenate(
        [x.transpose(0, 2, 3, 1).reshape(len(x), -1, x.shape[1]) for x in maps], 1
    )


def losses_symbol(config):
    labels = [mx.sym.Variable(name) for name in fcos.LABELS]
    return mx.sym.Group(fcos.fcos_losses(config, head_of_variables(config), labels))


CONFIGS = [
    FCOSConfig(num_classes=4),
    FCOSConfig(num_classes=4, p6p7=False, box_loss="l1", form=OWN_FORM),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_losses_are_sums_divided_by_the_foreground_of_all_images(config):
    rng = np.random.default_rng(3)
    values = head_values(
        config, 2, lambda name, shape: np.abs(rng.normal(1, 1, shape) + (name == "ltrb"))
    )
    labels = labels_of(config, [random_objects(rng, 5), random_objects(rng, 2)])
    outputs, _ = backward(losses_symbol(config), **values, **labels)
    levels = len(config.points.strides)
    label = labels["fcos_label"].astype(int)
    fg = label >= 0
    first = int(config.form.background_channel)
    target = np.zeros((*label.shape, 3 + first))
    for image, point in np.argwhere(fg):
        target[image, point, label[image, point] + first] = 1
    cls = slow_focal(flat(values, "cls", levels), target, 0.25, 2).sum()
    ltrb, expected = flat(values, "ltrb", levels)[fg], labels["fcos_ltrb"][fg]
    if config.box_loss == "l1":
        box = np.abs(ltrb - expected).sum()
    else:
        box = (1 - slow_giou(*(x * [-1, -1, 1, 1] for x in (ltrb, expected)))).sum()
    ctr, wanted = flat(values, "ctr", levels)[fg][:, 0], labels["fcos_centerness"][fg]
    ctr = (np.logaddexp(0, ctr) - ctr * wanted).sum()
    assert fg.sum() > 4
    expected = [cls / fg.sum(), box / fg.sum(), ctr / fg.sum(), fg.sum()]
    np.testing.assert_allclose(np.ravel(outputs), expected, rtol=1e-4)


def test_the_box_loss_s_weight():
    """0.25 turns the sum of four differences into their mean, in the loss and in its gradient."""
    rng = np.random.default_rng(3)
    config = FCOSConfig(num_classes=4, box_loss="l1", p6p7=False, box_loss_weight=0.25)
    values = head_values(config, 1, lambda name, shape: np.abs(rng.normal(1, 1, shape)))
    labels = labels_of(config, [random_objects(rng, 5)])
    outputs, gradients = backward(losses_symbol(config), **values, **labels)
    fg = labels["fcos_label"] >= 0
    difference = flat(values, "ltrb", 3)[fg] - labels["fcos_ltrb"][fg]
    assert outputs[1][0] == pytest.approx(np.abs(difference).mean(axis=1).mean(), rel=1e-4)
    found = flat(gradients, "ltrb", 3)[fg]
    np.testing.assert_allclose(found, 0.25 * np.sign(difference) / fg.sum(), rtol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("empty", [False, True])
def test_losses_and_gradients_are_finite_at_logits_of_100(config, empty):
    rng = np.random.default_rng(4)
    values = head_values(
        config,
        1,
        lambda name, shape: rng.choice([0.0, 100.0] if name == "ltrb" else [-100.0, 100.0], shape),
    )
    objects = random_objects(rng, 0 if empty else 6)
    labels = labels_of(config, [objects])
    outputs, gradients = backward(losses_symbol(config), **values, **labels)
    assert np.isfinite(outputs).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    if empty:
        assert [out.item() for out in outputs[1:]] == [0, 0, 0]
        of_objects = [g for name, g in gradients.items() if name.startswith(("ltrb", "ctr"))]
        assert not any(g.any() for g in of_objects)
    assert outputs[0] > 0


def test_gradients_of_the_losses_numerically():
    """Through sums, divisor and levels: the symbol's own loss in small steps, in float32."""
    config = FCOSConfig(num_classes=3, p6p7=False, form=OWN_FORM)
    rng = np.random.default_rng(5)
    values = head_values(config, 1, lambda name, shape: rng.uniform(0.5, 2, shape), (32, 64))
    labels = labels_of(config, [np.float32([[4, 6, 40, 30, 1], [30, 2, 60, 20, 2]])], (32, 64))
    outputs, gradients = backward(losses_symbol(config), **values, **labels)
    assert outputs[3] > 3
    for name in ("cls0", "ltrb0", "ctr0", "ltrb1"):
        places = np.argwhere(np.abs(gradients[name]) > 1e-3)[::7]
        for place in map(tuple, places):
            ends = []
            for step in (1e-2, -1e-2):
                moved = {**values, name: values[name].copy()}
                moved[name][place] += step
                ends.append(np.sum(backward(losses_symbol(config), **moved, **labels)[0][:3]))
            slope = (ends[0] - ends[1]) / 2e-2
            assert gradients[name][place] == pytest.approx(slope, rel=0.05, abs=2e-3)


# --- detections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("padded", [PADDED, PADDED[::-1], (32, 64)])
def test_perfect_answers_to_the_targets_are_the_objects(config, padded):
    """Targets, points and decoding agree, whatever the image's shape; two images at once."""
    height, width = padded
    boxes = np.float32([[2, 3, 30, 25, 1], [width / 2, 4, width - 3, height - 4, 2]])
    objects = [boxes, boxes[:1]]
    labels = labels_of(config, objects, padded)
    answers = head_values(config, 2, lambda name, shape: np.zeros(shape), padded)
    first, start = int(config.form.background_channel), 0
    for level in range(len(config.points.strides)):
        size = answers[f"ctr{level}"].shape[2:]
        part = slice(start, start + np.prod(size))
        start = part.stop
        label = labels["fcos_label"][:, part].reshape(2, *size).astype(int)
        cls = answers[f"cls{level}"]
        cls[:] = -20
        cls[:, 0] = 20 if config.form.background_channel else -20  # never detected
        for image, y, x in np.argwhere(label >= 0):
            cls[image, label[image, y, x] + first, y, x] = 20
        ltrb = labels["fcos_ltrb"][:, part].reshape(2, *size, 4)
        answers[f"ltrb{level}"] = ltrb.transpose(0, 3, 1, 2)
        centerness = labels["fcos_centerness"][:, part].reshape(2, 1, *size)
        centerness = np.clip(centerness, 1e-6, 1 - 1e-6)
        answers[f"ctr{level}"] = np.log(centerness / (1 - centerness))
    head, data, im_info = head_of_variables(config), *map(mx.sym.Variable, ("data", "im_info"))
    rows = [fcos.level_rows(config, head, level, data, im_info) for level in range(len(head.ltrb))]
    symbol = mx.sym.Group(fcos.suppressed(mx.sym.concat(*rows, dim=1), 0.2, 0.6, -1, 10))
    inputs = {"data": np.zeros((2, 3, *padded)), "im_info": np.float32([[*padded, 1]] * 2)}
    values = {name: mx.nd.array(value) for name, value in {**answers, **inputs}.items()}
    used = {name: values[name] for name in symbol.list_arguments()}
    found, scores, classes = (x.asnumpy() for x in symbol.bind(mx.cpu(), used).forward())
    for image, real in enumerate(objects):
        count = int((classes[image] > 0).sum())
        order = np.argsort(classes[image, :count])
        assert classes[image, order].tolist() == real[:, 4].tolist()
        np.testing.assert_allclose(found[image, order], real[:, :4], atol=1e-3)
        assert (scores[image, :count] > 0.2).all()
        assert (classes[image, count:] == -1).all()


def test_a_score_is_the_root_of_class_times_centerness():
    config = FCOSConfig(
        num_classes=2, p6p7=False, pre_nms_top_n=3, form=FCOSForm(background_channel=False)
    )
    values = head_values(config, 1, lambda name, shape: np.zeros(shape), (32, 32))
    values["cls2"][:], values["ctr2"][:], values["ltrb2"][:] = 1.0, -2.0, 100.0
    head = head_of_variables(config)
    row = fcos.level_rows(config, head, 2, mx.sym.Variable("data"), mx.sym.Variable("im_info"))
    values.update(data=np.zeros((1, 3, 32, 32)), im_info=[[20, 28, 1]])
    used = {name: mx.nd.array(values[name]) for name in row.list_arguments()}
    found = row.bind(mx.cpu(), used).forward()[0].asnumpy()[0]
    score = math.sqrt(1 / (1 + math.exp(-1)) / (1 + math.exp(2)))
    np.testing.assert_allclose(found[0], [1, score, 0, 0, 28, 20], rtol=1e-5)
    assert (found[1:, 1] == -1).all()  # the level has one point


# --- the head's forms ---------------------------------------------------------------------------


def parameters(symbol, **inputs):
    shapes, _, aux = symbol.infer_shape(**inputs)
    named = dict(zip(symbol.list_arguments(), shapes))
    named.update(zip(symbol.list_auxiliary_states(), aux))
    return {name: shape for name, shape in named.items() if name not in inputs}


def test_forms_of_the_head():
    inputs = {"data": (1, 3, 64, 64), "im_info": (1, 3)}
    second = parameters(fcos.test_symbol(FCOSConfig(num_classes=4)), **inputs)
    assert second["head.regression_head.bbox_ctrness_weight"] == (1, 256, 3, 3)
    assert second["head.classification_head.cls_logits_bias"] == (4,)
    config = FCOSConfig(
        num_classes=4,
        head_norm="none",
        head_layers=2,
        form=FCOSForm(centerness_on="classification", background_channel=False),
    )
    first = parameters(fcos.test_symbol(config), **inputs)
    assert first["head.classification_head.bbox_ctrness_weight"] == (1, 256, 3, 3)
    assert first["head.classification_head.cls_logits_bias"] == (3,)
    assert "head.regression_head.bbox_ctrness_weight" not in first
    assert not [name for name in first if "head" in name and name.endswith("_gamma")]
    convolutions = {name.split(".")[3] for name in first if "classification_head.conv." in name}
    assert convolutions == {"0_weight", "0_bias", "3_weight", "3_bias"}


def test_first_values():
    config = FCOSConfig(prior=0.02)
    rng = np.random.default_rng(0)

    def first(name, shape):
        return fcos.init(config, name, shape, rng, True)

    bias = first("head.classification_head.cls_logits_bias", (90,))
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), 0.02, rtol=1e-5)
    assert not first("head.regression_head.bbox_reg_bias", (4,)).any()
    weight = first("head.regression_head.conv.0_weight", (256, 256, 3, 3))
    assert weight.std() == pytest.approx(0.01, rel=0.01)
    weight = first("backbone.fpn.layer_blocks.0.0_weight", (256, 256, 3, 3))
    assert weight.std() == pytest.approx(math.sqrt(1 / (256 * 9)), rel=0.01)
    assert (first("head.regression_head.conv.1_gamma", (256,)) == 1).all()


# --- RegNet -------------------------------------------------------------------------------------


def regnet_rule(widths):
    """Names and shapes of a RegNetX's parameters as in torchvision, without classifier."""
    shapes = {"stem.0.weight": (32, 3, 3, 3)}
    norms, channels = {"stem.1": 32}, 32
    for stage, (depth, width) in enumerate(zip((1, 2, 7, 12), widths), 1):
        for number in range(depth):
            block = f"trunk_output.block{stage}.block{stage}-{number}"
            if number == 0:
                shapes[f"{block}.proj.0.weight"] = (width, channels, 1, 1)
                norms[f"{block}.proj.1"] = width
            shapes[f"{block}.f.a.0.weight"] = (width, channels, 1, 1)
            shapes[f"{block}.f.b.0.weight"] = (width, 16, 3, 3)
            shapes[f"{block}.f.c.0.weight"] = (width, width, 1, 1)
            norms.update({f"{block}.f.{letter}.1": width for letter in "abc"})
            channels = width
    for name, count in norms.items():
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{leaf}"] = (count,)
    return {f"backbone.body.{name}": shape for name, shape in shapes.items()}


@pytest.mark.parametrize("stages", [regnet.X_400MF, regnet.X_400MF_TORCHVISION])
def test_regnet_has_torchvision_s_names(stages):
    symbol = mx.sym.Group(list(regnet.regnet(mx.sym.Variable("data"), "batch", stages).values()))
    shapes = regnet_rule(stages.widths)
    ours = from_torchvision({name: np.zeros(shape) for name, shape in shapes.items()})
    found = parameters(symbol, data=(1, 3, 64, 96))
    assert found == {name: value.shape for name, value in ours.items()}
    _, outputs, _ = symbol.infer_shape(data=(2, 3, 64, 96))
    widths = stages.widths
    assert outputs == [(2, w, 16 >> i, 24 >> i) for i, w in enumerate(widths)]


@pytest.mark.parametrize("norm", ["frozen", "folded"])
def test_regnet_computes_what_torchvision_does(shared_golden, norm):
    """tests/data/regnet_x_400mf.npz: torchvision 0.29's maps, every 16th channel, of recipe.py's
    weights and N(0, 1) of seed 0."""
    from tests.test_fcos_parity import load_recipe

    shapes = regnet_rule(regnet.X_400MF_TORCHVISION.widths)
    recipe = load_recipe(shared_golden)
    state = {name: recipe.recipe_param(name, shape) for name, shape in shapes.items()}
    arrays = {name: mx.nd.array(v) for name, v in from_torchvision(state).items()}
    pixels = np.random.RandomState(0).standard_normal((1, 3, 64, 96))
    arrays["data"] = mx.nd.array(pixels)
    maps = regnet.regnet(mx.sym.Variable("data"), norm, regnet.X_400MF_TORCHVISION)
    symbol = mx.sym.Group(list(maps.values()))
    args = {name: arrays[name] for name in symbol.list_arguments()}
    auxs = {name: arrays[name] for name in symbol.list_auxiliary_states()}
    found = symbol.bind(mx.cpu(), args, grad_req="null", aux_states=auxs).forward(is_train=False)
    with np.load(Path(__file__).parent / "data" / "regnet_x_400mf.npz") as golden:
        for name, ours in zip(("c2", "c3", "c4", "c5"), found):
            theirs = golden[name]
            assert np.abs(ours.asnumpy()[0, ::16] - theirs).max() <= 1e-4 * theirs.std()


def test_frozen_stages_of_regnet():
    body, frozen = "backbone.body.", get_body("regnetx_400mf").is_frozen
    names = [f"{body}stem.0_weight", f"{body}trunk_output.block1.block1-0.f.a.0_weight"]
    names += [f"{body}trunk_output.block{stage}.block{stage}-0.f.b.0_weight" for stage in (2, 3, 4)]
    for layers in range(6):
        still = [frozen(name, layers, "batch") for name in names]
        assert still == [True] * (5 - layers) + [False] * layers
    assert frozen(f"{body}stem.1_gamma", 5, "frozen")
    assert not frozen(f"{body}stem.1_gamma", 5, "batch")
    assert not frozen("head.regression_head.conv.1_gamma", 0, "frozen")


def slow_group_conv(data, weight, groups, stride):
    """A 3x3 convolution of images (B, C, H, W), padded by 1; each group sees its channels alone."""
    data = np.pad(data, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = ((side - 3) // stride + 1 for side in data.shape[2:])
    out = np.zeros((len(data), len(weight), height, width))
    size, filters = data.shape[1] // groups, len(weight) // groups
    for f, y, x in np.ndindex(len(weight), height, width):
        group = f // filters
        part = data[:, group * size : (group + 1) * size]
        part = part[:, :, y * stride : y * stride + 3, x * stride : x * stride + 3]
        out[:, f, y, x] = (part * weight[f]).sum(axis=(1, 2, 3))
    return out


@pytest.mark.parametrize(("channels", "groups", "stride"), [(4, 2, 1), (6, 3, 2), (32, 2, 2)])
def test_gradients_of_group_convolutions_numerically(channels, groups, stride):
    rng = np.random.default_rng(6)
    data = rng.normal(size=(2, channels, 5, 4))
    weight = rng.normal(size=(channels, channels // groups, 3, 3))
    share = rng.normal(size=slow_group_conv(data, weight, groups, stride).shape)
    symbol = conv(mx.sym.Variable("data"), "c", channels, 3, stride, groups, bias=False)
    symbol = mx.sym.MakeLoss(symbol * mx.sym.Variable("share"))
    (found,), gradients = backward(symbol, data=data, c_weight=weight, share=share)
    expected = slow_group_conv(data, weight, groups, stride) * share
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def slope(change, array):
        """The exact slope of the linear loss in one place."""
        direction = np.zeros_like(array)
        direction[change] = 1
        inputs = (direction, weight) if array is data else (data, direction)
        return (slow_group_conv(*inputs, groups, stride) * share).sum()

    for name, array in (("data", data), ("c_weight", weight)):
        places = [tuple(rng.integers(0, array.shape)) for _ in range(12)]
        for place in places:
            assert gradients[name][place] == pytest.approx(slope(place, array), rel=1e-3, abs=1e-3)


# --- in the toolkit -----------------------------------------------------------------------------


def test_detecting_without_proposals(tmp_path):
    settings = {"model.num_classes": 2, "data.short_side": 64, "model.score_thresh": 0.0}
    config = make_config("fcos_regnetx_400mf")
    detector = get_detector(config.network)
    config = override(config, {**detector.quick, **settings})
    symbol = detector.test_symbol(config.model)
    rng = np.random.default_rng(0)
    shapes = parameters(symbol, data=(1, 3, 64, 64), im_info=(1, 3))
    params = {
        name: mx.nd.array(detector.init(config.model, name, shape, rng, True))
        for name, shape in shapes.items()
    }
    path = tmp_path / "a.png"
    noise((70, 90)).save(path)
    dataset = make_dataset([make_record(size=(70, 90), path=path)])
    rows = list(Detector(symbol, params, {}, config).detect(dataset, progress=False))
    assert len(rows) == 1
    _, found, proposals = rows[0]
    assert len(found) > 0
    assert proposals is None
