"""What the configs of all detectors have in common: classes, and the body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from symnet.bodies import get_body
from symnet.config.ranges import check_ranges, refuse

if TYPE_CHECKING:
    from symnet.ops.precision import Symbol


@dataclass(frozen=True)
class DetectorConfig:
    """Classes and body; ValueError names a field and its value if it cannot be."""

    #: classes, with the background
    num_classes: int = 21
    #: the network that makes feature maps of the image; `symnet.bodies.list_bodies()` has all names
    body: str = "resnet50"
    #: normalisation of the body: stored statistics (frozen), or trained by batch or by group
    norm: Literal["frozen", "batch", "group"] = "frozen"
    #: trained stages of the body, of five, counted from the last
    trainable_layers: int = 3

    def __post_init__(self) -> None:
        check_ranges(self)
        try:
            body = get_body(self.body)
        except KeyError as error:
            refuse(self, "body", error.args[0])
        missing = set(self.body_strides()) - set(body.channels)
        if missing:
            has = ", ".join(map(str, sorted(body.channels)))
            refuse(self, "body", f"has no map of stride {min(missing)}; its strides are {has}")
        if self.norm not in body.norms:
            refuse(self, "norm", f"{self.body} has {' and '.join(body.norms)}")
        for option, unset in (("width", 1.0), ("units", ())):
            if option not in body.options and getattr(self, option, unset) != unset:
                refuse(self, option, f"{self.body} has no such setting")

    def body_strides(self) -> Iterable[int]:
        """The strides of the maps that the detector takes from its body."""
        return ()

    def body_options(self) -> dict[str, Any]:
        """The settings of this config that the body takes, without those left empty."""
        options = {name: getattr(self, name, ()) for name in get_body(self.body).options}
        return {name: value for name, value in options.items() if value != ()}

    def body_norm(self, train: bool) -> str:
        """`norm` as the layers take it: training graphs fold stored statistics into the weights."""
        return "folded" if train and self.norm == "frozen" else self.norm

    def feature_maps(self, data: Symbol, train: bool) -> dict[int, Symbol]:
        """The body's maps of images (B, 3, H, W), by stride."""
        return get_body(self.body).maps(data, self.body_norm(train), **self.body_options())


def is_frozen(config: DetectorConfig, name: str) -> bool:
    """True if a parameter of the body is not trained, see `Body.is_frozen`."""
    return get_body(config.body).is_frozen(name, config.trainable_layers, config.norm)


def is_of_body(config: DetectorConfig, name: str) -> bool:
    """True for the parameters of the body, which --pretrained is expected to supply."""
    return name.startswith(get_body(config.body).prefixes)
