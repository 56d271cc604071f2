"""matterport's Mask R-CNN: its layout, the conversion of its layers, and the parts it needs.

No real file was available: names and shapes are those of its published code.
"""

from __future__ import annotations

import numpy as np
import pytest

from mxrcnn.config import make_config, override
from mxrcnn.weights.convert import ConvertRequest, convert
from mxrcnn.weights.formats import WeightsError
from mxrcnn.weights.matterport import _converted, _layers, detector, layout
from mxrcnn.weights.sources import network_shapes
from symnet import get_detector
from symnet.bodies import get_body, resnet
from symnet.geometry.anchors import PyramidAnchors
from symnet.machine import mx
from symnet.ops.rois import roi_align_levels, roi_levels
from symnet.parts.norms import NORM_EPS


def evaluated(symbol, **inputs):
    arrays = {name: mx.nd.array(value) for name, value in inputs.items()}
    return symbol.eval(ctx=mx.cpu(), **arrays)[0].asnumpy()


def bound(symbol, arrays):
    arrays = {name: mx.nd.array(value) for name, value in arrays.items()}
    args = {name: arrays[name] for name in symbol.list_arguments()}
    auxs = {name: arrays[name] for name in symbol.list_auxiliary_states()}
    executor = symbol.bind(mx.cpu(), args, aux_states=auxs, grad_req="null")
    return [out.asnumpy() for out in executor.forward()]


# The file


@pytest.mark.parametrize(("depth", "entries"), [(50, 384), (101, 690)])
def test_all_names_and_shapes_have_their_place(depth, entries):
    shapes = layout(depth, 81)
    assert len(shapes) == entries
    source = detector({n: np.broadcast_to(np.float32(0.5), s) for n, s in shapes.items()})
    used = {name for names in source.origin.values() for name in names.split(" ")}
    assert used == shapes.keys()
    assert source.num_classes == 81
    [(network, settings)] = source.networks.items()
    assert network == f"mask_rcnn_r{depth}_fpn"
    config = override(make_config(network), {**settings, "model.num_classes": 81})
    found = {name: value.shape for name, value in source.params.items()}
    assert found == network_shapes(config)
    assert (config.data.square, config.data.std) == (True, (1, 1, 1))


def test_a_file_of_other_shapes_is_refused_with_what_is_wrong(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, shape in layout(50, 4).items():
            small = shape if len(shape) < 4 else (1, 1, 1, 1)
            file.create_dataset(f"{name}:0", data=np.zeros(small, np.float32))
    with pytest.raises(WeightsError, match=r"matterport.*ResNet-50 does not fit") as caught:
        convert(ConvertRequest(str(path), "", class_names="a,b,c"))
    assert "in the file but not in the network: bn2a_branch1/" in str(caught.value)
    found = convert(ConvertRequest(str(path), "", class_names="a,b,c", partial=True))
    assert {n.rpartition("_")[0] for n in found.params} == {
        f"roi_heads.box_predictor.{name}" for name in ("cls_score", "bbox_pred")
    }
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"a\.h5: not a readable \.h5"):
        convert(ConvertRequest(str(path), ""))


# What becomes of layers: their outputs stay, in the order that is used here


def layer_and_arrays(name: str, kernel: tuple[int, ...], outputs: int):
    layer = next(layer for layer in _layers(50) if layer.theirs == name)
    rng = np.random.default_rng(0)
    shapes = [kernel] + [(outputs,)] * (len(layer.entries()) - 1)
    arrays = {n: rng.normal(size=s) for n, s in zip(layer.entries(), shapes)}
    for entry in arrays:
        if entry.endswith("moving_variance"):
            arrays[entry] = 1e-3 * np.abs(arrays[entry])  # so that epsilon matters
    return layer, arrays


def keras(layer, arrays, data: np.ndarray) -> np.ndarray:
    """A kernel as large as its input (h, w, in), bias and normalisation: (out,)."""
    kernel, bias, *norm = (arrays[name] for name in layer.entries())
    out = np.tensordot(data, kernel, axes=kernel.ndim - 1) + bias
    if norm:
        gamma, beta, mean, var = norm
        out = gamma * (out - mean) / np.sqrt(var + 1e-3) + beta
    return out


