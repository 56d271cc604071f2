"""A training run between two steps: starting, resuming, logging, validating, saving."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import Config, dump_json
from mxrcnn.data.batches import Batch
from mxrcnn.data.identity import DataIdentity
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.data.records import Dataset
from mxrcnn.data.store import FOLDER as DECODED
from mxrcnn.data.tiles import tile_dataset
from mxrcnn.runs.checkpoint import CheckpointError, Params, RunFolder, TrainState, load_arrays
from mxrcnn.training.curves import Events
from mxrcnn.training.metrics import IN_FLIGHT, NonFiniteLossError, RunningMetrics
from mxrcnn.training.network import Network
from mxrcnn.training.optimizer import KINDS
from mxrcnn.training.same_data import begun_with_others, continue_with, remember_data
from mxrcnn.training.schedule import make_schedule
from mxrcnn.training.validation import Validation, verdict
from mxrcnn.training.workers import Workers
from symnet.machine import mx


def _check_arrays(path: Path, arrays: Params, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """CheckpointError unless the arrays are finite, float32, and of the network's shapes."""
    for name, value in arrays.items():
        if name not in shapes or value.shape != tuple(shapes[name]) or value.dtype != np.float32:
            needed = f"{shapes[name]} of float32" if name in shapes else "nothing of that name"
            kind = np.dtype(value.dtype).name
            raise CheckpointError(
                f"{path}: {name} is {value.shape} of {kind}, the network needs {needed}"
            )
        if not mx.nd.all_finite(value).asscalar():
            raise CheckpointError(f"{path}: {name} has values that are not finite")


