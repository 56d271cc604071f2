"""What must happen before `import mxnet`; it lives in symnet, which stands alone."""

from symnet.compat import PATCHED, has_bf16, has_int8, mx, patch

__all__ = ["PATCHED", "has_bf16", "has_int8", "mx", "patch"]
