"""Tiles of large images: their layout, joining what they cut, and predictions that use them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrcnn.config import ConfigError, make_config, override
from mxrcnn.export.model import export_onnx
from mxrcnn.inference.exported import config_of
from mxrcnn.inference.predictor import Predictor, Wanted
from mxrcnn.inference.tiles import TiledPredictor, Tiling
from mxrcnn.training.configure import with_classes
from symnet.geometry.joining import join_views
from symnet.geometry.masks import decode
from symnet.geometry.tiles import Views, tile_frames
from tests.factories import make_dataset, make_record
from tests.test_export import make_detector
from tests.threads import images, same

MARGIN = 3.0


# --- layout -------------------------------------------------------------------------------------


SIDES = st.integers(64, 1200)


@given(st.integers(1, 3000), st.integers(1, 3000), SIDES, SIDES, st.floats(0, 0.9))
def test_tiles_cover_the_image_evenly(height, width, tall, wide, overlap):
    frames = tile_frames(height, width, (tall, wide), overlap)
    sizes = frames[:, 2:] - frames[:, :2]
    assert (sizes == (min(wide, width), min(tall, height))).all()
    for axis, side, tile in ((0, width, wide), (1, height, tall)):
        starts = np.unique(frames[:, axis])
        assert starts[0] == 0
        assert frames[:, axis + 2].max() == side
        assert (np.diff(starts) <= max(1, tile * (1 - overlap) + 1e-6)).all()
        least = -(-(side - tile) // max(1, int(tile * (1 - overlap) + 1e-6)))
        assert len(starts) == 1 + max(0, least)
    assert len(frames) == len(np.unique(frames, axis=0))


# --- joining ------------------------------------------------------------------------------------


def seen(boxes, classes, frames, size, least=0.0):
    """What a perfect network finds in each frame: the visible part of each object."""
    parts = np.concatenate(
        [
            np.maximum(boxes[None, :, :2], frames[:, None, :2]),
            np.minimum(boxes[None, :, 2:], frames[:, None, 2:]),
        ],
        axis=2,
    )
    visible = (parts[..., 2:] - parts[..., :2] > least).all(axis=2)
    which = np.nonzero(visible)
    found = parts[visible].astype(np.float32)
    scores = np.linspace(0.95, 0.9, len(found), dtype=np.float32)
    return Views(found, scores, classes[which[1]], which[0], frames, size)


def partition(rng, box, least, cells):
    """Cut a box into cells with sides of at least `least`, at random."""
    stack, done = [box], []
    while stack:
        x1, y1, x2, y2 = stack.pop()
        axis = int(rng.integers(2))
        side = (x2 - x1, y2 - y1)[axis]
        if side < 2 * least or (len(stack) + len(done) >= cells or rng.random() < 0.15):
            done.append((x1, y1, x2, y2))
            continue
        place = int(rng.integers(least, side - least + 1))
        if axis == 0:
            stack += [(x1, y1, x1 + place, y2), (x1 + place, y1, x2, y2)]
        else:
            stack += [(x1, y1, x2, y1 + place), (x1, y1 + place, x2, y2)]
    return np.array(done, np.float64)


def scene(seed):
    """Objects that touch each other, and the tiles."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(150, 1500, 2)
    tile, overlap = int(rng.integers(100, 400)), float(rng.choice([0, 0.1, 0.2, 0.5, 0.8]))
    boxes = partition(rng, (0, 0, width, height), int(rng.integers(20, 200)), rng.integers(2, 60))
    boxes = boxes[rng.random(len(boxes)) < 0.8]
    if not overlap:  # without an overlap nobody can tell touching objects from halves
        boxes += 4 * np.array([1, 1, -1, -1])
    classes = rng.integers(1, 3, len(boxes)) if rng.random() < 0.5 else np.ones(len(boxes), int)
    return boxes, classes, tile_frames(height, width, (tile, tile), overlap), (height, width)


def as_set(boxes, classes):
    return sorted((*map(float, box), int(k)) for box, k in zip(boxes, classes))


@settings(max_examples=100)
@given(st.integers(0, 1 << 30))
def test_parts_become_the_objects(seed):
    """Objects longer than several tiles, cut by four, touching: each comes back, once."""
    boxes, classes, frames, size = scene(seed)
    joined = join_views(seen(boxes, classes, frames, size), MARGIN)
    assert as_set(joined.boxes, joined.classes) == as_set(boxes, classes)


