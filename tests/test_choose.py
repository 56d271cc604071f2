"""Choosing a new run's settings by the data and the machine, and fitting it into a stated time."""

import dataclasses
import json
import math
import os
import re
import signal
import time

import pytest

from mxrcnn.cli import main
from mxrcnn.config import ConfigError, override
from mxrcnn.data import open_dataset
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.data.records import DataError
from mxrcnn.runs.checkpoint import CheckpointError, RunFolder
from mxrcnn.training import run
from mxrcnn.training.choose import choose_first, choose_rest, first, recipes, wants_choice
from mxrcnn.training.choose.fit import Job, Measured, Pace, pick_side, span
from mxrcnn.training.choose.photos import Photos, all_have_masks
from mxrcnn.training.choose.recipes import CPU, GPU, usual_updates
from mxrcnn.training.choose.rehearse import Rehearsal, TooLargeError
from mxrcnn.training.configure import (
    Chosen,
    TrainRequest,
    build_config,
    configure,
    with_classes,
)
from mxrcnn.training.run import prepare, show_config
from tests.factories import Picture, make_dataset, make_record, make_voc, tiny_config

OWN = {"data.dataset": "voc", "data.root": "photos", "data.imageset": "train"}
GIB = 2**30


def boxes(count: int, side: float) -> list[tuple[float, float, float, float]]:
    return [(10.0 * k, 10.0, 10.0 * k + side, 10.0 + 2 * side) for k in range(count)]


def photos(count=200, size=(480, 640), sides=(40,)):
    """A data set of `count` images, each with an object for each shorter side."""
    one = make_record(size=size, boxes=[box for side in sides for box in boxes(1, side)])
    return make_dataset([dataclasses.replace(one, image_id=str(k)) for k in range(count)])


class Machine:
    """Stands for Rehearsal: a step takes `speed` seconds for each megapixel of a batch."""

    def __init__(self, speed=0.5, memory=1.0, allowed=8.0, **more):
        self.speed, self.memory, self.allowed = speed, memory * GIB, int(allowed * GIB)
        self.more, self.asked, self.images = more, [], 0

    def __call__(self, config, plan, val, whole, limited):
        height, width = plan.largest_size()
        self.images = len(plan._records)
        pixels = config.train.batch_size * height * width / 1e6
        self.asked.append((config.data.short_side, config.train.batch_size, whole))
        if limited and self.memory * pixels > self.allowed:
            raise TooLargeError(int(self.memory * pixels), self.allowed)
        memory = int(self.memory * pixels)
        return Measured(self.speed * pixels, memory=memory, allowed=self.allowed, **self.more)


def chosen(dataset, machine=None, val=None, recipe=CPU["boxes"], words=(), devices=1, **request):
    """(configuration, lines) of choosing for this data set on this machine."""
    settings = {**OWN, **request.pop("settings", {})}
    asked = TrainRequest(
        network=recipe.network,
        preset=recipe.preset,
        settings=settings,
        words=words,
        choose=True,
        **request,
    )
    start = Chosen()
    for name, (value, why) in recipes.SETTINGS.items():
        start = start.add(name, value, why)
    found = choose_rest(asked, start, recipe, dataset, val, machine or Machine(), devices)
    scaled = {"train.batch_size"}  # the learning rate follows the user's
    assert not found.chosen.settings.keys() & settings.keys() - scaled - start.settings.keys()
    assert type(found).from_text(found.to_text()) == dataclasses.replace(
        found, chosen=Chosen(json.loads(json.dumps(found.chosen.settings)), found.chosen.reasons)
    )
    made = configure(asked, found.chosen)
    return made, "\n".join(found.lines), found.seconds


# --- the arithmetic of time


@pytest.mark.parametrize(
    ("images", "per_step", "updates"),
    # one image is not seen 8,000 times; a hundred thousand are seen twelve times each
    [(1, 4, 300), (3, 4, 300), (18, 4, 1350), (200, 4, 2000), (200, 8, 2000), (5000, 4, 15000)]
    + [(100_000, 4, 300_000), (100_000, 64, 18_750)],
)
def test_the_usual_updates(images, per_step, updates):
    assert usual_updates(images, per_step) == updates


