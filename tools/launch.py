#!/usr/bin/env python3
"""Train with several processes, on this machine or on several. Starts and ends all of them.

The workers run the command after --, and so do the servers, which sum the workers' gradients, and
the scheduler, which connects them. When a process fails, all others are ended, and this program
exits with that process's exit code. On Ctrl-C and SIGTERM the workers save and stop.

examples:
  python tools/launch.py -n 2 -- python tools/train.py --batch-size 2 --out runs/two
  python tools/launch.py -n 2 -- python tools/train.py --resume runs/two
  python tools/launch.py -n 8 --hostfile hosts -- python tools/train.py --gpus 0 ...
  srun --kill-on-bad-exit=1 python tools/launch.py --from-env slurm -- python tools/train.py ...

hosts has one line per host, `node1` or `node1 slots=4`. ssh must work without a password, and this
folder and Python must be at the same paths on all hosts. See docs/distributed.md.
"""

import argparse
import sys

from _common import new_parser


def parse_args() -> argparse.Namespace:
    parser = new_parser(__doc__)
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
    args = parser.parse_args()
    args.command = args.command[args.command[:1] == ["--"] :]
    if not args.command:
        parser.error("no command given: put it after --")
    if (args.workers is None) == (args.from_env is None):
        parser.error("one of -n and --from-env is needed")
    return args


def main() -> int:
    args = parse_args()
    from mxrcnn.config import ConfigError  # mxrcnn.errors would load MXNet
    from mxrcnn.training.launch import Launcher, plan_processes, processes_of_task, read_hostfile

    try:
        if args.from_env:
            processes = processes_of_task(args.from_env, args.servers)
        else:
            hosts = read_hostfile(args.hostfile) if args.hostfile else None
            processes = plan_processes(args.workers, args.servers, hosts, args.uri)
        return Launcher(processes, args.command, args.python).run()
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
