"""The loader: worker processes that make batches a few steps ahead, in the order of their plans.

Workers never import mxnet.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from mxrcnn.config import Config, DataConfig
from mxrcnn.data.batches import Batch, make_test_batch, make_training_batch
from mxrcnn.data.plans import BatchPlan, TrainingPlan
from symnet.machine.cores import local_workers, logical_cores


def default_workers() -> int:
    """Half of the cores that this process may use, or of its share of them, from 1 to 8."""
    return max(1, min(8, logical_cores() // (2 * local_workers())))


def _start_worker() -> None:
    """Leave Ctrl-C to the trainer, and end with the trainer even if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def answer_requests(make: Callable[[Any], Any], pipe: Connection) -> None:
    """What a worker process runs: make one thing after the other until the pipe is closed.

    The answer to each request is (what was made, None, "") or (None, error, traceback).
    """
    _start_worker()
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            answer = make(request), None, ""
        except Exception as error:
            answer = None, error, traceback.format_exc()
        pipe.send(answer)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Processes started inside never see SIGINT, SIGTERM or SIGHUP, not even while they start.

    These signals often go to the whole process group, but only the trainer should act on them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        resource_tracker.ensure_running()  # inherits the mask, but unblocks SIGINT and SIGTERM here
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class LoaderError(RuntimeError):
    """A loader worker was killed or ran out of memory."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} Fewer workers (--num-workers) need less memory; --resume continues from the "
            "last checkpoint"
        )


class _Worker:
    """A worker process with a pipe of its own, which breaks as soon as the process dies.

    The workers of a ProcessPoolExecutor share one pipe. If one is killed while it writes a batch,
    the others keep that pipe open, and the reader waits for ever.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=answer_requests, args=(make, theirs), daemon=True)
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
    """Makes batches of plans in parallel, a few ahead, and returns them in the plans' order.

    num_workers: processes; 0 uses one thread of this process. Each process has a thread here that
    hands it one plan after the other. Close the loader, or use it as a context manager.
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
        """The batches of plans; raises DataError for bad files, LoaderError for dead workers."""
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
