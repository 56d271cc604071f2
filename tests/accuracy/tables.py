"""Tables of stored results: each experiment's arms, and its bars, passed or not.

Only results that are not stale count (`results.stale`); those that are get rows of their own.
"""

from __future__ import annotations

import math
import re
import statistics
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mxrcnn.tables import aligned
from tests.accuracy.experiments import EXPERIMENTS, Experiment
from tests.accuracy.results import RESULTS, Result, read_all, stale

TERM = re.compile(r"(mean|min|max|spread)\((\w+)\.(\w+)\)")
BAR = re.compile(rf"({TERM.pattern})(?: ([-/]) ({TERM.pattern}))? (>=|<=) ([\d.]+)")
STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "min": min,
    "max": max,
}
PASS, FAIL, OPEN = "pass", "FAIL", "open"


@dataclass(frozen=True)
class Group:
    """The results of an arm with one version of Python, that are stale or that are not."""

    arm: str
    python: str
    results: tuple[Result, ...]
    stale: str = ""

    @property
    def seeds(self) -> list[int]:
        return sorted(row["seed"] for row in self.results)

    def values(self, name: str) -> list[float]:
        """A number of all its seeds, such as AP or seconds."""
        found = (row["metrics"].get(name, row.get(name)) for row in self.results)
        return [value for value in found if isinstance(value, (int, float))]


def groups_of(name: str, results: Sequence[Result]) -> list[Group]:
    """The groups of an experiment, in the order of its arms; stale ones last."""
    found: dict[tuple[str, str, str], list[Result]] = {}
    for row in results:
        if row["experiment"] == name:
            found.setdefault((row["arm"], row["python"], stale(row)), []).append(row)
    arms = [*EXPERIMENTS[name].arms] if name in EXPERIMENTS else []
    made = [Group(arm, py, tuple(rows), why) for (arm, py, why), rows in found.items()]

    def place(group: Group) -> tuple:
        where = arms.index(group.arm) if group.arm in arms else len(arms)
        return bool(group.stale), where, _numbers(group.python)

    return sorted(made, key=place)


@dataclass(frozen=True)
class Verdict:
    """A bar's state: PASS, FAIL, or OPEN as long as results are missing; and why."""

    state: str
    bar: str
    why: str

    @property
    def line(self) -> str:
        return f"{self.state}: {self.bar}; {self.why}"


def verdicts(experiment: Experiment, groups: Sequence[Group]) -> Iterator[Verdict]:
    """Each bar; once for each version of Python that has results of an arm in it."""
    current = [group for group in groups if not group.stale]
    for bar in experiment.bars:
        match = BAR.fullmatch(bar)
        if match is None:
            raise ValueError(f"{bar!r} is not of the form `mean(a.AP) - mean(b.AP) >= 0.03`")
        terms = [term.groups() for term in TERM.finditer(bar)]
        if match[2] == "spread":
            means = [("mean", *terms[0][1:], python) for python in experiment.pythons]
            yield _judge(match, means, experiment, current)
            continue
        arms = {arm for _, arm, _ in terms}
        usual = {g.python for g in current if g.arm in arms and not _peer(experiment, g.arm)}
        for python in sorted(usual, key=_numbers) or [""]:
            yield _judge(match, [(*term, python) for term in terms], experiment, current)


def _numbers(python: str) -> list[int]:
    return [int(number) for number in python.split(".") if number]


def _peer(experiment: Experiment, arm: str) -> bool:
    """True for another project's arm: its Python need not be that of ours."""
    return experiment.arms[arm].kind == "yolo"


def _judge(
    bar: re.Match[str],
    terms: Sequence[tuple[str, str, str, str]],
    experiment: Experiment,
    groups: Sequence[Group],
) -> Verdict:
    """A bar, given its terms: statistic, arm, number, and the version of Python that counts."""
    numbers, missing, seeds = [], [], [*experiment.seeds]
    for statistic, arm, name, python in terms:
        mine = [g for g in groups if g.arm == arm]
        mine = [g for g in mine if g.python == python or _peer(experiment, arm)]
        there = {seed for group in mine for seed in group.seeds if seed in seeds}
        if len(there) < len(seeds):
            with_python = f" with Python {python}" if python else ""
            missing.append(f"{arm}{with_python}: {len(there)} of {len(seeds)} seeds")
        values = [value for group in mine for value in group.values(name)]
        numbers.append(STATISTICS[statistic](values) if values else math.nan)
    value = _combined(bar, numbers)
    shown = f"{value:.4f} with Python {', '.join(sorted({t[3] for t in terms}, key=_numbers))}"
    if math.isnan(value):
        return Verdict(OPEN, bar[0], "; ".join(missing) or "not in the reports")
    if missing:
        return Verdict(OPEN, bar[0], "; ".join([f"so far {shown}", *missing]))
    at_least, limit = bar.groups()[-2:]
    good = value >= float(limit) if at_least == ">=" else value <= float(limit)
    return Verdict(PASS if good else FAIL, bar[0], shown)


