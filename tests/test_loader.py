"""The loader: its plans, its order, and its workers when things go wrong."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrcnn.config import DataConfig, make_config, override
from mxrcnn.data import batches, open_dataset, transforms
from mxrcnn.data import plans as planning
from mxrcnn.data.batches import make_training_batch
from mxrcnn.data.loader import Loader, LoaderError, training_loader
from mxrcnn.data.plans import BatchPlan, TrainingPlan
from mxrcnn.data.records import DataError
from symnet.geometry.masks import unpack
from tests.factories import Picture, make_dataset, make_record, make_voc, tiny_config, truncate

REPO = Path(__file__).resolve().parent.parent
SIZES = st.lists(st.tuples(st.integers(1, 800), st.integers(1, 800)), min_size=1, max_size=12)
#: many landscape, some portrait, one thin, one square
MIXED = [(60, 80)] * 5 + [(80, 60)] * 2 + [(20, 80), (64, 64)]


def plan_of(sizes=MIXED, **settings) -> TrainingPlan:
    records = [make_record(str(i), size) for i, size in enumerate(sizes)]
    return TrainingPlan(make_dataset(records), tiny_config(**settings))


def key(plan: BatchPlan) -> tuple:
    ids = tuple(record.image_id for record in plan.records)
    return plan.epoch, plan.index, ids, plan.flips, plan.seeds, plan.size


def area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if the body takes longer: a hang becomes a failure."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Plans


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_every_image_appears_in_every_epoch(flip, batch_size):
    plan = plan_of(data__flip=flip, train__batch_size=batch_size)
    for epoch in range(3):
        batches = plan.epoch(epoch)
        assert len(batches) == plan.steps
        assert [b.index for b in batches] == list(range(plan.steps))
        assert {len(b.records) for b in batches} == {batch_size}
        seen = Counter((r.image_id, f) for b in batches for r, f in zip(b.records, b.flips))
        flips = (False, True) if flip else (False,)
        assert set(seen) == {(str(i), f) for i in range(len(MIXED)) for f in flips}
        filled_up = sum(seen.values()) - len(seen)
        assert filled_up <= 2 * (batch_size - 1)


def test_batches_are_grouped_by_aspect_and_hold_their_images():
    for batch in plan_of(train__batch_size=4).epoch(0):
        assert len({r.width >= r.height for r in batch.records}) == 1
        sizes = [
            transforms.resized_size(r.height, r.width, tiny_config().data) for r in batch.records
        ]
        assert batch.size == transforms.padded_size([size[:2] for size in sizes], 32)


def test_order_depends_on_the_seed_and_the_epoch_alone():
    def order(seed, epoch):
        return [key(b)[2:4] for b in plan_of(train__seed=seed).epoch(epoch)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    seeds = [s for epoch in (0, 1) for b in plan_of().epoch(epoch) for s in b.seeds]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(("epoch", "index"), [(0, 0), (0, 5), (1, 0), (1, 3), (2, 8)])
def test_a_stream_resumed_equals_the_tail_of_the_whole(epoch, index):
    plan = plan_of(train__batch_size=2)
    whole = [key(b) for b in itertools.islice(plan.stream(0, 0), 40)]
    start = epoch * plan.steps + index
    assert whole[start][:2] == (epoch, index)
    resumed = plan_of(train__batch_size=2).stream(epoch, index)
    assert [key(b) for b in itertools.islice(resumed, 40 - start)] == whole[start:]


@given(SIZES, st.sampled_from([1, 2, 3]), st.booleans())
def test_largest_size_is_the_largest_of_any_batch(sizes, batch_size, flip):
    plan = plan_of(sizes, train__batch_size=batch_size, data__flip=flip)
    areas = [area(b.size) for epoch in range(3) for b in plan.epoch(epoch)]
    assert max(areas) <= area(plan.largest_size())
    if batch_size == 1:
        assert max(areas) == area(plan.largest_size())


def test_largest_size_joins_the_tallest_and_the_widest_of_a_batch():
    sizes = [(60, 64), (10, 100)]
    plan = plan_of(sizes, train__batch_size=2, data__flip=False, data__short_side=0)
    assert plan.largest_size() == (64, 128) == plan.epoch(0)[0].size


def test_voc_photos_have_few_shapes(shared_data):
    data = DataConfig(dataset="voc", root=str(shared_data / "voc100"), imageset="2007_all")
    config = replace(make_config(), data=data)
    dataset = open_dataset(config.data, config.data.imageset)
    for batch_size in (1, 2):
        plan = TrainingPlan(dataset, override(config, {"batch_size": batch_size}))
        shapes = {b.size for epoch in range(2) for b in plan.epoch(epoch)}
        assert len(shapes) <= 25
        assert all(side % 32 == 0 for shape in shapes for side in shape)


def test_empty_images_are_kept_or_dropped_by_config():
    records = [
        make_record("full"),
        make_record("empty", boxes=[]),
        make_record("crowd", crowd=[True]),
        make_record("difficult", difficult=[True]),
    ]

    def ids(**settings):
        plan = TrainingPlan(make_dataset(records), tiny_config(data__flip=False, **settings))
        return {r.image_id for b in plan.epoch(0) for r in b.records}

    assert ids() == {"full", "empty", "crowd", "difficult"}
    assert ids(data__keep_empty=False) == {"full"}
    assert ids(data__keep_empty=False, data__use_difficult=True) == {"full", "difficult"}
    with pytest.raises(DataError, match="keep_empty"):
        TrainingPlan(make_dataset(records[1:2]), tiny_config(data__keep_empty=False))
    with pytest.raises(DataError, match="no images"):
        TrainingPlan(make_dataset([]), tiny_config())


@pytest.mark.parametrize(("counts", "capacity"), [([0, 0], 1), ([3, 7, 0], 7), ([1], 1)])
def test_capacity_is_the_largest_number_of_objects(counts, capacity):
    records = [make_record(str(i), boxes=[(0, 0, 9, 9)] * n) for i, n in enumerate(counts)]
    crowded = make_record("c", boxes=[(0, 0, 9, 9)] * 99, crowd=[True] * 99)
    assert TrainingPlan(make_dataset([*records, crowded]), tiny_config()).capacity == capacity


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_test_plans_have_every_image_once_in_batches_of_one_shape(batch_size):
    records = [make_record(str(i), size) for i, size in enumerate(MIXED)]
    data = tiny_config().data
    plans = planning.test_plans(make_dataset(records), data, 16, batch_size)
    assert sorted(r.image_id for p in plans for r in p.records) == [r.image_id for r in records]
    for plan in plans:
        assert len(plan.records) <= batch_size
        for record in plan.records:
            size = transforms.resized_size(record.height, record.width, data)[:2]
            assert transforms.padded_size([size], 32) == plan.size


# Batches


@pytest.fixture(scope="module")
def voc_config(tmp_path_factory):
    """A config for a VOC folder with seven images of several kinds."""
    objects = [("dog", 10, 20, 50, 60), ("cat", 0, 0, 30, 30)]
    pictures = {str(i): Picture((80, 100), objects[: i % 3]) for i in range(4)}
    pictures["tall"] = Picture((100, 61), objects, ending=".png")
    pictures["grey"] = Picture((70, 100), objects, mode="L")
    pictures["rgba"] = Picture((80, 90), objects, mode="RGBA", ending=".png")
    root = make_voc(tmp_path_factory.mktemp("voc"), pictures)
    return tiny_config(data__dataset="voc", data__root=str(root), train__batch_size=2)


def batches_of(config, num_workers, epoch=0, index=0, count=12):
    plan = TrainingPlan(open_dataset(config.data, config.data.imageset), config)
    with training_loader(config, plan, num_workers) as loader:
        return list(loader.batches(itertools.islice(plan.stream(epoch, index), count)))


def assert_same(batches, others):
    for one, other in itertools.zip_longest(batches, others):
        assert (one.epoch, one.index, one.image_ids) == (other.epoch, other.index, other.image_ids)
        for arrays, expected in ((one.data, other.data), (one.labels, other.labels)):
            assert arrays.keys() == expected.keys()
            for name, array in arrays.items():
                assert array.dtype == expected[name].dtype
                np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("augment", ["basic", "strong"])
def test_batches_do_not_depend_on_the_number_of_workers_nor_on_the_start(voc_config, augment):
    voc_config = override(voc_config, {"augment": augment})
    batches = batches_of(voc_config, 0)
    assert len({b.epoch for b in batches}) > 1
    assert_same(batches_of(voc_config, 3), batches)
    assert_same(batches_of(voc_config, 1, epoch=0, index=5, count=7), batches[5:])


def test_arrays_of_a_batch(voc_config):
    config = override(voc_config, {"batch_size": 3})
    plan = TrainingPlan(open_dataset(config.data, "2007_train"), config)
    assert plan.capacity == 2
    with training_loader(config, plan, 0) as loader:
        for batch, made in zip(loader.batches(plan.epoch(0)), plan.epoch(0)):
            assert batch.data["data"].shape == (3, 3, *made.size)
            assert batch.data["im_info"].shape == (3, 3)
            assert batch.data["gt_boxes"].shape == (3, 2, 5)
            objects = (batch.data["gt_boxes"][:, :, 4] > 0).sum(axis=1)
            assert objects.tolist() == [len(record) for record in made.records]
            assert (batch.data["gt_boxes"][batch.data["gt_boxes"][:, :, 4] <= 0] == -1).all()
            assert all(array.dtype == np.float32 for array in batch.labels.values())


def masked_config(root: Path, **settings):
    data = {"data.dataset": "coco", "data.root": str(root), "data.masks": True}
    sides = {"data.short_side": 90, "data.long_side": 120, "train.batch_size": 2}
    return override(tiny_config(model__num_classes=4), {**data, **sides, **settings})


def test_masks_of_a_batch_are_those_of_its_samples(shared_data):
    config = masked_config(shared_data / "fruits_nuts")
    dataset = open_dataset(config.data, "trainval")
    plan = TrainingPlan(dataset, config)
    batch_plan = next(p for p in plan.epoch(0) if p.flips == (True, False))
    batch = make_training_batch(config, plan.capacity, batch_plan)
    height, width = batch_plan.size
    masks = batch.data["gt_masks"]
    assert masks.shape == (2, plan.capacity, height, width // 8)
    assert masks.dtype == np.uint8
    for got, record, flip in zip(masks, batch_plan.records, batch_plan.flips):
        sample = transforms.load_sample(record, config.data, flip)
        h, w = sample.size
        assert not got[len(record) :].any()
        bits = unpack(got[: len(record)], width)
        np.testing.assert_array_equal(bits[:, :h, :w], unpack(sample.gt_masks, w))
        assert not bits[:, h:].any()
        assert not bits[:, :, w:].any()
        assert bits.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(batch.data["active_classes"], np.ones((2, 4), np.float32))
    assert batch.data["active_classes"].dtype == np.float32


def test_mini_masks_of_a_batch(shared_data):
    config = masked_config(shared_data / "fruits_nuts", **{"data.mini_mask": 20})
    plan = TrainingPlan(open_dataset(config.data, "trainval"), config)
    masks = make_training_batch(config, plan.capacity, plan.epoch(0)[0]).data["gt_masks"]
    assert masks.shape == (2, plan.capacity, 20, 3)
    assert (unpack(masks, 24)[..., 20:] == 0).all()
    assert unpack(masks, 20).any()


def test_active_classes_are_the_records(shared_data):
    config = masked_config(shared_data / "fruits_nuts")
    dataset = open_dataset(config.data, "trainval")
    records = [replace(r, active_classes=(0, 2)) for r in dataset.records[:1]]
    plan = TrainingPlan(replace(dataset, records=(*records, dataset.records[1])), config)
    rows = []
    for batch_plan in plan.epoch(0):
        got = make_training_batch(config, plan.capacity, batch_plan).data["active_classes"]
        want = [[1, 0, 1, 0] if r.active_classes else [1] * 4 for r in batch_plan.records]
        np.testing.assert_array_equal(got, want)
        rows += want
    assert [1, 0, 1, 0] in rows
    assert [1] * 4 in rows


def test_a_plan_names_objects_without_masks_at_the_start():
    records = [make_record("0"), replace(make_record("1"), path=Path("bare.jpg"))]
    records[0] = replace(records[0], masks=([[1, 1, 5, 1, 5, 5]],))
    with pytest.raises(DataError, match=r"bare\.jpg: object 0 has no mask"):
        TrainingPlan(make_dataset(records), tiny_config(data__masks=True))
    TrainingPlan(make_dataset(records), tiny_config())


def test_without_masks_a_batch_is_as_ever_and_testing_needs_none(voc_config):
    (batch,) = batches_of(voc_config, num_workers=0, count=1)
    assert set(batch.data) == {"data", "im_info", "gt_boxes"}
    data = replace(voc_config.data, masks=True)
    dataset = open_dataset(voc_config.data, voc_config.data.imageset)
    for plan in planning.test_plans(dataset, data, 32, 1):
        assert set(batches.make_test_batch(data, plan).data) == {"data", "im_info"}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_square_batches_have_one_shape(batch_size):
    square = {"data__square": True, "data__long_side": 100, "data__short_side": 80}
    plan = plan_of(train__batch_size=batch_size, **square)
    assert {b.size for b in plan.epoch(0)} == {(128, 128)} == {plan.largest_size()}
    dataset = make_dataset([make_record(str(i), size) for i, size in enumerate(MIXED)])
    plans = planning.test_plans(dataset, tiny_config(**square).data, 32, batch_size)
    assert {p.size for p in plans} == {(128, 128)}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_truncated_image_is_named_through_the_process_boundary(tmp_path, num_workers):
    root = make_voc(tmp_path, {"good": Picture(), "bad": Picture()})
    path = truncate(root / "VOC2007/JPEGImages/bad.jpg")
    config = tiny_config(data__dataset="voc", data__root=str(root))
    with within(20), pytest.raises(DataError, match=r"bad\.jpg.*truncated") as caught:
        batches_of(config, num_workers)
    assert caught.value.path == str(path)


def test_skip_bad_drops_and_reports_undecodable_images(tmp_path):
    root = make_voc(tmp_path, {"good": Picture(), "bad": Picture()})
    truncate(root / "VOC2007/JPEGImages/bad.jpg")
    config = tiny_config(data__dataset="voc", data__root=str(root), data__skip_bad=True)
    dataset = open_dataset(config.data, "2007_train")
    assert [record.image_id for record in dataset.records] == ["good"]
    assert any("bad.jpg" in line for line in dataset.notes.lines())
    assert len(batches_of(config, 0)) == 12

    truncate(root / "VOC2007/JPEGImages/good.jpg")
    with pytest.raises(DataError, match="no image can be decoded"):
        open_dataset(config.data, "2007_train")


@pytest.mark.alone
def test_loading_is_much_faster_than_training(shared_data):
    """Blood cell images at native size: a training step takes about a second, a batch 0.03 s."""
    config = override(
        make_config(),
        {
            "dataset": "voc",
            "data.root": str(shared_data / "bccd"),
            "imageset": "2007_val",
            "short_side": 480,
            "long_side": 640,
        },
    )
    plan = TrainingPlan(open_dataset(config.data, config.data.imageset), config)
    with training_loader(config, plan, 1) as loader:
        batches = loader.batches(plan.epoch(0))
        next(batches)
        took = []
        for _ in itertools.islice(batches, 25):
            took.append(time.perf_counter())
    assert np.median(np.diff(took)) < 0.3


# Workers (the functions that they run are at module level, where a new process finds them)


def echo(plan):
    return plan, os.getpid()


def slow_at_times(plan):
    time.sleep(0.3 if plan % 4 == 0 else 0)
    return plan


def has_mxnet(make, plan):
    make(plan)
    return "mxnet" in sys.modules


def fail(plan):
    raise KeyError("no such thing")


def die_making(plan):
    os.kill(os.getpid(), signal.SIGKILL)


def die_writing(plan):
    """The worker is killed when half of a batch is written, and the reader waits for the rest."""

    def write_half(self, data):
        os.write(self._handle, bytes(data[: len(data) // 2]))
        os.kill(os.getpid(), signal.SIGKILL)

    Connection._send = write_half
    return np.zeros(1000)


def test_batches_come_in_the_order_of_the_plans():
    with Loader(slow_at_times, 2) as loader:
        assert list(loader.batches(range(12))) == list(range(12))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_works_ahead_but_not_without_end(num_workers):
    taken = []

    def plans():
        for number in itertools.count():
            taken.append(number)
            yield number

    with Loader(echo, num_workers) as loader:
        next(loader.batches(plans()))
        assert max(2, num_workers) <= len(taken) <= 10


def test_workers_do_not_import_mxnet(voc_config):
    plan = TrainingPlan(open_dataset(voc_config.data, "2007_train"), voc_config)
    make = partial(make_training_batch, voc_config, plan.capacity)
    with Loader(partial(has_mxnet, make), 1) as loader:
        assert list(loader.batches(plan.epoch(0)[:2])) == [False, False]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_other_errors_keep_their_type_and_say_where(num_workers):
    with Loader(fail, num_workers) as loader, pytest.raises(KeyError) as caught:
        list(loader.batches(range(3)))
    if num_workers:
        assert "in fail" in str(caught.value.__cause__)


@pytest.mark.parametrize("make", [die_making, die_writing])
def test_a_worker_that_dies_raises_and_never_hangs(make):
    with (
        within(20),
        Loader(make, 2) as loader,
        pytest.raises(RuntimeError, match=r"loader worker died.*-9"),
    ):
        list(loader.batches(range(8)))
    assert multiprocessing.active_children() == []


def use_memory(amount: int) -> int:
    """A worker's item: this many bytes, while it may allocate 512 MB more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, resource.RLIM_INFINITY))
    return int(np.ones(amount, np.uint8)[-1])


