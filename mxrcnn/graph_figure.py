"""A figure of a network, drawn from its symbol with matplotlib: boxes, arrows, shapes.

The way of a graph: the symbol's JSON -> `Node`s -> folded by the table `RULES` into `Step`s, the
boxes -> rows by longest path, places in them by barycentres -> a picture. Parameters, and what is
computed from parameters or constants alone, are left out. Lengths are inches, y grows downwards.
Deterministic (as a PNG), needs no display and no graphviz.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, PathPatch, Polygon
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath
from PIL import Image

from mxrcnn.files import atomic_write
from symnet.detector import DetectorDef, ImageTargetsInput

if TYPE_CHECKING:
    from symnet.parts.layers import Symbol

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


# ---------------------------------------------------------------- tables: what a reader sees


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


#: operators that end a graph with a loss
LOSSES = _ops(
    "MakeLoss SoftmaxOutput LinearRegressionOutput LogisticRegressionOutput "
    "MAERegressionOutput SVMOutput make_loss"
)
#: operators that make or choose boxes
PROPOSALS = _ops(
    "Custom _contrib_MultiProposal _contrib_Proposal _contrib_box_nms _contrib_MultiBoxTarget "
    "_contrib_MultiBoxDetection _contrib_MultiBoxPrior"
)
#: inputs that no gradient flows into, by their places; None: into none of them
NO_GRADIENT: dict[str, tuple[int, ...] | None] = {
    "BlockGrad": None,
    "Custom": None,
    "_contrib_MultiProposal": None,
    "_contrib_Proposal": None,
    "_contrib_MultiBoxTarget": None,
    "SoftmaxOutput": (1,),
    "ROIPooling": (1,),
    "_contrib_ROIAlign": (1,),
    "ones_like": None,
    "zeros_like": None,
}

_LAYERS = _ops("Convolution Deconvolution FullyConnected BatchNorm")
_ADD = _ops("elemwise_add broadcast_add _Plus add_n")
_AFTER = _ops("Activation LeakyReLU relu BatchNorm Dropout")
_SHAPE = _ops(
    "Reshape Flatten transpose expand_dims squeeze slice slice_axis slice_like SwapAxis Cast "
    "broadcast_to broadcast_like amp_cast reverse tile repeat identity _copy"
)
_ARITHMETIC = _ops(
    "elemwise_add elemwise_sub elemwise_mul elemwise_div broadcast_add broadcast_sub broadcast_mul "
    "broadcast_div broadcast_power broadcast_maximum _plus_scalar _minus_scalar _rminus_scalar "
    "_mul_scalar _div_scalar _rdiv_scalar _power_scalar _maximum_scalar _minimum_scalar _maximum "
    "_minimum smooth_l1 abs square sqrt exp log relu sigmoid negative clip sum sum_axis mean max "
    "min Concat concat stack where add_n ones_like zeros_like _np_cumsum cumsum take pick "
    "_equal_scalar _not_equal_scalar _greater_scalar _greater_equal_scalar _lesser_scalar "
    "broadcast_equal broadcast_greater broadcast_lesser _equal _greater _lesser one_hot"
)


@dataclass(frozen=True)
class Rule:
    """Operators `ops` become a part of the box that they come from, or go to.

    into: "producer" (the one box their data comes from) or "consumer" (the one they all go to).
    hosts: what that box must be, by its own operator; empty: any. sole: only where the producer
    has no other consumer.
    """

    ops: frozenset[str]
    into: str
    hosts: frozenset[str] = frozenset()
    sole: bool = False


@dataclass(frozen=True)
class Stage:
    """Boxes whose names begin alike become one: group "stage" of the pattern is its name."""

    pattern: str


@dataclass(frozen=True)
class Shared:
    """Boxes that have the same weights become one, as a head on every level of a pyramid."""


AnyRule = Union[Rule, Stage, Shared]

#: in this order; where none matches, an operator is a box of its own
RULES: tuple[AnyRule, ...] = (
    Rule(_AFTER, "producer", _LAYERS | _ADD, sole=True),
    Shared(),
    Rule(_SHAPE | _ARITHMETIC, "consumer", LOSSES | PROPOSALS | {"broadcast_minimum", "Concat"}),
    Stage(r"(?P<stage>(conv|stage|layer|block|res)_?\d+)_"),
    Rule(frozenset({"Pooling"}), "producer", frozenset({"Convolution"}), sole=True),
    Rule(_SHAPE, "consumer"),
    Rule(_SHAPE, "producer"),
)

#: what an operator does, from its attributes; a box says so for each of its operators in this table
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
#: the same for operators that were folded into the box of another; no words: not spoken of
FOLDED_TEXTS = {"Pooling": "pool", **dict.fromkeys(_ADD | {"elemwise_sub", "sigmoid"}, "")}
#: a box with all of these operators does this
PHRASES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"exp", "broadcast_minimum"}), "decode and clip boxes"),
)

#: kinds of boxes: fill, outline, and words in the legend
KINDS = {
    "input": ("#cfe5f7", "#2f7fb8", "input"),
    "layer": ("#f3f4f6", "#6b7280", "layer with weights"),
    "proposal": ("#cdebdd", "#00805c", "proposals, custom"),
    "loss": ("#fbdcc4", "#c45500", "loss, output"),
    "other": ("#ffffff", "#9aa0a6", "without weights"),
}


# ---------------------------------------------------------------- the graph, read and folded


@dataclass(frozen=True)
class Node:
    """A node of the symbol's JSON: inputs are (node, which of its outputs), None for what is left
    out; weights are those of them that are parameters, or come from parameters."""

    name: str
    op: str
    attrs: Mapping[str, str]
    inputs: tuple[tuple[int, int] | None, ...]
    weights: tuple[str, ...]
    shapes: tuple[tuple[str, Shape], ...]
    is_head: bool


@dataclass(frozen=True)
class Step:
    """A box: its name, the nodes in it by name, lines of text below the name, a key of KINDS."""

    name: str
    members: tuple[str, ...]
    lines: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Edge:
    """An arrow between steps, by their places; gradient: whether any flows back along it (all
    count as such in a graph without losses)."""

    source: int
    target: int
    gradient: bool


@dataclass(frozen=True)
class Outline:
    """What the figure shows, in the order of computation, and the names that it leaves out."""

    steps: tuple[Step, ...]
    edges: tuple[Edge, ...]
    left_out: tuple[str, ...]


def outline(symbol: Symbol, input_shapes: Shapes, rules: Sequence[AnyRule] = RULES) -> Outline:
    """The steps of a graph. Every variable that is not in input_shapes counts as a parameter."""
    nodes, left_out = _read(symbol, input_shapes)
    folding = _Folding(nodes)
    for rule in rules:
        folding.apply(rule)
    gradients, has_loss = _gradient_edges(nodes), any(node.op in LOSSES for node in nodes)
    boxes = folding.boxes()
    place = {i: number for number, members in enumerate(boxes) for i in members}
    found: dict[tuple[int, int], bool] = {}
    for target, node in enumerate(nodes):
        for source, _ in filter(None, node.inputs):
            pair = (place[source], place[target])
            if pair[0] != pair[1]:
                found[pair] = found.get(pair, not has_loss) or (source, target) in gradients
    steps = [_step(nodes, members, folding) for members in boxes]
    edges = [Edge(*pair, gradient) for pair, gradient in sorted(found.items())]
    return Outline(tuple(steps), tuple(edges), tuple(left_out))


def _read(symbol: Symbol, input_shapes: Shapes) -> tuple[list[Node], list[str]]:
    """The nodes that do not follow from parameters alone, and the names of those that do."""
    graph = json.loads(symbol.tojson())
    raw_nodes, heads = graph["nodes"], {index for index, *_ in graph["heads"]}
    shapes = _output_shapes(symbol, input_shapes)
    nodes: list[Node] = []
    left_out: dict[int, bool] = {}  # and whether it comes from a parameter
    numbers: dict[int, int] = {}
    for index, raw in enumerate(raw_nodes):
        name, op, sources = raw["name"], raw["op"], [source for source, *_ in raw["inputs"]]
        if name not in input_shapes if op == "null" else all(s in left_out for s in sources):
            left_out[index] = op == "null" or any(left_out[s] for s in sources)
            continue
        numbers[index] = len(nodes)
        inputs = tuple((numbers[s], k) if s in numbers else None for s, k, *_ in raw["inputs"])
        weights = tuple(raw_nodes[s]["name"] for s in sources if left_out.get(s))
        outputs, is_head = tuple(shapes.get(name, ())), index in heads
        nodes.append(Node(name, op, raw.get("attrs", {}), inputs, weights, outputs, is_head))
    return nodes, [raw_nodes[index]["name"] for index in left_out]


def _output_shapes(symbol: Symbol, input_shapes: Shapes) -> dict[str, list[tuple[str, Shape]]]:
    """For each node (name of the output, shape) of what it puts out."""
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(**input_shapes)
    if shapes is None:
        raise ValueError(f"these inputs do not tell all shapes of the graph: {dict(input_shapes)}")
    found: dict[str, list[tuple[str, Shape]]] = {}
    for output, full_name, shape in zip(internals, internals.list_outputs(), shapes):
        short = full_name[len(output.name) + 1 :].replace("_output", "")
        found.setdefault(output.name, []).append((short, tuple(shape)))
    return found


def _gradient_edges(nodes: Sequence[Node]) -> set[tuple[int, int]]:
    """Edges (source, target) that a gradient flows back along, from a loss to a parameter."""
    learns: list[bool] = []
    for node in nodes:
        own = bool(node.weights) and NO_GRADIENT.get(node.op, ()) is not None
        learns.append(own or any(learns[source] for source in _open_inputs(node)))
    wanted = [node.op in LOSSES for node in nodes]
    found = set()
    for i in reversed(range(len(nodes))):
        for source in _open_inputs(nodes[i]):
            if wanted[i] and learns[source]:
                wanted[source] = True
                found.add((source, i))
    return found


def _open_inputs(node: Node) -> list[int]:
    """The nodes that node would pass a gradient to."""
    blocked = NO_GRADIENT.get(node.op, ())
    if blocked is None:
        return []
    return [source[0] for k, source in enumerate(node.inputs) if source and k not in blocked]


class _Folding:
    """Which box each node is in; a box goes by the node that the others were folded into."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.box = list(range(len(nodes)))
        self.stages: dict[int, str] = {}
        self.sources = [[source for source, _ in filter(None, node.inputs)] for node in nodes]
        self.consumers: list[list[int]] = [[] for _ in nodes]
        for target, sources in enumerate(self.sources):
            for source in sources:
                self.consumers[source].append(target)

    def apply(self, rule: AnyRule) -> None:
        """Fold what the rule matches. No rule can make a cycle of boxes."""
        if isinstance(rule, Stage):
            pattern = re.compile(rule.pattern)
            self._merge(lambda box: self._stage(box, pattern))
        elif isinstance(rule, Shared):
            self._merge(lambda box: self.nodes[box].weights)
        else:
            self._fold(rule)

    def _fold(self, rule: Rule) -> None:
        backwards = rule.into == "consumer"
        for i in sorted(range(len(self.nodes)), reverse=backwards):
            if self.nodes[i].op not in rule.ops or self.box.count(self.box[i]) > 1:
                continue
            host = self._consumer(i) if backwards else self._producer(i, rule.sole)
            if host is not None and (not rule.hosts or self.nodes[host].op in rule.hosts):
                self.box[i] = host

    def boxes(self) -> list[list[int]]:
        """The nodes of each box, sorted; boxes sorted so that arrows point forwards."""
        members: dict[int, list[int]] = {}
        for i, box in enumerate(self.box):
            members.setdefault(box, []).append(i)
        waiting, done = sorted(members.values()), []
        placed: set[int] = set()
        while waiting:
            ready = next(m for m in waiting if self._outside(m, self.sources) <= placed)
            waiting.remove(ready)
            done.append(ready)
            placed.update(ready)
        return done

    def _outside(self, members: Iterable[int], neighbours: Sequence[Sequence[int]]) -> set[int]:
        members = list(members)
        return {n for i in members for n in neighbours[i]} - set(members)

    def _consumer(self, i: int) -> int | None:
        """The box that everything of node i goes to."""
        boxes = {self.box[c] for c in self.consumers[i]}
        return boxes.pop() if len(boxes) == 1 and not self.nodes[i].is_head else None

    def _producer(self, i: int, sole: bool) -> int | None:
        """The box that all data of node i comes from; not an input, nor may an output of the graph
        vanish in it, but that of a loss."""
        boxes = {self.box[s] for s in self.sources[i]}
        host = boxes.pop() if len(boxes) == 1 else i
        op = self.nodes[host].op
        if host == i or op == "null" or (self.nodes[i].is_head and op not in LOSSES):
            return None
        members = [m for m, box in enumerate(self.box) if box == host]
        ends = any(self.nodes[m].is_head for m in members)
        alone = self._outside(members, self.consumers) == {i} and not ends
        return host if alone or not sole else None

    def _stage(self, box: int, pattern: re.Pattern[str]) -> str:
        """The stage of a box by its own name, or, if MXNet made that up, by one of its nodes'."""
        members = [n for n, b in zip(self.nodes, self.box) if b == box]
        names = [n.name for n in members] if _is_automatic(self.nodes[box]) else []
        matches = (pattern.match(name) for name in (self.nodes[box].name, *names))
        return next((match["stage"] for match in matches if match), "")

    def _merge(self, label: Callable[[int], Any]) -> None:
        """Merge boxes that have the same label, with what is between them; those without stay."""
        named: dict[Any, set[int]] = {}
        for box in dict.fromkeys(self.box):
            if self.nodes[box].op != "null" and label(box):
                named.setdefault(label(box), set()).add(box)
        for name, boxes in named.items():
            found = self._between(boxes) if len(boxes) > 1 else set()
            heads = any(n.is_head for n, box in zip(self.nodes, self.box) if box in found)
            others = any(label(box) not in (name, "", ()) for box in found)
            if found and not heads and not others:
                host = min(boxes)
                self.box = [host if box in found else box for box in self.box]
                if isinstance(name, str):
                    self.stages[host] = name

    def _between(self, boxes: set[int]) -> set[int]:
        """These boxes and all on a way from one of them to another."""
        after, before = (self._reach(boxes, n) for n in (self.consumers, self.sources))
        return after & before

    def _reach(self, boxes: set[int], neighbours: Sequence[Sequence[int]]) -> set[int]:
        ways: dict[int, set[int]] = {}
        for i, near in enumerate(neighbours):
            ways.setdefault(self.box[i], set()).update(self.box[n] for n in near)
        found, waiting = set(boxes), list(boxes)
        while waiting:
            new = ways[waiting.pop()] - found
            found |= new
            waiting += sorted(new)
        return found


