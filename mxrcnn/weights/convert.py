"""Converts another project's parameter file into a run folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mxrcnn.config import Config, ConfigError, make_config, override, parse_settings
from mxrcnn.config.overrides import find_detector, resolve
from mxrcnn.files import atomic_folder, atomic_write
from mxrcnn.program import command
from mxrcnn.runs.checkpoint import CheckpointError, RunFolder, TrainState, join_params
from mxrcnn.weights.download import alone, say
from mxrcnn.weights.formats import WeightsError, read_params
from mxrcnn.weights.names import COCO_CLASSES, KNOWN_NAMES, implied_names
from mxrcnn.weights.reading import LoadReport, fit_params, to_rgb
from mxrcnn.weights.source import Source, unused
from mxrcnn.weights.sources import identify, network_shapes
from mxrcnn.weights.zoo import fetch, known, locate
from symnet import get_detector
from symnet.machine import mx

TABLE = "conversion.txt"


@dataclass(frozen=True)
class ConvertRequest:
    """A request to `mxrcnn convert`.

    source: a file, or the name of known weights. words: `key=value` settings. class_names: the text
    of --class-names.
    """

    source: str
    to: str
    network: str | None = None
    class_names: str | None = None
    channel_order: str = "auto"
    partial: bool = False
    words: Sequence[str] = ()


@dataclass(frozen=True)
class Conversion:
    """A file converted to a network's config and parameters, not yet written to a run folder."""

    source: Source
    config: Config
    params: dict[str, np.ndarray]
    report: LoadReport
    unplaced: list[str]

    @property
    def needed(self) -> list[str]:
        """Missing parameters that the file should have: all, or the body's for a classifier."""
        of_body = get_detector(self.config.network).of_body
        everything = bool(self.source.num_classes)
        missing = self.report.missing
        return [n for n in missing if everything or of_body(self.config.model, n)]

    def flaws(self) -> list[str]:
        """Why the file does not match the network exactly, in words; empty if it does."""
        kinds = [
            (self.needed, "in the network but not in the file"),
            (self.report.misshapen, "with another shape"),
            (self.unplaced + self.report.surplus, "in the file but not in the network"),
        ]
        return [f"{len(names)} {what}: {_some(names)}" for names, what in kinds if names]

    def summary(self) -> list[str]:
        """The used, left out, unused and missing entries in a few lines."""
        left_out: dict[str, list[str]] = {}
        for name, reason in self.source.left_out.items():
            left_out.setdefault(reason, []).append(name)
        rows = [("used", len(self.report.used), _some(self.report.used))]
        rows += [("converted", 1, text) for text in self.report.converted]
        rows += [("assumed", 1, text) for text in self.report.assumed]
        rows += [
            ("left out", len(names), f"{why}: {_some(names)}") for why, names in left_out.items()
        ]
        rows += [
            (what, len(names), _some(names))
            for what, names in (
                ("misshapen", self.report.misshapen),
                ("unused", self.unplaced + self.report.surplus),
                ("missing", self.report.missing),
            )
        ]
        return [f"  {what:<10} {count:>5}  {text}".rstrip() for what, count, text in rows if count]

    def table(self) -> list[str]:
        """One line per entry: what happened to it, name here, shape, name in the file."""
        origin, used = self.source.origin, set(self.report.used)
        lines = [
            f"used\t{name}\t{self.params[name].shape}\t{origin[name]}"
            for name in origin
            if name in used
        ]
        lines += [f"left out\t-\t{why}\t{name}" for name, why in self.source.left_out.items()]
        lines += [f"misshapen\t{text}" for text in self.report.misshapen]
        lines += [f"unused\t-\t-\t{name}" for name in self.unplaced + self.report.surplus]
        return lines + [f"missing\t{name}\t-\t-" for name in self.report.missing]


def _some(names: Sequence[str], most: int = 2) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names) - most} more)" * (len(names) > most))


def _given_names(given: str) -> tuple[str, ...]:
    return KNOWN_NAMES.get(given, tuple(name.strip() for name in given.split(",")))


def _reading(source: Source, given: str | None, report: LoadReport) -> Source:
    """Choose how to read 90 classes: as they are, or as COCO's categories.

    If that is assumed, the report says so.
    """
    if source.by_category is None or (given and len(_given_names(given)) == source.num_classes - 1):
        return source
    if given is None:
        report.assumed.append(
            "its 90 classes are COCO's ids, 10 of which are unused and dropped (if not, name all "
            "90: --class-names A,B,...)"
        )
    return source.by_category


def _class_names(source: Source, given: str | None) -> tuple[str, ...]:
    """A detector's class names: as given, or implied by their number; ConfigError if neither."""
    count = source.num_classes - 1
    names = implied_names(source.num_classes)
    if given is not None:
        names = _given_names(given)
    if names is None:
        raise ConfigError(
            f"the file has {count} classes besides the background: name them in order, "
            "--class-names cat,dog,..."
        )
    if len(names) != count or len(set(names)) != count or not all(names):
        raise ConfigError(
            f"--class-names: {count} different names are needed, in the order of the classes; "
            f"{len(names)} were given"
        )
    return names


