"""From a test graph's outputs to detections: decoding, NMS, and the Detector of a run folder."""

import numpy as np
import pytest
from PIL import Image

from mxrcnn.config import make_config, override
from mxrcnn.data.records import DataError, Dataset, ImageRecord
from mxrcnn.inference.detector import Detector
from mxrcnn.runs.checkpoint import CheckpointError, RunFolder, TrainState
from symnet import get_detector
from symnet.geometry.boxes import BoxCoder, clip_boxes, iou
from symnet.machine import mx
from symnet.parts.detections import decode_boxes, detections
from tests.reference import slow_detections


def evaluate(symbols, **values):
    """Outputs of symbols, as arrays."""
    executor = mx.sym.Group(symbols).bind(
        mx.cpu(), {name: mx.nd.array(value) for name, value in values.items()}
    )
    return [output.asnumpy() for output in executor.forward()]


def random_boxes(rng, *shape, largest=60):
    corners = rng.uniform(0, 100, (*shape, 2))
    return np.concatenate([corners, corners + rng.uniform(5, largest, (*shape, 2))], axis=-1)


# --- the graph's last stage ---------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("stds", [(1, 1, 1, 1), (0.1, 0.1, 0.2, 0.2), (0.1, 0.2, 0.3, 0.4)])
def test_decode_boxes_is_the_box_coder_and_a_clip(offset, stds):
    rng = np.random.default_rng(0)
    rois = np.insert(random_boxes(rng, 2, 9), 0, [[0], [1]], axis=2).astype(np.float32)
    deltas = rng.normal(0, 1, (2, 9, 3, 4)).astype(np.float32)
    im_info = np.float32([[90, 130, 1], [120, 70, 2]])
    variables = [mx.sym.Variable(name) for name in ("rois", "deltas", "im_info")]
    symbol = decode_boxes(*variables, stds, offset)
    (found,) = evaluate([symbol], rois=rois, deltas=deltas, im_info=im_info)
    coder = BoxCoder(stds, offset)
    clipped = 0
    for image, (height, width, _) in enumerate(im_info):
        for k in range(3):
            decoded = coder.decode(rois[image, :, 1:], deltas[image, :, k])
            expected = clip_boxes(decoded, height, width)
            clipped += (expected != decoded).sum()
            np.testing.assert_allclose(found[image, :, k], expected, atol=1e-3)
    assert clipped > 0


CASES = [
    # score_thresh, nms_thresh, pre_nms_top_n, max_detections
    (1e-3, 0.3, 1000, 50),
    (0.4, 0.3, 1000, 50),
    (1e-3, 0.7, 1000, 200),
    (1e-3, 0.3, 30, 50),
    (1e-3, 0.3, 1000, 7),
    (0.99, 0.3, 1000, 50),
]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_detections_are_greedy_nms_a_class(case, offset):
    rng = np.random.default_rng(1)
    images, count, classes = 2, 60, 3
    boxes = random_boxes(rng, images, count, classes, largest=90).astype(np.float32)
    scores = rng.permutation(np.linspace(0, 0.98, images * count * classes))
    scores = scores.reshape(images, count, classes).astype(np.float32)
    symbols = detections(mx.sym.Variable("boxes"), mx.sym.Variable("scores"), *case, offset)
    found = evaluate(symbols, boxes=boxes, scores=scores)
    rows = min(case[3], count * classes)
    shapes = [(images, rows, 4), (images, rows), (images, rows)]
    assert [array.shape for array in found] == shapes
    for image in range(images):
        expected = slow_detections(boxes[image], scores[image], *case, offset)
        kept = len(expected)
        found_boxes, found_scores, found_classes = (array[image] for array in found)
        assert (found_classes[kept:] == -1).all()
        assert (found_scores[kept:] == -1).all()
        np.testing.assert_allclose(found_scores[:kept], [e[0] for e in expected])
        np.testing.assert_array_equal(found_classes[:kept], [e[1] for e in expected])
        expected_boxes = np.array([e[2] for e in expected]).reshape(-1, 4)
        np.testing.assert_allclose(found_boxes[:kept], expected_boxes, atol=1e-4)


