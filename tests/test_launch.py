"""tools/launch.py: which processes start, where and how; none outlives a failure."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mxrcnn.config import ConfigError
from mxrcnn.training.launch import place, plan_processes, processes_of_task, read_hostfile
from tests.conftest import REPO

LAUNCH = REPO / "tools" / "launch.py"
EVERYBODY = {"scheduler", "server", "worker0", "worker1"}

#: notes its own process and one that it started, then does what its argument says
STUB = """
    import os, signal, subprocess, sys, time
    folder, then = sys.argv[1:]
    role, rank = os.environ["DMLC_ROLE"], os.environ.get("DMLC_WORKER_ID", "")
    child = subprocess.Popen(["sleep", "300"])

    def save_and_stop(signum, frame):
        open(f"{folder}/saved{rank}", "w").close()
        sys.exit(128 + signum)

    if then == "stop when asked":
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, save_and_stop)
    with open(f"{folder}/.{role}{rank}", "w") as handle:
        handle.write(f"{os.getpid()} {child.pid}")
    os.rename(f"{folder}/.{role}{rank}", f"{folder}/{role}{rank}")
    if then == "fail" and rank == "1":
        sys.exit("it did not work")
    if then == "end":
        print("said by", role, rank, flush=True)
        print("variables", *sorted(k + "=" + v for k, v in os.environ.items() if "DMLC" in k))
        print("threads", os.environ.get("OMP_NUM_THREADS"), os.environ["MXRCNN_LOCAL_WORKERS"]
              if role == "worker" else "")
        print("in", os.getcwd())
        child.kill()
        sys.exit(0)
    while then == "stop when asked" and role != "worker":
        if all(os.path.exists(f"{folder}/saved{rank}") for rank in "01"):
            child.kill()
            sys.exit(0)
        time.sleep(0.02)
    time.sleep(300)
