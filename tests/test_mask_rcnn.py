"""Mask targets and losses, and whole slim graphs of the pyramid detectors, trained and tested."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import symnet.ops.mask_target  # noqa: F401 - registers the operator
from symnet import get_detector
from symnet.config.two_stage import MaskPyramidForm
from symnet.detector import ImageTargetsInput
from symnet.geometry.masks import mini_masks, pack, roi_masks
from symnet.geometry.targets import pad_objects
from symnet.machine import mx
from symnet.parts.heads import mask_loss, of_class
from tests.conftest import REPO
from tests.reference import slow_crop
from tests.test_losses import backward, numeric_gradient

# --- mask targets -------------------------------------------------------------------------------

SIZE = 6
FULL = (32, 48)


def random_masks(rng, boxes, height, width):
    """Masks (G, height, width): ellipses in boxes, with a hole."""
    y, x = np.mgrid[:height, :width]
    masks = []
    for x1, y1, x2, y2 in boxes:
        away = ((x + 0.5 - (x1 + x2) / 2) / (x2 - x1)) ** 2
        away = away + ((y + 0.5 - (y1 + y2) / 2) / (y2 - y1)) ** 2
        masks.append((away < 0.25) & (away > 0.02))
    return np.array(masks)


def mask_case(mini, rois=16, seed=0):
    """Inputs of mask_target for two images, and (mask, frame) of each object."""
    rng = np.random.default_rng(seed)
    gt_boxes = np.full((2, 4, 5), -1, np.float32)
    side = (mini, mini) if mini else FULL
    stored = np.zeros((2, 4, *side), bool)
    frames = np.zeros((2, 4, 4))
    for image, count in enumerate((3, 2)):
        corners = rng.uniform(0, 15, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(8, 16, (count, 2))], axis=1)
        gt_boxes[image, :count] = np.insert(boxes, 4, rng.integers(1, 5, count), axis=1)
        full = random_masks(rng, boxes, *FULL)
        stored[image, :count] = mini_masks(full, boxes, mini) if mini else full
        frames[image, :count] = boxes if mini else [0, 0, FULL[1], FULL[0]]
    index = np.repeat([0, 1], rois)
    matched = np.concatenate([rng.integers(0, 3, rois), rng.integers(0, 2, rois)])
    label = gt_boxes[index, matched, 4] * (np.arange(2 * rois) % 3 == 0)
    label[1::6] = -1
    matched[label <= 0] = 0
    moved = gt_boxes[index, matched, :4] + rng.normal(0, 2, (2 * rois, 4))
    values = {
        "rois": np.insert(moved, 0, index, axis=1).astype(np.float32),
        "label": label.astype(np.float32),
        "matched": matched.astype(np.float32),
        "gt_boxes": gt_boxes,
        "gt_masks": pack(stored),
    }
    return values, stored, frames


def mask_targets(values, **options):
    arrays = [mx.nd.array(value, dtype=value.dtype) for value in values.values()]
    outputs = mx.nd.Custom(*arrays, op_type="mask_target", size=SIZE, **options)
    return [output.asnumpy() for output in outputs]


@pytest.mark.parametrize("mini", [0, 16])
@pytest.mark.parametrize("room", [8, 3])
def test_mask_targets_are_what_the_rois_see(mini, room):
    """Room for more RoIs than each image's foreground (6 and 5 RoIs), and for fewer."""
    values, stored, frames = mask_case(mini)
    rois, labels, target = mask_targets(values, num_masks=2 * room, mini_mask=mini)
    assert rois.shape == (2 * room, 5)
    assert labels.shape == (2 * room,)
    assert target.shape == (2 * room, SIZE, SIZE)
    for image in range(2):
        rows = np.flatnonzero((values["rois"][:, 0] == image) & (values["label"] > 0))
        assert 3 < len(rows) < 8
        rows = rows[:room]
        part = slice(image * room, image * room + len(rows))
        np.testing.assert_array_equal(rois[part], values["rois"][rows])
        np.testing.assert_array_equal(labels[part], values["label"][rows])
        matched = values["matched"][rows].astype(int)
        assert len(set(matched)) > 1
        whole = roi_masks(stored[image], frames[image], rois[part, 1:], matched, SIZE)
        np.testing.assert_array_equal(target[part], whole)
        for found, roi, g in zip(target[part], rois[part, 1:], matched):
            expected = slow_crop(stored[image, g], frames[image, g], roi, SIZE)
            np.testing.assert_allclose(found, expected, atol=2e-3)
            assert 0 < expected.mean() < 1
        left_over = slice(part.stop, (image + 1) * room)
        assert (rois[left_over] == -1).all()
        assert not labels[left_over].any()
        assert not target[left_over].any()