def _step(nodes: Sequence[Node], members: Sequence[int], folding: _Folding) -> Step:
    """What a box of these nodes says."""
    key = folding.box[members[0]]
    parts = [nodes[i] for i in members]
    name = folding.stages.get(key) or nodes[key].name
    text = _text(parts, nodes[key])
    if key not in folding.stages and _is_automatic(nodes[key]):
        name, text = text, ""
    inside = set(members)
    leaving = [
        (i, output)
        for i in members
        for output in range(len(nodes[i].shapes))
        if nodes[i].is_head or _is_used_outside(nodes, folding.consumers[i], (i, output), inside)
    ]
    lines = [text, *_shape_lines(nodes, leaving)]
    names = tuple(node.name for node in parts)
    return Step(name, names, tuple(line for line in lines if line), _kind(parts))


def _is_used_outside(
    nodes: Sequence[Node], consumers: Sequence[int], output: tuple[int, int], inside: set[int]
) -> bool:
    return any(output in nodes[c].inputs for c in consumers if c not in inside)


def _is_automatic(node: Node) -> bool:
    """Whether MXNet made up the name, as in concat3 or _plus0."""
    stem = node.name.rstrip("0123456789")
    return stem != node.name and (stem.startswith("_") or node.op.lower().endswith(stem))


