"""The command `mxrcnn`: its table of commands, its help, and how it spells commands."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout

import pytest

from mxrcnn import __version__, program
from mxrcnn.cli import COMMANDS, main
from mxrcnn.config import make_config
from mxrcnn.config.listing import list_settings
from tests.conftest import REPO

#: runs `mxrcnn WORDS` and prints the heavy modules that were imported
IMPORTED = """
import sys
sys.path.insert(0, {path!r})
from mxrcnn.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    assert not stopped.code, stopped
heavy = {{"mxnet", "numpy", "matplotlib", "PIL"}} & set(sys.modules)
print("imported:", *heavy, *(m for m in sys.modules if m.startswith("mxrcnn.cli.")))
"""


@pytest.mark.parametrize(
    ("words", "imported"),
    [
        (["--help"], []),
        (["--version"], []),
        (["train", "--help"], ["mxrcnn.cli.train"]),
        (["predict", "--help"], ["mxrcnn.cli.predict", "mxrcnn.cli.predict_options"]),
        (["doctor", "--help"], ["mxrcnn.cli.doctor"]),
    ],
)
def test_help_imports_only_what_it_shows(words, imported):
    code = IMPORTED.format(path=str(REPO))
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()[-1].split()[1:]
    assert sorted(found) == sorted(["mxrcnn.cli.common", *imported])


@pytest.mark.parametrize("by_tools", [False, True], ids=["mxrcnn", "tools"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_commands_as_the_user_does(name, by_tools, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"], by_tools)
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    spelled = f"python tools/{program.SCRIPTS.get(name)}.py" if by_tools else f"mxrcnn {name}"
    assert out.startswith(f"usage: {spelled if name in program.SCRIPTS else f'mxrcnn {name}'} [-h]")
    others = [f"mxrcnn {other}" for other in program.SCRIPTS] if by_tools else ["tools/"]
    assert [other for other in others if other in out] == []
    # in narrow terminals, nothing but the description is wider than the terminal
    assert max(map(len, out.splitlines())) <= 100


def test_the_overview_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    rows = capsys.readouterr().out.partition("commands:\n")[2].splitlines()
    assert [row.split()[0] for row in rows[: len(COMMANDS)]] == list(COMMANDS)


def test_python_m_mxrcnn():
    words = [sys.executable, "-m", "mxrcnn", "--version"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, f"mxrcnn {__version__}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: mxrcnn COMMAND ..."),
        (["trian"], "invalid choice: 'trian' (choose from"),
        (["test"], "mxrcnn test: error: the following arguments are required: run"),
        (["train", "--ephocs", "1"], "unrecognized arguments: --ephocs 1"),
        (["export", "run", "--to", "x", "--check", "a.jpg"], "--check only works for ONNX files"),
        (["launch", "-n", "2"], "mxrcnn launch: error: no command given: put it after --"),
        (["launch", "--", "true"], "one of -n and --from-env is needed"),
    ],
)
def test_wrong_arguments_exit_with_2(words, message, capsys):
    try:
        code = main(words)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--list-settings"], ["weights", "list"], ["data", "--help"]]
)
def test_a_reader_may_stop_reading(words, capfd):
    """As `mxrcnn ... | head` does; nothing is printed, now or when Python closes the pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    pipe = os.fdopen(writing, "w")
    with pipe, redirect_stdout(pipe), pytest.raises(SystemExit) as stopped:
        main(words)
    assert (stopped.value.code, capfd.readouterr().err) == (141, "")


def test_another_broken_pipe_is_an_error(monkeypatch, capsys):
    def stop(*args):
        raise BrokenPipeError("broken pipe")

    monkeypatch.setattr("mxrcnn.config.listing.list_settings", stop)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--list-settings"])
    assert (stopped.value.code, capsys.readouterr().err) == (1, "error: broken pipe\n")


def test_launch_finds_mxrcnn_without_path(monkeypatch, capfd):
    """Its processes run `mxrcnn` by the launcher's own Python."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    assert main(["launch", "-n", "1", "--", "mxrcnn", "--version"]) == 0
    assert f"\nmxrcnn {__version__}\n" in "\n" + capfd.readouterr().out


def test_each_script_of_tools_starts_its_command():
    scripts = {path.stem: path for path in (REPO / "tools").glob("[!_]*.py")}
    started = {}
    for stem, path in scripts.items():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Call]
        started[calls[0].args[0].value] = stem
    assert started == program.SCRIPTS
    assert set(started) <= set(COMMANDS)


@pytest.mark.parametrize("by_tools", [False, True], ids=["mxrcnn", "tools"])
def test_errors_name_commands_as_the_user_does(by_tools, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--set", "qqqq=1"], by_tools)
    assert stopped.value.code == 1
    train = "python tools/train.py" if by_tools else "mxrcnn train"
    assert f"listed by: {train} --list-settings" in capsys.readouterr().err


def test_the_list_of_settings_names_commands_as_the_user_does():
    with program.started(by_tools=True):
        assert "set by python tools/launch.py" in list_settings(make_config())
    assert "set by mxrcnn launch" in list_settings(make_config())


def test_no_source_spells_a_script_itself():
    """Messages use mxrcnn.program, or they would be wrong where there is no clone."""
    sources = [path for name in ("mxrcnn", "symnet") for path in (REPO / name).rglob("*.py")]
    script = re.compile(r"tools/\w+\.py")
    found = [path.name for path in sources if script.search(path.read_text("utf-8"))]
    assert found == ["program.py"]


def test_commands_are_spelled_as_the_program_was_started():
    text = "see mxrcnn quantize; then mxrcnn doctor"
    assert program.command("test", "my run") == "mxrcnn test 'my run'"
    assert program.spelled(text) == text
    with program.started(by_tools=True):
        assert program.command("predict", "a.onnx") == "python tools/demo.py a.onnx"
        assert program.spelled(text) == "see python tools/quantize.py; then mxrcnn doctor"
    assert program.command("test") == "mxrcnn test"