def test_a_mask_target_by_hand():
    """A RoI over the left half of an object of the right half of the image, and its own box."""
    mask = np.zeros((1, 1, 32, 48), bool)
    mask[..., 8:24, 24:40] = True
    values = {
        "rois": np.float32([[0, 16, 8, 32, 24], [0, 24.5, 8.5, 38.5, 22.5]]),
        "label": np.float32([2, 2]),
        "matched": np.float32([0, 0]),
        "gt_boxes": np.float32([[[24, 8, 40, 24, 2]]]),
        "gt_masks": pack(mask),
    }
    _, _, (half, whole) = mask_targets(values, num_masks=2)
    assert whole.min() == 1
    assert not half[:, :2].any()
    assert half[:5, 4:].min() == pytest.approx(1, abs=1e-6)


def test_no_foreground_no_masks():
    values, _, _ = mask_case(0)
    values["label"] = np.minimum(values["label"], 0)
    rois, label, target = mask_targets(values, num_masks=8)
    assert (rois == -1).all()
    assert not label.any()
    assert not target.any()


# --- the mask loss ------------------------------------------------------------------------------


def mask_loss_case():
    rng = np.random.default_rng(0)
    names = ("logits", "label", "target")
    symbol = mask_loss(*(mx.sym.Variable(name) for name in names))
    values = {
        "logits": rng.normal(0, 3, (5, 4, 3, 3)),
        "label": np.float64([2, 0, 3, 1, 0]),
        "target": rng.uniform(0, 1, (5, 3, 3)),
    }
    return symbol, values


def slow_mask_loss(values):
    rows = np.flatnonzero(values["label"] > 0)
    own = values["logits"][rows, values["label"][rows].astype(int)]
    target = values["target"][rows]
    loss = target * np.logaddexp(0, -own) + (1 - target) * np.logaddexp(0, own)
    return loss.mean()


def test_the_mask_loss_is_of_each_roi_s_own_class():
    symbol, values = mask_loss_case()
    assert symbol.list_outputs() == ["loss_mask_output"]
    (loss,), found = backward(symbol, **values)
    assert loss.shape == (1,)
    assert loss[0] == pytest.approx(slow_mask_loss(values), rel=1e-5)
    expected = numeric_gradient(lambda x: slow_mask_loss({**values, "logits": x}), values["logits"])
    np.testing.assert_allclose(found["logits"], expected, atol=1e-6)
    touched = {(r, k) for r, k in zip(*np.nonzero(found["logits"].any(axis=(2, 3))))}
    assert touched == {(0, 2), (2, 3), (3, 1)}


def test_without_foreground_the_mask_loss_is_exactly_0():
    symbol, values = mask_loss_case()
    values["label"][:] = 0
    (loss,), found = backward(symbol, **values)
    assert loss[0] == 0
    assert not found["logits"].any()


def test_the_channel_of_each_class():
    masks = np.arange(3 * 4 * 2 * 5, dtype=np.float32).reshape(3, 4, 2, 5)
    symbol = of_class(mx.sym.Variable("masks"), mx.sym.Variable("classes"))
    args = {"masks": mx.nd.array(masks), "classes": mx.nd.array([3, 0, 2])}
    (found,) = symbol.bind(mx.cpu(), args, grad_req="null").forward()
    np.testing.assert_array_equal(found.asnumpy(), masks[[0, 1, 2], [3, 0, 2]])


# --- whole graphs -------------------------------------------------------------------------------

SLIM = {
    "body": "resnet18",
    "num_classes": 4,
    "fpn_channels": 16,
    "trainable_layers": 5,
    "anchor_sizes": (12, 24, 48, 64, 96),
    "rpn_pre_nms_top_n_train": 60,
    "rpn_post_nms_top_n_train": 40,
    "rpn_pre_nms_top_n_test": 40,
    "rpn_post_nms_top_n_test": 30,
    "rpn_batch_size_per_image": 32,
    "box_head_dim": 24,
    "box_batch_size_per_image": 16,
    "score_thresh": 0.0,
    "detections_per_img": 12,
}
SLIM_MASKS = {"mask_channels": 16, "mask_layers": 1}
DETECTORS = ("faster_rcnn_r50_fpn", "mask_rcnn_r50_fpn")
LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
CAPACITY = 3


