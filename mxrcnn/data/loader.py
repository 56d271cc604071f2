"""Batches, ahead of the one who needs them: planned in a seeded order, made by parallel workers.

A plan names a batch's images and shape; it depends on the data, the seed and the epoch alone, so
the number of workers changes nothing but speed. Workers never import mxnet.
"""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import numpy as np

from mxrcnn.config import Config, DataConfig
from mxrcnn.data.records import DataError, Dataset, ImageId, ImageRecord
from mxrcnn.data.transforms import (
    Sample,
    check_masks,
    load_sample,
    padded_size,
    resized_size,
    stack_images,
    stack_masks,
    trainable_objects,
)
from symnet import get_detector
from symnet.detector import ImageTargetsInput
from symnet.geometry.targets import pad_objects
from symnet.machine.cores import local_workers, logical_cores


@dataclass(frozen=True)
class BatchPlan:
    """Which images make a batch, mirrored or not, and the (H, W) that holds them."""

    epoch: int
    index: int
    records: tuple[ImageRecord, ...]
    flips: tuple[bool, ...]
    seeds: tuple[tuple[int, ...], ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Arrays by the graph's input names, and where they came from (on the host only)."""

    epoch: int
    index: int
    image_ids: tuple[ImageId, ...]
    data: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


class TrainingPlan:
    """The order of a data set for training: epoch -> plans of equally large batches.

    Each of several workers has a share of every batch, config.train.batch_size images: all make as
    many steps, and what they make of an image does not depend on how many they are.

    Images are grouped by aspect (landscape, portrait), so that a batch needs little padding. A
    group's last batch is filled up with images of the same group: none is left out.
    """

    def __init__(self, dataset: Dataset, config: Config, workers: int = 1) -> None:
        data = config.data
        records = dataset.records
        if not data.keep_empty:
            records = tuple(r for r in records if trainable_objects(r, data).any())
        if not records:
            raise DataError(
                dataset.annotation_file or data.root,
                f"no images to train on in {dataset.name}"
                + ("" if data.keep_empty else " (keep_empty is off)"),
            )
        for record in records:
            check_masks(record, data)
        self._records = records
        self._sizes = [resized_size(r.height, r.width, data)[:2] for r in records]
        self._share = config.train.batch_size
        self._batch_size = self._share * workers
        self._multiple = np.lcm(data.pad_multiple, get_detector(config.network).stride)
        self._least_side = data.least_padded_side
        self._seed = config.train.seed
        flips = (False, True) if data.flip else (False,)
        wide = np.array([width >= height for height, width in self._sizes])
        self._groups = [
            np.array([(i, flip) for flip in flips for i in np.flatnonzero(wide == side)])
            for side in (True, False)
            if (wide == side).any()
        ]
        self.capacity = max(1, *(_rows(r, config) for r in records))

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return sum(-(-len(group) // self._batch_size) for group in self._groups)

    def largest_size(self) -> tuple[int, int]:
        """The (H, W) of largest area that a batch can have."""
        shapes = {self._padded([size]) for size in self._sizes}
        if self._batch_size == 1:
            return max(shapes, key=lambda shape: shape[0] * shape[1])
        sides = [self._padded([self._sizes[i] for i in group[:, 0]]) for group in self._groups]
        return max(sides, key=lambda shape: shape[0] * shape[1])

    def _padded(self, sizes: list[tuple[int, int]]) -> tuple[int, int]:
        return padded_size(sizes, self._multiple, self._least_side)

    def epoch(self, epoch: int) -> list[BatchPlan]:
        """The plans of one epoch."""
        rng = np.random.default_rng([self._seed, epoch])
        batches = []
        for group in self._groups:
            order = rng.permutation(len(group))
            missing = -len(order) % self._batch_size
            order = np.concatenate([order, rng.integers(0, len(group), missing)])
            batches += list(group[order].reshape(-1, self._batch_size, 2))
        return [
            self._plan(epoch, index, batches[place])
            for index, place in enumerate(rng.permutation(len(batches)))
        ]

    def _plan(self, epoch: int, index: int, entries: np.ndarray) -> BatchPlan:
        images = entries[:, 0].tolist()
        return BatchPlan(
            epoch,
            index,
            tuple(self._records[i] for i in images),
            tuple(bool(flip) for flip in entries[:, 1]),
            tuple((self._seed, epoch, index, place) for place in range(len(images))),
            self._padded([self._sizes[i] for i in images]),
        )

    def stream(self, epoch: int, index: int, rank: int = 0) -> Iterator[BatchPlan]:
        """A worker's plans without end, from that batch of that epoch on."""
        part = slice(rank * self._share, (rank + 1) * self._share)
        for current in itertools.count(epoch):
            for plan in self.epoch(current)[index:]:
                yield replace(
                    plan,
                    records=plan.records[part],
                    flips=plan.flips[part],
                    seeds=plan.seeds[part],
                )
            index = 0


def test_plans(dataset: Dataset, data: DataConfig, stride: int, batch_size: int) -> list[BatchPlan]:
    """Every image once, in batches of equal shape; the last batch of a shape may be smaller."""
    multiple = np.lcm(data.pad_multiple, stride)
    shapes: dict[tuple[int, int], list[ImageRecord]] = {}
    for record in dataset.records:
        size = resized_size(record.height, record.width, data)[:2]
        size = padded_size([size], multiple, data.least_padded_side)
        shapes.setdefault(size, []).append(record)
    chunks = [
        (size, tuple(records[start : start + batch_size]))
        for size, records in shapes.items()
        for start in range(0, len(records), batch_size)
    ]
    return [
        BatchPlan(0, index, records, (False,) * len(records), (), size)
        for index, (size, records) in enumerate(chunks)
    ]


def _with_regions(config: Config) -> bool:
    """Whether ignore regions go to the network, see the field ignore_overlap of model configs."""
    return config.model.ignore_overlap > 0


def _rows(record: ImageRecord, config: Config) -> int:
    """How many rows of gt_boxes an image has."""
    if _with_regions(config):
        return len(record)
    return int(trainable_objects(record, config.data).sum())


def make_training_batch(config: Config, capacity: int, plan: BatchPlan) -> Batch:
    """Decode, transform and assign targets: the arrays of one batch.

    With data.masks there are also `gt_masks`, see `stack_masks`, and `active_classes`
    (B, num_classes) float32: 1 for the classes that the image is annotated for.
    """
    detector = get_detector(config.network)
    regions = _with_regions(config)
    samples = [
        load_sample(record, config.data, flip, regions)
        for record, flip in zip(plan.records, plan.flips)
    ]
    targets = [
        detector.assign_targets(
            config.model,
            ImageTargetsInput(sample.gt_boxes, sample.size, plan.size),
            np.random.default_rng(seed),
        )
        for sample, seed in zip(samples, plan.seeds)
    ]
    objects = {"gt_boxes": pad_objects([sample.gt_boxes for sample in samples], capacity)}
    if config.data.masks:
        size = (config.data.mini_mask,) * 2 if config.data.mini_mask else plan.size
        objects["gt_masks"] = stack_masks(samples, capacity, size)
        objects["active_classes"] = _active_classes(plan.records, config.model.num_classes)
    return _batch(
        plan,
        samples,
        objects,
        {name: np.stack([target[name] for target in targets]) for name in detector.label_names},
    )


def training_shapes(
    config: Config, capacity: int, size: tuple[int, int]
) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and type of the data arrays of training batches of that padded size, by name."""
    images = config.train.batch_size
    height, width = (config.data.mini_mask,) * 2 if config.data.mini_mask else size
    return {
        "data": ((images, 3, *size), np.float32),
        "im_info": ((images, 3), np.float32),
        "gt_boxes": ((images, capacity, 5), np.float32),
        "gt_masks": ((images, capacity, height, -(-width // 8)), np.uint8),
        "active_classes": ((images, config.model.num_classes), np.float32),
    }


def _active_classes(records: Sequence[ImageRecord], num_classes: int) -> np.ndarray:
    """(B, num_classes) float32: 1 for each record's active classes."""
    active = np.ones((len(records), num_classes), np.float32)
    for row, record in zip(active, records):
        if record.active_classes is not None:
            row[:] = 0
            row[list(record.active_classes)] = 1
    return active


def make_test_batch(data: DataConfig, plan: BatchPlan) -> Batch:
    """Decode and transform: the images of one batch. Nothing is asked of their masks."""
    data = replace(data, masks=False)
    return _batch(plan, [load_sample(record, data) for record in plan.records], {}, {})


def _batch(
    plan: BatchPlan,
    samples: list[Sample],
    more_data: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
) -> Batch:
    images = {
        "data": stack_images(samples, plan.size),
        "im_info": np.stack([sample.im_info for sample in samples]),
    }
    ids = tuple(record.image_id for record in plan.records)
    return Batch(plan.epoch, plan.index, ids, {**images, **more_data}, labels)


def default_workers() -> int:
    """Half of the cores that this process may use, or its share of them, from 1 to 8."""
    return max(1, min(8, logical_cores() // (2 * local_workers())))


def _start_worker() -> None:
    """Ctrl-C is the trainer's business; and a worker does not outlive a trainer that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(make: Callable[[Any], Any], pipe: Connection) -> None:
    """A worker's life: make what is asked for, one thing at a time, until the pipe is closed."""
    _start_worker()
    while True:
        try:
            plan = pipe.recv()
        except EOFError:
            return
        try:
            answer = make(plan), None, ""
        except Exception as error:
            answer = None, error, traceback.format_exc()
        pipe.send(answer)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Processes started meanwhile never see SIGINT, SIGTERM or SIGHUP, not even while they start.

    All of them are often sent to the whole process group, and only the trainer should act on them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        resource_tracker.ensure_running()  # it inherits the mask, and unblocks two of them here
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class LoaderError(RuntimeError):
    """A loader worker that was killed, or ran out of memory."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} Fewer workers (--num-workers) need less memory; --resume goes on from the "
            "last checkpoint"
        )


class _Worker:
    """A process with a pipe of its own, which ends when the process does, whatever it was at.

    (In a ProcessPoolExecutor all workers share one: if one is killed while it writes a batch, the
    others keep the pipe open and the reader waits for ever.)
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(make, theirs), daemon=True)
        with _signals_held():
            self._process.start()
        theirs.close()

    def __call__(self, plan: Any) -> Any:
        try:
            self._pipe.send(plan)
            made, error, trace = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(1)
            code = self._process.exitcode
            raise LoaderError(
                f"a loader worker died (exit code {code}): killed, or out of memory?"
            ) from None
        if isinstance(error, MemoryError):
            raise LoaderError(f"a loader worker is out of memory ({error}).") from None
        if error is not None:
            raise error from RuntimeError(f"in a loader worker:\n{trace}")
        return made

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


class Loader:
    """Runs `make` over plans in parallel, a few batches ahead, in the plans' order.

    num_workers 0 uses one thread of this process; otherwise each worker process has a thread here
    that hands it one plan after the other. Close it, or use it as a context manager.
    """

    def __init__(self, make: Callable[[BatchPlan], Batch], num_workers: int) -> None:
        self._make = make
        self._ahead = 2 * max(1, num_workers) + 1
        self._workers = [_Worker(make) for _ in range(num_workers)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._pool = ThreadPoolExecutor(max(1, num_workers))
        atexit.register(self.close)

    def _run(self, plan: BatchPlan) -> Batch:
        if not self._workers:
            return self._make(plan)
        worker = self._idle.get()
        try:
            return worker(plan)
        finally:
            self._idle.put(worker)

    def batches(self, plans: Iterable[BatchPlan]) -> Iterator[Batch]:
        """The batches of the plans; DataError for bad files, LoaderError for dead workers."""
        waiting: deque[Future[Batch]] = deque()
        try:
            for plan in plans:
                waiting.append(self._pool.submit(self._run, plan))
                if len(waiting) > self._ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Stop the workers."""
        atexit.unregister(self.close)
        self._pool.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def training_loader(config: Config, plan: TrainingPlan, num_workers: int) -> Loader:
    """The loader of a training run."""
    return Loader(partial(make_training_batch, config, plan.capacity), num_workers)


def test_loader(data: DataConfig, num_workers: int) -> Loader:
    """The loader of an evaluation."""
    return Loader(partial(make_test_batch, data), num_workers)
