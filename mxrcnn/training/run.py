"""From what the user asked for to a run: configuration, data sets, trainer, and words about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxrcnn.config import (
    Config,
    ConfigError,
    full_name,
    make_config,
    override,
    parse_settings,
)
from mxrcnn.data import check_dataset, open_dataset
from mxrcnn.data.decodable import FILE_NAME as DECODED
from mxrcnn.data.records import Dataset
from mxrcnn.data.transforms import trainable_objects
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.training.loop import TrainResult, train
from mxrcnn.training.schedule import lr_scale
from mxrcnn.training.server import number_of_workers, started_together
from mxrcnn.training.trainer import Trainer
from mxrcnn.training.workers import Workers
from mxrcnn.weights.reading import Origin, pretrained_settings
from symnet import get_detector, list_detectors
from symnet.machine import mx
from symnet.machine.install import install_extra

DEFAULT_NETWORK = "faster_rcnn_vgg16"

#: what the quick preset changes, besides the detector's own `quick` settings
QUICK = {
    "data.short_side": 192,
    "data.long_side": 256,
    "data.std": (58.4, 57.1, 57.4),
    "train.batch_size": 4,
    "train.lr": 0.02,
    "train.epochs": 3,
    "train.lr_decay_epoch": (2,),
    "train.warmup_steps": 100,
}


@dataclass(frozen=True)
class TrainRequest:
    """What `tools/train.py` was asked: settings by `section.field`, words as `key=value`."""

    network: str | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    words: Sequence[str] = ()
    out: str | None = None
    resume: str | None = None
    gpus: str | None = None
    kvstore: str | None = None
    num_workers: int | None = None
    data_changed: bool = False


def contexts(gpus: str | None) -> list[mx.Context]:
    """The devices of `--gpus 0,1`; the CPU for None. ConfigError if they cannot be used."""
    if not gpus:
        return [mx.cpu()]
    try:
        numbers = [int(number) for number in gpus.split(",")]
    except ValueError:
        raise ConfigError(f"--gpus {gpus}: expected numbers such as 0,1") from None
    available = mx.context.num_gpus() if mx.runtime.Features().is_enabled("CUDA") else 0
    if not all(0 <= number < available for number in numbers):
        raise ConfigError(
            f"--gpus {gpus}: MXNet sees {available} GPUs here. It needs mxnet-cu112 "
            f"({install_extra('cu112')}) and a driver; without --gpus it runs on the CPU"
        )
    return [mx.gpu(number) for number in numbers]


def _from_pretrained(request: TrainRequest) -> tuple[str, dict[str, Any], list[str]]:
    """The network, the settings that --pretrained brings with it, and what to tell."""
    given = {**request.settings, **parse_settings(request.words)}
    path = given.get("train.pretrained", given.get("pretrained"))
    if not path:
        return request.network or DEFAULT_NETWORK, {}, []
    network, settings, told = pretrained_settings(Origin.open(path), request.network)
    return network or DEFAULT_NETWORK, settings, told


def build_config(request: TrainRequest) -> tuple[Config, list[str]]:
    """The configuration of a new run, and what to tell.

    Defaults < what --pretrained needs < preset < flags < --set.
    """
    network, brought, told = _from_pretrained(request)
    if network not in list_detectors():
        raise ConfigError(f"--network {network}: there are {', '.join(list_detectors())}")
    config = make_config(network)
    detector = get_detector(network)
    settings = dict(request.settings)
    if isinstance(settings.get("train.lr_decay_epoch"), str):
        epochs = settings["train.lr_decay_epoch"]
        settings.update(parse_settings([f"train.lr_decay_epoch={epochs}"]))
    settings.update(parse_settings(request.words))
    settings = {full_name(config, key): value for key, value in settings.items()}
    if "train.workers" in settings:
        raise ConfigError(
            f"train.workers={settings['train.workers']}: tools/launch.py -n N starts and sets it; "
            "for loader processes use --num-workers"
        )
    dataset = settings.get("data.dataset", config.data.dataset)
    quick = dataset == "synthetic" and not brought
    preset = request.preset or ("quick" if quick else "classic")
    presets = {"classic": {}, "quick": {**QUICK, **detector.quick}, **detector.presets}
    if preset not in presets:
        raise ConfigError(f"--preset {preset}: {network} has {', '.join(presets)}")
    config = override(config, brought)
    config = override(config, presets[preset])
    config = override(config, settings)
    config = _with_workers(config, request)
    told.append(f"{network}, preset {preset}, data set {dataset}")
    check_dataset(dataset)
    if dataset != "synthetic" and "data.root" not in settings:
        raise ConfigError(f"--dataset {dataset} needs --data-root")
    if not config.train.pretrained:
        scratch = {key: value for key, value in detector.scratch.items() if key not in settings}
        words = ", ".join(f"{key}={value}" for key, value in scratch.items())
        told.append(f"no --pretrained parameters: everything is trained ({words})")
        config = override(config, scratch)
    return config, told


def _with_workers(config: Config, request: TrainRequest) -> Config:
    """The config with --kvstore, and the workers that the environment announces."""
    given = config.train.kvstore if config.train.kvstore != "local" else None
    kind = request.kvstore or given or ("dist_sync" if started_together() else "local")
    if kind == "local" and started_together():
        raise ConfigError(
            "--kvstore local: this process is one of several, by DMLC_ROLE in its environment"
        )
    workers = 1 if kind == "local" else number_of_workers()
    return override(config, {"train.kvstore": kind, "train.workers": workers})


def with_classes(config: Config, dataset: Dataset) -> Config:
    """The config with the data set's class names, and as many classes in the model.

    The class logits that --pretrained has beside its classes stay if there are as many classes.
    """
    settings = {"data.class_names": dataset.class_names, "model.num_classes": dataset.num_classes}
    if (
        getattr(config.model, "unused_classes", 0)
        and dataset.num_classes != config.model.num_classes
    ):
        settings["model.unused_classes"] = 0
    return override(config, settings)


def say(lines: Sequence[str]) -> None:
    """Print lines for people."""
    for line in lines:
        print(line, flush=True)


def describe(dataset: Dataset) -> list[str]:
    """A data set in a few lines, with what had to be mended."""
    objects = sum(len(record) for record in dataset.records)
    names = dataset.class_names
    classes = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    head = f"{dataset.name}: {len(dataset)} images, {objects} objects of {len(names)} classes"
    return [f"{head} ({classes})", *(f"  {line}" for line in dataset.notes.lines())]


def describe_untrained(config: Config, dataset: Dataset) -> list[str]:
    """What becomes of the crowds and difficult objects, if there are any."""
    count = sum(int((~trainable_objects(r, config.data)).sum()) for r in dataset.records)
    if not count:
        return []
    share = config.model.ignore_overlap
    kind = "crowds" if config.data.use_difficult else "crowds and difficult objects"
    if share:
        what = f"has no loss (ignore_overlap={share:g})"
    else:
        what = "is background (--set ignore_overlap=0.5: has no loss)"
    told = f"{dataset.name}: {count} {kind} are not trained on; what lies in them and matches no"
    return [f"{told} object {what}"]


#: the settings that a resumed run may change: none of them changes what a step does
RESUMABLE = {
    "train.epochs": "--epochs",
    "train.val_metric": "--val-metric",
    "data.root": "--data-root",
    "train.checkpoint_steps": "--checkpoint-steps",
    "train.log_interval": "--log-interval",
}


def resumed_config(request: TrainRequest, run: RunFolder) -> Config:
    """The run's configuration with the few changes that are allowed; ConfigError for others."""
    config = run.config()
    settings = {**request.settings, **parse_settings(request.words)}
    settings = {full_name(config, key): value for key, value in settings.items()}
    changes = set(settings) - set(RESUMABLE)
    changes |= {
        f"--{name}" for name in ("preset", "out", "network", "kvstore") if getattr(request, name)
    }
    if changes:
        raise ConfigError(
            f"--resume takes the run's own settings; only {', '.join(RESUMABLE.values())}, --gpus "
            f"and --num-workers may change, not {', '.join(sorted(changes))}"
        )
    config = override(config, settings)
    here = number_of_workers() if started_together() else 1
    if config.train.workers != here:
        raise ConfigError(
            f"{run.path} was begun by {config.train.workers} workers (--kvstore "
            f"{config.train.kvstore}), and here are {here}: go on with as many, by "
            f"tools/launch.py -n {config.train.workers}"
        )
    return config