@pytest.mark.parametrize(("nms_thresh", "kept"), [(0.49, 1), (0.51, 2)])
def test_overlaps_count_the_last_pixel(nms_thresh, kept):
    """10 x 10 and 10 x 20 inclusive pixels: an overlap of 0.5; of 9 x 9 and 9 x 19 it is 0.47."""
    boxes = np.float32([[[[0, 0, 9, 9]], [[0, 0, 9, 19]]]])
    scores = np.float32([[[0.9], [0.8]]])
    variables = [mx.sym.Variable(name) for name in ("boxes", "scores")]
    found = evaluate(detections(*variables, 0.1, nms_thresh, 10, 2, 1), boxes=boxes, scores=scores)
    assert (found[2] > 0).sum() == kept


# --- the detector of a run folder ---------------------------------------------------------------

CLASSES = ("cat", "dog", "emu")


@pytest.fixture(scope="module")
def config():
    settings = {
        "model.num_classes": 4,
        "model.width": 0.05,
        "model.box_head_dim": 32,
        "model.anchor_scales": (1, 2, 4),
        "model.rpn_min_size": 4,
        "model.rpn_post_nms_top_n_test": 40,
        "model.detections_per_img": 30,
        "data.class_names": CLASSES,
        "data.short_side": 96,
        "data.long_side": 160,
        "data.std": (58.0, 58.0, 58.0),
    }
    return override(make_config("faster_rcnn_vgg16"), settings)


def random_params(config, seed=0):
    """Parameters with large weights: many detections, of all classes."""
    detector = get_detector(config.network)
    symbol = detector.test_symbol(config.model)
    inputs = {"data": (1, 3, 96, 96), "im_info": (1, 3)}
    shapes, _, _ = symbol.infer_shape(**inputs)
    params = {}
    for name, shape in zip(symbol.list_arguments(), shapes):
        if name not in inputs:
            rng = np.random.default_rng([seed, *name.encode()])
            value = detector.init(config.model, name, shape, rng, True)
            if name.startswith(("bbox_pred", "rpn_bbox_pred")):
                value = rng.normal(0, 0.1, shape)
            params[f"arg:{name}"] = mx.nd.array(value)
    return params


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A run folder with one checkpoint, of step 3."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.create(config, {"test": get_detector(config.network).test_symbol(config.model)})
    folder.save(TrainState(step=3), random_params(config), {"fc6_weight": mx.nd.ones(1)}, keep=1)
    return folder.path


@pytest.fixture(scope="module")
def detector(run):
    return Detector.load(run)


