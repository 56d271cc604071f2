"""ResNet and feature pyramids: torchvision's names, freezing, top-down sums, RoIAlign by level."""

from __future__ import annotations

import numpy as np
import pytest

from mxrcnn.weights.torchvision import from_torchvision
from symnet import get_detector
from symnet.bodies import get_body
from symnet.geometry.anchors import PyramidAnchors, pyramid_sizes
from symnet.machine import mx
from symnet.ops.rois import roi_align_levels, roi_levels
from symnet.ops.tensors import best, quotient, take_rows
from symnet.parts.fpn import fpn
from tests.reference import slow_roi_level

BODY = "backbone.body."
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def body_maps(body, norm):
    """A body's maps, finest first."""
    return mx.sym.Group(list(get_body(body).maps(mx.sym.Variable("data"), norm).values()))


def forward(symbol, **values):
    """The outputs of a test pass, with random values for the other arguments."""
    shapes, _, _ = symbol.infer_shape(**{name: np.shape(value) for name, value in values.items()})
    rng = np.random.default_rng(0)
    for name, shape in zip(symbol.list_arguments(), shapes):
        values.setdefault(name, rng.normal(0, 0.5, shape))
    args = {name: mx.nd.array(value) for name, value in values.items()}
    outputs = symbol.bind(mx.cpu(), args, grad_req="null").forward()
    return [out.asnumpy() for out in outputs], values


# --- torchvision's names ------------------------------------------------------------------------


def torchvision_resnet(depth):
    """The entries of torchvision's IntermediateLayerGetter of a ResNet, without fc: name -> shape.

    Written from torchvision/models/resnet.py: a block of 18 and 34 is two 3x3 convolutions, one of
    50 and 101 is 1x1, 3x3 and 1x1 to four times the planes.
    """
    shapes = {}

    def conv_bn(conv, bn, filters, channels, kernel):
        shapes[f"{BODY}{conv}.weight"] = (filters, channels, kernel, kernel)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{BODY}{bn}.{leaf}"] = (filters,)

    conv_bn("conv1", "bn1", 64, 3, 7)
    inplanes = 64
    for layer, planes in enumerate((64, 128, 256, 512), start=1):
        expanded = planes if depth < 50 else 4 * planes
        for block in range(BLOCKS[depth][layer - 1]):
            kernels = (3, 3) if depth < 50 else (1, 3, 1)
            outs = [planes] * (len(kernels) - 1) + [expanded]
            for i, (kernel, out) in enumerate(zip(kernels, outs)):
                before = inplanes if i == 0 else planes
                name = f"layer{layer}.{block}"
                conv_bn(f"{name}.conv{i + 1}", f"{name}.bn{i + 1}", out, before, kernel)
            if block == 0 and (layer > 1 or depth >= 50):
                conv_bn(f"{name}.downsample.0", f"{name}.downsample.1", expanded, inplanes, 1)
            inplanes = expanded
    return shapes


def torchvision_heads(depth, classes):
    """The entries of torchvision's Mask R-CNN besides the body's."""
    widths = (64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)
    weights = {
        **{f"backbone.fpn.inner_blocks.{i}.0": (256, w, 1, 1) for i, w in enumerate(widths)},
        **{f"backbone.fpn.layer_blocks.{i}.0": (256, 256, 3, 3) for i in range(4)},
        "rpn.head.conv.0.0": (256, 256, 3, 3),
        "rpn.head.cls_logits": (3, 256, 1, 1),
        "rpn.head.bbox_pred": (12, 256, 1, 1),
        "roi_heads.box_head.fc6": (1024, 256 * 7 * 7),
        "roi_heads.box_head.fc7": (1024, 1024),
        "roi_heads.box_predictor.cls_score": (classes, 1024),
        "roi_heads.box_predictor.bbox_pred": (4 * classes, 1024),
        **{f"roi_heads.mask_head.{i}.0": (256, 256, 3, 3) for i in range(4)},
        "roi_heads.mask_predictor.conv5_mask": (256, 256, 2, 2),
        "roi_heads.mask_predictor.mask_fcn_logits": (classes, 256, 1, 1),
    }
    return {
        **{f"{name}.weight": shape for name, shape in weights.items()},
        **{f"{name}.bias": shape[:1] for name, shape in weights.items()},
    }


