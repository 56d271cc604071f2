"""Training on tiles of large images: what they hold, what of them is drawn, and whole runs."""

import json
import re
import signal
import warnings
from dataclasses import replace

import numpy as np
import pytest

from mxrcnn.cli import main
from mxrcnn.config import ConfigError
from mxrcnn.data import store
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.data.records import Window
from mxrcnn.data.tiles import tile_dataset
from mxrcnn.data.transforms import load_sample, read_pixels
from mxrcnn.data.transforms.render import LEAST_SIDE, LEAST_VISIBLE
from mxrcnn.inference.detector import Detector
from mxrcnn.inference.tiles import TiledPredictor, Tiling
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.training.configure import TrainRequest
from mxrcnn.training.loop import train
from mxrcnn.training.run import prepare
from symnet.geometry.masks import crop, decode, encode
from tests.factories import TINY, make_dataset, make_record, noise, tiny_config
from tests.runs import assert_same_end, stop_at


def scene(rng, size, count):
    """A record of random polygons, every second one as an RLE, and their masks (N, H, W)."""
    height, width = size
    corners = rng.integers(-20, 21, (count, 5, 2)) * rng.choice([0.2, 1, 4], (count, 1, 1))
    corners += rng.integers(0, (width, height), (count, 1, 2))
    corners = np.clip(corners, 0, (width, height))
    corners[:, :2] = np.clip(corners[:, :1], 5, (width - 5, height - 5)) + [(0, 0), (4, 5)]
    masks = [part.ravel().tolist() for part in corners]
    drawn = np.array([decode([mask], height, width) for mask in masks])
    masks = [encode(one) if k % 2 else [mask] for k, (mask, one) in enumerate(zip(masks, drawn))]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    flags = {"crowd": rng.random(count) < 0.1, "difficult": rng.random(count) < 0.1}
    return replace(make_record(size=size, boxes=boxes, **flags), masks=tuple(masks)), drawn


@pytest.mark.parametrize("seed", range(8))
def test_objects_that_borders_cut(seed):
    """They are clipped; what is left of them is trained on, or else an ignore region, counted."""
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(100, 240, 2).tolist())
    record, drawn = scene(rng, size, 12)
    data = tiny_config(data__tile=int(rng.integers(70, 130)), data__overlap=rng.random() / 2).data
    made = tile_dataset(make_dataset([record]), replace(data, masks=True))
    whole, *tiles = made.dataset.records
    assert (whole.window, len(tiles)) == (None, made.tiles)
    assert {r.path for r in tiles} == {record.path}
    assert len({r.image_id for r in (whole, *tiles)}) == 1 + made.tiles
    wanted = ~record.crowd & ~record.difficult
    covered, seen, left = np.zeros(size, bool), ~whole.crowd & wanted, 0
    for tile in tiles:
        x1, y1, x2, y2 = tile.window.frame
        assert (tile.height, tile.width) == (y2 - y1, x2 - x1)
        assert max(tile.height, tile.width) <= data.tile
        covered[y1:y2, x1:x2] = True
        boxes = np.clip(record.boxes, (x1, y1, x1, y1), (x2, y2, x2, y2)) - (x1, y1, x1, y1)
        sides = boxes[:, 2:] - boxes[:, :2]
        there = np.flatnonzero((sides > 0).all(axis=1))
        np.testing.assert_allclose(tile.boxes, boxes[there], atol=1e-4)
        share = sides.prod(axis=1) / (record.boxes[:, 2:] - record.boxes[:, :2]).prod(axis=1)
        scale = min(100 / min(tile.height, tile.width), 200 / max(tile.height, tile.width))
        large = (sides * scale >= LEAST_SIDE * 0.99).all(axis=1) & (share >= LEAST_VISIBLE)
        shown = ~tile.crowd & ~tile.difficult
        assert large[there][shown].all()
        left += (wanted[there] & ~shown).sum()
        seen[there[shown]] = True
        assert (tile.truncated == (share[there] < 0.9999)).all()
        for k in np.flatnonzero(shown):
            part = decode(tile.masks[k], tile.height, tile.width)
            assert part.any()
            wrong = part != drawn[there[k], y1:y2, x1:x2]
            assert wrong.mean() <= (0 if there[k] % 2 else 0.01)  # corners are rounded
    assert covered.all()
    assert made.left_out.total() == left
    assert made.unseen == (wanted & ~seen).sum()


