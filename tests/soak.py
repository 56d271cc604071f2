"""Memory over many steps and predictions: python -m tests.soak RUN_FOLDER_TO_MAKE.

Trains the quick preset on photos of many shapes with tools/train.py and then predicts with what it
has learnt; prints a table of resident memory and fails if it grows by more than 3 % after the first
tenth. Minutes long, so no test of the suite.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from mxrcnn.data.voc import load_voc
from mxrcnn.inference.detector import Detector

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MXRCNN_TEST_DATA", ROOT / "../shared/data")) / "voc100"
LIMIT = 0.03


def resident_mb(pid: int | str = "self") -> float:
    """The memory of a process that is in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def last_step(log: Path) -> int:
    """The last step in a run's log.jsonl."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return max((row["step"] for row in rows), default=0)


def train(out: Path, steps: int, batch_size: int) -> list[tuple[int, float]]:
    """(step, MB) while tools/train.py runs."""
    epochs = -(-steps * batch_size // 200)  # 100 photos, each also mirrored
    sizes = ["short_side=160", "long_side=320", "pad_multiple=32", "checkpoint_steps=500"]
    command = [sys.executable, "tools/train.py", "--out", str(out), "--preset", "quick"]
    command += ["--dataset", "voc", "--data-root", str(DATA), "--imageset", "2007_all"]
    command += ["--epochs", str(epochs), "--set", f"batch_size={batch_size}", *sizes]
    process = subprocess.Popen(command, cwd=ROOT)
    found = []
    while process.poll() is None:
        time.sleep(1)
        step = last_step(out / "log.jsonl")
        if step and process.poll() is None:
            found.append((step, resident_mb(process.pid)))
    if process.returncode:
        sys.exit(f"training ended with {process.returncode}")
    return found


def predict(run: Path, count: int) -> list[tuple[int, float]]:
    """(prediction, MB) of this process over predictions of all photos, again and again."""
    detector = Detector.load(run)
    paths = [
        record.path for record in load_voc(str(DATA), "2007_all", detector.class_names).records
    ]
    found = []
    for number in tqdm(range(1, count + 1), "predicting", disable=None):
        detector.predict(paths[number % len(paths)])
        if number % 10 == 0:
            found.append((number, resident_mb()))
    return found


def growth(found: list[tuple[int, float]]) -> tuple[float, float, float]:
    """MB after the first tenth (the highest until a fifth), the highest later, and their ratio."""
    last = found[-1][0]
    early = max(mb for number, mb in found if 0.1 * last <= number <= 0.2 * last)
    late = max(mb for number, mb in found if number > 0.2 * last)
    return early, late, late / early - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--predictions", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=1)
    args = parser.parse_args()
    rows = {
        f"{args.steps} steps": growth(train(args.out, args.steps, args.batch_size)),
        f"{args.predictions} predictions": growth(predict(args.out, args.predictions)),
    }
    print(f"{'':<20}{'MB early':>10}{'MB at most':>12}{'growth':>9}")
    for name, (early, late, share) in rows.items():
        print(f"{name:<20}{early:>10.0f}{late:>12.0f}{share:>9.1%}")
    return int(any(share > LIMIT for _, _, share in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