def _kind(parts: Sequence[Node]) -> str:
    ops = {node.op for node in parts}
    if ops & LOSSES or any(node.is_head for node in parts):
        return "loss"
    if ops == {"null"}:
        return "input"
    if ops & PROPOSALS:
        return "proposal"
    return "layer" if any(node.weights for node in parts) else "other"


def _text(parts: Sequence[Node], key: Node) -> str:
    """What a box does: "2 × 3×3, 64 + pool"."""
    ops = {node.op for node in parts}
    for needed, phrase in PHRASES:
        if needed <= ops:
            return phrase
    uses: dict[str, list[tuple[str, ...]]] = {}
    for node in parts:
        text = _fill(node, alone=node is key)
        if text:
            uses.setdefault(text, []).append(node.weights)
    filters = [node.attrs["num_filter"] for node in parts if node.op == "Convolution"]
    if len(uses) > 3 and len(filters) > 2:
        return f"{len(filters)} convolutions, {filters[-1]}"
    if uses:
        return " + ".join(_count(weights) + text for text, weights in uses.items())
    silent = key.op == "null" or (key.is_head and key.op in _SHAPE | {"Concat"})
    return "" if silent else key.op.replace("_contrib_", "").strip("_")


def _count(weights: Sequence[tuple[str, ...]]) -> str:
    """How many layers of one sort, "3 × "; or on how many levels a shared one works."""
    different = len(set(weights))
    if different == 1 and len(weights) > 1 and weights[0]:
        return f"on {len(weights)} levels: "
    return f"{different} × " if different > 1 else ""


