"""The classic detector with other bodies (ResNet v2 C4, ZF) and other RoI operators."""

import json

import numpy as np
import pytest

from mxrcnn.config import ConfigError, make_config, override
from symnet import get_detector
from symnet.bodies.resnet_v2 import _norm, resnet_v2
from symnet.bodies.vgg import vgg16_bn
from symnet.bodies.zf import _local_norm, zf
from symnet.machine import mx
from symnet.ops.rois import pool_rois
from tests.test_symnet_graph import Small, check_update, inferred, nodes

UNITS = {"faster_rcnn_r50v2_c4": (3, 4, 6, 3), "faster_rcnn_r101v2_c4": (3, 4, 23, 3)}
INPUTS = {"data": (1, 3, 608, 1008), "im_info": (1, 3), "gt_boxes": (1, 5, 5)}
LABELS = {
    "label": (1, 9 * 38 * 63),
    "bbox_target": (1, 36, 38, 63),
    "bbox_weight": (1, 36, 38, 63),
}


def layer(name, *shape):
    """A weight and its bias."""
    return {f"{name}_weight": shape, f"{name}_bias": shape[:1]}


# --- ResNet v2 ----------------------------------------------------------------------------------


def resnet_shapes(units):
    """(parameters, auxiliary states) of the original example's ResNet, by its rules."""
    args, auxs = {}, {}

    def norm(name, channels):
        args.update({f"{name}_gamma": (channels,), f"{name}_beta": (channels,)})
        auxs.update({f"{name}_moving_mean": (channels,), f"{name}_moving_var": (channels,)})

    norm("bn_data", 3)
    args["conv0_weight"] = (64, 3, 7, 7)
    norm("bn0", 64)
    before = 64
    for stage, (count, filters) in enumerate(zip(units, (256, 512, 1024, 2048)), start=1):
        for unit in range(1, count + 1):
            name, inner = f"stage{stage}_unit{unit}", filters // 4
            norm(f"{name}_bn1", before)
            norm(f"{name}_bn2", inner)
            norm(f"{name}_bn3", inner)
            args[f"{name}_conv1_weight"] = (inner, before, 1, 1)
            args[f"{name}_conv2_weight"] = (inner, inner, 3, 3)
            args[f"{name}_conv3_weight"] = (filters, inner, 1, 1)
            if unit == 1:
                args[f"{name}_sc_weight"] = (filters, before, 1, 1)
            before = filters
    norm("bn1", 2048)
    args.update(layer("rpn_conv_3x3", 1024, 1024, 3, 3))
    args.update(layer("rpn_cls_score", 18, 1024, 1, 1))
    args.update(layer("rpn_bbox_pred", 36, 1024, 1, 1))
    args.update(layer("cls_score", 21, 2048))
    args.update(layer("bbox_pred", 84, 2048))
    return args, auxs


@pytest.mark.parametrize("name", UNITS)
def test_resnet_has_the_original_s_parameters(name):
    detector = get_detector(name)
    symbol = detector.train_symbol(detector.config(), 1)
    args, auxs = resnet_shapes(UNITS[name])
    found, _, found_aux = symbol.infer_shape(**INPUTS)
    assert dict(zip(symbol.list_arguments(), found)) == {**args, **INPUTS, **LABELS}
    assert dict(zip(symbol.list_auxiliary_states(), found_aux)) == auxs


def test_resnet_shapes_and_taps():
    detector = get_detector("faster_rcnn_r50v2_c4")
    symbol = detector.train_symbol(detector.config(), 1)
    _, inner = inferred(symbol.get_internals(), **INPUTS)
    assert inner["pool0_output"] == (1, 64, 152, 252)
    assert inner["stage1_unit3_plus_output"] == (1, 256, 152, 252)
    assert inner["stage2_unit4_plus_output"] == (1, 512, 76, 126)
    assert inner["stage3_unit6_plus_output"] == (1, 1024, 38, 63)
    assert inner["roi_pool_output"] == (128, 1024, 14, 14)
    assert inner["stage4_unit1_plus_output"] == (128, 2048, 7, 7)
    assert inner["pool1_output"] == (128, 2048, 1, 1)
    graph = json.loads(symbol.tojson())["nodes"]
    inputs = {node["name"]: [graph[i]["name"] for i, *_ in node["inputs"]] for node in graph}
    for reader in ("rpn_conv_3x3", "roi_pool"):
        assert inputs[reader][0] == "stage3_unit6_plus"
    assert inputs["stage2_unit1_sc"][0] == inputs["stage2_unit1_conv1"][0] == "stage2_unit1_relu1"
    assert inputs["stage2_unit2_plus"] == ["stage2_unit2_conv3", "stage2_unit1_plus"]


