"""Folding: which nodes of a graph share a box of the figure, by a table of rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Union

from mxrcnn.graph_figure.nodes import Node
from mxrcnn.graph_figure.operators import ADD, AFTER, ARITHMETIC, LAYERS, LOSSES, PROPOSALS, SHAPE


@dataclass(frozen=True)
class Rule:
    """Operators `ops` join the box of their producer or of their consumer.

    into: "producer", if all their data come from one box, or "consumer", if all their outputs go to
    one box. hosts: the operators that such a box may be named after; empty: any. sole: only if the
    producer has no other consumer.
    """

    ops: frozenset[str]
    into: str
    hosts: frozenset[str] = frozenset()
    sole: bool = False


@dataclass(frozen=True)
class Stage:
    """Boxes of one stage become one; the stage is the group "stage" of a pattern of names."""

    pattern: str


@dataclass(frozen=True)
class Shared:
    """Boxes with the same weights become one, such as a head on all levels of a pyramid."""


AnyRule = Union[Rule, Stage, Shared]

#: applied in this order; an operator that no rule matches keeps a box of its own
RULES: tuple[AnyRule, ...] = (
    Rule(AFTER, "producer", LAYERS | ADD, sole=True),
    Shared(),
    Rule(SHAPE | ARITHMETIC, "consumer", LOSSES | PROPOSALS | {"broadcast_minimum", "Concat"}),
    Stage(r"(?P<stage>(conv|stage|layer|block|res)_?\d+)_"),
    Rule(frozenset({"Pooling"}), "producer", frozenset({"Convolution"}), sole=True),
    Rule(SHAPE, "consumer"),
    Rule(SHAPE, "producer"),
)


class Folding:
    """The box of each node. A box is known by its host, the node that others were folded into."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.box = list(range(len(nodes)))
        self.stages: dict[int, str] = {}
        self.sources = [node.sources for node in nodes]
        self.consumers: list[list[int]] = [[] for _ in nodes]
        for target, sources in enumerate(self.sources):
            for source in sources:
                self.consumers[source].append(target)

    def apply(self, rule: AnyRule) -> None:
        """Fold what the rule matches. No rule can make a cycle of boxes."""
        if isinstance(rule, Stage):
            self._merge(lambda box: self._stage(box, rule.pattern))
        elif isinstance(rule, Shared):
            self._merge(lambda box: self.nodes[box].weights)
        else:
            self._fold(rule)

    def boxes(self) -> list[list[int]]:
        """The nodes of each box, sorted; boxes are in an order in which all arrows go forwards."""
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

    def _fold(self, rule: Rule) -> None:
        backwards = rule.into == "consumer"
        for i in sorted(range(len(self.nodes)), reverse=backwards):
            if self.nodes[i].op not in rule.ops or self.box.count(self.box[i]) > 1:
                continue
            host = self._consumer(i) if backwards else self._producer(i, rule.sole)
            if host is not None and (not rule.hosts or self.nodes[host].op in rule.hosts):
                self.box[i] = host

    def _outside(self, members: Sequence[int], neighbours: Sequence[Sequence[int]]) -> set[int]:
        """The neighbours of a box's members that are not members."""
        return {n for i in members for n in neighbours[i]} - set(members)

    def _consumer(self, i: int) -> int | None:
        """The one box that all outputs of node i go to; None if there is no such box."""
        boxes = {self.box[c] for c in self.consumers[i]}
        return boxes.pop() if len(boxes) == 1 and not self.nodes[i].is_head else None

    def _producer(self, i: int, sole: bool) -> int | None:
        """The one box that all data of node i come from; None if there is no such box.

        An input's box takes no other node. An output of the graph joins only the box of a loss, as
        it would not be seen in another.
        """
        boxes = {self.box[s] for s in self.sources[i]}
        host = boxes.pop() if len(boxes) == 1 else i
        op = self.nodes[host].op
        if host == i or op == "null" or (self.nodes[i].is_head and op not in LOSSES):
            return None
        members = [m for m, box in enumerate(self.box) if box == host]
        ends = any(self.nodes[m].is_head for m in members)
        alone = self._outside(members, self.consumers) == {i} and not ends
        return host if alone or not sole else None

    def _stage(self, box: int, pattern: str) -> str:
        """The stage in the box's name, or, if MXNet made that up, in the name of any member."""
        members = [n for n, b in zip(self.nodes, self.box) if b == box]
        names = [n.name for n in members] if self.nodes[box].is_automatic else []
        matches = (re.match(pattern, name) for name in (self.nodes[box].name, *names))
        return next((match["stage"] for match in matches if match), "")

    def _merge(self, label: Callable[[int], Any]) -> None:
        """Merge boxes with the same label and the boxes between them. An empty label is none."""
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
        """These boxes and all boxes on a path from one of them to another."""
        after, before = (self._reach(boxes, n) for n in (self.consumers, self.sources))
        return after & before

    def _reach(self, boxes: set[int], neighbours: Sequence[Sequence[int]]) -> set[int]:
        """These boxes and all that can be reached from them."""
        ways: dict[int, set[int]] = {}
        for i, near in enumerate(neighbours):
            ways.setdefault(self.box[i], set()).update(self.box[n] for n in near)
        found, waiting = set(boxes), list(boxes)
        while waiting:
            new = ways[waiting.pop()] - found
            found |= new
            waiting += sorted(new)
        return found