def test_the_seconds_of_a_training():
    measured = Measured(step=2, start=10, checkpoint=1, image=0.5, validation=3)
    assert Job(steps=5).seconds(4, measured) == 10 + 4 * (5 * 2 + 1)
    job = Job(steps=5, val_images=8, every=3)  # validated after epochs 3 and 4
    assert job.validations(4) == 2
    assert job.seconds(4, measured) == 10 + 44 + 2 * (3 + 4)
    assert job.most_epochs(measured, job.seconds(4, measured), 100) == 4
    assert job.most_epochs(measured, job.seconds(4, measured) - 0.1, 100) == 3
    assert job.most_epochs(measured, 1e9, 7) == 7
    assert job.most_epochs(measured, 5, 7) == 0


@pytest.mark.parametrize(
    ("validation", "epochs", "every"),
    # an epoch takes 10 s; validations take a tenth of the time, and there are at most 25
    [(1, 20, 1), (1.1, 20, 2), (10, 20, 10), (0, 20, 1), (0, 100, 4), (1000, 3, 3)],
)
def test_the_epochs_between_validations(validation, epochs, every):
    measured = Measured(step=1, validation=validation)
    assert Job(10, val_images=5).spaced(epochs, measured).every == every
    assert Job(10, val_images=0).spaced(epochs, measured).every == 1


@pytest.mark.parametrize(
    ("limit", "strict", "side"),
    # an update takes side / 100 seconds; 100 of them are wanted, 25 are enough
    [(1e9, True, 320), (256, True, 256), (255, True, 224), (191, True, 192), (48, True, 192)]
    + [(47, True, 160), (1, True, 128), (1, False, 192), (300, False, 288)],
)
def test_the_side_that_fits(limit, strict, side):
    sides = range(128, 321, 32)
    assert pick_side(sides, 192, 100, lambda s, n: n * s / 100, limit, strict) == side


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.123, "0.12 s"), (5.25, "5.2 s"), (45, "45 s"), (130, "2.2 minutes")]
    + [(2040, "34 minutes"), (9000, "2.5 hours"), (3e5, "3.5 days")],
)
def test_times_in_words(seconds, text):
    assert span(seconds) == text


def test_a_slower_machine_is_told_once():
    now = [10.0]
    pace = Pace(expected=110, began=0, epochs=10, clock=lambda: now[0])
    told = []
    for epoch, seconds in enumerate((10, 10, 10, 40, 40), 1):  # 10 s were expected
        now[0] += seconds
        told.append(pace(epoch))
    assert told[:3] == ["", "", ""]
    assert told[3].startswith("slower than measured: 3.1 minutes in all instead of 1.8 minutes; ")
    assert told[3].endswith("--resume with --epochs 5, ends in time")
    assert told[4] == ""
    now[0] = 0
    pace = Pace(expected=10, began=0, epochs=2, clock=lambda: now[0])
    now[0] = 50
    assert pace(1) == "slower than measured: 1.7 minutes in all instead of 10 s"
    assert Pace(expected=10, began=0, epochs=1, clock=lambda: now[0])(1) == ""  # at the end


# --- what the data are like


@pytest.mark.parametrize(
    ("size", "sides", "wanted", "most"),
    [
        ((480, 640), (100,), 192, 480),  # large objects: the least
        ((480, 640), (30,), 192, 480),
        ((480, 640), (20,), 288, 480),  # 20 of 480 pixels are 12 at 288
        ((480, 640), (5,), 480, 480),  # never larger than the photos
        ((640, 480), (20,), 288, 480),
        ((4000, 6000), (100,), 480, 800),
        ((4000, 6000), (10,), 800, 800),
        ((480, 640), (), 192, 480),
        ((100, 90), (50,), 64, 64),  # smaller than the least
        ((20, 30), (9,), 32, 32),
    ],
)
def test_the_side_that_small_objects_need(size, sides, wanted, most):
    of = Photos.of(photos(3, size, sides), tiny_config())
    there = of.sides(800)
    assert there[-1] == most
    assert of.wanted_side(there, min(192, there[-1])) == wanted


