"""Run folders: checkpoints are complete or absent; which ones are kept; the log."""

import json
import math
import os
import re
import resource
import shutil
from pathlib import Path

import pytest

from mxrcnn.runs import checkpoint
from mxrcnn.runs.checkpoint import (
    Best,
    CheckpointError,
    RunFolder,
    TrainState,
    join_params,
    load_arrays,
    save_arrays,
    split_params,
)
from symnet.machine import mx
from tests.conftest import REPO
from tests.factories import tiny_config

#: the first bytes of MXNet's parameter files
MXNET_MAGIC = (0x112).to_bytes(8, "little")


def params(value: float = 0.0, size: int = 6) -> dict[str, mx.nd.NDArray]:
    return {"arg:a_weight": mx.nd.full((size,), value), "aux:b_mean": mx.nd.full((2,), -value)}


def save(run: RunFolder, step: int, keep: int = 2) -> Path:
    return run.save(TrainState(step, 1, 2), params(step), {"a_weight": mx.nd.ones(6)}, keep)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def started(run) -> RunFolder:
    run.create(tiny_config(), {"train": mx.sym.Variable("x") * 2, "test": mx.sym.Variable("x")})
    return run


def leftovers(run: RunFolder) -> list[str]:
    return [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")]


def test_what_is_saved_comes_back(run):
    save(run, 7)
    state, arrays, momentum = run.load_state()
    assert state == TrainState(7, 1, 2)
    assert {k: v.asnumpy().tolist() for k, v in arrays.items()} == {
        k: v.asnumpy().tolist() for k, v in params(7).items()
    }
    assert momentum["a_weight"].asnumpy().tolist() == [1] * 6
    assert not leftovers(run)


@pytest.mark.parametrize(
    "broken",
    ["mx.nd.save", "_sync", "os.rename", "Path.write_text", "json.dumps"],
)
def test_a_failure_while_saving_leaves_no_checkpoint_and_the_older_ones(run, monkeypatch, broken):
    save(run, 1)
    save(run, 2)
    before = run.load_state()[0]

    def fail(*args, **kwargs):
        raise OSError("no space left")

    owner = checkpoint
    *way, name = broken.split(".")
    for part in way:
        owner = getattr(owner, part)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fail)
        with pytest.raises(OSError, match="no space left"):
            save(run, 3)
    assert run.steps() == [1, 2]
    assert run.load_state()[0] == before
    save(run, 4)
    assert run.steps() == [2, 4]
    assert not leftovers(run), "what the failure left behind must go with the next save"


def test_a_removal_that_fails_half_way_leaves_no_broken_checkpoint(run, monkeypatch):
    def cut_short(folder, **_):
        os.remove(folder / "model.params")
        raise OSError("killed")

    save(run, 1)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", cut_short)
        with pytest.raises(OSError, match="killed"):
            save(run, 2, keep=1)
    assert run.steps() == [2]
    save(run, 3, keep=1)
    assert run.steps() == [3]
    assert not leftovers(run)


@pytest.mark.parametrize("missing", [1, 50, 4096])
def test_a_full_disk_is_noticed(tmp_path, missing):
    """MXNet itself does not notice when the disk is full for the last kilobytes."""
    path = tmp_path / "a.params"
    arrays = params(size=5000)
    save_arrays(path, arrays)
    whole, limits = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole - missing, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"b\.params: cannot be written"):
            save_arrays(tmp_path / "b.params", arrays)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_same_step_is_not_written_twice(run, monkeypatch):
    save(run, 5)
    monkeypatch.setattr(checkpoint, "save_arrays", lambda *_: pytest.fail("written again"))
    save(run, 5)
    assert run.steps() == [5]


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [(1, None, [5]), (2, None, [4, 5]), (2, 1, [1, 4, 5]), (2, 5, [4, 5]), (9, 2, [1, 2, 3, 4, 5])],
)
def test_the_newest_and_the_best_are_kept(run, keep, best, kept):
    for step in range(1, 6):
        save(run, step, keep)
        if step == best:
            run.note_best(step, "voc07 mAP", 0.5)
    assert run.steps() == kept


def test_best_is_the_highest_and_of_equals_the_first(run):
    noted = [(3, 0.2, True), (4, 0.1, False), (5, 0.2, False), (6, 0.3, True), (7, -1, False)]
    noted += [(8, float("nan"), False), (9, float("inf"), False)]
    answers = [run.note_best(step, "voc07 mAP", value) for step, value, _ in noted]
    assert answers == [new for *_, new in noted]
    assert run.best() == Best(6, "voc07 mAP", 0.3)


def test_numbers_of_another_metric_do_not_compare(run):
    save(run, 6)
    (run.path / "best.json").write_text('{"step": 6, "mAP": 0.7}')  # of an older version
    assert run.best() == Best(6, "voc07 mAP", 0.7)
    assert not run.note_best(7, "voc07 mAP", 0.6)
    assert not run.note_best(8, "coco segm_AP", -1)  # nothing to measure replaces nothing
    assert run.note_best(8, "coco segm_AP", 0.2)
    assert not run.note_best(9, "coco segm_AP", 0.1)
    assert run.best() == Best(8, "coco segm_AP", 0.2)
    assert run.note_best(10, "coco AP", 0.1)
    assert run.note_best(11, "coco AP", 0.2, "aa")  # until then the images were not noted
    assert not run.note_best(12, "coco AP", 0.1, "aa")
    assert run.note_best(12, "coco AP", 0.1, "bb")  # of other images
    assert run.best().data == "bb"


