"""gluoncv's own networks, saved by it, converted, and run beside it on two photos."""

from __future__ import annotations

import warnings
import zlib

import numpy as np
import pytest

from mxrcnn.compat import mx
from mxrcnn.data.voc import VOC_CLASSES
from mxrcnn.inference.detector import Detector
from mxrcnn.weights.convert import ConvertRequest, convert, run_convert
from mxrcnn.weights.names import COCO_CLASSES
from symnet import resnet
from tests.test_convert import load_photos

#: height and width of the photos: multiples of 32, so that nothing is padded, which gluoncv has not
SIZE = (256, 352)


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter of gluoncv that keeps activations in bounds, and its scores apart."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    z = rng.standard_normal(shape)
    leaf = name.rpartition(".")[2]
    if leaf == "gamma":
        return (0.3 if ".bn3." in name or ".bn2." in name else 1.0) * (1 + 0.1 * z)
    if leaf == "running_var":
        return 1 + 0.2 * np.abs(z)
    if leaf in ("beta", "bias", "running_mean"):
        return 0.05 * z
    gain = {"class_predictor.weight": 2.0, "box_predictor.weight": 1.0, "rpn.loc.weight": 0.15}
    return gain.get(name, 1.0) * z * np.sqrt(2 / np.prod(shape[1:]))


def saved(name: str, path, **options):
    """A network of gluoncv with those values, and the file that it saves."""
    mx.nd.zeros(1)  # puts back what gluoncv's import of mxnet needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gluoncv.model_zoo import get_model

        net = get_model(name, pretrained=False, **options)
        net.initialize()
        net(mx.nd.zeros((1, 3, *SIZE)))  # shapes are known after a first pass
    for key, parameter in net._collect_params_with_prefix().items():
        if ("anchors" not in key and parameter.grad_req != "null") or "running" in key:
            parameter.set_data(mx.nd.array(value(key, parameter.shape)))
    net.save_parameters(str(path))
    return net


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_v1b(depth, tmp_path, shared_data):
    net = saved(f"resnet{depth}_v1b", tmp_path / "a.params", use_global_stats=True)
    found = convert(ConvertRequest(str(tmp_path / "a.params"), ""))
    assert found.config.model.depth == depth
    assert not found.flaws()
    symbol = mx.sym.Group(resnet.resnet(mx.sym.Variable("data"), depth, "frozen"))
    for image in load_photos(shared_data, SIZE):
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


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "names"), [("voc", VOC_CLASSES), ("coco", COCO_CLASSES)])
def test_faster_rcnn_c4(dataset, names, tmp_path, shared_data):
    """Every one of our detections is one of gluoncv's best, and no better one of it is missing."""
    path = tmp_path / "a.params"
    options = {"pretrained_base": False}
    net = saved(f"faster_rcnn_resnet50_v1b_{dataset}", path, **options)
    words = ("short_side=0", "long_side=0", "box_pre_nms_top_n=100000")
    run_convert(ConvertRequest(str(path), str(tmp_path / "run"), words=words))
    detector = Detector.load(tmp_path / "run")
    assert detector.class_names == names
    for image in load_photos(shared_data, SIZE):
        data = detector.config.data
        pixels = (image - np.float32(data.mean)) / np.float32(data.std)
        ids, scores, boxes = (
            x.asnumpy()[0] for x in net(mx.nd.array(pixels.transpose(2, 0, 1)[None]))
        )
        height, width = SIZE
        boxes = np.clip(boxes, 0, [width, height, width, height])
        found = detector.predict(image)
        assert len(found) == 100
        best = np.argsort(-scores[:, 0])[:100]
        ids, scores, boxes = ids[best, 0] + 1, scores[best, 0], boxes[best]
        away = np.abs(found.boxes[:, None] - boxes).max(axis=2)
        away[found.classes[:, None] != ids] = np.inf
        match = away.argmin(axis=0)
        same = (away.min(axis=0) < 0.05) & (np.abs(found.scores[match] - scores) < 1e-3)
        print(dataset, same.sum(), scores[:3], scores[-3:], np.unique(ids).size)
        assert same[scores > scores[-1] + 1e-4].all()
