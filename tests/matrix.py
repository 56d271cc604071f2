#!/usr/bin/env python3
"""Run `make demo` and `make test` with every Python from 3.9 to 3.14 found on this machine.

Each Python gets a clone of this repository (the committed state) in build/matrix/3.X, with its own
virtual environment made from the bare interpreter. Interpreters are searched on PATH and in the
folders of pyenv and uv, and must work. Exit code 1 if anything failed.

Environments have the versions in constraints/. With --newest they have the newest ones, and where
all targets pass, these versions are written to constraints/.

examples:
  make matrix
  make matrix MATRIX_PYTHONS='3.9 3.13' MATRIX_TARGETS=demo
  python3 tests/matrix.py --pythons /opt/python3.13/bin/python3 --targets test
  python3 tests/matrix.py --newest --targets smoke
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

REPO = Path(__file__).resolve().parent.parent
VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
COLUMNS = (
    *("Python", "NumPy", "mxnet", "demo mAP", "demo", "passed", "skipped", "failed", "tests"),
    "smoke",
)
PROBE = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
#: prints versions; run in a clone's environment
PACKAGES = "from symnet.machine import mx; import numpy; print(numpy.__version__, mx.__version__)"
LONGEST = 4 * 3600


def version_of(python: str) -> Optional[str]:
    """A command's version `3.X`; None if it does not run (such as pyenv's inactive shims)."""
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def candidates(version: str) -> Iterator[str]:
    """Commands that may run this Python, in order of preference."""
    yield from filter(None, (shutil.which(f"python{version}"), shutil.which("python3")))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    uv = Path.home() / ".local" / "share" / "uv" / "python"
    for folder, pattern in ((pyenv, f"{version}*"), (uv, f"cpython-{version}*")):
        newest_first = sorted(folder.glob(pattern), key=lambda p: _numbers(p.name), reverse=True)
        yield from (str(p / "bin" / "python3") for p in newest_first)


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def find(wanted: list[str]) -> tuple[dict[str, str], list[str]]:
    """Find versions or commands; returns ({version: command}, what was not found)."""
    found, missing = {}, []
    for word in wanted:
        of_version = word in VERSIONS
        for python in candidates(word) if of_version else (word,):
            version = version_of(python)
            if version == word or (not of_version and version in VERSIONS):
                found[version] = python
                break
        else:
            missing.append(word)
    return found, missing


def clone(folder: Path) -> None:
    """Clone the repository into this folder, replacing what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", "--no-local", REPO, folder], check=True)


def environment() -> dict[str, str]:
    """Our environment without virtual environment and make flags, plus the path of real data."""
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env.setdefault("MXRCNN_TEST_DATA", str(REPO.parent / "shared" / "data"))
    env["PYTEST_ADDOPTS"] = f"{env.get('PYTEST_ADDOPTS', '')} -rs".strip()
    return env


def run_target(target: str, python: str, folder: Path, newest: bool) -> tuple[bool, float]:
    """Run `make TARGET` in a clone, logging to TARGET.log there; returns (success, seconds)."""
    start = time.monotonic()
    with open(folder / f"{target}.log", "w") as log:
        command = ["make", target, f"PYTHON={python}", *(["CONSTRAINTS="] if newest else [])]
        try:
            code = subprocess.run(
                command, cwd=folder, env=environment(), stdout=log, stderr=log, timeout=LONGEST
            ).returncode
        except subprocess.TimeoutExpired:
            log.write(f"\nstopped after {LONGEST} s\n")
            code = 1
    return code == 0, time.monotonic() - start


def demo_map(folder: Path) -> str:
    """The demo's mAP, from its report."""
    for path in folder.glob("runs/demo/*/report.json"):
        return f"{json.loads(path.read_text())['metrics']['mAP']:.3f}"
    return "-"


def suite_counts(folder: Path) -> dict[str, str]:
    """The numbers of passed, skipped and failed tests, from the last lines of both pytest runs."""
    lines = re.findall(r"^=* ?\d+ (?:passed|failed|error).* in [\d.]+s.*$", _log(folder), re.M)
    counts: Counter[str] = Counter()
    for number, word in re.findall(r"(\d+) (\w+)", "\n".join(lines)):
        counts[word.rstrip("s")] += int(number)
    return {
        "passed": str(counts["passed"]),
        "skipped": str(counts["skipped"]),
        "failed": str(counts["failed"] + counts["error"]) if lines else "not run",
    }


def _log(folder: Path) -> str:
    return (folder / "test.log").read_text(errors="replace")


def write_constraints(version: str, folder: Path, targets: list[str]) -> Path:
    """Write the versions of a clone's environment to constraints/; returns the file."""
    python = folder / ".venv" / "bin" / "python"
    command = [python, "-m", "pip", "freeze", "--exclude-editable"]
    frozen = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    path = REPO / "constraints" / f"py{version.replace('.', '')}.txt"
    path.parent.mkdir(exist_ok=True)
    day = time.strftime("%Y-%m-%d")
    passed = ", ".join(f"make {target}" for target in targets)
    path.write_text(f"# Python {version}, {day}; passed: {passed}\n{frozen.stdout}")
    return path


def try_python(
    version: str, python: str, targets: list[str], newest: bool = False
) -> tuple[bool, dict[str, str]]:
    """Run the targets with one Python; returns (success, a row of the table)."""
    folder = REPO / "build" / "matrix" / version
    clone(folder)
    row, success = {"Python": version}, True
    for target in targets:
        print(f"{version} ({python}): make {target} > {folder / target}.log", flush=True)
        good, seconds = run_target(target, python, folder, newest)
        success = success and good
        print(
            f"{version}: make {target} {'done' if good else 'FAILED'}, {seconds:.0f} s", flush=True
        )
        if target == "demo":
            row.update({"demo mAP": demo_map(folder), "demo": _time(good, seconds)})
        elif target == "test":
            row.update({**suite_counts(folder), "tests": _time(good, seconds)})
        else:
            row[target] = _time(good, seconds)
    if newest and success:
        print(f"{version}: {write_constraints(version, folder, targets)}")
    command = [folder / ".venv" / "bin" / "python", "-c", PACKAGES]
    if command[0].exists():
        done = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, text=True
        )
        row.update(zip(("NumPy", "mxnet"), done.stdout.split()))
    return success, row


def _time(good: bool, seconds: float) -> str:
    return f"{seconds:.0f} s" if good else f"FAILED ({seconds:.0f} s)"


def print_table(rows: list[dict[str, str]]) -> None:
    """Print a Markdown table with aligned columns."""
    cells = [COLUMNS, *([row.get(name, "-") for name in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    print("\n".join(lines))


def main() -> int:
    """Run everything; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pythons", nargs="*", help="versions or commands (default: all)")
    parser.add_argument("--targets", nargs="*", help="make targets (default: demo test)")
    parser.add_argument("--newest", action="store_true", help="the newest versions of packages")
    args = parser.parse_args()
    found, missing = find(args.pythons or list(VERSIONS))
    for version, python in found.items():
        print(f"Python {version}: {python}")
    print(f"not found: {', '.join(missing) or 'none'}")
    changes = subprocess.run(["git", "status", "--short"], cwd=REPO, capture_output=True, text=True)
    if changes.stdout:
        print(f"not committed, so not tested:\n{changes.stdout}", end="")
    results = [
        try_python(v, python, args.targets or ["demo", "test"], args.newest)
        for v, python in found.items()
    ]
    print_table([row for _, row in results])
    named_but_missing = bool(args.pythons and missing)
    return int(not results or named_but_missing or not all(success for success, _ in results))


if __name__ == "__main__":
    sys.exit(main())