def _fill(node: Node, alone: bool) -> str:
    """The words for an operator, alone in its box or folded into another's."""
    texts = TEXTS if alone else {**TEXTS, **FOLDED_TEXTS}
    values = {key: _times(re.findall(r"[\w.]+", value)) for key, value in node.attrs.items()}
    text = texts.get(node.op, "").format_map(_Default(values))
    stride = values.get("stride", "1").split("×")[0]
    return f"{text}, /{stride}" if node.op in _LAYERS and stride != "1" else text


class _Default(dict):
    """An attribute that is not given shows as a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"


def _times(numbers: Iterable[object]) -> str:
    return "×".join(map(str, numbers))


def _shape_lines(nodes: Sequence[Node], leaving: Sequence[tuple[int, int]]) -> list[str]:
    """The shapes of these outputs; with names where one node has several."""
    by_shape: dict[Shape, list[str]] = {}
    named = len(leaving) > 1 and len({i for i, _ in leaving}) == 1
    for i, output in leaving:
        name, shape = nodes[i].shapes[output]
        by_shape.setdefault(shape, []).append(name if named else "")
    lines = []
    for shape, names in by_shape.items():
        label = ", ".join(filter(None, names)) + " " if all(names) else ""
        lines.append(label + (_times(shape) or "scalar"))
    return lines if named or len(lines) < 3 else [f"{lines[0]}, {lines[1]}, ..."]


# ---------------------------------------------------------------- layout: rows, order, places

_GAP_X, _GAP_Y, _GAP_LEAD, _GAP_LINE = 0.22, 0.3, 0.24, 0.14
_PAD, _LINE = 0.1, 0.155
_MAX_LEAD = 14.0
_NAME_SIZE, _TEXT_SIZE = 9.5, 8.5
_MARGIN, _TITLE = 0.15, 0.4
_PORT = 0.2


@dataclass
class _Item:
    """A place in a row: boxes side by side, of which the last has the arrows, or (no steps) the
    way of a long arrow through the row. x is the middle, anchor the last box's middle off it."""

    steps: tuple[int, ...]
    row: int
    width: float
    height: float
    anchor: float = 0.0
    x: float = 0.0
    top: float = 0.0