def ours(layer, arrays, data: np.ndarray) -> np.ndarray:
    """The same for the converted layer; data (in, h, w)."""
    made = _converted(layer, arrays)
    weight = made[f"{layer.ours}_weight"]
    out = weight.reshape(len(weight), -1) @ data.ravel()
    if not layer.norm_here:
        return out + made[f"{layer.ours}_bias"]
    gamma, beta, mean, var = (
        made[f"{layer.norm_here}_{leaf}"] for leaf in ("gamma", "beta", "moving_mean", "moving_var")
    )
    return gamma * (out - mean) / np.sqrt(var + NORM_EPS) + beta


@pytest.mark.parametrize(
    ("name", "kernel", "order"),
    [
        ("res2a_branch2b", (3, 3, 4, 6), None),
        ("fpn_p3", (3, 3, 4, 6), None),
        ("mrcnn_class_conv1", (7, 7, 4, 6), None),
        ("mrcnn_mask_conv2", (3, 3, 4, 6), None),
        ("mrcnn_class_logits", (4, 6), None),
        ("rpn_bbox_pred", (1, 1, 4, 8), [1, 0, 3, 2, 5, 4, 7, 6]),
        ("mrcnn_bbox_fc", (4, 8), [1, 0, 3, 2, 5, 4, 7, 6]),
    ],
)
def test_layers_compute_the_same(name, kernel, order):
    layer, arrays = layer_and_arrays(name, kernel, kernel[-1])
    data = np.random.default_rng(1).normal(size=kernel[:-1])
    expected = keras(layer, arrays, data)
    found = ours(layer, arrays, data.transpose(2, 0, 1) if data.ndim == 3 else data)
    np.testing.assert_allclose(found, expected[order or slice(None)], rtol=1e-4, atol=1e-4)


def test_objectness_is_the_same_probability():
    layer, arrays = layer_and_arrays("rpn_class_raw", (1, 1, 4, 6), 6)
    data = np.random.default_rng(1).normal(size=(1, 1, 4))
    pairs = np.exp(keras(layer, arrays, data).reshape(3, 2))
    found = 1 / (1 + np.exp(-ours(layer, arrays, data.transpose(2, 0, 1))))
    np.testing.assert_allclose(found, pairs[:, 1] / pairs.sum(axis=1), rtol=1e-5)


def test_the_deconvolution_computes_the_same():
    layer, arrays = layer_and_arrays("mrcnn_mask_deconv", (2, 2, 5, 3), 5)  # (h, w, out, in)
    made = _converted(layer, arrays)
    data = np.random.default_rng(1).normal(size=(1, 3, 1, 1)).astype(np.float32)
    symbol = mx.sym.Deconvolution(
        *map(mx.sym.Variable, "dwb"), num_filter=5, kernel=(2, 2), stride=(2, 2), no_bias=False
    )
    weight, bias = (made[f"{layer.ours}_{leaf}"] for leaf in ("weight", "bias"))
    found = evaluated(symbol, d=data, w=weight, b=bias)
    kernel, bias = (arrays[name] for name in layer.entries())
    expected = np.einsum("hwoi,i->ohw", kernel, data[0, :, 0, 0]) + bias[:, None, None]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


# The parts that its network has


