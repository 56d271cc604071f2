"""The training loop: plan -> loader -> network -> metrics -> checkpoint, all of it in sight."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from mxrcnn.data.loader import default_workers, training_loader
from mxrcnn.training.curves import LossPlot
from mxrcnn.training.network import step_seed
from mxrcnn.training.signals import StopRequest
from mxrcnn.training.trainer import Trainer

#: the number of epochs done -> a line for the user, or ""
Tell = Callable[[int], str]


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    step: the last step done. stopped_by: the signal that stopped it, or None. metrics: the last
    row of metrics; a metric without samples is None.
    """

    step: int
    stopped_by: int | None
    metrics: dict[str, float | None]


def train(
    trainer: Trainer, num_workers: int | None = None, pace: Tell | None = None
) -> TrainResult:
    """Train until the last epoch ends, patience does, or a signal arrives.

    Saves checkpoints and validates on the way. pace: asked after each epoch.

    Releases the lock on the run folder at the end. Raises NonFiniteLossError (the last checkpoint
    stays good), DataError, or LoaderError when a loader worker dies.
    """
    try:
        return _train(trainer, num_workers, pace)
    finally:
        trainer.run.unlock()


def _train(trainer: Trainer, num_workers: int | None, pace: Tell | None) -> TrainResult:
    config, state = trainer.config.train, trainer.state
    workers = default_workers() if num_workers is None else num_workers
    trainer.events.open(state.step)
    plans = itertools.islice(
        trainer.plan.stream(state.epoch, state.batch, trainer.workers.rank),
        max(0, trainer.total - state.step),
    )
    bar = _progress_bar(trainer)
    plot = LossPlot(trainer.run, bar.write) if trainer.workers.first else None
    with (
        StopRequest() as stop,
        bar,
        training_loader(trainer.config, trainer.plan, workers) as loader,
    ):
        # the run may have been killed between checkpoint and validation
        _validate_if_due(trainer, workers, bar.write)
        since, waited, images = time.perf_counter(), 0.0, 0
        batches = loader.batches(plans)
        stopped, enough = False, _has_enough(trainer, bar.write)
        while not enough:
            before = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - before
            stopped = batch is not None and trainer.agreed_to_stop(stop.signum)
            if batch is None or stopped:
                break
            seed = step_seed(config.seed, trainer.state.step, trainer.workers.rank)
            pairs = trainer.network.step(batch, seed)
            trainer.metrics.add(trainer.state.step, batch.image_ids, pairs)
            trainer.count_objects(batch)
            epoch_ended = trainer.advance()
            images += len(batch.image_ids)
            bar.update()

            step = trainer.state.step
            if step % config.log_interval == 0 or step == trainer.total:
                trainer.metrics.absorb()  # waits: the rate counts finished steps, not queued ones
                now = time.perf_counter()
                row = trainer.log(now - since, waited, images)
                since, waited, images = now, 0.0, 0
                bar.set_postfix_str(_postfix(row))
                trainer.events.write(step, row)
            if epoch_ended or (config.checkpoint_steps and step % config.checkpoint_steps == 0):
                trainer.save()
                if epoch_ended and (line := trainer.log_left_out()):
                    bar.write(f"epoch {trainer.state.epoch}: {line}")
                _validate_if_due(trainer, workers, bar.write)
                if plot is not None:
                    plot.draw_if_due()
                since, waited, images = time.perf_counter(), 0.0, 0
            if epoch_ended:
                enough = _ends_after(trainer, pace, bar.write)
        trainer.network.catch_up()
        trainer.save()
    trainer.events.close()
    if plot is not None:
        plot.draw()
    stopped_by = stop.signum or (int(signal.SIGTERM) if stopped else None)
    return TrainResult(trainer.state.step, stopped_by, trainer.last)


def _validate_if_due(trainer: Trainer, num_workers: int, write: Callable[[str], None]) -> None:
    if trainer.owes_validation():
        row, text = trainer.validate(num_workers)
        epoch, metric, step = (row.pop(key) for key in ("epoch", "metric", "step"))
        write(f"epoch {epoch}: {text}")
        trainer.events.write(step, {f"{metric}/{name}": value for name, value in row.items()})


def _ends_after(trainer: Trainer, pace: Tell | None, write: Callable[[str], None]) -> bool:
    """True if the epoch that ended is the last. Says if training is slow."""
    line = pace(trainer.state.epoch) if pace else ""
    if line and trainer.workers.first:
        write(line)
    return _has_enough(trainer, write)


def _has_enough(trainer: Trainer, write: Callable[[str], None]) -> bool:
    reason = trainer.out_of_patience()
    if reason and trainer.workers.first:
        write(f"training ends early: {reason}")
    return bool(reason)


def _progress_bar(trainer: Trainer) -> tqdm:
    return tqdm(
        total=trainer.total,
        initial=trainer.state.step,
        unit="step",
        dynamic_ncols=True,
        smoothing=0.05,
        disable=not trainer.workers.first,
    )


def _postfix(row: Mapping[str, Any]) -> str:
    losses = [
        f"{name.replace('Loss', '')} {'-' if value is None else format(value, '.3f')}"
        for name, value in row.items()
        if name.endswith("Loss")
    ]
    return f"{' '.join(losses)} {row['images_per_second']:.2f} img/s"
