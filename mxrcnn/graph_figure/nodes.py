"""The nodes of a symbol that a figure shows, and the edges that gradients flow along."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mxrcnn.graph_figure.operators import LOSSES, NO_GRADIENT

if TYPE_CHECKING:
    from symnet.machine import Symbol

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Node:
    """A node of the symbol's JSON.

    inputs: (node, number of its output) each, or None for an input that is left out. weights: the
    names of the inputs that are parameters or computed from parameters. shapes: (name, shape) of
    each output. is_head: whether it is an output of the graph.
    """

    name: str
    op: str
    attrs: Mapping[str, str]
    inputs: tuple[tuple[int, int] | None, ...]
    weights: tuple[str, ...]
    shapes: tuple[tuple[str, Shape], ...]
    is_head: bool

    @property
    def sources(self) -> list[int]:
        """The nodes that its data come from."""
        return [source for source, _ in filter(None, self.inputs)]

    @property
    def is_automatic(self) -> bool:
        """True if MXNet made up the name, as in concat3 or _plus0."""
        stem = self.name.rstrip("0123456789")
        return stem != self.name and (stem.startswith("_") or self.op.lower().endswith(stem))


def read_nodes(symbol: Symbol, input_shapes: Shapes) -> tuple[list[Node], list[str]]:
    """The nodes that depend on data, and the names of all others.

    Every variable that is not in input_shapes counts as a parameter. Raises ValueError if the
    inputs leave shapes of the graph open.
    """
    graph = json.loads(symbol.tojson())
    raw_nodes, heads = graph["nodes"], {index for index, *_ in graph["heads"]}
    shapes = _output_shapes(symbol, input_shapes)
    nodes: list[Node] = []
    left_out: dict[int, bool] = {}  # index -> whether it depends on a parameter
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
    """Node name -> (output name, shape) of each of its outputs."""
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(**input_shapes)
    if shapes is None:
        raise ValueError(f"these inputs leave shapes of the graph open: {dict(input_shapes)}")
    found: dict[str, list[tuple[str, Shape]]] = {}
    for output, full_name, shape in zip(internals, internals.list_outputs(), shapes):
        short = full_name[len(output.name) + 1 :].replace("_output", "")
        found.setdefault(output.name, []).append((short, tuple(shape)))
    return found


def gradient_edges(nodes: Sequence[Node]) -> set[tuple[int, int]]:
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
    """The nodes that a node passes gradients to."""
    blocked = NO_GRADIENT.get(node.op, ())
    if blocked is None:
        return []
    return [source[0] for k, source in enumerate(node.inputs) if source and k not in blocked]
