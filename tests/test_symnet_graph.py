"""The graphs: shapes, names and attributes of the classic one, and guarantees of all detectors."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

import symnet
from mxrcnn.config import make_config, override
from mxrcnn.data.batches import Batch
from mxrcnn.runs.checkpoint import split_params
from mxrcnn.training.network import Network
from mxrcnn.training.schedule import make_schedule
from symnet import get_detector, get_vgg_test, get_vgg_train, list_detectors
from symnet.detector import ImageTargetsInput
from symnet.geometry.targets import pad_objects
from symnet.machine import has_bf16, mx
from tests.factories import different_networks, plain_quick

REPO = Path(__file__).resolve().parent.parent

CLASSIC = {
    "anchor_scales": (8, 16, 32),
    "anchor_ratios": (0.5, 1, 2),
    "rpn_feature_stride": 16,
    "rpn_pre_topk": 12000,
    "rpn_post_topk": 2000,
    "rpn_nms_thresh": 0.7,
    "rpn_min_size": 16,
    "rpn_batch_rois": 256,
    "num_classes": 21,
    "rcnn_feature_stride": 16,
    "rcnn_pooled_size": (7, 7),
    "rcnn_batch_size": 1,
    "rcnn_batch_rois": 128,
    "rcnn_fg_fraction": 0.25,
    "rcnn_fg_overlap": 0.5,
    "rcnn_bbox_stds": (0.1, 0.1, 0.2, 0.2),
}
CLASSIC_TEST = {
    **{k: v for k, v in CLASSIC.items() if k in inspect.signature(get_vgg_test).parameters},
    "rpn_pre_topk": 6000,
    "rpn_post_topk": 300,
}

#: mx-rcnn's VGG16: weights by name; every bias has as many values as its weight has rows
WEIGHTS = {
    "conv1_1": (64, 3, 3, 3),
    "conv1_2": (64, 64, 3, 3),
    "conv2_1": (128, 64, 3, 3),
    "conv2_2": (128, 128, 3, 3),
    "conv3_1": (256, 128, 3, 3),
    "conv3_2": (256, 256, 3, 3),
    "conv3_3": (256, 256, 3, 3),
    "conv4_1": (512, 256, 3, 3),
    "conv4_2": (512, 512, 3, 3),
    "conv4_3": (512, 512, 3, 3),
    "conv5_1": (512, 512, 3, 3),
    "conv5_2": (512, 512, 3, 3),
    "conv5_3": (512, 512, 3, 3),
    "rpn_conv_3x3": (512, 512, 3, 3),
    "rpn_cls_score": (18, 512, 1, 1),
    "rpn_bbox_pred": (36, 512, 1, 1),
    "fc6": (4096, 25088),
    "fc7": (4096, 4096),
    "cls_score": (21, 4096),
    "bbox_pred": (84, 4096),
}
PARAMETERS = {
    **{f"{name}_weight": shape for name, shape in WEIGHTS.items()},
    **{f"{name}_bias": shape[:1] for name, shape in WEIGHTS.items()},
}


def classic_train(images=1):
    return get_vgg_train(**{**CLASSIC, "rcnn_batch_size": images})


def inferred(symbol, **inputs):
    """(shapes of arguments by name, shapes of outputs by name)."""
    arguments, outputs, _ = symbol.infer_shape(**inputs)
    return (
        dict(zip(symbol.list_arguments(), arguments)),
        dict(zip(symbol.list_outputs(), outputs)),
    )


def nodes(symbol):
    """The graph's nodes by name, as in its JSON."""
    return {node["name"]: node for node in json.loads(symbol.tojson())["nodes"]}