"""


def start(folder: Path, then: str, *flags: str, **options) -> subprocess.Popen:
    """The launcher with two workers that run the stub."""
    return subprocess.Popen(
        [
            *(sys.executable, str(LAUNCH), "-n", "2", *flags, "--"),
            *(sys.executable, "-S", "-c", textwrap.dedent(STUB), str(folder), then),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(process: subprocess.Popen, seconds: float = 30) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=seconds)
    return process.returncode, out, errors


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(folder: Path) -> dict[str, list[int]]:
    """Every process that has started, with its child."""
    return {
        path.name: [int(word) for word in path.read_text().split()]
        for path in folder.iterdir()
        if path.name in EVERYBODY
    }


def all_begun(folder: Path, process: subprocess.Popen) -> dict[str, list[int]]:
    def begun() -> bool:
        assert process.poll() is None, finish(process)
        return set(pids(folder)) == EVERYBODY

    wait_until(begun)
    return pids(folder)


def assert_all_gone(found: dict[str, list[int]]) -> None:
    wait_until(lambda: not any(alive(pid) for pair in found.values() for pid in pair), 20)


@pytest.mark.parametrize(
    ("victim", "name"),
    [
        ("worker0", "worker 0"),
        ("worker1", "worker 1"),
        ("server", "server 0"),
        ("scheduler", "scheduler"),
    ],
)
def test_when_one_is_killed_all_end(victim, name, tmp_path):
    process = start(tmp_path, "sleep")
    found = all_begun(tmp_path, process)
    os.kill(found[victim][0], signal.SIGKILL)
    begun = time.monotonic()
    code, _, errors = finish(process)
    assert code == 137
    assert errors == f"error: {name} ended with signal 9 (SIGKILL); ending all\n"
    assert time.monotonic() - begun < 15
    assert_all_gone(found)


def test_the_error_of_a_worker_is_everybodys(tmp_path):
    code, _, errors = finish(start(tmp_path, "fail"))
    assert code == 1
    assert "[1] it did not work\n" in errors
    assert errors.endswith("error: worker 1 ended with exit code 1; ending all\n")
    assert_all_gone(pids(tmp_path))


@pytest.mark.parametrize("how", ["kill -9", "kill -9 of the whole group"])
def test_when_the_launcher_is_killed_all_end(how, tmp_path):
    process = start(tmp_path, "sleep")
    found = all_begun(tmp_path, process)
    (os.kill if how == "kill -9" else os.killpg)(process.pid, signal.SIGKILL)
    assert_all_gone(found)
    process.communicate(timeout=30)  # ends when nobody holds the other end of the pipes


def test_when_a_guard_is_killed_all_end(tmp_path):
    process = start(tmp_path, "sleep")
    found = all_begun(tmp_path, process)
    stat = Path(f"/proc/{found['worker1'][0]}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
    code, _, errors = finish(process)
    assert code == 137
    assert "worker 1 ended with signal 9" in errors
    wait_until(lambda: not any(alive(pair[0]) for pair in found.values()), 20)
    os.kill(found["worker1"][1], signal.SIGKILL)  # what that worker started; loaders notice it


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_workers_are_asked_to_stop(signum, tmp_path):
    process = start(tmp_path, "stop when asked")
    found = all_begun(tmp_path, process)
    os.killpg(process.pid, signum)  # as a terminal does
    time.sleep(0.1)
    code, _, errors = finish(process)
    assert code == 128 + signum, errors
    assert {path.name for path in tmp_path.glob("saved*")} == {"saved0", "saved1"}
    assert_all_gone(found)


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    process = start(tmp_path, "sleep")
    found = all_begun(tmp_path, process)
    for rank in "01":  # they do not listen
        os.kill(found[f"worker{rank}"][0], signal.SIGSTOP)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    assert finish(process)[0] == 130
    assert_all_gone(found)


def test_who_says_what(tmp_path):
    code, out, errors = finish(start(tmp_path, "end"))
    assert (code, errors) == (0, "")
    lines = out.splitlines()
    assert "said by worker 0" in lines
    assert "[1] said by worker 1" in lines
    assert any(line.startswith("[scheduler 0] said by scheduler") for line in lines)
    assert any(line.startswith("[server 0] said by server") for line in lines)
    assert f"[1] in {os.getcwd()}" in lines
    own = next(line for line in lines if line.startswith("variables")).split()
    other = next(line for line in lines if line.startswith("[1] variables")).split()[1:]
    assert {"DMLC_NUM_WORKER=2", "DMLC_NUM_SERVER=1", "DMLC_INTERFACE=lo"} <= set(own)
    assert set(own) ^ set(other) == {"DMLC_WORKER_ID=0", "DMLC_WORKER_ID=1"}


def test_a_command_that_is_not_there(tmp_path):
    done = subprocess.run(
        [sys.executable, str(LAUNCH), "-n", "2", "--", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 127
    assert f"{tmp_path / 'none'}: No such file or directory" in done.stderr


# Other hosts

#: stands for ssh: notes its words, and runs the command line as the other host's shell would
SSH = """\
#!/bin/sh
printf '%s\\0' "$@" >> "$FAKE_SSH_LOG"
for line; do :; done
cd / && exec env -i PATH="$PATH" sh -c "$line"
"""


@pytest.fixture
def ssh(tmp_path, monkeypatch) -> Path:
    """Put an ssh on PATH that writes its arguments to a file."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "ssh"
    path.write_text(SSH)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SSH_LOG", str(tmp_path / "ssh.log"))
    monkeypatch.setenv("MXNET_CPU_WORKER_NTHREADS", "a b")
    (tmp_path / "hosts").write_text("# two\nlocalhost slots=1\nme@127.0.0.1\n")
    (tmp_path / "a folder").mkdir()
    return tmp_path / "ssh.log"


def test_over_ssh(ssh, tmp_path):
    folder = tmp_path / "a folder"
    flags = ("--hostfile", str(tmp_path / "hosts"), "-s", "1")
    code, out, errors = finish(start(folder, "end", *flags, cwd=folder))
    assert (code, errors) == (0, "")
    assert out.count("said by") == 4
    assert f"in {folder}" in out.splitlines()
    words = ssh.read_text().split("\0")
    assert [w for w in words if w in ("localhost", "me@127.0.0.1")].count("me@127.0.0.1") == 1
    assert "BatchMode=yes" in words
    lines = [shlex.split(word) for word in words if word.startswith("cd ")]
    assert len(lines) == 3  # the scheduler is here
    assert all("MXNET_CPU_WORKER_NTHREADS=a b" in line for line in lines)
    assert all("DMLC_PS_ROOT_URI=127.0.0.1" in line for line in lines)