def slim(name, **settings):
    """(detector, config), quick to run."""
    detector = get_detector(name)
    masks = SLIM_MASKS if name.startswith("mask") else {}
    return detector, detector.config(**{**SLIM, **masks, **settings})


def first_params(detector, config, shapes, seed=0):
    """Initial values, with statistics that differ from an untrained network's."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in shapes.items():
        value = detector.init(config, name, shape, rng, True)
        if name.endswith("_moving_var"):
            value = rng.uniform(0.5, 2, shape)
        if "box_predictor" in name or name.startswith("rpn.head.bbox"):
            value = value + rng.normal(0, 0.2, shape)
        params[name] = mx.nd.array(value)
    return params


def random_image(rng, size, objects):
    """(gt_boxes (objects, 5), packed full masks) of an image of that size."""
    sides = rng.uniform(14, 40, (objects, 2))
    corners = rng.uniform(0, 1, (objects, 2)) * (np.array(size[::-1]) - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1)
    masks = np.zeros((CAPACITY, *size), bool)
    if objects:
        masks[:objects] = random_masks(rng, boxes, *size)
    classes = rng.integers(1, 4, objects)
    return np.insert(boxes, 4, classes, axis=1).astype(np.float32), pack(masks)


def training_inputs(detector, config, size, objects, seed=0):
    """The data and labels of images of noise; objects: how many each image has."""
    rng = np.random.default_rng(seed)
    images = [random_image(rng, size, count) for count in objects]
    targets = [
        detector.assign_targets(config, ImageTargetsInput(boxes, size, size), rng)
        for boxes, _ in images
    ]
    count = len(objects)
    data = {
        "data": rng.normal(0, 1, (count, 3, *size)).astype(np.float32),
        "im_info": np.tile(np.float32([*size, 1]), (count, 1)),
        "gt_boxes": pad_objects([boxes for boxes, _ in images], CAPACITY),
        "gt_masks": np.stack([masks for _, masks in images]),
        "active_classes": np.ones((count, config.num_classes), np.float32),
    }
    data = {name: data[name] for name in detector.data_names}
    return data, {name: np.stack([t[name] for t in targets]) for name in detector.label_names}


class Training:
    """A slim training graph in a Module."""

    def __init__(self, name, size, images, **settings):
        self.detector, self.config = slim(name, **settings)
        self.size = size
        symbol = self.detector.train_symbol(self.config, images)
        data, labels = training_inputs(self.detector, self.config, size, [1] * images)
        shapes = {n: value.shape for n, value in {**data, **labels}.items()}
        args, _, auxs = symbol.infer_shape(**shapes)
        args = {n: s for n, s in zip(symbol.list_arguments(), args) if n not in shapes}
        auxs = dict(zip(symbol.list_auxiliary_states(), auxs))
        fixed = [n for n in args if self.detector.frozen(self.config, n)]
        self.free = [n for n in args if n not in fixed]
        self.module = mx.mod.Module(
            symbol,
            data_names=list(data),
            label_names=list(labels),
            fixed_param_names=fixed,
        )
        self.module.bind(self._descriptions(data), self._descriptions(labels))
        params = first_params(self.detector, self.config, {**args, **auxs})
        self.module.set_params({n: params[n] for n in args}, {n: params[n] for n in auxs})
        self.names = [n[: -len("_output")] for n in symbol.list_outputs()]

    @staticmethod
    def _descriptions(arrays):
        return [mx.io.DataDesc(n, value.shape, value.dtype) for n, value in arrays.items()]

    def __call__(self, objects, seed=0, **changes):
        """(outputs by name, gradients by name) of images with that many objects."""
        inputs = training_inputs(self.detector, self.config, self.size, objects, seed)
        inputs[0].update(changes)
        data, labels = (
            [mx.nd.array(value, dtype=value.dtype) for value in part.values()] for part in inputs
        )
        self.module.forward_backward(mx.io.DataBatch(data, labels))
        outputs = [out.asnumpy() for out in self.module.get_outputs()]
        group = self.module._exec_group
        gradients = {
            n: grad[0].asnumpy()
            for n, grad in zip(group.param_names, group.grad_arrays)
            if grad[0] is not None
        }
        return dict(zip(self.names, outputs)), gradients


SHAPES = [((64, 96), 1), ((96, 64), 2)]


@pytest.fixture(scope="module")
def trainings():
    """Each combination of detector, size and number of images, bound once."""
    made = {}

    def training(name, size, images):
        key = name, size, images
        if key not in made:
            made[key] = Training(*key)
        return made[key]

    return training


@pytest.mark.parametrize(("size", "images"), SHAPES)
@pytest.mark.parametrize("name", DETECTORS)
def test_a_training_pass(trainings, name, size, images):
    training = trainings(name, size, images)
    masks = name.startswith("mask")
    outputs, gradients = training([CAPACITY] * images)
    losses = (*LOSSES, *["loss_mask"] * masks)
    assert {*losses, "rpn_accuracy", "roi_accuracy", *["mask_count"] * masks} == set(outputs)
    for key in losses:
        assert outputs[key].shape == (1,)
        assert 0 < outputs[key][0] < np.inf, key
    assert outputs["rpn_accuracy"][1] == 32 * images
    assert 0 < outputs["roi_accuracy"][1] <= 16 * images
    if masks:
        assert 0 < outputs["mask_count"][0] <= training.config.num_masks(images)
    assert set(gradients) == set(training.free)
    for key, gradient in gradients.items():
        assert np.isfinite(gradient).all(), key
        assert gradient.any(), key


@pytest.mark.parametrize(("size", "images"), SHAPES)
@pytest.mark.parametrize("name", DETECTORS)
def test_a_training_pass_without_objects(trainings, name, size, images):
    """After a batch with objects, so that memory holds other numbers."""
    training = trainings(name, size, images)
    training([CAPACITY] * images)
    outputs, gradients = training([0] * images)
    for key in ("loss_rpn_box_reg", "loss_box_reg", *["loss_mask"] * name.startswith("mask")):
        assert outputs[key][0] == 0, key
    for key in ("loss_objectness", "loss_classifier"):
        assert 0 < outputs[key][0] < np.inf, key
    assert outputs.get("mask_count", [0])[0] == 0
    for key, gradient in gradients.items():
        assert np.isfinite(gradient).all(), key
        if "bbox_pred" in key or "mask_" in key:
            assert not gradient.any(), key


def test_one_image_without_objects_beside_one_with_some(trainings):
    outputs, gradients = trainings("mask_rcnn_r50_fpn", (96, 64), 2)([0, 2])
    assert all(0 < outputs[key][0] < np.inf for key in (*LOSSES, "loss_mask"))
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_classes_that_are_not_active_are_not_learnt(trainings):
    training = trainings("mask_rcnn_r50_fpn", (96, 64), 2)
    every, _ = training([2, 2])
    none = np.zeros((2, training.config.num_classes), np.float32)
    outputs, gradients = training([2, 2], active_classes=none)
    assert outputs["loss_classifier"][0] == 0
    assert not gradients["roi_heads.box_predictor.cls_score_weight"].any()
    for key in ("loss_box_reg", "loss_mask", "loss_objectness"):
        assert outputs[key][0] == every[key][0]


def test_frozen_stages_have_no_gradients():
    training = Training("faster_rcnn_r50_fpn", (64, 96), 1, trainable_layers=2)
    _, gradients = training([CAPACITY])
    body = {key.split(".")[2] for key in gradients if key.startswith("backbone.body.")}
    assert body == {"layer3", "layer4"}
    assert not any(key.endswith(("_gamma", "_beta")) for key in gradients)


# --- test graphs --------------------------------------------------------------------------------

ALONE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("names", sys.argv.pop(1))
names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(names)
names.restore_names()
import mxnet as mx
folder = sys.argv[1]
symbol = mx.sym.load(folder + "/test-symbol.json")
params = mx.nd.load(folder + "/test.params")
for case in sys.argv[2:]:
    arrays = {**params, **mx.nd.load(folder + "/inputs-" + case)}
    args = {name: arrays[name] for name in symbol.list_arguments()}
    auxs = {name: arrays[name] for name in symbol.list_auxiliary_states()}
    executor = symbol.bind(mx.cpu(), args, grad_req="null", aux_states=auxs)
    mx.nd.save(folder + "/found-" + case, executor.forward(is_train=False))
print([name for name in sys.modules if name.split(".")[0] in ("symnet", "mxrcnn", "tests")])
"""

