"""MXNet and what this machine is good for; they live in symnet, which stands alone."""

from symnet.compat import PATCHED, has_bf16, has_int8, mx

__all__ = ["PATCHED", "has_bf16", "has_int8", "mx"]
