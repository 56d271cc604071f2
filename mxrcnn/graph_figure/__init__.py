"""Figures of networks, drawn from their symbols with matplotlib: boxes, arrows, shapes.

The steps, each a file: `nodes` reads the symbol's JSON, `fold` merges operators into boxes by the
table `RULES`, `outline` gives each box its text, `rows` puts the boxes into rows and orders them,
`layout` places them, `draw` makes the picture. `operators` holds the groups of MXNet's operators.

Parameters are left out, and so is whatever is computed from parameters and constants alone. Lengths
are inches, and y grows downwards. The same graph always gives the same PNG. No display and no
graphviz is needed. Plots of training and evaluation live in `mxrcnn.viz`.
"""

from mxrcnn.graph_figure.draw import detector_graph, draw_graph
from mxrcnn.graph_figure.fold import RULES
from mxrcnn.graph_figure.outline import KINDS, Outline, outline

__all__ = ["KINDS", "RULES", "Outline", "detector_graph", "draw_graph", "outline"]
