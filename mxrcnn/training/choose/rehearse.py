"""Measures what a training takes, by doing its first steps in another process.

That process uses the run's own files, loader and network, and frees all memory when it ends. It
writes only a checkpoint and a picture, into a temporary folder.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from mxrcnn.config import Config, contexts, override
from mxrcnn.data.batches import Batch, make_training_batch
from mxrcnn.data.loader import Loader, answer_requests, default_workers
from mxrcnn.data.plans import BatchPlan, TrainingPlan
from mxrcnn.data.records import Dataset
from mxrcnn.training.choose.fit import Measured
from mxrcnn.training.choose.recipes import MEMORY
from symnet.machine.memory import most_resident, read_memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from mxrcnn.training.network import Network
    from symnet.machine import mx

#: seconds of steps to measure, at least and at most so many steps
SECONDS, LEAST_STEPS, MOST_STEPS = 3.0, 2, 40
#: shapes of batches that are warmed up; seconds and images that validation is timed on, at most
SHAPES, VALIDATING, VALIDATED = 4, 2.0, 40
#: a learning rate that changes nothing
_NO_RATE = 1e-12


class TooLargeError(Exception):
    """A training would need more memory than it may take; both in bytes. needed: 0 if unknown."""

    def __init__(self, needed: int, allowed: int) -> None:
        super().__init__(needed, allowed)
        self.needed, self.allowed = needed, allowed


@dataclass(frozen=True)
class Trial:
    """What the other process needs to know.

    plans: of the first batches. val: images to validate on, or None. folder: an empty one to write
    to; None: neither checkpoints nor validations are measured. limited: whether too little memory
    is an error.
    """

    config: Config
    gpus: str | None
    workers: int
    capacity: int
    size: tuple[int, int]
    plans: Sequence[BatchPlan]
    val: Dataset | None
    folder: Path | None
    limited: bool

    def largest_size(self) -> tuple[int, int]:
        """As of a TrainingPlan, whose place this takes."""
        return self.size


class Rehearsal:
    """Measures trainings, in one process after the other's start. Use it as a context manager.

    gpus, num_workers: as in TrainRequest. folder: where the run will be; checkpoints are written
    near it.
    """

    def __init__(self, gpus: str | None, num_workers: int | None, folder: Path) -> None:
        self._gpus = gpus
        self._workers = default_workers() if num_workers is None else num_workers
        self._near = next((f for f in (folder, *folder.absolute().parents) if f.is_dir()), None)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def __call__(
        self,
        config: Config,
        plan: TrainingPlan,
        val: Dataset | None = None,
        whole: bool = True,
        limited: bool = True,
    ) -> Measured:
        """What a training with this config and plan takes.

        val: its images to validate on. whole: also measure checkpoints and validations. Raises
        TooLargeError if it is limited and needs too much memory, and what training itself raises.
        """
        if whole and val is not None:
            every = -(-len(val) // VALIDATED)
            val = replace(val, records=val.records[::every])
        trial = Trial(
            override(config, {"train.pretrained": "", "train.lr": _NO_RATE}),
            self._gpus,
            self._workers,
            plan.capacity,
            plan.largest_size(),
            tuple(itertools.islice(plan.stream(0, 0), MOST_STEPS)),
            val if whole else None,
            None,
            limited,
        )
        if not whole:
            return self._ask(trial)
        with tempfile.TemporaryDirectory(prefix=".measured-", dir=self._near) as folder:
            return self._ask(replace(trial, folder=Path(folder)))

    def _ask(self, trial: Trial) -> Measured:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=answer_requests, args=(measure, theirs))
            self._process.start()
            theirs.close()
        try:
            self._pipe.send(trial)
            found, error, trace = self._pipe.recv()
        except (EOFError, OSError):
            code = self._end()
            if code == -signal.SIGKILL:  # Linux does that when memory runs out
                raise TooLargeError(0, int(MEMORY * read_memory().free)) from None
            raise ChildProcessError(
                f"the process that measures a step ended with exit code {code}; with --network and "
                "--epochs nothing is measured"
            ) from None
        except BaseException:  # Ctrl-C
            self._process.kill()
            raise
        if error is not None:
            raise error from RuntimeError(f"while measuring:\n{trace}")
        return found

    def _end(self) -> int | None:
        """End the process; returns its exit code."""
        if self._process is None:
            return None
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = self._process.exitcode
        self._process = self._pipe = None
        return code

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()


def measure(trial: Trial) -> Measured:
    """Do a trial in this process. Raises as `Rehearsal` does."""
    from mxrcnn.training.network import Network
    from mxrcnn.training.schedule import make_schedule
    from symnet.machine import mx

    devices = contexts(trial.gpus)
    free = _free(devices[0])
    began = time.perf_counter()
    network = Network(trial.config, trial, devices)
    needed, allowed = _planned(network), int(MEMORY * free)
    if trial.limited and needed > allowed:
        raise TooLargeError(needed, allowed)
    params, _ = network.first_params()
    network.start(params, {}, make_schedule(trial.config.train, 1), 0)
    try:
        first, step = _time_steps(trial, network)
    except mx.MXNetError as error:
        if "out of memory" in str(error) and trial.limited:
            raise TooLargeError(0, allowed) from None
        raise
    needed = max(needed, free - _free(devices[0])) if trial.gpus else max(needed, most_resident())
    found = Measured(step=step, start=first - began, memory=needed, allowed=allowed)
    return replace(found, **_time_rest(trial, network)) if trial.folder is not None else found


def _free(context: mx.Context) -> int:
    """The free memory of a device, in bytes."""
    from symnet.machine import mx

    if context.device_type == "gpu":
        return mx.context.gpu_memory_info(context.device_id)[0]
    return read_memory().free


def _planned(network: Network) -> int:
    """The memory that a bound training network will need, in bytes.

    That of MXNet's plan twice, as oneDNN has copies in layouts of its own, and the parameters with
    gradients, momentum, averages and their copies.
    """
    from mxrcnn.inference.mxnet_engine import allocated

    params = sum(int(np.prod(shape)) for shape in network.shapes.values())
    return 2 * allocated(network.module._exec_group.execs[0]) + 8 * 4 * params


def _time_steps(trial: Trial, network: Network) -> tuple[float, float]:
    """The time when the first step had ended, and the seconds of a later one.

    Batches come from a loader, as in training. One of each shape is trained on first. If the loader
    cannot keep up, the time of making a batch counts.
    """
    from mxrcnn.training.metrics import RunningMetrics
    from mxrcnn.training.network import step_seed
    from symnet.machine import mx

    metrics = RunningMetrics(network.detector.losses)
    number = itertools.count()

    def do(batch: Batch) -> None:
        step = next(number)
        metrics.add(step, batch.image_ids, network.step(batch, step_seed(0, step)))
        mx.nd.waitall()

    make = partial(make_training_batch, trial.config, trial.capacity)
    start = time.perf_counter()
    do(make(trial.plans[0]))  # also creates what a first step creates
    first = time.perf_counter()
    make(trial.plans[0])
    making = (time.perf_counter() - first) / max(1, trial.workers)
    shapes = {plan.size: plan for plan in reversed(trial.plans)}
    warm = list(shapes.values())[:SHAPES]
    done, began, limit = 0, start, SECONDS
    with Loader(make, trial.workers) as loader:
        for batch in loader.batches([*warm, *trial.plans]):
            do(batch)
            done += 1
            now = time.perf_counter()
            if done <= len(warm):
                began = now
            elif done - len(warm) >= LEAST_STEPS and now - began >= limit:
                break
        seconds = (time.perf_counter() - began) / (done - len(warm))
    return first, max(seconds, making)


def _time_rest(trial: Trial, network: Network) -> dict[str, float]:
    """The seconds of a checkpoint and, if there are images for it, of validations."""
    from mxrcnn.runs.checkpoint import RunFolder, TrainState

    start = time.perf_counter()
    averages, params = network.averages(), network.params()
    raw = {name: params[name] for name in averages}
    state = TrainState(1)
    RunFolder(trial.folder).save(state, {**params, **averages}, network.momentum(), 1, raw)
    found = {"checkpoint": time.perf_counter() - start}
    if trial.val is not None:
        image, besides = _time_validation(trial, network, trial.folder / "picture.jpg")
        found.update(image=image, validation=besides)
    return found


def _time_validation(trial: Trial, network: Network, picture: Path) -> tuple[float, float]:
    """The seconds of validating an image, and of a validation besides its images."""
    from mxrcnn.evaluation.core import evaluate
    from mxrcnn.inference.detector import Detector, inference_symbol
    from mxrcnn.runs.checkpoint import split_params
    from mxrcnn.training.pictures import draw_validation
    from mxrcnn.training.validation import Validation

    config = trial.config
    validation = Validation(config, trial.val, network.contexts[0])
    start = time.perf_counter()
    detector = Detector(
        inference_symbol(config, validation.precision),
        *split_params(network.params()),
        config,
        network.contexts[0],
        precision=validation.precision,
    )
    times, records, found = [], [], {}
    stream = detector.detect(
        trial.val, num_workers=trial.workers, masks=validation.metric.masks, progress=False
    )
    with contextlib.closing(stream):
        for record, detections, _ in stream:
            times.append(time.perf_counter())
            records.append(record)
            found[record.image_id] = detections
            if times[-1] - times[0] > VALIDATING:
                break
    first = times[0] - start
    image = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else first
    before = time.perf_counter()
    evaluate(replace(trial.val, records=tuple(records)), found, validation.metric.name)
    shown = [(record, found[record.image_id]) for record in records[:4]]
    draw_validation(picture, shown, trial.val.class_names, config.data)
    return image, first - image + time.perf_counter() - before
