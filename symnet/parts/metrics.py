"""Training metrics, computed on the device without waiting for it.

Letters: B images, A anchors (all of an image), R RoIs per image, C classes with background 0.
Each metric is a pair of NDArrays (1,): a sum and its divisor. Rows with label -1 add nothing to a
sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from symnet.machine import mx
from symnet.parts.losses import SHARE

if TYPE_CHECKING:
    NDArray = mx.nd.NDArray
    Pairs = dict[str, tuple[NDArray, NDArray]]


def _class_metrics(prefix: str, prob: NDArray, label: NDArray) -> Pairs:
    """Accuracy and log loss of probabilities (N, C) with labels (N,)."""
    counted = label >= 0
    correct = (mx.nd.argmax(prob, axis=1) == label) * counted
    loss = -mx.nd.log(mx.nd.pick(prob, label, axis=1) + 1e-14) * counted
    count = counted.sum()
    return {f"{prefix}Acc": (correct.sum(), count), f"{prefix}LogLoss": (loss.sum(), count)}


def rpn_metrics(cls_prob: NDArray, bbox_loss: NDArray, label: NDArray) -> Pairs:
    """The RPN's metrics from cls_prob (B, 2, A*H, W), bbox_loss (B, 4A, H, W), label (B, A*H*W)."""
    prob = mx.nd.reshape(cls_prob, shape=(0, 0, -1)).transpose((0, 2, 1)).reshape((-1, 2))
    pairs = _class_metrics("RPN", prob, label.reshape((-1,)))
    pairs["RPNL1Loss"] = (bbox_loss.sum(), (label == 1).sum())
    return pairs


def rcnn_metrics(cls_prob: NDArray, bbox_loss: NDArray, label: NDArray) -> Pairs:
    """The box head's metrics from cls_prob (B, R, C), bbox_loss (B, R, 4C), label (B, R).

    The log loss is divided by all rows, like the loss that is trained.
    """
    prob = mx.nd.reshape(cls_prob, shape=(-3, 0))
    pairs = _class_metrics("RCNN", prob, label.reshape((-1,)))
    loss, _ = pairs["RCNNLogLoss"]
    pairs["RCNNLogLoss"] = (loss, mx.nd.full((1,), label.size, ctx=loss.context))
    pairs["RCNNL1Loss"] = (bbox_loss.sum(), (label > 0).sum())
    return pairs


def _losses_of_graph(outputs, names: dict[str, str]) -> Pairs:
    """Metrics that are outputs of the graph; names: metric -> output. Missing outputs are skipped.

    Each is multiplied by its share, if that is among the outputs.
    """
    shares = {key: outputs.get(key + SHARE, 1) for key in names.values()}
    found = {name: outputs[key] * shares[key] for name, key in names.items() if key in outputs}
    return {name: (value, mx.nd.ones((1,), ctx=value.context)) for name, value in found.items()}


def classic_metrics(outputs, labels) -> Pairs:
    """The six metrics of the classic graphs."""
    return {
        **rpn_metrics(outputs["rpn_cls_prob"], outputs["rpn_bbox_loss"], labels["label"]),
        **rcnn_metrics(
            outputs["cls_prob_reshape"], outputs["bbox_loss_reshape"], outputs["label_blockgrad"]
        ),
    }


def two_stage_metrics(outputs, labels) -> Pairs:
    """Metrics of the two-stage detectors, whose graphs output losses and counts themselves."""
    names = {
        "RPNLogLoss": "loss_objectness",
        "RPNL1Loss": "loss_rpn_box_reg",
        "RCNNLogLoss": "loss_classifier",
        "RCNNL1Loss": "loss_box_reg",
        "MaskLoss": "loss_mask",
    }
    pairs = _losses_of_graph(outputs, names)
    for name, key in (("RPNAcc", "rpn_accuracy"), ("RCNNAcc", "roi_accuracy")):
        pairs[name] = (outputs[key][0:1], outputs[key][1:2])
    return pairs


def fcos_metrics(outputs, labels) -> Pairs:
    """Metrics of FCOS: its losses, and the number of foreground points in the batch."""
    names = {
        "FocalLoss": "loss_classification",
        "BoxLoss": "loss_bbox_regression",
        "CenternessLoss": "loss_bbox_ctrness",
        "Foreground": "foreground",
    }
    return _losses_of_graph(outputs, names)


def classic_counts(outputs, labels) -> dict[str, NDArray]:
    """`DetectorDef.counts` of the classic graphs, whose other losses have fixed divisors."""
    return {"rpn_cls_prob": (labels["label"] >= 0).sum()}


def two_stage_counts(outputs, labels) -> dict[str, NDArray]:
    """`DetectorDef.counts` of the two-stage detectors: anchors, RoIs, RoIs with masks.

    If a box loss is the mean over the foreground, the graph also outputs the foreground's number.
    """
    anchors, rois = outputs["rpn_accuracy"], outputs["roi_accuracy"]
    counts = {
        "loss_objectness": anchors[1:2],
        "loss_rpn_box_reg": outputs.get("rpn_foreground", anchors[1:2]),
        "loss_classifier": rois[2:3],
        "loss_box_reg": outputs.get("roi_foreground", rois[1:2]),
    }
    if "mask_count" in outputs:
        counts["loss_mask"] = outputs["mask_count"]
    return counts


def fcos_counts(outputs, labels) -> dict[str, NDArray]:
    """`DetectorDef.counts` of FCOS: foreground points."""
    losses = ("loss_classification", "loss_bbox_regression", "loss_bbox_ctrness")
    return dict.fromkeys(losses, (labels["fcos_label"] >= 0).sum())
