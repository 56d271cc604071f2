"""The training loop: plan -> loader -> Module -> metrics -> checkpoint, in sight as a whole."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mxrcnn.config import Config, ConfigError, check_precision, check_shapes, dump_json
from mxrcnn.data.identity import DataIdentity
from mxrcnn.data.loader import (
    Batch,
    TrainingPlan,
    default_workers,
    training_loader,
    training_shapes,
)
from mxrcnn.data.records import Dataset
from mxrcnn.runs.checkpoint import (
    CheckpointError,
    Params,
    RunFolder,
    TrainState,
    join_params,
    split_params,
)
from mxrcnn.training.curves import Events, LossPlot
from mxrcnn.training.metrics import IN_FLIGHT, NonFiniteLossError, RunningMetrics
from mxrcnn.training.optimizer import NAME, optimizer_options, optimizer_params
from mxrcnn.training.same_data import begun_with_others, continue_with, remember_data
from mxrcnn.training.schedule import StepSchedule, make_schedule
from mxrcnn.training.signals import StopRequest
from mxrcnn.training.validation import Validation, verdict
from mxrcnn.training.workers import Workers, update_on_servers
from mxrcnn.weights.reading import match_params
from symnet import get_detector
from symnet.detector import DetectorDef, ImageTargetsInput
from symnet.machine import mx
from symnet.parts.layers import SHARE, partial_batches, precision

#: of one device: arrays by name
Arrays = dict[str, mx.nd.NDArray]


@dataclass(frozen=True)
class TrainResult:
    """How a training ended: the step reached, the signal that stopped it or None, and the last
    metrics, None for those without samples."""

    step: int
    stopped_by: int | None
    metrics: dict[str, float | None]


def _check_masks(config: Config, detector: DetectorDef) -> None:
    """ConfigError if a detector that learns masks does not get them, or gets them otherwise."""
    if "gt_masks" not in detector.data_names:
        return
    if not config.data.masks:
        raise ConfigError(f"data.masks=False: {config.network} learns from masks")
    if config.model.mini_mask != config.data.mini_mask:
        raise ConfigError(
            f"model.mini_mask={config.model.mini_mask} and data.mini_mask={config.data.mini_mask} "
            "must be the same"
        )


def _check_fixed(config: Config, names: Sequence[str], fixed: Sequence[str]) -> None:
    """ConfigError for a prefix in train.fixed that no parameter has, or if nothing is trained."""
    for prefix in config.train.fixed:
        if not any(name.startswith(prefix) for name in names):
            some = ", ".join(dict.fromkeys(name.rpartition("_")[0] for name in names))
            raise ConfigError(
                f"train.fixed={prefix!r}: no parameter of {config.network} begins so; its layers "
                f"are {some[:200]}{'...' if len(some) > 200 else ''}"
            )
    if len(fixed) == len(names):
        raise ConfigError(f"train.fixed={config.train.fixed!r}: nothing is left to train")


def first_value(config: Config, name: str, shape: tuple[int, ...], scratch: bool) -> np.ndarray:
    """What a parameter starts with, from the seed and its name alone; see DetectorDef.init."""
    rng = np.random.default_rng([config.train.seed, *name.encode()])
    return get_detector(config.network).init(config.model, name, shape, rng, scratch)


def seeded_model(config: Config) -> Any:
    """The model's config with train.seed added to its sampling_seed, if it samples in the graph."""
    model = config.model
    if "sampling_seed" not in {field.name for field in fields(model)}:
        return model
    return replace(model, sampling_seed=model.sampling_seed + config.train.seed)


