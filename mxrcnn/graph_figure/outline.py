"""The outline of a graph: its boxes with their texts, and the arrows between them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mxrcnn.graph_figure.fold import RULES, AnyRule, Folding
from mxrcnn.graph_figure.nodes import Node, Shape, Shapes, gradient_edges, read_nodes
from mxrcnn.graph_figure.operators import ADD, LAYERS, LOSSES, PROPOSALS, SHAPE

if TYPE_CHECKING:
    from symnet.machine import Symbol

#: what an operator does, in words and attributes; a box says so for each of its operators
TEXTS = {
    "Convolution": "{kernel}, {num_filter}",
    "Deconvolution": "transposed {kernel}, {num_filter}",
    "FullyConnected": "fully connected, {num_hidden}",
    "Pooling": "{pool_type} pool",
    "Dropout": "dropout",
    "ROIPooling": "ROIPooling, {pooled_size}",
    "_contrib_ROIAlign": "ROIAlign, {pooled_size}",
    "UpSampling": "upsample ×{scale}",
    "SoftmaxOutput": "softmax loss",
    "smooth_l1": "smooth L1 loss",
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "_contrib_MultiProposal": "MultiProposal, best {rpn_post_nms_top_n}",
    "_contrib_Proposal": "Proposal, best {rpn_post_nms_top_n}",
    "_contrib_box_nms": "NMS, IoU {overlap_thresh}",
    "Custom": "custom operator",
    "elemwise_add": "add",
    "broadcast_add": "add",
    "elemwise_sub": "subtract",
}
#: the same for an operator in the box of another; empty: it is not mentioned
FOLDED_TEXTS = {**TEXTS, "Pooling": "pool", **dict.fromkeys(ADD | {"elemwise_sub", "sigmoid"}, "")}

#: kinds of boxes: fill, outline, and words in the legend
KINDS = {
    "input": ("#cfe5f7", "#2f7fb8", "input"),
    "layer": ("#f3f4f6", "#6b7280", "layer with weights"),
    "proposal": ("#cdebdd", "#00805c", "proposals, custom"),
    "loss": ("#fbdcc4", "#c45500", "loss, output"),
    "other": ("#ffffff", "#9aa0a6", "without weights"),
}


@dataclass(frozen=True)
class Step:
    """A box: its name, the names of its nodes, the lines below its name, and a key of KINDS."""

    name: str
    members: tuple[str, ...]
    lines: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Edge:
    """An arrow between two steps, given by their indices.

    gradient: whether a gradient flows back along it; always true in a graph without losses.
    """

    source: int
    target: int
    gradient: bool


@dataclass(frozen=True)
class Outline:
    """What a figure shows, in the order of computation, and the names of the nodes left out."""

    steps: tuple[Step, ...]
    edges: tuple[Edge, ...]
    left_out: tuple[str, ...]


def outline(symbol: Symbol, input_shapes: Shapes, rules: Sequence[AnyRule] = RULES) -> Outline:
    """The boxes and arrows of a graph. Variables that are not in input_shapes are parameters."""
    nodes, left_out = read_nodes(symbol, input_shapes)
    folding = Folding(nodes)
    for rule in rules:
        folding.apply(rule)
    gradients, has_loss = gradient_edges(nodes), any(node.op in LOSSES for node in nodes)
    boxes = folding.boxes()
    place = {i: number for number, members in enumerate(boxes) for i in members}
    found: dict[tuple[int, int], bool] = {}
    for target, node in enumerate(nodes):
        for source in node.sources:
            pair = (place[source], place[target])
            if pair[0] != pair[1]:
                found[pair] = found.get(pair, not has_loss) or (source, target) in gradients
    steps = [_step(nodes, members, folding) for members in boxes]
    edges = [Edge(*pair, gradient) for pair, gradient in sorted(found.items())]
    return Outline(tuple(steps), tuple(edges), tuple(left_out))


def _step(nodes: Sequence[Node], members: Sequence[int], folding: Folding) -> Step:
    host = folding.box[members[0]]
    parts = [nodes[i] for i in members]
    name = folding.stages.get(host) or nodes[host].name
    text = _text(parts, nodes[host])
    if host not in folding.stages and nodes[host].is_automatic:
        name, text = text, ""
    used = {
        output
        for i in members
        for consumer in set(folding.consumers[i]).difference(members)
        for output in nodes[consumer].inputs
    }
    leaving = [
        (i, output)
        for i in members
        for output in range(len(nodes[i].shapes))
        if nodes[i].is_head or (i, output) in used
    ]
    lines = [text, *_shape_lines(nodes, leaving)]
    names = tuple(node.name for node in parts)
    return Step(name, names, tuple(filter(None, lines)), _kind(parts))


def _kind(parts: Sequence[Node]) -> str:
    ops = {node.op for node in parts}
    if ops & LOSSES or any(node.is_head for node in parts):
        return "loss"
    if ops == {"null"}:
        return "input"
    if ops & PROPOSALS:
        return "proposal"
    return "layer" if any(node.weights for node in parts) else "other"


def _text(parts: Sequence[Node], host: Node) -> str:
    """What a box does, such as "2 × 3×3, 64 + pool"."""
    if {"exp", "broadcast_minimum"} <= {node.op for node in parts}:
        return "decode and clip boxes"
    uses: dict[str, list[tuple[str, ...]]] = {}
    for node in parts:
        text = _operator_text(node, TEXTS if node is host else FOLDED_TEXTS)
        if text:
            uses.setdefault(text, []).append(node.weights)
    filters = [node.attrs["num_filter"] for node in parts if node.op == "Convolution"]
    if len(uses) > 3 and len(filters) > 2:
        return f"{len(filters)} convolutions, {filters[-1]}"
    if uses:
        return " + ".join(_count(weights) + text for text, weights in uses.items())
    silent = host.op == "null" or (host.is_head and host.op in SHAPE | {"Concat"})
    return "" if silent else host.op.replace("_contrib_", "").strip("_")


def _count(weights: Sequence[tuple[str, ...]]) -> str:
    """How many layers of one sort, "3 × "; or, for shared weights, on how many levels."""
    different = len(set(weights))
    if different == 1 and len(weights) > 1 and weights[0]:
        return f"on {len(weights)} levels: "
    return f"{different} × " if different > 1 else ""


def _operator_text(node: Node, texts: dict[str, str]) -> str:
    values = {key: _times(re.findall(r"[\w.]+", value)) for key, value in node.attrs.items()}
    text = texts.get(node.op, "").format_map(defaultdict(lambda: "?", values))
    stride = values.get("stride", "1").split("×")[0]
    return f"{text}, /{stride}" if node.op in LAYERS and stride != "1" else text


def _times(numbers: Iterable[object]) -> str:
    return "×".join(map(str, numbers))


def _shape_lines(nodes: Sequence[Node], leaving: Sequence[tuple[int, int]]) -> list[str]:
    """The shapes of outputs (node, output), with names where one node has several."""
    by_shape: dict[Shape, list[str]] = {}
    named = len(leaving) > 1 and len({i for i, _ in leaving}) == 1
    for i, output in leaving:
        name, shape = nodes[i].shapes[output]
        by_shape.setdefault(shape, []).append(name if named else "")
    lines = []
    for shape, names in by_shape.items():
        label = ", ".join(names) + " " if all(names) else ""
        lines.append(label + (_times(shape) or "scalar"))
    return lines if named or len(lines) < 3 else [f"{lines[0]}, {lines[1]}, ..."]
