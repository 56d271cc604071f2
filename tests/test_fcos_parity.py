"""fcos_r50_fpn compared with torchvision's results (../shared/golden): the whole graph.

The helpers, tolerances and weights are those of test_torchvision_parity.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mxrcnn.config import make_config, override
from mxrcnn.inference.detector import Detector
from symnet import get_detector
from symnet.machine import mx
from tests.test_torchvision_parity import (
    Golden,
    assert_close,
    forward,
    torchvision_name,
    training_batch,
)

#: torchvision's head puts all levels in one row: the nodes of ours, level by level
HEAD = {
    "head.cls_logits": "head.classification_head.cls_logits",
    "head.bbox_regression": "ltrb",
    "head.bbox_ctrness": "head.regression_head.bbox_ctrness",
}
FEATURES = {
    **{f"features.{i}": f"backbone.fpn.layer_blocks.{i}.0" for i in range(3)},
    **{f"features.{name}": f"backbone.fpn.extra_blocks.{name}" for name in ("p6", "p7")},
}


def load_recipe(folder: Path) -> ModuleType:
    """The recipe for the weights, next to the golden files."""
    spec = importlib.util.spec_from_file_location("recipe", folder / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe


@pytest.fixture(scope="module")
def golden(shared_golden) -> Golden:
    recipe = load_recipe(shared_golden)
    settings = {"model.num_classes": 21, "data.short_side": 256, "data.long_side": 384}
    config = override(make_config("fcos_r50_fpn"), settings)
    symbol = get_detector(config.network).test_symbol(config.model)
    inputs = {"data": (1, 3, 64, 64), "im_info": (1, 3)}
    args, _, auxs = symbol.infer_shape(**inputs)
    shapes = dict(zip(symbol.list_arguments(), args))
    shapes.update(zip(symbol.list_auxiliary_states(), auxs))
    names = {torchvision_name(name): name for name in shapes if name not in inputs}
    state = {theirs: recipe.recipe_param(theirs, shapes[ours]) for theirs, ours in names.items()}
    return Golden(np.load(shared_golden / "torchvision_fcos_r50_fpn.npz"), config, state)


def in_one_row(levels: list[np.ndarray]) -> np.ndarray:
    """Maps (B, columns, H, W) as (B, N, columns)."""
    return np.concatenate(
        [x.transpose(0, 2, 3, 1).reshape(len(x), -1, x.shape[1]) for x in levels], 1
    )


def test_the_pyramid_and_the_head(golden):
    nodes = [f"{name}.{level}" for name in HEAD.values() for level in range(5)]
    found = forward(golden, [*FEATURES.values(), *nodes])
    for key, name in FEATURES.items():
        assert_close(found[name][:, ::16], golden.values[key])
    for key, name in HEAD.items():
        assert_close(in_one_row([found[f"{name}.{i}"] for i in range(5)]), golden.values[key])


def test_detections_in_the_pixels_of_the_image(golden):
    """torchvision also detects its background channel, which is left out here. So its detections of
    real classes are our best ones."""
    symbol = get_detector(golden.config.network).test_symbol(golden.config.model)
    detector = Detector(symbol, golden.params(), {}, golden.config)
    outputs = detector.forward(*golden.batch())
    for number, image in enumerate(golden.images()):
        labels = golden.values[f"det_labels{number}"]
        real = labels > 0
        boxes = golden.values[f"det_boxes{number}"][real]
        scores = golden.values[f"det_scores{number}"][real]
        found = detector.detections(outputs, number, *image.shape[:2])
        assert len(found) == golden.config.model.detections_per_img
        assert 50 < len(scores) < len(found)
        assert (found.scores[len(scores) :] < scores.min() + 1e-3).all()
        found = found[np.arange(len(found)) < len(scores)]
        away = np.abs(found.boxes[:, None] - boxes).max(axis=2)  # some boxes have no area
        away[found.classes[:, None] != labels[real]] = np.inf
        match = away.argmin(axis=0)
        assert len(set(match.tolist())) == len(boxes)
        assert away.min(axis=0).max() < 0.01
        np.testing.assert_allclose(found.scores[match], scores, atol=1e-3)


@pytest.mark.slow
def test_losses_and_gradients(golden, tmp_path):
    settings = {"model.trainable_layers": 5, "train.batch_size": 2}
    config = override(golden.config, settings)
    symbol = get_detector(config.network).train_symbol(config.model, 2)
    batch = training_batch(golden, config, tmp_path)
    arrays = {**golden.params(), "data": mx.nd.array(batch.data["data"])}
    arrays.update({name: mx.nd.array(value) for name, value in batch.labels.items()})
    args = {name: arrays[name] for name in symbol.list_arguments()}
    expected = {
        n[len("gradnorm_") :]: float(golden.values[n])
        for n in golden.values.files
        if n.startswith("gradnorm_")
    }
    parameters = [name for name in args if "." in name]
    wanted = {
        name: mx.nd.zeros(args[name].shape)
        for name in parameters
        if torchvision_name(name) in expected
    }
    assert len(wanted) == len(expected) > 100
    executor = symbol.bind(
        mx.cpu(),
        args,
        args_grad=wanted,
        grad_req={name: "write" if name in wanted else "null" for name in args},
    )
    outputs = executor.forward(is_train=True)
    found = dict(zip(symbol.list_outputs(), (out.asnumpy()[0] for out in outputs)))
    for key in golden.values.files:
        if key.startswith("loss_"):
            assert found[f"{key}_output"] == pytest.approx(float(golden.values[key]), rel=1e-3), key
    executor.backward()
    for name, gradient in wanted.items():
        norm = np.linalg.norm(gradient.asnumpy().astype(np.float64))
        assert norm == pytest.approx(expected[torchvision_name(name)], rel=0.01), name
