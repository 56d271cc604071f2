"""gluoncv's own networks, saved by gluoncv, converted, and compared with it on two photos."""

from __future__ import annotations

import re
import warnings
import zlib

import numpy as np
import pytest

from mxrcnn.config import make_config, override
from mxrcnn.data.transforms import prepare_image, stack_images
from mxrcnn.data.voc import VOC_CLASSES
from mxrcnn.inference.detector import Detector
from mxrcnn.weights.convert import ConvertRequest, convert, run_convert
from mxrcnn.weights.names import COCO_CLASSES
from symnet.bodies import get_body
from symnet.config.presets import GLUONCV_PYRAMID
from symnet.machine import mx
from symnet.ops.rois import roi_levels
from tests.test_convert import load_photos

#: height and width of the photos: multiples of 32, so that nothing is padded, which gluoncv has not
SIZE = (160, 224)
#: of bodies alone: maps of odd sizes are halved too
ODD = (150, 210)

#: proposals that go into the box heads, fewer than gluoncv's 300 or 1000 to be quick
ROIS = 60


#: endings of stored statistics
STORED = ("_mean", "_var")


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter for gluoncv that keeps activations bounded and scores distinct."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    z = rng.standard_normal(shape)
    if name.endswith("gamma"):
        later = re.search(r"\.bn[23]\.|layers._(?:sync)?batchnorm([1245789]|\d\d+)_", name)
        return (0.3 if later else 1.0) * (1 + 0.1 * z)
    if name.endswith("_var"):
        return 1 + 0.2 * np.abs(z)
    if name.endswith(("beta", "bias", "_mean")):
        return 0.05 * z
    gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
    return gain * z * np.sqrt(2 / np.prod(shape[1:]))


#: of weights: logits are wide, and boxes move, but not far
GAINS = {
    "mobilenet": 1.08,
    "class_predictor": 1.5,
    "rpn.loc": 0.15,
    "rpn_head.loc": 0.15,
    "_conv_lat": 0.5,
}