def test_a_broken_connection_ends_all(ssh, tmp_path):
    process = start(tmp_path, "sleep", "--hostfile", str(tmp_path / "hosts"))
    wait_until(lambda: len(list(tmp_path.glob("server*"))) == 1 and len(pids(tmp_path)) == 4)
    found = pids(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert_all_gone(found)
    process.communicate(timeout=30)


def test_a_host_that_ssh_does_not_reach(tmp_path, ssh):
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\necho no route to it >&2\nexit 255\n")
    code, _, errors = finish(start(tmp_path, "sleep", "--hostfile", str(tmp_path / "hosts")))
    assert code == 255
    assert "no route to it" in errors
    assert "ended with exit code 255: ssh failed; ending all" in errors


def test_places_of_workers():
    assert place(5, [("a", 2), ("b", 1)]) == ["a", "a", "b", "a", "a"]
    planned = plan_processes(3, hosts=[("127.0.0.1", 2), ("localhost", 1)])
    assert [(p.role, p.number, p.host) for p in planned] == [
        ("scheduler", 0, None),
        ("server", 0, "127.0.0.1"),
        ("server", 1, "localhost"),
        ("worker", 0, "127.0.0.1"),
        ("worker", 1, "127.0.0.1"),
        ("worker", 2, "localhost"),
    ]
    assert [p.variables.get("MXRCNN_LOCAL_WORKERS") for p in planned[3:]] == ["2", "2", "1"]
    assert len({p.variables["DMLC_PS_ROOT_PORT"] for p in planned}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no host"),
        ("# nobody\n", "names no host"),
        ("a\nb 4\n", "line 2: 'b 4': expected"),
        ("a slots=0", "line 1"),
        ("a slots=x", "line 1"),
        ("a slots=1 b", "line 1"),
        ("-oProxyCommand=evil", "is not a host"),
    ],
)
def test_hostfiles_that_cannot_be(text, message, tmp_path):
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_hostfile(path)


def test_numbers_that_cannot_be():
    with pytest.raises(ConfigError, match="-n 0 -s 0"):
        plan_processes(0)
    with pytest.raises(ConfigError, match=r"host no\.such\.host\.invalid"):
        plan_processes(1, hosts=[("no.such.host.invalid", 1)])


@pytest.mark.parametrize(
    ("scheduler", "environment"),
    [
        ("slurm", {"SLURM_PROCID": "{}", "SLURM_NTASKS": "3"}),
        ("mpi", {"OMPI_COMM_WORLD_RANK": "{}", "OMPI_COMM_WORLD_SIZE": "3"}),
        ("mpi", {"PMI_RANK": "{}", "PMI_SIZE": "3"}),
        ("k8s", {"JOB_COMPLETION_INDEX": "{}", "DMLC_NUM_WORKER": "3"}),
    ],
)
def test_tasks_of_job_schedulers(scheduler, environment, monkeypatch):
    monkeypatch.setenv("DMLC_PS_ROOT_URI", "10.0.0.1")
    monkeypatch.setenv("DMLC_PS_ROOT_PORT", "9091")
    started = []
    for task in range(3):
        for name, value in environment.items():
            monkeypatch.setenv(name, value.format(task))
        started += [(p.role, p.number) for p in processes_of_task(scheduler, servers=2)]
    assert started == [
        *(("scheduler", 0), ("server", 0), ("worker", 0)),
        *(("server", 1), ("worker", 1)),
        ("worker", 2),
    ]
    found = processes_of_task(scheduler, servers=2)[0].variables
    assert found["DMLC_NUM_WORKER"] == "3"
    assert found["DMLC_NUM_SERVER"] == "2"
    assert found["DMLC_WORKER_ID"] == "2"
    assert found["DMLC_USE_KUBERNETES"] == "1"  # or no host name will do as an address
    monkeypatch.delenv("DMLC_PS_ROOT_URI")
    with pytest.raises(ConfigError, match="set DMLC_PS_ROOT_URI"):
        processes_of_task(scheduler)


def test_a_task_of_no_job_scheduler(monkeypatch):
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(ConfigError, match="SLURM_PROCID and SLURM_NTASKS must be in"):
        processes_of_task("slurm")