def _config(source: Source, request: ConvertRequest) -> Config:
    """The run's configuration: the network's defaults, then the source's settings, then --set."""
    asked = request.network and find_detector(request.network).name
    network = asked or next(iter(source.networks))
    if network not in source.networks:
        raise ConfigError(f"--network {network}: {source.title} fits {', '.join(source.networks)}")
    config = override(make_config(network), source.networks[network])
    settings = resolve(config, parse_settings(request.words))
    fixed = {"model.num_classes", "data.class_names"} & set(settings)
    if fixed:
        raise ConfigError(
            f"--set {', '.join(sorted(fixed))}: the file determines this; see --class-names"
        )
    if source.num_classes:
        names = _class_names(source, request.class_names)
        home = ("coco", "coco") if names == COCO_CLASSES else ("voc", "VOCdevkit")
        config = override(
            config,
            {
                "model.num_classes": source.num_classes,
                "data.class_names": names,
                "data.dataset": home[0],
                "data.root": home[1],
            },
        )
    elif request.class_names:
        raise ConfigError("--class-names: this file is a classifier, without a detector's classes")
    return override(config, settings)


def convert(request: ConvertRequest) -> Conversion:
    """Read a file and match it with a network, without writing anything.

    Raises WeightsError if they do not match exactly, unless request.partial is set, or not at all.
    """
    path = locate(request.source)
    arrays = read_params(path)
    source = identify(path, arrays)
    report = LoadReport(path)
    source = _reading(source, request.class_names, report)
    config = _config(source, request)
    params = dict(source.params)
    to_rgb(params, report, request.channel_order, source.rgb)
    used = fit_params(params, network_shapes(config), report)
    unplaced = [n for n in unused(arrays, source.origin) if n not in source.left_out]
    conversion = Conversion(source, config, used, report, unplaced)
    flaws = conversion.flaws()
    if not used or (flaws and not request.partial):
        raise WeightsError(
            "\n  ".join(
                [
                    f"{path}: {source.title} does not fit {config.network} exactly:",
                    *flaws,
                    "--partial takes what fits; --network and --set choose another architecture",
                ]
            )
        )
    return conversion


def write_run(conversion: Conversion, to: str | Path) -> RunFolder:
    """Write the run folder atomically; CheckpointError if something is already there."""
    to, config = Path(to), conversion.config
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise CheckpointError(f"{to} already exists: choose another --to")
    detector = get_detector(config.network)
    symbols = {"train": detector.train_symbol(config.model, 1)}
    symbols["test"] = detector.test_symbol(config.model)
    args = {name: mx.nd.array(value) for name, value in conversion.params.items()}
    auxs = {n: args.pop(n) for n in symbols["test"].list_auxiliary_states() if n in args}
    with atomic_folder(to) as partial:
        run = RunFolder(partial)
        run.create(config, symbols)
        run.save(TrainState(), join_params(args, auxs), {}, keep=1)
        with atomic_write(partial / TABLE) as handle:
            handle.writelines(f"{line}\n" for line in conversion.table())
    return RunFolder(to)


def run_convert(request: ConvertRequest) -> list[str]:
    """Convert a file to a run folder; returns the lines to print."""
    conversion = convert(request)
    run = write_run(conversion, request.to)
    config, source = conversion.config, conversion.source
    lines = [f"{request.source}: {source.title}, for {config.network}", *source.notes]
    lines += conversion.summary()
    if source.num_classes and implied_names(source.num_classes) and not request.class_names:
        names = "COCO" if config.data.class_names == COCO_CLASSES else "Pascal VOC"
        lines.append(
            f"{source.num_classes - 1} classes: assumed to be {names}'s; if not, use --class-names"
        )
    lines.append(f"written: {run.path} (config.json, checkpoints/step-00000000, {TABLE})")
    if conversion.report.missing:
        lines.append(
            "it is not a complete detector yet; train it: "
            + command("train", "--pretrained", run.path, "...")
        )
    else:
        lines.append(f"try it: {command('predict', run.path, 'IMAGE')}")
    return lines


def known_run(place: str | Path) -> Path:
    """The run that a folder or the name of a known detector means.

    A known detector is downloaded once, and converted into the cache once by each version of the
    code, which removes the runs of other versions. Raises WeightsError for
    unknown names, and for classifiers, which detect nothing.
    """
    entry = known(place)
    if entry is None:
        return Path(place)
    if entry.kind != "detector":
        raise WeightsError(
            f"{entry.name}: a classifier, which only brings a body; train a detector with it: "
            f"--pretrained {entry.name}"
        )
    with alone(entry.run):
        if not entry.run.exists():
            request = ConvertRequest(str(fetch(entry)), str(entry.run))
            say("\n".join(run_convert(request)))
            for path in entry.old_runs():
                say(f"removing {path}, which another version of mxrcnn had made")
                shutil.rmtree(path, ignore_errors=True)
    return entry.run