def saved(name: str, path, **options):
    """A network of gluoncv with such values, and the file that it saves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gluoncv.model_zoo import get_model

        net = get_model(name, pretrained=False, **options)
        net.initialize()
        if hasattr(net, "rpn"):
            net.rpn._test_post_nms = net._rpn_test_post_nms = ROIS
            net._rcnn_max_dets = 100
        net(mx.nd.zeros((1, 3, *SIZE)))  # shapes are known after a first pass
    for key, parameter in net._collect_params_with_prefix().items():
        if parameter.grad_req != "null" or key.endswith(STORED):
            parameter.set_data(mx.nd.array(value(key, parameter.shape)))
    net.save_parameters(str(path))
    return net


def test_anchors_of_the_pyramid():
    from gluoncv.model_zoo.rcnn.rpn.anchor import RPNAnchorGenerator

    config = override(make_config("faster_rcnn_r50_fpn"), GLUONCV_PYRAMID).model
    parts = []
    for stride, scale in zip((4, 8, 16, 32, 64), (2, 4, 8, 16, 32)):
        rows, columns = -(-96 // stride), -(-160 // stride)
        generator = RPNAnchorGenerator(stride, 16, (0.5, 1, 2), scale, (rows, columns))
        parts.append(generator.anchors.value.reshape((-1, 4)))
    expected = np.concatenate([part.asnumpy() for part in parts])
    np.testing.assert_array_equal(config.anchors.grid(96, 160), expected)


def test_levels_of_rois():
    """floor(4 + log2(sqrt(w * h) / 224)) with widths x2 - x1 + 1, as in gluoncv."""
    sides = np.array([10, 111, 111.5, 223.5, 222.5, 447.5, 900])
    boxes = np.stack([0 * sides, sides, sides, sides + sides, 2 * sides], axis=1)
    found = roi_levels(mx.sym.Variable("rois"), 4, 224, 4, 1).eval(rois=mx.nd.array(boxes))[0]
    expected = np.clip(np.floor(4 + np.log2((sides + 1) / 224)), 2, 5) - 2
    np.testing.assert_array_equal(found.asnumpy(), expected)
    assert expected.tolist() == [0, 1, 1, 2, 1, 3, 3]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        *((f"resnet{depth}_v1b", f"resnet{depth}") for depth in (18, 34, 50, 101)),
        ("resnet50_v1d", "resnet50_v1d"),
    ],
)
def test_resnet(name, body, tmp_path, shared_data):
    net = saved(name, tmp_path / "a.params", use_global_stats=True)
    found = convert(ConvertRequest(str(tmp_path / "a.params"), ""))
    assert found.config.model.body == body
    assert not found.flaws()
    maps = get_body(body).maps(mx.sym.Variable("data"), "frozen")
    symbol = mx.sym.Group(list(maps.values()))
    for image in load_photos(shared_data, ODD):
        pixels = (image - np.float32(found.config.data.mean)) / np.float32(found.config.data.std)
        data = mx.nd.array(pixels.transpose(2, 0, 1)[None])
        arrays = {name: mx.nd.array(v) for name, v in found.params.items()}
        auxs = {name: arrays[name] for name in symbol.list_auxiliary_states()}
        args = {n: arrays[n] if n != "data" else data for n in symbol.list_arguments()}
        ours = symbol.bind(mx.cpu(), args, aux_states=auxs, grad_req="null").forward()
        theirs = net.maxpool(net.relu(net.bn1(net.conv1(data))))
        for number, out in enumerate(ours, start=1):
            theirs = getattr(net, f"layer{number}")(theirs)
            expected = theirs.asnumpy()
            assert np.abs(out.asnumpy() - expected).max() <= 1e-4 * expected.std()


#: gluoncv's detectors and the networks here; the first of each form by default
DETECTORS = {
    "faster_rcnn_resnet50_v1b_voc": "faster_rcnn_r50v1_c4",
    "faster_rcnn_fpn_resnet50_v1b_coco": "faster_rcnn_r50_fpn",
    "mask_rcnn_resnet18_v1b_coco": "mask_rcnn_r50v1_c4",
    "mask_rcnn_fpn_resnet18_v1b_coco": "mask_rcnn_r50_fpn",
    "mask_rcnn_fpn_syncbn_resnet18_v1b_coco": "mask_rcnn_r50_fpn",
    "mask_rcnn_fpn_syncbn_mobilenet1_0_coco": "mask_rcnn_r50_fpn",
    "faster_rcnn_resnet50_v1b_coco": "faster_rcnn_r50v1_c4",
    "mask_rcnn_resnet50_v1b_coco": "mask_rcnn_r50v1_c4",
    "mask_rcnn_fpn_resnet50_v1b_coco": "mask_rcnn_r50_fpn",
    "mask_rcnn_resnet101_v1d_coco": "mask_rcnn_r50v1_c4",
    "mask_rcnn_fpn_resnet101_v1d_coco": "mask_rcnn_r101_fpn",
    "faster_rcnn_fpn_syncbn_resnet50_v1b_coco": "faster_rcnn_r50_fpn",
    "faster_rcnn_fpn_syncbn_resnet101_v1d_coco": "faster_rcnn_r101_fpn",
}
SLOW = list(DETECTORS)[6:]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in DETECTORS]
)
def test_detectors(name, tmp_path, shared_data, monkeypatch):
    """Every one of gluoncv's best detections is one of ours, with its mask."""
    net = saved(name, tmp_path / "a.params", pretrained_base=False)
    # its RoIAlign of pyramids leaves rows unwritten on the CPU, unless this operator is missing
    monkeypatch.delattr(mx.nd.contrib, "box_encode")
    limit = f"rpn_post_nms_top_n_test={ROIS}"
    words = ("short_side=0", "long_side=0", "pre_nms_top_n=100000", limit)
    asked = ConvertRequest(str(tmp_path / "a.params"), str(tmp_path / "run"), words=words)
    told, form = "\n".join(run_convert(asked)), name.rpartition("_")[2]
    assert (f"those of gluoncv's *_{form}" in told) == name.startswith("faster_rcnn_resnet")
    detector = Detector.load(tmp_path / "run")
    assert detector.config.network == DETECTORS[name]
    assert detector.class_names == (COCO_CLASSES if "coco" in name else VOC_CLASSES)
    for image in load_photos(shared_data, SIZE):
        sample = prepare_image(image, detector.config.data)
        data = stack_images([sample], SIZE)
        ours = {k: v[0] for k, v in detector.forward(data, sample.im_info[None]).items()}
        theirs = [x.asnumpy()[0] for x in net(mx.nd.array(data))]
        compare(ours, *theirs)


def compare(ours, ids, scores, boxes, masks=None) -> None:
    """gluoncv's 100 best detections, or all, equal ours, except for ties with the last."""
    height, width = SIZE
    best = np.argsort(-scores[:, 0], kind="stable")[:100]
    best = best[ids[best, 0] >= 0]
    assert 50 < len(best) == (ours["det_classes"] > 0).sum()
    ids, scores, boxes = ids[best, 0] + 1, scores[best, 0], boxes[best]
    assert np.unique(ids).size > 2
    boxes = np.clip(boxes, 0, [width, height, width, height])
    away = np.abs(ours["det_boxes"][:, None] - boxes).max(axis=2)
    away[ours["det_classes"][:, None] != ids] = np.inf
    match = away.argmin(axis=0)
    same = (away.min(axis=0) < 0.05) & (np.abs(ours["det_scores"][match] - scores) < 1e-3)
    print(same.sum(), scores[:3], scores[-3:], np.unique(ids).size)
    assert same[scores > scores[-1] + 1e-4].all()
    if masks is not None:
        away = np.abs(ours["det_masks"][match] - masks[best]).max(axis=(1, 2))
        print(away[same].max(), masks.std())
        assert masks[best].std() > 0.1
        assert away[same].max() < 1e-3
