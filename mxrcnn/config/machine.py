"""Checks what this machine supports: GPUs and precisions."""

from __future__ import annotations

from typing import Any

from mxrcnn.config.sections import ConfigError
from symnet.machine import mx
from symnet.machine.cores import has_bf16
from symnet.machine.install import install_extra
from symnet.ops.precision import UNSAFE_CELLS, unsafe_layers


def check_precision(name: str) -> None:
    """ConfigError for bf16 on a processor without bfloat16 instructions."""
    if name == "bf16" and not has_bf16():
        raise ConfigError(
            "precision bf16: this processor has no bfloat16 instructions (avx512_bf16, amx_bf16) "
            "and would be slower with it; use fp32, the default"
        )


def check_shapes(symbol: Any, precision: str, **shapes: tuple[int, ...]) -> None:
    """ConfigError if MXNet would corrupt memory in that precision.

    shapes: those of the graph's inputs, `data` among them.
    """
    layers = unsafe_layers(symbol, precision, **shapes)
    if layers:
        raise ConfigError(
            f"precision {precision} with images of {shapes['data'][2:]}: MXNet's oneDNN corrupts "
            f"memory in 1x1 convolutions on maps of {UNSAFE_CELLS[0]} to {UNSAFE_CELLS[-1]} cells "
            f"({layers[0]}); use larger or smaller images, or fp32"
        )


def contexts(gpus: str | None) -> list[mx.Context]:
    """The devices of `--gpus 0,1`; the CPU for None. ConfigError if they cannot be used."""
    if not gpus:
        return [mx.cpu()]
    try:
        numbers = [int(number) for number in gpus.split(",")]
    except ValueError:
        raise ConfigError(f"--gpus {gpus}: expected numbers such as 0,1") from None
    available = mx.context.num_gpus() if mx.runtime.Features().is_enabled("CUDA") else 0
    if not all(0 <= number < available for number in numbers):
        raise ConfigError(
            f"--gpus {gpus}: MXNet sees {available} GPUs here. It needs mxnet-cu112 "
            f"({install_extra('cu112')}) and a driver; without --gpus it runs on the CPU"
        )
    return [mx.gpu(number) for number in numbers]
