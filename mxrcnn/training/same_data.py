"""Whether a run goes on with the data that it was trained on, and what differs if not.

A checkpoint's state.json has the hash of its data's identity. What the images were is in the run
folder, `data/HASH.json`, once for all checkpoints: 35 bytes an image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from mxrcnn.data.identity import DataIdentity, differences
from mxrcnn.files import atomic_write
from mxrcnn.runs.checkpoint import CheckpointError, RunFolder, TrainState


def _file(run: RunFolder, data: str) -> Path:
    return run.path / "data" / f"{data}.json"


def remember_data(run: RunFolder, identity: DataIdentity) -> None:
    """Write down what the images are, unless it is there."""
    path = _file(run, identity.hash)
    if not path.is_file():
        with atomic_write(path) as handle:
            json.dump(identity.to_json(), handle)


def begun_with_others(run: RunFolder, identity: DataIdentity) -> bool:
    """Whether a run that has no checkpoint yet was begun with other data."""
    return (run.path / "data").is_dir() and not _file(run, identity.hash).is_file()


@dataclass(frozen=True)
class Continuation:
    """Where a run goes on, and what to tell of it."""

    state: TrainState
    told: tuple[str, ...] = ()


def continue_with(
    run: RunFolder, state: TrainState, identity: DataIdentity, steps: int, accept: bool
) -> Continuation:
    """Where to go on from a checkpoint's state with data of that identity, `steps` an epoch.

    Other data than the checkpoint's are a CheckpointError that says what differs; with `accept` the
    next epoch begins with them. (A position in the old data's epoch means nothing in theirs.)
    """
    folder = run.folder("last")
    fits = state.batch < steps
    if not state.data:  # written before checkpoints knew their data, or by tools/convert.py
        if not state.step:
            return Continuation(state)
        if fits and state.first_step(steps) == 0:
            line = f"{folder} does not say what data it was trained on: nothing tells whether they "
            return Continuation(
                state, (line + "changed. From the next checkpoint on, it is noted",)
            )
        changes = f"step {state.step} was batch {state.batch} of epoch {state.epoch}, and they "
        changes += f"make {steps} batches an epoch"
    elif state.data == identity.hash:
        if not fits:
            place = f"batch {state.batch}, and an epoch has {steps}"
            raise CheckpointError(f"{folder / 'state.json'}: {place}")
        same = ("the data are the same: --data-changed changes nothing",)
        return Continuation(state, same if accept else ())
    else:
        changes = _changes(run, state.data, identity)
    if not accept:
        raise CheckpointError(
            f"{folder} was trained on other data than these: {changes}. Give back the data that it "
            "had, or go on with these from the next epoch's start: --resume RUN --data-changed"
        )
    epoch = state.epoch + (state.batch > 0)
    told = [f"other data than before: {changes}"]
    if state.batch:
        told.append(f"the rest of epoch {state.epoch} is left out")
    told.append(f"epoch {epoch} begins with the new data, {steps} steps an epoch from now on")
    return Continuation(replace(state, epoch=epoch, batch=0), tuple(told))


def _changes(run: RunFolder, data: str, identity: DataIdentity) -> str:
    path = _file(run, data)
    try:
        before = DataIdentity.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        return f"what differs is not known, as {path} cannot be read ({error})"
    return "; ".join(differences(before, identity))
