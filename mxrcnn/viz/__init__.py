"""Pictures: boxes on photos, drawn with Pillow, and curves, drawn with matplotlib.

`boxes` draws detections and ground truth, `labels` places their texts, `precision_recall` and
`losses` plot an evaluation and a training log, `figures` holds what all plots share, `colors` the
colours of classes. The same input always gives the same picture. No display is needed and no global
state is kept. Figures of networks live in `mxrcnn.graph_figure`.
"""

from mxrcnn.viz.boxes import draw_comparison, draw_detections, draw_ground_truth
from mxrcnn.viz.colors import PALETTE, class_color, palette_color
from mxrcnn.viz.figures import axis_text, new_figure, save_figure, style_axes
from mxrcnn.viz.losses import plot_losses
from mxrcnn.viz.precision_recall import plot_precision_recall

__all__ = ["PALETTE", "axis_text", "class_color", "draw_comparison", "draw_detections"]
__all__ += ["draw_ground_truth", "new_figure", "palette_color", "plot_losses"]
__all__ += ["plot_precision_recall", "save_figure", "style_axes"]