@dataclass
class _Layout:
    """Items, segments (upper item, lower item) between neighbouring rows, and each arrow as the
    segments that it follows."""

    items: list[_Item]
    segments: list[tuple[int, int]] = field(default_factory=list)
    ways: list[list[int]] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    #: where a segment leaves its upper item and meets its lower one, off their middles
    ports: list[tuple[float, float]] = field(default_factory=list)


@lru_cache(maxsize=4096)
def _text_width(text: str, size: float, bold: bool) -> float:
    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return TextPath((0, 0), text, size=size, prop=font).get_extents().width / 72 if text else 0.0


def _lay_out(steps: Outline) -> _Layout:
    sizes = [_box_size(step) for step in steps.steps]
    lead = _lead(steps, sizes)
    rows = _rows(steps, lead)
    chains = [lead, *((i,) for i in range(len(sizes)) if i not in lead)]
    layout = _Layout([_item(chain, rows, sizes) for chain in chains if chain])
    item_of = {i: number for number, item in enumerate(layout.items) for i in item.steps}
    for edge in steps.edges:
        stops = [item_of[edge.source]]
        for row in range(rows[edge.source] + 1, rows[edge.target]):
            stops.append(len(layout.items))
            layout.items.append(_Item((), row, 0.0, 0.0))
        within = item_of[edge.target] == stops[0]
        pairs = [] if within else list(zip(stops, [*stops[1:], item_of[edge.target]]))
        layout.ways.append(list(range(len(layout.segments), len(layout.segments) + len(pairs))))
        layout.segments += pairs
    layout.rows = [[] for _ in range(max(rows) + 1)]
    for number, item in enumerate(layout.items):
        layout.rows[item.row].append(number)
    _order(layout)
    _set_ports(layout)
    _place(layout)
    return layout


def _lead(steps: Outline, sizes: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """The longest chain that begins with an input and ends where it forks, as a backbone does: it
    lies in one row. () where it is short, or too long for a row."""
    after, before = ([[] for _ in steps.steps] for _ in range(2))
    for edge in steps.edges:
        after[edge.source].append(edge.target)
        before[edge.target].append(edge.source)
    best: list[int] = []
    for i, step in enumerate(steps.steps):
        chain = [i] if step.kind == "input" else []
        while chain and len(after[chain[-1]]) == 1 and len(before[after[chain[-1]][0]]) == 1:
            chain.append(after[chain[-1]][0])
        best = max(best, chain, key=len)
    width = sum(sizes[i][0] + _GAP_LEAD for i in best)
    return tuple(best) if len(best) > 2 and width < _MAX_LEAD else ()


def _item(chain: tuple[int, ...], rows: list[int], sizes: Sequence[tuple[float, float]]) -> _Item:
    widths = [sizes[i][0] for i in chain]
    width = sum(widths) + _GAP_LEAD * (len(chain) - 1)
    height = max(sizes[i][1] for i in chain)
    return _Item(chain, rows[chain[-1]], width, height, (width - widths[-1]) / 2)


def _rows(steps: Outline, lead: tuple[int, ...]) -> list[int]:
    """The longest way to each step; inputs stand right above their first consumer."""
    rows = [0] * len(steps.steps)
    for edge in sorted(steps.edges, key=lambda edge: edge.target):
        down = 0 if edge.target in lead else 1
        rows[edge.target] = max(rows[edge.target], rows[edge.source] + down)
    for i, step in enumerate(steps.steps):
        below = [rows[edge.target] for edge in steps.edges if edge.source == i]
        if step.kind == "input" and below and i not in lead:
            rows[i] = max(min(below) - 1, 0)
    return rows


def _box_size(step: Step) -> tuple[float, float]:
    widths = [_text_width(step.name, _NAME_SIZE, True)]
    widths += [_text_width(line, _TEXT_SIZE, False) for line in step.lines]
    return max(max(widths) + 2 * _PAD, 0.8), _LINE * (1 + len(step.lines)) + 1.2 * _PAD


def _neighbours(layout: _Layout, upwards: bool) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in layout.items]
    for upper, lower in layout.segments:
        if upwards:
            found[lower].append(upper)
        else:
            found[upper].append(lower)
    return found


def _order(layout: _Layout, sweeps: int = 24) -> None:
    """Sort each row by the mean place of its neighbours, down and up; keep the fewest crossings."""
    best, fewest = [list(row) for row in layout.rows], _crossings(layout)
    for sweep in range(sweeps):
        upwards = sweep % 2 == 0
        near = _neighbours(layout, upwards)
        rows = layout.rows if upwards else layout.rows[::-1]
        for fixed, row in zip(rows, rows[1:]):
            share = {item: (k + 0.5) / len(fixed) for k, item in enumerate(fixed)}
            means = {
                item: np.mean([share[n] for n in near[item]] or [(k + 0.5) / len(row)])
                for k, item in enumerate(row)
            }
            row.sort(key=means.__getitem__)
        crossings = _crossings(layout)
        if crossings < fewest:
            best, fewest = [list(row) for row in layout.rows], crossings
    layout.rows = best


