"""What a body is: one signature for all of them, and one rule for what is frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from symnet.parts.norms import STATISTICS

_STATISTICS = tuple(f"_{leaf}" for leaf in STATISTICS)


@dataclass(frozen=True)
class Body:
    """A network that turns an image into feature maps.

    maps(data, norm, **options): an image (B, 3, H, W) -> its feature maps by stride, such as
        {4: c2, 8: c3, 16: c4, 32: c5}, each (B, channels[stride], H / stride, W / stride). norm is
        one of symnet.parts.norms.NORMS; bodies without normalisation ignore it.
    channels: the channels of the map of each stride.
    stages: for each of five stages, stem first, how the names of its parameters begin. They are
        what `trainable_layers` counts. All these names together tell the body's own parameters.
    unstaged: beginnings of parameters that belong to no stage.
    head(pooled, norm, **options): the body's own layers for a pooled RoI, (R, F, S, S) ->
        (R, F', S', S'), such as stage 4 of a ResNet; None if it has none.
    options: the settings of a config that `maps` and `head` take, such as width.
    norms: the settings of `norm` that it supports.
    fixed: parameters that are never trained.
    """

    maps: Callable
    channels: Mapping[int, int]
    stages: tuple[tuple[str, ...], ...]
    unstaged: tuple[str, ...] = ()
    head: Callable | None = None
    options: tuple[str, ...] = ()
    norms: tuple[str, ...] = ("frozen", "batch", "group")
    fixed: tuple[str, ...] = ()

    @property
    def prefixes(self) -> tuple[str, ...]:
        """How the names of the body's parameters begin."""
        return sum(self.stages, self.unstaged)

    def is_frozen(self, name: str, trainable_layers: int, norm: str) -> bool:
        """True if a parameter of the body is not trained; False for all other parameters.

        trainable_layers counts the trained stages from the end, 0 to 5, as in torchvision: 5 trains
        all, 3 freezes the stem and the first stage. With norm "frozen" the statistics of
        normalisations and the scales and shifts that belong to them are frozen in every stage.
        """
        if not name.startswith(self.prefixes):
            return False
        stored = norm == "frozen" and name.endswith(_STATISTICS)
        frozen = sum(self.stages[: len(self.stages) - trainable_layers], ())
        return stored or name in self.fixed or name.startswith(frozen)
