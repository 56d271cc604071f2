"""Measures the traffic and time of exchanging a network's gradients, without any computation.

    python tools/launch.py -n 2 -- python tests/dist_traffic.py --network faster_rcnn_r50_fpn

Counts the bytes on the loopback interface, so all processes must run on this machine, and nothing
else may use the interface.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mxrcnn.training.server import serve_if_asked


def loopback_bytes() -> int:
    """Bytes sent over the loopback interface since it came up."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(x for x in lines if x.strip().startswith("lo:")).split()[9])


def trained_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that are trained when fine-tuning."""
    from mxrcnn.config import make_config
    from symnet import get_detector
    from symnet.detector import parameter_shapes

    config, detector = make_config(network), get_detector(network)
    shapes, _ = parameter_shapes(detector.test_symbol(config.model))
    return {
        name: shape
        for name, shape in shapes.items()
        if not name.startswith(config.train.fixed) and not detector.frozen(config.model, name)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="faster_rcnn_r50_fpn")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    from mxrcnn.training.workers import Workers
    from symnet.machine import mx

    workers = Workers("dist_sync")
    gradients = {n: mx.nd.ones(s) for n, s in trained_shapes(args.network).items()}
    for name, gradient in gradients.items():
        workers.store.init(name, gradient)
    seconds, sent = [], []
    for _ in range(args.steps + 1):
        workers.wait_for_all()
        begun, before = time.perf_counter(), loopback_bytes()
        for place, (name, gradient) in enumerate(gradients.items()):
            workers.store.pushpull(name, gradient, priority=-place)
        mx.nd.waitall()
        seconds.append(time.perf_counter() - begun)
        workers.wait_for_all()
        sent.append(loopback_bytes() - before)
    if workers.first:
        own = sum(gradient.size for gradient in gradients.values()) * 4
        usual = statistics.median(sent[1:])  # workers begin and end at slightly different times
        print(
            f"{args.network}: {own / 1e6:.1f} MB of gradients per worker, {workers.count} workers; "
            f"a step sends {usual / 1e6:.1f} MB in total, "
            f"{usual / own / workers.count:.3f} times gradients times workers, "
            f"and takes {min(seconds[1:]):.3f} s (the fastest of {args.steps})"
        )
    workers.leave()


if __name__ == "__main__":
    if not serve_if_asked():
        main()