def _combined(bar: re.Match[str], numbers: Sequence[float]) -> float:
    """The left side of a bar."""
    first, *others = numbers
    if bar[2] == "spread":
        return max(numbers) - min(numbers) if not any(map(math.isnan, numbers)) else math.nan
    if bar[5] == "/":
        return first / others[0] if others[0] else math.nan
    return first - others[0] if others else first


HEAD = ("arm", "Python", "seeds")


def rows_of(experiment: Experiment, groups: Sequence[Group]) -> list[list[str]]:
    """Heading and rows: arm, Python, seeds, mean and range of each number, rate, minutes.

    The minutes are those of all steps at the run's own rate, see `runs.log_numbers`.
    """
    shown = experiment.shown
    head = [*HEAD, *(f"{name} {what}" for name in shown for what in ("mean", "range"))]
    rows = [[*head, "steps/s", "minutes"]]
    for group in groups:
        cells = [f"{group.arm} (stale)" if group.stale else group.arm, group.python]
        cells.append(" ".join(map(str, group.seeds)))
        for name in shown:
            values = group.values(name)
            cells.append(f"{statistics.fmean(values):.3f}" if values else "-")
            cells.append(f"{min(values):.3f} to {max(values):.3f}" if values else "-")
        rates = group.values("steps_per_second")
        seconds = [row.get("steps", 0) / rate for row, rate in zip(group.results, rates)]
        seconds = seconds or group.values("seconds")
        cells.append(f"{statistics.fmean(rates):.2f}" if rates else "-")
        cells.append(f"{statistics.fmean(seconds) / 60:.1f}" if seconds else "-")
        rows.append(cells)
    return rows


def notes_of(groups: Sequence[Group]) -> list[str]:
    """Why results are stale, and where the others were measured."""
    why = [f"stale: {g.arm}, Python {g.python}: {g.stale}" for g in groups if g.stale]
    places = {
        f"{row['cpu']}, {row['cores']} cores" for g in groups if not g.stale for row in g.results
    }
    return [*why, *([f"measured on: {'; '.join(sorted(places))}"] if places else [])]


def text(results: Sequence[Result], names: Sequence[str]) -> tuple[str, bool]:
    """The tables of experiments as text, and whether no bar failed."""
    parts, good = [], True
    for name in names:
        experiment, groups = EXPERIMENTS[name], groups_of(name, results)
        found = [*verdicts(experiment, groups)]
        good &= all(verdict.state != FAIL for verdict in found)
        lines = [f"== {name}: {experiment.about}"]
        lines += [aligned(rows_of(experiment, groups), rule=True)] if groups else []
        lines += [*notes_of(groups), *(verdict.line for verdict in found)]
        parts.append("\n".join(lines))
    gone = sorted({row["experiment"] for row in results} - {*EXPERIMENTS})
    parts += [f"stale: {name} is not in the table" for name in gone]
    return "\n\n".join(parts), good


def markdown(results: Path = RESULTS) -> str:
    """The tables of all experiments, with the commands of their arms, for docs/reproduce.md."""
    stored, parts = read_all(results), []
    for name, experiment in EXPERIMENTS.items():
        groups = groups_of(name, stored)
        parts.append(f"#### {name}\n\n{experiment.about}")
        if groups:
            head, *rows = rows_of(experiment, groups)
            lines = [head, ["---"] * len(head), *rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        notes = [*notes_of(groups), *(v.line for v in verdicts(experiment, groups))]
        parts.append("\n".join(f"- {_code(note)}" for note in notes))
        parts += _commands(experiment, {group.arm for group in groups if not group.stale})
    return "\n\n".join(parts)


def _code(note: str) -> str:
    """A note with its bar as code."""
    return re.sub(BAR, lambda match: f"`{match[0]}`", note)


def _commands(experiment: Experiment, arms: set[str]) -> Iterator[str]:
    """What these arms run, without seed and folders, as a block of code."""
    lines = []
    for name in (name for name in experiment.arms if name in arms):
        arm = experiment.arms[name]
        verbs = VERBS["yolo" if arm.kind == "yolo" else "ours"]
        lines.append(f"# {name}")
        lines += [_folded(f"{verbs[purpose]} {words}") for purpose, words in arm.words.items()]
    if lines:
        yield "```sh\n" + "\n".join(lines) + "\n```"


#: what the words of an arm follow, by their purpose
VERBS = {
    "ours": {
        "train": "mxrcnn train",
        "test": "mxrcnn test RUN",
        "against": "mxrcnn train",
    },
    "yolo": {"train": "yolo detect train", "test": "yolo detect val"},
}


def _folded(command: str) -> str:
    """A command over several lines, an option's value beside it unless it is long."""
    options = re.split(r" (?=--)", command)
    joined = " ".join(o.replace(" ", "\0") if len(o) < 80 else o for o in options)
    parts = textwrap.wrap(joined, 96, subsequent_indent="    ", break_on_hyphens=False)
    return " \\\n".join(parts).replace("\0", " ")
