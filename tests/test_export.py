"""Exported detectors: ONNX files compared with MXNet, per operator and as a whole; symbols."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from pycocotools import mask as rle

from mxrcnn.config import Config, make_config, override
from mxrcnn.data.records import Detections
from mxrcnn.data.transforms import padded_size, prepare_image, stack_images
from mxrcnn.export import ExportError
from mxrcnn.export.check import agreement
from mxrcnn.export.graph import OnnxGraph
from mxrcnn.export.model import export_onnx, export_symbol, onnx_model
from mxrcnn.export.walk import add_symbol, to_onnx
from mxrcnn.inference.detector import Detector
from mxrcnn.inference.onnx_engine import OnnxEngine
from mxrcnn.inference.predictor import Predictor
from mxrcnn.runs.checkpoint import CheckpointError, RunFolder, TrainState, join_params
from symnet import get_detector
from symnet.config.classic import ClassicConfig
from symnet.machine import mx
from symnet.ops.precision import precision
from tests.factories import different_networks, plain_quick
from tests.test_tools import tool  # noqa: F401 - a fixture

V = mx.sym.Variable


# ---- operators ----


def both(symbol, **arrays):
    """The first output of a symbol, computed by MXNet and by onnxruntime."""
    arrays = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
    given = {name: mx.nd.array(value) for name, value in arrays.items()}
    expected = symbol.bind(mx.cpu(), given, grad_req="null").forward()[0].asnumpy()
    # no length is told, so none can be relied on
    free = {name: [None] * value.ndim for name, value in arrays.items()}
    shapes = {name: value.shape for name, value in arrays.items()}
    model = to_onnx(symbol, {}, free, shapes, {"out": [None] * expected.ndim})
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return expected, session.run(["out"], arrays)[0]


def random_rois(count, seed=0, width=960, height=640, images=2):
    """RoIs (count, 5) of many sizes, some partly or wholly outside the image, some on .5 cells."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform([-40, -40], [width + 20, height + 20], (count, 2))
    side = np.exp(rng.uniform(0, 5.5, (count, 2)))
    corner[::2], side[::2] = (np.ceil(values[::2] / 8) * 8 for values in (corner, side))
    boxes = np.concatenate([corner, corner + side], axis=1)
    return np.concatenate([rng.integers(0, images, (count, 1)), boxes], axis=1).astype(np.float32)


FEATURE = np.random.default_rng(1).normal(size=(2, 5, 40, 60)).astype(np.float32)


def test_roi_pooling_rounds_as_mxnet():
    pooled = mx.sym.ROIPooling(V("data"), V("rois"), pooled_size=(7, 6), spatial_scale=1 / 16)
    expected, found = both(pooled, data=FEATURE, rois=random_rois(300))
    np.testing.assert_array_equal(found, expected)
    assert (found == 0).all(axis=(1, 2, 3)).any()  # a RoI outside the map


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sample_ratio", [1, 2, -1])
def test_roi_align(aligned, sample_ratio):
    pooled = mx.sym.contrib.ROIAlign(
        V("data"),
        V("rois"),
        pooled_size=(7, 6),
        spatial_scale=1 / 16,
        sample_ratio=sample_ratio,
        aligned=aligned,
    )
    expected, found = both(pooled, data=FEATURE, rois=random_rois(100))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kept", ["some", "none"])