@pytest.mark.parametrize("frame", [(300, 20, 364, 84), (0, 0, 1500, 90), (1400, 10, 1500, 90)])
def test_the_part_of_a_mask_in_a_frame(frame):
    """As an RLE to the bit; a polygon that reaches far outside becomes an RLE."""
    rng, (x1, y1, x2, y2) = np.random.default_rng(1), frame
    mask = rng.random((90, 1500)) < 0.5
    assert crop(encode(mask), mask.shape, frame) == encode(mask[y1:y2, x1:x2])
    assert crop(encode(mask & False), mask.shape, frame) == encode(mask[y1:y2, x1:x2] & False)
    polygon = [[2, 5, 1490, 30, 1400, 80]]
    part = crop(polygon, mask.shape, frame)
    assert isinstance(part, dict) is (x2 - x1 < 150)
    wanted = decode(polygon, *mask.shape)[y1:y2, x1:x2]
    assert (decode(part, *wanted.shape) != wanted).mean() < 0.002


def test_tiles_without_objects_are_drawn_less_often():
    record = make_record(size=(600, 800), boxes=[(10, 10, 40, 40), (700, 500, 760, 590)])
    config = tiny_config(data__tile=100, data__flip=False, train__batch_size=1)
    made = tile_dataset(make_dataset([record]), config.data)
    full = made.tiles - made.empty
    assert (full, made.empty) == (5, 75)
    shown = []
    for epoch in range(40):
        plan = TrainingPlan(made.dataset, config)
        records = [r for batch in plan.epoch(epoch) for r in batch.records]
        names = [r.image_id for r in records]
        shown.append({r.image_id for r in records if r.window and not len(r)})
        assert (len(names), len(set(names))) == (8, 1 + full + len(shown[-1]))
        assert [batch.records for batch in plan.epoch(epoch)] == [(r,) for r in records]
    assert all(abs(len(one) - full * config.data.empty_tiles) <= 1 for one in shown)
    assert len(set.union(*shown)) > 25  # others in each epoch
    assert "75 tiles have no objects; 1 of them" in "\n".join(made.lines(config.data))
    none = tiny_config(data__tile=100, data__keep_empty=False)
    lines = "\n".join(tile_dataset(make_dataset([record]), none.data).lines(none.data))
    assert "75 tiles have no objects and are left out (keep_empty is off)" in lines


def test_pixels_of_a_tile(tmp_path, monkeypatch):
    """They are those of the file, decoded once; a changed file is decoded again."""
    path, size = tmp_path / "a.png", (120, 160)
    noise(size).save(path)
    whole = make_record(size=size, path=path)
    data = tiny_config().data
    tile = replace(
        whole, height=50, width=70, window=Window((20, 30, 90, 80), size, tmp_path / "kept")
    )
    wanted = read_pixels(whole, data)[30:80, 20:90]
    decoded = []
    monkeypatch.setattr(
        "mxrcnn.data.transforms.sample.decode_image",
        lambda *args, real=read_pixels.__globals__["decode_image"]: (
            decoded.append(1),
            real(*args),
        )[1],
    )
    for _ in range(2):
        assert (read_pixels(tile, data) == wanted).all()
    assert len(decoded) == 1
    sample = load_sample(tile, data)
    assert sample.size == (100, 140)
    noise(size, seed=5).save(path)
    assert (read_pixels(tile, data) != wanted).any()
    assert len(decoded) == 2

    monkeypatch.setattr(store, "RESERVE", 1 << 60)
    full = replace(tile, window=tile.window._replace(store=tmp_path / "full"))
    with pytest.warns(UserWarning, match="the disk is almost full; decoded images are not kept"):
        assert (read_pixels(full, data) == read_pixels(tile, data)).all()
    assert not list((tmp_path / "full").iterdir())


# Whole runs


def photos(root):
    """A COCO set of four large images and a small one, with masks."""
    (root / "train").mkdir(parents=True)
    images, objects = [], []
    for k in range(3):
        size = (160, 200) if k else (60, 80)
        noise(size, seed=k).save(root / "train" / f"{k}.png")
        images.append(dict(id=k, file_name=f"{k}.png", height=size[0], width=size[1]))
        for x, y in ((5, 5), (60, 30), (130, 110))[: 3 if k else 1]:
            where = dict(bbox=[x, y, 30, 24], area=720, iscrowd=0, image_id=k, category_id=1)
            shape = [[x, y, x + 30, y, x + 30, y + 24, x, y + 24]]
            objects.append({**where, "id": len(objects) + 1, "segmentation": shape})
    file = root / "annotations" / "instances_train.json"
    file.parent.mkdir()
    categories = [{"id": 1, "name": "dog"}]
    file.write_text(json.dumps(dict(images=images, annotations=objects, categories=categories)))
    return root