def test_what_the_whole_image_adds():
    """It finds what is too large for tiles, settles what their parts leave open, and no more."""
    tiles = tile_frames(300, 900, (300, 300), 0.2)
    long, small = [20, 50, 880, 250], [400, 20, 440, 60]
    left, right = [20, 50, 300, 250], [600, 50, 880, 250]  # the middle was not seen

    def joined(*rows):
        boxes, scores, tile = (np.array(column) for column in zip(*rows))
        views = Views(boxes.astype(np.float32), scores, np.ones(len(rows)), tile, tiles, (300, 900))
        found = join_views(views, MARGIN)
        return list(zip(found.boxes.tolist(), found.scores.tolist())), found.owners.tolist()

    whole, last = -1, len(tiles) - 1
    assert joined((long, 0.5, whole)) == ([(long, 0.5)], [0])
    assert joined((small, 0.9, whole)) == ([], [-1])
    parts = ((left, 0.75, 0), (right, 0.5, last))
    assert joined(*parts)[0] == [(left, 0.75), (right, 0.5)]
    assert joined(*parts, (long, 0.625, whole)) == ([(long, 0.75)], [-1, -1, 0])
    close = [26, 53, 870, 246]  # a good but coarse box: the parts know better
    every = seen(np.array([long]), np.array([1]), tiles, (300, 900))
    rows = [(box, 0.5, tile) for box, tile in zip(every.boxes.tolist(), every.tile)]
    found, owners = joined(*rows, (close, 0.75, whole))
    assert found == [(long, 0.75)]
    assert owners[-1] == -1


def test_two_complete_objects_of_one_class_stay_two():
    """Side by side in the overlap of two tiles; and the worse view of each goes."""
    tiles = tile_frames(200, 360, (200, 200), 0.2)
    boxes = np.float32([[165, 20, 180, 120], [180, 20, 195, 120]] * 2)
    scores = np.float32([0.9, 0.6, 0.7, 0.8])
    views = Views(boxes, scores, np.ones(4), np.array([0, 0, 1, 1]), tiles, (200, 360))
    found = join_views(views, MARGIN)
    assert found.boxes.tolist() == boxes[[0, 1]].tolist()
    assert found.scores.tolist() == [np.float32(0.9), np.float32(0.8)]


def test_weak_parts_do_not_shape():
    """A part that scores far less than the others is not theirs, however well it fits."""
    tiles = tile_frames(200, 360, (200, 200), 0.2)
    boxes = np.float32([[100, 20, 200, 120], [160, 20, 300, 120]])
    for score, right in ((0.6, 300), (0.2, 200)):
        scores = np.float32([0.9, score])
        views = Views(boxes, scores, np.ones(2), np.array([0, 1]), tiles, (200, 360))
        assert join_views(views, MARGIN).boxes.tolist() == [[100, 20, right, 120]]


# --- predicting ---------------------------------------------------------------------------------


class Painted:
    """An engine that finds the visible part of each object by its colour, with a full mask.

    It finds nothing in the whole image scaled down, where colours mix.
    """

    def __init__(self, rows=12):
        self.rows, self.shapes = rows, []

    def start(self, data, im_info):
        self.shapes.append(data.shape)
        count, rows = len(data), self.rows
        self.made = {
            "det_boxes": np.zeros((count, rows, 4), np.float32),
            "det_scores": np.full((count, rows), -1, np.float32),
            "det_classes": np.full((count, rows), -1, np.float32),
            "det_masks": np.ones((count, rows, 14, 14), np.float32),
        }
        for image, (height, width, scale), *out in zip(data, im_info, *self.made.values()):
            pixels = image[0, : int(height), : int(width)]
            values = [] if scale < 1 else np.unique(pixels[pixels > 0])
            for row, value in enumerate(values[:rows]):
                y, x = np.nonzero(pixels == value)
                out[0][row] = x.min(), y.min(), x.max() + 1, y.max() + 1
                out[1][row] = 0.9 if min(x.max() - x.min(), y.max() - y.min()) > 30 else 0.8
                out[2][row] = 1 + value % 2
        return self

    def result(self):
        return self.made


def painted(**changes):
    data = {
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
        "short_side": 128,
        "long_side": 160,
        "trained_scale": 1.0,
    }
    names = {"class_names": ("even", "odd")}
    settings = {f"data.{key}": value for key, value in {**data, **names, **changes}.items()}
    return Predictor(Painted(), override(make_config("fcos_r50_fpn"), settings))


#: class 1: a bus over three tiles; class 2: one in a corner of four, and a small one
OBJECTS = {2: (30, 60, 390, 100), 3: (120, 110, 170, 160), 5: (300, 20, 330, 50)}


def scene_pixels():
    pixels = np.zeros((260, 420, 3), np.uint8)
    for value, (x1, y1, x2, y2) in OBJECTS.items():
        pixels[y1:y2, x1:x2] = value
    return pixels