def test_roi_align_skips_rows_without_image(kept):
    rois = random_rois(60)
    skipped = np.arange(len(rois)) % 3 != 0 if kept == "some" else np.full(len(rois), True)
    rois[skipped, 0] = -1
    pooled = mx.sym.contrib.ROIAlign(
        V("data"), V("rois"), pooled_size=(2, 2), spatial_scale=1 / 16, sample_ratio=2
    )
    expected, found = both(pooled, data=FEATURE, rois=rois)
    assert not found[skipped].any()
    # MXNet sets element n of its output to 0 for row n that it skips: those are in the first rows
    whole = ~skipped & (np.arange(len(rois)) >= len(rois) // 20)
    np.testing.assert_allclose(found[whole], expected[whole], atol=1e-5)
    assert whole.sum() == (19 if kept == "some" else 0)


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"id_index": 0}, 185, 199),
        ({"id_index": 0, "topk": 50}, 20, 50),
        ({"id_index": 0, "topk": 1000}, 185, 199),
        ({"id_index": 0, "force_suppress": True}, 100, 180),
        ({"id_index": -1}, 100, 180),
        ({"id_index": 0, "valid_thresh": 0.99}, 0, 10),
        ({"id_index": 0, "valid_thresh": 2.0}, 0, 0),
    ],
)
def test_box_nms(settings, least, most):
    rng = np.random.default_rng(2)
    kinds, scores = rng.integers(0, 5, (2, 200, 1)), rng.permutation(400).reshape(2, 200, 1) / 400
    boxes = random_rois(400, width=150, height=150)[:, 1:].reshape(2, 200, 4)
    nms = mx.sym.contrib.box_nms(
        V("rows"),
        **{"overlap_thresh": 0.3, "valid_thresh": 0.01, **settings},
        score_index=1,
        coord_start=2,
    )
    expected, found = both(nms, rows=np.concatenate([kinds, scores, boxes], axis=2))
    np.testing.assert_array_equal(found, expected)
    survivors = (found[:, :, 1] > 0).sum(axis=1)
    assert (least <= survivors).all()
    assert (survivors <= most).all()


@pytest.mark.parametrize(
    ("size", "im_info", "post", "pre"),
    [
        ((20, 24), [[310, 370, 1.7], [200, 300, 0.5]], 30, 1000),  # more survive than are wanted
        ((5, 4), [[80, 64, 10], [33, 33, 1]], 300, 1000),  # fewer: they are repeated
        ((5, 4), [[80, 64, 1], [70, 50, 1]], 20, 0),  # all anchors take part
        ((1, 1), [[9, 9, 1], [16, 16, 1]], 20, 6000),  # none is of a whole cell
    ],
)
def test_classic_proposals(size, im_info, post, pre):
    rng, anchors = np.random.default_rng(3), 6
    rois = mx.sym.contrib.MultiProposal(
        *(V(name) for name in ("scores", "deltas", "im_info")),
        feature_stride=16,
        scales=(2, 4, 8),
        ratios=(0.5, 1),
        rpn_pre_nms_top_n=pre,
        rpn_post_nms_top_n=post,
        threshold=0.7,
        rpn_min_size=16,
    )
    expected, found = both(
        rois,
        scores=rng.permutation(2 * 2 * anchors * np.prod(size)).reshape(2, -1, *size) / 1e4,
        deltas=rng.normal(0, 0.5, (2, 4 * anchors, *size)),
        im_info=im_info,
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)
    distinct = [len(np.unique(rows, axis=0)) for rows in found.reshape(2, post, 5)]
    assert max(distinct) < post if post == 300 else min(distinct) > 1


RESHAPES = [
    (0, -1),
    (-1, 4),
    (-3, -1),
    (0, 0, -3),
    (0, -4, 2, -1, 0, 0),
    (-3, 0, 0),
    (-2,),
    (0, -2),
]


@pytest.mark.parametrize("shape", [*RESHAPES, (0, -3, -2), (2, -1, 0, 0), (-4, 1, 2, -2)])
def test_reshape_knows_mxnet_s_codes(shape):
    expected, found = both(
        mx.sym.reshape(V("x"), shape=shape), x=np.arange(120).reshape(2, 4, 3, 5)
    )
    np.testing.assert_array_equal(found, expected)


X = V("x")  # a variable made twice would be two inputs