def _crossings(layout: _Layout) -> int:
    place = {item: k for row in layout.rows for k, item in enumerate(row)}
    by_row: dict[int, list[tuple[int, int]]] = {}
    for upper, lower in layout.segments:
        by_row.setdefault(layout.items[upper].row, []).append((place[upper], place[lower]))
    total = 0
    for pairs in by_row.values():
        ends = np.array(pairs)
        above = np.sign(ends[:, None, 0] - ends[None, :, 0])
        total += int((above * np.sign(ends[:, None, 1] - ends[None, :, 1]) < 0).sum()) // 2
    return total


def _set_ports(layout: _Layout) -> None:
    """Spread the arrows of a box over its edge, in the order of where they come from."""
    place = {item: k for row in layout.rows for k, item in enumerate(row)}
    ports = np.zeros((len(layout.segments), 2))
    for end in (0, 1):
        for number, item in enumerate(layout.items):
            mine = [s for s, segment in enumerate(layout.segments) if segment[end] == number]
            mine.sort(key=lambda s: place[layout.segments[s][1 - end]])
            room = item.width - 2 * item.anchor
            step = min(_PORT, 0.8 * room / max(len(mine), 1))
            for k, s in enumerate(mine):
                ports[s, end] = item.anchor + (k - (len(mine) - 1) / 2) * step
    layout.ports = [tuple(port) for port in ports]


def _place(layout: _Layout, sweeps: int = 60) -> None:
    """x: as straight as the order and the boxes allow; y: row below row."""
    top = _TITLE + _MARGIN
    for row in layout.rows:
        height = max(layout.items[i].height for i in row)
        for i in row:
            layout.items[i].top = top + (height - layout.items[i].height) / 2
            if not layout.items[i].steps:
                layout.items[i].top, layout.items[i].height = top, height
        top += height + _GAP_Y
    for sweep in range(sweeps):
        rows = layout.rows if sweep % 2 == 0 else layout.rows[::-1]
        ends = ((1,), (0,), (0, 1))[sweep % 2 if sweep < sweeps - 20 else 2]
        for row in rows:
            _place_row(layout, row, ends)
    _shift_lead(layout)
    for run in _runs(layout) * 2:
        _straighten(layout, run)
    left = min(item.x - item.width / 2 for item in layout.items)
    for item in layout.items:
        item.x += _MARGIN - left


def _place_row(layout: _Layout, row: Sequence[int], ends: Sequence[int]) -> None:
    """Move a row's items towards their neighbours on those ends of their segments, in order and
    apart: isotonic regression of the places that they wish for."""
    items = [layout.items[i] for i in row]
    wish = np.array([item.x for item in items])
    weight = np.full(len(row), 1e-3)
    for k, i in enumerate(row):
        pulls = _pulls(layout, i, ends)
        if pulls:
            wishes, weights = np.array(pulls).T
            wish[k], weight[k] = np.average(wishes, weights=weights), weights.sum()
    widths = np.array([item.width for item in items])
    apart = np.concatenate([[0.0], np.cumsum((widths[1:] + widths[:-1]) / 2 + _GAP_X)])
    for item, x in zip(items, _isotonic(wish - apart, weight) + apart):
        item.x = float(x)


def _shift_lead(layout: _Layout) -> None:
    """Move the chain that the graph begins with, alone in its row, so that it widens the figure as
    little as possible."""
    for number, item in enumerate(layout.items):
        others = [other for other in layout.items if other is not item]
        if len(item.steps) > 1 and others and layout.rows[item.row] == [number]:
            left = min(other.x - other.width / 2 for other in others) + item.width / 2
            right = max(other.x + other.width / 2 for other in others) - item.width / 2
            item.x = float(np.clip(item.x, min(left, right), max(left, right)))


def _runs(layout: _Layout) -> list[list[int]]:
    """Items one below the other, joined by the only arrow that leaves one and meets the next; the
    longest first."""
    above, below = (_neighbours(layout, upwards) for upwards in (True, False))
    after = {
        upper: lower
        for upper, lower in layout.segments
        if len(below[upper]) == len(above[lower]) == 1
    }
    runs = []
    for first in sorted(set(after) - set(after.values())):
        run = [first]
        while run[-1] in after:
            run.append(after[run[-1]])
        runs.append(run)
    return sorted(runs, key=len, reverse=True)


def _straighten(layout: _Layout, run: Sequence[int]) -> None:
    """Put a run's arrows on one line, if there is a line that its rows have room for: the way of a
    long arrow below where it starts, other runs where they are."""
    low, high, wishes = -np.inf, np.inf, []
    for i in run:
        item = layout.items[i]
        row = layout.rows[item.row]
        place = row.index(i)
        if place > 0:
            other = layout.items[row[place - 1]]
            gap = (other.width + item.width) / 2 + _GAP_LINE
            low = max(low, other.x + gap + item.anchor)
        if place + 1 < len(row):
            other = layout.items[row[place + 1]]
            gap = (other.width + item.width) / 2 + _GAP_LINE
            high = min(high, other.x - gap + item.anchor)
        wishes.append(item.x + item.anchor)
    for (upper, lower), (port, _) in zip(layout.segments, layout.ports):
        if lower == run[0] and not any(layout.items[i].steps for i in run):
            wishes = [layout.items[upper].x + port]
    if low <= high:
        x = float(np.clip(np.mean(wishes), low, high))
        for i in run:
            layout.items[i].x = x - layout.items[i].anchor