def test_the_long_side_holds_nine_in_ten_photos():
    def long(*shapes):
        records = [make_record(size=shape, boxes=[]) for shape in shapes]
        return Photos.of(make_dataset(records), tiny_config()).long_side(480)

    assert long((480, 640)) == 640
    assert long((480, 640), (640, 480)) == 640  # portrait and landscape
    assert long((480, 640), *[(1080, 1920)] * 9) == 864  # 853.3
    assert long((100, 1000)) == 960  # no more than 2 : 1
    assert long((100, 100)) == 480


def polygon(*corners):
    return [[float(v) for v in corners]]


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ([polygon(1, 1, 9, 1, 9, 9, 1, 9)], False),  # a box as a polygon
        ([polygon(1, 1, 9, 1, 9, 9, 1, 9, 1, 1)], False),
        ([polygon(1, 1, 9, 1, 12, 5, 9, 9, 1, 9, 0, 5)], True),
        ([{"size": [80, 100], "counts": "x"}], True),
        ([polygon(1, 1, 9, 1, 12, 5, 9, 9, 1, 9, 0, 5), None], False),
        (None, False),
    ],
)
def test_masks_that_are_more_than_boxes(masks, expected):
    record = make_record(boxes=boxes(len(masks or [0]), 8))
    record = dataclasses.replace(record, masks=masks and tuple(masks))
    assert all_have_masks(make_dataset([record]), tiny_config().data) is expected


def test_without_objects_there_are_no_masks():
    assert not all_have_masks(make_dataset([make_record(boxes=[])]), tiny_config().data)


# --- the whole choice, on a machine that is made up


def test_a_usual_set_gets_the_largest_size_that_fits():
    machine = Machine(speed=0.8)
    made, lines, seconds = chosen(photos(), machine, val=photos(30))
    data, train = made.config.data, made.config.train
    assert (made.config.network, data.augment[0]) == ("fcos_regnetx_400mf", "basic")
    # 2,000 updates of 4 * 0.8 * side * 4 / 3 * side s, and a tenth for validations: 1,800 s
    assert (data.short_side, data.long_side) == (416, 576)
    assert [side for side, _, _ in machine.asked] == [192, 416]
    assert (train.batch_size, train.lr, train.schedule, train.ema) == (4, 0.02, "cosine", 0.998)
    assert (train.epochs, train.warmup_steps, train.val_every) == (20, 100, 1)
    assert seconds == pytest.approx(recipes.BESIDES + 2000 * 0.8 * 4 * 0.416 * 0.576)
    assert re.search(
        r"image size +416 x 576 +the largest for 2,000 updates within 30 minutes", lines
    )
    assert re.search(r"epochs +20 +2,000 updates are usual for 200 images", lines)
    assert "about 26 minutes: 2,000 steps of 0.77 s, 20 validations of 0 s" in lines
    assert made.sources["train.epochs"].startswith("chosen: 2,000 updates")


def test_a_slow_machine_keeps_what_small_objects_need_and_says_how_long_it_takes():
    made, lines, seconds = chosen(photos(sides=(20,)), Machine(speed=20))
    assert made.config.data.short_side == 288
    assert "2,000 updates take more than 30 minutes; small objects need it" in lines
    assert seconds > 4 * 3600
    assert "about 4.9 hours: 2,000 steps" in lines


@pytest.mark.parametrize("minutes", [5, 18, 60, 600])
@pytest.mark.parametrize("speed", [0.3, 3])
def test_a_stated_time_is_used_and_kept(minutes, speed):
    machine = Machine(speed, image=0.02, validation=1.0, start=2.0, checkpoint=0.3)
    made, lines, seconds = chosen(photos(), machine, val=photos(30), minutes=minutes)
    train, updates = made.config.train, made.config.train.epochs * 100
    assert seconds <= 60 * minutes * recipes.FILL + 1e-6
    most = recipes.MOST_UPDATES * 2000
    assert seconds > 0.8 * 60 * minutes or updates == most
    assert f" of {minutes} minutes: {updates:,} steps" in lines
    assert train.val_every >= train.epochs // recipes.VALIDATIONS
    if updates == most:
        assert "10 times the usual updates; the time is not used up" in lines


