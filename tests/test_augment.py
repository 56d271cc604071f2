"""Augmentation: pixels, boxes and masks move alike; seeds, limits, and what is left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mxrcnn.cli import main
from mxrcnn.config import ConfigError, DataConfig, override
from mxrcnn.data.batches import make_training_batch
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.data.records import Detections
from mxrcnn.data.shown import representative
from mxrcnn.data.transforms import Augmentation, augmented_sample, expand, load_sample
from mxrcnn.data.transforms import render as render_module
from mxrcnn.data.transforms.augment import PRESETS, TRANSFORMS
from mxrcnn.data.transforms.colour import recoloured
from mxrcnn.data.transforms.render import render
from mxrcnn.data.transforms.scene import (
    Scene,
    after,
    inverted,
    move_boxes,
    move_mask,
    move_points,
    scale_map,
)
from mxrcnn.training.pictures import draw_train_batches, draw_validation
from symnet.geometry.masks import encode, unpack
from tests.factories import Picture, make_dataset, make_record, make_voc, tiny_config

#: the network image has the size of the file, and its pixels are those of the picture
PLAIN = DataConfig(short_side=0, long_side=0, mean=(0, 0, 0), masks=True)
SIZE = (90, 120)
#: corners of the two objects: a square and a triangle, far from each other
SHAPES = ([20, 15, 50, 15, 50, 45, 20, 45], [70, 50, 110, 50, 70, 80])
COLOURS = ((255, 0, 0), (0, 255, 0))
QUARTER = np.array([[0, -1, 90], [1, 0, 0]], np.float64)


def drawn_record(folder, name="a", rle=False, **flags):
    """A record of a picture in which the objects are the only red and green pixels."""
    masks = [move_mask(scale_map(1, 1), [shape], SIZE, SIZE) for shape in SHAPES]
    pixels = np.full((*SIZE, 3), 96, np.uint8)
    for mask, colour in zip(masks, COLOURS):
        pixels[mask] = colour
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)
    corners = [np.reshape(shape, (-1, 2)) for shape in SHAPES]
    boxes = [[*points.min(axis=0), *points.max(axis=0)] for points in corners]
    record = make_record(name, SIZE, boxes, path, **flags)
    segmentations = [encode(m) for m in masks] if rle else [[shape] for shape in SHAPES]
    return replace(record, masks=tuple(segmentations), classes=np.array([1, 2]))


def found(image, colour):
    """The pixels (h, w) bool of an image (3, h, w) that have most of a colour."""
    other = [i for i in range(3) if i != COLOURS[colour].index(255)]
    main = image[COLOURS[colour].index(255)]
    return main - image[other].max(axis=0) > 128


def inner(wrong):
    """The pixels whose eight neighbours are all wrong too: not those along an outline."""
    padded = np.pad(wrong, 1, mode="edge")
    height, width = wrong.shape
    around = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.all(around, axis=0)


def assert_objects_are_where_they_are_drawn(sample, all_labelled=True):
    """Each mask covers the pixels of its object and no others, and each box surrounds them."""
    height, width = sample.size
    masks = unpack(sample.gt_masks, width)
    for colour in (0, 1):
        rows = np.flatnonzero(sample.gt_boxes[:, 4] == colour + 1)
        seen, drawn = found(sample.image, colour), masks[rows].any(axis=0)
        wrong = seen ^ drawn if all_labelled else drawn & ~seen
        assert wrong[inner(wrong)].sum() <= 3
        for x1, y1, x2, y2, _ in sample.gt_boxes[rows]:
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
        if len(rows) == 1 and seen.any() and all_labelled:
            ys, xs = np.nonzero(seen)
            extent = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            outwards = (sample.gt_boxes[rows[0], :4] - extent) * (-1, -1, 1, 1)
            assert (outwards > -1.6).all()
            assert colour == 1 or (outwards < 1.6).all()  # a cut triangle's box may be too large


@pytest.mark.parametrize("rle", [False, True], ids=["polygons", "RLE"])
@pytest.mark.parametrize(
    "items",
    [
        "mirror:1",
        "mirror:1:vertical=1",
        "rotate90:1",
        "scale_jitter:0.4/2",
        "zoom_out:1",
        "iou_crop",
        "mosaic",
        "copy_paste:1",
        "basic",
        "rotate90,mosaic,iou_crop,zoom_out:1:side_range=1/2,scale_jitter:0.7/1.3,mirror",
        "blur:1:sigma=0.5/1,jpeg:1:quality=95/95",
    ],
)
@pytest.mark.parametrize("resize", ["antialias", "linear"])
def test_pixels_boxes_and_masks_move_alike(tmp_path, monkeypatch, items, rle, resize):
    monkeypatch.setattr("mxrcnn.data.transforms.render.LEAST_VISIBLE", 0)
    monkeypatch.setattr("mxrcnn.data.transforms.render.LEAST_SIDE", 0)
    data = replace(PLAIN, augment=tuple(items.split(",")), resize=resize)
    record = drawn_record(tmp_path, rle=rle)
    augmentation = Augmentation.of(data)
    partners = (record,) * augmentation.partners
    shown = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        sample, out = augmented_sample(augmentation, data, record, seed % 2 == 1, partners, rng)
        assert (np.array(sample.size) <= SIZE).all()
        assert_objects_are_where_they_are_drawn(sample, not out["cut off"])
        shown += len(sample.gt_boxes)
    assert shown >= 5


def test_the_identity_is_the_image_as_it_is(tmp_path):
    record, data = drawn_record(tmp_path), replace(PLAIN, augment=("mirror:0",), short_side=130)
    for flip in (False, True):
        got, out = augmented_sample(
            Augmentation.of(data), data, record, flip, (), np.random.default_rng(0)
        )
        want = load_sample(record, data, flip)
        np.testing.assert_array_equal(got.image, want.image)
        np.testing.assert_allclose(got.gt_boxes, want.gt_boxes, rtol=1e-5)
        np.testing.assert_array_equal(got.im_info, want.im_info)
        assert (unpack(got.gt_masks, 173) ^ unpack(want.gt_masks, 173)).mean() < 0.005
        assert not out


@pytest.mark.parametrize("turn", [False, True])
def test_a_jpeg_is_decoded_at_the_size_that_is_drawn(tmp_path, monkeypatch, turn):
    ramp = np.add.outer(np.arange(404), np.arange(302)) // 3
    path = tmp_path / "a.jpg"
    Image.fromarray(np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)).save(path, quality=95)
    record = make_record("a", (404, 302), path=path)
    read, sizes = render_module.read_pixels, []

    def noting(*args):
        sizes.append(read(*args).shape)
        return read(*args)

    monkeypatch.setattr(render_module, "read_pixels", noting)
    got = []
    for reduced in (False, True):
        data = DataConfig(short_side=90, reduced_jpeg=reduced, augment=("mirror:0",))
        items = replace(data, augment=("rotate90:1",)) if turn else data
        sample, _ = augmented_sample(
            Augmentation.of(items), items, record, False, (), np.random.default_rng(0)
        )
        got.append(sample)
    assert [size[:2] for size in sizes] == [(404, 302), (202, 151)]
    np.testing.assert_allclose(got[0].image, got[1].image, atol=4)
    np.testing.assert_array_equal(got[0].gt_boxes, got[1].gt_boxes)
    plain = replace(data, augment=("basic",), reduced_jpeg=True)
    same, _ = augmented_sample(
        Augmentation.of(plain), plain, record, True, (), np.random.default_rng(0)
    )
    np.testing.assert_allclose(same.image, load_sample(record, plain, True).image, atol=4)


def test_maps():
    both = after(QUARTER, scale_map(2, 3, 4, 5))
    np.testing.assert_allclose(move_points(both, np.array([1.0, 1])), [90 - 8, 6])
    np.testing.assert_allclose(after(inverted(both), both), scale_map(1, 1), atol=1e-12)
    np.testing.assert_allclose(move_boxes(QUARTER, np.array([[1, 2, 5, 4]])), [[86, 1, 88, 5]])


def test_a_polygon_that_is_enlarged_beyond_all_measure_is_still_drawn():
    map_ = scale_map(1000, 1000, -30000, -30000)  # the middle of the square, far inside it
    assert move_mask(map_, [SHAPES[0]], SIZE, SIZE).all()
    map_ = scale_map(1000, 1000, -19960, -30000)  # its left side is 40 pixels from the left
    np.testing.assert_array_equal(move_mask(map_, [SHAPES[0]], SIZE, SIZE)[0], np.arange(120) >= 40)


def scene_of(record, *box, canvas=SIZE):
    return Scene.of(record, canvas).cropped(box)


@pytest.mark.parametrize(
    ("box", "boxes", "reason"),
    [
        ((0, 0, 60, 45), [1], "cut off"),  # the triangle is outside
        ((48, 0, 120, 90), [2], "cut off"),  # 7 % of the square
        ((46, 0, 120, 90), [1, 2], None),  # 13 %
    ],
)
def test_objects_out_of_sight_are_left_out_and_counted(tmp_path, box, boxes, reason):
    sample, out = render(scene_of(drawn_record(tmp_path), *box), PLAIN)
    assert sample.gt_boxes[:, 4].tolist() == boxes
    assert out == (Counter({reason: 1}) if reason else Counter())
    assert len(sample.gt_masks) == len(boxes)


def test_small_covered_and_surplus_objects_are_left_out(tmp_path):
    record = drawn_record(tmp_path)
    whole = Scene.of(record, SIZE)
    tiny = whole.moved(scale_map(0.05, 0.05), SIZE)
    assert render(tiny, PLAIN)[1] == Counter({"too small": 2})
    assert render(whole, PLAIN, rows=1)[1] == Counter({"too many": 1})
    lid = replace(whole.layers[0], cut_out=True)  # covers the layer below wholly
    sample, out = render(replace(whole, layers=(*whole.layers, lid)), PLAIN)
    assert (len(sample.gt_boxes), out) == (2, Counter({"covered": 2}))
    shifted = lid.moved(scale_map(1, 1, 15)).clipped((0, 0, 120, 90))
    sample, out = render(replace(whole, layers=(*whole.layers, shifted)), PLAIN)
    assert not out
    np.testing.assert_array_equal(sample.gt_boxes[0, :4], [20, 15, 35, 45])  # what is left of it


def test_ignored_objects_move_and_those_cut_off_become_ignore_regions(tmp_path):
    record = drawn_record(tmp_path, difficult=[False, True])
    sample, out = render(scene_of(record, 48, 0, 120, 90), PLAIN, regions=True)
    assert sample.gt_boxes[:, 4].tolist() == [-2, -2]
    assert out == Counter({"cut off": 1})
    assert not sample.gt_masks.any()
    assert len(render(scene_of(record, 0, 0, 60, 45), PLAIN, regions=True)[0].gt_boxes) == 1


def test_an_iou_crop_keeps_the_objects_whose_centre_it_holds(tmp_path):
    record = drawn_record(tmp_path)
    crop = TRANSFORMS["iou_crop"](sampler_options=(0.3,))
    for seed in range(20):
        scene = crop(Scene.of(record, SIZE), np.random.default_rng(seed), ())
        layer = scene.layers[0]
        centres = move_points(layer.map, (record.boxes[:, :2] + record.boxes[:, 2:]) / 2.0)
        inside = (centres > layer.clip[:2]) & (centres < layer.clip[2:])
        np.testing.assert_array_equal(layer.keep, inside.all(axis=1))
        assert layer.keep.any()


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 400), (700, 2), (64, 64)], ids=lambda size: f"{size[1]}x{size[0]}"
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("empty", [False, True], ids=["object", "empty"])
def test_every_transform_takes_every_image(tmp_path, size, mode, empty):
    height, width = size
    path = tmp_path / "a.png"
    Image.new(mode, (width, height), 200).save(path)
    record = make_record("a", size, () if empty else [(0, 0, width, height)], path)
    record = replace(record, masks=() if empty else ([[0, 0, width, 0, width, height, 0, height]],))
    data = DataConfig(short_side=60, long_side=100, masks=True)
    for name in TRANSFORMS:
        first = "" if name in ("scale_jitter", "short_sides", "mosaic") else ":1"
        config = replace(data, augment=(name + first,))
        augmentation = Augmentation.of(config)
        for seed in range(3):
            rng = np.random.default_rng(seed)
            partners = (record,) * augmentation.partners
            sample, _ = augmented_sample(augmentation, config, record, True, partners, rng)
            assert sample.image.shape[1:] == sample.size
            assert max(sample.size) <= 100
            assert np.isfinite(sample.image).all()


def test_colours_change_as_their_names_say():
    pixels = np.random.default_rng(0).integers(60, 180, (16, 16, 3), dtype=np.uint8)
    grey, image = np.array([0.299, 0.587, 0.114]), Image.fromarray(pixels)
    np.testing.assert_array_equal(np.asarray(recoloured(1, 1, 1, 0, image)), pixels)
    np.testing.assert_allclose(np.asarray(recoloured(1.2, 1, 1, 0, image)), pixels * 1.2, atol=1)
    flat = np.asarray(recoloured(1, 1, 0, 0, image))
    np.testing.assert_allclose(flat, np.repeat((pixels @ grey)[..., None], 3, axis=2), atol=1)
    mean = pixels.reshape(-1, 3).mean(axis=0) @ grey
    np.testing.assert_allclose(
        np.asarray(recoloured(1, 0.5, 1, 0, image)), (pixels + mean) / 2, atol=1
    )
    turned = np.asarray(recoloured(1, 1, 1, 0.05, image))
    np.testing.assert_allclose(turned @ grey, pixels @ grey, atol=2)  # as bright as before
    red = Image.new("RGB", (1, 1), (130, 60, 60))
    assert np.argmax(recoloured(1, 1, 1, 1 / 3, red).getpixel((0, 0))) != 0
    np.testing.assert_array_equal(np.asarray(recoloured(1, 1, 1, 1, image)), pixels)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("mosaik", "no transform; there are none, basic, strong, mirror, "),
        ("mirror:2", "mirror.p=2.0: must be at least 0 and at most 1"),
        ("mirror:q=1", "mirror has no 'q', but p, vertical"),
        ("mirror:0.5:p=1", "p is given twice"),
        ("mirror:x", "p='x': expected a number"),
        ("zoom_out:side_range=3/1", "side_range goes from 3.0 down to 1.0"),
        ("zoom_out:side_range=3", "must be two numbers"),
        ("zoom_out:side_range=a/b", "expected numbers with / in between"),
        ("blur,strong,blur:1", "blur occurs twice"),
        ("copy_paste", "needs masks"),
        ("short_sides:0", "must be at least 1"),
    ],
)
def test_bad_lists_are_refused(items, message):
    config = tiny_config(data__augment=tuple(items.split(",")))
    with pytest.raises(ConfigError, match=r"data\.augment") as caught:
        TrainingPlan(make_dataset([make_record()]), config)
    assert message in str(caught.value)


@pytest.mark.parametrize("masks", [False, True])
def test_lists_are_spelled_out(masks):
    for name in PRESETS:
        spelled = expand((name,), masks)
        assert expand(spelled, masks) == spelled
        assert any(item.startswith("copy_paste") for item in spelled) == (
            masks and name == "strong"
        )
    assert expand((), masks) == expand(("none",), masks) == ()
    assert expand(("zoom_out:0.25",), masks) == ("zoom_out:p=0.25:side_range=1.0/4.0",)


def plan_of(count=6, **settings):
    sizes = [(80, 100), (100, 80), (60, 90)]
    records = [make_record(str(i), sizes[i % 3]) for i in range(count)]
    return TrainingPlan(make_dataset(records), tiny_config(**settings))


def test_a_list_without_basic_shows_each_image_once():
    for items, times in ((("none",), 1), (("basic",), 2), (("blur",), 1), (("basic", "blur"), 2)):
        plan = plan_of(data__augment=items)
        assert sum(len(p.records) for p in plan.epoch(0)) == 6 * times
    assert sum(len(p.records) for p in plan_of(data__flip=False).epoch(0)) == 6


def test_short_sides_are_drawn_for_each_batch_and_fit_its_shape():
    sides = (64, 96)
    plan = plan_of(data__augment=("short_sides:64/96",), train__batch_size=2)
    plans = [p for epoch in range(5) for p in plan.epoch(epoch)]
    assert {p.short_side for p in plans} == set(sides)
    assert max(p.size[0] * p.size[1] for p in plans) <= np.prod(plan.largest_size())
    assert {min(p.size) for p in plans} == set(sides)
    assert len({p.size for p in plans}) <= 8


def test_partners_are_annotated_for_the_same_classes_and_bring_rows():
    records = [
        replace(make_record(str(i)), active_classes=(0, 1) if i < 3 else None) for i in range(9)
    ]
    plan = TrainingPlan(make_dataset(records), tiny_config(data__augment=("mosaic",)))
    assert plan.capacity == 4
    partners = Counter()
    for one in (p for epoch in range(4) for p in plan.epoch(epoch)):
        (others,) = one.partners
        assert {r.active_classes for r in others} == {one.records[0].active_classes}
        partners.update(r.image_id for r in others)
    assert len(partners) == 9
    assert (
        TrainingPlan(make_dataset(records[:1]), tiny_config(data__augment=("mosaic",))).steps == 1
    )
    assert plan_of(count=1, data__augment=("basic",)).capacity == 1


def test_draws_depend_on_seed_epoch_and_place_alone(tmp_path):
    records = [drawn_record(tmp_path, str(i)) for i in range(3)]
    config = override(
        tiny_config(data__augment=("strong",), data__masks=True, train__batch_size=2),
        {"num_classes": 3},
    )
    plan = TrainingPlan(make_dataset(records, ("dog", "cat")), config)

    def batch(epoch, index=0, seed=0):
        other = TrainingPlan(make_dataset(records), override(config, {"seed": seed}))
        return make_training_batch(config, plan.capacity, other.epoch(epoch)[index])

    first = batch(0)
    for name, array in batch(0).data.items():
        np.testing.assert_array_equal(array, first.data[name])
    for other in (batch(1), batch(0, 1), batch(0, 0, 1)):
        assert not np.array_equal(other.data["data"], first.data["data"])
    images = first.data["data"]
    assert not np.array_equal(images[0], images[1])


# Pictures of a run


@pytest.mark.parametrize("mini_mask", [0, 28])
def test_the_picture_of_the_first_batches_shows_what_the_network_gets(tmp_path, mini_mask):
    record = drawn_record(tmp_path, difficult=[False, True])
    settings = {"data.masks": True, "data.mini_mask": mini_mask, "num_classes": 3}
    settings |= {"data.short_side": 90, "data.long_side": 120, "model.ignore_overlap": 0.5}
    config = override(tiny_config(), {**settings, "augment": "mirror:1", "train.batch_size": 2})
    plan = TrainingPlan(make_dataset([record] * 2), config)
    path = tmp_path / "train_batches.png"
    assert draw_train_batches(path, config, plan, ("square", "triangle"), 0, 0) is None
    picture = np.asarray(Image.open(path)).astype(int)
    assert picture.shape == (2 * 96, 4 * 128, 3)  # eight images, each with its padding
    inside = picture[30, 85]  # of the mirrored square: its red under the tint of its mask
    assert inside[0] > 200
    assert inside[1] > 40
    assert np.abs(picture[93, 5] - config.data.mean).max() < 1  # the padding
    record.path.unlink()
    assert "a.png" in draw_train_batches(path, config, plan, ("square", "triangle"), 0, 0)


def test_the_picture_of_a_validation_has_both_sides(tmp_path):
    records = [drawn_record(tmp_path, str(i)) for i in range(9)]
    bare = replace(make_record("bare", boxes=()), masks=())
    chosen = representative(make_dataset([bare, *records]), 4)
    assert [r.image_id for r in chosen] == ["0", "3", "5", "8"]
    assert representative(make_dataset([bare]), 4) == [bare]
    found = [(record, Detections.empty()) for record in chosen]
    path = tmp_path / "val_pictures" / "epoch_0001.jpg"
    assert draw_validation(path, found, ("square", "triangle"), PLAIN) is None
    width, height = Image.open(path).size
    assert width > 2 * 120
    assert height > 4 * 90
    chosen[0].path.unlink()
    assert "0.png" in draw_validation(path, found, ("square", "triangle"), PLAIN)


def test_mxrcnn_data_augment_draws_and_measures(tmp_path, capsys):
    make_voc(tmp_path / "set", {"a": Picture(), "b": Picture(size=(60, 90))})
    words = [str(tmp_path / "set"), "--augment", "mosaic:1,strong", "--out", str(tmp_path / "out")]
    assert main(["data", "augment", *words, "--set", "short_side=80"]) == 0
    names = ["mosaic.jpg", "strong.jpg"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    table = capsys.readouterr().out.splitlines()[-5:]
    assert [line.split()[0] for line in table[2:]] == ["none", "mosaic:1", "strong"]
    assert all(float(line.split()[1]) > 0 for line in table[2:])
    with pytest.raises(SystemExit, match="1"):
        main(["data", "augment", *words, "--augment", "mosaik"])
    assert "there are none, basic, strong, mirror" in capsys.readouterr().err
