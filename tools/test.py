#!/usr/bin/env python3
"""Test a run: a table of AP by class, report.json, results files, curves and pictures.

examples:
  python tools/test.py runs/voc07 --imageset 2007_test
  python tools/test.py runs/coco --imageset val2017 --metric voc12 --checkpoint last
"""

import argparse
import sys

import _repo  # noqa: F401


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the run's folder, as tools/train.py made it")
    parser.add_argument(
        "--dataset",
        metavar="KIND",
        help="voc, coco or another of mxrcnn.data.DATASETS; default: the run's",
    )
    parser.add_argument("--data-root", metavar="DIR", help="default: the run's")
    parser.add_argument("--imageset", help="default: the run's validation images")
    parser.add_argument(
        "--metric",
        choices=("auto", "voc07", "voc12", "coco"),
        default="auto",
        help="auto (default): COCO's AP@[.50:.95] for COCO data, of boxes and of masks; VOC07 mAP "
        "for VOC data",
    )
    parser.add_argument(
        "--checkpoint", metavar="best|last|N", help="N is a step; default: best, else last"
    )
    parser.add_argument("--params", metavar="FILE", help="a bare .params file instead")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        help="bf16: convolutions in bfloat16, several times faster on CPUs with AMX; default: the "
        "run's own, see tools/quantize.py",
    )
    parser.add_argument("--batch-size", type=int, default=1, metavar="N")
    parser.add_argument("--num-workers", type=int, default=0, metavar="N", help="0: a thread")
    parser.add_argument("--gpus", metavar="0", help="the GPU to use; without it, the CPU")
    parser.add_argument("--skip-bad", action="store_true", default=None, help="leave out bad files")
    parser.add_argument(
        "--pictures", type=int, default=4, metavar="N", help="best and worst to draw"
    )
    parser.add_argument("--out", metavar="DIR", help="default: RUN/test_IMAGESET")
    return parser.parse_args()


#: command line options and the settings that they are short for
SETTINGS = {"dataset": "data.dataset", "data_root": "data.root", "skip_bad": "data.skip_bad"}


def main() -> int:
    args = parse_args()
    from mxrcnn.errors import report_user_errors
    from mxrcnn.evaluation.run import TestRequest, run_test
    from mxrcnn.training.run import contexts

    given = {key: getattr(args, option) for option, key in SETTINGS.items()}
    with report_user_errors():
        outcome = run_test(
            TestRequest(
                run=args.run,
                settings={key: value for key, value in given.items() if value is not None},
                imageset=args.imageset,
                metric=args.metric,
                checkpoint=args.checkpoint,
                params=args.params,
                precision=args.precision,
                batch_size=args.batch_size,
                num_workers=args.num_workers,
                pictures=args.pictures,
                out=args.out,
            ),
            contexts(args.gpus)[0],
        )
        print(outcome.report.table())
        print(f"\nwritten to {outcome.out}: {', '.join(outcome.written)}")
        print("pictures:", *outcome.pictures, sep="\n  ")
    for failure in outcome.failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