def test_a_short_time_takes_smaller_images_and_says_so():
    made, lines, _ = chosen(photos(sides=(20,)), Machine(speed=2), minutes=3)
    assert made.config.data.short_side == 160
    assert "updates take more than 3 minutes; small objects would need 288" in lines
    assert made.config.train.warmup_steps == round(0.05 * 100 * made.config.train.epochs)
    made, lines, _ = chosen(photos(), Machine(speed=3), minutes=2)
    needed = re.search(r"2,000 are usual for 200 images: --minutes (\d+)", lines)
    assert made.config.data.short_side == 128
    _, lines, _ = chosen(
        photos(), Machine(speed=3), settings={"data.short_side": 128}, minutes=int(needed[1])
    )
    assert re.search(r"epochs +2\d +what fits into .* minutes; 20 are usual", lines)


def test_a_time_too_short_for_one_epoch_is_an_error_that_names_one_that_is_not():
    big = photos(2_500)
    with pytest.raises(
        ConfigError, match=r"--minutes 5: too short. An epoch .* 128 x 192; --minu"
    ) as e:
        chosen(big, Machine(speed=10), minutes=5)
    minutes = int(re.search(r"--minutes (\d+) has one", str(e.value))[1])
    machine = Machine(speed=10)
    made, lines, _ = chosen(big, machine, minutes=minutes)
    assert (made.config.train.epochs, machine.images) == (1, 1250)  # measured with half of them
    assert "are usual for 2,500 images" in lines