def test_resnet_attributes():
    detector = get_detector("faster_rcnn_r50v2_c4")
    found = nodes(detector.train_symbol(detector.config(), 1))
    for name, node in found.items():
        if node["op"] == "BatchNorm":
            assert float(node["attrs"]["eps"]) == 2e-5
            assert node["attrs"]["use_global_stats"] == "True"
            assert node["attrs"]["fix_gamma"] == str(name == "bn_data")
        elif node["op"] == "Convolution":
            first = name.startswith(("stage2_unit1_", "stage3_unit1_", "stage4_unit1_"))
            halves = name == "conv0" or (first and name.endswith(("_conv2", "_sc")))
            assert node["attrs"]["stride"] == ("(2, 2)" if halves else "(1, 1)"), name


@pytest.mark.parametrize("name", UNITS)
def test_what_stays_as_the_pretrained_file_has_it(name):
    """As in the original: parameters with conv0, stage1, gamma or beta in their names."""
    detector = get_detector(name)
    config = make_config(name)
    parameters, _ = resnet_shapes(UNITS[name])
    original = {
        p for p in parameters if any(word in p for word in ("conv0", "stage1", "gamma", "beta"))
    }
    found = {p for p in parameters if detector.frozen(config.model, p)}
    assert found == original
    trained = override(config, {"model.norm": "batch", "model.trainable_layers": 5}).model
    assert [p for p in parameters if detector.frozen(trained, p)] == ["bn_data_gamma"]


@pytest.mark.parametrize("depth", [50, 101])
def test_resnet_equals_the_model_zoo_s(depth):
    """MXNet's ResNet v2 has another epsilon, for which the stored variances compensate."""
    zoo = getattr(mx.gluon.model_zoo.vision, f"resnet{depth}_v2")(pretrained=False)
    zoo.initialize(mx.init.Xavier(magnitude=2))
    rng = np.random.default_rng(depth)
    image = mx.nd.array(rng.normal(0, 1, (2, 3, 64, 96)))
    zoo(image)
    stored = list(zoo.features.collect_params().values())
    for parameter in stored:
        if parameter.name.endswith(("running_mean", "beta")):
            parameter.set_data(mx.nd.array(rng.normal(0, 0.2, parameter.shape)))
        elif parameter.name.endswith(("running_var", "gamma")):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
    stored[0].set_data(mx.nd.ones(3))  # bn_data has no scale
    units = UNITS[f"faster_rcnn_r{depth}v2_c4"]
    data = mx.sym.Variable("data")
    symbol = mx.sym.Pooling(resnet_v2(data, "frozen", units)[32], pool_type="avg", global_pool=True)

    arrays = [p for p in stored if not p.name.endswith(("running_mean", "running_var"))]
    states = [p for p in stored if p.name.endswith(("running_mean", "running_var"))]
    args = {n: p.data() for n, p in zip(symbol.list_arguments()[1:], arrays)}
    auxs = {n: p.data() for n, p in zip(symbol.list_auxiliary_states(), states)}
    assert len(args) == len(arrays) == len(symbol.list_arguments()) - 1
    assert len(auxs) == len(states)
    for name, value in auxs.items():
        auxs[name] = value - 1e-5 if name.endswith("_var") else value
    executor = symbol.bind(mx.cpu(), {"data": image, **args}, aux_states=auxs, grad_req="null")
    found = executor.forward()[0].asnumpy().reshape(2, 2048)
    expected = zoo.features(image).asnumpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.std())


def test_vgg16_bn_equals_the_model_zoo_s():
    """MXNet's has biases before its normalisations, which are zero here as after initialisation."""
    zoo = mx.gluon.model_zoo.vision.vgg16_bn(pretrained=False)
    mx.random.seed(0)
    zoo.initialize(mx.init.Xavier(magnitude=2))
    rng = np.random.default_rng(0)
    image = mx.nd.array(rng.normal(0, 1, (1, 3, 32, 48)))
    zoo(image)
    for parameter in zoo.features.collect_params().values():
        if parameter.name.endswith("running_var"):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
    layers = [layer for layer in zoo.features if "dense" not in layer.name][:-2]  # up to conv5_3
    layers = layers[: next(i for i in reversed(range(len(layers))) if "pool" in layers[i].name)]
    expected = image
    for one in layers:
        expected = one(expected)

    stored = [p for one in layers for p in one.collect_params().values()]
    stored = [p for p in stored if not p.name.endswith("bias")]
    symbol = vgg16_bn(mx.sym.Variable("data"))[16]
    names = symbol.list_arguments()[1:] + symbol.list_auxiliary_states()
    order = sorted(stored, key=lambda p: p.name.endswith(("running_mean", "running_var")))
    values = {name: p.data() for name, p in zip(names, order)}
    assert len(values) == len(stored) == 13 * 5
    states = {name: values.pop(name) for name in symbol.list_auxiliary_states()}
    executor = symbol.bind(mx.cpu(), {"data": image, **values}, aux_states=states, grad_req="null")
    expected = expected.asnumpy()
    assert expected.std() > 0.02
    found = executor.forward()[0].asnumpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.std())


