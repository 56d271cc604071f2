"""Checks that a resumed run has the data it was trained on, and says what differs if not.

A checkpoint's state.json holds the hash of its data's identity. The identity itself is in the run
folder, `data/HASH.json`, once for all checkpoints: 35 bytes per image.
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
    """Write the identity to the run folder, unless it is there already."""
    path = _file(run, identity.hash)
    if not path.is_file():
        with atomic_write(path) as handle:
            json.dump(identity.to_json(), handle)


def begun_with_others(run: RunFolder, identity: DataIdentity) -> bool:
    """True if a run without a checkpoint was started with other data."""
    return (run.path / "data").is_dir() and not _file(run, identity.hash).is_file()


@dataclass(frozen=True)
class Continuation:
    """The state from which a run continues, and lines for the user."""

    state: TrainState
    notes: tuple[str, ...] = ()


def continue_with(
    run: RunFolder, state: TrainState, identity: DataIdentity, steps: int, accept: bool
) -> Continuation:
    """Decide where to continue from a checkpoint's state. steps: batches per epoch of these data.

    Raises CheckpointError that says what differs if the data are not the checkpoint's. With
    `accept`, the next epoch starts with them instead: a position within an epoch of the old data
    has no meaning in the new.
    """
    folder = run.folder("last")
    fits = state.batch < steps
    if not state.data:  # written before checkpoints knew their data, or by mxrcnn convert
        if not state.step:
            return Continuation(state)
        if fits and state.first_step(steps) == 0:
            line = f"{folder} does not record which data it was trained on, so a change cannot be "
            return Continuation(state, (line + "noticed. The next checkpoint will record it",))
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
            f"{folder} was trained on other data than these: {changes}. Restore the old data, or "
            "continue with these from the next epoch: --resume RUN --data-changed"
        )
    epoch = state.epoch + (state.batch > 0)
    notes = [f"other data than before: {changes}"]
    if state.batch:
        notes.append(f"the rest of epoch {state.epoch} is skipped")
    notes.append(f"epoch {epoch} starts with the new data; an epoch now has {steps} steps")
    return Continuation(replace(state, epoch=epoch, batch=0), tuple(notes))


def _changes(run: RunFolder, data: str, identity: DataIdentity) -> str:
    path = _file(run, data)
    try:
        before = DataIdentity.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        return f"what differs is unknown, as {path} cannot be read ({error})"
    return "; ".join(differences(before, identity))