def _pulls(layout: _Layout, i: int, ends: Sequence[int]) -> list[tuple[float, float]]:
    """(where a neighbour wants item i, how much): straight long arrows matter most."""
    found = []
    for segment, port in zip(layout.segments, layout.ports):
        for end in ends:
            if segment[end] == i:
                other = layout.items[segment[1 - end]]
                bends = (not layout.items[i].steps) + (not other.steps)
                found.append((other.x + port[1 - end] - port[end], (1.0, 2.0, 8.0)[bends]))
    return found


def _isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest values (N,) that never fall: neighbours that do are pooled."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights):
        pool = (float(value), float(weight), 1)
        while pools and pools[-1][0] > pool[0]:
            last = pools.pop()
            total = last[1] + pool[1]
            mean = (last[0] * last[1] + pool[0] * pool[1]) / total
            pool = (mean, total, last[2] + pool[2])
        pools.append(pool)
    return np.concatenate([np.full(count, value) for value, _, count in pools])


# ---------------------------------------------------------------- the picture

_INK, _FAINT = "#202124", "#5f6368"
#: colour, dashes and words of arrows without and with a gradient
ARROWS = ((_FAINT, (0, (3.5, 2)), "no gradient"), (_INK, "solid", "gradient flows back"))


def draw_graph(
    symbol: Symbol, input_shapes: Shapes, path: str | Path, title: str = "The graph"
) -> None:
    """Draw a graph into the image file `path`.

    input_shapes: the shape of every input, data and labels; other variables count as parameters,
    and are left out. Raises ValueError for a name that is not one of the graph's arguments, and for
    shapes that leave others open. The format follows from the path's suffix.
    """
    unknown = sorted(set(input_shapes) - set(symbol.list_arguments()))
    if unknown:
        raise ValueError(f"not inputs of the graph: {', '.join(unknown)}")
    _draw(outline(symbol, input_shapes), Path(path), title)