def test_frozen_norm_passes_gradients_as_the_constant_scale_that_it_is():
    rng = np.random.default_rng(0)
    symbol = _norm(mx.sym.Variable("data"), "bn", "frozen")
    gamma, mean = rng.uniform(0.5, 2, 16), rng.normal(0, 1, 16)
    variance = rng.uniform(0.5, 2, 16)
    executor = symbol.simple_bind(
        mx.cpu(), data=(2, 16, 6, 7), grad_req={"data": "write", "bn_gamma": "null"}
    )
    executor.arg_dict["bn_gamma"][:] = gamma
    executor.aux_dict["bn_moving_mean"][:] = mean
    executor.aux_dict["bn_moving_var"][:] = variance
    executor.forward(is_train=True, data=mx.nd.array(rng.normal(0, 3, (2, 16, 6, 7))))
    above = rng.normal(0, 1, (2, 16, 6, 7))
    executor.backward(mx.nd.array(above))
    scale = (gamma / np.sqrt(variance + 2e-5))[:, None, None]
    found = executor.grad_dict["data"].asnumpy()
    np.testing.assert_allclose(found, above * scale, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(executor.aux_dict["bn_moving_mean"].asnumpy(), mean, rtol=1e-6)


@pytest.mark.parametrize("units", [(3, 4, 6), (3, 4, 0, 3)])
def test_units_are_those_of_four_stages(units):
    with pytest.raises(ValueError, match=r"model\.units.*four numbers"):
        override(make_config("faster_rcnn_r50v2_c4"), {"model.units": units})


def test_initial_values_of_a_normalisation_are_the_identity():
    detector = get_detector("faster_rcnn_r50v2_c4")
    rng = np.random.default_rng(0)
    values = {
        leaf: detector.init(detector.config(), f"bn0_{leaf}", (8,), rng, True)
        for leaf in ("gamma", "beta", "moving_mean", "moving_var")
    }
    expected = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_var": 1}
    assert {leaf: set(value.tolist()) for leaf, value in values.items()} == {
        leaf: {value} for leaf, value in expected.items()
    }
    weight = detector.init(
        detector.config(), "stage1_unit1_conv2_weight", (64, 64, 3, 3), rng, True
    )
    assert weight.std() == pytest.approx(np.sqrt(2 / (64 * 9)), rel=0.02)


# --- ZF -----------------------------------------------------------------------------------------


def test_zf_has_the_paper_s_layers():
    detector = get_detector("faster_rcnn_zf")
    symbol = detector.train_symbol(detector.config(), 1)
    arguments, _ = inferred(symbol, **INPUTS)
    assert arguments == {
        **layer("conv1", 96, 3, 7, 7),
        **layer("conv2", 256, 96, 5, 5),
        **layer("conv3", 384, 256, 3, 3),
        **layer("conv4", 384, 384, 3, 3),
        **layer("conv5", 256, 384, 3, 3),
        **layer("rpn_conv_3x3", 256, 256, 3, 3),
        **layer("rpn_cls_score", 18, 256, 1, 1),
        **layer("rpn_bbox_pred", 36, 256, 1, 1),
        **layer("fc6", 4096, 256 * 36),
        **layer("fc7", 4096, 4096),
        **layer("cls_score", 21, 4096),
        **layer("bbox_pred", 84, 4096),
        **INPUTS,
        **LABELS,
    }


@pytest.mark.parametrize("size", [(16, 32), (96, 160), (608, 1008)])
def test_zf_has_a_cell_for_each_16_pixels(size):
    feature = zf(mx.sym.Variable("data"))[16]
    _, outputs = inferred(feature, data=(1, 3, *size))
    assert outputs == {"relu5_output": (1, 256, size[0] // 16, size[1] // 16)}


def test_zf_s_normalisation_is_within_a_channel():
    data = np.random.default_rng(0).normal(0, 200, (2, 3, 5, 6))
    padded = np.pad(data**2, ((0, 0), (0, 0), (1, 1), (1, 1)))
    mean = sum(padded[:, :, i : i + 5, j : j + 6] for i in range(3) for j in range(3)) / 9
    symbol = _local_norm(mx.sym.Variable("data"), "norm")
    found = symbol.bind(mx.cpu(), {"data": mx.nd.array(data)}).forward()[0].asnumpy()
    np.testing.assert_allclose(found, data / (1 + 5e-5 * mean) ** 0.75, rtol=1e-4)
    assert np.abs(found / data).min() < 0.7


# --- the RoI's operators ------------------------------------------------------------------------

ROI_OPS = {"roi_pool": "ROIPooling", "roi_align": "_contrib_ROIAlign", "crop_resize": "Pooling"}
ROIS = np.float32(
    [[0, 3.3, 10, 200, 150], [1, 0, 0, 479, 319], [0, 100, 50, 117, 68], [1, 60.5, 7, 90, 319]]
)


def crop_and_resize(feature, roi, side):
    """TensorFlow's crop_and_resize of one RoI (5,) from (B, F, H, W), edges repeated outside."""
    image, x1, y1, x2, y2 = roi[0].astype(int), *(roi[1:] / 16)
    cells = feature[image]
    _, height, width = cells.shape
    out = np.zeros((len(cells), side, side))
    for i in range(side):
        for j in range(side):
            y = min(y1 + i * (y2 - y1) / (side - 1), height - 1)
            x = min(x1 + j * (x2 - x1) / (side - 1), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dx = y - top, x - left
            upper = cells[:, top, left] * (1 - dx) + cells[:, top, right] * dx
            lower = cells[:, bottom, left] * (1 - dx) + cells[:, bottom, right] * dx
            out[:, i, j] = upper * (1 - dy) + lower * dy
    return out


def pooled(op, feature, size, above=None):
    """(the RoIs' features, gradient of the feature map) by that operator."""
    symbol = pool_rois(mx.sym.Variable("feature"), mx.sym.Variable("rois"), op, 16, size)
    args = {"feature": mx.nd.array(feature), "rois": mx.nd.array(ROIS)}
    grads = {"feature": mx.nd.zeros(feature.shape)}
    executor = symbol.bind(mx.cpu(), args, grads, {"feature": "write", "rois": "null"})
    found = executor.forward(is_train=True)[0]
    executor.backward(mx.nd.ones_like(found))
    return found.asnumpy(), grads["feature"].asnumpy()


@pytest.mark.parametrize("size", [6, 7, 14])
def test_crop_resize_is_tensorflow_s_crop_then_max_pooling(size):
    feature = np.random.default_rng(1).normal(size=(2, 3, 20, 30)).astype(np.float32)
    found, _ = pooled("crop_resize", feature, size)
    crops = np.stack([crop_and_resize(feature, roi, 2 * size) for roi in ROIS])
    expected = crops.reshape(4, 3, size, 2, size, 2).max(axis=(3, 5))
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("op", ROI_OPS)
def test_roi_operators_keep_a_constant_and_share_out_gradients(op):
    feature = np.full((2, 4, 20, 30), 2.5, np.float32)
    found, gradient = pooled(op, feature, 7)
    assert found.shape == (4, 4, 7, 7)
    np.testing.assert_allclose(found, 2.5, rtol=1e-5)
    assert gradient.sum() == pytest.approx(found.size, rel=1e-4)


def test_an_unknown_roi_operator_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="roi_pool, roi_align or crop_resize"):
        pool_rois(mx.sym.Variable("feature"), mx.sym.Variable("rois"), "roi_wrap", 16, 7)
    with pytest.raises(ConfigError, match="roi_pool, roi_align, crop_resize"):
        override(make_config("faster_rcnn_zf"), {"model.roi_op": "roi_wrap"})


@pytest.mark.parametrize("op", ROI_OPS)
@pytest.mark.parametrize("name", ["faster_rcnn_r50v2_c4", "faster_rcnn_vgg16", "faster_rcnn_zf"])
def test_detectors_train_with_each_roi_operator(name, op):
    small = Small(name, {**get_detector(name).scratch, "model.roi_op": op})
    ops = {node["op"] for node in nodes(small.network.symbol).values()}
    assert {o for o in ("ROIPooling", "_contrib_ROIAlign") if o in ops} == {
        "ROIPooling" if op == "roi_pool" else "_contrib_ROIAlign"
    }
    check_update(small)
    symbol = small.detector.test_symbol(small.config.model)
    assert symbol.infer_shape(data=(1, 3, 96, 128), im_info=(1, 3))[1][0][::2] == (1, 4)
