"""tests.accuracy: killed trials go on, stored ones stay, stale ones never count; its tables."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from mxrcnn.config import override
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.training import configure as configuring
from mxrcnn.training.configure import configure
from tests.accuracy import __main__ as main
from tests.accuracy import processes, results
from tests.accuracy.data import folds
from tests.accuracy.experiments import EXPERIMENTS, Arm, Experiment
from tests.accuracy.results import CHOOSING, Trial, read, read_all, request, settings_of, stale
from tests.accuracy.runs import Place, seconds_of
from tests.accuracy.tables import BAR, TERM, groups_of, markdown, text, verdicts
from tests.pages import parser_of

REAL = dict(EXPERIMENTS)
TRAIN = "--preset quick --epochs 4"
BARS = (
    "mean(new.mAP) - mean(old.mAP) >= 0.1",
    "min(new.mAP) >= 0.5",
    "spread(new.mAP) <= 0.02",
)
DEMO = Experiment(
    "A demo.",
    {"old": Arm(TRAIN), "new": Arm(f"{TRAIN} --lr 0.01")},
    BARS,
    ("mAP",),
    (1, 2),
    pythons=("3.9", "3.13"),
)
TIMED = Experiment("By the clock.", {"ours": Arm(f"{TRAIN} --minutes 1")}, (), ("mAP",), (1,))


class Machine:
    """Stands in for the programs: notes what it is told to run, and is killed as asked."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.kills = 0

    def run(self, command, log, env=None):
        name, words = command[3], command[4:]
        self.told.append(f"{name} {'--resume' * ('--resume' in words)}".strip())
        if name == "test":
            path = RunFolder(words[-1]).path / "report.json"
            path.parent.mkdir()
            path.write_text('{"metric": "voc07", "metrics": {"mAP": 0.7}, "per_class": {}}')
            return processes.Cost(1.0, 1.0)
        run = RunFolder(words[-1])
        if "--resume" not in words:
            recipe = " ".join(words[: words.index("--seed")]).replace(" --minutes 1", "")
            run.path.mkdir()
            run.write_config(
                override(configure(request(recipe)).config, {"train.seed": 7, "num_classes": 4})
            )
        if self.kills:
            self.kills -= 1
            raise processes.Interrupted("killed")
        run.checkpoints.mkdir()
        run.append_log({"kind": "train", "step": 20, "images_per_second": 8.0})
        return processes.Cost(10.0, 20.0)


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(processes, "run", made.run)
    monkeypatch.setattr(processes, "commit", lambda: "abc")
    monkeypatch.setattr(Place, "versions", {"python": "3.11.7"})
    EXPERIMENTS.clear()
    EXPERIMENTS.update(demo=DEMO, timed=TIMED)
    yield made
    EXPERIMENTS.clear()
    EXPERIMENTS.update(REAL)  # in their order, which pages show


def do(folder, trial):
    """One call of the script for a trial; False if it was killed."""
    try:
        return main.do(trial, Place(folder / "work", "python", "peer"), folder / "results")
    except processes.Interrupted:
        return False


OLD = Trial("demo", "old", 1, "3.11")


def test_a_killed_training_goes_on_and_a_stored_result_stays(machine, tmp_path):
    machine.kills = 1
    assert not do(tmp_path, OLD)
    assert read_all(tmp_path / "results") == []
    assert do(tmp_path, OLD)
    assert machine.told == ["train", "train --resume", "test"]
    stored = read(OLD.path(tmp_path / "results"))
    assert stored["words"] == {"train": TRAIN}
    assert (stored["metrics"], stored["steps"], stored["seconds"]) == ({"mAP": 0.7}, 20, 10.0)
    assert (stored["steps_per_second"], stored["starts"], stored["commit"]) == (2.0, 2, "abc")
    assert stored["process_seconds"] is None  # nobody knows what the killed one took
    assert not (tmp_path / "work" / OLD.name / "run" / "checkpoints").exists()
    assert do(tmp_path, OLD)
    assert len(machine.told) == 3