def detector_graph(
    detector: DetectorDef, config: Any, size: tuple[int, int], train: bool, objects: int = 20
) -> tuple[Symbol, dict[str, Shape]]:
    """A detector's graph for one image (height, width), and the shapes of its inputs."""
    height, width = (-(-side // detector.stride) * detector.stride for side in size)
    shapes = {"data": (1, 3, height, width), "im_info": (1, 3)}
    if train:
        shapes["gt_boxes"] = (1, objects, 5)
        nobody = ImageTargetsInput(np.zeros((0, 5), np.float32), size, (height, width))
        targets = detector.assign_targets(config, nobody, np.random.default_rng(0))
        shapes.update({name: (1, *targets[name].shape) for name in detector.label_names})
    symbol = detector.train_symbol(config, 1) if train else detector.test_symbol(config)
    used = set(symbol.list_arguments())
    return symbol, {name: shape for name, shape in shapes.items() if name in used}


def _draw(steps: Outline, path: Path, title: str) -> None:
    layout = _lay_out(steps)
    width = max(item.x + item.width / 2 for item in layout.items) + _MARGIN
    width = max(width, 6.0, _text_width(title, 13, True) + 2 * _MARGIN)
    legend = _legend(steps)
    columns, place, room = _legend_place(layout, [s.get_label() for s in legend], width)
    height = max(item.top + item.height for item in layout.items) + _MARGIN + room
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    look = {"fontsize": 13, "fontweight": "bold", "color": _INK, "family": "DejaVu Sans"}
    axes.text(_MARGIN, _MARGIN, _literal(title), va="top", **look)
    for edge, way in zip(steps.edges, layout.ways):
        _draw_arrow(axes, layout, edge, way)
    for item in layout.items:
        _draw_item(axes, item, steps)
    where = {"loc": place, "bbox_to_anchor": (0, 0, 1, 1), "ncol": columns}
    look = {"frameon": False, "handlelength": 1.8, "columnspacing": 1.4, "handletextpad": 0.5}
    font = {"family": "DejaVu Sans", "size": _TEXT_SIZE}
    axes.legend(handles=legend, prop=font, labelspacing=0.7, **where, **look)
    _save(figure, path)


def _legend_place(layout: _Layout, labels: Sequence[str], width: float) -> tuple[int, str, float]:
    """Columns, place and extra height: in the lower left corner if nothing is there, else below."""
    widths = [_text_width(label, _TEXT_SIZE, False) + 0.55 for label in labels]
    bottom = max(item.top + item.height for item in layout.items)
    top, right = bottom - 0.25 * len(labels), max(widths) + 2 * _MARGIN
    if all(i.top + i.height < top or i.x - i.width / 2 > right for i in layout.items):
        return 1, "lower left", 0.0
    lines = 1
    while lines < len(labels) and -(-len(labels) // lines) * max(widths) > width:
        lines += 1
    return -(-len(labels) // lines), "lower center", _MARGIN + 0.25 * lines


def _save(figure: Figure, path: Path) -> None:
    """A PNG has a palette of 128 colours, a third of the size; other formats are matplotlib's."""
    kind = path.suffix.lstrip(".").lower() or "png"
    with atomic_write(path, "wb") as handle:
        if kind != "png":
            figure.savefig(handle, format=kind)
            return
        figure.canvas.draw()
        picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
        picture.quantize(128, dither=Image.Dither.NONE).save(handle, format="png", optimize=True)


def _draw_arrow(axes: Any, layout: _Layout, edge: Edge, way: Sequence[int]) -> None:
    """A curve that crosses rows straight down and bends between them, and its head; nothing for an
    arrow within an item."""
    if not way:
        return
    points: list[tuple[float, float]] = []
    for s in way:
        upper, lower = (layout.items[i] for i in layout.segments[s])
        start, end = layout.ports[s]
        points += [(upper.x + start, upper.top + upper.height), (lower.x + end, lower.top)]
    x, y = points[-1]
    points[-1] = (x, y - 0.07)
    vertices, codes = [points[0]], [Curve.MOVETO]
    for k, ((x0, y0), (x1, y1)) in enumerate(zip(points, points[1:])):
        middle = (y0 + y1) / 2
        bent = k % 2 == 0 and abs(x1 - x0) > 1e-6
        vertices += [(x0, middle), (x1, middle), (x1, y1)] if bent else [(x1, y1)]
        codes += [Curve.CURVE4] * 3 if bent else [Curve.LINETO]
    _stroke(axes, Curve(vertices, codes), edge.gradient)
    head = [(x, y), (x - 0.04, y - 0.09), (x + 0.04, y - 0.09)]
    _head(axes, head, edge.gradient)


def _stroke(axes: Any, curve: Curve, gradient: bool) -> None:
    color, dashes, _ = ARROWS[gradient]
    look = {"edgecolor": color, "linewidth": 1.1, "linestyle": dashes, "zorder": 1}
    axes.add_patch(PathPatch(curve, fill=False, **look))


def _head(axes: Any, corners: Sequence[tuple[float, float]], gradient: bool) -> None:
    look = {"facecolor": ARROWS[gradient][0], "linewidth": 0, "zorder": 2}
    axes.add_patch(Polygon(corners, closed=True, **look))


def _draw_item(axes: Any, item: _Item, steps: Outline) -> None:
    """The boxes of an item, from left to right, with arrows between them."""
    left, y = item.x - item.width / 2, item.top + item.height / 2
    gradients = {(edge.source, edge.target): edge.gradient for edge in steps.edges}
    for before, i in zip((None, *item.steps), item.steps):
        width, _ = _box_size(steps.steps[i])
        if before is not None:
            gradient = gradients[before, i]
            _stroke(axes, Curve([(left - _GAP_LEAD, y), (left - 0.07, y)]), gradient)
            corners = [(left, y), (left - 0.09, y - 0.04), (left - 0.09, y + 0.04)]
            _head(axes, corners, gradient)
        _draw_box(axes, steps.steps[i], (left, item.top, width, item.height))
        left += width + _GAP_LEAD


def _draw_box(axes: Any, step: Step, rect: tuple[float, float, float, float]) -> None:
    """A box of a step at rect: left, top, width, height."""
    left, top, width, height = rect
    fill, border, _ = KINDS[step.kind]
    look = {"facecolor": fill, "edgecolor": border, "linewidth": 1.2, "zorder": 3}
    shape = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((left, top), width, height, boxstyle=shape, **look))
    place = {"ha": "center", "va": "center", "zorder": 4, "family": "DejaVu Sans"}
    x, y = left + width / 2, top + (height - _LINE * len(step.lines)) / 2
    name = {"fontsize": _NAME_SIZE, "fontweight": "bold", "color": _INK}
    axes.text(x, y, _literal(step.name), **name, **place)
    for number, line in enumerate(step.lines):
        y += _LINE
        color = _INK if number == 0 and len(step.lines) > 1 else _FAINT
        axes.text(x, y, _literal(line), fontsize=_TEXT_SIZE, color=color, **place)


def _legend(steps: Outline) -> list[Any]:
    """Samples of the kinds of boxes that there are, and of arrows where there are both."""
    kinds = {step.kind for step in steps.steps}
    samples: list[Any] = [
        Patch(facecolor=fill, edgecolor=border, label=label)
        for kind, (fill, border, label) in KINDS.items()
        if kind in kinds
    ]
    if len({edge.gradient for edge in steps.edges}) == 2:
        samples += [
            Line2D([], [], color=color, linestyle=dashes, label=label)
            for color, dashes, label in ARROWS[::-1]
        ]
    return samples


def _literal(text: str) -> str:
    """Text in which matplotlib sees no mathematics."""
    return text.replace("$", r"\$")