def prepare(request: TrainRequest) -> Trainer:
    """A trainer that stands at its first or next step, and holds the run folder's lock.

    `train` gives the lock up; without it, `trainer.run.unlock()`.
    """
    if request.resume:
        run = RunFolder(Path(request.resume))
        config, told = resumed_config(request, run), []
    else:
        if request.data_changed:
            raise ConfigError("--data-changed goes with --resume: a new run takes any data")
        config, told = build_config(request)
        run = RunFolder(Path(request.out or f"runs/{config.network}_{config.data.dataset}"))
    try:
        return _prepare(request, run, config, told)
    except BaseException:
        run.unlock()
        raise


def _prepare(request: TrainRequest, run: RunFolder, config: Config, told: list[str]) -> Trainer:
    devices = contexts(request.gpus)
    workers = Workers(config.train.kvstore)
    if request.resume and workers.first:
        told += run.lock()  # before the data are read, which may take long
    decoded = run.path / DECODED
    dataset = open_dataset(config.data, config.data.imageset, decoded)
    if not request.resume:
        config = with_classes(config, dataset)
    val_dataset = None
    if config.data.val_imageset and config.train.val_every and workers.first:
        val_dataset = open_dataset(config.data, config.data.val_imageset, decoded)
    told += [*describe(dataset), *describe_untrained(config, dataset)]
    told += describe(val_dataset) if val_dataset else ()
    if workers.count > 1:
        told.append(describe_workers(config))
    if workers.first:
        say(told)
    trainer = Trainer(config, run, dataset, val_dataset, devices, workers)
    told = trainer.resume(request.data_changed) if request.resume else trainer.begin()
    if workers.first:
        say(told)
        if trainer.validation is not None:
            say([trainer.validation.describe(run.best())])
        if request.resume:
            run.write_config(config)  # what was changed stays when it is resumed again
    return trainer


