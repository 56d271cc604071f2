"""Memory and open files over many steps and predictions: python -m tests.soak RUN_FOLDER_TO_MAKE.

Trains the quick preset on photos of many shapes with tools/train.py and then predicts with what it
has learnt; prints a table of resident memory and of open files, and fails if memory grows by more
than 3 % after the first tenth, or more files are open than then. Half an hour, so no test of the
suite.
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
    """What a process holds after so many steps or predictions: memory in RAM, open files."""

    number: int
    resident_mb: float
    files: int


def sample(number: int, pid: int | str = "self") -> Sample:
    """What the process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(number, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files)


def last_step(log: Path) -> int:
    """The last step in a run's log.jsonl."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return max((row["step"] for row in rows), default=0)


def train(out: Path, steps: int, batch_size: int) -> list[Sample]:
    """Samples by step while tools/train.py runs."""
    epochs = -(-steps * batch_size // 200)  # 100 photos, each also mirrored
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
    """Samples of this process over predictions of all photos, again and again."""
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


def early_and_late(found: list[Sample]) -> tuple[Sample, Sample]:
    """The most that was held just after the first tenth (until a fifth), and the most later."""
    last = found[-1].number

    def most(samples: list[Sample]) -> Sample:
        return Sample(
            samples[-1].number,
            max(s.resident_mb for s in samples),
            max(s.files for s in samples),
        )

    return (
        most([s for s in found if 0.1 * last <= s.number <= 0.2 * last]),
        most([s for s in found if s.number > 0.2 * last]),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--predictions", type=int, default=20000)
    parser.add_argument("--batch-size", type=int, default=1)
    args = parser.parse_args()
    rows = {
        f"{args.steps} steps": early_and_late(train(args.out, args.steps, args.batch_size)),
        f"{args.predictions} predictions": early_and_late(predict(args.out, args.predictions)),
    }
    print(
        f"{'':<20}{'MB early':>10}{'MB at most':>12}{'growth':>9}{'files early':>13}{'at most':>9}"
    )
    for name, (early, late) in rows.items():
        growth = late.resident_mb / early.resident_mb - 1
        print(
            f"{name:<20}{early.resident_mb:>10.0f}{late.resident_mb:>12.0f}{growth:>9.1%}"
            f"{early.files:>13}{late.files:>9}"
        )
    return int(any(grew(early, late) for early, late in rows.values()))


def grew(early: Sample, late: Sample) -> bool:
    """Whether memory or open files grew beyond the limit."""
    return late.resident_mb > (1 + LIMIT) * early.resident_mb or late.files > early.files


if __name__ == "__main__":
    sys.exit(main())