def parameters(symbol, **inputs):
    """Shapes of arguments and stored statistics by name, without the inputs."""
    args, _, auxs = symbol.infer_shape(**inputs)
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    return {n: s for n, s in zip(names, [*args, *auxs]) if n not in inputs}


def named_here(shapes):
    """torchvision's names -> shapes, by this toolkit's names."""
    state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    return {name: value.shape for name, value in from_torchvision(state).items()}


@pytest.mark.parametrize("norm", ["frozen", "folded", "batch"])
@pytest.mark.parametrize("depth", sorted(BLOCKS))
def test_the_body_has_torchvision_s_parameters(depth, norm):
    symbol = body_maps(f"resnet{depth}", norm)
    assert parameters(symbol, data=(1, 3, 64, 64)) == named_here(torchvision_resnet(depth))


@pytest.mark.parametrize("depth", sorted(BLOCKS))
def test_mask_rcnn_has_torchvision_s_parameters(depth):
    detector = get_detector("mask_rcnn_r50_fpn")
    config = detector.config(body=f"resnet{depth}", num_classes=7)
    expected = named_here({**torchvision_resnet(depth), **torchvision_heads(depth, 7)})
    inputs = {"data": (1, 3, 64, 96), "im_info": (1, 3)}
    assert parameters(detector.test_symbol(config), **inputs) == expected
    box = get_detector("faster_rcnn_r50_fpn")
    expected = {name: shape for name, shape in expected.items() if ".mask_" not in name}
    config = box.config(body=f"resnet{depth}", num_classes=7)
    assert parameters(box.test_symbol(config), **inputs) == expected


def test_group_norm_has_scales_and_shifts_alone():
    symbol = body_maps("resnet18", "group")
    expected = named_here(torchvision_resnet(18))
    expected = {name: shape for name, shape in expected.items() if "_moving_" not in name}
    assert parameters(symbol, data=(1, 3, 64, 64)) == expected


def test_names_of_torchvision():
    """A convolution, a batch norm, an FPN's and an FCOS head's group norm (a Sequential)."""
    state = {
        "backbone.body.conv1.weight": np.ones((2, 3, 7, 7)),
        "backbone.body.bn1.weight": np.full(2, 2),
        "backbone.body.bn1.bias": np.full(2, 3),
        "backbone.body.bn1.running_mean": np.full(2, 4),
        "backbone.body.bn1.running_var": np.full(2, 5),
        "backbone.body.bn1.num_batches_tracked": np.array(6),
        "head.classification_head.conv.0.weight": np.ones((4, 4, 3, 3)),
        "head.classification_head.conv.0.bias": np.full(4, 7),
        "head.classification_head.conv.1.weight": np.full(4, 8),
        "head.classification_head.conv.1.bias": np.full(4, 9),
        "roi_heads.box_head.fc6.weight": np.ones((5, 6)),
        "roi_heads.box_head.fc6.bias": np.full(5, 10),
    }
    found = from_torchvision(state)
    expected = {
        "backbone.body.conv1_weight": 1,
        "backbone.body.bn1_gamma": 2,
        "backbone.body.bn1_beta": 3,
        "backbone.body.bn1_moving_mean": 4,
        "backbone.body.bn1_moving_var": 5,
        "head.classification_head.conv.0_weight": 1,
        "head.classification_head.conv.0_bias": 7,
        "head.classification_head.conv.1_gamma": 8,
        "head.classification_head.conv.1_beta": 9,
        "roi_heads.box_head.fc6_weight": 1,
        "roi_heads.box_head.fc6_bias": 10,
    }
    assert {name: value.flat[0] for name, value in found.items()} == expected
    assert all(any(value is given for given in state.values()) for value in found.values())


def torchvision_trains(name, trainable_layers):
    """resnet_fpn_extractor: everything is frozen except names that start with the last layers."""
    layers_to_train = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    if trainable_layers == 5:
        layers_to_train.append("bn1")
    return any(name.startswith(BODY + layer) for layer in layers_to_train)