def describe_workers(config: Config) -> str:
    """How several workers share the work, in a line."""
    train, scale = config.train, lr_scale(config.train)
    if train.kvstore == "dist_async":
        return f"{train.workers} workers, {train.batch_size} images an update, each at its own pace"
    rate = f"{scale} x {train.lr:g}, --lr-scaling linear" if scale > 1 else f"{train.lr:g}"
    images = train.workers * train.batch_size
    return f"{train.workers} workers, {images} images a step, learning rate {rate}"


def run_training(request: TrainRequest) -> int:
    """Train as asked; the process's exit code: 0, or 128 + n if signal n stopped it."""
    trainer = prepare(request)
    workers, path = trainer.workers, trainer.run.path
    if workers.first:
        say([f"{trainer.total} steps, {trainer.plan.steps} an epoch; run folder {path}"])
    result = train(trainer, request.num_workers)
    code = _report_end(path, result) if workers.first else exit_code(result)
    workers.leave()
    return code


def exit_code(result: TrainResult) -> int:
    """0, or 128 + n if signal n stopped it."""
    return 0 if result.stopped_by is None else 128 + result.stopped_by


def _report_end(path: Path, result: TrainResult) -> int:
    if result.stopped_by is not None:
        say([f"stopped at step {result.step}; go on: python tools/train.py --resume {path}"])
    else:
        say([f"done: {path} (losses.png, log.jsonl); test it: python tools/test.py {path}"])
    return exit_code(result)
