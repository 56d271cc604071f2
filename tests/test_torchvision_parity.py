"""The pyramid detectors compared with torchvision's results (../shared/golden): whole graphs.

All have the weights of recipe.py, which depend on torchvision's parameter names alone.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from mxrcnn.config import Config, make_config, override
from mxrcnn.data.batches import make_training_batch
from mxrcnn.data.plans import BatchPlan
from mxrcnn.data.records import ImageRecord
from mxrcnn.data.transforms import padded_size, prepare_image, stack_images
from mxrcnn.inference.detector import Detector
from mxrcnn.weights.torchvision import from_torchvision, torchvision_name
from symnet import get_detector
from symnet.bodies import get_body
from symnet.faster_rcnn_fpn import box_features, pyramid
from symnet.geometry.masks import encode, paste
from symnet.machine import mx
from symnet.two_stage import Stages, box_head

#: the network of each golden file
NETWORKS = {
    "faster_r50_fpn": "faster_rcnn_r50_fpn",
    "mask_r50_fpn": "mask_rcnn_r50_fpn",
    "faster_mobilenet_v3_large_fpn": "faster_rcnn_mobilenet_v3_large_fpn",
}


@dataclass
class Golden:
    """torchvision's results and this toolkit's config and parameters for the same model."""

    values: np.lib.npyio.NpzFile
    config: Config
    state: dict[str, np.ndarray]

    def params(self) -> dict[str, mx.nd.NDArray]:
        return {name: mx.nd.array(v) for name, v in from_torchvision(self.state).items()}

    def images(self) -> list[np.ndarray]:
        return [self.values["image0"], self.values["image1"]]

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        samples = [prepare_image(image, self.config.data) for image in self.images()]
        data = stack_images(samples, padded_size([s.size for s in samples], 32))
        return data, np.stack([sample.im_info for sample in samples])


@pytest.fixture(params=sorted(NETWORKS))
def golden(request, shared_golden) -> Golden:
    spec = importlib.util.spec_from_file_location("recipe", shared_golden / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    settings = {"model.num_classes": 21, "data.short_side": 256, "data.long_side": 384}
    config = override(make_config(NETWORKS[request.param]), settings)
    symbol = get_detector(config.network).test_symbol(config.model)
    inputs = {"data": (1, 3, 64, 64), "im_info": (1, 3)}
    args, _, auxs = symbol.infer_shape(**inputs)
    shapes = {
        **dict(zip(symbol.list_arguments(), args)),
        **dict(zip(symbol.list_auxiliary_states(), auxs)),
    }
    names = {torchvision_name(name): name for name in shapes if name not in inputs}
    adjust = recipe.ADJUST_MOBILENET if "mobilenet" in request.param else recipe.ADJUST
    state = {
        theirs: recipe.recipe_param(theirs, shapes[ours], adjust) for theirs, ours in names.items()
    }
    values = np.load(shared_golden / f"torchvision_{request.param}.npz")
    return Golden(values, config, state)


def forward(
    golden: Golden, names: list[str], symbol: mx.sym.Symbol | None = None, **more: np.ndarray
) -> dict[str, np.ndarray]:
    """Internal outputs of the test graph, or another symbol, by the names of their nodes."""
    if symbol is None:
        symbol = get_detector(golden.config.network).test_symbol(golden.config.model)
    internals = symbol.get_internals()
    group = mx.sym.Group([internals[f"{name}_output"] for name in names])
    data, im_info = golden.batch()
    inputs = {"data": data, "im_info": im_info, **more}
    arrays = {**golden.params(), **{name: mx.nd.array(value) for name, value in inputs.items()}}
    args = {name: arrays[name] for name in group.list_arguments()}
    auxs = {name: arrays[name] for name in group.list_auxiliary_states()}
    executor = group.bind(mx.cpu(), args, aux_states=auxs, grad_req="null")
    return dict(zip(names, (out.asnumpy() for out in executor.forward(is_train=False))))


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Within 1e-4 of the spread of torchvision's values."""
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4 * theirs.std()


LEVELS = {
    **{f"features.{i}": f"backbone.fpn.layer_blocks.{i}.0" for i in range(4)},
    "features.pool": "backbone.fpn.pool",
    **{f"rpn.0.{i}": f"rpn.head.cls_logits.{i}" for i in range(5)},
    **{f"rpn.1.{i}": f"rpn.head.bbox_pred.{i}" for i in range(5)},
}
BOX = {
    "box_predictor.0": "roi_heads.box_predictor.cls_score",
    "box_predictor.1": "roi_heads.box_predictor.bbox_pred",
}


def test_the_graph_stage_by_stage(golden):
    masks = "mask_logits" in golden.values.files
    names = [name for key, name in LEVELS.items() if key in golden.values.files]
    assert len(names) == (9 if "mobilenet" in golden.config.network else 15)
    names.append("proposals")
    mask_logits = "roi_heads.mask_predictor.mask_fcn_logits"
    found = forward(golden, names + [mask_logits] * masks)
    for key, name in LEVELS.items():
        if name not in found:
            continue
        channels = slice(None, None, 16 if key.startswith("features") else 1)
        assert_close(found[name][:, channels], golden.values[key])

    for image in range(2):
        difference = np.abs(found["proposals"][image] - golden.values[f"proposals.{image}"])
        # two neighbours, equal in score to the last bit but one, may change places
        assert (difference.max(axis=1) > 0.01).sum() <= 2
    if masks:
        assert_close(found[mask_logits][::20], golden.values["mask_logits"])