def test_selection(run):
    for step in (3, 8, 12):
        save(run, step, keep=9)
    run.note_best(8, "voc07 mAP", 0.9)
    picked = {which: run.folder(which).name for which in ("last", "best", "3", 12)}
    assert picked == {
        "last": "step-00000012",
        "best": "step-00000008",
        "3": "step-00000003",
        12: "step-00000012",
    }


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("best", "no best checkpoint: it was trained without validation"),
        ("7", "no checkpoint 7; it has 3, 8"),
        ("newest", "no checkpoint newest; it has 3, 8"),
        (-1, "no checkpoint -1; it has 3, 8"),
    ],
)
def test_selection_of_what_is_not_there(run, which, message):
    save(run, 3)
    save(run, 8)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        run.folder(which)


def test_no_checkpoint_yet(run):
    assert run.steps() == []
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        run.folder()


def test_other_things_in_the_folder_are_no_checkpoints(run):
    save(run, 3)
    for name in ("step-9", "step-00000009.bak", ".step-00000010.17.partial", "notes"):
        (run.checkpoints / name).mkdir()
    assert run.steps() == [3]


DAMAGES = {
    "empty": lambda whole: b"",
    "header": lambda whole: whole[:20],
    "half": lambda whole: whole[: len(whole) // 2],
    "last byte": lambda whole: whole[:-1],
    "text": lambda whole: b"<html>not found</html>" * 50,
    "wild length": lambda whole: whole[:23] + b"\xff" + whole[24:],
}


@pytest.mark.parametrize("name", ["model.params", "momentum.params"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(run, name, damage):
    path = save(run, 3) / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        run.load_state()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 1, "colour": 2}'])
def test_a_damaged_state_is_named(run, text):
    path = save(run, 3) / "state.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        run.load_state()


@pytest.mark.parametrize("name", ["model.params", "state.json"])
def test_a_missing_file_is_named(run, name):
    (save(run, 3) / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        run.load_state()


def test_arrays_without_names_are_refused(tmp_path):
    path = tmp_path / "list.params"
    mx.nd.save(str(path), [mx.nd.zeros(2)])
    with pytest.raises(CheckpointError, match=r"list\.params: its arrays have no names"):
        load_arrays(path)


def test_split_params():
    arrays = {"arg:a": 1, "aux:b": 2, "c": 3, "arg:d:e": 4}
    split = {"a": 1, "c": 3, "d:e": 4}, {"b": 2}
    assert split_params(arrays) == split
    assert split_params(join_params(*split)) == split


def test_files_of_a_run_are_not_pickles(started):
    save(started, 3)
    started.append_log({"step": 3})
    files = [path for path in started.path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".jsonl", ".params"}
    for path in files:
        if path.suffix == ".params":
            assert path.read_bytes()[:8] == MXNET_MAGIC
        else:
            json.loads(path.read_text())


@pytest.mark.parametrize("package", ["mxrcnn", "symnet", "tools"])
def test_nothing_uses_pickle(package):
    forbidden = re.compile(
        r"(import|from)\s+(_|c)?(pickle|dill|joblib|shelve|marshal)\b|allow_pickle=True"
        r"|(save|load)_optimizer_states|set_states(?!\(value=\d)|get_states"
    )
    files = list((REPO / package).rglob("*.py"))
    assert files
    found = [(str(path), m.group()) for path in files for m in forbidden.finditer(path.read_text())]
    assert not found


def test_an_existing_run_is_not_overwritten(started):
    before = (started.path / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match="holds a run already: continue it with --resume"):
        started.create(tiny_config(train__seed=9), {})
    assert (started.path / "config.json").read_bytes() == before


def test_config_and_symbols_come_back(started):
    assert started.config() == tiny_config()
    assert started.symbol("train").list_arguments() == ["x"]
    with pytest.raises(CheckpointError, match=r"onnx-symbol\.json"):
        started.symbol("onnx")


def test_not_a_run(tmp_path):
    with pytest.raises(CheckpointError, match="is not a run folder"):
        RunFolder(tmp_path).config()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="locked"):
        RunFolder(tmp_path / "locked" / "run").create(tiny_config(), {})


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        RunFolder(tmp_path / "file" / "run").create(tiny_config(), {})


def test_log_rows_come_back(run):
    run.path.mkdir()
    assert run.read_log() == []
    rows = [{"kind": "train", "step": step, "loss": step / 3} for step in (1, 2, 3)]
    for row in rows:
        run.append_log(row)
    assert run.read_log() == rows


def test_rewinding_the_log(run):
    run.path.mkdir()
    for step in (1, 2, 3, 4):
        run.append_log({"kind": "train", "step": step})
    run.append_log({"kind": "val", "step": 2})
    with run.log.open("a") as handle:
        handle.write('{"kind": "train", "st')
    run.rewind_log(2)
    assert [row["step"] for row in run.read_log()] == [1, 2, 2]
    run.append_log({"kind": "train", "step": 3})
    assert len(run.read_log()) == 4


def test_the_log_is_strict_json(run):
    """NaN and infinities are not JSON; older logs have them."""
    run.path.mkdir()
    bad = {"mAP": math.nan, "loss": -math.inf, "more": [math.inf, {"AP": math.nan, "n": 3}]}
    run.log.write_text(json.dumps({"kind": "val", "step": 1, **bad}) + "\n")
    run.rewind_log(9)
    run.append_log({"kind": "val", "step": 2, **bad})
    with pytest.raises(TypeError):
        run.append_log({"step": 3, "mAP": object()})
    rows = [
        json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
        for line in run.log.read_text().splitlines()
    ]
    good = {"kind": "val", "mAP": None, "loss": None, "more": [None, {"AP": None, "n": 3}]}
    assert rows == [{"step": step, **good} for step in (1, 2)] == run.read_log()


def test_no_momentum_yet(run):
    """A run that was stopped before its first step has none."""
    run.save(TrainState(0), params(), {}, 1)
    assert run.load_state()[2] == {}
