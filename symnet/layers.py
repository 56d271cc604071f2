"""The layers that all graphs are made of: convolution + ReLU and fully connected, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symnet.compat import mx

if TYPE_CHECKING:
    Symbol = mx.sym.Symbol


def conv(data: Symbol, name: str, filters: int, kernel: int = 3) -> Symbol:
    """A convolution that keeps the map's size: (B, _, H, W) -> (B, filters, H, W)."""
    return mx.sym.Convolution(
        data,
        name=name,
        num_filter=filters,
        kernel=(kernel, kernel),
        pad=(kernel // 2, kernel // 2),
        workspace=2048,
    )


def relu(data: Symbol, name: str) -> Symbol:
    """max(data, 0)."""
    return mx.sym.Activation(data, act_type="relu", name=name)


def fc(data: Symbol, name: str, units: int) -> Symbol:
    """A fully connected layer: (R, ...) -> (R, units)."""
    return mx.sym.FullyConnected(data, name=name, num_hidden=units)


def mean_loss(loss: Symbol, name: str, samples: int) -> Symbol:
    """A loss whose gradient is that of its sum divided by the number of samples."""
    return mx.sym.MakeLoss(loss, name=name, grad_scale=1.0 / samples)
