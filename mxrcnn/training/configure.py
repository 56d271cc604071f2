"""Make the configuration of a training run from the user's request.

Later ones override earlier ones: network defaults, settings of --pretrained, preset, what
`mxrcnn.training.choose` chose, flags, --set.
The source of each value is recorded; `mxrcnn train --print-config` prints it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from mxrcnn.config import Config, ConfigError, load_json, override, parse_settings
from mxrcnn.config.listing import list_sources
from mxrcnn.config.overrides import find_detector, plain_config, resolve
from mxrcnn.config.sections import fields_of
from mxrcnn.data import check_dataset
from mxrcnn.data.records import Dataset
from mxrcnn.data.transforms import expand, typical_scale
from mxrcnn.program import command
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.training.anchors import check_anchors_request
from mxrcnn.training.derived import derive, derive_sides
from mxrcnn.training.server import number_of_workers, started_together
from mxrcnn.weights.reading import Origin
from symnet.bodies import get_body

DEFAULT_NETWORK = "faster_rcnn_vgg16"

#: the settings of the quick preset, besides the detector's own `quick`
QUICK = {
    "data.short_side": 192,
    "data.long_side": 256,
    "data.std": (58.4, 57.1, 57.4),
    "train.batch_size": 4,
    "train.lr": 0.02,
    "train.epochs": 3,
    "train.schedule": "cosine",
    "train.lr_decay_epoch": (2,),  # with --schedule step
    "train.warmup_steps": 100,
}

#: the setting that counts the trained stages of the body
STAGES = "model.trainable_layers"

#: flags whose value is a list, such as 7,9
LISTS = {"train.lr_decay_epoch", "data.augment"}

#: the settings that --resume may change, as they do not change what a step computes; except for
#: epochs with the schedules cosine and poly, which `resumed_config` says
RESUMABLE = (
    "train.epochs",
    "train.val_metric",
    "train.patience",
    "data.root",
    "data.images",
    "data.val_root",
    "data.val_images",
    "train.checkpoint_steps",
    "train.log_interval",
)


@dataclass(frozen=True)
class TrainRequest:
    """The options of `mxrcnn train`. anchors: "auto" or None.

    config: a run's config.json, or its folder. settings: flags that set a setting, by
    `section.field`. words: the `key=value` words of --set. choose: whether the data and the machine
    decide what is not given, see mxrcnn.training.choose; then network and preset are None. minutes:
    the time that the command may take, or None. began: time.monotonic() at its start; 0: unknown.
    """

    network: str | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    words: Sequence[str] = ()
    out: str | None = None
    resume: str | None = None
    gpus: str | None = None
    num_workers: int | None = None
    anchors: str | None = None
    data_changed: bool = False
    config: str | None = None
    choose: bool = False
    minutes: float | None = None
    began: float = 0.0


@dataclass(frozen=True)
class Chosen:
    """Settings that were chosen for a new run, and why, by full name."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def add(self, name: str, value: Any, reason: str) -> Chosen:
        """The same with one more setting."""
        return Chosen({**self.settings, name: value}, {**self.reasons, name: f"chosen: {reason}"})

    def without(self, name: str) -> Chosen:
        """The same without one of the settings."""
        parts = (self.settings, self.reasons)
        return Chosen(*({k: v for k, v in part.items() if k != name} for part in parts))


NOTHING = Chosen()


@dataclass(frozen=True)
class Configuration:
    """A configuration, and where its values came from.

    sources: setting -> what set it; settings that are not in it have the dataclasses' defaults.
    notes: lines for the user.
    """

    config: Config
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def set(self, settings: Mapping[str, Any], source: str | Mapping[str, str]) -> Configuration:
        """Replace settings. source: what set them, all of them or by name."""
        if isinstance(source, str):
            source = dict.fromkeys(resolve(self.config, settings), source)
        config = override(self.config, settings)
        return replace(self, config=config, sources={**self.sources, **source})


def configure(request: TrainRequest, chosen: Chosen = NOTHING) -> Configuration:
    """The configuration of a new run, or of the run to resume. Data sets are not read.

    Raises ConfigError for invalid requests, CheckpointError and WeightsError for unreadable runs
    and files.
    """
    if request.resume:
        return resumed_config(request, RunFolder(Path(request.resume)))
    if request.data_changed:
        raise ConfigError("--data-changed goes with --resume: a new run takes any data")
    make = repeated_config if request.config else build_config
    return make(request, chosen)


