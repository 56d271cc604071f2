"""Bodies: networks that turn an image into feature maps, in one registry.

Any body works in any detector if it has the strides that the detector needs: `--set body=NAME`. To
add your own, pass a `Body` to `register_body`.
"""

from __future__ import annotations

from symnet.bodies import mobilenet, mobilenet_v3, regnet, resnet, resnet_v2, vgg, zf
from symnet.bodies.body import Body

__all__ = ["Body", "get_body", "list_bodies", "register_body"]

_BODIES: dict[str, Body] = {}


def register_body(name: str, body: Body) -> None:
    """Add a body to the registry; ValueError if the name is taken."""
    if name in _BODIES:
        raise ValueError(f"there is already a body {name!r}")
    _BODIES[name] = body


def list_bodies() -> tuple[str, ...]:
    """The names of all bodies, sorted."""
    return tuple(sorted(_BODIES))


def get_body(name: str) -> Body:
    """The body with this name; KeyError lists the known names."""
    if name not in _BODIES:
        raise KeyError(f"no body {name!r}; there are: {', '.join(list_bodies())}")
    return _BODIES[name]


for _module in (vgg, zf, resnet, resnet_v2, regnet, mobilenet, mobilenet_v3):
    for _name, _body in _module.BODIES.items():
        register_body(_name, _body)