def test_a_trial_that_was_killed_after_training_is_only_tested(machine, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(main, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            do(tmp_path, OLD)
    (tmp_path / "work" / OLD.name / "test" / "report.json").unlink()
    (tmp_path / "work" / OLD.name / "test").rmdir()
    assert do(tmp_path, OLD)
    assert machine.told == ["train", "test", "test"]
    assert read(OLD.path(tmp_path / "results"))["process_seconds"] == 10


def test_a_training_by_the_clock_starts_anew(machine, tmp_path):
    machine.kills = 1
    trial = Trial("timed", "ours", 1, "3.11")
    assert not do(tmp_path, trial)
    assert do(tmp_path, trial)
    assert machine.told == ["train", "train", "test"]
    assert read(trial.path(tmp_path / "results"))["process_seconds"] == 10


def test_other_words_make_a_result_stale_and_start_anew(machine, tmp_path, monkeypatch, capsys):
    do(tmp_path, OLD)
    machine.kills = 1
    do(tmp_path, replace(OLD, seed=2))
    arms = {**DEMO.arms, "old": Arm(f"{TRAIN} --batch-size 2")}
    monkeypatch.setitem(EXPERIMENTS, "demo", replace(DEMO, arms=arms))
    [stored] = read_all(tmp_path / "results")
    assert stale(stored) == "other words for train"
    assert "old (stale)" in text([stored], ["demo"])[0]
    assert do(tmp_path, replace(OLD, seed=2))
    assert "starts anew" in capsys.readouterr().out
    assert machine.told == ["train", "test", "train", "train", "test"]
    assert do(tmp_path, OLD)
    assert [stale(row) for row in read_all(tmp_path / "results")] == ["", ""]


def test_the_same_words_with_another_meaning_make_a_result_stale(machine, tmp_path, monkeypatch):
    do(tmp_path, OLD)
    [stored] = read_all(tmp_path / "results")
    assert stored["settings"]["train"]["train.seed"] == 7  # of the run, and not compared
    assert stale(stored) == ""
    quick = {**configuring.QUICK, "train.lr": 0.5}
    with monkeypatch.context() as patch:
        patch.setattr(configuring, "QUICK", quick)
        results.recipe.cache_clear()
        assert stale(stored) == "the words mean other settings now: train.lr"
        assert do(tmp_path, OLD)
        assert machine.told == ["train", "test"] * 2
    results.recipe.cache_clear()
    del stored["settings"]["train"]["train.ema"]  # a setting that came later and changes nothing
    assert stale(stored) == ""
    stored["settings"]["train"]["train.gone"] = 1
    assert stale(stored) == "the words mean other settings now: train.gone"
    assert stale({**stored, "arm": "other"}) == "not in the table"


def row(arm, seed, value, python="3.11", **more):
    """A stored result."""
    words = EXPERIMENTS["demo"].arms[arm].words
    metrics = {"mAP": value}
    known = {"experiment": "demo", "arm": arm, "seed": seed, "python": python, "words": words}
    return {**known, "metrics": metrics, "seconds": 60.0, "cpu": "X", "cores": 2, **more}


def states(rows):
    return [(v.state, v.why) for v in verdicts(DEMO, groups_of("demo", rows))]


def test_bars_pass_or_fail_when_every_seed_is_there(machine):
    lacking = "new with Python 3.9: 0 of 2 seeds; new with Python 3.13: 0 of 2 seeds"
    rows = [row("old", 1, 0.4), row("old", 2, 0.5), row("new", 1, 0.6)]
    missing = "new with Python 3.11: 1 of 2 seeds"
    assert states(rows) == [
        ("open", f"so far 0.1500 with Python 3.11; {missing}"),
        ("open", f"so far 0.6000 with Python 3.11; {missing}"),
        ("open", lacking),
    ]
    rows.append(row("new", 2, 0.45))
    assert states(rows)[:2] == [
        ("FAIL", "0.0750 with Python 3.11"),
        ("FAIL", "0.4500 with Python 3.11"),
    ]
    rows[-1] = row("new", 2, 0.62)
    assert states(rows)[:2] == [
        ("pass", "0.1600 with Python 3.11"),
        ("pass", "0.6000 with Python 3.11"),
    ]
    printed, good = text(rows, ["demo"])
    assert good
    assert "0.610  0.600 to 0.620" in printed
    stale_row = row("new", 2, 0.9, words={"train": "--epochs 1"})
    assert states([*rows[:-1], stale_row]) == states(rows[:-1])


@pytest.mark.parametrize(("other", "state"), [(0.59, "pass"), (0.55, "FAIL")])
def test_pythons_are_kept_apart_and_compared(machine, other, state):
    rows = [row("new", seed, 0.6, "3.9") for seed in (1, 2)]
    rows += [row("new", seed, other, "3.13") for seed in (1, 2)]
    found = [*verdicts(DEMO, groups_of("demo", rows))]
    assert [v.state for v in found] == ["open", "open", "pass", "pass", state]
    assert found[-1].why == f"{0.6 - other:.4f} with Python 3.9, 3.13"


def test_the_page_has_stored_numbers_and_the_commands_of_measured_arms(machine, tmp_path):
    for seed in (1, 2):
        do(tmp_path, replace(OLD, seed=seed))
    page = markdown(tmp_path / "results")
    assert "| old | 3.11 | 1 2 | 0.700 | 0.700 to 0.700 | 2.00 | 0.2 |" in page
    assert f"# old\nmxrcnn train {TRAIN}\n" in page
    assert "--lr 0.01" not in page
    assert "- open: `min(new.mAP) >= 0.5`; new: 0 of 2 seeds" in page


def test_a_broken_result_is_named(tmp_path):
    path = OLD.path(tmp_path)
    path.parent.mkdir()
    path.write_text('{"arm": ')
    with pytest.raises(ValueError, match=r"old-seed1-py3\.11\.json"):
        read_all(tmp_path)


def test_seconds_by_the_rates_of_the_log():
    rows = [
        {"kind": "train", "step": 2, "images_per_second": 4.0},
        {"kind": "val", "step": 3},
        {"kind": "train", "step": 5, "images_per_second": 2.0},
    ]
    assert seconds_of(rows, 4) == [1, 1, 2, 2, 2]


def test_folds_have_every_image_once():
    made = folds([*range(18)])
    assert [len(fold) for fold in made] == [6, 6, 6]
    assert sorted(image for fold in made for image in fold) == [*range(18)]


# --- the table as it is -------------------------------------------------------------------------

ARMS = [(name, arm) for name, experiment in REAL.items() for arm in experiment.arms]


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_the_words_of_the_table_parse(name, arm):
    what = REAL[name].arms[arm]
    if what.kind == "yolo":
        return
    for purpose, words in what.words.items():
        split = shlex.split(words)
        if purpose == "test":
            parser_of("test").parse_args(["RUN", *split])
        elif CHOOSING & {*split}:
            parser_of("train").parse_args(split)
        else:
            settings = settings_of(configure(request(words)).config)
            assert json.loads(json.dumps(settings)) == settings


@pytest.mark.parametrize("name", REAL)
def test_the_bars_of_the_table_are_about_its_arms(name):
    assert name != "table"  # a word of the command line
    for bar in REAL[name].bars:
        assert BAR.fullmatch(bar), bar
        assert {arm for _, arm, _ in TERM.findall(bar)} <= {*REAL[name].arms}
    assert {arm.kind for arm in REAL[name].arms.values()} <= {*main.RUNNERS}
    assert REAL[name].prepare in main.PREPARE
