"""Reads broken inputs one by one, and prints the result of each as a line of JSON.

It is a separate process with limits. An input that hangs, crashes or requests too much memory ends
it, and `tests.test_bad_input` then knows which one it was.
`python -m tests.bad_input_worker FOLDER FIRST`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mxrcnn.config import DataConfig
from mxrcnn.data import open_dataset
from mxrcnn.data.images import read_image
from mxrcnn.data.records import DataNotes
from mxrcnn.data.transforms import load_sample
from mxrcnn.errors import USER_ERRORS
from mxrcnn.files import atomic_write  # noqa: F401 - import everything before setting limits
from mxrcnn.inference.detector import Detector
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.training.configure import TrainRequest
from mxrcnn.training.run import prepare
from mxrcnn.weights.reading import read_params
from tests.broken import SECRET, SIZE, Case, corpus, voc_folder
from tests.broken_formats import WRITERS, formats
from tests.factories import noise

#: limits per input: seconds of computing, seconds of waiting, bytes of additional memory
CPU_SECONDS, SECONDS, MEMORY = 10, 60, 1 << 30
SMALL = DataConfig(short_side=32, long_side=64)


def _data_set(kind: str, root: Path, skip_bad: bool, masks: bool = False) -> DataNotes:
    """Open a data set and load every sample, as training does; returns the notes."""
    splits = {"voc": "2007_train", "coco": "train"}
    split = splits[kind] if kind in splits else WRITERS[kind].imageset
    data = replace(SMALL, dataset=kind, root=str(root), masks=masks, skip_bad=skip_bad)
    names = ("auto",) if kind in ("coco", "yolo") else ("dog", "cat")
    dataset = open_dataset(replace(data, class_names=names), split)
    for record in dataset.records:
        if len(record) or not masks:
            load_sample(record, data)
    return dataset.notes


def _run(root: Path) -> None:
    """Read everything in a run folder."""
    run = RunFolder(root)
    run.config()
    run.precision()
    run.best()
    run.symbol("test")
    run.load_state()
    run.rewind_log(3)


def _resume(root: Path) -> None:
    images = root.parent / "images"
    if not images.exists():
        voc_folder(images)
    settings = {"dataset": "voc", "root": str(images / "data"), "imageset": "2007_train"}
    path = root / "config.json"
    config = json.loads(path.read_text())
    config["data"].update(settings)
    path.write_text(json.dumps(config))
    prepare(TrainRequest(resume=str(root))).run.unlock()


def _detect(root: Path) -> None:
    detector = Detector.load(root)
    detector.predict(_PHOTO)


_PHOTO: Any = None

#: what each reader does with folder/data; those of data sets also run with skip_bad
READERS: dict[str, Callable[[Path, bool], Any]] = {
    "voc": lambda root, skip: _data_set("voc", root, skip),
    "voc list": lambda root, skip: _data_set("voc", root, skip),
    "coco": lambda root, skip: _data_set("coco", root, skip),
    "coco masks": lambda root, skip: _data_set("coco", root, skip, masks=True),
    "run": lambda root, skip: _run(root),
    "best run": lambda root, skip: Detector.load(root, "best"),
    "detector": lambda root, skip: _detect(root),
    "resume": lambda root, skip: _resume(root),
    "weights": lambda root, skip: read_params(next(root.iterdir())),
    **{kind: partial(_data_set, kind) for kind in WRITERS},
}
SKIPPING = {"voc", "voc list", "coco", "coco masks", *WRITERS}

_opened: list[str] = []


def _watch(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        _opened.append(os.fsdecode(arguments[0]))


@contextmanager
def limits():
    """Limit time and memory inside the block; exceeding a time limit ends the process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)


def attempt(case: Case, root: Path, skip: bool) -> dict[str, Any]:
    """The result of reading an input: `error` (a user error), `counted`, `read`, or `crash`."""
    try:
        with limits():
            notes = READERS[case.reader](root, skip)
    except USER_ERRORS as error:
        return {"what": "error", "kind": type(error).__name__, "message": str(error)}
    except BaseException:
        return {"what": "crash", "message": traceback.format_exc()}
    lines = notes.lines() if isinstance(notes, DataNotes) else []
    return {"what": "counted" if lines else "read", "message": "\n".join(lines)}


def strangers(folder: Path) -> list[str]:
    """Opened files that are neither in folder/data nor part of Python or this project."""
    repo = Path(__file__).resolve().parent.parent
    mine = (folder / "data", folder / "images", repo, sys.prefix, sys.base_prefix, "/proc", "/sys")
    known = tuple(os.path.realpath(path) + "/" for path in mine)
    found = {os.path.realpath(name) for name in _opened}
    return sorted(name for name in found if not name.startswith(known) and name != "/dev/null")


def judge(case: Case, folder: Path) -> dict[str, Any]:
    """One line of the report, as a dictionary."""
    folder.mkdir(parents=True)
    for place in (folder, folder.parent):
        noise(SIZE).save(place / f"{SECRET}.jpg")
        noise(SIZE).save(place / f"{SECRET}.png")
        (place / f"{SECRET}.xml").write_text("<annotation/>")
    file = case.write(folder)
    _opened.clear()
    outcomes = [attempt(case, folder / "data", False)]
    if case.reader in SKIPPING:
        outcomes.append(attempt(case, folder / "data", True))
    return {"file": file.name, "outcomes": outcomes, "strangers": strangers(folder)}


def main(scratch: Path, first: int) -> None:
    global _PHOTO
    _PHOTO = read_image(_photo(scratch))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cases = [*corpus(scratch), *formats()]
    sys.addaudithook(_watch)
    for number, case in enumerate(cases[first:], start=first):
        print(json.dumps({"begin": number, "name": case.name}), flush=True)
        folder = scratch / str(number) / "inner"
        line = judge(case, folder)
        line["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({"number": number, "certain": case.certain, **line}), flush=True)
        shutil.rmtree(scratch / str(number))
    print(json.dumps({"end": len(cases)}), flush=True)


def _photo(scratch: Path) -> Path:
    path = scratch / "photo.png"
    noise(SIZE).save(path)
    return path


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
