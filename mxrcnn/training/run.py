"""Start a training run: open its data sets, make its trainer, print what the user should know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mxrcnn.config import Config, ConfigError, contexts
from mxrcnn.data import open_dataset
from mxrcnn.data.decodable import FILE_NAME as DECODED
from mxrcnn.data.records import Dataset
from mxrcnn.data.split import TRAIN, VAL, table, write_split
from mxrcnn.data.transforms import trainable_objects
from mxrcnn.data.validation import FILE_NAME as SPLIT
from mxrcnn.data.validation import divide, has_validation, validation_images
from mxrcnn.program import command
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.training.anchors import fit_anchors
from mxrcnn.training.configure import TrainRequest, configure, with_classes
from mxrcnn.training.loop import train
from mxrcnn.training.pictures import draw_train_batches
from mxrcnn.training.schedule import lr_scale
from mxrcnn.training.trainer import Trainer
from mxrcnn.training.workers import Workers


def say(lines: Sequence[str]) -> None:
    """Print lines at once."""
    for line in lines:
        print(line, flush=True)


def describe(dataset: Dataset) -> list[str]:
    """A data set in a few lines, with what was corrected or skipped."""
    objects = sum(len(record) for record in dataset.records)
    names = dataset.class_names
    classes = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    head = f"{dataset.name}: {len(dataset)} images, {objects} objects of {len(names)} classes"
    return [f"{head} ({classes})", *(f"  {line}" for line in dataset.notes.lines())]


def describe_untrained(config: Config, dataset: Dataset) -> list[str]:
    """How crowds and difficult objects are treated, if there are any."""
    count = sum(int((~trainable_objects(r, config.data)).sum()) for r in dataset.records)
    if not count:
        return []
    share = config.model.ignore_overlap
    kind = "crowds" if config.data.use_difficult else "crowds and difficult objects"
    if share:
        what = f"has no loss (ignore_overlap={share:g})"
    else:
        what = "is background (--set ignore_overlap=0.5: has no loss)"
    note = f"{dataset.name}: {count} {kind} are not trained on; an anchor or RoI inside one that"
    return [f"{note} matches no object {what}"]


def prepare(request: TrainRequest) -> Trainer:
    """A trainer ready for its first or next step. It holds the run folder's lock.

    `train` releases the lock; if it is not called, use `trainer.run.unlock()`.
    """
    made = configure(request)
    config = made.config
    folder = request.resume or request.out or f"runs/{config.network}_{config.data.dataset}"
    run = RunFolder(Path(folder))
    try:
        return _prepare(request, run, config, [*made.notes])
    except BaseException:
        run.unlock()
        raise


def _prepare(request: TrainRequest, run: RunFolder, config: Config, lines: list[str]) -> Trainer:
    devices = contexts(request.gpus)
    workers = Workers(config.train.kvstore)
    if request.resume and workers.first:
        lines += run.lock()  # before reading the data, which may take long
    validates = has_validation(config.data) and config.train.val_every
    if config.train.patience and not validates:
        raise ConfigError(
            f"train.patience={config.train.patience}: needs images to validate on (--val, "
            "--val-imageset) and --val-every"
        )
    divided = None
    if config.data.val_share:
        divided = divide(config.data, run.path, bool(request.resume), progress=workers.first)
        lines.append(table(divided.split, divided.whole))
        dataset = divided.side(TRAIN)
    else:
        dataset = open_dataset(config.data, config.data.imageset, run.path / DECODED)
    if not request.resume:
        config = with_classes(config, dataset)
    if request.anchors:
        config, line = fit_anchors(config, dataset)
        lines.append(line)
    val_dataset = None
    if validates and workers.first:
        val_dataset = divided.side(VAL) if divided else validation_images(config.data, run.path)
    lines += [*describe(dataset), *describe_untrained(config, dataset)]
    lines += describe(val_dataset) if val_dataset else ()
    if workers.count > 1:
        lines.append(describe_workers(config))
    if workers.first:
        say(lines)
    trainer = Trainer(config, run, dataset, val_dataset, devices, workers)
    lines = trainer.resume(request.data_changed) if request.resume else trainer.begin()
    if trainer.plan.repeats:
        lines.append(trainer.plan.repeats.describe(dataset.class_names))
    if workers.first:
        say(lines)
        if divided and divided.made:
            write_split(divided.split, divided.whole, run.path / SPLIT)
        if trainer.validation is not None:
            say([trainer.validation.describe(run.best())])
        if request.resume:
            run.write_config(config)  # so that changed settings are kept when it is resumed again
    return trainer


def describe_workers(config: Config) -> str:
    """How several workers share the work, in one line."""
    train, scale = config.train, lr_scale(config.train)
    if train.kvstore == "dist_async":
        return f"{train.workers} workers, {train.batch_size} images an update, each at its own pace"
    rate = (
        f"{scale:g} x {train.lr:g}, --lr-scaling {train.lr_scaling}"
        if scale > 1
        else f"{train.lr:g}"
    )
    images = train.workers * train.batch_size * train.accumulate
    return f"{train.workers} workers, {images} images a step, learning rate {rate}"


def _draw_first_batches(trainer: Trainer) -> None:
    """Draw the images that training starts or goes on with, and say where."""
    path, state = trainer.run.path / "train_batches.png", trainer.state
    if trainer.config.train.pictures and state.step < trainer.total:
        names = trainer.config.data.class_names
        place = state.epoch, state.batch
        failed = draw_train_batches(path, trainer.config, trainer.plan, names, *place)
        say([failed or f"what the network is given: {path}"])


def run_training(request: TrainRequest) -> int:
    """Train; returns the exit code of the process, 0 or 128 + n if signal n stopped it."""
    trainer = prepare(request)
    workers, path = trainer.workers, trainer.run.path
    if workers.first:
        say([f"{trainer.total} steps, {trainer.plan.steps} an epoch; run folder {path}"])
        _draw_first_batches(trainer)
    result = train(trainer, request.num_workers)
    stopped = result.stopped_by is not None
    if workers.first and stopped:
        say([f"stopped at step {result.step}; go on: {command('train', '--resume', path)}"])
    elif workers.first:
        say([f"done: {path} (losses.png, log.jsonl); test it: {command('test', path)}"])
    workers.leave()
    return 128 + result.stopped_by if stopped else 0
