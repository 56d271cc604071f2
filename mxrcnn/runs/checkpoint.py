"""Run folders and checkpoints: parameters, momentum and the position in the data.

A checkpoint is a folder `checkpoints/step-00000410` with `model.params` (MXNet's format, arg: and
aux: keys), `momentum.params` (the optimizer's arrays) and `state.json`. With train.ema, the first
has averages, and `raw.params` the weights that training goes on from. The folder is written under
another name and renamed, so it is complete or absent. Every draw is seeded by (seed, step).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxrcnn.config import Config, dump_json, load_json
from mxrcnn.files import atomic_write
from mxrcnn.runs.budget import BudgetError
from mxrcnn.runs.lock import RunLock
from mxrcnn.runs.params_file import ParamsFileError, check_params_file
from mxrcnn.runs.symbol_file import SymbolError, check_test_symbol, load_symbol
from mxrcnn.tables import plain
from symnet.machine import mx

_NAME = re.compile(r"step-(\d{8})")
Params = dict[str, "mx.nd.NDArray"]  # quoted: it must not load mxnet


class CheckpointError(RuntimeError):
    """A run folder or checkpoint that cannot be used. The message names it."""


def _read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object; CheckpointError otherwise."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(found).__name__}, not an object")
    return found


def _row(row: Mapping[str, Any]) -> str:
    """A row of the log as a line of strict JSON."""
    return json.dumps(plain(row), allow_nan=False) + "\n"


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


@dataclass(frozen=True)
class TrainState:
    """The progress of a training: updates done, and the next batch as epoch and index.

    data: the hash of the data that epoch and batch refer to; "" in checkpoints without it.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    data: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("step", "epoch", "batch"):
            value = getattr(self, name)
            if not (_is_number(value, int) and 0 <= value < 1 << 53):
                raise ValueError(f"{name} is {str(value)[:40]}, not a count")
        if not (isinstance(self.data, str) and re.fullmatch("[0-9a-f]{0,64}", self.data)):
            raise ValueError(f"data is {str(self.data)[:40]}, not a hash")

    def first_step(self, epoch_steps: int) -> int:
        """The step at which epoch 0 would have started with this many steps per epoch.

        0 unless the data changed.
        """
        return self.step - self.batch - self.epoch * epoch_steps


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_arrays(path: Path, arrays: Params) -> None:
    """Write named arrays in MXNet's format; CheckpointError if the file is incomplete."""
    try:
        mx.nd.save(str(path), arrays)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(f"{path}: cannot be written ({reason})") from None
    # MXNet does not check its last few kilobytes against a full disk; a file ends with the names
    names = b"".join(struct.pack("<Q", len(n)) + n for n in map(str.encode, arrays))
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - len(names)))
        if handle.read() != names:
            raise CheckpointError(f"{path}: cannot be written completely: is the disk full?")