CASES = {"landscape": (1, (64, 96)), "portrait": (2, (96, 64)), "larger": (3, (128, 160))}


class Inference:
    """A slim test graph with parameters, run at any shape."""

    def __init__(self, name):
        self.detector, self.config = slim(name)
        self.symbol = self.detector.test_symbol(self.config)
        inputs = {"data": (1, 3, 64, 96), "im_info": (1, 3)}
        args, _, auxs = self.symbol.infer_shape(**inputs)
        names = [*self.symbol.list_arguments(), *self.symbol.list_auxiliary_states()]
        shapes = {n: s for n, s in zip(names, [*args, *auxs]) if n not in inputs}
        self.params = first_params(self.detector, self.config, shapes, seed=5)

    def inputs(self, images, size):
        rng = np.random.default_rng(images)
        data = rng.normal(0, 1, (images, 3, *size)).astype(np.float32)
        info = np.tile(np.float32([*size, 1]), (images, 1))
        info[-1, :2] -= 5  # the last image is padded
        return {"data": mx.nd.array(data), "im_info": mx.nd.array(info)}

    def __call__(self, inputs):
        arrays = {**self.params, **inputs}
        args = {n: arrays[n] for n in self.symbol.list_arguments()}
        auxs = {n: arrays[n] for n in self.symbol.list_auxiliary_states()}
        executor = self.symbol.bind(mx.cpu(), args, grad_req="null", aux_states=auxs)
        names = [n[: -len("_output")] for n in self.symbol.list_outputs()]
        outputs = executor.forward(is_train=False)
        return dict(zip(names, (out.asnumpy() for out in outputs)))


