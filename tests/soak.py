"""Memory and open files over many steps and predictions: python -m tests.soak NEW_RUN_FOLDER.

Trains the quick preset on photos of many shapes with tools/train.py, then predicts with the result.
Prints a table of resident memory and open files. Fails if the last tenth of the run needs 3 % more
memory than the second, or keeps more files open. Takes half an hour, so it is not in the suite.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mxrcnn.data.voc import load_voc
from mxrcnn.inference.detector import Detector

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MXRCNN_TEST_DATA", ROOT / "../shared/data")) / "voc100"
LIMIT = 0.03


@dataclass(frozen=True)
class Sample:
    """A process's memory and open files after `number` steps or predictions."""

    number: int
    resident_mb: float
    files: int


def sample(number: int, pid: int | str = "self") -> Sample:
    """Take a sample of a process now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(number, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files)


def last_step(log: Path) -> int:
    """The last step in a run's log.jsonl."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return max((row["step"] for row in rows), default=0)


def train(out: Path, steps: int, batch_size: int) -> list[Sample]:
    """Run tools/train.py, taking samples."""
    epochs = -(-steps * batch_size // 200)  # 100 photos, each also flipped
    sizes = ["short_side=128", "long_side=256", "pad_multiple=32", "checkpoint_steps=500"]
    command = [sys.executable, "tools/train.py", "--out", str(out), "--preset", "quick"]
    command += ["--dataset", "voc", "--data-root", str(DATA), "--imageset", "2007_all"]
    command += ["--epochs", str(epochs), "--set", f"batch_size={batch_size}", *sizes]
    process = subprocess.Popen(command, cwd=ROOT)
    found = []
    while process.poll() is None:
        time.sleep(1)
        step = last_step(out / "log.jsonl")
        if step and process.poll() is None:
            found.append(sample(step, process.pid))
    if process.returncode:
        sys.exit(f"training ended with {process.returncode}")
    return found


def predict(run: Path, count: int) -> list[Sample]:
    """Predict all photos again and again, taking samples of this process."""
    detector = Detector.load(run)
    paths = [
        record.path for record in load_voc(str(DATA), "2007_all", detector.class_names).records
    ]
    found = []
    for number in tqdm(range(1, count + 1), "predicting", disable=None):
        detector.predict(paths[number % len(paths)])
        if number % 10 == 0:
            found.append(sample(number))
    return found


@dataclass(frozen=True)
class Tenth:
    """A tenth of a run: its peak memory, and the number of files that stayed open.

    Files that are open briefly, such as while a checkpoint is written, are not a leak. The compared
    tenths have the same length, because the peak of fluctuating memory grows with time.
    """

    resident_mb: float
    files: int

    @classmethod
    def of(cls, found: list[Sample], number: int) -> Tenth:
        """The tenth with this number, from 1 to 10."""
        last = found[-1].number
        part = [s for s in found if (number - 1) * last < 10 * s.number <= number * last]
        return cls(max(s.resident_mb for s in part), min(s.files for s in part))


def grew(early: Tenth, late: Tenth) -> bool:
    """True if memory or open files grew beyond the limit."""
    return late.resident_mb > (1 + LIMIT) * early.resident_mb or late.files > early.files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--steps", type=int, default=10000, help="0: only predict, with an existing run"
    )
    parser.add_argument("--predictions", type=int, default=20000)
    parser.add_argument("--batch-size", type=int, default=1)
    args = parser.parse_args()
    runs = {}
    if args.steps:
        runs[f"{args.steps} steps"] = train(args.out, args.steps, args.batch_size)
    runs[f"{args.predictions} predictions"] = predict(args.out, args.predictions)
    failed = False
    print(f"{'peak MB in each tenth':<20}{'':>58}{'growth':>9}  {'open files':<12}")
    for name, found in runs.items():
        tenths = [Tenth.of(found, number) for number in range(1, 11)]
        early, late = tenths[1], tenths[-1]
        failed = failed or grew(early, late)
        memory = "".join(f"{tenth.resident_mb:>6.0f}" for tenth in tenths)
        growth = late.resident_mb / early.resident_mb - 1
        print(f"{name:<20}{memory}{growth:>9.1%}  {early.files} -> {late.files}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