@pytest.mark.parametrize("count", [1, 3])
def test_few_images(count):
    made, lines, _ = chosen(photos(count))
    assert made.config.train.epochs * -(-2 * count // 4) == 300
    assert made.config.train.batch_size == 4
    assert f"{count} to train on" in lines
    assert "no validation (--val); fewer than 20 are not divided" in lines


def test_no_objects_and_a_mix_of_portrait_and_landscape():
    upright = photos(30, (640, 480), ()).records
    mixed = make_dataset([*upright, *photos(30, sides=()).records])
    made, lines, _ = chosen(mixed)
    assert (made.config.data.short_side, made.config.data.long_side) == (480, 640)
    assert re.search(r"image size +480 x 640 +that of the photos", lines)


def test_tiny_objects_in_large_photos_are_told():
    made, lines, _ = chosen(photos(50, (4000, 6000), (20, 20, 20, 900)))
    assert made.config.data.short_side == 800
    assert "75% of the objects have a side below 8 pixels at this size" in lines
    assert "--tile N" in lines
    assert made.config.data.reduced_jpeg
    made, lines, _ = chosen(photos(50))
    assert "below 8 pixels" not in lines
    assert not made.config.data.reduced_jpeg


def test_little_memory_takes_smaller_batches_and_images():
    machine = Machine(memory=1, allowed=0.11)  # 4 of 192 x 256 need 0.2 GiB
    made, lines, _ = chosen(photos(), machine)
    train = made.config.train
    assert (train.batch_size, train.lr, made.config.data.short_side) == (2, 0.01, 192)
    assert re.search(r"batch +2 +more does not fit into memory", lines)
    assert (train.epochs, made.sources["train.lr"]) == (10, "chosen: 0.02 for 4 images a step")
    made, lines, _ = chosen(photos(), Machine(memory=1, allowed=0.5))
    assert (made.config.train.batch_size, made.config.data.short_side) == (4, 288)
    assert "the largest for this memory; photos: 480" in lines
    with pytest.raises(
        ConfigError, match=r"192 x 256 with batch 1 needs 0.0 GiB of memory, and ma"
    ):
        chosen(photos(), Machine(memory=1, allowed=0.01))


def test_what_the_user_gives_stays_and_the_rest_is_still_chosen():
    made, lines, _ = chosen(
        photos(),
        settings={"train.epochs": 7, "train.batch_size": 2, "data.short_side": 320},
        words=("ema=0.9", "augment=none"),
    )
    train, data = made.config.train, made.config.data
    assert (train.epochs, train.batch_size, train.ema, data.augment) == (7, 2, 0.9, ())
    assert (data.short_side, data.long_side, train.schedule) == (320, 448, "cosine")
    assert train.lr == 0.01
    assert "the default, 0.02 for 4 images a step, scaled to 2 (linear)" in lines
    assert re.search(r"epochs +7 +yours \(--epochs\)", lines)
    assert re.search(r"image size +320 x 448 +yours \(--short-side\)", lines)
    assert re.search(r"averaging +0\.9 +yours \(--set\)", lines)
    machine = Machine()
    made, lines, _ = chosen(photos(4, (1000, 1500)), machine, settings={"data.tile": 256})
    data = made.config.data
    assert (data.tile, data.short_side, data.long_side) == (256, 256, 256)
    assert machine.images == 4 * (1 + 5 * 8)
    assert re.search(r"image size +256 x 256", lines)
    assert "--tile" not in lines
    made, _, _ = chosen(photos(), settings={"data.long_side": 320})
    assert (made.config.data.short_side, made.config.data.long_side) == (192, 320)


def test_gpus_have_larger_images_and_a_batch_for_each():
    machine = Machine(0.01, allowed=16)
    made, _, _ = chosen(photos(400, (1080, 1920)), machine, recipe=GPU["boxes"], devices=2)
    train = made.config.train
    assert (made.config.network, train.batch_size) == ("faster_rcnn_r50_fpn", 8)
    assert (train.lr, made.config.data.short_side) == (0.01, 800)


def test_minutes_alone_choose_only_the_epochs():
    asked = TrainRequest(network="faster_rcnn_vgg16", settings=OWN, minutes=10)
    machine = Machine(speed=1)
    found = choose_rest(asked, Chosen(), None, photos(50), None, machine)
    made = configure(asked, found.chosen)
    # 100 steps of 1 * 600 * 800: 50 s
    assert set(found.chosen.settings) == {"train.epochs"}
    assert (made.config.train.epochs, made.config.data.short_side) == (11, 600)
    assert made.config.train.lr_decay_epoch == (8,)  # 7 of 10
    assert any("decays after epoch 8" in note for note in made.notes)
    assert found.lines[1].startswith("about 9.0 of 10 minutes: 1,100 steps of 0.49 s")
    slow = dataclasses.replace(asked, network="faster_rcnn_r50_fpn")
    lines = choose_rest(slow, Chosen(), None, photos(50), None, machine).lines
    assert any("rises for 1,000 of" in line for line in lines)


# --- what is known before measuring


@pytest.mark.parametrize(
    ("request_with", "wants"),
    [
        ({"settings": OWN}, True),
        ({"words": ("dataset=coco", "root=x")}, True),
        ({"settings": {**OWN, "train.epochs": 3}}, True),
        ({}, False),  # the demo
        ({"settings": {"data.dataset": "synthetic"}}, False),
        ({"settings": OWN, "network": "fcos_r50_fpn"}, False),
        ({"settings": OWN, "preset": "quick"}, False),
        ({"settings": {**OWN, "train.pretrained": "vgg16"}}, False),
        ({"settings": OWN, "words": ("pretrained=x",)}, False),
        ({"settings": OWN, "config": "runs/a"}, False),
        ({"settings": OWN, "resume": "runs/a"}, False),
    ],
)
def test_when_to_choose(request_with, wants):
    assert wants_choice(TrainRequest(**request_with)) is wants


@pytest.mark.parametrize(
    ("request_with", "images", "network", "share"),
    [
        ({}, 20, "fcos_regnetx_400mf", 0.15),
        ({}, 19, "fcos_regnetx_400mf", None),
        ({"settings": {"data.val_imageset": "val"}}, 20, "fcos_regnetx_400mf", None),
        ({"settings": {"train.val_every": 0}}, 20, "fcos_regnetx_400mf", None),
        ({"words": ("val_share=0.3",)}, 20, "fcos_regnetx_400mf", None),
        ({"words": ("mask_channels=8",)}, 20, "fcos_regnetx_400mf", 0.15),  # told later
        ({"anchors": "auto"}, 20, "faster_rcnn_r50_fpn", 0.15),
        ({"gpus": "0,1"}, 20, "faster_rcnn_r50_fpn", 0.15),
        ({"masks": True}, 20, "mask_rcnn_r50_fpn", 0.15),
    ],
)
def test_the_network_and_the_images_to_validate_on(
    monkeypatch, request_with, images, network, share
):
    made = photos(images)
    if request_with.pop("masks", False):
        shape = polygon(1, 1, 9, 1, 12, 5, 9, 9, 1, 9, 0, 5)
        records = [dataclasses.replace(r, masks=(shape,)) for r in made.records]
        made = make_dataset(records)
    monkeypatch.setattr(first, "read_annotations", lambda data, imageset: made)
    settings = {**OWN, **request_with.pop("settings", {})}
    request, found, recipe, read = choose_first(TrainRequest(settings=settings, **request_with))
    assert (request.network, recipe.network, read) == (network, network, made)
    assert found.settings.get("data.val_share") == share


def test_a_step_schedule_of_the_user_s_is_not_replaced(monkeypatch):
    monkeypatch.setattr(first, "read_annotations", lambda data, imageset: photos(5))
    settings = {**OWN, "train.lr_decay_epoch": "3,5"}
    request, found, _, _ = choose_first(TrainRequest(settings=settings))
    train = configure(request, found).config.train
    assert (train.schedule, train.lr_decay_epoch) == ("step", (3, 5))


# --- the whole way


@pytest.fixture
def data(tmp_path) -> dict[str, object]:
    """Settings for 24 photos of their own, which are divided."""
    pictures = {f"img{k:02d}": Picture() for k in range(24)}
    root = make_voc(tmp_path / "voc", pictures)
    return {"data.dataset": "voc", "data.root": str(root), "data.imageset": "2007_train"}


@pytest.fixture
def made_up(monkeypatch) -> Machine:
    """A machine in the place of Rehearsal."""
    machine = Machine(image=0.01, start=1.0)

    class Stub:
        def __init__(self, gpus, num_workers, folder):
            pass

        def __enter__(self):
            return machine

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(run, "Rehearsal", Stub)
    return machine


def test_a_chosen_run_is_repeated_by_its_config(data, made_up, tmp_path, capsys):
    settings = {**data, "train.pictures": False}
    trainer = prepare(TrainRequest(settings=settings, choose=True, out=str(tmp_path / "run")))
    trainer.run.unlock()
    assert (trainer.config.network, trainer.config.data.short_side) == ("fcos_regnetx_400mf", 64)
    assert (trainer.config.data.val_share, len(trainer.validation.dataset)) == (0.15, 4)
    assert (made_up.asked[-1], trainer.config.data.class_names) == ((64, 4, True), ("dog",))
    printed = capsys.readouterr().out
    assert re.search("20 to train, 4 to validate on +--val 0.15: no images to validate", printed)
    (row,) = [row for row in trainer.run.read_log() if row["kind"] == "chosen"]
    assert row["settings"]["train.epochs"][0] == trainer.config.train.epochs
    asked = len(made_up.asked)
    again = prepare(TrainRequest(config=str(tmp_path / "run"), out=str(tmp_path / "again")))
    again.run.unlock()
    assert (again.config, again.plan.steps) == (trainer.config, trainer.plan.steps)
    resumed = prepare(TrainRequest(resume=str(tmp_path / "run")))
    resumed.run.unlock()
    assert (resumed.config, len(made_up.asked)) == (trainer.config, asked)
    with pytest.raises(CheckpointError, match="holds a run already"):
        prepare(TrainRequest(settings=settings, choose=True, out=str(tmp_path / "run")))


def test_the_printed_config_says_what_was_chosen_and_writes_nothing(
    data, made_up, tmp_path, capsys
):
    request = TrainRequest(settings=data, choose=True, minutes=2, out=str(tmp_path / "run"))
    shown = show_config(request)
    assert re.search(r"data\.val_share +0\.15 +chosen: no images to validate on were given", shown)
    assert re.search(r"train\.epochs +\d+ +chosen: what fits into 2 minutes; 150 are us", shown)
    assert "of 2 minutes: " in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("request_with", "message"),
    [
        ({"minutes": 0}, "--minutes 0: expected a time above 0"),
        ({"minutes": math.nan}, "--minutes nan: expected a time above 0"),
        ({"minutes": 3, "words": ("epochs=3",)}, "--minutes 3 and --epochs 3: give one"),
        ({"words": ("anchor_scales=1,2",)}, r"anchor_scales.*network was chosen; --network takes"),
        ({"settings": {"data.root": "no/such"}}, "no/such"),
    ],
)
def test_what_cannot_be(data, made_up, tmp_path, request_with, message):
    settings = {**data, **request_with.pop("settings", {})}
    with pytest.raises((ConfigError, DataError), match=message):
        prepare(
            TrainRequest(settings=settings, choose=True, out=str(tmp_path / "run"), **request_with)
        )
    assert made_up.asked == []