@pytest.mark.parametrize(
    "options", [{"tile": 160}, {"tile": "auto"}, {"tile": 130, "overlap": 0.5}]
)
def test_predict_in_tiles(options):
    """Boxes, scores, classes and masks are those of the objects, in pixels of the image."""
    predictor, pixels = painted(), scene_pixels()
    found = predictor.predict(pixels, **options)
    boxes = {tuple(map(int, box)): int(k) for box, k in zip(found.boxes, found.classes)}
    assert boxes == {OBJECTS[2]: 1, OBJECTS[3]: 2, OBJECTS[5]: 2}
    assert found.size == pixels.shape[:2]
    for box, rle in zip(found.boxes, found.masks):
        x1, y1, x2, y2 = map(int, box)
        mask = decode(rle, *found.size)
        inner = mask[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
        assert inner.all()
        assert mask.sum() <= (x2 - x1 + 2) * (y2 - y1 + 2)
    shapes = predictor.engine.shapes
    assert shapes[0][2:] == (128, 160)  # the whole image, scaled down
    assert len(set(shapes[1:])) == 1
    tile = {160: (160, 160), "auto": (128, 160), 130: (160, 160)}[options["tile"]]
    assert shapes[1][2:] == tile  # padded to multiples of 32

    for wanted in ({"threshold": 0.85}, {"classes": "odd"}, {"max_detections": 1}):
        part = predictor.predict(pixels, **options, **wanted)
        keep = {
            "threshold": found.scores >= 0.85,
            "classes": found.classes == 2,
            "max_detections": np.arange(3) < 1,
        }[next(iter(wanted))]
        assert same(part, found[keep])


def test_the_scale_of_tiles():
    """As in training, as given, or guessed with a warning; batches share one shape."""
    pixels = scene_pixels()
    double = painted(trained_scale=2.0)
    double.predict(pixels, tile=100)
    assert double.engine.shapes[1][2:] == (224, 224)  # 200, padded
    given = painted()
    tiled = TiledPredictor(given, Tiling(100, 0.2, 0.64, batch_size=4))
    item = tiled.prepare(pixels, "stored")
    tiled.detect(item, Wanted())
    assert tiled.count(item) == 3 * 5
    assert given.engine.shapes[1:] == [(4, 3, 64, 64)] * 4
    unknown = painted(trained_scale=0.0)
    with pytest.warns(UserWarning, match="does not say at what scale it was trained"):
        unknown.predict(pixels, tile=100)
    assert unknown.engine.shapes[1][2:] == (128, 128)
    with pytest.raises(ConfigError, match="give the side of a tile in pixels"):
        unknown.predict(pixels, tile="auto")


def test_a_full_tile_is_told():
    predictor = painted()
    predictor.engine.rows = 2
    with pytest.warns(UserWarning, match="at most 2 detections per tile"):
        predictor.predict(scene_pixels(), tile=160)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": -1}, "tile=-1: expected a number of pixels, or auto"),
        ({"tile": "big"}, "tile='big'"),
        ({"tile": True}, "tile=True"),
        (
            {"tile": 63},
            "at scale 1 that is less than 64 pixels of the network; the least is tile=64",
        ),
        ({"tile": 100, "overlap": 0.95}, "overlap=0.95: expected a share from 0 to 0.9"),
        ({"tile": 100, "overlap": -0.1}, "overlap=-0.1"),
        ({"tile": 100, "overlap": float("nan")}, "overlap=nan"),
        ({"tile": 100, "tile_scale": 0.0}, "tile_scale=0.0"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ConfigError, match=message):
        painted().predict(scene_pixels(), **options)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    detector = make_detector("fcos_r50_fpn", {})
    path = export_onnx(detector, tmp_path_factory.mktemp("tiles") / "model.onnx")
    return detector, Predictor.load(path)


def test_both_engines(networks):
    """They find the same in tiles; an image that fits into one gives what it gives without."""
    image = images([(150, 260)])[0]
    ours, theirs = (
        network.predict(image, tile=128, tile_scale=1.0, max_detections=20) for network in networks
    )
    assert len(ours) == len(theirs) == 20
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    np.testing.assert_allclose(ours.boxes[:5], theirs.boxes[:5], atol=0.1)
    with pytest.warns(UserWarning, match="fit into a tile of 300 x 300 pixels are predicted whole"):
        fits = networks[0].predict([image], tile=300, tile_scale=1.0)
    assert same(fits[0], networks[0].predict(image))


def test_training_records_its_scale():
    records = [make_record(str(k), size, ()) for k, size in enumerate([(300, 400), (100, 400)])]
    config = with_classes(make_config("fcos_r50_fpn"), make_dataset(records))
    assert config.data.trained_scale == pytest.approx((800 / 300 + 1333 / 400) / 2)
    kept = config_of({**EXPORTED, "preprocessing": json.dumps({"trained_scale": 2.5, **BARE})})
    assert kept.data.trained_scale == 2.5
    assert config_of({**EXPORTED, "preprocessing": json.dumps(BARE)}).data.trained_scale == 0


BARE = {"channel_order": "RGB", "short_side": 800}
EXPORTED = {"network": "fcos_r50_fpn", "class_names": json.dumps(["a", "b"])}