def build_config(request: TrainRequest, chosen: Chosen = NOTHING) -> Configuration:
    """The configuration of a new run."""
    network, brought, notes = _start(request)
    detector = find_detector(network)
    made = Configuration(plain_config(network)).set(detector.defaults, f"default of {network}")
    given, _ = given_settings(request, made.config)
    if "train.workers" in given:
        raise ConfigError(
            f"train.workers={given['train.workers']}: set by {command('launch', '-n', 'N')}; for "
            "loader processes use --num-workers"
        )
    dataset = given.get("data.dataset", made.config.data.dataset)
    quick = dataset == "synthetic" and not brought
    preset = request.preset or ("quick" if quick else "classic")
    presets = {"classic": {}, "quick": {**QUICK, **detector.quick}, **detector.presets}
    if preset not in presets:
        raise ConfigError(f"--preset {preset}: {network} has {', '.join(presets)}")
    made = made.set(brought, "brought by --pretrained").set(presets[preset], f"preset {preset}")
    made, lines = _with_chosen(made, chosen)
    # again: what an old name stands for may depend on the preset
    given, sources = given_settings(request, made.config)
    if "train.fixed" in given and _once_froze_by_name(network):
        # train.fixed replaces it there
        given.setdefault(STAGES, len(get_body(override(made.config, given).model.body).stages))
        sources.setdefault(STAGES, "train.fixed")
    base = made.config.train
    made = _with_workers(made.set(given, sources), given)
    notes += [f"{network}, preset {preset}, data set {dataset}", *lines]
    if request.anchors:
        check_anchors_request(made.config, given)
        notes.append("--anchors auto: they will be fitted to the training images' objects")
    sides = derive_sides(made.config.data, given)
    made = made.set(sides.settings, sides.reasons)
    derived = derive(base, made.config.train, given)
    made = made.set(derived.settings, derived.reasons)
    notes += [*sides.notes, *([] if chosen.settings else derived.notes)]
    check_dataset(dataset)
    data = made.config.data
    # presets by what they hold, so that the run stays what it was when they change
    augment = {"data.augment": expand(data.augment, data.masks)}
    made = replace(made, config=override(made.config, augment))
    check_root(dataset, given)
    if not made.config.train.pretrained:
        scratch = {key: value for key, value in detector.scratch.items() if key not in given}
        if STAGES in scratch:  # all of them, as many as this body has
            scratch[STAGES] = len(get_body(made.config.model.body).stages)
        words = ", ".join(f"{key}={value}" for key, value in scratch.items())
        notes.append(f"no --pretrained parameters: everything is trained ({words})")
        made = made.set(scratch, "training without --pretrained")
    return replace(made, notes=tuple(notes))


def _with_chosen(made: Configuration, chosen: Chosen) -> tuple[Configuration, list[str]]:
    """The configuration with what was chosen, and lines for the user. Decay epochs are scaled."""
    if not chosen.settings:
        return made, []
    before = made.config.train
    made = made.set(chosen.settings, chosen.reasons)
    derived = derive(before, made.config.train, {"train.lr", *chosen.settings})
    return made.set(derived.settings, derived.reasons), derived.notes


def _once_froze_by_name(network: str) -> bool:
    """True for the classic networks: their older runs froze layers by train.fixed alone."""
    return "trainable_layers" in find_detector(network).before


def check_root(dataset: str, given: Collection[str]) -> None:
    """ConfigError unless the user said where the data set is. given: full names of settings."""
    if dataset != "synthetic" and "data.root" not in given:
        raise ConfigError(f"--dataset {dataset} needs --data-root")