def test_minutes_are_for_new_runs(tmp_path):
    RunFolder(tmp_path).write_config(tiny_config())
    with pytest.raises(ConfigError, match="--minutes is for new runs; --epochs says"):
        prepare(TrainRequest(resume=str(tmp_path), minutes=3))


def test_images_that_cannot_be_divided_are_all_trained_on(tmp_path, made_up, capsys):
    """All look the same, so they belong on one side."""
    root = make_voc(tmp_path / "voc", {"a": Picture()})
    folder = root / "VOC2007"
    names = [f"b{chr(97 + k)}" for k in range(20)]
    for name in names:
        for place, ending in (("JPEGImages", "jpg"), ("Annotations", "xml")):
            (folder / place / f"{name}.{ending}").write_bytes(
                (folder / place / f"a.{ending}").read_bytes()
            )
    (folder / "ImageSets" / "Main" / "train.txt").write_text("\n".join(["a", *names]))
    settings = {"data.dataset": "voc", "data.root": str(root), "data.imageset": "2007_train"}
    trainer = prepare(TrainRequest(settings=settings, choose=True, out=str(tmp_path / "run")))
    trainer.run.unlock()
    assert (trainer.config.data.val_share, trainer.validation) == (0, None)
    assert "no validation: " in capsys.readouterr().out