def begin(root, out, **settings):
    settings = {
        **TINY,
        "data.dataset": "coco",
        "data.root": str(root),
        "data.imageset": "train",
        "data.tile": 80,
        "train.batch_size": 8,
        "train.val_every": 0,
        "train.epochs": 2,
        "train.lr": 1e-4,
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    return prepare(TrainRequest(settings=settings, out=str(out)))


def test_a_run_on_tiles(tmp_path, monkeypatch, capsys):
    """Stopped and resumed it has the same bits; tests and predictions look at the same tiles."""
    root = photos(tmp_path / "set")
    settings = {
        "data__augment": ("mosaic:0.5", "mirror"),
        "model__score_thresh": 0.0,
        "data__empty_tiles": 0.1,
        "data__overlap": 0.3,
    }
    train(begin(root, tmp_path / "whole", **settings), 0)
    trainer = begin(root, tmp_path / "stopped", **settings)
    tiles = 2 * 12
    assert (trainer.tiled.whole, trainer.tiled.tiles, trainer.tiled.empty) == (2, tiles, 6)
    assert 0 < trainer.plan.steps < 2 * (tiles + 3)
    with monkeypatch.context() as patched:
        stop_at(patched, 2)
        assert train(trainer, 0).stopped_by == signal.SIGTERM
    monkeypatch.setattr(store, "RESERVE", 1 << 60)  # and without decoded images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(prepare(TrainRequest(resume=str(trainer.run.path))), 0)
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")
    log = RunFolder(tmp_path / "whole").read_log()
    assert [row["tiles"] for row in log if row["kind"] == "tiles"] == [tiles]

    run = str(tmp_path / "whole")
    assert main(["test", run, "--imageset", "train", "--pictures", "0"]) == 0
    told = capsys.readouterr().out
    assert "2 images were predicted in tiles of 80 x 80 pixels that overlap by at least 30%" in told
    assert main(["test", run, "--imageset", "train", "--tile", "0", "--pictures", "0"]) == 0
    assert "in tiles" not in capsys.readouterr().out

    detector = Detector.load(run)
    path = root / "train" / "1.png"
    found = [detector.predict(path, tile=tile).to_dict() for tile in (None, "auto", 80)]
    assert found[0] == found[1] == found[2]
    assert TiledPredictor(detector, Tiling()).overlap == 0.3
    assert found[0] != detector.predict(path, tile=0).to_dict()
    assert main(["predict", run, str(path), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "--tile 80: as in training (--tile 0: only whole images)" in told.out + told.err


def test_masks_of_tiles_are_trained_on(tmp_path):
    root = photos(tmp_path / "set")
    settings = {"data.tile": 80, "data.dataset": "coco", "data.root": str(root)}
    config = tiny_config(**{k.replace(".", "__"): v for k, v in settings.items()}, data__masks=True)
    from mxrcnn.data import open_dataset

    made = tile_dataset(open_dataset(config.data, "train"), config.data)
    for record in made.dataset.records:
        sample = load_sample(record, config.data)
        masks = np.unpackbits(sample.gt_masks, axis=2, count=sample.size[1]).astype(bool)
        assert len(masks) == len(sample.gt_boxes)
        for mask, box in zip(masks, sample.gt_boxes):
            y, x = np.nonzero(mask)
            seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
            assert np.abs(seen - box[:4]).max() <= 1.5


def test_check_counts_objects_in_tiles(tmp_path, capsys):
    root = photos(tmp_path / "set")
    words = ["check", "--data", str(root), "--network", "fcos_regnetx_400mf", "--tile", "80"]
    main(words)
    told = capsys.readouterr().out
    assert re.search(r"objects in tiles, cut ones in each +19\n", told)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.tile": 40}, "tiles have at least 64 pixels a side"),
        ({"data.tile": -1}, "data.tile=-1: must be at least 0"),
        ({"data.tile": 512, "data.short_side": 32}, "also when resized"),
        ({"data.tile": 512, "data.overlap": 0.95}, r"data.overlap=0.95: must be .* at most 0.9"),
        ({"data.tile": 512, "data.empty_tiles": -1.0}, "data.empty_tiles=-1"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(**{key.replace(".", "__"): value for key, value in settings.items()})


def test_an_overlap_without_tiles(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--dataset", "voc", "--data-root", "none", "--overlap", "0.3"])
    assert "data.overlap=0.3: is for tiles, see --tile N" in capsys.readouterr().err


def test_images_that_fit_are_not_cut():
    data = tiny_config(data__tile=100).data
    made = tile_dataset(make_dataset([make_record(), make_record("b", boxes=())]), data)
    assert [r.window for r in made.dataset.records] == [None, None]
    assert made.lines(data) == ["tiles of 100 x 100 pixels: no image is larger, nothing is cut"]