def pixels(height, width, seed=0):
    """Coarse noise (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def assert_same(found, expected, atol=1e-3):
    assert len(found) == len(expected)
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=atol)


SIZES = [(120, 200), (200, 120), (96, 96), (40, 33), (300, 500), (61, 700), (1, 50)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_boxes_are_in_the_image_s_own_pixels(detector, height, width):
    found = detector.predict(pixels(height, width))
    assert len(found) > 0
    assert found.boxes.dtype == np.float32
    assert set(found.classes) <= {1, 2, 3}
    assert (np.diff(found.scores) <= 0).all()
    assert found.boxes.min() >= 0
    limit = np.array([width, height, width, height])
    assert (found.boxes <= limit * (1 + 1e-6)).all()
    if min(height, width) > 30:
        assert (found.boxes > 0.8 * limit).any(axis=0)[2:].all()


@pytest.mark.parametrize("favourite", [0, 1, 2, 3])
def test_the_class_of_the_highest_logit_is_found(run, config, favourite):
    """The background never scores; any other class comes first, under its own number."""
    params = {name[4:]: value for name, value in random_params(config).items()}
    params["cls_score_weight"][:] = 0
    params["cls_score_bias"][:] = 0
    params["cls_score_bias"][favourite] = 5
    detector = Detector.load(run)
    detector.set_params(params, {})
    found = detector.predict(pixels(96, 128))
    likely = found.scores > 0.5
    assert likely.any() == (favourite > 0)
    assert set(found.classes[likely]) <= {favourite}
    assert set(found.classes[~likely]) <= {1, 2, 3} - {favourite}


def test_an_enlarged_image_has_enlarged_boxes(detector):
    """Pixels doubled without interpolation shrink to the same network image, nearly."""
    small = pixels(96, 128)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    ours, theirs = detector.predict(small), detector.predict(large)
    overlaps = iou(ours.boxes[:5] * 2, theirs.boxes)
    assert (overlaps.max(axis=1) > 0.8).all()


def test_files_and_arrays_are_the_same(detector, tmp_path):
    image = pixels(110, 150)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    assert_same(detector.predict(path), detector.predict(image), atol=0)
    assert_same(detector.predict(str(path)), detector.predict(image), atol=0)


def test_shapes_may_change_again_and_again(detector, run):
    for seed, size in enumerate([*SIZES, *SIZES[::-1]]):
        image = pixels(*size, seed=seed)
        assert_same(detector.predict(image), Detector.load(run).predict(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((20, 30), np.uint8), r"\(H, W, 3\) uint8 RGB, got \(20, 30\) uint8"),
        (np.zeros((20, 30, 4), np.uint8), r"got \(20, 30, 4\) uint8"),
        (np.zeros((20, 30, 3), np.float32), r"got \(20, 30, 3\) float32"),
        (np.zeros((0, 30, 3), np.uint8), r"got \(0, 30, 3\) uint8"),
    ],
)
def test_wrong_arrays_are_refused(detector, image, message):
    with pytest.raises(ValueError, match=message):
        detector.predict(image)


def test_files_that_are_no_images_are_named(detector, tmp_path):
    with pytest.raises(DataError, match=r"nothing\.png: no such image file"):
        detector.predict(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(DataError, match=r"text\.png: not a readable image"):
        detector.predict(tmp_path / "text.png")


# --- batches ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Seven images of three shapes; two of them differ in size within one padded shape."""
    folder = tmp_path_factory.mktemp("images")
    records = []
    nothing = np.zeros(0)
    sizes = [(100, 150), (150, 100), (100, 150), (100, 156), (90, 90), (100, 150), (150, 100)]
    for number, (height, width) in enumerate(sizes):
        path = folder / f"{number}.png"
        Image.fromarray(pixels(height, width, number)).save(path)
        masks = [nothing.astype(bool)] * 3
        records.append(
            ImageRecord(
                str(number),
                path,
                height,
                width,
                np.zeros((0, 4), np.float32),
                nothing.astype(np.int64),
                *masks,
                nothing.astype(np.float32),
            )
        )
    return Dataset("drawn", CLASSES, tuple(records))


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_data_set_is_detected_as_its_images_are(run, detector, dataset, batch_size):
    found = Detector.load(run).predict_dataset(dataset, batch_size=batch_size, progress=False)
    assert set(found) == {record.image_id for record in dataset.records}
    for record in dataset.records:
        assert_same(found[record.image_id], detector.predict(record.path))


def test_proposals_come_in_stored_pixels(run, dataset):
    for record, found, proposals in Detector.load(run).detect(dataset, 2, progress=False):
        assert proposals.shape == (40, 4)
        assert len(found) > 0
        limit = np.array([record.width, record.height] * 2)
        assert proposals.min() >= 0
        assert (proposals <= limit).all()
        assert (proposals[:, 2:].max(axis=0) > 0.8 * limit[2:]).all()


def network_batch(sizes, height, width):
    """data (B, 3, height, width) and im_info (B, 3) of images of those sizes, padded with 0."""
    data = np.zeros((len(sizes), 3, height, width), np.float32)
    for seed, (row, (h, w)) in enumerate(zip(data, sizes)):
        row[:, :h, :w] = np.random.default_rng(seed).normal(0, 1, (3, h, w))
    im_info = [[h, w, 1 + seed] for seed, (h, w) in enumerate(sizes)]
    return data, np.float32(im_info)