@pytest.mark.parametrize("trainable_layers", range(6))
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_what_is_frozen(norm, trainable_layers):
    counts, body = [], get_body("resnet50")
    shapes = torchvision_resnet(50)
    for (theirs, shape), ours in zip(shapes.items(), named_here(shapes)):
        trained = torchvision_trains(theirs, trainable_layers)
        if norm == "frozen" and len(shape) == 1:
            trained = False  # FrozenBatchNorm2d has buffers, no parameters
        assert body.is_frozen(ours, trainable_layers, norm) == (not trained), ours
        counts.append(trained)
    assert any(counts) == (trainable_layers > 0)
    assert all(counts) == (trainable_layers == 5 and norm != "frozen")
    for name in ("backbone.fpn.layer_blocks.0.0_weight", "roi_heads.box_head.fc6_bias"):
        assert not body.is_frozen(name, trainable_layers, norm)


def test_the_six_stages_of_mobilenet_v3():
    """torchvision's begin at the layers with a stride, and at the last."""
    body = get_body("mobilenet_v3_large")
    for trainable_layers, first in enumerate([17, 16, 13, 7, 4, 2, 0]):
        for layer in range(17):
            frozen = body.is_frozen(f"{BODY}{layer}.0_weight", trainable_layers, "batch")
            assert frozen == (layer < first), (layer, trainable_layers)