def crop_and_resize(feature: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """TensorFlow's, of a map (C, H, W) and a box xyxy in 0..1 of the image's pixels: (C, n, n)."""
    height, width = feature.shape[1:]
    out = np.zeros((len(feature), size, size))
    for row in range(size):
        for column in range(size):
            y = (box[1] + row * (box[3] - box[1]) / (size - 1)) * (height - 1)
            x = (box[0] + column * (box[2] - box[0]) / (size - 1)) * (width - 1)
            top, left = int(np.floor(y)), int(np.floor(x))
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dx = y - top, x - left
            upper = feature[:, top, left] * (1 - dx) + feature[:, top, right] * dx
            lower = feature[:, bottom, left] * (1 - dx) + feature[:, bottom, right] * dx
            out[:, row, column] = upper * (1 - dy) + lower * dy
    return out


def test_rois_are_cropped_as_by_tensorflow():
    rng = np.random.default_rng(0)
    height, width = 64, 96
    pyramid = [rng.normal(size=(2, 3, height // s, width // s)) for s in (4, 8, 16, 32)]
    first = rng.uniform(0, 0.3, size=(40, 2)) * [width - 1, height - 1]
    sides = rng.uniform(6, 36, size=(40, 1)) * rng.uniform(0.85, 1.15, size=(40, 2))
    boxes = np.concatenate([first, first + sides], axis=1)  # no side is less than a cell
    boxes[0] = [0, 0, width - 1, height - 1]
    index = np.arange(40) % 2
    symbols = [mx.sym.Variable(f"p{i}") for i in range(4)]
    symbol = roi_align_levels(symbols, mx.sym.Variable("rois"), 7, "pool", 0, 40, 4.5)
    inputs = {f"p{i}": level for i, level in enumerate(pyramid)}
    rois = np.column_stack([index, boxes])
    found = evaluated(symbol, rois=rois, **inputs)
    levels = evaluated(roi_levels(mx.sym.Variable("rois"), 4, 40, 4.5), rois=rois).astype(int)
    side = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    np.testing.assert_array_equal(levels, np.clip(np.round(4 + np.log2(side / 40)), 2, 5) - 2)
    assert len(set(levels)) > 2
    scaled = boxes / [width - 1, height - 1, width - 1, height - 1]
    for row, level in enumerate(levels):
        expected = crop_and_resize(pyramid[level][index[row]], scaled[row], 7)
        np.testing.assert_allclose(found[row], expected, atol=1e-4)


def test_anchors_end_at_their_last_pixel():
    """utils.generate_anchors of one scale, ratios width / height, less the 1 of norm_boxes."""
    base = PyramidAnchors((32, 64), (2.0, 1.0, 0.5), last_pixel=True).base(1)
    root = np.sqrt([0.5, 1, 2])
    widths, heights = 64 * root, 64 / root
    expected = np.stack([-widths / 2, -heights / 2, widths / 2 - 1, heights / 2 - 1], axis=1)
    np.testing.assert_allclose(base, expected, rtol=1e-6)


def test_strides_are_in_the_first_convolution_and_the_stem_pads_at_the_end():
    body = get_body("resnet50_keras").maps(mx.sym.Variable("data"), "frozen")[32]
    attributes = body.attr_dict()
    for block in ("layer2", "layer3", "layer4"):
        strides = [attributes[f"{resnet.PREFIX}{block}.0.conv{i}"]["stride"] for i in (1, 2, 3)]
        assert strides == ["(2, 2)", "(1, 1)", "(1, 1)"]
    pool = body.get_internals()[f"{resnet.PREFIX}maxpool_output"]
    data = np.random.default_rng(0).normal(size=(1, 3, 16, 24))
    shapes, _, auxs = pool.infer_shape(data=data.shape)
    rng = np.random.default_rng(1)
    made = {n: rng.normal(size=s) for n, s in zip(pool.list_arguments(), shapes)}
    made.update({n: np.ones(s) for n, s in zip(pool.list_auxiliary_states(), auxs)})
    made["data"] = data
    before = body.get_internals()[f"{resnet.PREFIX}relu_output"]
    (found,), (inputs,) = bound(pool, made), bound(before, made)
    padded = np.pad(inputs[0], ((0, 0), (0, 1), (0, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(found[0], windows.max(axis=(3, 4)))


def test_a_roi_becomes_an_object_of_its_best_class_only():
    shared = {"model.num_classes": 6, "model.score_thresh": 0.0, "model.nms_thresh": 1.0}
    shared["model.rpn_post_nms_top_n_test"] = 20
    detector = get_detector("faster_rcnn_r50_fpn")
    counts = []
    for best_class in (False, True):
        settings = {**detector.quick, **shared, "model.form.box_best_class": best_class}
        config = override(make_config(detector.name), settings)
        config = override(config, {"model.detections_per_img": 2000})
        symbol = detector.test_symbol(config.model)
        rng = np.random.default_rng(0)
        arrays = {n: rng.normal(0, 0.03, s) for n, s in network_shapes(config).items()}
        arrays.update({n: np.ones_like(v) for n, v in arrays.items() if n.endswith("_var")})
        arrays.update(data=rng.normal(size=(1, 3, 64, 64)), im_info=[[64, 64, 1]])
        executor = bound(symbol, arrays)
        found = dict(zip(symbol.list_outputs(), executor))
        rois = (found["proposals_output"][0, :, 2] > 0).sum()
        counts.append((found["det_classes_output"] > 0).sum() / rois)
    assert counts[0] == 5
    assert counts[1] <= 1