def test_a_worker_without_memory_says_so():
    with Loader(use_memory, 1) as loader:
        assert list(loader.batches([1000])) == [1]
        with pytest.raises(LoaderError, match=r"out of memory \(Unable to .*\)\. Fewer workers"):
            list(loader.batches([2**31]))


@pytest.mark.parametrize("killed", [1, 2])
def test_workers_killed_from_outside_raise_in_the_trainer(killed):
    with within(20), Loader(echo, 2) as loader:
        batches = loader.batches(itertools.count())
        next(batches)
        for worker in multiprocessing.active_children()[:killed]:
            os.kill(worker.pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(RuntimeError, match="loader worker died"):
            for _ in itertools.islice(batches, 100):
                pass
        assert time.monotonic() - start < 5
    assert multiprocessing.active_children() == []


def test_closing_leaves_no_processes():
    with within(20):
        for count in (1, 100):
            with Loader(echo, 2) as loader:
                batches = loader.batches(itertools.count())
                pids = {pid for _, pid in itertools.islice(batches, count)}
            assert os.getpid() not in pids
            assert multiprocessing.active_children() == []
            loader.close()


def run_python(code: str) -> subprocess.Popen:
    """Run a script in its own session, with this file's names imported."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from tests.test_loader import *\n{code}"],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_workers_end_when_the_trainer_is_killed():
    trainer = run_python(
        "loader = Loader(echo, 2)\n"
        "next(loader.batches(itertools.count()))\n"
        "print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "time.sleep(60)"
    )
    with within(20):
        workers = [int(pid) for pid in trainer.stdout.readline().split()]
        assert len(workers) == 2
        assert not any(map(ended, workers))
        trainer.kill()
        trainer.communicate()
        while not all(map(ended, workers)):
            time.sleep(0.05)


@pytest.mark.parametrize("moment", ["while they start", "at work"])
def test_signals_to_the_whole_group_are_the_trainers_alone(moment):
    """Like Ctrl-C, a closed terminal and `timeout`."""
    first = "next(batches)\n    " if moment == "at work" else ""
    trainer = run_python(
        "from mxrcnn.training.signals import StopRequest\n"
        "with StopRequest() as stop, Loader(echo, 2) as loader:\n"
        "    batches = loader.batches(iter(range(50)))\n"
        f"    {first}os.killpg(0, signal.SIGINT)\n"
        "    os.killpg(0, signal.SIGHUP)\n"
        "    os.killpg(0, signal.SIGTERM)\n"
        "    time.sleep(0.2)\n"
        "    print(len(list(batches)), stop.signum)"
    )
    with within(20):
        out, err = trainer.communicate()
    assert out.split() == ["49" if first else "50", str(int(signal.SIGTERM))]
    assert (err, trainer.returncode) == ("", 0)


def test_a_loader_that_nobody_closed_does_not_keep_the_process():
    trainer = run_python(
        "loader = Loader(echo, 2)\nprint(next(loader.batches(itertools.count()))[0])"
    )
    with within(20):
        out, err = trainer.communicate()
    assert (out, err, trainer.returncode) == ("0\n", "", 0)