@pytest.mark.parametrize("name", ["resnet50_v1d", "mobilenet1_0"])
def test_what_is_frozen_in_other_bodies(name):
    """The whole stem, and the stages in their order."""
    names, frozen = body_maps(name, "frozen").list_arguments(), get_body(name).is_frozen
    weights = [name[len(BODY) :] for name in names if name.endswith("_weight")]
    for trainable_layers in range(6):
        trained = {w for w in weights if not frozen(BODY + w, trainable_layers, "frozen")}
        stages = ("layer4.", "layer3.", "layer2.", "layer1.", "conv1")[:trainable_layers]
        assert trained == {w for w in weights if w.startswith(stages)}
        assert {w.split(".")[0].split("_")[0] for w in trained} == {s.strip(".") for s in stages}
    assert all(frozen(name, 5, "frozen") for name in names if name.endswith(("_gamma", "_beta")))


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (352, 64)])
@pytest.mark.parametrize(
    ("depth", "widths"), [(34, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048))]
)
def test_shapes_of_the_body(depth, widths, size):
    maps = body_maps(f"resnet{depth}", "frozen")
    _, shapes, _ = maps.infer_shape(data=(2, 3, *size))
    expected = [(2, w, size[0] // s, size[1] // s) for w, s in zip(widths, (4, 8, 16, 32))]
    assert shapes == expected
    assert [shape[2:] for shape in shapes] == pyramid_sizes(*size, 4)


# --- the pyramid --------------------------------------------------------------------------------


def correlate(data, weight, bias, stride=1):
    """A convolution (B, C, H, W) padded to the same size, term by term."""
    kernel = weight.shape[2]
    padded = np.pad(data, ((0, 0), (0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2))
    height, width = data.shape[2:]
    out = np.zeros((len(data), len(weight), height, width)) + bias[:, None, None]
    for i, j in np.ndindex(kernel, kernel):
        part = padded[:, :, i : i + height, j : j + width]
        out += np.einsum("oc,bchw->bohw", weight[:, :, i, j], part)
    return out[:, :, ::stride, ::stride]


MAPS = {"c2": (2, 3, 8, 12), "c3": (2, 5, 4, 6), "c4": (2, 6, 2, 3)}


def slow_pyramid(values):
    def layer(name, data, stride=1):
        name = f"backbone.fpn.{name}"
        return correlate(data, values[f"{name}_weight"], values[f"{name}_bias"], stride)

    inner = [layer(f"inner_blocks.{i}.0", values[name]) for i, name in enumerate(MAPS)]
    for i in (1, 0):
        inner[i] = inner[i] + inner[i + 1].repeat(2, axis=2).repeat(2, axis=3)
    return [layer(f"layer_blocks.{i}.0", data) for i, data in enumerate(inner)], layer


@pytest.mark.parametrize("extra", ["", "pool", "p6p7"])
def test_the_pyramid_is_summed_from_the_top(extra):
    symbol = mx.sym.Group(fpn([mx.sym.Variable(name) for name in MAPS], 4, extra=extra))
    rng = np.random.default_rng(1)
    found, values = forward(symbol, **{n: rng.normal(0, 1, shape) for n, shape in MAPS.items()})
    expected, layer = slow_pyramid(values)
    if extra == "pool":
        expected.append(expected[-1][:, :, ::2, ::2])
        assert expected[-1].shape[2:] == (1, 2)
    if extra == "p6p7":
        expected.append(layer("extra_blocks.p6", expected[-1], 2))
        expected.append(layer("extra_blocks.p7", np.maximum(expected[-1], 0), 2))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_pyramid_s_normalisations_have_their_own_places():
    symbol = mx.sym.Group(fpn([mx.sym.Variable(name) for name in MAPS], 32, "group"))
    names = {name for name in symbol.list_arguments() if name not in MAPS}
    layers = [f"backbone.fpn.{kind}_blocks.{i}" for kind in ("inner", "layer") for i in range(3)]
    leaves = ("0_weight", "1_gamma", "1_beta")
    assert names == {f"{layer}.{leaf}" for layer in layers for leaf in leaves}


# --- levels of RoIs -----------------------------------------------------------------------------


def test_levels_are_those_of_the_paper():
    """k = floor(4 + log2(sqrt(wh) / 224)): at a power of two the RoI goes up; p2 is 0."""
    sides = [1, 55.9, 111.9, 112, 223.9, 224, 447.9, 448, 900, 5000]
    expected = [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    rois = [[0, 3, 5, 3 + side, 5 + side] for side in sides]
    rois += [[0, 0, 0, 448, 112], [0, 10, 10, 10, 500], [0, 50, 50, 40, 60], [-1, -1, -1, -1, -1]]
    expected += [2, 0, 0, 0]
    (found,), _ = forward(roi_levels(mx.sym.Variable("rois"), 4, 224, 4), rois=np.float32(rois))
    np.testing.assert_array_equal(found, expected)
    assert [slow_roi_level(roi[1:], 4) for roi in rois] == expected


@pytest.mark.parametrize(("levels", "size", "level"), [(4, 224, 4), (3, 100, 3), (5, 56, 4)])
def test_levels_at_random(levels, size, level):
    rng = np.random.default_rng(0)
    rois = np.zeros((500, 5), np.float32)
    rois[:, 1:3] = rng.uniform(0, 100, (500, 2))
    rois[:, 3:] = rois[:, 1:3] + np.exp(rng.uniform(0, 7, (500, 2)))
    symbol = roi_levels(mx.sym.Variable("rois"), levels, size, level)
    (found,), _ = forward(symbol, rois=rois)
    expected = [slow_roi_level(roi[1:].astype(float), levels, size, level) for roi in rois]
    np.testing.assert_array_equal(found, expected)
    assert set(expected) == set(range(levels))


# --- RoIAlign -----------------------------------------------------------------------------------

LEVELS = {"p2": (2, 2, 32, 40), "p3": (2, 2, 16, 20), "p4": (2, 2, 8, 10), "p5": (2, 2, 4, 5)}
CANONICAL = 32


def random_rois(rng, count):
    """rois (count, 5) of both images; sides from 1 to 160, so that all levels are asked for."""
    sides = np.exp(rng.uniform(0, np.log(160), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * np.maximum([160, 128] - sides, 0)
    images = rng.integers(0, 2, (count, 1))
    return np.concatenate([images, corners, corners + sides], axis=1).astype(np.float32)


def levels_of(rois):
    return np.array([slow_roi_level(roi[1:].astype(float), 4, CANONICAL) for roi in rois])


def pool_apart(maps, rois, size):
    """RoIs pooled by MXNet's operator, from one level after the other, with nothing skipped."""
    levels = levels_of(rois)
    out = np.full((len(rois), maps["p2"].shape[1], size, size), np.nan)
    for level, (stride, data) in enumerate(zip((4, 8, 16, 32), maps.values())):
        ours = levels == level
        if ours.any():
            out[ours] = mx.nd.contrib.ROIAlign(
                mx.nd.array(data),
                mx.nd.array(rois[ours]),
                pooled_size=(size, size),
                spatial_scale=1 / stride,
                sample_ratio=2,
            ).asnumpy()
    return out


class Pool:
    """roi_align_levels, bound once and run with RoIs again and again."""

    def __init__(self, count, size, grad_req="null"):
        rng = np.random.default_rng(0)
        self.size = size
        self.maps = {n: rng.normal(0, 1, s).astype(np.float32) for n, s in LEVELS.items()}
        maps = [mx.sym.Variable(name) for name in LEVELS]
        self.symbol = roi_align_levels(
            maps, mx.sym.Variable("rois"), size, "pool", canonical_size=CANONICAL
        )
        args = {name: mx.nd.array(value) for name, value in self.maps.items()}
        args["rois"] = mx.nd.zeros((count, 5))
        grads = {name: mx.nd.zeros(value.shape) for name, value in args.items()}
        self.executor = self.symbol.bind(mx.cpu(), args, args_grad=grads, grad_req=grad_req)

    def __call__(self, rois, train=False):
        return self.executor.forward(is_train=train, rois=mx.nd.array(rois))[0].asnumpy()


def dirty_memory():
    """Leave NaN in the memory that MXNet hands out next."""
    for rows in (50, 58, 60):
        for size in (2, 3):
            for _ in range(10):
                mx.nd.full((rows, 2, size, size), np.nan).wait_to_read()


@pytest.mark.parametrize(("count", "size"), [(50, 2), (50, 3), (1, 2), (1000, 7), (1000, 2)])
def test_every_roi_is_pooled_from_its_own_level(count, size):
    """For any number of RoIs, and maps of any size."""
    rng = np.random.default_rng(1)
    dirty_memory()
    pool = Pool(count, size)
    for _ in range(10):
        rois = random_rois(rng, max(count, 50))[:count]
        assert count == 1 or set(levels_of(rois)) == {0, 1, 2, 3}
        assert count == 1 or set(rois[:, 0]) == {0, 1}
        expected = pool_apart(pool.maps, rois, size)
        np.testing.assert_allclose(pool(rois), expected, atol=1e-5)


def test_one_channel_is_enough_for_any_number_of_rois():
    rng = np.random.default_rng(0)
    levels = [mx.sym.Variable(name) for name in LEVELS]
    symbol = roi_align_levels(levels, mx.sym.Variable("rois"), 2, "p", canonical_size=CANONICAL)
    maps = {name: rng.uniform(1, 2, (2, 1, *shape[2:])) for name, shape in LEVELS.items()}
    rois = random_rois(rng, 3000)
    (found,), _ = forward(symbol, rois=rois, **maps)
    np.testing.assert_allclose(found, pool_apart(maps, rois, 2), atol=1e-5)
    with pytest.raises(ValueError, match="1 x 1"):
        roi_align_levels([], mx.sym.Variable("rois"), 1, "p")


def test_places_beyond_2_to_24():
    """float32 has only even numbers there."""
    rows = 2**23 - 2**21
    data = np.zeros((3, rows, 1), np.float32)
    data[:, -4:, 0] = np.arange(12).reshape(3, 4)
    index = np.tile(np.float32([0, rows - 3, rows - 2, rows - 1]), (3, 1))
    symbol = take_rows(mx.sym.Variable("data"), mx.sym.Variable("index"))
    (found,), _ = forward(symbol, data=data, index=index)
    np.testing.assert_array_equal(found, data[:, index[0].astype(int)])

    _, place = best(mx.sym.Variable("scores"), 1, filling=-1)
    assert place.infer_type(scores=np.float32)[1] == [np.int32]
    index = mx.nd.array([[2**24 + 7]], dtype=np.int32)
    parts = mx.sym.Group(quotient(mx.sym.Variable("index", dtype=np.int32), 8))
    cell, rest = parts.bind(mx.cpu(), {"index": index}).forward()
    assert (cell.asscalar(), rest.asscalar()) == divmod(2**24 + 7, 8)


def test_a_level_may_be_without_rois_and_all_rois_on_one():
    pool = Pool(50, 2)
    rois = random_rois(np.random.default_rng(2), 400)
    for level in range(4):
        same = rois[levels_of(rois) == level]
        same = np.resize(same, (50, 5))
        expected = pool_apart(pool.maps, same, 2)
        np.testing.assert_allclose(pool(same), expected, atol=1e-5)


def test_rois_that_are_none_are_finite_and_disturb_nobody():
    pool = Pool(50, 2)
    rois = random_rois(np.random.default_rng(3), 50)
    expected = pool(rois)
    rois[10:20] = -1
    found = pool(rois)
    assert np.isfinite(found).all()
    kept = np.r_[0:10, 20:50]
    np.testing.assert_array_equal(found[kept], expected[kept])


def test_gradients_go_to_the_image_and_level_of_the_roi():
    pool = Pool(1, 2, "write")
    rois = random_rois(np.random.default_rng(4), 60)
    levels = levels_of(rois)
    assert set(levels) == {0, 1, 2, 3}
    for roi, level in zip(rois, levels):
        pool(roi[None], train=True)
        pool.executor.backward([mx.nd.ones((1, 2, 2, 2))])
        found = {name: grad.asnumpy() for name, grad in pool.executor.grad_dict.items()}
        assert not found["rois"].any()
        for number, name in enumerate(LEVELS):
            got = found[name].any(axis=(1, 2, 3))
            np.testing.assert_array_equal(got, [number == level and i == roi[0] for i in (0, 1)])
        # each bin is a mean of weights that sum to 1
        total = found[list(LEVELS)[level]].sum()
        assert total == pytest.approx(2 * 2 * 2, rel=1e-4)


def test_gradients_of_many_rois_add_up():
    pool, alone = Pool(50, 2, "write"), Pool(1, 2, "write")
    rois = random_rois(np.random.default_rng(5), 50)
    heads = np.random.default_rng(6).normal(0, 1, (50, 2, 2, 2))
    dirty_memory()
    pool(rois, train=True)
    pool.executor.backward([mx.nd.array(heads)])
    expected = dict.fromkeys(LEVELS, 0.0)
    for roi, head in zip(rois, heads):
        alone(roi[None], train=True)
        alone.executor.backward([mx.nd.array(head[None])])
        for name in LEVELS:
            expected[name] = expected[name] + alone.executor.grad_dict[name].asnumpy()
    for name in LEVELS:
        found = pool.executor.grad_dict[name].asnumpy()
        np.testing.assert_allclose(found, expected[name], atol=1e-4)


# --- anchors ------------------------------------------------------------------------------------

#: torchvision's AnchorGenerator.generate_anchors for one size and ratios 0.5, 1, 2
TORCHVISION_ANCHORS = [
    [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]],
    [[-45, -23, 45, 23], [-32, -32, 32, 32], [-23, -45, 23, 45]],
    [[-91, -45, 91, 45], [-64, -64, 64, 64], [-45, -91, 45, 91]],
    [[-181, -91, 181, 91], [-128, -128, 128, 128], [-91, -181, 91, 181]],
    [[-362, -181, 362, 181], [-256, -256, 256, 256], [-181, -362, 181, 362]],
]
ANCHORS = PyramidAnchors((32, 64, 128, 256, 512), (0.5, 1.0, 2.0))


def test_anchors_are_torchvision_s():
    assert ANCHORS.num_anchors == 3
    for level, expected in enumerate(TORCHVISION_ANCHORS):
        np.testing.assert_array_equal(ANCHORS.base(level), expected)


def test_the_grid_goes_by_level_row_column_anchor():
    """352 pixels are 88, 44, 22, 11 and 6 cells: p6's stride is 352 // 6 = 58, not 64."""
    height, width = 352, 96
    expected = []
    cells = [(88, 24), (44, 12), (22, 6), (11, 3), (6, 2)]
    strides = [(4, 4), (8, 8), (16, 16), (32, 32), (58, 48)]
    assert pyramid_sizes(height, width, 5) == cells
    for base, (rows, columns), (down, across) in zip(TORCHVISION_ANCHORS, cells, strides):
        for y in range(rows):
            for x in range(columns):
                for x1, y1, x2, y2 in base:
                    dx, dy = x * across, y * down
                    expected.append([x1 + dx, y1 + dy, x2 + dx, y2 + dy])
    np.testing.assert_array_equal(ANCHORS.grid(height, width), expected)
    assert ANCHORS.grid(height, width).dtype == np.float32


def test_the_grid_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        ANCHORS.grid(64, 64)[0, 0] = 0


def test_the_pyramid_s_maps_have_the_sizes_of_its_anchors():
    maps = list(body_maps("resnet18", "frozen"))
    for size in ((32, 32), (352, 96), (64, 224)):
        _, shapes, _ = mx.sym.Group(fpn(maps, 16)).infer_shape(data=(1, 3, *size))
        assert [shape[2:] for shape in shapes] == pyramid_sizes(*size, 5)