def given_settings(request: TrainRequest, config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """The (values, sources) of the settings that flags and --set give, by full name."""
    flags = dict(request.settings)
    for name in LISTS & flags.keys():
        if isinstance(flags[name], str):
            flags.update(parse_settings([f"{name}={flags[name]}"]))
    flags = resolve(config, flags)
    words = resolve(config, parse_settings(request.words))
    sources = {**{name: _flag(name) for name in flags}, **dict.fromkeys(words, "--set")}
    return {**flags, **words}, sources


def _flag(setting: str) -> str:
    """The flag of `mxrcnn train` for a setting."""
    name = setting.partition(".")[2]
    if name in ("val_root", "val_images"):
        return f"--set {name}"
    if name in ("val_share", "val_dataset"):
        return "--val"
    return "--data-root" if name == "root" else f"--{name.replace('_', '-')}"


#: the data settings that fine-tuning takes over from a run: how images become inputs
_INPUT = (
    *("mean", "std", "resize", "size_rounding", "short_side", "long_side", "square", "mini_mask"),
    *("tile", "overlap"),
)


def _start(request: TrainRequest) -> tuple[str, dict[str, Any], list[str]]:
    """The (network, settings, notes) that --pretrained implies.

    The settings are those that its parameters depend on: the preprocessing of images and, if the
    network is the same, its model settings and number of classes (see `with_classes`).
    """
    network = find_detector(request.network).name if request.network else None
    given = {**request.settings, **parse_settings(request.words)}
    path = given.get("pretrained", given.get("train.pretrained"))
    origin = Origin.open(path) if path else None
    if origin and origin.source:
        source = origin.source.by_category or origin.source
        network = network or next(iter(source.networks))
        settings = dict(source.networks.get(network, {}))
        words = ", ".join(f"{key}={value}" for key, value in settings.items())
        if source.num_classes and network in source.networks:
            settings["model.num_classes"] = source.num_classes
        note = f"{origin.path}: {source.title}; its settings: {words}"
        return network, settings, [note, *source.notes]
    if origin and origin.config:
        config = origin.config
        network = network or config.network
        names = [f"data.{name}" for name in _INPUT]
        if network == config.network:
            names += [name for name, _ in fields_of(config) if name.startswith("model.")]
            if _once_froze_by_name(network):
                names.remove(STAGES)  # each training has its own
        which, folder = origin.checkpoint()
        note = f"{origin.path}: a run of {config.network}; using its settings and its {which} "
        note += f"checkpoint, {folder.name}"
        return network, {name: attrgetter(name)(config) for name in names}, [note]
    return network or DEFAULT_NETWORK, {}, []


def _with_workers(made: Configuration, given: Mapping[str, Any]) -> Configuration:
    """Add the workers that the environment announces. given: the user's settings."""
    together = started_together()
    if together and "train.kvstore" not in given:
        made = made.set({"train.kvstore": "dist_sync"}, "DMLC_ROLE in the environment")
    if made.config.train.kvstore != "local":
        workers = {"train.workers": number_of_workers()}
        return made.set(workers, "DMLC_NUM_WORKER in the environment")
    if together:
        raise ConfigError(
            "--kvstore local: this process is one of several, as DMLC_ROLE is in its environment"
        )
    return made


def with_classes(config: Config, dataset: Dataset) -> Config:
    """The config with the data set's class names, their number, and the scale of its images.

    The logits of --pretrained for ids without a class are kept if the number of classes is.
    """
    settings = {
        "data.class_names": dataset.class_names,
        "data.trained_scale": typical_scale(dataset.records, config.data),
        "model.num_classes": dataset.num_classes,
    }
    if (
        hasattr(config.model, "form")
        and getattr(config.model.form, "unused_classes", 0)
        and dataset.num_classes != config.model.num_classes
    ):
        settings["model.form.unused_classes"] = 0
    return override(config, settings)


def resumed_config(request: TrainRequest, run: RunFolder) -> Configuration:
    """The run's configuration with the requested changes; ConfigError unless RESUMABLE."""
    config = run.config()
    if request.minutes is not None:
        raise ConfigError("--minutes is for new runs; --epochs says how long a resumed one goes on")
    names = [name for name, _ in fields_of(config)]
    given, sources = given_settings(request, config)
    changes = set(given) - set(RESUMABLE)
    changes |= {
        f"--{name}" for name in ("preset", "out", "network", "anchors") if getattr(request, name)
    }
    if changes:
        raise ConfigError(
            f"--resume uses the run's own settings; only {', '.join(map(_flag, RESUMABLE))}, "
            f"--gpus and --num-workers may change, not {', '.join(sorted(changes))}"
        )
    made = Configuration(config, dict.fromkeys(names, f"run {run.path}")).set(given, sources)
    train = made.config.train
    if train.epochs != config.train.epochs:
        if train.schedule == "step":
            after = ", ".join(map(str, train.lr_decay_epoch)) or "none"
            note = f"the learning rate's decay epochs stay those of the run: {after}"
        else:
            note = f"schedule {train.schedule}: from here on the learning rate is that of a run of "
            note += f"{train.epochs} epochs; the steps before followed one of {config.train.epochs}"
        made = replace(made, notes=(note,))
    _check_workers(config, run.path)
    return made


def repeated_config(request: TrainRequest, chosen: Chosen = NOTHING) -> Configuration:
    """The configuration of a new run with the settings of another one's config.json.

    Flags and --set change them. For other data, class names are the data's again.
    """
    path = Path(request.config)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"--config {path}: no such file")
    if request.network or request.preset:
        raise ConfigError("--config has the network and all settings: not with --network, --preset")
    config = load_json(path)
    given, sources = given_settings(request, config)
    if {"data.dataset", "data.root", "data.imageset"} & set(given):
        given.setdefault("data.class_names", ("auto",))
        sources.setdefault("data.class_names", "given data")
    names = dict.fromkeys((name for name, _ in fields_of(config)), str(path))
    made, lines = _with_chosen(Configuration(config, names), chosen)
    made = replace(made.set(given, sources), notes=(f"settings of {path}", *lines))
    _check_workers(made.config, path)
    return made


def _check_workers(config: Config, where: Path) -> None:
    """ConfigError unless as many workers are here as the settings are for."""
    here = number_of_workers() if started_together() else 1
    if config.train.workers != here:
        raise ConfigError(
            f"{where} was started with {config.train.workers} workers (--kvstore "
            f"{config.train.kvstore}), and here are {here}: start as many, by "
            + command("launch", "-n", config.train.workers)
        )


def print_config(request: TrainRequest, made: Configuration | None = None) -> str:
    """The settings that differ from the dataclasses' defaults, a line each, with their sources.

    made: the request's configuration, if something was chosen for it.
    """
    made = made or configure(request)
    plain = plain_config(made.config.network)
    lines = [*made.notes, list_sources(made.config, plain, made.sources)]
    if request.resume:
        return "\n".join([f"{request.resume}: a run of {plain.network}", *lines])
    return "\n".join([*lines, "data.class_names and model.num_classes will be the data set's"])
