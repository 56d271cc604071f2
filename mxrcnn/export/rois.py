"""Translators of RoI pooling and RoI align to ONNX. Letters: R RoIs, C channels, S pooled side."""

from __future__ import annotations

from onnx import TensorProto

from mxrcnn.export.graph import MXNode, OnnxGraph, translates


@translates("ROIPooling")
def _roi_pooling(g: OnnxGraph, node: MXNode) -> str:
    return g.op(
        "MaxRoiPool",
        *node.inputs,
        pooled_shape=node["pooled_size"],
        spatial_scale=float(node["spatial_scale"]),
    )


@translates("_contrib_ROIAlign")
def _roi_align(g: OnnxGraph, node: MXNode) -> str:
    """(R, C, S, S). RoIs with a negative batch index are skipped; their rows are 0."""
    node.refuse_unless(position_sensitive=False)
    data, rois = node.inputs
    index = g.cast(g.op("Squeeze", g.slice(rois, 1, 0, 1), g.ints(1)), TensorProto.INT64)
    chosen = g.op("NonZero", g.op("GreaterOrEqual", index, g.ints(0)))
    chosen = g.op("Squeeze", chosen, g.ints(0))
    aligned = node.get("aligned", False)
    pooled = g.op(
        "RoiAlign",
        data,
        g.op("Gather", g.slice(rois, 1, 1, 5), chosen),
        g.op("Gather", index, chosen),
        output_height=node["pooled_size"][0],
        output_width=node["pooled_size"][1],
        sampling_ratio=max(0, node.get("sample_ratio", -1)),
        spatial_scale=float(node["spatial_scale"]),
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
    )
    shape = g.concat(g.shape(rois, 0, 1), g.shape(pooled, 1), axis=0)
    return g.op("ScatterND", g.filled(shape, 0), g.unsqueeze(chosen, 1), pooled)