def _check_arrays(path: Path, arrays: Params, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """CheckpointError for arrays that a network with these shapes does not have, or not finite."""
    for name, value in arrays.items():
        if name not in shapes or value.shape != tuple(shapes[name]) or value.dtype != np.float32:
            needed = f"{shapes[name]} of float32" if name in shapes else "nothing of that name"
            kind = np.dtype(value.dtype).name
            raise CheckpointError(
                f"{path}: {name} is {value.shape} of {kind}, the network needs {needed}"
            )
        if not mx.nd.all_finite(value).asscalar():
            raise CheckpointError(f"{path}: {name} has values that are not finite")


class Network:
    """The training graph on its devices: one Module, its parameters and momentum by name."""

    def __init__(
        self,
        config: Config,
        plan: TrainingPlan,
        contexts: Sequence[mx.Context],
        workers: Workers | None = None,
    ) -> None:
        images, devices = config.train.batch_size, len(contexts)
        if images % devices:
            raise ConfigError(
                f"train.batch_size={images}: cannot be shared equally by {devices} devices"
            )
        self.detector: DetectorDef = get_detector(config.network)
        self.config = config
        self.contexts = list(contexts)
        self.workers = workers or Workers()
        # a batch is shared by so many devices, and one step is made of all their gradients
        self.parts = devices * (self.workers.count if self.workers.in_step else 1)
        self._safe_shapes: set[tuple[int, ...]] = set()
        check_precision(config.train.precision)
        _check_masks(config, self.detector)
        with precision(config.train.precision), partial_batches(self.parts > 1):
            self.symbol = self.detector.train_symbol(seeded_model(config), images // devices)
        size = plan.largest_size()
        nobody = ImageTargetsInput(np.zeros((0, 5), np.float32), size, size)
        targets = self.detector.assign_targets(config.model, nobody, np.random.default_rng(0))
        shapes = training_shapes(config, plan.capacity, size)
        data = [mx.io.DataDesc(name, *shapes[name]) for name in self.detector.data_names]
        labels = [
            mx.io.DataDesc(name, (images, *targets[name].shape))
            for name in self.detector.label_names
        ]
        self._shares = [name for name in self.symbol.list_arguments() if name.endswith(SHARE)]
        inputs = {*self.detector.data_names, *self.detector.label_names, *self._shares}
        names = [name for name in self.symbol.list_arguments() if name not in inputs]
        arg_shapes, _, aux_shapes = self.symbol.infer_shape(
            **{x.name: (x.shape[0] // devices, *x.shape[1:]) for x in data + labels}
        )
        by_name = dict(zip(self.symbol.list_arguments(), arg_shapes))
        self.shapes = {name: by_name[name] for name in names}
        self.aux_shapes = dict(zip(self.symbol.list_auxiliary_states(), aux_shapes))
        _check_fixed(config, names, [name for name in names if self._is_fixed(name)])
        self.module = mx.mod.Module(
            self.symbol,
            data_names=self.detector.data_names,
            label_names=self.detector.label_names,
            context=self.contexts,
            state_names=self._shares,
            fixed_param_names=[name for name in names if self._is_fixed(name)] or None,
        )
        self.module.bind(data, labels, for_training=True)

    def _is_fixed(self, name: str) -> bool:
        fixed = name.startswith(tuple(self.config.train.fixed))
        return fixed or self.detector.frozen(self.config.model, name)

    def first_params(self) -> tuple[Params, list[str]]:
        """Pretrained parameters where the file has them, initial values elsewhere; and a report."""
        pretrained = self.config.train.pretrained
        loaded, told = {}, []
        if pretrained:
            shapes, order = {**self.shapes, **self.aux_shapes}, self.config.train.channel_order
            loaded, report = match_params(Path(pretrained), shapes, order)
            told = report.lines()
        params = {}
        for kind, shapes in (("arg", self.shapes), ("aux", self.aux_shapes)):
            for name, shape in shapes.items():
                if name not in loaded:
                    value = first_value(self.config, name, shape, scratch=not pretrained)
                else:
                    value = loaded[name]
                params[f"{kind}:{name}"] = mx.nd.array(value)
        return params, told

    def start(self, params: Params, momentum: Params, schedule: StepSchedule, step: int) -> None:
        """Set parameters (arg:/aux: keys) and momentum (by name), and prepare the updates."""
        args, auxs = split_params(params)
        several = len(self.contexts) > 1
        if not several and self.contexts[0].device_type == "cpu":
            self._share_arrays()
        self.module.init_params(initializer=None, arg_params=args, aux_params=auxs)
        on_servers = self.workers.at_own_pace
        options = optimizer_options(
            self.config.train, schedule, step, self.parts, self.workers.count if on_servers else 1
        )
        if on_servers:
            update_on_servers(self.workers.store, list(self.shapes), options)
        # else the updates run here and not inside the kvstore, where momentum could not be read
        os.environ["MXNET_UPDATE_ON_KVSTORE"] = str(int(on_servers))
        on_gpu = self.contexts[0].device_type == "gpu"
        self.module.init_optimizer(
            kvstore=self.workers.store or (("device" if on_gpu else "local") if several else None),
            optimizer=NAME,
            optimizer_params=optimizer_params(options),
        )
        if on_servers:
            return
        updater = self.module._updater
        for place, name in enumerate(self.shapes):
            if name in momentum:
                for device, context in enumerate(self.contexts):
                    index = place * len(self.contexts) + device
                    updater.states[index] = momentum[name].as_in_context(context)
                    updater.states_synced[index] = True

    def _share_arrays(self) -> None:
        """Let the module's own parameters be the executor's, not copies of them on the host."""
        executor = self.module._exec_group.execs[0]
        self.module._arg_params = {name: executor.arg_dict[name] for name in self.shapes}
        self.module._aux_params = dict(executor.aux_dict)

    def catch_up(self) -> None:
        """Wait for the updates that other workers still make in the servers, and fetch them."""
        if self.workers.at_own_pace:
            mx.nd.waitall()
            self.workers.wait_for_all()
            group = self.module._exec_group
            for name, arrays in zip(group.param_names, group.param_arrays):
                self.workers.store.pull(name, out=arrays)

    def params(self) -> Params:
        """All parameters, on the CPU, with arg: and aux: keys; the next step changes them."""
        mx.nd.waitall()  # batch norm's backward pass writes moving means that no reader waits for
        return join_params(*self.module.get_params())

    def momentum(self) -> Params:
        """The momentum of the parameters that move, on the CPU, by name (equal on all devices)."""
        if self.module._updater is None:
            return {}  # it is in the servers
        states = self.module._updater.states
        names = list(self.shapes)
        devices = len(self.contexts)
        return {
            names[index // devices]: state.as_in_context(mx.cpu())
            for index, state in states.items()
            if index % devices == 0 and state is not None
        }

    def _check_shapes(self, batch: Batch) -> None:
        """ConfigError if bfloat16 cannot run images of this size."""
        size = batch.data["data"].shape
        if self.config.train.precision == "bf16" and size not in self._safe_shapes:
            devices = len(self.contexts)
            arrays = {**batch.data, **batch.labels}
            names = set(self.symbol.list_arguments()) & set(arrays)
            shapes = {name: arrays[name].shape for name in names}
            check_shapes(
                self.symbol, "bf16", **{n: (s[0] // devices, *s[1:]) for n, s in shapes.items()}
            )
            self._safe_shapes.add(size)

    def step(self, batch: Batch, seed: int) -> dict[str, list[tuple[mx.nd.NDArray, mx.nd.NDArray]]]:
        """One update; returns the metrics' (sum, count) of each device without waiting for them."""
        self._check_shapes(batch)
        mx.random.seed(seed)
        names = [name[: -len("_output")] for name in self.module.output_names]
        data = mx.io.DataBatch(
            [
                mx.nd.array(batch.data[name], dtype=batch.data[name].dtype)
                for name in self.detector.data_names
            ],
            [mx.nd.array(batch.labels[name]) for name in self.detector.label_names],
        )
        if self._shares:
            self.module.set_states(value=1)
        self.module.forward(data, is_train=True)
        outputs = self.module.get_outputs(merge_multi_context=False)
        devices = [dict(zip(names, arrays)) for arrays in zip(*outputs)]
        images = len(batch.image_ids) // len(self.contexts)
        labels = [
            {
                name: array[device * images : (device + 1) * images].as_in_context(context)
                for name, array in zip(self.detector.label_names, data.label)
            }
            for device, context in enumerate(self.contexts)
        ]
        if self._shares:
            self._weigh(devices, labels)
        self.module.backward()
        self.module.update()
        found = [self.detector.metrics(*arrays) for arrays in zip(devices, labels)]
        return {name: [pairs[name] for pairs in found] for name in found[0]}

    def _weigh(self, devices: Sequence[Arrays], labels: Sequence[Arrays]) -> None:
        """Weigh the losses of each device's part so that their mean is that of the whole batch.

        devices: the outputs of each, to which the shares are added.
        """
        losses = [share[: -len(SHARE)] for share in self._shares]
        counts = [self.detector.counts(*arrays) for arrays in zip(devices, labels)]
        counts = [mx.nd.concat(*(found[loss] for loss in losses), dim=0) for found in counts]
        total = mx.nd.add_n(*(found.as_in_context(mx.cpu()) for found in counts))
        whole = mx.nd.maximum(self.workers.total("samples", total), 1)
        executors = self.module._exec_group.execs
        for executor, outputs, own in zip(executors, devices, counts):
            shares = self.parts * mx.nd.maximum(own, 1) / whole.as_in_context(own.context)
            for place, name in enumerate(self._shares):
                outputs[name] = shares[place : place + 1]
                target = executor.arg_dict[name]
                target[:] = outputs[name].reshape(target.shape)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of MXNet's generators in one step: a resumed run draws what it would have drawn.

    Each worker draws its own: dropout would leave out the same units in all of them.
    """
    entropy = [seed, step, rank] if rank else [seed, step]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


class Trainer:
    """A training run: everything that `train` needs between two steps."""

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        dataset: Dataset,
        val_dataset: Dataset | None,
        contexts: Sequence[mx.Context],
        workers: Workers | None = None,
    ) -> None:
        self.config, self.run = config, run
        self.workers = workers or Workers()
        self.identity = DataIdentity.of(dataset, config.data.masks)
        self.plan = TrainingPlan(dataset, config, self.workers.count)
        self.network = Network(config, self.plan, contexts, self.workers)
        self.validation: Validation | None = None
        if val_dataset is not None:
            self.validation = Validation(config, val_dataset, contexts[0])
        self.metrics = RunningMetrics(self.network.detector.losses)
        self._go_to(TrainState(data=self.identity.hash))
        self.last: dict[str, float | None] = {}
        self._stop_requests: deque[mx.nd.NDArray] = deque()
        writes = config.train.tensorboard and self.workers.first
        self.events = Events(run.path / "tensorboard", writes)

    def _go_to(self, state: TrainState) -> None:
        """Stand at that place, from which on all epochs are of the present data."""
        first, steps = state.first_step(self.plan.steps), self.plan.steps
        self.state = replace(state, data=self.identity.hash)
        self.schedule = make_schedule(self.config.train, steps, first)
        self.total = first + self.config.train.epochs * steps

    def begin(self) -> list[str]:
        """Start a new run: folder, symbols, first parameters. Returns what to tell the user.

        Raises RunLockedError if another training works there, CheckpointError if there is a run.
        """
        params, told = self.network.first_params()
        if self.workers.first:
            told += self.run.lock()
            test_symbol = self.network.detector.test_symbol(self.config.model)
            self.run.create(self.config, {"train": self.network.symbol, "test": test_symbol})
        self._start(params, {})
        return told

    def _start(self, params: Params, momentum: Params) -> None:
        """Take up parameters and momentum, with all workers at the same place."""
        self.workers.check_agreement(
            {
                "their settings": dump_json(self.config),
                "their data": self.identity.hash,
                "where they go on": str(self.state),
            }
        )
        if self.workers.first:
            remember_data(self.run, self.identity)
        self.network.start(params, momentum, self.schedule, self.state.step)

    def resume(self, data_changed: bool = False) -> list[str]:
        """Go on from the run's last checkpoint; from the start if it has none.

        data_changed: accept other data, from the next epoch's start. Returns what to tell the user.
        Raises RunLockedError if another training works there, CheckpointError for a checkpoint that
        does not fit, or is of other data.
        """
        locked = self.run.lock() if self.workers.first else []
        if not self.run.steps():
            params, told = self.network.first_params()
            told += self._check_symbols()
            if begun_with_others(self.run, self.identity):
                told.append("these are other data than it was begun with")
            self._start(params, {})
            self._rewind_log()
            return [*locked, *told, "no checkpoint yet: starting from the first step"]
        state, params, momentum = self.run.load_state()
        told = [*locked, *self._check_symbols()]
        found = continue_with(self.run, state, self.identity, self.plan.steps, data_changed)
        self._go_to(found.state)
        folder = self.run.folder("last")
        known = {key.partition(":")[2]: value for key, value in params.items()}
        needed = {**self.network.shapes, **self.network.aux_shapes}
        missing = [name for name in needed if name not in known]
        if missing:
            raise CheckpointError(f"{folder / 'model.params'}: without {', '.join(missing)}")
        _check_arrays(folder / "model.params", {name: known[name] for name in needed}, needed)
        _check_arrays(folder / "momentum.params", momentum, self.network.shapes)
        self._start(params, momentum)
        self._rewind_log()
        return [*told, *found.told, f"resuming at step {self.state.step} of {self.total}"]

    def _check_symbols(self) -> list[str]:
        """CheckpointError for damaged graphs in the run folder; says if one is not what trains."""
        self.run.symbol("test")
        saved = self.run.symbol("train")
        stored = {*saved.list_arguments(), *saved.list_auxiliary_states()}
        if {*self.network.shapes, *self.network.aux_shapes} <= stored:
            return []
        path = self.run.path / "train-symbol.json"
        return [f"{path} is not the graph that trains: that is made anew from config.json"]

    def _rewind_log(self) -> None:
        if self.workers.first:
            self.run.rewind_log(self.state.step)

    def save(self) -> None:
        """Write a checkpoint of the current state, once all of it is known to be finite."""
        self.metrics.absorb(everything=True)
        if not self.workers.first:
            return
        params, momentum = self.network.params(), self.network.momentum()
        for name, value in {**momentum, **params}.items():
            if not mx.nd.all_finite(value).asscalar():
                raise NonFiniteLossError(
                    f"{name} is not finite after {self.state.step} steps, though the losses are"
                )
        self.run.save(self.state, params, momentum, self.config.train.keep)

    def owes_validation(self) -> bool:
        """Whether an epoch has ended that is to be validated and has not been."""
        every, state = self.config.train.val_every, self.state
        if (
            self.validation is None
            or not self.workers.first
            or not every
            or state.batch
            or not state.step
        ):
            return False
        if state.epoch % every and state.step < self.total:
            return False
        rows = self.run.read_log()
        return not any(row["kind"] == "val" and row["step"] == state.step for row in rows)

    def validate(self, num_workers: int = 0) -> tuple[dict[str, Any], str]:
        """Score the current parameters on the validation images.

        Returns the row that it adds to log.jsonl, and what to tell.
        """
        before, step = self.run.best(), self.state.step
        report = self.validation.score(self.run, self.network.params(), num_workers)
        is_best = self.run.note_best(step, report.label, report.value, self.validation.data)
        row = {"step": step, "epoch": self.state.epoch, **self.validation.log_row(report)}
        self.run.append_log({"kind": "val", **row})  # last: with it the validation is done
        return row, verdict(report, is_best, before, self.validation.data)

    def advance(self) -> bool:
        """Count one update; says whether an epoch ended."""
        state = self.state
        ended = state.batch + 1 == self.plan.steps
        place = {"epoch": state.epoch + ended, "batch": 0 if ended else state.batch + 1}
        self.state = replace(state, step=state.step + 1, **place)
        return ended

    def log(self, seconds: float, waited: float, images: int) -> dict[str, Any]:
        """Write a row of log.jsonl: means since the last row, rate, the share of time waited.

        A metric without samples is None.
        """
        self.metrics.absorb(everything=self.state.step == self.total)
        if not self.metrics.has_news:  # the row is of no more steps than are left in flight
            self.metrics.absorb(everything=True)
        self.last = self.metrics.take(self.workers.total)
        row = {
            "kind": "train",
            "step": self.state.step,
            "epoch": round(self.state.epoch + self.state.batch / self.plan.steps, 4),
            "lr": self.schedule(self.state.step - 1),
            "images_per_second": round(images * self.workers.count / seconds, 4),
            "waiting": round(waited / seconds, 4),
            **{k: None if v is None else round(v, 6) for k, v in self.last.items()},
        }
        if self.workers.first:
            self.run.append_log(row)
        return row

    def agreed_to_stop(self, signum: int | None) -> bool:
        """Whether to stop now; signum is the signal that this worker got, or None.

        Workers in step have to stop after the same step, or one would wait for the others for ever.
        So each tells the others at every step, and all act on it a few steps later.
        """
        if not self.workers.in_step:
            return signum is not None
        told = mx.nd.array([float(signum is not None)])
        self._stop_requests.append(self.workers.total("stop", told))
        if len(self._stop_requests) <= IN_FLIGHT:
            return False
        return bool(self._stop_requests.popleft().asscalar())


def train(trainer: Trainer, num_workers: int | None = None) -> TrainResult:
    """Run until the last epoch's end or a signal; checkpoints, validation and curves on the way.

    At its end others may train in the run folder. Raises NonFiniteLossError (the last checkpoint
    stays good), DataError, or LoaderError when a loader worker dies.
    """
    try:
        return _train(trainer, num_workers)
    finally:
        trainer.run.unlock()


def _train(trainer: Trainer, num_workers: int | None) -> TrainResult:
    config, state = trainer.config.train, trainer.state
    workers = default_workers() if num_workers is None else num_workers
    events = trainer.events
    events.open(state.step)
    plans = itertools.islice(
        trainer.plan.stream(state.epoch, state.batch, trainer.workers.rank),
        max(0, trainer.total - state.step),
    )
    bar = _progress_bar(trainer)
    plot = LossPlot(trainer.run, bar.write) if trainer.workers.first else None

    def validate_if_due() -> None:
        if trainer.owes_validation():
            row, told = trainer.validate(workers)
            epoch, metric, step = (row.pop(key) for key in ("epoch", "metric", "step"))
            bar.write(f"epoch {epoch}: {told}")
            events.write(step, {f"{metric}/{name}": value for name, value in row.items()})

    with (
        StopRequest() as stop,
        bar,
        training_loader(trainer.config, trainer.plan, workers) as loader,
    ):
        validate_if_due()  # a run may have been killed between checkpoint and validation
        since, waited, images = time.perf_counter(), 0.0, 0
        batches = loader.batches(plans)
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - before
            stopped = batch is not None and trainer.agreed_to_stop(stop.signum)
            if batch is None or stopped:
                break
            seed = step_seed(config.seed, trainer.state.step, trainer.workers.rank)
            pairs = trainer.network.step(batch, seed)
            trainer.metrics.add(trainer.state.step, batch.image_ids, pairs)
            epoch_ended = trainer.advance()
            images += len(batch.image_ids)
            bar.update()

            step = trainer.state.step
            if step % config.log_interval == 0 or step == trainer.total:
                trainer.metrics.absorb()  # the rate is of steps done, not of steps asked for
                now = time.perf_counter()
                row = trainer.log(now - since, waited, images)
                since, waited, images = now, 0.0, 0
                bar.set_postfix_str(_postfix(row))
                events.write(step, row)
            if epoch_ended or (config.checkpoint_steps and step % config.checkpoint_steps == 0):
                trainer.save()
                validate_if_due()
                if plot is not None:
                    plot.draw_if_due()
                since, waited, images = time.perf_counter(), 0.0, 0
        trainer.network.catch_up()
        trainer.save()
    events.close()
    if plot is not None:
        plot.draw()
    stopped_by = stop.signum or (int(signal.SIGTERM) if stopped else None)
    return TrainResult(trainer.state.step, stopped_by, trainer.last)


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
