"""Train with several processes, on this machine or on several. Starts and ends all of them.

The workers run the command after --, and so do the servers, which sum the workers' gradients, and
the scheduler, which connects them. When a process fails, all others are ended, and this program
exits with that process's exit code. On Ctrl-C and SIGTERM the workers save and stop.

examples:
  mxrcnn launch -n 2 -- mxrcnn train --batch-size 2 --out runs/two
  mxrcnn launch -n 2 -- mxrcnn train --resume runs/two
  mxrcnn launch -n 8 --hostfile hosts -- mxrcnn train --gpus 0 ...
  srun --kill-on-bad-exit=1 mxrcnn launch --from-env slurm -- mxrcnn train ...

hosts has one line per host, `node1` or `node1 slots=4`. ssh must work without a password, and this
folder and Python must be at the same paths on all hosts. See docs/distributed.md.
"""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-n", "--workers", type=int, metavar="N", help="the number of workers")
    add("-s", "--servers", type=int, default=0, metavar="N", help="servers; default: one per host")
    add("--hostfile", metavar="FILE", help="start the processes on these hosts, by ssh")
    add("--uri", metavar="ADDRESS", help="this machine's IP address as seen by the hosts")
    add("--python", default=sys.executable, metavar="PATH", help="on the hosts; default: as here")
    add(
        "--from-env",
        choices=("slurm", "mpi", "k8s"),
        help="this is one of several tasks started by this job scheduler: only start its part",
    )
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")


def run(args: argparse.Namespace) -> int:
    words = args.command[args.command[:1] == ["--"] :]
    if not words:
        raise argparse.ArgumentError(None, "no command given: put it after --")
    if (args.workers is None) == (args.from_env is None):
        raise argparse.ArgumentError(None, "one of -n and --from-env is needed")
    if words[0] == "mxrcnn":  # its script need not be on PATH, here or on the other hosts
        words[:1] = [args.python, "-m", "mxrcnn"]
    from mxrcnn.config import ConfigError  # mxrcnn.errors would load MXNet
    from mxrcnn.training.launch import Launcher, plan_processes, processes_of_task, read_hostfile

    try:
        if args.from_env:
            processes = processes_of_task(args.from_env, args.servers)
        else:
            hosts = read_hostfile(args.hostfile) if args.hostfile else None
            processes = plan_processes(args.workers, args.servers, hosts, args.uri)
        return Launcher(processes, words, args.python).run()
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
