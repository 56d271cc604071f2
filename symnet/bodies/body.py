"""The interface of a body, and the rule for which of its parameters are frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from symnet.parts.norms import STATISTICS

_STATISTICS = tuple(f"_{leaf}" for leaf in STATISTICS)

#: key of the first block's output at stride 32, beside the last one's, which is 32
FIRST_OF_32 = "32 (its first block)"


@dataclass(frozen=True)
class Body:
    """A network that turns an image into feature maps.

    maps(data, norm, **options): images (B, 3, H, W) -> feature maps by stride, such as
        {4: c2, 8: c3, 16: c4, 32: c5}, each (B, channels[stride], H / stride, W / stride). norm is
        one of symnet.parts.norms.NORMS; bodies without normalisation ignore it. A body may also
        have the map FIRST_OF_32.
    channels: the number of channels at each stride.
    stages: name prefixes of the parameters of each stage, stem first. These are the stages that
        `trainable_layers` counts: five, or as many as torchvision counts in this body.
    unstaged: name prefixes of the body's parameters that belong to no stage.
    head(pooled, norm, **options): the body's layers for pooled RoIs, (R, F, S, S) ->
        (R, F', S', S'), such as stage 4 of a ResNet; None if it has none.
    options: the config settings that `maps` and `head` take, such as width.
    norms: the supported values of `norm`.
    fixed: parameters that are never trained.
    """

    maps: Callable
    channels: Mapping[int | str, int]
    stages: tuple[tuple[str, ...], ...]
    unstaged: tuple[str, ...] = ()
    head: Callable | None = None
    options: tuple[str, ...] = ()
    norms: tuple[str, ...] = ("frozen", "batch", "group")
    fixed: tuple[str, ...] = ()

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The name prefixes of all the body's parameters."""
        return sum(self.stages, self.unstaged)

    def is_frozen(self, name: str, trainable_layers: int, norm: str) -> bool:
        """True if a parameter belongs to the body and is not trained.

        trainable_layers is the number of trained stages, counted from the end as in torchvision: of
        five stages, 5 trains all, 3 freezes the stem and the first stage. With norm "frozen", the
        statistics, scales and shifts of normalisations are frozen in every stage.
        """
        if not name.startswith(self.prefixes):
            return False
        stored = norm == "frozen" and name.endswith(_STATISTICS)
        frozen = sum(self.stages[: len(self.stages) - trainable_layers], ())
        return stored or name in self.fixed or name.startswith(frozen)