def test_a_batch_of_two_is_two_batches_of_one(run):
    """Even for images of different sizes and scales in one batch."""
    data, im_info = network_batch([(96, 128), (80, 100)], 96, 128)
    detector = Detector.load(run)
    both = detector.forward(data, im_info)
    for row in range(2):
        alone = detector.forward(data[row : row + 1], im_info[row : row + 1])
        assert (alone["det_classes"] > 0).sum() > 3
        for name, value in alone.items():
            np.testing.assert_allclose(both[name][row], value[0], atol=1e-3, err_msg=name)


def test_more_padding_changes_nothing(run):
    """Beyond the field of view (98 pixels of VGG16, 16 of the RPN): edges are felt up to there."""
    detector = Detector.load(run)
    plain, im_info = network_batch([(80, 100)], 208, 224)
    wide, _ = network_batch([(80, 100)], 240, 320)
    first, second = detector.forward(plain, im_info), detector.forward(wide, im_info)
    assert (first["det_classes"] > 0).sum() > 3
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, atol=1e-3, err_msg=name)


# --- what may be missing ------------------------------------------------------------------------


def test_missing_things_are_named(run, tmp_path, config):
    with pytest.raises(CheckpointError, match=r"is not a run folder: .*config\.json"):
        Detector.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint.* 5; it has 3"):
        Detector.load(run, checkpoint=5)
    with pytest.raises(CheckpointError, match="no best checkpoint"):
        Detector.load(run, checkpoint="best")
    with pytest.raises(CheckpointError, match=r"none\.params: no such file"):
        Detector.load(run, params=tmp_path / "none.params")
    RunFolder(tmp_path / "new").create(config, {})
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        Detector.load(tmp_path / "new")


def test_parameters_that_do_not_fit(run, tmp_path, config):
    params = random_params(config)
    lacking = {name: value for name, value in params.items() if "fc7" not in name}
    mx.nd.save(str(tmp_path / "lacking.params"), lacking)
    with pytest.raises(CheckpointError, match=r"lacking\.params: .*no fc7_bias, fc7_weight"):
        Detector.load(run, params=tmp_path / "lacking.params")
    mx.nd.save(str(tmp_path / "other.params"), {**params, "arg:fc7_bias": mx.nd.ones((5,))})
    with pytest.raises(CheckpointError, match=r"other\.params: fc7_bias is \(5,\).*\(32,\)"):
        Detector.load(run, params=tmp_path / "other.params")


def test_bare_parameters_and_those_that_replace_them(run, tmp_path, config):
    other = {name[4:]: value for name, value in random_params(config, seed=1).items()}
    mx.nd.save(str(tmp_path / "bare.params"), {**other, "surplus": mx.nd.ones(3)})
    image = pixels(96, 128)
    bare = Detector.load(run, params=tmp_path / "bare.params").predict(image)
    detector = Detector.load(run)
    before = detector.predict(image)
    detector.set_params(other, {})
    assert_same(detector.predict(image), bare)
    assert abs(before.scores[0] - bare.scores[0]) > 1e-3


def test_the_best_checkpoint_is_taken_if_there_is_one(tmp_path, config):
    folder = RunFolder(tmp_path)
    folder.create(config, {"test": get_detector(config.network).test_symbol(config.model)})
    folder.note_best(1, "voc07 mAP", 0.5)
    for step in (1, 2):
        folder.save(TrainState(step=step), random_params(config, step), {"x": mx.nd.ones(1)}, 1)
    assert "step-00000001" in Detector.load(tmp_path).source
    assert "step-00000002" in Detector.load(tmp_path, "last").source
    image = pixels(96, 96)
    best, first = Detector.load(tmp_path), Detector.load(tmp_path, 1)
    assert_same(best.predict(image), first.predict(image))