def load_arrays(path: Path) -> Params:
    """Read the named arrays of an MXNet file; CheckpointError if it is missing or broken."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        check_params_file(path)
        arrays = mx.nd.load(str(path))
    except BudgetError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except ParamsFileError as error:
        raise CheckpointError(f"{path}: not a whole MXNet parameter file: {error}") from None
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(f"{path}: not a whole MXNet parameter file ({reason})") from None
    if arrays and not isinstance(arrays, dict):
        raise CheckpointError(f"{path}: its arrays have no names")
    return dict(arrays)  # MXNet returns an empty list for a file without arrays


def split_params(arrays: Params) -> tuple[Params, Params]:
    """Split arrays with arg: and aux: keys into (args, auxs). Keys without prefix are arguments."""
    args, auxs = {}, {}
    for key, value in arrays.items():
        kind, colon, name = key.partition(":")
        if not colon:
            kind, name = "arg", key
        (auxs if kind == "aux" else args)[name] = value
    return args, auxs


def join_params(args: Params, auxs: Params) -> Params:
    """The inverse of split_params: arrays with arg: and aux: keys."""
    return {
        **{f"arg:{name}": value for name, value in args.items()},
        **{f"aux:{name}": value for name, value in auxs.items()},
    }


@dataclass(frozen=True)
class Best:
    """The best validation so far: its step, its value, and the metric, such as "coco AP".

    data: the hash of the validation's data; "" if unknown.
    """

    step: int
    metric: str
    value: float
    data: str = field(default="", compare=False)

    def compares(self, metric: str, data: str) -> bool:
        """True if a value of this metric on these data is comparable with this one."""
        return self.metric == metric and (not self.data or not data or self.data == data)


class RunFolder:
    """A run on disk: config, symbols, checkpoints, log.

    checkpoints: the folder that holds them. log: log.jsonl, which has one JSON object per line.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.log = self.path / "log.jsonl"
        self._lock: RunLock | None = None

    def lock(self) -> list[str]:
        """Lock the run for training, unless this object holds the lock already.

        Returns lines for the user: why the file system has no lock, if so. Raises RunLockedError if
        another training holds it.
        """
        if self._lock is not None:
            return []
        self._lock = RunLock(self.path)
        return [self._lock.problem] if self._lock.problem else []

    def unlock(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def check_new(self) -> None:
        """CheckpointError if the folder already holds a run."""
        if (self.path / "config.json").exists():
            how = f"continue it with --resume {self.path}, or choose another --out"
            raise CheckpointError(f"{self.path} holds a run already: {how}")

    def create(self, config: Config, symbols: dict[str, mx.sym.Symbol]) -> None:
        """Create a run; CheckpointError if the folder already holds one."""
        self.check_new()
        for name, symbol in symbols.items():
            with atomic_write(self.path / f"{name}-symbol.json") as handle:
                handle.write(symbol.tojson(remove_amp_cast=False))
        self.write_config(config)

    def write_config(self, config: Config) -> None:
        """Write config.json, which makes the folder a run."""
        with atomic_write(self.path / "config.json") as handle:
            handle.write(dump_json(config))

    def config(self) -> Config:
        """The run's configuration."""
        path = self.path / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{self.path} is not a run folder: it has no config.json")
        return load_json(path)

    def symbol(self, name: str) -> mx.sym.Symbol:
        """Load the symbol `train` or `test`; CheckpointError if it is damaged.

        A test graph is checked by `check_test_symbol`.
        """
        path = self.path / f"{name}-symbol.json"
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        try:
            symbol = load_symbol(path)
            if name == "test":
                check_test_symbol(symbol)
        except SymbolError as error:
            raise CheckpointError(f"{path}: {error}") from None
        return symbol

    def precision(self) -> str:
        """The run's precision: fp32, or what mxrcnn quantize wrote to quantized.json."""
        path = self.path / "quantized.json"
        if not path.is_file():
            return "fp32"
        name = _read_object(path).get("precision")
        if name not in ("fp32", "bf16", "int8"):
            raise CheckpointError(f"{path}: precision is {str(name)[:40]}")
        return name

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        if not self.checkpoints.is_dir():
            return []
        matches = (_NAME.fullmatch(p.name) for p in self.checkpoints.iterdir())
        return sorted(int(m.group(1)) for m in matches if m)

    def best(self) -> Best | None:
        """The best validation so far, or None; CheckpointError for a broken best.json."""
        path = self.path / "best.json"
        if not path.is_file():
            return None
        best = _read_object(path)
        if "mAP" in best:  # the old format, when every validation used voc07
            best = {"metric": "voc07 mAP", "value": best.pop("mAP"), **best}
        step, metric, value = (best.get(key) for key in ("step", "metric", "value"))
        if not (_is_number(step, int) and isinstance(metric, str)):
            raise CheckpointError(f"{path}: names no step and metric")
        if not (_is_number(value, int, float) and 0 <= value < float("inf")):
            raise CheckpointError(f"{path}: value is {str(value)[:40]}")
        data = best.get("data", "")
        if not isinstance(data, str):
            raise CheckpointError(f"{path}: data is {str(data)[:40]}, not a hash")
        return Best(step, metric, value, data)

    def note_best(self, step: int, metric: str, value: float, data: str = "") -> bool:
        """Record this step as the best if its value is the best so far. Returns whether it is.

        A value of another metric or on other data is not comparable and is replaced. NaN and
        pycocotools' -1 mean that nothing was measured, and are never the best.
        """
        best = self.best()
        if not 0 <= value < float("inf"):
            return False
        if best is not None and best.compares(metric, data) and best.value >= value:
            return False
        with atomic_write(self.path / "best.json") as handle:
            json.dump({"step": step, "metric": metric, "value": value, "data": data}, handle)
        return True

    def folder(self, which: str | int | None = "last") -> Path:
        """The folder of checkpoint `last`, `best`, or a step; CheckpointError if missing.

        None is the best if there is one, else the last.
        """
        if which is None:
            which = "best" if self.best() else "last"
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.path} has no checkpoint yet")
        if which == "best":
            best = self.best()
            if best is None:
                raise CheckpointError(
                    f"{self.path} has no best checkpoint: it was trained without validation "
                    "(--val-imageset and --val-every); use --checkpoint last"
                )
            step = best.step
        else:
            step = steps[-1] if which == "last" else which
        known = {str(step): step for step in steps}
        if str(step) not in known:
            wanted = f" {self.path / 'best.json'} names" if which == "best" else ""
            raise CheckpointError(
                f"{self.path} has no checkpoint {step}{wanted}; it has {', '.join(known)} (last)"
            )
        return self.checkpoints / f"step-{known[str(step)]:08d}"

    def save(
        self,
        state: TrainState,
        params: Params,
        momentum: Params,
        keep: int,
        raw: Params | None = None,
    ) -> Path:
        """Write a checkpoint, then remove all but the newest `keep` and the best.

        raw: the weights before averaging, of those that are averaged.
        """
        final = self.checkpoints / f"step-{state.step:08d}"
        self._clear_partial()
        if not final.exists():
            partial = self.checkpoints / f".{final.name}.{os.getpid()}.partial"
            partial.mkdir(parents=True)
            save_arrays(partial / "model.params", params)
            save_arrays(partial / "momentum.params", momentum)
            if raw:
                save_arrays(partial / "raw.params", raw)
            (partial / "state.json").write_text(json.dumps(state.__dict__) + "\n")
            for path in [*partial.iterdir(), partial]:
                _sync(path)
            os.rename(partial, final)
            _sync(self.checkpoints)
        best = self.best()
        for step in self.steps()[: -max(1, keep)]:
            if best is None or step != best.step:
                self._remove(self.checkpoints / f"step-{step:08d}")
        return final

    def _remove(self, folder: Path) -> None:
        """Remove a checkpoint. Renames it first, so that a kill half-way leaves no broken one."""
        partial = folder.with_name(f".{folder.name}.removed.partial")
        os.rename(folder, partial)
        shutil.rmtree(partial)

    def _clear_partial(self) -> None:
        if self.checkpoints.is_dir():
            for path in self.checkpoints.glob(".step-*.partial"):
                shutil.rmtree(path, ignore_errors=True)

    def load_state(self) -> tuple[TrainState, Params, Params]:
        """Load the last checkpoint: (state, parameters with arg:/aux: keys, momentum by name)."""
        if self.precision() != "fp32":
            raise CheckpointError(
                f"{self.path} is quantized to {self.precision()} and cannot be trained: continue "
                "the run that it was made from"
            )
        folder = self.folder("last")
        try:
            state = TrainState(**_read_object(folder / "state.json"))
            if folder != self.checkpoints / f"step-{state.step:08d}":
                raise ValueError(f"step is {state.step}, in the folder of another")
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{folder / 'state.json'}: {error}") from None
        return (
            state,
            load_arrays(folder / "model.params"),
            load_arrays(folder / "momentum.params"),
        )

    def append_log(self, row: dict[str, Any]) -> None:
        """Append a row to log.jsonl. NaN and infinities, which JSON lacks, become null."""
        with self.log.open("a", encoding="utf-8") as handle:
            handle.write(_row(row))

    def read_log(self) -> list[dict[str, Any]]:
        """The rows of log.jsonl up to the first invalid one: a crash may have cut off the last."""
        rows: list[dict[str, Any]] = []
        if not self.log.exists():
            return rows
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not (isinstance(row, dict) and _is_number(row.get("step", 0), int)):
                break
            rows.append(row)
        return rows

    def rewind_log(self, step: int) -> None:
        """Drop the rows after `step`, which a resumed run writes again."""
        rows = [row for row in self.read_log() if row.get("step", 0) <= step]
        with atomic_write(self.log) as handle:
            handle.writelines(map(_row, rows))
