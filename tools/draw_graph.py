#!/usr/bin/env python3
"""Draw a network's graph from its symbol: layers, operators, losses and shapes.

examples:
  python tools/draw_graph.py
  python tools/draw_graph.py --test --out docs/images/graph_test.png
"""

import argparse
import sys
from pathlib import Path

from _common import image_size, new_parser


def picture_path(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png, .svg or .pdf")
    return path


def parse_args() -> argparse.Namespace:
    parser = new_parser(__doc__)
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
        default=Path("docs/images/graph.png"),
        metavar="FILE",
        help="the picture: .png, .svg or .pdf; default: %(default)s",
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
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


if __name__ == "__main__":
    sys.exit(main())