def test_the_box_head_on_the_same_rois(golden):
    """On torchvision's proposals: ours differ by up to 0.001 pixels, which the head amplifies."""
    rois = [np.insert(golden.values[f"proposals.{image}"], 0, image, axis=1) for image in range(2)]
    model = golden.config.model
    maps = pyramid(model, mx.sym.Variable("data"), train=False)
    stages = Stages(pyramid, box_features)
    head = mx.sym.Group(box_head(stages, model, maps, mx.sym.Variable("rois"), train=False))
    found = forward(golden, ["box_pool", *BOX.values()], head, rois=np.concatenate(rois))
    assert_close(found["box_pool"][:1000:125], golden.values["box_pool"])
    for key, name in BOX.items():
        assert_close(found[name], golden.values[key])


def test_detections_in_the_pixels_of_the_image(golden):
    symbol = get_detector(golden.config.network).test_symbol(golden.config.model)
    detector = Detector(symbol, golden.params(), {}, golden.config)
    outputs = detector.forward(*golden.batch())  # one batch, as torchvision had it
    for number, image in enumerate(golden.images()):
        found = detector.detections(outputs, number, *image.shape[:2])
        boxes, scores = golden.values[f"det_boxes{number}"], golden.values[f"det_scores{number}"]
        overlap = pairwise_iou(found.boxes, boxes)
        overlap *= found.classes[:, None] == golden.values[f"det_labels{number}"]
        match = overlap.argmax(axis=0)
        assert len(set(match.tolist())) == len(boxes) == len(found)
        assert overlap.max(axis=0).min() > 0.99
        np.testing.assert_allclose(found.scores[match], scores, atol=1e-3)


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area, other_area = (np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (boxes, others))
    return shared / (area[:, None] + other_area[None] - shared)


def test_masks_in_the_image(golden):
    if "det_masks0" not in golden.values.files:
        pytest.skip("Faster R-CNN has no masks")
    found = forward(golden, ["det_masks"])["det_masks"]
    for number, image in enumerate(golden.images()):
        boxes, theirs = golden.values[f"det_boxes{number}"], golden.values[f"det_masks{number}"]
        pasted = paste(found[number], boxes, *image.shape[:2])
        for ours, expected in zip(pasted, theirs[:, 0]):
            assert np.abs(np.round(255 * ours) - expected).max() <= 1


#: torchvision sampled everything; there is room for all of it here
EVERYTHING = {
    "model.rpn_batch_size_per_image": 10**6,
    "model.box_batch_size_per_image": 2010,
    "model.box_positive_fraction": 0.1,
    "train.batch_size": 2,
}


def training_batch(golden: Golden, config: Config, folder):
    """The two images as a data set's records, through the loader's own path."""
    records = []
    for number, image in enumerate(golden.images()):
        path = folder / f"{number}.png"
        Image.fromarray(image).save(path)
        boxes = golden.values[f"gt_boxes{number}"]
        packed = golden.values[f"gt_masks{number}"]
        masks = np.unpackbits(packed, axis=-1, count=image.shape[1]).astype(bool)
        flags = np.zeros(len(boxes), bool)
        records.append(
            ImageRecord(
                number,
                path,
                *image.shape[:2],
                boxes,
                golden.values[f"gt_labels{number}"],
                flags,
                flags,
                flags,
                np.ones(len(boxes), np.float32),
                tuple(encode(mask) for mask in masks),
            )
        )
    size = golden.batch()[0].shape[2:]
    return make_training_batch(
        config, 4, BatchPlan(0, 0, tuple(records), (False, False), ((0,), (1,)), size)
    )


@pytest.mark.slow
def test_losses_and_gradients(golden, tmp_path):
    stages = len(get_body(golden.config.model.body).stages)
    config = override(golden.config, {**EVERYTHING, "model.trainable_layers": stages})
    detector = get_detector(config.network)
    symbol = detector.train_symbol(config.model, 2)
    batch = training_batch(golden, config, tmp_path)
    arrays = golden.params()
    for name, value in {**batch.data, **batch.labels}.items():
        arrays[name] = mx.nd.array(value, dtype=value.dtype)
    args = {name: arrays[name] for name in symbol.list_arguments()}
    wanted = {
        name: mx.nd.zeros(args[name].shape)
        for name in args
        if f"gradnorm_{torchvision_name(name) if '.' in name else name}" in golden.values.files
    }
    gradient_names = {n for n in golden.values.files if n.startswith("gradnorm_")}
    assert len(wanted) == len(gradient_names)
    executor = symbol.bind(
        mx.cpu(),
        args,
        args_grad=wanted,
        grad_req={name: "write" if name in wanted else "null" for name in args},
        aux_states={name: arrays[name] for name in symbol.list_auxiliary_states()},
    )
    outputs = executor.forward(is_train=True)
    found = dict(zip(symbol.list_outputs(), (out.asnumpy() for out in outputs)))
    assert found["roi_accuracy_output"][1] < 2 * 2010  # all proposals and objects were sampled
    for key in golden.values.files:
        if key.startswith("loss_"):
            ours = found[f"{key[len('loss_') :]}_output"][0]
            assert ours == pytest.approx(float(golden.values[key]), rel=1e-3), key
    executor.backward()
    for name, gradient in wanted.items():
        expected = float(golden.values[f"gradnorm_{torchvision_name(name)}"])
        norm = np.linalg.norm(gradient.asnumpy().astype(np.float64))
        assert norm == pytest.approx(expected, rel=0.01), name
