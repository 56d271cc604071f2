"""The training graph on its devices: one Module with its parameters and updates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import Config, ConfigError, check_precision, check_shapes
from mxrcnn.data.batches import Batch, training_shapes
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.runs.checkpoint import Params, join_params, split_params
from mxrcnn.training.average import Average
from mxrcnn.training.checks import check_fixed, check_masks, class_weight_table
from mxrcnn.training.optimizer import (
    KINDS,
    NormClipper,
    find_arrays,
    named_arrays,
    optimizer_options,
    optimizer_params,
)
from mxrcnn.training.schedule import Schedule
from mxrcnn.training.workers import Workers, check_own_pace, update_on_servers
from mxrcnn.weights.reading import match_params
from symnet import get_detector
from symnet.detector import DetectorDef, ImageTargetsInput
from symnet.machine import mx
from symnet.ops.precision import precision
from symnet.parts.losses import SHARE, class_weights, partial_batches

#: the outputs or labels of one device by name
Arrays = dict[str, mx.nd.NDArray]


def first_value(config: Config, name: str, shape: tuple[int, ...], scratch: bool) -> np.ndarray:
    """A parameter's initial value. It depends on train.seed and the name only; see
    DetectorDef.init."""
    rng = np.random.default_rng([config.train.seed, *name.encode()])
    return get_detector(config.network).init(config.model, name, shape, rng, scratch)


def seeded_model(config: Config) -> Any:
    """The model's config, with train.seed added to sampling_seed if the graph samples."""
    model = config.model
    if "sampling_seed" not in {field.name for field in fields(model)}:
        return model
    return replace(model, sampling_seed=model.sampling_seed + config.train.seed)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of MXNet's generators for one step, so that a resumed run draws the same numbers.

    Workers have different seeds: otherwise dropout would drop the same units in all of them.
    """
    entropy = [seed, step, rank] if rank else [seed, step]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


class Network:
    """The training graph on its devices: one Module, its parameters and momentum by name."""

    def __init__(
        self,
        config: Config,
        plan: TrainingPlan,
        contexts: Sequence[mx.Context],
        workers: Workers | None = None,
    ) -> None:
        """Build and bind the graph. Raises ConfigError for settings that cannot work."""
        images, devices = config.train.batch_size, len(contexts)
        if images % devices:
            raise ConfigError(
                f"train.batch_size={images}: cannot be shared equally by {devices} devices"
            )
        self.detector: DetectorDef = get_detector(config.network)
        self.config = config
        self.contexts = list(contexts)
        self.workers = workers or Workers()
        # the number of gradients that are added up in one step
        self.parts = devices * config.train.accumulate
        self.parts *= self.workers.count if self.workers.in_step else 1
        self._safe_shapes: set[tuple[int, ...]] = set()
        self._updater: mx.optimizer.Updater | None = None  # see `start`
        self.clipper: NormClipper | None = None
        self._average: Average | None = None
        check_precision(config.train.precision)
        check_masks(config, self.detector)
        check_own_pace(config.train)
        self.symbol = self._train_symbol(images // devices)
        data, labels = self._inputs(plan)
        self._shares = [name for name in self.symbol.list_arguments() if name.endswith(SHARE)]
        inputs = {*self.detector.data_names, *self.detector.label_names, *self._shares}
        names = [name for name in self.symbol.list_arguments() if name not in inputs]
        arg_shapes, _, aux_shapes = self.symbol.infer_shape(
            **{x.name: (x.shape[0] // devices, *x.shape[1:]) for x in data + labels}
        )
        by_name = dict(zip(self.symbol.list_arguments(), arg_shapes))
        self.shapes = {name: by_name[name] for name in names}
        self.aux_shapes = dict(zip(self.symbol.list_auxiliary_states(), aux_shapes))
        fixed = [name for name in names if self._is_fixed(name)]
        check_fixed(config, names, fixed)
        self.module = mx.mod.Module(
            self.symbol,
            data_names=self.detector.data_names,
            label_names=self.detector.label_names,
            context=self.contexts,
            state_names=self._shares,
            fixed_param_names=fixed or None,
        )
        self.module.bind(
            data,
            labels,
            for_training=True,
            grad_req="add" if config.train.accumulate > 1 else "write",
        )

    def _train_symbol(self, images: int) -> mx.sym.Symbol:
        """The training graph of one device."""
        config, weights = self.config, class_weight_table(self.config)
        with (
            precision(config.train.precision),
            partial_batches(self.parts > 1),
            class_weights(weights) as used,
        ):
            symbol = self.detector.train_symbol(seeded_model(config), images)
        if weights and not used:
            raise ConfigError(
                f"train.class_weights={config.train.class_weights!r}: the class loss of "
                f"{config.network} does not take them (symnet.parts.losses.class_weight)"
            )
        return symbol

    def _inputs(self, plan: TrainingPlan) -> tuple[list[mx.io.DataDesc], list[mx.io.DataDesc]]:
        """Data and labels of the largest batch: Module needs its shapes first."""
        config, detector, size = self.config, self.detector, plan.largest_size()
        empty = ImageTargetsInput(np.zeros((0, 5), np.float32), size, size)
        targets = detector.assign_targets(config.model, empty, np.random.default_rng(0))
        shapes = training_shapes(config, plan.capacity, size)
        data = [mx.io.DataDesc(name, *shapes[name]) for name in detector.data_names]
        labels = [
            mx.io.DataDesc(name, (config.train.batch_size, *targets[name].shape))
            for name in detector.label_names
        ]
        return data, labels

    def _is_fixed(self, name: str) -> bool:
        fixed = name.startswith(tuple(self.config.train.fixed))
        return fixed or self.detector.frozen(self.config.model, name)

    def first_params(self) -> tuple[Params, list[str]]:
        """Pretrained parameters where the file has them, initial values elsewhere.

        Returns them with arg: and aux: keys, and a report of what was loaded, line by line.
        """
        pretrained = self.config.train.pretrained
        loaded, lines = {}, []
        if pretrained:
            shapes, order = {**self.shapes, **self.aux_shapes}, self.config.train.channel_order
            loaded, report = match_params(Path(pretrained), shapes, order)
            lines = report.lines()
        params = {}
        for kind, shapes in (("arg", self.shapes), ("aux", self.aux_shapes)):
            for name, shape in shapes.items():
                value = loaded.get(name)
                if value is None:
                    value = first_value(self.config, name, shape, scratch=not pretrained)
                params[f"{kind}:{name}"] = mx.nd.array(value)
        return params, lines

    def start(
        self,
        params: Params,
        momentum: Params,
        schedule: Schedule,
        step: int,
        averages: Params | None = None,
    ) -> None:
        """Set the parameters (arg:/aux: keys) and `momentum()`, and prepare the updates.

        step: the number of steps already done. averages: see `averages`; by default, the parameters
        themselves.
        """
        ema = self.config.train.ema
        if ema and self.workers.first:
            start = {**params, **(averages or {})}
            self._average = Average(ema, {name: start[name] for name in self.averaged_names()})
        args, auxs = split_params(params)
        several = len(self.contexts) > 1
        if not several and self.contexts[0].device_type == "cpu":
            self._share_arrays()
        self.module.init_params(initializer=None, arg_params=args, aux_params=auxs)
        on_servers = self.workers.at_own_pace
        options = optimizer_options(
            self.config.train, schedule, step, self.parts, self.workers.count if on_servers else 1
        )
        kind = self.config.train.optimizer
        if on_servers:
            update_on_servers(self.workers.store, kind, list(self.shapes), options)
        # otherwise update here: momentum inside a kvstore cannot be read, so not saved
        os.environ["MXNET_UPDATE_ON_KVSTORE"] = str(int(on_servers))
        on_gpu = self.contexts[0].device_type == "gpu"
        self.module.init_optimizer(
            kvstore=self.workers.store or (("device" if on_gpu else "local") if several else None),
            optimizer=KINDS[kind].name,
            optimizer_params=optimizer_params(options),
        )
        if on_servers:
            return
        updater = self.module._updater
        for place, name in enumerate(self.shapes):
            for device, context in enumerate(self.contexts):
                state = find_arrays(kind, name, momentum, context)
                if state is not None:
                    index = place * len(self.contexts) + device
                    updater.states[index], updater.states_synced[index] = state, True
        self._updater = updater
        if self.config.train.clip_norm:
            self.clipper = NormClipper(updater, self.config.train.clip_norm)
            self.module._updater = self.clipper

    def _share_arrays(self) -> None:
        """Let the module use the executor's arrays directly instead of copies on the host."""
        executor = self.module._exec_group.execs[0]
        self.module._arg_params = {name: executor.arg_dict[name] for name in self.shapes}
        self.module._aux_params = dict(executor.aux_dict)

    def catch_up(self) -> None:
        """With dist_async: wait until the servers have all workers' updates, then fetch them."""
        if self.workers.at_own_pace:
            mx.nd.waitall()
            self.workers.wait_for_all()
            group = self.module._exec_group
            for name, arrays in zip(group.param_names, group.param_arrays):
                self.workers.store.pull(name, out=arrays)

    def params(self) -> Params:
        """All parameters on the CPU, with arg: and aux: keys. The next step overwrites them."""
        # BatchNorm's backward pass writes the moving statistics without a dependency
        mx.nd.waitall()
        return join_params(*self.module.get_params())

    def averaged_names(self) -> list[str]:
        """The names (arg:, aux:) of what train.ema averages: all that training changes."""
        names = [f"arg:{name}" for name in self.shapes if not self._is_fixed(name)]
        moving = getattr(self.config.model, "norm", "") == "batch"
        return names + [f"aux:{name}" for name in self.aux_shapes if moving]

    def averages(self) -> Params:
        """The moving averages of `averaged_names`; empty without train.ema."""
        return self._average.arrays if self._average else {}

    def _update_average(self) -> None:
        group = self.module._exec_group
        values = {f"arg:{n}": arrays[0] for n, arrays in zip(group.param_names, group.param_arrays)}
        if group.aux_names:
            mx.nd.waitall()  # see `params`
            values.update({f"aux:{n}": a[0] for n, a in zip(group.aux_names, group.aux_arrays)})
        self._average.update(self._updater.optimizer.num_update, values)

    def momentum(self) -> Params:
        """The optimizer's arrays of the trained parameters, on the CPU, by `named_arrays`' names.

        All devices have the same. Empty with dist_async: there the servers hold them.
        """
        if self._updater is None:
            return {}
        names, devices = list(self.shapes), len(self.contexts)
        kind = self.config.train.optimizer
        found = {}
        for index, state in self._updater.states.items():
            if index % devices == 0:
                found.update(named_arrays(kind, names[index // devices], state))
        return {name: array.as_in_context(mx.cpu()) for name, array in found.items()}

    def _check_shapes(self, batch: Batch) -> None:
        """ConfigError if bfloat16 cannot run on images of this size."""
        size = batch.data["data"].shape
        if self.config.train.precision == "bf16" and size not in self._safe_shapes:
            inputs = set(self.symbol.list_arguments())
            images = self.config.train.batch_size // len(self.contexts)
            shapes = {
                name: (images, *array.shape[1:])
                for name, array in {**batch.data, **batch.labels}.items()
                if name in inputs
            }
            check_shapes(self.symbol, "bf16", **shapes)
            self._safe_shapes.add(size)

    def step(self, batch: Batch, seed: int) -> dict[str, list[tuple[mx.nd.NDArray, mx.nd.NDArray]]]:
        """Do one update, with train.accumulate forward and backward passes.

        Returns each metric's (sum, count) of every device and pass, without waiting.
        """
        self._check_shapes(batch)
        mx.random.seed(seed)
        parts = [self._part(batch, part) for part in range(self.config.train.accumulate)]
        ahead = self._count_ahead(parts) if self._shares and len(parts) > 1 else None
        found = []
        for data, labels in parts:
            devices = self._forward(data)
            if self._shares:
                counts = self._counts(devices, labels)
                self._weigh(devices, counts, self._total(counts) if ahead is None else ahead)
            self.module.backward()
            found += [self.detector.metrics(*arrays) for arrays in zip(devices, labels)]
        self.module.update()
        if self._average:
            self._update_average()
        if len(parts) > 1:  # grad_req="add"
            for grads in self.module._exec_group.grad_arrays:
                for grad in grads:
                    if grad is not None:
                        grad[:] = 0
        return {name: [pairs[name] for pairs in found] for name in found[0]}

    def _part(self, batch: Batch, part: int) -> tuple[mx.io.DataBatch, list[Arrays]]:
        """The arrays of one forward pass, and the labels of each device."""
        count = self.config.train.batch_size
        here = slice(part * count, (part + 1) * count)
        data = mx.io.DataBatch(
            [
                mx.nd.array(batch.data[name][here], dtype=batch.data[name].dtype)
                for name in self.detector.data_names
            ],
            [mx.nd.array(batch.labels[name][here]) for name in self.detector.label_names],
        )
        images = count // len(self.contexts)
        labels = [
            {
                name: array[device * images : (device + 1) * images].as_in_context(context)
                for name, array in zip(self.detector.label_names, data.label)
            }
            for device, context in enumerate(self.contexts)
        ]
        return data, labels

    def _forward(self, data: mx.io.DataBatch) -> list[Arrays]:
        """The outputs of each device."""
        if self._shares:
            self.module.set_states(value=1)
        self.module.forward(data, is_train=True)
        names = [name[: -len("_output")] for name in self.module.output_names]
        outputs = self.module.get_outputs(merge_multi_context=False)
        return [dict(zip(names, arrays)) for arrays in zip(*outputs)]

    def _counts(self, devices: Sequence[Arrays], labels: Sequence[Arrays]) -> list[mx.nd.NDArray]:
        """Each device's numbers of samples (L,), of the losses that have a share."""
        losses = [share[: -len(SHARE)] for share in self._shares]
        counts = [self.detector.counts(*arrays) for arrays in zip(devices, labels)]
        return [mx.nd.concat(*(found[loss] for loss in losses), dim=0) for found in counts]

    def _count_ahead(self, parts: Sequence[tuple[mx.io.DataBatch, list[Arrays]]]) -> mx.nd.NDArray:
        """The numbers of samples (L,) of the whole step, before its first backward pass.

        Where the graph itself decides what counts (RoIs, masks), that takes a forward pass each.
        """
        found = []
        for data, labels in parts:
            known = self.detector.counts_labels
            devices = [{} for _ in labels] if known else self._forward(data)
            found += self._counts(devices, labels)
        return self._total(found)

    def _total(self, counts: Sequence[mx.nd.NDArray]) -> mx.nd.NDArray:
        """The numbers of samples (L,) of all these and of all workers, at least 1, on the CPU."""
        total = mx.nd.add_n(*(found.as_in_context(mx.cpu()) for found in counts))
        return mx.nd.maximum(self.workers.total("samples", total), 1)

    def _weigh(
        self, devices: Sequence[Arrays], counts: Sequence[mx.nd.NDArray], whole: mx.nd.NDArray
    ) -> None:
        """Weight each device's losses so that their mean is the loss of the whole step.

        A device's weight is its share of the samples. Adds the shares to the outputs in `devices`.
        counts: see `_counts`. whole: see `_total`.
        """
        executors = self.module._exec_group.execs
        for executor, outputs, own in zip(executors, devices, counts):
            shares = self.parts * mx.nd.maximum(own, 1) / whole.as_in_context(own.context)
            for place, name in enumerate(self._shares):
                outputs[name] = shares[place : place + 1]
                target = executor.arg_dict[name]
                target[:] = outputs[name].reshape(target.shape)