@pytest.mark.parametrize(
    "symbol",
    [
        mx.sym.Pooling(X, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max"),
        mx.sym.Pooling(X, kernel=(3, 3), stride=(2, 2), pool_type="max", pooling_convention="full"),
        mx.sym.Pooling(X, kernel=(3, 3), pad=(1, 1), pool_type="avg"),
        mx.sym.Pooling(X, kernel=(7, 7), global_pool=True, pool_type="avg"),
        mx.sym.UpSampling(X, scale=2, sample_type="nearest"),
        mx.sym.pick(X, mx.sym.min(X, axis=1) * 9, axis=1),
        mx.sym.take(mx.sym.reshape(X, shape=(-1,)), X * 300),
        mx.sym.where(mx.sym.min(X, axis=(1, 2, 3)) > -2.7, X, -X),
        mx.sym.broadcast_sub(X, mx.sym.max(X, axis=2, keepdims=True)) >= 0,
        mx.sym.reverse(mx.sym.transpose(X, axes=(0, 2, 3, 1)), axis=1),
        mx.sym.slice(X, begin=(None, 1, -3), end=(None, None, -1)),
        mx.sym.broadcast_like(
            mx.sym.full((1, 3), 2.0), mx.sym.reshape(X, shape=(0, -1)), (0,), (0,)
        ),
        mx.sym.topk(mx.sym.reshape(X, shape=(0, -1)), k=7, ret_typ="both")[1],
    ],
    ids=lambda symbol: symbol.name,
)
def test_operators(symbol):
    expected, found = both(symbol, x=np.random.default_rng(4).normal(size=(2, 4, 6, 9)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        (mx.sym.sin(V("x")), "operators that cannot be exported to ONNX: sin"),
        (mx.sym.Pooling(V("x"), kernel=(2, 2), pool_type="lp", p_value=2, name="p"), "p: lp"),
        (mx.sym.cast(V("x"), dtype="float16", name="half"), "half: values of float16"),
        (
            mx.sym.topk(V("x"), k=1, ret_typ="value", name="best"),
            "best: topk without ret_typ='both'",
        ),
        (mx.sym.topk(V("x"), k=1, name="best"), "best: topk without ret_typ='both'"),
        (mx.sym.reverse(V("x"), axis=(2, 3), name="r"), r"r: reverse with axis=\(2, 3\)"),
        (mx.sym.max(V("x"), axis=1, exclude=True, name="m"), "m: max with exclude=True"),
        (mx.sym.Dropout(V("x"), mode="always", name="d"), "d: Dropout with mode='always'"),
        (mx.sym.contrib.quantize_v2(V("x")), r"quantized.*float32 run"),
    ],
)
def test_what_has_no_translation_is_refused(symbol, message):
    with pytest.raises(ExportError, match=message):
        add_symbol(OnnxGraph(), symbol, {}, {"x": (1, 1, 4, 4)})


# ---- whole detectors ----

#: quick settings made quicker; pixels so that activations keep their size
SLIM = {
    "model.num_classes": 4,
    "model.width": 0.25,
    "model.box_head_dim": 64,
    "model.rpn_pre_nms_top_n_test": 100,
    "model.rpn_post_nms_top_n_test": 80,
    "model.pre_nms_top_n": 150,
    "model.score_thresh": 0.05,
    "data.class_names": ("cat", "dog", "bird"),
    "data.short_side": 128,
    "data.long_side": 224,
    "data.mean": (120.0, 115.0, 100.0),
    "data.std": (60.0, 60.0, 60.0),
}
#: for the classic detectors, whose RPN has a single level
SLIM_CLASSIC = {
    "model.rpn_pre_nms_top_n_test": 300,
    "model.rpn_post_nms_top_n_test": 60,
    "model.score_thresh": 0.001,
}
#: the form of gluoncv's detectors with a pyramid
AS_GLUONCV = {
    "model.form.fpn_extra": "conv",
    "model.form.anchor_form": "classic",
    "model.form.rpn_nms_all": True,
    "model.form.box_level_offset": 1.0,
    "model.box_roi_size": 14,
    "model.form.box_avg_pool": True,
    "model.box_head_convs": 1,
    "model.form.box_cut_last": True,
}
#: and of matterport's
AS_MATTERPORT = {
    "model.body": "resnet50_keras",
    "model.form.anchor_form": "last_pixel",
    "model.form.box_sampling_ratio": 0,
    "model.form.mask_sampling_ratio": 0,
    "model.form.box_best_class": True,
}
#: (name, settings): every graph, and what the defaults do not use
VARIANTS = [
    *((name, {}) for name in different_networks()),
    ("faster_rcnn_vgg16", {"model.roi_op": "roi_align"}),
    ("faster_rcnn_vgg16", {"model.roi_op": "crop_resize"}),
    ("faster_rcnn_r50_fpn", {"model.norm": "group"}),
    ("faster_rcnn_r50v1_c4", {"model.body": "resnet18_v1d"}),  # averages 7 x 7 to 4 x 4
    ("mask_rcnn_r50_fpn", AS_GLUONCV),
    ("mask_rcnn_r50_fpn", AS_MATTERPORT),
    ("fcos_r50_fpn", {"model.norm": "batch", "model.p6p7": False}),
]
#: parts of parameters' names and the gain of their weights: the first that matches applies
GAINS = {
    "rpn_bbox_pred": 0.1,
    "rpn.head.bbox_pred": 0.1,
    "rpn.head.cls_logits": 0.2,
    "box_predictor": 0.15,
    "bbox_reg": 0.5,
    "bbox_pred": 0.2,
    "cls_logits": 1.0,
    "cls_score": 0.7,
}


def slim_config(name: str, settings: dict) -> Config:
    config = override(make_config(name), plain_quick(name))
    known = {
        key: value
        for key, value in SLIM.items()
        if hasattr(getattr(config, key.split(".")[0]), key.split(".")[1])
    }
    classic = SLIM_CLASSIC if isinstance(config.model, ClassicConfig) else {}
    return override(config, {**known, **classic, **settings})


def random_value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values that preserve the spread of activations, so that scores are spread out too."""
    values = np.random.default_rng([*name.encode()]).normal(size=shape)
    if name.endswith("_gamma"):
        return (0.3 if ".bn2_" in name or ".f.c.1_" in name else 1) * (1 + 0.1 * values)
    if name.endswith("_var"):
        return 1 + 0.2 * np.abs(values)
    if len(shape) == 1:
        return 0.05 * values + (0.5 if "bbox_reg" in name else 0)
    gain = next((gain for part, gain in GAINS.items() if part in name), 1)
    return gain * values * np.sqrt(2 / np.prod(shape[1:]))


def make_detector(name: str, settings: dict) -> Detector:
    config = slim_config(name, settings)
    symbol = get_detector(name).test_symbol(config.model)
    inputs = {"data": (1, 3, 64, 64), "im_info": (1, 3)}
    args, _, auxs = symbol.infer_shape(**inputs)
    shapes = [*zip(symbol.list_arguments(), args), *zip(symbol.list_auxiliary_states(), auxs)]
    params = {n: mx.nd.array(random_value(n, s)) for n, s in shapes if n not in inputs}
    auxiliary = {n: params.pop(n) for n in symbol.list_auxiliary_states()}
    return Detector(symbol, params, auxiliary, config)


@pytest.fixture(scope="module")
def photos(shared_data) -> list[np.ndarray]:
    """Two photos, one cropped to portrait format: two shapes."""
    wide, upright = (
        np.asarray(Image.open(path).convert("RGB"))
        for path in sorted((shared_data / "photos").glob("*.jpg"))[:2]
    )
    return [wide, upright[:, 100:500]]


@pytest.fixture(
    scope="module", params=VARIANTS, ids=lambda v: "-".join([v[0], *map(str, v[1].values())])
)
def pair(request, tmp_path_factory) -> tuple[Detector, Predictor]:
    """A detector with random weights, and its exported file."""
    detector = make_detector(*request.param)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(detector, path)
    return detector, Predictor.load(path)


def assert_agree(ours: Detections, theirs: Detections, least: int = 10) -> None:
    """Every detection has a counterpart; there are many, with different scores."""
    row = agreement("", ours, theirs, floor=0)
    assert row.unmatched == 0
    assert row.detections >= least
    assert len(np.unique(ours.scores.round(3))) > least / 2
    assert not row.mask_gap > 0.01  # NaN where there are no masks


def test_one_file_for_all_shapes(pair, photos):
    ours, theirs = pair
    for photo in (*photos, photos[0][:180, :150], photos[0]):
        assert_agree(ours.predict(photo), theirs.predict(photo))


def test_batches_of_two(pair, photos):
    samples = [prepare_image(photo, pair[0].config.data) for photo in photos]
    size = padded_size([sample.size for sample in samples], pair[0].pad_multiple)
    inputs = stack_images(samples, size), np.stack([sample.im_info for sample in samples])
    outputs = [detector.forward(*inputs) for detector in pair]
    for row, photo in enumerate(photos):
        found = [d.detections(out, row, *photo.shape[:2]) for d, out in zip(pair, outputs)]
        assert_agree(*found)


def test_the_file_describes_itself(pair):
    ours, theirs = pair
    assert theirs.class_names == ("cat", "dog", "bird")
    assert theirs.config.network == ours.config.network
    for name in ("mean", "std", "resize", "size_rounding", "short_side", "long_side", "square"):
        assert getattr(theirs.config.data, name) == getattr(ours.config.data, name)
    assert theirs.pad_multiple == ours.pad_multiple
    model = onnx.load(theirs.source)
    assert {p.key for p in model.metadata_props} == {
        *("network", "mxrcnn_version", "class_names", "preprocessing")
    }
    assert [i.name for i in model.graph.input] == ["data", "im_info"]
    names = ["det_boxes", "det_scores", "det_classes"]
    assert [o.name for o in model.graph.output][:3] == names
    free = [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert free == ["batch", "", "height", "width"]


@pytest.mark.parametrize("name", ["faster_rcnn_vgg16", "mask_rcnn_r50_fpn", "fcos_r50_fpn"])
def test_no_detections(name, photos, tmp_path):
    detector = make_detector(name, {})
    args, auxs = detector.params
    for key, value in args.items():  # the background, or no class at all, is certain
        if "cls_score" in key and key.endswith("_bias") and not key.startswith("rpn"):
            value[:] = -50
            value[0] = 50
        if key.endswith("cls_logits_bias"):
            value[:] = -50
    detector = Detector(detector.symbol, args, auxs, detector.config)
    path = export_onnx(detector, tmp_path / "model.onnx")
    for found in (detector.predict(photos[0]), Predictor.load(path).predict(photos[0])):
        assert len(found) == 0


# ---- agreement ----


def some(boxes, scores, classes):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.float32(scores), np.array(classes, int)
    )


@pytest.mark.parametrize(
    ("theirs", "unmatched"),
    [
        (some([[0, 0, 100, 100], [5, 5, 5, 9]], [0.9, 0.3], [1, 2]), 0),
        (some([[0, 0, 100, 100.4], [5, 5, 5, 9]], [0.9005, 0.3], [1, 2]), 0),
        (some([[0, 0, 100, 102], [5, 5, 5, 9]], [0.9, 0.3], [1, 2]), 2),
        (some([[0, 0, 100, 100], [5, 5, 5, 9]], [0.902, 0.3], [1, 2]), 2),
        (some([[0, 0, 100, 100], [5, 5, 5, 9]], [0.9, 0.3], [2, 2]), 2),
        (some([[0, 0, 100, 100]], [0.9], [1]), 1),
        (some([[0, 0, 100, 100], [5, 5, 5, 9], [0, 0, 9, 9]], [0.9, 0.3, 0.1], [1, 2, 1]), 1),
        (some([[0, 0, 100, 100], [5, 5, 5, 9], [0, 0, 9, 9]], [0.9, 0.3, 0.04], [1, 2, 1]), 0),
        (some([], [], []), 2),
    ],
)
def test_agreement(theirs, unmatched):
    ours = some([[0, 0, 100, 100], [5, 5, 5, 9]], [0.9, 0.3], [1, 2])
    assert agreement("", ours, theirs).unmatched == unmatched


def test_two_cannot_share_a_counterpart():
    twice = some([[0, 0, 100, 100], [0, 0, 100, 100.1]], [0.9, 0.9], [1, 1])
    once = some([[0, 0, 100, 100]], [0.9], [1])
    assert agreement("", twice, once).unmatched == 1
    assert agreement("", once, twice).unmatched == 1


@pytest.mark.parametrize(
    ("side", "changed", "other"),
    [(20, 0, 0), (20, 20, 0), (20, 21, 1), (4, 4, 0), (4, 5, 1)],
)
def test_other_masks_are_no_agreement(side, changed, other):
    """They differ by over a twentieth of the box and four pixels; boxes and scores are equal."""
    box, found = np.float32([[0, 0, side, side]]), []
    for pixels in (0, changed):
        mask = np.ones((24, 24), np.uint8)
        mask.flat[:pixels] = 0
        masks = [rle.encode(np.asfortranarray(mask))]
        found.append(Detections(box, np.float32([0.9]), np.array([1]), masks))
    row = agreement("", *found)
    assert (row.detections, row.unmatched, row.other_masks) == (1, 0, other)
    assert row.mask_gap == pytest.approx(changed / side**2)


# ---- runs, files, tools ----


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a classic detector."""
    detector = make_detector("faster_rcnn_vgg16", {})
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    folder.create(detector.config, {"test": detector.symbol})
    folder.save(TrainState(step=1), join_params(*detector.params), {"none": mx.nd.zeros(1)}, keep=1)
    return folder.path


@pytest.fixture(scope="module")
def photo_file(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(photos[0]).save(path)
    return path


def test_a_symbol_loads_without_this_package(run, photos, tmp_path):
    detector = Detector.load(run)
    files = export_symbol(detector, tmp_path / "cats")
    assert [f.name for f in files] == ["cats-0000.params", "cats-symbol.json", "cats.json"]
    symbol, args, auxs = mx.model.load_checkpoint(str(tmp_path / "cats" / "cats"), 0)
    found = Detector(symbol, args, auxs, detector.config).predict(photos[0])
    assert_agree(detector.predict(photos[0]), found)
    about = json.loads(files[2].read_text())
    assert about["class_names"] == ["cat", "dog", "bird"]
    assert about["preprocessing"]["channel_order"] == "RGB"
    assert about["preprocessing"]["short_side"] == 128
    with pytest.raises(ExportError, match="exists already"):
        export_symbol(detector, tmp_path / "cats")


def test_a_failed_export_leaves_nothing(run, tmp_path, monkeypatch):
    detector = Detector.load(run)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("mxrcnn.export.model.save_arrays", full)
    monkeypatch.setattr(os, "replace", full)
    for export in (export_symbol, export_onnx):
        with pytest.raises(OSError, match="disk full"):
            export(detector, tmp_path / "there.onnx")
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_graphs_are_refused(run):
    detector = Detector.load(run)
    with precision("bf16"):
        symbol = get_detector("faster_rcnn_vgg16").test_symbol(detector.config.model)
    low = Detector(symbol, *detector.params, detector.config)
    with pytest.raises(ExportError, match=r"bfloat16.*float32"):
        onnx_model(low)


def test_the_tools(run, photo_file, tmp_path, tool):  # noqa: F811
    model = tmp_path / "model.onnx"
    code, out, _ = tool("export", run, "--to", model, "--check", photo_file)
    assert code == 0
    assert "detections above 0.05 are the same" in out
    printed = []
    for source in (run, model):
        folder = tmp_path / "pictures"
        code, out, _ = tool("demo", source, photo_file, "--out", folder, "--threshold", 0.1)
        assert code == 0
        assert (folder / "pictures" / "photo.png").stat().st_size > 10_000
        printed.append([line.split() for line in out.splitlines()])
        (folder / "pictures" / "photo.png").unlink()
    assert len(printed[0]) == len(printed[1]) > 5
    for ours, theirs in zip(*printed):
        assert len(ours) == len(theirs)
        assert ours[0] == theirs[0]
        for one, other in zip(ours[1:], theirs[1:]):  # numbers may differ in their last digit
            assert one == other or float(one) == pytest.approx(float(other), abs=0.101)


def test_a_difference_fails(run, photo_file, tmp_path, tool, monkeypatch):  # noqa: F811
    run_graph = OnnxEngine._run

    def away(self, inputs):
        outputs = run_graph(self, inputs)
        return {**outputs, "det_scores": outputs["det_scores"] + 0.01}

    monkeypatch.setattr(OnnxEngine, "_run", away)
    code, _, errors = tool("export", run, "--to", tmp_path / "m.onnx", "--check", photo_file)
    assert code == 1
    assert "does not find what the run finds" in errors


def test_mistakes_are_told(run, photo_file, tmp_path, tool, monkeypatch):  # noqa: F811
    code, _, errors = tool("demo", tmp_path / "no.onnx", photo_file)
    assert (code, "no such file" in errors) == (1, True)
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    code, _, errors = tool("demo", tmp_path / "bad.onnx", photo_file)
    assert (code, "not a readable ONNX model" in errors) == (1, True)
    code, _, errors = tool("export", run, "--to", tmp_path / "folder", "--check", photo_file)
    assert (code, "--check only works for ONNX files" in errors) == (2, True)
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, errors = tool("export", run, "--to", tmp_path / "m.onnx")
    assert (code, "pip install '.[onnx]'" in errors) == (1, True)


def test_foreign_files_are_refused(tmp_path):
    model = to_onnx(mx.sym.relu(V("x")), {}, {"x": [1]}, {"x": (1,)}, {"y": [1]})
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match=r"metadata is not that of mxrcnn export"):
        Predictor.load(tmp_path / "foreign.onnx")