@pytest.fixture(scope="module", params=DETECTORS)
def testing(request):
    return Inference(request.param)


@pytest.mark.parametrize("case", CASES)
def test_detections_of_any_shape_and_number_of_images(testing, case):
    """With one symbol; the images of a batch do not affect each other."""
    images, size = CASES[case]
    inputs = testing.inputs(images, size)
    found = testing(inputs)
    top = testing.config.detections_per_img
    boxes, scores, classes = (found[f"det_{n}"] for n in ("boxes", "scores", "classes"))
    assert boxes.shape == (images, top, 4)
    assert found["proposals"].shape == (images, testing.config.rpn_post_nms_top_n_test, 4)
    masks = [name for name in found if name == "det_masks"]
    assert bool(masks) == testing.detector.name.startswith("mask")
    assert all(np.isfinite(value).all() for value in found.values())
    real = classes > 0
    assert real.any(axis=1).all()
    assert (classes[~real] == -1).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    for image, limits in enumerate(inputs["im_info"].asnumpy()[:, [1, 0]]):
        assert boxes[image][real[image]].min() >= 0
        assert (boxes[image][real[image]][:, 2:] <= limits).all()
    if masks:
        assert found["det_masks"].shape == (images, top, 28, 28)
        assert 0 <= found["det_masks"].min() < found["det_masks"].max() <= 1
    for image in range(images):
        alone = testing({n: value[image : image + 1] for n, value in inputs.items()})
        for name in ("det_boxes", "det_scores", "det_classes", *masks):
            rows = real[image]
            np.testing.assert_allclose(
                alone[name][0][rows], found[name][image][rows], atol=1e-3, err_msg=name
            )


def test_a_saved_test_graph_gives_the_same_without_this_project(testing, tmp_path):
    """Bit for bit, at three shapes, in a process with only MXNet."""
    testing.symbol.save(str(tmp_path / "test-symbol.json"))
    mx.nd.save(str(tmp_path / "test.params"), testing.params)
    for case, shape in CASES.items():
        mx.nd.save(str(tmp_path / f"inputs-{case}"), testing.inputs(*shape))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ALONE,
            str(REPO / "symnet" / "machine" / "names.py"),
            str(tmp_path),
            *CASES,
        ],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
    for case, shape in CASES.items():
        expected = testing(testing.inputs(*shape))
        found = mx.nd.load(str(tmp_path / f"found-{case}"))
        for (name, value), other in zip(expected.items(), found):
            np.testing.assert_array_equal(other.asnumpy(), value, err_msg=name)


def test_images_in_which_nothing_is_found():
    """No proposal is good enough: all rows are empty, and masks are finite."""
    testing = Inference("mask_rcnn_r50_fpn")
    settings = {**SLIM, **SLIM_MASKS, "rpn_score_thresh": 1.0}
    settings["form"] = MaskPyramidForm(box_min_size=0.0)
    testing.config = testing.detector.config(**settings)
    testing.symbol = testing.detector.test_symbol(testing.config)
    found = testing(testing.inputs(2, (64, 96)))
    assert (found["det_classes"] == -1).all()
    assert np.isfinite(found["det_masks"]).all()