def run_python(code, *arguments):
    """The last line that a fresh Python process prints; it starts outside the repository."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


# --- the classic graph --------------------------------------------------------------------------


def test_get_vgg_train_has_the_original_s_arguments():
    assert list(inspect.signature(get_vgg_train).parameters) == list(CLASSIC)
    get_vgg_train(*CLASSIC.values())


@pytest.mark.parametrize("images", [1, 2, 3])
def test_classic_train_shapes(images):
    symbol = classic_train(images)
    inputs = {
        "data": (images, 3, 1000, 600),
        "im_info": (images, 3),
        "gt_boxes": (5, 5) if images == 1 else (images, 5, 5),
    }
    arguments, outputs = inferred(symbol, **inputs)
    assert list(outputs.items()) == [
        ("rpn_cls_prob_output", (images, 2, 9 * 62, 37)),
        ("rpn_bbox_loss_output", (images, 36, 62, 37)),
        ("cls_prob_reshape_output", (images, 128, 21)),
        ("bbox_loss_reshape_output", (images, 128, 84)),
        ("label_blockgrad_output", (images, 128)),
    ]
    inputs["label"] = (images, 9 * 62 * 37)
    inputs["bbox_target"] = inputs["bbox_weight"] = (images, 36, 62, 37)
    assert arguments == {**PARAMETERS, **inputs}
    assert symbol.list_auxiliary_states() == []
    _, inner = inferred(symbol.get_internals(), **inputs)
    assert inner["cls_score_output"] == (images * 128, 21)
    assert inner["rpn_cls_score_output"] == (images, 18, 62, 37)
    assert inner["rois_output"] == (images * 2000, 5)
    assert inner["relu5_3_output"] == (images, 512, 62, 37)
    assert inner["roi_pool_output"] == (images * 128, 512, 7, 7)


@pytest.mark.parametrize("images", [1, 2])
def test_classic_test_shapes(images):
    data = {"data": (images, 3, 608, 1008), "im_info": (images, 3)}
    arguments, outputs = inferred(get_vgg_test(**CLASSIC_TEST), **data)
    assert arguments == {**PARAMETERS, **data}
    assert outputs == {
        "det_boxes_output": (images, 100, 4),
        "det_scores_output": (images, 100),
        "det_classes_output": (images, 100),
        "proposals_output": (images, 300, 4),
    }


def test_stride_is_16_and_there_is_no_pool5():
    pools = [name for name, node in nodes(classic_train()).items() if node["op"] == "Pooling"]
    assert pools == ["pool1", "pool2", "pool3", "pool4"]
    feature = symnet.get_vgg_feature(mx.sym.Variable("data"))
    assert feature.list_outputs() == ["relu5_3_output"]
    assert inferred(feature, data=(1, 3, 160, 320))[1]["relu5_3_output"] == (1, 512, 10, 20)


ATTRIBUTES = [
    (
        "rois",
        "_contrib_MultiProposal",
        {
            "rpn_pre_nms_top_n": 12000,
            "rpn_post_nms_top_n": 2000,
            "threshold": 0.7,
            "rpn_min_size": 16,
            "feature_stride": 16,
            "scales": (8, 16, 32),
            "ratios": (0.5, 1, 2),
        },
    ),
    (
        "rpn_cls_prob",
        "SoftmaxOutput",
        {"multi_output": True, "normalization": "valid", "use_ignore": True, "ignore_label": -1},
    ),
    ("cls_prob", "SoftmaxOutput", {"normalization": "batch", "ignore_label": -1}),
    ("rpn_bbox_loss_", "smooth_l1", {"scalar": 3}),
    ("bbox_loss_", "smooth_l1", {"scalar": 1}),
    ("rpn_cls_score_reshape", "Reshape", {"shape": (0, 2, -1, 0)}),
    ("rpn_conv_3x3", "Convolution", {"kernel": (3, 3), "pad": (1, 1), "num_filter": 512}),
    ("roi_pool", "ROIPooling", {"pooled_size": (7, 7), "spatial_scale": 1 / 16}),
    ("drop6", "Dropout", {"p": 0.5}),
    ("drop7", "Dropout", {"p": 0.5}),
    (
        "proposal_target",
        "Custom",
        {"num_classes": 21, "batch_images": 2, "batch_rois": 256, "fg_fraction": 0.25}
        | {"fg_overlap": 0.5, "box_stds": (0.1, 0.1, 0.2, 0.2), "op_type": "proposal_target"},
    ),
    ("rpn_bbox_loss", "MakeLoss", {"grad_scale": 1 / (2 * 256)}),
    ("bbox_loss", "MakeLoss", {"grad_scale": 1 / (2 * 128)}),
    ("label_blockgrad", "BlockGrad", {}),
]


def parsed(value):
    """An attribute of the JSON: a number, a tuple of numbers, a truth value or a word."""
    try:
        return ast.literal_eval(value)
    except ValueError:
        return value


@pytest.mark.parametrize(("name", "op", "attributes"), ATTRIBUTES)
def test_attributes_of_the_classic_graph(name, op, attributes):
    node = nodes(classic_train(2))[name]
    assert node["op"] == op
    found = {key: parsed(node["attrs"][key]) for key in attributes}
    for key, value in attributes.items():
        assert found[key] == (value if isinstance(value, (str, tuple)) else pytest.approx(value))


def test_the_test_graph_proposes_300_of_6000():
    attributes = nodes(get_vgg_test(**CLASSIC_TEST))["rois"]["attrs"]
    assert attributes["rpn_pre_nms_top_n"] == "6000"
    assert attributes["rpn_post_nms_top_n"] == "300"


def test_pooled_size_must_be_square():
    with pytest.raises(ValueError, match=r"square, not \(7, 6\)"):
        get_vgg_train(**{**CLASSIC, "rcnn_pooled_size": (7, 6)})


@pytest.mark.parametrize(
    ("width", "box_head_dim", "channels"), [(1.0, 4096, 512), (0.25, 256, 128), (0.01, 16, 8)]
)
def test_narrow_variant(width, box_head_dim, channels):
    detector = get_detector("faster_rcnn_vgg16")
    config = detector.config(width=width, box_head_dim=box_head_dim)
    data = {"data": (1, 3, 64, 96), "im_info": (1, 3)}
    train, _ = inferred(detector.train_symbol(config, 1), **data, gt_boxes=(1, 2, 5))
    test, _ = inferred(detector.test_symbol(config), **data)
    for shapes in (train, test):
        assert shapes["conv1_1_weight"][0] == max(8, round(64 * width))
        assert shapes["conv5_3_weight"][0] == channels
        assert shapes["rpn_conv_3x3_weight"][:2] == (channels, channels)
        assert shapes["fc6_weight"] == (box_head_dim, channels * 49)
        assert shapes["fc7_weight"] == (box_head_dim, box_head_dim)
        assert shapes["cls_score_weight"] == (21, box_head_dim)


def test_perfect_answers_to_the_labels_are_the_objects():
    """The loader and the graph lay out labels and targets alike: proposals of them are the objects.

    The map is not square, so that swapped rows and columns would show.
    """
    detector = get_detector("faster_rcnn_vgg16")
    config = detector.config(anchor_scales=(2, 4, 8))
    size = (128, 208)
    boxes = np.float32([[10, 20, 50, 60, 1], [100, 30, 190, 90, 2], [60, 70, 90, 120, 3]])
    image = ImageTargetsInput(boxes, size, size)
    target = detector.assign_targets(config, image, np.random.default_rng(0))
    objectness = target["label"].reshape(9, 8, 13) == 1
    rois = mx.nd.contrib.MultiProposal(
        cls_prob=mx.nd.array(np.concatenate([1 - objectness, objectness])[None]),
        bbox_pred=mx.nd.array(target["bbox_target"][None]),
        im_info=mx.nd.array([[*size, 1]]),
        feature_stride=16,
        scales=config.anchor_scales,
        ratios=config.anchor_ratios,
        threshold=0.7,
        rpn_post_nms_top_n=3,
        rpn_min_size=1,
    ).asnumpy()[:, 1:]
    order = np.argsort(rois[:, 0])
    np.testing.assert_allclose(rois[order], boxes[[0, 2, 1], :4], atol=0.01)
    fg = target["bbox_weight"].reshape(9, 4, 8, 13)
    np.testing.assert_array_equal(fg, np.repeat(objectness[:, None], 4, axis=1))


# --- the registry -------------------------------------------------------------------------------


def test_an_unknown_network_is_answered_with_those_there_are():
    with pytest.raises(KeyError) as error:
        get_detector("faster_rcnn_vgg61")
    assert all(name in str(error.value) for name in ("faster_rcnn_vgg61", *list_detectors()))


def test_the_registry_is_sorted_and_names_its_detectors():
    assert list(list_detectors()) == sorted(list_detectors())
    assert all(get_detector(name).name == name for name in list_detectors())
    with pytest.raises(AttributeError, match="get_vgg_trian"):
        symnet.get_vgg_trian  # noqa: B018


ROOM = REPO / "symnet" / "geometry"
LIGHT = [f"symnet.geometry.{path.stem}" for path in sorted(ROOM.glob("[a-z]*.py"))]


def test_geometry_targets_and_detectors_load_without_mxnet():
    modules = ["symnet", *LIGHT, *(get_detector(n).config.__module__ for n in list_detectors())]
    code = (
        "import sys, importlib; sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]: importlib.import_module(name)\n"
        "before = 'mxnet' in sys.modules\n"
        "from symnet.machine import mx; mx.nd\n"
        "print(before, 'mxnet' in sys.modules)"
    )
    assert run_python(code, REPO, *modules) == "False True"


# --- every detector -----------------------------------------------------------------------------

SIZE, IMAGES, CAPACITY = (96, 160), 2, 6  # see symnet.parts.layers.UNSAFE_CELLS

#: what makes a detector's quick settings quicker, and finds something untrained, where it has it
SLIM = {
    "width": 0.25,
    "box_head_dim": 64,
    "box_batch_size_per_image": 24,
    "rpn_pre_nms_top_n_train": 500,
    "rpn_post_nms_top_n_train": 100,
    "rpn_pre_nms_top_n_test": 200,
    "rpn_post_nms_top_n_test": 50,
    "score_thresh": 0.0,
}

#: metrics of losses that only objects have: without objects they are exactly 0
OBJECT_LOSSES = ("RPNL1Loss", "RCNNL1Loss", "MaskLoss", "BoxLoss", "CenternessLoss")


def objects(rng, num_classes):
    corners = rng.uniform(0, 60, (4, 2))
    sides = rng.uniform(16, 34, (4, 2))
    classes = rng.integers(1, num_classes, (4, 1))
    return np.concatenate([corners, corners + sides, classes], axis=1).astype(np.float32)


def box_masks(gt_boxes, mini_mask):
    """Masks that fill their boxes (B, G, 5), as the loader's bits (B, G, H, ceil(W / 8)) uint8."""
    height, width = (mini_mask, mini_mask) if mini_mask else SIZE
    bits = np.zeros((*gt_boxes.shape[:2], height, -(-width // 8)), np.uint8)
    for image, row in np.argwhere(gt_boxes[:, :, 4] > 0):
        mask = np.zeros((height, width), bool)
        x1, y1, x2, y2 = gt_boxes[image, row, :4].astype(int)
        mask[slice(None) if mini_mask else slice(y1, y2), slice(x1, x2)] = True
        bits[image, row] = np.packbits(mask | bool(mini_mask), axis=-1)
    return bits


def random_inputs(config, boxes, size, rng):
    """The graphs' data of noise images with those objects; the padding (right, below) is 0."""
    images, (height, width) = len(boxes), size
    data = np.zeros((images, 3, *SIZE), np.float32)
    data[:, :, :height, :width] = rng.normal(size=(images, 3, height, width))
    gt_boxes = pad_objects(boxes, CAPACITY)
    makers = {
        "data": lambda: data,
        "im_info": lambda: np.tile(np.float32([height, width, 1]), (images, 1)),
        "gt_boxes": lambda: gt_boxes,
        "gt_masks": lambda: box_masks(gt_boxes, config.data.mini_mask),
        "active_classes": lambda: np.ones((images, config.model.num_classes), np.float32),
    }
    names = {*get_detector(config.network).data_names, "data", "im_info"}  # for both graphs
    return {name: makers[name]() for name in names}


def random_batch(config, images=IMAGES, seed=0, empty=False):
    """A batch of noise, with objects or without any."""
    rng = np.random.default_rng(seed)
    detector = get_detector(config.network)
    size = SIZE[0] - 10, SIZE[1] - 20
    boxes = [objects(rng, config.model.num_classes)[: 0 if empty else None] for _ in range(images)]
    data = random_inputs(config, boxes, size, rng)
    targets = [
        detector.assign_targets(config.model, ImageTargetsInput(found, size, SIZE), rng)
        for found in boxes
    ]
    labels = {name: np.stack([t[name] for t in targets]) for name in targets[0]}
    return Batch(0, 0, tuple(range(images)), data, labels)


def slim_config(name, settings):
    """A detector's quick settings, made quicker, and then those."""
    config = override(make_config(name), plain_quick(name))
    slim = {f"model.{key}": value for key, value in SLIM.items() if hasattr(config.model, key)}
    return override(
        config,
        {
            **slim,
            "model.num_classes": 4,
            "train.batch_size": IMAGES,
            "train.lr": 0.1,  # so that no update is lost to rounding
            "train.warmup_steps": 0,
            **settings,
        },
    )


class Small:
    """A detector with its quick settings, a network of it and a batch for it."""

    def __init__(self, name, settings=MappingProxyType({})):
        self.detector = get_detector(name)
        self.config = slim_config(name, settings)
        self.batch = random_batch(self.config)
        plan = SimpleNamespace(largest_size=lambda: SIZE, capacity=CAPACITY)
        self.network = Network(self.config, plan, [mx.cpu()])
        self.params, _ = self.network.first_params()
        self.network.start(self.params, {}, make_schedule(self.config.train, 10), 0)

    def update(self, batch=None):
        """(metrics as numbers, parameters before, parameters after one update)."""
        before = {name: value.copy() for name, value in self.network.params().items()}
        pairs = self.network.step(batch or self.batch, seed=0)
        metrics = {name: np.squeeze([a.asnumpy() for a in ps[0]]) for name, ps in pairs.items()}
        return metrics, before, self.network.params()

    def gradients(self):
        """Each parameter's gradient, or None for those that are fixed, by name."""
        group = self.network.module._exec_group
        return {name: grad[0] for name, grad in zip(group.param_names, group.grad_arrays)}

    def is_fixed(self, name):
        fixed = tuple(self.config.train.fixed)
        return name.startswith(fixed) or self.detector.frozen(self.config.model, name)


@pytest.fixture(scope="module", params=different_networks())
def small(request):
    return Small(request.param)


def test_labels_have_the_names_and_shapes_that_the_graph_takes(small):
    labels = small.batch.labels
    assert set(labels) == set(small.detector.label_names)
    symbol = small.network.symbol
    inputs = {*small.detector.data_names, *labels}
    assert inputs <= set(symbol.list_arguments())
    arrays = {**small.batch.data, **labels}
    shapes = {name: arrays[name].shape for name in inputs}
    arguments, outputs = inferred(symbol, **shapes)
    assert {name: arguments[name] for name in inputs} == shapes
    sums = {name for name, shape in outputs.items() if len(shape) == 1}
    assert all(outputs[name][0] % IMAGES == 0 for name in set(outputs) - sums)
    assert all(np.isfinite(array).all() for array in labels.values())


def check_update(small):
    """One update: finite losses, a gradient for each trained parameter, and no other changes."""
    metrics, before, after = small.update()
    assert set(small.detector.losses) <= set(metrics)
    for name, (total, count) in metrics.items():
        assert np.isfinite(total), name
        assert count > 0, name
    for name in small.detector.losses:
        assert metrics[name][0] > 0, name
    gradients = small.gradients()
    for name in small.network.shapes:
        moved = (before[f"arg:{name}"] != after[f"arg:{name}"]).asnumpy().any()
        if small.is_fixed(name):
            assert gradients.get(name) is None, name
            assert not moved, name
        else:
            gradient = gradients[name].asnumpy()
            assert np.isfinite(gradient).all(), name
            assert gradient.any(), name
            assert moved, name
    return before, after


def test_losses_are_finite_and_every_free_parameter_learns(small):
    before, after = check_update(small)
    prefixes = tuple(small.config.train.fixed)
    assert all(any(name.startswith(p) for name in small.network.shapes) for p in prefixes)
    for name in small.network.aux_shapes:  # on stored statistics, which stay
        assert (before[f"aux:{name}"] == after[f"aux:{name}"]).asnumpy().all(), name


@pytest.mark.parametrize("name", different_networks())
def test_from_scratch_nearly_everything_learns(name):
    """What does not: scales that a normalisation does not have."""
    small = Small(name, get_detector(name).scratch)
    before, after = check_update(small)
    fixed = [name for name in small.network.shapes if small.is_fixed(name)]
    assert all(name.endswith("_gamma") for name in fixed)
    assert len(fixed) <= 1
    for name in small.network.aux_shapes:
        assert (before[f"aux:{name}"] != after[f"aux:{name}"]).asnumpy().any(), name


def test_without_objects_the_losses_of_objects_are_exactly_0(small):
    of_objects = set(OBJECT_LOSSES) & set(small.detector.losses)
    assert of_objects
    metrics, _, _ = small.update(random_batch(small.config, empty=True))
    assert {name: metrics[name][0] for name in of_objects} == dict.fromkeys(of_objects, 0)
    assert all(np.isfinite(pair).all() for pair in metrics.values())
    gradients = small.gradients().values()
    assert all(np.isfinite(g.asnumpy()).all() for g in gradients if g is not None)


@pytest.mark.skipif(not has_bf16(), reason="a processor without bfloat16")
@pytest.mark.parametrize("name", different_networks())
def test_bf16_trains_with_nearly_the_same_loss(name):
    scratch = get_detector(name).scratch
    exact, low = (Small(name, {**scratch, "train.precision": p}) for p in ("fp32", "bf16"))
    first = exact.detector.losses[0]  # later ones may be of other RoIs
    one, other = (np.divide(*small.update()[0][first]) for small in (exact, low))
    assert one == pytest.approx(other, rel=0.05)
    pairs = zip(exact.gradients().values(), low.gradients().values())
    assert any((a != b).asnumpy().any() for a, b in pairs if a is not None)
    check_update(low)


def test_outputs_are_named_and_are_losses_or_blocked(small):
    graph = json.loads(small.network.symbol.tojson())
    heads = [graph["nodes"][index] for index, *_ in graph["heads"]]
    names = [node["name"] for node in heads]
    assert len(set(names)) == len(names)
    assert not [name for name in names if re.fullmatch(r"[a-z_]+\d+", name)], "MXNet's own names"
    for node in heads:
        while node["op"] == "Reshape":
            node = graph["nodes"][node["inputs"][0][0]]
        assert node["op"] in ("SoftmaxOutput", "MakeLoss", "BlockGrad"), node["name"]


def bind_test_graph(symbol, params, images, size=SIZE):
    args, auxs = split_params(params)
    executor = symbol.simple_bind(
        mx.cpu(), grad_req="null", data=(images, 3, *size), im_info=(images, 3)
    )
    # stored statistics are arguments of a training graph that has them folded
    both = {**args, **auxs}
    executor.copy_params_from(both, both, allow_extra_params=True)
    return executor


@pytest.mark.parametrize("images", [1, 2])
def test_detections_keep_the_contract(small, images):
    symbol = small.detector.test_symbol(small.config.model)
    executor = bind_test_graph(symbol, small.params, images)
    data = small.batch.data
    found = executor.forward(data=data["data"][:images], im_info=data["im_info"][:images])
    found = dict(zip(symbol.list_outputs(), (array.asnumpy() for array in found)))
    boxes, scores, classes = (
        found[f"det_{name}_output"] for name in ("boxes", "scores", "classes")
    )
    assert boxes.shape == (images, scores.shape[1], 4)
    assert classes.shape == scores.shape
    real = classes > 0
    assert real.any(axis=1).all()
    assert (classes[~real] == -1).all()
    assert set(np.unique(classes[real])) <= set(range(1, small.config.model.num_classes))
    assert ((scores[real] > 0) & (scores[real] <= 1)).all()
    height, width, _ = data["im_info"][0]
    assert boxes[real].min() >= 0
    assert (boxes[real][:, 2:] <= [width, height]).all()


def test_train_and_test_graphs_have_the_same_parameters(small):
    test = small.detector.test_symbol(small.config.model)
    shapes, _, aux_shapes = test.infer_shape(data=(1, 3, *SIZE), im_info=(1, 3))
    names = [*test.list_arguments(), *test.list_auxiliary_states()]
    tested = dict(zip(names, [*shapes, *aux_shapes]))
    inputs = {"data": (1, 3, *SIZE), "im_info": (1, 3)}
    assert tested == {**small.network.shapes, **small.network.aux_shapes, **inputs}


WITHOUT_US = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("names", sys.argv[1] + "/symnet/machine/names.py")
names = importlib.util.module_from_spec(spec); spec.loader.exec_module(names)
names.restore_names()
import mxnet as mx
folder = sys.argv[2]
inputs = mx.nd.load(folder + "/inputs")
symbol = mx.sym.load(folder + "/test-symbol.json")
states = {name: inputs.pop(name) for name in symbol.list_auxiliary_states()}
executor = symbol.bind(mx.cpu(), inputs, grad_req="null", aux_states=states)
mx.nd.save(folder + "/found", executor.forward())
print(any(name.split(".")[0] in ("symnet", "mxrcnn") for name in sys.modules))
"""


def test_a_saved_test_graph_needs_mxnet_alone(small, tmp_path):
    symbol = small.detector.test_symbol(small.config.model)
    assert "Custom" not in {node["op"] for node in nodes(symbol).values()}
    symbol.save(str(tmp_path / "test-symbol.json"))
    executor = bind_test_graph(symbol, small.params, IMAGES)
    data = {name: small.batch.data[name] for name in ("data", "im_info")}
    expected = [array.asnumpy() for array in executor.forward(**data)]
    mx.nd.save(str(tmp_path / "inputs"), {**executor.arg_dict, **executor.aux_dict})
    assert run_python(WITHOUT_US, REPO, tmp_path) == "False"
    for one, other in zip(mx.nd.load(str(tmp_path / "found")), expected):
        np.testing.assert_allclose(one.asnumpy(), other, rtol=1e-4, atol=1e-4)