@pytest.fixture
def tiny(data) -> dict[str, object]:
    """Settings of a small FCOS for these photos."""
    small = {"model.fpn_channels": 16, "model.head_layers": 1, "train.ema": 0.9}
    return {**data, **small, "data.short_side": 64, "data.long_side": 96}


def test_a_real_measurement(tiny, tmp_path):
    """Another process does the steps; it leaves nothing behind."""
    request = TrainRequest(network="fcos_regnetx_400mf", preset="quick", settings=tiny)
    config = build_config(request).config
    dataset = open_dataset(config.data, config.data.imageset)
    config = with_classes(config, dataset)
    plan = TrainingPlan(dataset, config)
    before = {*tmp_path.rglob("*")}
    with Rehearsal(None, 1, tmp_path / "runs" / "new") as measure:
        found = measure(config, plan, dataset, True, True)
        assert min(found.checkpoint, found.image, found.validation) > 0
        assert 0 < found.step < found.start < 60
        assert 0.1 * GIB < found.memory < min(2 * GIB, found.allowed)
        with pytest.raises(TooLargeError):
            measure(override(config, {"batch_size": 10_000}), plan, None, False, True)
        gone = [dataclasses.replace(r, path=tmp_path / "gone.jpg") for r in dataset.records]
        gone = dataclasses.replace(dataset, records=tuple(gone))
        with pytest.raises(DataError, match=r"gone\.jpg"):
            measure(config, TrainingPlan(gone, config), None, False, True)
        os.kill(measure._process.pid, signal.SIGKILL)  # as if memory had run out
        with pytest.raises(TooLargeError):
            measure(config, plan, None, False, True)
    assert {*tmp_path.rglob("*")} == before


@pytest.mark.alone
@pytest.mark.slow
def test_a_real_run_ends_within_its_time(data, tmp_path):
    """45 s; twice as long is allowed, as other programs may take the cores after measuring."""
    start = time.monotonic()
    out = tmp_path / "run"
    words = [f"{key.partition('.')[2]}={value}" for key, value in data.items()]
    assert main(["train", "--set", *words, "--minutes", "0.75", "--out", str(out)], False) == 0
    seconds, found = time.monotonic() - start, RunFolder(out)
    assert seconds < 90
    rows = found.read_log()
    (chosen_row,) = [row for row in rows if row["kind"] == "chosen"]
    assert chosen_row["seconds"] <= 45
    train = found.config().train
    assert rows[-1]["kind"] == "val"
    assert rows[-1]["epoch"] == train.epochs > 1
