"""`make matrix`: which Pythons it finds, what it reports, and when it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import matrix

OURS = f"3.{sys.version_info[1]}"
GOOD = """
install: ; $(PYTHON) -m venv --without-pip .venv
demo: install
	mkdir -p runs/demo/test
	echo '{"metrics": {"mAP": 0.8625}}' > runs/demo/test/report.json
test: ; echo "12 passed, 3 skipped, 1 deselected in 4.56s"
"""


@pytest.fixture
def interpreters(tmp_path, monkeypatch):
    """Makes fake commands `python3.X` of any version, on PATH or in pyenv's folder."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("HOME", str(tmp_path))

    def make(place: str, says: str) -> str:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{says}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_only_interpreters_that_run_count(interpreters):
    shim = interpreters("bin/python3.9", "echo 'command not found' >&2; exit 127")
    interpreters("bin/python3", "echo 2.7")
    real = interpreters("pyenv/versions/3.9.18/bin/python3", "echo 3.9")
    interpreters("pyenv/versions/3.9.2/bin/python3", "echo 3.9")
    on_path = interpreters("bin/python3.12", "echo 3.12")
    lone = interpreters(".local/share/uv/python/cpython-3.13.1-linux/bin/python3", "echo 3.13")
    assert matrix.version_of(shim) is None
    found, missing = matrix.find(["3.9", "3.10", "3.12", "3.13", on_path, shim])
    assert found == {"3.9": real, "3.12": on_path, "3.13": lone}
    assert missing == ["3.10", shim]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with a Makefile, instead of this one."""
    root = tmp_path / "repo"
    root.mkdir()
    monkeypatch.setattr(matrix, "REPO", root)

    def commit(makefile: str) -> Path:
        (root / "Makefile").write_text(makefile)
        (root / ".gitignore").write_text("build/\n.venv/\n*.log\nruns/\n")
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
            subprocess.run(["git", *command], cwd=root, check=True)
        return root

    return commit


def run(monkeypatch, capsys, *args: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["matrix.py", *args])
    code = matrix.main()
    return code, capsys.readouterr().out


def test_a_good_run(repository, monkeypatch, capsys):
    root = repository(GOOD)
    (root / "more.txt").write_text("")
    code, out = run(monkeypatch, capsys, "--pythons", sys.executable)
    assert code == 0
    cells = [cell.strip() for cell in out.splitlines()[-1].split("|")[1:-1]]
    assert [cells[i] for i in (0, 3, 5, 6, 7)] == [OURS, "0.863", "12", "3", "0"]
    assert "not found: none" in out
    assert "not committed, so not tested:\n?? more.txt" in out
    clone = root / "build" / "matrix" / OURS
    assert (clone / ".venv" / "bin" / "python").exists()
    assert not (clone / "more.txt").exists()
    assert "12 passed" in (clone / "test.log").read_text()


PINNED = r"""
CONSTRAINTS ?= old.txt
smoke: ; mkdir -p .venv/bin; printf '#!/bin/sh\necho a==1.2' > .venv/bin/python; \
	chmod +x .venv/bin/python; test -z "$(CONSTRAINTS)"
"""


def test_newest_versions_that_pass_become_constraints(repository, monkeypatch, capsys):
    root = repository(PINNED)
    words = ("--pythons", sys.executable, "--targets", "smoke")
    assert run(monkeypatch, capsys, *words)[0] == 1
    assert not (root / "constraints").exists()
    assert run(monkeypatch, capsys, *words, "--newest")[0] == 0
    (path,) = (root / "constraints").iterdir()
    assert path.name == f"py{OURS.replace('.', '')}.txt"
    title, versions = path.read_text().splitlines()
    assert title.startswith(f"# Python {OURS}, ")
    assert title.endswith("; passed: make smoke")
    assert versions == "a==1.2"


def test_a_part_of_it(repository, monkeypatch, capsys):
    root = repository(GOOD)
    assert run(monkeypatch, capsys, "--pythons", sys.executable, "--targets", "demo")[0] == 0
    assert not (root / "build" / "matrix" / OURS / "test.log").exists()


@pytest.mark.parametrize(
    ("broken", "seen"),
    [
        ("echo '2 failed, 9 passed in 61.00s (0:01:01)'; false", ["9", "0", "2"]),
        (
            "echo '1 failed, 9 passed in 61.00s'; echo '3 passed, 1 skipped in 2s'; false",
            ["12", "1", "1"],
        ),
        ("echo '5 passed, 1 error in 2.00s'; false", ["5", "0", "1"]),
        ("echo 'no such package'; false", ["0", "0", "not run"]),
    ],
)
def test_a_failure_fails_it(repository, monkeypatch, capsys, broken, seen):
    repository(GOOD.rpartition("test:")[0] + f"test: ; {broken}\n")
    code, out = run(monkeypatch, capsys, "--pythons", sys.executable)
    assert code == 1
    cells = [cell.strip() for cell in out.splitlines()[-1].split("|")[1:-1]]
    assert cells[5:8] == seen
    assert cells[8].startswith("FAILED")


def test_what_was_named_must_be_there(repository, monkeypatch, capsys):
    repository(GOOD)
    code, out = run(monkeypatch, capsys, "--pythons", "/nowhere/python3.9")
    assert code == 1
    assert "not found: /nowhere/python3.9" in out
