"""Start a training run: open its data sets, make its trainer, print what the user should know."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mxrcnn.config import Config, ConfigError, contexts
from mxrcnn.data import open_dataset
from mxrcnn.data.decodable import FILE_NAME as DECODED
from mxrcnn.data.records import Dataset
from mxrcnn.data.split import TRAIN, VAL, table, write_split
from mxrcnn.data.store import FOLDER as STORE
from mxrcnn.data.transforms import trainable_objects
from mxrcnn.data.validation import FILE_NAME as SPLIT
from mxrcnn.data.validation import Divided, divide, has_validation, validation_images
from mxrcnn.program import command
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.training.anchors import fit_anchors
from mxrcnn.training.choose import Choice, choose_first, choose_rest
from mxrcnn.training.choose.fit import Pace, span
from mxrcnn.training.choose.recipes import Recipe
from mxrcnn.training.choose.rehearse import Rehearsal
from mxrcnn.training.configure import (
    NOTHING,
    Chosen,
    Configuration,
    TrainRequest,
    configure,
    given_settings,
    print_config,
    with_classes,
)
from mxrcnn.training.loop import train
from mxrcnn.training.pictures import draw_train_batches
from mxrcnn.training.schedule import lr_scale
from mxrcnn.training.trainer import Trainer
from mxrcnn.training.workers import Workers
from symnet.machine import mx


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


@dataclass
class _Opening:
    """A run whose settings and data are known.

    chosen: without measuring. choice: with measuring, or None if nothing is to be chosen.
    """

    request: TrainRequest
    chosen: Chosen
    made: Configuration
    run: RunFolder
    devices: list[mx.Context]
    workers: Workers
    lines: list[str]
    divided: Divided | None = None
    dataset: Dataset | None = None
    val: Dataset | None = None
    choice: Choice | None = None


def prepare(request: TrainRequest) -> Trainer:
    """A trainer ready for its first or next step. It holds the run folder's lock.

    `train` releases the lock; if it is not called, use `trainer.run.unlock()`.
    """
    return _prepare(request)[0]


def _prepare(request: TrainRequest) -> tuple[Trainer, float | None]:
    """The trainer, and the seconds that the whole command should take, if they were measured."""
    with _opened(request) as opening:
        choice = opening.choice
        return _make_trainer(opening), choice.seconds if choice else None


@contextmanager
def _opened(request: TrainRequest, connect: bool = True) -> Iterator[_Opening]:
    """Read the settings and the data of a run, and choose what is to be chosen.

    connect: to the other workers. If what follows fails, the run's lock is released.
    """
    request = replace(request, began=request.began or time.monotonic())
    first, recipe, read = NOTHING, None, None
    if request.choose:
        request, first, recipe, read = choose_first(request)
    try:
        made = configure(request, first)
    except ConfigError as error:
        if recipe is None:
            raise
        raise ConfigError(f"{error} (this network was chosen; --network takes another)") from None
    config = made.config
    folder = request.resume or request.out or f"runs/{config.network}_{config.data.dataset}"
    run = RunFolder(Path(folder))
    if request.choose or request.minutes is not None:
        _check_minutes(request, made)
        run.check_new()  # before measuring
    try:
        devices = contexts(request.gpus)
        workers = Workers(config.train.kvstore if connect else "local")
        opening = _Opening(request, first, made, run, devices, workers, [*made.notes])
        _open_data(opening, read)
        if request.choose or request.minutes is not None:
            _choose(opening, recipe)
        yield opening
    except BaseException:
        run.unlock()
        raise


def _check_minutes(request: TrainRequest, made: Configuration) -> None:
    """ConfigError for minutes that cannot be."""
    minutes, train = request.minutes, made.config.train
    if minutes is None:
        return
    if not 0 < minutes < math.inf:
        raise ConfigError(f"--minutes {minutes:g}: expected a time above 0")
    if "train.epochs" in given_settings(request, made.config)[0]:
        raise ConfigError(f"--minutes {minutes:g} and --epochs {train.epochs}: give one of the two")
    if train.workers > 1:
        raise ConfigError(
            f"--minutes {minutes:g}: not with {train.workers} workers, whose exchange of gradients "
            "is not measured; give --epochs"
        )


def _open_data(opening: _Opening, read: Dataset | None) -> None:
    """Open the images to train and to validate on. read: annotations that are read already."""
    request, run, workers = opening.request, opening.run, opening.workers
    config, lines = opening.made.config, opening.lines
    if request.resume and workers.first:
        lines += run.lock()  # before reading the data, which may take long
    if config.data.val_share:
        try:
            opening.divided = divide(
                config.data, run.path, bool(request.resume), workers.first, read
            )
        except ConfigError as error:
            if "data.val_share" not in opening.chosen.settings:
                raise
            lines.append(f"no validation: {error}")
            opening.chosen = opening.chosen.without("data.val_share")
            opening.made = configure(request, opening.chosen)
            config = opening.made.config
    validates = has_validation(config.data) and config.train.val_every
    if config.train.patience and not validates:
        raise ConfigError(
            f"train.patience={config.train.patience}: needs images to validate on (--val, "
            "--val-imageset) and --val-every"
        )
    if opening.divided:
        lines.append(table(opening.divided.split, opening.divided.whole))
        opening.dataset = opening.divided.side(TRAIN)
    else:
        opening.dataset = open_dataset(config.data, config.data.imageset, run.path / DECODED, read)
    if validates and workers.first:
        config = _with_data(opening)
        divided = opening.divided
        opening.val = divided.side(VAL) if divided else validation_images(config.data, run.path)


def _choose(opening: _Opening, recipe: Recipe | None) -> None:
    """Choose the settings that need measurements, the same for all workers, and say which."""
    request, config, workers = opening.request, opening.made.config, opening.workers
    if config.train.kvstore == "dist_async":
        raise ConfigError("--kvstore dist_async: give --network, which is chosen for other kinds")
    before, text = opening.made.notes, ""
    if workers.first:
        say([*opening.lines, "measuring what a step takes: about 15 s, more on a busy machine ..."])
        opening.lines = []
        rehearsal = Rehearsal(request.gpus, request.num_workers, opening.run.path)
        with rehearsal as measure:
            text = choose_rest(
                request,
                opening.chosen,
                recipe,
                opening.dataset,
                opening.val,
                measure,
                len(opening.devices),
                config.train.workers,
            ).to_text()
    choice = Choice.from_text(workers.share(text))
    opening.made = configure(request, choice.chosen)
    opening.choice = choice
    opening.lines += [note for note in opening.made.notes if note not in before]
    opening.lines += choice.lines


def _with_data(opening: _Opening) -> Config:
    """The settings, those that follow from the data included; a resumed run has them already."""
    config = opening.made.config
    return config if opening.request.resume else with_classes(config, opening.dataset)


def _make_trainer(opening: _Opening) -> Trainer:
    request, run, dataset = opening.request, opening.run, opening.dataset
    config, workers, lines = _with_data(opening), opening.workers, opening.lines
    if request.anchors:
        config, line = fit_anchors(config, dataset)
        lines.append(line)
    lines += [*describe(dataset), *describe_untrained(config, dataset)]
    lines += describe(opening.val) if opening.val else ()
    if workers.count > 1:
        lines.append(describe_workers(config))
    if workers.first:
        say(lines)
    trainer = Trainer(config, run, dataset, opening.val, opening.devices, workers)
    lines = trainer.tiled.lines(config.data)
    lines += trainer.resume(request.data_changed) if request.resume else trainer.begin()
    if trainer.plan.repeats:
        lines.append(trainer.plan.repeats.describe(dataset.class_names))
    if workers.first:
        say(lines)
        divided = opening.divided
        if divided and divided.made:
            write_split(divided.split, divided.whole, run.path / SPLIT)
        if opening.choice:
            run.append_log({"kind": "chosen", "step": 0, **opening.choice.to_row()})
        if trainer.validation is not None:
            say([trainer.validation.describe(run.best())])
        if request.resume:
            run.write_config(config)  # so that changed settings are kept when it is resumed again
    return trainer


def show_config(request: TrainRequest) -> str:
    """`print_config`, after choosing what is to be chosen; that is printed first."""
    if not (request.choose or request.minutes is not None):
        return print_config(request)
    with _opened(request, connect=False) as opening:
        say(opening.lines)
        return print_config(request, opening.made)


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
    began = request.began or time.monotonic()
    trainer, expected = _prepare(replace(request, began=began))
    workers, path = trainer.workers, trainer.run.path
    if workers.first:
        say([f"{trainer.total} steps, {trainer.plan.steps} an epoch; run folder {path}"])
        _draw_first_batches(trainer)
    pace = Pace(expected, began, trainer.config.train.epochs) if expected else None
    result = train(trainer, request.num_workers, pace)
    stopped = result.stopped_by is not None
    if workers.first and stopped:
        say([f"stopped at step {result.step}; go on: {command('train', '--resume', path)}"])
        if (path / STORE).is_dir():
            say([f"{path / STORE} keeps decoded images for that; it may be deleted"])
    elif workers.first:
        shutil.rmtree(path / STORE, ignore_errors=True)
        took = span(time.monotonic() - began)
        took = f" in {took} ({span(expected)} were expected)" if expected else ""
        say([f"done{took}: {path} (losses.png, log.jsonl); test it: {command('test', path)}"])
    workers.leave()
    return 128 + result.stopped_by if stopped else 0