class Trainer:
    """A training run: all that the loop (loop.py) needs between two steps."""

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
        self.tiled = tile_dataset(dataset, config.data, run.path / DECODED)
        self.plan = TrainingPlan(self.tiled.dataset, config, self.workers.count)
        self.network = Network(config, self.plan, contexts, self.workers)
        self.validation: Validation | None = None
        if val_dataset is not None:
            self.validation = Validation(config, val_dataset, contexts[0])
        self.metrics = RunningMetrics(self.network.detector.losses)
        self._go_to(TrainState(data=self.identity.hash))
        self.last: dict[str, float | None] = {}
        self._kept, self._left_out, self._counted_steps = 0, Counter(), 0
        self._stop_requests: deque[mx.nd.NDArray] = deque()
        writes = config.train.tensorboard and self.workers.first
        self.events = Events(run.path / "tensorboard", writes)

    def _go_to(self, state: TrainState) -> None:
        """Continue from that state. All epochs from there on use the present data."""
        first, steps = state.first_step(self.plan.steps), self.plan.steps
        self.state = replace(state, data=self.identity.hash)
        self.schedule = make_schedule(self.config.train, steps, first)
        self.total = first + self.config.train.epochs * steps

    def begin(self) -> list[str]:
        """Start a new run: folder, symbols, initial parameters. Returns lines for the user.

        Raises RunLockedError if another training uses the folder, CheckpointError if it already
        holds a run.
        """
        params, lines = self.network.first_params()
        if self.workers.first:
            lines += self.run.lock()
            test_symbol = self.network.detector.test_symbol(self.config.model)
            self.run.create(self.config, {"train": self.network.symbol, "test": test_symbol})
            if self.tiled.tiles:
                self.run.append_log({"kind": "tiles", "step": 0, **self.tiled.counts()})
        self._start(params, {})
        return lines

    def _start(self, params: Params, momentum: Params, averages: Params | None = None) -> None:
        """Load parameters and momentum into the network, after all workers agree on the state."""
        self.workers.check_agreement(
            {
                "their settings": dump_json(self.config),
                "their data": self.identity.hash,
                "where they go on": str(self.state),
            }
        )
        if self.workers.first:
            remember_data(self.run, self.identity)
        self.network.start(params, momentum, self.schedule, self.state.step, averages)

    def resume(self, data_changed: bool = False) -> list[str]:
        """Continue from the run's last checkpoint; from the start if there is none.

        data_changed: accept other data, from the start of the next epoch. Returns lines for the
        user. Raises RunLockedError if another training uses the folder, CheckpointError for a
        checkpoint that does not fit or that was trained on other data.
        """
        locked = self.run.lock() if self.workers.first else []
        averages = None
        if self.run.steps():
            params, momentum, lines = self._load(data_changed)
            if self.config.train.ema:
                averages, params = params, {**params, **self._load_raw(params)}
            where = f"resuming at step {self.state.step} of {self.total}"
        else:
            (params, lines), momentum = self.network.first_params(), {}
            lines += self._check_symbols()
            if begun_with_others(self.run, self.identity):
                lines.append("the data are not those that the run was started with")
            where = "no checkpoint yet: starting from the first step"
        self._start(params, momentum, averages)
        if self.workers.first:
            self.run.rewind_log(self.state.step)
        return [*locked, *lines, where]

    def _load(self, data_changed: bool) -> tuple[Params, Params, list[str]]:
        """Continue from the last checkpoint's state: parameters, momentum, lines for the user."""
        state, params, momentum = self.run.load_state()
        lines = self._check_symbols()
        found = continue_with(self.run, state, self.identity, self.plan.steps, data_changed)
        self._go_to(found.state)
        folder = self.run.folder("last")
        known = {key.partition(":")[2]: value for key, value in params.items()}
        needed = {**self.network.shapes, **self.network.aux_shapes}
        missing = [name for name in needed if name not in known]
        if missing:
            raise CheckpointError(f"{folder / 'model.params'}: without {', '.join(missing)}")
        _check_arrays(folder / "model.params", {name: known[name] for name in needed}, needed)
        shapes = {
            prefix + name: shape
            for prefix in KINDS[self.config.train.optimizer].arrays
            for name, shape in self.network.shapes.items()
        }
        _check_arrays(folder / "momentum.params", momentum, shapes)
        return params, momentum, [*lines, *found.notes]

    def _load_raw(self, params: Params) -> Params:
        """The weights that the checkpoint's averages are of, by the names that `params` has."""
        path = self.run.folder("last") / "raw.params"
        raw = load_arrays(path)
        missing = [name for name in self.network.averaged_names() if name not in raw]
        if missing:
            raise CheckpointError(f"{path}: without {', '.join(missing)}")
        _check_arrays(path, raw, {name: params[name].shape for name in params})
        return raw

    def _check_symbols(self) -> list[str]:
        """Check the run's graphs: CheckpointError if damaged, a note if not the trained graph."""
        self.run.symbol("test")
        saved = self.run.symbol("train")
        stored = {*saved.list_arguments(), *saved.list_auxiliary_states()}
        if {*self.network.shapes, *self.network.aux_shapes} <= stored:
            return []
        path = self.run.path / "train-symbol.json"
        return [f"{path} is not the trained graph, which is built from config.json"]

    def save(self) -> None:
        """Write a checkpoint, after checking that all values are finite."""
        self.metrics.absorb(everything=True)
        if not self.workers.first:
            return
        params, momentum = self.network.params(), self.network.momentum()
        averages = self.network.averages()
        raw = {name: params[name] for name in averages}
        for name, value in {**momentum, **params}.items():
            if not mx.nd.all_finite(value).asscalar():
                raise NonFiniteLossError(
                    f"{name} is not finite after {self.state.step} steps, though the losses are"
                )
        keep = self.config.train.keep
        self.run.save(self.state, {**params, **averages}, momentum, keep, raw)

    def owes_validation(self) -> bool:
        """True if an epoch has ended that should be validated and has not been yet."""
        every, state = self.config.train.val_every, self.state
        if self.validation is None or not self.workers.first or not every:
            return False
        if state.batch or not state.step or (state.epoch % every and state.step < self.total):
            return False
        rows = self.run.read_log()
        return not any(row["kind"] == "val" and row["step"] == state.step for row in rows)

    def validate(self, num_workers: int = 0) -> tuple[dict[str, Any], str]:
        """Score the current parameters, or their averages, on the validation images.

        Returns the row added to log.jsonl and a line for the user.
        """
        before, step = self.run.best(), self.state.step
        params = {**self.network.params(), **self.network.averages()}
        report = self.validation.score(self.run, params, num_workers)
        is_best = self.run.note_best(step, report.label, report.value, self.validation.data)
        row = {"step": step, "epoch": self.state.epoch, **self.validation.log_row(report)}
        self.run.append_log({"kind": "val", **row})  # last: this row marks the validation as done
        failed = self.validation.draw(
            self.run.path / "val_pictures" / f"epoch_{self.state.epoch:04d}.jpg"
        )
        text = verdict(report, is_best, before, self.validation.data)
        return row, f"{text}; {failed}" if failed else text

    def out_of_patience(self) -> str:
        """Why training should end before its last epoch, or "". All workers must ask together."""
        patience = self.config.train.patience
        if not patience:
            return ""
        best, since = None, 0
        if self.workers.first:
            best, rows = self.run.best(), self.run.read_log()
            steps = [row["step"] for row in rows if row["kind"] == "val"]
            since = sum(step > (best.step if best else -1) for step in steps)
        gone = mx.nd.array([float(since >= patience)])
        if not self.workers.total("patience", gone).asscalar():
            return ""
        found = f"better than {best.metric} {best.value:.4f} at step {best.step}" if best else ""
        return f"{since} validations without one {found or 'that measured anything'} (--patience)"

    def advance(self) -> bool:
        """Count one update; returns whether an epoch ended."""
        state = self.state
        ended = state.batch + 1 == self.plan.steps
        place = {"epoch": state.epoch + ended, "batch": 0 if ended else state.batch + 1}
        self.state = replace(state, step=state.step + 1, **place)
        return ended

    def count_objects(self, batch: Batch) -> None:
        """Count the objects of a batch, and those that the augmentation left out."""
        self._kept += int((batch.data["gt_boxes"][:, :, 4] > 0).sum())
        self._left_out += batch.left_out
        self._counted_steps += 1

    def log_left_out(self) -> str | None:
        """Log what this process counted in the epoch that ended; a line for the user, or None."""
        kept, out, steps = self._kept, self._left_out, self._counted_steps
        self._kept, self._left_out, self._counted_steps = 0, Counter(), 0
        if not self.plan.augmentation.transforms or not self.workers.first:
            return None
        row = {"step": self.state.step, "epoch": self.state.epoch, "steps": steps, "kept": kept}
        self.run.append_log({"kind": "augmentation", **row, "left_out": dict(sorted(out.items()))})
        reasons = ", ".join(f"{what} {count}" for what, count in sorted(out.items()))
        total = sum(out.values())
        line = f"left out by augmentation: {total} of {kept + total} objects"
        return f"{line} ({reasons})" if reasons else line

    def log(self, seconds: float, waited: float, images: int) -> dict[str, Any]:
        """Append a row to log.jsonl: means since the last row, images/s, share of time waited.

        A metric without samples is None.
        """
        self.metrics.absorb(everything=self.state.step == self.total)
        if not self.metrics.has_news:  # the interval is shorter than the steps left in flight
            self.metrics.absorb(everything=True)
        self.last = self.metrics.take(self.workers.total)
        if self.network.clipper is not None:
            self.last.update(self.network.clipper.take())
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
        """True if training should stop now. signum: the signal that this worker received, or None.

        Workers in step must stop after the same step, or one would wait for the others forever. So
        each reports its signal at every step, and all act on it a few steps later.
        """
        if not self.workers.in_step:
            return signum is not None
        wish = mx.nd.array([float(signum is not None)])
        self._stop_requests.append(self.workers.total("stop", wish))
        if len(self._stop_requests) <= IN_FLIGHT:
            return False
        return bool(self._stop_requests.popleft().asscalar())
