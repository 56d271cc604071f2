"""Draw a network's graph from its symbol: layers, operators, losses and shapes.

examples:
  mxrcnn graph
  mxrcnn graph --network fcos_r50_fpn --test --out fcos.svg
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mxrcnn.cli.common import image_size


def picture_path(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png, .svg or .pdf")
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--network", default="faster_rcnn_vgg16", help="default: %(default)s")
    add("--test", action="store_true", help="draw the test graph instead of the training graph")
    add(
        "--size",
        type=image_size,
        default=(600, 800),
        metavar="HxW",
        help="image height and width, padded as in training; default: 600x800",
    )
    add(
        "--out",
        type=picture_path,
        default=Path("graph.png"),
        metavar="FILE",
        help="the picture: .png, .svg or .pdf; default: %(default)s",
    )


def run(args: argparse.Namespace) -> int:
    from mxrcnn.config import make_config
    from mxrcnn.errors import report_user_errors
    from mxrcnn.graph_figure import detector_graph, draw_graph
    from symnet import get_detector

    with report_user_errors():
        config = make_config(args.network)
        detector = get_detector(args.network)
        symbol, shapes = detector_graph(detector, config.model, args.size, train=not args.test)
        use = "test" if args.test else "training"
        height, width = shapes["data"][2:]
        title = f"{args.network}: the {use} graph for an image of {height}×{width}"
        draw_graph(symbol, shapes, args.out, title)
        print(f"drawn in {args.out}")
    return 0
